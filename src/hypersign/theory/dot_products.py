"""Correlations and signs of dot products.

A layer computes a.w for inputs a and a filter w. The input covariance C alone predicts how much binarizing a or w
changes these results. The prediction is exact if only the weights are binarized. If the inputs are binarized, it is
exact for Gaussian inputs of zero mean. So one pass over the data, to measure C, is enough for every quantizer.
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
    "pooled_r",
    "sign_disagreement",
    "sign_flip_share",
]


def weights_binarized_r(weights: ArrayLike, levels: ArrayLike, covariance: ArrayLike) -> Array:
    """Correlation of the dot products a.w and a.b, when only the weights are quantized.

        r = w'Cb / sqrt(w'Cw b'Cb)

    It is exact for inputs a of any distribution and mean. C must be their centred covariance; second moments give
    wrong results. If C is proportional to the identity, r is the cosine between w and b. r is NaN if either product
    is constant.

    Args:
        weights: the latent filters w, shape (..., d).
        levels: the quantized filters b (any levels), same shape; a scale per filter has no effect.
        covariance: the input covariance C, shape (d, d).

    Returns the correlations, shape (...). Raises HypersignError if the shapes do not fit.
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

    asin is elementwise, and R is clipped to [-1, 1]. For inputs of unit variance, r is sqrt(w'Rw / (w' asin[R] w));
    if they are also independent, it is sqrt(2/pi). The formula is wrong for inputs with a mean, or with a shift
    before the sign. An input that does not vary counts as 0 in both products. r is NaN if either product is constant.

    Args:
        weights: the filters w that the layer multiplies with (latent or quantized), shape (..., d).
        covariance: the input covariance C, shape (d, d).

    Returns the correlations, shape (...). Raises HypersignError if the shapes do not fit.
    Source: the arcsine law, Van Vleck & Middleton 1966; cov(a, sign a') = sqrt(2/pi) C / sigma'.

    >>> round(float(activations_binarized_r([1.0, 1.0], [[1.0, 0.9], [0.9, 1.0]])), 4)
    0.8403
    """
    return both_binarized_r(weights, weights, covariance)


def both_binarized_r(weights: ArrayLike, levels: ArrayLike, covariance: ArrayLike) -> Array:
    """Correlation of the dot products a.w and sign(a).b, for Gaussian inputs a of zero mean.

        r = sqrt(2/pi) w'C S^-1 b / sqrt(w'Cw (2/pi) b' asin[R] b),   R = S^-1 C S^-1, S = diag(sqrt(C_ii))

    For inputs of unit variance, r is w'Rb / sqrt(w'Rw b' asin[R] b). If they are also independent, r is sqrt(2/pi)
    times the cosine between w and b: 2/pi = .637 for Gaussian weights and their signs. The limits are those of
    `activations_binarized_r`.

    Args:
        weights: the latent filters w, shape (..., d).
        levels: the quantized filters b, same shape.
        covariance: the input covariance C, shape (d, d).

    Returns the correlations, shape (...). Raises HypersignError if the shapes do not fit.
    Source: as for `activations_binarized_r`.

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


def pooled_r(
    covariance: ArrayLike, x_variance: ArrayLike, y_variance: ArrayLike, x_mean: ArrayLike, y_mean: ArrayLike
) -> tuple[float, np.ndarray]:
    """Correlation of x and y pooled over filters, and of each filter, from the moments of each filter.

        pooled = (<c> + cov(m, n)) / sqrt((<v> + var m) (<s> + var n)),   per filter = c / sqrt(v s)

    <> is the mean over filters, and cov and var are over filters. Every filter has the same number of pairs.

    Args:
        covariance: c, the covariance of x and y for each filter, shape (filters,).
        x_variance, y_variance: v and s, their variances; 0 if a filter's products do not vary.
        x_mean, y_mean: m and n, their means.

    Returns r pooled (a float) and per filter, clipped to [-1, 1]; NaN where x or y does not vary.

    >>> pooled_r([0.5, 0.5], [1.0, 1.0], [1.0, 1.0], [0.0, 2.0], [0.0, 2.0])
    (0.75, array([0.5, 0.5]))
    """
    c, v, s, m, n = (np.asarray(a, dtype=np.float64) for a in (covariance, x_variance, y_variance, x_mean, y_mean))
    m, n = m - m.mean(), n - n.mean()
    pooled = _ratio(c.mean() + (m * n).mean(), (v.mean() + (m * m).mean()) * (s.mean() + (n * n).mean()))
    return float(pooled), np.asarray(_ratio(c, v * s))


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

    If a mean or threshold is not zero, the result can be far off: use `sign_flip_share`. r is clipped to [-1, 1],
    because rounding can push it out.
    Source: Sheppard 1899; Anderson & Berg 2018 (arXiv 1705.07199), section 4.

    >>> round(float(sign_disagreement(0.8)), 3)
    0.205
    """
    return np.arccos(np.clip(np.asarray(r, dtype=np.float64), -1, 1)) / np.pi


def sign_flip_share(r: ArrayLike, first: ArrayLike = 0.0, second: ArrayLike = 0.0) -> Array:
    """Share of pairs of jointly normal numbers x, y with correlation r in which exactly one number is negative.

        P = 2 T(h, (k/h - r)/s) + 2 T(k, (h/k - r)/s) + [h k < 0],   s = sqrt(1 - r^2)

    This is the mass of the bivariate normal's two off-diagonal quadrants at (-h, -k). T is Owen's function.

    Args:
        r: the correlation, clipped to [-1, 1].
        first: h, the mean of x divided by its standard deviation. With a threshold t, as after batch norm, it is
            (mean - t)/std. It is infinite if x does not vary.
        second: k, the same for y.

    The arguments broadcast. The absolute error is below 1e-14. NaN in, NaN out. Raises nothing.
    Source: Owen 1956, "Tables for computing bivariate normal probabilities", eq. 2.1.

    >>> round(float(sign_flip_share(0.8)), 3), round(float(sign_flip_share(0.8, 1.0, -0.5)), 3)
    (0.205, 0.534)
    """
    rho, h, k = np.broadcast_arrays(*(np.asarray(v, dtype=np.float64) for v in (r, first, second)))
    rho = np.clip(rho, -1, 1)
    # The formula divides by h and k. Replacing 0 by a tiny positive number does not change the result.
    h, k = (np.where(v == 0, np.finfo(np.float64).tiny, v) for v in (h, k))
    s = np.sqrt((1 - rho) * (1 + rho))
    share = np.where(np.sign(h) * np.sign(k) < 0, 1.0, 0.0)
    for at, other in ((h, k), (k, h)):
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            slope = (other / at - rho) / s
        # 0/0 means r = +-1 on the line through the corner; inf/inf means that x and y are constant. T is 0 in both.
        slope = np.where(np.isnan(slope) & ~np.isnan(rho) & ~np.isnan(h) & ~np.isnan(k), 0.0, slope)
        share = share + 2 * special.owens_t(at, slope)
    return np.clip(share, 0, 1)[()]
