"""Passes with recorded outputs give the logits of a network that was changed and run as a whole."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from hypersign._checks import HypersignError
from hypersign.forecasting.bench import Bench
from hypersign.forecasting.effects import centred
from hypersign.forecasting.formats import format_of, weight_values
from hypersign.forecasting.replay import Replay, prepared
from hypersign.layers import QuantLinear
from hypersign.quantizers import Sign


class Residual(nn.Module):
    """Additions in place, a module called twice, a branch that joins late, nested containers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True))
        self.twice = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.block = nn.ModuleDict({"a": nn.Conv2d(6, 6, 1), "b": nn.Sequential(nn.Conv2d(6, 6, 1), nn.ReLU())})
        self.late = nn.Linear(6, 6)
        self.head = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        late = self.late(x.mean((2, 3)))
        y = self.twice(x)
        y += x
        y = self.twice(y)
        y += self.block["a"](y)
        y = self.block["b"](y).relu_()
        return self.head(y.mean((2, 3)) + late)


def network(kind: str) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    if kind == "residual":
        model: nn.Module = Residual()
        model.stem[1].running_mean.normal_()
        return model.eval(), torch.randn(6, 2, 5, 5)
    if kind == "tokens":
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.3, batch_first=True)
        return nn.Sequential(nn.Embedding(11, 8), nn.TransformerEncoder(layer, 2), nn.Linear(8, 11)), torch.randint(
            11, (6, 5)
        )
    if kind == "one layer":
        return nn.Linear(7, 3), torch.randn(6, 7)
    return QuantLinear(7, 3, input_quantizer=Sign(), weight_quantizer=Sign()), torch.randn(6, 7)


@pytest.mark.parametrize("kind", ["residual", "tokens", "one layer", "one quantized layer"])
def test_each_change_alone_equals_the_whole_network_changed(kind: str) -> None:
    model, x = network(kind)
    bench = Bench(model, x.split(4))
    before = copy.deepcopy(model.state_dict())
    ternary = format_of("ternary")
    found, none = bench.alone({(name, "ternary"): (ternary, None) for name in bench.layers}, repaired=False)
    assert not none
    for name in bench.layers:
        changed = copy.deepcopy(model).eval()
        layer = changed.get_submodule(name)
        given = weight_values(Sign(), layer.weight) if isinstance(layer, QuantLinear) else None
        values = weight_values(ternary.quantizer(layer.weight[0].numel()), layer.weight, given)
        layer.weight = nn.Parameter(values)
        if isinstance(layer, QuantLinear):
            layer.weight_quantizer = nn.Identity()  # type: ignore[assignment]
            expected = nn.functional.linear(Sign()(x), values, layer.bias)
        else:
            with prepared(changed):
                expected = changed(x)
        logits = centred(expected.detach().reshape(6, -1, expected.shape[-1]).numpy())
        np.testing.assert_allclose(found[name, "ternary"], logits, atol=2e-6)
        assert np.abs(found[name, "ternary"] - bench.original).max() > 1e-3
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())
    assert "forward" not in vars(model)


def test_layers_come_in_the_order_of_their_calls_with_their_operations() -> None:
    model, x = network("residual")
    layers = Bench(model, [x]).layers
    assert list(layers) == ["stem.0", "late", "twice", "block.a", "block.b.0", "head"]
    assert [layer.calls for layer in layers.values()] == [1, 1, 2, 1, 1, 1]
    assert layers["stem.0"].macs == 25 * 6 * 18
    assert layers["twice"].macs == 2 * 25 * 6 * 54


def test_what_comes_before_the_change_is_not_computed_again() -> None:
    counts = [0, 0, 0]

    class Counting(nn.Linear):
        def __init__(self, number: int) -> None:
            super().__init__(4, 4)
            self.number = number

        def forward(self, input: torch.Tensor) -> torch.Tensor:
            counts[self.number] += 1
            return super().forward(input)

    model = nn.Sequential(nn.Sequential(Counting(0)), Counting(1), Counting(2))
    replay, x = Replay(model), torch.randn(2, 4)
    with prepared(model):
        recorded = replay.record(x)
        again = replay.again(model[1], x)
    assert counts == [1, 2, 2]
    assert torch.equal(recorded, again)


def test_a_network_that_calls_other_modules_each_time_is_refused() -> None:
    class Fickle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)
            self.count = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.count += 1
            return self.c((self.a if self.count % 3 else self.b)(x))

    model = Fickle()
    bench = Bench(model, [torch.randn(4, 3)])
    with pytest.raises(HypersignError, match="same modules in the same order"):
        bench.alone({("c", "binary"): (format_of("binary"), None), ("c", "ternary"): (format_of("ternary"), None)})
