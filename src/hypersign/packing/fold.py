"""Folding: a trained network becomes a graph of products of levels with integer thresholds.

What stands between two products (scale, bias, batch norm, pooling, clipping, quantizer) is monotone in each channel
and becomes thresholds on the product's sums (`find_thresholds`). Max-pooling commutes with monotone functions, so
it moves behind the thresholds, where it runs on bits; after a decreasing one, such as a batch norm with a negative
scale, the levels are negated there. What cannot be an integer stays real and has nodes of its own.
"""

import copy
import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hypersign import bits
from hypersign._checks import HypersignError
from hypersign.bits.windows import output_size
from hypersign.evaluate import full_precision
from hypersign.layers import QuantConv2d, QuantLayer, QuantLinear, Rotation
from hypersign.models import (
    AssociativeMemory,
    BinaryBlock,
    FastTransform,
    ShiftBatchNorm1d,
    ShiftBatchNorm2d,
    Switch,
    Transform,
)
from hypersign.packed.graph import INPUT, Graph, Kind, Node, check_graph
from hypersign.packed.transforms import hadamard_norm, room, rotated_norm, shifted_norm
from hypersign.packing.thresholds import FLOATS, find_thresholds, float_of
from hypersign.quantizers import Identity, Sign, Ternary
from hypersign.rotations import HadamardRotation

__all__ = ["Planned", "fold"]


@dataclasses.dataclass(frozen=True)
class Planned:
    """A tensor before it is made: its dtype and shape, which follow from the network's structure, and its maker."""

    dtype: np.dtype
    shape: tuple[int, ...]
    make: Callable[[], NDArray[Any]]


def fold(
    model: nn.Module,
    shape: tuple[int, int, int],
    *,
    pixel_range: tuple[float, float] | None,
    classes: Sequence[str] | None = None,
) -> tuple[Graph, dict[str, Planned]]:
    """Folds a trained network into a graph and its tensors, which are made when they are asked for.

    Args:
        model: float32, as evaluated in eval mode: an `nn.Sequential` of supported layers, nested as it may be;
            left as it is.
        shape: (channels, height, width) of an image.
        pixel_range: what the pixels 0 and 255 become before the first layer; None for float32 inputs.
        classes: names of the logits; their numbers if None.

    Raises:
        HypersignError: a layer that has no packed form; the message names it and says why.

    >>> from hypersign.models import vgg
    >>> graph, tensors = fold(vgg(), (3, 32, 32), pixel_range=(-1.0, 1.0))
    >>> [node.name for node in graph.nodes][:5], sum(t.dtype == np.uint64 for t in tensors.values())
    (['conv1', 'conv2', 'pool2', 'conv3', 'conv4'], 9)
    """
    for name, values in (*model.named_parameters(), *model.named_buffers()):
        if values.is_floating_point() and values.dtype != torch.float32:
            raise HypersignError(f"{name} must be float32, in which networks are verified; it is {values.dtype}")
    folding = _Folding(pixel_range)
    channels, height, width = shape
    start = _Value(INPUT, "real" if pixel_range is None else "image", height, width, channels)
    value = folding.real(folding.module("", copy.deepcopy(model).cpu().eval(), start))
    names = tuple(map(str, range(value.channels))) if classes is None else tuple(classes)
    if (value.height, value.width) != (1, 1):
        raise HypersignError(
            f"the network must end with logits; it ends with images of {value.height} x {value.width}"
        )
    graph = Graph((channels, height, width), pixel_range, names, tuple(folding.nodes))
    check_graph(graph, folding.tensors)
    return graph, folding.tensors


@dataclasses.dataclass(frozen=True)
class _Step:
    """A monotone function of each channel that waits to be folded: `ask` maps float32 (channels,) to the same.

    What kind it is, for where it must be done in float32: `affine` gives scale and shift, `clip` has the bounds,
    `pool` the options of a max-pool, which is no function of one number and leaves it as it is.
    """

    name: str
    ask: Callable[[Tensor], Tensor] = lambda x: x
    affine: Callable[[], tuple[Tensor, Tensor]] | None = None
    clip: tuple[float | None, float | None] | None = None
    pool: dict[str, Any] | None = None


