"""Means and covariances of quantized numbers, predicted from those of the real numbers and the quantizer's rule.

A layer quantizes its inputs x_i to q_i = q(x_i). For jointly normal x, cov(x_i, q_j) follows from Stein's identity,
and cov(q_i, q_j) from the bivariate normal distribution. Inputs of trained layers are not normal: images differ in
brightness and contrast, and classes form groups. A mixture of normals that share one correlation matrix describes
them better. With one group it is the normal law.
"""

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from hypersign._checks import HypersignError

__all__ = ["NormalMixture", "QuantizedNormals", "Steps"]

ORDER = 17
"""Terms of the series in the correlation; an odd number, because the sign has odd terms only."""

_BLOCK = 256  # rows per block of a covariance
_FAR = 38.0  # standard deviations beyond which the normal density is 0 in float64
_LEAST = 0.02  # the share of a variance that groups leave within them, at least


@dataclasses.dataclass(frozen=True, eq=False)
class Steps:
    """A quantizer as a step function: q(x) = levels[k] for thresholds[k - 1] <= x < thresholds[k].

    `thresholds` has shape (d, t) and `levels` (d, t + 1), one row per number; or (1, t) and (1, t + 1), one for all.

    >>> Steps.of([0.0], [-1.0, 1.0]).levels.shape  # the sign
    (1, 2)
    """

    thresholds: np.ndarray
    levels: np.ndarray

    @classmethod
    def of(cls, thresholds: ArrayLike, levels: ArrayLike) -> "Steps":
        """Checks the shapes. Raises HypersignError if there is not one level more than thresholds."""
        t, v = (np.atleast_2d(np.asarray(values, dtype=np.float64)) for values in (thresholds, levels))
        if v.shape != (t.shape[0], t.shape[1] + 1):
            raise HypersignError(f"steps need one level more than thresholds; got shapes {t.shape} and {v.shape}")
        return cls(t, v)


