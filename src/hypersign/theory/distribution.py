"""The angle between d independent weights and their levels, for any list of sizes that the weights may have.

A bootstrap that draws rows from a tensor's own values converges to this angle. It holds at every d, so it gives the
angle where an expansion in 1/d fails: for heavy tails, for outliers and for small d.

The cosine is S/sqrt(N Q), with S = sum |x| q, N = sum q^2 and Q = sum x^2 over d weights of size |x| and levels of
size q. For its moments, write Q^(-s) = int u^(s-1) exp(-uQ) du / Gamma(s), and N^(-s) likewise. The expectation of
S^k exp(-uQ - vN) is then k! times the coefficient of z^k in

    (sum_j E[(|x| q)^j exp(-u x^2 - v q^2)] z^j/j!)^d

The trapezoidal rule in log u and log v computes the integrals; it converges exponentially. The mean angle is that of
the Gauss rule with the cosine's first five moments, corrected by the rule's error for a beta distribution. Where few
weights decide (one outlier, or nearly all levels 0), the cosine has a peak that three nodes miss. There the angle is
that of drawn rows, with the exact moments as control variates. Where the sizes are nearly equal, as in a network
whose latent weights have become their levels, 1 - cosine is as small as the moments' rounding, and drawn rows alone
count.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy import special

from hypersign.theory.angle import angle_moments, beta_parameters

__all__ = ["Distribution", "SizeCounts"]

_Array = NDArray[np.float64]

_STEP = 0.3  # of log u and log v
_SMALLEST = 1e-7  # times the root mean square: smaller sizes do not change an angle
_LEFT_OUT = 1e-13  # the share of an integral below its first node
_ORDERS = 5  # moments of a Gauss rule with three nodes
_SERIES = 2 * _ORDERS
_PEAKED, _WIDE = 7.0, 0.02  # kurtosis and deviation of a cosine that the Gauss rule does not fit
_ROWS = 5000  # drawn rows
_NEAR_ONE = 5e-4  # 1 - cosine below which its moments lack digits
_CLOSE, _NARROW = 0.02, 2e-4  # the same where the cosine is peaked, or has a smaller deviation
_DROPPED = 18  # of float32's 23 bits of mantissa: sizes are counted in 32 bins per factor of two
_BINS = 1 << (31 - _DROPPED)


@dataclasses.dataclass(frozen=True, eq=False)
class Distribution:
    """The sizes |x| that a weight may have, in any unit: the share of weights of each, and the size of its level."""

    sizes: _Array
    shares: _Array
    levels: _Array

    @classmethod
    def gaussian(cls, thresholds: _Array, levels: _Array) -> Self:
        """A standard normal's sizes, in two thousand intervals; `levels[i]` is the level above `thresholds[i]`."""
        low = np.unique(np.concatenate([[0.0], np.geomspace(1e-3, 10, 2000), thresholds]))
        high = np.append(low[1:], np.inf)
        mass = 2 * (special.ndtr(-low) - special.ndtr(-high))
        first = np.sqrt(2 / np.pi) * (np.exp(-(low**2) / 2) - np.exp(-(high**2) / 2))
        low, mass, first = (values[mass > 0] for values in (low, mass, first))
        level = np.append(levels, 0.0)[np.searchsorted(thresholds, low, side="right") - 1]  # below all: 0
        return cls(first / mass, mass, level)

    def cosine_moments(self, d: float, orders: int) -> _Array:
        """E c^k for k = 1..orders, with c the cosine between d weights and their levels, unless all those are 0."""
        k = np.arange(1, orders + 1)
        factor = _STEP * special.factorial(k) / special.gamma(k / 2) / self._defined(d)
        levels = np.unique(self.levels)
        if len(levels) == 1:  # the sign
            u, series = _transform(self, d, _SERIES)
            return factor * d ** (-k / 2) * (u ** (k[:, None] / 2) * _power(series[: orders + 1], d)[1:]).sum(1)
        u, series = _transform(self, d, orders, by_level=True)
        start = np.log(_LEFT_OUT**2 / (d * levels[-1] ** 2))
        v = np.exp(np.arange(start, np.log(60 / levels[levels > 0][0] ** 2), _STEP))
        j = np.arange(orders + 1)[:, None]
        with np.errstate(under="ignore"):
            damped = levels[:, None, None] ** j * np.exp(-(levels[:, None, None] ** 2) * v)
            power = _power(series.transpose(1, 2, 0) @ damped.transpose(1, 0, 2), d)
        integral = np.array([u ** (i / 2) @ power[i] @ v ** (i / 2) for i in k])
        return factor * _STEP / special.gamma(k / 2) * integral

    def share_moments(self, d: int, size: int, orders: int) -> _Array:
        """E s^k for k = 1..orders, with s the share of |x|^2 that signs keep with one scale per group of `size`.

        s = sum_g |x_g|_1^2 / (beta_g |x|^2),   beta_g weights in group g; the last group has the rest
        """
        u, series = _transform(self, d, _SERIES)
        series = series[: 2 * orders + 1]
        groups, rest = divmod(d, size)
        power = _power(_group(series, size), groups)
        if rest:
            last = _group(series, rest)
            power = np.array([(power[: k + 1] * last[k::-1]).sum(0) for k in range(orders + 1)])
        k = np.arange(1, orders + 1)
        return _STEP * k * (u ** k[:, None] * power[1:]).sum(1) / self._defined(d)

    def angle(self, d: float) -> tuple[float, float]:
        """Mean and standard deviation, in radians, of the angle between d weights and their levels."""
        moments = self.cosine_moments(d, _ORDERS)
        central = _central(moments)
        peaked = central[4] > _PEAKED * central[2] ** 2
        if 1 - moments[0] < (_CLOSE if peaked or central[2] < _NARROW**2 else _NEAR_ONE):
            return self._drawn_angle(int(d))
        if peaked and central[2] > _WIDE**2:
            return self._drawn_angle(int(d), moments)
        mean, std = _angle(np.arccos, moments, d**-0.5)
        spread = np.sqrt(np.maximum(moments[1] - moments[0] ** 2, 0))
        a, b, low = beta_parameters(moments[0], spread, np.array(d))
        if not (a > 1 and b > 1 and spread > 0):
            return mean, std
        # The rule is inexact near a cosine of 1. Its error for a beta distribution is known, and nearly the same.
        k = np.arange(_ORDERS + 1)
        beta = np.exp(special.betaln(a + k, b) - special.betaln(a, b))  # of (c - low)/(1 - low)
        raw = [sum(math.comb(n, j) * low ** (n - j) * (1 - low) ** j * beta[j] for j in range(n + 1)) for n in k[1:]]
        rule_mean, rule_std = _angle(np.arccos, np.array(raw), float(low))
        true_mean, true_std = angle_moments(moments[0], spread, d)
        return mean + float(true_mean) - rule_mean, std * float(true_std) / rule_std

    def _drawn_angle(self, d: int, moments: _Array | None = None) -> tuple[float, float]:
        """Mean and standard deviation of the angle in drawn rows, with `moments` regressed on powers of the cosine.

        The means of these powers are known exactly, and take their place.
        """
        rows = np.random.default_rng(0).multinomial(d, self.shares / self.shares.sum(), _ROWS)
        dot, squares, levels = rows @ (self.sizes * self.levels), rows @ self.sizes**2, rows @ self.levels**2
        used = (squares > 0) & (levels > 0)
        cosine = np.minimum(dot[used] / np.sqrt(squares[used] * levels[used]), 1)
        angle = np.arccos(cosine)
        if moments is None:
            return float(angle.mean()), float(angle.std())
        powers = cosine[:, None] ** np.arange(_ORDERS + 1)
        fit = np.linalg.lstsq(powers, np.stack([angle, angle**2], 1), rcond=None)[0]
        mean, square = np.concatenate([[1.0], moments]) @ fit
        return float(mean), math.sqrt(max(float(square - mean**2), 0.0))

    def group_angle(self, d: int, size: int) -> tuple[float, float]:
        """Mean and standard deviation, in radians, of the angle to the signs with one scale per group of `size`."""
        return _angle(lambda s: np.arccos(np.sqrt(s)), self.share_moments(d, size, _ORDERS), 1 / min(d, size))

    def _defined(self, d: float) -> float:
        """The probability that d weights have an angle: that one of them has a size and a level other than 0."""
        none = float(self.shares[(self.sizes == 0) | (self.levels == 0)].sum())
        return 1.0 if none == 0 else -math.expm1(d * math.log(none)) if none < 1 else math.nan


