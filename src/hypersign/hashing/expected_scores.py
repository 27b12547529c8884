"""The mean scores that codes give to the vectors of a data set, for each query of a sample."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypersign._checks import HypersignError
from hypersign.hashing.principal import SecondMoments
from hypersign.hashing.sample import Sample, float64_rows, pieces, row_keys, unit_or_nan
from hypersign.hashing.score_noise import NoiseSample
from hypersign.hashing.stored import read_blocks

__all__ = ["Angles", "ExpectedScores", "expected_scores"]

BINS = 160
"""Bins of a query's histogram of scores; they are narrow near the true neighbours and wide far away."""

GROUPS = 96
"""Groups of equal vectors that are known for each query: those with the lowest scores."""

NEAR, FAR = 64, 64
"""Vectors on which shared noise is measured: those with the lowest scores of a query, and random ones."""

NOISE_QUERIES = 40
"""Queries for which shared noise is measured."""


@dataclasses.dataclass(frozen=True)
class Angles:
    """Angles in degrees: `mean` and `std`."""

    mean: float
    std: float


@dataclasses.dataclass(frozen=True)
class OtherGroups:
    """Groups of equal vectors: mean scores, variance units, sizes, (q, groups); `outside`, the histogram of all other
    vectors, (q, BINS); `repeated`, the queries with equal vectors or with true neighbours at equal distances."""

    scores: NDArray[np.float64]
    units: NDArray[np.float64]
    sizes: NDArray[np.float64]
    outside: NDArray[np.float64]
    repeated: NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class ExpectedScores:
    """Mean scores of codes, for each query.

    Attributes:
        counts, scores, units: histogram (q, BINS): number of vectors, mean score, mean variance unit.
        of_true, true_units: scores and units of `Sample.nearest`.
        copies: how many vectors equal each of `Sample.nearest`, itself included.
        other_groups: for each query, groups of equal vectors that are nearest by score and no true neighbours.
        noise_sample: for some queries, near and random vectors, on which shared noise is measured.
        angles: sum of the angles to all vectors, of their squares, and their number.
    """

    counts: NDArray[np.float64]
    scores: NDArray[np.float64]
    units: NDArray[np.float64]
    of_true: NDArray[np.float64]
    true_units: NDArray[np.float64]
    copies: NDArray[np.float64]
    other_groups: "OtherGroups"
    noise_sample: "NoiseSample"
    angles: NDArray[np.float64]

    def nearest_angles(self, sample: Sample) -> Angles:
        """Angles between queries and their k true neighbours, of sign codes."""
        degrees = 180 * self.of_true[:, : sample.k]
        return Angles(float(degrees.mean()), float(degrees.std()))

    def all_angles(self) -> Angles:
        """Angles between queries and all vectors, of sign codes."""
        count, total, squares = self.angles
        return Angles(float(total / count), float(np.sqrt(max(squares / count - (total / count) ** 2, 0))))


def expected_scores(
    sample: Sample, metric: str, share: float, known: dict[Any, Any], pca: int | None = None
) -> ExpectedScores:
    """The scores of codes of a metric and centre, from `known` or measured and kept there.

    `pca` is the number of principal components that codes keep, if they do.
    """
    if (metric, share, pca) not in known:
        components = (
            None if pca is None else _moments(sample, metric, known).components(_mean(sample, metric, share), pca)
        )
        known[metric, share, pca] = measure_scores(sample, metric, share, components)
    found: ExpectedScores = known[metric, share, pca]
    return found


def _mean(sample: Sample, metric: str, share: float) -> NDArray[np.float64]:
    return share * sample.means["cosine" if metric == "cosine" else ""]


def _moments(sample: Sample, metric: str, known: dict[Any, Any]) -> SecondMoments:
    """The second moments of the vectors, as `SignHasher.fit` has them."""
    name = "moments", metric == "cosine"
    if name not in known:
        known[name] = moments = SecondMoments(sample.vectors.shape[1], unit=metric == "cosine")
        for _, block in read_blocks(sample.vectors):
            moments.add(block)
    found: SecondMoments = known[name]
    return found


