"""The header of a safetensors file, read and written in one place.

A safetensors file is the header's length (8 bytes, little-endian), the header (JSON), and the bytes of the tensors.
The header is read entry by entry, and the first wrong entry ends the reading: memory stays in proportion to the
entries that are right, whatever a hostile file holds.

Source: https://huggingface.co/docs/safetensors
"""

import dataclasses
import io
import json
import math
import re
from collections.abc import Collection, Mapping
from typing import Any, BinaryIO

from hypersign._checks import HypersignError

__all__ = ["BITS", "Entry", "Header", "header_bytes", "read_header"]

BITS = {
    **dict.fromkeys(("F4",), 4),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8"), 8),
    **dict.fromkeys(("F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
}
"""Bits of one number, by the format's name of its type."""

MOST_HEADER = 100_000_000
"""Largest header in bytes, as in the safetensors library."""

_LONGEST_ENTRY = 4096
_MOST_DIMENSIONS = 32
_METADATA = "__metadata__"
_SPACE = re.compile(r"[ \t\n\r]*")


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """A tensor in a header: its bytes are `start` to `stop`, counted from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclasses.dataclass(frozen=True)
class Header:
    """A checked header.

    Args:
        tensors: entries by name, in the header's order; together they cover the rest of the file, without overlap.
        metadata: the header's texts by name.
        raw: the file's first bytes: the length and the header.
    """

    tensors: dict[str, Entry]
    metadata: dict[str, str]
    raw: bytes


def header_bytes(tensors: Mapping[str, tuple[str, tuple[int, ...]]], metadata: Mapping[str, str]) -> bytes:
    """The header of a file whose tensors follow it without a gap, in the order given.

    Args:
        tensors: type, as in `BITS`, and shape by name.
        metadata: texts by name.

    >>> header_bytes({"w": ("F32", (2, 3))}, {})[8:]
    b'{"__metadata__":{},"w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}     '
    """
    entries: dict[str, Any] = {_METADATA: dict(metadata)}
    end = 0
    for name, (dtype, shape) in tensors.items():
        start, end = end, end + _size(dtype, shape)
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text


def read_header(stream: BinaryIO, *, max: int = MOST_HEADER, dtypes: Collection[str] = tuple(BITS)) -> Header:
    """Reads and checks the header of an open file; the stream is then at the first byte of the tensors.

    Args:
        stream: a file that can seek, from its beginning.
        max: largest header in bytes.
        dtypes: types that tensors may have.

    Raises:
        HypersignError: it is no safetensors file, or is truncated; a name is there twice; a type is unknown; offsets
            do not fit shapes, overlap, leave a gap, or end before or after the file.

    >>> header = read_header(io.BytesIO(header_bytes({"w": ("U8", (2, 2))}, {"by": "me"}) + bytes(4)))
    >>> header.tensors["w"], header.metadata
    (Entry(dtype='U8', shape=(2, 2), start=0, stop=4), {'by': 'me'})
    """
    total = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    head = stream.read(8)
    length = int.from_bytes(head, "little")
    if total < 8 or length > total - 8:
        raise HypersignError("it must be a safetensors file; it is truncated, or another kind of file")
    if length > max:
        raise HypersignError(f"its header must take at most {max:,} bytes; it says {length:,}")
    head += stream.read(length)
    try:
        text = head[8:].decode()
    except UnicodeDecodeError as error:
        raise HypersignError("its header must be JSON, in UTF-8: it is damaged") from error
    tensors, metadata = _Parser(text, dtypes).parse()
    _check_offsets(tensors, total - 8 - length)
    return Header(tensors, metadata, head)


def _size(dtype: str, shape: tuple[int, ...]) -> int:
    return math.prod(shape) * BITS[dtype] // 8


def _check_offsets(tensors: Mapping[str, Entry], there: int) -> None:
    """The tensors must cover the bytes that are there, each once."""
    end = 0
    for name, entry in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].stop)):
        wanted = _size(entry.dtype, entry.shape)
        if (entry.start, entry.stop) != (end, end + wanted) or math.prod(entry.shape) * BITS[entry.dtype] % 8:
            raise HypersignError(
                f"tensor {_shown(name)} must take the {_few(wanted)} bytes of its shape from byte {end} on; its "
                f"offsets are {entry.start} and {entry.stop}"
            )
        end = entry.stop
    if end != there:
        raise HypersignError(
            f"its tensors must take {end:,} bytes by its header; there are {there:,}: it is truncated or damaged"
        )


class _Parser:
    """Reads a header's JSON from left to right."""

    def __init__(self, text: str, dtypes: Collection[str]) -> None:
        self.text, self.place = text, 0
        self.dtypes = frozenset(dtypes)
        self.decoder = json.JSONDecoder(object_pairs_hook=_unique)

    def parse(self) -> tuple[dict[str, Entry], dict[str, str]]:
        tensors: dict[str, Entry] = {}
        metadata: dict[str, str] | None = None
        self.expect("{")
        for name in self.names():
            if name in tensors or (name == _METADATA and metadata is not None):
                raise HypersignError(f"its header must name every entry once; {_shown(name)} is there twice")
            if name == _METADATA:
                metadata = self.texts()
            else:
                tensors[name] = self.entry(name)
        if _SPACE.sub("", self.text[self.place :]):
            raise _damaged()
        return tensors, metadata or {}

    def texts(self) -> dict[str, str]:
        """An object of strings."""
        found: dict[str, str] = {}
        self.expect("{")
        for name in self.names():
            if name in found:
                raise HypersignError(f"its metadata must name every text once; {_shown(name)} is there twice")
            found[name] = self.string("its metadata must be texts")
        return found

    def names(self) -> Any:
        """The keys of the object that begins here; the caller reads the value after each."""
        if self.ahead() == "}":
            self.place += 1
            return
        while True:
            name = self.string("its header must be JSON")
            self.expect(":")
            yield name
            if self.ahead() == "}":
                self.place += 1
                return
            self.expect(",")

    def entry(self, name: str) -> Entry:
        self.ahead()
        end = self.text.find("}", self.place, self.place + _LONGEST_ENTRY) + 1
        try:
            # the piece ends with this entry, so that nothing in it can be long or deep
            found, length = self.decoder.raw_decode(self.text[self.place : end])
        except (ValueError, RecursionError) as error:
            if isinstance(error, HypersignError):
                raise
            raise HypersignError(f"its header must be JSON; tensor {_shown(name)} is not: it is damaged") from error
        self.place += length
        found = found if isinstance(found, dict) else {}
        dtype: Any
        shape: Any
        offsets: Any
        dtype, shape, offsets = (found.get(key) for key in ("dtype", "shape", "data_offsets"))
        if (
            len(found) != 3
            or not isinstance(dtype, str)
            or dtype not in self.dtypes
            or not _naturals(shape)
            or not _naturals(offsets)
            or len(offsets) != 2
        ):
            raise HypersignError(
                f"tensor {_shown(name)} must have a dtype of {', '.join(sorted(self.dtypes))}, a shape and two "
                "data_offsets"
            )
        return Entry(dtype, tuple(shape), *offsets)

    def string(self, wanted: str) -> str:
        if self.ahead() != '"':
            raise HypersignError(f"{wanted}: it is damaged, or another kind of file")
        try:
            found, self.place = self.decoder.raw_decode(self.text, self.place)
        except ValueError as error:
            raise _damaged() from error
        return str(found)

    def ahead(self) -> str:
        """The next character that is no space; "" at the end."""
        self.place = _SPACE.match(self.text, self.place).end()  # type: ignore[union-attr]
        return self.text[self.place : self.place + 1]

    def expect(self, character: str) -> None:
        if self.ahead() != character:
            raise _damaged()
        self.place += 1


def _damaged() -> HypersignError:
    return HypersignError("its header must be JSON: it is damaged, or another kind of file")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise HypersignError("its header must name every entry once")
    return found


def _naturals(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= _MOST_DIMENSIONS
        and all(type(n) is int and 0 <= n < 2**63 for n in value)
    )


def _shown(name: str) -> str:
    """A name that a file made up, for a message."""
    return f"{name!r:.100}"


def _few(number: int) -> str:
    """A number, also one of hundreds of digits, for a message."""
    return str(number) if number < 10**30 else f"{number:.3g}" if number < 10**300 else "more than 10^300"
