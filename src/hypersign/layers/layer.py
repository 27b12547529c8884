"""The base class of every quantized layer: its two quantizers, its scales and offsets, and its product."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hypersign._checks import HypersignError
from hypersign.quantizers import Identity, Quantizer, Rule
from hypersign.quantizers.base import traced

Clips = tuple[float | None, float | None]

__all__ = ["OwnedProduct", "QuantLayer", "fit_quantizers", "quant_layers", "quantizable_layers"]


class QuantLayer(nn.Module):
    """A layer that quantizes its inputs and its weights, then computes its product.

        y = product(s_a q_a(x) + o_a, s q_w(W) + o) + bias

    `q_a` gives the levels of `input_quantizer` and `q_w` those of `weight_quantizer`. `W` is the latent weight
    (`layer.weight`, filters first). `s` and `o` are the scale and offset of each filter, `s_a` and `o_a` those of the
    inputs (1 and 0 if a quantizer has no such rule). All four are applied after the product of levels, whose sums are
    integers:

        y = s_a f(q_a(x)) + o_a f(1) + bias,   f(a) = s product(a, q_w(W)) + o product(a, 1)

    Padding comes after the input quantizer, so with zero padding an input offset is not applied in the border.
    Subclasses also derive from torch's own layers, so they work wherever an `nn.Linear` or `nn.Conv2d` works, and
    float checkpoints load without renaming keys.
    """

    weight: Tensor
    bias: Any
    input_quantizer: Quantizer
    weight_quantizer: Quantizer
    rounding_seed: Tensor | None = None
    """Set by `train_on_bits`. The layer then computes on bits, and rounds gradients with the next seed."""

    def set_quantizers(self, input_quantizer: Quantizer | None, weight_quantizer: Quantizer | None) -> None:
        """Gives the layer its quantizers; constructors call it last. None leaves that side real.

        Raises:
            HypersignError: an object that is no quantizer, or one that cannot quantize inputs.
        """
        for side, quantizer in (("input_quantizer", input_quantizer), ("weight_quantizer", weight_quantizer)):
            if quantizer is not None and not isinstance(quantizer, Quantizer):
                raise HypersignError(f"{side} must be a quantizer object such as Sign(); got {quantizer!r}")
        self.input_quantizer = Identity() if input_quantizer is None else input_quantizer
        self.weight_quantizer = Identity() if weight_quantizer is None else weight_quantizer
        if refusal := self.input_quantizer.input_refusal():
            raise HypersignError(f"input_quantizer {refusal}; got {self.input_quantizer.describe()}")
        self.fit_quantizers()

    def fit_quantizers(self) -> None:
        """Sizes what the quantizers learn to this layer, and starts it from the present weights."""
        filters = self.filters_first(self.weight)
        self.weight_quantizer.fit(filters)
        self.input_quantizer.fit(filters, self.channels)

    def filters_first(self, weight: Tensor) -> Tensor:
        """A weight as `(filters, ...)`, which is how quantizers see it; most layers store it so."""
        return weight

    def as_stored(self, filters: Tensor) -> Tensor:
        """The inverse of `filters_first`."""
        return filters

    @property
    def channels(self) -> int:
        """The number of input channels or features."""
        return self.filters_first(self.weight).shape[1] * getattr(self, "groups", 1)

    @property
    def filters(self) -> int:
        """The number of filters: output features or output channels."""
        return self.filters_first(self.weight).shape[0]

    @property
    def fan_in(self) -> int:
        """The length of each filter as a vector: d in every formula."""
        return self.filters_first(self.weight)[0].numel()

    @property
    def quantizes_weights(self) -> bool:
        """Whether the weights are quantized: the weight quantizer is not an `Identity`."""
        return not isinstance(self.weight_quantizer, Identity)

    @property
    def quantizes_inputs(self) -> bool:
        """Whether the inputs are quantized: the input quantizer is not an `Identity`."""
        return not isinstance(self.input_quantizer, Identity)

    @property
    def rescales(self) -> bool:
        """Whether a scale or an offset acts on the product of levels."""
        sides = self.input_quantizer, self.weight_quantizer
        return any(side.scale is not None or side.offset is not None for side in sides)

    def quantized_weight(self) -> Tensor:
        """The levels of the latent weight that the product uses: the same shape, without scale and offset."""
        return self.as_stored(_quantized(self.weight_quantizer, self.filters_first(self.weight)))

    def weight_scale(self) -> Tensor | None:
        """The scale of each filter, of shape `(filters,)`, or None if the weight quantizer has none."""
        rule = self.weight_quantizer.scale
        if rule is None:
            return None
        return rule(self.filters_first(self.weight), self.filters_first(self.quantized_weight()))

    def scaled_weight(self) -> Tensor:
        """The weight that the layer computes with, `s q_w(W) + o`, in the shape of the latent weight."""
        latent, rule = self.filters_first(self.weight), self.weight_quantizer
        levels = y = _quantized(rule, latent)
        shape = (-1, *[1] * (latent.dim() - 1))
        if rule.scale is not None:
            y = y * _numbers(rule.scale, latent, levels).view(shape)
        if rule.offset is not None:
            y = y + _numbers(rule.offset, latent, levels).view(shape)
        return self.as_stored(y)

    def effective_weight(self) -> Tensor:
        """The weight that geometry compares with the latent weight: its levels, or `s q_w(W) + o` with an offset.

        Without an offset the scale is left out, because it does not change the direction of a filter.
        """
        return self.as_stored(self.weight_quantizer.effective(self.filters_first(self.weight)))

    def effective_input(self, x: Tensor) -> Tensor:
        """The quantized inputs, `s_a q_a(x) + o_a`; just the levels if there is neither scale nor offset."""
        rule = self.input_quantizer
        levels = y = _quantized(rule, x)
        if rule.scale is not None:
            y = _numbers(rule.scale, x, levels) * y
        return y if rule.offset is None else y + _numbers(rule.offset, x, levels)

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """The product of inputs and weights alone, with the layer's padding, stride, groups and dilation."""
        raise NotImplementedError

    def product_on_bits(self, x: Tensor, weight: Tensor, clips: Clips) -> Tensor:
        """`product` for levels, computed on bits with 6-bit gradients; used after `train_on_bits`.

        Binary levels may be any numbers with their signs. `clips` of inputs and weights are those of
        `Quantizer.unrounded`.
        """
        raise NotImplementedError

    def forward(self, input: Tensor) -> Tensor:
        """Computes the formula of the class; the argument has the same name as in torch."""
        rule = self.input_quantizer
        x, levels, clips = self._operands(input)
        y = self._scaled_product(x, levels, clips)
        if rule.scale is not None:
            y = y * _numbers(rule.scale, input, x).to(y.dtype)
        if rule.offset is not None:
            # One example of a batch is enough, but torch.fx does not know whether there is a batch.
            one = torch.ones_like(x if isinstance(x, torch.fx.Proxy) or x.dim() < self.weight.dim() else x[:1])
            y = y + _numbers(rule.offset, input, x).to(y.dtype) * self._scaled_product(one, levels, (None, clips[1]))
        if self.bias is not None:
            y = y + self._per_filter(self.bias, y)
        return y

    def _operands(self, input: Tensor) -> tuple[Tensor, Tensor, Clips]:
        """The levels of inputs and weights, or on bits numbers of which the product takes the signs; their clips."""
        inputs, weights = self.input_quantizer, self.weight_quantizer
        # Scales and offsets read levels.
        reads = inputs.scale is not None or inputs.offset is not None or weights.offset is not None
        x, x_clip = self._operand(inputs, input, reads)
        w, w_clip = self._operand(weights, self.filters_first(self.weight), self.rescales)
        return x, self.as_stored(w), (x_clip, w_clip)

    def _operand(self, quantizer: Quantizer, numbers: Tensor, levels: bool) -> tuple[Tensor, float | None]:
        found = None
        if self.rounding_seed is not None and not levels and not _is_watched(quantizer):
            found = quantizer.unrounded(numbers)
        return (_quantized(quantizer, numbers), None) if found is None else found

    def _scaled_product(self, x: Tensor, levels: Tensor, clips: Clips) -> Tensor:
        """f in the formula of the class."""
        y = self.product(x, levels) if self.rounding_seed is None else self.product_on_bits(x, levels, clips)
        rule = self.weight_quantizer
        if rule.scale is None and rule.offset is None:
            return y
        latent, levels = self.filters_first(self.weight), self.filters_first(levels)
        if rule.scale is not None:
            y = y * self._per_filter(_numbers(rule.scale, latent, levels), y)
        if rule.offset is not None:
            groups = getattr(self, "groups", 1)
            axis = 1 - self.weight.dim()  # the axis of the filters
            ones = self.as_stored(torch.ones_like(levels[:groups]))  # one filter of ones per group
            sums = self.product(x, ones)
            sums = sums.repeat_interleave(self.filters // groups, axis) if groups > 1 else sums
            y = y + self._per_filter(_numbers(rule.offset, latent, levels), y) * sums
        return y

    def _next_seed(self) -> Tensor:
        """The seed for rounding in this call; every differentiated call gets a new one."""
        assert self.rounding_seed is not None
        return self.rounding_seed.add_(1).clone() if torch.is_grad_enabled() else self.rounding_seed

    def _ternary(self) -> tuple[bool, bool]:
        """Whether the levels of inputs, and those of weights, include zero."""
        return 0.0 in self.input_quantizer.levels, 0.0 in self.weight_quantizer.levels

    def _per_filter(self, values: Tensor, y: Tensor) -> Tensor:
        # By the kernel's dimensions: under torch.fx those of `weight` are not known.
        return values.view(-1, *[1] * len(getattr(self, "kernel_size", ()))).to(y.dtype)


def _is_watched(quantizer: Quantizer) -> bool:
    """Whether somebody sees what a quantizer gives: a hook, or a compiler that wants plain operators."""
    return bool(quantizer._forward_hooks or quantizer._forward_pre_hooks) or torch.compiler.is_compiling()


def _quantized(quantizer: Quantizer, x: Tensor) -> Tensor:
    """What a quantizer gives; one node under torch.fx."""
    return traced(quantizer, x) if isinstance(x, torch.fx.Proxy) else quantizer(x)


def _numbers(rule: Rule, x: Tensor, levels: Tensor) -> Tensor:
    """What a scale or an offset gives; one node under torch.fx."""
    if not isinstance(levels, torch.fx.Proxy):
        return rule(x, levels)
    if isinstance(rule, nn.Module):
        return traced(rule, x, levels)

    def numbers(x: Tensor, levels: Tensor) -> Tensor:
        return rule(x, levels)

    return levels.tracer.create_proxy("call_function", numbers, (x, levels), {})


class OwnedProduct(QuantLayer):
    """One matrix of a larger module, with quantizers of its own.

    It owns no weight: `weight` is a parameter of the module, so state-dict keys are torch's.

    Args:
        owner: the module.
        parameter: the name of its weight there, such as "weight_hh_l0".
        input_quantizer, weight_quantizer: the same as in `QuantLinear`.
    """

    bias = None

    def __init__(
        self,
        owner: nn.Module,
        parameter: str,
        input_quantizer: Quantizer | None,
        weight_quantizer: Quantizer | None,
    ) -> None:
        super().__init__()
        self.__dict__["_owner"] = owner  # no submodule: the owner has this one
        self.parameter = parameter
        self.set_quantizers(input_quantizer, weight_quantizer)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The latent weight, filters first."""
        return getattr(self._owner, self.parameter)

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """Computes `x @ weight.T`."""
        return F.linear(x, weight)

    def extra_repr(self) -> str:
        return self.parameter


def fit_quantizers(model: nn.Module) -> None:
    """Starts everything that the quantizers of a network learn from its present weights."""
    for layer in quant_layers(model).values():
        layer.fit_quantizers()


def quant_layers(model: nn.Module) -> dict[str, Any]:
    """The layers of `model` whose weights or inputs are quantized, by name and in module order.

    >>> from hypersign.layers import QuantLinear
    >>> from hypersign.quantizers import Sign
    >>> model = nn.Sequential(QuantLinear(4, 3), QuantLinear(3, 2, weight_quantizer=Sign()))
    >>> list(quant_layers(model))
    ['1']
    """
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, QuantLayer) and (module.quantizes_weights or module.quantizes_inputs)
    }


def quantizable_layers(model: nn.Module) -> dict[str, Any]:
    """The layers of `model` whose weights are quantized or could be, by name, in module order.

    These are `nn.Linear`, `nn.Conv1d`, `nn.Conv2d` and their subclasses, including quantized layers.

    >>> list(quantizable_layers(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Linear(4, 3))))
    ['0', '2']
    """
    kinds = nn.Linear, nn.Conv1d, nn.Conv2d
    return {name: module for name, module in model.named_modules() if isinstance(module, kinds)}
