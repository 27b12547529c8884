"""Quantized layers that compute on bits inside torch, for inference and for training."""

import math

import numpy as np
import torch
from torch import Tensor, nn

from hypersign import bits, ops
from hypersign._checks import HypersignError
from hypersign.layers.conv import QuantConv2d
from hypersign.layers.conversion import Conversion
from hypersign.layers.copying import copy_module
from hypersign.layers.layer import QuantLayer, quant_layers
from hypersign.layers.linear import QuantLinear
from hypersign.layers.training_kernels import use_training_kernels
from hypersign.quantizers import GroupScaled, Int8, Quantizer

__all__ = ["Packed8Linear", "PackedConv2d", "PackedLinear", "train_on_bits", "use_kernels"]


def use_kernels(model: nn.Module) -> Conversion:
    """Returns a copy of a trained network whose quantized layers run on the kernels of `hypersign.bits`.

    A layer with binary or ternary weights and inputs becomes a `PackedLinear` or `PackedConv2d`. A fully connected
    one with 8-bit inputs (`Int8()`) becomes a `Packed8Linear`; groups of its weights may have scales (`GroupScaled`).
    These are for inference on the CPU. Their outputs are the same bit for bit, because every sum is an integer; with
    scales per group they round differently in the last digits. Convolutions return them in channels-last memory
    order. Outputs have the type of the inputs. Other layers do not change, and the result lists the quantized ones
    among them with the reason. The copy works under torch.compile and torch.export.

    Args:
        model: the network, which does not change; its current latent weights are packed.

    Raises:
        HypersignError: no layer can run on bits, or a weight contains NaN.

    >>> import torch
    >>> from hypersign.quantizers import Sign
    >>> layer = QuantLinear(70, 3, input_quantizer=Sign(), weight_quantizer=Sign())
    >>> packed = use_kernels(nn.Sequential(layer))
    >>> x = torch.randn(5, 70)
    >>> packed.converted, torch.equal(packed.model(x), layer(x))
    (('0',), True)
    """
    model = copy_module(model).eval()
    kept, packed = {}, []
    for name, layer in quant_layers(model).items():
        if (reason := _inference_reason(layer)) is None:
            kind = (
                Packed8Linear
                if _has_8_bits(layer)
                else PackedConv2d
                if isinstance(layer, QuantConv2d)
                else PackedLinear
            )
            _become(layer, kind(layer))
            packed.append(name)
        else:
            kept[name] = reason
    if not packed:
        raise HypersignError(f"a network to run on bits {_NEEDS} ({_reasons(kept)})")
    return Conversion(model, tuple(packed), kept)


_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)


def _become(layer: nn.Module, packed: nn.Module) -> None:
    """Turns `layer` into the packed layer in place, so that references to it and its forward hooks stay valid."""
    hooks = {name: vars(layer)[name] for name in _HOOKS}
    layer.__class__ = type(packed)
    layer.__dict__ = {**vars(packed), **hooks}


def train_on_bits(model: nn.Module) -> dict[str, str]:
    """Makes the quantized layers of a network compute on bits on the CPU, also in training.

    Forward passes give exactly the same results, because sums of levels are integers. In backward passes the
    gradient of a layer's product is rounded at random to 6 bits, without bias, and multiplied with levels by table
    lookup (`hypersign.ops.conv2d_of_levels`). This is several times faster than float32 and adds some noise to the
    gradients. Fully connected layers with 8-bit inputs (`Int8()`) have the gradients of float32. Batch norms and max
    pools compute the same in faster passes, and keep their classes, parameters and hooks. Each
    differentiated call of a layer rounds with the next seed, `layer.rounding_seed`, an int64 tensor. Set it to
    repeat a training from some step on, as `hypersign train` does in every step.

    Args:
        model: the network; it is changed in place.

    Returns the quantized layers that still compute in float32, each with the reason.

    Raises:
        HypersignError: no layer can compute on bits.

    >>> from hypersign.quantizers import Sign
    >>> first = QuantLinear(4, 3, weight_quantizer=Sign())
    >>> train_on_bits(nn.Sequential(first, QuantLinear(3, 2, input_quantizer=Sign(), weight_quantizer=Sign())))
    {'0': 'its inputs are not binary or ternary: Identity()'}
    """
    kept = {}
    layers = quant_layers(model)
    for number, (name, layer) in enumerate(layers.items()):
        reason = _reason(layer, training=True)
        if reason is None and isinstance(layer, QuantConv2d) and layer.groups > 1:
            reason = "it has groups of channels"
        if reason is None and layer.weight_quantizer.relaxes:
            reason = f"its weights are real until training ends or hardens: {layer.weight_quantizer.describe()}"
        if reason is None:
            layer.rounding_seed = torch.tensor(number << 40)  # far from the other layers' seeds
        else:
            kept[name] = reason
    if len(kept) == len(layers):
        raise HypersignError(f"a network to train on bits {_NEEDS} ({_reasons(kept)})")
    use_training_kernels(model)
    return kept


