import numpy as np
import pytest
import torch
from torch import nn

from hypersign import theory
from hypersign._checks import HypersignError
from hypersign.geometry.weights import angle_stats, level_shares
from hypersign.layers import QuantConv2d, QuantLinear
from hypersign.quantizers import Deviations, GroupScaled, ImageSign, Int8, MeanScale, Rotated, Sign, Ternary
from hypersign.rotations import HaarRotation, HadamardRotation
from hypersign.summaries import summary

ROTATIONS = [HaarRotation(24, seed=1), HadamardRotation(24, seed=1)]


@pytest.mark.parametrize("rotation", ROTATIONS, ids=["Haar", "Hadamard"])
def test_is_the_formula_forward_and_backward(rotation):
    x = torch.randn(5, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    matrix = torch.from_numpy(rotation(np.eye(24)).T)
    turned = x.detach().flatten(1) @ matrix.T
    y = Rotated(Sign(), rotation)(x)
    levels = torch.where(turned >= 0, 1.0, -1.0).double()
    torch.testing.assert_close(y.detach().flatten(1), levels @ matrix)
    grad = torch.randn_like(y)
    y.backward(grad)
    passed = (turned.abs() <= 1).double()
    torch.testing.assert_close(x.grad.flatten(1), grad.flatten(1) @ matrix.T * passed @ matrix)


def test_a_layer_quantized_in_one_frame_is_a_binary_layer_of_that_frame():
    rotation = HadamardRotation(32, seed=5)
    layer = QuantLinear(
        32, 7, False, input_quantizer=Rotated(Sign(), rotation), weight_quantizer=Rotated(Sign(), rotation)
    )
    x = torch.randn(9, 32)
    expected = torch.where(rotation(x) >= 0, 1.0, -1.0) @ torch.where(rotation(layer.weight) >= 0, 1.0, -1.0).T
    torch.testing.assert_close(layer(x), expected)
    layer(x).square().sum().backward()
    assert layer.weight.grad.abs().sum() > 0


def test_keeps_the_direction_that_the_sign_loses():
    d = 256
    layer = QuantConv2d(4, 200, 8, weight_quantizer=Rotated(Sign(), HadamardRotation(d)))
    with torch.no_grad():
        layer.weight.copy_(torch.randn(200, 4, 8, 8) * torch.exp(-0.1 * torch.arange(d)).view(4, 8, 8))
    stats = angle_stats(layer)
    assert stats.mean == pytest.approx(np.degrees(theory.sign_angle(d)), abs=0.3)
    assert stats.predicted_mean == pytest.approx(np.degrees(theory.sign_angle(d)))
    layer.weight_quantizer = Sign()
    assert angle_stats(layer).mean > 60


def test_scale_and_threshold_are_those_of_the_rotated_frame():
    rotation = HadamardRotation(16, seed=5)
    layer = QuantLinear(16, 3, weight_quantizer=Rotated(Sign(scale=MeanScale()), rotation))
    torch.testing.assert_close(layer.weight_scale(), rotation(layer.weight).abs().mean(1))
    assert Rotated(Ternary(0.3), rotation).thresholds(layer.weight).tolist() == pytest.approx([0.3] * 3)
    assert level_shares(layer) == {}
    assert summary(nn.Sequential(layer), (16,)).total.float_macs == 48  # as it stands, its weights are real


def test_what_cannot_be_rotated():
    with pytest.raises(HypersignError, match=r"one such as Sign\(\), without an offset; got Identity"):
        Rotated(nn.Identity(), ROTATIONS[0])
    with pytest.raises(HypersignError, match="must be a HaarRotation or a HadamardRotation; got 3"):
        Rotated(Sign(), 3)
    with pytest.raises(HypersignError, match="must keep all 32 outputs; this one keeps 27"):
        Rotated(Sign(), HadamardRotation(27, outputs=27))
    with pytest.raises(HypersignError, match=r"of shape \(\.\.\., 24\); got shape \(2, 5\)"):
        Rotated(Sign(), ROTATIONS[0])(torch.ones(2, 5))
    with pytest.raises(HypersignError, match="must not be rotated if its scale depends on the inputs"):
        QuantLinear(24, 2, input_quantizer=Rotated(Int8(), ROTATIONS[0]))


def test_rotated_images_are_vectors_with_their_own_mean():
    """Each image of a convolution, after the other."""
    layer = QuantConv2d(2, 5, 3, input_quantizer=Rotated(ImageSign(), ROTATIONS[0]))
    x = torch.randn(3, 2, 3, 4) + 1
    for image, levels in zip(x, layer.effective_input(x), strict=True):
        turned = ROTATIONS[0](image.view(1, -1))
        expected = torch.where(turned >= turned.mean(), 1.0, -1.0)
        torch.testing.assert_close(levels.view(1, -1), ROTATIONS[0].inverse(expected))


def test_thresholds_are_those_of_the_rotated_frame():
    rotation = HaarRotation(16, seed=0)
    x = torch.from_numpy(np.random.default_rng(0).normal(3, 1, (5, 16)))  # a rotation changes what a mean takes away
    rotated = rotation(x.numpy())
    expected = rotated.std(1)
    assert abs(expected / x.numpy().std(1) - 1).max() > 1
    found = Rotated(Ternary(Deviations(1.0)), rotation).thresholds(x)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)


def test_a_prediction_is_that_of_the_quantizer():
    inner = GroupScaled(Sign(), 4)
    moments = theory.Moments.gaussian()
    found = Rotated(inner, HaarRotation(16, seed=0)).predicted_cosine(16, moments)
    assert found == inner.predicted_cosine(16, moments) > 0.8