@dataclasses.dataclass(frozen=True, eq=False)
class NormalMixture:
    """Numbers with mean and covariance C, whose distribution is a mixture of normals.

    Group g has the share `shares[g]`, the means `means[g]`, and the covariance `spreads[g]^2` W, with
    W = C - sum_g shares (means - mean)(means - mean)', so that the mixture has exactly the covariance C; the mean of
    spreads^2 over groups is 1. `shares` and `spreads` have shape (groups,), `means` (groups, d) and `covariance`
    (d, d).

    At the borders of images, constant padding may take the place of numbers. Then `present[a, b]` is the share of
    patches in which the kernel positions a and b are both inside; number i is at position i mod len(present).
    `covariance` is that of the padded numbers, `means` are those inside, and `padding` is the constant.

    >>> NormalMixture.normal([0.0, 1.0], np.eye(2)).means
    array([[0., 1.]])
    """

    shares: np.ndarray
    means: np.ndarray
    spreads: np.ndarray
    covariance: np.ndarray
    present: np.ndarray = dataclasses.field(default_factory=lambda: np.ones((1, 1)))
    padding: float = 0.0

    @classmethod
    def normal(cls, mean: ArrayLike, covariance: ArrayLike) -> "NormalMixture":
        """One group: jointly normal numbers."""
        means = np.atleast_2d(np.asarray(mean, dtype=np.float64))
        return cls(np.ones(1), means, np.ones(1), np.asarray(covariance))

    @property
    def mean(self) -> np.ndarray:
        """The mean of each number inside, of shape (d,)."""
        return np.asarray(self.shares @ self.means)

    @property
    def padded_mean(self) -> np.ndarray:
        """The mean of each number, padding included, of shape (d,)."""
        share = self.present.diagonal()[np.arange(self.means.shape[1]) % len(self.present)]
        return np.asarray(share * (self.mean - self.padding) + self.padding)

    def inside(self, rows: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows of the covariance without padding; the shares of pairs inside; and these less their product.

        cov(x_i, x_j) = (C_ij - (p_ij - p_i p_j) m_i m_j) / p_ij,   m the mean inside less the padding
        """
        kernel = np.arange(self.means.shape[1]) % len(self.present)
        if len(self.present) == 1:
            return self.covariance[rows].astype(np.float64), np.ones((1, 1)), np.zeros((1, 1))
        both = self.present[kernel[rows]][:, kernel]
        share = self.present.diagonal()[kernel]
        apart = both - share[rows, None] * share
        mean = self.mean - self.padding
        found = self.covariance[rows] - apart * mean[rows, None] * mean
        return np.divide(found, both, out=np.zeros_like(found), where=both > 0), both, apart


class QuantizedNormals:
    """The first two moments of q = steps(x), for a mixture of normals x.

        cov(x_i, q_j) = sum_g pi_g (m_gi - m_i) e_gj  +  W_ij/s_j sum_g pi_g tau_g b_1gj
        cov(q_i, q_j) = sum_g pi_g e_gi e_gj - e_i e_j  +  sum_k rho_ij^k sum_g pi_g b_kgi b_kgj

    pi_g, m_g and tau_g are the shares, means and spreads of the groups; s_i^2 = W_ii, rho = W/(s s'). In group g,
    x_i is normal, and q_i has the mean e_gi and the Hermite coefficients b_kgi = E[q He_k(z)]/sqrt(k!), with
    z = (x - m)/(tau s). A step J_t of q at a threshold t adds

        J_t phi(h) He_(k-1)(h) / sqrt(k!),   h = (t - m)/(tau s)

    to b_k. The first line is Stein's identity, the second Mehler's formula for the bivariate normal. The series has
    17 terms; a remainder makes the variances exact. For the sign the error is below .001 at any correlation.

    Args:
        numbers: the distribution of x.
        steps: the quantizer. Padding is not quantized: its value is the same before and after.

    `mean` is E q, of shape (d,), padding included; so are the covariances of `blocks`.

    Source: Stein 1981; Mehler 1866; Price 1958, "A useful theorem for nonlinear devices having Gaussian inputs".

    >>> law = QuantizedNormals(NormalMixture.normal([0, 0], [[1, 0.5], [0.5, 1]]), Steps.of([0.0], [-1.0, 1.0]))
    >>> (_, cross, covariance), = law.blocks()
    >>> cross.round(4).tolist()[0], covariance.round(3).tolist()[0]  # sqrt(2/pi) rho, (2/pi) arcsin(rho)
    ([0.7979, 0.3989], [1.0, 0.333])
    """

    def __init__(self, numbers: NormalMixture, steps: Steps) -> None:
        self._numbers = numbers
        self._shift = numbers.means - numbers.mean
        between = (numbers.shares[:, None] * self._shift**2).sum(0)
        kernel = np.arange(numbers.means.shape[1]) % len(numbers.present)
        share = numbers.present.diagonal()[kernel]
        padded = numbers.covariance.diagonal() - share * (1 - share) * (numbers.mean - numbers.padding) ** 2
        variance = np.maximum(np.divide(padded, share, out=np.zeros_like(share), where=share > 0), 0)
        self._spread = np.sqrt(np.maximum(variance - between, _LEAST * variance))
        self._coefficients(steps)
        self.mean = share * (self._levels - numbers.padding) + numbers.padding

    def _coefficients(self, steps: Steps) -> None:
        """Hermite coefficients of each group and number, and the means and variances of the levels."""
        spread = self._numbers.spreads[:, None] * self._spread
        means = self._numbers.means
        expected = np.zeros_like(means) + steps.levels[:, 0]
        squares = expected**2
        terms = np.zeros((ORDER, *means.shape))
        for t, low, high in zip(steps.thresholds.T, steps.levels.T[:-1], steps.levels.T[1:], strict=True):
            with np.errstate(divide="ignore", invalid="ignore"):
                h = np.where(spread > 0, (t - means) / spread, np.where(t <= means, -_FAR, _FAR))
            h = np.clip(h, -_FAR, _FAR)
            above = special.ndtr(-h)
            expected = expected + (high - low) * above
            squares = squares + (high**2 - low**2) * above
            before, now = np.zeros_like(h), (high - low) * np.exp(-(h**2) / 2) / np.sqrt(2 * np.pi)
            for k in range(1, ORDER + 1):  # He_(k-1) J phi / sqrt(k!), by its recurrence
                terms[k - 1] += now
                before, now = now, (h * now - (k - 1) / np.sqrt(k) * before) / np.sqrt(k + 1)
        self._expected, self._terms = expected, terms
        shares = self._numbers.shares
        self._levels = shares @ expected
        self._variance = shares @ squares - self._levels**2
        series = np.einsum("g,kgd->d", shares, terms**2)
        self._rest = np.sqrt(np.maximum(shares @ (squares - expected**2) - series, 0))

    def blocks(self) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """Yields (rows, cov(x_i, q_j), cov(q_i, q_j)) for 256 rows i at a time.

        The first has all columns j. The second, which is symmetric, has the columns from rows.start on.
        """
        for rows, cross, covariance in self._blocks(levels=True):
            assert covariance is not None
            yield rows, cross, covariance

    def cross_blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Yields (rows, cov(x_i, q_j)) alone, which takes far less time."""
        for rows, cross, _ in self._blocks(levels=False):
            yield rows, cross

    def _blocks(self, levels: bool) -> Iterator[tuple[slice, np.ndarray, np.ndarray | None]]:
        numbers = self._numbers
        weights = numbers.shares[:, None]
        inverse = np.divide(1, self._spread, out=np.zeros_like(self._spread), where=self._spread > 0)
        stein = inverse * (weights * numbers.spreads[:, None] * self._terms[0]).sum(0)
        deviation = self._expected - self._levels
        means, values = numbers.mean - numbers.padding, self._levels - numbers.padding
        root = np.sqrt(numbers.shares)[:, None]
        terms = (root * self._terms).astype(np.float32)
        for start in range(0, len(means), _BLOCK):
            rows = slice(start, min(start + _BLOCK, len(means)))
            inside, both, apart = numbers.inside(rows)
            shift = (weights * self._shift[:, rows]).T
            within = inside - shift @ self._shift
            cross = shift @ self._expected + within * stein
            own = np.arange(rows.stop - start)
            shares = numbers.shares @ (self._shift[:, rows] * self._expected[:, rows])
            cross[own, own + start] = shares + self._spread[rows] ** 2 * stein[rows]
            padded = len(numbers.present) > 1
            if padded:
                cross = both * cross + apart * means[rows, None] * values
            if not levels:
                yield rows, cross, None
                continue
            rho = within[:, start:] * inverse[rows, None]
            rho *= inverse[start:]
            covariance = self._series(rows, np.clip(rho, -1, 1, out=rho).astype(np.float32), terms).astype(np.float64)
            covariance += (weights * deviation[:, rows]).T @ deviation[:, start:]
            covariance[own, own] = self._variance[rows]
            if padded:
                covariance = both[:, start:] * covariance + apart[:, start:] * values[rows, None] * values[start:]
            yield rows, cross, covariance

    def _series(self, rows: slice, rho: np.ndarray, terms: np.ndarray) -> np.ndarray:
        """The sum over k of rho^k sum_g pi_g b_kgi b_kgj, by Horner's rule, with the remainder, in float32."""
        rest = self._rest.astype(np.float32)
        tail = np.interp(np.abs(rho), *_tail()).astype(np.float32)
        total = tail * rest[rows, None] * rest[rows.start :]
        for own in terms[::-1]:
            total += own[:, rows].T @ own[:, rows.start :]
            total *= rho
        return total


@functools.cache
def _tail() -> tuple[np.ndarray, np.ndarray]:
    """A grid of correlations from 0 to 1, and on it the remainder of the series divided by rho^ORDER, 1 at rho = 1.

    The squared coefficients of a step fall as k^(-3/2), so the remainder is sum_(k > ORDER) k^(-3/2) rho^(k - ORDER).
    """
    grid = 1 - np.linspace(1, 0, 257) ** 2  # dense near 1, where the remainder is steep
    k = np.arange(1, 4001)
    values = (grid[:, None] ** k * (k + ORDER) ** -1.5).sum(1)
    values[-1] = special.zeta(1.5, ORDER + 1)
    return grid, values / values[-1]
