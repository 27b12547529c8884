"""Files of vectors: one reader for every command and function.

A .npy file is mapped into memory, so files larger than memory work. Its header is matched against what
`numpy.save` writes and never evaluated, so a hostile header can only be refused.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import MAGIC_LEN, MAGIC_PREFIX
from numpy.typing import NDArray

from hypersign._checks import HypersignError

__all__ = ["open_vectors"]

_HEADER = re.compile(
    r"\{\s*'descr':\s*'(?P<descr>[<>=|]?[a-zA-Z?]\d{0,3})',"
    r"\s*'fortran_order':\s*(?P<fortran>True|False),"
    r"\s*'shape':\s*\((?P<shape>[\d, ]{0,200})\),?\s*\}\s*"
)
_LONGEST_HEADER = 1 << 16


def open_vectors(path: Path | str) -> NDArray[Any]:
    """Maps the vectors of a .npy file into memory, shape (n, dimension), without reading them.

    The file may be in C order or in Fortran order, which `numpy.save` writes for a transposed array and for
    `DataFrame.to_numpy()`. Its name may have any suffix.

    Raises:
        HypersignError: the file is missing, is no regular file, is no whole .npy file of real numbers, does not have
            two dimensions, or is empty.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/x.npy", np.ones((5, 3), np.float32))
    ...     open_vectors(f"{folder}/x.npy").shape
    (5, 3)
    """
    path = Path(path)
    if path.exists() and not path.is_file():  # a pipe would wait for ever, a folder has no bytes
        raise HypersignError(f"{path} could not be read as a .npy file of vectors: it must be a regular file")
    try:
        with path.open("rb") as file:
            start = file.read(MAGIC_LEN + _LONGEST_HEADER)
        size = path.stat().st_size
    except OSError as error:
        raise HypersignError(f"{path} could not be read as a .npy file of vectors: {error.strerror}") from error
    header, offset = _header(path, start)
    dtype = np.dtype(header["descr"])
    shape = _shape(path, header["shape"])
    if len(shape) != 2 or dtype.kind not in "iubf":
        raise HypersignError(
            f"{path} must hold real numbers of shape (vectors, dimension); got {dtype} of shape {shape}"
        )
    if not all(shape):
        raise HypersignError(f"{path} holds no vectors: its shape is {shape}")
    needed = shape[0] * shape[1] * dtype.itemsize
    if size - offset < needed:
        raise HypersignError(
            f"{path} must hold {needed} bytes of numbers after its header; it holds {size - offset}: "
            "the file was cut short; write it again by numpy.save"
        )
    order: Any = "F" if header["fortran"] == "True" else "C"
    return np.memmap(path, dtype, "r", offset, shape, order)


def _header(path: Path, start: bytes) -> tuple[re.Match[str], int]:
    """The fields of a .npy header, and where the numbers begin."""
    if not start.startswith(MAGIC_PREFIX) or len(start) < MAGIC_LEN + 4:
        raise HypersignError(
            f"{path} could not be read as a .npy file of vectors: it does not begin like one; write it by numpy.save"
        )
    width = 2 if start[len(MAGIC_PREFIX)] == 1 else 4  # bytes of the header's length, by the format's version
    length = int.from_bytes(start[MAGIC_LEN : MAGIC_LEN + width], "little")
    offset = MAGIC_LEN + width + length
    text = start[MAGIC_LEN + width : offset].decode("latin-1")
    found = _HEADER.fullmatch(text) if length <= _LONGEST_HEADER and len(text) == length else None
    if found is None:
        raise HypersignError(
            f"{path} could not be read as a .npy file of vectors: its header is not that of a plain array of "
            "numbers; write it by numpy.save"
        )
    try:
        np.dtype(found["descr"])
    except TypeError as error:
        raise HypersignError(
            f"{path} could not be read as a .npy file of vectors: no type of numbers is called {found['descr']!r}"
        ) from error
    return found, offset


def _shape(path: Path, text: str) -> tuple[int, ...]:
    sizes = [size.strip() for size in text.split(",") if size.strip()]
    if any(not size.isdigit() or len(size) > 18 for size in sizes):
        raise HypersignError(f"{path} could not be read as a .npy file of vectors: its shape is ({text[:80]})")
    return tuple(int(size) for size in sizes)
