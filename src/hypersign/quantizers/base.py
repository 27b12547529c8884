"""The contract of every quantizer: one base class. A subclass implements `round`, and states what else is known."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hypersign import theory
from hypersign._checks import HypersignError
from hypersign.quantizers.scales import ConstantScale, Fitted, LearnedNumber
from hypersign.quantizers.surrogates import HardTanh, Surrogate

__all__ = ["PackedForm", "Quantizer", "Rule", "traced"]

Rule = Callable[[Tensor, Tensor], Tensor]
"""A rule for a scale or an offset: a function of the tensor and its levels, or a module where it learns something."""


@dataclasses.dataclass(frozen=True)
class PackedForm:
    """How a quantizer's values are packed: "float" as float32, "rectified" as float32 after max(x, 0), "binary" as
    one bit, "ternary" as two, "planes" as several planes of one bit, each with a scale per filter.

    `kind` is None if there is no packed form; `reason` then says why, as the end of a sentence.
    """

    kind: Literal["float", "rectified", "binary", "ternary", "planes"] | None
    reason: str = ""

    @property
    def levels(self) -> bool:
        """Whether the values are levels, not real numbers."""
        return self.kind not in ("float", "rectified", None)


def traced(module: nn.Module, x: Any, *others: Any) -> Any:
    """What torch.fx sees of a module: one node. It cannot look into autograd functions, or where sizes decide."""
    return x.tracer.create_proxy("call_module", x.tracer.path_of_module(module), (x, *others), {})


class _Quantize(torch.autograd.Function):
    """Gives levels in the forward pass, and the surrogate's derivative in the backward pass.

    There is no forward-mode rule, because torch.compile cannot trace a Function that has one. The surrogate's state
    is an operand: if `backward` read it from the object, a compiled graph would keep the value at tracing for ever.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, state: Tensor | None, quantizer: "Quantizer") -> Tensor:
        return quantizer.round(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        x, state, quantizer = inputs
        ctx.surrogate = quantizer.surrogate
        ctx.has_state = state is not None
        ctx.learns = state is not None and state.requires_grad
        ctx.save_for_backward(*((x, state) if ctx.has_state else (x,)))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None]:
        x, state = ctx.saved_tensors if ctx.has_state else (*ctx.saved_tensors, None)
        learned = ctx.surrogate.state_gradient(grads[0], x, state) if ctx.learns else None
        return ctx.surrogate.backward(grads[0], x, state), learned, None


