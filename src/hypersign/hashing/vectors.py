"""Hashes files that may be larger than memory, a block at a time, and resumes after a kill.

A codes file is a safetensors file with the tensors `mean`, float64 (dimension,), and `codes`, uint64 (n, words) or,
for level codes, uint8 (n, bytes). If ids are not 0 to n - 1, it has also `ids`, int64 (n,), ascending; and for
`BoundedIndex`, `cosines` and `lengths`, float32 (n,); of codes of principal components, `components`, float32
(m, dimension). Its metadata has the hasher's options, as JSON under the key
`hypersign`; those of level codes also name bits per dimension and metric. While a codes file is being written, it has
a hidden name that depends on the vectors and on the fitted hasher; the codes are its last tensor, so its size says
how many vectors are done.
"""

import contextlib
import glob
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hypersign._checks import HypersignError, check_choice, check_int
from hypersign._files import as_utf8, open_file
from hypersign._json import parse_object
from hypersign._locks import writing_file
from hypersign._safetensors import Entry, header_bytes, read_header
from hypersign.hashing.estimators import code_bounds
from hypersign.hashing.hasher import MOST_BITS, PIECE, SignHasher, finite_rows
from hypersign.hashing.levels import LEVEL_METRICS
from hypersign.hashing.stored import AnyVectors, Rows, block_rows, read_blocks
from hypersign.hashing.vector_files import files_of, open_vectors, split_name

__all__ = ["hash_file", "import_bits", "packed_words"]

VERSIONS = (1, 2, 5, 6)
"""Of codes files: 1 is sign codes alone, 2 has ids or bounds, 5 is level codes, 6 those of principal components.

3 and 4 were level codes of other levels."""

ALLOWED: tuple[set[str], ...] = (set(), {"ids"}, {"cosines", "lengths"})
"""Tensors beside the mean, the principal components and the codes."""

CHECKED = 1 << 20
"""Numbers checked at a time."""

_KINDS = {"mean": "F64", "components": "F32", "ids": "I64", "cosines": "F32", "lengths": "F32"}

OPTIONS = ("bits", "rotation", "rounds", "center", "seed")
LEVEL_OPTIONS = (*OPTIONS, "bits_per_dimension", "metric")
PCA_OPTIONS = (*LEVEL_OPTIONS[1:], "pca")