@functools.lru_cache(maxsize=4)
def _transform(weights: Distribution, d: float, orders: int, by_level: bool = False) -> tuple[_Array, _Array]:
    """The nodes u, and sum share |x|^j exp(-u x^2) / j! for j = 0..orders, shape (j, u); by level, (level, j, u)."""
    positive = weights.sizes > 0
    sizes = weights.sizes / (np.sqrt(weights.shares @ weights.sizes**2) if positive.any() else 1)
    sizes[positive] = np.maximum(sizes[positive], _SMALLEST)
    least, largest = sizes[positive].min(initial=1), sizes.max(initial=1)
    u = np.exp(np.arange(np.log(_LEFT_OUT**2 / (d * largest**2)), np.log(60 / least**2), _STEP))

    def terms(u: _Array) -> _Array:
        with np.errstate(under="ignore"):
            return weights.shares * np.exp(-np.outer(u, sizes**2))

    few = d * np.log(terms(u[::16]).sum(1)) < -100  # from there on, the power d is 0
    u = u[: 16 * (int(few.argmax()) if few.any() else len(few))]
    found = terms(u)
    powers = np.array([sizes**j / math.factorial(j) for j in range(orders + 1)])
    if not by_level:
        return u, powers @ found.T
    groups = [weights.levels == level for level in np.unique(weights.levels)]
    return u, np.array([powers[:, group] @ found[:, group].T for group in groups])


