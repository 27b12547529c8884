"""Layers made of weights that a forward computes itself: a parametrization, or a function of its own.

Filters whose numbers have one magnitude each, zeros aside, are levels times a scale per filter. They are packed as
such, whatever computed them. All others stay real.
"""

from typing import Any

import torch
from torch import Tensor, nn

from hypersign.layers import QuantConv1d, QuantConv2d, QuantLayer, QuantLinear
from hypersign.packing.steps import ZeroPad
from hypersign.quantizers import Quantizer
from hypersign.quantizers.base import PackedForm

__all__ = ["Given", "convolution", "linear", "transposed", "transposed_layer"]


class Given(Quantizer):
    """The signs of weights that are levels times a scale per filter already, and that scale."""

    def __init__(self, scale: Tensor, ternary: bool) -> None:
        super().__init__(scale=lambda weight, levels: scale)
        self.levels = (-1.0, 0.0, 1.0) if ternary else (-1.0, 1.0)

    def round(self, x: Tensor) -> Tensor:
        """The signs; 0 stays 0."""
        return x.sign()

    def packed_form(self, inputs: bool = False) -> PackedForm:
        """Binary or ternary."""
        return PackedForm("ternary" if len(self.levels) == 3 else "binary")


def _found(weight: Tensor) -> Given | None:
    """The quantizer of weights that are levels times a scale per filter; None where they are not."""
    rows = weight.detach().reshape(len(weight), -1).abs()
    scale = rows.amax(1)
    if not bool(((rows == 0) | (rows == scale[:, None])).all()) or not bool(scale.isfinite().all()):
        return None
    ternary = bool((rows == 0).any())
    # a filter of zeros has levels of 0 and any scale
    return Given(torch.where(scale == 0, torch.ones_like(scale), scale), ternary)


def _with(layer: Any, weight: Tensor, bias: Tensor | None) -> Any:
    layer.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    layer.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)
    return layer.eval()


def linear(weight: Tensor, bias: Tensor | None = None) -> nn.Module:
    """A fully connected layer with this weight (outputs, features)."""
    quantizer = _found(weight)
    size = (weight.shape[1], weight.shape[0])
    layer: Any = nn.Linear(*size, device="meta") if quantizer is None else QuantLinear(*size)
    if quantizer is not None:
        layer.weight_quantizer = quantizer
    return _with(layer, weight, bias)


def convolution(
    weight: Tensor, bias: Tensor | None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> nn.Module:
    """A convolution with this weight (filters, channels / groups, kernel)."""
    quantizer = _found(weight)
    one = weight.dim() == 3
    channels, kernel = weight.shape[1] * groups, tuple(weight.shape[2:])
    options = (channels, len(weight), kernel, stride, padding, dilation, groups, bias is not None)
    kind: Any = (nn.Conv1d, nn.Conv2d) if quantizer is None else (QuantConv1d, QuantConv2d)
    layer = kind[not one](*options)
    if quantizer is not None:
        layer.weight_quantizer = quantizer
    return _with(layer, weight, bias)


def transposed(
    weight: Tensor,
    bias: Tensor | None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> tuple[nn.Module, nn.Module]:
    """A transposed convolution with this weight (channels, filters / groups, kernel), as zeros and a convolution.

    Zeros go between the pixels and around them, and the convolution has the weight turned round.

    Raises:
        ValueError: it crops its output, because its padding is larger than its kernel.
    """
    dims = weight.dim() - 2
    kernel = tuple(weight.shape[2:])
    stride, padding, output_padding, dilation = (
        tuple(value) if isinstance(value, tuple | list) else (value,) * dims
        for value in (stride, padding, output_padding, dilation)
    )
    before = tuple(d * (k - 1) - p for k, p, d in zip(kernel, padding, dilation, strict=True))
    after = tuple(n + extra for n, extra in zip(before, output_padding, strict=True))
    if min(before) < 0:
        raise ValueError(f"its padding {padding} is larger than its kernel {kernel}")
    parts = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
    turned = parts.transpose(1, 2).flatten(0, 1).flip(tuple(range(2, dims + 2)))
    ones, zeros = (1,) * (2 - dims), (0,) * (2 - dims)
    spread = ZeroPad((*ones, *stride), (*zeros, *before), (*zeros, *after))
    return spread, convolution(turned, bias, 1, 0, dilation, groups)


def transposed_layer(module: Any) -> nn.Sequential:
    """A transposed convolution layer as its quantizer, zeros and a convolution.

    Raises:
        ValueError: it crops its output, or its quantizers have what no packed transposed convolution has.
    """
    weight: Tensor = module.weight.detach()
    quantizers: list[Any] = []
    if isinstance(module, QuantLayer):
        for rule in (module.input_quantizer, module.weight_quantizer):
            if rule.offset is not None or getattr(rule, "planes", 1) > 1:
                raise ValueError("its quantizers have offsets or planes")
        if module.input_quantizer.scale is not None:
            raise ValueError("its input quantizer has a scale")
        if module.quantizes_inputs:
            quantizers.append(module.input_quantizer)
        weight = module.scaled_weight().detach()
    parts = transposed(
        weight, module.bias, module.stride, module.padding, module.output_padding, module.groups, module.dilation
    )
    return nn.Sequential(*quantizers, *parts)
