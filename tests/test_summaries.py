"""Sizes and operations, counted by hand, by NumPy, and in the packed file."""

import copy

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.numpy import load_file
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from hypersign._checks import HypersignError
from hypersign.layers import QuantConv1d, QuantConv2d, QuantLinear
from hypersign.models import MODELS, build, fast_transform, mlp, resnet20, vgg
from hypersign.packing import file_size, pack
from hypersign.quantizers import GroupScaled, HardTanh, MeanScale, Quantization, Quantizer, Sign, Ternary
from hypersign.summaries import COUNTS, PARAMETERS, LayerSummary, summary

THREE = Quantization(Ternary(0.02), Ternary(0.5))


class Eight(Quantizer):
    levels = (-7.0, -5.0, -3.0, -1.0, 1.0, 3.0, 5.0, 7.0)

    def round(self, x: Tensor) -> Tensor:
        return 2 * (x / 2).floor().clamp(-4, 3) + 1


class Rounded(Quantizer):
    def round(self, x: Tensor) -> Tensor:
        return x.round()


class Learned(nn.Module):
    """A scale that is learned, one number for all."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, levels: Tensor) -> Tensor:
        return self.value


def one(layer: nn.Module, shape: tuple[int, ...]) -> LayerSummary:
    (row,) = summary(nn.Sequential(layer), shape).layers
    return row


def numbers(row: LayerSummary) -> dict[str, int | None]:
    """The counts that are not 0, by their short names."""
    return {
        name.removeprefix("parameters_"): getattr(row, name) for name in COUNTS if getattr(row, name) not in (0, 0.0)
    }


# 5 filters of 70 weights: two words a row of bits, 5 biases. Bytes: bits * 5 rows * 2 words * 8, and 4 a float.
@pytest.mark.parametrize(
    ("quantizer", "expected"),
    [
        (Sign(), {"1bit": 350, "32bit": 5, "packed_bytes": 80 + 20, "mixed_macs": 350}),
        (Ternary(0.1), {"2bit": 350, "32bit": 5, "packed_bytes": 160 + 20, "mixed_macs": 350}),
        (Eight(), {"3bit": 350, "32bit": 5, "packed_bytes": 240 + 20, "float_macs": 350}),
        (Rounded(), {"unknown": 350, "32bit": 5, "packed_bytes": None, "float_macs": 350}),
        (None, {"32bit": 355, "packed_bytes": 4 * 355, "float_macs": 350}),
        (GroupScaled(Sign(), 7), {"32bit": 355, "packed_bytes": 4 * 355, "float_macs": 350}),
        (Sign(scale=MeanScale()), {"1bit": 350, "32bit": 5, "packed_bytes": 80 + 20 + 20, "mixed_macs": 350}),
        (Sign(scale=Learned()), {"1bit": 350, "32bit": 6, "packed_bytes": 80 + 24, "mixed_macs": 350}),
    ],
    ids=lambda value: value.describe() if isinstance(value, Quantizer) else "",
)
def test_a_linear_layer_by_hand(quantizer: Quantizer | None, expected: dict[str, int | None]) -> None:
    row = one(QuantLinear(70, 5, weight_quantizer=quantizer), (70,))
    assert numbers(row) == expected
    assert row.float_bytes == 4 * row.parameters == 4 * (355 + (quantizer is not None and expected["32bit"] == 6))
    assert (row.name, row.kind, row.calls) == ("0", "QuantLinear", 1)
    assert (row.input_shape, row.output_shape) == ((70,), (5,))
    assert row.input_quantizer == "float"
    assert row.weight_quantizer == ("float" if quantizer is None else type(quantizer).__name__.lower())


@pytest.mark.parametrize("fan_in", [1, 63, 64, 65, 128])
def test_rows_of_whole_words(fan_in: int) -> None:
    words = len(np.packbits(np.zeros((3, -(-fan_in // 64) * 64), np.uint8), axis=1, bitorder="little")[0]) // 8
    assert one(QuantLinear(fan_in, 3, False, weight_quantizer=Sign()), (fan_in,)).packed_bytes == 3 * words * 8


def test_batch_norm_owns_two_floats_a_channel() -> None:
    assert numbers(one(nn.BatchNorm2d(6), (6, 2, 3))) == {"32bit": 12, "packed_bytes": 48}
    with pytest.raises(HypersignError, match="must own parameters; this one has none"):
        summary(nn.BatchNorm2d(6, affine=False), (6, 2, 3))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (QuantConv2d(4, 6, (3, 2), stride=2, padding=1, input_quantizer=Sign(), weight_quantizer=Sign()), (4, 9, 8)),
        (QuantConv2d(4, 8, 3, groups=4, dilation=2, weight_quantizer=Ternary(0.1)), (4, 9, 8)),  # depthwise
        (QuantConv1d(3, 5, 4, padding=2, weight_quantizer=Sign()), (3, 11)),
        (nn.Conv2d(4, 6, 3, padding=1, groups=2), (4, 9, 8)),
        (nn.Conv3d(2, 3, 2), (2, 4, 3, 5)),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (4, 3, 5)),
        (nn.Linear(4, 7), (5, 4)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "x".join(map(str, value)),
)
def test_operations_of_convolutions_are_their_linear_maps(layer: nn.Module, shape: tuple[int, ...]) -> None:
    """A layer with padding 0 that is linear: its matrix, with one entry per product that is not with padding."""
    row = one(layer, shape)
    plain = copy.deepcopy(layer)
    if hasattr(plain, "input_quantizer"):
        plain.input_quantizer = plain.weight_quantizer = nn.Identity()
        plain.weight_quantizer.scale = plain.weight_quantizer.offset = None
        plain.input_quantizer.scale = plain.input_quantizer.offset = None
    if getattr(plain, "padding_mode", "") == "zeros" and any(plain.padding):
        # products with padding are counted as well: read the image from the middle of a padded one
        pad = [p for size in reversed(plain.padding) for p in (size, size)]
        plain.padding = (0,) * len(plain.padding)
        wide = tuple(nn.functional.pad(torch.zeros(1, *shape), pad).shape[1:])
    else:
        wide = shape
    with torch.no_grad():
        plain.weight.fill_(1.0)
        plain.bias.zero_()
        basis = torch.eye(int(np.prod(wide))).view(-1, *wide)
        entries = int(sum(plain(x[None]).sum() for x in basis))
        output = plain(basis[:1]).shape[1:]
    assert row.output_shape == tuple(output)
    kind = "float" if not isinstance(layer, QuantConv1d | QuantConv2d) else "mixed"
    kind = "binary" if getattr(plain, "input_quantizer", None) and layer.quantizes_inputs else kind
    assert (row.macs, getattr(row, f"{kind}_macs")) == (entries, entries)


def test_two_to_the_power_of_slopes() -> None:
    model = fast_transform((1, 8, 8), 3, hidden=(64, 64))
    rows = {row.name: row for row in summary(model, (1, 8, 8)).layers}
    assert numbers(rows["switch1"]) == {"3bit": 2 * 64, "packed_bytes": 2 * 3 * 8}
    assert numbers(rows["fc"]) == {"1bit": 3 * 64, "packed_bytes": 3 * 8, "mixed_macs": 3 * 64}


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (mlp((1, 8, 8), 10, hidden=(64, 65)), (1, 8, 8)),
        (vgg((3, 8, 8), 10, widths=(8, 16, 24), pools=(2,), hidden=(70,)), (3, 8, 8)),
        (vgg((3, 8, 8), 10, THREE, widths=(8, 16, 24), pools=(2,), hidden=(70,)), (3, 8, 8)),
        (resnet20((3, 8, 8), 10, widths=(8, 8, 16)), (3, 8, 8)),
        (fast_transform((1, 8, 8), 3, hidden=(64, 64)), (1, 8, 8)),
    ],
    ids=["mlp", "vgg", "ternary vgg", "resnet20", "fast transform"],
)
def test_bytes_of_quantized_layers_are_those_of_the_packed_file(model, shape, tmp_path) -> None:
    pack(model.eval(), tmp_path / "net", shape, pixel_range=(-1.0, 1.0))
    held: dict[str, int] = {}
    for name, tensor in load_file(tmp_path / "net").items():
        layer = name.rpartition(".")[0]
        if tensor.dtype == np.uint64:
            held[layer] = held.get(layer, 0) + tensor.nbytes
    found = summary(model, shape)
    rows = {
        row.name: row for row in found.layers if row.parameters_1bit or row.parameters_2bit or row.parameters_3bit
    }
    biases = {name: 4 * row.parameters_32bit for name, row in rows.items()}
    assert {name: row.packed_bytes - biases[name] for name, row in rows.items()} == {
        name: held[name] for name in rows
    }
    whole = file_size(model, shape, pixel_range=(-1.0, 1.0))
    assert whole == (tmp_path / "net").stat().st_size > sum(held.values())
    with_pixels = summary(model, shape, pixel_range=(-1.0, 1.0))
    assert with_pixels.file_bytes == with_pixels.total.packed_bytes == whole
    assert with_pixels.compression == found.float_bytes / whole
    assert with_pixels.layers[0].input_bits == 8
    assert f"{whole:,} bytes" in str(with_pixels)
    assert f"{whole:,} bytes" in with_pixels._repr_html_()
    assert found.float_bytes == 4 * sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_network_by_name(name: str) -> None:
    text = name == "gpt"
    shape = (8,) if text else (1, 16, 16)
    model = build(name, shape=shape, classes=3)
    example = torch.zeros(1, 8, dtype=torch.int64)
    total = (summary(model, example=example) if text else summary(model, shape)).total
    assert total.parameters == sum(p.numel() for p in model.parameters())
    assert sum(getattr(total, column) for column in PARAMETERS) == total.parameters


def test_a_layer_used_twice_is_stored_once_and_works_twice() -> None:
    layer = QuantLinear(6, 6, False, weight_quantizer=Sign())
    (row,) = summary(nn.Sequential(layer, nn.ReLU(), layer), (6,)).layers
    assert numbers(row) == {"1bit": 36, "packed_bytes": 6 * 8, "mixed_macs": 72}
    assert row.calls == 2


# any model: the total of parameters is torch's


class Tied(nn.Module):
    """Token embedding and output layer share a matrix; one layer is never called; one number is its own."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 4)
        self.head = nn.Linear(4, 11, bias=False)
        self.head.weight = self.embed.weight
        self.spare = nn.Linear(3, 2)
        self.temperature = nn.Parameter(torch.ones(()))

    def forward(self, tokens: Tensor, *, scale: float = 1.0) -> Tensor:
        return self.head(self.embed(tokens)) * self.temperature * scale