class Unrounded(torch.autograd.Function):
    """Gives the numbers themselves, with the backward pass of `_Quantize`: for products that take their signs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, state: Tensor | None, surrogate: Surrogate) -> Tensor:
        ctx.surrogate, ctx.state = surrogate, state
        ctx.save_for_backward(x)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        return ctx.surrogate.backward(grads[0], x, ctx.state), None, None


class Quantizer(nn.Module):
    """Maps numbers to a few exact levels, with a surrogate gradient. A subclass needs `round` and nothing else.

        values = scale * round(prepare(x)) + offset

    Calling a quantizer gives the levels `round(prepare(x))`. A layer multiplies and adds `scale` and `offset` to its
    output, outside the product, so that sums of levels stay integers. HyperSign uses what a subclass states. What it
    does not state is unknown, and no number is shown for it:

    - `round(x)`: the levels, without a gradient.
    - `prepare(x)`: a differentiable transform before rounding (standardise, clamp, shift).
    - `levels`, the values of `round`, ascending; or `bits`, the size of a level: for sizes and packing.
    - `scale`, `offset`: rules, `rule(x, levels)`. For weights they return one number per filter, shape `(filters,)`;
      for inputs numbers that broadcast against the layer's output, such as one for all. A rule that learns is a
      module with parameters; these get gradients and are saved.
    - `thresholds(x)`: where levels change, if they are sign(x) [|x| > t]. Then angles are predicted.
    - `predicted_cosine(d, moments)`: predicts the angle for other levels.
    - `packed_form(inputs)`: how it is packed, or why it cannot be.
    - `fit(weight, channels)`: sizes what it learns to a layer. `anneal(progress)` and `refresh(weight)`: what changes
      during training.

    Parameters that `prepare`, a rule or the surrogate's state uses get gradients. Parameters that only `round` uses
    get none. A subclass may override all of `forward`; the product sees what it returns.

    Args:
        scale, offset: rules, or None.
        surrogate: the backward rule; `HardTanh(clip=1.0)` if None.

    Raises:
        HypersignError: a scale or offset that cannot be called, or a surrogate of another kind.

    >>> class Halves(Quantizer):
    ...     def round(self, x):
    ...         return (2 * x).round() / 2
    >>> Halves()(torch.tensor([0.3, -0.8]))
    tensor([ 0.5000, -1.0000])
    """

    levels: tuple[float, ...] = ()
    bits: int | None = None
    draws: bool = False
    """Whether levels are random in training. Each step seeds torch's generators, so that runs repeat."""
    relaxes: bool = False
    """Whether the product sees real numbers during a part of training, and levels only from some `anneal` on."""

    def __init__(
        self, *, scale: Rule | None = None, offset: Rule | None = None, surrogate: Surrogate | None = None
    ) -> None:
        super().__init__()
        for name, rule in (("scale", scale), ("offset", offset)):
            if rule is not None and (not callable(rule) or isinstance(rule, type)):
                raise HypersignError(f"{name} must be a rule such as MeanScale(), or None; got {rule!r}")
        surrogate = HardTanh() if surrogate is None else surrogate
        if not isinstance(surrogate, Surrogate):
            raise HypersignError(f"surrogate must be a Surrogate such as HardTanh(); got {surrogate!r}")
        self.scale = scale
        self.offset = offset
        self.surrogate = surrogate

    def fit(self, weight: Tensor, channels: int | None = None) -> None:
        """Gives learned parameters the size of a layer, and sets their starting values.

        Layers call it when they get their quantizers; models call it again after their weights are drawn. By default
        it calls `fit` of a scale and an offset that have one.

        Args:
            weight: the layer's latent weight, `(filters, ...)`.
            channels: the number of input channels or features, for a quantizer of inputs; None for one of weights.
        """
        for rule in (self.scale, self.offset):
            if isinstance(rule, Fitted):
                rule.fit(weight, channels)

    def anneal(self, progress: float) -> None:
        """Training calls this with the share of training that is done, from 0 to 1. By default it does nothing.

        A new quantizer has the form of the end of training, so that a loaded network computes with its last form.
        """

    def refresh(self, weight: Tensor) -> None:
        """Training calls this at the start of each epoch, with the latent weight. By default it does nothing."""

    def prepare(self, x: Tensor) -> Tensor:
        """The value to round, of the same shape, differentiable in `x`. By default `x` itself."""
        return x

    @property
    def transforms(self) -> bool:
        """Whether the quantizer transforms before rounding: whether `prepare` is not the default."""
        return type(self).prepare is not Quantizer.prepare

    def round(self, x: Tensor) -> Tensor:
        """The level of each element of `x`: same shape and dtype, no gradient."""
        raise NotImplementedError(f"{type(self).__name__} must implement round(x)")

    def forward(self, x: Tensor) -> Tensor:
        """The levels of `x`, differentiable through the surrogate."""
        if isinstance(x, torch.fx.Proxy):
            return traced(self, x)
        if not torch.is_grad_enabled():
            return self.round(self.prepare(x))  # an autograd function costs more than small tensors
        return _Quantize.apply(self.prepare(x), self.surrogate.state(), self)

    def unrounded(self, x: Tensor) -> tuple[Tensor, float | None] | None:
        """The numbers whose signs are the levels, and the surrogate's clip; None where there are no such numbers.

        Products on bits read the signs of numbers as fast as those of levels, so they need no levels. The clip is c
        if the product must set the gradient to 0 where |numbers| is not below c. If it is None, the numbers are
        differentiable through the surrogate.
        """
        return None

    def effective(self, weight: Tensor) -> Tensor:
        """What geometry compares with the latent filters: their levels, or with an offset `scale * levels + offset`.

        A scale alone does not change the direction of a filter, so it is left out if there is no offset.
        """
        levels = self(weight)
        if self.offset is None:
            return levels
        shape = (-1, *[1] * (levels.dim() - 1))
        scaled = levels if self.scale is None else self.scale(weight, levels).view(shape) * levels
        return scaled + self.offset(weight, levels).view(shape)

    def thresholds(self, x: Tensor) -> Tensor | None:
        """The t in `round(x) = sign(x) [|x| > t]`, or None if levels do not have that form.

        For weights `(filters, ...)` there is one per filter, shape `(filters,)`. For inputs there is one for all,
        shape `(1,)`, or one per channel, and they do not depend on `x`.
        """
        return None

    @property
    def bits_per_level(self) -> int | None:
        """Bits per level: `bits`, or as many as `levels` need (3 for 8 levels); None if neither is stated."""
        if self.bits is not None or not self.levels:
            return self.bits
        return max(1, math.ceil(math.log2(len(self.levels))))

    @property
    def floats_per_filter(self) -> int:
        """float32 numbers stored beside the levels of a filter: scale and offset; learned ones are parameters."""
        return sum(rule is not None and not isinstance(rule, nn.Module) for rule in (self.scale, self.offset))

    @property
    def predicted_by_thresholds(self) -> bool:
        """Whether angles are predicted from `thresholds`: not if the quantizer has its own `predicted_cosine`."""
        kind = type(self)
        return kind.thresholds is not Quantizer.thresholds and kind.predicted_cosine is Quantizer.predicted_cosine

    def predicted_cosine(self, d: float, moments: theory.Moments) -> float | None:
        """Mean cosine between d independent numbers and their quantized values; None if it is not predicted.

        By default it follows from the thresholds (`theory.mean_cosine`).

        Args:
            d: length of a filter; infinity for inputs.
            moments: moments of the numbers that are rounded, after `prepare`, at the quantizer's threshold.
        """
        return float(theory.mean_cosine(moments, d)) if self.predicted_by_thresholds else None

    def packed_form(self, inputs: bool = False) -> PackedForm:
        """How these weights (or `inputs`) are packed, or why they have no packed form.

        By default, levels -1 and +1 take one bit, and levels -1, 0 and +1 two. A scale per filter, or a fixed or
        learned number for all inputs, goes into the thresholds after the layer. An offset needs the sums of windows
        or filters, so the layer's outputs become real numbers. Inputs are packed by comparing with thresholds, so
        `thresholds` must be stated.
        """
        kind: Literal["binary", "ternary"] | None = _KINDS.get(tuple(self.levels))
        name = f"no packed form is known of the quantizer {type(self).__name__}"
        if not self.levels:
            return PackedForm(None, f"{name}, which states no levels")
        if kind is None:
            return PackedForm(None, f"{name}: its levels are {self.levels}, not (-1, 1) or (-1, 0, 1)")
        if inputs and not all(
            r is None or isinstance(r, ConstantScale | LearnedNumber) for r in (self.scale, self.offset)
        ):
            return PackedForm(
                None, f"{name}: the scale or offset of inputs must be a LearnedNumber or a ConstantScale"
            )
        if inputs and type(self).thresholds is Quantizer.thresholds:
            return PackedForm(None, f"{name} for inputs: it states no thresholds")
        return PackedForm(kind)

    def input_refusal(self) -> str:
        """Why it cannot quantize inputs, as a whole sentence; empty if it can."""
        for name, rule in (("scale", self.scale), ("offset", self.offset)):
            if rule is not None and _is_per_filter(rule):
                return f"must have no {name} per filter: inputs have no filters"
        return ""

    def describe(self) -> str:
        """The quantizer on one line, without its surrogate."""
        return f"{type(self).__name__}({self.extra_repr()})"

    def extra_repr(self) -> str:
        rules = (("scale", self.scale), ("offset", self.offset))
        # modules are shown as children
        return ", ".join(f"{k}={v!r}" for k, v in rules if v is not None and not isinstance(v, nn.Module))


def _is_per_filter(rule: Rule) -> bool:
    """Whether a rule gives one number per filter: asked of five filters of three zeros."""
    zeros = torch.zeros(5, 3)
    with torch.no_grad():
        return isinstance(rule, Fitted) or rule(zeros, zeros).shape == (5,)


_KINDS: dict[tuple[float, ...], Any] = {(-1.0, 1.0): "binary", (-1.0, 0.0, 1.0): "ternary"}
