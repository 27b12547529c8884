"""The paper's network: its numbers, its options, and a second, naive writing of it in plain torch."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hypersign import theory
from hypersign._checks import HypersignError
from hypersign.layers import quant_layers
from hypersign.models import ShiftBatchNorm1d, ShiftBatchNorm2d, build
from hypersign.quantizers import Identity, Optimal, Sign, Tanh, Ternary
from hypersign.tasks import cross_entropy, squared_hinge


def vgg(shape=(3, 32, 32), classes=10, **options):
    """The network by its plain options."""
    return build("vgg", shape, classes, **options)


def mlp(shape=(1, 28, 28), classes=10, **options):
    """The network by its plain options."""
    return build("mlp", shape, classes, **options)


SMALL = {"widths": (4, 6), "pools": (2,), "hidden": (8,)}


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


# -------------------------------------------------------------------------------- the paper's numbers (recipe.md)


def test_the_papers_network() -> None:
    model = vgg()
    layers = quant_layers(model)
    assert [layer.fan_in for layer in layers.values()] == [27, 1152, 1152, 2304, 2304, 4608, 8192, 1024, 1024]
    assert [layer.filters for layer in layers.values()] == [128, 128, 256, 256, 512, 512, 1024, 1024, 10]
    assert sum(layer.weight.numel() for layer in layers.values()) == 14_022_016
    assert sum(p.numel() for p in model.parameters()) == 14_022_016 + sum(layer.filters for layer in layers.values())
    names = [
        "conv1", "norm1", "conv2", "pool2", "norm2", "conv3", "norm3", "conv4", "pool4", "norm4", "conv5", "norm5",
        "conv6", "pool6", "norm6", "flatten", "fc1", "norm7", "fc2", "norm8", "fc3", "norm9",
    ]  # fmt: skip
    assert [name for name, _ in model.named_children()] == names
    assert isinstance(model.conv1.input_quantizer, Identity)  # real pixels
    for name, layer in layers.items():
        assert isinstance(layer.weight_quantizer, Sign)
        assert name == "conv1" or isinstance(layer.input_quantizer, Sign)
        assert layer.bias is None
    for name, module in model.named_children():
        if name.startswith("norm"):
            assert isinstance(module, ShiftBatchNorm2d | ShiftBatchNorm1d)
            assert (module.eps, module.momentum) == (1e-3, 0.1)


def test_glorot_uniform_start() -> None:
    torch.manual_seed(0)
    weight = vgg().fc1.weight.detach()
    limit = (6 / (8192 + 1024)) ** 0.5
    assert weight.abs().max() <= limit
    assert weight.std().item() == pytest.approx(limit / 3**0.5, rel=1e-3)


# ---------------------------------------------------------------------------------------------------- any size


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (2, 3), (5, 5), (8, 8), (28, 28), (32, 32), (33, 31)], ids=str)
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_any_size_and_channels(channels: int, size: tuple[int, int]) -> None:
    model = vgg((channels, *size), 7, widths=(2, 3, 4), pools=(1, 2, 3), hidden=(5,))
    height, width = size
    for _ in range(3):  # 2x2 pooling of odd sizes rounds up
        height, width = (height + 1) // 2, (width + 1) // 2
    assert model.fc1.in_features == 4 * height * width
    x = images(2, channels, *size)
    y = model(x)
    assert y.shape == (2, 7)
    y.sum().backward()
    assert model.eval()(x).shape == (2, 7)


@pytest.mark.parametrize("filter_size", [1, 3, 5, 7])
def test_filter_size_keeps_the_image_size(filter_size: int) -> None:
    model = vgg((2, 6, 5), 3, **{**SMALL, "pools": ()}, filter_size=filter_size)
    assert model.conv2.fan_in == 4 * filter_size**2
    assert model.fc1.in_features == 6 * 6 * 5
    assert model(images(2, 2, 6, 5)).shape == (2, 3)


def test_without_padding_the_network_is_cnv() -> None:
    """FINN's CNV: 64-64-pool-128-128-pool-256-256 without padding leaves one pixel of 256 channels."""
    model = vgg(widths=(64, 64, 128, 128, 256, 256), pools=(2, 4), hidden=(512, 512), padding="valid")
    assert [layer.fan_in for layer in quant_layers(model).values()] == [27, 576, 576, 1152, 1152, 2304, 256, 512, 512]
    assert {layer.padding for layer in quant_layers(model).values() if hasattr(layer, "padding")} == {(0, 0)}
    assert model(images(2, 3, 32, 32)).shape == (2, 10)
    with pytest.raises(HypersignError, match="conv2 needs images of at least 3 x 3; its inputs are 2 x 3"):
        vgg((1, 4, 5), padding="valid")


