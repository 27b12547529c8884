"""Networks of all shapes: each packs, gives torch's outputs, and each of its steps is that of the float64 replica."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hypersign import HypersignError, PackedModel, convert, pack
from hypersign.layers import QuantConv1d, QuantConv2d, QuantLinear
from hypersign.packing import verify
from hypersign.quantizers import MeanScale, Sign, Ternary
from hypersign.tasks import Classification, Regression


def bits(kind: Any, *arguments: Any, **options: Any) -> nn.Module:
    return kind(*arguments, **{"bias": False, "input_quantizer": Sign(), "weight_quantizer": Sign(), **options})


class UNet(nn.Module):
    """Down, up by transposed convolutions, and shortcuts that are concatenated: a class for each pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.down = nn.Sequential(nn.MaxPool2d(2), bits(QuantConv2d, 8, 16, 3, padding=1), nn.BatchNorm2d(16))
        self.deep = nn.Sequential(nn.ReLU(), bits(QuantConv2d, 16, 16, 3, padding=1), nn.BatchNorm2d(16))
        self.up = nn.ConvTranspose2d(16, 8, 3, 2, 1, output_padding=1)
        self.last = nn.Sequential(
            bits(QuantConv2d, 16, 8, 3, padding=1, input_quantizer=Ternary(0.3)), nn.BatchNorm2d(8)
        )
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.stem(x)
        b = self.deep(self.down(a))
        return self.head(self.last(torch.cat([a, self.up(b)], 1)))


class BitsUp(nn.Module):
    """A transposed convolution whose inputs and weights are levels, by functions."""

    def __init__(self) -> None:
        super().__init__()
        self.sign, self.weights = Sign(), Sign()
        self.weight = nn.Parameter(torch.randn(6, 4, 3, 3))
        self.norm = nn.BatchNorm2d(8)
        self.last = bits(QuantConv2d, 8, 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x, -x], 1)
        x = F.conv_transpose2d(self.sign(x), 0.25 * self.weights(self.weight), None, 2, 1, 1, 2)
        return self.last(self.norm(x)).mean((2, 3))


class Keywords(nn.Module):
    """A one-dimensional network of signals, as for spotting keywords."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(4, 8, 5, 2, 2), nn.BatchNorm1d(8), nn.ReLU(),
            bits(QuantConv1d, 8, 16, 3, padding=1), nn.BatchNorm1d(16), nn.MaxPool1d(2),
            bits(QuantConv1d, 16, 16, 3, padding=1, groups=4), nn.BatchNorm1d(16), nn.PReLU(16), nn.AvgPool1d(2),
        )  # fmt: skip
        self.head = nn.Linear(16, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.adaptive_avg_pool1d(self.layers(x), 1).squeeze(-1)).log_softmax(-1)


class Vision(nn.Module):
    """A vision transformer: patches, a class token, positions; fused or torch's own attention."""

    def __init__(self, fused: bool, width: int = 16) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, width, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, 17, width))
        self.fused, self.norm1, self.norm2 = fused, nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.qkv, self.out = bits(QuantLinear, width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(
            bits(QuantLinear, width, 32, bias=True, weight_quantizer=Sign(scale=MeanScale())),
            nn.GELU(),
            bits(QuantLinear, 32, width, weight_quantizer=Ternary(0.01)),
        )
        self.gamma = nn.Parameter(torch.rand(width))
        self.head = nn.Linear(width, 10)

    def attend(self, x: Tensor) -> Tensor:
        if not self.fused:
            return self.attention(x, x, x, need_weights=False)[0]
        q, k, v = self.qkv(x).reshape(len(x), 17, 3, 4, 4).permute(2, 0, 3, 1, 4)
        weights = ((q * 0.5) @ k.transpose(-2, -1)).softmax(dim=-1)
        return self.out((weights @ v).transpose(1, 2).reshape(x.shape))

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.positions
        x = x + self.gamma * self.attend(self.norm1(x))
        x = x + self.feed(self.norm2(x))
        return self.head(x[:, 0])


class Segments(nn.Module):
    """A small segmentation head: features enlarged to the size of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.SiLU(), bits(QuantConv2d, 8, 8, 3, padding=1)
        )
        self.norm, self.gate, self.head = nn.GroupNorm(2, 8), nn.Linear(8, 8), nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.norm(self.body(x))
        y = y * self.gate(y.mean((2, 3))).sigmoid()[:, :, None, None]
        y = F.interpolate(y, scale_factor=2, mode="bilinear", align_corners=False)
        return {"out": self.head(y)}


class Detects(nn.Module):
    """A detection head: boxes and classes of two levels, each position one of each."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Hardswish())
        self.second = nn.Sequential(bits(QuantConv2d, 8, 8, 3, 2, 1), nn.BatchNorm2d(8))
        self.boxes, self.classes = nn.Conv2d(8, 2 * 4, 3, padding=1), bits(QuantConv2d, 8, 2 * 3, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        levels = [self.first(x)]
        levels.append(self.second(levels[0]))
        boxes, classes = [], []
        for level in levels:
            boxes.append(self.boxes(level).permute(0, 2, 3, 1).reshape(len(x), -1, 4))
            classes.append(self.classes(level).permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, 3)))
        return torch.cat(boxes, 1).exp(), torch.cat(classes, 1).softmax(-1)


