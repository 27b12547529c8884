"""The angle between a Gaussian vector and its sign when its components are unequal or correlated.

The less evenly the components share the variance, the larger the angle. A random rotation spreads the variance
evenly, so the angle becomes that of independent, equal components. Moments of the cosine are exact for every
covariance. To get the angle, pass them to `angle_mean` and `angle_std`.
"""

import numpy as np
from numpy.typing import ArrayLike

from hypersign._checks import HypersignError
from hypersign.bits import hadamard_transform

__all__ = [
    "correlated_sign_cosine",
    "correlated_sign_cosine_std",
    "effective_dimension",
    "hadamard_sign_cosine",
    "hadamard_sign_cosine_std",
]

_STEP = 0.3
_BLOCK = 1 << 20  # numbers per block


def effective_dimension(covariance: ArrayLike) -> float:
    """Effective dimension of vectors: the participation ratio of their covariance's eigenvalues.

        (sum_i lambda_i)^2 / sum_i lambda_i^2 = (trace C)^2 / |C|_F^2,   from 1 to d

    It is d if all directions vary equally, k if k directions vary equally and the others do not vary, and NaN if
    none varies.

    Args:
        covariance: C, shape (d, d).

    Source: Gao et al. 2017, "A theory of multineuronal dimensionality, dynamics and measurement", eq. 1.

    >>> effective_dimension(np.diag([2.0, 2, 0]))
    2.0
    """
    c = np.atleast_2d(np.asarray(covariance))
    trace = np.trace(c)
    return float(trace**2 / np.vdot(c, c)) if trace > 0 else np.nan


def correlated_sign_cosine(covariance: ArrayLike) -> float:
    """Mean cosine between a zero-mean Gaussian vector with this covariance and its sign; exact for every d.

        E c = sqrt(2/(pi d)) (1/sqrt(pi)) int_0^inf u^(-1/2) det(I + 2uC)^(-1/2) sum_i sqrt(T_ii) du,
        T = C (I + 2uC)^(-1)

    For many directions of comparable variance, E c -> sqrt(2/pi) sum_i sigma_i / sqrt(d sum_i sigma_i^2).

    Args:
        covariance: the covariance C, shape (d, d); or the variances of independent components, shape (d,).

    Raises HypersignError if C has another shape, is not finite or symmetric, has a negative eigenvalue, or is zero.
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
        covariance: the same as for `correlated_sign_cosine`; a full matrix costs about 100 matrix products of its
            size.

    Raises HypersignError in the same cases as `correlated_sign_cosine`.
    Source: E |x y| of two normals, by quadrature.

    >>> round(correlated_sign_cosine_std(np.ones(27)), 5)  # equal, independent components
    0.03952
    """
    mean, second = _moments(covariance, second=True)
    return float(np.sqrt(max(second - mean**2, 0.0)))


def hadamard_sign_cosine(variances: ArrayLike) -> float:
    """Mean cosine between a Gaussian vector after one round of randomized Hadamard and its sign; exact for every d.

    Before the round, the components x_i are independent, with mean 0 and the given variances, shape (d,); d is a
    power of two. After the round, they have equal variances, and their correlations depend only on i xor j.
    `correlated_sign_cosine` gives the same result, at a cost of d^2 instead of d.

    Raises HypersignError if a variance is negative, if all are zero, or if d is not a power of two.
    Source: as for `correlated_sign_cosine`; random signs do not change the distribution of such a Gaussian vector.

    >>> round(hadamard_sign_cosine(np.exp(0.2 * np.arange(128))), 4)  # 35.1 degrees
    0.8159
    """
    return _moments(_one_round(variances), second=False, hadamard=True)[0]


def hadamard_sign_cosine_std(variances: ArrayLike) -> float:
    """Standard deviation of the cosine of `hadamard_sign_cosine`; exact for every d.

    Raises HypersignError in the same cases as `hadamard_sign_cosine`. Source: as for `correlated_sign_cosine_std`.

    >>> round(hadamard_sign_cosine_std(np.exp(0.2 * np.arange(128))), 4)
    0.044
    """
    mean, second = _moments(_one_round(variances), second=True, hadamard=True)
    return float(np.sqrt(max(second - mean**2, 0.0)))


def _one_round(variances: ArrayLike) -> np.ndarray:
    v = np.asarray(variances, dtype=np.float64)
    if v.ndim != 1:
        raise HypersignError(f"variances must be of shape (d,); got shape {v.shape}")
    return v


def _moments(covariance: ArrayLike, *, second: bool, hadamard: bool = False) -> tuple[float, float]:
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
    if vectors is None and not hadamard:
        values = values[values > 1e-30]  # smaller ones take most of the time and add nothing, not even together
    # The trapezoidal rule in log u converges exponentially. At the left end the integrands rise as sqrt(u) and as u.
    # At the right end the determinant makes them vanish, or 1/sqrt(u) does if a single direction varies.
    u = np.exp(np.arange(-50 - np.log(values.sum()), 60, _STEP))
    first = square = 0.0
    rows = max(1, _BLOCK // d) if vectors is None else len(u)
    for nodes in np.split(u, range(rows, len(u), rows)):
        shrunk = values / (1 + 2 * nodes[:, None] * values)  # (nodes, d): eigenvalues of T
        root_determinant = np.exp(-0.5 * np.log1p(2 * nodes[:, None] * values).sum(1))
        trace = shrunk.sum(1)
        variances = shrunk if vectors is None else np.maximum(shrunk @ (vectors**2).T, 0)
        size = np.sqrt(d * trace) if hadamard else np.sqrt(variances).sum(1)  # hadamard: all T_ii are the mean
        terms = root_determinant * np.sqrt(nodes) * size
        first += float(terms.sum())
        # (sum_i sqrt(T_ii))^2 bounds the second integrand: skip the nodes where this bound is negligible.
        weights = root_determinant * nodes
        for i in np.flatnonzero(weights * size**2 > 1e-14 * d) if second else ():
            if hadamard:
                # T_ij = t_(i xor j), where t is the transform of the eigenvalues: all d rows have the same entries.
                rho = hadamard_transform(shrunk[i], orthonormal=False) / trace[i]
                product = 2 / np.pi * trace[i] * _absolute_product(rho).sum()
            elif vectors is None:
                product = 2 / np.pi * size[i] ** 2 + (1 - 2 / np.pi) * trace[i]
            else:
                full = (vectors * shrunk[i]) @ vectors.T
                scale = np.sqrt(np.outer(variances[i], variances[i]))
                rho = np.divide(full, scale, out=np.zeros_like(full), where=scale > 0)
                product = 2 / np.pi * (scale * _absolute_product(rho)).sum()
            square += float(weights[i] * product)
        if terms.max() < 1e-16 * first:
            break
    mean = first * _STEP * np.sqrt(2 / d) / np.pi
    return float(mean), float(square) * _STEP / d if second else np.nan


def _absolute_product(rho: np.ndarray) -> np.ndarray:
    """Returns (pi/2) E |x y| of two standard normals x, y with correlation rho."""
    rho = np.clip(rho, -1, 1)
    return np.sqrt(1 - rho**2) + rho * np.arcsin(rho)
