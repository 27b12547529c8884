"""Reads a QONNX network of binary and ternary layers as a packed network.

The graph is walked once. Each value is constant, or a `_Flow`: a value of the packed network with the scales and
shifts that still wait to be applied. A quantizer that follows becomes integer thresholds: the place where its level
changes is searched with the file's own float32 arithmetic, so levels are those that the file gives.

Sources: the ONNX operator specification, and the custom operators of the `qonnx` package.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from hypersign import bits
from hypersign._checks import HypersignError, check_real
from hypersign._files import open_file
from hypersign.bits.windows import output_size
from hypersign.packed.format import write
from hypersign.packed.graph import INPUT, Graph
from hypersign.packed.transforms import LARGEST_SUM
from hypersign.packed.values import MOST_NUMBERS, Node

__all__ = ["import_qonnx", "pixel_range_of"]

DOMAINS = ("qonnx.custom_op.general", "onnx.brevitas", "finn.custom_op.general")
"""The domains of QONNX's operators, older ones too."""

FOLDED = (
    *("Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Neg", "Cast", "Identity", "Constant", "Reshape", "Transpose"),
    *("Concat", "Gather", "Squeeze", "Unsqueeze", "Flatten", "Sign", "Abs"),
)
"""Standard operators on constants: none of them makes much of little."""

MOST_THRESHOLDS = 2**20
"""The most thresholds of one operator."""

MOST_BYTES = 2**30
"""The largest file that is read."""

Step = Callable[[NDArray[Any]], NDArray[Any]]
"""A scale and a shift of numbers (..., channels), in the numbers' own type."""


@dataclasses.dataclass(frozen=True)
class _Flow:
    """A value of the packed network, and what is still to be done with its numbers.

    Args:
        node: the packed node that gives it, or the input.
        kind: "image", "levels", "sums" or "real".
        shape: (channels, height, width).
        flat: whether the file has it as (N, features), in the order (channel, row, column).
        largest: the largest absolute sum; 0 for other kinds.
        steps: scales and shifts that wait.
        pads: rows and columns of the constant 1 around it.
    """

    node: str
    kind: str
    shape: tuple[int, int, int]
    flat: bool = False
    largest: int = 0
    steps: tuple[Step, ...] = ()
    pads: tuple[int, int] = (0, 0)

    def apply(self, numbers: NDArray[Any]) -> NDArray[Any]:
        """The numbers (..., channels) after all steps."""
        for step in self.steps:
            numbers = step(numbers)
        return numbers

    def then(self, step: Step) -> "_Flow":
        """The flow with one more step."""
        return dataclasses.replace(self, steps=(*self.steps, step))


def pixel_range_of(path: Path | str) -> tuple[float, float]:
    """What the pixels 0 and 255 are at the input of a file: (0, 255) in files that HyperSign exports, else (0, 1)."""
    return (0.0, 255.0) if _load(Path(path)).producer_name == "hypersign" else (0.0, 1.0)


def import_qonnx(
    path: Path | str,
    output: Path | str,
    *,
    pixel_range: tuple[float, float] | None = None,
    classes: Sequence[str] | None = None,
) -> None:
    """Reads a QONNX file and writes it as a packed file.

    Args:
        path: the QONNX file.
        output: the packed file.
        pixel_range: the numbers that the pixels 0 and 255 are at the file's input; by default those of
            `pixel_range_of`.
        classes: the names of the outputs; by default those that the file names, or their numbers.

    Raises:
        HypersignError: the file is no ONNX file, or has an operator or a quantizer that the packed network cannot
            express. The message names the operator and the reason.

    Source: Pappalardo et al. 2022, QONNX (arXiv 2206.07527).
    """
    proto = _load(Path(path))
    low, high = pixel_range_of(path) if pixel_range is None else pixel_range
    if not -math.inf < check_real("pixel_range", low) < check_real("pixel_range", high) < math.inf:
        raise HypersignError(f"pixel_range must be two numbers, the first below the second; got {low} {high}")
    _Reader(proto, (low, high)).write(Path(output), classes)


