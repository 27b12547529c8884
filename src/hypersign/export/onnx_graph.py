"""Writes a packed network as an ONNX graph, in standard operators or with the operators of QONNX.

Every value is float32 and holds what the packed runtime has: levels -1, 0, +1 and integer sums, which float32 holds
exactly up to 2^24. So classes differ from the packed network's only where float32 operations round differently.
Images are (N, channels, height, width), the batch N is free.

Sources: the ONNX operator specification, and for QONNX the `qonnx` package's custom operators (BipolarQuant,
IntQuant, MultiThreshold).
"""

import io
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import hypersign
from hypersign import bits
from hypersign._checks import HypersignError, check_choice
from hypersign._files import write_atomic
from hypersign.export.onnx_real import REAL_HANDLERS
from hypersign.packed import PackedModel
from hypersign.packed.format import read
from hypersign.packed.graph import INPUT
from hypersign.packed.operations import NodeData
from hypersign.packed.values import Node, Value

__all__ = ["ACTIVATIONS", "QONNX_DOMAIN", "Activations", "onnx_model", "qonnx_model", "write_onnx", "write_qonnx"]

OPSET, IR_VERSION = 17, 8
"""The versions of the operators and of the file that the graph uses."""

QONNX_DOMAIN = "qonnx.custom_op.general"

CHANNELS_LAST_DOMAIN = "qonnx.custom_op.channels_last"

EXACT = 2**24
"""Float32 holds every integer up to this number."""

Activations = Literal["quant", "multithreshold"]
"""How a QONNX graph writes the quantizers of activations: BipolarQuant and IntQuant, or MultiThreshold."""

ACTIVATIONS: tuple[Activations, ...] = ("quant", "multithreshold")


def write_onnx(model: PackedModel, path: Path | str) -> None:
    """Writes a packed network as an ONNX file of standard operators; the file is complete or absent.

    Raises:
        HypersignError: the network has an operation that ONNX cannot express exactly, or the file cannot be written.
    """
    write_atomic(Path(path), onnx_model(model).SerializeToString(deterministic=True))


def write_qonnx(
    model: PackedModel, path: Path | str, *, activations: Activations = "quant", channels_last: bool = False
) -> None:
    """Writes a packed network as a QONNX file; the file is complete or absent.

    Raises:
        HypersignError: `qonnx_model` refuses the network, or the file cannot be written.
    """
    proto = qonnx_model(model, activations=activations, channels_last=channels_last)
    write_atomic(Path(path), proto.SerializeToString(deterministic=True))


def onnx_model(model: PackedModel) -> onnx.ModelProto:
    """A packed network in standard operators.

    The input `images` is uint8 (N, channels, height, width), or float32 if the network was packed for real inputs;
    the output `outputs` is float32 (N, classes).

    Raises:
        HypersignError: an operation has no exact form in float32. The message names the node.
    """
    return _Standard(model).build()


def qonnx_model(
    model: PackedModel, *, activations: Activations = "quant", channels_last: bool = False
) -> onnx.ModelProto:
    """A packed network with the operators of QONNX.

    The input `images` is float32 with the numbers 0 to 255. Weights are BipolarQuant (binary) or IntQuant of two
    bits, signed and narrow (ternary), so their scale is 1.

    Args:
        model: the packed network.
        activations: "quant" writes activations as BipolarQuant or IntQuant of a shifted sum; "multithreshold" as one
            MultiThreshold each.
        channels_last: write images as (1, height, width, channels), with the operators of QONNX's domain
            `qonnx.custom_op.channels_last`, as hls4ml reads them. The batch is then 1.

    Raises:
        HypersignError: an operation has no exact form, or a convolution of signs is padded with zeros, which are no
            signs. The message names the node.
    """
    check_choice("activations", activations, ACTIVATIONS)
    return _Qonnx(model, activations, channels_last).build()


