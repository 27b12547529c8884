"""Writes a packed network as one C99 file: weights, thresholds and integer code, without heap and libraries.

The file computes what `PackedModel` computes: integers exactly, and float32 numbers in the same order with the same
rounding, so outputs are equal. Levels are packed along the channels in 32-bit words, bit 1 for -1, as in the packed
file. Each tap of a filter begins a new word.

`network_run` keeps values in two static arrays, one of words and one of floats. A value takes the place of values
that no later operation reads.
"""

import functools
import io
import keyword
import re
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import hypersign
from hypersign import bits
from hypersign._checks import HypersignError
from hypersign._files import write_atomic
from hypersign.packed import PackedModel
from hypersign.packed.format import read
from hypersign.packed.graph import INPUT
from hypersign.packed.operations import NodeData
from hypersign.packed.transforms import LARGEST_SUM, rotated_norm, slopes
from hypersign.packed.values import Node, Value

__all__ = ["c_source", "write_c"]


def write_c(model: PackedModel, path: Path | str, *, name: str | None = None) -> None:
    """Writes a packed network as a C99 file; the file is complete or absent.

    Args:
        model: the packed network.
        path: the file.
        name: the prefix of the file's functions, a C name; by default made of the file's name.

    Raises:
        HypersignError: the name is no C name, or the file cannot be written.
    """
    path = Path(path)
    prefix = re.sub(r"\W", "_", path.stem, flags=re.ASCII) if name is None else name
    write_atomic(path, c_source(model, f"n{prefix}" if name is None and prefix[:1].isdigit() else prefix))


def c_source(model: PackedModel, name: str = "network") -> str:
    """A packed network as C99 source.

    The source has `void NAME_run(const uint8_t *image, float *outputs)` and, for a classifier,
    `int NAME_class(const uint8_t *image)`. An image is height x width x channels, row by row, channels last; float32
    inputs are `const float *`. Compiled with `-DNAME_MAIN` it is a program that reads images from the standard input
    and prints each one's outputs on a line.

    Args:
        model: the packed network.
        name: the prefix of the functions, a C name.

    Raises:
        HypersignError: the name is no C name, or an operation has no C form.
    """
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) or keyword.iskeyword(name):
        raise HypersignError(f"name must be a C name of letters, digits and _; got {name!r}")
    return _Source(model, name).text()