def _load(path: Path) -> onnx.ModelProto:
    with open_file(path, " as an ONNX file") as stream:
        data = stream.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise HypersignError(f"{path}: is larger than {MOST_BYTES} bytes, the largest ONNX file that is read")
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError as error:
        raise HypersignError(f"{path}: is no ONNX file, or it is damaged") from error
    if not proto.graph.node:
        raise HypersignError(f"{path}: is no ONNX file with a graph")
    outside = [t.name for t in proto.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    if outside:
        raise HypersignError(
            f"{path}: keeps the tensor {outside[0]!r:.60} in another file; save it as one file first, with onnx.save"
        )
    _check(proto, path)
    return proto


def _check(proto: onnx.ModelProto, path: Path) -> None:
    """ONNX's own check of the graph, and of QONNX's operators what it does not know."""
    checked = onnx.ModelProto()
    checked.CopyFrom(proto)
    try:
        stated = {entry.domain for entry in proto.opset_import}
        domains = {node.domain for node in proto.graph.node}
        if not all(isinstance(domain, str) for domain in domains):  # protobuf gives bytes that are not UTF-8 as bytes
            raise HypersignError(f"{path}: its graph is not valid ONNX (a domain is no text)")
        unstated = domains - stated - {""}
        checked.opset_import.extend(helper.make_opsetid(domain, 1) for domain in sorted(unstated))
        onnx.checker.check_model(checked)
        for node in proto.graph.node:
            if node.domain in DOMAINS and not (len(node.input) > 1 and len(node.output) == 1 and all(node.input)):
                raise HypersignError(f"{path}: {node.op_type} must have inputs and one output; it is damaged")
    except (onnx.checker.ValidationError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise HypersignError(f"{path}: its graph is not valid ONNX ({reason:.200})") from error


class _Attributes(dict[str, Any]):
    """The attributes of an operator."""

    def __init__(self, node: onnx.NodeProto) -> None:
        try:
            super().__init__({entry.name: helper.get_attribute_value(entry) for entry in node.attribute})
        except ValueError as error:
            raise HypersignError(f"an attribute cannot be read ({error!s:.100})") from error

    def of(self, name: str, default: Any) -> Any:
        """An attribute of the default's type, or the default.

        Raises:
            HypersignError: the attribute has another type.
        """
        value = self.get(name, default)
        fits = isinstance(value, type(default)) or (isinstance(default, float) and isinstance(value, int))
        if not fits or (isinstance(default, list) and not all(isinstance(part, int) for part in value)):
            raise HypersignError(f"its attribute {name} must be like {default!r}; it is {value!r:.60}")
        return value

    def pair(self, name: str, default: int) -> tuple[int, int]:
        """Two integers, vertical and horizontal, at least 1."""
        found = self.of(name, [default, default])
        if len(found) != 2 or min(found) < 1:
            raise HypersignError(f"its attribute {name} must be two integers from 1; it is {found}")
        return found[0], found[1]

    def padding(self) -> tuple[int, int]:
        """The attribute pads, as much on either side."""
        found = self.of("pads", [0, 0, 0, 0])
        if self.of("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID") or len(found) != 4 or found[:2] != found[2:]:
            raise HypersignError("padding must be stated as pads, as much on either side")
        return found[0], found[1]


class _Reader:
    """Walks the graph; collects the packed nodes and their tensors."""

    def __init__(self, proto: onnx.ModelProto, pixel_range: tuple[float, float]) -> None:
        self.proto, self.pixel_range = proto, pixel_range
        self.opset = next((entry.version for entry in proto.opset_import if entry.domain == ""), 17)
        self.nodes: list[Node] = []
        self.tensors: dict[str, NDArray[Any]] = {}
        self.constants: dict[str, NDArray[Any]] = {}
        self.flows: dict[str, _Flow] = {}
        for tensor in proto.graph.initializer:
            self.constants[tensor.name] = _array(tensor)
        inputs = [entry for entry in proto.graph.input if entry.name not in self.constants]
        if len(inputs) != 1 or len(proto.graph.output) != 1:
            raise HypersignError(
                f"the network must have one input and one output; it has {len(inputs)} and {len(proto.graph.output)}"
            )
        self.shape = _image_shape(inputs[0])
        self.flows[inputs[0].name] = _Flow(INPUT, "image", self.shape).then(self._pixel)

    def _pixel(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """The file's input for pixels, each rounded once."""
        low, high = self.pixel_range
        return (low + pixels.astype(np.float64) * (high - low) / 255).astype(
            pixels.dtype if pixels.dtype == np.float64 else np.float32
        )

    def write(self, output: Path, classes: Sequence[str] | None) -> None:
        """Walks the graph and writes the packed file."""
        for node in self.proto.graph.node:
            try:
                self._visit(node)
            except HypersignError as error:
                raise HypersignError(f"{node.op_type} {node.name or node.output[0]!r}: {error}") from error
        name = self.proto.graph.output[0].name
        if name not in self.flows:
            raise HypersignError("the output does not depend on the input")
        last = self.real(self.flows[name])
        if last.shape[1:] != (1, 1):
            raise HypersignError(f"the output must be one number per class; it has the shape {last.shape}")
        if self.nodes[-1].name != last.node:
            raise HypersignError("the output must be what the last operator gives")
        stated = next((entry.value for entry in self.proto.metadata_props if entry.key == "classes"), "")
        names = str(stated).split("\n") if classes is None and stated else classes
        names = tuple(map(str, range(last.shape[0]))) if names is None else tuple(names)
        if len(names) != last.shape[0]:
            raise HypersignError(f"classes must name the {last.shape[0]} outputs; got {len(names)} names")
        write(output, Graph(self.shape, self.pixel_range, names, tuple(self.nodes)), self.tensors)

    def _visit(self, node: onnx.NodeProto) -> None:
        attributes = _Attributes(node)
        inputs = [name for name in node.input if name]
        custom = node.domain in DOMAINS
        if node.domain not in ("", "ai.onnx", *DOMAINS):
            raise HypersignError(f"operators of the domain {node.domain!r} are unknown; QONNX's and ONNX's are read")
        if node.op_type == "Shape" and inputs and inputs[0] in self.flows:
            flow = self.flows[inputs[0]]
            shape = [1, math.prod(flow.shape)] if flow.flat else [1, *flow.shape]
            self.constants[node.output[0]] = np.array(shape, np.int64)
            return
        missing = [name for name in inputs if name not in self.constants and name not in self.flows]
        if missing:
            raise HypersignError(f"its input {missing[0]!r} comes from nowhere")
        if all(name in self.constants for name in inputs):
            self.constants[node.output[0]] = self._fold(node, custom, attributes)
            return
        handler = (CUSTOM if custom else STANDARD).get(node.op_type)
        if handler is None:
            raise HypersignError("a packed network has no such operation on activations")
        self.flows[node.output[0]] = handler(self, node, attributes)

    def _fold(self, node: onnx.NodeProto, custom: bool, attributes: _Attributes) -> NDArray[Any]:
        """The value of an operator on constants."""
        values = [self.constants[name] for name in node.input if name]
        if custom:
            return _quantizer(node, attributes, values[1:])(values[0].astype(np.float32))
        if node.op_type not in FOLDED:
            raise HypersignError("this operator is not read on constants")
        graph = helper.make_graph(
            [node],
            "constant",
            [helper.make_value_info(name, onnx.TypeProto()) for name in node.input if name],
            [helper.make_value_info(node.output[0], onnx.TypeProto())],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])
        try:
            feeds = {name: self.constants[name] for name in node.input if name}
            result: Any = ReferenceEvaluator(model).run(None, feeds)
        except (
            ValueError,
            TypeError,
            IndexError,
            KeyError,
            AttributeError,
            RuntimeError,
            NotImplementedError,
        ) as error:
            raise HypersignError(f"its constants do not fit ({error!s:.100})") from error
        if result[0].size > MOST_NUMBERS:
            raise HypersignError(f"a constant must have at most {MOST_NUMBERS} numbers; this has {result[0].size}")
        return np.asarray(result[0])

    # Parts of the packed network ----------------------------------------------------------------------------------

    def add(self, op: str, inputs: Sequence[str], options: dict[str, Any], **tensors: NDArray[Any]) -> str:
        """Adds a packed node; returns its name."""
        name = f"{op}{len(self.nodes)}"
        self.nodes.append(Node(op, name, tuple(inputs), options))
        for role, tensor in tensors.items():
            self.tensors[f"{name}.{role}"] = tensor
        return name

    def real(self, flow: _Flow) -> _Flow:
        """The flow as float32 numbers without waiting steps."""
        if flow.pads != (0, 0):
            raise HypersignError("padding by a constant is read before a convolution only")
        node, channels = flow.node, _channels(flow)
        if flow.kind == "real" and not flow.steps:
            return flow
        if flow.kind == "image":
            raise HypersignError("pixels must go through a product or a quantizer first")
        if flow.kind == "levels":
            node = self.add("unpack", [node], {})
        zero, one = (flow.apply(np.full((1, channels), number, np.float64))[0] for number in (0.0, 1.0))
        factors = {"scale": (one - zero).astype(np.float32), "shift": zero.astype(np.float32)}
        node = self.add("affine", [node], {}, **factors)
        return dataclasses.replace(flow, node=node, kind="real", steps=(), largest=0)

    def constant(self, node: onnx.NodeProto, index: int) -> NDArray[Any]:
        """An input that must be constant."""
        name = node.input[index]
        if name not in self.constants:
            raise HypersignError(f"its input {index} must be constant")
        return self.constants[name]

    def number(self, node: onnx.NodeProto, index: int) -> float:
        """An input that must be one constant number."""
        found = self.constant(node, index)
        if found.size != 1 or found.dtype.kind not in "fiu":
            raise HypersignError(f"its input {index} must be one number; its shape is {found.shape}")
        return float(found.reshape(()))


def _array(tensor: onnx.TensorProto) -> NDArray[Any]:
    try:
        return numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError) as error:
        raise HypersignError(f"the tensor {tensor.name!r:.60} cannot be read: its type or size is wrong") from error


def _image_shape(entry: onnx.ValueInfoProto) -> tuple[int, int, int]:
    sizes = [dim.dim_value for dim in entry.type.tensor_type.shape.dim]
    if len(sizes) == 4 and min(sizes[1:]) > 0:
        return sizes[1], sizes[2], sizes[3]
    if len(sizes) == 2 and sizes[1] > 0:
        return sizes[1], 1, 1
    raise HypersignError(
        f"the input must be (N, channels, height, width) or (N, features) of known sizes; it is {sizes}"
    )


def _channels(flow: _Flow) -> int:
    """The channels of a value on which numbers per channel act."""
    return flow.shape[0]


def _per_channel(flow: _Flow, numbers: NDArray[Any]) -> NDArray[Any]:
    """A constant as one number, or one per channel."""
    numbers = np.asarray(numbers)
    if numbers.size == 1:
        return numbers.reshape(())
    channels, height, width = flow.shape
    fits = (channels,) if flow.flat else (channels, 1, 1)
    shape = numbers.shape[1:] if numbers.ndim == len(fits) + 1 and numbers.shape[0] == 1 else numbers.shape
    if shape != fits or (flow.flat and (height, width) != (1, 1)):
        raise HypersignError(f"a constant must be one number, or one per channel; its shape is {numbers.shape}")
    return numbers.reshape(-1)


def _elementwise(operation: Callable[[Any, Any], Any]) -> Callable[["_Reader", onnx.NodeProto, _Attributes], _Flow]:
    """What reads Add, Sub, Mul or Div of a value and a constant."""

    def handle(reader: _Reader, node: onnx.NodeProto, attributes: _Attributes) -> _Flow:
        first, second = node.input
        if first in reader.flows and second in reader.flows:
            if operation is not np.add:
                raise HypersignError("two activations can be added only")
            a, b = reader.real(reader.flows[first]), reader.real(reader.flows[second])
            if (a.shape, a.flat) != (b.shape, b.flat):
                raise HypersignError(f"its inputs must have one shape; they have {a.shape} and {b.shape}")
            return dataclasses.replace(a, node=reader.add("add", [a.node, b.node], {}))
        swapped = second in reader.flows
        flow = reader.flows[second if swapped else first]
        numbers = _per_channel(flow, reader.constant(node, 0 if swapped else 1))
        if swapped and operation is np.divide:
            raise HypersignError("a constant divided by activations is no scale")
        if operation is np.divide and not np.all(numbers):
            raise HypersignError("it divides by 0")
        if swapped:
            return flow.then(lambda x: operation(numbers.astype(x.dtype), x))
        return flow.then(lambda x: operation(x, numbers.astype(x.dtype)))

    return handle


def _batch_norm(reader: _Reader, node: onnx.NodeProto, attributes: _Attributes) -> _Flow:
    flow = reader.flows[node.input[0]]
    if flow.flat and flow.shape[1:] != (1, 1):
        raise HypersignError("after a flattened image it has no numbers per channel")
    numbers = [reader.constant(node, i).reshape(-1) for i in range(1, 5)]
    if any(entry.shape != (_channels(flow),) for entry in numbers) or (numbers[3] < 0).any():
        sizes = [entry.size for entry in numbers]
        raise HypersignError(f"it must have numbers for {_channels(flow)} channels; it has {sizes}")
    scale, bias, mean, variance = numbers
    factor = scale / np.sqrt(variance + np.float32(attributes.of("epsilon", 1e-5)))
    shift = bias - mean * factor
    return flow.then(lambda x: x * factor.astype(x.dtype) + shift.astype(x.dtype))


def _same(reader: _Reader, node: onnx.NodeProto, attributes: _Attributes) -> _Flow:
    return reader.flows[node.input[0]]


def _flatten(reader: _Reader, node: onnx.NodeProto, attributes: _Attributes) -> _Flow:
    if attributes.of("axis", 1) != 1:
        raise HypersignError(f"axis must be 1; it is {attributes['axis']}")
    return dataclasses.replace(reader.flows[node.input[0]], flat=True)


def _reshape(reader: _Reader, node: onnx.NodeProto, attributes: _Attributes) -> _Flow:
    flow, target = reader.flows[node.input[0]], reader.constant(node, 1).reshape(-1).tolist()
    size = math.prod(flow.shape)
    if len(target) == 2 and target[1] in (-1, size) and target[0] in (-1, 0, 1):
        return dataclasses.replace(flow, flat=True)
    if target[1:] == [size, 1, 1] and flow.shape[1:] == (1, 1):
        return dataclasses.replace(flow, flat=False)
    raise HypersignError(f"only flattening is read; the target is {target} for a value of shape {flow.shape}")


def _pad(reader: _Reader, node: onnx.NodeProto, attributes: _Attributes) -> _Flow:
    flow, sizes = reader.flows[node.input[0]], reader.constant(node, 1).reshape(-1).tolist()
    value = reader.number(node, 2) if len(node.input) > 2 and node.input[2] else 0.0
    even = len(sizes) == 8 and sizes[:4] == sizes[4:] and sizes[:2] == [0, 0] and min(sizes) >= 0
    if attributes.of("mode", b"constant") != b"constant" or not even or value != 1 or flow.kind != "levels":
        raise HypersignError("levels can be padded by the constant 1, as much on either side, and nothing else")
    unit, signs = _level_unit(flow)
    if unit != 1:
        raise HypersignError(f"levels are -{unit:g} and +{unit:g} here, and are padded by 1")
    if (signs < 0).any():  # a window of one pixel: its flips negate the channels, as the file does before it pads
        options = {"size": [1, 1], "stride": [1, 1], "padding": [0, 0], "ceil_mode": False}
        name = reader.add("max_pool2d", [flow.node], options, flip=signs < 0)
        flow = dataclasses.replace(flow, node=name, steps=())
    return dataclasses.replace(flow, pads=(sizes[2], sizes[3]))


def _levels_of(weights: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]] | None:
    """Filters (filters, ...) as levels times one scale each; None where a filter has other numbers."""
    rows = weights.reshape(len(weights), -1)
    scales = np.abs(rows).max(1)
    scales = np.where(scales > 0, scales, np.float32(1))
    levels = rows / scales[:, None]
    if not np.isin(levels, (-1, 0, 1)).all():
        return None
    return levels.astype(np.int8).reshape(weights.shape), scales.astype(np.float32)