class _Standard:
    """Builds the graph node by node. `names` maps each packed node to the ONNX value that holds its output."""

    input_type = TensorProto.UINT8
    last = False
    """Whether channels come last."""
    signs_only = False
    """Whether levels of two values cannot become zero."""

    def __init__(self, model: PackedModel) -> None:
        self.model = model
        contents = read(io.BytesIO(model.to_bytes()))
        self.values: Mapping[str, Value] = contents.values
        self.data = contents.nodes
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.names: dict[str, str] = {}
        self.flat: set[str] = set()
        """ONNX values of shape (N, channels); the others are (N, channels, height, width)."""
        self.taken: set[str] = set()

    def build(self) -> onnx.ModelProto:
        """Returns the checked model."""
        graph = self.model.graph
        graph.check_plain("an ONNX file", self.values)
        self.names[INPUT] = self.read_input()
        for node, data in zip(graph.nodes, self.data, strict=True):
            handler = HANDLERS.get(node.op)
            if handler is None:
                raise HypersignError(
                    f"node {node.name!r}: ONNX has no exact form of the operation {node.op} in float32; run the "
                    "packed file, or export it to C if that has one"
                )
            try:
                self.names[node.name] = handler(self, node, data)
            except HypersignError as error:
                raise HypersignError(f"node {node.name!r}: {error}") from error
        last = self.names[graph.nodes[-1].name]
        if last not in self.flat:
            self.op("Flatten", last, out="outputs")
        elif self.nodes and self.nodes[-1].output[0] == last:
            self.nodes[-1].output[0] = "outputs"
        else:
            self.op("Identity", last, out="outputs")
        real = graph.pixel_range is None
        kind = TensorProto.FLOAT if real else self.input_type
        batch: str | int = 1 if self.last else "N"
        shape = (*graph.shape[1:], graph.shape[0]) if self.last else graph.shape
        proto = helper.make_model(
            helper.make_graph(
                self.nodes,
                "hypersign",
                [helper.make_tensor_value_info("images", kind, [batch, *shape])],
                [helper.make_tensor_value_info("outputs", TensorProto.FLOAT, [batch, self.model.outputs])],
                self.constants,
                value_info=self.shapes(),
            ),
            opset_imports=self.opsets(),
            ir_version=IR_VERSION,
            producer_name="hypersign",
            producer_version=hypersign.__version__,
        )
        helper.set_model_props(proto, {"sha256": self.model.sha256, **self.properties()})
        onnx.checker.check_model(proto)
        return proto

    def opsets(self) -> list[onnx.OperatorSetIdProto]:
        """The sets of operators that the graph uses."""
        return [helper.make_opsetid("", OPSET)]

    def properties(self) -> dict[str, str]:
        """What a reader should know: classes, and what the pixels 0 and 255 stand for."""
        graph = self.model.graph
        found = {"classes": "\n".join(graph.classes)} if graph.classes else {}
        return found if graph.pixel_range is None else found | {"pixel_range": "{} {}".format(*graph.pixel_range)}

    def shapes(self) -> list[onnx.ValueInfoProto]:
        """The shapes that the file states: of all values where a tool cannot infer them."""
        if not self.last:
            return []
        known = {t.name: list(t.dims) for t in self.constants}
        known["images"] = [1, *self.model.graph.shape[1:], self.model.graph.shape[0]]
        for node in self.nodes:
            known[node.output[0]] = self._shape(node, known)
        kinds = {t.name: t.data_type for t in self.constants}
        return [
            helper.make_tensor_value_info(name, kinds.get(name, TensorProto.FLOAT), shape)
            for name, shape in known.items()
            if name not in ("images", "outputs")
        ]

    def _shape(self, node: onnx.NodeProto, known: Mapping[str, list[int]]) -> list[int]:
        """The shape of an operator's output, with a batch of 1 and channels last."""
        first = known[node.input[0]]
        options = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
        if node.op_type == "MatMul":
            return [1, known[node.input[1]][1]]
        if node.op_type == "Flatten":
            return [1, math.prod(first)]
        if node.op_type == "Concat":
            return [*first[:-1], sum(known[name][-1] for name in node.input)]
        if node.op_type == "Reshape":
            return [1, 1, 1, first[-1]]
        if node.op_type == "Pad":
            ends = next(numpy_helper.to_array(t) for t in self.constants if t.name == node.input[1])
            return [size + int(a + b) for size, a, b in zip(first, ends[:4], ends[4:], strict=True)]
        if node.op_type not in ("Conv", "MaxPool", "AveragePool"):
            return first
        dilations = options.get("dilations", [1, 1])
        sizes = []
        for i in range(2):
            free = first[1 + i] + 2 * options["pads"][i] - dilations[i] * (options["kernel_shape"][i] - 1) - 1
            steps = free / options["strides"][i]
            sizes.append(1 + (math.ceil(steps) if options.get("ceil_mode") else math.floor(steps)))
        return [1, *sizes, known[node.input[1]][0] if node.op_type == "Conv" else first[-1]]

    def spatial(self, kind: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        """Adds an operator on images, in the domain of their layout."""
        return self.op(kind, *inputs, out=out, domain=CHANNELS_LAST_DOMAIN if self.last else "", **attributes)

    def read_input(self) -> str:
        """The input as float32."""
        return "images" if self.model.graph.pixel_range is None else self.op("Cast", "images", to=TensorProto.FLOAT)

    def unique(self, name: str) -> str:
        """`name`, or with a number if it is taken."""
        found, count = name, 1
        while found in self.taken:
            count += 1
            found = f"{name}_{count}"
        self.taken.add(found)
        return found

    def op(self, kind: str, *inputs: str, out: str = "", domain: str = "", **attributes: Any) -> str:
        """Adds an operator; returns its output's name."""
        out = self.unique(out or f"{inputs[0]}_{kind.lower()}")
        self.nodes.append(
            helper.make_node(kind, list(inputs), [out], name=f"{kind}_{len(self.nodes)}", domain=domain, **attributes)
        )
        return out

    def constant(self, name: str, numbers: Any, dtype: Any = np.float32) -> str:
        """Adds a constant; returns its name."""
        name = self.unique(name)
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(numbers, dtype), name))
        return name

    def channels(self, name: str, numbers: NDArray[Any], x: str) -> str:
        """Adds a constant of one number per channel, in the shape that broadcasts against `x`."""
        return self.constant(name, numbers if x in self.flat or self.last else np.reshape(numbers, (-1, 1, 1)))

    def image(self, x: str, value: Value) -> str:
        """`x` as (N, channels, height, width)."""
        if x not in self.flat:
            return x
        shape = [0, 1, 1, value.channels] if self.last else [0, value.channels, 1, 1]
        return self.op("Reshape", x, self.constant(f"{x}_shape", shape, np.int64))

    def product(self, node: Node, data: NodeData, x: str, levels: NDArray[Any], pad_value: int = 0) -> str:
        """A convolution of `x` with filters (filters, kernel row, kernel column, channel): (N, filters, H, W).

        Where a filter covers the whole image it is a matrix product, and gives (N, filters).
        """
        o, value = node.options, data.input
        groups = o.get("groups", 1)
        levels = levels if self.last else np.transpose(levels, (0, 3, 1, 2))
        whole = tuple(o["kernel"]) == (value.height, value.width) and tuple(o["padding"]) == (0, 0) and groups == 1
        if whole:
            if x not in self.flat:
                x = self.op("Flatten", x)
            rows = self.weights(f"{node.name}.weight", levels.reshape(len(levels), -1).T)
            out = self.op("MatMul", x, rows, out=f"{node.name}_sums")
            self.flat.add(out)
            return out
        x = self.image(x, value)
        vertical, horizontal = o["padding"]
        pads = [vertical, horizontal, vertical, horizontal]
        if pad_value:
            half = [0, vertical, horizontal, 0] if self.last else [0, 0, vertical, horizontal]
            ends = self.constant(f"{node.name}_pads", [*half, *half], np.int64)
            x, pads = self.op("Pad", x, ends, self.constant(f"{node.name}_pad", np.float32(pad_value))), [0] * 4
        return self.spatial(
            "Conv",
            x,
            self.weights(f"{node.name}.weight", levels),
            out=f"{node.name}_sums",
            kernel_shape=list(o["kernel"]),
            strides=list(o["stride"]),
            pads=pads,
            dilations=list(o["dilation"]),
            group=groups,
        )

    def weights(self, name: str, levels: NDArray[Any]) -> str:
        """Weights as float32: levels are stored as bytes."""
        if levels.dtype != np.int8:
            return self.constant(name, levels)
        return self.op("Cast", self.constant(f"{name}_levels", levels, np.int8), out=name, to=TensorProto.FLOAT)

    def sums(self, node: Node, data: NodeData, x: str, levels: NDArray[np.int8], pad_value: int = 0) -> str:
        """A product of levels, and the levels of its sums if the node has thresholds."""
        tensors = data.tensors
        if "low" not in tensors:
            return self.product(node, data, x, levels, pad_value)
        return self.threshold(node.name, data, self.product(node, data, x, levels, pad_value))

    def threshold(self, name: str, data: NodeData, x: str) -> str:
        """The levels of `x` by the node's thresholds."""
        tensors = data.tensors
        sign = np.where(tensors["flip"], np.float32(-1), np.float32(1))
        plus = self.channels(f"{name}_plus", sign, x)
        if "high" in tensors:
            upper = self.op("Less", x, self.channels(f"{name}_high", _limits(tensors["high"]), x))
            plus = self.op("Where", upper, self.constant(f"{name}_zero", np.float32(0)), plus)
        lower = self.op("Less", x, self.channels(f"{name}_low", _limits(tensors["low"]), x))
        out = self.op("Where", lower, self.channels(f"{name}_minus", -sign, x), plus, out=name)
        return self.same(x, out)

    def same(self, x: str, out: str) -> str:
        """Notes that `out` has the rank of `x`."""
        if x in self.flat:
            self.flat.add(out)
        return out


