"""Tracking a network in somebody else's loop: against inspection, and leaving everything as it was."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from hypersign._checks import HypersignError
from hypersign.geometry import Tracker, inspect
from hypersign.geometry.covariance import input_covariances, what_if
from hypersign.geometry.weights import angle_stats, predicted_angle
from hypersign.layers import QuantConv2d, QuantLinear
from hypersign.models import build
from hypersign.quantizers import Identity, Optimal, Sign, Ternary


def vgg(shape=(3, 32, 32), classes=10, **options):
    """The network by its plain options."""
    return build("vgg", shape, classes, **options)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return vgg((1, 8, 8), 10, widths=(4, 6), pools=(2,), hidden=(8,), float_weights=("conv2",))


def test_measures_what_inspection_measures(network):
    x = torch.rand(40, 1, 8, 8)
    found = Tracker(network)(x)
    layers = {layer.name: layer for layer in inspect(network, [(x, torch.zeros(40, dtype=torch.long))]).layers}
    assert list(found) == ["conv1", "fc1", "fc2"]
    for name, row in found.items():
        layer = layers[name]
        assert row.angle_degrees == pytest.approx(layer.angle_degrees.mean)
        assert row.predicted_angle_degrees == pytest.approx(layer.angle_degrees.predicted_mean)
        assert row.pearson_r == pytest.approx(layer.weights_binarized.pearson_r, abs=1e-6)
        assert row.activations_pearson_r == pytest.approx(layer.activations_binarized.pearson_r, abs=1e-6)
        assert row.both_pearson_r == pytest.approx(layer.both_binarized.pearson_r, abs=1e-6)
        assert row.predicted_both_pearson_r == pytest.approx(row.both_pearson_r, abs=0.1)
        assert row.effective_dimension > 0


def test_training_images_give_their_own_r_and_the_predictions(network):
    x, other = torch.rand(40, 1, 8, 8), torch.rand(50, 1, 8, 8)
    found = Tracker(network)(x, training=other)
    batches = [(x, torch.zeros(40, dtype=torch.long))]
    geometry = inspect(network, batches, covariances=input_covariances(network, [other]))
    layers = {layer.name: layer for layer in geometry.layers}
    for name, row in found.items():
        for prefix, family in (("", "weights"), ("activations_", "activations"), ("both_", "both")):
            wanted = getattr(layers[name], f"{family}_binarized")
            for kind in ("", "training_", "predicted_"):
                expected = getattr(wanted, f"{kind}pearson_r")
                assert getattr(row, f"{kind}{prefix}pearson_r") == pytest.approx(expected, abs=1e-6, nan_ok=True)
    assert found["fc1"].training_both_pearson_r != found["fc1"].both_pearson_r
    assert math.isnan(Tracker(network)(x)["fc1"].training_pearson_r)


def test_flips_count_from_call_to_call(network):
    track = Tracker(network)
    with torch.no_grad():
        network.fc1.weight[:4].neg_()
    assert [row.flipped_signs for row in track().values()] == [0.0, 0.5, 0.0]
    assert [row.flipped_signs for row in track().values()] == [0.0, 0.0, 0.0]
    assert math.isnan(track()["fc1"].pearson_r)


def test_a_float_network_is_tracked_as_if_binarized():
    torch.manual_seed(0)
    network, x = nn.Sequential(nn.Linear(30, 20), nn.Tanh(), nn.Linear(20, 3)), torch.randn(100, 30)
    found = Tracker(network)(x)
    covariances = input_covariances(network, [x])
    for name, row in found.items():
        (expected,) = what_if(covariances.layers[name], {"": Sign()})
        assert row.angle_degrees == pytest.approx(np.mean(expected.angle_degrees))
        assert row.pearson_r == pytest.approx(expected.median("pearson_r"))


def test_everything_is_left_as_found_also_after_an_exception(network):
    network.train()
    network.norm1.eval()
    network.fc1.weight.grad = torch.ones_like(network.fc1.weight)
    modes = [module.training for module in network.modules()]
    state = {name: value.clone() for name, value in network.state_dict().items()}
    x, of_three_channels = torch.rand(5, 1, 8, 8), torch.rand(5, 3, 8, 8)
    track, random = Tracker(network), torch.get_rng_state()
    track(x)
    with pytest.raises(RuntimeError, match="channels"):
        track(of_three_channels)
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in network.modules()] == modes
    assert not any(module._forward_hooks for module in network.modules())
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert network.fc1.weight.grad.eq(1).all()
    assert all(p.requires_grad for p in network.parameters())


def test_zero_filters_fan_in_one_and_nan():
    network = nn.Sequential(QuantLinear(1, 4, weight_quantizer=Sign()), nn.Linear(4, 3))
    with torch.no_grad():
        network[0].weight[1] = 0
    row = Tracker(network)(torch.randn(20, 1))["0"]
    assert row.angle_degrees == pytest.approx(0, abs=1e-5)
    plain = nn.Linear(4, 3)
    with torch.no_grad():
        plain.weight.zero_()
    row = Tracker(plain)(torch.randn(20, 4))[""]
    assert math.isnan(row.angle_degrees)
    assert math.isnan(row.pearson_r)


def test_scalars_are_flat_and_have_no_nan(network):
    track = Tracker(network)
    assert set(track.scalars()) == {
        f"{key}/{name}"
        for name in ("conv1", "fc1", "fc2")
        for key in ("angle_degrees", "predicted_angle_degrees", "flipped_signs")
    }
    assert "pearson_r/fc2" in track.scalars(torch.rand(9, 1, 8, 8))


def test_refuses_a_network_without_layers():
    with pytest.raises(HypersignError, match="must have layers that can be quantized"):
        Tracker(nn.ReLU())


@pytest.mark.parametrize(
    "quantizer", [Sign(), Ternary(0.02), Ternary(Optimal()), Identity()], ids=["sign", "ternary", "optimal", "none"]
)
def test_predicted_angle_is_that_of_the_statistics(quantizer):
    torch.manual_seed(0)
    layer = QuantConv2d(3, 8, 3, weight_quantizer=quantizer)
    assert np.degrees(predicted_angle(layer)) == pytest.approx(angle_stats(layer).predicted_mean)
