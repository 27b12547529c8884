"""Packed networks against the float networks they come from."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hypersign._checks import HypersignError
from hypersign.layers import QuantConv2d, QuantLinear
from hypersign.models import build, mlp, resnet18
from hypersign.packed import PackedModel
from hypersign.packing import file_size, fold, pack, verify
from hypersign.quantizers import Identity, MeanScale, Optimal, Quantizer, Sign, Ternary


def vgg(shape=(3, 32, 32), classes=10, **options):
    """The network by its plain options."""
    return build("vgg", shape, classes, **options)


def resnet20(shape=(3, 32, 32), classes=10, **options):
    """The network by its plain options."""
    return build("resnet20", shape, classes, **options)


SHAPE = (3, 9, 9)
SMALL: dict[str, Any] = {"widths": (16, 8, 70), "pools": (2, 3), "hidden": (40,), "norm_scale": True}


def unsettle(model: nn.Module, shape: tuple[int, ...] = SHAPE) -> nn.Module:
    """Statistics of random images, scales of either sign; after the first, half the means are whole and half the
    biases 0, so that many sums meet a threshold exactly. (Sums of scaled pixels are exact in no float network.)"""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for norm in norms:
            norm.momentum = 1.0
        model.train()(torch.rand(50, *shape, generator=generator) * 2 - 1)
        for i, norm in enumerate(norms):
            n = norm.num_features
            whole = torch.rand(n, generator=generator) < (0.5 if i else 0)
            norm.running_mean.copy_(torch.where(whole, norm.running_mean.round(), norm.running_mean))
            if norm.bias is not None:
                norm.bias.copy_(~whole * torch.randn(n, generator=generator) * 0.3)
            if isinstance(norm.weight, nn.Parameter):
                norm.weight.copy_(torch.randn(n, generator=generator))
    return model.eval()


def pixels(n: int, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, *shape)).astype(np.uint8)


def scaled(images: np.ndarray, pixel_range: tuple[float, float]) -> torch.Tensor:
    low, high = pixel_range
    return torch.from_numpy(images).float().mul_((high - low) / 255).add_(low)


def assert_equal(
    model: nn.Module,
    path: Path,
    shape: tuple[int, int, int] = SHAPE,
    pixel_range: tuple[float, float] = (-1.0, 1.0),
    n: int = 20,
) -> PackedModel:
    """Packs, compares the file's size with its prediction and the logits with torch's; returns the packed model."""
    pack(model, path / "net", shape, pixel_range=pixel_range)
    assert (path / "net").stat().st_size == file_size(model, shape, pixel_range=pixel_range)
    packed = PackedModel.load(path / "net")
    images = pixels(n, shape)
    found = packed.predict(images)
    with torch.no_grad():
        expected = model(scaled(images, pixel_range)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_array_equal(found.argmax(1), expected.argmax(1))
    assert len(np.unique(expected, axis=0)) > n / 2, "a network that tells images apart"
    with pytest.MonkeyPatch.context() as patch:
        module = importlib.import_module("hypersign.packing.verify")
        patch.setattr(module._Judged, "agree", lambda self, found, expected: np.zeros(len(found[0]), bool))
        certificate = verify(model, packed, images)
    assert (certificate.logits_differ, certificate.wrong) == (n, 0), "each step is that of the float64 replica"
    return packed


OPTIONS: dict[str, dict[str, Any]] = {
    "binary": {},
    "without scale": {"norm_scale": False},
    "ternary": {"levels": 3, "threshold": 0.05},
    "ternary, optimal": {"levels": 3, "threshold": Optimal()},
    "sign of zero": {"sign_zero": 0},
    "continuous": {"continuous": True},
    "float weights": {"float_weights": ("conv1", "conv2", "fc1")},
    "float inputs": {"float_inputs": ("conv2", "fc1", "fc2")},
    "filters of 1": {"filter_size": 1},
    "filters of 5": {"filter_size": 5},
    "no pools": {"pools": ()},
    "nothing hidden": {"hidden": ()},
    "no convolutions": {"widths": (), "pools": ()},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_vgg_with_every_option(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    packed = assert_equal(unsettle(vgg(SHAPE, 5, **{**SMALL, **OPTIONS[name]})), tmp_path)
    if name in ("binary", "without scale", "ternary", "ternary, optimal", "sign of zero"):
        assert packed.float_nodes == ("norm5",), "all but the logits is integers"


@pytest.mark.parametrize("pixel_range", [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0), (-1.0, 4.0), (-0.7, 1.1)])
def test_pixel_ranges(pixel_range: tuple[float, float], tmp_path: Path) -> None:
    torch.manual_seed(1)
    packed = assert_equal(unsettle(vgg(SHAPE, 5, **SMALL)), tmp_path, pixel_range=pixel_range)
    assert ("conv1" in packed.float_nodes) == (pixel_range == (-0.7, 1.1)), "elsewhere pixels are whole numbers"


def test_mlp(tmp_path: Path) -> None:
    torch.manual_seed(0)
    assert_equal(unsettle(mlp((1, 7, 9), 10, hidden=(64, 65)), (1, 7, 9)), tmp_path, (1, 7, 9))


@pytest.mark.parametrize("levels", [2, 3])
def test_resnets(levels: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = unsettle(resnet20((3, 9, 10), 7, widths=(4, 8), levels=levels, threshold=0.4), (3, 9, 10))
    packed = assert_equal(model, tmp_path, (3, 9, 10))
    assert "stage2_block1.shortcut.1" in packed.float_nodes
    assert packed.values["stage2_block1.conv"].kind == "sums"
    assert_equal(
        unsettle(resnet18((3, 8, 8), 4, widths=(4, 8)), (3, 8, 8)), tmp_path, (3, 8, 8), pixel_range=(0.0, 1.0)
    )


def test_float_inputs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = unsettle(vgg(SHAPE, 5, **SMALL))
    pack(model, tmp_path / "net", SHAPE, pixel_range=None, classes=["a", "b", "c", "d", "e"])
    packed = PackedModel.load(tmp_path / "net")
    images = np.random.default_rng(0).normal(size=(10, *SHAPE)).astype(np.float32)
    with torch.no_grad():
        expected = model(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(packed.predict(images), expected, rtol=1e-5, atol=1e-5)
    assert packed.float_nodes == ("conv1", "norm5")
    assert packed.classes == ("a", "b", "c", "d", "e")


def sign_conv(*arguments: Any, **options: Any) -> QuantConv2d:
    return QuantConv2d(*arguments, **{"input_quantizer": Sign(), "weight_quantizer": Sign(), **options})


SEQUENCES: dict[str, Callable[[], list[nn.Module]]] = {
    "signs of pixels": lambda: [sign_conv(3, 6, 3), nn.BatchNorm2d(6)],
    "norm of pixels": lambda: [nn.BatchNorm2d(3), sign_conv(3, 6, 3, padding=1), nn.BatchNorm2d(6)],
    "pool of pixels": lambda: [nn.MaxPool2d(2), sign_conv(3, 6, 3), nn.BatchNorm2d(6)],
    "stride, dilation, groups": lambda: [
        sign_conv(3, 8, (2, 3), stride=(2, 1), padding=(1, 2), dilation=(1, 2)),
        nn.BatchNorm2d(8),
        sign_conv(8, 12, 3, groups=4, padding=1),
        nn.BatchNorm2d(12),
    ],
    "depthwise": lambda: [
        sign_conv(3, 8, 3), nn.BatchNorm2d(8), sign_conv(8, 8, 3, groups=8), nn.BatchNorm2d(8)
    ],
    "padded with ones": lambda: [
        sign_conv(3, 8, 3, padding=1, pad_value=1), nn.BatchNorm2d(8), sign_conv(8, 8, 3, padding=2, pad_value=1)
    ],
    "same": lambda: [sign_conv(3, 8, 3, padding="same", bias=False), nn.BatchNorm2d(8)],
    "scale and bias": lambda: [
        sign_conv(3, 8, 3, weight_quantizer=Sign(scale=MeanScale())),
        nn.BatchNorm2d(8),
        sign_conv(8, 8, 3, weight_quantizer=Ternary(0.1, scale=MeanScale()), input_quantizer=Ternary(0.4)),
    ],
    "pool after norm": lambda: [
        sign_conv(3, 8, 3), nn.BatchNorm2d(8), nn.MaxPool2d(2), sign_conv(8, 8, 2), nn.BatchNorm2d(8)
    ],
    "pool between norms": lambda: [
        sign_conv(3, 70, 3), nn.BatchNorm2d(70), nn.MaxPool2d(3, 2, 1), nn.BatchNorm2d(70),
        nn.MaxPool2d(2, ceil_mode=True), nn.BatchNorm2d(70), sign_conv(70, 30, 2), nn.BatchNorm2d(30),
    ],
    "ternary pool between norms": lambda: [
        sign_conv(3, 70, 3), nn.BatchNorm2d(70), nn.MaxPool2d(3, 2, 1), nn.BatchNorm2d(70),
        nn.MaxPool2d(2, ceil_mode=True), nn.BatchNorm2d(70),
        sign_conv(70, 30, 2, input_quantizer=Ternary(0.5)), nn.BatchNorm2d(30),
    ],
    "clipping": lambda: [
        sign_conv(3, 8, 3), nn.BatchNorm2d(8), nn.Hardtanh(), nn.Dropout(), sign_conv(8, 8, 3),
        nn.ReLU(), nn.BatchNorm2d(8), sign_conv(8, 8, 3, input_quantizer=Ternary(0.9)), nn.ReLU6(),
        nn.BatchNorm2d(8),
    ],
    "real pools": lambda: [
        sign_conv(3, 8, 3), nn.AvgPool2d(2, 1, 1, count_include_pad=False), nn.BatchNorm2d(8), nn.MaxPool2d(2),
        sign_conv(8, 8, 2, input_quantizer=Identity()), nn.MaxPool2d(2, 1), nn.Hardtanh(-2, 3),
    ],
    "pools of equal parts": lambda: [
        sign_conv(3, 8, 4), nn.AdaptiveMaxPool2d(3), nn.BatchNorm2d(8), sign_conv(8, 8, 1),
        nn.AdaptiveAvgPool2d((3, 1)),
    ],
    "nested, plain layers": lambda: [
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Sequential(nn.BatchNorm2d(4))), nn.Conv2d(4, 8, 1, groups=2)
    ],
    "unquantized groups on pixels": lambda: [sign_conv(3, 6, 3, groups=3, input_quantizer=None), nn.BatchNorm2d(6)],
    "norm without learned numbers": lambda: [sign_conv(3, 6, 3), nn.BatchNorm2d(6, affine=False), sign_conv(6, 8, 3)],
}  # fmt: skip


@pytest.mark.parametrize("name", SEQUENCES)
def test_sequences_of_layers(name: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = nn.Sequential(*SEQUENCES[name](), nn.Flatten())
    with torch.no_grad():
        features = model.eval()(torch.zeros(1, *SHAPE)).shape[1]
    model.append(QuantLinear(features, 4, input_quantizer=Sign(), weight_quantizer=Sign()))
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.normal_(module.bias)
    assert_equal(unsettle(model), tmp_path)


def test_norms_after_the_last_layer_become_one_affine_node(tmp_path: Path) -> None:
    torch.manual_seed(0)
    last = QuantLinear(int(np.prod(SHAPE)), 5, input_quantizer=Sign(), weight_quantizer=Sign(scale=MeanScale()))
    model = unsettle(nn.Sequential(nn.Flatten(), last, nn.BatchNorm1d(5), nn.BatchNorm1d(5)))
    with torch.no_grad():
        for norm in model[2:]:
            norm.bias.copy_(torch.tensor([1.0, -2.0, 0.5, 3.0, 0.0]))
            norm.weight.copy_(torch.tensor([2.0, 0.5, -3.0, 1.0, 0.7]))
    packed = assert_equal(model, tmp_path)
    assert [node.op for node in packed.graph.nodes].count("affine") == 1


def test_average_over_all_and_real_classifier(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        sign_conv(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(8), nn.Linear(8, 4)
    )
    assert_equal(unsettle(model), tmp_path)


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "unknown module": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Softsign()), r"^1 \(Softsign\) .*no packed form"
    ),
    "quantizer": (
        lambda: sign_conv(3, 4, 3, input_quantizer=type("Mine", (Quantizer,), {})()), "known of the quantizer Mine"
    ),
    "hook": (lambda: _hooked(nn.Conv2d(3, 4, 3)), "a forward hook"),
    "forward of its own": (lambda: _with_forward(nn.Conv2d(3, 4, 3)), "its forward was replaced on the object"),
    "padding mode": (lambda: sign_conv(3, 4, 3, padding=1, padding_mode="circular"), "padding_mode='circular'"),
    "asymmetric": (lambda: sign_conv(3, 4, 2, padding="same"), "not symmetric"),
    "ones around pixels": (
        lambda: sign_conv(3, 4, 3, padding=1, pad_value=1, input_quantizer=None), "cannot be padded with ones"
    ),
    "statistics of the batch": (
        lambda: nn.Sequential(sign_conv(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)), "running statistics"
    ),
    "norm of flat images": (lambda: nn.Sequential(nn.Flatten(), nn.BatchNorm1d(243)), "come after a fully connected"),
    "norm of other channels": (lambda: nn.Sequential(nn.BatchNorm2d(4)), "4 features; its input has 3 channels"),
    "other channels": (lambda: sign_conv(4, 4, 3), "4 channels; its input has 3"),
    "other features": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(10, 4)), "10 features; its input has 243"),
    "not flattened": (lambda: nn.Linear(8, 4), r"add nn.Flatten\(\)"),
    "flattened too early": (lambda: nn.Sequential(nn.Flatten(), nn.Conv2d(3, 4, 3)), "cannot follow nn.Flatten"),
    "flattened with the batch": (lambda: nn.Flatten(0), "the batch, is not flattened"),
    "pool dilation": (lambda: nn.MaxPool2d(2, dilation=2), "dilation"),
    "pool to other sizes": (lambda: nn.AdaptiveAvgPool2d(2), "2 x 2 must divide the image of 9 x 9"),
    "pool divisor": (lambda: nn.AvgPool2d(2, divisor_override=3), "divisor_override"),
    "double": (lambda: sign_conv(3, 4, 9).double(), "weight must be float32"),
}  # fmt: skip


def _with_forward(layer: nn.Module) -> nn.Module:
    layer.forward = lambda x, forward=layer.forward: -forward(x)
    return layer


def _hooked(module: nn.Module) -> nn.Module:
    module.register_forward_hook(lambda *_: None)
    return module


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_packed_is_refused_by_name_and_reason(name: str) -> None:
    model, message = REFUSED[name]
    with pytest.raises(HypersignError, match=message):
        fold(model(), SHAPE, pixel_range=(-1.0, 1.0))


@pytest.mark.parametrize(
    ("shape", "pixel_range", "message"),
    [
        ("abc", None, "got the shape abc"),
        ((3, 9, 9.0), None, "a size of the shape must be an integer"),
        ((3, 0, 9), None, "must be an integer >= 1"),
        (SHAPE, (1.0, 1.0), "low < high"),
        (SHAPE, (0.0, np.inf), "low < high"),
        (SHAPE, (np.nan, 1.0), "must be a number"),
    ],
)
def test_shapes_and_ranges_that_are_none(shape: Any, pixel_range: Any, message: str) -> None:
    with pytest.raises(HypersignError, match=message):
        fold(nn.Flatten(), shape, pixel_range=pixel_range)


def test_broken_numbers_are_refused(tmp_path: Path) -> None:
    for broken in ("conv2.weight", "norm1.running_var", "norm5.bias"):
        model = vgg(SHAPE, 5, **SMALL)
        model.state_dict()[broken][0] = torch.nan
        with pytest.raises(HypersignError, match="NaN"):
            pack(model, tmp_path / "net", SHAPE, pixel_range=(-1.0, 1.0))
    assert list(tmp_path.iterdir()) == []


def test_the_model_is_left_as_it_is(tmp_path: Path) -> None:
    model = vgg(SHAPE, 5, **SMALL).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pack(model, tmp_path / "net", SHAPE, pixel_range=(-1.0, 1.0))
    assert all(module.training for module in model.modules())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_the_papers_network_has_the_papers_bytes() -> None:
    _, tensors = fold(vgg(), (3, 32, 32), pixel_range=(-1.0, 1.0))
    weights = [tensor for name, tensor in tensors.items() if name.endswith(".weight")]
    assert sum(8 * int(np.prod(tensor.shape)) for tensor in weights) == 1_753_344


class Centred(Sign):
    """Inputs minus their mean: no threshold per channel says when the sign changes."""

    def prepare(self, x: torch.Tensor) -> torch.Tensor:
        return x - x.mean()


class Untrue(Quantizer):
    """It gives another level than it states."""

    levels = (-1.0, 1.0)

    def round(self, x: torch.Tensor) -> torch.Tensor:
        return torch.where(x >= 0, 2.0, -1.0)


def test_quantizers_whose_statements_do_not_hold(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), QuantLinear(243, 4, weight_quantizer=Sign(), input_quantizer=Centred()))
    with pytest.raises(HypersignError, match="levels must change at one threshold per channel"):
        pack(model, tmp_path / "net", SHAPE)
    weights = nn.Sequential(nn.Flatten(), QuantLinear(243, 4, weight_quantizer=Centred(), input_quantizer=Sign()))
    pack(weights, tmp_path / "net", SHAPE)  # weights are packed as the levels that they are
    model = nn.Sequential(nn.Flatten(), QuantLinear(243, 4, weight_quantizer=Untrue(), input_quantizer=Sign()))
    with pytest.raises(HypersignError, match="the quantizer Untrue gives other levels than it states"):
        pack(model, tmp_path / "net", SHAPE)
