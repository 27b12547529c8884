"""Exact search of the original vectors; bounds from the codes leave few of them to read."""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hypersign._checks import HypersignError, check_int
from hypersign._display import shown
from hypersign.hashing.estimators import code_cosines, rabitq_cosine
from hypersign.hashing.hasher import SignHasher, block_rows
from hypersign.hashing.index import Neighbours, squared_distances

__all__ = ["BoundedIndex", "Pruned"]

QUERIES = 16
"""Number of queries whose estimates are in memory at the same time."""

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

    Args:
        hasher: a fitted hasher with a rotation.
        vectors: shape (n, dimension); memory-mapped if they are large. They are read in blocks here, and row by row
            in `search`.

    Raises:
        HypersignError: the hasher cannot hash the vectors. In `search`: queries are bad, or k is larger than the
            index.

    Source: Gao & Long 2024, "RaBitQ" (SIGMOD; arXiv 2405.12497), section 4.

    >>> x = np.random.default_rng(0).standard_normal((1000, 32)).astype(np.float32)
    >>> found = BoundedIndex(SignHasher(bits=32).fit(x), x).search(x[7:8], k=1)
    >>> found.neighbours.indices.tolist(), bool(found.read[0] < 200)
    ([[7]], True)
    """

    def __init__(self, hasher: SignHasher, vectors: NDArray[Any]) -> None:
        self.hasher = hasher
        self.vectors = vectors
        self.codes = hasher.codes(vectors)
        self.cosines = np.empty(len(vectors), np.float32)
        self.lengths = np.empty(len(vectors), np.float32)
        for start in range(0, len(vectors), rows := block_rows(vectors.shape[1])):
            block = vectors[start : start + rows]
            self.cosines[start : start + rows] = code_cosines(hasher, block)
            self.lengths[start : start + rows] = np.linalg.norm(block - hasher.mean_, axis=1)

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
        for start in range(0, len(queries), QUERIES):
            some = queries[start : start + QUERIES]
            estimate = rabitq_cosine(
                self.hasher, some, self.codes, self.cosines, epsilon=epsilon, seed=seed, threads=threads
            )
            lengths = np.linalg.norm(some - self.hasher.mean_, axis=1)[:, None]
            most = np.minimum(estimate.cosine + estimate.bound, 1)
            squares = np.square(self.lengths) + np.square(lengths)
            bounds = (1 - ROUNDING) * squares - 2 * self.lengths * lengths * most
            for i, (query, row) in enumerate(zip(some, bounds, strict=True), start):
                distances[i], indices[i], read[i] = self._nearest(query, row, k)
        return Pruned(Neighbours(distances, indices), read)

    def _nearest(self, query: NDArray[Any], bounds: NDArray[Any], k: int) -> tuple[Any, Any, int]:
        order = np.argsort(bounds, kind="stable")
        rows, squares = np.empty(0, np.int64), np.empty(0)
        read, step = 0, max(k, 32)
        while read < len(order) and (read < k or bounds[order[read]] <= squares[k - 1]):
            more = np.sort(order[read : read + step])  # in the order of the file
            read += len(more)
            exact = squared_distances(self.vectors[more], query)
            rows, squares = np.append(rows, more), np.append(squares, exact)
            best = np.lexsort((rows, squares))[:k]
            rows, squares = rows[best], squares[best]
        return np.sqrt(squares), rows, read
