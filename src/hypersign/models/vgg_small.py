"""VGG-small, the network for small images that most papers on binary networks report."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from hypersign._checks import HypersignError, check_int
from hypersign.layers import QuantConv2d, QuantLinear, fit_quantizers
from hypersign.layers import activation as activation_of
from hypersign.models.norm import check_norm
from hypersign.models.shapes import MOST_FILTERS, MOST_UNITS, check_shape
from hypersign.quantizers import Quantization

__all__ = ["vgg_small"]


def vgg_small(
    shape: tuple[int, int, int] = (3, 32, 32),
    classes: int = 10,
    quantization: Quantization | None = None,
    *,
    widths: Sequence[int] = (128, 128, 256, 256, 512, 512),
    float_first: bool = True,
    float_last: bool = True,
    norm_epsilon: float = 1e-5,
    norm_momentum: float = 0.1,
    activation: str = "hardtanh",
) -> nn.Sequential:
    """VGG-small: six 3x3 convolutions and one fully connected layer.

        image -> [conv -> max pool (after every second) -> batch norm -> act] ... -> flatten -> fc -> logits

    The first convolution and the classifier have float weights and inputs, as in the public code of IR-Net, RBNN and
    ReCU; all convolutions between have quantized weights and inputs. The children are named `conv1`, `norm1`, `act1`,
    `conv2`, `pool2`, ..., `flatten`, `fc`. The defaults have 4,660,106 parameters, and 603,979,776 of
    607,600,640 multiply-accumulates per image are binary.

    Args:
        shape: the shape (channels, height, width) of the images.
        classes: the number of logits.
        quantization: the quantizers of weights and inputs; signs if None.
        widths: the number of filters of each convolution.
        float_first: whether `conv1` has float weights. If not, its products are 8-bit pixels times 1 bit.
        float_last: whether `fc` has float weights and inputs, and a bias. If not, it quantizes both, and a batch norm
            follows it.
        norm_epsilon: the epsilon of batch norm.
        norm_momentum: the momentum of batch norm.
        activation: what follows each batch norm: "hardtanh" (IR-Net, ReCU), "maxout" (AdaBin), "rprelu" or "none".

    Raises:
        HypersignError: an argument is outside its range.

    Source: Zhang et al. 2018 (LQ-Nets, arXiv 1807.10029), who named it; the public code of IR-Net.

    >>> sum(p.numel() for p in vgg_small().parameters())
    4660106
    """
    quantization = Quantization() if quantization is None else quantization
    quantization.check_fields("vgg-small")
    channels, height, width = check_shape(shape)
    check_int("classes", classes, min=1, max=MOST_UNITS)
    check_norm(norm_epsilon, norm_momentum)
    if not widths:
        raise HypersignError("widths must name at least one convolution, the number of its filters; got none")
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    for i, filters in enumerate(widths, start=1):
        check_int("widths", filters, min=1, max=MOST_FILTERS)
        if i == 1 and float_first:
            modules["conv1"] = nn.Conv2d(channels, filters, 3, padding=1, bias=False)
        else:
            modules[f"conv{i}"] = QuantConv2d(
                channels,
                filters,
                3,
                padding=1,
                bias=False,
                input_quantizer=quantization.input_quantizer() if i > 1 else None,
                weight_quantizer=quantization.weight_quantizer(),
            )
        if i % 2 == 0:
            modules[f"pool{i}"] = nn.MaxPool2d(2, ceil_mode=True)
            height, width = -(-height // 2), -(-width // 2)
        modules[f"norm{i}"] = nn.BatchNorm2d(filters, eps=norm_epsilon, momentum=norm_momentum)
        function = activation_of(activation, filters)
        if function is not None:
            modules[f"act{i}"] = function
        channels = filters
    modules["flatten"] = nn.Flatten()
    features = channels * height * width
    if float_last:
        modules["fc"] = nn.Linear(features, classes)
    else:
        inputs, weights = quantization.input_quantizer(), quantization.weight_quantizer()
        modules["fc"] = QuantLinear(features, classes, False, input_quantizer=inputs, weight_quantizer=weights)
        modules["last_norm"] = nn.BatchNorm1d(classes, eps=norm_epsilon, momentum=norm_momentum)
    model = nn.Sequential(modules)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight)
    fit_quantizers(model)
    return model
