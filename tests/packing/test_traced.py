"""Networks with a forward of their own: they pack, and the packed network is right by the float64 replica."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hypersign import HypersignError, PackedModel, convert, pack
from hypersign.layers import QuantConv2d, QuantLinear
from hypersign.packing import verify
from hypersign.quantizers import Identity, Sign, Ternary


def conv(*arguments, **options) -> QuantConv2d:
    return QuantConv2d(
        *arguments, **{"bias": False, "input_quantizer": Sign(), "weight_quantizer": Sign(), **options}
    )


class BasicBlock(nn.Module):
    """torchvision's: two convolutions, a shortcut, one ReLU object used twice."""

    def __init__(self, channels: int, filters: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, filters, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(filters)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(filters, filters, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(filters)
        self.downsample = None
        if stride != 1 or channels != filters:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, filters, 1, stride, bias=False), nn.BatchNorm2d(filters)
            )

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class ResNet18(nn.Module):
    """As torchvision draws it, narrow."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        sizes = [width, width, 2 * width, 4 * width, 8 * width]
        for i in range(1, 5):
            blocks = [BasicBlock(sizes[i - 1], sizes[i], 1 if i == 1 else 2), BasicBlock(sizes[i], sizes[i])]
            setattr(self, f"layer{i}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(8 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class DenseNet(nn.Module):
    """Every layer reads all before it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.layers = nn.ModuleList(nn.Conv2d(8 + 4 * i, 4, 3, padding=1, bias=False) for i in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm2d(8 + 4 * i) for i in range(3))
        self.norm, self.fc = nn.BatchNorm2d(20), nn.Linear(20, 10)

    def forward(self, x: Tensor) -> Tensor:
        values = [self.first(x)]
        for norm, layer in zip(self.norms, self.layers, strict=True):
            values.append(layer(F.relu(norm(torch.cat(values, 1)))))
        x = F.relu(self.norm(torch.cat(values, 1)))
        return self.fc(x.mean((2, 3)))


