"""Search: compares queries with codes, and rescores the nearest with the original vectors.

Distances ascend from the nearest for every metric: Hamming (bits that differ), Euclidean, cosine (1 - cosine), and
inner product, negated.
"""

import dataclasses
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hypersign import bits
from hypersign._checks import HypersignError, check_choice, check_int
from hypersign._display import shown
from hypersign._files import write_atomic
from hypersign._locks import writing_file
from hypersign.hashing.hasher import Queries, SignHasher
from hypersign.hashing.levels import LEVEL_METRICS, unit_rows
from hypersign.hashing.segments import MOST_ID, Segment, appended, check_ids, merged, ordered
from hypersign.hashing.stored import AnyVectors, block_rows
from hypersign.hashing.vectors import read_codes, write_codes

__all__ = ["HammingIndex", "Neighbours", "Within", "recall"]

_WRITING = threading.Lock()
"""Held while an index changes. It is no attribute, so that an index can be copied and pickled."""


@shown
@dataclasses.dataclass(frozen=True)
class Neighbours:
    """The k nearest vectors of each query, nearest first; at equal distances the lower id comes first.

    Attributes: `distances`, shape (q, k): number of differing bits (int32), or float64 in the metric of level codes
    or of rescoring: Euclidean distance, 1 - cosine, or the negated inner product; `indices`, their ids, int64 (q, k).
    """

    distances: NDArray[Any]
    indices: NDArray[np.int64]


@shown
@dataclasses.dataclass(frozen=True)
class Within:
    """All codes within a radius of each query, nearest first; at equal distances the lower id comes first.

    Attributes: `starts`, int64 (q + 1,); `indices`, ids, int64; `distances`, int32. Query i found
    `indices[starts[i]:starts[i + 1]]`, at the same places of `distances`.
    """

    starts: NDArray[np.int64]
    distances: NDArray[np.int32]
    indices: NDArray[np.int64]


