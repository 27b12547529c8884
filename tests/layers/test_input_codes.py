"""Codes of pixels, against the integers that they write down."""

import pytest
import torch

from hypersign._checks import HypersignError
from hypersign.layers import BitPlanes, Thermometer

RANGES = [(-1.0, 1.0), (0.0, 1.0), (0.0, 255.0)]


def every_pixel(pixel_range):
    low, high = pixel_range
    return (low + (high - low) * torch.arange(256.0) / 255).view(1, 1, 16, 16)


@pytest.mark.parametrize("pixel_range", RANGES, ids=str)
def test_bit_planes_are_numpys_bits_of_every_pixel(pixel_range):
    planes = BitPlanes(pixel_range)(every_pixel(pixel_range))
    assert planes.shape == (1, 8, 16, 16)
    weights = 2 ** torch.arange(7, -1, -1).view(8, 1, 1)
    assert torch.equal(((planes[0] + 1) / 2 * weights).sum(0).int().flatten(), torch.arange(256).int())


@pytest.mark.parametrize("pixel_range", RANGES, ids=str)
@pytest.mark.parametrize("k", [1, 8, 255])
def test_a_thermometers_sum_is_the_pixel_rounded(pixel_range, k):
    levels = Thermometer(k, pixel_range)(every_pixel(pixel_range))
    assert levels.shape == (1, k, 16, 16)
    assert (levels.diff(dim=1) <= 0).all()  # +1 first
    height = (levels.sum(1) / k + 1) / 2  # of 0 to 1
    assert (height.flatten() - torch.arange(256.0) / 255).abs().max() <= 0.5 / k + 1e-6


@pytest.mark.parametrize("code", [BitPlanes((0.0, 1.0)), Thermometer(4, (0.0, 1.0))], ids=["planes", "thermometer"])
def test_channels_are_coded_one_after_the_other(code):
    x = torch.rand(2, 3, 4, 5)
    expected = torch.cat([code(x[:, c : c + 1]) for c in range(3)], dim=1)
    assert torch.equal(code(x), expected)
    assert set(code(x).unique().tolist()) == {-1.0, 1.0}


def test_pixels_outside_the_range_are_its_ends():
    x = torch.tensor([-0.5, 1.5]).view(1, 1, 1, 2)
    assert BitPlanes((0.0, 1.0))(x)[0, :, 0].T.tolist() == [[-1.0] * 8, [1.0] * 8]
    assert Thermometer(3, (0.0, 1.0))(x)[0, :, 0].T.tolist() == [[-1.0] * 3, [1.0] * 3]


def test_refuses():
    with pytest.raises(HypersignError, match="levels of a thermometer code must be an integer >= 1; got 0"):
        Thermometer(0, (0.0, 1.0))
    with pytest.raises(HypersignError, match=r"must be \(low, high\) with low < high; got \(1.0, 1.0\)"):
        BitPlanes((1.0, 1.0))
