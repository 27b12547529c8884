"""The paper's network: convolutions, then fully connected layers, every product followed by batch norm."""

import dataclasses
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from torch import nn

from hypersign._checks import HypersignError, check_choice, check_int
from hypersign.layers import BitPlanes, PatchRotation, QuantConv2d, QuantLinear, Thermometer, fit_quantizers
from hypersign.layers import activation as activation_of
from hypersign.models.norm import batch_norm, check_norm
from hypersign.models.shapes import MOST_FILTERS, MOST_UNITS, check_shape
from hypersign.quantizers import Quantization
from hypersign.rotations import HaarRotation, HadamardRotation

__all__ = ["mlp", "vgg"]

PADDINGS = ("zeros", "ones", "valid")
MOST_FILTER_SIZE = 255
MOST_ROTATION = 2**24  # numbers of the matrix, or of a patch, of a rotated first layer


def vgg(
    shape: tuple[int, int, int] = (3, 32, 32),
    classes: int = 10,
    quantization: Quantization | None = None,
    *,
    widths: Sequence[int] = (128, 128, 256, 256, 512, 512),
    pools: Sequence[int] = (2, 4, 6),
    filter_size: int = 3,
    padding: str = "zeros",
    hidden: Sequence[int] = (1024, 1024),
    norm_scale: bool = False,
    norm_epsilon: float = 1e-3,
    norm_momentum: float = 0.1,
    activation: str = "none",
) -> nn.Sequential:
    """The network of Anderson & Berg 2018, after Courbariaux & Hubara 2016.

        image -> [conv -> pool (in some) -> batch norm] ... -> flatten -> [fc -> batch norm] ... -> logits

    Every convolution and fully connected layer quantizes its weights. All but the first also quantize their inputs.
    The children of the returned `nn.Sequential` are named `conv1`, `pool2`, `norm1`, ..., `flatten`, `fc1`, ...; the
    batch norm after `conv1` is `norm1`, and the numbers continue through the fully connected layers. If pixels are
    coded or rotated, the layer `first` does it before the convolutions.

    The defaults have fan-ins 27, 1152, 1152, 2304, 2304, 4608, 8192, 1024, 1024; 617 million binary
    multiply-accumulates per image; 1,753,344 bytes of packed weights.

    Args:
        shape: the shape (channels, height, width) of the images.
        classes: the number of logits.
        quantization: the quantizers; signs for all weights and inputs if None.
        widths: the number of filters of each convolution; an empty sequence gives an mlp.
        pools: the convolutions, counted from 1, that are followed by a 2x2 max pool (odd sizes round up).
        filter_size: the height and width of the filters, an odd number.
        padding: "zeros" (the paper) and "ones" keep the size of images. "ones" pads signs with +1, so that they stay
            signs, and pixels and real inputs with zeros. "valid" is no padding: each convolution takes
            filter_size - 1 from the height and the width.
        hidden: the widths of the fully connected layers before the last.
        norm_scale: whether batch norm learns a scale; in the paper it does not.
        norm_epsilon: the epsilon of batch norm.
        norm_momentum: the momentum of batch norm; running averages keep `1 - norm_momentum` of the past.
        activation: what follows each batch norm but the last: "none" (the paper), "hardtanh", "rprelu" (ReActNet) or
            "maxout" (AdaBin).

    Raises:
        HypersignError: an argument is outside its range, or no layer has a given name.

    >>> sum(p.numel() for name, p in vgg().named_parameters() if name.endswith("weight"))
    14022016
    """
    quantization = Quantization() if quantization is None else quantization
    channels, height, width = check_shape(shape)
    _check_sizes(classes, widths, pools, filter_size, hidden)
    check_choice("padding", padding, PADDINGS)
    check_norm(norm_epsilon, norm_momentum)
    names = [f"conv{i}" for i in range(1, len(widths) + 1)] + [f"fc{i}" for i in range(1, len(hidden) + 2)]
    first, channels, first_size = _first_layer(quantization, channels, filter_size, bool(widths))
    kept = _with_real_layers(quantization, names, len(widths), isinstance(first, PatchRotation))

    def quantizers(name: str) -> dict[str, Any]:
        return {"input_quantizer": kept.input_quantizer(name), "weight_quantizer": kept.weight_quantizer(name)}

    def norm(dimensions: int, features: int) -> nn.Module:
        return batch_norm(dimensions, features, eps=norm_epsilon, momentum=norm_momentum, scale=norm_scale)

    modules: OrderedDict[str, nn.Module] = OrderedDict()

    def act(number: int, features: int) -> None:
        function = activation_of(activation, features)
        if function is not None:
            modules[f"act{number}"] = function

    if first is not None:
        modules["first"] = first
    if isinstance(first, PatchRotation):
        modules["norm0"] = norm(2, channels)
    for i, filters in enumerate(widths, start=1):
        size = first_size if i == 1 else filter_size
        options: dict[str, Any] = quantizers(f"conv{i}")
        signs = (options["input_quantizer"].levels or (0,))[0] == -1  # not pixels, and not levels of 0 and 1
        options["pad_value"] = int(padding == "ones" and signs)
        around = 0 if padding == "valid" else size // 2
        modules[f"conv{i}"] = QuantConv2d(channels, filters, size, padding=around, bias=False, **options)
        height, width = (length - size + 1 + 2 * around for length in (height, width))
        if min(height, width) < 1:
            raise HypersignError(
                f"without padding, conv{i} needs images of at least {size} x {size}; its inputs are "
                f"{height + size - 1} x {width + size - 1}: use fewer convolutions or pools, or padding"
            )
        if i in pools:
            modules[f"pool{i}"] = nn.MaxPool2d(2, ceil_mode=True)
            height, width = -(-height // 2), -(-width // 2)
        modules[f"norm{i}"] = norm(2, filters)
        act(i, filters)
        channels = filters
    modules["flatten"] = nn.Flatten()
    features = channels * height * width
    for i, outputs in enumerate([*hidden, classes], start=1):
        modules[f"fc{i}"] = QuantLinear(features, outputs, bias=False, **quantizers(f"fc{i}"))
        modules[f"norm{len(widths) + i}"] = norm(1, outputs)
        if i <= len(hidden):
            act(len(widths) + i, outputs)
        features = outputs
    model = nn.Sequential(modules)
    for name in names:
        nn.init.xavier_uniform_(model.get_parameter(f"{name}.weight"))
    fit_quantizers(model)
    return model


def mlp(
    shape: tuple[int, int, int] = (1, 28, 28),
    classes: int = 10,
    quantization: Quantization | None = None,
    *,
    hidden: Sequence[int] = (4096, 4096, 4096),
    norm_scale: bool = False,
    norm_epsilon: float = 1e-3,
    norm_momentum: float = 0.1,
    activation: str = "none",
) -> nn.Sequential:
    """A network of fully connected layers: `vgg` without convolutions. The defaults are BinaryNet's MNIST network.

    Source: Courbariaux & Hubara 2016 (arXiv 1602.02830), section 2.1.

    >>> list(dict(mlp(hidden=(64,)).named_children()))
    ['flatten', 'fc1', 'norm1', 'fc2', 'norm2']
    """
    return vgg(
        shape,
        classes,
        quantization,
        widths=(),
        pools=(),
        hidden=hidden,
        norm_scale=norm_scale,
        norm_epsilon=norm_epsilon,
        norm_momentum=norm_momentum,
        activation=activation,
    )


def _check_sizes(
    classes: int, widths: Sequence[int], pools: Sequence[int], filter_size: int, hidden: Sequence[int]
) -> None:
    check_int("classes", classes, min=1, max=MOST_UNITS)
    check_int("filter_size", filter_size, min=1, max=MOST_FILTER_SIZE)
    if filter_size % 2 == 0:
        raise HypersignError(f"filter_size must be odd, so that padding keeps sizes; got {filter_size}")
    for number in widths:
        check_int("widths and hidden", number, min=1, max=MOST_FILTERS)
    for number in hidden:
        check_int("widths and hidden", number, min=1, max=MOST_UNITS)
    for number in pools:
        check_int("pools (which convolutions are followed by a pool)", number, min=1, max=len(widths))


def _with_real_layers(quantization: Quantization, names: list[str], convolutions: int, rotated: bool) -> Quantization:
    """The quantization with the names of all layers whose weights or inputs stay real."""
    named = (*quantization.float_weights, *quantization.float_inputs)
    unknown = [name for name in named if name not in names]
    if unknown:
        raise HypersignError(
            f"float_weights and float_inputs must name layers of this network ({', '.join(names)}); "
            f"got {', '.join(unknown)}"
        )
    weights, inputs = list(quantization.float_weights), list(quantization.float_inputs)
    if not rotated:  # its inputs are pixels, or already levels
        inputs.append(names[0])
    if quantization.float_convolutions:
        weights += names[:convolutions]
        inputs += names[: convolutions + 1]
    return dataclasses.replace(quantization, float_weights=tuple(weights), float_inputs=tuple(inputs))


def _first_layer(
    quantization: Quantization, channels: int, size: int, has_convolutions: bool
) -> tuple[nn.Module | None, int, int]:
    """The layer before the first convolution, its output channels, and the filter size of that convolution.

    `channels` and `size` belong to a convolution that reads the pixels directly.
    """
    name, dimensions = quantization.first_layer, quantization.first_dimensions
    if name == "plain" or not has_convolutions:
        if name != "plain":
            raise HypersignError(f"first_layer {name} needs a convolution after it; this network has none")
        if dimensions is not None:
            raise HypersignError(
                "first_dimensions can be set only for the first layers thermometer, haar and hadamard"
            )
        return None, channels, size
    if name == "bit-planes":
        if dimensions is not None:
            raise HypersignError("first_dimensions cannot be set for bit planes; there are always 8")
        return BitPlanes(quantization.pixel_range), 8 * channels, size
    if name == "thermometer":
        k = 8 if dimensions is None else check_int("first_dimensions", dimensions, min=1, max=MOST_FILTERS)
        return Thermometer(k, quantization.pixel_range), k * channels, size
    d, outputs = channels * size**2, 64 if dimensions is None else dimensions
    check_int("first_dimensions", outputs, min=1, max=MOST_FILTERS)
    if d * (outputs if name == "haar" else 1) > MOST_ROTATION:
        raise HypersignError(
            f"first_layer {name} must rotate patches by at most {MOST_ROTATION:,} numbers; patches of {d} to "
            f"{outputs} dimensions need more: use fewer first_dimensions or a smaller filter_size"
        )
    rotation = (
        HaarRotation(d, seed=0, outputs=outputs)
        if name == "haar"
        else HadamardRotation(d, rounds=3, seed=0, outputs=outputs)
    )
    return PatchRotation(channels, size, rotation), outputs, 1
