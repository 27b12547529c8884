"""Search: compares a query with all codes, and rescores the nearest with the original vectors.

Distances ascend from the nearest for every metric: Hamming (bits that differ), Euclidean, cosine (1 - cosine), and
inner product, negated.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hypersign import bits
from hypersign._checks import HypersignError, check_int
from hypersign._display import shown
from hypersign._files import write_atomic
from hypersign.hashing.hasher import SignHasher
from hypersign.hashing.levels import unit_rows
from hypersign.hashing.vectors import read_codes, write_codes

__all__ = ["HammingIndex", "Neighbours", "Within", "recall"]


@shown
@dataclasses.dataclass(frozen=True)
class Neighbours:
    """The k nearest vectors of each query, nearest first; at equal distances the lower index comes first.

    Attributes: `distances`, shape (q, k): number of differing bits (int32), or float64 in the metric of level codes
    or of rescoring: Euclidean distance, 1 - cosine, or the negated inner product; `indices`, int64 (q, k).
    """

    distances: NDArray[Any]
    indices: NDArray[np.int64]


@shown
@dataclasses.dataclass(frozen=True)
class Within:
    """All codes within a radius of each query, nearest first; at equal distances the lower index comes first.

    Attributes: `starts`, int64 (q + 1,); `indices`, int64; `distances`, int32. Query i found
    `indices[starts[i]:starts[i + 1]]`, at the same places of `distances`.
    """

    starts: NDArray[np.int64]
    distances: NDArray[np.int32]
    indices: NDArray[np.int64]


class HammingIndex:
    """Codes and the hasher that made them. Search is exact: it compares each query with every code.

    Queries are vectors (q, dimension), which the index hashes, or another HammingIndex of the same hasher. With level
    codes queries are vectors, which stay real but for rounding to 8 bits; distances are estimates in the hasher's
    metric.

    Args:
        hasher: a fitted hasher.
        codes: its codes of the vectors: packed uint64 (n, words), or bits uint8 (n, bits); level codes uint8
            (n, bytes). A data frame will do.

    Raises:
        HypersignError: there are no codes, their width is not the hasher's, or a number in them is not finite. In
            searches: the queries have another dimension or another hasher, or k is larger than the index.

    >>> x = np.random.default_rng(0).standard_normal((1000, 32))
    >>> hasher = SignHasher(bits=128).fit(x)
    >>> index = HammingIndex(hasher, hasher.transform(x))
    >>> index.search(x[7:8], k=1).indices.tolist()
    [[7]]
    """

    def __init__(self, hasher: SignHasher, codes: ArrayLike) -> None:
        self.hasher = hasher
        self.codes: NDArray[Any]
        if hasher.level_code_ is not None:
            self.codes = _level_rows(hasher, np.asarray(codes))
            return
        words, width = np.asarray(codes), -(-hasher.bits_ // 64)
        if words.dtype == np.uint8 and words.shape[1:] == (hasher.bits_,) and not (words > 1).any():
            words = bits.pack(1 - words, threshold=1)
        if words.dtype != np.uint64 or words.ndim != 2 or words.shape[1] != width:
            raise HypersignError(
                f"the codes of {hasher.bits_} bits must be uint64 of shape (n, {width}), or zeros and ones in uint8 "
                f"of shape (n, {hasher.bits_}); got {words.dtype} of shape {words.shape}"
            )
        if not len(words):
            raise HypersignError("an index needs at least one code; got none")
        self.codes = np.ascontiguousarray(words)

    @classmethod
    def load(cls, path: Path | str) -> "HammingIndex":
        """Reads a codes file. Raises HypersignError if the file is not one, or is of another version."""
        return cls(*read_codes(Path(path)))

    def save(self, path: Path | str) -> None:
        """Writes a codes file; if writing fails, no file appears."""
        write_atomic(Path(path), lambda part: write_codes(part, self.hasher, self.codes))

    def __len__(self) -> int:
        return len(self.codes)

    def search(self, queries: "ArrayLike | HammingIndex", k: int, *, threads: int = 1) -> Neighbours:
        """The k nearest codes of each query: by Hamming distance, or by the estimates of level codes."""
        self._check_k(k)
        if self.hasher.level_code_ is not None:
            return self._estimated(queries, k, threads)
        return Neighbours(*bits.hamming_topk(self._codes(queries), self.codes, k, threads=threads))

    def range_search(self, queries: "ArrayLike | HammingIndex", radius: int, *, threads: int = 1) -> Within:
        """All sign codes that differ from each query in at most `radius` bits."""
        if self.hasher.level_code_ is not None:
            raise HypersignError("a radius in bits is for sign codes; level codes are searched for the k nearest")
        return Within(*bits.hamming_within(self._codes(queries), self.codes, radius, threads=threads))

    def rescore(self, queries: ArrayLike, found: Neighbours, vectors: NDArray[Any], k: int) -> Neighbours:
        """Sorts candidates by the distance of the original vectors, and keeps the k nearest.

        The distance is Euclidean for sign codes, and in the hasher's metric for level codes.

        Args:
            queries: vectors (q, dimension).
            found: the candidates of each query: `search(queries, factor * k)`.
            vectors: the hashed vectors, in the same order; may be a memory-mapped file (`open_vectors`). Only the
                candidates' rows are read.
            k: number of neighbours to keep.

        Raises:
            HypersignError: the shape of the vectors does not fit the index, a vector is not finite, or there are
                fewer than k candidates.
        """
        queries = np.asarray(queries)
        dimension = self.hasher.n_features_in_
        if vectors.shape != (len(self), dimension):
            raise HypersignError(
                f"the index is of {len(self)} vectors of dimension {dimension}; got vectors of shape {vectors.shape}"
            )
        if queries.shape != (len(found.indices), dimension):
            raise HypersignError(
                f"candidates of {len(found.indices)} queries came with queries of shape {queries.shape}; they must "
                f"be of shape ({len(found.indices)}, {dimension})"
            )
        check_int("k", k, min=1, max=found.indices.shape[1])
        distances, indices = np.empty((len(queries), k)), np.empty((len(queries), k), np.int64)
        for i, (query, candidates) in enumerate(zip(queries, found.indices, strict=True)):
            rows = np.sort(candidates)  # in the file's order; a stable sort then puts the lower index first
            exact = exact_distances(self.hasher.metric_, vectors[rows], query)
            if not np.isfinite(exact).all():
                row = rows[int(np.isfinite(exact).argmin())]
                raise HypersignError(f"rescoring needs finite vectors; query {i} or row {row} is not")
            best = np.argsort(exact, kind="stable")[:k]
            distances[i], indices[i] = exact[best], rows[best]
        return Neighbours(distances, indices)

    def _estimated(self, queries: "ArrayLike | HammingIndex", k: int, threads: int) -> Neighbours:
        assert self.hasher.level_code_ is not None
        if isinstance(queries, HammingIndex):
            raise HypersignError("level codes are searched with vectors; codes came as queries: give their vectors")
        asked = self.hasher.quantized_queries(queries)
        scores, indices = bits.level_topk(
            asked.integers, asked.steps, self.codes, self.hasher.level_code_, k, threads=threads
        )
        values = scores.astype(np.float64) + asked.terms[:, None]
        if self.hasher.metric_ == "euclidean":
            values = np.sqrt(np.maximum(values, 0))
        return Neighbours(values, indices)

    def _check_k(self, k: int) -> None:
        check_int("k", k, min=1)
        if k > len(self):
            raise HypersignError(f"k must be at most the number of codes in the index, {len(self)}; got {k}")

    def _codes(self, queries: "ArrayLike | HammingIndex") -> NDArray[np.uint64]:
        if not isinstance(queries, HammingIndex):
            return self.hasher.codes(queries)
        difference = self.hasher.difference(queries.hasher)
        if difference:
            raise HypersignError(
                f"codes of two hashers cannot be compared: theirs differ in {difference}; hash the queries with the "
                "index's own hasher"
            )
        return queries.codes


def _level_rows(hasher: SignHasher, codes: NDArray[Any]) -> NDArray[np.uint8]:
    width = hasher.row_bytes()
    if codes.dtype != np.uint8 or codes.ndim != 2 or codes.shape[1] != width:
        raise HypersignError(
            f"level codes of {hasher.bits_} bits must be uint8 of shape (n, {width}); got {codes.dtype} of shape "
            f"{codes.shape}"
        )
    if not len(codes):
        raise HypersignError("an index needs at least one code; got none")
    assert hasher.level_code_ is not None
    codes = np.ascontiguousarray(codes)
    finite = np.isfinite(np.ascontiguousarray(codes[:, hasher.level_code_.width :]).view("<f4")).all(1)
    if not finite.all():
        raise HypersignError(
            f"the numbers of a level code must be finite; those of code {int(finite.argmin())} are not"
        )
    return codes


def exact_distances(metric: str, x: NDArray[Any], query: NDArray[Any]) -> NDArray[np.float64]:
    """Distances between vectors (n, d) and one vector in a metric, in float64; Hamming codes stand for Euclidean."""
    if metric in ("hamming", "euclidean"):
        return np.sqrt(squared_distances(x, query))
    x, query = x.astype(np.float64), query.astype(np.float64)
    if metric == "inner_product":
        return np.asarray(-(x @ query))
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

    Args:
        indices: the indices found for each query, shape (q, any number).
        truth: the true neighbours, nearest first, shape (q, k or more).
        k: number of true neighbours that count.

    >>> recall(np.array([[1, 5, 2]]), np.array([[1, 2, 3, 4]]), k=4)
    0.5
    """
    hits = [np.isin(true[:k], row).mean() for row, true in zip(indices, truth, strict=True)]
    return float(np.mean(hits))
