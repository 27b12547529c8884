"""Handlers of convolutions and fully connected layers, with quantizers and without.

A fully connected layer is a convolution whose kernel is the whole image.
"""

import dataclasses
import functools
from collections.abc import Callable
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
from hypersign.packing.given import transposed_layer
from hypersign.packing.handlers.pixels import integer_pixels
from hypersign.packing.handlers.windows import pair
from hypersign.quantizers import Identity, ImageSign, Quantizer, Sign

__all__ = ["convolution", "linear", "transposed_convolution"]

_POINT = {"kernel": [1, 1], "stride": [1, 1], "padding": [0, 0], "dilation": [1, 1]}
"""The window of one pixel."""


def convolution(folding: Folding, name: str, module: Any, x: Flow) -> Flow:
    """A convolution; its channels must fit, and its padding must be symmetric zeros."""
    x = folding.as_image(name, x)
    if x.flat and (x.height, x.width) != (1, 1):
        raise refusal(name, module, "a convolution cannot follow nn.Flatten()")
    if module.in_channels != x.channels:
        raise refusal(name, module, f"it takes {module.in_channels} channels; its input has {x.channels}")
    if module.padding_mode != "zeros":
        raise refusal(name, module, f"padding_mode={module.padding_mode!r} is not supported")
    padding = [int(n) for n in module._reversed_padding_repeated_twice]  # left, right, top, bottom
    padding += [0] * (4 - len(padding))
    if padding[0] != padding[1] or padding[2] != padding[3]:
        raise refusal(name, module, "padding='same' of an even kernel is not symmetric, and not supported")
    window = {
        "kernel": pair(module.kernel_size),
        "stride": pair(module.stride),
        "padding": [padding[2], padding[0]],
        "dilation": pair(module.dilation),
    }
    y = _product(folding, name, module, x, window)
    return dataclasses.replace(y, rank=max(x.rank, 2))


def transposed_convolution(folding: Folding, name: str, module: Any, x: Flow) -> Flow:
    """Its quantizer, zeros between and around the pixels, and a convolution of them."""
    try:
        layers = transposed_layer(module)
    except ValueError as error:
        raise refusal(name, module, str(error)) from error
    return folding.module(name, layers, x)


def linear(folding: Folding, name: str, module: Any, x: Flow) -> Flow:
    """A fully connected layer of vectors, of flattened images, or of the last dimension of any other value."""
    if x.rows is None and not x.flat and not x.is_vector and module.in_features == x.shape[-1]:
        x = folding.in_rows(f"{name}.rows", x)
    if x.rows is not None and len(x.rows) > 1:
        if module.in_features != x.channels:
            raise refusal(name, module, f"it takes {module.in_features} features; its input has {x.channels}")
        y = _product(folding, name, module, x, _POINT)
        return dataclasses.replace(y, rows=(*x.rows[:-1], y.channels))
    features = x.channels * x.height * x.width
    if not x.flat and (x.height, x.width) != (1, 1):
        raise refusal(name, module, "images must be flattened before a fully connected layer: add nn.Flatten()")
    if module.in_features != features:
        raise refusal(name, module, f"it takes {module.in_features} features; its input has {features}")
    window = {**_POINT, "kernel": [x.height, x.width]}
    return dataclasses.replace(_product(folding, name, module, x, window), rank=1)