def _product(reader: _Reader, flow: _Flow, filters: NDArray[np.float32], options: dict[str, Any]) -> _Flow:
    """A product with filters (filters, kernel row, kernel column, channel)."""
    if not np.isfinite(filters).all():
        raise HypersignError("its weights hold NaN or infinity")
    groups = options["groups"]
    found = _levels_of(filters)
    sizes = {name: options[name] for name in ("stride", "padding", "dilation")}
    height, width = output_size(flow.shape[1:], options["kernel"], **sizes)
    window = {name: list(options[name]) for name in ("kernel", "stride", "padding", "dilation")}
    result = _Flow("", "sums", (len(filters), height, width), flow.flat)
    if found is None or flow.kind in ("real", "sums"):
        flow = reader.real(flow)
        node = reader.add("real_conv2d", [flow.node], {**window, "groups": groups}, weight=filters)
        return dataclasses.replace(result, node=node, kind="real")
    levels, scales = found
    fan_in = math.prod(levels.shape[1:])
    if flow.kind == "levels":
        unit, signs = _level_unit(flow)
        per_group = len(levels) // groups
        for group in range(groups):
            rows, columns = slice(group * per_group, (group + 1) * per_group), slice(None)
            own = signs.reshape(groups, -1)[group]
            levels[rows, ..., columns] *= own
        node = reader.add(
            "conv2d",
            [flow.node],
            {**window, "groups": groups, "pad_value": options["pad_value"]},
            weight=_packed(levels),
        )
        largest = fan_in
    else:
        if groups != 1:
            raise HypersignError("a convolution of pixels cannot have groups")
        multiplier, shift, unit = _pixel_scale(flow)
        node = reader.add(
            "image_conv2d", [flow.node], {**window, "multiplier": multiplier, "shift": shift}, weight=_packed(levels)
        )
        largest = fan_in * max(abs(shift), abs(255 * multiplier + shift))
    if largest > LARGEST_SUM:
        raise HypersignError(f"its sums can reach {largest}, more than {LARGEST_SUM}")
    result = dataclasses.replace(result, node=node, largest=largest)
    factors = (scales * np.float32(unit)).astype(np.float32)
    return result if (factors == 1).all() else result.then(lambda x: x * factors.astype(x.dtype))


