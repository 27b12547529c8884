"""A tensor in a file of weights, read row by row, and what turns its bytes into numbers.

A file is mapped into memory, and rows are decoded when they are asked for, so that only the rows at hand take memory.
A row holds the weights of one output of a layer: a tensor of shape (n, ...) has n rows, as torch stores filters. A
stack of matrices, such as experts (three dimensions, the last at least 64 long), has the rows of its matrices.
"""

import dataclasses
import math
import mmap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hypersign._checks import HypersignError
from hypersign._display import shown
from hypersign._files import open_file

__all__ = ["Decode", "FLOATS", "StoredTensor", "TensorFile", "mapped", "stacked", "undecoded"]

_STACK = 64  # the last dimension from which three dimensions are a stack of matrices, not a 1-D convolution

Decode = Callable[[np.ndarray], np.ndarray]
"""Turns raw rows, uint8 (rows, bytes), into numbers."""


@dataclasses.dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor as its file holds it.

    Args:
        name: its name in the file.
        dtype: the file's own word for its type.
        shape: in torch's order, also where the file has it reversed.
        nbytes: its size in the file.
        unreadable: why its values cannot be read; "" if they can.
        part_of: the quantized tensor whose scales, offsets or indices it holds, with its type; "" if it holds none.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    unreadable: str
    _bytes: np.ndarray = dataclasses.field(repr=False)
    _decode: Decode = dataclasses.field(repr=False)
    part_of: str = ""
    _rows: Callable[[Any], np.ndarray] | None = dataclasses.field(default=None, repr=False)

    @property
    def raw(self) -> np.ndarray:
        """Its bytes in the file."""
        return self._bytes

    @property
    def rows(self) -> int:
        """How many rows the tensor has; 1 for a vector."""
        if len(self.shape) == 3 and (self.shape[-1] >= _STACK or self._rows is not None):
            return self.shape[0] * self.shape[1]
        return self.shape[0] if len(self.shape) > 1 else 1

    @property
    def row_length(self) -> int:
        """The number of weights in a row."""
        return math.prod(self.shape) // max(self.rows, 1)

    def read(self, which: slice | np.ndarray) -> np.ndarray:
        """Rows `which` (a slice or their numbers), shape (.., row_length); float32, or float64 if the file has that.

        Raises:
            HypersignError: the values cannot be read.
        """
        if self.unreadable:
            raise HypersignError(f"{self.name} cannot be read as weights: {self.unreadable}")
        with np.errstate(invalid="ignore", over="ignore"):  # measures report NaN and infinity
            if self._rows is not None:  # made of several tensors
                return self._rows(which)
            return self._decode(self._bytes.reshape(self.rows, -1)[which])


def stacked(name: str, parts: Sequence[StoredTensor]) -> StoredTensor:
    """Matrices of one shape and type as one tensor (matrices, rows, row length)."""
    rows = parts[0].rows

    def read(which: slice | np.ndarray) -> np.ndarray:
        wanted = np.arange(rows * len(parts))[which]
        matrix, row = np.divmod(wanted, rows)
        read = {i: parts[i].read(row[matrix == i]) for i in np.unique(matrix)}
        out = np.empty((len(wanted), parts[0].row_length), next(iter(read.values())).dtype if read else np.float32)
        for i, values in read.items():
            out[matrix == i] = values
        return out

    first = parts[0]
    return dataclasses.replace(
        first,
        name=name,
        shape=(len(parts), *first.shape),
        nbytes=sum(part.nbytes for part in parts),
        _rows=read,
    )


@shown
@dataclasses.dataclass(frozen=True, eq=False)
class TensorFile:
    """Result of `open_tensors`: tensors by name, in the file's order, and a GGUF file's plain metadata."""

    path: Path
    tensors: dict[str, StoredTensor]
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict)


def mapped(path: Path) -> np.ndarray:
    """The bytes of a regular file, mapped into memory."""
    with open_file(path) as file:
        try:
            return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
        except (OSError, ValueError) as error:  # ValueError: the file is empty
            reason = getattr(error, "strerror", None) or error
            raise HypersignError(f"{path} could not be read: {reason}; name a file of weights") from error


def _float(kind: str) -> Decode:
    return lambda raw: raw.view(kind).astype("f8" if kind == "<f8" else "f4", copy=False)


def _bfloat16(raw: np.ndarray) -> np.ndarray:
    """bfloat16 is the upper half of a float32."""
    bits = raw.view("<u2").astype(np.uint32)
    bits <<= 16
    return bits.view(np.float32)


FLOATS: dict[str, Decode] = {
    "F64": _float("<f8"),
    "F32": _float("<f4"),
    "F16": _float("<f2"),
    "BF16": _bfloat16,
}
"""Decoding of the types that hold weights as they are."""


def undecoded(raw: np.ndarray) -> np.ndarray:
    """In place of the decoding of tensors that cannot be read."""
    raise AssertionError("an unreadable tensor is never decoded")
