"""convert on layers beyond the linear and the convolutional: each against torch with the quantized weight put in."""

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hypersign import HypersignError
from hypersign.geometry.weights import angles
from hypersign.layers import (
    OwnForward,
    QuantConv2d,
    QuantConv3d,
    QuantConvTranspose2d,
    QuantEmbedding,
    QuantLinear,
    QuantMultiheadAttention,
    convert,
)
from hypersign.quantizers import FilterMean, Identity, MeanScale, Sign, Ternary

BINARY = {"weight_quantizer": Sign(), "input_quantizer": Sign()}


def signs(x: Tensor) -> Tensor:
    return torch.where(x >= 0, 1.0, -1.0)


CONVOLUTIONS = {
    "3-d": (nn.Conv3d(4, 6, 2, padding=1, groups=2), (2, 4, 3, 4, 5)),
    "transposed 1-d": (nn.ConvTranspose1d(4, 6, 3, stride=2, padding=1, output_padding=1), (2, 4, 5)),
    "transposed 2-d": (nn.ConvTranspose2d(4, 6, (2, 3), stride=2, groups=2, dilation=2), (2, 4, 5, 4)),
    "transposed 3-d": (nn.ConvTranspose3d(2, 3, 2, bias=False), (1, 2, 3, 2, 2)),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name: str) -> None:
    layer, shape = CONVOLUTIONS[name]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = convert(layer, weight_quantizer=Sign(scale=MeanScale()), input_quantizer=Sign()).model
    plain = copy.deepcopy(layer)
    weight, groups = layer.weight.detach(), layer.groups
    with torch.no_grad():  # the scale of a filter: the mean of what one output channel is computed with
        if "transposed" in name:
            parts = weight.unflatten(0, (groups, -1))  # groups, channels, filters of the group, ...
            means = parts.abs().mean([1, *range(3, parts.dim())], keepdim=True)
            plain.weight.copy_((signs(parts) * means).flatten(0, 1))
        else:
            plain.weight.copy_(signs(weight) * weight.abs().flatten(1).mean(1).view(-1, 1, 1, 1, 1))
    torch.testing.assert_close(found(x), plain(signs(x)))
    assert (found.filters, found.channels) == (layer.out_channels, layer.in_channels)
    assert list(found.state_dict()) == list(layer.state_dict())
    found(x).sum().backward()
    assert found.weight.grad.shape == weight.shape


def test_offsets_of_transposed_filters() -> None:
    layer = QuantConvTranspose2d(4, 6, 2, groups=2, weight_quantizer=Sign(scale=MeanScale(), offset=FilterMean()))
    x = torch.randn(2, 4, 3, 3)
    plain = nn.ConvTranspose2d(4, 6, 2, groups=2)
    with torch.no_grad():
        plain.weight.copy_(layer.scaled_weight())
        plain.bias.copy_(layer.bias)
    torch.testing.assert_close(layer(x), plain(x))
    assert layer(x, output_size=(4, 4)).shape == (2, 6, 4, 4)


def test_angles_are_those_of_filters() -> None:
    layer = QuantConvTranspose2d(4, 6, 2, groups=2, weight_quantizer=Sign())
    rows = QuantLinear(8, 6, weight_quantizer=Sign())
    with torch.no_grad():  # filter 3 + i of group 1 multiplies the channels 2 and 3
        for group in range(2):
            for i in range(3):
                rows.weight[3 * group + i] = layer.weight[2 * group : 2 * group + 2, i].flatten()
    np.testing.assert_allclose(angles(layer), angles(rows))


def test_padding_with_ones_in_three_dimensions() -> None:
    layer = QuantConv3d(1, 1, 3, padding=1, bias=False, pad_value=1, **BINARY)
    with torch.no_grad():
        layer.weight.fill_(0.1)
    assert layer(torch.ones(1, 1, 1, 1, 1)).item() == 27


