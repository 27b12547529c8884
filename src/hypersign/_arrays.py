"""Arrays in .npy and .npz files: one reader for every command and function.

A header is matched against what `numpy.save` writes and is never evaluated, so a hostile one can only be refused;
pickled objects are refused too.
"""

import contextlib
import io
import math
import re
import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypersign._checks import HypersignError
from hypersign._files import open_file

__all__ = ["is_npy", "is_npz", "npy_bytes", "npz_names", "npz_shapes", "open_npy", "open_npz", "read_npz"]

MOST_UNPACKED = 1 << 30
"""Bytes that the arrays of a .npz file may unpack to, whatever its size: past it, 100 times that size."""

_MAGIC = b"\x93NUMPY"
_VERSION = len(_MAGIC) + 2  # two bytes: the format's version
_HEADER = re.compile(
    r"\{\s*'descr':\s*'(?P<descr>[<>=|]?[a-zA-Z?]\d{0,3})',"
    r"\s*'fortran_order':\s*(?P<fortran>True|False),"
    r"\s*'shape':\s*\((?P<shape>[\d, ]{0,200})\),?\s*\}\s*"
)
_REAL = re.compile(r"[<>=|]?[?bBhHiIlLqQefdgu]\d{0,3}")  # real numbers, in NumPy's words
_LONGEST_HEADER = 1 << 16
_DAMAGE = (OSError, EOFError, ValueError, NotImplementedError, struct.error, zipfile.BadZipFile, zlib.error)
"""What zipfile raises of damaged files."""


def npy_bytes(array: NDArray[Any]) -> bytes:
    """What `numpy.save` writes of an array."""
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    return content.getvalue()


def npz_bytes(arrays: dict[str, NDArray[Any]]) -> bytes:
    """What `numpy.savez` writes of arrays."""
    content = io.BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type]
    return content.getvalue()


def is_npy(path: Path) -> bool:
    """Whether a path is a regular file that begins like a .npy file, whatever its name."""
    return path.is_file() and _start(path).startswith(_MAGIC)


def is_npz(path: Path) -> bool:
    """Whether a path is a regular file that begins like a .npz file, whatever its name."""
    return path.is_file() and _start(path).startswith((b"PK\3\4", b"PK\5\6"))


def open_npy(path: Path) -> NDArray[Any]:
    """Maps the array of a .npy file into memory, without reading it; in C or Fortran order, of any shape.

    Raises:
        HypersignError: the file is missing, is no regular file, or is no whole .npy file of real numbers.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/x", np.ones((5, 3), np.float32))
    ...     open_npy(Path(folder, "x.npy")).shape
    (5, 3)
    """
    with open_file(path, " as a .npy file") as file:
        start = file.read(_VERSION + 4 + _LONGEST_HEADER)
        size = file.seek(0, 2)
    dtype, shape, order, offset = _described(str(path), start, size)
    if not math.prod(shape):
        return np.empty(shape, dtype)  # no bytes to map
    return np.memmap(path, dtype, "r", offset, shape, order)


def npz_names(path: Path) -> list[str]:
    """The names of the arrays in a .npz file.

    Raises:
        HypersignError: the file is missing, is no regular file, or is no .npz file.
    """
    with open_file(path, " as a .npz file") as stream:
        if stream.read(len(_MAGIC)) == _MAGIC:
            raise HypersignError(f"{path}: must be a .npz of several arrays; it holds a single one")
        try:
            with zipfile.ZipFile(stream) as archive:
                return [_name(item) for item in archive.infolist()]
        except _DAMAGE as error:
            raise _no_npz(path, error) from error


def npz_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the arrays of real numbers in a .npz file, by name; only headers are read.

    Raises:
        HypersignError: as `npz_names`.
    """
    found = {}
    with open_file(path, " as a .npz file") as stream:
        try:
            with zipfile.ZipFile(stream) as archive:
                for item in archive.infolist():
                    with contextlib.suppress(HypersignError):  # no array of real numbers, or none that can be read
                        found[_name(item)] = _member_header(path, archive, item)[1]
        except _DAMAGE as error:
            raise _no_npz(path, error) from error
    return found


def open_npz(path: Path, name: str) -> NDArray[Any]:
    """Maps an array of a .npz file into memory; a compressed one is unpacked into a temporary file first.

    Raises:
        HypersignError: as `read_npz`.
    """
    with open_file(path, " as a .npz file") as stream:
        size = stream.seek(0, 2)
        try:
            with zipfile.ZipFile(stream) as archive:
                (item,) = (item for item in archive.infolist() if _name(item) == name)
                dtype, shape, order, offset = _member_header(path, archive, item)
                if not math.prod(shape):
                    return np.empty(shape, dtype)
                if item.compress_type == zipfile.ZIP_STORED and item.file_size == item.compress_size:
                    stream.seek(item.header_offset + 26)  # the lengths of the name and of what follows it
                    start = item.header_offset + 30 + sum(struct.unpack("<HH", stream.read(4)))
                    if start + item.file_size <= size:
                        return np.memmap(path, dtype, "r", start + offset, shape, order)
                if item.file_size > max(MOST_UNPACKED, 100 * size):
                    raise _too_large(path, item.file_size)
                with tempfile.TemporaryFile() as unpacked:
                    with archive.open(item) as member:
                        shutil.copyfileobj(member, unpacked, 1 << 20)
                    unpacked.flush()
                    if unpacked.tell() != item.file_size:
                        raise ValueError("an array is shorter than the archive says")
                    return np.memmap(unpacked, dtype, "r", offset, shape, order)
        except HypersignError:
            raise
        except _DAMAGE as error:
            raise _no_npz(path, error) from error


def read_npz(path: Path, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Arrays of a .npz file by name, in memory; the others are not read.

    Raises:
        HypersignError: as `npz_names`; or one of the arrays is missing, encrypted, damaged, or holds no real numbers,
            or they unpack to more than 100 times the file's size (and more than 1 GiB).
    """
    with open_file(path, " as a .npz file") as stream:
        size = stream.seek(0, 2)
        try:
            with zipfile.ZipFile(stream) as archive:
                items = {_name(item): item for item in archive.infolist()}
                wanted = {name: items[name] for name in names if name in items}
                unpacked = sum(item.file_size for item in wanted.values())
                if any(item.compress_size > size for item in wanted.values()):  # zipfile would make room for it
                    raise HypersignError(
                        f"{path}: its arrays must take at most the {size:,} bytes of the file: it is damaged; write "
                        "it again with numpy.savez"
                    )
                if unpacked > max(MOST_UNPACKED, 100 * size):
                    raise _too_large(path, unpacked)
                return {name: _member(path, archive, item) for name, item in wanted.items()}
        except HypersignError:
            raise
        except _DAMAGE as error:
            raise _no_npz(path, error) from error


