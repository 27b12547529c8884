"""Reads ONNX's operators on activations: products, pools, scales and shifts."""

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from hypersign import bits
from hypersign._checks import HypersignError
from hypersign.bits.windows import output_size
from hypersign.export.qonnx_flow import Attributes, Flow, channels_of, level_unit, per_channel
from hypersign.packed.transforms import LARGEST_SUM

if TYPE_CHECKING:
    from hypersign.export.qonnx_import import Reader

__all__ = ["STANDARD"]


def _elementwise(operation: Callable[[Any, Any], Any]) -> Callable[["Reader", onnx.NodeProto, Attributes], Flow]:
    """What reads Add, Sub, Mul or Div of a value and a constant."""

    def handle(reader: "Reader", node: onnx.NodeProto, attributes: Attributes) -> Flow:
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
        numbers = per_channel(flow, reader.constant(node, 0 if swapped else 1))
        if swapped and operation is np.divide:
            raise HypersignError("a constant divided by activations is no scale")
        if operation is np.divide and not np.all(numbers):
            raise HypersignError("it divides by 0")
        if swapped:
            return flow.then(lambda x: operation(numbers.astype(x.dtype), x))
        return flow.then(lambda x: operation(x, numbers.astype(x.dtype)))

    return handle


def _batch_norm(reader: "Reader", node: onnx.NodeProto, attributes: Attributes) -> Flow:
    flow = reader.flows[node.input[0]]
    if flow.flat and flow.shape[1:] != (1, 1):
        raise HypersignError("after a flattened image it has no numbers per channel")
    numbers = [reader.constant(node, i).reshape(-1) for i in range(1, 5)]
    if any(entry.shape != (channels_of(flow),) for entry in numbers) or (numbers[3] < 0).any():
        sizes = [entry.size for entry in numbers]
        raise HypersignError(f"it must have numbers for {channels_of(flow)} channels; it has {sizes}")
    scale, bias, mean, variance = numbers
    factor = scale / np.sqrt(variance + np.float32(attributes.of("epsilon", 1e-5)))
    shift = bias - mean * factor
    return flow.then(lambda x: x * factor.astype(x.dtype) + shift.astype(x.dtype))


def _same(reader: "Reader", node: onnx.NodeProto, attributes: Attributes) -> Flow:
    return reader.flows[node.input[0]]


def _flatten(reader: "Reader", node: onnx.NodeProto, attributes: Attributes) -> Flow:
    if attributes.of("axis", 1) != 1:
        raise HypersignError(f"axis must be 1; it is {attributes['axis']}")
    return dataclasses.replace(reader.flows[node.input[0]], flat=True)


def _reshape(reader: "Reader", node: onnx.NodeProto, attributes: Attributes) -> Flow:
    flow, target = reader.flows[node.input[0]], reader.constant(node, 1).reshape(-1).tolist()
    size = math.prod(flow.shape)
    if len(target) == 2 and target[1] in (-1, size) and target[0] in (-1, 0, 1):
        return dataclasses.replace(flow, flat=True)
    if target[1:] == [size, 1, 1] and flow.shape[1:] == (1, 1):
        return dataclasses.replace(flow, flat=False)
    raise HypersignError(f"only flattening is read; the target is {target} for a value of shape {flow.shape}")


def _pad(reader: "Reader", node: onnx.NodeProto, attributes: Attributes) -> Flow:
    flow, sizes = reader.flows[node.input[0]], reader.constant(node, 1).reshape(-1).tolist()
    value = reader.number(node, 2) if len(node.input) > 2 and node.input[2] else 0.0
    even = len(sizes) == 8 and sizes[:4] == sizes[4:] and sizes[:2] == [0, 0] and min(sizes) >= 0
    if attributes.of("mode", b"constant") != b"constant" or not even or value != 1 or flow.kind != "levels":
        raise HypersignError("levels can be padded by the constant 1, as much on either side, and nothing else")
    unit, signs = level_unit(flow)
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