def test_padding_by_ones_surrounds_signs_only() -> None:
    model = vgg((2, 6, 5), 3, **SMALL, padding="ones")
    assert (model.conv1.pad_value, model.conv2.pad_value) == (0, 1)
    assert model.conv2.padding == (1, 1)
    assert vgg((2, 6, 5), 3, **SMALL, float_inputs=["conv2"], padding="ones").conv2.pad_value == 0


def test_no_convolutions_or_no_hidden_layers() -> None:
    assert [n for n, _ in vgg((1, 4, 4), 3, widths=(), pools=(), hidden=()).named_children()] == [
        "flatten",
        "fc1",
        "norm1",
    ]
    model = mlp((3, 5, 7), 4, hidden=(6, 5))
    assert [layer.fan_in for layer in quant_layers(model).values()] == [105, 6, 5]
    assert [layer.fan_in for layer in quant_layers(mlp()).values()] == [784, 4096, 4096, 4096]
    assert isinstance(model.fc1.input_quantizer, Identity)
    assert model(images(2, 3, 5, 7)).shape == (2, 4)


# ------------------------------------------------------------------------------- a second writing, in plain torch


class Rule(torch.autograd.Function):
    """Levels at thresholds (a number, or one a filter) forward, hardtanh's derivative backward."""

    @staticmethod
    def forward(ctx, x, limit):
        ctx.save_for_backward(x)
        if limit is None:
            return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)
        return (x > limit).to(x.dtype) - (x < -limit).to(x.dtype)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * ((x > -1) & (x < 1)), None


def naive(
    model: nn.Sequential, x: Tensor, *, limit: float | None, optimal: bool, continuous: bool, real: tuple
) -> Tensor:
    """vgg with two convolutions (the second pooled) and two fully connected layers, batch statistics."""
    p = dict(model.named_parameters())

    def norm(y: Tensor, shift: Tensor) -> Tensor:
        axes = [0, *range(2, y.dim())]
        mean, var = y.mean(axes, keepdim=True), y.var(axes, correction=0, keepdim=True)
        return (y - mean) / (var + 1e-3).sqrt() + shift.view(1, -1, *[1] * (y.dim() - 2))

    def weight(name: str) -> Tensor:
        w = p[f"{name}.weight"]
        if name in real or (continuous and name.startswith("conv")):
            return w
        if optimal:
            deviation = w.detach().flatten(1).std(1, correction=0).view(-1, *[1] * (w.dim() - 1))
            return Rule.apply(w, theory.OPTIMAL_THRESHOLD * deviation)
        return Rule.apply(w, limit)

    def activation(y: Tensor, name: str) -> Tensor:
        if continuous and name in ("conv2", "fc1"):
            return y
        return Rule.apply(y, theory.OPTIMAL_THRESHOLD if optimal else limit)

    y = norm(F.conv2d(x, weight("conv1"), padding=1), p["norm1.bias"])
    y = F.conv2d(activation(y, "conv2"), weight("conv2"), padding=1)
    y = norm(F.max_pool2d(y, 2, ceil_mode=True), p["norm2.bias"])
    y = norm(activation(y.flatten(1), "fc1") @ weight("fc1").T, p["norm3.bias"])
    return norm(activation(y, "fc2") @ weight("fc2").T, p["norm4.bias"])


NETWORKS = {
    "binary": ({}, {"limit": None}),
    "sign-zero": ({"sign_zero": 0}, {"limit": 0.0}),
    "ternary": ({"levels": 3}, {"limit": 0.02}),
    "ternary-threshold": ({"levels": 3, "threshold": 0.2}, {"limit": 0.2}),
    "ternary-optimal": ({"levels": 3, "threshold": Optimal()}, {"optimal": True}),
    "continuous": ({"continuous": True}, {"continuous": True}),
    "continuous-ternary": ({"continuous": True, "levels": 3, "threshold": 0.1}, {"continuous": True, "limit": 0.1}),
    "float-weights": ({"float_weights": ("conv2", "fc2")}, {"real": ("conv2", "fc2")}),
}


