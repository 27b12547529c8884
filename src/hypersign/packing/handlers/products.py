"""Handlers of convolutions and fully connected layers, with quantizers and without.

A fully connected layer is a convolution whose kernel is the whole image.
"""

import functools
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hypersign import bits
from hypersign._checks import HypersignError
from hypersign.bits.windows import output_size
from hypersign.layers import QuantLayer
from hypersign.packed.transforms import hadamard_norm, room, shifted_norm
from hypersign.packed.values import Kind
from hypersign.packing.folding import Flow, Folding, Monotone, refusal
from hypersign.packing.handlers.pixels import integer_pixels
from hypersign.packing.handlers.windows import pair
from hypersign.quantizers import Identity, Quantizer

__all__ = ["convolution", "linear"]


def convolution(folding: Folding, name: str, module: Any, x: Flow) -> Flow:
    """A convolution; its channels must fit, and its padding must be symmetric zeros."""
    if x.flat and (x.height, x.width) != (1, 1):
        raise refusal(name, module, "a convolution cannot follow nn.Flatten()")
    if module.in_channels != x.channels:
        raise refusal(name, module, f"it takes {module.in_channels} channels; its input has {x.channels}")
    if module.padding_mode != "zeros":
        raise refusal(name, module, f"padding_mode={module.padding_mode!r} is not supported")
    padding = [int(n) for n in module._reversed_padding_repeated_twice]  # left, right, top, bottom
    if padding[0] != padding[1] or padding[2] != padding[3]:
        raise refusal(name, module, "padding='same' of an even kernel is not symmetric, and not supported")
    window = {
        "kernel": pair(module.kernel_size),
        "stride": pair(module.stride),
        "padding": [padding[2], padding[0]],
        "dilation": pair(module.dilation),
    }
    return _product(folding, name, module, x, window)


def linear(folding: Folding, name: str, module: Any, x: Flow) -> Flow:
    """A fully connected layer; images must be flattened before it."""
    features = x.channels * x.height * x.width
    if not x.flat and (x.height, x.width) != (1, 1):
        raise refusal(name, module, "images must be flattened before a fully connected layer: add nn.Flatten()")
    if module.in_features != features:
        raise refusal(name, module, f"it takes {module.in_features} features; its input has {features}")
    window = {"kernel": [x.height, x.width], "stride": [1, 1], "padding": [0, 0], "dilation": [1, 1]}
    return _product(folding, name, module, x, window)


def _product(folding: Folding, name: str, module: Any, x: Flow, window: dict[str, list[int]]) -> Flow:
    quantizer, weights = _quantizers(name, module)
    if quantizer.packed_form(inputs=True).kind != "float":
        x = folding.levels(f"{name}.input_quantizer", quantizer, x)
    x, y = _node(folding, name, module, x, window)
    form = weights.packed_form().kind
    if form == "float":
        shape = (y.channels, *window["kernel"], x.channels // getattr(module, "groups", 1))
        folding.tensor(name, "weight", np.float32, shape, lambda: _rows(name, module.weight, x))
    else:
        planes = () if form == "binary" else (2,)
        words = (*planes, y.channels, -(-module.weight[0].numel() // 64))
        folding.tensor(name, "weight", np.uint64, words, lambda: _packed(name, module, x))
    if weights.scale is not None:
        scale = functools.cache(lambda: module.weight_scale().detach())
        affine = lambda: (scale(), torch.zeros_like(scale()))  # noqa: E731
        y = y.then(Monotone(f"{name}.scale", lambda v: v * scale(), affine=affine))
    if module.bias is not None:
        bias: Tensor = module.bias.detach()
        y = y.then(Monotone(f"{name}.bias", lambda v: v + bias, affine=lambda: (torch.ones_like(bias), bias)))
    return y


def _quantizers(name: str, module: Any) -> tuple[Quantizer, Quantizer]:
    """The quantizers of inputs and weights."""
    if not isinstance(module, QuantLayer):
        return Identity(), Identity()
    inputs, weights = module.input_quantizer, module.weight_quantizer
    for form in (inputs.packed_form(inputs=True), weights.packed_form()):
        if form.kind is None:
            raise refusal(name, module, form.reason)
    return inputs, weights


def _node(folding: Folding, name: str, module: Any, x: Flow, window: dict[str, list[int]]) -> tuple[Flow, Flow]:
    """Adds the product's node, by what it reads; returns its input and its output."""
    groups, pad_value = getattr(module, "groups", 1), getattr(module, "pad_value", 0)
    real_weights = not (isinstance(module, QuantLayer) and module.quantizes_weights)
    pixels = integer_pixels(folding.pixel_range)
    fan_in = module.weight[0].numel()
    no_ones = not pad_value or window["padding"] == [0, 0]
    kind: Kind = "sums"
    unit, largest = 1.0, 0
    if x.kind == "levels" and not real_weights:
        folding.node("conv2d", name, x.name, **window, groups=groups, pad_value=pad_value)
        largest = fan_in
    elif x.kind == "image" and not x.waiting and not real_weights and pixels and groups == 1 and no_ones:
        multiplier, shift, unit = pixels
        folding.node("image_conv2d", name, x.name, **window, multiplier=multiplier, shift=shift)
        largest = fan_in * max(abs(shift), abs(255 * multiplier + shift))
    elif x.norm and not x.waiting and not real_weights:
        exponent = min(room(x.norm, x.channels), 0)
        folding.node("signed_sum", name, x.name, exponent=exponent)
        unit = x.unit * 2.0**-exponent
        largest = hadamard_norm(shifted_norm(x.norm, x.channels, exponent), x.channels)
    else:
        if not no_ones:
            raise refusal(name, module, "real inputs cannot be padded with ones; use pad_value=0")
        x = folding.real(x)
        folding.node("real_conv2d", name, x.name, **window, groups=groups)
        kind = "real"
    size, stride, padding, dilation = ((pair[0], pair[1]) for pair in window.values())
    height, width = output_size((x.height, x.width), size, stride=stride, padding=padding, dilation=dilation)
    return x, Flow(name, kind, height, width, module.weight.shape[0], unit=unit, largest=largest)


def _rows(name: str, weight: Tensor, x: Flow) -> NDArray[np.float32]:
    """Filters (filters, kernel height, kernel width, channels); a fully connected one reads flattened images."""
    if not torch.isfinite(weight).all():
        raise HypersignError(f"{name}.weight must hold numbers; it holds NaN or infinity: take an earlier state")
    if weight.dim() == 2:
        weight = weight.view(len(weight), x.channels, x.height, x.width)
    return weight.detach().permute(0, 2, 3, 1).contiguous().numpy()


def _packed(name: str, layer: Any, x: Flow) -> NDArray[np.uint64]:
    """The packed levels of a layer's weights."""
    _rows(name, layer.weight, x)  # checks for NaN, which has no level
    with torch.no_grad():
        levels = _rows(name, layer.quantized_weight(), x).reshape(layer.filters, -1)
    if layer.weight_quantizer.packed_form().kind == "binary":
        return bits.pack(levels)
    return bits.pack_ternary(levels, low=0, high=1)