class _Source:
    """Collects constants, statements and the pieces of the runtime that they call."""

    def __init__(self, model: PackedModel, name: str) -> None:
        self.model, self.name = model, name
        contents = read(io.BytesIO(model.to_bytes()))
        self.values: dict[str, Value] = {INPUT: _input_value(model), **contents.values}
        self.data = contents.nodes
        self.constants: list[str] = []
        self.statements: list[str] = []
        self.pieces: set[str] = set()
        self.places: dict[str, int] = {}
        self.rooms = {"words": _Room(), "reals": _Room()}
        self.wide, self.largest = 0, 0
        """Numbers of the array of integers in which transforms work, and a bound on them."""

    def text(self) -> str:
        """The whole file."""
        graph = self.model.graph
        graph.check_plain("a C file", self.values)
        reads = {name: i for i, node in enumerate(graph.nodes) for name in node.inputs}
        for i, (node, data) in enumerate(zip(graph.nodes, self.data, strict=True)):
            if node.op not in WRITERS:
                raise HypersignError(f"node {node.name!r}: C has no {node.op} operation; run the packed file")
            if node.name != graph.nodes[-1].name:
                self._place(node.name)
            self.statements.append(f"    /* {_comment(node.name)}: {node.op}, {self.values[node.name]} */")
            WRITERS[node.op](self, i, node, data)
            for name in {*node.inputs} - {INPUT}:
                if reads[name] == i:
                    self._room(name).free(self.places[name])
        return self._file()

    def _file(self) -> str:
        name, x = self.name, self.values[INPUT]
        sizes = {"WORDS": self.rooms["words"].size, "REALS": self.rooms["reals"].size}
        ram = 4 * sum(sizes.values()) + self.wide * (8 if self._integer() == "int64_t" else 4)
        kind = "float" if x.kind == "real" else "uint8_t"
        image = f"{x.height} x {x.width} x {x.channels}"
        classes = [f"   {i}: {_comment(label)}" for i, label in enumerate(self.model.classes)]
        arrays = [
            f"static {ctype} {array}[{size}];"
            for ctype, array, size in (
                ("uint32_t", "words", sizes["WORDS"]),
                ("float", "reals", sizes["REALS"]),
                (self._integer(), "integers", self.wide),
            )
            if size
        ]
        lines = [
            f"/* A packed network of HyperSign {hypersign.__version__}, sha256 {self.model.sha256}.",
            "",
            f"   void {name}_run(const {kind} *image, float *outputs);",
            f"   int {name}_class(const {kind} *image);" if classes else "",
            "",
            f"   image: {image} numbers, row by row, channels last. outputs: {self.model.outputs} numbers.",
            f"   Values take {ram:,} bytes of RAM, beside the stack. Not reentrant.",
            "   Classes:" if classes else "",
            *classes,
            "*/",
            "#include <stdint.h>",
            "#include <string.h>",
            "",
            *self._runtime(),
            *self.constants,
            "",
            *arrays,
            "",
            f"void {name}_run(const {kind} *image, float *outputs)",
            "{",
            *self.statements,
            "}",
        ]
        tokens = {
            "PREFIX": name,
            "INPUT": kind,
            "OUTPUTS": self.model.outputs,
            "SIZE": x.height * x.width * x.channels,
        }
        for piece in ("class", "main") if classes else ("main",):
            text = _pieces()[piece]
            for token, value in tokens.items():
                text = re.sub(rf"\b{token}(?=\b|_)", str(value), text)
            lines += ["", text]
        return re.sub(r"\n{3,}", "\n\n", "\n".join(lines) + "\n")

    def _runtime(self) -> list[str]:
        """The pieces of the runtime that the statements call, and those that these call, in the template's order."""
        pieces = _pieces()
        wanted = {"types"} if any("window" in line for line in self.constants) else set()
        open_names = list(self.pieces)
        while open_names:
            name = open_names.pop()
            if name in wanted:
                continue
            wanted.add(name)
            open_names += [other for other in pieces if f"{other}(" in pieces[name] and other != name]
        return [text.replace("INTEGER", self._integer()) for name, text in pieces.items() if name in wanted]

    def _integer(self) -> str:
        """The type in which transforms work: it holds all sums."""
        return "int64_t" if self.largest > LARGEST_SUM else "int32_t"

    # Values -----------------------------------------------------------------------------------------------------

    def _room(self, name: str) -> "_Room":
        return self.rooms["reals" if self.values[name].kind == "real" else "words"]

    def _place(self, name: str) -> None:
        value = self.values[name]
        numbers = value.height * value.width
        size = numbers * (_words(value.channels) if value.kind == "levels" else value.channels)
        self.places[name] = self._room(name).take(size * (2 if value.ternary else 1))

    def pointer(self, name: str) -> str:
        """The C expression of a value's first number or word."""
        if name == INPUT:
            return "image"
        if name not in self.places:
            return "outputs"
        value, place = self.values[name], self.places[name]
        if value.kind == "real":
            return f"reals + {place}"
        return f"words + {place}" if value.kind == "levels" else f"(int32_t *)words + {place}"

    def used(self, name: str) -> str:
        """The C expression of the plane that tells which levels are not 0; `0` where all are not."""
        value = self.values[name]
        size = value.height * value.width * _words(value.channels)
        return f"words + {self.places[name] + size}" if value.ternary else "0"

    # Constants and statements -----------------------------------------------------------------------------------

    def array(self, role: str, index: int, numbers: NDArray[Any] | None) -> str:
        """Adds a constant array; returns its name, or `0` for None."""
        if numbers is None:
            return "0"
        flat = np.ascontiguousarray(numbers).reshape(-1)
        ctype, form = FORMS[flat.dtype]
        name = f"{role}_{index}"
        rows = [", ".join(map(form, flat[i : i + 12])) for i in range(0, len(flat), 12)]
        self.constants.append(f"static const {ctype} {name}[{len(flat)}] = {{\n    " + ",\n    ".join(rows) + "};")
        return name

    def window(self, index: int, x: Value, y: Value, options: Mapping[str, Any], size: str) -> str:
        """Adds a window; returns the expression of its address."""
        pairs = [options[size], options["stride"], options["padding"], options.get("dilation", (1, 1))]
        numbers = [x.height, x.width, x.channels, y.height, y.width, y.channels, *(n for pair in pairs for n in pair)]
        self.constants.append(f"static const window window_{index} = {{{', '.join(map(str, numbers))}}};")
        return f"&window_{index}"

    def thresholds(self, index: int, data: NodeData) -> list[str]:
        """Adds low, high and flip of a node; `0` for those that it does not have."""
        tensors = data.tensors
        flip = tensors["flip"].astype(np.uint8) if "low" in tensors else None
        return [
            self.array("low", index, tensors.get("low")),
            self.array("high", index, tensors.get("high")),
            self.array("flip", index, flip),
        ]

    def call(self, piece: str, *arguments: object) -> None:
        """Adds a call of a piece of the runtime."""
        self.pieces.add(piece)
        self.statements.append(f"    {piece}({', '.join(map(str, arguments))});")

    def planes(self, index: int, words: NDArray[np.uint64]) -> tuple[str, str, int]:
        """Adds packed levels as rows of 32-bit words: names of signs and non-zeros (`0` if binary), words per row."""
        halves = words.view(np.uint32) if words.dtype.byteorder != ">" else words.astype("<u8").view("<u4")
        sign, used = (halves[0], halves[1]) if halves.ndim == 3 else (halves, None)
        return self.array("weight", index, sign), self.array("used", index, used), halves.shape[-1]


