"""The angle between a vector of independent normals and its sign."""

import dataclasses
import functools

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from hypersign._checks import HypersignError
from hypersign.theory._arrays import Array, fan_in
from hypersign.theory.angle import angle_density, angle_moments

__all__ = [
    "sign_cosine",
    "sign_cosine_second_moment",
    "sign_cosine_std",
    "sign_angle",
    "sign_angle_std",
    "sign_angle_density",
]

_EXACT_UP_TO = 16  # the recursion takes milliseconds per d; for larger d the beta distribution is accurate enough
_GRID = 512


def _log_mean_ratio(d: np.ndarray) -> np.ndarray:
    """Returns log(E c / sqrt(2/pi)), where c is the cosine between d independent normals and their signs.

    With x = d/2 it is log(sqrt(x) Gamma(x) / Gamma(x + 1/2)). The difference of two lgammas loses digits as d
    grows, so an asymptotic series is used from d = 64 on. Its first omitted term is below 1e-16 there.
    """
    x = d / 2
    few = np.minimum(x, 32)  # where the series is used, the exact form overflows for very large d
    exact = 0.5 * np.log(few) + special.gammaln(few) - special.gammaln(few + 0.5)
    with np.errstate(over="ignore"):  # powers of a very large d are infinite, and their terms 0
        series = 1 / (8 * x) - 1 / (192 * x**3) + 1 / (640 * x**5) - 17 / (14336 * x**7)
    return np.where(d < 64, exact, series)


def sign_cosine(d: ArrayLike) -> Array:
    """Mean cosine between a vector of d independent normals and its sign; exact for every d.

        E c = sqrt(d/pi) Gamma(d/2) / Gamma((d+1)/2)  ->  sqrt(2/pi) = .79788,   c = |w|_1 / (sqrt(d) |w|_2)

    The cosine depends only on the direction of w, so the formula holds for every isotropic w.
    Raises HypersignError if d < 1. Source: Anderson & Berg 2018 (arXiv 1705.07199), section 2.

    >>> round(float(sign_cosine(2)), 4)
    0.9003
    """
    return np.sqrt(2 / np.pi) * np.exp(_log_mean_ratio(fan_in(d)))


def sign_cosine_second_moment(d: ArrayLike) -> Array:
    """Mean squared cosine between a vector of d independent normals and its sign; exact for every d.

        E c^2 = 2/pi + (1 - 2/pi)/d

    It is also the mean share of the squared length that the least-squares binary vector keeps.
    Raises HypersignError if d < 1.
    Source: in |w|_1^2, each of the d squares has mean 1, each of the d(d-1) products 2/pi.

    >>> round(float(sign_cosine_second_moment(4)), 4)
    0.7275
    """
    return 2 / np.pi + (1 - 2 / np.pi) / fan_in(d)


def sign_cosine_std(d: ArrayLike) -> Array:
    """Standard deviation of the cosine between d independent normals and their signs; exact for every d.

        std c = sqrt(E c^2 - (E c)^2)  ~  sqrt((1 - 3/pi)/d)

    Raises HypersignError if d < 1. Source: `sign_cosine` and `sign_cosine_second_moment`.

    >>> round(float(sign_cosine_std(27)), 5)
    0.03952
    """
    d = fan_in(d)
    # E c^2 - (E c)^2 = (1 - 2/pi)/d - (2/pi)(exp(2 s) - 1). This form never subtracts two numbers of order 1.
    variance = (1 - 2 / np.pi) / d - 2 / np.pi * np.expm1(2 * _log_mean_ratio(d))
    return np.sqrt(np.maximum(variance, 0) * (d > 1))


def sign_angle(d: ArrayLike) -> Array:
    """Mean angle, in radians, between a vector of d independent normals and its sign.

        E theta ~ 37.071 - 23.66/d degrees

    The error is below .002 degrees for every d (see the docstring of `hypersign.theory`).
    Raises HypersignError if d < 1, or if d is below 16 and not an integer.
    Source: Anderson & Berg 2018 (arXiv 1705.07199), section 2.

    >>> round(float(np.degrees(sign_angle(3))), 2)
    28.12
    """
    return sign_moments(d)[2][()]


def sign_angle_std(d: ArrayLike) -> Array:
    """Standard deviation, in radians, of the angle between a vector of d independent normals and its sign.

        std theta ~ 20.18/sqrt(d) degrees

    The error is below .01 degrees for every d (see the docstring of `hypersign.theory`).
    Raises HypersignError if d < 1, or if d is below 16 and not an integer.
    Source: Anderson & Berg 2018 (arXiv 1705.07199), section 2.

    >>> round(float(np.degrees(sign_angle_std(3))), 2)
    10.91
    """
    return sign_moments(d)[3][()]


def sign_angle_density(angle: ArrayLike, d: int) -> Array:
    """Density, per radian, of the angle between a vector of d >= 2 independent normals and its sign.

    It is zero outside [0, arccos(1/sqrt(d))]. For d <= 16 it is exact (to 1e-3 of its maximum); for larger d it is
    that of the beta distribution. Raises HypersignError if d < 2, because the angle is then always 0.
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
    """The exact distribution of the angle for one small d, on a grid from 0 to the largest angle."""

    angles: np.ndarray
    survival: np.ndarray  # P(theta > angle)
    density: np.ndarray
    mean: float
    std: float


@functools.lru_cache(maxsize=_EXACT_UP_TO)
def _exact_law(d: int) -> _AngleLaw:
    """The distribution of the angle theta between a uniform direction u and the diagonal of its orthant.

    u has d components. Write u = (cos f, sin f u'), where f has a density ~ sin^(d-2) f and u' is a uniform direction
    in d - 1 dimensions. Then T_d = |u|_1 = cos f + sin f T_(d-1), and theta = arccos(T_d / sqrt(d)). For d = 2, theta
    is uniform.
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
            # P(theta > angle) = P(T_d < t) = P(cos theta' < cosine). np.interp gives 1 if the cosine is above 1,
            # which cos theta' never exceeds, and 0 if it is below the smallest cosine.
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


def sign_moments(d: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns `sign_cosine`, `sign_cosine_std`, `sign_angle` and `sign_angle_std` in one call."""
    d = fan_in(d)
    cosine, cosine_std = sign_cosine(d), sign_cosine_std(d)
    mean, std = angle_moments(cosine, cosine_std, d)
    for small in np.unique(d[d <= _EXACT_UP_TO]):
        law = _exact_law(_small(small)) if small > 1 else None
        mean = np.where(d == small, law.mean if law else 0.0, mean)
        std = np.where(d == small, law.std if law else 0.0, std)
    return cosine, cosine_std, mean, std
