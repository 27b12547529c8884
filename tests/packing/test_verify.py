"""Verification: what is the same holds, what differs does not, and a tie is told from a difference."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hypersign._checks import HypersignError
from hypersign.layers import QuantLinear
from hypersign.models import mlp, resnet20
from hypersign.packed import PackedModel
from hypersign.packing import Difference, pack, verify
from hypersign.quantizers import MeanScale, Sign, Ternary


def packed_from(model: nn.Module, path: Path, shape: tuple[int, int, int]) -> PackedModel:
    pack(model, path / "net", shape, pixel_range=(0.0, 1.0))
    return PackedModel.load(path / "net")


def step_at(pixel: float) -> nn.Module:
    """Class 1 where the first of two pixels u is at least `pixel`: the sign of the real u/255 - pixel/255."""
    model = nn.Sequential(
        nn.Conv2d(1, 1, 1),
        nn.Flatten(),
        QuantLinear(2, 2, bias=False, input_quantizer=Sign(), weight_quantizer=Ternary(0.1, scale=MeanScale())),
    ).eval()
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[0].bias.fill_(-pixel / 255)
        model[2].weight.copy_(torch.tensor([[-0.5, 0.0], [0.5, 0.0]]))
    return model


SHAPE = (1, 1, 2)
PIXELS = np.full((256, *SHAPE), 255, np.uint8)
PIXELS[:, 0, 0, 0] = np.arange(256)


def test_the_same_network(tmp_path: Path) -> None:
    model = step_at(99.5)
    found = verify(model, packed_from(model, tmp_path, SHAPE), PIXELS, batch_size=100)
    assert (found.images, found.classes_differ, found.ties, found.integers, found.holds) == (256, 0, 0, False, True)
    assert (found.largest_difference, found.largest_logit) == (0, 0.5)


def test_a_tie_is_shown_to_be_one(tmp_path: Path) -> None:
    """Thresholds on either side of one pixel's value, by less than float32 rounds a sum."""
    found = verify(step_at(100 + 1e-4), packed_from(step_at(100 - 1e-4), tmp_path, SHAPE), PIXELS)
    assert (found.classes_differ, found.ties, found.holds) == (1, 1, True)
    (difference,) = found.differences
    assert difference == Difference(100, float_class=0, packed_class=1, layer="2", levels=1, tie=True)
    assert found.as_dict()["differences"][0]["layer"] == "2"


def test_a_difference_is_no_tie(tmp_path: Path) -> None:
    found = verify(step_at(99.5), packed_from(step_at(100.5), tmp_path, SHAPE), PIXELS)
    assert (found.classes_differ, found.ties, found.holds) == (1, 0, False)
    assert found.as_dict()["holds"] is False


def test_integers_allow_no_tie(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, other = mlp((1, 3, 3), 4, hidden=(70,)).eval(), mlp((1, 3, 3), 4, hidden=(70,)).eval()
    packed = packed_from(model, tmp_path, (1, 3, 3))
    images = np.random.default_rng(0).integers(0, 256, (50, 1, 3, 3)).astype(np.uint8)
    same = verify(model, packed, images)
    assert (same.classes_differ, same.integers, same.holds) == (0, True, True)
    different = verify(other, packed, images)
    assert different.classes_differ > 0
    assert not different.holds


def test_a_residual_network_and_its_replica(tmp_path: Path) -> None:
    """Its own levels and logits are what the replica gives; those of other weights are not."""
    torch.manual_seed(0)
    from hypersign.packing.verify import _what_differs

    model = resnet20((3, 8, 8), 4, widths=(4, 8)).eval()
    other = resnet20((3, 8, 8), 4, widths=(4, 8)).eval()
    packed = packed_from(model, tmp_path, (3, 8, 8))
    image = np.random.default_rng(0).integers(0, 256, (1, 3, 8, 8)).astype(np.uint8)
    x = torch.from_numpy(image).float().mul_(1 / 255)
    with torch.no_grad():
        assert _what_differs(model, packed, image, x) == (None, 0, True)
        layer, levels, tie = _what_differs(other, packed, image, x)
        assert layer is not None
        assert levels > 0
        assert not tie


def test_what_cannot_be_verified(tmp_path: Path) -> None:
    model = step_at(100)
    packed = packed_from(model, tmp_path, SHAPE)
    with pytest.raises(HypersignError, match="at least one image"):
        verify(model, packed, PIXELS[:0])
    with pytest.raises(HypersignError, match="images must be uint8"):
        verify(model, packed, PIXELS.astype(np.int64))
    pack(model, tmp_path / "real", SHAPE, pixel_range=None)
    with pytest.raises(HypersignError, match="float32 inputs"):
        verify(model, PackedModel.load(io.BytesIO((tmp_path / "real").read_bytes())), PIXELS)
