"""The closed forms that measurements are held against.

Quantizing a filter of d weights turns it by an angle. In high dimension that angle hardly varies: for d
independent normals and their signs it tends to arccos(sqrt(2/pi)) = 37.07 degrees, with a spread that shrinks
like 1/sqrt(d). This module says what to expect for every d, for the sign and for ternary levels, for normal
weights and for any other law given by its moments.

For normal weights the first two moments of the cosine are exact at every d; for another law they are asymptotic.
The angle itself has a closed form at no finite d. It is computed from a law of the cosine: exactly, by
quadrature over the sphere, for the sign up to d = 16; beyond, and for every other quantizer, from the beta law
on [1/sqrt(d), 1] that has the cosine's mean and variance. Against the exact law that is wrong by .0015 degrees
in the mean and .01 in the standard deviation for the sign at d = 16, and by less for larger d; for ternary
levels at the best threshold by .12 and .44 degrees at d = 9, by .01 and .04 at d = 27.

Functions take numbers or NumPy arrays, broadcast, and return float64. Angles are in radians.
"""

import dataclasses
import functools
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from hypersign._checks import HypersignError

__all__ = [
    "sign_cosine",
    "sign_cosine_second_moment",
    "sign_cosine_std",
    "sign_angle",
    "sign_angle_std",
    "sign_angle_density",
    "Moments",
    "limit_cosine",
    "mean_cosine",
    "std_cosine",
    "angle_mean",
    "angle_std",
    "angle_density",
    "OPTIMAL_THRESHOLD",
    "ternary_cosine",
    "ternary_cosine_std",
    "ternary_nonzero_share",
    "ternary_level",
    "sign_disagreement",
]

Array = Any  # a float64 array, or a NumPy scalar where every argument was one

_EXACT_UP_TO = 16  # the recursion below costs milliseconds per d; beyond, the beta law is good enough
_GRID = 512


def _fan_in(d: ArrayLike) -> np.ndarray:
    values = np.asarray(d, dtype=np.float64)
    if not np.all(values >= 1):
        raise HypersignError(f"d, the fan-in, must be >= 1; got {d!r}")
    return values


# --- Section 1: a vector and its sign -----------------------------------------------------------------------


def _log_mean_ratio(d: np.ndarray) -> np.ndarray:
    """log(E c / sqrt(2/pi)), where c is the cosine between d independent normals and their signs.

    With x = d/2 it is log(sqrt(x) Gamma(x) / Gamma(x + 1/2)). The difference of two lgammas loses digits as d
    grows, so from d = 64 on its asymptotic series is used, whose first omitted term is below 1e-16 there.
    """
    x = d / 2
    exact = 0.5 * np.log(x) + special.gammaln(x) - special.gammaln(x + 0.5)
    series = 1 / (8 * x) - 1 / (192 * x**3) + 1 / (640 * x**5) - 17 / (14336 * x**7)
    return np.where(d < 64, exact, series)


def sign_cosine(d: ArrayLike) -> Array:
    """Mean cosine between a vector of d independent normals and its sign; exact for every d.

        E c = sqrt(d/pi) Gamma(d/2) / Gamma((d+1)/2)  ->  sqrt(2/pi) = .79788,   c = |w|_1 / (sqrt(d) |w|_2)

    The law of `w` enters only through its direction: any isotropic `w` does.
    Raises HypersignError where d < 1. Source: Anderson & Berg 2018 (arXiv 1705.07199), section 2.

    >>> round(float(sign_cosine(2)), 4)
    0.9003
    """
    return np.sqrt(2 / np.pi) * np.exp(_log_mean_ratio(_fan_in(d)))


def sign_cosine_second_moment(d: ArrayLike) -> Array:
    """Mean squared cosine between a vector of d independent normals and its sign; exact for every d.

        E c^2 = 2/pi + (1 - 2/pi)/d

    It is also the mean share of the squared length that the least-squares binary vector keeps.
    Raises HypersignError where d < 1. Source: of |w|_1^2 the d squares give 1 each, the d(d-1) products 2/pi.

    >>> round(float(sign_cosine_second_moment(4)), 4)
    0.7275
    """
    return 2 / np.pi + (1 - 2 / np.pi) / _fan_in(d)


