"""Correlations and signs of dot products.

A layer computes a.w for inputs a and a filter w. What binarizing either or both of them does to the correlation
of the results follows from the inputs' covariance C alone: exactly where only the weights are binarized, and for
Gaussian inputs of zero mean where the inputs are. One pass over the data for C so predicts every quantizer.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from hypersign._checks import HypersignError
from hypersign.theory._arrays import Array

__all__ = [
    "weights_binarized_r",
    "activations_binarized_r",
    "both_binarized_r",
    "sign_disagreement",
    "sign_flip_share",
]


def weights_binarized_r(weights: ArrayLike, levels: ArrayLike, covariance: ArrayLike) -> Array:
    """Correlation of the dot products a.w and a.b, when only the weights are quantized.

        r = w'Cb / sqrt(w'Cw b'Cb)

    Exact for inputs a of any law and mean, C being their centred covariance (second moments would be wrong).
    For C proportional to the identity it is the cosine between w and b. NaN where either product is constant.

    Args:
        weights: w, latent filters, shape (..., d).
        levels: b, their quantized form (any levels), of the same shape; a scale per filter has no effect.
        covariance: C, shape (d, d).

    Returns the correlations, shape (...). Raises HypersignError where shapes do not fit.
    Source: Anderson & Berg 2018 (arXiv 1705.07199), section 2.2, for any C.

    >>> w, c = np.array([2.0, 1.0]), np.array([[1.0, 0.5], [0.5, 1.0]])
    >>> round(float(weights_binarized_r(w, np.sign(w), c)), 4)
    0.982
    """
    w, b, c = _checked(weights, levels, covariance)
    cw, cb = w @ c, b @ c
    return _ratio((cw * b).sum(-1), (cw * w).sum(-1) * (cb * b).sum(-1))


def activations_binarized_r(weights: ArrayLike, covariance: ArrayLike) -> Array:
    """Correlation of the dot products a.w and sign(a).w, for Gaussian inputs a of zero mean.

        r = sqrt(2/pi) w'C S^-1 w / sqrt(w'Cw (2/pi) w' asin[R] w),   R = S^-1 C S^-1, S = diag(sqrt(C_ii))

    asin elementwise, R clipped to [-1, 1]. Inputs of unit variance: sqrt(w'Rw / (w' asin[R] w)), and sqrt(2/pi)
    where they are independent. A mean, or a shift before the sign, breaks it. An input that does not vary counts
    as 0 on both sides. NaN where either product is constant.

    Args:
        weights: w, the filters as the product has them (latent or quantized), shape (..., d).
        covariance: C, shape (d, d).

    Returns the correlations, shape (...). Raises HypersignError where shapes do not fit.
    Source: the arcsine law, Van Vleck & Middleton 1966; cov(a, sign a') = sqrt(2/pi) C / sigma'.

    >>> round(float(activations_binarized_r([1.0, 1.0], [[1.0, 0.9], [0.9, 1.0]])), 4)
    0.8403
    """
    return both_binarized_r(weights, weights, covariance)


def both_binarized_r(weights: ArrayLike, levels: ArrayLike, covariance: ArrayLike) -> Array:
    """Correlation of the dot products a.w and sign(a).b, for Gaussian inputs a of zero mean.

        r = sqrt(2/pi) w'C S^-1 b / sqrt(w'Cw (2/pi) b' asin[R] b),   R = S^-1 C S^-1, S = diag(sqrt(C_ii))

    Inputs of unit variance: w'Rb / sqrt(w'Rw b' asin[R] b), and sqrt(2/pi) times the cosine between w and b where
    they are independent: 2/pi = .637 for Gaussian weights and their signs. See `activations_binarized_r`.

    Args:
        weights: w, latent filters, shape (..., d).
        levels: b, their quantized form, of the same shape.
        covariance: C, shape (d, d).

    Returns the correlations, shape (...). Raises HypersignError where shapes do not fit.
    Source: as `activations_binarized_r`.

    >>> w = np.array([2.0, 1.0])
    >>> round(float(both_binarized_r(w, np.sign(w), np.eye(2))), 4)  # .7979 * 3/sqrt(10)
    0.7569
    """
    w, b, c = _checked(weights, levels, covariance)
    spread = np.sqrt(np.maximum(np.diagonal(c), 0))
    inverse = np.divide(1, spread, out=np.zeros_like(spread), where=spread > 0)
    arcsine = np.arcsin(np.clip(c * inverse * inverse[:, None], -1, 1))
    cw = w @ c
    return _ratio((cw * inverse * b).sum(-1), (cw * w).sum(-1) * ((b @ arcsine) * b).sum(-1))


def _checked(*arrays: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    w, b, c = (np.asarray(values, dtype=np.float64) for values in arrays)
    if w.ndim < 1 or w.shape != b.shape or c.shape != (w.shape[-1], w.shape[-1]):
        raise HypersignError(
            "weights and levels must be of one shape (..., d) and the covariance of shape (d, d); "
            f"got {w.shape}, {b.shape} and {c.shape}"
        )
    return w, b, c


def _ratio(product: np.ndarray, squares: np.ndarray) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(squares > 0, np.clip(product / np.sqrt(squares), -1, 1), np.nan)[()]


def sign_disagreement(r: ArrayLike) -> Array:
    """Share of pairs of zero-mean, jointly normal numbers with correlation r whose signs differ.

        P = arccos(r) / pi

    With means or thresholds away from zero it can be far off: see `sign_flip_share`. r beyond [-1, 1] by rounding
    counts as +-1.
    Source: Sheppard 1899; Anderson & Berg 2018 (arXiv 1705.07199), section 4.

    >>> round(float(sign_disagreement(0.8)), 3)
    0.205
    """
    return np.arccos(np.clip(np.asarray(r, dtype=np.float64), -1, 1)) / np.pi


def sign_flip_share(r: ArrayLike, first: ArrayLike = 0.0, second: ArrayLike = 0.0) -> Array:
    """Share of pairs of jointly normal numbers x, y with correlation r of which one is negative, the other not.

        P = 2 T(h, (k/h - r)/s) + 2 T(k, (h/k - r)/s) + [h k < 0],   s = sqrt(1 - r^2)

    the mass of the bivariate normal's two off-diagonal quadrants at (-h, -k); T is Owen's function.

    Args:
        r: correlation; beyond [-1, 1] by rounding it counts as +-1.
        first: h, mean of x over its standard deviation. For thresholds t, as after batch norm: (mean - t)/std.
            Infinity where x does not vary.
        second: k, the same of y.

    All broadcast. The absolute error is below 1e-14. NaN in, NaN out. Raises nothing.
    Source: Owen 1956, "Tables for computing bivariate normal probabilities", eq. 2.1.

    >>> round(float(sign_flip_share(0.8)), 3), round(float(sign_flip_share(0.8, 1.0, -0.5)), 3)
    (0.205, 0.534)
    """
    rho, h, k = np.broadcast_arrays(*(np.asarray(v, dtype=np.float64) for v in (r, first, second)))
    rho = np.clip(rho, -1, 1)
    # An h of exactly 0 is taken for a very small positive number, which no formula minds.
    h, k = (np.where(v == 0, np.finfo(np.float64).tiny, v) for v in (h, k))
    s = np.sqrt((1 - rho) * (1 + rho))
    share = np.where(np.sign(h) * np.sign(k) < 0, 1.0, 0.0)
    for at, other in ((h, k), (k, h)):
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            slope = (other / at - rho) / s
        # 0/0: on the line through the corner at r = +-1; inf/inf: x and y are both constant. T is 0 then.
        slope = np.where(np.isnan(slope) & ~np.isnan(rho) & ~np.isnan(h) & ~np.isnan(k), 0.0, slope)
        share = share + 2 * special.owens_t(at, slope)
    return np.clip(share, 0, 1)[()]