class _Room:
    """Places in one array: first fit, and places that are free again are joined."""

    def __init__(self) -> None:
        self.size = 0
        self.taken: dict[int, int] = {}

    def take(self, size: int) -> int:
        """A place for `size` numbers."""
        at = 0
        for start, length in sorted(self.taken.items()):
            if at + size <= start:
                break
            at = start + length
        self.taken[at] = size
        self.size = max(self.size, at + size)
        return at

    def free(self, place: int) -> None:
        """Gives a place back."""
        del self.taken[place]


def _input_value(model: PackedModel) -> Value:
    channels, height, width = model.shape
    return Value("real" if model.graph.pixel_range is None else "image", height, width, channels)


def _words(channels: int) -> int:
    return -(-channels // 32)


def _comment(text: str) -> str:
    """A name as it can stand in a comment."""
    return ascii(text)[1:-1].replace("*/", "* /").replace("/*", "/ *").replace("??", "? ?")


def _float(number: np.float32) -> str:
    if np.isinf(number):
        return "3.402823466e38f" if number > 0 else "-3.402823466e38f"
    text = f"{number:.9g}"
    return f"{text}f" if "e" in text or "." in text else f"{text}.0f"


def _int32(number: np.int32) -> str:
    return "INT32_MIN" if number == -(2**31) else str(number)


FORMS: dict[np.dtype[Any], tuple[str, Callable[[Any], str]]] = {
    np.dtype(np.uint32): ("uint32_t", lambda n: f"0x{n:x}u"),
    np.dtype(np.int32): ("int32_t", _int32),
    np.dtype(np.uint8): ("uint8_t", str),
    np.dtype(np.float32): ("float", _float),
}
"""How constants are written, by their type."""


TYPES = {"image": ("uint8_t", "int32_t"), "sums": ("int32_t", "int32_t"), "real": ("float", "float")}
"""The C types of a value's numbers and of their thresholds, by its kind."""


@functools.cache
def _pieces() -> dict[str, str]:
    """The pieces of the runtime by the function that each defines; one for several types is there for each."""
    text = resources.files("hypersign.export").joinpath("template", "runtime.c").read_text("utf-8")
    parts = re.split(r"^/\* PIECE (\w+) \*/\n", text, flags=re.MULTILINE)[1:]
    found: dict[str, str] = {}
    for name, piece in zip(parts[::2], parts[1::2], strict=True):
        if "_NAME(" not in piece:
            found[name] = piece
            continue
        for kind, (number, limit) in TYPES.items():
            own = piece.replace("NAME", kind).replace("NUMBER", number).replace("LIMIT", limit)
            found[f"{name}_{kind}"] = own
    return found


def _targets(source: _Source, node: Node) -> list[str]:
    """Where a product puts levels, their zeros, or sums."""
    target = source.pointer(node.name)
    if source.values[node.name].kind == "levels":
        return [target, source.used(node.name), "0"]
    return ["0", "0", target]


def _conv2d(source: _Source, index: int, node: Node, data: NodeData) -> None:
    o, x = node.options, data.input
    window = source.window(index, x, data.output, o, "kernel")
    depth, taps = x.channels // o["groups"], o["kernel"][0] * o["kernel"][1]
    levels = bits.Filters(data.tensors["weight"], shape=(*o["kernel"], depth)).levels().astype(np.int8)
    levels = levels.reshape(-1, taps, depth)
    wide = np.zeros((len(levels), taps, x.channels), np.int8)
    per_group = len(levels) // o["groups"]
    for group in range(o["groups"]):
        rows, columns = slice(group * per_group, (group + 1) * per_group), slice(group * depth, (group + 1) * depth)
        wide[rows, :, columns] = levels[rows]
    from_x, from_used = source.pointer(node.inputs[0]), source.used(node.inputs[0])
    weight = source.array("weight", index, _packed(wide < 0))
    fill = int(o["pad_value"] and any(o["padding"]))
    if wide.all() and not x.ternary and not fill:
        source.call("conv_signs", window, from_x, weight, *_targets(source, node), *source.thresholds(index, data))
        return
    counts = source.array("counts", index, None if wide.all() else _packed(wide != 0))
    mask = source.array("mask", index, _packed(np.ones(x.channels, bool)))
    arguments = [window, from_x, from_used, weight, counts, mask, fill]
    source.call("conv_bits", *arguments, *_targets(source, node), *source.thresholds(index, data))


def _image_conv2d(source: _Source, index: int, node: Node, data: NodeData) -> None:
    o = node.options
    window = source.window(index, data.input, data.output, o, "kernel")
    sign, used, row = source.planes(index, data.tensors["weight"])
    arguments = [window, source.pointer(node.inputs[0]), o["multiplier"], o["shift"], row, sign, used]
    source.call("conv_pixels", *arguments, *_targets(source, node), *source.thresholds(index, data))


def _real_conv2d(source: _Source, index: int, node: Node, data: NodeData) -> None:
    o, weight = node.options, data.tensors["weight"]
    window = source.window(index, data.input, data.output, o, "kernel")
    if weight.dtype == np.float32:
        names = [source.array("weight", index, weight), "0", "0", "0"]
    else:
        sign, used, row = source.planes(index, weight)
        names = ["0", sign, used, str(row)]
    source.call("conv_real", window, o["groups"], source.pointer(node.inputs[0]), *names, source.pointer(node.name))


def _quantize(source: _Source, index: int, node: Node, data: NodeData) -> None:
    x = data.input
    target = [source.pointer(node.name), source.used(node.name)]
    arguments = [x.height * x.width, x.channels, source.pointer(node.inputs[0]), *target]
    source.call(f"quantize_{x.kind}", *arguments, *source.thresholds(index, data))


def _pixels(source: _Source, index: int, node: Node, data: NodeData) -> None:
    assert data.pixel_range is not None
    low, high = data.pixel_range
    scale, shift = _float(np.float32((high - low) / 255)), _float(np.float32(low))
    source.call("pixels_real", _count(data), source.pointer(node.inputs[0]), scale, shift, source.pointer(node.name))


def _unpack(source: _Source, index: int, node: Node, data: NodeData) -> None:
    x, name = data.input, node.inputs[0]
    source.call(
        "unpack", x.height * x.width, x.channels, source.pointer(name), source.used(name), source.pointer(node.name)
    )


def _affine(source: _Source, index: int, node: Node, data: NodeData) -> None:
    x = data.input
    factors = [source.array(role, index, data.tensors[role]) for role in ("scale", "shift")]
    arguments = [x.height * x.width, x.channels, source.pointer(node.inputs[0]), *factors, source.pointer(node.name)]
    source.call(f"affine_{x.kind}", *arguments)


def _clip(source: _Source, index: int, node: Node, data: NodeData) -> None:
    x, y = source.pointer(node.inputs[0]), source.pointer(node.name)
    bounds = [(name, node.options[name]) for name in ("low", "high") if node.options[name] is not None]
    for name, bound in bounds or [("low", -np.inf)]:
        source.call(f"clip_{name}", _count(data), x, _float(np.float32(bound)), y)
        x = y


def _centre(source: _Source, index: int, node: Node, data: NodeData) -> None:
    source.call("centre", _count(data), source.pointer(node.inputs[0]), source.pointer(node.name))


def _add(source: _Source, index: int, node: Node, data: NodeData) -> None:
    source.call("add", _count(data), *map(source.pointer, node.inputs), source.pointer(node.name))


def _concat(source: _Source, index: int, node: Node, data: NodeData) -> None:
    channels, start = data.output.channels, 0
    for name, x in zip(node.inputs, data.inputs, strict=True):
        target = f"{source.pointer(node.name)} + {start}"
        source.call("put_channels", x.height * x.width, x.channels, channels, source.pointer(name), target)
        start += x.channels


def _max_pool2d(source: _Source, index: int, node: Node, data: NodeData) -> None:
    x, y = source.pointer(node.inputs[0]), source.pointer(node.name)
    window = source.window(index, data.input, data.output, node.options, "size")
    if data.input.kind != "levels":
        source.call(f"max_{data.input.kind}", window, x, y)
        return
    flip = source.array("flip", index, _packed(data.tensors["flip"]))
    source.call("max_levels", window, x, source.used(node.inputs[0]), flip, y, source.used(node.name))


def _avg_pool2d(source: _Source, index: int, node: Node, data: NodeData) -> None:
    window = source.window(index, data.input, data.output, node.options, "size")
    counts = int(node.options["count_include_pad"])
    source.call("mean_real", window, counts, source.pointer(node.inputs[0]), source.pointer(node.name))


def _rotate(source: _Source, index: int, node: Node, data: NodeData) -> None:
    o, x = node.options, data.input
    signs = np.ascontiguousarray(data.tensors["signs"]).view(np.uint32)[:, : -(-o["size"] // 32)]
    source.wide = max(source.wide, o["size"])
    number = max(abs(o["shift"]), abs(255 * o["multiplier"] + o["shift"]))
    norm = rotated_norm(number, x.height * x.width * x.channels, o["size"], len(signs))
    source.largest = max(source.largest, norm)
    image = [x.height * x.width, x.channels, source.pointer(node.inputs[0]), o["multiplier"], o["shift"]]
    signs_name = source.array("signs", index, signs)
    target = [o["outputs"], o["exponent"], "integers", source.pointer(node.name)]
    source.call("rotate", *image, o["size"], len(signs), signs_name, *target)


def _switch(source: _Source, index: int, node: Node, data: NodeData) -> None:
    minus, shifts = slopes(data.tensors["slopes"], data.input.channels)
    table = source.array("slopes", index, (shifts + 4 * minus).astype(np.uint8))
    x, y = source.pointer(node.inputs[0]), source.pointer(node.name)
    source.call("switch_slopes", data.input.channels, x, table, node.options["exponent"], y)


def _hadamard(source: _Source, index: int, node: Node, data: NodeData) -> None:
    source.wide = max(source.wide, data.input.channels)
    source.call(
        "hadamard", data.input.channels, source.pointer(node.inputs[0]), "integers", source.pointer(node.name)
    )


def _signed_sum(source: _Source, index: int, node: Node, data: NodeData) -> None:
    sign, used, row = source.planes(index, data.tensors["weight"])
    x = data.input
    arguments = [x.channels, data.output.channels, source.pointer(node.inputs[0]), node.options["exponent"]]
    source.call("signed_sum", *arguments, row, sign, used, source.pointer(node.name))


def _count(data: NodeData) -> int:
    return data.output.height * data.output.width * data.output.channels


def _packed(marked: NDArray[np.bool_]) -> NDArray[np.uint32]:
    """Truth along the last axis as 32-bit words, the first in the least significant bit."""
    padding = [(0, 0)] * (marked.ndim - 1) + [(0, -marked.shape[-1] % 32)]
    packed = np.packbits(np.pad(marked, padding), axis=-1, bitorder="little")
    return packed.view("<u4").astype(np.uint32)


WRITERS: dict[str, Callable[[_Source, int, Node, NodeData], None]] = {
    "image_conv2d": _image_conv2d,
    "conv2d": _conv2d,
    "real_conv2d": _real_conv2d,
    "rotate": _rotate,
    "switch": _switch,
    "hadamard": _hadamard,
    "signed_sum": _signed_sum,
    "pixels": _pixels,
    "unpack": _unpack,
    "affine": _affine,
    "clip": _clip,
    "centre": _centre,
    "quantize": _quantize,
    "max_pool2d": _max_pool2d,
    "avg_pool2d": _avg_pool2d,
    "add": _add,
    "concat": _concat,
}
"""What writes each operation of a packed network."""
