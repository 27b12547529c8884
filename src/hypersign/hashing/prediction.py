"""The recall of sign codes, predicted from angles before anything is hashed.

A query and a vector at the angle theta differ in h of m bits. The mean of h is m theta/pi, and its variance is known
(`theory.orthogonal_hash_angle_std`). The distances of one query share part of their noise, because
P(both bits differ) = (p_i + p_j - p_ij)/2, with p = theta/pi of each pair. The shared part moves all candidates alike
and does not change their order. The rest decides whether a true neighbour stays ahead of the crowd, a histogram of
the angles between the query and all vectors. The rows of a rotation are orthogonal, so they share less noise
(`_covariances`).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from hypersign import theory
from hypersign._checks import HypersignError, check_int
from hypersign.hashing.stored import AnyVectors, read_blocks

__all__ = ["Angles", "Crowd", "keep_least", "meet", "predicted_recall", "recall_by_factor"]

BINS = 512
"""Bins of a histogram of angles from 0 to pi: .35 degrees each, a seventh of the noise of 512 bits or less."""

NEAR, FAR = 128, 256
"""Numbers of vectors on which the shared noise of a query is measured: the nearest by angle, and random ones."""

COARSE = 8
"""How many bins of the histogram make one bin of that measurement."""

TWINS = 1e-6
"""If two angles differ by less than this, in radians, the vectors may be equal, and are compared."""


@dataclasses.dataclass(frozen=True)
class Angles:
    """Angles in degrees: `mean` and `std`."""

    mean: float
    std: float


@dataclasses.dataclass(frozen=True)
class Crowd:
    """The angles between q queries and all vectors: all that a prediction needs.

    Attributes:
        counts: histogram of the angles, (q, BINS), without copies of a query's last true neighbour. (Equal vectors
            have equal codes. The lower index comes first, among codes and among true neighbours.)
        neighbours: bins of the true neighbours, (q, k).
        copies, before: for each true neighbour, how many others equal it, and how many of these come before it; each
            of shape (q, k).
        correlation: correlation between the bits of two vectors, summed over pairs, by coarse bins.
        quadratic: the part of the correlation that is quadratic in the row; orthogonal rows do not share it.
        pairs: number of pairs, by coarse bins.
        nearest, all: angles to the true neighbours, and to all vectors.
    """

    counts: NDArray[np.float64]
    neighbours: NDArray[np.int64]
    copies: NDArray[np.int64]
    before: NDArray[np.int64]
    correlation: NDArray[np.float64]
    quadratic: NDArray[np.float64]
    pairs: NDArray[np.float64]
    nearest: Angles
    all: Angles


def predicted_recall(
    queries: NDArray[Any], vectors: NDArray[Any], nearest: NDArray[Any], bits: int, dimension: int
) -> float:
    """Predicts the share of each query's k nearest vectors that are among the k nearest codes.

        recall = mean_j P(h_j is among the k least)

    j runs over a query's nearest vectors. h_j is the Hamming distance between j and the query. It is treated as
    normal, with the mean and variance that follow from the angle, without the noise that all distances of the query
    share.

    Args:
        queries: the vectors that are hashed as queries (centred, if the codes are), shape (q, d).
        vectors: the vectors that are hashed, shape (n, d); queries are not among them.
        nearest: indices of each query's nearest vectors, nearest first, shape (q, k).
        bits: m, the length of a code: the signs of the first m components of a random rotation.
        dimension: dimension of that rotation, at least 3.

    Raises:
        HypersignError: shapes do not fit, `bits` is below 1, `dimension` is below 3, or a vector is zero.

    Source: normal approximation of the sum of m signs; P(both bits differ) from the three pairs' P = theta/pi.

    >>> rng = np.random.default_rng(0)
    >>> queries, vectors = rng.standard_normal((20, 64)), rng.standard_normal((2000, 64))
    >>> unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    >>> nearest = np.argsort(-queries @ unit.T, axis=1)[:, :10]
    >>> [round(predicted_recall(queries, vectors, nearest, m, 64), 2) for m in (32, 64)]
    [0.07, 0.16]
    """
    queries, vectors, nearest = np.asarray(queries), np.asarray(vectors), np.asarray(nearest)
    fits = queries.ndim == vectors.ndim == nearest.ndim == 2 and queries.shape[1] == vectors.shape[1]
    if not fits or len(queries) != len(nearest) or not 0 < nearest.shape[1] <= len(vectors):
        raise HypersignError(
            "queries, vectors and nearest must be of shapes (q, d), (n, d) and (q, k) with k <= n; "
            f"got {queries.shape}, {vectors.shape} and {nearest.shape}"
        )
    check_int("bits", bits, min=1)
    check_int("dimension", dimension, min=3)
    companions = np.unique(np.linspace(0, len(vectors) - 1, min(FAR, len(vectors))).round().astype(np.int64))
    crowd = meet(vectors, queries, None, nearest, companions, np.zeros(vectors.shape[1]))
    return float(recall_by_factor(crowd, bits, dimension, nearest.shape[1], (1,))[1].mean())


def keep_least(
    least: NDArray[np.float64], indices: NDArray[np.int64], values: NDArray[np.float64], start: int
) -> None:
    """Merges each row of `values`, whose first index is `start`, into the sorted row of `least` and its `indices`."""
    for i, row in enumerate(values):
        better = np.flatnonzero(row < least[i, -1])
        both = np.concatenate([least[i], row[better]])
        order = np.argsort(both, kind="stable")[: len(least[i])]
        least[i], indices[i] = both[order], np.concatenate([indices[i], start + better])[order]


def meet(
    vectors: AnyVectors,
    queries: NDArray[Any],
    rows: NDArray[np.int64] | None,
    truth: NDArray[np.int64],
    companions: NDArray[np.int64],
    mean: NDArray[np.float64],
) -> Crowd:
    """Measures the angles between queries and vectors after subtracting `mean`, block by block.

    Args:
        vectors: shape (n, d).
        queries: shape (q, d).
        rows: indices of the queries among the vectors; None if they are not among them.
        truth: indices of the true neighbours, nearest first, shape (q, k).
        companions: indices of random vectors.
        mean: shape (d,).

    Raises HypersignError if a vector is not finite, or equals the mean and so has no angle.
    """
    q = _units(queries, mean, "query")
    last = np.asarray(vectors[truth[:, -1]], np.float64)  # the last true neighbour of each query
    angle_of_last = _angles(np.einsum("qd,qd->q", _units(last, mean, "row"), q))
    counts = np.zeros((len(q), BINS))
    shape = len(q), min(NEAR + 1, len(vectors))
    near, angles_near = np.empty(shape, np.int64), np.full(shape, np.inf)
    for start, block in read_blocks(vectors):
        block = block.astype(np.float64)
        angles = _angles(q @ _units(block, mean, "row", start).T)
        bins = _bin(angles)
        for i, row in enumerate(bins):
            counts[i] += np.bincount(row, minlength=BINS)
            if rows is not None and start <= rows[i] < start + len(block):
                counts[i, row[rows[i] - start]] -= 1
            like_last = np.flatnonzero(np.abs(angles[i] - angle_of_last[i]) < TWINS)
            copies = like_last[(block[like_last] == last[i]).all(1)]
            spare = copies[~np.isin(start + copies, truth[i])]
            if rows is not None:
                spare = spare[start + spare != rows[i]]
            counts[i] -= np.bincount(row[spare], minlength=BINS)
        keep_least(angles_near, near, angles, start)
    neighbours = np.empty(truth.shape)
    copies = np.empty((2, *truth.shape), np.int64)
    shared = np.zeros((3, (BINS // COARSE) ** 2))
    common = _units(vectors[companions], mean, "row")
    for i, query in enumerate(q):
        neighbours[i] = _angles(_units(vectors[truth[i]], mean, "row") @ query)
        copies[:, i] = _copies(vectors[truth[i]])
        # Each nearest vector counts once. The random ones that are not among the nearest represent all others.
        apart = ~np.isin(companions, near[i])
        own = np.ones(len(near[i]), bool) if rows is None else near[i] != rows[i]
        others = np.concatenate([_units(vectors[near[i][own]], mean, "row"), common[apart]])
        stands = np.ones(len(others))
        stands[own.sum() :] = max(counts[i].sum() - own.sum(), 0) / max(apart.sum(), 1)
        shared += _shared(query, others, stands)
    total, degrees = counts.sum(0), np.degrees(_middles())
    average = float(total @ degrees / max(total.sum(), 1))
    spread = float(np.sqrt(total @ np.square(degrees - average) / max(total.sum(), 1)))
    correlation, quadratic, pairs = shared.reshape(3, BINS // COARSE, BINS // COARSE)
    return Crowd(
        counts,
        _bin(neighbours),
        copies[0],
        copies[1],
        correlation,
        quadratic,
        pairs,
        Angles(float(np.degrees(neighbours).mean()), float(np.degrees(neighbours).std())),
        Angles(average, spread),
    )


def recall_by_factor(
    crowd: Crowd, m: int, size: int, k: int, factors: Sequence[int]
) -> dict[int, NDArray[np.float64]]:
    """The expected share of each query's true neighbours among its nearest factor * k codes, shape (q,) per factor.

    Args:
        crowd: the angles, from `meet`.
        m: number of bits in a code.
        size: dimension of the rotation.
        k: number of neighbours that count.
        factors: rescoring factors.
    """
    variance = _variance(m, size)
    correlation = crowd.correlation - _orthogonality(m, size) * crowd.quadratic
    found = {}
    for factor in factors:
        wanted = factor * k
        if wanted >= crowd.counts[0].sum():
            found[factor] = np.ones(len(crowd.counts))  # every vector is a candidate
            continue
        # The order is decided near the distance that `wanted` codes do not exceed: take the mean correlation there.
        cdf, pmf = _distances(m, variance, 0.0)
        limit = int(np.searchsorted(crowd.counts.sum(0) @ cdf, wanted * len(crowd.counts)))
        weight = pmf[:, min(limit, m)].reshape(-1, COARSE).mean(1)
        pairs = weight @ crowd.pairs @ weight
        shared = float(weight @ correlation @ weight / pairs) if pairs else 0.0
        cdf, pmf = _distances(m, variance, min(max(shared, 0.0), 0.99))
        # Codes nearer than t, plus half of those at t, because ties are broken by index.
        ahead = crowd.counts @ (cdf - pmf / 2)
        total = np.zeros(len(crowd.counts))
        for j in range(crowd.neighbours.shape[1]):
            bins = crowd.neighbours[:, j]
            # A copy of the neighbour is ahead of it exactly if its index is lower.
            rivals = ahead - (1 + crowd.copies[:, j, None]) * (cdf - pmf / 2)[bins]
            total += (pmf[bins] * _at_most(wanted - 1 - crowd.before[:, j, None], rivals)).sum(1)
        found[factor] = total / crowd.neighbours.shape[1]
    return found


def _copies(rows: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each row, how many other rows equal it, and how many of these come before it."""
    same = np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1)
    order = np.argsort(same, kind="stable")
    counts = np.bincount(same)
    before = np.empty(len(rows), np.int64)
    before[order] = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    return counts[same] - 1, before