def hash_file(
    vectors: Path | str,
    output: Path | str,
    hasher: SignHasher,
    *,
    bounds: bool = False,
    skip: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> SignHasher:
    """Hashes a file or a folder of vectors, which may be larger than memory, into a codes file.

    Files are read in the order of their names, with one mean for all of them. Everything is read twice: for the mean,
    if the hasher centres, and for the codes. A killed process leaves no file named `output`. Call the function again
    with the same hasher and vectors, and it continues after the last complete block; with others it starts anew. If a
    vector cannot be hashed, no file remains. Only one process at a time can write to `output`.

    Args:
        vectors: a file or folder that `open_vectors` reads.
        output: codes file to write; `HammingIndex.load` reads it.
        hasher: a hasher; it is fitted to these vectors.
        bounds: whether to write what `BoundedIndex.load` needs, 8 bytes per vector.
        skip: whether to leave out vectors that cannot be hashed (NaN, infinite, or without a direction); the codes
            then have the row numbers of their vectors as ids. Finding them reads everything twice more.
        progress: called with (vectors done, all vectors) after each block of the last pass.

    Returns the fitted hasher.

    Raises:
        HypersignError: `open_vectors` or `SignHasher` refuses the vectors, the codes cannot be written, `output` is a
            folder, the file of the vectors or in their folder, or another process is writing it (the message names
            it).
    """
    output = Path(output)
    if bounds and hasher.rotation is None:
        raise HypersignError("bounds need a hasher with a random rotation; this one has none")
    if bounds and (hasher.bits_per_dimension != 1 or hasher.metric not in (None, "hamming")):
        raise HypersignError(
            "bounds are for exact search, which needs sign codes: hash without --bits-per-dimension and --metric"
        )
    if bounds and skip:
        raise HypersignError("bounds are for files of which every vector is hashed; leave bounds or skip out")
    opened = open_vectors(vectors)
    _check_output(output, vectors)
    with writing_file(output):
        if skip:
            opened = hashable(opened, hasher)
        else:
            hasher.fit_blocks((block for _, block in read_blocks(opened)), opened.shape[1])
        _write_codes(files_of(vectors), opened, output, hasher, hasher.hash_block, bounds, progress)
    return hasher


def hashable(opened: AnyVectors, hasher: SignHasher) -> Rows:
    """The vectors that a hasher can hash; it is fitted to those that are finite.

    Raises HypersignError if there are none.
    """

    def bad(vectors: AnyVectors, fits: Callable[[NDArray[Any]], NDArray[np.bool_]]) -> NDArray[np.int64]:
        found = [first + np.flatnonzero(~fits(block)) for first, block in read_blocks(vectors)]
        return np.concatenate([np.empty(0, np.int64), *found])

    cosine = hasher.metric == "cosine"
    left = Rows(opened, bad(opened, lambda block: finite_rows(block) & (block.any(1) | (not cosine))))
    if len(left):
        hasher.fit_blocks((block for _, block in read_blocks(left)), opened.shape[1])
        more = left.numbers(bad(left, hasher.hashable))
        left = Rows(opened, np.sort(np.concatenate([left.without, more])))
    if not len(left):
        raise HypersignError(
            f"none of the {len(opened):,} vectors can be hashed: each is not finite or has no direction"
        )
    return left


def import_bits(
    vectors: Path | str, output: Path | str, *, progress: Callable[[int, int], object] | None = None
) -> SignHasher:
    """Writes a codes file of embeddings that are bits already, as sentence-transformers and Cohere return them.

    `precision="ubinary"` gives uint8 of shape (n, dimension/8), and "binary" int8, 128 less. A bit is 1 where the
    component is positive; the first component is the highest bit of the first byte (`packed_words`). The hasher of
    the file has no rotation and no mean, so that queries may be bits or vectors.

    Args:
        vectors: a file or folder of bytes that `open_vectors` reads.
        output: codes file to write.
        progress: as in `hash_file`.

    Raises:
        HypersignError: as `hash_file`; or the numbers are no bytes.
    """
    output = Path(output)
    opened = open_vectors(vectors)
    _check_output(output, vectors)
    width = 8 * opened.shape[1]
    packed_words(opened[:1])
    hasher = SignHasher(width, rotation=None, center=False)
    hasher.check_options(width)
    hasher.restore(np.zeros(width))
    with writing_file(output):

        def code(block: NDArray[Any], first: int) -> NDArray[np.uint64]:
            return packed_words(block)

        _write_codes(files_of(vectors), opened, output, hasher, code, False, progress)
    return hasher


def packed_words(rows: NDArray[Any]) -> NDArray[np.uint64]:
    """Bits in bytes, one where the component is positive and the highest first, as codes of `HammingIndex`.

    Args:
        rows: uint8 (n, dimension/8), or int8, 128 less.

    Returns uint64 (n, words). Raises HypersignError if the numbers are no bytes.

    >>> packed_words(np.packbits([[True, False, False, False, False, False, False, False]], axis=1)).tolist()
    [[254]]
    """
    if rows.dtype not in (np.uint8, np.int8):
        raise HypersignError(f"packed bits must be uint8 (ubinary) or int8 (binary); got {rows.dtype}")
    ours = _OURS[rows.view(np.uint8) ^ np.uint8(128 if rows.dtype == np.int8 else 0)]
    padded = np.zeros((len(ours), 8 * -(-ours.shape[1] // 8)), np.uint8)
    padded[:, : ours.shape[1]] = ours
    return padded.view("<u8").astype(np.uint64, copy=False)


_OURS = np.packbits(np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1) == 0, axis=1, bitorder="little")[
    :, 0
]
"""A byte of bits, one where positive and the highest first -> one where negative and the lowest first."""


def _check_output(output: Path, vectors: Path | str) -> None:
    if output.is_dir():
        raise HypersignError(f"{output} is a folder; name a file for the codes")
    source = split_name(vectors)[0]
    if output.exists() and output.samefile(source):
        raise HypersignError(f"the codes would take the place of the vectors in {source}; name another file for them")
    if source.is_dir() and output.absolute().parent.resolve() == source.resolve():
        raise HypersignError(f"the codes must not be in the folder of the vectors, {source}; name another folder")


def _write_codes(
    files: Sequence[Path],
    opened: AnyVectors,
    output: Path,
    hasher: SignHasher,
    code: Callable[[NDArray[Any], int], NDArray[Any]],
    bounds: bool,
    progress: Callable[[int, int], object] | None,
) -> None:
    count, dimension = opened.shape
    named = isinstance(opened, Rows) and len(opened.without) > 0
    prefix = _prefix(hasher, count, ids=named, bounds=bounds)
    start = len(prefix) + (8 * count if bounds else 0)
    # A partial file is for one version of the vectors and one fitted hasher.
    versions = ((file.resolve(), file.stat()) for file in files)
    origin = as_utf8("".join(f"{file} {status.st_size} {status.st_mtime_ns} " for file, status in versions))
    part = output.with_name(f".{output.name}.{hashlib.sha256(origin + prefix).hexdigest()[:16]}.part")
    for other in output.parent.glob(f".{glob.escape(output.name)}.{'[0-9a-f]' * 16}.part"):
        if other != part:
            other.unlink(missing_ok=True)  # left by a killed process that had other vectors or another hasher
    rows, width = block_rows(dimension), hasher.row_bytes()
    try:
        with open(part, "r+b" if part.exists() else "w+b") as file:
            there = os.fstat(file.fileno()).st_size - start
            if file.read(len(prefix)) != prefix:
                there = 0
                file.truncate(0)
                file.seek(0)
                file.write(prefix)
            done = min(max(there, 0) // width, count) // rows * rows
            file.truncate(start + done * width)
            for first, block in read_blocks(opened, done):
                codes = code(block, first)
                if bounds:  # before the codes, whose number says how much is done
                    _write_bounds(file, len(prefix), count, first, hasher, block)
                    os.fsync(file.fileno())
                file.seek(start + first * width)
                file.write(_little(codes).tobytes())
                file.flush()
                os.fsync(file.fileno())
                done += len(block)
                if progress is not None:
                    progress(done, count)
            if named:
                _write_ids(file, start + count * width, opened)
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


def _write_ids(file: BinaryIO, start: int, rows: Any) -> None:
    """Writes the row numbers of the vectors that were not left out, as ids."""
    file.seek(start)
    for first in range(0, len(rows), CHECKED):
        file.write(rows.numbers(np.arange(first, min(first + CHECKED, len(rows)))).astype("<i8").tobytes())
    file.flush()
    os.fsync(file.fileno())


def _write_bounds(
    file: BinaryIO, start: int, count: int, first: int, hasher: SignHasher, block: NDArray[Any]
) -> None:
    """Writes the cosines and lengths of a block at their places; `start` is the place of the first cosine."""
    for row in range(0, len(block), step := max(1, PIECE // block.shape[1])):
        for tensor, values in enumerate(code_bounds(hasher, block[row : row + step])):
            file.seek(start + 4 * (tensor * count + first + row))
            file.write(values.astype("<f4").tobytes())
    file.flush()


def write_codes(path: Path, hasher: SignHasher, codes: NDArray[Any], ids: NDArray[np.int64] | None = None) -> None:
    """Writes a codes file to `path`."""
    with open(path, "wb") as file:
        file.write(_prefix(hasher, len(codes), ids=ids is not None))
        file.write(np.ascontiguousarray(_little(codes)).data)
        if ids is not None:
            file.write(np.ascontiguousarray(ids, "<i8").data)


class CodesFile(NamedTuple):
    """What a codes file holds; arrays are mapped from it.

    Attributes: `hasher`, fitted; `codes`; `ids`, None for 0 to n - 1; `bounds`, cosines and lengths, or None.
    """

    hasher: SignHasher
    codes: NDArray[Any]
    ids: NDArray[np.int64] | None
    bounds: tuple[NDArray[np.float32], NDArray[np.float32]] | None


def read_codes(path: Path) -> CodesFile:
    """Reads a codes file. Raises HypersignError if it is not one."""
    with open_file(path, " as a codes file") as file:
        try:
            header = read_header(file)
            text = header.metadata.get("hypersign")
            more = set(header.tensors) - {"mean", "components", "codes"}
            if text is None or not {"mean", "codes"} <= set(header.tensors) or more not in ALLOWED:
                raise HypersignError("a mean, codes and the hasher's options were expected")
            saved = parse_object("the hasher's options", text)
            hasher = _hasher(saved)
            shape = _check_tensors(hasher, header.tensors)
            found = {name: _tensor(file, len(header.raw), entry) for name, entry in header.tensors.items()}
            _check_numbers(found)
            bounds = (found["cosines"], found["lengths"]) if "cosines" in found else None
            components = np.array(found["components"]).reshape(-1, len(found["mean"])) if hasher.pca else None
            return CodesFile(
                hasher.restore(np.array(found["mean"]), components),
                found["codes"].reshape(shape),
                found.get("ids"),
                bounds,
            )
        except HypersignError as error:
            raise HypersignError(
                f"{path} is no codes file as `hypersign hash` writes them: {str(error)[:300]}"
            ) from error


def _check_numbers(found: Mapping[str, NDArray[Any]]) -> None:
    """Checks numbers block by block, so that mapped tensors are not in memory at once."""
    checks: dict[str, tuple[Callable[[NDArray[Any]], Any], str]] = {
        "mean": (np.isfinite, "be finite"),
        "components": (lambda x: np.abs(x) <= 2, "be entries of unit vectors"),
        "ids": (lambda x: x[1:] > x[:-1], "ascend"),
        "cosines": (lambda x: (x > 0) & (x < np.inf), "be positive numbers"),
        "lengths": (lambda x: (x >= 0) & (x < np.inf), "be numbers >= 0"),
    }
    for name, (holds, wanted) in checks.items():
        numbers = found.get(name, np.empty(0))
        for start in range(0, len(numbers), CHECKED):
            if not holds(numbers[start : start + CHECKED + 1]).all():
                raise HypersignError(f"its {name} must {wanted}")


def is_codes(path: Path) -> bool:
    """Whether a path is a safetensors file with the options of a hasher, as `hypersign hash` writes it."""
    if not path.is_file():
        return False
    with open_file(path) as file, contextlib.suppress(HypersignError):
        return "hypersign" in read_header(file).metadata
    return False


def _hasher(saved: dict[str, Any]) -> SignHasher:
    version = saved.get("version")
    if version not in VERSIONS or isinstance(version, bool):
        raise HypersignError(
            f"it is of version {version!r:.40}, and this HyperSign reads versions {', '.join(map(str, VERSIONS))}; "
            "hash its vectors again"
        )
    options = {5: LEVEL_OPTIONS, 6: PCA_OPTIONS}.get(version, OPTIONS)
    missing = [name for name in options if name not in saved]
    if missing:
        raise HypersignError(f"the hasher's options lack {', '.join(missing)}")
    if "bits" in options:
        check_int("bits", saved["bits"], min=1, max=MOST_BITS)
    if options != OPTIONS:
        check_choice("metric", saved["metric"], LEVEL_METRICS)
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
    if 0 in (*mean.shape, codes.shape[1]):
        raise HypersignError("its mean and its codes must have a dimension")
    if ("components" in tensors) != (hasher.pca is not None):
        raise HypersignError("its principal components must be there if its hasher keeps them, and only then")
    for name in set(tensors) - {"mean", "components", "codes"}:
        more = tensors[name]
        if (more.dtype, more.shape) != (_KINDS[name], codes.shape[:1]):
            raise HypersignError(
                f"its {name} must be of type {_KINDS[name]} and shape {codes.shape[:1]}; got {more.dtype}, "
                f"{more.shape}"
            )
    hasher.check_options(mean.shape[0])
    if hasher.pca:
        wanted, found = (hasher.pca, *mean.shape), tensors["components"]
        if (found.dtype, found.shape) != ("F32", wanted):
            raise HypersignError(
                f"its principal components must be of type F32 and shape {wanted}; got {found.dtype}, {found.shape}"
            )
    width = hasher.columns(mean.shape[0])
    if codes.shape[1] != width:
        raise HypersignError(f"its codes have {codes.shape[1]} columns; its hasher makes {width}")
    return codes.shape


def _little(codes: NDArray[Any]) -> NDArray[Any]:
    return codes.astype(codes.dtype.newbyteorder("<"), copy=False)


def _tensor(file: BinaryIO, start: int, entry: Entry) -> NDArray[Any]:
    kind = np.dtype({"F64": "<f8", "F32": "<f4", "U64": "<u8", "U8": "u1", "I64": "<i8"}[entry.dtype])
    count, place = (entry.stop - entry.start) // kind.itemsize, start + entry.start
    if not count:
        return np.empty(0, kind.newbyteorder("="))
    if place % kind.itemsize:  # kernels need aligned words; earlier versions wrote headers of any length
        file.seek(place)
        found = np.fromfile(file, kind, count)
    else:
        found = np.asarray(np.memmap(file, kind, "r", place, (count,)))
    return found.astype(kind.newbyteorder("="), copy=False)


def _prefix(hasher: SignHasher, count: int, *, ids: bool = False, bounds: bool = False) -> bytes:
    """Everything before the codes, but for bounds: the header, the mean and the principal components, if any."""
    mean = np.ascontiguousarray(hasher.mean_, "<f8")
    components = np.empty(0) if hasher.components_ is None else np.ascontiguousarray(hasher.components_, "<f4")
    signs = hasher.level_code_ is None
    shapes: dict[str, tuple[int, ...]] = {"mean": mean.shape}
    if hasher.pca:
        shapes["components"] = components.shape
    if bounds:
        shapes |= {"cosines": (count,), "lengths": (count,)}
    shapes["codes"] = (count, hasher.columns(len(mean)))
    if ids:
        shapes["ids"] = (count,)
    version = (2 if ids or bounds else 1) if signs else (6 if hasher.pca else 5)
    names = {5: LEVEL_OPTIONS, 6: PCA_OPTIONS}.get(version, OPTIONS)
    saved: dict[str, Any] = {"version": version} | {name: getattr(hasher, name) for name in names}
    if "bits" in names:
        saved["bits"] = hasher.bits_
    if not signs:
        saved["metric"] = hasher.metric_
    kinds = _KINDS | {"codes": "U64" if signs else "U8"}
    tensors = {name: (kinds[name], shape) for name, shape in shapes.items()}
    return header_bytes(tensors, {"hypersign": json.dumps(saved)}) + mean.tobytes() + components.tobytes()