class SizeCounts:
    """Counts of sizes, block by block, for the distribution of a tensor's own weights.

    Sizes are counted in bins that are 3 % wide, of sizes times `unit`: a root mean square of about 1 suits them.
    """

    def __init__(self, unit: float = 1.0) -> None:
        self.unit = unit
        self._counts = np.zeros((2, _BINS), np.int64)

    def add(self, sizes: NDArray[np.floating], above: NDArray[np.bool_] | None = None) -> None:
        """Counts `sizes`, shape (n,), all >= 0; `above` says which have a level other than 0 (by default all)."""
        with np.errstate(under="ignore"):
            key = (np.asarray(sizes * self.unit, dtype=np.float32).view(np.uint32) >> _DROPPED).astype(np.int64)
        if above is not None:
            key += _BINS * ~above
        self._counts.reshape(-1)[:] += np.bincount(key, minlength=2 * _BINS)

    def distribution(self) -> Distribution:
        """The distribution of what was counted, with levels 1 and 0."""
        below, key = np.nonzero(self._counts)
        middle = (key.astype(np.uint32) << _DROPPED) + (1 << (_DROPPED - 1))
        sizes = middle.view(np.float32).astype(np.float64)
        sizes[key == 0] = 0
        shares = self._counts[below, key] / self._counts.sum()
        return Distribution(sizes, shares, 1 - below.astype(np.float64))


def _power(series: _Array, n: float) -> _Array:
    """The power series `series^n`, with coefficients along axis 0, by Euler's recurrence."""
    found = np.empty_like(series)
    found[0] = series[0] ** n
    for k in range(1, len(series)):
        found[k] = sum((j * (n + 1) - k) * series[j] * found[k - j] for j in range(1, k + 1)) / (k * series[0])
    return found


def _group(series: _Array, size: int) -> _Array:
    """The series of E exp(z |x|_1^2 / size - u |x|^2) for a group, from that of E exp(z |x| - u x^2) for a weight."""
    power = _power(series, size)
    return np.array(
        [power[2 * k] * (math.factorial(2 * k) / math.factorial(k) / size**k) for k in range(len(power) // 2 + 1)]
    )


def _angle(angle: Callable[[_Array], _Array], moments: _Array, least: float) -> tuple[float, float]:
    """Mean and standard deviation of `angle(y)`, where y in [least, 1] has these five moments."""
    nodes, weights = _gauss_rule(moments)
    angles = angle(np.clip(nodes, least, 1))
    mean = float(weights @ angles)
    return mean, float(np.sqrt(weights @ (angles - mean) ** 2))


def _central(moments: _Array) -> list[float]:
    """Central moments, from order 0 on, from raw ones, from order 1 on."""
    mean, raw = moments[0], np.concatenate([[1.0], moments])
    return [sum(math.comb(k, j) * raw[j] * (-mean) ** (k - j) for j in range(k + 1)) for k in range(len(raw))]


def _gauss_rule(moments: _Array) -> tuple[_Array, _Array]:
    """Nodes and weights of the Gauss rule with these five moments, or with as many as rounding leaves.

    Source: Golub & Welsch 1969, "Calculation of Gauss quadrature rules".
    """
    mean, central = moments[0], _central(moments)
    std = float(np.sqrt(np.maximum(central[2], 0)))
    if std < 1e-5:
        return np.array([mean]), np.ones(1)
    skewness, kurtosis, fifth = (central[k] / std**k for k in (3, 4, 5))
    if std < 0.005:
        skewness = 0.0
    diagonal, beside = [0.0, skewness], [1.0]
    square = kurtosis - skewness**2 - 1  # 0 if y has two values
    if std > 0.05 and square > 1e-3:
        diagonal.append((fifth - 2 * skewness * kurtosis + skewness**3) / square)
        beside.append(np.sqrt(square))
    jacobi = np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1)
    if not np.isfinite(jacobi).all():
        return np.array([np.nan]), np.ones(1)
    places, vectors = np.linalg.eigh(jacobi)
    return mean + std * places, vectors[0] ** 2
