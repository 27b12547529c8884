"""Hashes files that may be larger than memory, a block at a time, and resumes after a kill.

A codes file is a safetensors file with two tensors: `mean`, float64 (dimension,), and `codes`, uint64 (n, words) or,
for level codes, uint8 (n, bytes). Its metadata has the hasher's options, as JSON under the key `hypersign`; files of
level codes are of version 2 and also name bits per dimension and metric. While a codes file is being written, it has
a hidden name that depends on the vectors and on the fitted hasher.
"""

import glob
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from hypersign._checks import HypersignError, check_choice, check_int
from hypersign._files import as_utf8, open_file
from hypersign._json import parse_object
from hypersign._locks import writing_file
from hypersign._safetensors import Entry, header_bytes, read_header
from hypersign.hashing.hasher import MOST_BITS, SignHasher, block_rows
from hypersign.hashing.levels import FACTORS
from hypersign.hashing.vector_files import open_vectors

__all__ = ["hash_file"]

VERSION = 1
LEVELS_VERSION = 2
OPTIONS = ("bits", "rotation", "rounds", "center", "seed")
LEVELS_OPTIONS = (*OPTIONS, "bits_per_dimension", "metric")


def hash_file(
    vectors: Path | str,
    output: Path | str,
    hasher: SignHasher,
    *,
    progress: Callable[[int, int], object] | None = None,
) -> SignHasher:
    """Hashes the vectors of a .npy file, which may be larger than memory, into a codes file.

    The file is read twice: for the mean, if the hasher centres, and for the codes. A killed process leaves no file
    named `output`. Call the function again with the same hasher and vectors, and it continues after the last complete
    block; with others it starts anew. If a vector cannot be hashed, no file remains. Only one process at a time can
    write to `output`.

    Args:
        vectors: .npy file, shape (n, dimension).
        output: codes file to write; `HammingIndex.load` reads it.
        hasher: a hasher; it is fitted to these vectors.
        progress: called with (vectors done, all vectors) after each block of the second pass.

    Returns the fitted hasher.

    Raises:
        HypersignError: `open_vectors` or `SignHasher` refuses the vectors, the codes cannot be written, `output` is a
            folder or the file of the vectors, or another process is writing it (the message names it).
    """
    source, output = Path(vectors), Path(output)
    mapped = open_vectors(source)
    if output.is_dir():
        raise HypersignError(f"{output} is a folder; name a file for the codes")
    if output.exists() and output.samefile(source):
        raise HypersignError(f"the codes would take the place of the vectors in {source}; name another file for them")
    with writing_file(output):
        _write_codes(source, mapped, output, hasher, progress)
    return hasher