def _inference_reason(layer: QuantLayer) -> str | None:
    """Why a layer cannot run on the kernels for inference; None if it can."""
    reason = _reason(layer)
    if _grouped8(layer):
        return None
    if reason is None and _has_8_bits(layer):
        rule = layer.weight_quantizer
        return None if rule.offset is None else f"its weights have an offset: {rule.describe()}"
    return reason or _threshold_reason(layer.input_quantizer) or _offset_reason(layer)


def _has_8_bits(layer: QuantLayer) -> bool:
    """Whether a layer multiplies 8-bit inputs with its weights."""
    return isinstance(layer, QuantLinear) and isinstance(layer.input_quantizer, Int8)


def _grouped8(layer: QuantLayer) -> bool:
    """Whether a layer multiplies 8-bit inputs with binary or ternary weights that have a scale per group."""
    rule = layer.weight_quantizer
    return (
        _has_8_bits(layer)
        and isinstance(rule, GroupScaled)
        and rule.quantizer.packed_form().kind in ("binary", "ternary")
    )


_NEEDS = "must have a layer whose weights and inputs are quantized; this one has none"


def _reasons(kept: dict[str, str]) -> str:
    return "; ".join(f"{name}: {reason}" for name, reason in kept.items()) or "it has no quantized layers"


def _offset_reason(layer: QuantLayer) -> str | None:
    """Why the kernels cannot scale the output of a layer; None if they can: by a number per filter."""
    inputs, weights = layer.input_quantizer, layer.weight_quantizer
    if inputs.scale is not None or inputs.offset is not None:
        return f"its inputs have a scale or an offset: {inputs.describe()}"
    return None if weights.offset is None else f"its weights have an offset: {weights.describe()}"


def _threshold_reason(quantizer: Quantizer) -> str | None:
    """Why the kernels cannot quantize the inputs with one threshold; None if they can."""
    binary, thresholds = quantizer.packed_form(inputs=True).kind == "binary", _threshold(quantizer)
    if quantizer.transforms:
        return f"its inputs are transformed before they are rounded: {quantizer.describe()}"
    if thresholds.numel() != 1 or (binary and thresholds.any()):
        return f"its inputs have thresholds of their own: {quantizer.describe()}"
    return None


def _threshold(quantizer: Quantizer) -> Tensor:
    thresholds = quantizer.thresholds(torch.zeros(1, 1))
    assert thresholds is not None  # without them there is no packed form of inputs
    return thresholds


def _reason(layer: QuantLayer, *, training: bool = False) -> str | None:
    """Why a layer cannot run on bits; None if it can.

    In training the quantizers compute as they are, so levels of one or two bits are enough.
    """
    if not isinstance(layer, QuantLinear | QuantConv2d):
        return f"{type(layer).__name__} has no kernel"
    inputs, weights = layer.input_quantizer, layer.weight_quantizer
    for side, quantizer in (("inputs", inputs), ("weights", weights)):
        if training and tuple(quantizer.levels) in _LEVELS:
            continue
        if quantizer is inputs and _has_8_bits(layer):
            continue
        form = quantizer.packed_form(inputs=quantizer is inputs)
        if form.kind not in ("binary", "ternary"):
            return f"its {side} are not binary or ternary: {form.reason or quantizer.describe()}"
    if isinstance(layer, QuantConv2d) and (layer.padding_mode != "zeros" or isinstance(layer.padding, str)):
        return f"padding {layer.padding!r} in mode {layer.padding_mode!r} has no kernel"
    return None


_LEVELS = ((-1.0, 1.0), (-1.0, 0.0, 1.0))


# torch.fx records the next three as they are: what they do depends on shapes and types, which it does not know.


@torch.fx.wrap
def _rows(x: Tensor, features: int) -> Tensor:
    """Inputs of shape (..., features) as rows. Words cannot tell 7 features from 8, so the number is checked here."""
    if not x.dim() or x.shape[-1] != features:
        raise HypersignError(f"the layer takes inputs of shape (..., {features}); got {tuple(x.shape)}")
    return x.reshape(-1, features)


@torch.fx.wrap
def _images(x: Tensor, channels: int) -> Tensor:
    """Images of shape (N, channels, H, W) with the channels last; N may be missing."""
    if x.dim() not in (3, 4) or x.shape[-3] != channels:
        raise HypersignError(f"the layer takes images of shape (N, {channels}, H, W); got {tuple(x.shape)}")
    return (x if x.dim() == 4 else x[None]).movedim(1, -1)


@torch.fx.wrap
def _output(sums: Tensor, x: Tensor, scale: Tensor | None, bias: Tensor | None) -> Tensor:
    """Accumulators of shape (..., filters) with scale and bias, in the type of the inputs."""
    y = sums.to(torch.float64 if x.dtype == torch.float64 else torch.float32)
    if scale is not None:
        y = y * scale.to(y.dtype)
    if bias is not None:
        y = y + bias.to(y.dtype)
    y = y.to(x.dtype)
    if sums.dim() == 2:  # rows
        return y.reshape(*x.shape[:-1], y.shape[-1])
    y = y.movedim(-1, 1)
    return y if x.dim() == 4 else y[0]


