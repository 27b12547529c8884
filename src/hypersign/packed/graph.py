"""The graph of a packed network: its operations in order, and the check that all of it fits together."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np

from hypersign._checks import HypersignError, check_choice, check_int, check_real
from hypersign.bits.windows import check_pair, output_size
from hypersign.packed.transforms import LARGEST_SUM, hadamard_norm, rotated_norm, shifted_norm

__all__ = ["INPUT", "MOST_NUMBERS", "Graph", "Node", "Value", "check_graph"]

INPUT = "input"
"""What nodes call the network's input."""

MOST_NUMBERS = 2**26
"""Numbers in one value of one image, padding included."""

Kind = Literal["image", "levels", "sums", "real"]


@dataclasses.dataclass(frozen=True)
class Node:
    """One operation: its name, the names of its inputs (`"input"`, or nodes before it), its options."""

    op: str
    name: str
    inputs: tuple[str, ...]
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Value:
    """What flows between nodes: its kind ("image", "levels", "sums" or "real") and its shape for one image.

    `norm` bounds the Euclidean norm of the sums of a rotated image; 0 for all else.
    """

    kind: Kind
    height: int
    width: int
    channels: int
    ternary: bool = False
    norm: int = dataclasses.field(default=0, compare=False)

    def __str__(self) -> str:
        kind = "ternary levels" if self.ternary else self.kind
        return f"{kind} of {self.height} x {self.width} x {self.channels}"


@dataclasses.dataclass(frozen=True)
class Graph:
    """A packed network without its tensors.

    Args:
        shape: (channels, height, width) of an image.
        pixel_range: what the pixels 0 and 255 stand for; None where inputs are float32.
        classes: names of the logits.
        nodes: the operations, in the order in which they run.
    """

    shape: tuple[int, int, int]
    pixel_range: tuple[float, float] | None
    classes: tuple[str, ...]
    nodes: tuple[Node, ...]


class Tensor(Protocol):
    """What the check asks of a tensor."""

    @property
    def dtype(self) -> np.dtype: ...
    @property
    def shape(self) -> tuple[int, ...]: ...


def check_graph(graph: Graph, tensors: Mapping[str, Tensor]) -> dict[str, Value]:
    """Checks that a graph is whole and that its tensors fit it; returns every value by its node's name.

    Args:
        tensors: by name; only dtype and shape are looked at.

    Raises:
        HypersignError: something does not fit; the message names the node.
    """
    if len(graph.shape) != 3:
        raise HypersignError(f"shape must be (channels, height, width) of an image; got {graph.shape}")
    channels, height, width = (check_int("shape", size, least=1, most=MOST_NUMBERS) for size in graph.shape)
    if graph.pixel_range is not None:
        low, high = (check_real("pixel_range", bound) for bound in graph.pixel_range)
        if not -math.inf < low < high < math.inf:
            raise HypersignError(f"pixel_range must be (low, high) with low < high; got {graph.pixel_range}")
    values = {INPUT: Value("real" if graph.pixel_range is None else "image", height, width, channels)}
    _check_size("the input", height, width, channels)
    left = dict(tensors)
    unread: set[str] = set()
    for node in graph.nodes:
        try:
            values[node.name] = _check_node(node, values, left)
        except HypersignError as error:
            raise HypersignError(f"node {node.name!r}: {error}") from error
        unread -= set(node.inputs)
        unread.add(node.name)
    if not graph.nodes:
        raise HypersignError("a network must have at least one node; this one has none")
    last = graph.nodes[-1].name
    if unread != {last}:
        raise HypersignError(
            f"every node but the last must be an input of another; {sorted(unread - {last})} are not"
        )
    if left:
        raise HypersignError(f"every tensor must belong to a node; {', '.join(sorted(left)[:3])} belong to none")
    if values[last] != Value("real", 1, 1, len(graph.classes)):
        raise HypersignError(
            f"the last node, {last!r}, must give a real logit for each of {len(graph.classes)} classes; it gives "
            f"{values[last]}"
        )
    return values


