"""Hashes made of signs of random projections: the probability of a collision, and the errors of estimates.

Each bit tells on which side of a random hyperplane a vector lies. Two vectors at an angle theta differ in a bit
with probability theta/pi, so the share of differing bits estimates the angle.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from hypersign._checks import HypersignError
from hypersign.theory._arrays import Array

__all__ = [
    "hash_collision",
    "hash_product",
    "hash_angle_std",
    "orthogonal_hash_angle_std",
    "rabitq_std",
    "rabitq_bound",
    "rabitq_bound_share",
]


def hash_collision(angle: ArrayLike) -> Array:
    """Probability that two vectors at this angle (radians) have the same sign bit.

        P(bits equal) = 1 - theta/pi

    Source: Goemans & Williamson 1995; Charikar 2002, section 3.

    >>> round(float(hash_collision(np.pi / 3)), 4)
    0.6667
    """
    return 1 - np.asarray(angle, dtype=np.float64) / np.pi


def hash_product(cosine: ArrayLike) -> Array:
    """Mean product of the signs of two vectors' random projections, for vectors with this cosine.

        E[sign(x.g) sign(y.g)] = (2/pi) asin(cos)

    The cosine is clipped to [-1, 1], because rounding can push it out.
    Source: the arcsine law, Van Vleck & Middleton 1966.

    >>> round(float(hash_product(0.5)), 4)
    0.3333
    """
    return 2 / np.pi * np.arcsin(np.clip(np.asarray(cosine, dtype=np.float64), -1, 1))


def hash_angle_std(angle: ArrayLike, bits: ArrayLike) -> Array:
    """Standard deviation, in radians, of the angle estimated from sign bits of independent hyperplanes.

        estimate pi h/m,   std sqrt(theta (pi - theta)/m)

    h is the number of the m bits that differ. Raises HypersignError if there are fewer than 1 bit.
    Source: h is binomial.

    >>> round(float(hash_angle_std(np.pi / 3, 128)), 3)
    0.131
    """
    theta, m = np.asarray(angle, dtype=np.float64), _bits(bits)
    return np.sqrt(theta * (np.pi - theta) / m)


def orthogonal_hash_angle_std(angle: ArrayLike, bits: ArrayLike, d: ArrayLike) -> Array:
    """Standard deviation, in radians, of the angle estimated from sign bits of a Haar rotation's rows.

        std^2 = pi^2 [p (1 - p) + (m' - 1) gamma] / m,   p = theta/pi

    For m <= d bits, m' = m. More bits need several independent rotations of d rows each; m' is then the number of
    rows in the same rotation as a row, on average over the rows. gamma is the covariance of the bits of two rows.
    Project two rows onto the plane of the two vectors: the angle f between the projections has a density
    ~ 2F1(1, 1; (d+1)/2; sin^2 f), and

        gamma = 2 sum_n |c_n|^2 E cos(2 n f),   c_n = sin(n theta)/(n pi)

    gamma is negative, so orthogonal rows give a smaller error than independent hyperplanes: a fifth smaller for
    m = d at 60 degrees. Quadrature replaces the sum (relative error 1e-6).
    Raises HypersignError if d < 3 or bits < 1.
    Source: derived here from the density of a 2 x 2 block A of a Haar rotation, ~ det(I - A A')^((d-5)/2).

    >>> round(float(orthogonal_hash_angle_std(np.pi / 3, 128, 128)), 3)
    0.106
    """
    theta, m, d = np.broadcast_arrays(
        np.asarray(angle, dtype=np.float64), _bits(bits), np.asarray(d, dtype=np.float64)
    )
    if not np.all(d >= 3):
        raise HypersignError(f"d, the dimension that is rotated, must be >= 3; got {d!r}")
    full, rest = np.divmod(m, d)
    with np.errstate(invalid="ignore"):
        others = (full * d * (d - 1) + rest * np.maximum(rest - 1, 0)) / m
    p = theta / np.pi
    variance = p * (1 - p) + others * _row_covariance(theta, d)
    return np.pi * np.sqrt(np.maximum(variance, 0) / m)


def _row_covariance(theta: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Covariance, for two rows, of the event that the row's bit differs: E overlap - p^2.

    Modulo pi, the bit of a row differs if the row's direction lies in an arc of length theta. Both bits differ with
    probability (overlap of the arc with itself, shifted by f)/pi. The overlap is
    max(0, theta - f) + max(0, theta - pi + f).
    """
    # Gauss-Legendre on the pieces of [0, pi/2] where the integrand is smooth. The density is symmetric about pi/2.
    x, w = np.polynomial.legendre.leggauss(64)
    small = np.minimum(theta, np.pi - theta)  # the complement of an arc has the same covariance
    cuts = np.stack([np.zeros_like(theta), small, np.full_like(theta, np.pi / 2)])
    half = (cuts[1:] - cuts[:-1]) / 2
    # f = end - length * v^2 puts more nodes near pi/2, where the density has a logarithmic peak if d = 3.
    v = (x + 1) / 2
    f = cuts[1:, ..., None] - 2 * half[..., None] * v**2
    weights = 2 * half[..., None] * v * w
    excess = _direction_density(f, d[..., None])
    overlap = np.maximum(small[..., None] - f, 0) / np.pi
    total = (excess * weights).sum((0, -1))
    # The mean overlap, minus the one for independent rows, where the density is 1: small * small / pi^2.
    return ((excess / total[..., None] * (np.pi / 2) - 1) * overlap * weights).sum((0, -1)) / (np.pi / 2)


def _direction_density(f: np.ndarray, d: np.ndarray) -> np.ndarray:
    # If d = 3, the density is infinite at pi/2 (but integrable), and SciPy gives NaN from 1 - 1e-16 on.
    return special.hyp2f1(1, 1, (d + 1) / 2, np.minimum(np.sin(f) ** 2, 1 - 1e-12))


def rabitq_std(product: ArrayLike, d: ArrayLike) -> Array:
    """Standard deviation of the inner product of two unit vectors, estimated from the D sign bits of one of them.

        o_bar = R' sign(R o)/sqrt(D),   <o, q> ~ <o_bar, q>/<o_bar, o>,
        std sqrt((1 - <o, q>^2) (pi/2 - 1)/(D - 1))

    R is a Haar rotation. <o_bar, o> is stored with the code; its mean is .798 (`sign_cosine`). Without the division
    by it, the estimate would be too small by this factor. The formula is asymptotic in D, and .3 % too small at
    D = 128.

    Args:
        product: the inner product <o, q>, from -1 to 1.
        d: D, the number of bits, equal to the dimension.

    Raises HypersignError if D < 2. Source: Gao & Long 2024, RaBitQ (SIGMOD; arXiv 2405.12497), section 3.2.

    >>> round(float(rabitq_std(0.5, 128)), 4)
    0.0581
    """
    ip = np.asarray(product, dtype=np.float64)
    return np.sqrt((1 - ip) * (1 + ip) * (np.pi / 2 - 1) / (_dimension(d) - 1))


def rabitq_bound(cosine: ArrayLike, d: ArrayLike, epsilon: ArrayLike = 1.9) -> Array:
    """Bound on the error of the inner product that RaBitQ estimates, from the cosine stored with the code.

        |error| <= sqrt((1 - c^2)/c^2) epsilon/sqrt(D - 1)

    It holds for the share of pairs that `rabitq_bound_share` gives.

    Args:
        cosine: c = <o_bar, o>, stored with the code.
        d: D, the number of bits, equal to the dimension.
        epsilon: the width of the bound, in standard deviations (about).

    Raises HypersignError if D < 2. Source: Gao & Long 2024 (arXiv 2405.12497), theorem 3.2.

    >>> round(float(rabitq_bound(0.798, 128)), 4)
    0.1273
    """
    c = np.asarray(cosine, dtype=np.float64)
    return np.sqrt((1 - c) * (1 + c)) / c * np.asarray(epsilon, dtype=np.float64) / np.sqrt(_dimension(d) - 1)


def rabitq_bound_share(product: ArrayLike, d: ArrayLike, epsilon: ArrayLike = 1.9) -> Array:
    """Share of pairs of unit vectors for which `rabitq_bound` holds; exact for every D.

        P(|t| <= epsilon / sqrt((D - 1)(1 - <o, q>^2)))

    t is the first component of a uniform unit vector with D - 1 components. The error of the estimate is
    sqrt(1 - <o, q>^2) sqrt(1 - c^2)/c t. Raises HypersignError if D < 3.
    Source: t^2 has the beta distribution (1/2, (D - 2)/2).

    >>> round(float(rabitq_bound_share(0.0, 128)), 3), round(float(rabitq_bound_share(0.9, 128)), 5)
    (0.943, 0.99999)
    """
    ip, epsilon, d = (np.asarray(v, dtype=np.float64) for v in (product, epsilon, _dimension(d, min=3)))
    with np.errstate(divide="ignore"):
        limit = np.minimum(epsilon**2 / ((d - 1) * (1 - ip) * (1 + ip)), 1)
    return special.betainc(0.5, (d - 2) / 2, limit)


def _bits(bits: ArrayLike) -> np.ndarray:
    values = np.asarray(bits, dtype=np.float64)
    if not np.all(values >= 1):
        raise HypersignError(f"the number of bits must be >= 1; got {bits!r}")
    return values


def _dimension(d: ArrayLike, min: int = 2) -> np.ndarray:
    values = np.asarray(d, dtype=np.float64)
    if not np.all(values >= min):
        raise HypersignError(f"D, the dimension, must be >= {min}; got {d!r}")
    return values
