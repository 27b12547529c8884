"""A float64 replica of a network, which checks a packed network step by step.

A packed network computes most sums in integers, without any rounding, and the rest in float32. The replica computes
the same network in float64: where sums are of integers (levels, or pixels times signs) it is exact, and elsewhere its
own rounding is 2^29 times smaller than float32's.

Two correct computations of one network may still give different logits. A number that lies within rounding of a
threshold gets either level, and one other level changes everything after it. So the replica does not compare the
ends. It follows the packed network: at every value that the packed network keeps (levels, sums, numbers) it asks
whether this value is what the network gives from the values before it, and then continues from the packed network's
own value. Errors do not add up, and every step has its own small bound:

    sums of integers                none: they must be equal
    sums of n products in float32   n u sum_i |w_i x_i|                 u = 2^-24
    a scale, bias or batch norm     a few u times the largest term
    sums shifted right              1 in the last place that is left
    a level                         q(v - e) <= level <= q(v + e),      e the bound of the number v before it

A packed network is right on an image where all its steps are, its logits included.

Source: Higham 2002, "Accuracy and Stability of Numerical Algorithms", sections 2.2 and 3.1.
"""

import copy
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from hypersign import bits
from hypersign._checks import HypersignError
from hypersign.layers import (
    Maxout,
    QuantConv1d,
    QuantConv2d,
    QuantConvTranspose1d,
    QuantConvTranspose2d,
    QuantLayer,
    QuantLinear,
    Rotation,
    RPReLU,
)
from hypersign.models import (
    AssociativeMemory,
    BinaryBlock,
    ChannelCopies,
    Ensemble,
    FastTransform,
    RecurrentNetwork,
    ShiftBatchNorm1d,
    ShiftBatchNorm2d,
    Switch,
    Transform,
)
from hypersign.packed import PackedModel
from hypersign.packed.values import Node
from hypersign.packing import steps
from hypersign.packing.given import transposed_layer
from hypersign.packing.handlers import HANDLERS
from hypersign.packing.handlers.pixels import integer_pixels
from hypersign.packing.handlers.slopes import Sloped, pieces
from hypersign.packing.handlers.windows import pair
from hypersign.packing.traced import Trace, child_name, known_type, root_name, trace
from hypersign.quantizers import Identity, ImageSign, Quantizer, Sign, Ternary

__all__ = ["Followed", "Replica"]

U = 2.0**-24
"""Largest relative error of one float32 operation."""

FLOAT64 = 2.0**-46
"""Relative error of the replica itself: 64 operations of float64, more than any one step has after its exact sums."""


@dataclasses.dataclass(frozen=True)
class Followed:
    """Result of the replica for a packed network on some images.

    `wrong[i]` names the first step that is wrong on image i, None where all are right. `levels` are the packed
    network's, in the order in which the layers read them: (layer, float64 (N, ...)).
    """

    wrong: tuple[str | None, ...]
    levels: tuple[tuple[str, Tensor], ...]


@dataclasses.dataclass(frozen=True)
class _Number:
    """A float64 value of the network and `error`, what the packed network's may be off by at most.

    `unit` is what 1 stands for where the value is a multiple of it (levels, pixels, fixed point), else 0.
    """

    value: Tensor
    error: Tensor
    unit: float = 0.0

    def integers(self) -> Tensor:
        return (self.value / self.unit).round()


class Replica:
    """The float64 replica of a network.

    Args:
        model: the network that was packed: float32, on the CPU, in evaluation mode.
        packed: its packed form.
    """

    def __init__(self, model: nn.Module, packed: PackedModel) -> None:
        self.model = model
        self.packed = packed
        self.traces: dict[str, Trace] = {}

    def outputs(self, images: Sequence[NDArray[Any]]) -> list[Tensor]:
        """The outputs of the network in float64, with levels of its own, each (N, ...)."""
        shapes = self.packed.output_shapes.values()
        found = _Pass(self.packed, images, None, self.traces).run(self.model)
        return [value.reshape(len(value), *shape) for value, shape in zip(found, shapes, strict=True)]

    def follow(
        self, images: Sequence[NDArray[Any]], outputs: Sequence[NDArray[np.float32]], *, threads: int = 1
    ) -> Followed:
        """Checks every step of the packed network on images, the last of which gave `outputs`, each (N, ...)."""
        values = self.packed.trace(images if len(images) > 1 else images[0], threads=threads)
        for end, output in zip(self.packed.graph.ends, outputs, strict=True):
            values[end] = output.reshape(values[end].shape)
        following = _Pass(self.packed, images, values, self.traces)
        following.run(self.model)
        return Followed(tuple(following.wrong), tuple(following.levels))


