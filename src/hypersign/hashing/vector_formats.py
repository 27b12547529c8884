"""The formats of vector files, one function per format; `open_vectors` chooses among them.

Each takes a path and the name of an array in the file ("" if none was given), and returns a mapped array or
`StoredVectors`. Nothing is read but headers.
"""

import contextlib
import importlib
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypersign._arrays import npz_shapes, open_npz
from hypersign._checks import HypersignError
from hypersign._files import open_file
from hypersign._installation import missing
from hypersign._safetensors import read_header
from hypersign.hashing.stored import AnyVectors, StoredVectors

__all__ = ["open_arrow", "open_hdf5", "open_npz_vectors", "open_parquet", "open_safetensors", "open_vecs"]

VECS = {".fvecs": "<f4", ".bvecs": "u1", ".ivecs": "<i4"}
"""Types of the numbers of fvecs, bvecs and ivecs files."""

TYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "u1",
    "BOOL": "?",
    "BF16": "<u2",
}
"""NumPy's types of safetensors' numbers; BF16 is read as the upper half of a float32."""

BATCH = 1 << 18
"""Components of a Parquet file that are decoded at a time."""


def open_npz_vectors(path: Path, name: str) -> NDArray[Any]:
    """A two-dimensional array of a .npz file, mapped."""
    shapes = {key: shape for key, shape in npz_shapes(path).items() if len(shape) == 2}
    return open_npz(path, _chosen(path, name, list(shapes)))


def open_vecs(path: Path, name: str) -> StoredVectors:
    """A file of the TEXMEX form: each row is its dimension, int32, and its numbers."""
    _no_name(path, name)
    return _Vecs(path)


