"""The curves of what-ifs against the what-ifs themselves, and principal components against drawn ones."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from hypersign._checks import HypersignError
from hypersign.geometry.covariance import LloydMax, components, input_covariances, what_if, what_if_curves
from hypersign.geometry.covariance import curves as module
from hypersign.quantizers import Rotated, Sign
from hypersign.rotations import HadamardRotation


@pytest.fixture(scope="module")
def layer():
    torch.manual_seed(0)
    mix = torch.randn(40, 40) * torch.exp(-torch.arange(40.0) / 10)
    return input_covariances(nn.Linear(40, 12), [torch.randn(500, 40) @ mix]).layers[""]


def test_points_are_the_what_ifs_of_the_same_filters(layer):
    found = {(c.rotation, c.kind): c for c in what_if_curves(layer)}
    kinds = {(r, k) for r in ("none", "hadamard") for k in ("threshold", "levels")}
    assert set(found) == kinds | {("none", "input threshold"), ("none", "input levels")}
    rotation = HadamardRotation(40, rounds=3, seed=0)
    sigma = layer.weights.std(1, keepdims=True)
    expected = {
        ("none", "threshold", 0.0): Sign(),
        ("none", "threshold", 0.7): lambda w: w.sign() * (w.abs() > 0.7 * torch.from_numpy(sigma)),
        ("none", "levels", 4.0): LloydMax(4),
        ("hadamard", "threshold", 0.0): Rotated(Sign(), rotation),
    }
    for (turn, kind, value), quantizer in expected.items():
        (row,) = what_if(layer, {"it": quantizer})
        curve = found[turn, kind]
        assert curve.filters == 12
        place = curve.values.index(value)
        for field in ("angle_degrees", "pearson_r", "sign_flip_share"):
            assert getattr(curve, field)[place] == pytest.approx(row.median(field), abs=1e-9), (turn, kind, field)


def test_few_filters_stand_for_many_in_every_group():
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 20, 3, groups=2)
    layer = input_covariances(conv, [torch.randn(50, 4, 6, 6)]).layers[""]
    few = module._few(layer, 6)
    assert len(few.weights) == 6
    assert [int(np.flatnonzero((layer.weights == w).all(1))[0]) for w in few.weights] == [0, 4, 9, 10, 14, 19]
    assert what_if_curves(layer, 6)[0].filters == 6
    assert what_if_curves(layer, 1)[0].filters == 2  # one a group, at least
    with pytest.raises(HypersignError, match="filters must be an integer >= 1; got 0"):
        what_if_curves(layer, 0)


def test_zero_and_nan_filters_are_left_out_and_a_constant_input_gives_nothing():
    torch.manual_seed(0)
    linear = nn.Linear(16, 5)
    with torch.no_grad():
        linear.weight[0] = 0
        linear.weight[1, 3] = math.nan
    x = torch.randn(200, 16)
    layer = input_covariances(linear, [x]).layers[""]
    sound = nn.Linear(16, 3)
    sound.weight = nn.Parameter(linear.weight[2:].detach())
    alone = input_covariances(sound, [x]).layers[""]
    for curve, expected in zip(what_if_curves(layer), what_if_curves(alone), strict=True):
        np.testing.assert_allclose(curve.pearson_r, expected.pearson_r, atol=1e-9)
    still = input_covariances(nn.Linear(4, 2), [torch.ones(20, 4)]).layers[""]
    assert all(math.isnan(r) for curve in what_if_curves(still) for r in curve.pearson_r)
    assert all(math.isnan(share) for share in components(still).variance)


def test_a_fan_in_of_one():
    layer = input_covariances(nn.Linear(1, 3), [torch.randn(30, 1)]).layers[""]
    curves = what_if_curves(layer)
    assert curves[0].pearson_r[0] == pytest.approx(1.0)
    assert components(layer).numbers == (1,)


def test_planted_components_are_found():
    # inputs along two axes alone, with variances 3 to 1; the filters along the first, their levels along all
    x = torch.zeros(400, 8)
    x[::2, 0] = 3**0.5 * torch.tensor([1.0, -1.0]).repeat(100)
    x[1::2, 1] = torch.tensor([1.0, -1.0]).repeat(100)
    linear = nn.Linear(8, 2)
    with torch.no_grad():
        linear.weight[:] = torch.tensor([[2.0, 0, 0, 0, 0, 0, 0, 0], [-5.0, 0, 0, 0, 0, 0, 0, 0]])
    found = components(input_covariances(linear, [x]).layers[""])
    assert found.numbers == (1, 2, 4, 8)
    assert found.variance == pytest.approx((0.75, 1, 1, 1))
    assert found.weight_energy == pytest.approx((1, 1, 1, 1))


def test_large_fan_ins_have_no_components(layer, monkeypatch):
    monkeypatch.setattr(module, "COMPONENTS_FAN_IN", 39)
    assert components(layer).numbers == ()