class Keywords(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(3, 2), nn.Linear(4, 2)

    def forward(self, *, left: Tensor, right: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"sum": self.left(left) + self.right(input=right["x"])}


def recurrent(kind: type[nn.Module], **options) -> nn.Module:
    return kind(3, 5, num_layers=2, batch_first=True, **options)


def normed() -> nn.Module:
    return nn.Sequential(
        parametrizations.weight_norm(nn.Linear(4, 3)), parametrizations.spectral_norm(nn.Linear(3, 2))
    )


def shared_quantizer() -> nn.Module:
    quantizer = Sign(scale=Learned())
    return nn.Sequential(*(QuantLinear(4, 4, False, weight_quantizer=quantizer) for _ in range(2)))


def pruned() -> nn.Module:
    return nn.Sequential(prune.l1_unstructured(QuantLinear(4, 3, weight_quantizer=Sign()), "weight", 0.5))


class Mixed(nn.Module):
    """Parameters in lists and dictionaries, and a float layer whose weight is also a quantized layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.list = nn.ParameterList([torch.ones(2), torch.ones(3, 4)])
        self.dict = nn.ParameterDict({"a": torch.ones(4)})
        self.binary = QuantLinear(4, 3, False, weight_quantizer=Sign())
        self.real = nn.Linear(4, 3)
        self.real.weight = self.binary.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.binary(x + self.dict["a"]) @ self.list[1] + self.real(x).sum()


ANY = {
    "lstm": (recurrent(nn.LSTM), torch.zeros(1, 7, 3)),
    "projected lstm": (recurrent(nn.LSTM, proj_size=2, bidirectional=True), torch.zeros(1, 7, 3)),
    "gru": (recurrent(nn.GRU), torch.zeros(1, 7, 3)),
    "gru cell": (nn.GRUCell(3, 5), torch.zeros(1, 3)),
    "attention": (nn.MultiheadAttention(8, 2, batch_first=True), (torch.zeros(1, 5, 8),) * 3),
    "other keys": (nn.MultiheadAttention(8, 2, kdim=3, vdim=4), tuple(torch.zeros(5, 1, d) for d in (8, 3, 4))),
    "encoder": (
        nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2, enable_nested_tensor=False),
        torch.zeros(1, 5, 8),
    ),
    "decoder": (nn.TransformerDecoderLayer(8, 2, 16, batch_first=True), (torch.zeros(1, 5, 8), torch.zeros(1, 6, 8))),
    "tied tokens": (Tied(), torch.zeros(1, 9, dtype=torch.int64)),
    "keywords": (Keywords(), {"left": torch.zeros(1, 3), "right": {"x": torch.zeros(1, 4)}}),
    "two inputs": (nn.Bilinear(3, 4, 5), (torch.zeros(1, 3), torch.zeros(1, 4))),
    "weight norm": (normed(), torch.zeros(1, 4)),
    "learned surrogate": (QuantLinear(3, 2, weight_quantizer=Sign(surrogate=HardTanh())), torch.zeros(1, 3)),
    "shared quantizer": (shared_quantizer(), torch.zeros(1, 4)),
    "pruned": (pruned(), torch.zeros(1, 4)),
    "mixed": (Mixed(), torch.zeros(1, 4)),
    "half": (nn.Linear(3, 2).to(torch.bfloat16), torch.zeros(1, 3, dtype=torch.bfloat16)),
}


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("name", ANY)
def test_parameters_of_any_model(name: str) -> None:
    model, example = ANY[name]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = summary(model, example=example)
    assert found.total.parameters == sum(p.numel() for p in model.parameters())
    assert found.float_bytes == 4 * found.total.parameters
    assert not any(module._forward_hooks for module in model.modules())
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    Console(width=300, quiet=True).print(found.table())


def test_rows_of_what_is_tied_or_never_called() -> None:
    model, example = ANY["tied tokens"]
    rows = {row.name: row for row in summary(model, example=example).layers}
    assert list(rows) == ["embed", "head", "", "spare"]
    assert [row.parameters for row in rows.values()] == [44, 0, 1, 8]
    assert [row.packed_bytes for row in rows.values()] == [176, 0, 4, 32]
    assert [row.calls for row in rows.values()] == [1, 1, 1, 0]
    assert (rows["head"].float_macs, rows["spare"].float_macs) == (9 * 44, 0)
    assert (rows["spare"].input_shape, rows["spare"].output_shape) == ((), ())
    console = Console(width=120)
    with console.capture() as captured:
        console.print(summary(model, example=example).table())
    lines = {line.split("│")[1].strip(): line for line in captured.get().splitlines() if line.count("│") > 2}
    assert "not called" in lines["spare"]
    assert "9x11" in lines["Tied"]


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_operations_of_recurrent_layers_and_attention() -> None:
    macs = {name: summary(model, example=example).total.float_macs for name, (model, example) in ANY.items()}
    # 7 steps; gates times (inputs and state), two layers
    assert macs["lstm"] == 7 * 4 * 5 * ((3 + 5) + (5 + 5))
    assert macs["gru"] == 7 * 3 * 5 * ((3 + 5) + (5 + 5))
    assert macs["gru cell"] == 3 * 5 * (3 + 5)
    # both directions: gates, and the projection of the state to 2 numbers; the second layer reads 4
    assert macs["projected lstm"] == 7 * 2 * (20 * (3 + 2) + 2 * 5 + 20 * (4 + 2) + 2 * 5)
    assert macs["attention"] == 5 * 4 * 64
    assert macs["other keys"] == 5 * (64 + 8 * 3 + 8 * 4 + 64)
    assert macs["encoder"] == 2 * 5 * (4 * 64 + 2 * 8 * 16)
    assert macs["decoder"] == 5 * 4 * 64 + (2 * 5 + 2 * 6) * 64 + 5 * 2 * 8 * 16
    assert macs["two inputs"] == 3 * 4 * 5
    assert macs["weight norm"] == 12 + 6


def test_one_size_and_the_kinds_of_products() -> None:
    """By hand: 64 pixels to 64 units, 64 bits to 10 logits; the rows of the table add up to the file."""
    model = mlp((1, 8, 8), 10, hidden=(64,))
    found = summary(model, (1, 8, 8), pixel_range=(0.0, 1.0))
    total = found.total
    assert (total.binary_macs, total.mixed_macs, total.float_macs) == (640, 4096, 0)
    assert found.binary_share == 640 / 4736
    assert "8 x 1-bit" in str(found)
    assert "13.5% of 4.74 k MACs are binary" in str(found)
    assert "32 x 1-bit" in str(summary(model, (1, 8, 8)))
    rest = found.file_bytes - sum(row.packed_bytes for row in found.layers)
    assert f"{rest:,}" in str(found).replace(" k", "") or f"{rest / 1e3:.3g} k" in str(found)
    assert found.as_dict()["file_bytes"] == total.packed_bytes == found.file_bytes


def test_without_a_packed_form_the_size_is_that_of_the_weights() -> None:
    found = summary(nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Softsign()), (1, 2, 2))
    assert found.file_bytes is None
    assert found.total.packed_bytes == 60
    assert "Packed weights: 60 bytes; as float32: 60" in str(found)
    assert found.compression == 1


def test_inputs_that_do_not_fit() -> None:
    model = nn.Sequential(nn.Linear(3, 2))
    with pytest.raises(HypersignError, match=r"must take an input of shape \(4,\); it does not: .*give example="):
        summary(model, (4,))
    with pytest.raises(HypersignError, match=r"must take this example; it does not: .*unexpected keyword"):
        summary(model, example={"y": torch.zeros(3)})
    with pytest.raises(HypersignError, match="got neither"):
        summary(model)
    with pytest.raises(HypersignError, match="got both"):
        summary(model, (3,), example=torch.zeros(1, 3))
    with pytest.raises(HypersignError, match="for tokens or several inputs give example="):
        summary(nn.Embedding(3, 2), (3,))
    for shape in (3, "3", (-3,), (3.0,)):
        with pytest.raises(HypersignError, match=r"shape"):
            summary(model, shape)  # type: ignore[arg-type]
    with pytest.raises(HypersignError, match="got str"):
        summary("model", (3,))  # type: ignore[arg-type]
    with pytest.raises(HypersignError, match="by zero"):
        summary(Divides(), (3,))
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.backends.mha.get_fastpath_enabled()


class Divides(nn.Linear):
    """Its forward divides by zero."""

    def __init__(self) -> None:
        super().__init__(3, 2)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return input / (1 // 0)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_a_layer_without_filters() -> None:
    found = summary(nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 0)), (4,))
    assert (found.total.parameters, found.total.float_macs) == (10, 8)
