"""Files of vectors: one reader for every command and function."""

from collections.abc import Callable
from pathlib import Path

from numpy.typing import NDArray

from hypersign._arrays import open_npy
from hypersign._checks import HypersignError
from hypersign._files import open_file
from hypersign.hashing.stored import AnyVectors, Shards
from hypersign.hashing.vector_formats import (
    VECS,
    open_arrow,
    open_hdf5,
    open_npz_vectors,
    open_parquet,
    open_safetensors,
    open_vecs,
)

__all__ = ["files_of", "is_vectors", "open_vectors", "split_name"]

MARKS: dict[bytes, Callable[[Path, str], AnyVectors]] = {
    b"PK\3\4": open_npz_vectors,
    b"PK\5\6": open_npz_vectors,
    b"\x89HDF": open_hdf5,
    b"PAR1": open_parquet,
    b"ARRO": open_arrow,
    b"\xff\xff\xff\xff": open_arrow,
}
"""Readers by a file's first four bytes."""

SUFFIXES = (".npy", ".npz", *VECS, ".parquet", ".arrow", ".feather", ".h5", ".hdf5", ".safetensors")
"""Names of the files that are read in a folder."""

NAME = "::"
"""Parts a file from the name of an array in it."""


def open_vectors(path: Path | str) -> AnyVectors:
    """Opens a file or a folder of vectors, shape (n, dimension), without reading them.

    | File | Read |
    |---|---|
    | .npy, in C or Fortran order, any suffix | mapped into memory |
    | .npz | mapped; a compressed array is unpacked into a temporary file |
    | .fvecs, .bvecs, .ivecs | by blocks |
    | .safetensors | mapped; BF16 becomes float32 |
    | HDF5 | by blocks; needs h5py |
    | Parquet, Arrow, Feather: a column of lists | by blocks; needs pyarrow |
    | a folder of such files | one after the other, sorted by name; all of one dimension and type |

    A file may be larger than memory. If it has several arrays, name one: `vectors.h5::train`. In a folder, the files
    with other suffixes, hidden ones and those that begin with an underscore are left out.

    Returns a mapped array, or `StoredVectors`, which are indexed by rows like an array.

    Raises:
        HypersignError: the file is missing, is no regular file, is none of these or damaged, does not hold real
            numbers in two dimensions, or is empty; or a package that reads it is not installed.

    >>> import tempfile
    >>> import numpy as np
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(f"{folder}/x.npz", test=np.zeros((2, 3)), train=np.ones((5, 3), np.float32))
    ...     open_vectors(f"{folder}/x.npz::train").shape
    (5, 3)
    """
    file, name = split_name(path)
    found: AnyVectors
    if file.is_dir():
        files = files_of(file)
        found = Shards([str(shard) for shard in files], lambda i: _open(files[i], name))
    else:
        found = _open(file, name)
    if found.ndim != 2:
        raise HypersignError(f"{path} must hold vectors, shape (n, dimension); its shape is {found.shape}")
    if not all(found.shape):
        raise HypersignError(f"{path} holds no vectors: its shape is {found.shape}")
    return found


def files_of(path: Path | str) -> list[Path]:
    """The files that `open_vectors` reads, in the order of their rows. Raises HypersignError if a folder has none."""
    file, _ = split_name(path)
    if not file.is_dir():
        return [file]
    files = [
        shard
        for shard in sorted(file.iterdir())
        if shard.suffix.lower() in SUFFIXES and not shard.name.startswith((".", "_")) and shard.is_file()
    ]
    if not files:
        raise HypersignError(f"the folder {file} must have files of vectors ({', '.join(SUFFIXES)}); it has none")
    return files


def is_vectors(path: Path | str) -> bool:
    """Whether a path looks like vectors by its name or its first bytes, and not like weights or codes."""
    file, name = split_name(path)
    if name:
        return True
    if file.is_dir():
        return any(shard.suffix.lower() in SUFFIXES[:-1] for shard in file.iterdir())
    if file.suffix.lower() in SUFFIXES[:-1]:
        return True
    if not file.is_file() or file.suffix.lower() == ".safetensors":
        return False
    start = _start(file)
    return start in MARKS or start == b"\x93NUM"


def _open(path: Path, name: str) -> AnyVectors:
    start, suffix = _start(path), path.suffix.lower()
    if start in MARKS:
        return MARKS[start](path, name)
    if suffix in VECS:
        return open_vecs(path, name)
    if suffix == ".safetensors" or _is_safetensors(path):
        return open_safetensors(path, name)
    if suffix in (".npy", "") or start == b"\x93NUM" or suffix not in SUFFIXES:
        found: NDArray = open_npy(path)
        if name:
            raise HypersignError(f"{path} holds one array, which has no name; leave ::{name:.60} out")
        return found
    raise HypersignError(f"{path} could not be read as a {suffix} file: it does not begin like one; write it again")


def split_name(path: Path | str) -> tuple[Path, str]:
    """A path and the name of an array in the file, which may be empty."""
    if Path(path).exists() or NAME not in str(path):
        return Path(path), ""
    file, _, name = str(path).rpartition(NAME)
    return Path(file), name


def _start(path: Path) -> bytes:
    with open_file(path, " as vectors") as file:
        return file.read(4)


def _is_safetensors(path: Path) -> bool:
    with open_file(path) as file:
        return file.read(9)[8:] == b"{"
