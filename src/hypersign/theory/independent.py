"""The cosine and the angle between independent weights of any distribution and their levels."""

import dataclasses
import functools
import math
from typing import Self

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from hypersign.theory._arrays import Array, fan_in
from hypersign.theory.angle import angle_moments
from hypersign.theory.distribution import Distribution, SizeCounts
from hypersign.theory.groups import group_cosine

__all__ = ["Moments", "limit_cosine", "mean_cosine", "std_cosine", "moments_angle"]

_MAX_TAILS = 0.3  # beyond this kurtosis / d the expansion in 1/d gives no number
_LIGHT_TAILS = 0.001  # up to this excess kurtosis / d, the expansion is as good as the distribution
_LONG = 64  # from this d on


@dataclasses.dataclass(frozen=True)
class Moments:
    """Absolute moments of one weight x.

        above[k] = E |x|^k [|x| > t] for k = 0..3,   second = E x^2,   fourth = E x^4

    Up to order 1/d, the cosine between independent weights and `sign(x) [|x| > t]` depends only on them. t = 0 is
    the sign. The expansion in 1/d fails for heavy tails, so `of` and `gaussian` also keep the `distribution` of the
    weights, which gives the cosine at every d.
    """

    above: tuple[float, float, float, float]
    second: float
    fourth: float
    distribution: Distribution | None = dataclasses.field(default=None, repr=False, compare=False)

    @property
    def kurtosis(self) -> float:
        """`E x^4 / (E x^2)^2`: 3 for a normal; NaN if all weights are 0."""
        return self.fourth / self.second / self.second if self.second > 0 else float("nan")

    def light_tails(self, d: float) -> bool:
        """Whether the expansion in 1/d is as good as the distribution."""
        return d >= _LONG and not self.kurtosis - 3 > _LIGHT_TAILS * d

    @classmethod
    def gaussian(cls, threshold: float = 0.0) -> Self:
        """Moments of a standard normal; `threshold` is t, in standard deviations.

            E |x|^k [|x| > t] = 2 Q(t), 2 phi(t), 2 (t phi(t) + Q(t)), 2 (t^2 + 2) phi(t)   for k = 0, 1, 2, 3

        `phi` and `Q` are the normal density and upper tail. Source: integration by parts.

        >>> round(Moments.gaussian().above[1], 4)
        0.7979
        """
        phi = float(np.exp(-(threshold**2) / 2) / np.sqrt(2 * np.pi))
        tail = float(special.ndtr(-threshold))
        above = (2 * tail, 2 * phi, 2 * (threshold * phi + tail), 2 * (threshold**2 + 2) * phi)
        return cls(above, 1.0, 3.0, _gaussian(float(threshold)))

    @classmethod
    def of(cls, weights: ArrayLike, threshold: ArrayLike = 0.0) -> Self:
        """Empirical moments of `weights` (one dimension or more); `threshold` has their units and broadcasts.

        >>> Moments.of([-3.0, 1.0]).above[1]
        2.0
        """
        weights = np.asarray(weights)
        weights, limits = np.broadcast_arrays(weights, np.asarray(threshold, dtype=np.float64))
        sums = np.zeros(6)
        largest = float(np.abs(weights).max(initial=0))
        counts = SizeCounts(1 / largest if 0 < largest < np.inf else 1.0)
        # Block by block, so that temporary arrays stay in the cache.
        rows = max(1, 65536 // max(1, weights[:1].size)) if weights.ndim else 1
        for start in range(0, len(weights), rows):
            size = np.abs(weights[start : start + rows], dtype=np.float64).ravel()
            limit = limits[start : start + rows].ravel()
            # A threshold of 0 means the sign, whose levels are never 0, not even for x = 0.
            beyond = (size > limit) | (limit == 0)
            counts.add(size, beyond)
            above = beyond.astype(np.float64)
            square = size * size
            first = size * above
            sums += above.sum(), first.sum(), first @ size, first @ square, square.sum(), square @ square
        share, m1, m2, m3, second, fourth = (float(value) for value in sums / weights.size)
        return cls((share, m1, m2, m3), second, fourth, counts.distribution())


@functools.cache
def _gaussian(threshold: float) -> Distribution:
    return Distribution.gaussian(np.array([threshold]), np.ones(1))


def limit_cosine(moments: Moments) -> float:
    """Cosine between infinitely many independent weights x and their levels q = sign(x) [|x| > t].

        c_inf = E[x q] / sqrt(E q^2 E x^2);   for the sign, E|x| / sqrt(E x^2)

    For the sign, the angle is 30 degrees for a uniform x, 37.07 for a Gaussian and 45 for a Laplacian. The cosine is
    NaN if no weight exceeds the threshold. Source: the law of large numbers.

    >>> uniform = Moments((1.0, 1 / 2, 1 / 3, 1 / 4), 1 / 3, 1 / 5)
    >>> round(float(np.degrees(np.arccos(limit_cosine(uniform)))), 4)
    30.0
    """
    share, first = moments.above[:2]
    scale = share * moments.second
    return float(first / np.sqrt(scale)) if scale > 0 else float("nan")


def _relative_variances(moments: Moments) -> tuple[float, float]:
    """Returns d times the relative variance, and d times the relative bias, of the cosine at leading order in 1/d.

    log c = log A - (log B)/2 - (log D)/2, where A, B, D are the means of xq, q^2 and x^2 over the d weights. The
    linear part of log c has variance Var(psi)/d with psi = xq/EA - q^2/(2 EB) - x^2/(2 ED). The quadratic part has
    mean [-Var(xq)/(2 EA^2) + Var(q^2)/(4 EB^2) + Var(x^2)/(4 ED^2)]/d. E exp adds half the variance.
    """
    m0, m1, m2, m3 = moments.above
    second, fourth = moments.second, moments.fourth
    product = (m2 - m1**2) / m1**2
    level = (m0 - m0**2) / m0**2
    square = (fourth - second**2) / second**2
    variance = (
        product
        + level / 4
        + square / 4
        - (m1 - m1 * m0) / (m1 * m0)
        - (m3 - m1 * second) / (m1 * second)
        + (m2 - m0 * second) / (2 * m0 * second)
    )
    variance = max(variance, 0.0)
    return variance, variance / 2 - product / 2 + level / 4 + square / 4


def mean_cosine(moments: Moments, d: ArrayLike) -> Array:
    """Mean cosine between d independent weights and their levels.

        E c ~ c_inf [1 + b/d],   b = Var(psi)/2 - Var(xq)/(2 E[xq]^2) + Var(q^2)/(4 E[q^2]^2) + Var(x^2)/(4 E[x^2]^2)

    `std_cosine` defines psi. b = 1/4 for the sign of a Gaussian. The result is clipped to [1/sqrt(d), 1]. This
    expansion is used from d = 64 on, up to a kurtosis of 3 + d/1000. Otherwise the result is exact for the moments'
    distribution. If they have none, it is the expansion's up to a kurtosis of .3 d, and NaN beyond.
    Raises HypersignError if d < 1. Source: second-order delta method; see `hypersign.theory.distribution`.

    >>> round(float(mean_cosine(Moments.gaussian(), 27)), 4)  # exactly .8053
    0.8053
    """
    return _cosine(moments, d)[0]


def std_cosine(moments: Moments, d: ArrayLike) -> Array:
    """Standard deviation of the cosine between d independent weights and their levels.

        d Var c -> c_inf^2 Var(psi),   psi = xq/E[xq] - q^2/(2 E[q^2]) - x^2/(2 E[x^2])

    For the sign it is c_inf^2 [Var|x|/m1^2 - Cov(|x|, x^2)/(m1 m2) + Var(x^2)/(4 m2^2)] with m1 = E|x|, m2 = E x^2.
    The range of the expansion is that of `mean_cosine`.
    Raises HypersignError if d < 1. Source: first-order delta method; see `hypersign.theory.distribution`.

    >>> round(float(std_cosine(Moments.gaussian(), 1152)), 5)
    0.00625
    """
    return _cosine(moments, d)[1]


def _cosine(moments: Moments, d: ArrayLike) -> tuple[Array, Array]:
    """Returns `mean_cosine` and `std_cosine`."""
    d = fan_in(d)
    limit = limit_cosine(moments)
    variance, bias = _relative_variances(moments) if limit > 0 else (np.nan, 0.0)
    mean, std = np.clip(limit * (1 + bias / d), d**-0.5, 1), limit * np.sqrt(variance / d) * (d > 1)
    if moments.distribution is None:
        beyond = moments.kurtosis > _MAX_TAILS * d
        return np.where(beyond, np.nan, mean)[()], np.where(beyond, np.nan, std)[()]
    mean, std = np.array(mean), np.array(std)
    for i in np.ndindex(d.shape):
        if not moments.light_tails(float(d[i])):
            first, second = moments.distribution.cosine_moments(float(d[i]), 2)
            mean[i], std[i] = first, np.sqrt(np.maximum(second - first**2, 0))
    return mean[()], std[()]


def moments_angle(moments: Moments, d: float, size: int | None = None) -> tuple[float, float]:
    """Mean and standard deviation, in radians, of the angle between d independent weights and their levels.

    With a `size`, there is one least-squares scale per group of that many weights, and the levels are the signs.
    The angle never exceeds that with one scale.

    The mean comes from five exact moments of the cosine. From d = 9 on it is within .3 degrees of a bootstrap (within
    1 at d = 2; within 3 for ternary levels of which fewer than two or three are not 0). Where `mean_cosine`
    and `std_cosine` come from an expansion, the angle is that of a beta distribution with them, and NaN if they are.
    Raises HypersignError if d or the size is below 1.
    Source: see `hypersign.theory.distribution`; the share that G groups keep has the mean
    G/d + (d - G)/(d - 1) (E c^2 - 1/d).

    >>> heavy = Moments.of(np.random.default_rng(0).standard_t(3, 100_000))
    >>> np.degrees(moments_angle(heavy, 192)).round(1).tolist()
    [47.7, 4.9]
    """
    n = float(fan_in(d))
    if np.isinf(n):
        cosine = limit_cosine(moments) if size is None else group_cosine(size, limit_cosine(moments))
        return float(np.arccos(np.clip(cosine, -1, 1))), 0.0
    groups = 1 if size is None else math.ceil(n / float(fan_in(size)))
    if moments.distribution is None or moments.light_tails(n):
        cosine, std = _cosine(moments, n)
        if groups > 1:
            share = groups / n + (n - groups) / (n - 1) * (cosine**2 + std**2 - 1 / n)
            cosine = np.sqrt(np.maximum(share - std**2, 0))
        first, second = angle_moments(cosine, std, n)
        return float(first), float(second)
    row = moments.distribution.angle(n)
    if groups == 1 or size is None:
        return row
    mean, spread = moments.distribution.group_angle(int(n), size)
    return min(mean, row[0]), spread
