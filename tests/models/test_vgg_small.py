"""VGG-small: the layers that papers publish, at any size, with float ends or without."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hypersign._checks import HypersignError
from hypersign.layers import QuantConv2d, QuantLinear, quant_layers
from hypersign.models import build, vgg_small
from hypersign.quantizers import Quantization, Sign, Ternary
from hypersign.summaries import summary


def images(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_the_published_network() -> None:
    """4.66 million parameters, as in IR-Net's public code; only the two ends are float."""
    model = vgg_small()
    convolutions = 9 * (3 * 128 + 128 * 128 + 128 * 256 + 256 * 256 + 256 * 512 + 512 * 512)
    norms = 2 * (128 + 128 + 256 + 256 + 512 + 512)
    assert sum(p.numel() for p in model.parameters()) == convolutions + norms + 8192 * 10 + 10 == 4_660_106
    assert list(quant_layers(model)) == ["conv2", "conv3", "conv4", "conv5", "conv6"]
    assert type(model.conv1) is nn.Conv2d
    assert type(model.fc) is nn.Linear
    assert summary(model, (3, 32, 32)).total.binary_macs == 603_979_776
    assert summary(model, (3, 32, 32)).binary_share > 0.99
    assert sum(p.numel() for p in vgg_small(classes=100).parameters()) == 4_660_106 + 90 * 8193


def test_matches_a_naive_writing() -> None:
    """In the order of IR-Net's public code: convolution, pool, batch norm, Hardtanh."""
    torch.manual_seed(0)
    model = vgg_small((3, 9, 10), 4, widths=(4, 5, 6)).eval()
    norms = [module for module in model if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.normal_(norm.running_mean)
        nn.init.normal_(norm.weight)
    x = images(2, 3, 9, 10)
    y = F.hardtanh(norms[0](F.conv2d(x, model.conv1.weight, padding=1)))
    for i in (2, 3):
        signs = torch.where(y >= 0, 1.0, -1.0)
        weight = torch.where(model.get_submodule(f"conv{i}").weight >= 0, 1.0, -1.0)
        y = F.conv2d(signs, weight, padding=1)
        if i == 2:
            y = F.max_pool2d(y, 2, ceil_mode=True)
        y = F.hardtanh(norms[i - 1](y))
    torch.testing.assert_close(model(x), model.fc(y.flatten(1)))


def test_ends_that_are_quantized() -> None:
    model = vgg_small(
        (1, 8, 8), 3, Quantization(Ternary(0.1), Sign()), widths=(4,), float_first=False, float_last=False
    )
    assert isinstance(model.conv1, QuantConv2d)
    assert not model.conv1.quantizes_inputs  # 8-bit pixels times levels
    assert isinstance(model.fc, QuantLinear)
    assert type(model.fc.input_quantizer) is Sign
    assert type(model.fc.weight_quantizer) is Ternary
    assert model.fc.bias is None
    assert model(images(2, 1, 8, 8)).shape == (2, 3)


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (28, 28)], ids=str)
def test_any_size(size: tuple[int, int]) -> None:
    model = build("vgg-small", (3, *size), 7, widths=[4, 4, 6])
    model(images(2, 3, *size)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": ()}, "widths must name at least one convolution"),
        ({"widths": (0,)}, "widths must be an integer from 1"),
        ({"activation": "relu6"}, "activation must be one of none, hardtanh"),
        ({"quantization": Quantization(first_layer="haar")}, "vgg-small has no first_layer"),
    ],
)
def test_errors(options: dict, message: str) -> None:
    with pytest.raises(HypersignError, match=message):
        vgg_small(**options)
