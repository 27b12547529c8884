"""Files of weights, read row by row: safetensors, whole or in shards, and GGUF.

A file is mapped into memory, and rows are decoded when they are asked for, so that only the rows at hand
takes memory of its own. A row is what one output of a layer is computed from: for a tensor of shape (n, ...) there
are n rows, as torch stores filters; a stack of matrices (three dimensions, the last at least 64 long, as experts
are stored) has the rows of its matrices.
"""

import bisect
import dataclasses
import json
import math
import mmap
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hypersign._checks import HypersignError

__all__ = ["StoredTensor", "TensorFile", "is_tensor_file", "open_tensors"]

_STACK = 64  # the last dimension from which three dimensions are a stack of matrices, not a 1-D convolution
_INDEX = "*.safetensors.index.json"

Decode = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor as its file holds it.

    `dtype` is the file's own word for its type, `nbytes` its size in the file, `unreadable` why its values cannot
    be read ("" if they can). `shape` is in torch's order, also where the file has it reversed.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    unreadable: str
    _bytes: np.ndarray = dataclasses.field(repr=False)
    _decode: Decode = dataclasses.field(repr=False)

    @property
    def rows(self) -> int:
        """How many rows the tensor has; 1 for a vector."""
        if len(self.shape) == 3 and self.shape[-1] >= _STACK:
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
        with np.errstate(invalid="ignore", over="ignore"):  # who measures says of NaN and infinity
            return self._decode(self._bytes.reshape(self.rows, -1)[which])


@dataclasses.dataclass(frozen=True, eq=False)
class TensorFile:
    """Result of `open_tensors`: tensors by name, in the file's order, and a GGUF file's plain metadata."""

    path: Path
    tensors: dict[str, StoredTensor]
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict)


def is_tensor_file(path: Path) -> bool:
    """Whether `open_tensors` is for this path: a .safetensors or .gguf file, or a folder that has .safetensors."""
    path = Path(path)
    return path.suffix in (".safetensors", ".gguf") or (path.is_dir() and any(path.glob("*.safetensors*")))


def open_tensors(path: Path) -> TensorFile:
    """Opens a .safetensors file, a folder of one or of shards with their index, or a .gguf file (all its parts).

    Only headers are read. Raises HypersignError where a file is missing, truncated or corrupt.

    >>> import tempfile
    >>> from safetensors.numpy import save_file
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_file({"w": np.array([[1, -2], [3, 4]], np.float16)}, f"{folder}/model.safetensors")
    ...     tensor = open_tensors(Path(folder)).tensors["w"]
    >>> tensor.dtype, tensor.rows, tensor.read(slice(1, 2)).tolist()
    ('F16', 2, [[3.0, 4.0]])
    """
    path = Path(path)
    if path.exists() and not is_tensor_file(path):
        raise HypersignError(
            f"weights are read from .safetensors and .gguf files and from folders of .safetensors; got {path}"
        )
    if path.is_dir():
        return TensorFile(path, _folder(path))
    if path.suffix == ".gguf":
        return _gguf_parts(path)
    return TensorFile(path, _safetensors(path))


def _map(path: Path) -> np.ndarray:
    """The file's bytes, mapped into memory."""
    try:
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # ValueError: the file is empty
        reason = getattr(error, "strerror", None) or error
        raise HypersignError(f"{path} could not be read: {reason}; name a file of weights") from error
    return np.frombuffer(mapped, np.uint8)


# safetensors


def _float(kind: str) -> Decode:
    return lambda raw: raw.view(kind).astype("f8" if kind == "<f8" else "f4", copy=False)


def _bfloat16(raw: np.ndarray) -> np.ndarray:
    """bfloat16 is the upper half of a float32."""
    bits = raw.view("<u2").astype(np.uint32)
    bits <<= 16
    return bits.view(np.float32)


_FLOATS: dict[str, Decode] = {
    "F64": _float("<f8"),
    "F32": _float("<f4"),
    "F16": _float("<f2"),
    "BF16": _bfloat16,
}


def _undecoded(raw: np.ndarray) -> np.ndarray:
    raise AssertionError("an unreadable tensor is never decoded")


