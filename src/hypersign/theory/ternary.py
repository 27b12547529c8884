"""The cosine between a vector of independent normals and its ternary levels."""

import functools

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from hypersign.theory._arrays import Array, fan_in

__all__ = [
    "OPTIMAL_THRESHOLD",
    "ternary_cosine",
    "ternary_cosine_std",
    "ternary_nonzero_share",
    "ternary_level",
]

OPTIMAL_THRESHOLD = 0.6120032
"""The threshold, in standard deviations, that maximizes `ternary_cosine`: the root of phi(t) = 2 t Q(t)."""


def ternary_cosine(threshold: ArrayLike, d: ArrayLike = np.inf) -> Array:
    """Mean cosine between a vector of d independent normals and its levels sign(x) [|x| > t]; exact for every d.

        c(t) = sqrt(2/pi) exp(-t^2/2) / sqrt(2 Q(t))   as d -> infinity

    t is in standard deviations, Q is the normal upper tail, and t = 0 is the sign. At finite d it is the mean over
    the vectors with at least one component beyond the threshold, by quadrature (relative error 1e-9).
    Raises HypersignError if d < 1. Source: Anderson & Berg 2018 (arXiv 1705.07199), section 3.

    >>> round(float(ternary_cosine(0.612)), 4), round(float(ternary_cosine(0.612, 9)), 4)
    (0.8999, 0.9103)
    """
    return _ternary_moments(threshold, fan_in(d))[0][()]


def ternary_cosine_std(threshold: ArrayLike, d: ArrayLike) -> Array:
    """Standard deviation of the cosine between d independent normals and sign(x) [|x| > t]; exact for every d.

        std c = sqrt(E c^2 - (E c)^2)

    It is taken over the vectors with at least one component beyond the threshold, by quadrature; see
    `ternary_cosine`. Raises HypersignError if d < 1. Source: the integrals in `_finite_ternary_moments`.

    >>> round(float(ternary_cosine_std(0, 27)), 5)  # the same as `sign_cosine_std`
    0.03952
    """
    mean, second = _ternary_moments(threshold, fan_in(d))
    return np.sqrt(np.maximum(second - mean**2, 0))[()]


def _ternary_moments(threshold: ArrayLike, d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    t, d = np.broadcast_arrays(np.asarray(threshold, dtype=np.float64), d)
    # In logarithms, so that a very large threshold does not divide 0 by 0.
    with np.errstate(invalid="ignore", over="ignore"):  # an infinite threshold leaves nothing: NaN
        limit = np.exp(0.5 * np.log(2 / np.pi) - t * t / 2 - 0.5 * (np.log(2) + special.log_ndtr(-t)))
    mean, second = np.array(limit), np.array(limit**2)
    for i in np.ndindex(t.shape):
        if np.isfinite(d[i]):
            mean[i], second[i] = _finite_ternary_moments(float(t[i]), float(d[i]))
    return mean, second


@functools.cache
def _finite_ternary_moments(t: float, d: float) -> tuple[float, float]:
    """Returns E c and E c^2 at finite d.

    c = S / sqrt(N Q) with S = sum |x| [|x| > t], N = sum [|x| > t], Q = sum x^2. Substitute 1/Q = int exp(-uQ) du and
    1/N = int exp(-vN) dv; for their roots, the integrands get the factors 1/sqrt(pi u) and 1/sqrt(pi v). Then the
    expectations factor over the d weights:
        E S exp(-uQ - vN) = d a f^(d-1),   E S^2 exp(-uQ - vN) = d b f^(d-1) + d (d-1) a^2 f^(d-2)
    where f, a, b are the means of exp(-u x^2 - v [|x| > t]) times 1, |x| [|x| > t], x^2 [|x| > t]. The trapezoidal
    rule in log u and log v computes both integrals; it converges exponentially.
    """
    inside = 1 - 2 * special.ndtr(-t)  # 0 also for thresholds too small for float64
    reached = -np.expm1(d * np.log1p(inside - 1)) if inside > 0 else 1.0  # P(N > 0)
    if reached == 0:  # in float64, no mass lies beyond a threshold this large
        return np.nan, np.nan
    step = 0.3
    u = np.exp(np.arange(-80, 6 + 80 / d, step) - np.log(d))[:, None]
    v = np.exp(np.arange(-80 - np.log(d), 4, step))
    shrink = 1 + 2 * u  # exp(-u x^2) times the normal density is that of a normal of variance 1/shrink, rescaled
    edge = t * np.sqrt(shrink)
    tail = 2 * special.ndtr(-edge)
    peak = np.exp(-(edge**2) / 2) * np.sqrt(2 / np.pi)
    f = np.where(v < 1, 1 + tail * np.expm1(-v), special.erf(edge / np.sqrt(2)) + tail * np.exp(-v))
    log_f = np.log(f) - 0.5 * np.log(shrink)
    a = np.exp(-v) * peak / shrink
    b = np.exp(-v) * (edge * peak + tail) / shrink**1.5
    first = d * a * np.exp((d - 1) * log_f)
    second = d * b * np.exp((d - 1) * log_f) + d * (d - 1) * a**2 * np.exp((d - 2) * log_f)
    mean = (first * np.sqrt(u * v)).sum() * step**2 / np.pi / reached
    return float(mean), float((second * u * v).sum() * step**2 / reached)


def ternary_nonzero_share(threshold: ArrayLike) -> Array:
    """Share of normals that stay non-zero at a threshold of t standard deviations: `2 Q(t)`.

    Source: Anderson & Berg 2018 (arXiv 1705.07199), section 3.

    >>> round(float(ternary_nonzero_share(0.612)), 3)
    0.541
    """
    return 2 * special.ndtr(-np.asarray(threshold, dtype=np.float64))


def ternary_level(threshold: ArrayLike) -> Array:
    """Least-squares level of the normals beyond t standard deviations, in standard deviations.

        E[|x| given |x| > t] = phi(t) / Q(t)

    Source: Li et al. 2016 (arXiv 1605.04711), eq. 5.

    >>> round(float(ternary_level(0.612)), 3)
    1.224
    """
    t = np.asarray(threshold, dtype=np.float64)
    with np.errstate(invalid="ignore", over="ignore"):  # nothing lies beyond an infinite threshold: NaN
        return np.exp(-t * t / 2 - 0.5 * np.log(2 * np.pi) - special.log_ndtr(-t))