class _Packed(nn.Module):
    """The part that both layers share: packed levels, and the scale and bias of each filter."""

    words: Tensor
    scale: Tensor | None
    bias: Tensor | None

    def __init__(self, layer: QuantLayer) -> None:
        super().__init__()
        rule = layer.weight_quantizer
        inner: Quantizer = rule.quantizer if isinstance(rule, GroupScaled) else rule
        levels = (layer.quantized_weight() if inner is rule else inner(layer.weight)).detach().float()
        if layer.weight.isnan().any():
            raise HypersignError("a weight to pack must not hold NaN, which has no sign: train again or restore it")
        rows = (levels.movedim(1, -1) if levels.dim() > 2 else levels).flatten(1)
        self.dtype, self.filter_shape = layer.weight.dtype, tuple(layer.weight.shape[1:])
        self.ternary_weights = ternary = inner.packed_form().kind == "ternary"
        self.register_buffer("words", ops.pack_ternary(rows, 0.5) if ternary else ops.pack(rows))
        scale = layer.weight_scale()
        if isinstance(rule, GroupScaled):
            scale = rule.group_scales(layer.weight, levels.to(layer.weight.dtype)).float()
        self.register_buffer("scale", None if scale is None else scale.detach().clone())
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach().clone())
        self.threshold: float | None = None
        if not _has_8_bits(layer) and layer.input_quantizer.packed_form(inputs=True).kind == "ternary":
            self.threshold = float(_threshold(layer.input_quantizer))
        self.eval()

    def levels(self, x: Tensor) -> Tensor:
        """The packed levels of the last dimension of `x`."""
        x = x.float()
        return ops.pack(x) if self.threshold is None else ops.pack_ternary(x, self.threshold)

    @property
    def weight(self) -> Tensor:
        """The levels of the weights, in the type and shape of the latent weights; unpacked at every call."""
        words = self.words.numpy().view(np.uint64)
        rows = (bits.unpack_ternary if self.ternary_weights else bits.unpack)(words, math.prod(self.filter_shape))
        levels = torch.from_numpy(rows.astype(np.float32)).to(self.dtype)
        if len(self.filter_shape) == 1:
            return levels
        channels, *kernel = self.filter_shape  # packed with the channels last
        return levels.view(-1, *kernel, channels).movedim(-1, 1)


class PackedLinear(_Packed):
    """A `QuantLinear` that computes on bits, for inference; `use_kernels` makes it."""

    def __init__(self, layer: QuantLinear) -> None:
        super().__init__(layer)
        self.in_features = layer.in_features

    def forward(self, x: Tensor) -> Tensor:
        """Maps `x` of shape (..., in_features) to (..., out_features)."""
        sums = ops.packed_linear(self.levels(_rows(x, self.in_features)), self.words, self.in_features)
        return _output(sums, x, self.scale, self.bias)


class Packed8Linear(_Packed):
    """A `QuantLinear` with 8-bit inputs that multiplies packed weights, for inference; `use_kernels` makes it."""

    def __init__(self, layer: QuantLinear) -> None:
        super().__init__(layer)
        self.in_features = layer.in_features
        self.input_quantizer = layer.input_quantizer
        self.group = layer.weight_quantizer.size if isinstance(layer.weight_quantizer, GroupScaled) else None

    def forward(self, x: Tensor) -> Tensor:
        """Maps `x` of shape (..., in_features) to (..., out_features)."""
        rule = self.input_quantizer
        _rows(x, self.in_features)  # checks
        levels = rule(x)
        rows = levels.reshape(-1, self.in_features).to(torch.int8)
        if self.group is not None:
            assert self.scale is not None
            y = ops.packed_linear8_grouped(rows, self.words, self.scale, self.group)
        else:
            y = ops.packed_linear8(rows, self.words, self.in_features)
        y = y.view(*x.shape[:-1], self.words.shape[-2]).to(
            torch.float64 if x.dtype == torch.float64 else torch.float32
        )
        if self.scale is not None and self.group is None:
            y = y * self.scale.to(y.dtype)
        assert rule.scale is not None
        y = y * rule.scale(x, levels).to(y.dtype)
        if self.bias is not None:
            y = y + self.bias.to(y.dtype)
        return y.to(x.dtype)


class PackedConv2d(_Packed):
    """A `QuantConv2d` that computes on bits, for inference; `use_kernels` makes it."""

    def __init__(self, layer: QuantConv2d) -> None:
        super().__init__(layer)
        self.channels, self.groups, self.pad_value = layer.in_channels, layer.groups, layer.pad_value
        self.kernel_size, self.stride = list(layer.kernel_size), list(layer.stride)
        self.padding, self.dilation = [int(size) for size in layer.padding], list(layer.dilation)

    def forward(self, x: Tensor) -> Tensor:
        """Maps `x` of shape (N, channels, H, W) to (N, filters, H', W') in channels-last order; N is optional."""
        sums = ops.packed_conv2d(
            self.levels(_images(x, self.channels)),
            self.words,
            self.channels,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            self.pad_value,
        )
        return _output(sums, x, self.scale, self.bias)
