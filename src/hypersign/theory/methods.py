"""The cosine between infinitely many independent normal weights and what published methods make of them.

Methods whose levels are signs of centred weights have `limit_cosine`, 37.07 degrees; ternary ones `ternary_cosine`;
sums of planes `greedy_cosine` and `lloyd_max_cosine(4)`; groups `group_cosine`. Here are the others.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from hypersign._checks import HypersignError
from hypersign.theory._arrays import Array

__all__ = [
    "adabin_cosine",
    "clipped_cosine",
    "kept_cosine",
    "relaxed_cosine",
    "sine_cosine",
    "sine_sign_cosine",
    "two_values_cosine",
]

_MEAN = np.sqrt(2 / np.pi)  # of the magnitude of a standard normal


def _share(values: ArrayLike, name: str) -> Array:
    found = np.asarray(values, dtype=np.float64)
    if not np.all((found >= 0) & (found <= 1)):
        raise HypersignError(f"{name} must be numbers from 0 to 1; got {values!r}")
    return found


def adabin_cosine(mean: ArrayLike) -> Array:
    """Cosine between normal weights and the two values mean +- standard deviation (AdaBin).

        c = (m^2 + sqrt(2/pi))/(1 + m^2),    m = mean/standard deviation of the weights

    Source: E w q = mu^2 + sigma^2 sqrt(2/pi), E w^2 = E q^2 = mu^2 + sigma^2.

    >>> np.degrees(np.arccos(adabin_cosine([0.0, 1.0]))).round(2).tolist()
    [37.07, 25.98]
    """
    square = np.square(np.asarray(mean, dtype=np.float64))
    return (square + _MEAN) / (1 + square)


def two_values_cosine(mean: ArrayLike) -> Array:
    """Cosine between normal weights and their two nearest values (distribution-aware binarization).

        c = sqrt((m^2 + 2/pi)/(1 + m^2)),    m = mean/standard deviation of the weights

    The values are mean +- standard deviation * sqrt(2/pi). Source: they are conditional means, so E w q = E q^2.

    >>> np.degrees(np.arccos(two_values_cosine([0.0, 1.0]))).round(2).tolist()
    [37.07, 25.23]
    """
    square = np.square(np.asarray(mean, dtype=np.float64))
    return np.sqrt((square + 2 / np.pi) / (1 + square))


def sine_cosine(omega: ArrayLike) -> Array:
    """Cosine between normal weights w and sin(omega w/sigma): BiPer's first stage.

        c = omega exp(-omega^2/2)/sqrt((1 - exp(-2 omega^2))/2)        1 for omega -> 0

    Args:
        omega: the frequency times the standard deviation of the weights, above 0.

    Source: Stein's lemma, E w sin(omega w) = omega E cos(omega w) = omega exp(-omega^2/2).

    >>> np.degrees(np.arccos(sine_cosine([0.5, 1.0]))).round(2).tolist()
    [5.84, 22.71]
    """
    omega = np.asarray(omega, dtype=np.float64)
    return omega * np.exp(-(omega**2) / 2) / np.sqrt(-np.expm1(-2 * omega**2) / 2)


def sine_sign_cosine(omega: ArrayLike) -> Array:
    """Cosine between normal weights w and sign(sin(omega w/sigma)): BiPer's second stage.

        c = (4/pi) omega sum over odd k of exp(-(k omega)^2/2)        sqrt(2/pi) for omega -> 0

    Args:
        omega: the frequency times the standard deviation of the weights, above 0.

    Source: the Fourier series of the square wave, and Stein's lemma for each term.

    >>> np.degrees(np.arccos(sine_sign_cosine([0.5, 1.0, 2.0]))).round(2).tolist()
    [37.07, 38.15, 69.84]
    """
    omega = np.asarray(omega, dtype=np.float64)[..., None]
    if not np.all(omega > 0):
        raise HypersignError(f"omega must be numbers > 0; got {omega[..., 0]!r}")
    # The terms vanish from k omega = 40 on. Below omega = 1/2 no wave but the first reaches the weights.
    k = np.arange(1, 82, 2)
    series = 4 / np.pi * omega * np.exp(-((k * omega) ** 2) / 2)
    return np.where(omega[..., 0] < 0.5, _few_waves(omega[..., 0]), series.sum(-1))


def _few_waves(omega: np.ndarray) -> np.ndarray:
    """The same by zeros of the sine: E w sign = 2 sum over j of (-1)^j (phi(j pi/omega)), with j = 0 once."""
    j = np.arange(1, 8)
    zeros = j * np.pi / omega[..., None]
    return _MEAN * (1 + 2 * ((-1.0) ** j * np.exp(-(zeros**2) / 2)).sum(-1))


def clipped_cosine(rho: ArrayLike) -> Array:
    """Cosine between normal weights u and clamp(u/rho, -v, v), v = E|u|: PARQ's map with two levels.

        c = E[u q]/sqrt(E q^2),  a = rho v:  E[u q] = M/rho + 2 v phi(a),  E q^2 = M/rho^2 + 2 v^2 Q(a)
        M = E u^2 [|u| < a] = 1 - 2 (a phi(a) + Q(a))

    Args:
        rho: from 1 (a clamp at the mean magnitude) to 0 (the sign).

    Raises HypersignError if rho is outside [0, 1]. Source: partial moments of the normal.

    >>> np.degrees(np.arccos(clipped_cosine([1.0, 0.5, 0.0]))).round(2).tolist()
    [21.6, 29.09, 37.07]
    """
    slope = np.maximum(_share(rho, "rho"), 1e-9)
    a = slope * _MEAN
    density, tail = np.exp(-(a**2) / 2) / np.sqrt(2 * np.pi), special.ndtr(-a)
    # a^3/3 sqrt(2/pi) for small a, where the difference loses its digits
    inside = np.where(a < 1e-3, a**3 / 3 * _MEAN, 1 - 2 * (a * density + tail))
    product = inside / slope + 2 * _MEAN * density
    return product / np.sqrt(inside / slope**2 + 2 * _MEAN**2 * tail)


def relaxed_cosine(theta: ArrayLike) -> Array:
    """Cosine between normal weights u and (1 - theta) u + theta E|u| sign(u): BinaryRelax.

        c = (1 - theta + theta v^2)/sqrt((1 - theta)^2 + 2 theta (1 - theta) v^2 + theta^2 v^2),    v^2 = 2/pi

    Raises HypersignError if theta is outside [0, 1]. Source: E u sign(u) = v.

    >>> np.degrees(np.arccos(relaxed_cosine([0.0, 0.5, 1.0]))).round(2).tolist()
    [0.0, 16.38, 37.07]
    """
    share, square = _share(theta, "theta"), 2 / np.pi
    size = (1 - share) ** 2 + 2 * share * (1 - share) * square + share**2 * square
    return np.minimum((1 - share + share * square) / np.sqrt(size), 1.0)


def kept_cosine(keep: ArrayLike) -> Array:
    """Cosine between normal weights and the signs of a share of them that does not depend on them: multi-prize
    tickets.

        c = sqrt(2 keep/pi)

    Raises HypersignError if `keep` is outside [0, 1]. Source: E w q = keep sqrt(2/pi), E q^2 = keep.

    >>> np.degrees(np.arccos(kept_cosine([1.0, 0.5]))).round(2).tolist()
    [37.07, 55.65]
    """
    return np.sqrt(_share(keep, "keep")) * _MEAN