@pytest.mark.parametrize("padding", [None, 0])
def test_embeddings(padding: int | None) -> None:
    table = nn.Embedding(7, 4, padding_idx=padding)
    found = convert(table, weight_quantizer=Sign(scale=MeanScale()), input_quantizer=Sign())
    tokens = torch.tensor([[0, 3, 6], [1, 1, 0]])
    weight = table.weight.detach()
    expected = (signs(weight) * weight.abs().mean(1, keepdim=True)).clone()
    if padding is not None:
        expected[padding] = 0
    torch.testing.assert_close(found.model(tokens), expected[tokens])
    found.model(tokens).sum().backward()
    gradient = found.model.weight.grad
    assert not gradient[2].any()
    assert bool(gradient[0].any()) == (padding is None)


def test_tables_that_get_no_quantizer_are_named() -> None:
    net = nn.ModuleDict(
        {"table": nn.Embedding(5, 3), "bound": nn.Embedding(5, 3, max_norm=1.0), "fc": nn.Linear(3, 3)}
    )
    found = convert(net, input_quantizer=Sign())
    assert found.converted == ("fc",)
    assert found.kept["table"].startswith("its inputs are tokens")
    assert "max_norm" in convert(net, weight_quantizer=Sign()).kept["bound"]


# ------------------------------------------------------------------------------------------------------ attention


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("options", [{}, {"kdim": 6, "vdim": 10}, {"bias": False}], ids=["self", "cross", "no bias"])
def test_attention_without_quantizers_is_torchs(options: dict[str, Any], first: bool) -> None:
    torch.manual_seed(1)
    layer = nn.MultiheadAttention(8, 2, batch_first=first, **options)
    found = convert(layer, weight_quantizer=Identity()).model
    assert isinstance(found, QuantMultiheadAttention)
    assert list(found.state_dict()) == list(layer.state_dict())
    q = torch.randn(3, 3, 8)
    k, v = (torch.randn(3, 3, options.get(name, 8)) for name in ("kdim", "vdim"))
    padding = torch.tensor([[False] * 3, [False, False, True], [False] * 3])
    mask = torch.triu(torch.full((3, 3), -torch.inf), 1)
    for masks in ({}, {"key_padding_mask": padding}, {"attn_mask": mask}, {"attn_mask": mask.bool().repeat(6, 1, 1)}):
        for wanted in ({}, {"need_weights": False}, {"average_attn_weights": False}):
            ours, theirs = found(q, k, v, **masks, **wanted), layer(q, k, v, **masks, **wanted)
            torch.testing.assert_close(ours[0], theirs[0])
            torch.testing.assert_close(ours[1], theirs[1])
    if not options:
        torch.testing.assert_close(found(q, q, q)[0], layer(q, q, q)[0])
        torch.testing.assert_close(found(q[0], q[0], q[0]), layer(q[0], q[0], q[0]))


def test_attention_quantizes_all_four_projections() -> None:
    torch.manual_seed(2)
    layer = nn.MultiheadAttention(8, 2, batch_first=True)
    nn.init.normal_(layer.in_proj_bias)
    found = convert(nn.ModuleList([layer]), **BINARY)
    assert found.converted == ("0", "0.out_proj")
    x = torch.randn(2, 5, 8)
    q, k, v = (
        F.linear(signs(x), signs(w), b).view(2, 5, 2, 4).transpose(1, 2)
        for w, b in zip(layer.in_proj_weight.chunk(3), layer.in_proj_bias.chunk(3), strict=True)
    )
    mixed = F.softmax(q @ k.transpose(2, 3) / 2, -1) @ v
    expected = F.linear(signs(mixed.transpose(1, 2).flatten(2)), signs(layer.out_proj.weight), layer.out_proj.bias)
    torch.testing.assert_close(found.model[0](x, x, x)[0], expected)
    torch.testing.assert_close(found.model[0](x, x.clone(), x, need_weights=False)[0], expected)
    only = convert(nn.ModuleList([layer]), **BINARY, keep=["0.out_proj"])
    assert only.converted == ("0",)
    assert type(only.model[0].out_proj).__name__ == "NonDynamicallyQuantizableLinear"


