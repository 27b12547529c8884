"""Quantized convolutions."""

from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from hypersign import ops
from hypersign._checks import HypersignError
from hypersign.layers.layer import Clips, QuantLayer
from hypersign.quantizers import Quantizer

__all__ = [
    "QuantConv1d",
    "QuantConv2d",
    "QuantConv3d",
    "QuantConvTranspose1d",
    "QuantConvTranspose2d",
    "QuantConvTranspose3d",
    "TransposedFilters",
]


class _QuantConv(QuantLayer, nn.modules.conv._ConvNd):
    """The base class of quantized convolutions: it pads after the input quantizer, with 0 or with 1."""

    pad_value: int

    def _set_pad_value(self, pad_value: int) -> None:
        if pad_value not in (0, 1):
            raise HypersignError(f"pad_value must be 0 or 1; got {pad_value!r}")
        if pad_value == 1 and self.padding_mode != "zeros":
            raise HypersignError(
                f"pad_value=1 pads with ones and needs padding_mode='zeros'; got {self.padding_mode!r}"
            )
        if pad_value == 1 and (self.input_quantizer.scale is not None or self.input_quantizer.offset is not None):
            raise HypersignError(
                "pad_value=1 pads with the level +1, which an input quantizer with a scale or offset does not give; "
                f"use pad_value=0; got {self.input_quantizer!r}"
            )
        self.pad_value = int(pad_value)

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """The convolution of `x` `(N, C, ...)` with `weight` `(filters, C/groups, ...)`, padding included."""
        if self.pad_value == 0:
            return self._conv_forward(x, weight, None)
        # torch lists the padding of the last dimension first, both sides of each.
        ones = F.pad(x, self._reversed_padding_repeated_twice, value=1.0)
        convolve: Any = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[len(self.kernel_size)]
        return convolve(ones, weight, None, self.stride, 0, self.dilation, self.groups)

    def extra_repr(self) -> str:
        text = super().extra_repr()
        return f"{text}, pad_value=1" if self.pad_value else text


class QuantConv1d(_QuantConv, nn.Conv1d):
    """A 1-D convolution with quantized inputs and weights; it has the arguments of `QuantConv2d`.

    >>> import torch
    >>> from hypersign.quantizers import Sign
    >>> layer = QuantConv1d(1, 1, 3, padding=1, bias=False, input_quantizer=Sign(), pad_value=1)
    >>> _ = layer.load_state_dict({"weight": torch.ones(1, 1, 3)})
    >>> layer(torch.tensor([[[-0.5, 0.5]]])).tolist()
    [[[1.0, 1.0]]]
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int],
        stride: int | tuple[int] = 1,
        padding: int | tuple[int] | str = 0,
        dilation: int | tuple[int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros",
        *,
        input_quantizer: Quantizer | None = None,
        weight_quantizer: Quantizer | None = None,
        pad_value: int = 0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        nn.Conv1d.__init__(
            self, in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias,
            padding_mode, device, dtype,
        )  # fmt: skip
        self.set_quantizers(input_quantizer, weight_quantizer)
        self._set_pad_value(pad_value)


class QuantConv2d(_QuantConv, nn.Conv2d):
    """A 2-D convolution with quantized inputs and weights.

        y = s * conv(pad(q_a(x)), q_w(W)) + bias        (offsets: see `QuantLayer`)

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode: the arguments
            of `torch.nn.Conv2d`; the fan-in is `in_channels / groups * kernel height * kernel width`.
        input_quantizer: the quantizer q_a; `Identity()` if None.
        weight_quantizer: the quantizer q_w; `Identity()` if None.
        pad_value: the level used for padding, after the input quantizer: 0 (the paper), or 1 (+1, so that padded
            inputs still fit in one bit).
        device, dtype: the device and type of the latent weight, as in torch.

    Shapes: `x` `(N, in_channels, H, W)`, `y` `(N, out_channels, H', W')`, W `(out_channels, in_channels/groups,
    kernel height, kernel width)`.

    Raises:
        HypersignError: a quantizer is not a `Quantizer`; the input quantizer has `MeanScale()` or `Optimal()`;
            `pad_value` is neither 0 nor 1; or it is 1, and the padding mode is not zeros or the input quantizer has
            a scale or an offset.

    >>> import torch
    >>> from hypersign.quantizers import Sign
    >>> layer = QuantConv2d(1, 1, 3, padding=1, bias=False, input_quantizer=Sign(), weight_quantizer=Sign())
    >>> _ = layer.load_state_dict({"weight": torch.full((1, 1, 3, 3), 0.1)})
    >>> layer(torch.ones(1, 1, 3, 3))[0, 0].tolist()
    [[4.0, 6.0, 4.0], [6.0, 9.0, 6.0], [4.0, 6.0, 4.0]]
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros",
        *,
        input_quantizer: Quantizer | None = None,
        weight_quantizer: Quantizer | None = None,
        pad_value: int = 0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        nn.Conv2d.__init__(
            self, in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias,
            padding_mode, device, dtype,
        )  # fmt: skip
        self.set_quantizers(input_quantizer, weight_quantizer)
        self._set_pad_value(pad_value)

    def product_on_bits(self, x: Tensor, weight: Tensor, clips: Clips) -> Tensor:
        if x.dim() == 3:
            return self.product_on_bits(x[None], weight, clips)[0]
        return ops.conv2d_of_levels(
            x,
            weight,
            self._next_seed(),
            ternary=self._ternary(),
            stride=self.stride,  # type: ignore[arg-type]
            padding=self.padding,  # type: ignore[arg-type]
            dilation=self.dilation,  # type: ignore[arg-type]
            pad_value=self.pad_value,
            clips=clips,
        )