def _level_unit(flow: _Flow) -> tuple[float, NDArray[np.int8]]:
    """What the level 1 of a value became: its size, the same in all channels, and its sign in each."""
    minus, zero, plus = (flow.apply(np.full((1, _channels(flow)), number, np.float32))[0] for number in (-1, 0, 1))
    unit = np.abs(plus)
    if not (np.array_equal(minus, -plus) and not zero.any() and unit[0] > 0 and (unit == unit[0]).all()):
        raise HypersignError("its levels must be -s, 0 and +s with one s for all channels")
    return float(unit[0]), np.sign(plus).astype(np.int8)


def _pixel_scale(flow: _Flow) -> tuple[int, int, float]:
    """Integers m and t and a unit u so that the value of pixel p is u * (m * p + t)."""
    ends = [flow.apply(np.full((1, _channels(flow)), pixel, np.float64))[0] for pixel in (0, 255)]
    if any((end != end[0]).any() for end in ends):
        raise HypersignError("pixels must be scaled and shifted alike in all channels")
    start, slope = float(ends[0][0]), float(ends[1][0] - ends[0][0]) / 255
    for multiplier in range(1, 65):
        unit = slope / multiplier
        shift = start / unit if unit else math.inf
        if abs(shift - round(shift)) <= 1e-3 and abs(shift) <= LARGEST_SUM:
            return multiplier, round(shift), unit
    raise HypersignError(
        f"pixels become {slope:.9g} * p + {start:.9g}, which is no multiple of integers up to 64 * p + t"
    )