def test_attention_that_adds_rows_is_named() -> None:
    found = convert(nn.ModuleList([nn.MultiheadAttention(8, 2, add_bias_kv=True), nn.Linear(99, 99)]), **BINARY)
    assert found.kept["0"].startswith("it must not add rows to its keys")
    with pytest.raises(HypersignError, match="add_bias_kv"):
        QuantMultiheadAttention(8, 2, add_bias_kv=True)


# --------------------------------------------------------------------------------------------- forwards of their own


class SamePadding(nn.Conv2d):
    """As in EfficientNet: as many zeros as keep the size."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (0, 1, 0, 1))
        return F.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class Standardised(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        w = self.weight
        return self._conv_forward(x, w - w.mean([1, 2, 3], keepdim=True), self.bias)


class Twice(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Up(nn.ConvTranspose2d):
    def forward(self, x: Tensor, output_size: Any = None) -> Tensor:
        return super().forward(x, output_size).relu()


class Scaled(nn.Embedding):
    def forward(self, tokens: Tensor) -> Tensor:
        return super().forward(tokens) * 3


class Conv1D(nn.Module):
    """The layer of GPT-2."""

    __module__ = "transformers.pytorch_utils"

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight, self.bias = nn.Parameter(torch.randn(nx, nf)), nn.Parameter(torch.randn(nf))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.view(-1, self.nx), self.weight).view(*x.shape[:-1], self.nf)


class Named(nn.Linear):
    """A subclass that computes what torch's layer does."""

    def count(self) -> int:
        return self.weight.numel()


OWN = {
    "same padding": (lambda: SamePadding(2, 4, 2, groups=2), (2, 2, 4, 4), [1, 2, 3]),
    "standardised": (lambda: Standardised(2, 3, 2), (2, 2, 4, 4), [1, 2, 3]),
    "twice": (lambda: Twice(6, 3), (4, 6), [1]),
    "up": (lambda: Up(3, 2, 2), (2, 3, 2, 2), [0, 2, 3]),
    "scaled": (lambda: Scaled(9, 4), (), [1]),
    "conv1d": (lambda: Conv1D(4, 6), (2, 3, 6), [0]),
}


def own(name: str) -> tuple[nn.Module, Tensor, list[int]]:
    torch.manual_seed(3)
    make, shape, dims = OWN[name]
    return make(), torch.randn(shape) if shape else torch.tensor([[1, 8], [0, 3]]), dims


@pytest.mark.parametrize("name", OWN)
def test_own_forward_runs_with_the_quantized_weight(name: str) -> None:
    layer, x, dims = own(name)
    found = convert(layer, weight_quantizer=Sign(scale=MeanScale()), input_quantizer=Sign()).model
    plain = copy.deepcopy(layer)
    with torch.no_grad():
        plain.weight.copy_(signs(layer.weight) * layer.weight.abs().mean(dims, keepdim=True))
    torch.testing.assert_close(found(x), plain(signs(x) if x.is_floating_point() else x))
    assert isinstance(found, (OwnForward, type(layer)))
    assert isinstance(found, type(layer))
    assert torch.equal(found.weight, layer.weight)  # the latent one outside the forward
    assert list(found.state_dict()) == list(layer.state_dict())
    assert type(found.scaled_weight()) is Tensor
    found(x).sum().backward()
    assert found.weight.grad is not None
    found.weight = nn.Parameter(-layer.weight.detach())
    assert not torch.allclose(found(x), plain(signs(x) if x.is_floating_point() else x))


@pytest.mark.parametrize("name", OWN)
def test_own_forward_is_copied_pickled_compiled_and_called_functionally(name: str) -> None:
    layer, x, _ = own(name)
    found = convert(layer, **BINARY).model
    expected = found(x)
    for other in (copy.deepcopy(found), *([] if name == "conv1d" else [pickle.loads(pickle.dumps(found))])):
        assert type(other) is type(found)
        assert torch.equal(other(x), expected)
    negated = {key: -value for key, value in found.state_dict().items()}
    called = torch.func.functional_call(found, negated, x)
    found.load_state_dict(negated)
    assert torch.equal(found(x), called)
    compiled = torch.compile(found, backend="eager")
    torch.testing.assert_close(compiled(x), called)