class _Qonnx(_Standard):
    """The same graph with QONNX's quantizers."""

    input_type = TensorProto.FLOAT
    signs_only = True

    def __init__(self, model: PackedModel, activations: Activations, channels_last: bool) -> None:
        super().__init__(model)
        self.activations, self.last = activations, channels_last

    def opsets(self) -> list[onnx.OperatorSetIdProto]:
        domains = {QONNX_DOMAIN: 1, **({CHANNELS_LAST_DOMAIN: OPSET} if self.last else {})}
        return [*super().opsets(), *(helper.make_opsetid(*domain) for domain in domains.items())]

    def read_input(self) -> str:
        return "images"

    def custom(self, kind: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        """Adds an operator of QONNX."""
        return self.op(kind, *inputs, out=out, domain=QONNX_DOMAIN, **attributes)

    def weights(self, name: str, levels: NDArray[Any]) -> str:
        if levels.dtype != np.int8:
            return super().weights(name, levels)
        latent = self.constant(f"{name}_latent", levels)
        # hls4ml 1.3.0 rounds BipolarQuant weights of a product that follows another twice, to ones.
        as_bits = levels.all() and not (self.last and levels.ndim == 2)
        return self.bipolar(latent, name) if as_bits else self.ternary(latent, name)

    def bipolar(self, x: str, out: str) -> str:
        """-1 where x < 0, else +1."""
        return self.custom("BipolarQuant", x, self.constant(f"{out}_scale", np.float32(1)), out=out)

    def ternary(self, x: str, out: str) -> str:
        """x rounded to the nearest of -1, 0, +1."""
        names = ("scale", 1), ("zero_point", 0), ("bits", 2)
        constants = [self.constant(f"{out}_{name}", np.float32(number)) for name, number in names]
        return self.custom("IntQuant", x, *constants, out=out, signed=1, narrow=1, rounding_mode="ROUND")

    def sums(self, node: Node, data: NodeData, x: str, levels: NDArray[np.int8], pad_value: int = 0) -> str:
        padded = any(node.options["padding"])
        if padded and not pad_value and data.input.kind == "levels" and not data.input.ternary:
            raise HypersignError(
                "QONNX has no zero among signs, but this convolution pads signs with zeros; train the network "
                "without padding (--padding valid) or with padding by +1 (--padding ones), or export to onnx"
            )
        if "flip" in data.tensors:  # a negated filter has the negated sum, so no factor -1 is needed behind it
            flip = data.tensors["flip"]
            levels = np.where(flip[:, None, None, None], -levels, levels)
        return super().sums(node, data, x, levels, pad_value)

    def threshold(self, name: str, data: NodeData, x: str) -> str:
        tensors = data.tensors
        flip, low = tensors["flip"], tensors["low"]
        integers = low.dtype == np.int32
        high = tensors.get("high")
        factor = None
        if "weight" in tensors:  # `sums` negated the filters
            low, high = _negated(low, high, flip)
        elif flip.any():
            factor = np.where(flip, np.float32(-1), np.float32(1))
        levels = self._levels(name if factor is None else f"{name}_unsigned", x, low, high, integers)
        if factor is None:
            return levels
        return self.same(x, self.op("Mul", levels, self.channels(f"{name}_flip", factor, x), out=name))

    def _levels(self, name: str, x: str, low: NDArray[Any], high: NDArray[Any] | None, integers: bool) -> str:
        """The levels of x by thresholds, without flips."""
        if self.activations == "multithreshold":
            rows = np.stack([_limits(limit) for limit in ([low] if high is None else [low, high])], 1)
            kind, scale = ("BIPOLAR", 2.0) if high is None else ("INT2", 1.0)
            out = self.custom(
                "MultiThreshold",
                x,
                self.constant(f"{name}_thresholds", rows),
                out=name,
                out_dtype=kind,
                out_scale=scale,
                out_bias=-1.0,
                **({"data_layout": "NHWC"} if self.last and x not in self.flat else {}),
            )
            return self.same(x, out)
        # Half an integer below the threshold no sum lies, so nothing depends on how a tie is rounded.
        half = 0.5 if integers else 0.0
        start = _limits(low).astype(np.float64) - half
        if high is None:
            shifted = self.op("Sub", x, self.channels(f"{name}_threshold", start, x))
            return self.same(x, self.bipolar(self.same(x, shifted), name))
        if not integers:
            raise HypersignError(
                "QONNX's IntQuant rounds a tie at a real threshold to 0; export it as multithreshold"
            )
        stop = _limits(high).astype(np.float64) - half
        width = np.maximum(stop - start, 0.25)  # without a level 0: any sum is more than half a width away
        middle = np.where(stop > start, (start + stop) / 2, start)
        shifted = self.op("Sub", x, self.channels(f"{name}_middle", middle, x))
        scaled = self.op("Div", shifted, self.channels(f"{name}_width", width, x))
        return self.same(x, self.ternary(self.same(x, scaled), name))


def _negated(low: NDArray[Any], high: NDArray[Any] | None, flip: NDArray[np.bool_]) -> tuple[Any, Any]:
    """The thresholds of integers that are negated where `flip`: -x < 1 - high where x >= high."""
    wide = low.astype(np.int64)
    if high is None:
        return np.where(flip, 1 - wide, wide), None
    upper = high.astype(np.int64)
    return np.where(flip, 1 - upper, wide), np.where(flip, 1 - wide, upper)


def _limits(limits: NDArray[Any]) -> NDArray[np.float32]:
    """Thresholds as float32; those that no sum reaches become one that float32 holds."""
    if limits.dtype == np.float32:
        return np.clip(limits, -np.finfo(np.float32).max, np.finfo(np.float32).max)
    return np.clip(limits, -2 * EXACT, 2 * EXACT).astype(np.float32)


def _filters(node: Node, data: NodeData) -> NDArray[np.int8]:
    """The levels of a product's filters: (filters, kernel row, kernel column, channel)."""
    words = data.tensors["weight"]
    shape = (*node.options["kernel"], data.input.channels // node.options.get("groups", 1))
    return bits.Filters(words, shape=shape).levels().reshape(-1, *shape).astype(np.int8)


def _check_exact(largest: int) -> None:
    if largest > EXACT:
        raise HypersignError(f"its sums can reach {largest}; float32 is exact up to {EXACT} only")


def _image_conv2d(graph: _Standard, node: Node, data: NodeData) -> str:
    o, x = node.options, graph.names[node.inputs[0]]
    levels = _filters(node, data)
    bound = max(abs(o["shift"]), abs(255 * o["multiplier"] + o["shift"]))
    _check_exact(math.prod(levels.shape[1:]) * bound)
    if o["multiplier"] != 1:
        x = graph.op("Mul", x, graph.constant(f"{node.name}_multiplier", np.float32(o["multiplier"])))
    if o["shift"]:
        x = graph.op("Add", x, graph.constant(f"{node.name}_shift", np.float32(o["shift"])))
    return graph.sums(node, data, x, levels)


def _conv2d(graph: _Standard, node: Node, data: NodeData) -> str:
    levels = _filters(node, data)
    _check_exact(math.prod(levels.shape[1:]))
    return graph.sums(node, data, graph.names[node.inputs[0]], levels, node.options["pad_value"])


def _real_conv2d(graph: _Standard, node: Node, data: NodeData) -> str:
    weight = data.tensors["weight"]
    levels: NDArray[Any] = _filters(node, data) if weight.dtype == np.uint64 else weight
    return graph.product(node, data, graph.names[node.inputs[0]], levels)


def _pixels(graph: _Standard, node: Node, data: NodeData) -> str:
    assert data.pixel_range is not None
    low, high = data.pixel_range
    x = graph.names[node.inputs[0]]
    x = graph.op("Mul", x, graph.constant(f"{node.name}_scale", np.float32((high - low) / 255)))
    return graph.op("Add", x, graph.constant(f"{node.name}_low", np.float32(low)), out=node.name)


def _unpack(graph: _Standard, node: Node, data: NodeData) -> str:
    return graph.names[node.inputs[0]]


def _affine(graph: _Standard, node: Node, data: NodeData) -> str:
    x = graph.names[node.inputs[0]]
    scaled = graph.op("Mul", x, graph.channels(f"{node.name}.scale", data.tensors["scale"], x))
    graph.same(x, scaled)
    out = graph.op("Add", scaled, graph.channels(f"{node.name}.shift", data.tensors["shift"], x), out=node.name)
    return graph.same(x, out)


def _clip(graph: _Standard, node: Node, data: NodeData) -> str:
    x = graph.names[node.inputs[0]]
    bounds = [
        "" if node.options[name] is None else graph.constant(f"{node.name}_{name}", np.float32(node.options[name]))
        for name in ("low", "high")
    ]
    return graph.same(x, graph.op("Clip", x, *bounds, out=node.name))


def _quantize(graph: _Standard, node: Node, data: NodeData) -> str:
    return graph.threshold(node.name, data, graph.names[node.inputs[0]])


def _pool(graph: _Standard, node: Node, data: NodeData, kind: str, **attributes: Any) -> str:
    o = node.options
    vertical, horizontal = o["padding"]
    return graph.spatial(
        kind,
        graph.image(graph.names[node.inputs[0]], data.input),
        kernel_shape=list(o["size"]),
        strides=list(o["stride"]),
        pads=[vertical, horizontal, vertical, horizontal],
        ceil_mode=int(o["ceil_mode"]),
        **attributes,
    )


def _max_pool2d(graph: _Standard, node: Node, data: NodeData) -> str:
    x = _pool(graph, node, data, "MaxPool")
    flip = data.tensors.get("flip")
    if flip is None or not flip.any():
        return x
    return graph.op("Mul", x, graph.channels(f"{node.name}.flip", np.where(flip, -1, 1), x), out=node.name)


def _avg_pool2d(graph: _Standard, node: Node, data: NodeData) -> str:
    return _pool(graph, node, data, "AveragePool", count_include_pad=int(node.options["count_include_pad"]))


def _add(graph: _Standard, node: Node, data: NodeData) -> str:
    a, b = (graph.names[name] for name in node.inputs)
    if (a in graph.flat) != (b in graph.flat):
        a, b = graph.image(a, data.inputs[0]), graph.image(b, data.inputs[1])
    return graph.same(a, graph.op("Add", a, b, out=node.name))


def _centre(graph: _Standard, node: Node, data: NodeData) -> str:
    x = graph.names[node.inputs[0]]
    wide = graph.op("Cast", x, to=TensorProto.DOUBLE)
    mean = graph.op("ReduceMean", wide, axes=[1] if x in graph.flat else [1, 2, 3])
    return graph.same(x, graph.op("Sub", x, graph.op("Cast", mean, to=TensorProto.FLOAT), out=node.name))


def _concat(graph: _Standard, node: Node, data: NodeData) -> str:
    values = [graph.names[name] for name in node.inputs]
    if not all(value in graph.flat for value in values):
        values = [graph.image(value, x) for value, x in zip(values, data.inputs, strict=True)]
    return graph.same(values[0], graph.op("Concat", *values, out=node.name, axis=-1 if graph.last else 1))


HANDLERS: dict[str, Callable[[_Standard, Node, NodeData], str]] = {
    "image_conv2d": _image_conv2d,
    "conv2d": _conv2d,
    "real_conv2d": _real_conv2d,
    "pixels": _pixels,
    "unpack": _unpack,
    "affine": _affine,
    "centre": _centre,
    "clip": _clip,
    "quantize": _quantize,
    "max_pool2d": _max_pool2d,
    "avg_pool2d": _avg_pool2d,
    "add": _add,
    "concat": _concat,
    **REAL_HANDLERS,
}
"""What writes each operation of a packed network."""
