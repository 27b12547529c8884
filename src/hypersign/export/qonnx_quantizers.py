"""Reads QONNX's quantizers: of constants their value, of activations integer thresholds."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from hypersign._checks import HypersignError
from hypersign.export.qonnx_flow import Attributes, Flow, Step, channels_of, per_channel

if TYPE_CHECKING:
    from hypersign.export.qonnx_import import Reader

__all__ = ["CUSTOM", "quantizer_of"]

MOST_THRESHOLDS = 2**20
"""The most thresholds of one operator."""


def quantizer_of(node: onnx.NodeProto, attributes: Attributes, values: list[NDArray[Any]]) -> Step:
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


def _quantize(reader: "Reader", node: onnx.NodeProto, attributes: Attributes) -> Flow:
    """A quantizer of activations: thresholds on what gives its input."""
    flow = reader.flows[node.input[0]]
    values = [reader.constant(node, i) for i in range(1, len(node.input))]
    if node.op_type != "MultiThreshold":
        values = [per_channel(flow, value) for value in values]
    elif len(values[0]) not in (1, channels_of(flow)):
        raise HypersignError(f"it has thresholds for {len(values[0])} channels; its input has {channels_of(flow)}")
    quantize = quantizer_of(node, attributes, values)
    if flow.kind == "levels" or (flow.flat and flow.shape[1:] != (1, 1) and node.op_type == "MultiThreshold"):
        raise HypersignError("what it quantizes has levels already, or lost its channels")
    if flow.kind == "image":
        low, high = 0, 255
    elif flow.kind == "sums":
        low, high = -flow.largest, flow.largest
    else:
        low, high = _REAL_ENDS
    channels = channels_of(flow)

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
    result = Flow(name, "levels", flow.shape, flow.flat)
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


CUSTOM: dict[str, Callable[["Reader", onnx.NodeProto, Attributes], Flow]] = {
    "BipolarQuant": _quantize,
    "IntQuant": _quantize,
    "Quant": _quantize,
    "MultiThreshold": _quantize,
}
"""What reads each of QONNX's."""
