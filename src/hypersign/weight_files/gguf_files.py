"""GGUF files: all parts of a file, their metadata and tensors.

The layout of the file is read here: the gguf package's reader makes an object of every word of the vocabulary, which
takes a minute and a gigabyte on a common model. The package knows the types and decodes them.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import math
import re
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hypersign._checks import HypersignError
from hypersign._installation import missing
from hypersign.weight_files.gguf_types import ARM_I2_S, I2_S, OLD_Q2_0, OWN_TYPES, Q2_0, OwnType
from hypersign.weight_files.stored import FLOATS, Decode, StoredTensor, TensorFile, mapped, undecoded

__all__ = ["open_gguf"]

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MOST_DIMENSIONS = 4  # ggml's
_DEEPEST = 8  # arrays in arrays
_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf", re.IGNORECASE)


class _DamageError(Exception):
    """A GGUF file that is damaged, and how."""


class _Entry(NamedTuple):
    """A tensor as the header describes it; `shape` in torch's order."""

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int


class _Cursor:
    """Reads a GGUF header value by value; raises _DamageError where the file ends too soon."""

    def __init__(self, data: np.ndarray) -> None:
        self.data, self.place = data.data, 0

    def scalar(self, code: str) -> Any:
        start = self.place
        self.skip(struct.calcsize(f"<{code}"))
        return struct.unpack_from(f"<{code}", self.data, start)[0]

    def skip(self, size: int) -> None:
        self.place += size
        if self.place > len(self.data):
            raise _DamageError("it ends within its header")

    def string(self) -> str:
        length = self.scalar("Q")
        if length > len(self.data) - self.place:
            raise _DamageError(f"a text of {length} bytes does not fit into it")
        self.place += length
        try:
            return bytes(self.data[self.place - length : self.place]).decode()
        except UnicodeDecodeError as error:
            raise _DamageError("a text is no UTF-8") from error

    def value(self, kind: int, depth: int = 0) -> Any:
        """A scalar or a string; None for an array, which is skipped."""
        if kind in _SCALARS:
            return self.scalar(_SCALARS[kind])
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            raise _DamageError(f"a value is of unknown type {kind}")
        if depth > _DEEPEST:
            raise _DamageError(f"an array is more than {_DEEPEST} deep")
        item, count = self.scalar("I"), self.scalar("Q")
        if item in _SCALARS:
            self.skip(count * struct.calcsize(f"<{_SCALARS[item]}"))
        else:
            for _ in range(count):
                self.value(item, depth + 1)
        return None


def open_gguf(path: Path, *, arm: bool = False) -> TensorFile:
    """A GGUF file, or all parts of one that was split (NAME-00001-of-00003.gguf).

    Args:
        path: the file.
        arm: whether I2_S tensors are in the order of ARM, which rows that are no multiple of 128 show by themselves.
    """
    found = _PART.fullmatch(path.name)
    count = 1
    names = [path.name]
    if found:
        number, count = int(found[2]), int(found[3])
        if not 1 <= number <= count:
            raise HypersignError(
                f"{path} must be named as part 1 to {count} of {count}; it is named as part {number}: rename it"
            )
        names = [f"{found[1]}-{i:05d}-of-{found[3]}{path.suffix}" for i in range(1, count + 1)]
    tensors: dict[str, StoredTensor] = {}
    metadata: dict[str, Any] = {}
    for i, name in enumerate(names):
        part = _part(path.with_name(name), arm)
        _check_split(part, i, count)
        twice = sorted(tensors.keys() & part.tensors)
        if twice:
            raise HypersignError(f"{path} and its other parts must not share tensors; {twice[0]} is in two of them")
        tensors |= part.tensors
        metadata = part.metadata | metadata  # the first part's values win
    total = metadata.get("split.tensors.count")
    if isinstance(total, int) and total != len(tensors):
        raise HypersignError(f"{path} must hold {total} tensors in all its parts; they hold {len(tensors)}: get all")
    return TensorFile(path, tensors, metadata)


def _check_split(part: TensorFile, place: int, count: int) -> None:
    """What a part says of the split must agree with the files' names."""
    said, parts = part.metadata.get("split.no", place), part.metadata.get("split.count", count)
    if parts in (0, 1) and count == 1:  # a whole file may say so
        return
    if (said, parts) != (place, count):
        number = said + 1 if isinstance(said, int) else said
        raise HypersignError(
            f"{part.path} is part {number!r:.40} of {parts!r:.40} by its own words; keep all parts in one "
            "folder, named NAME-00001-of-00003.gguf and so on, and name one"
        )