class _Vecs(StoredVectors):
    def __init__(self, path: Path) -> None:
        kind = np.dtype(VECS[path.suffix.lower()])
        with open_file(path, " as vectors") as file:
            head = file.read(4)
            size = file.seek(0, 2)
        dimension = int.from_bytes(head, "little", signed=True)
        if len(head) < 4 or dimension < 1:
            raise HypersignError(f"{path} must begin with the dimension of its vectors, int32; got {dimension}")
        row = 4 + dimension * kind.itemsize
        if size % row:
            raise HypersignError(
                f"{path} must hold rows of {row} bytes, for dimension {dimension}; its {size:,} bytes are no "
                "multiple: it was cut short, or its vectors have several dimensions"
            )
        self.path, self.shape, self.dtype = path, (size // row, dimension), kind.newbyteorder("=")
        self._mapped = np.memmap(path, np.dtype([("dimension", "<i4"), ("x", kind, (dimension,))]), "r")

    def read(self, start: int, stop: int) -> NDArray[Any]:
        kind = self._mapped.dtype
        found = np.fromfile(self.path, kind, stop - start, offset=start * kind.itemsize)
        return self._numbers(found, start + np.arange(len(found)))

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        return self._numbers(np.asarray(self._mapped[rows]), rows)

    def _numbers(self, found: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[Any]:
        wrong = np.flatnonzero(found["dimension"] != self.shape[1])
        if len(wrong):
            raise HypersignError(
                f"the vectors of {self.path} must have one dimension; row {rows[wrong[0]]} says "
                f"{found['dimension'][wrong[0]]}, row 0 {self.shape[1]}"
            )
        return np.ascontiguousarray(found["x"], self.dtype)


def open_safetensors(path: Path, name: str) -> AnyVectors:
    """A two-dimensional tensor of a safetensors file, mapped; BF16 becomes float32."""
    with open_file(path, " as vectors") as file:
        try:
            header = read_header(file)
        except HypersignError as error:
            raise HypersignError(f"{path} is no whole safetensors file ({error!s:.300}); save it again") from error
    if "hypersign" in header.metadata and "codes" in header.tensors:
        raise HypersignError(f"{path} must hold vectors; it holds codes that hypersign hash wrote")
    fits = [key for key, entry in header.tensors.items() if len(entry.shape) == 2 and entry.dtype in TYPES]
    entry = header.tensors[_chosen(path, name, fits)]
    if not math.prod(entry.shape):
        return np.empty(entry.shape)
    mapped = np.memmap(path, TYPES[entry.dtype], "r", len(header.raw) + entry.start, entry.shape)
    return _Bfloat16(mapped) if entry.dtype == "BF16" else mapped


class _Bfloat16(StoredVectors):
    def __init__(self, mapped: NDArray[Any]) -> None:
        self._mapped, self.shape, self.dtype = mapped, mapped.shape, np.dtype(np.float32)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        return (self._mapped[start:stop].astype(np.uint32) << 16).view(np.float32)

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        return (self._mapped[rows].astype(np.uint32) << 16).view(np.float32)


def open_hdf5(path: Path, name: str) -> StoredVectors:
    """A two-dimensional data set of an HDF5 file."""
    h5py = _package("h5py", path)
    with open_file(path, " as vectors"), _readable(path):
        file = h5py.File(path, "r")
        found: dict[str, Any] = {}

        def visit(key: str, item: Any) -> None:  # follows no link to another file
            if isinstance(item, h5py.Dataset) and item.ndim == 2 and item.dtype.kind in "iubf":
                found[key] = item

        file.visititems(visit)
    chosen = _chosen(path, name.strip("/"), list(found))
    with _readable(path):
        if found[chosen].is_virtual or found[chosen].external:
            raise HypersignError(f"{path}: the numbers of {chosen} must be in this file; they are in others")
    return _Hdf5(path, found[chosen])


class _Hdf5(StoredVectors):
    def __init__(self, path: Path, data: Any) -> None:
        self.path, self._data = path, data
        self.shape, self.dtype = data.shape, data.dtype.newbyteorder("=")

    def read(self, start: int, stop: int) -> NDArray[Any]:
        with _readable(self.path):
            return np.ascontiguousarray(self._data[start:stop], self.dtype)


class _Batches(StoredVectors):
    """A column of lists, decoded batch by batch, in order; a jump begins at the group that holds the row.

    Args:
        path: the file.
        kind: Arrow's type of the column.
        counts: number of rows of each group.
        batches: yields the column from a group on, in pieces.
    """

    def __init__(self, path: Path, kind: Any, counts: Sequence[int], batches: Callable[[int], Iterator[Any]]) -> None:
        self.path, self._batches = path, batches
        self._starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        kind = getattr(kind, "storage_type", kind)
        self.dtype = np.dtype(kind.value_type.to_pandas_dtype())
        self.shape = (int(self._starts[-1]), 0)
        self._forget(0)
        with _readable(path):
            self.shape = (self.shape[0], getattr(kind, "list_size", 0) or self._first_length())

    def read(self, start: int, stop: int) -> NDArray[Any]:
        return self.take(np.arange(start, stop))

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        found = np.empty((len(rows), self.shape[1]), self.dtype)
        done = 0
        while done < len(rows):
            self._fetch(int(rows[done]))
            stop = int(np.searchsorted(rows, self._first + len(self._rows)))
            found[done:stop] = self._rows[rows[done:stop] - self._first]
            done = stop
        return found

    def _forget(self, group: int) -> None:
        self._first, self._rows = int(self._starts[group]), np.empty((0, self.shape[1]), self.dtype)
        self._pieces = self._batches(group)

    def _fetch(self, row: int) -> None:
        """Decodes until the rows in memory, from `_first` on, have `row`."""
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        if row < self._first or self._starts[group] > self._first + len(self._rows):
            self._forget(group)
        while row >= self._first + len(self._rows):
            self._first += len(self._rows)
            with _readable(self.path):
                piece = next(self._pieces, None)
                if piece is None:
                    raise ValueError(f"it ends before row {row:,}")
                self._rows = self._matrix(piece)

    def _first_length(self) -> int:
        for piece in self._batches(0):
            for value in piece:
                if value.is_valid:
                    return len(value)
        return 0

    def _matrix(self, column: Any) -> NDArray[Any]:
        """Arrow's lists as rows of one array; a list that is null becomes NaN."""
        column = getattr(column, "storage", column)
        there = np.asarray(column.is_valid())
        values = column.flatten()  # without those that are null
        numbers = values.to_numpy(zero_copy_only=False)
        if not hasattr(column.type, "list_size"):
            lengths = np.asarray(column.value_lengths().drop_null())
            wrong = np.flatnonzero(lengths != self.shape[1])
            if len(wrong):
                row = self._first + int(np.flatnonzero(there)[wrong[0]])
                raise HypersignError(
                    f"the lists of {self.path} must have one length; row {row} has {lengths[wrong[0]]} numbers, the "
                    f"first {self.shape[1]}"
                )
        if self.dtype.kind != "f" and (values.null_count or not there.all()):
            raise HypersignError(
                f"the integers of {self.path} must all be there; rows from {self._first} on have nulls: leave them "
                "out"
            )
        found = np.full((len(column), self.shape[1]), np.nan if self.dtype.kind == "f" else 0, self.dtype)
        found[there] = numbers.reshape(-1, self.shape[1])
        return found


def open_parquet(path: Path, name: str) -> StoredVectors:
    """A column of lists of numbers in a Parquet file, decoded a piece at a time."""
    parquet = _package("pyarrow.parquet", path)
    with open_file(path, " as vectors"), _readable(path):
        file = parquet.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)
        chosen = _chosen(path, name, _lists(file.schema_arrow), "column of lists of numbers")
        kind = file.schema_arrow.field(chosen).type
        counts = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]

    def batches(group: int) -> Iterator[Any]:
        size = getattr(getattr(kind, "storage_type", kind), "list_size", 0)
        rows = max(1, BATCH // (size or 1024))
        for batch in file.iter_batches(rows, row_groups=range(group, len(counts)), columns=[chosen]):
            yield batch.column(0)

    return _Batches(path, kind, counts, batches)


def open_arrow(path: Path, name: str) -> StoredVectors:
    """A column of lists of numbers in an Arrow file (Feather too) or stream, mapped and decoded a piece at a time."""
    arrow = _package("pyarrow", path)
    with open_file(path, " as vectors") as stream:
        is_file = stream.read(6) == b"ARROW1"

    def batches(group: int) -> Iterator[Any]:
        with arrow.memory_map(str(path)) as source:
            if is_file:
                file = arrow.ipc.open_file(source)
                yield from (file.get_batch(i) for i in range(group, file.num_record_batches))
            else:
                yield from arrow.ipc.open_stream(source)

    def pieces(group: int) -> Iterator[Any]:
        for batch in batches(group):
            column = batch.column(chosen)
            size = getattr(getattr(column.type, "storage_type", column.type), "list_size", 0)
            rows = max(1, BATCH // (size or 1024))
            yield from (column.slice(start, rows) for start in range(0, len(column), rows))

    with _readable(path):
        counts = [batch.num_rows for batch in batches(0)]
        with arrow.memory_map(str(path)) as source:
            schema = (arrow.ipc.open_file if is_file else arrow.ipc.open_stream)(source).schema
        chosen = _chosen(path, name, _lists(schema), "column of lists of numbers")
        # A stream is read from its beginning; a file from any batch on.
        return _Batches(path, schema.field(chosen).type, counts if is_file else [sum(counts)], pieces)


def _lists(schema: Any) -> list[str]:
    """The columns whose values are lists of real numbers."""
    found = []
    for field in schema:
        kind = getattr(field.type, "storage_type", field.type)
        is_list = str(kind).startswith(("list<", "large_list<", "fixed_size_list<"))
        if is_list and str(kind.value_type) in _NUMBERS:
            found.append(field.name)
    return found


_NUMBERS = {"halffloat", "float", "double"} | {f"{sign}int{width}" for sign in ("", "u") for width in (8, 16, 32, 64)}


def _chosen(path: Path, name: str, there: Sequence[str], what: str = "matrix") -> str:
    """The array that `name` asks for, or the only one."""
    if name in there or (not name and len(there) == 1):
        return name or there[0]
    shown = ", ".join(f"{key!s:.60}" for key in there[:8]) + (", ..." if len(there) > 8 else "") or "none"
    if not there or name:
        asked = f"a {what} called {name:.60}" if name else f"a {what}"
        raise HypersignError(f"{path} must hold {asked} of real numbers; it has {shown}")
    raise HypersignError(
        f"{path} must say which {what} to read, because it has {len(there)}; they are {shown}: name one, as in "
        f"{path.name}::{there[0]:.60}"
    )


def _no_name(path: Path, name: str) -> None:
    if name:
        raise HypersignError(f"{path} holds one array, which has no name; leave ::{name:.60} out")


def _package(module: str, path: Path) -> Any:
    """A package that only some formats need."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise HypersignError(missing(f"reading {path.name}", module.partition(".")[0], "files")) from error


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns what libraries raise of damaged files into a HypersignError."""
    try:
        yield
    except HypersignError:
        raise
    except (OSError, ValueError, KeyError, IndexError, TypeError, RuntimeError, OverflowError, EOFError) as error:
        why = " ".join(str(error).split())
        raise HypersignError(f"{path} could not be read as vectors ({why:.200}); write it again") from error