@pytest.mark.parametrize(("options", "rules"), NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("loss", ["softmax", "squared-hinge"])
def test_logits_and_gradients_match_a_naive_writing(options: dict, rules: dict, loss: str) -> None:
    torch.manual_seed(3)
    model = vgg((3, 7, 7), 5, **SMALL, **options).double()
    twin = copy.deepcopy(model)
    for module in (model, twin):  # weights and shifts at random, some beyond the clip
        generator = torch.Generator().manual_seed(4)
        for parameter in module.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.6
    x, labels = images(9, 3, 7, 7).double(), torch.arange(9) % 5
    ours = model(x)
    theirs = naive(twin, x, **{"limit": None, "optimal": False, "continuous": False, "real": (), **rules})
    torch.testing.assert_close(ours, theirs)
    if loss == "softmax":
        cross_entropy(ours, labels).backward()
        (-theirs.softmax(1)[range(9), labels].log().mean()).backward()
    else:
        squared_hinge(ours, labels).backward()
        targets = 2.0 * torch.eye(5, dtype=torch.float64)[labels] - 1
        torch.relu(1 - targets * theirs).pow(2).mean().backward()
    for (name, mine), expected in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert expected.grad.abs().max() > 0, name
        torch.testing.assert_close(mine.grad, expected.grad, msg=name)


# ----------------------------------------------------------------------------------------------------- options


def kinds(model: nn.Module, side: str) -> dict[str, type]:
    return {name: type(getattr(layer, side)) for name, layer in model.named_children() if hasattr(layer, side)}


def test_continuous_leaves_only_the_fully_connected_weights() -> None:
    model = vgg((3, 8, 8), 10, **SMALL, continuous=True)
    assert kinds(model, "weight_quantizer") == {"conv1": Identity, "conv2": Identity, "fc1": Sign, "fc2": Sign}
    assert kinds(model, "input_quantizer") == {"conv1": Identity, "conv2": Identity, "fc1": Identity, "fc2": Sign}


def test_layers_with_float_weights_or_inputs() -> None:
    model = vgg((3, 8, 8), 10, **SMALL, levels=3, float_weights=["conv1"], float_inputs=["fc2"])
    assert kinds(model, "weight_quantizer") == {"conv1": Identity, "conv2": Ternary, "fc1": Ternary, "fc2": Ternary}
    assert kinds(model, "input_quantizer") == {"conv1": Identity, "conv2": Ternary, "fc1": Ternary, "fc2": Identity}


def test_optimal_thresholds_of_weights_and_inputs() -> None:
    model = vgg((3, 8, 8), 10, **SMALL, levels=3, threshold=Optimal())
    assert model.conv2.weight_quantizer.threshold == Optimal()
    assert model.conv2.input_quantizer.threshold == theory.OPTIMAL_THRESHOLD


@pytest.mark.parametrize("scale", [True, False])
def test_norm_options(scale: bool) -> None:
    model = vgg((3, 8, 8), 10, **SMALL, norm_scale=scale, norm_epsilon=1e-4, norm_momentum=0.01)
    for i in range(1, 5):
        assert (f"norm{i}.weight" in model.state_dict()) == scale
        norm = model.get_submodule(f"norm{i}")
        assert (norm.eps, norm.momentum) == (1e-4, 0.01)
    assert ("norm1.weight" in dict(model.named_parameters())) == scale


def test_each_quantizer_has_a_surrogate_of_its_own() -> None:
    surrogate = Tanh()
    model = vgg((3, 8, 8), 10, **SMALL, surrogate=surrogate)
    held = [module for module in model.modules() if isinstance(module, Tanh)]
    assert len({id(s) for s in [*held, surrogate]}) == 8


def test_copies_and_states() -> None:
    model = vgg((3, 8, 8), 10, **SMALL)
    copied = copy.deepcopy(model)
    x = images(3, 3, 8, 8)
    model.eval()
    copied.eval()
    assert torch.equal(model(x), copied(x))
    other = vgg((3, 8, 8), 10, **SMALL).eval()
    other.load_state_dict(model.state_dict())
    assert torch.equal(model(x), other(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": 4}, r"levels must be 2 \(binary\) or 3 \(ternary\); got 4"),
        ({"threshold": 1.0}, "threshold .* must be a number >= 0 and < 1; got 1"),
        ({"filter_size": 4}, "filter_size must be odd"),
        ({"filter_size": 0}, "filter_size must be an integer from 1 to 255; got 0"),
        ({"widths": (4, 0)}, "widths and hidden must be an integer from 1 to 16384; got 0"),
        ({"hidden": (2.5,)}, r"hidden of vgg must be of the kind Sequence.int.; got .2.5"),
        ({"pools": (3,)}, "pools .* must be an integer from 1 to 2; got 3"),
        ({"sign_zero": 2}, "zero, the level of 0, must be 1 or 0; got 2"),
        ({"surrogate": "cubic"}, "surrogate must be one of hardtanh, polynomial, .*; got .?cubic"),
        (
            {"float_weights": ["conv3"], "float_inputs": ["fc9"]},
            r"must name layers of this network \(conv1, conv2, fc1, fc2\); got conv3, fc9",
        ),
    ],
    ids=str,
)
def test_errors(options: dict, message: str) -> None:
    with pytest.raises(HypersignError, match=message):
        vgg((3, 8, 8), 10, **{**SMALL, **options})


@pytest.mark.parametrize("make", [vgg, mlp])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((3, 8), 10), r"shape must be \(channels, height, width\) of the images; got \(3, 8\)"),
        (((3, 0, 8), 10), "must be an integer >= 1; got 0"),
        (((3, 8, 8.0), 10), "must be an integer >= 1; got 8.0"),
        (((3, 8, 8), 0), "classes must be an integer from 1 to 1048576; got 0"),
    ],
)
def test_errors_of_shape_and_classes(make, arguments: tuple, message: str) -> None:
    with pytest.raises(HypersignError, match=message):
        make(*arguments)


