"""What each method would do to given weights: one row per distinct quantizer, measured beside predicted."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from hypersign import theory
from hypersign.geometry import input_covariances, inspect, method_geometry, method_quantizers, methods_table, what_if
from hypersign.layers import QuantLinear
from hypersign.methods import METHODS, distinct
from hypersign.quantizers import Sign


def weights(filters: int = 24, d: int = 1024, mean: float = 0.0) -> torch.Tensor:
    return torch.randn(filters, d, generator=torch.Generator().manual_seed(0)) + mean


def test_every_method_is_there_by_its_first_name() -> None:
    texts = [METHODS[name].weights for name in distinct()]
    assert len(set(texts)) == len(texts)
    assert {method.weights for method in METHODS.values()} == set(texts)
    assert list(method_quantizers(weights())) == list(distinct())


@pytest.mark.parametrize("mean", [0.0, 0.3])
def test_measured_beside_predicted(mean: float) -> None:
    """Normal weights: the closed forms. With a mean, the moments of the weights say what it does."""
    rows = {row.method: row for row in method_geometry(weights(mean=mean))}
    for name, row in rows.items():
        predicted = row.normal_degrees if math.isnan(row.moments_degrees) or not mean else row.moments_degrees
        if not math.isnan(predicted) and (not mean or name not in ("ls-2", "greedy", "siman")):
            assert row.angle_degrees == pytest.approx(predicted, abs=0.8), name
        assert math.isnan(row.pearson_r)
    known = {"ls-t": 25.85, "bitnet": 27.49, "hadanets": 35.71, "mpt": 55.65} if not mean else {}
    for name, angle in known.items():
        assert rows[name].angle_degrees == pytest.approx(angle, abs=0.5)
    assert rows["rbnn"].normal_degrees != rows["rbnn"].normal_degrees


def test_biper_by_the_size_of_the_weights() -> None:
    small = {row.method: row for row in method_geometry(weights() / 20)}["biper"]
    assert small.normal_degrees == pytest.approx(38.15, abs=0.1)
    assert small.angle_degrees == pytest.approx(38.15, abs=0.5)
    assert small.normal_degrees == pytest.approx(np.degrees(np.arccos(theory.sine_sign_cosine(1.0))), abs=0.1)


def test_r_and_flips_are_those_of_what_if() -> None:
    torch.manual_seed(0)
    layer = QuantLinear(16, 8, bias=False, weight_quantizer=Sign())
    covariance = input_covariances(layer, [torch.randn(500, 16) @ torch.randn(16, 16)]).layers[""]
    rows = {row.method: row for row in method_geometry(layer.weight, covariance)}
    (expected,) = what_if(covariance, {"sign": Sign()})
    for name in ("bnn", "xnor", "lab"):
        assert rows[name].pearson_r == pytest.approx(expected.median("pearson_r"), abs=1e-6)
        assert rows[name].sign_flip_share == expected.median("sign_flip_share")
    assert rows["ls-2"].pearson_r > rows["bnn"].pearson_r


def test_inspect_with_methods() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(QuantLinear(32, 6, weight_quantizer=Sign()), QuantLinear(6, 3, weight_quantizer=Sign()))
    batch = torch.randn(50, 32), torch.zeros(50, dtype=torch.long)
    assert inspect(model, [batch]).layers[0].methods == ()
    found = inspect(model, [batch], methods=True)
    assert [row["method"] for row in found.layers[0].methods] == list(distinct())
    table = methods_table([method_geometry(layer.weight) for layer in model])
    assert table.row_count == len(distinct())