class HammingIndex:
    """Codes, their ids, and the hasher that made them.

    Search compares each query with every sign code. A batch of queries may skip level codes that almost surely are
    not among the nearest, unless `exact=True` (`search`).

    Queries are vectors (q, dimension), which the index hashes, or another HammingIndex of the same hasher. With level
    codes queries are vectors, which stay real but for rounding to 8 bits; distances are estimates in the hasher's
    metric. Results name codes by id. At equal distances the lower id comes first, whatever the order in which codes
    were added.

    One thread may add and remove while others search: a search sees all changes that were complete when it began,
    and no others.

    Args:
        hasher: a fitted hasher.
        codes: its codes of the vectors: packed uint64 (n, words), or bits uint8 (n, bits); level codes uint8
            (n, bytes); also as a data frame. They may be mapped from a file. None makes an empty index.
        ids: int64 (n,), one per code, in any order; None numbers the codes 0 to n - 1.

    Attributes: `codes` and `ids`, both in the order of ids; `len()` is their number.

    Raises:
        HypersignError: the codes' width is not the hasher's; ids are not integers, or not unique. In searches: the
            queries have another dimension or another hasher, or k is larger than the number of codes.

    >>> x = np.random.default_rng(0).standard_normal((1000, 32))
    >>> hasher = SignHasher(bits=128).fit(x)
    >>> index = HammingIndex(hasher, hasher.transform(x))
    >>> index.search(x[7:8], k=1).indices.tolist()
    [[7]]
    """

    def __init__(self, hasher: SignHasher, codes: ArrayLike | None = None, ids: ArrayLike | None = None) -> None:
        empty = hasher.empty_codes(0)
        rows = empty if codes is None else np.asarray(codes)
        columns = hasher.level_code_ is None and rows.dtype == np.uint8 and rows.shape[1:] == (hasher.bits_,)
        if columns and not (rows > 1).any():
            rows = bits.pack(1 - rows, threshold=1) if len(rows) else empty
        if rows.dtype != empty.dtype or rows.ndim != 2 or rows.shape[1] != empty.shape[1]:
            signs = hasher.level_code_ is None
            or_bits = f", or zeros and ones in uint8 of shape (n, {hasher.bits_})" if signs else ""
            raise HypersignError(
                f"the codes of {hasher.bits_} bits must be {empty.dtype} of shape (n, {empty.shape[1]}){or_bits}; "
                f"got {rows.dtype} of shape {rows.shape}"
            )
        self.hasher = hasher
        self._segments: tuple[Segment, ...] = ()
        self._append(np.ascontiguousarray(rows), ids)

    @classmethod
    def load(cls, path: Path | str) -> "HammingIndex":
        """Maps a codes file into memory; its pages are read when they are searched.

        Raises HypersignError if the file is not one, or is of another version.
        """
        read = read_codes(Path(path))
        index = cls(read.hasher)
        # Without copies, so that ids stay in the file too.
        index._segments = appended((), Segment(read.codes, range(len(read.codes)) if read.ids is None else read.ids))
        return index

    def save(self, path: Path | str) -> None:
        """Writes a codes file; if writing fails, an existing file does not change.

        Raises HypersignError if the file cannot be written, or another process is writing it (the message names it).
        """
        whole = self._whole()
        ids = None if whole.numbered() else whole.all_ids()
        with writing_file(Path(path)):
            write_atomic(Path(path), lambda part: write_codes(part, self.hasher, whole.codes, ids))

    def __len__(self) -> int:
        return sum(map(len, self._segments))

    @property
    def codes(self) -> NDArray[Any]:
        """The packed codes in the order of their ids: uint64 (n, words), or uint8 (n, bytes) of level codes."""
        return self._whole().codes

    @property
    def ids(self) -> NDArray[np.int64]:
        """The ids, int64 (n,), ascending."""
        return self._whole().all_ids()

    def add(
        self, vectors: "AnyVectors | ArrayLike | HammingIndex", ids: ArrayLike | None = None
    ) -> NDArray[np.int64]:
        """Hashes vectors and adds their codes; the index is as before if any of them is refused.

        Args:
            vectors: shape (n, dimension), may be a file (`open_vectors`); or another HammingIndex of the same hasher.
            ids: int64 (n,), none of them in the index; None continues after the largest id in the index.

        Returns the ids, int64 (n,).

        Raises HypersignError if a vector cannot be hashed, or an id is no integer, is there already, or comes twice.

        >>> index = HammingIndex(SignHasher(bits=64).fit(np.eye(3)))
        >>> index.add(np.eye(3), ids=[30, 10, 20]).tolist(), index.ids.tolist()
        ([30, 10, 20], [10, 20, 30])
        """
        codes = self._codes(vectors)
        given = None if ids is None else check_ids(ids, len(codes))
        added = self._append(codes, given)
        return added.all_ids() if given is None else given

    def remove(self, ids: ArrayLike) -> None:
        """Removes codes by their ids.

        Raises HypersignError, and removes nothing, if an id is not in the index.

        >>> x = np.eye(4)
        >>> index = HammingIndex(SignHasher(bits=64).fit(x), SignHasher(bits=64).fit_transform(x))
        >>> index.remove([1, 2])
        >>> index.ids.tolist()
        [0, 3]
        """
        gone = np.unique(check_ids(ids))
        with _WRITING:
            found = [segment.find(gone) for segment in self._segments]
            missing = gone[~np.any([np.zeros(len(gone), bool), *(rows >= 0 for rows in found)], axis=0)]
            if len(missing):
                raise HypersignError(f"only ids in the index can be removed; {_few(missing)} not in it")
            left = (
                segment.without(rows[rows >= 0]) if (rows >= 0).any() else segment
                for segment, rows in zip(self._segments, found, strict=True)
            )
            self._segments = tuple(segment for segment in left if len(segment))

    def search(
        self,
        queries: "ArrayLike | HammingIndex",
        k: int,
        *,
        allowed: ArrayLike | None = None,
        exact: bool = False,
        threads: int = 1,
    ) -> Neighbours:
        """The k nearest codes of each query: by Hamming distance, or by the estimates of level codes.

        Args:
            queries: vectors (q, dimension), or with sign codes another HammingIndex of the same hasher.
            k: number of codes per query, at most the number of codes that may be found.
            allowed: the codes that may be found: ids, int64 (m,), those that are not in the index without effect; or
                bool (len(index),), one for each of `ids`. None allows all. The kernel skips the others, so the k
                nearest allowed codes are found however few are allowed.
            exact: whether every level code is compared. Otherwise a batch of 64 queries or more may skip codes by
                their signs: a code that belongs to the results is skipped with a probability of at most 2 in 10,000
                (`bits.level_topk`). Sign codes are always compared.
            threads: number of threads.
        """
        return self._nearest(self._segments, queries, k, allowed, threads, exact)

    def range_search(
        self, queries: "ArrayLike | HammingIndex", radius: int, *, allowed: ArrayLike | None = None, threads: int = 1
    ) -> Within:
        """All sign codes that differ from each query in at most `radius` bits; `allowed` as in `search`."""
        self._check_signs()
        return _within(self._segments, self._codes(queries), radius, allowed, threads)

    def kneighbors(
        self,
        X: "ArrayLike | HammingIndex | None" = None,
        n_neighbors: int = 5,
        return_distance: bool = True,
        *,
        threads: int = 1,
    ) -> tuple[NDArray[np.int32], NDArray[np.int64]] | NDArray[np.int64]:
        """The nearest codes, as scikit-learn's `NearestNeighbors.kneighbors` returns them.

        Args:
            X: queries; None takes the codes of the index, in the order of their ids, each without itself as a
                neighbour.
            n_neighbors: number of neighbours per query.
            return_distance: whether to return distances too.
            threads: number of threads.

        Returns (distances int32 (q, n_neighbors), ids int64 (q, n_neighbors)), or the ids alone.

        >>> x = np.random.default_rng(0).standard_normal((100, 32))
        >>> index = HammingIndex(SignHasher(bits=128).fit(x), SignHasher(bits=128).fit_transform(x))
        >>> index.kneighbors(n_neighbors=3)[1].shape
        (100, 3)
        """
        segments = self._segments
        if X is not None:
            found = self._nearest(segments, X, n_neighbors, None, threads)
        else:
            self._check_signs()
            check_int("n_neighbors", n_neighbors, min=1)
            if n_neighbors >= sum(map(len, segments)):
                raise HypersignError(
                    f"n_neighbors must be less than the number of codes in the index, {sum(map(len, segments))}, "
                    f"without X; got {n_neighbors}"
                )
            whole = self._whole(segments)
            more = _nearest(segments, whole.codes, n_neighbors + 1, None, threads)
            own = more.indices == whole.all_ids()[:, None]
            own[~own.any(1), -1] = True  # its own is behind n_neighbors + 1 equal codes with lower ids
            found = Neighbours(*(part[~own].reshape(len(own), -1) for part in (more.distances, more.indices)))
        return (found.distances, found.indices) if return_distance else found.indices

    def radius_neighbors(
        self,
        X: "ArrayLike | HammingIndex | None" = None,
        radius: int = 0,
        return_distance: bool = True,
        *,
        threads: int = 1,
    ) -> Any:
        """All codes within a radius, as scikit-learn's `NearestNeighbors.radius_neighbors` returns them, sorted.

        Args as in `kneighbors`; `radius` is in bits.

        Returns (distances, ids), each an array of q arrays, int32 and int64; or the ids alone.
        """
        self._check_signs()
        segments = self._segments
        whole = self._whole(segments)
        found = _within(segments, whole.codes if X is None else self._codes(X), radius, None, threads)
        parts = [
            (found.distances[start:stop], found.indices[start:stop])
            for start, stop in zip(found.starts, found.starts[1:], strict=False)
        ]
        if X is None:
            parts = [(d[i != own], i[i != own]) for (d, i), own in zip(parts, whole.all_ids(), strict=True)]
        distances, indices = np.empty(len(parts), object), np.empty(len(parts), object)
        for i, (d, ids) in enumerate(parts):
            distances[i], indices[i] = d, ids
        return (distances, indices) if return_distance else indices

    def rescore(
        self,
        queries: ArrayLike,
        found: Neighbours,
        vectors: AnyVectors | Callable[[NDArray[np.int64]], NDArray[Any]],
        k: int,
        *,
        metric: str | None = None,
    ) -> Neighbours:
        """Sorts candidates by the distance of the original vectors, and keeps the k nearest.

        Args:
            queries: vectors (q, dimension).
            found: the candidates of each query: `search(queries, factor * k)`.
            vectors: the hashed vectors, row i that of id i; may be a file (`open_vectors`). Only the candidates' rows
                are read. With other ids: a function that takes ids (m,), ascending, and returns their vectors
                (m, dimension), as from a database.
            k: number of neighbours to keep.
            metric: "euclidean", "cosine" or "inner_product"; by default Euclidean for sign codes, and the hasher's
                metric for level codes.

        Raises:
            HypersignError: the shape of the vectors does not fit the index, a vector is not finite or has no cosine,
                or there are fewer than k candidates.
        """
        queries = np.asarray(queries)
        dimension = self.hasher.n_features_in_
        if metric is None:
            metric = "euclidean" if self.hasher.level_code_ is None else self.hasher.metric_
        check_choice("metric", metric, LEVEL_METRICS)
        if hasattr(vectors, "iloc"):  # a data frame, whose own index is by columns
            vectors = np.asarray(vectors)
        fetch = vectors if callable(vectors) else self._rows_of(vectors, found.indices)
        if queries.shape != (len(found.indices), dimension):
            raise HypersignError(
                f"candidates of {len(found.indices)} queries came with queries of shape {queries.shape}; they must "
                f"be of shape ({len(found.indices)}, {dimension})"
            )
        check_int("k", k, min=1, max=found.indices.shape[1])
        distances, indices = np.empty((len(queries), k)), np.empty((len(queries), k), np.int64)
        for i, (ids, candidates) in enumerate(_candidates(fetch, found.indices, dimension)):
            exact = exact_distances(metric, candidates, queries[i])
            if not np.isfinite(exact).all():
                row = ids[int(np.isfinite(exact).argmin())]
                needed = "finite vectors" + (" that are not zero" if metric == "cosine" else "")
                raise HypersignError(f"rescoring needs {needed}; query {i} or row {row} is not")
            best = np.argsort(exact, kind="stable")[:k]
            distances[i], indices[i] = exact[best], ids[best]
        return Neighbours(distances, indices)

    def _rows_of(self, vectors: AnyVectors, wanted: NDArray[np.int64]) -> Callable[[NDArray[np.int64]], NDArray[Any]]:
        """A function from ids to rows of an array. Raises HypersignError if the array is not that of the index."""
        segments = self._segments
        count = sum(map(len, segments))
        plain = len(segments) == 1 and segments[0].numbered()
        if vectors.ndim != 2 or vectors.shape[1] != self.hasher.n_features_in_ or (plain and len(vectors) != count):
            raise HypersignError(
                f"the index is of {count} vectors of dimension {self.hasher.n_features_in_}; got vectors of shape "
                f"{vectors.shape}"
            )
        if wanted.size and (wanted.min() < 0 or wanted.max() >= len(vectors)):
            raise HypersignError(
                f"the vector of id i must be row i; got {len(vectors)} rows for ids from {wanted.min()} to "
                f"{wanted.max()}: pass a function from ids to vectors"
            )
        return lambda ids: vectors[ids]

    def _append(self, codes: NDArray[Any], ids: ArrayLike | None) -> Segment:
        """Adds codes, and returns them as a segment."""
        given = None if ids is None else check_ids(ids, len(codes))
        with _WRITING:
            if given is None:
                start = max((segment.last() for segment in self._segments), default=-1) + 1
                if start + len(codes) > MOST_ID:
                    raise HypersignError(
                        f"ids must be at most {MOST_ID}; got {len(codes)} codes to number from {start}"
                    )
                more = Segment(codes, range(start, start + len(codes)))
            else:
                more = ordered(codes, given)
                sorted_ids = more.all_ids()
                twice = sorted_ids[1:][sorted_ids[1:] == sorted_ids[:-1]]
                for segment in self._segments:
                    twice = np.union1d(twice, sorted_ids[segment.find(sorted_ids) >= 0])
                if len(twice):
                    raise HypersignError(f"each id must be in the index once; {_few(np.unique(twice))} there already")
            self._segments = appended(self._segments, more)
        return more

    def _whole(self, segments: tuple[Segment, ...] | None = None) -> Segment:
        """All codes in one segment."""
        segments = self._segments if segments is None else segments
        return merged(segments) if segments else Segment(self.hasher.empty_codes(0), range(0))

    def _nearest(
        self,
        segments: tuple[Segment, ...],
        queries: "ArrayLike | HammingIndex",
        k: int,
        allowed: ArrayLike | None,
        threads: int,
        exact: bool = False,
    ) -> Neighbours:
        code = self.hasher.level_code_
        if code is None:
            return _nearest(segments, self._codes(queries), k, allowed, threads)
        if isinstance(queries, HammingIndex):
            raise HypersignError("level codes are searched with vectors; codes came as queries: give their vectors")
        asked = self.hasher.quantized_queries(queries)
        found = _nearest(segments, asked, k, allowed, threads, code, exact)
        if not np.isfinite(found.distances).all():
            wrong = found.indices[~np.isfinite(found.distances)][0]
            raise HypersignError(f"the code of id {wrong} is damaged: its score is no finite number")
        distances = found.distances.astype(np.float64) + asked.terms[:, None]
        if self.hasher.metric_ == "euclidean":
            distances = np.sqrt(np.maximum(distances, 0))
        return Neighbours(distances, found.indices)

    def _check_signs(self) -> None:
        if self.hasher.level_code_ is not None:
            raise HypersignError("distances between codes and radii in bits are for sign codes; search level codes")

    def _codes(self, queries: "AnyVectors | ArrayLike | HammingIndex") -> NDArray[Any]:
        if not isinstance(queries, HammingIndex):
            return self.hasher.codes(queries)
        difference = self.hasher.difference(queries.hasher)
        if difference:
            raise HypersignError(
                f"codes of two hashers cannot be compared: theirs differ in {difference}; hash the queries with the "
                "index's own hasher"
            )
        return queries.codes


