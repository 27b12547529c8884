"""Residual networks with binary blocks and a shortcut around every convolution (Bi-Real Net)."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from hypersign._checks import HypersignError, check_int
from hypersign.layers import QuantConv2d, fit_quantizers
from hypersign.layers import activation as activation_of
from hypersign.models.norm import check_norm
from hypersign.models.shapes import MOST_FILTERS, MOST_UNITS, check_shape
from hypersign.quantizers import Quantization, Quantizer

__all__ = ["BinaryBlock", "resnet18", "resnet20"]


class BinaryBlock(nn.Module):
    """One quantized convolution with a real-valued shortcut around it.

        y = act(norm(conv(x)) + shortcut(x))            act: the identity, or an activation function

    The shortcut is the identity. If the size or width changes, it is average pooling and a float 1x1 convolution with
    batch norm. So real values reach every block.
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
    ) -> None:
        super().__init__()
        self.conv = QuantConv2d(
            channels,
            filters,
            3,
            stride=stride,
            padding=1,
            bias=False,
            input_quantizer=input_quantizer,
            weight_quantizer=weight_quantizer,
        )
        self.norm = nn.BatchNorm2d(filters, eps=norm_epsilon, momentum=norm_momentum)
        self.act = activation_of(activation, filters)  # None has no child, and leaves old checkpoints as they are
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != filters:
            # ceil_mode gives odd sizes the same result as in a strided, padded convolution.
            self.shortcut = nn.Sequential(
                nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False) if stride > 1 else nn.Identity(),
                nn.Conv2d(channels, filters, 1, bias=False),
                nn.BatchNorm2d(filters, eps=norm_epsilon, momentum=norm_momentum),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Maps `x` of shape (N, channels, H, W) to (N, filters, ceil(H/stride), ceil(W/stride))."""
        y = self.norm(self.conv(x)) + self.shortcut(x)
        return y if self.act is None else self.act(y)


def _resnet(
    shape: tuple[int, int, int],
    classes: int,
    widths: Sequence[int],
    depth: int,
    quantization: Quantization | None,
    norm_epsilon: float,
    norm_momentum: float,
    activation: str,
) -> nn.Sequential:
    quantization = Quantization() if quantization is None else quantization
    quantization.check_fields(f"resnet{2 + depth * len(widths)}")
    channels, _, _ = check_shape(shape)
    check_int("classes", classes, min=1, max=MOST_UNITS)
    check_norm(norm_epsilon, norm_momentum)
    if not widths:
        raise HypersignError("widths must name at least one stage, the number of its filters; got none")
    for width in widths:
        check_int("widths", width, min=1, max=MOST_FILTERS)
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    modules["conv"] = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)
    modules["norm"] = nn.BatchNorm2d(widths[0], eps=norm_epsilon, momentum=norm_momentum)
    channels = widths[0]
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
            )
            channels = filters
    modules["pool"] = nn.AdaptiveAvgPool2d(1)
    modules["flatten"] = nn.Flatten()
    modules["fc"] = nn.Linear(channels, classes)
    model = nn.Sequential(modules)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.xavier_uniform_(module.weight)
    fit_quantizers(model)
    return model


def resnet20(
    shape: tuple[int, int, int] = (3, 32, 32),
    classes: int = 10,
    quantization: Quantization | None = None,
    *,
    widths: Sequence[int] = (16, 32, 64),
    norm_epsilon: float = 1e-5,
    norm_momentum: float = 0.1,
    activation: str = "none",
) -> nn.Sequential:
    """ResNet-20 for small images: a float stem, three stages of six binary convolutions, a float classifier.

    Source: He et al. 2016 (arXiv 1512.03385), section 4.2, with the shortcuts of Bi-Real Net.

    Args:
        shape: the shape (channels, height, width) of the images; any size.
        classes: the number of logits.
        quantization: the quantizers of weights and inputs; signs if None.
        widths: the number of filters of each stage; stages after the first halve the size.
        norm_epsilon: the epsilon of batch norm.
        norm_momentum: the momentum of batch norm.
        activation: what follows each block: "none", "hardtanh", "rprelu" (ReActNet) or "maxout" (AdaBin).

    Raises:
        HypersignError: an argument is outside its range.

    >>> from hypersign.layers import quant_layers
    >>> len(quant_layers(resnet20()))
    18
    """
    return _resnet(shape, classes, widths, 6, quantization, norm_epsilon, norm_momentum, activation)


def resnet18(
    shape: tuple[int, int, int] = (3, 32, 32),
    classes: int = 10,
    quantization: Quantization | None = None,
    *,
    widths: Sequence[int] = (64, 128, 256, 512),
    norm_epsilon: float = 1e-5,
    norm_momentum: float = 0.1,
    activation: str = "none",
) -> nn.Sequential:
    """ResNet-18 with a stem for small images: four stages of four binary convolutions; arguments as in `resnet20`.

    >>> from hypersign.layers import quant_layers
    >>> len(quant_layers(resnet18()))
    16
    """
    return _resnet(shape, classes, widths, 4, quantization, norm_epsilon, norm_momentum, activation)
