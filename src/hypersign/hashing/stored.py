"""Vectors that stay in their files: rows are read when they are asked for, in blocks of bounded size."""

import abc
import mmap
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hypersign._checks import HypersignError

__all__ = ["AnyVectors", "Rows", "Shards", "StoredVectors", "as_vectors", "block_rows", "read_blocks"]

BLOCK = 1 << 22
"""Components read at a time."""


class StoredVectors(abc.ABC):
    """Vectors of a file that cannot be mapped into memory, indexed like an array of shape (n, dimension).

    `vectors[2:5]`, `vectors[[7, 1]]` and `vectors[3]` read these rows; `numpy.asarray(vectors)` reads all of them.

    Attributes: `shape`, (n, dimension); `dtype`, the type of the rows that are read.
    """

    ndim = 2
    shape: tuple[int, int]
    dtype: np.dtype[Any]

    @abc.abstractmethod
    def read(self, start: int, stop: int) -> NDArray[Any]:
        """The rows from `start` up to `stop`."""

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Rows by number; the numbers increase."""
        found = np.empty((len(rows), self.shape[1]), self.dtype)
        for i, row in enumerate(rows.tolist()):
            found[i] = self.read(row, row + 1)[0]
        return found

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> NDArray[Any]:
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            if step == 1:
                return self.read(start, max(start, stop))
            key = np.arange(start, stop, step)
        rows = np.asarray(key)
        if rows.dtype.kind == "b":
            rows = np.flatnonzero(rows)
        rows = np.where(rows < 0, rows + len(self), rows).astype(np.int64)
        if rows.size and not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"rows must be below {len(self)}; got {key!r:.60}")
        if rows.ndim == 0:
            return self.read(int(rows), int(rows) + 1)[0]
        unique, places = np.unique(rows, return_inverse=True)
        return self.take(unique)[places.reshape(rows.shape)]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self.read(0, len(self)).astype(dtype or self.dtype, copy=False)


AnyVectors: TypeAlias = NDArray[Any] | StoredVectors
"""An array, in memory or mapped, or vectors of a file."""


class Shards(StoredVectors):
    """The rows of several files, one after the other. One file is open at a time.

    Args:
        names: the files, for messages.
        open: opens a file by its place in `names`.

    Raises:
        HypersignError: the files have vectors of different dimensions or types.
    """

    def __init__(self, names: Sequence[str], open: Callable[[int], AnyVectors]) -> None:
        self._open = open
        counts, kinds = [], []
        for i, name in enumerate(names):
            shard = open(i)
            counts.append(len(shard))
            kinds.append((shard.shape[1], shard.dtype.newbyteorder("=")))
            if kinds[-1] != kinds[0]:
                raise HypersignError(
                    f"the files of a folder must hold vectors of one dimension and type; {names[0]} has dimension "
                    f"{kinds[0][0]} of {kinds[0][1]}, {name} has {kinds[-1][0]} of {kinds[-1][1]}"
                )
        self.starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self.shape, self.dtype = (int(self.starts[-1]), kinds[0][0]), kinds[0][1]
        self._place, self._shard = len(names) - 1, shard

    def read(self, start: int, stop: int) -> NDArray[Any]:
        found = np.empty((stop - start, self.shape[1]), self.dtype)
        for i, first, last in self._pieces(start, stop):
            at = int(self.starts[i])
            found[first - start : last - start] = _copied(self._at(i), first - at, last - at)
        return found

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        found = np.empty((len(rows), self.shape[1]), self.dtype)
        places = np.searchsorted(self.starts, rows, side="right") - 1
        for i in np.unique(places).tolist():
            here = places == i
            found[here] = self._at(i)[rows[here] - self.starts[i]]
        return found

    def _at(self, place: int) -> AnyVectors:
        if place != self._place:
            self._place, self._shard = place, self._open(place)
        return self._shard

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        while start < stop:
            i = int(np.searchsorted(self.starts, start, side="right")) - 1
            last = min(stop, int(self.starts[i + 1]))
            yield i, start, last
            start = last


class Rows(StoredVectors):
    """All rows of `vectors` but those in `without`, whose numbers increase."""

    def __init__(self, vectors: AnyVectors, without: NDArray[np.int64]) -> None:
        self.vectors, self.without = vectors, without
        self.shape = (len(vectors) - len(without), vectors.shape[1])
        self.dtype = vectors.dtype.newbyteorder("=")

    def numbers(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The row numbers in `vectors` of rows here."""
        # Before the row that is without[i] there, without[i] - i rows are left here.
        return rows + np.searchsorted(self.without - np.arange(len(self.without)), rows, side="right")

    def read(self, start: int, stop: int) -> NDArray[Any]:
        if start >= stop:
            return np.empty((0, self.shape[1]), self.dtype)
        first, last = self.numbers(np.array([start, stop - 1])).tolist()
        inside = self.without[(first <= self.without) & (self.without <= last)] - first
        return np.delete(_copied(self.vectors, first, last + 1), inside, axis=0)

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        return np.asarray(self.vectors[self.numbers(rows)], self.dtype)


def as_vectors(vectors: ArrayLike | StoredVectors) -> AnyVectors:
    """An array, mapped or not, or vectors of a file as they are."""
    return vectors if isinstance(vectors, StoredVectors) else np.asanyarray(vectors)


def block_rows(dimension: int) -> int:
    """Number of rows in a block of vectors of this dimension."""
    return max(1, BLOCK // dimension)


def read_blocks(vectors: AnyVectors, start: int = 0) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yields blocks of rows, in memory and in this machine's byte order, each with the number of its first row."""
    rows = block_rows(vectors.shape[1])
    for first in range(start, len(vectors), rows):
        yield first, _copied(vectors, first, min(first + rows, len(vectors)))


def _copied(vectors: AnyVectors, start: int, stop: int) -> NDArray[Any]:
    """Rows in memory. Pages of a mapped file are given back, because they would count as memory in use."""
    if isinstance(vectors, StoredVectors):
        return vectors.read(start, stop)
    mapped = getattr(vectors, "_mmap", None) if getattr(vectors, "mode", "") == "r" else None
    kind = vectors.dtype.newbyteorder("=")
    block = np.array(vectors[start:stop], kind, order="C", copy=None if mapped is None else True)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)
    return block
