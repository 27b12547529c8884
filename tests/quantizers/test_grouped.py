"""Scales of groups of weights, against least squares group by group and finite differences."""

import numpy as np
import pytest
import torch

from hypersign import theory
from hypersign._checks import HypersignError
from hypersign.layers import QuantConv2d
from hypersign.packing import fold
from hypersign.quantizers import GroupScaled, MeanScale, Sign, Ternary


@pytest.mark.parametrize("size", [1, 4, 5, 24, 100])
@pytest.mark.parametrize("quantizer", [Sign(), Ternary(0.5)], ids=["sign", "ternary"])
def test_each_group_has_its_least_squares_scale(quantizer, size):
    w = torch.randn(3, 2, 3, 4, dtype=torch.float64)
    found = GroupScaled(quantizer, size)(w)
    assert found.shape == w.shape
    rows, levels, scaled = (x.flatten(1).numpy() for x in (w, quantizer(w), found))
    for f in range(3):
        for start in range(0, 24, size):
            part = slice(start, start + size)
            solution = np.linalg.lstsq(levels[f, part, None], rows[f, part], rcond=None)[0]
            np.testing.assert_allclose(scaled[f, part], solution * levels[f, part], atol=1e-12)


def test_cosine_is_the_predicted_one():
    w = torch.randn(200, 4096, generator=torch.Generator().manual_seed(0))
    cosine = torch.cosine_similarity(w, GroupScaled(Sign(), 4)(w)).mean()
    assert float(cosine) == pytest.approx(float(theory.group_cosine(4)), abs=1e-3)


def test_gradients_flow_through_scale_and_surrogate():
    w = torch.randn(2, 6, dtype=torch.float64, requires_grad=True)
    grad = torch.randn_like(w)
    GroupScaled(Sign(), 3)(w).backward(grad)
    q, g = w.detach().sign().view(2, 2, 3), grad.view(2, 2, 3)
    alpha = w.detach().abs().view(2, 2, 3).mean(2, keepdim=True)
    by_levels = g * alpha * (w.detach().abs() <= 1).view(2, 2, 3)
    by_scale = (g * q).sum(2, keepdim=True) * q / 3
    torch.testing.assert_close(w.grad, (by_levels + by_scale).view(2, 6))


def test_a_group_of_zeros_stays_one():
    w = torch.tensor([[0.0, 0.0, 1.0, 3.0]])
    assert GroupScaled(Sign(), 2)(w).tolist() == [[0.0, 0.0, 2.0, 2.0]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((Sign(), 0), "size of a group must be an integer >= 1; got 0"),
        ((Sign(scale=MeanScale()), 4), "must be one without a scale or offset"),
        (("sign", 4), "must be one without a scale or offset; got 'sign'"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(HypersignError, match=message):
        GroupScaled(*arguments)


def test_packing_says_that_it_has_no_form():
    layer = torch.nn.Sequential(QuantConv2d(1, 2, 3, weight_quantizer=GroupScaled(Sign(), 3)))
    with pytest.raises(
        HypersignError, match="GroupScaled has a scale per group of weights, and packed layers have one per filter"
    ):
        fold(layer, (1, 3, 3), pixel_range=(0.0, 1.0))