def _product(reader: "Reader", flow: Flow, filters: NDArray[np.float32], options: dict[str, Any]) -> Flow:
    """A product with filters (filters, kernel row, kernel column, channel)."""
    if not np.isfinite(filters).all():
        raise HypersignError("its weights hold NaN or infinity")
    groups = options["groups"]
    found = _levels_of(filters)
    sizes = {name: options[name] for name in ("stride", "padding", "dilation")}
    height, width = output_size(flow.shape[1:], options["kernel"], **sizes)
    window = {name: list(options[name]) for name in ("kernel", "stride", "padding", "dilation")}
    result = Flow("", "sums", (len(filters), height, width), flow.flat)
    if found is None or flow.kind in ("real", "sums"):
        flow = reader.real(flow)
        node = reader.add("real_conv2d", [flow.node], {**window, "groups": groups}, weight=filters)
        return dataclasses.replace(result, node=node, kind="real")
    levels, scales = found
    fan_in = math.prod(levels.shape[1:])
    if flow.kind == "levels":
        unit, signs = level_unit(flow)
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


def _pixel_scale(flow: Flow) -> tuple[int, int, float]:
    """Integers m and t and a unit u so that the value of pixel p is u * (m * p + t)."""
    ends = [flow.apply(np.full((1, channels_of(flow)), pixel, np.float64))[0] for pixel in (0, 255)]
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


def _matmul(reader: "Reader", node: onnx.NodeProto, attributes: Attributes) -> Flow:
    flow, weights = reader.flows.get(node.input[0]), reader.constant(node, 1)
    if flow is None:
        raise HypersignError("activations must be its first input")
    channels, height, width = flow.shape
    if not flow.flat or weights.ndim != 2 or len(weights) != math.prod(flow.shape):
        raise HypersignError(f"it must take (N, features) and {math.prod(flow.shape)} x outputs weights")
    filters = weights.T.reshape(-1, channels, height, width).transpose(0, 2, 3, 1)
    whole = {"kernel": (height, width), "stride": (1, 1), "padding": (0, 0), "dilation": (1, 1)}
    return _product(reader, flow, filters.astype(np.float32), {**whole, "groups": 1, "pad_value": 0})


def _gemm(reader: "Reader", node: onnx.NodeProto, attributes: Attributes) -> Flow:
    if attributes.of("transA", 0) or attributes.of("alpha", 1.0) != 1 or attributes.of("beta", 1.0) != 1:
        raise HypersignError("transA, alpha and beta must have their defaults")
    weights = reader.constant(node, 1)
    reader.constants["#gemm"] = weights.T if attributes.of("transB", 0) else weights
    product = _matmul(reader, helper.make_node("MatMul", [node.input[0], "#gemm"], list(node.output)), attributes)
    if len(node.input) < 3:
        return product
    bias = per_channel(product, reader.constant(node, 2))
    return product.then(lambda x: x + bias.astype(x.dtype))


def _conv(reader: "Reader", node: onnx.NodeProto, attributes: Attributes) -> Flow:
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


def _pool(op: str) -> Callable[["Reader", onnx.NodeProto, Attributes], Flow]:
    """What reads a pool."""

    def handle(reader: "Reader", node: onnx.NodeProto, attributes: Attributes) -> Flow:
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
            _, signs = level_unit(flow)
            if (signs < 0).any():
                raise HypersignError("its levels must not be negated before it")
            tensors["flip"] = np.zeros(channels_of(flow), np.bool_)
        elif flow.steps:
            flow = reader.real(flow)
        out = output_size(flow.shape[1:], size, stride=stride, padding=pads, ceil_mode=ceil)
        name = reader.add(op, [flow.node], options, **tensors)
        return dataclasses.replace(flow, node=name, shape=(flow.shape[0], *out))

    return handle


def _clip(reader: "Reader", node: onnx.NodeProto, attributes: Attributes) -> Flow:
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


STANDARD: dict[str, Callable[["Reader", onnx.NodeProto, Attributes], Flow]] = {
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