def sign_cosine_std(d: ArrayLike) -> Array:
    """Standard deviation of the cosine between d independent normals and their signs; exact for every d.

        std c = sqrt(E c^2 - (E c)^2)  ~  sqrt((1 - 3/pi)/d)

    Raises HypersignError where d < 1. Source: `sign_cosine` and `sign_cosine_second_moment`.

    >>> round(float(sign_cosine_std(27)), 5)
    0.03952
    """
    d = _fan_in(d)
    # E c^2 - (E c)^2 = (1 - 2/pi)/d - (2/pi)(exp(2 s) - 1): no two numbers of order 1 are subtracted.
    variance = (1 - 2 / np.pi) / d - 2 / np.pi * np.expm1(2 * _log_mean_ratio(d))
    return np.sqrt(np.maximum(variance, 0) * (d > 1))


def sign_angle(d: ArrayLike) -> Array:
    """Mean angle, in radians, between a vector of d independent normals and its sign.

        E theta ~ 37.071 - 23.66/d degrees

    Error below .002 degrees for every d (module docstring). Raises HypersignError where d < 1 or, up to 16,
    where d is not an integer. Source: Anderson & Berg 2018 (arXiv 1705.07199), section 2.

    >>> round(float(np.degrees(sign_angle(3))), 2)
    28.12
    """
    return _per_fan_in(lambda law: law.mean, angle_mean, d)


def sign_angle_std(d: ArrayLike) -> Array:
    """Standard deviation, in radians, of the angle between a vector of d independent normals and its sign.

        std theta ~ 20.18/sqrt(d) degrees

    Error below .01 degrees for every d (module docstring). Raises HypersignError where d < 1 or, up to 16,
    where d is not an integer. Source: Anderson & Berg 2018 (arXiv 1705.07199), section 2.

    >>> round(float(np.degrees(sign_angle_std(3))), 2)
    10.91
    """
    return _per_fan_in(lambda law: law.std, angle_std, d)


def sign_angle_density(angle: ArrayLike, d: int) -> Array:
    """Density, per radian, of the angle between a vector of d >= 2 independent normals and its sign.

    Zero outside [0, arccos(1/sqrt(d))]. Exact for d <= 16 (to 1e-3 of its maximum), the beta law beyond.
    Raises HypersignError where d < 2: the angle is then always 0.
    Source: Anderson & Berg 2018 (arXiv 1705.07199), section 2.

    >>> round(float(sign_angle_density(0.5, 2)), 4)  # uniform on [0, pi/4]
    1.2732
    """
    if not d >= 2:
        raise HypersignError(f"the angle has a density for d >= 2 only; got d = {d!r}")
    if d > _EXACT_UP_TO:
        return angle_density(angle, sign_cosine(d), sign_cosine_std(d), d)
    law = _exact_law(_small(d))
    angle = np.asarray(angle, dtype=np.float64)
    return np.interp(angle, law.angles, law.density, left=0, right=0) * (angle >= 0)


@dataclasses.dataclass(frozen=True, eq=False)
class _AngleLaw:
    """The exact law of the angle at one small d, on a grid from 0 to its largest value."""

    angles: np.ndarray
    survival: np.ndarray  # P(theta > angle)
    density: np.ndarray
    mean: float
    std: float


@functools.lru_cache(maxsize=_EXACT_UP_TO)
def _exact_law(d: int) -> _AngleLaw:
    """The law of the angle between a uniform direction u of dimension d and the diagonal of its orthant.

    u = (cos f, sin f u'), with f of density ~ sin^(d-2) f and u' uniform in one dimension less, so that
    T_d = |u|_1 = cos f + sin f T_(d-1), and theta = arccos(T_d / sqrt(d)). At d = 2, theta is uniform.
    """
    angles = np.linspace(0, np.arccos(d**-0.5), _GRID + 1)
    if d == 2:
        survival = 1 - angles / angles[-1]
    else:
        below = _exact_law(d - 1)
        f = (np.arange(_GRID) + 0.5) * (np.pi / 2 / _GRID)
        weights = np.sin(f) ** (d - 2)
        survival = np.empty_like(angles)
        for i, t in enumerate(np.sqrt(d) * np.cos(angles)):
            cosine = (t - np.cos(f)) / np.sin(f) / np.sqrt(d - 1)
            # P(theta > angle) = P(T_d < t) = P(cos theta' < cosine): np.interp gives 1 where the cosine is
            # beyond 1, which T_(d-1) never reaches, and 0 where it is below the smallest.
            theta = np.arccos(np.clip(cosine, -1, 1))
            survival[i] = np.interp(theta, below.angles, below.survival) @ weights
        survival /= weights.sum()
    mean = np.trapezoid(survival, angles)
    variance = 2 * np.trapezoid(survival * angles, angles) - mean**2
    density = np.maximum(-np.gradient(survival, angles), 0)
    return _AngleLaw(angles, survival, density, float(mean), float(np.sqrt(variance)))