def _packed(levels: NDArray[np.int8]) -> NDArray[np.uint64]:
    """Filters (filters, ...) as packed rows: binary, or two planes where a level is 0."""
    rows = levels.reshape(len(levels), -1)
    return bits.pack(rows) if rows.all() else bits.pack_ternary(rows, low=0, high=1)


def _matmul(reader: _Reader, node: onnx.NodeProto, attributes: _Attributes) -> _Flow:
    flow, weights = reader.flows.get(node.input[0]), reader.constant(node, 1)
    if flow is None:
        raise HypersignError("activations must be its first input")
    channels, height, width = flow.shape
    if not flow.flat or weights.ndim != 2 or len(weights) != math.prod(flow.shape):
        raise HypersignError(f"it must take (N, features) and {math.prod(flow.shape)} x outputs weights")
    filters = weights.T.reshape(-1, channels, height, width).transpose(0, 2, 3, 1)
    whole = {"kernel": (height, width), "stride": (1, 1), "padding": (0, 0), "dilation": (1, 1)}
    return _product(reader, flow, filters.astype(np.float32), {**whole, "groups": 1, "pad_value": 0})


def _gemm(reader: _Reader, node: onnx.NodeProto, attributes: _Attributes) -> _Flow:
    if attributes.of("transA", 0) or attributes.of("alpha", 1.0) != 1 or attributes.of("beta", 1.0) != 1:
        raise HypersignError("transA, alpha and beta must have their defaults")
    weights = reader.constant(node, 1)
    reader.constants["#gemm"] = weights.T if attributes.of("transB", 0) else weights
    product = _matmul(reader, helper.make_node("MatMul", [node.input[0], "#gemm"], list(node.output)), attributes)
    if len(node.input) < 3:
        return product
    bias = _per_channel(product, reader.constant(node, 2))
    return product.then(lambda x: x + bias.astype(x.dtype))