class MobileNetV2(nn.Module):
    """Inverted residuals with depthwise convolutions."""

    class Block(nn.Module):
        def __init__(self, channels: int, filters: int, stride: int) -> None:
            super().__init__()
            hidden = 4 * channels
            self.use_res_connect = stride == 1 and channels == filters
            self.conv = nn.Sequential(
                nn.Conv2d(channels, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6(inplace=True),
                nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False), nn.BatchNorm2d(hidden),
                nn.ReLU6(inplace=True), nn.Conv2d(hidden, filters, 1, bias=False), nn.BatchNorm2d(filters),
            )  # fmt: skip

        def forward(self, x: Tensor) -> Tensor:
            return x + self.conv(x) if self.use_res_connect else self.conv(x)

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6(inplace=True),
            self.Block(8, 8, 1), self.Block(8, 16, 2), self.Block(16, 16, 1),
        )  # fmt: skip
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(16, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(self.features(x), 1)
        return self.classifier(x.view(x.size(0), -1))


class Branches(nn.Module):
    """Two branches of one quantized value, functions, a PReLU and a Tanh that thresholds take in."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(3, 8, 3, padding=1, input_quantizer=Identity())
        self.norm, self.act = nn.BatchNorm2d(8), nn.PReLU(8)
        self.left, self.right = conv(8, 6, 3, padding=1), conv(8, 6, 1, input_quantizer=Ternary(0.3))
        self.tanh, self.sign = nn.Tanh(), Sign()
        self.last = conv(12, 10, 3, input_quantizer=None)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.conv(x)))
        x = torch.cat([F.hardtanh(self.left(x), -9.0, 9.0), F.leaky_relu(self.right(x), 0.1)], dim=1)
        x = self.sign(self.tanh(F.max_pool2d(x, 2, ceil_mode=True)))
        return torch.flatten(F.adaptive_max_pool2d(self.last(x).clamp(-20, 20), 1), 1)


class Mine(nn.Sequential):
    """A subclass whose forward is a Sequential's."""


def subclass() -> nn.Module:
    layer = QuantLinear(3 * 16 * 16, 10, input_quantizer=Sign(), weight_quantizer=Sign())
    return Mine(nn.Flatten(), layer)


CONVERTED = {"resnet18": ResNet18, "densenet": DenseNet, "mobilenet-v2": MobileNetV2}
OWN = {"branches": Branches, "subclass": subclass}


def trained(name: str) -> nn.Module:
    """The network, quantized and trained for some steps, so that its batch norms have statistics."""
    torch.manual_seed(0)
    if name in CONVERTED:
        model = convert(
            CONVERTED[name](), input_quantizer=Ternary(0.4), weight_quantizer=Sign()
        ).model  # ReLUs: 0 and 1
    else:
        model = OWN[name]()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(5):
        loss = F.cross_entropy(model(2 * torch.rand(16, 3, 16, 16) - 1), torch.randint(10, (16,)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize("name", [*CONVERTED, *OWN])
def test_a_network_packs_and_is_right(name: str, tmp_path: Path) -> None:
    model = trained(name)
    pack(model, tmp_path / "net.hypersign", (3, 16, 16), pixel_range=(-1.0, 1.0))
    packed = PackedModel.load(tmp_path / "net.hypersign")
    images = np.random.default_rng(0).integers(0, 256, (100, 3, 16, 16)).astype(np.uint8)
    certificate = verify(model, packed, images)
    assert certificate.holds
    assert certificate.wrong == 0
    assert certificate.decisions_differ == certificate.ties
    assert any(node.op == "conv2d" for node in packed.graph.nodes) or name == "subclass"


@pytest.mark.parametrize("name", CONVERTED)
def test_a_changed_network_is_told(name: str, tmp_path: Path) -> None:
    """The packed network of other weights: the replica finds the first step that is wrong."""
    model = trained(name)
    pack(model, tmp_path / "net.hypersign", (3, 16, 16), pixel_range=(-1.0, 1.0))
    with torch.no_grad():
        layer = next(layer for layer in reversed(list(model.modules())) if isinstance(layer, QuantConv2d))
        layer.weight.neg_()
    images = np.random.default_rng(0).integers(0, 256, (20, 3, 16, 16)).astype(np.uint8)
    certificate = verify(model, PackedModel.load(tmp_path / "net.hypersign"), images)
    assert not certificate.holds


class Computes(nn.Module):
    """A layer, then any function."""

    def __init__(self, function) -> None:
        super().__init__()
        self.fc, self.function = QuantLinear(48, 10, input_quantizer=Sign(), weight_quantizer=Sign()), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.fc(torch.flatten(x, 1)))


class InPlace(nn.Module):
    """A shortcut around layers that change its input in place: torch adds what they changed it to."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.fc = QuantLinear(48, 10, input_quantizer=Sign(), weight_quantizer=Sign(), bias=False)
        self.last = QuantLinear(10, 10, input_quantizer=Sign(), weight_quantizer=Sign(), bias=False)
        self.relu, self.way = nn.ReLU(inplace=True), way
        self.both = nn.Sequential(nn.Identity(), nn.ReLU(inplace=True), self.last)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(torch.flatten(x, 1))
        if self.way == "layer":
            return x + self.last(self.relu(x))
        if self.way == "sequence":
            return x + self.both(x)
        if self.way == "function":
            return x + self.last(F.relu(x, inplace=True))
        if self.way == "position":
            return x + self.last(F.relu(x, True))
        if self.way == "shape":
            y = torch.flatten(x, 1)
            return self.last(y.relu_()) + x
        return self.last(x.clamp_(0)) + x


class TwoInputs(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


REFUSED = {
    "a function without a packed form": (lambda: Computes(lambda y: y.cumsum(1)), "known of cumsum"),
    "a quotient of values": (lambda: Computes(lambda y: y / y), "values are divided by constants"),
    "numbers that decide": (lambda: Computes(lambda y: y if y[0, 0] > 0 else -y), "the batch, is taken whole"),
    "numbers that are read": (lambda: Computes(lambda y: y * float(y.amax(1).max())), "known of max in its forward"),
    "another dimension": (lambda: Computes(lambda y: torch.cat([y, y])), "joins the inputs of a batch: dim=0"),
    "another view": (lambda: Computes(lambda y: y.view(-1, 5)), "view in its forward mixes the inputs of a batch"),
    "a value of the batch": (lambda: Computes(lambda y: y.softmax(0)), "works across the inputs of a batch"),
    "in place: sequence": (lambda: InPlace("sequence"), "reads a value that was changed in place"),
    "two inputs": (TwoInputs, "missing 1 required positional argument: 'y'"),
    "a layer of torch": (lambda: nn.Sequential(nn.Flatten(), nn.Softsign(), nn.Linear(48, 10)), "cannot be packed"),
    "dropout in evaluation": (lambda: Computes(F.dropout), "drops numbers in evaluation"),
    "a value written into": (lambda: Computes(lambda y: y.__setitem__(0, 0)), "writes into a value"),
    "another type": (lambda: Computes(lambda y: y.double()), "known of double"),
    "another precision": (lambda: Computes(lambda y: y.to(torch.bfloat16)), "known of to in its forward"),
    "no tensor": (lambda: Computes(lambda y: 3), "must give tensors; it gives int"),
    "a constant": (lambda: Computes(lambda y: torch.zeros(2, 10)), "each output must be a value of the network"),
}  # fmt: skip


@pytest.mark.parametrize("way", ["layer", "function", "position", "shape", "method"])
def test_what_is_changed_in_place_is_read_changed(way: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = InPlace(way).eval()
    pack(model, tmp_path / "net.hypersign", (3, 4, 4), pixel_range=(-1.0, 1.0))
    images = np.random.default_rng(0).integers(0, 256, (9, 3, 4, 4)).astype(np.uint8)
    found = PackedModel.load(tmp_path / "net.hypersign").predict(images)
    with torch.no_grad():
        expected = model(torch.from_numpy(images).float() / 127.5 - 1)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5)


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_packed_form_is_refused_by_name(name: str, tmp_path: Path) -> None:
    make, reason = REFUSED[name]
    with pytest.raises(HypersignError, match=reason):
        pack(make(), tmp_path / "net.hypersign", (3, 4, 4), pixel_range=(-1.0, 1.0))
    assert not (tmp_path / "net.hypersign").exists()
