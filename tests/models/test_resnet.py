"""Residual networks of binary blocks: shapes at any size, and a block written out in plain torch."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hypersign._checks import HypersignError
from hypersign.layers import quant_layers
from hypersign.models import BinaryBlock, ChannelCopies, build, reactnet_a
from hypersign.quantizers import MeanScale, Optimal, Polynomial, Quantization, ShiftedSign, Sign, Ternary
from hypersign.summaries import summary


def resnet20(shape=(3, 32, 32), classes=10, **options):
    """The network by its plain options."""
    return build("resnet20", shape, classes, **options)


def resnet18(shape=(3, 32, 32), classes=10, **options):
    """The network by its plain options."""
    return build("resnet18", shape, classes, **options)


SMALL = {"widths": (4, 6, 8)}


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (7, 9), (8, 8), (28, 28), (33, 32)], ids=str)
@pytest.mark.parametrize("channels", [1, 3])
def test_any_size_and_channels(channels: int, size: tuple[int, int]) -> None:
    model = resnet20((channels, *size), 7, **SMALL)
    sizes = {}
    for name, module in model.named_children():
        module.register_forward_hook(lambda _, __, y, name=name: sizes.update({name: tuple(y.shape[1:])}))
    y = model(images(2, channels, *size))
    assert y.shape == (2, 7)
    y.sum().backward()
    height, width = size
    for stage, filters in enumerate((4, 6, 8), start=1):
        if stage > 1:  # halved, rounded up
            height, width = (height + 1) // 2, (width + 1) // 2
        assert sizes[f"stage{stage}_block6"] == (filters, height, width)


def test_the_networks_of_the_papers() -> None:
    twenty = quant_layers(resnet20())
    assert [layer.fan_in for layer in twenty.values()] == [144] * 7 + [288] * 6 + [576] * 5
    assert [layer.filters for layer in twenty.values()] == [16] * 6 + [32] * 6 + [64] * 6
    eighteen = quant_layers(resnet18())
    assert [layer.filters for layer in eighteen.values()] == [64] * 4 + [128] * 4 + [256] * 4 + [512] * 4
    # 11.2 million parameters as in He et al., stem and classifier in float
    assert sum(layer.weight.numel() for layer in eighteen.values()) == 10_985_472
    assert type(resnet18().conv) is nn.Conv2d
    assert type(resnet18().fc) is nn.Linear


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_parameter_counts_of_the_published_networks() -> None:
    """He's counts: 269,722 for ResNet-20 without weights in shortcuts, 11,173,962 for ResNet-18 with them. ReCU's and
    AdaBin's forms add a batch norm of the last channels."""
    assert parameters(resnet20(form="recu")) == parameters(resnet20(form="adabin")) == 269_722 + 2 * 64
    assert parameters(resnet18()) == 11_173_962
    assert parameters(resnet18(form="adabin")) == 11_173_962 + 2 * 512
    assert parameters(resnet18(form="recu")) == 11_173_962 + 2 * 512 - (172_032 + 2 * (128 + 256 + 512))
    # ReActNet's table: 4.82e9 binary and 0.12e8 float multiply-accumulates for images of 224 x 224
    quantization = Quantization(Sign(scale=MeanScale()), ShiftedSign())
    model = reactnet_a((3, 224, 224), 1000, quantization)
    macs = summary(model, (3, 224, 224)).total
    assert round(macs.binary_macs / 1e9, 2) == 4.82
    assert round(macs.float_macs / 1e8, 2) == 0.12
    shifts = sum(layer.input_quantizer.beta.numel() for layer in quant_layers(model).values())
    assert shifts == 2 * sum(layer.filters for name, layer in quant_layers(model).items() if "3x3" in name)


@pytest.mark.parametrize("form", ["recu", "adabin"])
@pytest.mark.parametrize("make", [resnet20, resnet18])
def test_forms_match_a_naive_writing(make, form: str) -> None:
    """The network in functions of torch, with the shortcut that the form's public code has."""
    torch.manual_seed(0)
    model = make((3, 9, 7), 5, widths=[4, 8], form=form, activation="hardtanh").eval()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    x = images(3, 3, 9, 7)

    def signs(y: Tensor) -> Tensor:
        return torch.where(y >= 0, 1.0, -1.0)

    y = F.hardtanh(model.norm(model.conv(x)))
    for name, block in model.named_children():
        if not name.startswith("stage"):
            continue
        shortcut = y
        if name == "stage2_block1":
            if form == "recu":
                shortcut = F.avg_pool2d(y, 2, ceil_mode=True)
            elif make is resnet20:
                shortcut = y[:, :, ::2, ::2]
            if form == "adabin" and make is resnet18:
                shortcut = block.shortcut[1](F.conv2d(y, block.shortcut[0].weight, stride=2))
            else:
                shortcut = F.pad(shortcut, (0, 0, 0, 0, 2, 2))  # as many zeros before as after
        stride = 2 if name == "stage2_block1" else 1
        product = F.conv2d(signs(y), signs(block.conv.weight), stride=stride, padding=1)
        y = F.hardtanh(block.norm(product) + shortcut)
    expected = model.fc(model.last_norm(y.mean((2, 3))))
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)