def _product(folding: Folding, name: str, module: Any, x: Flow, window: dict[str, list[int]]) -> Flow:
    quantizer, weights = _quantizers(name, module)
    inputs = quantizer.packed_form(inputs=True)
    if inputs.kind == "rectified":
        x = x.then(Monotone(f"{name}.input_quantizer", quantizer, clip=(0.0, None)))
    elif isinstance(quantizer, ImageSign):  # the spread of an image changes no sign
        x = folding.real(x)
        x = x.after(folding.node("centre", f"{name}.centre", x.name))
        x = folding.levels(f"{name}.input_quantizer", Sign(), x)
    elif inputs.levels:
        x = folding.levels(f"{name}.input_quantizer", quantizer, x)
    form = weights.packed_form().kind
    if form == "planes":
        y = _planes(folding, name, module, x, window)
    else:
        x, y = _node(folding, name, module, x, window)
        if form == "float":
            shape = (y.channels, *window["kernel"], x.channels // getattr(module, "groups", 1))
            folding.tensor(name, "weight", np.float32, shape, lambda: _rows(name, module.weight, x))
        else:
            _words(folding, name, module, x, form == "ternary", lambda: module.quantized_weight())
    if weights.scale is not None:
        y = y.then(_scaled(f"{name}.scale", functools.cache(lambda: module.weight_scale().detach())))
    if weights.offset is not None or quantizer.offset is not None:
        y = _with_offsets(folding, name, module, x, y, window)
    elif quantizer.scale is not None:
        y = y.then(_scaled(f"{name}.input_scale", lambda: _input_number(quantizer.scale).expand(module.filters)))
    if module.bias is not None:
        bias: Tensor = module.bias.detach()
        y = y.then(Monotone(f"{name}.bias", lambda v: v + bias, affine=lambda: (torch.ones_like(bias), bias)))
    return y


def _scaled(name: str, scale: Callable[[], Tensor]) -> Monotone:
    """A scale per filter, which waits to be folded."""
    return Monotone(name, lambda v: v * scale(), affine=lambda: (scale(), torch.zeros_like(scale())))


def _input_number(rule: Any, default: float = 1.0) -> Tensor:
    """The scale or the offset of inputs: one number, which depends on no input."""
    if rule is None:
        return torch.tensor(default)
    empty = torch.zeros(1)
    return rule(empty, empty).detach().reshape(())


def _words(folding: Folding, name: str, module: Any, x: Flow, ternary: bool, levels: Callable[[], Tensor]) -> None:
    """Adds the packed weight of a node."""
    words = (*((2,) if ternary else ()), len(module.weight), -(-module.weight[0].numel() // 64))
    folding.tensor(name, "weight", np.uint64, words, lambda: _packed(name, module, x, levels, ternary))


def _planes(folding: Folding, name: str, module: Any, x: Flow, window: dict[str, list[int]]) -> Flow:
    """One product per plane of the weights, each times its scale per filter; their sum is real.

    The first product has the layer's name.
    """
    found = functools.cache(lambda: module.weight_quantizer.plane_levels(module.weight))
    total: Flow | None = None
    for i in range(module.weight_quantizer.planes):
        node = f"{name}.plane{i + 1}" if i else name
        x, y = _node(folding, node, module, x, window)
        _words(folding, node, module, x, False, functools.partial(lambda i: found()[i][1], i))
        y = folding.real(y.then(_scaled(f"{node}.scale", functools.partial(lambda i: found()[i][0], i))))
        if total is not None:
            y = y.after(folding.node("add", f"{name}.plane_sum{i}", total.name, y.name))
        total = y
    assert total is not None
    return total


def _with_offsets(folding: Folding, name: str, module: Any, x: Flow, y: Flow, window: dict[str, list[int]]) -> Flow:
    """`y`, the product of levels times the scale per filter, with the offsets of weights and inputs.

        s_a y + (s_a o) m + o_a b,    m = the sum of the levels of each window,  b = product(1, s q + o)

    m is a product with one filter of ones. b is one number per filter inside the image and others at zero padding,
    so it is a convolution of ones; these come from a product with a filter of one weight. The sum is real, except
    where it is only a shift per filter.
    """
    if getattr(module, "groups", 1) > 1:
        raise refusal(name, module, "its offset needs the sums of each group's windows; use one group")
    inputs, weights = module.input_quantizer, module.weight_quantizer
    y = y.then(_scaled(f"{name}.input_scale", lambda: _input_number(inputs.scale).expand(module.filters)))
    parts = []
    if weights.offset is not None:
        parts.append(_weight_offset(folding, name, module, x, window))
    if inputs.offset is not None and x.kind != "levels":
        raise refusal(name, module, "an offset of inputs that are not packed has no packed form")
    if inputs.offset is not None and window["padding"] == [0, 0]:  # the same number everywhere
        y = y.then(_shifted(f"{name}.input_offset", functools.partial(_input_shift, module, window)))
    elif inputs.offset is not None:
        parts.append(_input_offset(folding, name, module, x, window))
    for i, part in enumerate(parts, start=1):
        y = folding.real(y)
        y = y.after(folding.node("add", f"{name}.sum{i}", y.name, part.name))
    return y


def _shifted(name: str, shift: Callable[[], Tensor]) -> Monotone:
    """A number per filter that is added, which waits to be folded."""
    return Monotone(name, lambda v: v + shift(), affine=lambda: (torch.ones_like(shift()), shift()))


def _input_shift(module: Any, window: dict[str, list[int]]) -> Tensor:
    """o_a b where windows lie inside the image, one number per filter."""
    sums = _channel_sums(module, window).sum((1, 2))
    return (sums * _input_number(module.input_quantizer.offset)).float()


def _weight_offset(folding: Folding, name: str, module: Any, x: Flow, window: dict[str, list[int]]) -> Flow:
    """(s_a o) m, real."""
    shape = (module.filters, 1, 1, 1)

    def weight() -> Tensor:
        offset = module.weight_quantizer.offset(module.weight, module.quantized_weight())
        return (offset * _input_number(module.input_quantizer.scale)).view(shape)

    return _real_product(
        folding, f"{name}.offset", _of_ones(folding, f"{name}.window", module, x, window), _POINT, shape, weight
    )


def _input_offset(folding: Folding, name: str, module: Any, x: Flow, window: dict[str, list[int]]) -> Flow:
    """o_a b, real."""
    any_number = _of_ones(folding, f"{name}.ones", module, x, _POINT)
    ones = any_number.after(folding.node("affine", f"{name}.one", any_number.name))
    for role, value in (("scale", 0.0), ("shift", 1.0)):
        folding.tensor(ones.name, role, np.float32, (1,), functools.partial(np.full, 1, value, np.float32))
    shape = (module.filters, *window["kernel"], 1)

    def weight() -> Tensor:
        return (_channel_sums(module, window) * _input_number(module.input_quantizer.offset)).view(shape)

    return _real_product(folding, f"{name}.input_offset", ones, window, shape, weight)


def _of_ones(folding: Folding, name: str, module: Any, x: Flow, window: dict[str, list[int]]) -> Flow:
    """The product with one filter of ones, real."""
    size = window["kernel"][0] * window["kernel"][1] * x.channels
    _, y = _node(folding, name, module, x, window, size=size, filters=1)
    folding.tensor(name, "weight", np.uint64, (1, -(-size // 64)), lambda: bits.pack(np.ones((1, size), np.float32)))
    return folding.real(y)


def _real_product(
    folding: Folding,
    name: str,
    x: Flow,
    window: dict[str, list[int]],
    shape: tuple[int, ...],
    make: Callable[[], Tensor],
) -> Flow:
    """A convolution of one real channel."""
    folding.node("real_conv2d", name, x.name, **window, groups=1)
    folding.tensor(name, "weight", np.float32, shape, lambda: make().detach().float().contiguous().numpy())
    size, stride, padding, dilation = ((pair[0], pair[1]) for pair in window.values())
    height, width = output_size((x.height, x.width), size, stride=stride, padding=padding, dilation=dilation)
    return Flow(name, "real", height, width, shape[0])


def _channel_sums(module: Any, window: dict[str, list[int]]) -> Tensor:
    """The quantized weights with scale and offset, summed over channels: (filters, kernel height, kernel width)."""
    weights, levels = module.weight_quantizer, module.quantized_weight().detach()
    values = levels.view(module.filters, -1, *window["kernel"]).double()
    if weights.scale is not None:
        values = values * module.weight_scale().detach().double().view(-1, 1, 1, 1)
    if weights.offset is not None:
        values = values + weights.offset(module.weight, levels).detach().double().view(-1, 1, 1, 1)
    return values.sum(1)


def _quantizers(name: str, module: Any) -> tuple[Quantizer, Quantizer]:
    """The quantizers of inputs and weights."""
    if not isinstance(module, QuantLayer):
        return Identity(), Identity()
    inputs, weights = module.input_quantizer, module.weight_quantizer
    for form in (inputs.packed_form(inputs=True), weights.packed_form()):
        if form.kind is None:
            raise refusal(name, module, form.reason)
    return inputs, weights


def _node(
    folding: Folding,
    name: str,
    module: Any,
    x: Flow,
    window: dict[str, list[int]],
    *,
    size: int | None = None,
    filters: int | None = None,
) -> tuple[Flow, Flow]:
    """Adds the product's node, by what it reads; returns its input and its output.

    `size` and `filters` are those of the node, if they are not the layer's.
    """
    groups, pad_value = getattr(module, "groups", 1), getattr(module, "pad_value", 0)
    real_weights = not (isinstance(module, QuantLayer) and module.quantizes_weights)
    pixels = integer_pixels(folding.pixel_range)
    fan_in = module.weight[0].numel() if size is None else size
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
    kernel, stride, padding, dilation = ((pair[0], pair[1]) for pair in window.values())
    height, width = output_size((x.height, x.width), kernel, stride=stride, padding=padding, dilation=dilation)
    count = module.weight.shape[0] if filters is None else filters
    return x, Flow(name, kind, height, width, count, unit=unit, largest=largest)


def _rows(name: str, weight: Tensor, x: Flow) -> NDArray[np.float32]:
    """Filters (filters, kernel height, kernel width, channels); a fully connected one reads flattened images."""
    if not torch.isfinite(weight).all():
        raise HypersignError(f"{name}.weight must hold numbers; it holds NaN or infinity: take an earlier state")
    if weight.dim() == 2:
        whole = weight.shape[1] != x.channels
        weight = weight.view(len(weight), x.channels, *((x.height, x.width) if whole else (1, 1)))
    elif weight.dim() == 3:
        weight = weight[:, :, None]
    return weight.detach().permute(0, 2, 3, 1).contiguous().numpy()


def _packed(name: str, layer: Any, x: Flow, levels: Callable[[], Tensor], ternary: bool) -> NDArray[np.uint64]:
    """Levels of a layer's weights, packed."""
    _rows(name, layer.weight, x)  # checks for NaN, which has no level
    with torch.no_grad():
        rows = _rows(name, levels(), x).reshape(layer.filters, -1)
    if not np.isin(rows, (-1, 0, 1) if ternary else (-1, 1)).all():
        quantizer = type(layer.weight_quantizer).__name__
        raise refusal(name, layer, f"the quantizer {quantizer} gives other levels than it states")
    return bits.pack_ternary(rows, low=0, high=1) if ternary else bits.pack(rows)
