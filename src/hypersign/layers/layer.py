"""What every quantized layer shares: its two quantizers, its scale, and the bare product it computes."""

from typing import Any

import torch
from torch import Tensor, nn

from hypersign._checks import HypersignError
from hypersign.quantizers import Identity, Optimal, Ternary

__all__ = ["QuantLayer", "quant_layers"]


class QuantLayer(nn.Module):
    """A layer that quantizes its inputs and its weights, then computes its product.

        y = s * product(q_a(x), q_w(W)) + bias

    `q_a` is `input_quantizer`, `q_w` is `weight_quantizer`, `W` the latent weight (`layer.weight`, filters
    first) and `s` the scale of each filter (1 without a scale). Mixed into torch's own layers, so that
    anything that takes an `nn.Linear` or `nn.Conv2d` takes these, and their float checkpoints load with no
    key renamed.
    """

    weight: Tensor
    bias: Any
    input_quantizer: nn.Module
    weight_quantizer: nn.Module
    rounding_seed: Tensor | None = None
    """Set by `train_on_bits`: products of levels are taken on bits, gradients rounded with the next seed."""

    def _set_quantizers(self, input_quantizer: nn.Module | None, weight_quantizer: nn.Module | None) -> None:
        for side, quantizer in (("input_quantizer", input_quantizer), ("weight_quantizer", weight_quantizer)):
            if quantizer is not None and not isinstance(quantizer, nn.Module):
                raise HypersignError(f"{side} must be a quantizer object such as Sign(); got {quantizer!r}")
        if getattr(input_quantizer, "scale", None) is not None:
            raise HypersignError(
                f"input_quantizer must have no scale: a scale per filter belongs to weights; got {input_quantizer!r}"
            )
        if isinstance(input_quantizer, Ternary) and isinstance(input_quantizer.threshold, Optimal):
            raise HypersignError(
                "input_quantizer must have a number as threshold: inputs have no filters, so Optimal() has no "
                "meaning there; after a batch norm without scale, Ternary(.612) is the optimum"
            )
        self.input_quantizer = Identity() if input_quantizer is None else input_quantizer
        self.weight_quantizer = Identity() if weight_quantizer is None else weight_quantizer

    @property
    def filters(self) -> int:
        """Number of filters: output features or output channels."""
        return self.weight.shape[0]

    @property
    def fan_in(self) -> int:
        """Length of each filter as a vector: the d of every formula."""
        return self.weight[0].numel()

    def quantized_weight(self) -> Tensor:
        """The levels of the latent weight, as the product sees them: same shape; no scale."""
        return self.weight_quantizer(self.weight)

    def weight_scale(self) -> Tensor | None:
        """The scale of each filter, shape `(filters,)`, or None where the weight quantizer has none."""
        rule = getattr(self.weight_quantizer, "scale", None)
        return None if rule is None else rule(self.weight, self.quantized_weight())

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """The bare product of inputs and weights, with the layer's padding, stride, groups and dilation."""
        raise NotImplementedError

    def product_on_bits(self, x: Tensor, weight: Tensor) -> Tensor:
        """`product` of levels, on bits, with gradients of 6 bits; for layers that `train_on_bits` has set."""
        raise NotImplementedError

    def forward(self, input: Tensor) -> Tensor:
        """`scale * product(input_quantizer(input), quantized_weight()) + bias`; named as in torch."""
        levels = self.quantized_weight()
        product = self.product if self.rounding_seed is None else self.product_on_bits
        y = product(self.input_quantizer(input), levels)
        rule = getattr(self.weight_quantizer, "scale", None)
        if rule is not None:
            y = y * self._per_filter(rule(self.weight, levels), y)
        if self.bias is not None:
            y = y + self._per_filter(self.bias, y)
        return y

    def _next_seed(self) -> Tensor:
        """The seed of this call's rounding: another one in each that is differentiated."""
        assert self.rounding_seed is not None
        return self.rounding_seed.add_(1).clone() if torch.is_grad_enabled() else self.rounding_seed

    def _ternary(self) -> tuple[bool, bool]:
        """Whether the levels of inputs and of weights have a zero."""
        inputs, weights = (getattr(q, "levels", ()) for q in (self.input_quantizer, self.weight_quantizer))
        return 0.0 in inputs, 0.0 in weights

    def _per_filter(self, values: Tensor, y: Tensor) -> Tensor:
        return values.view(-1, *[1] * (self.weight.dim() - 2)).to(y.dtype)


def quant_layers(model: nn.Module) -> dict[str, Any]:
    """The quantized layers of `model` by name, in module order: those whose weights or inputs are quantized.

    >>> from hypersign.layers import QuantLinear
    >>> from hypersign.quantizers import Sign
    >>> model = nn.Sequential(QuantLinear(4, 3), QuantLinear(3, 2, weight_quantizer=Sign()))
    >>> list(quant_layers(model))
    ['1']
    """
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, QuantLayer)
        and not (isinstance(module.weight_quantizer, Identity) and isinstance(module.input_quantizer, Identity))
    }
