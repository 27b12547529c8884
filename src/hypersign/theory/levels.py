"""Any number of levels: the best k levels, and greedy sums of binary vectors.

The best k levels for Gaussian weights minimize the mean squared error D (Lloyd-Max). The cosine between the weights
and their levels is then sqrt(1 - D). A greedy binary expansion adds signs of residuals, each with its own scale. It
needs no table, but it is slightly worse than the best 2^m levels. Its scales are not the least-squares scales, so
its cosine does not follow from its error.
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from scipy import linalg, special

from hypersign._checks import HypersignError, check_int
from hypersign.theory._arrays import Array, fan_in
from hypersign.theory._gaussian import partial_moments
from hypersign.theory.distribution import Distribution

__all__ = [
    "Levels",
    "lloyd_max",
    "lloyd_max_cosine",
    "lloyd_max_cosine_std",
    "lloyd_max_error",
    "greedy_scales",
    "greedy_cosine",
    "greedy_error",
]

_MOST_LEVELS = 1 << 14
_LONG = 3000  # vectors for which the expansion in 1/d is as good as the quadrature


@dataclasses.dataclass(frozen=True)
class Levels:
    """A quantizer of standard normals: x becomes `levels[i]` between `thresholds[i-1]` and `thresholds[i]`.

    Both tuples ascend and are in standard deviations. There is one threshold less than there are levels.
    """

    levels: tuple[float, ...]
    thresholds: tuple[float, ...]


@functools.cache
def lloyd_max(k: int) -> Levels:
    """The k levels, and the thresholds between them, with the smallest mean squared error for a standard normal.

        l_i = E[x given t_(i-1) < x < t_i],   t_i = (l_i + l_(i+1)) / 2

    Newton's method solves this to the last digits. The solution is unique because the normal density is log-concave.
    Raises HypersignError if k is not an integer from 1 to 16,384.
    Source: Lloyd 1957, Max 1960, "Quantizing for minimum distortion".

    >>> [round(level, 4) for level in lloyd_max(3).levels]
    [-1.224, 0.0, 1.224]
    """
    check_int("k, the number of levels,", k, min=1, max=_MOST_LEVELS)
    half = k // 2
    # Only the positive levels are computed; the others follow by symmetry. For odd k the middle level is 0.
    inner = np.zeros(1) if k % 2 else np.zeros(0)
    positive = _start(k)
    for _ in range(100 if half else 0):
        low, high = _edges(inner, positive)
        mass, first, _ = partial_moments(low, high)
        centre = first / mass
        # d centre / d high = density(high) (high - centre) / mass; for low, it is density(low) (centre - low) / mass.
        # A threshold moves by half the step of each neighbouring level. The edge at 0 is fixed if k is even.
        density_low, density_high = (np.exp(-(edge**2) / 2) / np.sqrt(2 * np.pi) for edge in (low, high))
        slope_low = density_low * (centre - low) / mass
        slope_high = density_high * (np.where(np.isfinite(high), high, 0) - centre) / mass
        slope_high[-1] = 0  # the last threshold is always infinity
        band = np.zeros((3, half))
        band[0, 1:] = -slope_high[:-1] / 2
        band[2, :-1] = -slope_low[1:] / 2
        moving = np.ones(half)
        moving[0] = k % 2
        band[1] = 1 - slope_high / 2 - moving * slope_low / 2
        step = linalg.solve_banded((1, 1), band, centre - positive)
        while np.any(np.diff(positive + step, prepend=0) <= 0):  # keep the levels in ascending order
            step /= 2
        positive = positive + step
        if np.abs(step).max() < 1e-15 * positive[-1]:
            break
    low, high = _edges(inner, positive)
    levels = np.concatenate([-positive[::-1], inner, positive])
    return Levels(tuple(levels.tolist()), tuple(((levels[1:] + levels[:-1]) / 2).tolist()))


def _start(k: int) -> np.ndarray:
    """Initial positive levels, of a density proportional to the cube root of the normal's: the limit for large k."""
    share = (np.arange(k // 2) + 0.5 + (k % 2) / 2) / k
    return np.sqrt(3) * special.ndtri(0.5 + share)


def _edges(inner: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The lower and the upper threshold of each positive level."""
    between = (positive[1:] + positive[:-1]) / 2
    first = positive[:1] / 2 if len(inner) else np.zeros(len(positive[:1]))
    return np.concatenate([first, between]), np.concatenate([between, np.full(len(positive[:1]), np.inf)])


def lloyd_max_error(k: ArrayLike) -> Array:
    """Smallest mean squared error of k levels for standard normals. It is also sin^2 of the angle.

        D = 1 - sum p_i l_i^2,   p_i the mass of the interval between two thresholds, l_i its level

    The formula holds because each level is the mean of its interval.
    Raises HypersignError if k is not an integer from 1 to 16,384. Source: see `lloyd_max`.

    >>> round(float(lloyd_max_error(4)), 4)
    0.1175
    """
    return _each(_lloyd_max_error, k, "k, the number of levels,")


@functools.cache
def _lloyd_max_error(k: int) -> float:
    if k == 1:
        return 1.0
    found = lloyd_max(k)
    positive = np.array([level for level in found.levels if level > 0])
    low, high = _edges(np.zeros(k % 2), positive)
    mass, first, second = partial_moments(low, high)
    # The sum of E (x - l)^2 over the intervals. 1 - sum p l^2 would subtract two numbers of order 1.
    error = 2 * float((second - 2 * positive * first + positive**2 * mass).sum())
    if k % 2:
        error += 2 * float(partial_moments(np.zeros(1), low[:1])[2][0])
    return error


def lloyd_max_cosine(k: ArrayLike, d: ArrayLike = np.inf) -> Array:
    """Mean cosine between a vector of d independent normals and its k best levels, at every d.

        c = sqrt(1 - D) as d -> infinity,   D = `lloyd_max_error(k)`

    k = 2 is the sign, and k = 3 is ternary with the best threshold. The mean is over the vectors whose levels are not
    all 0. Raises HypersignError if k is not an integer from 1 to 16,384, or if d < 1.
    Source: the best levels are the means of their intervals, so E x q = E q^2 = 1 - D; at finite d by quadrature
    (`hypersign.theory.distribution`), from d = 3,000 on by the expansion in 1/d of `mean_cosine`.

    >>> np.degrees(np.arccos(lloyd_max_cosine([2, 3, 4, 16]))).round(1).tolist()
    [37.1, 25.9, 20.0, 5.6]
    """
    return _each_finite(k, d, 0)


def lloyd_max_cosine_std(k: ArrayLike, d: ArrayLike) -> Array:
    """Standard deviation of the cosine between d independent normals and their k best levels, at every d.

        d Var c -> c_inf^2 Var(xq/E[xq] - q^2/(2 E[q^2]) - x^2/2)

    Raises HypersignError if k is not an integer from 1 to 16,384, or if d < 1.
    Source: as for `lloyd_max_cosine`; from d = 3,000 on by the first-order delta method.

    >>> round(float(lloyd_max_cosine_std(2, 1152)), 5)  # the same as `sign_cosine_std`
    0.00625
    """
    return _each_finite(k, d, 1)


def _each_finite(k: ArrayLike, d: ArrayLike, which: int) -> Array:
    k, d = np.broadcast_arrays(np.asarray(k), fan_in(d))
    lloyd_max_error(k)  # checks k
    return np.array([_finite(int(i), float(n))[which] for i, n in zip(k.flat, d.flat, strict=True)]).reshape(k.shape)[
        ()
    ]


@functools.cache
def _finite(k: int, d: float) -> tuple[float, float]:
    """Returns `lloyd_max_cosine` and `lloyd_max_cosine_std`."""
    if k > 1 and d < _LONG:
        found = lloyd_max(k)
        levels, thresholds = np.array(found.levels), np.array(found.thresholds)
        edges = np.concatenate([np.zeros(1 - k % 2), thresholds[thresholds > 0]])
        mean, second = Distribution.gaussian(edges, levels[levels > 0]).cosine_moments(d, 2)
        return float(mean), float(np.sqrt(max(second - mean**2, 0.0)))
    limit, (variance, bias) = np.sqrt(1 - _lloyd_max_error(k)), _relative_variances(k)
    return float(limit * (1 + bias / d)), float(limit * np.sqrt(variance / d))


@functools.cache
def _relative_variances(k: int) -> tuple[float, float]:
    """Returns d times the relative variance and d times the relative bias of the cosine, as in independent.py."""
    if k == 1:
        return 0.0, 0.0
    level = np.array([level for level in lloyd_max(k).levels if level > 0])
    low, high = _edges(np.zeros(k % 2), level)
    mass, first, second = partial_moments(low, high)
    reach = np.where(np.isfinite(high), high, 0)
    third = (low**2 + 2) * np.exp(-(low**2) / 2) - (reach**2 + 2) * np.exp(-(high**2) / 2)  # sqrt(2 pi) E x^3 [..]
    # E x^2 q^2, E q^4, E x q^3 and E x^3 q over both halves; E x q = E q^2 = kept
    x2q2, q4, xq3 = (2 * float(v.sum()) for v in (level**2 * second, level**4 * mass, level**3 * first))
    x3q = 2 * float((level * third).sum()) / np.sqrt(2 * np.pi)
    kept = 2 * float((level**2 * mass).sum())
    product, size, square = x2q2 / kept**2 - 1, q4 / kept**2 - 1, 2.0
    crossed = (xq3 / kept**2 - 1) + (x3q / kept - 1) - (x2q2 / kept - 1) / 2
    variance = max(product + size / 4 + square / 4 - crossed, 0.0)
    return variance, variance / 2 - product / 2 + size / 4 + square / 4


@dataclasses.dataclass(frozen=True)
class _Greedy:
    scales: tuple[float, ...]
    cosine: float
    error: float


@functools.cache
def _greedy(order: int) -> _Greedy:
    """The greedy expansion of |x|: on each of a growing number of intervals, the residual is |x| minus a constant."""
    low, high, level = np.zeros(1), np.full(1, np.inf), np.zeros(1)
    scales = []
    for _ in range(order):
        # Split each interval in which the residual |x| - level changes its sign.
        inside = (low < level) & (level < high)
        low, high, level, above = (
            np.concatenate([low, level[inside]]),
            np.concatenate([np.where(inside, level, high), high[inside]]),
            np.concatenate([level, level[inside]]),
            np.concatenate([~inside & (low >= level), np.ones(inside.sum(), bool)]),
        )
        mass, first, _ = partial_moments(low, high)
        sign = np.where(above, 1, -1)
        scale = 2 * float((sign * (first - level * mass)).sum())  # E |residual|
        scales.append(scale)
        level = level + sign * scale
    mass, first, second = partial_moments(low, high)
    error = 2 * float((second - 2 * level * first + level**2 * mass).sum())
    cosine = float((level * first).sum() / np.sqrt((level**2 * mass).sum() / 2))
    return _Greedy(tuple(scales), cosine, error)


def greedy_scales(order: int) -> tuple[float, ...]:
    """Scales of the greedy binary expansion of standard normals: `x ~ sum of scale_i sign(residual_i)`.

        residual_1 = x,   scale_i = E |residual_i|,   residual_(i+1) = residual_i - scale_i sign(residual_i)

    Raises HypersignError if the order is not an integer from 1 to 16.
    Source: Guo et al. 2017, "Network Sketching" (arXiv 1706.02021), direct approximation.

    >>> [round(scale, 4) for scale in greedy_scales(3)]
    [0.7979, 0.4826, 0.2684]
    """
    return _greedy(check_int("the order of a greedy expansion", order, min=1, max=16)).scales


def greedy_cosine(order: ArrayLike) -> Array:
    """Cosine between infinitely many independent normals and their greedy binary expansion.

        c = E[x q] / sqrt(E q^2),   q = sum of scale_i sign(residual_i), as in `greedy_scales`

    Raises HypersignError if an order is not an integer from 1 to 16. Source: see `greedy_scales`.

    >>> np.degrees(np.arccos(greedy_cosine([1, 2, 3, 4]))).round(2).tolist()
    [37.07, 20.79, 13.45, 9.9]
    """
    return _each(lambda order: _greedy(order).cosine, order, "the order of a greedy expansion", max=16)


def greedy_error(order: ArrayLike) -> Array:
    """Mean squared error of the greedy binary expansion of standard normals.

        E (x - q)^2 = 1 - sum of scale_i^2

    It is slightly larger than sin^2 of the angle, because greedy scales are not the least-squares scales.
    Raises HypersignError if an order is not an integer from 1 to 16. Source: see `greedy_scales`.

    >>> greedy_error([2, 3, 4]).round(4).tolist()
    [0.1305, 0.0584, 0.0329]
    """
    return _each(lambda order: _greedy(order).error, order, "the order of a greedy expansion", max=16)


def _each(function: Callable[[int], float], values: ArrayLike, name: str, max: int = _MOST_LEVELS) -> Array:
    """Calls the function for each integer; returns the results in the shape of `values`."""
    given = np.asarray(values)
    if given.dtype.kind not in "iu":
        if given.dtype.kind != "f" or not np.all(given == np.floor(given)):
            raise HypersignError(f"{name} must be an integer from 1 to {max}; got {values!r}")
        given = given.astype(np.int64)
    result = np.empty(given.shape)
    for i in np.ndindex(given.shape):
        result[i] = function(check_int(name, int(given[i]), min=1, max=max))
    return result[()]
