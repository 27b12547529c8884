"""Rotated patches: the generalized binarization of a convolution's inputs."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hypersign._checks import HypersignError
from hypersign.layers import PatchRotation, QuantConv2d, Rotation
from hypersign.quantizers import Sign
from hypersign.rotations import HaarRotation, HadamardRotation

ROTATIONS = [
    HaarRotation(18, 1),
    HaarRotation(18, 1, outputs=50),
    HadamardRotation(18),
    HadamardRotation(18, outputs=7),
]


@pytest.mark.parametrize("rotation", ROTATIONS, ids=repr)
def test_is_the_rotation_of_every_patch(rotation):
    x = torch.randn(2, 2, 5, 4)
    found = PatchRotation(2, 3, rotation)(x)
    assert found.shape == (2, rotation.outputs, 5, 4)
    padded = F.pad(x, (1, 1, 1, 1))
    for row, column in ((0, 0), (2, 3), (4, 1)):
        patch = padded[:, :, row : row + 3, column : column + 3].flatten(1)
        torch.testing.assert_close(found[:, :, row, column], rotation(patch), atol=1e-5, rtol=1e-5)


def test_with_a_1x1_product_it_is_the_convolution_of_binarized_patches():
    rotation = HadamardRotation(18, outputs=32)
    layer = QuantConv2d(32, 6, 1, bias=False, input_quantizer=Sign(), weight_quantizer=Sign())
    x = torch.randn(2, 2, 5, 4)
    found = nn.Sequential(PatchRotation(2, 3, rotation), layer)(x)
    patches = F.unfold(x, 3, padding=1).mT  # (N, places, d)
    binarized = rotation.inverse(Sign()(rotation(patches)))  # theta_R(a)
    filters = rotation.inverse(layer.quantized_weight().flatten(1))  # in the frame of the pixels
    # R drops nothing of 18 dimensions, but its 32 outputs have directions that no patch has: theta there is lost in
    # R' and kept in the product of levels.
    across = torch.eye(32) - rotation(rotation.inverse(torch.eye(32)))
    lost = Sign()(rotation(patches)) @ across @ layer.quantized_weight().flatten(1).T
    expected = (binarized @ filters.T + lost).mT.unflatten(2, (5, 4))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_has_no_state_and_no_parameters():
    layer = PatchRotation(1, 3, HadamardRotation(9, outputs=16))
    assert not layer.state_dict()
    assert not list(layer.parameters())
    assert repr(Rotation(HadamardRotation(9))).startswith("Rotation(HadamardRotation(9")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, 2, HadamardRotation(4)), "must be odd, so that padding keeps images' sizes; got 2"),
        ((1, 3, HadamardRotation(8)), "of dimension 9, the numbers in a patch; got HadamardRotation"),
        ((1, 3, "haar"), "got 'haar'"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(HypersignError, match=message):
        PatchRotation(*arguments)