def _conv(reader: _Reader, node: onnx.NodeProto, attributes: _Attributes) -> _Flow:
    flow, weights = reader.flows[node.input[0]], reader.constant(node, 1)
    if flow.flat or weights.ndim != 4:
        raise HypersignError("2-D convolutions of images are read only")
    pads, groups = attributes.padding(), attributes.of("group", 1)
    if flow.pads != (0, 0) and any(pads):
        raise HypersignError("it pads by zeros what is padded by ones already")
    if groups < 1 or weights.shape[1] * groups != flow.shape[0] or len(weights) % groups:
        raise HypersignError(f"its weights {weights.shape} do not fit {flow.shape[0]} channels")
    options = {
        "kernel": weights.shape[2:],
        "stride": attributes.pair("strides", 1),
        "padding": flow.pads if flow.pads != (0, 0) else pads,
        "dilation": attributes.pair("dilations", 1),
        "groups": groups,
        "pad_value": int(flow.pads != (0, 0)),
    }
    filters = np.ascontiguousarray(weights.transpose(0, 2, 3, 1), np.float32)
    product = _product(reader, dataclasses.replace(flow, pads=(0, 0)), filters, options)
    if len(node.input) < 3:
        return product
    bias = reader.constant(node, 2).reshape(-1)
    return product.then(lambda x: x + bias.astype(x.dtype))


def _pool(op: str) -> Callable[[_Reader, onnx.NodeProto, _Attributes], _Flow]:
    """What reads a pool."""

    def handle(reader: _Reader, node: onnx.NodeProto, attributes: _Attributes) -> _Flow:
        flow = reader.flows[node.input[0]]
        whole = node.op_type == "GlobalAveragePool"
        size = flow.shape[1:] if whole else attributes.pair("kernel_shape", 0)
        pads, stride = attributes.padding(), size if whole else attributes.pair("strides", 1)
        if flow.flat or attributes.pair("dilations", 1) != (1, 1):
            raise HypersignError("2-D pools without dilation are read only")
        ceil = bool(attributes.of("ceil_mode", 0))
        options = {"size": list(size), "stride": list(stride), "padding": list(pads), "ceil_mode": ceil}
        tensors = {}
        if op == "avg_pool2d":
            flow = reader.real(flow)
            options["count_include_pad"] = bool(attributes.of("count_include_pad", 0))
        elif flow.kind == "levels":
            _, signs = _level_unit(flow)
            if (signs < 0).any():
                raise HypersignError("its levels must not be negated before it")
            tensors["flip"] = np.zeros(_channels(flow), np.bool_)
        elif flow.steps:
            flow = reader.real(flow)
        out = output_size(flow.shape[1:], size, stride=stride, padding=pads, ceil_mode=ceil)
        name = reader.add(op, [flow.node], options, **tensors)
        return dataclasses.replace(flow, node=name, shape=(flow.shape[0], *out))

    return handle