class _Pass:
    """One pass over the network's modules; with `values`, the packed network's, along these.

    Methods take the number before a module and return the one after it. Modules come in the order of `fold` and under
    its names.
    """

    def __init__(
        self,
        packed: PackedModel,
        images: Sequence[NDArray[Any]],
        values: dict[str, NDArray[Any]] | None,
        traces: dict[str, Trace],
    ) -> None:
        self.traces = traces
        self.images = images
        self.values = values
        self.kinds = packed.values
        self.nodes = {node.name: node for node in packed.graph.nodes}
        self.ends = packed.graph.ends
        self.pixel_range = packed.graph.pixel_range
        self.wrong: list[str | None] = [None] * len(images[0])
        self.levels: list[tuple[str, Tensor]] = []

    def run(self, model: nn.Module) -> list[Tensor]:
        name = root_name(model, HANDLERS)
        inputs = [self.first_input(), *(_real(images) for images in self.images[1:])]
        whole = known_type(model, HANDLERS) is not None
        outputs = [self.module(name, model, *inputs)] if whole else self.calls(name, model, *inputs)
        return [self.settle(end, number).value for end, number in zip(self.ends, outputs, strict=True)]

    def first_input(self) -> _Number:
        if self.pixel_range is None:
            return _real(self.images[0])
        low, high = self.pixel_range
        pixels = torch.from_numpy(self.images[0]).double()
        found = integer_pixels(self.pixel_range)
        error = torch.full_like(pixels, 4 * U * (abs(low) + abs(high - low)))
        if found is None:
            return self.settle("pixels", _Number(low + (high - low) * pixels / 255, error))
        multiplier, shift, unit = found
        return self.settle("pixels", _Number((multiplier * pixels + shift) * unit, error, unit))

    def module(self, name: str, module: Any, *inputs: _Number) -> _Number:
        kind = known_type(module, HANDLERS)
        if kind in STEPS:
            return STEPS[kind](self, name, module, *inputs)
        if kind is not None:
            raise HypersignError(
                f"{name} ({type(module).__name__}) cannot be verified: no packed form is known of it"
            )
        return self.calls(name, module, *inputs)[0]

    def calls(self, name: str, module: nn.Module, *inputs: _Number) -> list[_Number]:
        """A module with a forward of its own."""
        found = self.traces.get(name)
        if found is None:
            shapes = [tuple(number.value.shape[1:]) for number in inputs]
            found = self.traces[name] = trace(name, module, HANDLERS, shapes)
        numbers = {f"#{i}": number for i, number in enumerate(inputs)}
        for call in found.calls:
            numbers[call.name] = self.module(call.name, call.module, *(numbers[source] for source in call.inputs))
        return [numbers[source] for _, source in found.outputs]

    def moved(self, name: str, module: nn.Module, *inputs: _Number) -> _Number:
        """A step that only moves numbers."""
        step = copy.deepcopy(module).double()
        units = {x.unit for x in inputs}
        value, error = (step(*parts) for parts in zip(*((x.value, x.error) for x in inputs), strict=True))
        if isinstance(module, steps.Constant):
            error = 0 * error
        return self.settle(name, _Number(value, error, units.pop() if len(units) == 1 else 0.0))

    def added(self, name: str, module: steps.Add, *inputs: _Number) -> _Number:
        value = module(*(x.value for x in inputs))
        return self.settle(name, _Number(value, module(*(x.error for x in inputs)) + U * value.abs()))

    def multiplied(self, name: str, module: steps.Multiply, a: _Number, b: _Number) -> _Number:
        value = a.value * b.value
        error = a.error * b.value.abs() + b.error * a.value.abs() + a.error * b.error
        return self.settle(name, _Number(value, error + U * value.abs()))

    def scaled(self, name: str, module: steps.Affine, x: _Number) -> _Number:
        scale, shift = module.scale.double(), module.shift.double()
        value = x.value * scale
        error = x.error * scale.abs() + 8 * U * (value.abs() + shift.abs())
        return self.settle(name, _Number(value + shift, error))

    def meaned(self, name: str, module: steps.Mean, x: _Number) -> _Number:
        count = int(np.prod([x.value.shape[dim + 1] for dim in module.dims]))
        error = module(x.error)
        if not module.maximum:
            error = error + (count + 1) * U * module(x.value.abs())
        return self.settle(name, _Number(module(x.value), error))

    def function(self, name: str, module: nn.Module, *inputs: _Number) -> _Number:
        """A function that the packed network computes in float64 and rounds once.

        Its inputs are the packed network's own values, so they bring no error. Both compute in float64; where large
        numbers cancel, as in a norm, the results differ by a few roundings of these.
        """
        step: Any = copy.deepcopy(module).double()
        value = step(*(x.value for x in inputs))
        size = torch.stack([x.value.abs().flatten(1).amax(1) for x in inputs]).prod(0)
        if isinstance(module, steps.LayerNorm | steps.GroupNorm):
            step.scale, step.shift = module.scale.abs().double(), 0 * module.shift.double()
            spread = step(inputs[0].value).abs().flatten(1).amax(1)
            size = size * (1 + spread / size.clamp(min=1e-30)) + float(module.shift.abs().max())
        if isinstance(module, steps.MatMul):
            size = size * inputs[0].value.shape[-1]
        error = 2 * U * value.abs() + 2.0**-42 * size.view(-1, *[1] * (value.dim() - 1))
        return self.settle(name, _Number(value, error))

    def transposed(self, name: str, module: Any, x: _Number) -> _Number:
        return self.module(name, transposed_layer(module), x)

    def sequence(self, name: str, module: nn.Sequential, x: _Number) -> _Number:
        for child, part in module._modules.items():
            x = self.module(child_name(name, child), part, x)
        return x

    def identity(self, name: str, module: nn.Module, x: _Number) -> _Number:
        return x

    def flatten(self, name: str, module: nn.Flatten, x: _Number) -> _Number:
        return _Number(module(x.value), module(x.error), x.unit)

    def clip(self, name: str, module: nn.Module, x: _Number) -> _Number:
        return self.settle(name, _Number(module(x.value), x.error))

    def max_pool(self, name: str, module: nn.Module, x: _Number) -> _Number:
        return self.settle(name, _Number(module(x.value), module(x.error), x.unit))

    def avg_pool(self, name: str, module: Any, x: _Number) -> _Number:
        value = module(x.value)
        if isinstance(module, nn.AdaptiveAvgPool2d):
            count = x.value[0].numel() // value[0].numel()
        else:
            count = math.prod(pair(module.kernel_size))
        rounding = (count + 1) * U * module(x.value.abs())
        return self.settle(name, _Number(value, module(x.error) + rounding))

    def node(self, name: str, *operations: str) -> Node:
        """The packed network's node of this name, which must do one of these operations."""
        node = self.nodes.get(name)
        if node is None or node.op not in operations:
            raise HypersignError(
                f"the packed network must be that of this network; it has nothing like {name}: pack it again"
            )
        return node

    def block(self, name: str, module: BinaryBlock, x: _Number) -> _Number:
        main = self.module(f"{name}.norm", module.norm, self.module(f"{name}.conv", module.conv, x))
        shortcut = self.module(f"{name}.shortcut", module.shortcut, x)
        value = main.value + shortcut.value
        y = self.settle(f"{name}.add", _Number(value, main.error + shortcut.error + U * value.abs()))
        return y if module.act is None else self.module(f"{name}.act", module.act, y)

    def copies(self, name: str, module: ChannelCopies, x: _Number) -> _Number:
        return self.settle(name, _Number(module(x.value), module(x.error)))

    def smooth(self, name: str, module: nn.Module, x: _Number) -> _Number:
        """A function whose slope is at most 1, which float32 rounds to a few units."""
        value = module(x.value)
        return self.settle(name, _Number(value, x.error + 8 * U * value.abs()))

    def own_levels(self, name: str, quantizer: Quantizer, x: _Number) -> _Number:
        """A quantizer that is a layer of its own."""
        y = self.quantized(name, quantizer, x, source=name)
        del self.levels[-1:]  # of layers alone
        return y

    def slopes(self, name: str, module: Sloped, x: _Number) -> _Number:
        """Two slopes between two shifts; where it has nodes of its own, each rounds."""
        shape = (1, -1, *[1] * (x.value.dim() - 2))
        before, left, right, after = (
            values.detach().double().view(shape) for values in pieces(module, x.value.shape[1])
        )
        shifted = x.value + before
        value = torch.where(shifted >= 0, right, left) * shifted + after
        steep = torch.maximum(left.abs(), right.abs())
        error = x.error + 2 * U * (x.value.abs() + before.abs())
        return self.settle(name, _Number(value, error * steep + 8 * U * (steep * shifted.abs() + after.abs())))

    def ensemble(self, name: str, module: Ensemble, x: _Number) -> _Number:
        total = None
        for i, member in enumerate(module.members):
            part = child_name(name, f"members.{i}")
            y = self.module(part, member, x)
            vote = module.votes[i].double().expand(y.value.shape[1])
            y = self.affine(f"{part}.vote", y, vote, torch.zeros_like(vote))
            if total is not None:
                value = total.value + y.value
                y = self.settle(child_name(name, f"sum{i}"), _Number(value, total.error + y.error + U * value.abs()))
            total = y
        assert total is not None
        return total

    def recurrent_network(self, name: str, module: RecurrentNetwork, x: _Number) -> _Number:
        """Recurrent layers, whose errors have no simple bound: states pass through many steps and functions.

        The bound of each layer is measured instead: four times the largest difference that float32 makes in the
        network's own layer, on these images.
        """
        name = "" if name == type(module).__name__.lower() else name
        x = _Number(module.sequence(x.value), module.sequence(x.error))
        for number, layer in enumerate(module.layers(), 1):
            with torch.no_grad():
                exact = copy.deepcopy(layer).double()(x.value)[0]
                rounding = (layer(x.value.float())[0].double() - exact).abs().max()
            if number == module.depth:
                exact = exact[:, -1:]
            value = exact.transpose(1, 2)[..., None]  # (N, units, steps, 1)
            error = torch.full_like(value, float(4 * rounding + 64 * U))
            y = self.settle(child_name(name, f"layer{number}"), _Number(value, error))
            x = _Number(y.value[..., 0].transpose(1, 2), y.error[..., 0].transpose(1, 2))
        return self.product(child_name(name, "head"), module.head, _Number(x.value[:, -1], x.error[:, -1]))

    def product(self, name: str, module: Any, x: _Number) -> _Number:
        """A convolution or fully connected layer: the bare product, its scale and its bias, one step for each."""
        node = self.node(name, "conv2d", "image_conv2d", "real_conv2d", "signed_sum")
        weight = module.weight.detach().double()
        scale = None
        general = False
        if isinstance(module, QuantLayer):
            if isinstance(module.input_quantizer, ImageSign):
                x = self.quantized(name, Sign(), self.centred(f"{name}.centre", x))
            elif module.input_quantizer.packed_form(inputs=True).levels:
                x = self.quantized(name, module.input_quantizer, x)
            elif module.quantizes_inputs:
                x = self.clip(f"{name}.input_quantizer", module.input_quantizer, x)
            if module.quantizes_weights:
                # The levels and scales of float32 are the network's: in float64 some thresholds would be others.
                weight, scale = module.quantized_weight().detach().double(), module.weight_scale()
            general = _is_general(module)
        fan_in = weight[0].numel()
        last = isinstance(module, nn.Linear)
        if general:
            y = self.settle_general(name, module, x, weight, scale, integers=node.op != "real_conv2d")
            return self.biased(name, module, y)
        if node.op == "real_conv2d":
            value = _product(module, x.value, weight)
            rounding = (fan_in + 1) * U * _product(module, x.value.abs(), weight.abs())
            y = _Number(value, _product(module, x.error, weight.abs()) + rounding)
        else:
            # Products of integers: exact in float64. Fixed point is shifted first, each number by less than 1.
            exponent = node.options.get("exponent", 0)
            unit = x.unit * 2.0**-exponent
            value = _product(module, x.integers(), weight) * x.unit
            y = _Number(value, torch.full_like(value, fan_in * unit if exponent < 0 else 0.0), unit)
        y = self.in_float32(name, self.settle(name, y))
        if scale is not None:
            y = self.affine(f"{name}.scale", y, scale.detach().double(), torch.zeros(len(weight)), last=last)
        if isinstance(module, QuantLayer) and (rule := module.input_quantizer.scale) is not None:
            number = _number(rule, x).expand(len(weight))
            y = self.affine(f"{name}.input_scale", y, number, torch.zeros(len(weight)), last=last)
        return self.biased(name, module, y)

    def biased(self, name: str, module: Any, y: _Number) -> _Number:
        """`y` plus the layer's bias, if it has one."""
        if module.bias is None:
            return y
        ones, bias = torch.ones(len(module.bias)), module.bias.detach().double()
        return self.affine(f"{name}.bias", y, ones, bias, last=isinstance(module, nn.Linear))

    def settle_general(
        self, name: str, module: Any, x: _Number, levels: Tensor, scale: Tensor | None, *, integers: bool
    ) -> _Number:
        """A product with offsets, or of several planes: the product of the numbers that the levels stand for.

        The packed network adds parts, each a product of integers times a scale, so each part rounds a few times. Real
        inputs round once per term.
        """
        inputs, weights = module.input_quantizer, module.weight_quantizer
        shape = (-1, *[1] * (levels.dim() - 1))
        s = torch.ones(len(levels)) if scale is None else scale.detach()
        o = torch.zeros(len(levels))
        if weights.offset is not None:
            o = weights.offset(module.weight, module.quantized_weight()).detach()
        s, o = s.double().view(shape), o.double().view(shape)
        a, b = _number(inputs.scale, x), _number(inputs.offset, x, 0.0)
        value = module.product(a * x.value + b, s * levels + o)
        size = module.product(a.abs() * x.value.abs() + b.abs(), s.abs() * levels.abs() + o.abs())
        terms = 32 if integers else levels[0].numel() + 32
        if hasattr(weights, "plane_levels"):  # in planes the terms are larger than their sum
            size = sum(
                module.product(a.abs() * x.value.abs() + b.abs(), v.double().view(shape) * signs.double().abs())
                for v, signs in weights.plane_levels(module.weight)
            )
        carried = module.product(x.error * a.abs(), s.abs() * levels.abs() + o.abs())
        sums = (f"{name}.{part}{i}" for part in ("sum", "plane_sum") for i in range(8, 0, -1))
        # without a sum it is a shift per filter, which may wait to be folded
        last = next((node for node in sums if node in self.nodes), f"{name}.input_offset")
        return self.settle(last, _Number(value, carried + terms * U * size))

    def centred(self, name: str, x: _Number) -> _Number:
        """Numbers less the mean of their image. The mean has the mean error, and rounds once; so does the rest."""
        dims = tuple(range(1, x.value.dim()))
        mean = x.value.mean(dims, keepdim=True)
        value = x.value - mean
        error = x.error + x.error.mean(dims, keepdim=True) + 2 * U * (mean.abs() + value.abs())
        return self.settle(name, _Number(value, error))

    def affine(self, name: str, x: _Number, scale: Tensor, shift: Tensor, *, last: bool = False) -> _Number:
        """x times scale plus shift. Composed with others and rounded, or one after the other: at most 8 roundings.

        One number of each per channel: dimension 1, or the `last`.
        """
        others = [1] * (x.value.dim() - 2)
        shape = (1, *others, -1) if last else (1, -1, *others)
        scale, shift = scale.view(shape), shift.view(shape)
        product = x.value * scale
        error = x.error * scale.abs() + 8 * U * (product.abs() + shift.abs())
        return self.settle(name, _Number(product + shift, error))

    def norm(self, name: str, module: Any, x: _Number) -> _Number:
        """A batch norm. Its error has the size of its terms: value, mean and bias, each times the scale."""
        scale = 1 / torch.sqrt(module.running_var.double() + module.eps)
        if module.weight is not None:
            scale = scale * module.weight.detach().double()
        bias = torch.zeros_like(scale) if module.bias is None else module.bias.detach().double()
        shape = (1, -1, *[1] * (x.value.dim() - 2))
        scale, bias, mean = (values.view(shape) for values in (scale, bias, module.running_mean.double()))
        value = (x.value - mean) * scale + bias
        terms = ((x.value.abs() + mean.abs()) * scale.abs()) + bias.abs()
        return self.settle(name, _Number(value, x.error * scale.abs() + 8 * U * terms))

    def rotation(self, name: str, module: Rotation, x: _Number) -> _Number:
        rotation: Any = module.rotation
        node = self.node(name, "rotate")
        sums = torch.from_numpy(rotation.sums(x.integers().numpy().astype(np.int64)).astype(np.float64))
        unit = x.unit * rotation.size ** (-rotation.rounds / 2)
        return self.shifted(name, _Number(sums * unit, torch.zeros_like(sums), unit), node.options["exponent"])

    def fixed_point(self, name: str, module: Any, x: _Number) -> _Number:
        """A switch or a transform of fixed point."""
        node = self.node(name, "switch", "hadamard")
        value = module(x.integers()) * x.unit
        if isinstance(module, Transform):
            y = _Number(value, torch.zeros_like(value), x.unit * 2.0**-module.shift)
            return self.in_float32(name, self.settle(name, y))
        return self.shifted(
            name, _Number(value, torch.zeros_like(value), x.unit), node.options["exponent"], always=True
        )

    def shifted(self, name: str, x: _Number, exponent: int, *, always: bool = False) -> _Number:
        """Fixed point times 2^exponent, rounded down where bits are lost."""
        unit = x.unit * 2.0**-exponent
        error = unit if always or exponent < 0 else 0.0
        return self.in_float32(name, self.settle(name, _Number(x.value, torch.full_like(x.value, error), unit)))

    def in_float32(self, name: str, x: _Number) -> _Number:
        """Integers as float32 numbers, which the steps after them take: the unit and the product are rounded."""
        if not x.unit:
            return x
        x = _Number(x.value, x.error + 2 * U * x.value.abs(), x.unit)
        return self.settle(f"{name}.real", self.settle(f"{name}.unit", x))

    def quantized(self, name: str, quantizer: Quantizer, x: _Number, source: str = "") -> _Number:
        """The levels that a layer reads: the packed network's, once checked."""
        levels = quantizer.round(quantizer.prepare(x.value).detach())
        if self.values is not None:
            given = self._like(levels, self._levels(name, source), name)
            room = x.error + (2 * U + FLOAT64) * x.value.abs()
            low, high = (quantizer.prepare(end).detach() for end in (x.value - room, x.value + room))
            slack = 4 * U * torch.maximum(low.abs(), high.abs()) if quantizer.transforms else 0.0
            right = (quantizer.round(low - slack) <= given) & (given <= quantizer.round(high + slack))
            self._note(f"{name}.input_quantizer", right & ~x.value.isnan())
            self.levels.append((name, given))
            levels = given
        return _Number(levels, torch.zeros_like(levels), 1.0)

    def settle(self, name: str, x: _Number) -> _Number:
        """The packed network's own value of this name, once checked; `x` where it keeps none."""
        kind = self.kinds[name].kind if name in self.nodes else "levels"
        if self.values is None or kind not in ("real", "sums"):
            return x
        own = self._like(x.value, self.values[name], name)
        if kind == "sums":
            own = own * x.unit
        # NaN is never right
        self._note(name, (own - x.value).abs() <= x.error + FLOAT64 * x.value.abs())
        return _Number(own, torch.zeros_like(own), x.unit if kind == "sums" else 0.0)

    def _note(self, name: str, right: Tensor) -> None:
        for image in (~right.flatten(1).all(1)).nonzero().flatten().tolist():
            self.wrong[image] = self.wrong[image] or name

    def _levels(self, name: str, source: str) -> NDArray[Any]:
        """The levels that the packed layer `name` read, or that `source` gave, (N, height, width, channels)."""
        assert self.values is not None
        source = source or self.nodes[name].inputs[0]
        kind, levels = self.kinds[source], self.values[source]
        if kind.kind == "levels":
            levels = (bits.unpack_ternary if kind.ternary else bits.unpack)(levels, kind.channels)
        return levels

    @staticmethod
    def _like(value: Tensor, own: NDArray[Any], name: str) -> Tensor:
        """The packed network's numbers `own`, channels last, in the shape of the replica's."""
        if own.size != value.numel():
            raise HypersignError(
                f"the packed network must be that of this network; at {name} it has {own[0].size} numbers per image, "
                f"the network {value[0].numel()}: pack it again"
            )
        numbers = torch.from_numpy(own.astype(np.float64))
        image, rows = numbers.permute(0, 3, 1, 2).reshape(value.shape), numbers.reshape(value.shape)
        if own.shape[1:3] == (1, 1) or own.shape[3] == 1:
            return rows
        # channels are the last in memory; in torch the first of an image, and the last of a sequence
        return image if float((image - value).abs().sum()) <= float((rows - value).abs().sum()) else rows


