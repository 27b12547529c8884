"""The recall of codes, predicted from a sample of queries before anything is hashed.

A code gives each vector a score that is right on average and noisy:

    sign codes, Hamming distance h of m bits: h/m    mean theta/pi, std `orthogonal_hash_angle_std`
    level codes, estimate of |x - q|^2, ...          mean as exact, std |x'| |q'| sin(theta) sqrt(v/(n - 1))

theta is the angle between the centred x' and q', n the dimension of the rotation, and v = 1/cos^2 - 1 for the cosine
between a vector and its code. A true neighbour is a candidate if fewer than factor k vectors have lower scores. The
scores of all vectors come from the sample's distances: exactly for the true neighbours, as a histogram for others.

Three things make it hold. The scores of one query share part of their noise, which moves all alike and changes no
order; it is left out (`_shared`). The number of vectors ahead is the sum of many events, some nearly certain: it gets
its own mean and variance (a shifted Poisson distribution). Equal vectors have equal codes, so they count together.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from hypersign import _defaults, theory
from hypersign._checks import HypersignError, check_choice, check_int
from hypersign.bits.levels import LEVELS, LevelCode
from hypersign.hashing.hasher import MOST_BITS, SignHasher, check_share
from hypersign.hashing.index import differences
from hypersign.hashing.levels import UNIT, encode
from hypersign.hashing.stored import AnyVectors, as_vectors, read_blocks

__all__ = ["Angles", "Prediction", "Sample", "crowd_of", "predict", "predicted_recall", "recall_by_query", "sampled"]

METRICS = ("euclidean", "cosine", "inner_product")
"""Metrics of the true neighbours."""

BINS = 160
"""Bins of a query's histogram of scores; they are narrow near the true neighbours and wide far away."""

GRID = 28
"""Scores at which the vectors ahead are counted, from the lowest that a true neighbour may have to the highest."""

QUANTILES = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Quantiles that stand for the distribution of a threshold."""

GROUPS = 96
"""Groups of equal vectors that are known for each query: those with the lowest scores."""

DRAWS = 32
"""Draws of the scores of groups of equal vectors."""

NEAR, FAR = 64, 64
"""Vectors on which shared noise is measured: those with the lowest scores of a query, and random ones."""

PAIRS = 1 << 20
"""Pairs of queries and vectors that are compared at a time."""

COMPANY = 40
"""Queries for which shared noise is measured."""

ALIKE = 1e-9
"""Relative difference up to which two distances are equal."""


@dataclasses.dataclass(frozen=True)
class Angles:
    """Angles in degrees: `mean` and `std`."""

    mean: float
    std: float


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Predicted recall of one kind of codes.

    Attributes: `recall`, by rescoring factor; `standard_error`, over the queries, by rescoring factor (NaN for one
    query).
    """

    recall: dict[int, float]
    standard_error: dict[int, float]


@dataclasses.dataclass(frozen=True)
class Sample:
    """Queries and their true neighbours among all vectors: what every prediction begins with.

    Attributes:
        vectors: all vectors, (n, d).
        queries: shape (q, d).
        rows: rows of the queries among the vectors, or None. A query is not its own neighbour.
        k: number of neighbours that count.
        metric: metric of the true neighbours.
        nearest: the nearest vectors, in order, int64 (q, k or more). At equal distances the lower index comes first.
        true: which of them are no farther than the k-th one; each of these is a hit.
        keys: a number for each of `nearest`; equal vectors have equal numbers.
        group: number of the first of `nearest` that is the same vector, int64 (q, k or more).
        means: the mean of the vectors, and of the vectors scaled to length 1.
    """

    vectors: AnyVectors
    queries: NDArray[Any]
    rows: NDArray[np.int64] | None
    k: int
    metric: str
    nearest: NDArray[np.int64]
    true: NDArray[np.bool_]
    keys: NDArray[np.uint64]
    group: NDArray[np.int64]
    means: dict[str, NDArray[np.float64]]


@dataclasses.dataclass(frozen=True)
class _Code:
    """What a prediction knows of codes: metric, bits per component, components kept, dimension of the rotation."""

    metric: str
    bits: float
    count: int
    size: int