class QuantConv3d(_QuantConv, nn.Conv3d):
    """A 3-D convolution with quantized inputs and weights; it has the arguments of `QuantConv2d`.

    >>> import torch
    >>> from hypersign.quantizers import Sign
    >>> layer = QuantConv3d(1, 1, 2, bias=False, input_quantizer=Sign(), weight_quantizer=Sign())
    >>> layer(torch.ones(1, 1, 2, 2, 2)).abs().item() <= 8
    True
    """

    def __init__(
        self,
        *args: Any,
        input_quantizer: Quantizer | None = None,
        weight_quantizer: Quantizer | None = None,
        pad_value: int = 0,
        **options: Any,
    ) -> None:
        nn.Conv3d.__init__(self, *args, **options)
        self.set_quantizers(input_quantizer, weight_quantizer)
        self._set_pad_value(pad_value)


class TransposedFilters(QuantLayer):
    """The weight of a transposed convolution, stored as `(channels, filters/groups, ...)`, with filters first."""

    groups: int

    def filters_first(self, weight: Tensor) -> Tensor:
        """`(channels, filters/groups, ...)` -> `(filters, channels/groups, ...)`."""
        return self._swapped(weight)

    def as_stored(self, filters: Tensor) -> Tensor:
        """`(filters, channels/groups, ...)` -> `(channels, filters/groups, ...)`."""
        return self._swapped(filters)

    def _swapped(self, weight: Tensor) -> Tensor:
        parts = weight.unflatten(0, (self.groups, -1))
        return parts.transpose(1, 2).flatten(0, 1)


class _QuantConvTranspose(TransposedFilters, nn.modules.conv._ConvTransposeNd):
    """The base class of quantized transposed convolutions.

        y = s * conv_transpose(q_a(x), q_w(W)) + bias        (offsets: see `QuantLayer`)

    A filter is what one output channel is computed with: `W[:, filter]` within its group.
    """

    def __init__(
        self,
        *args: Any,
        input_quantizer: Quantizer | None = None,
        weight_quantizer: Quantizer | None = None,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self.set_quantizers(input_quantizer, weight_quantizer)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Computes the formula of the class; `output_size` is torch's."""
        self.__dict__["_output_size"] = output_size
        return QuantLayer.forward(self, input)

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """The transposed convolution of `x` `(N, C, ...)` with `weight` `(C, filters/groups, ...)`."""
        size = len(self.kernel_size)
        wanted = self.__dict__.get("_output_size")
        sizes: Any = (wanted, self.stride, self.padding, self.kernel_size, size, self.dilation)
        extra: Any = self._output_padding(x, *sizes)
        convolve: Any = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}[size]
        return convolve(x, weight, None, self.stride, self.padding, extra, self.groups, self.dilation)


class QuantConvTranspose1d(_QuantConvTranspose, nn.ConvTranspose1d):
    """torch's 1-D transposed convolution with quantized inputs and weights; see `QuantConvTranspose2d`."""


class QuantConvTranspose2d(_QuantConvTranspose, nn.ConvTranspose2d):
    """torch's 2-D transposed convolution with quantized inputs and weights.

        y = s * conv_transpose(q_a(x), q_w(W)) + bias        (offsets: see `QuantLayer`)

    A filter is what one output channel is computed with, `W[:, filter]` within its group; it has one scale.

    Args:
        args, options: those of `torch.nn.ConvTranspose2d`.
        input_quantizer: the quantizer q_a; `Identity()` if None.
        weight_quantizer: the quantizer q_w; `Identity()` if None.

    >>> import torch
    >>> from hypersign.quantizers import Sign
    >>> layer = QuantConvTranspose2d(1, 1, 2, stride=2, bias=False, weight_quantizer=Sign())
    >>> _ = layer.load_state_dict({"weight": torch.full((1, 1, 2, 2), 0.1)})
    >>> layer(torch.tensor([[[[3.0]]]])).tolist()
    [[[[3.0, 3.0], [3.0, 3.0]]]]
    """


class QuantConvTranspose3d(_QuantConvTranspose, nn.ConvTranspose3d):
    """torch's 3-D transposed convolution with quantized inputs and weights; see `QuantConvTranspose2d`."""
