"""The paper's network: convolutions, then fully connected layers, every product followed by batch norm."""

import copy
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Literal

from torch import nn

from hypersign._checks import HypersignError, check_choice, check_int
from hypersign.layers import BitPlanes, PatchRotation, QuantConv2d, QuantLinear, Thermometer
from hypersign.models.norm import batch_norm, check_norm
from hypersign.quantizers import GroupScaled, Identity, MeanScale, Optimal, Quantizer, Sign, Surrogate, Ternary
from hypersign.rotations import HaarRotation, HadamardRotation

__all__ = ["mlp", "vgg"]


def vgg(
    shape: tuple[int, int, int] = (3, 32, 32),
    classes: int = 10,
    *,
    widths: Sequence[int] = (128, 128, 256, 256, 512, 512),
    pools: Sequence[int] = (2, 4, 6),
    filter_size: int = 3,
    hidden: Sequence[int] = (1024, 1024),
    levels: int = 2,
    threshold: float | Optimal = 0.02,
    continuous: bool = False,
    float_weights: Sequence[str] = (),
    float_inputs: Sequence[str] = (),
    surrogate: Surrogate | None = None,
    norm_scale: bool = False,
    norm_epsilon: float = 1e-3,
    norm_momentum: float = 0.1,
    sign_zero: int = 1,
    weight_scale: Literal["filter"] | int | None = None,
    first_layer: Literal["plain", "thermometer", "bit-planes", "haar", "hadamard"] = "plain",
    first_dimensions: int | None = None,
    pixel_range: tuple[float, float] = (-1.0, 1.0),
) -> nn.Sequential:
    """The network of Anderson & Berg 2018, after Courbariaux & Hubara 2016.

        image -> [conv -> pool where marked -> batch norm] ... -> flatten -> [fc -> batch norm] ... -> logits

    Every convolution and fully connected layer quantizes its weights and, but for the first, its inputs. The
    children of the returned `nn.Sequential` are named `conv1`, `pool2`, `norm1`, ..., `flatten`, `fc1`, ...;
    the batch norm that follows `conv1` is `norm1`, and numbering goes on through the fully connected layers.
    With the defaults: fan-ins 27, 1152, 1152, 2304, 2304, 4608, 8192, 1024, 1024; 617 million binary
    multiply-accumulates per image; 1,753,344 bytes of packed weights.

    Args:
        shape: (channels, height, width) of the images.
        classes: number of logits.
        widths: filters of each convolution; none at all gives an mlp.
        pools: which convolutions, counted from 1, are followed by a 2x2 max pool (odd sizes round up).
        filter_size: height and width of the filters; padded with zeros so that sizes stay (odd numbers do).
        hidden: widths of the fully connected layers before the last.
        levels: 2 (sign) or 3 (ternary).
        threshold: of the ternary quantizer, for weights and inputs alike; `Optimal()`: .612 of each filter's
            standard deviation for weights, .612 for inputs (which batch norm gives unit variance).
        continuous: no quantizer in the convolutions; the first fully connected layer reads real inputs; the
            fully connected weights stay quantized.
        float_weights, float_inputs: names of layers whose weights, or inputs, stay real (`"conv1"`, `"fc2"`).
        surrogate: backward rule of every quantizer; each gets a copy; `HardTanh()` if None.
        norm_scale: whether batch norm learns a scale; the paper's does not.
        norm_epsilon, norm_momentum: of batch norm; running averages keep `1 - norm_momentum` of the past.
        sign_zero: the level of 0, see `Sign`.
        weight_scale: "filter": a least-squares scale per filter (`MeanScale`); a number: one scale per that
            many weights (`GroupScaled`); None: none, since batch norm follows.
        first_layer: what the first convolution reads: pixels as they are ("plain"); `Thermometer` levels or
            `BitPlanes` of them; or the signs of their rotated patches ("haar", "hadamard"): `PatchRotation`, batch
            norm, quantizer, and `conv1` is 1 x 1 in the rotated frame. All but the first make it a product of
            levels.
        first_dimensions: levels a pixel of the thermometer (8), or dimensions that patches are rotated to (64).
        pixel_range: what pixels 0 and 255 are, for the two codes; `hypersign.training` fills it in from the data.

    Raises:
        HypersignError: an argument outside its range, or a layer name that does not exist.

    >>> sum(p.numel() for name, p in vgg().named_parameters() if name.endswith("weight"))
    14022016
    """
    channels, height, width = check_shape(shape)
    check_int("classes", classes, least=1)
    check_norm(norm_epsilon, norm_momentum)
    check_int("filter_size", filter_size, least=1)
    if filter_size % 2 == 0:
        raise HypersignError(f"filter_size must be odd, so that zero padding keeps sizes; got {filter_size}")
    for number in (*widths, *hidden):
        check_int("widths and hidden", number, least=1)
    for number in pools:
        check_int("pools (which convolutions are followed by a pool)", number, least=1, most=len(widths))
    weight_quantizer, input_quantizer = _quantizers(levels, threshold, surrogate, sign_zero, weight_scale)
    convolutions = [f"conv{i}" for i in range(1, len(widths) + 1)]
    connected = [f"fc{i}" for i in range(1, len(hidden) + 2)]
    names = convolutions + connected
    unknown = [name for name in (*float_weights, *float_inputs) if name not in names]
    if unknown:
        raise HypersignError(
            f"float_weights and float_inputs must name layers of this network ({', '.join(names)}); "
            f"got {', '.join(unknown)}"
        )
    first, channels, first_size = _first_layer(
        first_layer, first_dimensions, (channels, filter_size), pixel_range, bool(widths)
    )
    real_weights, real_inputs = {*float_weights}, {*float_inputs}
    if not isinstance(first, PatchRotation):  # pixels, or levels already
        real_inputs.add(names[0])
    if continuous:
        real_weights.update(convolutions)
        real_inputs.update(convolutions, connected[:1])

    def quantizers(name: str) -> dict[str, Any]:
        return {
            "input_quantizer": Identity() if name in real_inputs else input_quantizer(),
            "weight_quantizer": Identity() if name in real_weights else weight_quantizer(),
        }

    def norm(dimensions: int, features: int) -> nn.Module:
        return batch_norm(dimensions, features, eps=norm_epsilon, momentum=norm_momentum, scale=norm_scale)

    modules: OrderedDict[str, nn.Module] = OrderedDict()
    if first is not None:
        modules["first"] = first
    if isinstance(first, PatchRotation):
        modules["norm0"] = norm(2, channels)
    for i, filters in enumerate(widths, start=1):
        size = first_size if i == 1 else filter_size
        modules[f"conv{i}"] = QuantConv2d(
            channels, filters, size, padding=size // 2, bias=False, **quantizers(f"conv{i}")
        )
        if i in pools:
            modules[f"pool{i}"] = nn.MaxPool2d(2, ceil_mode=True)
            height, width = -(-height // 2), -(-width // 2)
        modules[f"norm{i}"] = norm(2, filters)
        channels = filters
    modules["flatten"] = nn.Flatten()
    features = channels * height * width
    for i, outputs in enumerate([*hidden, classes], start=1):
        modules[f"fc{i}"] = QuantLinear(features, outputs, bias=False, **quantizers(f"fc{i}"))
        modules[f"norm{len(widths) + i}"] = norm(1, outputs)
        features = outputs
    model = nn.Sequential(modules)
    for name in names:
        nn.init.xavier_uniform_(model.get_parameter(f"{name}.weight"))
    return model


def mlp(
    shape: tuple[int, int, int] = (1, 28, 28),
    classes: int = 10,
    *,
    hidden: Sequence[int] = (4096, 4096, 4096),
    levels: int = 2,
    threshold: float | Optimal = 0.02,
    float_weights: Sequence[str] = (),
    float_inputs: Sequence[str] = (),
    surrogate: Surrogate | None = None,
    norm_scale: bool = False,
    norm_epsilon: float = 1e-3,
    norm_momentum: float = 0.1,
    sign_zero: int = 1,
    weight_scale: Literal["filter"] | int | None = None,
) -> nn.Sequential:
    """Fully connected layers alone: `vgg` without convolutions. The defaults are BinaryNet's MNIST network.

    Source: Courbariaux & Hubara 2016 (arXiv 1602.02830), section 2.1.

    >>> list(dict(mlp(hidden=(64,)).named_children()))
    ['flatten', 'fc1', 'norm1', 'fc2', 'norm2']
    """
    return vgg(
        shape,
        classes,
        widths=(),
        pools=(),
        hidden=hidden,
        levels=levels,
        threshold=threshold,
        float_weights=float_weights,
        float_inputs=float_inputs,
        surrogate=surrogate,
        norm_scale=norm_scale,
        norm_epsilon=norm_epsilon,
        norm_momentum=norm_momentum,
        sign_zero=sign_zero,
        weight_scale=weight_scale,
    )


def check_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    """`shape` as (channels, height, width), or raises HypersignError."""
    if len(shape) != 3:
        raise HypersignError(f"shape must be (channels, height, width) of the images; got {tuple(shape)}")
    channels, height, width = (check_int("shape (channels, height, width)", size, least=1) for size in shape)
    return channels, height, width


def _first_layer(
    name: str,
    dimensions: int | None,
    patch: tuple[int, int],
    pixel_range: tuple[float, float],
    has_convolutions: bool,
) -> tuple[nn.Module | None, int, int]:
    """What stands before the first convolution, the channels it gives, and the size of that convolution's filters.

    `patch` is (channels, filter size) of a convolution of the pixels.
    """
    check_choice("first_layer", name, ("plain", "thermometer", "bit-planes", "haar", "hadamard"))
    channels, size = patch
    if name == "plain" or not has_convolutions:
        if name != "plain":
            raise HypersignError(f"first_layer {name} stands before a convolution; this network has none")
        if dimensions is not None:
            raise HypersignError("first_dimensions belongs to the first layers thermometer, haar and hadamard")
        return None, channels, size
    if name == "bit-planes":
        if dimensions is not None:
            raise HypersignError("first_dimensions does not belong to bit planes, of which there are 8")
        return BitPlanes(pixel_range), 8 * channels, size
    if name == "thermometer":
        k = 8 if dimensions is None else dimensions
        return Thermometer(k, pixel_range), k * channels, size
    d, outputs = channels * size**2, 64 if dimensions is None else dimensions
    rotation = (
        HaarRotation(d, seed=0, outputs=outputs)
        if name == "haar"
        else HadamardRotation(d, rounds=3, seed=0, outputs=outputs)
    )
    return PatchRotation(channels, size, rotation), outputs, 1


def _quantizers(
    levels: int,
    threshold: float | Optimal,
    surrogate: Surrogate | None,
    sign_zero: int = 1,
    weight_scale: Literal["filter"] | int | None = None,
) -> tuple[Callable[[], Quantizer], Callable[[], Quantizer]]:
    """Makers of a weight quantizer and of an input quantizer."""
    if levels not in (2, 3):
        raise HypersignError(f"levels must be 2 (binary) or 3 (ternary); got {levels!r}")
    Ternary(threshold)  # its check, before anything is built

    if isinstance(weight_scale, str):
        check_choice("weight_scale (or the number of weights in a group)", weight_scale, ("filter",))

    def maker(threshold: float | Optimal, scale: MeanScale | None = None) -> Quantizer:
        # A copy each: an annealed surrogate belongs to one layer, and moves with it to its device.
        rule = copy.deepcopy(surrogate)
        if levels == 2:
            return Sign(scale=scale, surrogate=rule, zero=sign_zero)
        return Ternary(threshold, scale=scale, surrogate=rule)

    def weights() -> Quantizer:
        if weight_scale is None or weight_scale == "filter":
            return maker(threshold, None if weight_scale is None else MeanScale())
        return GroupScaled(maker(threshold), weight_scale)

    weights()  # its checks, before anything is built
    inputs = threshold.deviations if isinstance(threshold, Optimal) else threshold
    return weights, lambda: maker(inputs)