def _nearest(
    segments: tuple[Segment, ...],
    queries: NDArray[np.uint64] | Queries,
    k: int,
    allowed: ArrayLike | None,
    threads: int,
    code: bits.LevelCode | None = None,
    exact: bool = False,
) -> Neighbours:
    """The k nearest codes: sign codes by Hamming distance, level codes by score."""
    check_int("k", k, min=1)
    masks = _masks(segments, allowed)
    counts = [len(s.codes) if m is None else int(np.count_nonzero(m)) for s, m in zip(segments, masks, strict=True)]
    if k > sum(counts):
        which = "codes in the index" if allowed is None else "allowed codes in the index"
        raise HypersignError(f"k must be at most the number of {which}, {sum(counts)}; got {k}")
    parts = []
    for segment, mask, count in zip(segments, masks, counts, strict=True):
        some: Any = {"k": min(k, count), "allowed": mask, "threads": threads}
        if isinstance(queries, Queries):
            assert code is not None
            distances: NDArray[Any]
            distances, rows = bits.level_topk(
                queries.integers, queries.steps, segment.codes, code, exact=exact, **some
            )
        else:
            distances, rows = bits.hamming_topk(queries, segment.codes, **some)
        parts.append((distances, segment.at(rows)))
    if len(parts) == 1:
        return Neighbours(*parts[0])
    distances, ids = (np.concatenate(part, axis=1) for part in zip(*parts, strict=True))
    order = np.lexsort((ids, distances))[:, :k]
    return Neighbours(np.take_along_axis(distances, order, 1), np.take_along_axis(ids, order, 1))