def _clip(reader: _Reader, node: onnx.NodeProto, attributes: _Attributes) -> _Flow:
    flow = reader.real(reader.flows[node.input[0]])
    if node.op_type == "Relu":
        bounds: list[float | None] = [0.0, None]
    else:
        stated = [reader.number(node, i) if len(node.input) > i and node.input[i] else None for i in (1, 2)]
        bounds = [
            attributes.of(name, 0.0) if name in attributes else bound
            for name, bound in zip(("min", "max"), stated, strict=True)
        ]
    name = reader.add("clip", [flow.node], {"low": bounds[0], "high": bounds[1]})
    return dataclasses.replace(flow, node=name)


# Quantizers -------------------------------------------------------------------------------------------------------


def _quantizer(node: onnx.NodeProto, attributes: _Attributes, values: list[NDArray[Any]]) -> Step:
    """The function of a quantizer, with the constants that follow its first input."""
    kind = node.op_type
    if kind == "BipolarQuant":
        scale = values[0].astype(np.float32)
        return lambda x: np.where(x >= 0, scale.astype(x.dtype), -scale.astype(x.dtype))
    if kind in ("Quant", "IntQuant"):
        if len(values) != 3:
            raise HypersignError("it must have a scale, a zero point and a number of bits")
        scale, zero, width = (value.astype(np.float32) for value in values[:3])
        signed, narrow = bool(attributes.of("signed", 1)), bool(attributes.of("narrow", 0))
        if width.size != 1:
            raise HypersignError("its number of bits must be one number")
        count = float(width.reshape(()))
        if not 1 <= count <= 32 or attributes.of("rounding_mode", b"ROUND") not in (b"ROUND", b"HALF_EVEN"):
            raise HypersignError("its bits must be from 1 to 32, its rounding mode ROUND")
        low = (-(2 ** (count - 1)) + narrow) if signed else 0.0
        high = (2 ** (count - 1) - 1) if signed else 2**count - 1 - narrow
        if count == 1 and signed:
            return lambda x: np.where(x / scale + zero >= 0, scale, -scale).astype(x.dtype)
        return lambda x: (np.rint(np.clip(x / scale + zero, low, high)) - zero) * scale
    if kind == "MultiThreshold":
        thresholds = values[0].astype(np.float32)
        if thresholds.ndim != 2 or thresholds.size > MOST_THRESHOLDS:
            raise HypersignError(f"its thresholds must be channels x levels; their shape is {thresholds.shape}")
        factor, bias = attributes.of("out_scale", 1.0), attributes.of("out_bias", 0.0)
        if attributes.of("data_layout", b"NCHW") not in (b"NCHW", b"NC"):
            raise HypersignError("its channels must come second")
        return lambda x: factor * (x[..., None] >= thresholds).sum(-1).astype(x.dtype) + bias
    raise HypersignError("this quantizer is unknown; BipolarQuant, IntQuant, Quant and MultiThreshold are read")