def _part(path: Path, arm: bool) -> TensorFile:
    try:
        import gguf  # noqa: F401
    except ModuleNotFoundError as error:
        raise HypersignError(missing(str(path), "gguf", "gguf")) from error

    data = mapped(path)
    try:
        metadata, entries, place, alignment = _header(data)
        data = data[-(-place // alignment) * alignment :]
        known = OWN_TYPES
        if arm or any(entry.kind == I2_S and math.prod(entry.shape[-1:]) % 128 for entry in entries):
            known = OWN_TYPES | {I2_S: ARM_I2_S}
        try:
            tensors = _tensors(entries, data, alignment, known)
        except _DamageError:
            if all(entry.kind != Q2_0 for entry in entries):
                raise
            tensors = _tensors(entries, data, alignment, known | {Q2_0: OLD_Q2_0})  # an older fork's blocks
    except _DamageError as error:
        raise HypersignError(f"{path} is no whole GGUF file ({error}); download or convert it again") from error
    return TensorFile(path, tensors, metadata)


def _header(data: np.ndarray) -> tuple[dict[str, Any], list[_Entry], int, int]:
    """The metadata, the tensors, where the header ends, and the alignment of tensors."""
    cursor = _Cursor(data)
    _check_version(cursor)
    count, keys = cursor.scalar("Q"), cursor.scalar("Q")
    metadata = {}
    for _ in range(keys):
        key = cursor.string()
        metadata[key] = cursor.value(cursor.scalar("I"))
    entries = [_entry(cursor) for _ in range(count)]
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or alignment < 1:
        raise _DamageError(f"its alignment is {alignment!r:.40}, no number of bytes")
    return metadata, entries, cursor.place, alignment


def _tensors(
    entries: list[_Entry], data: np.ndarray, alignment: int, own: dict[int, OwnType]
) -> dict[str, StoredTensor]:
    tensors: dict[str, StoredTensor] = {}
    ends = _ends(entries, [_size(entry, own) for entry in entries], alignment, len(data))
    for entry, end in zip(entries, ends, strict=True):
        if entry.name in tensors:
            raise _DamageError(f"{_shown(entry)} is in it twice")
        tensors[entry.name] = _tensor(entry, data[entry.offset : end], own)
    return tensors


def _check_version(cursor: _Cursor) -> None:
    if cursor.scalar("4s") != b"GGUF":
        raise _DamageError("it does not begin with GGUF")
    version = cursor.scalar("I")
    if int.from_bytes(version.to_bytes(4, "little"), "big") in (1, 2, 3):
        raise _DamageError("its numbers are big-endian, and only little-endian files are read")
    if version not in (2, 3):
        raise _DamageError(f"its version is {version}, and 2 and 3 are read")


def _entry(cursor: _Cursor) -> _Entry:
    name, dimensions = cursor.string(), cursor.scalar("I")
    if dimensions > _MOST_DIMENSIONS:
        raise _DamageError(f"{name!r:.100} has {dimensions} dimensions, more than {_MOST_DIMENSIONS}")
    shape = tuple(reversed([cursor.scalar("Q") for _ in range(dimensions)]))
    if max(shape, default=0) >= 2**63:
        raise _DamageError(f"{name!r:.100} has a dimension of {max(shape)}")
    return _Entry(name, shape, cursor.scalar("I"), cursor.scalar("Q"))


def _size(entry: _Entry, own: dict[int, OwnType]) -> int | None:
    """Bytes of a tensor; None of a type that is not known."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    extra = 0
    if entry.kind in own:
        name, block, size, extra = own[entry.kind][:4]
    elif entry.kind in set(GGMLQuantizationType):
        kind = GGMLQuantizationType(entry.kind)
        name, (block, size) = kind.name, GGML_QUANT_SIZES[kind]
    else:
        return None
    elements, row = math.prod(entry.shape), math.prod(entry.shape[-1:])
    if elements and row % block:
        raise _DamageError(f"{_shown(entry)} has rows of {row}, no multiple of {name}'s {block}")
    return elements // block * size + extra


def _ends(entries: list[_Entry], sizes: list[int | None], alignment: int, there: int) -> list[int]:
    """Where each tensor ends; tensors lie one after the other, each at the next multiple of the alignment.

    ggml refuses files that are laid out in another way too. Another program's type may have a number of ggml's, and
    then its size betrays it.
    """
    ends = [0] * len(entries)
    order = sorted(range(len(entries)), key=lambda i: (entries[i].offset, sizes[i] or 0))
    begin = 0
    for place, i in enumerate(order):
        entry, size = entries[i], sizes[i]
        last = place + 1 == len(order)
        following = there if last else entries[order[place + 1]].offset
        if entry.offset != begin:
            raise _DamageError(
                f"{_shown(entry)} begins at byte {entry.offset}, and the tensors before it end at {begin}: they "
                "overlap, leave a gap, or are of a type that another program stores in another size"
            )
        ends[i] = following if size is None else entry.offset + size
        if max(ends[i], entry.offset) > there:
            raise _DamageError(f"{_shown(entry)} ends {max(ends[i], entry.offset) - there} bytes behind the file")
        begin = following if size is None else -(-ends[i] // alignment) * alignment
    if entries and begin < there:
        raise _DamageError(
            f"{there - begin} bytes follow after the last tensor; its type may be one that another program stores in "
            "another size"
        )
    return ends


def _tensor(entry: _Entry, raw: np.ndarray, own: dict[int, OwnType]) -> StoredTensor:
    from gguf import GGMLQuantizationType

    if entry.kind in own:
        found = own[entry.kind]
        rows = raw[: len(raw) - found.extra]
        decode: Decode | None = found.decode(raw[len(rows) :])
        unreadable = (
            "" if decode else f"its {found.name} has no scale behind its weights, so that it is another program's"
        )
        return StoredTensor(entry.name, found.name, entry.shape, len(raw), unreadable, rows, decode or undecoded)
    if entry.kind in set(GGMLQuantizationType):
        kind = GGMLQuantizationType(entry.kind)
        word, decode = kind.name, _decoder(kind)
        unreadable = "" if decode else f"the installed gguf package cannot decode type {word}"
    else:  # new to the package, or given up
        word, decode = f"type {entry.kind}", None
        unreadable = f"the installed gguf package does not know {word}"
    return StoredTensor(entry.name, word, entry.shape, len(raw), unreadable, raw, decode or undecoded)


def _shown(entry: _Entry) -> str:
    name = entry.name
    return name if name.isprintable() and len(name) <= 100 else f"{name!r:.100}"


def _decoder(kind: Any) -> Decode | None:
    """The decoder of a type's rows; None if there is none."""
    from gguf import GGML_QUANT_SIZES, dequantize

    if kind.name in FLOATS:
        return FLOATS[kind.name]
    try:
        dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
    except NotImplementedError:
        return None
    return lambda raw: dequantize(np.ascontiguousarray(raw), kind)