def _write_codes(
    source: Path,
    mapped: NDArray[Any],
    output: Path,
    hasher: SignHasher,
    progress: Callable[[int, int], object] | None,
) -> None:
    count, dimension = mapped.shape
    status = source.stat()
    hasher.fit_blocks(_read(source, mapped, 0), dimension)
    prefix = _prefix(hasher, count)
    # A partial file is for one version of the vectors and one fitted hasher.
    origin = as_utf8(f"{source.resolve()} {status.st_size} {status.st_mtime_ns} ")
    part = output.with_name(f".{output.name}.{hashlib.sha256(origin + prefix).hexdigest()[:16]}.part")
    for other in output.parent.glob(f".{glob.escape(output.name)}.{'[0-9a-f]' * 16}.part"):
        if other != part:
            other.unlink(missing_ok=True)  # left by a killed process that had other vectors or another hasher
    rows, width = block_rows(dimension), hasher.row_bytes()
    try:
        with open(part, "r+b" if part.exists() else "w+b") as file:
            there = os.fstat(file.fileno()).st_size - len(prefix)
            if file.read(len(prefix)) != prefix:
                there = 0
                file.truncate(0)
                file.seek(0)
                file.write(prefix)
            done = min(max(there, 0) // width, count) // rows * rows
            file.seek(len(prefix) + done * width)
            file.truncate()
            for block in _read(source, mapped, done):
                file.write(_little(hasher.hash_block(block, done)).tobytes())
                file.flush()
                os.fsync(file.fileno())
                done += len(block)
                if progress is not None:
                    progress(done, count)
        os.replace(part, output)
    except HypersignError:
        part.unlink(
            missing_ok=True
        )  # after a correction the vectors are another file, which could not resume this one
        raise
    except OSError as error:
        raise HypersignError(
            f"{output} could not be written: {error.strerror or error}; make room there or write elsewhere, "
            "then try again"
        ) from error


def write_codes(path: Path, hasher: SignHasher, codes: NDArray[Any]) -> None:
    """Writes a codes file to `path`."""
    with open(path, "wb") as file:
        file.write(_prefix(hasher, len(codes)))
        file.write(np.ascontiguousarray(_little(codes)).data)


def read_codes(path: Path) -> tuple[SignHasher, NDArray[Any]]:
    """Reads a codes file: the fitted hasher and the codes. Raises HypersignError if the file is not one."""
    with open_file(path, " as a codes file") as file:
        try:
            header = read_header(file)
            text = header.metadata.get("hypersign")
            if text is None or set(header.tensors) != {"mean", "codes"}:
                raise HypersignError("a mean, codes and the hasher's options were expected")
            saved = parse_object("the hasher's options", text)
            hasher = _hasher(saved)
            shape = _check_tensors(hasher, header.tensors)
            mean, codes = (_tensor(file, len(header.raw), header.tensors[name]) for name in ("mean", "codes"))
            if not np.isfinite(mean).all():
                raise HypersignError("its mean must be finite")
            return hasher.restore(mean), codes.reshape(shape)
        except HypersignError as error:
            raise HypersignError(
                f"{path} is no codes file as `hypersign hash` writes them: {str(error)[:300]}"
            ) from error


def _hasher(saved: dict[str, Any]) -> SignHasher:
    version = saved.get("version")
    if version not in (VERSION, LEVELS_VERSION) or isinstance(version, bool):
        raise HypersignError(
            f"it is of version {version!r:.40}, and this HyperSign reads versions {VERSION} and {LEVELS_VERSION}; "
            "hash its vectors again"
        )
    options = OPTIONS if version == VERSION else LEVELS_OPTIONS
    missing = [name for name in options if name not in saved]
    if missing:
        raise HypersignError(f"the hasher's options lack {', '.join(missing)}")
    check_int("bits", saved["bits"], min=1, max=MOST_BITS)
    if version == LEVELS_VERSION:
        check_choice("metric", saved["metric"], FACTORS)
    return SignHasher(**{name: saved[name] for name in options})


def _check_tensors(hasher: SignHasher, tensors: Mapping[str, Entry]) -> tuple[int, ...]:
    """Checks types, shapes and options before a tensor is read or a rotation made; returns the shape of the codes."""
    mean, codes = tensors["mean"], tensors["codes"]
    kind = "U64" if hasher.metric is None else "U8"
    if (mean.dtype, codes.dtype) != ("F64", kind):
        raise HypersignError(
            f"its mean is of type {mean.dtype}, its codes {codes.dtype}; F64 and {kind} were expected"
        )
    if len(mean.shape) != 1 or len(codes.shape) != 2:
        raise HypersignError(f"its codes are of shape {codes.shape}, its mean of shape {mean.shape}")
    if 0 in mean.shape + codes.shape:
        raise HypersignError("it must hold a mean and at least one code")
    hasher.check_options(mean.shape[0])
    width = hasher.columns(mean.shape[0])
    if codes.shape[1] != width:
        raise HypersignError(
            f"its codes have {codes.shape[1]} columns; its hasher, of {hasher.bits} bits, has {width}"
        )
    return codes.shape


def _little(codes: NDArray[Any]) -> NDArray[Any]:
    return codes.astype(codes.dtype.newbyteorder("<"), copy=False)


def _tensor(file: BinaryIO, start: int, entry: Entry) -> NDArray[Any]:
    file.seek(start + entry.start)
    kind = np.dtype({"F64": "<f8", "U64": "<u8", "U8": "u1"}[entry.dtype])
    found = np.fromfile(file, kind, (entry.stop - entry.start) // kind.itemsize)
    return found.astype(kind.newbyteorder("="), copy=False)


def _read(path: Path, mapped: NDArray[Any], start: int) -> Iterator[NDArray[Any]]:
    """Yields blocks of rows from `start` on. It reads the file, because mapped pages would count as memory in use."""
    (count, dimension), rows = mapped.shape, block_rows(mapped.shape[1])
    offset, size = getattr(mapped, "offset", 0), mapped.dtype.itemsize
    for first in range(start, count, rows):
        wanted = min(rows, count - first)
        if mapped.flags.c_contiguous:
            skip = offset + first * dimension * size
            block = np.fromfile(path, mapped.dtype, wanted * dimension, offset=skip).reshape(-1, dimension)
        else:  # Fortran order: columns are contiguous
            columns = (offset + (column * count + first) * size for column in range(dimension))
            block = np.stack([np.fromfile(path, mapped.dtype, wanted, offset=skip) for skip in columns], axis=1)
        yield block.astype(block.dtype.newbyteorder("="), copy=False)


def _prefix(hasher: SignHasher, count: int) -> bytes:
    """Everything before the codes: the header of a safetensors file, and the mean."""
    mean = np.ascontiguousarray(hasher.mean_, "<f8")
    signs = hasher.level_code_ is None
    saved: dict[str, Any] = {"version": VERSION if signs else LEVELS_VERSION}
    saved |= {name: getattr(hasher, name) for name in (OPTIONS if signs else LEVELS_OPTIONS)}
    saved |= {"bits": hasher.bits_} | ({} if signs else {"metric": hasher.metric_})
    shape = count, hasher.columns(len(mean))
    header = header_bytes(
        {"mean": ("F64", mean.shape), "codes": ("U64" if signs else "U8", shape)}, {"hypersign": json.dumps(saved)}
    )
    return header + mean.tobytes()
