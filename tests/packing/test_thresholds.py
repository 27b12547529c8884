"""Thresholds against every sum, one by one."""

import numpy as np
import pytest
import torch
from torch import nn

from hypersign.packing import find_thresholds
from hypersign.packing.thresholds import FLOATS, float_of
from hypersign.quantizers import Sign, Ternary


@pytest.mark.parametrize("quantizer", [Sign(), Sign(zero=0), Ternary(0.3)], ids=["sign", "zero", "ternary"])
def test_agree_with_the_float_layers_at_every_sum(quantizer: nn.Module) -> None:
    """Scales of both signs and 0, means that are whole numbers, so that sums are met exactly."""
    torch.manual_seed(0)
    channels, largest = 300, 60
    norm = nn.BatchNorm2d(channels, eps=1e-3).eval()
    with torch.no_grad():
        norm.running_mean.copy_(torch.randint(-70, 71, (channels,)))
        norm.running_var.uniform_(0.1, 200)
        norm.weight.normal_()
        norm.weight[:9] = 0
        norm.bias.normal_().mul_(torch.rand(channels) < 0.5)
        ask = lambda n: quantizer(norm(n.float().view(1, -1, 1, 1))).view(-1)  # noqa: E731
        low, high, flip = (v.numpy() for v in find_thresholds(ask, -largest, largest, channels))
        sums = np.arange(-largest, largest + 1)[:, None]
        # all at once, as a network sees them: images of sums
        images = torch.from_numpy(sums).float().repeat(1, channels)[:, :, None, None].repeat(1, 1, 4, 5)
        expected = quantizer(norm(images))[:, :, 1, 2].numpy()
    found = np.where(sums < low, -1, np.where(sums >= high, 1, 0))
    np.testing.assert_array_equal(np.where(flip, -found, found), expected)
    if len(quantizer.levels) == 2:
        np.testing.assert_array_equal(low, high)
    assert 50 < flip.sum() < 200
    exact = norm.running_mean.numpy()[norm.bias.detach().numpy() == 0]
    assert (np.abs(exact) <= largest).sum() > 50, "thresholds that sums meet exactly"


def test_floats_in_their_order() -> None:
    n = torch.tensor([FLOATS[0], -2, -1, 0, 1, 0x3F800000, FLOATS[1]])
    largest, least = np.finfo(np.float32).max, np.float32(1e-45)
    assert float_of(n).tolist() == [-largest, -least, 0.0, 0.0, least, 1.0, largest]
    assert torch.signbit(float_of(n)).tolist() == [True, True, True, False, False, False, False]


def test_a_threshold_among_all_floats() -> None:
    quantizer = Ternary(0.02)
    low, high, _ = find_thresholds(lambda n: quantizer(float_of(n)), *FLOATS, 1)
    limit = np.float32(0.02)
    assert float_of(high).item() == np.nextafter(limit, np.float32(1))
    assert float_of(low).item() == -limit
