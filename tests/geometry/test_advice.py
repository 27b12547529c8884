import math
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from hypersign import theory
from hypersign._checks import HypersignError
from hypersign.forecasting import forecast
from hypersign.geometry.advice import advise
from hypersign.layers import QuantLinear
from hypersign.quantizers import Sign


def _advice(layer: nn.Module, inputs: torch.Tensor):
    (row,) = advise(layer, [inputs]).layers
    return row


def _gaussian(inputs: int, filters: int) -> nn.Linear:
    torch.manual_seed(0)
    layer = nn.Linear(inputs, filters)
    nn.init.normal_(layer.weight)
    return layer


def test_geometry_of_independent_inputs_and_gaussian_weights():
    row = _advice(_gaussian(300, 40), torch.randn(4000, 300))
    assert row.binarized.median("pearson_r") == pytest.approx(theory.sign_cosine(300), abs=0.01)
    assert row.ternarized.median("pearson_r") == pytest.approx(theory.ternary_cosine(0.612, 300), abs=0.01)
    assert row.binarized.median("sign_flip_share") == pytest.approx(0.205, abs=0.01)
    assert row.binarized.median("angle_degrees") == pytest.approx(row.predicted_angle_degrees, abs=0.5)
    assert row.effective_dimension == pytest.approx(300 / (1 + 300 / 4000), rel=0.02)  # that of 4,000 samples
    assert (row.kind, row.fan_in, row.filters) == ("Linear", 300, 40)


def test_the_share_of_changed_decisions_decides():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(60, 40), nn.ReLU(), nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 4))
    batches = torch.randn(300, 60).split(100)
    measured = forecast(model, batches, formats=["binary", "ternary"], repaired=True, mixtures=0)
    shares = {
        layer.name: [1 - layer.repaired[name].agreement.value for name in ("binary", "ternary")]
        for layer in measured.layers
    }
    limit = min(binary for binary, _ in shares.values())
    seen = set()
    for row in advise(model, batches, changes=limit).layers:
        binary, ternary = shares[row.name]
        assert (row.binary_changes, row.ternary_changes) == (binary, ternary)
        wanted = "binarize" if binary <= limit else "ternarize" if ternary <= limit else "keep in float"
        assert row.recommendation == wanted
        assert f"{100 * (ternary if wanted == 'ternarize' else binary):.1f} %" in row.reason
        seen.add(wanted)
    assert len(seen) > 1
    assert {row.recommendation for row in advise(model, batches, changes=1.0).layers} == {"binarize"}
    assert {row.recommendation for row in advise(model, batches, changes=0.0).layers} == {"keep in float"}


def test_a_network_that_cannot_be_forecast_says_so():
    (row,) = advise(nn.Linear(8, 1), [torch.randn(50, 8)]).layers
    assert row.recommendation == "keep in float"
    assert row.reason.startswith("its effect on decisions is unknown: a network to forecast must give logits")
    assert math.isnan(row.binary_changes)
    assert row.binarized.median("pearson_r") > 0.5
    with pytest.raises(HypersignError, match="changes must be a number >= 0 and <= 1; got 2"):
        advise(nn.Linear(8, 3), [torch.randn(50, 8)], changes=2)


def test_means_enter_the_flips():
    layer, x = _gaussian(200, 30), torch.randn(5000, 200) + 0.4
    row = _advice(layer, x)
    with torch.no_grad():
        dots, levels = x @ layer.weight.T, x @ layer.weight.sign().T
    measured = ((dots < 0) != (levels < 0)).float().mean(0).numpy()
    np.testing.assert_allclose(row.binarized.sign_flip_share, measured, atol=0.02)
    assert np.abs(theory.sign_disagreement(row.binarized.pearson_r) - measured).max() > 0.05


