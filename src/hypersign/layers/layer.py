"""What every quantized layer shares: its two quantizers, its scale, and the bare product it computes."""

from typing import Any

import torch
from torch import Tensor, nn

from hypersign._checks import HypersignError
from hypersign.quantizers import Identity, Optimal, Ternary

__all__ = ["QuantLayer", "quant_layers", "train_on_bits"]


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
    """Set by `train_on_bits`: the product of levels is taken on bits, and its gradients rounded with this seed."""

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

    def _reason_for_float(self) -> str | None:
        """Why the product cannot be taken on bits; None if it can."""
        if type(self).product_on_bits is QuantLayer.product_on_bits:
            return f"{type(self).__name__} has no kernel"
        for side, quantizer in (("inputs", self.input_quantizer), ("weights", self.weight_quantizer)):
            levels = getattr(quantizer, "levels", ())
            if not {*levels} <= {-1.0, 0.0, 1.0} or len(levels) < 2:
                return f"its {side} are not levels: {quantizer!r}"
        return None

    def _ternary(self) -> tuple[bool, bool]:
        """Whether the levels of inputs and of weights have a zero."""
        inputs, weights = (getattr(q, "levels", ()) for q in (self.input_quantizer, self.weight_quantizer))
        return 0.0 in inputs, 0.0 in weights

    def _per_filter(self, values: Tensor, y: Tensor) -> Tensor:
        return values.view(-1, *[1] * (self.weight.dim() - 2)).to(y.dtype)


def train_on_bits(model: nn.Module) -> dict[str, str]:
    """Lets the quantized layers of a network compute on bits from now on, in training too; on the CPU.

    Forward passes stay exactly what they are, since sums of levels are integers. In backward passes the gradient of
    a layer's product is rounded at random to 6 bits, without bias, and multiplied with levels by table look-up
    (`hypersign.ops.conv2d_of_levels`): several times faster than float32, with some noise in the gradients. The noise
    is a function of `layer.rounding_seed`, an int64 tensor, which the training loop sets in every step.

    Args:
        model: changed in place.

    Returns the quantized layers that go on in float32, each with the reason.

    Raises:
        HypersignError: no layer can compute on bits.

    >>> from hypersign.layers import QuantLinear
    >>> from hypersign.quantizers import Sign
    >>> first = QuantLinear(4, 3, weight_quantizer=Sign())
    >>> train_on_bits(nn.Sequential(first, QuantLinear(3, 2, input_quantizer=Sign(), weight_quantizer=Sign())))
    {'0': 'its inputs are not levels: Identity()'}
    """
    kept = {}
    layers = quant_layers(model)
    for name, layer in layers.items():
        reason = layer._reason_for_float()
        if reason is None:
            layer.rounding_seed = torch.zeros((), dtype=torch.int64)
        else:
            kept[name] = reason
    if len(kept) == len(layers):
        reasons = "; ".join(f"{name}: {reason}" for name, reason in kept.items()) or "it has no quantized layers"
        raise HypersignError(
            f"a network to train on bits must have a layer whose weights and inputs are quantized; this one has none "
            f"({reasons})"
        )
    return kept


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