class Both(nn.Module):
    """An image and a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(
            nn.ZeroPad2d((0, 1, 2, 0)), bits(QuantConv2d, 3, 8, 3, input_quantizer=None), nn.BatchNorm2d(8), nn.ReLU()
        )
        self.vector, self.head = nn.Linear(5, 8), bits(QuantLinear, 16, 7)

    def forward(self, image: Tensor, vector: Tensor) -> Tensor:
        x = self.image(image).amax((2, 3))
        return self.head(torch.cat([x, F.elu(self.vector(vector))], 1) - 0.1)


class Orders(nn.Module):
    """Flattened in other orders, split, stacked, shuffled."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 3, padding=1), bits(QuantLinear, 8 * 16, 10)
        self.rms, self.last = nn.RMSNorm([4, 10]), nn.Linear(40, 6)

    def forward(self, x: Tensor) -> Tensor:
        a, b = F.pixel_shuffle(self.conv(F.avg_pool2d(x, 2)), 2).chunk(2, 1)
        x = torch.stack([a, b], 1).transpose(2, 3).flatten(3).permute(0, 3, 1, 2)
        x = 2 - self.fc(x.reshape(len(x), 4, -1)[:, :, ::1])
        return self.last(self.rms(x).swapaxes(1, 2).flatten(1)) / 3


class Plain(nn.Module):
    """Weights that its own forward makes ternary, and a channels-last layout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Parameter(torch.randn(8, 1, 3, 3)), nn.Parameter(torch.randn(5, 8))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.conv.sign() * (self.conv.abs() > 0.5) * self.conv.abs().mean((1, 2, 3), keepdim=True)
        x = F.relu6(F.conv2d(F.pad(x[:, :2], (1, 0, 1, 0)).sum(1, keepdim=True), weight))
        return F.linear(x.permute(0, 2, 3, 1).mean((1, 2)), self.fc)


class Tail(nn.Module):
    """A regression whose outputs are a signal."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.up = bits(QuantConv1d, 4, 8, 3, padding=1), nn.ConvTranspose1d(8, 2, 4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.up(F.softplus(self.conv(x))))


IMAGE, SIGNAL = (3, 16, 16), (4, 32)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "u-net": (UNet, IMAGE),
    "transposed on bits": (BitsUp, IMAGE),
    "keywords": (Keywords, SIGNAL),
    "vision transformer": (lambda: Vision(False), IMAGE),
    "vision transformer, fused": (lambda: Vision(True), IMAGE),
    "segmentation": (Segments, IMAGE),
    "detection": (Detects, IMAGE),
    "two inputs": (Both, [IMAGE, (5,)]),
    "orders": (Orders, IMAGE),
    "signal": (Tail, SIGNAL),
}


def trained(make: Callable[[], nn.Module], shapes: list[tuple[int, ...]]) -> nn.Module:
    """The network after some steps on random numbers, so that its norms have statistics."""
    torch.manual_seed(0)
    model = make()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(5):
        output = model(*(2 * torch.rand(8, *shape) - 1 for shape in shapes))
        parts = output.values() if isinstance(output, dict) else output if isinstance(output, tuple) else [output]
        loss = sum((part - torch.randn_like(part)).square().mean() for part in parts)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def inputs(shapes: list[tuple[int, ...]], count: int) -> list[np.ndarray]:
    generator = np.random.default_rng(1)
    return [generator.uniform(-1, 1, (count, *shape)).astype(np.float32) for shape in shapes]


def judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the replica judges every image."""
    module = importlib.import_module("hypersign.packing.verify")
    monkeypatch.setattr(module._Judged, "agree", lambda self, found, expected: np.zeros(len(found[0]), bool))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_packs_and_is_right(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, shape = NETWORKS[name]
    shapes = shape if isinstance(shape, list) else [shape]
    model = trained(make, shapes)
    pack(model, tmp_path / "net.hypersign", shape)
    packed = PackedModel.load(tmp_path / "net.hypersign")
    given = inputs(shapes, 20)
    found = packed.predict(given if len(given) > 1 else given[0], batch_size=7)
    with torch.no_grad():
        output = model(*map(torch.from_numpy, given))
    expected = (
        list(output.values()) if isinstance(output, dict) else list(output) if isinstance(output, tuple) else [output]
    )
    found = list(found) if isinstance(found, tuple) else [found]
    assert [each.shape for each in found] == [tuple(each.shape) for each in expected]
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-4, atol=2e-5 * float(theirs.abs().max()))
    judged(monkeypatch)
    certificate = verify(model, packed, given if len(given) > 1 else given[0])
    assert (certificate.logits_differ, certificate.wrong, certificate.decisions_differ) == (20, 0, 0)
    assert any(node.op == "conv2d" for node in packed.graph.nodes)
    with torch.no_grad():  # the packed network of other weights is told
        next(layer for layer in reversed(list(model.parameters())) if layer.dim() > 1).neg_()
    assert not verify(model, packed, given if len(given) > 1 else given[0]).holds


def test_what_has_an_integer_form_runs_on_bits(tmp_path: Path) -> None:
    """A transposed convolution of levels is a ternary convolution of zeros between pixels; its thresholds fold."""
    pack(trained(BitsUp, [IMAGE]), tmp_path / "net", IMAGE)
    nodes = [node.op for node in PackedModel.load(tmp_path / "net").graph.nodes]
    assert nodes == ["affine", "concat", "quantize", "zero_pad2d", "conv2d", "conv2d", "affine", "avg_pool2d"]


class Slices(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x.unflatten(1, (3, 4, 4)))[:, :, 1:, ::2] ** 2
        a, b, c = x.unbind(1)
        d = torch.stack([a @ b.transpose(1, 2), c @ b.mT], dim=-1).select(3, 1).flatten(1)
        return F.hardsigmoid(F.mish(d.narrow(1, 1, 7)) - 0.1 * d[:, 2:])


class Causal(nn.Module):
    """torch's own encoder layer, each position seeing those before it."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
        self.mask = nn.Buffer(nn.Transformer.generate_square_subsequent_mask(6))

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(x, mask=self.mask, is_causal=True)


REAL: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "slices": (Slices, (48,)),
    "encoder": (Causal, (6, 8)),
    "weights of its own": (lambda: Plain(), IMAGE),
    "up and down": (
        lambda: nn.Sequential(
            nn.Upsample(scale_factor=2), nn.Conv2d(3, 4, 3),
            nn.Upsample(size=(9, 11), mode="bilinear", align_corners=True),
            nn.Softmax(1), nn.Flatten(), nn.Unflatten(1, (4, 99)), nn.Tanh(), nn.LayerNorm((4, 99)),
        ),
        (3, 4, 5),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REAL)
def test_float_parts_round_as_torch_does(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, shape = REAL[name]
    torch.manual_seed(0)
    model = make().eval()
    pack(model, tmp_path / "net", shape)
    packed = PackedModel.load(tmp_path / "net")
    (given,) = inputs([shape], 9)
    with torch.no_grad():
        expected = model(torch.from_numpy(given)).numpy()
    np.testing.assert_allclose(packed.predict(given), expected, rtol=1e-4, atol=1e-6)
    judged(monkeypatch)
    assert verify(model, packed, given).wrong == 0


def test_weights_of_one_magnitude_per_filter_are_packed_as_levels(tmp_path: Path) -> None:
    torch.manual_seed(0)
    pack(Plain().eval(), tmp_path / "net", IMAGE)
    weights = {node.name: node.op for node in PackedModel.load(tmp_path / "net").graph.nodes}
    from safetensors.numpy import load_file

    tensors = load_file(tmp_path / "net")
    assert weights["conv2d"] == "real_conv2d"
    assert tensors["conv2d.weight"].dtype == np.uint64
    assert tensors["conv2d.weight"].shape == (2, 8, 1)
    assert tensors["linear.weight"].dtype == np.float32


def test_a_compiled_network_is_packed_as_the_one_inside(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), bits(QuantLinear, 12, 4)).eval()
    pack(model, tmp_path / "plain", (3, 2, 2))
    pack(torch.compile(model), tmp_path / "whole", (3, 2, 2))
    assert (tmp_path / "plain").read_bytes() == (tmp_path / "whole").read_bytes()
    inside = nn.Sequential(model[0], torch.compile(model[1]))
    pack(inside, tmp_path / "inside", (3, 2, 2))
    assert (tmp_path / "plain").read_bytes() == (tmp_path / "inside").read_bytes()
    assert type(inside[1]).__name__ == "OptimizedModule"
    packed = PackedModel.load(tmp_path / "whole")
    assert verify(torch.compile(model), packed, inputs([(3, 2, 2)], 5)[0]).holds