def _member(path: Path, archive: zipfile.ZipFile, item: zipfile.ZipInfo) -> NDArray[Any]:
    _check_member(path, item)
    with archive.open(item) as member:
        content = member.read()
    dtype, shape, order, offset = _described(f"{path}: {_name(item)!r:.100}", content, len(content))
    flat = np.frombuffer(content, dtype, math.prod(shape), offset)
    return np.array(flat.reshape(shape, order=order), order="C")


def _member_header(
    path: Path, archive: zipfile.ZipFile, item: zipfile.ZipInfo
) -> tuple[np.dtype[Any], tuple[int, ...], Any, int]:
    """What `_described` returns of an array of a .npz file."""
    _check_member(path, item)
    with archive.open(item) as member:
        start = member.read(_VERSION + 4 + _LONGEST_HEADER)
    return _described(f"{path}: {_name(item)!r:.100}", start, item.file_size)


def _check_member(path: Path, item: zipfile.ZipInfo) -> None:
    if item.flag_bits & 1:
        raise HypersignError(f"{path}: its arrays must not be encrypted; write it again with numpy.savez")
    if item.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise HypersignError(
            f"{path}: its arrays must be stored or deflated; they are compressed in another way: write it again with "
            "numpy.savez"
        )


def _name(item: zipfile.ZipInfo) -> str:
    return item.filename.removesuffix(".npy")


def _no_npz(path: Path, error: Exception) -> HypersignError:
    return HypersignError(
        f"{path}: cannot be read as a .npz of plain arrays ({error!s:.200}); write it again with numpy.savez"
    )


def _too_large(path: Path, unpacked: int) -> HypersignError:
    return HypersignError(
        f"{path}: its arrays must unpack to at most 100 times the file's size; they unpack to {unpacked:,} bytes: "
        "write it again with numpy.savez"
    )


def _start(path: Path) -> bytes:
    with open_file(path) as file:
        return file.read(len(_MAGIC))


def _described(what: str, start: bytes, size: int) -> tuple[np.dtype[Any], tuple[int, ...], Any, int]:
    """Type, shape, order and first byte of the numbers of a .npy file of `size` bytes that begins with `start`."""
    if not start.startswith(_MAGIC) or len(start) < _VERSION + 4:
        raise HypersignError(
            f"{what} could not be read as a .npy file: it does not begin like one; write it by numpy.save"
        )
    version = start[len(_MAGIC)]
    if version not in (1, 2, 3):
        raise HypersignError(
            f"{what} could not be read as a .npy file: its version is {version}, and 1 to 3 are read"
        )
    width = 2 if version == 1 else 4  # bytes of the header's length
    length = int.from_bytes(start[_VERSION : _VERSION + width], "little")
    offset = _VERSION + width + length
    text = start[_VERSION + width : min(offset, _VERSION + width + _LONGEST_HEADER)].decode("latin-1")
    header = _HEADER.fullmatch(text) if len(text) == length else None
    if header is None:
        raise HypersignError(
            f"{what} could not be read as a .npy file: its header is not that of a plain array of numbers; write it "
            "by numpy.save"
        )
    dtype, shape = _dtype(what, header["descr"]), _shape(what, header["shape"])
    needed = math.prod(shape) * dtype.itemsize
    if size - offset < needed:
        raise HypersignError(
            f"{what} must hold {needed} bytes of numbers after its header; it holds {size - offset}: it was cut "
            "short; write it again by numpy.save"
        )
    return dtype, shape, "F" if header["fortran"] == "True" else "C", offset


def _dtype(what: str, word: str) -> np.dtype[Any]:
    if not _REAL.fullmatch(word):
        raise HypersignError(f"{what} must hold real numbers; its type is {word!r}")
    try:
        return np.dtype(word)
    except TypeError as error:
        raise HypersignError(
            f"{what} could not be read as a .npy file: no type of numbers is called {word!r}"
        ) from error


def _shape(what: str, text: str) -> tuple[int, ...]:
    sizes = [size.strip() for size in text.split(",") if size.strip()]
    if len(sizes) > 32 or any(not size.isdigit() or len(size) > 18 for size in sizes):
        raise HypersignError(f"{what} could not be read as a .npy file: its shape is ({text[:80]})")
    return tuple(int(size) for size in sizes)