def test_reactnet_a_matches_a_naive_writing() -> None:
    """As its public code: two 1x1 convolutions side by side where the width doubles."""
    torch.manual_seed(0)
    model = reactnet_a((3, 8, 8), 5, widths=(4, 8, 16)).eval()
    x = images(2, 3, 8, 8)
    y = model.norm(model.conv(x))
    for i, stride in ((1, 1), (2, 2)):
        three, one = (model.get_submodule(f"block{i}_{size}") for size in ("3x3", "1x1"))
        assert three.conv.stride == (stride, stride)
        shortcut = F.avg_pool2d(y, 2) if stride == 2 else y
        y = three.act(three.norm(three.conv(y)) + shortcut)
        products = one.norm(one.conv(y))
        half = y.shape[1]
        y = one.act(torch.cat([products[:, :half] + y, products[:, half:] + y], 1))
    torch.testing.assert_close(model(x), model.fc(y.mean((2, 3))))
    assert model.conv.stride == (1, 1)
    assert reactnet_a((3, 64, 80), 5, widths=(4, 4)).conv.stride == (2, 2)
    assert model.block2_1x1.act is not None


@pytest.mark.parametrize(("channels", "filters"), [(1, 1), (2, 4), (2, 5), (3, 9)])
@pytest.mark.parametrize("stride", [1, 2])
def test_copies_are_a_convolution_with_their_matrix(channels: int, filters: int, stride: int) -> None:
    x = images(2, channels, 5, 4)
    for repeat in [False] if filters % channels else [False, True]:
        copies = ChannelCopies(channels, filters, stride=stride, repeat=repeat)
        expected = F.conv2d(x, copies.matrix()[:, :, None, None], stride=stride)
        assert torch.equal(copies(x), expected)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet20", {"widths": (8, 4), "form": "recu"}, "needs at least 8 channels here; got 4"),
        ("resnet20", {"form": "he"}, "form must be one of bi-real, recu, adabin; got 'he'"),
        ("reactnet-a", {"widths": (4, 6)}, "the width before or twice that; got 6 after 4"),
        ("reactnet-a", {"widths": ()}, "widths must name at least one"),
    ],
)
def test_errors_of_forms(name: str, options: dict, message: str) -> None:
    with pytest.raises(HypersignError, match=message):
        build(name, (3, 8, 8), 10, **options)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("filters", [4, 6])
@pytest.mark.parametrize("size", [(6, 6), (7, 5), (1, 1)], ids=str)
def test_block_matches_a_naive_writing(size: tuple[int, int], filters: int, stride: int) -> None:
    torch.manual_seed(0)
    block = BinaryBlock(
        4,
        filters,
        stride=stride,
        input_quantizer=Sign(),
        weight_quantizer=Sign(),
        norm_epsilon=1e-5,
        norm_momentum=0.1,
    )
    x = images(5, 4, *size)
    signs = torch.where(x >= 0, 1.0, -1.0)
    weight = torch.where(block.conv.weight >= 0, 1.0, -1.0)

    def norm(y: Tensor) -> Tensor:
        return F.batch_norm(y, None, None, training=True)

    shortcut = x
    if stride == 2:  # the mean of the pixels there are, in each 2x2 window
        sums = F.pad(x, (0, size[1] % 2, 0, size[0] % 2)).unfold(2, 2, 2).unfold(3, 2, 2).sum((4, 5))
        counts = F.pad(torch.ones(1, 1, *size), (0, size[1] % 2, 0, size[0] % 2)).unfold(2, 2, 2).unfold(3, 2, 2)
        shortcut = sums / counts.sum((4, 5))
    if stride == 2 or filters != 4:
        kernel = block.shortcut[1].weight
        shortcut = norm(torch.einsum("fc,nchw->nfhw", kernel[:, :, 0, 0], shortcut))
    expected = norm(F.conv2d(signs, weight, stride=stride, padding=1)) + shortcut
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "weights", "inputs"),
    [
        ({}, Sign, Sign),
        ({"levels": 3, "threshold": 0.3}, Ternary, Ternary),
        ({"levels": 3, "threshold": Optimal()}, Ternary, Ternary),
        ({"surrogate": Polynomial()}, Sign, Sign),
    ],
    ids=["binary", "ternary", "optimal", "polynomial"],
)
def test_options(options: dict, weights: type, inputs: type) -> None:
    model = resnet20((3, 8, 8), 10, **SMALL, **options, norm_epsilon=1e-4, norm_momentum=0.2)
    for layer in quant_layers(model).values():
        assert type(layer.weight_quantizer) is weights
        assert type(layer.input_quantizer) is inputs
        if "surrogate" in options:
            assert isinstance(layer.weight_quantizer.surrogate, Polynomial)
            assert layer.weight_quantizer.surrogate is not layer.input_quantizer.surrogate
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-4, 0.2)}
    x = images(2, 3, 8, 8)
    copied = copy.deepcopy(model).eval()
    assert torch.equal(copied(x), model.eval()(x))


@pytest.mark.parametrize("make", [resnet18, resnet20])
@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (((3, 8), 10), {}, r"shape must be \(channels, height, width\) of the images; got \(3, 8\)"),
        (((0, 8, 8), 10), {}, "must be an integer >= 1; got 0"),
        (((3, 8, 8), 0), {}, "classes must be an integer from 1 to 1048576; got 0"),
        (((3, 8, 8), 10), {"widths": (4, -1)}, "widths must be an integer from 1 to 16384; got -1"),
        (((3, 8, 8), 10), {"widths": ()}, "widths must name at least one stage"),
        (((3, 8, 8), 10), {"levels": 5}, r"levels must be 2 \(binary\) or 3 \(ternary\); got 5"),
        (((3, 8, 8), 10), {"threshold": -1}, "threshold .* must be a number >= 0 and < 1; got -1"),
    ],
)
def test_errors(make, arguments: tuple, options: dict, message: str) -> None:
    with pytest.raises(HypersignError, match=message):
        make(*arguments, **options)
