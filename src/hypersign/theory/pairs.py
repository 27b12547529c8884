"""The angle between two independent vectors. In high dimension it is nearly always close to 90 degrees.

The mean is pi/2 both for normals and for random signs, by symmetry.
"""

import functools

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from hypersign._checks import HypersignError
from hypersign.theory._arrays import Array, fan_in

__all__ = ["pair_cosine_std", "pair_angle_std", "pair_angle_density", "binary_pair_angle_std"]


def pair_cosine_std(d: ArrayLike) -> Array:
    """Standard deviation of the cosine between two independent vectors of d normals, or of d random signs.

        std c = 1/sqrt(d);   the mean is 0

    It is exact for every d, and for any two independent vectors if one of them is isotropic.
    Raises HypersignError if d < 1. Source: E <u, e>^2 = 1/d for u uniform on the sphere.

    >>> float(pair_cosine_std(100))
    0.1
    """
    return fan_in(d) ** -0.5


def pair_angle_std(d: ArrayLike) -> Array:
    """Standard deviation, in radians, of the angle between two independent vectors of d normals.

        std theta = sqrt(psi'(d/2) / 2)  ~  1/sqrt(d),   psi' the trigamma function

    It is exact for every d. Raises HypersignError if d < 1.
    Source: the moment-generating function of the density sin^(d-2).

    >>> round(float(np.degrees(pair_angle_std(27))), 2)
    11.23
    """
    return np.sqrt(special.polygamma(1, fan_in(d) / 2) / 2)


def pair_angle_density(angle: ArrayLike, d: ArrayLike) -> Array:
    """Density, per radian, of the angle between two independent vectors of d >= 2 normals.

        f(theta) = Gamma(d/2) / (sqrt(pi) Gamma((d-1)/2)) sin^(d-2) theta   on [0, pi]

    Raises HypersignError if d < 2, because the angle is then 0 or pi. Source: area of a zone of the sphere.

    >>> round(float(pair_angle_density(np.pi / 2, 3)), 4)
    0.5
    """
    angle, d = np.asarray(angle, dtype=np.float64), np.asarray(d, dtype=np.float64)
    if not np.all(d >= 2):
        raise HypersignError(f"the angle has a density for d >= 2 only; got d = {d!r}")
    log_area = special.gammaln(d / 2) - special.gammaln((d - 1) / 2) - np.log(np.pi) / 2
    inside = (angle >= 0) & (angle <= np.pi)
    return np.where(inside, np.exp(log_area + special.xlogy(d - 2, np.sin(np.where(inside, angle, 1)))), 0.0)[()]


def binary_pair_angle_std(d: ArrayLike) -> Array:
    """Standard deviation, in radians, of the angle between two independent vectors of d random signs.

        std theta,   theta = arccos(1 - 2 h/d),   h binomial: the number of heads of d fair coins

    It is exact for every d, except that terms below 1e-20 are omitted.
    Raises HypersignError if d is not an integer >= 1. Source: the sum over h.

    >>> round(float(np.degrees(binary_pair_angle_std(100))), 2)
    5.76
    """
    values = fan_in(d)
    if not np.all(values == np.floor(values)):
        raise HypersignError(f"d, the number of signs, must be an integer; got {d!r}")
    result = np.empty(values.shape)
    for i in np.ndindex(values.shape):
        result[i] = _binary_angle_std(int(values[i]))
    return result[()]


@functools.cache
def _binary_angle_std(d: int) -> float:
    reach = 5 * np.sqrt(d) + 1  # ten standard deviations of h
    h = np.arange(max(0, int(d / 2 - reach)), min(d, int(d / 2 + reach) + 1) + 1)
    log_mass = special.gammaln(d + 1) - special.gammaln(h + 1) - special.gammaln(d - h + 1) - d * np.log(2)
    mass = np.exp(log_mass)
    return float(np.sqrt((mass * (np.arccos(1 - 2 * h / d) - np.pi / 2) ** 2).sum() / mass.sum()))