@dataclasses.dataclass(frozen=True)
class _Value:
    """What a node gives, and the steps after it that wait to be folded."""

    name: str
    kind: Kind
    height: int
    width: int
    channels: int
    ternary: bool = False
    unit: float = 1.0  # what a sum of 1 stands for
    largest: int = 0  # magnitude of a sum
    norm: int = 0  # Euclidean, of the sums of a rotated image; they are in fixed point
    steps: tuple[_Step, ...] = ()
    flat: bool = False

    def then(self, step: _Step) -> "_Value":
        return dataclasses.replace(self, steps=(*self.steps, step))


class _Folding:
    """The nodes and tensors so far. Methods take the value before a module and return the one after it."""

    def __init__(self, pixel_range: tuple[float, float] | None) -> None:
        self.pixel_range = pixel_range
        self.nodes: list[Node] = []
        self.tensors: dict[str, Planned] = {}

    def node(self, op: str, name: str, *inputs: str, **options: Any) -> str:
        self.nodes.append(Node(op, name, inputs, options))
        return name

    def tensor(self, node: str, role: str, dtype: Any, shape: tuple[int, ...], make: Callable[[], Any]) -> None:
        self.tensors[f"{node}.{role}"] = Planned(np.dtype(dtype), shape, make)

    def module(self, name: str, module: Any, x: _Value) -> _Value:
        kind = type(module)
        if module._forward_hooks or module._forward_pre_hooks:
            raise _refusal(name, module, "it has a forward hook, which a file cannot hold: remove the hook")
        if kind in (nn.Sequential, FastTransform, AssociativeMemory):
            for child, part in module._modules.items():
                assert part is not None
                x = self.module(f"{name}.{child}" if name else child, part, x)
            return x
        name = name or kind.__name__.lower()
        if kind is BinaryBlock:
            return self.block(name, module, x)
        if kind in (QuantConv2d, QuantLinear, nn.Conv2d, nn.Linear):
            return self.product(name, module, x)
        if kind is Rotation:
            return self.rotation(name, module, x)
        if kind in (Switch, Transform) and (not x.norm or x.steps):
            raise _refusal(name, module, "it must come after a rotation of the image, or what that became")
        if kind is Switch:
            return self.switch(name, module, x)
        if kind is Transform:
            return self.transform(name, module, x)
        if kind in NORMS:
            return x.then(_norm(name, module, x))
        if kind in (nn.ReLU, nn.ReLU6, nn.Hardtanh):
            return x.then(_clip(name, module))
        if kind is nn.MaxPool2d:
            return self.max_pool(name, module, x)
        if kind in (nn.AvgPool2d, nn.AdaptiveAvgPool2d):
            return self.avg_pool(name, module, x)
        if kind is nn.Flatten:
            if (module.start_dim, module.end_dim) != (1, -1):
                raise _refusal(name, module, "only nn.Flatten() from the first dimension to the last is supported")
            return dataclasses.replace(x, flat=True)
        if kind in (nn.Identity, Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d):
            return x
        raise _refusal(name, module, f"no packed form is known of {kind.__name__}")

    def product(self, name: str, module: Any, x: _Value) -> _Value:
        """A convolution or fully connected layer; a fully connected one is a convolution of the whole image."""
        quantizer: Any = Identity()
        weights: Any = Identity()
        if isinstance(module, QuantLayer):
            quantizer, weights = module.input_quantizer, module.weight_quantizer
        for rule in (quantizer, weights):
            if type(rule) not in (Identity, Sign, Ternary):
                raise _refusal(name, module, f"no packed form is known of the quantizer {type(rule).__name__}")
        window = _window(name, module, x)
        groups, pad_value = getattr(module, "groups", 1), getattr(module, "pad_value", 0)
        real_weights = isinstance(weights, Identity)
        pixels = integer_pixels(self.pixel_range)
        unit, largest = 1.0, 0
        fan_in = module.weight[0].numel()
        plain = not pad_value or window["padding"] == [0, 0]
        if not isinstance(quantizer, Identity):
            x = self.levels(f"{name}.input_quantizer", quantizer, x)
        if x.kind == "levels" and not real_weights:
            self.node("conv2d", name, x.name, **window, groups=groups, pad_value=pad_value)
            kind: Kind = "sums"
            largest = fan_in
        elif x.kind == "image" and not x.steps and not real_weights and pixels and groups == 1 and plain:
            multiplier, shift, unit = pixels
            self.node("image_conv2d", name, x.name, **window, multiplier=multiplier, shift=shift)
            kind = "sums"
            largest = fan_in * max(abs(shift), abs(255 * multiplier + shift))
        elif x.norm and not x.steps and not real_weights:
            exponent = min(room(x.norm, x.channels), 0)
            self.node("signed_sum", name, x.name, exponent=exponent)
            kind, unit = "sums", x.unit * 2.0**-exponent
            largest = hadamard_norm(shifted_norm(x.norm, x.channels, exponent), x.channels)
        else:
            if not plain:
                raise _refusal(name, module, "real inputs cannot be padded with ones; use pad_value=0")
            x = self.real(x)
            self.node("real_conv2d", name, x.name, **window, groups=groups)
            kind = "real"
        shape = (module.weight.shape[0], *window["kernel"], x.channels // groups)
        if real_weights:
            self.tensor(name, "weight", np.float32, shape, lambda: _rows(name, module.weight, x))
        else:
            planes = () if len(weights.levels) == 2 else (2,)
            self.tensor(
                name, "weight", np.uint64, (*planes, shape[0], -(-fan_in // 64)), lambda: _packed(name, module, x)
            )
        size, stride, padding, dilation = (tuple(pair) for pair in window.values())
        height, width = output_size((x.height, x.width), size, stride=stride, padding=padding, dilation=dilation)
        y = _Value(name, kind, height, width, shape[0], unit=unit, largest=largest)
        if getattr(weights, "scale", None) is not None:
            layer: Any = module
            scale = functools.cache(lambda: layer.weight_scale().detach())
            y = y.then(
                _Step(f"{name}.scale", lambda v: v * scale(), affine=lambda: (scale(), torch.zeros_like(scale())))
            )
        if module.bias is not None:
            bias: Tensor = module.bias.detach()
            y = y.then(_Step(f"{name}.bias", lambda v: v + bias, affine=lambda: (torch.ones_like(bias), bias)))
        return y

    def rotation(self, name: str, module: Rotation, x: _Value) -> _Value:
        """Random signs and transforms of the pixels, in integers, shifted so that a transform of them still fits."""
        rotation, pixels = module.rotation, integer_pixels(self.pixel_range)
        if not isinstance(rotation, HadamardRotation):
            raise _refusal(name, module, "Haar's rotation multiplies; take a HadamardRotation")
        if x.kind != "image" or x.steps or pixels is None or pixels[0] > 2:
            raise _refusal(name, module, "only 8-bit images can be rotated, of a pixel_range that is a whole one")
        multiplier, shift, unit = pixels
        size, rounds = rotation.size, rotation.rounds
        largest = max(abs(shift), abs(255 * multiplier + shift))
        norm = rotated_norm(largest, rotation.dimension, size, rounds)
        exponent = room(norm, size)
        self.node(
            "rotate",
            name,
            x.name,
            multiplier=multiplier,
            shift=shift,
            size=size,
            outputs=rotation.outputs,
            exponent=exponent,
        )
        self.tensor(
            name,
            "signs",
            np.uint64,
            (rounds, -(-size // 64)),
            lambda: bits.pack(np.stack([rotation.signs(number) for number in range(rounds)])),
        )
        norm = shifted_norm(norm, size, exponent)
        unit *= size ** (-rounds / 2) * 2.0**-exponent
        return _Value(name, "sums", 1, 1, rotation.outputs, unit=unit, largest=norm, norm=norm)

    def switch(self, name: str, module: Switch, x: _Value) -> _Value:
        """Slopes, each a right shift and a sign, shifted further so that a transform of what they give fits."""
        exponent = min(room(x.norm, x.channels), 0)
        self.node("switch", name, x.name, exponent=exponent)
        self.tensor(name, "slopes", np.uint64, (2, 3, -(-x.channels // 64)), lambda: _slopes(name, module))
        norm = shifted_norm(x.norm, x.channels, exponent)
        return dataclasses.replace(x, name=name, unit=x.unit * 2.0**-exponent, largest=norm, norm=norm)

    def transform(self, name: str, module: Transform, x: _Value) -> _Value:
        norm = hadamard_norm(x.norm, x.channels)
        self.node("hadamard", name, x.name)
        return dataclasses.replace(x, name=name, unit=x.unit * 2.0**-module.shift, largest=norm, norm=norm)

    def levels(self, name: str, quantizer: Any, x: _Value) -> _Value:
        """The quantizer and all steps before it, as thresholds of what the steps began with."""
        ternary = len(quantizer.levels) == 3
        segments: list[list[_Step]] = [[]]
        for step in x.steps:
            if step.pool is None:
                segments[-1].append(step)
            else:
                segments.append([])
        first, last = {"image": (0, 255), "sums": (-x.largest, x.largest), "real": FLOATS}[x.kind]

        def value(n: Tensor, count: int) -> Tensor:
            """The number after the first `count` segments."""
            v = self.numbers(x, n)
            for step in (step for segment in segments[:count] for step in segment):
                v = step.ask(v)
            if v.isnan().any():
                channel = int(v.isnan().nonzero()[0])
                raise HypersignError(
                    f"{name}: channel {channel} of its input is NaN: weights or statistics before it are broken"
                )
            return v

        @functools.cache
        def found() -> tuple[NDArray[Any], NDArray[Any], list[NDArray[np.bool_]]]:
            # Contiguous rows: torch's batch norm rounds otherwise where a stride is 0.
            with full_precision("cpu"), torch.no_grad():
                low, high, flip = find_thresholds(
                    lambda n: quantizer(value(n, len(segments))), first, last, x.channels
                )
                ends = [torch.full((x.channels,), end) for end in (first, last)]
                falls = [value(ends[1], k) < value(ends[0], k) for k in range(1, len(segments))] + [flip]
            # what each segment adds to the direction of those before it
            turns = [falls[0], *(a ^ b for a, b in itertools.pairwise(falls))]
            numbers = []
            for limit in (low, high):
                if x.kind == "real":
                    limit = torch.where(limit == first, -torch.inf, float_of(limit) + 0.0)
                    numbers.append(limit.numpy().astype(np.float32))
                else:
                    numbers.append(limit.numpy().astype(np.int32))
            return numbers[0], numbers[1], [turn.numpy() for turn in turns]

        node = x.name
        if x.kind != "sums" or x.norm:
            node = self.node("quantize", name, x.name)
        dtype = np.float32 if x.kind == "real" else np.int32
        self.tensor(node, "low", dtype, (x.channels,), lambda: found()[0])
        if ternary:
            self.tensor(node, "high", dtype, (x.channels,), lambda: found()[1])
        self.tensor(node, "flip", np.bool_, (x.channels,), lambda: found()[2][0])
        y = _Value(node, "levels", x.height, x.width, x.channels, ternary, flat=x.flat)
        pools = [step for step in x.steps if step.pool is not None]
        for i, step in enumerate(pools, start=1):
            y = self.pooled(step, y)
            self.tensor(step.name, "flip", np.bool_, (x.channels,), functools.partial(lambda i: found()[2][i], i))
        return y

    def numbers(self, x: _Value, n: Tensor) -> Tensor:
        """What the integers n stand for in the float network, float32."""
        if x.kind == "real":
            return float_of(n)
        if x.kind == "sums":
            return (n.double() * x.unit).float()
        assert self.pixel_range is not None
        low, high = self.pixel_range
        return n.float().mul_((high - low) / 255).add_(low)  # as `Batches` has it

    def real(self, x: _Value) -> _Value:
        """`x` with its steps done in float32."""
        waiting: list[_Step] = []
        y = dataclasses.replace(x, steps=())
        if y.kind == "image":
            y = dataclasses.replace(y, name=self.node("pixels", "pixels", y.name), kind="real")
        elif y.kind == "levels":
            y = dataclasses.replace(y, name=self.node("unpack", f"{y.name}.unpack", y.name), kind="real")
        if y.kind == "sums" and y.unit != 1:
            unit = torch.full((y.channels,), y.unit, dtype=torch.float64)
            waiting = [_Step(f"{y.name}.unit", affine=lambda: (unit, torch.zeros_like(unit)))]
        for step in x.steps:
            if step.affine is not None:
                waiting.append(step)
                continue
            if step.pool is not None and not waiting:
                y = self.pooled(step, y)
                continue
            y = self.affine(waiting, y)
            waiting = []
            if step.pool is not None:
                y = self.pooled(step, y)
            else:
                assert step.clip is not None
                low, high = step.clip
                y = dataclasses.replace(y, name=self.node("clip", step.name, y.name, low=low, high=high))
        return self.affine(waiting, y)

    def affine(self, steps: list[_Step], y: _Value) -> _Value:
        """`y` with affine steps done as one; made real, if it is sums."""
        if not steps and y.kind == "real":
            return y
        name = steps[-1].name if steps else f"{y.name}.real"

        @functools.cache
        def composed() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
            scale = torch.ones(y.channels, dtype=torch.float64)
            shift = torch.zeros(y.channels, dtype=torch.float64)
            for step in steps:
                assert step.affine is not None
                a, b = (values.double() for values in step.affine())
                scale, shift = scale * a, shift * a + b
            return scale.float().numpy(), shift.float().numpy()

        self.node("affine", name, y.name)
        for i, role in enumerate(("scale", "shift")):
            self.tensor(name, role, np.float32, (y.channels,), functools.partial(lambda i: composed()[i], i))
        return dataclasses.replace(y, name=name, kind="real", unit=1.0)

    def pooled(self, step: _Step, y: _Value) -> _Value:
        """The node of a max-pool that waited."""
        assert step.pool is not None
        return dataclasses.replace(y, name=self.node("max_pool2d", step.name, y.name, **step.pool))

    def max_pool(self, name: str, module: nn.MaxPool2d, x: _Value) -> _Value:
        if _pair(module.dilation) != [1, 1] or module.return_indices:
            raise _refusal(name, module, "dilation and return_indices are not supported")
        options = _pool_options(module)
        return dataclasses.replace(_pooled_size(x, options), steps=(*x.steps, _Step(name, pool=options)))

    def avg_pool(self, name: str, module: Any, x: _Value) -> _Value:
        y = self.real(x)
        if isinstance(module, nn.AdaptiveAvgPool2d):
            if _pair(module.output_size) != [1, 1]:
                raise _refusal(name, module, "only an output of 1 x 1 is supported")
            size = [y.height, y.width]
            options = {"size": size, "stride": size, "padding": [0, 0], "ceil_mode": False, "count_include_pad": True}
        elif module.divisor_override is not None:
            raise _refusal(name, module, "divisor_override is not supported")
        else:
            options = {**_pool_options(module), "count_include_pad": module.count_include_pad}
        return dataclasses.replace(_pooled_size(y, options), name=self.node("avg_pool2d", name, y.name, **options))

    def block(self, name: str, module: Any, x: _Value) -> _Value:
        """A convolution with a real-valued shortcut around it."""
        x = self.real(x)
        main = self.real(self.module(f"{name}.norm", module.norm, self.module(f"{name}.conv", module.conv, x)))
        shortcut = self.real(self.module(f"{name}.shortcut", module.shortcut, x))
        return dataclasses.replace(main, name=self.node("add", f"{name}.add", main.name, shortcut.name))


NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, ShiftBatchNorm1d, ShiftBatchNorm2d)


def _norm(name: str, norm: Any, x: _Value) -> _Step:
    if not norm.track_running_stats:
        raise _refusal(name, norm, "it keeps no running statistics, so its scale depends on the batch")
    if x.flat and (x.height, x.width) != (1, 1):
        raise _refusal(name, norm, "a batch norm of flattened images must come after a fully connected layer")
    if norm.num_features != x.channels:
        raise _refusal(name, norm, f"it has {norm.num_features} features; its input has {x.channels} channels")
    dimensions = 2 if isinstance(norm, nn.BatchNorm2d) else 0

    def ask(v: Tensor) -> Tensor:
        return norm(v.view(1, -1, *[1] * dimensions)).view(-1)

    def affine() -> tuple[Tensor, Tensor]:
        scale = 1 / torch.sqrt(norm.running_var.double() + norm.eps)
        if norm.weight is not None:
            scale = scale * norm.weight.detach().double()
        shift = -norm.running_mean.double() * scale
        return scale, shift if norm.bias is None else shift + norm.bias.detach().double()

    return _Step(name, ask, affine=affine)


def _clip(name: str, module: Any) -> _Step:
    if isinstance(module, nn.Hardtanh):  # ReLU6 is one
        return _Step(name, module, clip=(float(module.min_val), float(module.max_val)))
    return _Step(name, module, clip=(0.0, None))


def _window(name: str, module: Any, x: _Value) -> dict[str, Any]:
    """A product's kernel, stride, padding and dilation, each [vertical, horizontal]."""
    if isinstance(module, nn.Linear):
        features = x.channels * x.height * x.width
        if not x.flat and (x.height, x.width) != (1, 1):
            raise _refusal(name, module, "images must be flattened before a fully connected layer: add nn.Flatten()")
        if module.in_features != features:
            raise _refusal(name, module, f"it takes {module.in_features} features; its input has {features}")
        return {"kernel": [x.height, x.width], "stride": [1, 1], "padding": [0, 0], "dilation": [1, 1]}
    if x.flat and (x.height, x.width) != (1, 1):
        raise _refusal(name, module, "a convolution cannot follow nn.Flatten()")
    if module.in_channels != x.channels:
        raise _refusal(name, module, f"it takes {module.in_channels} channels; its input has {x.channels}")
    if module.padding_mode != "zeros":
        raise _refusal(name, module, f"padding_mode={module.padding_mode!r} is not supported")
    padding = [int(n) for n in module._reversed_padding_repeated_twice]  # left, right, top, bottom
    if padding[0] != padding[1] or padding[2] != padding[3]:
        raise _refusal(name, module, "padding='same' of an even kernel is not symmetric, and not supported")
    return {
        "kernel": _pair(module.kernel_size),
        "stride": _pair(module.stride),
        "padding": [padding[2], padding[0]],
        "dilation": _pair(module.dilation),
    }


def _pool_options(module: Any) -> dict[str, Any]:
    return {
        "size": _pair(module.kernel_size),
        "stride": _pair(module.stride),
        "padding": _pair(module.padding),
        "ceil_mode": module.ceil_mode,
    }


def _pooled_size(x: _Value, options: dict[str, Any]) -> _Value:
    size, stride, padding = (tuple(options[name]) for name in ("size", "stride", "padding"))
    height, width = output_size(
        (x.height, x.width), size, stride=stride, padding=padding, ceil_mode=options["ceil_mode"]
    )
    return dataclasses.replace(x, height=height, width=width)


def _pair(value: Any) -> list[int]:
    return [int(n) for n in value] if isinstance(value, tuple | list) else [int(value)] * 2


def integer_pixels(pixel_range: tuple[float, float] | None) -> tuple[int, int, float] | None:
    """Multiplier, shift and unit with low + (high - low) u / 255 = unit (multiplier u + shift), all integers.

    That is so where 2 low 255 / (high - low) is an integer; None elsewhere.
    """
    if pixel_range is None:
        return None
    low, high = map(Fraction, pixel_range)
    shift = 255 * low / (high - low)
    if shift.denominator > 2:
        return None
    return shift.denominator, int(shift * shift.denominator), float((high - low) / (255 * shift.denominator))


def _rows(name: str, weight: Tensor, x: _Value) -> NDArray[np.float32]:
    """Filters (filters, kernel height, kernel width, channels); a fully connected one reads flattened images."""
    if not torch.isfinite(weight).all():
        raise HypersignError(f"{name}.weight must hold numbers; it holds NaN or infinity: take an earlier state")
    if weight.dim() == 2:
        weight = weight.view(len(weight), x.channels, x.height, x.width)
    return weight.detach().permute(0, 2, 3, 1).contiguous().numpy()


def _packed(name: str, layer: Any, x: _Value) -> NDArray[np.uint64]:
    """The packed levels of a layer's weights."""
    _rows(name, layer.weight, x)  # its check: NaN has no level
    with torch.no_grad():
        levels = _rows(name, layer.quantized_weight(), x).reshape(layer.filters, -1)
    if len(layer.weight_quantizer.levels) == 2:
        return bits.pack(levels)
    return bits.pack_ternary(levels, low=0, high=1)


def _slopes(name: str, module: Switch) -> NDArray[np.uint64]:
    """The packed slopes of a switch: signs, and the two bits of their shifts."""
    if not torch.isfinite(module.slopes).all():
        raise HypersignError(f"{name}.slopes must hold numbers; it holds NaN or infinity: take an earlier state")
    minus, shifts = module.planes()
    planes = np.stack([minus, shifts & 1 > 0, shifts & 2 > 0], axis=1)  # (2, 3, n)
    return bits.pack(np.where(planes, -1, 1))


def _refusal(name: str, module: nn.Module, reason: str) -> HypersignError:
    return HypersignError(f"{name} ({type(module).__name__}) cannot be packed: {reason}")