def test_a_subclass_with_torchs_forward_has_the_kernels_of_its_base() -> None:
    from hypersign.layers import use_kernels

    torch.manual_seed(4)
    net = convert(nn.Sequential(Named(70, 5)), **BINARY).model
    assert isinstance(net[0], QuantLinear)
    assert isinstance(net[0], Named)
    assert net[0].count() == 350
    x = torch.randn(3, 70)
    torch.testing.assert_close(net[0](x), F.linear(signs(x), signs(net[0].weight), net[0].bias))
    assert torch.equal(pickle.loads(pickle.dumps(net))(x), net(x))
    assert torch.equal(use_kernels(net).model(x), net(x))


def test_lazy_layers_are_named() -> None:
    found = convert(nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 2)), weight_quantizer=Sign())
    assert found.kept == {"0": "its weight has no shape yet; run the network once first"}


def test_subclasses_of_recurrent_layers_and_attention_stay_float() -> None:
    class Mine(nn.LSTM):
        pass

    found = convert(nn.ModuleList([Mine(2, 2), nn.Linear(90, 90)]), weight_quantizer=Sign())
    assert found.kept == {"0": "Mine is a subclass of LSTM whose forward may differ"}


# ------------------------------------------------------------------------------------------- table and warning


def test_the_result_prints_as_a_table() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))
    found = convert(
        net, weight_quantizer=Ternary(0.1), input_quantizer=Sign(), keep=["3"], example=torch.ones(1, 1, 4, 4)
    )
    assert found.macs == {"0": 2 * 9 * 4, "3": 24}
    lines = str(found).splitlines()
    assert [line.split("│")[1].strip() for line in lines[3:6]] == ["0", "1", "3"]
    assert "weights Ternary(threshold=0.1); inputs Sign()" in lines[3]
    assert "72" in lines[3]
    assert "BatchNorm2d has no quantized form here" in lines[4]
    assert "kept by request (3)" in lines[5]
    assert repr(found) == str(found)
    assert "Ternary" in found._repr_html_()


def test_one_line_warns_when_most_work_stays_float() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(8, 8))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.weight

    net = nn.Sequential(Odd(), nn.Linear(8, 2), nn.BatchNorm1d(2))
    with pytest.warns(UserWarning, match=r"80% of the weights stay in float, in 1 layers such as '0' \(Odd has no"):
        convert(net, weight_quantizer=Sign())
    with pytest.warns(UserWarning, match="80% of the multiply-accumulates stay in float"):
        convert(net, weight_quantizer=Sign(), example=torch.ones(3, 8))
    convert(net, weight_quantizer=Sign(), keep=["0"])  # asked for: no warning


def test_what_convert_asks_for_is_said() -> None:
    with pytest.raises(HypersignError, match=r"convert needs a quantizer for weights, for inputs or for both"):
        convert(nn.Linear(2, 2))
    with pytest.raises(HypersignError, match="the network must take the example; it does not: mat1 and mat2"):
        convert(nn.Linear(2, 2), weight_quantizer=Sign(), example=torch.ones(1, 3))


def test_macs_of_each_kind_of_layer() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.up = nn.Embedding(5, 4), nn.ConvTranspose1d(4, 6, 3)
            self.lstm, self.attention = nn.LSTM(6, 3), nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, tokens: Tensor) -> Tensor:
            x = self.table(tokens)
            x, _ = self.attention(x, x, x)
            return self.lstm(self.up(x.transpose(1, 2)).permute(2, 0, 1))[0]

    found = convert(Net(), weight_quantizer=Sign(), example=torch.zeros(1, 7, dtype=torch.int64))
    assert found.macs == {
        "attention": 7 * 48,
        "attention.out_proj": 7 * 16,
        "up": 28 * 18,
        "lstm": 9 * (12 * 6 + 12 * 3),
    }
    assert isinstance(found.model.table, QuantEmbedding)
    assert isinstance(convert(SamePadding(1, 1, 1), weight_quantizer=Sign()).model, nn.Conv2d)
    assert not isinstance(convert(SamePadding(1, 1, 1), weight_quantizer=Sign()).model, QuantConv2d)
