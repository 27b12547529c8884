"""Residual networks with binary blocks and a shortcut around every convolution, as several papers draw them."""

import itertools
from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hypersign._checks import HypersignError, check_choice, check_int
from hypersign.layers import QuantConv2d, fit_quantizers
from hypersign.layers import activation as activation_of
from hypersign.models.norm import check_norm
from hypersign.models.shapes import MOST_FILTERS, MOST_UNITS, check_shape
from hypersign.quantizers import Quantization, Quantizer

__all__ = ["FORMS", "BinaryBlock", "ChannelCopies", "reactnet_a", "resnet18", "resnet20"]

FORMS = ("bi-real", "recu", "adabin")
"""The papers that draw `resnet20` and `resnet18`."""


class ChannelCopies(nn.Module):
    """Copies channels into more channels: each several times, or once between channels of zeros.

        y = [x, x, ...] if repeat, else [0, x, 0],    of every stride-th row and column

    Shapes: (N, channels, H, W) to (N, filters, ceil(H/stride), ceil(W/stride)).

    Args:
        channels: the channels of the input.
        filters: the channels of the output, a multiple of `channels` if `repeat`.
        stride: the distance of the rows and columns that are kept.
        repeat: whether channels are repeated; elsewhere zeros surround them, the odd one at the end.

    Raises:
        HypersignError: fewer filters than channels, or no multiple.

    >>> ChannelCopies(1, 3)(torch.ones(1, 1, 1, 1)).flatten().tolist()
    [0.0, 1.0, 0.0]
    """

    def __init__(self, channels: int, filters: int, *, stride: int = 1, repeat: bool = False) -> None:
        super().__init__()
        if filters < channels or (repeat and filters % channels):
            multiple = "a multiple of" if repeat else "at least"
            raise HypersignError(
                f"widths must not fall, and a shortcut without weights needs {multiple} {channels} channels here; "
                f"got {filters}: take another form or other widths"
            )
        self.channels, self.filters, self.stride, self.repeat = channels, filters, stride, repeat

    def forward(self, x: Tensor) -> Tensor:
        """The copies."""
        if self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride]
        if self.repeat:
            return torch.cat([x] * (self.filters // self.channels), 1)
        before = (self.filters - self.channels) // 2
        return F.pad(x, (0, 0, 0, 0, before, self.filters - self.channels - before))

    def matrix(self) -> Tensor:
        """The weights of the 1x1 convolution that copies so: zeros and ones, of shape (filters, channels)."""
        columns = torch.eye(self.channels).view(1, self.channels, self.channels, 1)
        return ChannelCopies(self.channels, self.filters, repeat=self.repeat)(columns)[0, :, :, 0]

    def extra_repr(self) -> str:
        return f"{self.channels}, {self.filters}, stride={self.stride}, repeat={self.repeat}"


def _mean(stride: int) -> nn.Module:
    """Average pooling; ceil_mode gives odd sizes the same result as in a strided, padded convolution."""
    return nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False) if stride > 1 else nn.Identity()


Norm = Callable[[int], nn.Module]


def _average(channels: int, filters: int, stride: int, norm: Norm) -> nn.Module:
    """Bi-Real Net's: average pooling, then a float 1x1 convolution with batch norm."""
    return nn.Sequential(_mean(stride), nn.Conv2d(channels, filters, 1, bias=False), norm(filters))


def _strided(channels: int, filters: int, stride: int, norm: Norm) -> nn.Module:
    """He's option B: a float 1x1 convolution of every stride-th pixel, with batch norm."""
    return nn.Sequential(nn.Conv2d(channels, filters, 1, stride=stride, bias=False), norm(filters))


def _padded(channels: int, filters: int, stride: int, norm: Norm) -> nn.Module:
    """Average pooling, then channels of zeros."""
    return nn.Sequential(_mean(stride), ChannelCopies(channels, filters))


def _subsampled(channels: int, filters: int, stride: int, norm: Norm) -> nn.Module:
    """He's option A: every stride-th pixel, then channels of zeros."""
    return ChannelCopies(channels, filters, stride=stride)


def _repeated(channels: int, filters: int, stride: int, norm: Norm) -> nn.Module:
    """ReActNet-A's: average pooling, then each channel several times."""
    copies = nn.Identity() if channels == filters else ChannelCopies(channels, filters, repeat=True)
    return nn.Sequential(_mean(stride), copies)


_SHORTCUTS = {
    "average": _average,
    "strided": _strided,
    "padded": _padded,
    "subsampled": _subsampled,
    "repeated": _repeated,
}


class BinaryBlock(nn.Module):
    """One quantized convolution with a real-valued shortcut around it.

        y = act(norm(conv(x)) + shortcut(x))            act: the identity, or an activation function

    The shortcut is the identity. If the size or width changes, it is one of these: "average" (average pooling, then a
    float 1x1 convolution with batch norm: Bi-Real Net, ReActNet), "strided" (a strided float 1x1 convolution with
    batch norm: AdaBin's ResNet-18), "padded" (average pooling, then channels of zeros: ReCU), "subsampled" (every
    stride-th pixel, then channels of zeros: AdaBin's ResNet-20), "repeated" (average pooling, then each channel
    several times: ReActNet-A). So real values reach every block.
    Source: Liu et al. 2018 (Bi-Real Net, arXiv 1808.00278), figure 3.
    """

    def __init__(
        self,
        channels: int,
        filters: int,
        *,
        stride: int,
        input_quantizer: Quantizer,
        weight_quantizer: Quantizer,
        norm_epsilon: float,
        norm_momentum: float,
        activation: str = "none",
        filter_size: int = 3,
        shortcut: str = "average",
    ) -> None:
        super().__init__()
        check_choice("shortcut", shortcut, _SHORTCUTS)
        self.conv = QuantConv2d(
            channels,
            filters,
            filter_size,
            stride=stride,
            padding=filter_size // 2,
            bias=False,
            input_quantizer=input_quantizer,
            weight_quantizer=weight_quantizer,
        )

        def norm(features: int) -> nn.Module:
            return nn.BatchNorm2d(features, eps=norm_epsilon, momentum=norm_momentum)

        self.norm = norm(filters)
        self.act = activation_of(activation, filters)  # None has no child, and leaves old checkpoints as they are
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != filters:
            self.shortcut = _SHORTCUTS[shortcut](channels, filters, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        """Maps `x` of shape (N, channels, H, W) to (N, filters, ceil(H/stride), ceil(W/stride))."""
        y = self.norm(self.conv(x)) + self.shortcut(x)
        return y if self.act is None else self.act(y)


def _checked(
    name: str, shape: tuple[int, int, int], classes: int, widths: Sequence[int], quantization: Quantization | None
) -> tuple[int, Quantization]:
    """The channels of the images, and the quantization; checks what all these networks take."""
    quantization = Quantization() if quantization is None else quantization
    quantization.check_fields(name)
    channels, _, _ = check_shape(shape)
    check_int("classes", classes, min=1, max=MOST_UNITS)
    if not widths:
        raise HypersignError("widths must name at least one stage, the number of its filters; got none")
    for width in widths:
        check_int("widths", width, min=1, max=MOST_FILTERS)
    return channels, quantization


def _initialised(modules: "OrderedDict[str, nn.Module]") -> nn.Sequential:
    """The network of these layers, its convolutions with Xavier's initial weights."""
    model = nn.Sequential(modules)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.xavier_uniform_(module.weight)
    fit_quantizers(model)
    return model


def _resnet(
    shape: tuple[int, int, int],
    classes: int,
    widths: Sequence[int],
    depth: int,
    quantization: Quantization | None,
    norm_epsilon: float,
    norm_momentum: float,
    activation: str,
    form: str,
) -> nn.Sequential:
    channels, quantization = _checked(f"resnet{2 + depth * len(widths)}", shape, classes, widths, quantization)
    check_norm(norm_epsilon, norm_momentum)
    check_choice("form", form, FORMS)
    shortcut = {"bi-real": "average", "recu": "padded", "adabin": "subsampled" if depth == 6 else "strided"}[form]
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    modules["conv"] = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)
    modules["norm"] = nn.BatchNorm2d(widths[0], eps=norm_epsilon, momentum=norm_momentum)
    channels = widths[0]
    function = activation_of(activation, channels)
    if form != "bi-real" and function is not None:
        modules["act"] = function
    for stage, filters in enumerate(widths, start=1):
        for i in range(1, depth + 1):
            modules[f"stage{stage}_block{i}"] = BinaryBlock(
                channels,
                filters,
                stride=2 if stage > 1 and i == 1 else 1,
                input_quantizer=quantization.input_quantizer(),
                weight_quantizer=quantization.weight_quantizer(),
                norm_epsilon=norm_epsilon,
                norm_momentum=norm_momentum,
                activation=activation,
                shortcut=shortcut,
            )
            channels = filters
    modules["pool"] = nn.AdaptiveAvgPool2d(1)
    modules["flatten"] = nn.Flatten()
    if form != "bi-real":
        modules["last_norm"] = nn.BatchNorm1d(channels, eps=norm_epsilon, momentum=norm_momentum)
    modules["fc"] = nn.Linear(channels, classes)
    return _initialised(modules)


def resnet20(
    shape: tuple[int, int, int] = (3, 32, 32),
    classes: int = 10,
    quantization: Quantization | None = None,
    *,
    widths: Sequence[int] = (16, 32, 64),
    norm_epsilon: float = 1e-5,
    norm_momentum: float = 0.1,
    activation: str = "none",
    form: str = "bi-real",
) -> nn.Sequential:
    """ResNet-20 for small images: a float stem, three stages of six binary convolutions, a float classifier.

    Source: He et al. 2016 (arXiv 1512.03385), section 4.2, with a shortcut around every convolution. The first layer
    and the classifier have float weights and inputs in every form; in `form`

    - "bi-real" (Bi-Real Net, ReActNet), a shortcut that changes size is average pooling, a float 1x1 convolution and
      batch norm;
    - "recu" (ReCU, RBNN), it is average pooling and channels of zeros. The activation function also follows the first
      batch norm, and a batch norm comes before the classifier;
    - "adabin" (AdaBin), likewise, but every second pixel takes the place of average pooling. In `resnet18` it is a
      strided float 1x1 convolution with batch norm.

    Figures of the papers are for `activation` "hardtanh" in ReCU's form, "maxout" in AdaBin's, and "rprelu" in
    ReActNet's, which has Bi-Real's shortcuts: `hypersign train --method` sets them.

    Args:
        shape: the shape (channels, height, width) of the images; any size.
        classes: the number of logits.
        quantization: the quantizers of weights and inputs; signs if None.
        widths: the number of filters of each stage; stages after the first halve the size.
        norm_epsilon: the epsilon of batch norm.
        norm_momentum: the momentum of batch norm.
        activation: what follows each block: "none", "hardtanh", "rprelu" (ReActNet) or "maxout" (AdaBin).
        form: the paper that draws it: "bi-real", "recu" or "adabin".

    Raises:
        HypersignError: an argument is outside its range.

    >>> from hypersign.layers import quant_layers
    >>> len(quant_layers(resnet20()))
    18
    """
    return _resnet(shape, classes, widths, 6, quantization, norm_epsilon, norm_momentum, activation, form)


def resnet18(
    shape: tuple[int, int, int] = (3, 32, 32),
    classes: int = 10,
    quantization: Quantization | None = None,
    *,
    widths: Sequence[int] = (64, 128, 256, 512),
    norm_epsilon: float = 1e-5,
    norm_momentum: float = 0.1,
    activation: str = "none",
    form: str = "bi-real",
) -> nn.Sequential:
    """ResNet-18 with a stem for small images: four stages of four binary convolutions; arguments as in `resnet20`.

    >>> from hypersign.layers import quant_layers
    >>> len(quant_layers(resnet18()))
    16
    """
    return _resnet(shape, classes, widths, 4, quantization, norm_epsilon, norm_momentum, activation, form)


REACTNET_A = (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
"""Filters of the first convolution and of each block."""


def reactnet_a(
    shape: tuple[int, int, int] = (3, 32, 32),
    classes: int = 10,
    quantization: Quantization | None = None,
    *,
    widths: Sequence[int] = REACTNET_A,
    norm_epsilon: float = 1e-5,
    norm_momentum: float = 0.1,
    activation: str = "rprelu",
) -> nn.Sequential:
    """ReActNet-A: MobileNet's widths, each block a binary 3x3 and a binary 1x1 convolution with shortcuts.

        x1 = act(norm(conv3x3(x)) + x),    y = act(norm(conv1x1(x1)) + x1)

    A block that doubles the width halves the image, but for the first: the 3x3 convolution has stride 2 and the
    shortcut average pooling; around the 1x1 convolution the shortcut has each channel twice. The first convolution
    and the classifier have float weights and inputs. The first convolution halves images of 64 pixels and more, as
    for ImageNet's 224; smaller ones keep their size.
    With `Quantization(Sign(scale=MeanScale()), ShiftedSign())`, which `--method reactnet` sets, it is the paper's.
    Source: Liu et al. 2020 (ReActNet, arXiv 2003.03488), figure 5; its public code.

    Args:
        shape: the shape (channels, height, width) of the images; any size.
        classes: the number of logits.
        quantization: the quantizers of weights and inputs; signs if None.
        widths: the filters of the first convolution, then of each block: the width before it, or twice that.
        norm_epsilon: the epsilon of batch norm.
        norm_momentum: the momentum of batch norm.
        activation: what follows each sum: "rprelu" (the paper), "none", "hardtanh" or "maxout".

    Raises:
        HypersignError: an argument is outside its range.

    >>> from hypersign.layers import quant_layers
    >>> len(quant_layers(reactnet_a()))
    26
    """
    channels, quantization = _checked("reactnet-a", shape, classes, widths, quantization)
    check_norm(norm_epsilon, norm_momentum)
    for before, after in itertools.pairwise(widths):
        if after not in (before, 2 * before):
            raise HypersignError(
                f"widths of reactnet-a must each be the width before or twice that; got {after} after {before}"
            )
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    stride = 2 if min(shape[1:]) >= 64 else 1
    modules["conv"] = nn.Conv2d(channels, widths[0], 3, stride=stride, padding=1, bias=False)
    modules["norm"] = nn.BatchNorm2d(widths[0], eps=norm_epsilon, momentum=norm_momentum)
    for i, (before, after) in enumerate(itertools.pairwise(widths), start=1):
        for size, filters, stride in ((3, before, 2 if i > 1 and after != before else 1), (1, after, 1)):
            modules[f"block{i}_{size}x{size}"] = BinaryBlock(
                before,
                filters,
                stride=stride,
                input_quantizer=quantization.input_quantizer(),
                weight_quantizer=quantization.weight_quantizer(),
                norm_epsilon=norm_epsilon,
                norm_momentum=norm_momentum,
                activation=activation,
                filter_size=size,
                shortcut="repeated",
            )
    modules["pool"] = nn.AdaptiveAvgPool2d(1)
    modules["flatten"] = nn.Flatten()
    modules["fc"] = nn.Linear(widths[-1], classes)
    return _initialised(modules)