def _quantize(reader: _Reader, node: onnx.NodeProto, attributes: _Attributes) -> _Flow:
    """A quantizer of activations: thresholds on what gives its input."""
    flow = reader.flows[node.input[0]]
    values = [reader.constant(node, i) for i in range(1, len(node.input))]
    if node.op_type != "MultiThreshold":
        values = [_per_channel(flow, value) for value in values]
    elif len(values[0]) not in (1, _channels(flow)):
        raise HypersignError(f"it has thresholds for {len(values[0])} channels; its input has {_channels(flow)}")
    quantize = _quantizer(node, attributes, values)
    if flow.kind == "levels" or (flow.flat and flow.shape[1:] != (1, 1) and node.op_type == "MultiThreshold"):
        raise HypersignError("what it quantizes has levels already, or lost its channels")
    if flow.kind == "image":
        low, high = 0, 255
    elif flow.kind == "sums":
        low, high = -flow.largest, flow.largest
    else:
        low, high = _REAL_ENDS
    channels = _channels(flow)

    def level(places: NDArray[np.int64]) -> NDArray[Any]:
        numbers = _float_at(places) if flow.kind == "real" else places.astype(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            return quantize(flow.apply(numbers[None]))[0]

    ends = [level(np.full(channels, place)) for place in (low, high)]
    unit = _unit(ends)
    rising = ends[1] >= ends[0]

    def crossing(target: NDArray[Any]) -> NDArray[np.int64]:
        """For each channel the first place where the level, made to rise, is at least the target."""
        below, above = np.full(channels, low - 1), np.full(channels, high + 1)
        while (above - below > 1).any():
            middle = (below + above) // 2
            reached = np.where(rising, level(middle), -level(middle)) >= target
            above, below = np.where(reached, middle, above), np.where(reached, below, middle)
        return above

    first, second = crossing(np.full(channels, -unit / 2)), crossing(np.full(channels, unit / 2))
    _check_levels(level, unit, first, second, (low, high))
    tensors = _thresholds(flow.kind, first, second, (low, high))
    name = reader.add("quantize", [flow.node], {}, **tensors, flip=~rising)
    fused = next((i for i, other in enumerate(reader.nodes) if other.name == flow.node), None)
    last = fused is not None and fused == len(reader.nodes) - 2
    if last and fused is not None and reader.nodes[fused].op in ("conv2d", "image_conv2d"):
        reader.nodes.pop()
        for role in ("low", "high", "flip"):
            if f"{name}.{role}" in reader.tensors:
                reader.tensors[f"{flow.node}.{role}"] = reader.tensors.pop(f"{name}.{role}")
        name = flow.node
    result = _Flow(name, "levels", flow.shape, flow.flat)
    factor = np.float32(unit)
    return result if unit == 1 else result.then(lambda x: x * factor.astype(x.dtype))


def _unit(ends: list[NDArray[Any]]) -> float:
    """The size of the levels, from those at either end."""
    sizes = np.abs(np.concatenate(ends))
    unit = float(sizes.max(initial=0))
    if not 0 < unit < math.inf or not np.isin(sizes, (0, unit)).all():
        raise HypersignError("its levels must be -s and +s, or -s, 0 and +s, with one s for all channels")
    return unit


def _check_levels(
    level: Callable[[NDArray[np.int64]], NDArray[Any]],
    unit: float,
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    ends: tuple[int, int],
) -> None:
    """Looks at levels beside the thresholds: they must be -s, 0 and +s, whatever lies between."""
    for place in (first - 1, first, second - 1, second, (first + second) // 2):
        found = level(np.clip(place, *ends))
        if not np.isin(np.abs(found), (0, unit)).all():
            other = float(np.abs(found)[~np.isin(np.abs(found), (0, unit))][0])
            raise HypersignError(
                f"its levels must be -s and +s, or -s, 0 and +s; it has {unit:g} and {other:g}: networks of more "
                "levels do not run on bits"
            )


def _thresholds(
    kind: str, first: NDArray[np.int64], second: NDArray[np.int64], ends: tuple[int, int]
) -> dict[str, NDArray[Any]]:
    """The packed thresholds: levels are -1 before `first`, +1 from `second` on."""

    def limit(places: NDArray[np.int64]) -> NDArray[Any]:
        if kind != "real":
            return places.astype(np.int32)
        return np.where(places > ends[1], np.float32(np.inf), _float_at(places)).astype(np.float32)

    low, high = limit(first), limit(second)
    return {"low": low} if np.array_equal(first, second) else {"low": low, "high": high}


def _float_at(places: NDArray[np.int64]) -> NDArray[np.float32]:
    """Float32 numbers in their order: place 0 is 0, and neighbours are next to each other."""
    places = np.clip(places, *_REAL_ENDS)
    words = np.where(places >= 0, places, -places | 0x80000000).astype(np.uint32)
    return words.view(np.float32)


_REAL_ENDS = (-0x7F7FFFFF, 0x7F7FFFFF)
"""The places of the smallest and the largest float32 number."""

STANDARD: dict[str, Callable[[_Reader, onnx.NodeProto, _Attributes], _Flow]] = {
    "Add": _elementwise(np.add),
    "Sub": _elementwise(np.subtract),
    "Mul": _elementwise(np.multiply),
    "Div": _elementwise(np.divide),
    "BatchNormalization": _batch_norm,
    "Identity": _same,
    "Dropout": _same,
    "Cast": _same,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Pad": _pad,
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Conv": _conv,
    "MaxPool": _pool("max_pool2d"),
    "AveragePool": _pool("avg_pool2d"),
    "GlobalAveragePool": _pool("avg_pool2d"),
    "Relu": _clip,
    "Clip": _clip,
}
"""What reads each of ONNX's operators on activations."""

CUSTOM: dict[str, Callable[[_Reader, onnx.NodeProto, _Attributes], _Flow]] = {
    "BipolarQuant": _quantize,
    "IntQuant": _quantize,
    "Quant": _quantize,
    "MultiThreshold": _quantize,
}
"""What reads each of QONNX's."""
