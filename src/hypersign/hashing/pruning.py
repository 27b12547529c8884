"""Exact search of the original vectors; bounds from the codes leave few of them to read."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hypersign._checks import HypersignError, check_int
from hypersign._display import shown
from hypersign.hashing.estimators import code_bounds, rabitq_cosine
from hypersign.hashing.hasher import SignHasher
from hypersign.hashing.index import Neighbours, squared_distances
from hypersign.hashing.stored import AnyVectors, read_blocks
from hypersign.hashing.vectors import read_codes

__all__ = ["BoundedIndex", "Pruned"]

QUERIES = 16
"""Number of queries whose estimates are in memory at the same time."""

ROWS = 1 << 14
"""Number of codes whose estimates are in memory at the same time."""

POOL = 1 << 14
"""Number of bounds per query in memory before the vectors with the lowest ones are read."""

ROUNDING = 1e-6
"""Maximum float32 error of a bound, relative to |x|^2 + |q|^2. It must not exclude a vector as near as the k-th."""


@shown
@dataclasses.dataclass(frozen=True)
class Pruned:
    """Neighbours, and the number of vectors read to find them.

    Attributes: `neighbours`, by Euclidean distance; `read`, how many vectors were compared exactly for each query,
    int64 (q,).
    """

    neighbours: Neighbours
    read: NDArray[np.int64]


class BoundedIndex:
    """Codes with two float32 numbers each, which give a lower bound on every distance.

        |x - q|^2 >= |x|^2 + |q|^2 - 2 |x| |q| min(1, cosine + bound)

    x and q are centred as the hasher does; cosine and bound come from `rabitq_cosine`. Vectors are read in the order
    of their lower bounds, until the next bound exceeds the k-th smallest distance. So a neighbour is missed only if
    its bound does not hold. A larger epsilon misses fewer neighbours and reads more vectors.

    A search reads codes in blocks, so its memory does not grow with their number. The index itself takes 8 bytes per
    vector beside the code, or none if it is mapped from a file (`load`).

    Args:
        hasher: a fitted hasher with a rotation.
        vectors: shape (n, dimension); may be a file (`open_vectors`). They are read in blocks here, and row by row in
            `search`.

    Raises:
        HypersignError: the hasher cannot hash the vectors. In `search`: queries are bad, or k is larger than the
            index.

    Source: Gao & Long 2024, "RaBitQ" (SIGMOD; arXiv 2405.12497), section 4.

    >>> x = np.random.default_rng(0).standard_normal((1000, 32)).astype(np.float32)
    >>> found = BoundedIndex(SignHasher(bits=32).fit(x), x).search(x[7:8], k=1)
    >>> found.neighbours.indices.tolist(), bool(found.read[0] < 200)
    ([[7]], True)
    """

    def __init__(self, hasher: SignHasher, vectors: AnyVectors) -> None:
        self.hasher = hasher
        self.vectors = vectors
        self.codes = hasher.codes(vectors)
        self.cosines = np.empty(len(vectors), np.float32)
        self.lengths = np.empty(len(vectors), np.float32)
        for start, block in read_blocks(vectors):
            rows = slice(start, start + len(block))
            self.cosines[rows], self.lengths[rows] = code_bounds(hasher, block)

    @classmethod
    def load(cls, path: Path | str, vectors: AnyVectors) -> "BoundedIndex":
        """Maps a codes file that `hash_file(..., bounds=True)` wrote.

        Args:
            path: codes file.
            vectors: the vectors that were hashed, shape (n, dimension).

        Raises HypersignError if the file is not one, has no bounds, or the vectors have another shape.
        """
        read = read_codes(Path(path))
        if read.hasher.level_code_ is not None:
            raise HypersignError(
                f"{path} holds level codes; exact search needs sign codes: hash without --bits-per-dimension and "
                "--metric"
            )
        if read.bounds is None:
            raise HypersignError(
                f"{path} has no bounds, which exact search needs; hash its vectors again with bounds=True, or "
                "`hypersign hash --bounds`"
            )
        if vectors.shape != (len(read.codes), read.hasher.n_features_in_):
            raise HypersignError(
                f"{path} holds the codes of {len(read.codes)} vectors of dimension {read.hasher.n_features_in_}; got "
                f"vectors of shape {vectors.shape}"
            )
        index = cls.__new__(cls)
        index.hasher, index.vectors, index.codes = read.hasher, vectors, read.codes
        index.cosines, index.lengths = read.bounds
        return index

    def __len__(self) -> int:
        return len(self.codes)

    def search(self, queries: ArrayLike, k: int, *, epsilon: float = 1.9, seed: int = 0, threads: int = 1) -> Pruned:
        """The k nearest vectors of each query by Euclidean distance; at equal distances the lower index comes first.

        Args:
            queries: vectors (q, dimension).
            k: number of neighbours.
            epsilon: width of the bounds, as in `rabitq_cosine`.
            seed: seed of the rounding in `rabitq_cosine`.
            threads: number of threads.
        """
        check_int("k", k, min=1)
        if k > len(self):
            raise HypersignError(f"k must be at most the number of vectors in the index, {len(self)}; got {k}")
        queries = np.asarray(queries)
        distances, indices = np.empty((len(queries), k)), np.empty((len(queries), k), np.int64)
        read = np.empty(len(queries), np.int64)
        for first in range(0, len(queries), QUERIES):
            some = queries[first : first + QUERIES]
            pools = [_Pool(self.vectors, query, k) for query in some]
            for start in range(0, len(self), ROWS):
                bounds = self._bounds(some, slice(start, start + ROWS), epsilon, seed, threads)
                for pool, row in zip(pools, bounds, strict=True):
                    pool.add(row, start)
            for i, pool in enumerate(pools, first):
                pool.read()
                distances[i], indices[i], read[i] = np.sqrt(pool.squares), pool.rows, pool.count
        return Pruned(Neighbours(distances, indices), read)

    def _bounds(
        self, queries: NDArray[Any], rows: slice, epsilon: float, seed: int, threads: int
    ) -> NDArray[np.float64]:
        """Lower bounds on the squared distances of queries and rows, (queries, rows)."""
        estimate = rabitq_cosine(
            self.hasher, queries, self.codes[rows], self.cosines[rows], epsilon=epsilon, seed=seed, threads=threads
        )
        lengths = np.linalg.norm(queries - self.hasher.mean_, axis=1)[:, None]
        most = np.minimum(estimate.cosine + estimate.bound, 1)
        squares = np.square(self.lengths[rows]) + np.square(lengths)
        return np.asarray((1 - ROUNDING) * squares - 2 * self.lengths[rows] * lengths * most)


class _Pool:
    """The nearest vectors of a query so far, and the rows whose bounds do not exclude them.

    Attributes: `rows` and `squares`, the nearest and their squared distances; `count`, how many vectors were read.
    """

    def __init__(self, vectors: AnyVectors, query: NDArray[Any], k: int) -> None:
        self.vectors, self.query, self.k = vectors, query, k
        self.rows, self.squares = np.empty(0, np.int64), np.empty(0)
        self.count = 0
        self.waiting: list[tuple[NDArray[np.float64], NDArray[np.int64]]] = []

    def limit(self) -> float:
        return float(self.squares[self.k - 1]) if len(self.squares) == self.k else np.inf

    def add(self, bounds: NDArray[np.float64], start: int) -> None:
        near = np.flatnonzero(bounds <= self.limit())
        self.waiting.append((bounds[near], near + start))
        if sum(len(rows) for _, rows in self.waiting) >= max(POOL, self.k):
            self.read()

    def read(self) -> None:
        """Reads vectors in the order of their bounds until no other can be near; none is left waiting."""
        bounds, rows = (np.concatenate(part) for part in zip(*self.waiting, strict=True))
        self.waiting = [(bounds[:0], rows[:0])]
        order = np.argsort(bounds, kind="stable")
        done, step = 0, max(self.k, 32)
        while done < len(order) and bounds[order[done]] <= self.limit():
            more = np.sort(rows[order[done : done + step]])  # in the order of the file
            done += len(more)
            nearest = np.append(self.rows, more)
            squares = np.append(self.squares, squared_distances(self.vectors[more], self.query))
            best = np.lexsort((nearest, squares))[: self.k]
            self.rows, self.squares = nearest[best], squares[best]
        self.count += done