def test_every_defect_is_a_row_with_its_reason():
    class Defects(nn.Module):
        def __init__(self):
            super().__init__()
            self.fine = nn.Linear(8, 8)
            self.one = nn.Conv2d(3, 6, 1, groups=3)
            self.zero = nn.Linear(8, 4)
            self.some_zero = nn.Linear(8, 4)
            self.blind = nn.Linear(8, 4)
            self.dead = nn.Linear(8, 4)
            self.unused = nn.Linear(8, 4)
            self.nan = QuantLinear(8, 4, weight_quantizer=Sign())
            self.behind = nn.Linear(4, 2)

        def forward(self, x):
            self.one(x.view(-1, 1, 2, 4).expand(-1, 3, 2, 4))
            half = torch.cat([x[:, :4], torch.ones_like(x[:, 4:])], 1)
            for layer, value in ((self.zero, x), (self.some_zero, half), (self.blind, half), (self.dead, x * 0 + 3)):
                layer(value)
            return self.behind(self.nan(self.fine(x)) * math.nan)

    torch.manual_seed(0)
    model = Defects()
    with torch.no_grad():
        model.zero.weight.zero_()
        model.some_zero.weight[1] = 0
        model.some_zero.weight[2, :4] = 0
        model.blind.weight[:, :4] = 0
        model.nan.weight[2, 3] = math.nan
    found = advise(model, torch.randn(50, 8).split(20))
    rows = {row.name: row for row in found.layers}
    assert list(rows) == [name for name, _ in model.named_children()]
    assert {row.recommendation for row in rows.values()} == {"keep in float"}
    unknown = "its effect on decisions is unknown: nan.weight must hold finite numbers"
    assert rows["fine"].reason.startswith(unknown)
    reasons = {name: row.reason for name, row in rows.items() if not row.reason.startswith(unknown)}
    assert reasons == {
        "one": "a fan-in of 1: a filter is one number, and one bit keeps only its sign",
        "zero": "its weights are all zero",
        "blind": "the inputs that its filters use are constant over these images; 4 of 8 inputs are constant",
        "dead": "its inputs are constant over these images",
        "unused": "not measured: the forward pass does not call it",
        "nan": "1 of its 4 filters hold NaN or infinity",
        "behind": "not measured: its input holds NaN or infinity",
    }
    assert "; 1 of 4 filters are zero; the products of 1 do not vary; 4 of 8 inputs" in rows["some_zero"].reason
    assert np.isnan(rows["unused"].binarized.pearson_r).all()
    assert len(rows["unused"].ternarized.angle_degrees) == 4
    assert found.images == 50


def test_any_module_goes():
    torch.manual_seed(0)
    encoder = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    found = advise(encoder, [torch.randn(6, 5, 16)])
    reasons = {row.name: row.reason for row in found.layers}
    assert list(reasons) == ["self_attn.out_proj", "linear1", "linear2"]
    assert reasons["self_attn.out_proj"] == "not measured: the forward pass does not call it"
    assert reasons["linear1"].startswith("decisions change in ")


def test_the_table_has_a_row_a_layer():
    from rich.console import Console

    model = nn.Sequential(OrderedDict({"features": nn.Conv2d(1, 4, 3), "f": nn.Flatten(), "a[b]": nn.Linear(16, 9)}))
    advice = advise(model, [torch.randn(30, 1, 4, 4)])
    console = Console(width=80)
    with console.capture() as captured:
        console.print(advice.table())
    text = captured.get()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    lines = [[cell.strip() for cell in line.split("│")] for line in text.splitlines()]
    for row in advice.layers:
        place = next(i for i, cells in enumerate(lines) if cells[1:2] == [row.name])
        found = tuple(zip(lines[place][4:7], lines[place + 1][4:7], strict=True))
        for (first, second), digits, expected in zip(
            found,
            (1, 2, 1),
            (
                (row.binarized.median("angle_degrees"), row.predicted_angle_degrees),
                (row.binarized.median("pearson_r"), row.ternarized.median("pearson_r")),
                (100 * row.binary_changes, 100 * row.ternary_changes),
            ),
            strict=True,
        ):
            assert (first, second) == tuple(f"{value:.{digits}f}" for value in expected)
        assert f"{row.recommendation}: " in lines[place][7]


def test_a_model_without_such_layers():
    with pytest.raises(HypersignError, match=r"must have layers that can be quantized .* it has none"):
        advise(nn.Sequential(nn.BatchNorm1d(3)), [torch.ones(2, 3)])