def _shared(
    query: NDArray[np.float64], others: NDArray[np.float64], stands: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Correlation, its quadratic part, and number of pairs, by coarse bins (flattened), for one query.

    `stands` says how many vectors each of `others` represents.
    """
    coarse = BINS // COARSE
    cosines = others @ query
    p = _angles(cosines) / np.pi
    covariance, even = _covariances(cosines, others @ others.T)
    deviations = np.outer(np.sqrt(p * (1 - p)), np.sqrt(p * (1 - p)))
    weight = np.outer(stands, stands) * (deviations > 1e-9)
    np.fill_diagonal(weight, 0)
    at = _bin(p * np.pi) // COARSE
    cells = (at[:, None] * coarse + at).ravel()
    weighted = weight / np.maximum(deviations, 1e-9)
    return np.stack(
        [np.bincount(cells, part.ravel(), coarse**2) for part in (weighted * covariance, weighted * even, weight)]
    )


def _covariances(
    cosines: NDArray[np.float64], between: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Covariance of "the bit differs from the query's" for two vectors, and the part that orthogonal rows reduce.

        (p_i + p_j - p_ij)/2 - p_i p_j,   p = theta/pi
        [2 e (1 - c_i^2 - c_j^2) + c_i c_j (c_i^2 + c_j^2 + e^2 - 1)]/(2 pi^2 s_i s_j)

    c and s are the cosines and sines of the angles to the query, and e is the cosine between i and j. "The bit
    differs" is an even function of the row's direction. The second formula is the covariance between the degree-2
    parts of two such functions. For two orthogonal rows, the bits have P_2(0) = -1/(n - 1) times that covariance
    (Funk and Hecke's formula; higher degrees add terms of order 1/n^2). So the covariance of distances over m rows is
    m times (the first minus `_orthogonality` times the second).
    """
    angles = _angles(cosines)
    p, sines, squares = angles / np.pi, np.maximum(np.sin(angles), 1e-6), np.square(cosines)
    both = squares[:, None] + squares
    even = 2 * between * (1 - both) + np.outer(cosines, cosines) * (both + np.square(between) - 1)
    return (
        (p[:, None] + p - _angles(between) / np.pi) / 2 - np.outer(p, p),
        even / (2 * np.pi**2 * np.outer(sines, sines)),
    )


def _orthogonality(m: int, size: int) -> float:
    # The factor 1 + 2/n is there because the rows are directions on a sphere.
    return (m - 1) * (1 + 2 / size) / max(size - 1, 1)


def _variance(m: int, size: int) -> NDArray[np.float64]:
    """Variance of the number of differing bits, for each bin of angles."""
    if size < 3:
        return m * _middles() / np.pi * (1 - _middles() / np.pi)
    return np.square(theory.orthogonal_hash_angle_std(_middles(), m, size) * m / np.pi)


def _distances(
    m: int, variance: NDArray[np.float64], shared: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distribution of the Hamming distance in each bin, without the shared noise: cdf and pmf, (BINS, m + 1) each."""
    share = _middles() / np.pi
    # The shared part is a fraction of the binomial variance; orthogonal rows have less variance than the binomial.
    own = np.maximum(variance - shared * m * share * (1 - share), 1e-9)
    cdf = special.ndtr((np.arange(m + 1) + 0.5 - (m * share)[:, None]) / np.sqrt(own)[:, None])
    cdf[:, -1] = 1
    return cdf, np.diff(cdf, axis=1, prepend=0)


def _at_most(count: NDArray[np.int64], mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """P(count or fewer rivals are ahead), by a Poisson distribution: many rivals, each unlikely to be ahead."""
    return special.pdtr(count, np.maximum(mean, 0))


def _units(x: NDArray[Any], mean: NDArray[np.float64], what: str, first: int | None = None) -> NDArray[np.float64]:
    centred: NDArray[np.float64] = x.astype(np.float64) - mean
    with np.errstate(over="ignore"):  # an infinite length is refused below
        lengths = np.linalg.norm(centred, axis=-1, keepdims=True)
    if not np.isfinite(lengths).all() or not lengths.all():
        row = int(np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))[0]) + (first or 0)
        broken = not np.isfinite(lengths).all()
        why = "not finite, or too long for float64," if broken else "zero, or the mean,"
        raise HypersignError(f"{what} {row} is {why} and has no angle to others; leave such vectors out")
    return np.asarray(centred / lengths, np.float64)


def _angles(cosines: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.arccos(np.clip(cosines, -1, 1))


def _bin(angles: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.minimum((angles * (BINS / np.pi)).astype(np.int64), BINS - 1)


def _middles() -> NDArray[np.float64]:
    return np.arange(0.5, BINS) * (np.pi / BINS)
