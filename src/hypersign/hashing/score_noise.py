"""How far the scores of codes are from their means: variances, and covariances of the scores of one query.

`prediction.py` says what a score is.
"""

import dataclasses
import functools

import numpy as np
from numpy.typing import NDArray

from hypersign import theory
from hypersign.bits.levels import LEVELS, LevelCode
from hypersign.hashing.levels import UNIT, encode

__all__ = ["Code", "NoiseSample", "Noise"]

MOST_DRAWN = 4096
"""Components of the vectors on which a code's cosine is measured: more change it by less than 1 %."""


@dataclasses.dataclass(frozen=True)
class Code:
    """What a prediction knows of codes: metric, bits per component, components kept, dimension of the rotation."""

    metric: str
    bits: float
    count: int
    size: int


@dataclasses.dataclass(frozen=True)
class NoiseSample:
    """Vectors on which the shared noise of some queries is measured: (queries, vectors).

    `between` are their mutual cosines and `differ` says which are not equal, (queries, vectors, vectors).
    """

    queries: NDArray[np.int64]
    scores: NDArray[np.float64]
    units: NDArray[np.float64]
    cosines: NDArray[np.float64]
    stands: NDArray[np.float64]
    between: NDArray[np.float64]
    differ: NDArray[np.bool_]

    @functools.cached_property
    def signs(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """`covariances`, over the deviations."""
        p = np.arccos(self.cosines) / np.pi
        deviations = np.sqrt(p * (1 - p))
        covariance, quadratic = covariances(self.cosines, self.between)
        return tuple(over(part, deviations) for part in (covariance, quadratic))  # type: ignore[return-value]

    @functools.cached_property
    def products(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """What multiplies the kernel of level codes and its derivative, over the sines."""
        i, j, e = self.cosines[:, :, None], self.cosines[:, None, :], self.between
        sines = np.sqrt(1 - np.square(self.cosines))
        return (
            over(1 - np.square(i) - np.square(j) + i * j * e, sines),
            over((j - i * e) * (i - j * e), sines),
        )

    @functools.cached_property
    def arcs(self) -> NDArray[np.float64]:
        """Arc sines of the mutual cosines."""
        return np.arcsin(self.between)


class Noise:
    """Variance and covariance of the scores of codes of one kind."""

    def __init__(self, code: Code) -> None:
        self.code = code
        self.sign = code.metric == "hamming"
        if self.sign:
            self._angles, self._variances = _sign_variances(code.count, code.size)
        else:
            kept = min(code.count / code.size, 1)
            # 1/cos^2 - 1 of a vector and its code
            self.excess = _excess(code.bits, code.count) / kept + (1 - kept) / kept

    def variance(self, scores: NDArray[np.float64], units: NDArray[np.float64]) -> NDArray[np.float64]:
        """Variance of scores, by their means and units."""
        if self.sign:
            return np.interp(scores, self._angles, self._variances)
        return units * (self.excess / max(self.code.size - 1, 1))

    def base(self, scores: NDArray[np.float64], units: NDArray[np.float64]) -> NDArray[np.float64]:
        """The variance that correlations refer to: that of independent rows."""
        return scores * (1 - scores) / self.code.count if self.sign else self.variance(scores, units)

    def correlation(self, noise_sample: NoiseSample) -> NDArray[np.float64]:
        """Correlation of the scores of two vectors with one query: (queries, vectors, vectors)."""
        if self.sign:
            covariance, quadratic = noise_sample.signs
            return covariance - orthogonality(self.code.count, self.code.size) * quadratic
        kernel, slope = _kernel(self.code, noise_sample)
        first, second = noise_sample.products
        return (first * kernel + second * slope) / self.excess


def over(values: NDArray[np.float64], deviations: NDArray[np.float64]) -> NDArray[np.float64]:
    """Covariances over the deviations of both; 0 where one has none."""
    inverse = np.where(deviations > 1e-5, 1 / np.maximum(deviations, 1e-5), 0)
    return values * inverse[:, :, None] * inverse[:, None]


@functools.lru_cache(maxsize=64)
def _sign_variances(m: int, size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Variance of the share of bits that differ, on a grid of shares theta/pi."""
    p = (1 - np.cos(np.linspace(0, np.pi, 65))) / 2
    if size < 3:
        return p, p * (1 - p) / m
    inner = np.square(theory.orthogonal_hash_angle_std(np.pi * p[1:-1], m, size) / np.pi)
    return p, np.concatenate([[0], inner, [0]])


def covariances(
    cosines: NDArray[np.float64], between: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Covariance of "the bit differs from the query's" for two vectors, and the part that orthogonal rows reduce.

        (p_i + p_j - p_ij)/2 - p_i p_j,   p = theta/pi
        [2 e (1 - c_i^2 - c_j^2) + c_i c_j (c_i^2 + c_j^2 + e^2 - 1)]/(2 pi^2 s_i s_j)

    c and s are the cosines and sines of the angles to the query, and e is the cosine between i and j. "The bit
    differs" is an even function of the row's direction. The second formula is the covariance between the degree-2
    parts of two such functions. For two orthogonal rows, the bits have P_2(0) = -1/(n - 1) times that covariance
    (Funk and Hecke's formula; higher degrees add terms of order 1/n^2). So the covariance of distances over m rows is
    m times (the first minus `orthogonality` times the second).
    """
    angles = np.arccos(np.clip(cosines, -1, 1))
    p, sines, squares = angles / np.pi, np.maximum(np.sin(angles), 1e-6), np.square(cosines)
    c_i, c_j = cosines[..., :, None], cosines[..., None, :]
    both = squares[..., :, None] + squares[..., None, :]
    even = 2 * between * (1 - both) + c_i * c_j * (both + np.square(between) - 1)
    mutual = np.arccos(np.clip(between, -1, 1)) / np.pi
    return (
        (p[..., :, None] + p[..., None, :] - mutual) / 2 - p[..., :, None] * p[..., None, :],
        even / (2 * np.pi**2 * sines[..., :, None] * sines[..., None, :]),
    )


def orthogonality(m: int, size: int) -> float:
    # The factor 1 + 2/n is there because the rows are directions on a sphere.
    return (m - 1) * (1 + 2 / size) / max(size - 1, 1)


@functools.lru_cache(maxsize=64)
def _excess(bits: float, count: int) -> float:
    """1/cos^2 - 1 for a Gaussian vector of `count` components and its levels, with the scale that `encode` chooses.

    Of few components a scale fits each better: at 4 bits .0051 for 16, .0080 for 128 and .0094 for 1,024.
    """
    count = min(count, MOST_DRAWN)
    x = np.random.default_rng(0).standard_normal((max(128, 65536 // count), count))
    values = LEVELS[bits].astype(np.float64)[encode(x, LevelCode(bits, count))]
    cosines = (x * values).sum(1) / np.sqrt(np.square(x).sum(1) * np.square(values).sum(1))
    return float(np.mean(1 / np.square(cosines)) - 1)


@functools.lru_cache(maxsize=8)
def kernel_table(bits: float) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """E c(x) c(y)/k^2 and its derivative, for normal x and y of correlation sin t, by t; k = E x c(x).

        d/dt = (1/2 pi k^2) sum_ab jump_a jump_b exp(-(a^2 + b^2 - 2 a b sin t)/(2 cos^2 t)),   thresholds a, b

    Source: Plackett's identity for the bivariate normal.
    """
    levels = LEVELS[bits].astype(np.float64)
    limits, jumps = (levels[1:] + levels[:-1]) / 2 * UNIT[bits], np.diff(levels)
    mean = (jumps * np.exp(-np.square(limits) / 2)).sum() / np.sqrt(2 * np.pi)
    t = np.linspace(-np.pi / 2, np.pi / 2, 2049)
    half = t[len(t) // 2 :]  # levels are symmetric, so the rates at -t are those at t
    sines, cosines, rates = np.sin(half), np.maximum(np.cos(half), 1e-9), np.zeros(len(half))
    b = limits[:, None]
    for a, jump in zip(limits, jumps, strict=True):
        rates += jump * (jumps @ np.exp(-(a**2 + b**2 - 2 * a * b * sines) / (2 * cosines**2)))
    rates = np.concatenate([rates[:0:-1], rates]) / (2 * np.pi * mean**2)
    cosines = np.concatenate([cosines[:0:-1], cosines])
    values = np.concatenate([[0], np.cumsum((rates[1:] + rates[:-1]) / 2 * (t[1] - t[0]))])
    values -= values[len(t) // 2]  # odd levels
    return t, values, rates / cosines


def _kernel(code: Code, noise_sample: NoiseSample) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Covariance of what two vectors' codes add to them, by the cosine between the vectors, and its derivative.

    Codes that keep m of n components count n/m times. The best scale per vector makes the codes a little better.
    """
    t, values, slopes = kernel_table(code.bits)
    scale = (_excess(code.bits, code.count) + 1) / values[-1] / min(code.count / code.size, 1)
    at = np.rint((noise_sample.arcs + np.pi / 2) * ((len(t) - 1) / np.pi)).astype(np.int64)
    return scale * values[at] - noise_sample.between, scale * np.minimum(slopes, 1e3)[at] - 1
