"""The angle between a Gaussian vector and its sign when its components are unequal or correlated.

The less evenly the variance is spread over the components, the further the sign is from the vector. A random
rotation spreads it evenly, and brings the angle back to that of independent, equal components. Moments of the
cosine are exact for every covariance; for the angle, hand them to `angle_mean` and `angle_std`.
"""

import numpy as np
from numpy.typing import ArrayLike

from hypersign._checks import HypersignError

__all__ = ["correlated_sign_cosine", "correlated_sign_cosine_std"]

_STEP = 0.15


def correlated_sign_cosine(covariance: ArrayLike) -> float:
    """Mean cosine between a zero-mean Gaussian vector with this covariance and its sign; exact for every d.

        E c = sqrt(2/(pi d)) (1/sqrt(pi)) int_0^inf u^(-1/2) det(I + 2uC)^(-1/2) sum_i sqrt(T_ii) du,
        T = C (I + 2uC)^(-1)

    Many directions of comparable variance: E c -> sqrt(2/pi) sum_i sigma_i / sqrt(d sum_i sigma_i^2).

    Args:
        covariance: C, shape (d, d); or, of independent components, their variances, shape (d,).

    Raises HypersignError where C is no such array, has a negative eigenvalue or is zero.
    Source: 1/|x| = int u^(-1/2) exp(-u |x|^2) du / sqrt(pi), by quadrature (relative error 1e-9).

    >>> round(correlated_sign_cosine(np.exp(0.2 * np.arange(128))), 4)  # 70.8 degrees
    0.3276
    """
    return _moments(covariance, second=False)[0]


def correlated_sign_cosine_std(covariance: ArrayLike) -> float:
    """Standard deviation of the cosine between a zero-mean Gaussian vector and its sign; exact for every d.

        E c^2 = (2/(pi d)) int_0^inf det(I + 2uC)^(-1/2) sum_ij sqrt(T_ii T_jj) g(rho_ij) du,
        g(rho) = sqrt(1 - rho^2) + rho asin(rho),   rho_ij = T_ij / sqrt(T_ii T_jj)

    Args:
        covariance: as for `correlated_sign_cosine`; a full matrix takes about 300 products of matrices of its size.

    Raises HypersignError as `correlated_sign_cosine`. Source: E |x y| of two normals; by quadrature.

    >>> round(correlated_sign_cosine_std(np.ones(27)), 5)  # that of equal, independent components
    0.03952
    """
    mean, second = _moments(covariance, second=True)
    return float(np.sqrt(max(second - mean**2, 0.0)))


def _moments(covariance: ArrayLike, *, second: bool) -> tuple[float, float]:
    c = np.asarray(covariance, dtype=np.float64)
    if c.ndim not in (1, 2) or not c.size or c.shape[0] != c.shape[-1] or not np.isfinite(c).all():
        raise HypersignError(
            f"a covariance must be finite and of shape (d, d), or (d,) for variances alone; got shape {c.shape}"
        )
    if c.ndim == 2 and not np.allclose(c, c.T, rtol=1e-6, atol=1e-9 * np.abs(c).max()):
        raise HypersignError("a covariance must be symmetric; this one is not")
    values, vectors = (c, None) if c.ndim == 1 else np.linalg.eigh(c)
    top = values.max()
    if not top > 0 or values.min() < -1e-9 * top:
        raise HypersignError(f"a covariance must have eigenvalues >= 0, not all 0; got {values.min():g} to {top:g}")
    values = np.maximum(values, 0) / top
    d = len(values)
    # The trapezoidal rule in log u, which converges exponentially. Both integrands rise at least as sqrt(u) at
    # the left end and fall at least as 1/sqrt(u), where a single direction varies, at the right one.
    u = np.exp(np.arange(-60 - np.log(values.sum()), 60, _STEP))
    shrunk = values / (1 + 2 * u[:, None] * values)  # (nodes, d): eigenvalues of T
    root_determinant = np.exp(-0.5 * np.log1p(2 * u[:, None] * values).sum(1))
    variances = shrunk if vectors is None else np.maximum(shrunk @ (vectors**2).T, 0)
    size = np.sqrt(variances).sum(1)
    mean = float((root_determinant * np.sqrt(u) * size).sum()) * _STEP * np.sqrt(2 / d) / np.pi
    if not second:
        return float(mean), np.nan
    if vectors is None:
        pairs = 2 / np.pi * size**2 + (1 - 2 / np.pi) * variances.sum(1)
    else:
        pairs = np.zeros(len(u))
        weight = root_determinant * u
        for i in np.flatnonzero(weight * size**2 > 1e-13 * (weight * size**2).max()):
            full = (vectors * shrunk[i]) @ vectors.T
            scale = np.sqrt(np.outer(variances[i], variances[i]))
            rho = np.divide(full, scale, out=np.zeros_like(full), where=scale > 0).clip(-1, 1)
            pairs[i] = 2 / np.pi * (scale * (np.sqrt(1 - rho**2) + rho * np.arcsin(rho))).sum()
    return float(mean), float((root_determinant * u * pairs).sum()) * _STEP / d
