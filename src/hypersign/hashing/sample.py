"""Queries, and their true neighbours among all vectors: what predictions of recall begin with."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hypersign._checks import HypersignError, check_choice, check_int
from hypersign.hashing.index import differences
from hypersign.hashing.stored import AnyVectors, as_vectors, read_blocks

__all__ = ["Sample", "float64_rows", "pieces", "row_keys", "sampled", "unit_or_nan"]

METRICS = ("euclidean", "cosine", "inner_product")
"""Metrics of the true neighbours."""

PAIRS = 1 << 20
"""Pairs of queries and vectors that are compared at a time."""

ALIKE = 1e-9
"""Relative difference up to which two distances are equal."""


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


def _means(vectors: AnyVectors) -> dict[str, NDArray[np.float64]]:
    """The mean of the vectors, and the mean of the vectors scaled to length 1 (NaN if one is zero)."""
    total, units = np.zeros((2, vectors.shape[1]))
    for first, block in read_blocks(vectors):
        x = float64_rows(block, "row", first)
        total += x.sum(0)
        units += unit_or_nan(x).sum(0)
    return {"": total / len(vectors), "cosine": units / len(vectors)}


def float64_rows(x: NDArray[Any], what: str, first: int = 0) -> NDArray[np.float64]:
    """Rows in float64; refuses those with NaN or inf, and rows too long to be squared. Errors name the row."""
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


def unit_or_nan(x: NDArray[np.float64]) -> NDArray[np.float64]:
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


def pieces(vectors: AnyVectors, queries: int) -> Iterator[tuple[int, NDArray[Any]]]:
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
    q = differences(queries, origin) if metric == "euclidean" else float64_rows(queries, "query")
    q = unit_or_nan(q) if metric == "cosine" else q
    kept = min(2 * k + 16, len(vectors) - (rows is not None))
    distances, indices = np.full((len(q), kept), np.inf), np.empty((len(q), kept), np.int64)
    scale = np.zeros(len(q))
    for start, block in pieces(vectors, len(q)):
        if metric == "euclidean":
            x = differences(block, origin)
            lengths = np.square(q).sum(1)[:, None] + np.square(x).sum(1)
            found = lengths - 2 * q @ x.T
            scale = np.maximum(scale, lengths.max(1))
        else:
            x = unit_or_nan(block.astype(np.float64)) if metric == "cosine" else block.astype(np.float64)
            found = -(q @ x.T)
            scale = np.maximum(scale, np.linalg.norm(q, axis=1) * np.linalg.norm(x, axis=1).max())
        if metric == "cosine" and not np.isfinite(found).all():
            raise HypersignError("a vector or a query is zero and has no cosine; leave such vectors out")
        if rows is not None:
            own = np.flatnonzero((start <= rows) & (rows < start + len(block)))
            found[own, rows[own] - start] = np.inf
        _keep_least(distances, indices, found, start)
    return indices, distances <= distances[:, k - 1 : k] + (ALIKE * scale)[:, None]