class _Frame:
    """Scores and variance units of vectors for the codes of one metric and centre.

    Attributes: `queries`, what codes keep of the centred queries, (q, d or fewer); `squares` and `whole`, the squared
    lengths of that and of the centred queries, (q,).
    """

    def __init__(self, sample: Sample, metric: str, share: float, components: NDArray[np.float32] | None) -> None:
        self.metric, self.components = metric, components
        self.mean = _mean(sample, metric, share)
        queries = self.centred(sample.queries, "query", 0)
        self.whole = np.square(queries).sum(1)
        self.queries = self.kept(queries)
        self.squares = np.square(self.queries).sum(1)

    def kept(self, centred: NDArray[np.float64]) -> NDArray[np.float64]:
        """What codes keep of centred vectors: all, or their principal components."""
        return centred if self.components is None else centred @ self.components.T.astype(np.float64)

    def centred(self, x: NDArray[Any], what: str, first: int) -> NDArray[np.float64]:
        y = float64_rows(x, what, first)
        y = (unit_or_nan(y) if self.metric == "cosine" else y) - self.mean
        lengths = np.square(y).sum(1)
        none = ~(lengths > 0) if self.metric == "hamming" else ~np.isfinite(lengths)
        if none.any():
            row = first + int(none.argmax())
            raise HypersignError(
                f"{what} {row} is zero, or the mean, and has no angle to others; leave such vectors out"
            )
        return np.asarray(y)

    def products(
        self,
        products: NDArray[np.float64],
        x: NDArray[np.float64],
        kept: NDArray[np.float64],
        queries: slice | NDArray[np.int64] = slice(None),
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Scores, variance units and cosines of vectors x, of which codes keep `kept`, by the products of that."""
        both = self.squares[queries, None] * np.square(kept).sum(-1)
        cosines = np.clip(products / np.sqrt(np.maximum(both, 1e-300)), -1, 1)
        units = np.maximum(both - np.square(products), 0)
        if self.metric == "hamming":
            return np.arccos(cosines) / np.pi, units, cosines
        if self.metric == "euclidean":
            return self.whole[queries, None] + np.square(x).sum(-1) - 2 * products, 4 * units, cosines
        return -products - x @ self.mean, units, cosines


def measure_scores(
    sample: Sample, metric: str, share: float, components: NDArray[np.float32] | None
) -> ExpectedScores:
    """The scores that codes of a metric and centre would have on average, for all vectors; they are read once."""
    frame = _Frame(sample, metric, share, components)
    q, count = frame.queries, len(sample.queries)
    flat = np.unique(sample.nearest)
    near_true = frame.centred(np.asarray(sample.vectors[flat]), "row", 0)
    places = np.searchsorted(flat, sample.nearest)
    kept = frame.kept(near_true)[places]
    of_true, true_units, _ = frame.products(np.einsum("qd,qjd->qj", q, kept), near_true[places], kept)
    true = np.where(sample.true, of_true, np.nan)
    low, high = np.nanmin(true, axis=1), np.nanmax(true, axis=1)
    deviation = np.sqrt(np.mean(true_units, axis=1)) if metric != "hamming" else np.full(count, 0.5)
    middle, width = (low + high) / 2, (high - low) / 2 + 0.1 * deviation / np.sqrt(max(q.shape[1], 8)) + 1e-300

    def bin_of(values: NDArray[np.float64]) -> NDArray[np.int64]:
        z = (values - middle[:, None]) / width[:, None]
        return np.minimum(((z / (1 + np.abs(z)) + 1) * (BINS / 2)).astype(np.int64), BINS - 1)

    sums = np.zeros((3, count * BINS))
    groups = _Groups(count)
    angles = np.zeros(3)
    offset = (np.arange(count) * BINS)[:, None]
    for start, block in pieces(sample.vectors, count):
        y = frame.centred(block, "row", start)
        kept = frame.kept(y)
        scores, units, _ = frame.products(q @ kept.T, y, kept)
        bins = bin_of(scores) + offset
        weights = np.ones(scores.shape)
        if sample.rows is not None:
            own = np.flatnonzero((start <= sample.rows) & (sample.rows < start + len(block)))
            weights[own, sample.rows[own] - start] = 0
        for total, values in zip(sums, (weights, weights * scores, weights * units), strict=True):
            total += np.bincount(bins.ravel(), values.ravel(), count * BINS)
        degrees = 180 * scores
        angles += weights.sum(), (weights * degrees).sum(), (weights * np.square(degrees)).sum()
        groups.add(np.where(weights > 0, scores, np.inf), units, row_keys(block), start)
    counts, scores, units = sums.reshape(3, count, BINS)
    at_least_one = np.maximum(counts, 1)
    other_groups, copies = groups.other_groups(sample, counts, bin_of)
    return ExpectedScores(
        counts,
        scores / at_least_one,
        units / at_least_one,
        of_true,
        true_units,
        copies,
        other_groups,
        noise_sample_of(sample, frame, groups),
        angles,
    )


class _Groups:
    """The groups of equal vectors with the lowest scores of each query."""

    def __init__(self, count: int) -> None:
        self.scores = np.full((count, GROUPS), np.inf)
        self.units = np.zeros((count, GROUPS))
        self.sizes = np.zeros((count, GROUPS))
        self.keys = np.zeros((count, GROUPS), np.uint64)
        self.rows = np.zeros((count, GROUPS), np.int64)

    def found(self) -> int:
        """Groups that every query has."""
        return int((self.scores < np.inf).sum(1).min())

    def add(
        self, scores: NDArray[np.float64], units: NDArray[np.float64], keys: NDArray[np.uint64], start: int
    ) -> None:
        """Adds vectors, whose scores and units (q, rows) and keys (rows,) are given."""
        alike = len(np.unique(keys)) < len(keys)
        for i, row in enumerate(scores):
            better = np.flatnonzero((row <= self.scores[i, -1]) & (row < np.inf))
            if not len(better):
                continue
            most = GROUPS if not alike else 16 * GROUPS
            if len(better) > most:
                better = better[np.argpartition(row[better], most)[:most]]
            there = self.scores[i] < np.inf
            all_keys = np.concatenate([self.keys[i][there], keys[better]])
            unique, first, places = np.unique(all_keys, return_index=True, return_inverse=True)
            sizes = np.bincount(places, np.concatenate([self.sizes[i][there], np.ones(len(better))]), len(unique))
            values = [
                np.concatenate([old[i][there], new])[first]
                for old, new in (
                    (self.scores, row[better]),
                    (self.units, units[i, better]),
                    (self.rows, start + better),
                )
            ]
            order = np.argsort(values[0], kind="stable")[:GROUPS]
            used = slice(0, len(order))
            for kept, new in zip((self.scores, self.units, self.rows), values, strict=True):
                kept[i, used] = new[order]
            self.keys[i, used], self.sizes[i, used] = unique[order], sizes[order]

    def other_groups(
        self, sample: Sample, counts: NDArray[np.float64], bin_of: Callable[[NDArray[np.float64]], NDArray[np.int64]]
    ) -> tuple[OtherGroups, NDArray[np.float64]]:
        """The groups without true neighbours, and the sizes of the groups of `Sample.nearest`."""
        there = self.scores < np.inf
        places = bin_of(np.where(there, self.scores, 0))
        outside = counts.copy()
        np.subtract.at(outside, (np.arange(len(outside))[:, None], places), np.where(there, self.sizes, 0))
        same = (self.keys[:, None] == sample.keys[:, :, None]) & there[:, None]
        # A true neighbour far down the list by score counts with the copies among the nearest.
        listed = (sample.keys[:, :, None] == sample.keys[:, None]).sum(2)
        copies = np.where(same.any(2), (same * self.sizes[:, None]).sum(2), listed)
        rival = there & ~(same & sample.true[:, :, None]).any(1)
        sizes = np.where(rival, self.sizes, 0)
        repeated = (self.sizes > 1).any(1) | (sample.true.sum(1) > sample.k)
        return OtherGroups(
            np.where(there, self.scores, 0), self.units, sizes, np.maximum(outside, 0), repeated
        ), copies


def noise_sample_of(sample: Sample, frame: _Frame, groups: _Groups) -> NoiseSample:
    """Each nearest group stands for itself; random vectors that are in none of them stand for all others."""
    n, kept = len(sample.vectors), min(NEAR, groups.found())
    some = np.unique(np.linspace(0, len(groups.rows) - 1, min(NOISE_QUERIES, len(groups.rows))).astype(np.int64))
    common = np.unique(np.linspace(0, n - 1, min(FAR, n)).astype(np.int64))
    near = groups.rows[some, :kept]
    rows = np.concatenate([near, np.broadcast_to(common, (len(some), len(common)))], axis=1)
    flat, places = np.unique(rows, return_inverse=True)
    places = places.reshape(rows.shape)
    read = np.asarray(sample.vectors[flat])
    keys = row_keys(read)[places]
    y = frame.centred(read, "row", 0)
    left = frame.kept(y)
    directions = (left / np.sqrt(np.maximum(np.square(left).sum(1), 1e-300))[:, None])[places]
    y, left, q = y[places], left[places], frame.queries[some]
    scores, units, cosines = frame.products(np.einsum("qd,qjd->qj", q, left), y, left, some)
    apart = ~(keys[:, kept:, None] == keys[:, None, :kept]).any(2)
    if sample.rows is not None:
        apart &= common != sample.rows[some][:, None]
    sizes = groups.sizes[some, :kept]
    others = np.maximum(n - (sample.rows is not None) - sizes.sum(1), 0) / np.maximum(apart.sum(1), 1)
    stands = np.concatenate([sizes, apart * others[:, None]], axis=1)
    between = np.clip(directions @ directions.transpose(0, 2, 1), -1, 1)
    return NoiseSample(some, scores, units, cosines, stands, between, keys[:, :, None] != keys[:, None])