@dataclasses.dataclass(frozen=True)
class _Crowd:
    """Mean scores of codes, for each query.

    Attributes:
        counts, scores, units: histogram (q, BINS): number of vectors, mean score, mean variance unit.
        of_true, true_units: scores and units of `Sample.nearest`.
        copies: how many vectors equal each of `Sample.nearest`, itself included.
        rivals: for each query, groups of equal vectors that are nearest by score and no true neighbours.
        company: for some queries, the scores, units, cosines, weights and mutual cosines of near and random vectors.
        angles: sum of the angles to all vectors, of their squares, and their number.
    """

    counts: NDArray[np.float64]
    scores: NDArray[np.float64]
    units: NDArray[np.float64]
    of_true: NDArray[np.float64]
    true_units: NDArray[np.float64]
    copies: NDArray[np.float64]
    rivals: "_Rivals"
    company: "_Company"
    angles: NDArray[np.float64]

    def nearest_angles(self, sample: Sample) -> Angles:
        """Angles between queries and their k true neighbours, of sign codes."""
        degrees = 180 * self.of_true[:, : sample.k]
        return Angles(float(degrees.mean()), float(degrees.std()))

    def all_angles(self) -> Angles:
        """Angles between queries and all vectors, of sign codes."""
        count, total, squares = self.angles
        return Angles(float(total / count), float(np.sqrt(max(squares / count - (total / count) ** 2, 0))))