def _safetensors(path: Path) -> dict[str, StoredTensor]:
    import safetensors

    data = _map(path)
    try:
        with safetensors.safe_open(path, framework="np"):
            pass  # it has checked that the header is well-formed and fits the file
    except safetensors.SafetensorError as error:
        raise HypersignError(f"{path} is no whole safetensors file ({error}); download or save it again") from error
    size = int.from_bytes(data[:8].tobytes(), "little")
    header = json.loads(data[8 : 8 + size].tobytes())
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        start, stop = (8 + size + offset for offset in entry["data_offsets"])
        dtype = entry["dtype"]
        unreadable = ""
        if dtype not in _FLOATS:
            unreadable = f"type {dtype} holds no float weights that can be read without their scales"
        tensors[name] = StoredTensor(
            name,
            dtype,
            tuple(entry["shape"]),
            stop - start,
            unreadable,
            data[start:stop],
            _FLOATS.get(dtype, _undecoded),
        )
    return dict(sorted(tensors.items(), key=lambda item: _natural(item[0])))


def _natural(name: str) -> list[tuple[int, str]]:
    """layers.2 before layers.10: the writer of a safetensors file orders tensors by their type."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _folder(path: Path) -> dict[str, StoredTensor]:
    indices, files = sorted(path.glob(_INDEX)), sorted(path.glob("*.safetensors"))
    if len(indices) > 1 or (not indices and len(files) > 1):
        names = ", ".join(file.name for file in indices or files)
        raise HypersignError(
            f"{path} must hold one safetensors file or one index of shards; it has {names}; name one"
        )
    if not indices:
        return _safetensors(files[0])
    try:
        shards: dict[str, str] = dict(json.loads(indices[0].read_bytes())["weight_map"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HypersignError(
            f"{indices[0]} must be JSON with a weight_map of tensors to files ({error!r}); download it again"
        ) from error
    opened = {}
    for name in sorted(set(shards.values())):
        if Path(name).name != name:
            raise HypersignError(f"{indices[0]} must name files beside it; it names {name!r}; download it again")
        opened[name] = _safetensors(path / name)
    wrong = [name for name, shard in shards.items() if name not in opened[shard]]
    wrong += [name for tensors in opened.values() for name in tensors if name not in shards]
    if wrong:
        raise HypersignError(
            f"{indices[0]} and its files must name the same tensors; {len(wrong)} are in one alone, as {wrong[0]!r}; "
            "download them again"
        )
    return {name: opened[shards[name]][name] for name in sorted(shards, key=_natural)}


# GGUF: the layout of the file is read here, since the package's reader makes an object of every word of the
# vocabulary, a minute and a gigabyte on a common model; types and their decoding are the package's.

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


class _Cursor:
    """Reads a GGUF header value by value; raises struct.error where the file ends too soon."""

    def __init__(self, data: np.ndarray) -> None:
        self.data, self.place = data.data, 0

    def scalar(self, code: str) -> Any:
        self.place += struct.calcsize(f"<{code}")
        if self.place > len(self.data):
            raise struct.error("it ends within its header")
        (value,) = struct.unpack_from(f"<{code}", self.data, self.place - struct.calcsize(f"<{code}"))
        return value

    def string(self) -> str:
        length = self.scalar("Q")
        if length > len(self.data) - self.place:
            raise struct.error(f"a text of {length} bytes does not fit into it")
        self.place += length
        return bytes(self.data[self.place - length : self.place]).decode()

    def value(self, kind: int) -> Any:
        """A scalar or a string; None for an array, which is passed over."""
        if kind in _SCALARS:
            return self.scalar(_SCALARS[kind])
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            raise struct.error(f"a value of unknown type {kind}")
        item, count = self.scalar("I"), self.scalar("Q")
        if item in _SCALARS:
            self.place += count * struct.calcsize(f"<{_SCALARS[item]}")
        else:
            for _ in range(count):
                self.value(item)
        return None


def _gguf_parts(path: Path) -> TensorFile:
    """A GGUF file, or all parts of one that was split (NAME-00001-of-00003.gguf)."""
    found = re.fullmatch(r"(.*)-\d{5}-of-(\d{5})\.gguf", path.name)
    names = [path.name]
    if found:
        names = [f"{found[1]}-{i:05d}-of-{found[2]}.gguf" for i in range(1, int(found[2]) + 1)]
    tensors: dict[str, StoredTensor] = {}
    metadata: dict[str, Any] = {}
    for name in names:
        part = _gguf(path.with_name(name))
        twice = sorted(tensors.keys() & part.tensors)
        if twice:
            raise HypersignError(f"{path} and its other parts must not share tensors; {twice[0]} is in two of them")
        tensors |= part.tensors
        metadata = part.metadata | metadata  # the first part's count
    return TensorFile(path, tensors, metadata)


def _gguf(path: Path) -> TensorFile:
    try:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
    except ModuleNotFoundError as error:
        raise HypersignError(
            f"{path} needs the package gguf to be read; install it with: pip install 'hypersign[gguf]'"
        ) from error

    data = _map(path)
    try:
        cursor = _Cursor(data)
        magic, version = cursor.scalar("4s"), cursor.scalar("I")
        if magic != b"GGUF":
            raise struct.error("it does not begin with GGUF")
        if version not in (2, 3):
            raise struct.error(f"its version is {version}, which is none of 2, 3 in little-endian order")
        count, keys = cursor.scalar("Q"), cursor.scalar("Q")
        metadata = {}
        for _ in range(keys):
            key = cursor.string()
            metadata[key] = cursor.value(cursor.scalar("I"))
        entries = []
        for _ in range(count):
            name = cursor.string()
            shape = tuple(reversed([cursor.scalar("Q") for _ in range(cursor.scalar("I"))]))
            entries.append((name, shape, cursor.scalar("I"), cursor.scalar("Q")))
        alignment = metadata.get("general.alignment", 32)
        if type(alignment) is not int or alignment < 1:
            raise struct.error(f"its alignment is {alignment!r}, no number of bytes")
        start = -(-cursor.place // alignment) * alignment
        ends = sorted([*(offset for *_, offset in entries), len(data) - start])
        known = set(GGMLQuantizationType)
        tensors: dict[str, StoredTensor] = {}
        for name, shape, number, offset in entries:
            if name in tensors:
                raise struct.error(f"{name} is in it twice")
            decode = None
            if number in known:
                kind = GGMLQuantizationType(number)
                block, size = GGML_QUANT_SIZES[kind]
                elements = math.prod(shape)
                nbytes = elements // block * size
                if elements and math.prod(shape[-1:]) % block:
                    raise struct.error(f"{name} has rows of {shape[-1]}, no multiple of {kind.name}'s {block}")
                decode, word = _gguf_decoder(kind), kind.name
                unreadable = "" if decode else f"the installed gguf package cannot decode type {word}"
            else:  # new to the package, or given up: its size is what lies between it and the next tensor
                after = bisect.bisect(ends, offset)
                nbytes = ends[after] - offset if after < len(ends) else 0
                word = f"type {number}"
                unreadable = f"the installed gguf package does not know {word}"
            if start + offset + nbytes > len(data):
                raise struct.error(f"{name} ends {start + offset + nbytes - len(data)} bytes behind the file")
            raw = data[start + offset : start + offset + nbytes]
            tensors[name] = StoredTensor(name, word, shape, nbytes, unreadable, raw, decode or _undecoded)
    except (struct.error, UnicodeDecodeError, RecursionError) as error:
        raise HypersignError(f"{path} is no whole GGUF file ({error}); download or convert it again") from error
    return TensorFile(path, tensors, metadata)


def _gguf_decoder(kind: Any) -> Decode | None:
    """The decoder of a type's rows; None if there is none."""
    from gguf import GGML_QUANT_SIZES, dequantize

    if kind.name in _FLOATS:
        return _FLOATS[kind.name]
    if kind.name == "Q1_0":
        return _q1_0
    try:
        dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
    except NotImplementedError:
        return None
    return lambda raw: dequantize(np.ascontiguousarray(raw), kind)


def _q1_0(raw: np.ndarray) -> np.ndarray:
    """Blocks of 128 weights: a float16 d, then 128 bits, lowest first; 1 is +d, 0 is -d.

    The package knows the type's size but does not decode it. Source: llama.cpp, ggml-quants.c.
    """
    blocks = raw.reshape(-1, 18)
    scale = np.ascontiguousarray(blocks[:, :2]).view("<f2").astype(np.float32)  # (blocks, 1)
    bits = np.unpackbits(blocks[:, 2:], axis=1, bitorder="little")
    return (scale * (np.float32(2) * bits - np.float32(1))).reshape(len(raw), -1)