def _within(
    segments: tuple[Segment, ...], queries: NDArray[np.uint64], radius: int, allowed: ArrayLike | None, threads: int
) -> Within:
    check_int("radius", radius, min=0)
    parts = []
    for segment, mask in zip(segments, _masks(segments, allowed), strict=True):
        starts, distances, rows = bits.hamming_within(queries, segment.codes, radius, allowed=mask, threads=threads)
        parts.append((np.repeat(np.arange(len(queries)), np.diff(starts)), distances, segment.at(rows)))
    if not parts:
        return Within(np.zeros(len(queries) + 1, np.int64), np.empty(0, np.int32), np.empty(0, np.int64))
    of, distances, ids = (np.concatenate(part) for part in zip(*parts, strict=True))
    order = np.lexsort((ids, distances, of)) if len(parts) > 1 else np.arange(len(of))
    starts = np.concatenate([[0], np.bincount(of, minlength=len(queries)).cumsum()]).astype(np.int64)
    return Within(starts, distances[order], ids[order])


def _masks(segments: tuple[Segment, ...], allowed: ArrayLike | None) -> list[NDArray[np.bool_] | None]:
    """For each segment, which of its rows may be found."""
    if allowed is None:
        return [segment.kept for segment in segments]
    given = np.asarray(allowed)
    if given.dtype == np.bool_:
        count = sum(map(len, segments))
        if given.shape != (count,):
            raise HypersignError(
                f"allowed must be ids, or a bool for each id of the index, shape ({count},); got shape {given.shape}"
            )
        if len(segments) == 1 and segments[0].kept is None:
            return [given]
        given = np.sort(np.concatenate([np.empty(0, np.int64), *(s.at(_kept_rows(s)) for s in segments)]))[given]
    given = check_ids(given)
    return [segment.allowed(given) for segment in segments]


