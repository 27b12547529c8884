"""The mean, standard deviation and density of an angle, from the mean and standard deviation of its cosine."""

import functools

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from hypersign.theory._arrays import Array, fan_in

__all__ = ["angle_mean", "angle_std", "angle_density"]


def beta_parameters(mean: np.ndarray, std: np.ndarray, d: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns (a, b, low): the parameters of the beta distribution of (c - low)/(1 - low), and low = 1/sqrt(d)."""
    low = d**-0.5
    with np.errstate(divide="ignore", invalid="ignore"):
        m = (mean - low) / (1 - low)
        v = (std / (1 - low)) ** 2
        # No distribution on [0, 1] has a variance above m(1 - m), but asymptotic moments at tiny d may exceed it.
        k = np.maximum(m * (1 - m) / v - 1, 0.05)
        return m * k, (1 - m) * k, low


def _beta_density(angle: np.ndarray, a: np.ndarray, b: np.ndarray, low: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        # log of the beta density of x = (cos(angle) - low)/(1 - low), plus log |dx/dangle|.
        # 2 sin^2(angle/2) is 1 - cos(angle) without cancellation.
        log_x = np.log((np.cos(angle) - low) / (1 - low))
        log_y = np.log(2 * np.sin(angle / 2) ** 2 / (1 - low))
        log_density = special.xlogy(a - 1, np.exp(log_x)) + (b - 1) * log_y - special.betaln(a, b)
        density = np.exp(log_density + np.log(np.sin(angle) / (1 - low)))
    return np.where((angle > 0) & (np.cos(angle) > low), density, 0.0)


@functools.cache
def _gauss_legendre() -> tuple[np.ndarray, np.ndarray]:
    return np.polynomial.legendre.leggauss(256)


def angle_moments(mean: ArrayLike, std: ArrayLike, d: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Returns `angle_mean` and `angle_std` from one quadrature."""
    mean, std, d = np.broadcast_arrays(*(np.asarray(v, dtype=np.float64) for v in (mean, std, fan_in(d))))
    centre = np.arccos(np.clip(mean, -1, 1))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore", under="ignore"):
        spread = np.where(std > 0, std / np.sqrt(1 - mean**2), 0)
    # Gauss-Legendre over 12 standard deviations on either side, clipped to the possible angles.
    x, w = _gauss_legendre()
    start = np.maximum(centre - 12 * spread, 0)[..., None]
    stop = np.minimum(centre + 12 * spread, np.arccos(d**-0.5))[..., None]
    angles = (start + stop) / 2 + (stop - start) / 2 * x
    a, b, low = (v[..., None] for v in beta_parameters(mean, std, d))
    with np.errstate(over="ignore", invalid="ignore"):
        weights = _beta_density(angles, a, b, low) * w
        weights /= weights.sum(-1, keepdims=True)
        first = (weights * angles).sum(-1)
        second = np.sqrt((weights * (angles - first[..., None]) ** 2).sum(-1))
    certain = ~((std > 0) & (mean < 1))  # no spread (d = 1, or all weights of equal size), or NaN
    narrow = (spread > 0) & (spread < 1e-6)  # float64 does not resolve the density of such a large d
    first, second = np.where(narrow, centre, first), np.where(narrow, spread, second)
    return np.where(certain, centre, first), np.where(certain, np.where(np.isnan(mean), np.nan, 0.0), second)


def angle_mean(cosine: ArrayLike, cosine_std: ArrayLike, d: ArrayLike) -> Array:
    """Mean angle, in radians, of two vectors whose cosine has this mean and standard deviation.

        E arccos(c),   (c - 1/sqrt(d)) / (1 - 1/sqrt(d)) beta-distributed

    The angle between a vector and its levels never exceeds arccos(1/sqrt(d)). Raises HypersignError if d < 1.
    Source: quadrature; the second-order delta method gives the same up to O(1/d^2).

    >>> round(float(np.degrees(angle_mean(0.80530, 0.03952, 27))), 2)
    36.19
    """
    return angle_moments(cosine, cosine_std, d)[0][()]


def angle_std(cosine: ArrayLike, cosine_std: ArrayLike, d: ArrayLike) -> Array:
    """Standard deviation of the angle, in radians, of two vectors whose cosine has this mean and standard deviation.

        std theta ~ std c / sin(theta)

    It is computed for the beta distribution of `angle_mean`. It is 0 if the cosine does not vary.
    Raises HypersignError if d < 1. Source: quadrature.

    >>> round(float(np.degrees(angle_std(0.80530, 0.03952, 27))), 2)
    3.83
    """
    return angle_moments(cosine, cosine_std, d)[1][()]


def angle_density(angle: ArrayLike, cosine: ArrayLike, cosine_std: ArrayLike, d: ArrayLike) -> Array:
    """Density, per radian, of the angle of two vectors whose cosine has this mean and standard deviation.

    It is the density of arccos(c) for the beta distribution of `angle_mean`. It is 0 outside
    [0, arccos(1/sqrt(d))], and 0 everywhere if the cosine does not vary. Raises HypersignError if d < 1.
    Source: change of variables.

    >>> round(float(angle_density(0.6470, 0.79806, 0.00625, 1152)), 1)  # 1 / (.01037 sqrt(2 pi))
    38.4
    """
    mean, std, d = (np.asarray(v, dtype=np.float64) for v in (cosine, cosine_std, fan_in(d)))
    density = _beta_density(np.asarray(angle, dtype=np.float64), *beta_parameters(mean, std, d))
    return np.where((std > 0) & (mean < 1), density, 0.0)[()]