def _real(images: NDArray[Any]) -> _Number:
    numbers = torch.from_numpy(images).double()
    return _Number(numbers, torch.zeros_like(numbers))


def _is_general(module: QuantLayer) -> bool:
    """Whether the packed layer adds parts: for offsets, or for planes of weights."""
    offsets = module.weight_quantizer.offset, module.input_quantizer.offset
    planes = getattr(module.weight_quantizer, "planes", 1)
    return planes > 1 or any(offset is not None for offset in offsets)


def _number(rule: Any, x: _Number, default: float = 1.0) -> Tensor:
    """The scale or offset of inputs, in float64."""
    if rule is None:
        return torch.tensor(default, dtype=torch.float64)
    empty = torch.zeros(1)
    return rule(empty, empty).detach().double().reshape(())


def _product(module: Any, x: Tensor, weight: Tensor) -> Tensor:
    """The bare product of a layer, quantized or not."""
    if isinstance(module, QuantLayer):
        return module.product(x, weight)
    if isinstance(module, nn.Conv1d | nn.Conv2d):
        return module._conv_forward(x, weight, None)
    return F.linear(x, weight)


STEPS: dict[type[nn.Module], Callable[..., _Number]] = {
    nn.Sequential: _Pass.sequence,
    FastTransform: _Pass.sequence,
    AssociativeMemory: _Pass.sequence,
    BinaryBlock: _Pass.block,
    ChannelCopies: _Pass.copies,
    Ensemble: _Pass.ensemble,
    RecurrentNetwork: _Pass.recurrent_network,
    nn.Flatten: _Pass.flatten,
    nn.Identity: _Pass.identity,
    Identity: _Pass.identity,
    nn.Dropout: _Pass.identity,
    nn.Dropout1d: _Pass.identity,
    nn.Dropout2d: _Pass.identity,
    nn.Conv2d: _Pass.product,
    QuantConv2d: _Pass.product,
    nn.Linear: _Pass.product,
    QuantLinear: _Pass.product,
    nn.BatchNorm1d: _Pass.norm,
    nn.BatchNorm2d: _Pass.norm,
    ShiftBatchNorm1d: _Pass.norm,
    ShiftBatchNorm2d: _Pass.norm,
    nn.ReLU: _Pass.clip,
    nn.ReLU6: _Pass.clip,
    nn.Hardtanh: _Pass.clip,
    nn.Tanh: _Pass.smooth,
    RPReLU: _Pass.slopes,
    Maxout: _Pass.slopes,
    nn.PReLU: _Pass.slopes,
    nn.LeakyReLU: _Pass.slopes,
    Sign: _Pass.own_levels,
    Ternary: _Pass.own_levels,
    nn.MaxPool2d: _Pass.max_pool,
    nn.AvgPool2d: _Pass.avg_pool,
    nn.AdaptiveAvgPool2d: _Pass.avg_pool,
    nn.AdaptiveMaxPool2d: _Pass.max_pool,
    Rotation: _Pass.rotation,
    Switch: _Pass.fixed_point,
    Transform: _Pass.fixed_point,
    nn.Conv1d: _Pass.product,
    QuantConv1d: _Pass.product,
    nn.ConvTranspose1d: _Pass.transposed,
    nn.ConvTranspose2d: _Pass.transposed,
    QuantConvTranspose1d: _Pass.transposed,
    QuantConvTranspose2d: _Pass.transposed,
    steps.View: _Pass.moved,
    steps.Permute: _Pass.moved,
    steps.Slice: _Pass.moved,
    steps.Concat: _Pass.moved,
    steps.Constant: _Pass.moved,
    steps.ZeroPad: _Pass.moved,
    steps.Affine: _Pass.scaled,
    steps.Add: _Pass.added,
    steps.Multiply: _Pass.multiplied,
    steps.Mean: _Pass.meaned,
    steps.MatMul: _Pass.function,
    steps.Attention: _Pass.function,
    steps.Softmax: _Pass.function,
    steps.LayerNorm: _Pass.function,
    steps.GroupNorm: _Pass.function,
    steps.Resize: _Pass.function,
    steps.Function: _Pass.function,
}
"""The step of each type of layer that has a packed form."""