@dataclasses.dataclass(frozen=True)
class _Rivals:
    """Groups of equal vectors: mean scores, variance units, sizes, (q, groups); `outside`, the histogram of all other
    vectors, (q, BINS); `repeated`, the queries with equal vectors or with true neighbours at equal distances."""

    scores: NDArray[np.float64]
    units: NDArray[np.float64]
    sizes: NDArray[np.float64]
    outside: NDArray[np.float64]
    repeated: NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class _Company:
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
        """`_covariances`, over the deviations."""
        p = np.arccos(self.cosines) / np.pi
        deviations = np.sqrt(p * (1 - p))
        covariance, quadratic = _covariances(self.cosines, self.between)
        return tuple(_over(part, deviations) for part in (covariance, quadratic))  # type: ignore[return-value]

    @functools.cached_property
    def products(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """What multiplies the kernel of level codes and its derivative, over the sines."""
        i, j, e = self.cosines[:, :, None], self.cosines[:, None, :], self.between
        sines = np.sqrt(1 - np.square(self.cosines))
        return (
            _over(1 - np.square(i) - np.square(j) + i * j * e, sines),
            _over((j - i * e) * (i - j * e), sines),
        )

    @functools.cached_property
    def arcs(self) -> NDArray[np.float64]:
        """Arc sines of the mutual cosines."""
        return np.arcsin(self.between)


def predicted_recall(
    vectors: AnyVectors | ArrayLike,
    hashers: Sequence[SignHasher],
    *,
    queries: ArrayLike | None = None,
    k: int = _defaults.NEIGHBOURS,
    factors: Sequence[int] = (1,),
    metric: str = "euclidean",
    sample: int = _defaults.PLAN_QUERIES,
    seed: int = 0,
) -> list[Prediction]:
    """Predicts the recall@k of codes of any kind, without hashing.

        recall = mean over queries of min(k, hits)/k

    A hit is a vector no farther than the k-th true neighbour, among the factor * k vectors with the lowest scores.

    Args:
        vectors: shape (n, d); may be a file (`open_vectors`).
        hashers: what makes the codes; they need not be fitted. Their seeds have no effect.
        queries: shape (q, d). By default random rows of `vectors`; a row is not its own neighbour.
        k: number of neighbours that count.
        factors: rescoring factors: candidates per neighbour.
        metric: metric of the true neighbours: "euclidean", "cosine" or "inner_product".
        sample: number of queries to draw.
        seed: seed of the draws.

    Returns a prediction for each hasher.

    Raises:
        HypersignError: there are fewer than k + 2 vectors, a vector has no direction from the mean (sign codes) or
            from 0 (cosine), or an option is out of range.

    Source: derived here; the noise of level codes is that of Gao & Long 2024, "RaBitQ" (arXiv 2405.12497).

    >>> x = np.random.default_rng(0).standard_normal((2000, 32))
    >>> (found,) = predicted_recall(x, [SignHasher(128)], factors=(1, 8), sample=50)
    >>> round(found.recall[1], 1), round(found.recall[8], 1)
    (0.3, 0.8)
    """
    start = sampled(vectors, queries, k, metric, sample, seed)
    crowds: dict[Any, _Crowd] = {}
    return [predict(start, hasher, factors, crowds) for hasher in hashers]


def predict(sample: Sample, hasher: SignHasher, factors: Sequence[int], crowds: dict[Any, _Crowd]) -> Prediction:
    """The prediction for a hasher's codes. `crowds` keeps what hashers of one metric and centre have in common."""
    by_query = recall_by_query(sample, hasher, factors, crowds)
    return Prediction(
        {f: float(values.mean()) for f, values in by_query.items()},
        {f: _standard_error(values) for f, values in by_query.items()},
    )


def recall_by_query(
    sample: Sample, hasher: SignHasher, factors: Sequence[int], crowds: dict[Any, _Crowd]
) -> dict[int, NDArray[np.float64]]:
    """The expected recall of each query, shape (q,), by rescoring factor."""
    code = _code(hasher, sample.queries.shape[1])
    crowd, model = crowd_of(sample, code.metric, check_share(hasher.center), crowds), _Noise(code)
    total = len(sample.vectors) - (sample.rows is not None)
    correlation = np.where(crowd.company.differ, model.correlation(crowd.company), 0)
    found = {}
    for factor in factors:
        wanted = check_int("factors", factor, min=1, max=MOST_BITS) * sample.k
        if wanted >= total:
            found[factor] = np.ones(len(sample.queries))  # every vector is a candidate
            continue
        shared = _shared(crowd, model, correlation, wanted)
        found[factor] = _recall(sample, crowd, model, shared, wanted)
    return found


def crowd_of(sample: Sample, metric: str, share: float, crowds: dict[Any, _Crowd]) -> _Crowd:
    """The scores of codes of a metric and centre, from `crowds` or measured and kept there."""
    if (metric, share) not in crowds:
        crowds[metric, share] = _meet(sample, metric, share)
    return crowds[metric, share]


def sampled(
    vectors: AnyVectors | ArrayLike, queries: ArrayLike | None, k: int, metric: str, sample: int, seed: int
) -> Sample:
    """Draws queries and finds their true neighbours; all vectors are read, block by block."""
    vectors = as_vectors(vectors)
    if vectors.ndim != 2:
        raise HypersignError(f"vectors must be of shape (n, dimension); got {vectors.shape}")
    check_int("k", k, min=1)
    check_choice("metric", metric, METRICS)
    random = np.random.default_rng(check_int("seed", seed, min=0))
    if len(vectors) < k + 2:
        raise HypersignError(f"{k} neighbours of a query need at least {k + 2} vectors; got {len(vectors)}")
    n, d = vectors.shape
    rows = None
    if queries is None:
        rows = np.sort(random.choice(n, min(check_int("sample", sample, min=1), n), replace=False))
        queries = vectors[rows]
    asked = np.asarray(queries)
    if asked.ndim != 2 or not len(asked) or asked.shape[1] != d:
        raise HypersignError(f"queries must be of shape (q, {d}); got {asked.shape}")
    means = _means(vectors)
    nearest, true = _true_neighbours(vectors, asked, rows, k, metric)
    flat, places = np.unique(nearest, return_inverse=True)
    keys = row_keys(np.asarray(vectors[flat]))[places.reshape(nearest.shape)]
    # The first entry of a row that has the same key stands for its group.
    group = (keys[:, :, None] == keys[:, None]).argmax(2)
    return Sample(vectors, asked, rows, k, metric, nearest, true, keys, group, means)


def _standard_error(values: NDArray[np.float64]) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def _code(hasher: SignHasher, dimension: int) -> _Code:
    """The kind of codes that a hasher makes of vectors of this dimension."""
    hasher.check_options(dimension)
    if hasher.rotation is None:
        raise HypersignError("predictions need a hasher with a random rotation; this one has none")
    # Without options of one kind of codes alone, so that no vector need be read.
    made = SignHasher(**(hasher.get_params() | {"output": "packed"})).restore(np.zeros(dimension))
    level = made.level_code_
    return _Code(made.metric_, level.bits if level else 1, level.count if level else made.bits_, made.size())


def _means(vectors: AnyVectors) -> dict[str, NDArray[np.float64]]:
    """The mean of the vectors, and the mean of the vectors scaled to length 1 (NaN if one is zero)."""
    total, units = np.zeros((2, vectors.shape[1]))
    for first, block in read_blocks(vectors):
        x = _finite(block, "row", first)
        total += x.sum(0)
        units += _unit(x).sum(0)
    return {"": total / len(vectors), "cosine": units / len(vectors)}


def _finite(x: NDArray[Any], what: str, first: int = 0) -> NDArray[np.float64]:
    if x.dtype.kind not in "iubf":
        raise HypersignError(f"vectors must be real numbers; got {x.dtype}")
    y = x.astype(np.float64)
    with np.errstate(over="ignore"):
        finite = np.isfinite(np.square(y).sum(1)) if y.dtype.kind == "f" else np.ones(len(y), bool)
    if not finite.all():
        row = int(finite.argmin())
        bad = np.flatnonzero(~np.isfinite(y[row]))
        where = (
            f"{'NaN' if np.isnan(y[row, bad[0]]) else 'inf'} in {what} {first + row}, column {bad[0]}"
            if len(bad)
            else (f"{what} {first + row}, which is too long for float64")
        )
        raise HypersignError(f"vectors must be finite; got {where}; leave such vectors out")
    return y


def _unit(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows over their lengths; NaN for a row of zeros."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True))


def row_keys(x: NDArray[Any]) -> NDArray[np.uint64]:
    """A hash of 64 bits for each row; equal rows have equal hashes, and others nearly never."""
    x = np.ascontiguousarray(x) + x.dtype.type(0)  # -0 becomes 0
    rows = x.view(np.uint8).reshape(len(x), -1)
    padded = np.zeros((len(x), -(-rows.shape[1] // 8) * 8), np.uint8)
    padded[:, : rows.shape[1]] = rows
    numbers = padded.view(np.uint64)
    factors = np.random.default_rng(0).integers(0, 2**63, numbers.shape[1], np.uint64) * np.uint64(2) + np.uint64(1)
    mixed = (numbers ^ (numbers >> np.uint64(29))) * factors
    return np.asarray((mixed ^ (mixed >> np.uint64(32))).sum(1, dtype=np.uint64))


def _pieces(vectors: AnyVectors, queries: int) -> Iterator[tuple[int, NDArray[Any]]]:
    """Blocks of rows that are small beside all queries, each with the number of its first row."""
    rows = max(64, PAIRS // queries)
    for first, block in read_blocks(vectors):
        for start in range(0, len(block), rows):
            yield first + start, block[start : start + rows]


def _keep_least(
    least: NDArray[np.float64], indices: NDArray[np.int64], values: NDArray[np.float64], start: int
) -> None:
    """Merges each row of `values`, whose first index is `start`, into the sorted row of `least` and its `indices`."""
    for i, row in enumerate(values):
        better = np.flatnonzero(row < least[i, -1])
        if not len(better):
            continue
        both = np.concatenate([least[i], row[better]])
        order = np.argsort(both, kind="stable")[: len(least[i])]
        least[i], indices[i] = both[order], np.concatenate([indices[i], start + better])[order]


def _true_neighbours(
    vectors: AnyVectors, queries: NDArray[Any], rows: NDArray[np.int64] | None, k: int, metric: str
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The nearest vectors of each query, itself left out, and which are no farther than the k-th."""
    # Distances from each other do not change where all are seen from the first, and squares are smaller there.
    origin = np.asarray(vectors[0])
    q = differences(queries, origin) if metric == "euclidean" else _finite(queries, "query")
    q = _unit(q) if metric == "cosine" else q
    kept = min(2 * k + 16, len(vectors) - (rows is not None))
    distances, indices = np.full((len(q), kept), np.inf), np.empty((len(q), kept), np.int64)
    scale = np.zeros(len(q))
    for start, block in _pieces(vectors, len(q)):
        if metric == "euclidean":
            x = differences(block, origin)
            lengths = np.square(q).sum(1)[:, None] + np.square(x).sum(1)
            found = lengths - 2 * q @ x.T
            scale = np.maximum(scale, lengths.max(1))
        else:
            x = _unit(block.astype(np.float64)) if metric == "cosine" else block.astype(np.float64)
            found = -(q @ x.T)
            scale = np.maximum(scale, np.linalg.norm(q, axis=1) * np.linalg.norm(x, axis=1).max())
        if metric == "cosine" and not np.isfinite(found).all():
            raise HypersignError("a vector or a query is zero and has no cosine; leave such vectors out")
        if rows is not None:
            own = np.flatnonzero((start <= rows) & (rows < start + len(block)))
            found[own, rows[own] - start] = np.inf
        _keep_least(distances, indices, found, start)
    return indices, distances <= distances[:, k - 1 : k] + (ALIKE * scale)[:, None]


class _Frame:
    """Scores and variance units of vectors for the codes of one metric and centre."""

    def __init__(self, sample: Sample, metric: str, share: float) -> None:
        self.metric = metric
        self.mean = share * sample.means["cosine" if metric == "cosine" else ""]
        self.queries = self.centred(sample.queries, "query", 0)
        self.squares = np.square(self.queries).sum(1)

    def centred(self, x: NDArray[Any], what: str, first: int) -> NDArray[np.float64]:
        y = _finite(x, what, first)
        y = (_unit(y) if self.metric == "cosine" else y) - self.mean
        lengths = np.square(y).sum(1)
        none = ~(lengths > 0) if self.metric == "hamming" else ~np.isfinite(lengths)
        if none.any():
            row = first + int(none.argmax())
            raise HypersignError(
                f"{what} {row} is zero, or the mean, and has no angle to others; leave such vectors out"
            )
        return np.asarray(y)

    def products(
        self, products: NDArray[np.float64], x: NDArray[np.float64], squares: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Scores, variance units and cosines of vectors x by their products with queries, whose squares are given."""
        lengths = np.square(x).sum(-1)
        both = squares * lengths
        cosines = np.clip(products / np.sqrt(np.maximum(both, 1e-300)), -1, 1)
        units = np.maximum(both - np.square(products), 0)
        if self.metric == "hamming":
            return np.arccos(cosines) / np.pi, units, cosines
        if self.metric == "euclidean":
            return squares + lengths - 2 * products, 4 * units, cosines
        return -products - x @ self.mean, units, cosines


def _meet(sample: Sample, metric: str, share: float) -> _Crowd:
    """The scores that codes of a metric and centre would have on average, for all vectors; they are read once."""
    frame = _Frame(sample, metric, share)
    q, count = frame.queries, len(sample.queries)
    flat = np.unique(sample.nearest)
    near_true = frame.centred(np.asarray(sample.vectors[flat]), "row", 0)
    x = near_true[np.searchsorted(flat, sample.nearest)]
    of_true, true_units, _ = frame.products(np.einsum("qd,qjd->qj", q, x), x, frame.squares[:, None])
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
    for start, block in _pieces(sample.vectors, count):
        y = frame.centred(block, "row", start)
        scores, units, _ = frame.products(q @ y.T, y, frame.squares[:, None])
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
    rivals, copies = groups.rivals(sample, counts, bin_of)
    return _Crowd(
        counts,
        scores / at_least_one,
        units / at_least_one,
        of_true,
        true_units,
        copies,
        rivals,
        _company(sample, frame, groups),
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

    def rivals(
        self, sample: Sample, counts: NDArray[np.float64], bin_of: Callable[[NDArray[np.float64]], NDArray[np.int64]]
    ) -> tuple[_Rivals, NDArray[np.float64]]:
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
        return _Rivals(np.where(there, self.scores, 0), self.units, sizes, np.maximum(outside, 0), repeated), copies


def _company(sample: Sample, frame: _Frame, groups: _Groups) -> _Company:
    """Each nearest group stands for itself; random vectors that are in none of them stand for all others."""
    n, kept = len(sample.vectors), min(NEAR, groups.found())
    some = np.unique(np.linspace(0, len(groups.rows) - 1, min(COMPANY, len(groups.rows))).astype(np.int64))
    common = np.unique(np.linspace(0, n - 1, min(FAR, n)).astype(np.int64))
    near = groups.rows[some, :kept]
    rows = np.concatenate([near, np.broadcast_to(common, (len(some), len(common)))], axis=1)
    flat, places = np.unique(rows, return_inverse=True)
    places = places.reshape(rows.shape)
    read = np.asarray(sample.vectors[flat])
    keys = row_keys(read)[places]
    y = frame.centred(read, "row", 0)
    directions = (y / np.sqrt(np.maximum(np.square(y).sum(1), 1e-300))[:, None])[places]
    y, q = y[places], frame.queries[some]
    scores, units, cosines = frame.products(np.einsum("qd,qjd->qj", q, y), y, frame.squares[some][:, None])
    apart = ~(keys[:, kept:, None] == keys[:, None, :kept]).any(2)
    if sample.rows is not None:
        apart &= common != sample.rows[some][:, None]
    sizes = groups.sizes[some, :kept]
    others = np.maximum(n - (sample.rows is not None) - sizes.sum(1), 0) / np.maximum(apart.sum(1), 1)
    stands = np.concatenate([sizes, apart * others[:, None]], axis=1)
    between = np.clip(directions @ directions.transpose(0, 2, 1), -1, 1)
    return _Company(some, scores, units, cosines, stands, between, keys[:, :, None] != keys[:, None])


class _Noise:
    """Variance and covariance of the scores of codes of one kind."""

    def __init__(self, code: _Code) -> None:
        self.code = code
        self.sign = code.metric == "hamming"
        if self.sign:
            self._angles, self._variances = _sign_variances(code.count, code.size)
        else:
            kept = min(code.count / code.size, 1)
            self.excess = _excess(code.bits) / kept + (1 - kept) / kept  # 1/cos^2 - 1 of a vector and its code

    def variance(self, scores: NDArray[np.float64], units: NDArray[np.float64]) -> NDArray[np.float64]:
        """Variance of scores, by their means and units."""
        if self.sign:
            return np.interp(scores, self._angles, self._variances)
        return units * (self.excess / max(self.code.size - 1, 1))

    def base(self, scores: NDArray[np.float64], units: NDArray[np.float64]) -> NDArray[np.float64]:
        """The variance that correlations refer to: that of independent rows."""
        return scores * (1 - scores) / self.code.count if self.sign else self.variance(scores, units)

    def correlation(self, company: _Company) -> NDArray[np.float64]:
        """Correlation of the scores of two vectors with one query: (queries, vectors, vectors)."""
        if self.sign:
            covariance, quadratic = company.signs
            return covariance - _orthogonality(self.code.count, self.code.size) * quadratic
        kernel, slope = _kernel(self.code, company)
        first, second = company.products
        return (first * kernel + second * slope) / self.excess


def _over(values: NDArray[np.float64], deviations: NDArray[np.float64]) -> NDArray[np.float64]:
    """Covariances over the deviations of both; 0 where one has none."""
    inverse = np.where(deviations > 1e-5, 1 / np.maximum(deviations, 1e-5), 0)
    return values * inverse[:, :, None] * inverse[:, None]


def _recall(sample: Sample, crowd: _Crowd, model: _Noise, shared: float, wanted: int) -> NDArray[np.float64]:
    """Expected recall of each query among `wanted` candidates."""
    repeated = crowd.rivals.repeated
    found = np.empty(len(repeated))
    for chosen, recall in ((~repeated, _recall_of_single), (repeated, _recall_of_groups)):
        rows = np.flatnonzero(chosen)
        if len(rows):
            found[rows] = recall(sample, crowd, model, shared, wanted, rows)
    return found


def _recall_of_single(
    sample: Sample, crowd: _Crowd, model: _Noise, shared: float, wanted: int, rows: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Of queries with k true neighbours and no equal vectors nearby.

    A neighbour is found if its score is below a threshold: the score below which `wanted` other vectors are. It has a
    narrow distribution.
    """
    most = int(sample.true[rows].sum(1).max())
    there, means = sample.true[rows, :most], crowd.of_true[rows, :most]
    deviations = np.sqrt(_own(model, means, crowd.true_units[rows, :most], shared))
    own = _own(model, crowd.scores[rows], crowd.units[rows], shared)
    low, high = (np.where(there, means + sign * 4 * deviations, np.nan) for sign in (-1, 1))
    grid, ahead, spread = _ahead(
        crowd.counts[rows], crowd.scores[rows], own, np.nanmin(low, axis=1), np.nanmax(high, axis=1)
    )
    uncertain = np.take_along_axis(spread / np.maximum(ahead, 1e-12), _first(ahead >= wanted)[:, None], 1)[:, 0]
    # A neighbour is not ahead of itself.
    others = ahead[:, None] - _below((grid[:, None] - means[:, :, None]) / deviations[:, :, None])
    logs = np.log(np.maximum(others, 1e-30))  # counts grow like exponentials
    hits = np.zeros(means.shape)
    for target in _thresholds(wanted, np.clip(uncertain, 0, 1)):
        right = np.maximum(_first(others >= target[:, None, None]), 1)[:, :, None]
        a, b = (np.take_along_axis(logs, right - back, 2)[:, :, 0] for back in (1, 0))
        part = np.clip((np.log(np.maximum(target, 1e-30))[:, None] - a) / np.maximum(b - a, 1e-12), 0, 1)
        left = np.take_along_axis(grid, right[:, :, 0] - 1, 1)
        threshold = left + part * (grid[:, 1] - grid[:, 0])[:, None]
        hits += special.ndtr((threshold - means) / deviations) / len(QUANTILES)
    return np.asarray(np.where(there, hits, 0).sum(1) / sample.k)


def _first(reached: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The first place of True in the last axis; the last place if there is none."""
    return np.where(reached.any(-1), reached.argmax(-1), reached.shape[-1] - 1)


def _thresholds(wanted: int, uncertain: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """For each quantile, the mean number of vectors ahead at which fewer than `wanted` are, with its probability.

    The number is shifted Poisson: `uncertain` is its variance over its mean.
    """
    ratios, table = _threshold_table(wanted)
    return [np.interp(uncertain, ratios, column) for column in table]


@functools.lru_cache(maxsize=64)
def _threshold_table(wanted: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    ratios = np.linspace(0.01, 1, 34)
    low, high = np.zeros((2, len(QUANTILES), len(ratios)))
    high += wanted + 12 * np.sqrt(wanted) + 12
    for _ in range(40):
        mean = (low + high) / 2
        variance = ratios * mean
        count = wanted - mean + variance
        fewer = np.where(count > 0, special.gammaincc(np.maximum(count, 1e-9), variance), 0)
        enough = fewer > np.array(QUANTILES)[:, None]
        low, high = np.where(enough, mean, low), np.where(enough, high, mean)
    return ratios, (low + high) / 2


def _recall_of_groups(
    sample: Sample, crowd: _Crowd, model: _Noise, shared: float, wanted: int, rows: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Of queries with equal vectors nearby, or with more than k true neighbours: a mean over drawn scores.

    Equal vectors are found together. Of vectors at equal distances, any will do.
    """
    random = np.random.default_rng(0)
    first = (sample.group[rows] == np.arange(sample.group.shape[1])) & sample.true[rows]
    order = np.argsort(~first, axis=1, kind="stable")[:, : int(first.sum(1).max())]
    there, means, units, sizes = (
        np.take_along_axis(x, order, 1)
        for x in (first, crowd.of_true[rows], crowd.true_units[rows], crowd.copies[rows])
    )
    sizes = np.where(there, sizes, 0)
    deviations = np.sqrt(_own(model, means, units, shared))
    s = means[:, :, None] + deviations[:, :, None] * random.standard_normal((*means.shape, DRAWS))
    rivals = crowd.rivals
    spread = np.sqrt(_own(model, rivals.scores[rows], rivals.units[rows], shared))
    others = rivals.scores[rows, :, None] + spread[:, :, None] * random.standard_normal((*spread.shape, DRAWS))
    own = _own(model, crowd.scores[rows], crowd.units[rows], shared)
    known = np.where(there[:, :, None], s, np.nan)
    grid, outside, _ = _ahead(
        rivals.outside[rows], crowd.scores[rows], own, np.nanmin(known, axis=(1, 2)), np.nanmax(known, axis=(1, 2))
    )
    outside = np.stack([np.interp(x, g, y) for x, g, y in zip(s, grid, outside, strict=True)])
    known = np.concatenate([rivals.sizes[rows], sizes], axis=1)
    clump = (np.square(known).sum(1) / np.maximum(known.sum(1), 1))[:, None, None]
    ahead = clump * random.poisson(np.minimum(outside / clump, 1e9))
    ahead += ((others[:, None] < s[:, :, None]) * rivals.sizes[rows][:, None, :, None]).sum(2)
    ahead += ((s[:, None] < s[:, :, None]) * sizes[:, None, :, None]).sum(2)
    hits = np.clip(wanted - ahead, 0, sizes[:, :, None]).sum(1)
    return np.asarray((np.minimum(hits, sample.k) / sample.k).mean(1))


def _own(
    model: _Noise, scores: NDArray[np.float64], units: NDArray[np.float64], shared: float
) -> NDArray[np.float64]:
    """Variance of scores without the part that all scores of a query share."""
    variance = model.variance(scores, units)
    return np.maximum(variance - shared * model.base(scores, units), 1e-3 * variance + 1e-300)


def _ahead(
    counts: NDArray[np.float64],
    scores: NDArray[np.float64],
    variance: NDArray[np.float64],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """A grid of scores, and the mean and variance of the number of vectors with lower ones, each (q, GRID)."""
    step = np.maximum((high - low) / (GRID - 1), 1e-300)
    grid = low[:, None] + step[:, None] * np.arange(GRID)
    below = _below((grid[:, :, None] - scores[:, None]) / np.sqrt(np.maximum(variance, 1e-300))[:, None])
    ahead = (below @ counts[:, :, None])[:, :, 0]
    return grid, ahead, ahead - (np.square(below, out=below) @ counts[:, :, None])[:, :, 0]


def _shared(crowd: _Crowd, model: _Noise, correlation: NDArray[np.float64], wanted: int) -> float:
    """The part of the variance that the scores of a query share, near the lowest `wanted` scores."""
    company = crowd.company
    own = model.variance(crowd.scores, crowd.units)[company.queries]
    counts, scores = crowd.counts[company.queries], crowd.scores[company.queries]
    limits = _limits(counts, scores, own, wanted)
    deviations = np.sqrt(np.maximum(model.variance(company.scores, company.units), 1e-300))
    weight = np.exp(-np.square((limits[:, None] - company.scores) / deviations) / 2) / deviations
    weight *= company.stands
    weight /= np.maximum(weight.sum(1, keepdims=True), 1e-300)
    total = np.einsum("qi,qi->", weight, (correlation @ weight[:, :, None])[:, :, 0])
    pairs = np.einsum("qi,qi->", weight, (company.differ @ weight[:, :, None])[:, :, 0])
    return float(np.clip(total / max(pairs, 1e-300), 0, 0.99))


def _below(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """P(normal < z) from a table, relative error below 1 %: there are many z."""
    z *= len(_NORMAL) / 16
    z += len(_NORMAL) / 2
    return _NORMAL[np.clip(z, 0, len(_NORMAL) - 1, out=z).astype(np.int64)]


_NORMAL = special.ndtr((np.arange(8192) + 0.5) / 512 - 8)


def _limits(
    counts: NDArray[np.float64], scores: NDArray[np.float64], variance: NDArray[np.float64], wanted: int
) -> NDArray[np.float64]:
    """The scores that `wanted` vectors do not exceed on average, by bisection."""
    deviations = np.sqrt(np.maximum(variance, 1e-300))
    there = counts > 0
    low = np.where(there, scores - 6 * deviations, np.inf).min(1)
    high = np.where(there, scores + 6 * deviations, -np.inf).max(1)
    for _ in range(16):
        middle = (low + high) / 2
        below = (counts * _below((middle[:, None] - scores) / deviations)).sum(1)
        low, high = np.where(below < wanted, middle, low), np.where(below < wanted, high, middle)
    return (low + high) / 2


@functools.lru_cache(maxsize=64)
def _sign_variances(m: int, size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Variance of the share of bits that differ, on a grid of shares theta/pi."""
    p = (1 - np.cos(np.linspace(0, np.pi, 65))) / 2
    if size < 3:
        return p, p * (1 - p) / m
    inner = np.square(theory.orthogonal_hash_angle_std(np.pi * p[1:-1], m, size) / np.pi)
    return p, np.concatenate([[0], inner, [0]])


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


def _orthogonality(m: int, size: int) -> float:
    # The factor 1 + 2/n is there because the rows are directions on a sphere.
    return (m - 1) * (1 + 2 / size) / max(size - 1, 1)


@functools.lru_cache(maxsize=8)
def _excess(bits: float) -> float:
    """1/cos^2 - 1 for a Gaussian vector and its levels, with the scale that `encode` chooses per vector."""
    if bits == 1:
        return np.pi / 2 - 1
    x = np.random.default_rng(0).standard_normal((128, 256))
    values = LEVELS[bits].astype(np.float64)[encode(x, LevelCode(bits, 256))]
    cosines = (x * values).sum(1) / np.sqrt(np.square(x).sum(1) * np.square(values).sum(1))
    return float(np.mean(1 / np.square(cosines)) - 1)


@functools.lru_cache(maxsize=8)
def _kernel_table(bits: float) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """E c(x) c(y)/k^2 and its derivative, for normal x and y of correlation sin t, by t; k = E x c(x).

        d/dt = (1/2 pi k^2) sum_ab jump_a jump_b exp(-(a^2 + b^2 - 2 a b sin t)/(2 cos^2 t)),   thresholds a, b

    Source: Plackett's identity for the bivariate normal.
    """
    levels = LEVELS[bits].astype(np.float64)
    limits, jumps = (levels[1:] + levels[:-1]) / 2 * UNIT[bits], np.diff(levels)
    mean = (jumps * np.exp(-np.square(limits) / 2)).sum() / np.sqrt(2 * np.pi)
    t = np.linspace(-np.pi / 2, np.pi / 2, 2049)
    a, b = limits[:, None, None], limits[None, :, None]
    cosines = np.maximum(np.cos(t), 1e-9)
    exponents = -(a**2 + b**2 - 2 * a * b * np.sin(t)) / (2 * cosines**2)
    rates = np.einsum("a,b,abt->t", jumps, jumps, np.exp(exponents)) / (2 * np.pi * mean**2)
    values = np.concatenate([[0], np.cumsum((rates[1:] + rates[:-1]) / 2 * (t[1] - t[0]))])
    values -= values[len(t) // 2]  # odd levels
    return t, values, rates / cosines


def _kernel(code: _Code, company: _Company) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Covariance of what two vectors' codes add to them, by the cosine between the vectors, and its derivative.

    Codes that keep m of n components count n/m times. The best scale per vector makes the codes a little better.
    """
    t, values, slopes = _kernel_table(code.bits)
    scale = (_excess(code.bits) + 1) / values[-1] / min(code.count / code.size, 1)
    at = np.rint((company.arcs + np.pi / 2) * ((len(t) - 1) / np.pi)).astype(np.int64)
    return scale * values[at] - company.between, scale * np.minimum(slopes, 1e3)[at] - 1