def _kept_rows(segment: Segment) -> NDArray[np.int64]:
    return np.arange(len(segment.codes)) if segment.kept is None else np.flatnonzero(segment.kept)


def _few(ids: NDArray[np.int64]) -> str:
    """The first ids of several, with a verb."""
    if len(ids) == 1:
        return f"{ids[0]} is"
    return f"{', '.join(map(str, ids[:3].tolist()))}{', ...' if len(ids) > 3 else ''} are"


def _candidates(
    fetch: Callable[[NDArray[np.int64]], NDArray[Any]], found: NDArray[np.int64], dimension: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
    """For each query, its candidates in the file's order, and their vectors; many queries read the file at once."""
    at_once = max(1, block_rows(dimension) // max(found.shape[1], 1))
    for start in range(0, len(found), at_once):
        # In the file's order, a stable sort by distance puts the lower id first.
        some = np.sort(found[start : start + at_once], axis=1)
        ids, places = np.unique(some, return_inverse=True)
        read = np.asarray(fetch(ids))
        if read.shape != (len(ids), dimension):
            raise HypersignError(
                f"the vectors of {len(ids)} ids must be of shape ({len(ids)}, {dimension}); got {read.shape}"
            )
        yield from ((own, read[own_places]) for own, own_places in zip(some, places.reshape(some.shape), strict=True))


def exact_distances(metric: str, x: NDArray[Any], query: NDArray[Any]) -> NDArray[np.float64]:
    """Distances between vectors (n, d) and one vector in a metric, in float64; a zero vector has the cosine NaN."""
    if metric == "euclidean":
        return np.sqrt(squared_distances(x, query))
    x, query = x.astype(np.float64), query.astype(np.float64)
    if metric == "inner_product":
        return np.asarray(-(x @ query))
    with np.errstate(invalid="ignore"):
        return np.asarray(1 - unit_rows(x) @ unit_rows(query[None])[0])


def squared_distances(x: NDArray[Any], query: NDArray[Any]) -> NDArray[np.float64]:
    """Squared Euclidean distances between vectors (n, d) and one vector, in float64."""
    return np.square(differences(x, query)).sum(1)


def differences(x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.float64]:
    """x - y in float64, rounded once: 64-bit integers are subtracted before they are rounded."""
    if x.dtype.kind not in "iu" or y.dtype.kind not in "iu" or max(x.itemsize, y.itemsize) < 8:
        return np.asarray(x.astype(np.float64) - y.astype(np.float64))
    # float64 holds each half of 64 bits, and the differences of halves
    high, low = (half(x) - half(y) for half in (_high, _low))
    return np.asarray(high * 2.0**32 + low)


def _high(x: NDArray[Any]) -> NDArray[np.float64]:
    return (x.astype(x.dtype.kind + "8") >> 32).astype(np.float64)


def _low(x: NDArray[Any]) -> NDArray[np.float64]:
    return (x.astype(x.dtype.kind + "8") & 0xFFFFFFFF).astype(np.float64)


def recall(indices: NDArray[np.int64], truth: NDArray[np.integer], k: int) -> float:
    """Recall@k: the mean share of a query's k true neighbours that were found.

    It compares indices, so a copy of a neighbour counts as a miss; `measure` counts it.

    Args:
        indices: the indices found for each query, shape (q, any number).
        truth: the true neighbours, nearest first, shape (q, k or more).
        k: number of true neighbours that count.

    >>> recall(np.array([[1, 5, 2]]), np.array([[1, 2, 3, 4]]), k=4)
    0.5
    """
    hits = [np.isin(true[:k], row).mean() for row, true in zip(indices, truth, strict=True)]
    return float(np.mean(hits))