# ----------------------------------------------------------------------------------------------------- remedies


@pytest.mark.parametrize(
    ("options", "fan_in", "channels"),
    [
        ({"first_layer": "thermometer"}, 3 * 8 * 9, 24),
        ({"first_layer": "thermometer", "first_dimensions": 3}, 3 * 3 * 9, 9),
        ({"first_layer": "bit-planes", "pixel_range": (0.0, 1.0)}, 3 * 8 * 9, 24),
        ({"first_layer": "haar"}, 64, 64),
        ({"first_layer": "hadamard", "first_dimensions": 128}, 128, 128),
        ({"first_layer": "hadamard", "first_dimensions": 20, "filter_size": 5}, 20, 20),
    ],
    ids=str,
)
def test_first_layers_of_levels(options, fan_in, channels) -> None:
    model = vgg((3, 12, 8), **SMALL, **options)
    seen = []
    model.conv1.register_forward_hook(lambda layer, x, y: seen.append((layer.input_quantizer(x[0]), y)))
    assert model(images(5, 3, 12, 8)).shape == (5, 10)
    x, y = seen[0]
    assert (model.conv1.fan_in, x.shape[1]) == (fan_in, channels)
    assert set(x.unique().tolist()) == {-1.0, 1.0}
    assert y.shape[2:] == (12, 8)
    assert torch.equal(y, y.round())  # sums of levels
    model(images(5, 3, 12, 8)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_rotated_patches_may_stay_real() -> None:
    model = vgg((1, 8, 8), **SMALL, first_layer="haar", float_inputs=("conv1",))
    assert isinstance(model.conv1.input_quantizer, Identity)
    assert isinstance(vgg((1, 8, 8), **SMALL, first_layer="haar").conv1.input_quantizer, Sign)


def test_scales_of_weights() -> None:
    assert repr(vgg((1, 8, 8), **SMALL).conv2.weight_quantizer.scale) == "None"
    for name, layer in quant_layers(vgg((1, 8, 8), **SMALL, weight_scale="filter")).items():
        assert layer.weight_scale().shape == (layer.filters,), name
        assert getattr(layer.input_quantizer, "scale", None) is None
    layer = vgg((1, 8, 8), **SMALL, levels=3, threshold=Optimal(), weight_scale=5).fc1
    assert (layer.weight_quantizer.size, type(layer.weight_quantizer.quantizer)) == (5, Ternary)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"first_layer": "fourier"}, "first_layer must be one of plain, thermometer, bit-planes, haar, hadamard"),
        ({"first_layer": "bit-planes", "first_dimensions": 4}, "cannot be set for bit planes; there are always 8"),
        ({"first_dimensions": 4}, "can be set only for the first layers thermometer"),
        ({"first_layer": "haar", "widths": (), "pools": ()}, "needs a convolution after it; this network has none"),
        ({"first_layer": "thermometer", "pixel_range": (1.0, 0.0)}, "pixel_range must be"),
        ({"weight_scale": "channel"}, r"weight_scale \(or the number of weights in a group\) must be one of filter"),
        ({"weight_scale": 0}, "size of a group must be an integer >= 1; got 0"),
    ],
    ids=str,
)
def test_refuses_remedies(options, message) -> None:
    with pytest.raises(HypersignError, match=message):
        vgg((1, 8, 8), **(SMALL | options))