def test_tasks_of_several_outputs(tmp_path: Path) -> None:
    model = trained(Detects, [IMAGE])
    pack(model, tmp_path / "net", IMAGE, task=[Regression(tolerance=0.1), None])
    packed = PackedModel.load(tmp_path / "net")
    assert packed.output_shapes == {"output1": (160, 4), "output2": (160, 3)}
    assert [task.name for task in packed.tasks] == ["regression", "numbers"]
    boxes, classes = packed.predict(inputs([IMAGE], 3)[0])
    decided = packed.decide((boxes, classes))
    assert decided[0] is boxes
    with pytest.raises(HypersignError, match="one task for each of the 2 outputs; got 1"):
        pack(model, tmp_path / "other", IMAGE, task=[Classification()])


def test_a_class_for_each_pixel(tmp_path: Path) -> None:
    pack(trained(UNet, [IMAGE]), tmp_path / "net", IMAGE, classes="abcd")
    packed = PackedModel.load(tmp_path / "net")
    outputs = packed.predict(inputs([IMAGE], 3)[0])
    assert outputs.shape == (3, 4, 16, 16)
    assert packed.decide(outputs).shape == (3, 16, 16)
    assert packed.classes == tuple("abcd")
    with pytest.raises(HypersignError, match="3 classes name the first axis"):
        pack(trained(UNet, [IMAGE]), tmp_path / "other", IMAGE, classes="abc")


def test_several_inputs_are_checked(tmp_path: Path) -> None:
    pack(trained(Both, [IMAGE, (5,)]), tmp_path / "net", [IMAGE, (5,)], pixel_range=(-1.0, 1.0))
    packed = PackedModel.load(tmp_path / "net")
    image, vector = np.zeros((4, *IMAGE), np.uint8), np.zeros((4, 5), np.float32)
    assert packed.predict((image, vector)).shape == (4, 7)
    assert packed.predict((image[:0], vector[:0])).shape == (0, 7)
    for given, message in (
        (image, "takes 2 inputs: pass a tuple of arrays; got ndarray"),
        ((image,), "takes 2 inputs: pass a tuple of arrays; got 1"),
        ((image, vector[:3]), "as many rows; got 4, 3"),
        ((image, vector.astype(float)), "those of input2 must be float32"),
        ((image.astype(np.float32), vector), "images must be uint8"),
    ):
        with pytest.raises(HypersignError, match=message):
            packed.predict(given)


class Same(nn.Conv2d):
    """Pads by itself, as TensorFlow does."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (0, 1, 0, 1))
        return F.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class Named(nn.Conv2d):
    """Another name, and nothing else."""


class Converts(nn.Module):
    """Layers of all kinds that `convert` turns into quantized ones."""

    def __init__(self) -> None:
        super().__init__()
        self.same, self.norm, self.named = Same(3, 8, 3, 2), nn.BatchNorm2d(8), Named(8, 8, 3, groups=2)
        self.attention, self.up = nn.MultiheadAttention(8, 2), nn.ConvTranspose2d(8, 4, 3, 2)
        self.gain, self.shift = nn.Buffer(torch.rand(8)), nn.Buffer(torch.rand(8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.named(torch.tanh(self.norm(self.same(x))))
        x = F.batch_norm(x, self.shift, self.gain, self.gain, self.shift)
        tokens = x.flatten(2).permute(2, 0, 1)
        tokens = tokens + self.attention(tokens, tokens, tokens)[0]
        return self.up(tokens.permute(1, 2, 0).unflatten(2, x.shape[2:])).flatten(2).amax(-1)


def test_every_converted_layer_has_packed_levels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that keep their own forward too, and the four matrices of attention."""
    torch.manual_seed(0)
    rules = {"input_quantizer": Sign(), "weight_quantizer": Ternary(0.02, scale=MeanScale())}
    model = convert(Converts(), **rules).model.eval()
    pack(model, tmp_path / "net", IMAGE)
    packed = PackedModel.load(tmp_path / "net")
    given = inputs([IMAGE], 9)[0]
    with torch.no_grad():
        expected = model(torch.from_numpy(given)).numpy()
    np.testing.assert_allclose(packed.predict(given), expected, rtol=1e-4, atol=1e-5)
    assert [node.op for node in packed.graph.nodes].count("conv2d") == 5
    assert not any(node.op == "real_conv2d" for node in packed.graph.nodes)
    judged(monkeypatch)
    assert verify(model, packed, given).wrong == 0


def test_converted_networks_of_others_pack(tmp_path: Path) -> None:
    """A transposed convolution that `convert` leaves real runs in float32; all other products on bits or levels."""
    model = convert(UNet(), weight_quantizer=Ternary(0.05, scale=MeanScale())).model.eval()
    pack(model, tmp_path / "net", IMAGE)
    packed = PackedModel.load(tmp_path / "net")
    given = inputs([IMAGE], 5)[0]
    np.testing.assert_allclose(
        packed.predict(given), model(torch.from_numpy(given)).detach().numpy(), rtol=1e-4, atol=1e-5
    )