def _check_node(node: Node, values: Mapping[str, Value], tensors: dict[str, Tensor]) -> Value:
    if not node.name or node.name in values:
        raise HypersignError("a node must have a name of its own; this one's is taken or empty")
    check_choice("op", node.op, OPERATIONS)
    unknown = [name for name in node.inputs if name not in values]
    if unknown:
        raise HypersignError(f"its inputs must be 'input' or nodes before it; got {', '.join(unknown)}")
    arguments = _Arguments(node, [values[name] for name in node.inputs], tensors)
    value = OPERATIONS[node.op](arguments)
    if arguments.options:
        raise HypersignError(f"{node.op} has no option {', '.join(map(str, arguments.options))}")
    _check_size("its output", value.height, value.width, value.channels)
    return value


def _check_size(what: str, height: int, width: int, channels: int) -> None:
    if height * width * channels > MOST_NUMBERS:
        raise HypersignError(
            f"{what} must have at most {MOST_NUMBERS} numbers an image; {height} x {width} x {channels} are more"
        )


class _Arguments:
    """A node's inputs, options and tensors, each taken once."""

    def __init__(self, node: Node, inputs: Sequence[Value], tensors: dict[str, Tensor]) -> None:
        self.node = node
        self.inputs = inputs
        self.options = dict(node.options)
        self.tensors = tensors

    def input(self, *kinds: Kind, count: int = 1) -> Value:
        """The first of `count` inputs, all of these kinds."""
        if len(self.inputs) != count:
            raise HypersignError(f"{self.node.op} takes {count} input{'s'[: count > 1]}; got {len(self.inputs)}")
        for value in self.inputs:
            if value.kind not in kinds:
                raise HypersignError(f"{self.node.op} takes {' or '.join(kinds)}; got {value}")
        return self.inputs[0]

    def option(self, name: str) -> Any:
        if name not in self.options:
            raise HypersignError(f"the option {name} is missing")
        return self.options.pop(name)

    def pair(self, name: str, *, least: int) -> tuple[int, int]:
        pair = check_pair(name, self.option(name), least=least)
        for size in pair:
            check_int(name, size, most=MOST_NUMBERS)
        return pair

    def flag(self, name: str) -> bool:
        value = self.option(name)
        if not isinstance(value, bool):
            raise HypersignError(f"{name} must be true or false; got {value!r}")
        return value

    def has(self, role: str) -> bool:
        return f"{self.node.name}.{role}" in self.tensors

    def tensor(self, role: str, dtypes: Sequence[Any], *shapes: tuple[int, ...]) -> Tensor:
        """The tensor of that role, of one of these dtypes and shapes; -1 in a shape stands for any size."""
        name = f"{self.node.name}.{role}"
        tensor = self.tensors.pop(name, None)
        if tensor is None:
            raise HypersignError(f"the tensor {name} is missing")
        fits = any(
            len(shape) == len(tensor.shape)
            and all(wanted in (-1, size) for wanted, size in zip(shape, tensor.shape, strict=True))
            for shape in shapes
        )
        if tensor.dtype not in [np.dtype(dtype) for dtype in dtypes] or not fits or 0 in tensor.shape:
            raise HypersignError(
                f"{name} must be {' or '.join(np.dtype(dtype).name for dtype in dtypes)} of shape "
                f"{' or '.join(map(str, shapes))}; got {tensor.dtype} of shape {tuple(tensor.shape)}"
            )
        return tensor

    def thresholds(self, channels: int, dtype: Any) -> bool:
        """Takes the thresholds; returns whether they give ternary levels."""
        ternary = self.has("high")
        for role in ("low", "high") if ternary else ("low",):
            self.tensor(role, [dtype], (channels,))
        self.tensor("flip", [np.bool_], (channels,))
        return ternary

    def window(self, x: Value, name: str, dilation: tuple[int, int] = (1, 1), ceil_mode: bool = False) -> Any:
        """The window's size and the output's height and width."""
        size = self.pair(name, least=1)
        stride, padding = self.pair("stride", least=1), self.pair("padding", least=0)
        _check_size("its padded input", x.height + 2 * padding[0], x.width + 2 * padding[1], x.channels)
        out = output_size(
            (x.height, x.width), size, stride=stride, padding=padding, dilation=dilation, ceil_mode=ceil_mode
        )
        return size, padding, out

    def convolution(self, x: Value, *, real: bool = False, grouped: bool = True) -> tuple[int, int, int, int]:
        """Takes a convolution's options and weight; returns filters, output height and width, and fan-in."""
        kernel, _, (height, width) = self.window(x, "kernel", self.pair("dilation", least=1))
        groups = check_int("groups", self.option("groups"), least=1) if grouped else 1
        if x.channels % groups:
            raise HypersignError(f"groups must divide the {x.channels} channels; got {groups}")
        depth = x.channels // groups
        fan_in = kernel[0] * kernel[1] * depth
        words = -(-fan_in // 64)
        levels: list[tuple[int, ...]] = [(-1, words), (2, -1, words)]
        if real and self.is_float("weight"):
            weight = self.tensor("weight", [np.float32], (-1, *kernel, depth))
            filters = weight.shape[0]
        else:
            filters = self.tensor("weight", [np.uint64], *levels).shape[-2]
        if filters % groups:
            raise HypersignError(f"groups must divide the {filters} filters; got {groups}")
        return filters, height, width, fan_in

    def rotated(self) -> Value:
        """The one input, sums of a rotated image."""
        x = self.input("sums")
        if not x.norm:
            raise HypersignError(f"{self.node.op} takes the sums of a rotation, or what became of them; got {x}")
        return x

    def exponent(self, least: int, most: int) -> int:
        return check_int("exponent", self.option("exponent"), least=least, most=most)

    def is_float(self, role: str) -> bool:
        tensor = self.tensors.get(f"{self.node.name}.{role}")
        return tensor is not None and tensor.dtype == np.float32


def _sums(arguments: _Arguments, filters: int, height: int, width: int, largest: int) -> Value:
    """What a product of integers gives: sums, or levels where the node has thresholds."""
    if largest > LARGEST_SUM:
        raise HypersignError(f"its sums must stay within {LARGEST_SUM}; they could reach {largest}")
    if not arguments.has("low"):
        return Value("sums", height, width, filters)
    return Value("levels", height, width, filters, arguments.thresholds(filters, np.int32))


def _image_conv2d(arguments: _Arguments) -> Value:
    x = arguments.input("image")
    multiplier = check_int("multiplier", arguments.option("multiplier"), least=1, most=64)
    shift = check_int("shift", arguments.option("shift"), least=-LARGEST_SUM, most=LARGEST_SUM)
    filters, height, width, fan_in = arguments.convolution(x, grouped=False)
    # the kernel keeps pixels and shift apart, so each alone must fit
    largest = fan_in * max(255 * multiplier, abs(shift), abs(255 * multiplier + shift))
    return _sums(arguments, filters, height, width, largest)


def _conv2d(arguments: _Arguments) -> Value:
    x = arguments.input("levels")
    check_int("pad_value", arguments.option("pad_value"), least=0, most=1)
    return _sums(arguments, *arguments.convolution(x))


def _real_conv2d(arguments: _Arguments) -> Value:
    filters, height, width, _ = arguments.convolution(arguments.input("real"), real=True)
    return Value("real", height, width, filters)


def _pixels(arguments: _Arguments) -> Value:
    return dataclasses.replace(arguments.input("image"), kind="real")


def _unpack(arguments: _Arguments) -> Value:
    return dataclasses.replace(arguments.input("levels"), kind="real", ternary=False)


def _affine(arguments: _Arguments) -> Value:
    x = arguments.input("sums", "real")
    for role in ("scale", "shift"):
        arguments.tensor(role, [np.float32], (x.channels,))
    return dataclasses.replace(x, kind="real")


def _clip(arguments: _Arguments) -> Value:
    bounds = [arguments.option(name) for name in ("low", "high")]
    for bound in bounds:
        if bound is not None:
            check_real("low and high", bound)
    if None not in bounds and bounds[0] > bounds[1]:
        raise HypersignError(f"low must be at most high; got {bounds}")
    return arguments.input("real")


def _quantize(arguments: _Arguments) -> Value:
    x = arguments.input("image", "sums", "real")
    ternary = arguments.thresholds(x.channels, np.float32 if x.kind == "real" else np.int32)
    return dataclasses.replace(x, kind="levels", ternary=ternary)


def _rotate(arguments: _Arguments) -> Value:
    x = arguments.input("image")
    multiplier = check_int("multiplier", arguments.option("multiplier"), least=1, most=2)
    shift = check_int("shift", arguments.option("shift"), least=-(2**16), most=2**16)
    size = check_int("size", arguments.option("size"), least=1, most=2**24)
    outputs = check_int("outputs", arguments.option("outputs"), least=1, most=size)
    count = x.height * x.width * x.channels
    if size & (size - 1) or size < count:
        raise HypersignError(f"size must be a power of two that holds the {count} numbers of an image; got {size}")
    _check_size("its padded input", 1, 1, size)
    rounds = arguments.tensor("signs", [np.uint64], (-1, -(-size // 64))).shape[0]
    norm = rotated_norm(max(abs(shift), abs(255 * multiplier + shift)), count, size, min(rounds, 126))
    if norm >= 2**63:
        raise HypersignError(f"its sums must stay below 2^63; {rounds} rounds could take them to {norm}")
    norm = shifted_norm(norm, size, arguments.exponent(-62, 16))
    return Value("sums", 1, 1, outputs, norm=_fits(norm))


def _switch(arguments: _Arguments) -> Value:
    x = arguments.rotated()
    arguments.tensor("slopes", [np.uint64], (2, 3, -(-x.channels // 64)))
    return dataclasses.replace(x, norm=shifted_norm(x.norm, x.channels, arguments.exponent(-28, 0)))


def _hadamard(arguments: _Arguments) -> Value:
    x = arguments.rotated()
    if x.channels & (x.channels - 1):
        raise HypersignError(f"it transforms a power of two numbers; got {x}")
    return dataclasses.replace(x, norm=_fits(hadamard_norm(x.norm, x.channels)))


def _signed_sum(arguments: _Arguments) -> Value:
    x = arguments.rotated()
    words = -(-x.channels // 64)
    filters = arguments.tensor("weight", [np.uint64], (-1, words), (2, -1, words)).shape[-2]
    # a sum with signs is no larger than the norm of what is summed times sqrt(n), as a transform's
    _fits(hadamard_norm(shifted_norm(x.norm, x.channels, arguments.exponent(-30, 0)), x.channels))
    return Value("sums", 1, 1, filters)


def _fits(norm: int) -> int:
    if norm > LARGEST_SUM:
        raise HypersignError(f"its sums must stay within {LARGEST_SUM}; they could reach {norm}")
    return norm


def _pool(arguments: _Arguments, x: Value) -> Value:
    size, padding, (height, width) = arguments.window(x, "size", ceil_mode=arguments.flag("ceil_mode"))
    if padding[0] > size[0] // 2 or padding[1] > size[1] // 2:
        raise HypersignError(f"padding must be at most half of the window {size}; got {padding}")
    return dataclasses.replace(x, height=height, width=width, norm=0)


def _max_pool2d(arguments: _Arguments) -> Value:
    x = arguments.input("levels", "sums", "real")
    if x.kind == "levels":
        arguments.tensor("flip", [np.bool_], (x.channels,))
    return _pool(arguments, x)


def _avg_pool2d(arguments: _Arguments) -> Value:
    arguments.flag("count_include_pad")
    return _pool(arguments, arguments.input("real"))


def _add(arguments: _Arguments) -> Value:
    x = arguments.input("real", count=2)
    if arguments.inputs[1] != x:
        raise HypersignError(f"add takes two values of one shape; got {x} and {arguments.inputs[1]}")
    return x


OPERATIONS: dict[str, Callable[[_Arguments], Value]] = {
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
    "quantize": _quantize,
    "max_pool2d": _max_pool2d,
    "avg_pool2d": _avg_pool2d,
    "add": _add,
}