def _small(d: float) -> int:
    if d != int(d):
        raise HypersignError(f"d, the fan-in, must be an integer; got {d!r}")
    return int(d)


def _per_fan_in(exact: Any, beta: Any, d: ArrayLike) -> Array:
    d = _fan_in(d)
    values = np.asarray(beta(sign_cosine(d), sign_cosine_std(d), d))
    for small in np.unique(d[d <= _EXACT_UP_TO]):
        values = np.where(d == small, exact(_exact_law(_small(small))) if small > 1 else 0.0, values)
    return values[()]


# --- Any independent weights, any of our quantizers ---------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Moments:
    """Absolute moments of one weight x: `above[k] = E |x|^k [|x| > t]` for k = 0..3, `second` and `fourth` of all.

    They are what the cosine between independent weights and `sign(x) [|x| > t]` depends on, up to order 1/d;
    t = 0 is the sign.
    """

    above: tuple[float, float, float, float]
    second: float
    fourth: float

    @classmethod
    def gaussian(cls, threshold: float = 0.0) -> Self:
        """Moments of a standard normal, `threshold` in units of its standard deviation.

            E |x|^k [|x| > t] = 2 Q(t), 2 phi(t), 2 (t phi(t) + Q(t)), 2 (t^2 + 2) phi(t)   for k = 0, 1, 2, 3

        `phi` and `Q` are the normal density and upper tail. Source: integration by parts.

        >>> round(Moments.gaussian().above[1], 4)
        0.7979
        """
        phi = float(np.exp(-(threshold**2) / 2) / np.sqrt(2 * np.pi))
        tail = float(special.ndtr(-threshold))
        above = (2 * tail, 2 * phi, 2 * (threshold * phi + tail), 2 * (threshold**2 + 2) * phi)
        return cls(above, 1.0, 3.0)

    @classmethod
    def of(cls, weights: ArrayLike, threshold: ArrayLike = 0.0) -> Self:
        """Empirical moments of `weights` (one dimension or more); `threshold` in their units, broadcast.

        >>> Moments.of([-3.0, 1.0]).above[1]
        2.0
        """
        weights = np.asarray(weights)
        weights, limits = np.broadcast_arrays(weights, np.asarray(threshold, dtype=np.float64))
        sums = np.zeros(6)
        # Block by block: what is made of millions of weights then stays in the cache.
        rows = max(1, 65536 // max(1, weights[:1].size)) if weights.ndim else 1
        for start in range(0, len(weights), rows):
            size = np.abs(weights[start : start + rows], dtype=np.float64).ravel()
            limit = limits[start : start + rows].ravel()
            # Where the threshold is 0 the sign's levels are never 0, not even at x = 0.
            above = ((size > limit) | (limit == 0)).astype(np.float64)
            square = size * size
            first = size * above
            sums += above.sum(), first.sum(), first @ size, first @ square, square.sum(), square @ square
        share, m1, m2, m3, second, fourth = (float(value) for value in sums / weights.size)
        return cls((share, m1, m2, m3), second, fourth)


def limit_cosine(moments: Moments) -> float:
    """Cosine between infinitely many independent weights x and their levels q = sign(x) [|x| > t].

        c_inf = E[x q] / sqrt(E q^2 E x^2);   for the sign, E|x| / sqrt(E x^2)

    The angle is 30 degrees for a uniform x, 37.07 for a Gaussian, 45 for a Laplacian. NaN where no weight
    exceeds the threshold. Source: the law of large numbers.

    >>> uniform = Moments((1.0, 1 / 2, 1 / 3, 1 / 4), 1 / 3, 1 / 5)
    >>> round(float(np.degrees(np.arccos(limit_cosine(uniform)))), 4)
    30.0
    """
    share, first = moments.above[:2]
    scale = share * moments.second
    return float(first / np.sqrt(scale)) if scale > 0 else float("nan")


def _relative_variances(moments: Moments) -> tuple[float, float]:
    """d times the relative variance and the relative bias of the cosine, at leading order in 1/d.

    log c = log A - (log B)/2 - (log D)/2, with A, B, D the means of xq, q^2 and x^2 over the d weights. Its
    linear part has variance Var(psi)/d, psi = xq/EA - q^2/(2 EB) - x^2/(2 ED); its quadratic part the mean
    [-Var(xq)/(2 EA^2) + Var(q^2)/(4 EB^2) + Var(x^2)/(4 ED^2)]/d; and E exp adds half the variance.
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
    """Mean cosine between d independent weights and their levels, to order 1/d.

        E c ~ c_inf [1 + b/d],   b = Var(psi)/2 - Var(xq)/(2 E[xq]^2) + Var(q^2)/(4 E[q^2]^2) + Var(x^2)/(4 E[x^2]^2)

    `psi` as in `std_cosine`; b = 1/4 for the sign of a Gaussian. Kept inside [1/sqrt(d), 1].
    Raises HypersignError where d < 1. Source: second-order delta method.

    >>> round(float(mean_cosine(Moments.gaussian(), 27)), 4)  # exactly .8053
    0.8053
    """
    d = _fan_in(d)
    limit = limit_cosine(moments)
    bias = _relative_variances(moments)[1] if limit > 0 else 0.0
    return np.clip(limit * (1 + bias / d), d**-0.5, 1)


def std_cosine(moments: Moments, d: ArrayLike) -> Array:
    """Standard deviation of the cosine between d independent weights and their levels, at leading order.

        d Var c -> c_inf^2 Var(psi),   psi = xq/E[xq] - q^2/(2 E[q^2]) - x^2/(2 E[x^2])

    For the sign: c_inf^2 [Var|x|/m1^2 - Cov(|x|, x^2)/(m1 m2) + Var(x^2)/(4 m2^2)], m1 = E|x|, m2 = E x^2.
    Raises HypersignError where d < 1. Source: first-order delta method.

    >>> round(float(std_cosine(Moments.gaussian(), 1152)), 5)
    0.00625
    """
    d = _fan_in(d)
    limit = limit_cosine(moments)
    variance = _relative_variances(moments)[0] if limit > 0 else np.nan
    return limit * np.sqrt(variance / d) * (d > 1)


# --- From the law of a cosine to that of its angle ----------------------------------------------------------


def _beta(mean: np.ndarray, std: np.ndarray, d: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Parameters (a, b) of the beta law of (c - low)/(1 - low), low = 1/sqrt(d), and low."""
    low = d**-0.5
    with np.errstate(divide="ignore", invalid="ignore"):
        m = (mean - low) / (1 - low)
        v = (std / (1 - low)) ** 2
        # No law on [0, 1] has a variance above m(1 - m): asymptotic moments may ask for one at tiny d.
        k = np.maximum(m * (1 - m) / v - 1, 0.05)
        return m * k, (1 - m) * k, low


def _beta_density(angle: np.ndarray, a: np.ndarray, b: np.ndarray, low: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        # log of the beta density of x = (cos(angle) - low)/(1 - low), times |dx/dangle|; 1 - cos without cancellation
        log_x = np.log((np.cos(angle) - low) / (1 - low))
        log_y = np.log(2 * np.sin(angle / 2) ** 2 / (1 - low))
        log_density = special.xlogy(a - 1, np.exp(log_x)) + (b - 1) * log_y - special.betaln(a, b)
        density = np.exp(log_density + np.log(np.sin(angle) / (1 - low)))
    return np.where((angle > 0) & (np.cos(angle) > low), density, 0.0)


@functools.cache
def _gauss_legendre() -> tuple[np.ndarray, np.ndarray]:
    return np.polynomial.legendre.leggauss(256)


def _angle_moments(mean: ArrayLike, std: ArrayLike, d: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    mean, std, d = np.broadcast_arrays(*(np.asarray(v, dtype=np.float64) for v in (mean, std, _fan_in(d))))
    centre = np.arccos(np.clip(mean, -1, 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = np.where(std > 0, std / np.sqrt(1 - mean**2), 0)
    # Gauss-Legendre over 12 standard deviations either side, as far as the angle can go.
    x, w = _gauss_legendre()
    start = np.maximum(centre - 12 * spread, 0)[..., None]
    stop = np.minimum(centre + 12 * spread, np.arccos(d**-0.5))[..., None]
    angles = (start + stop) / 2 + (stop - start) / 2 * x
    a, b, low = (v[..., None] for v in _beta(mean, std, d))
    weights = _beta_density(angles, a, b, low) * w
    with np.errstate(invalid="ignore"):
        weights /= weights.sum(-1, keepdims=True)
        first = (weights * angles).sum(-1)
        second = np.sqrt((weights * (angles - first[..., None]) ** 2).sum(-1))
    certain = ~((std > 0) & (mean < 1))  # no spread (d = 1, weights of one size), or NaN
    return np.where(certain, centre, first), np.where(certain, np.where(np.isnan(mean), np.nan, 0.0), second)


def angle_mean(cosine: ArrayLike, cosine_std: ArrayLike, d: ArrayLike) -> Array:
    """Mean angle, in radians, of two vectors whose cosine has this mean and standard deviation.

        E arccos(c),   (c - 1/sqrt(d)) / (1 - 1/sqrt(d)) beta-distributed

    A vector and its levels are never further apart than arccos(1/sqrt(d)). Raises HypersignError where d < 1.
    Source: quadrature; the second-order delta method gives the same up to O(1/d^2).

    >>> round(float(np.degrees(angle_mean(0.80530, 0.03952, 27))), 2)
    36.19
    """
    return _angle_moments(cosine, cosine_std, d)[0][()]


def angle_std(cosine: ArrayLike, cosine_std: ArrayLike, d: ArrayLike) -> Array:
    """Standard deviation of the angle, in radians, of two vectors with this mean and spread of their cosine.

    `std theta ~ std c / sin(theta)`; computed for the beta law as in `angle_mean`, and 0 where the cosine does
    not vary. Raises HypersignError where d < 1. Source: quadrature.

    >>> round(float(np.degrees(angle_std(0.80530, 0.03952, 27))), 2)
    3.83
    """
    return _angle_moments(cosine, cosine_std, d)[1][()]


def angle_density(angle: ArrayLike, cosine: ArrayLike, cosine_std: ArrayLike, d: ArrayLike) -> Array:
    """Density, per radian, of the angle of two vectors with this mean and spread of their cosine.

    The beta law of `angle_mean`, carried over to the angle; 0 outside [0, arccos(1/sqrt(d))], and everywhere
    where the cosine does not vary. Raises HypersignError where d < 1. Source: change of variables.

    >>> round(float(angle_density(0.6470, 0.79806, 0.00625, 1152)), 1)  # 1 / (.01037 sqrt(2 pi))
    38.4
    """
    mean, std, d = (np.asarray(v, dtype=np.float64) for v in (cosine, cosine_std, _fan_in(d)))
    density = _beta_density(np.asarray(angle, dtype=np.float64), *_beta(mean, std, d))
    return np.where((std > 0) & (mean < 1), density, 0.0)[()]


# --- Section 2: ternary levels ------------------------------------------------------------------------------

OPTIMAL_THRESHOLD = 0.6120032
"""The threshold, in standard deviations, at which `ternary_cosine` is largest: the root of phi(t) = 2 t Q(t)."""


def ternary_cosine(threshold: ArrayLike, d: ArrayLike = np.inf) -> Array:
    """Mean cosine between a vector of d independent normals and its levels sign(x) [|x| > t]; exact for every d.

        c(t) = sqrt(2/pi) exp(-t^2/2) / sqrt(2 Q(t))   as d -> infinity

    t in standard deviations, Q the normal upper tail; t = 0 is the sign. At finite d it is the mean over
    vectors of which something exceeds the threshold, by quadrature (relative error 1e-9).
    Raises HypersignError where d < 1. Source: Anderson & Berg 2018 (arXiv 1705.07199), section 3.

    >>> round(float(ternary_cosine(0.612)), 4), round(float(ternary_cosine(0.612, 9)), 4)
    (0.8999, 0.9103)
    """
    return _ternary_moments(threshold, _fan_in(d))[0][()]


def ternary_cosine_std(threshold: ArrayLike, d: ArrayLike) -> Array:
    """Standard deviation of the cosine between d independent normals and sign(x) [|x| > t]; exact for every d.

        std c = sqrt(E c^2 - (E c)^2)

    Over vectors of which something exceeds the threshold, by quadrature; see `ternary_cosine`.
    Raises HypersignError where d < 1. Source: the integrals in `_finite_ternary_moments`.

    >>> round(float(ternary_cosine_std(0, 27)), 5), round(float(sign_cosine_std(27)), 5)
    (0.03952, 0.03952)
    """
    mean, second = _ternary_moments(threshold, _fan_in(d))
    return np.sqrt(np.maximum(second - mean**2, 0))[()]


def _ternary_moments(threshold: ArrayLike, d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    t, d = np.broadcast_arrays(np.asarray(threshold, dtype=np.float64), d)
    # exp(log ...) so that a threshold far out does not divide 0 by 0.
    limit = np.exp(0.5 * np.log(2 / np.pi) - t * t / 2 - 0.5 * (np.log(2) + special.log_ndtr(-t)))
    mean, second = np.array(limit), np.array(limit**2)
    for i in np.ndindex(t.shape):
        if np.isfinite(d[i]):
            mean[i], second[i] = _finite_ternary_moments(float(t[i]), float(d[i]))
    return mean, second


def _finite_ternary_moments(t: float, d: float) -> tuple[float, float]:
    """E c and E c^2 at finite d, where c = S / sqrt(N Q), S = sum |x| [|x| > t], N = sum [|x| > t], Q = sum x^2.

    With 1/Q = int exp(-uQ) du and 1/N = int exp(-vN) dv, and the same with 1/sqrt(pi u) and 1/sqrt(pi v) for
    their roots, the expectation of S or S^2 factors over the d weights:
        E S exp(-uQ - vN) = d a f^(d-1),   E S^2 exp(-uQ - vN) = d b f^(d-1) + d (d-1) a^2 f^(d-2)
    where f, a, b are the means of exp(-u x^2 - v [|x| > t]) times 1, |x| [|x| > t], x^2 [|x| > t]. Both integrals
    are done by the trapezoidal rule in log u and log v, which converges exponentially.
    """
    step = 0.3
    u = np.exp(np.arange(-80, 6 + 80 / d, step) - np.log(d))[:, None]
    v = np.exp(np.arange(-80 - np.log(d), 4, step))
    shrink = 1 + 2 * u  # exp(-u x^2) makes a normal of variance 1/shrink
    edge = t * np.sqrt(shrink)
    tail = 2 * special.ndtr(-edge)
    peak = np.exp(-(edge**2) / 2) * np.sqrt(2 / np.pi)
    f = np.where(v < 1, 1 + tail * np.expm1(-v), special.erf(edge / np.sqrt(2)) + tail * np.exp(-v))
    log_f = np.log(f) - 0.5 * np.log(shrink)
    a = np.exp(-v) * peak / shrink
    b = np.exp(-v) * (edge * peak + tail) / shrink**1.5
    first = d * a * np.exp((d - 1) * log_f)
    second = d * b * np.exp((d - 1) * log_f) + d * (d - 1) * a**2 * np.exp((d - 2) * log_f)
    reached = -np.expm1(d * np.log1p(-2 * special.ndtr(-t))) if t > 0 else 1.0  # P(N > 0)
    if reached == 0:  # a threshold so far out that float64 knows nothing beyond it
        return np.nan, np.nan
    mean = (first * np.sqrt(u * v)).sum() * step**2 / np.pi / reached
    return float(mean), float((second * u * v).sum() * step**2 / reached)


def ternary_nonzero_share(threshold: ArrayLike) -> Array:
    """Share of normals that a threshold of `t` standard deviations leaves non-zero: `2 Q(t)`.

    Source: Anderson & Berg 2018 (arXiv 1705.07199), section 3.

    >>> round(float(ternary_nonzero_share(0.612)), 3)
    0.541
    """
    return 2 * special.ndtr(-np.asarray(threshold, dtype=np.float64))


def ternary_level(threshold: ArrayLike) -> Array:
    """Least-squares level of the normals beyond `t` standard deviations, in standard deviations.

        E[|x| given |x| > t] = phi(t) / Q(t)

    Source: Li et al. 2016 (arXiv 1605.04711), eq. 5.

    >>> round(float(ternary_level(0.612)), 3)
    1.224
    """
    t = np.asarray(threshold, dtype=np.float64)
    return np.exp(-t * t / 2 - 0.5 * np.log(2 * np.pi) - special.log_ndtr(-t))


# --- Section 4: dot products --------------------------------------------------------------------------------


def sign_disagreement(r: ArrayLike) -> Array:
    """Share of pairs of zero-mean, jointly normal numbers with correlation r whose signs differ.

        P = arccos(r) / pi

    With means or thresholds away from zero it can be far off. r beyond [-1, 1] by rounding counts as +-1.
    Source: Sheppard 1899; Anderson & Berg 2018 (arXiv 1705.07199), section 4.

    >>> round(float(sign_disagreement(0.8)), 3)
    0.205
    """
    return np.arccos(np.clip(np.asarray(r, dtype=np.float64), -1, 1)) / np.pi
