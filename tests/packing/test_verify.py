"""Verification: what is the same holds, what differs does not, and a tie is told from a difference."""

import importlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hypersign._checks import HypersignError
from hypersign.layers import QuantConv2d, QuantLinear
from hypersign.models import associative_memory, build, fast_transform, mlp, resnet20
from hypersign.packed import PackedModel
from hypersign.packed.format import write
from hypersign.packing import fold, pack, verify
from hypersign.packing.handlers import HANDLERS
from hypersign.packing.replica import STEPS
from hypersign.quantizers import MeanScale, Sign, Ternary


def vgg(shape=(3, 32, 32), classes=10, **options):
    """The network by its plain options."""
    return build("vgg", shape, classes, **options)


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


def test_a_float_twin(tmp_path: Path) -> None:
    """The ReLU of its inputs is packed as a clip, in front of every layer but the first."""
    torch.manual_seed(0)
    model = vgg((1, 8, 8), widths=(8, 8), pools=(2,), hidden=(16,), weights="float", inputs="relu").eval()
    packed = packed_from(model, tmp_path, (1, 8, 8))
    assert sum(node.op == "clip" for node in packed.graph.nodes) == 3
    images = np.random.default_rng(0).integers(0, 256, (20, 1, 8, 8)).astype(np.uint8)
    found = verify(model, packed, images)
    assert found.holds
    with torch.no_grad():
        expected = model(torch.from_numpy(images).float().div(255)).numpy()
    np.testing.assert_allclose(packed.predict(images), expected, atol=1e-5)


def test_the_same_network(tmp_path: Path) -> None:
    model = step_at(99.5)
    found = verify(model, packed_from(model, tmp_path, SHAPE), PIXELS, batch_size=100)
    assert (found.images, found.decisions_differ, found.ties, found.integers, found.holds) == (256, 0, 0, False, True)
    assert (found.largest_difference, found.largest_logit) == (0, 0.5)


def test_a_tie_is_shown_to_be_one(tmp_path: Path) -> None:
    """Thresholds on either side of one pixel's value, by less than float32 rounds a sum."""
    found = verify(step_at(100 + 1e-4), packed_from(step_at(100 - 1e-4), tmp_path, SHAPE), PIXELS)
    assert (found.logits_differ, found.decisions_differ, found.ties, found.wrong, found.holds) == (1, 1, 1, 0, True)
    (difference,) = found.differences
    assert (difference.image, difference.float_decision, difference.packed_decision) == (100, 0, 1)
    assert (difference.layer, difference.levels, difference.wrong_step, difference.tie) == ("2", 1, None, True)
    # float64 sees that the pixel is below this network's threshold: on this image float32 is the nearer one
    assert (difference.exact_decision, difference.float_error, difference.packed_error) == (0, 0.0, 1.0)
    assert (found.packed_error, found.float_error, found.packed_nearer, found.float_nearer) == (1.0, 0.0, 0, 1)
    assert found.as_dict()["differences"][0]["layer"] == "2"


def test_a_difference_is_no_tie(tmp_path: Path) -> None:
    found = verify(step_at(99.5), packed_from(step_at(100.5), tmp_path, SHAPE), PIXELS)
    assert (found.decisions_differ, found.ties, found.holds) == (1, 0, False)
    assert found.as_dict()["holds"] is False


def test_another_network_does_not_hold(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, other = mlp((1, 3, 3), 4, hidden=(70,)).eval(), mlp((1, 3, 3), 4, hidden=(70,)).eval()
    packed = packed_from(model, tmp_path, (1, 3, 3))
    images = images_of((1, 3, 3), 50)
    same = verify(model, packed, images)
    assert (same.decisions_differ, same.integers, same.holds) == (0, True, True)
    different = verify(other, packed, images)
    assert different.decisions_differ > 0
    assert different.wrong == different.logits_differ == 50
    assert different.ties == 0


def images_of(shape: tuple[int, int, int], n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, *shape)).astype(np.uint8)


BUILT: dict[str, tuple[Any, tuple[int, int, int]]] = {
    "residual": (lambda: resnet20((3, 8, 8), 4, widths=(4, 8)), (3, 8, 8)),
    "convolutions": (lambda: vgg((3, 8, 8), 4, widths=(8, 16), pools=(2,), hidden=(20,)), (3, 8, 8)),
    "ternary": (lambda: vgg((3, 8, 8), 4, widths=(8, 16), pools=(2,), hidden=(20,), levels=3), (3, 8, 8)),
    "fully connected": (lambda: mlp((1, 3, 3), 4, hidden=(70,)), (1, 3, 3)),
    "fast transform": (lambda: fast_transform((1, 4, 4), 4, hidden=(64, 64)), (1, 4, 4)),
    "memory": (lambda: _learned(associative_memory((1, 4, 4), 4, hidden=(64,))), (1, 4, 4)),
}


def _learned(memory: Any) -> Any:
    nn.init.normal_(memory.fc.weight)
    return memory


@pytest.mark.parametrize("name", BUILT)
def test_the_logits_that_differed_are_judged(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other logits than the file gives: all are condemned, though the file itself is right when it runs again."""
    torch.manual_seed(0)
    build, shape = BUILT[name]
    model = build().eval()
    packed, images = packed_from(model, tmp_path, shape), images_of(shape, 10)
    assert verify(model, packed, images).holds
    predict = PackedModel.predict

    def condemned(change: Any) -> int:
        monkeypatch.setattr(PackedModel, "predict", lambda *words, **options: change(predict(*words, **options)))
        found = verify(model, packed, images, batch_size=4)
        assert not found.holds
        assert found.wrong == len(found.differences)
        last = packed.graph.nodes[-1].name
        assert {(row.layer, row.levels, row.wrong_step) for row in found.differences} == {(None, 0, last)}
        json.dumps(found.as_dict(), allow_nan=False)
        return found.wrong

    assert condemned(lambda logits: np.roll(logits, 1, axis=1)) == 10
    # with the same classes:
    assert condemned(lambda logits: logits * np.float32(1.01)) == 10
    assert condemned(lambda logits: logits - np.float32(0.1) * (np.arange(len(logits)) == 1)[:, None]) == 3
    assert condemned(lambda logits: np.full_like(logits, np.nan)) == 10


@pytest.mark.parametrize("name", ["residual", "convolutions", "ternary", "fully connected"])
def test_a_file_with_one_wrong_number(name: str, tmp_path: Path) -> None:
    """A weight with the other sign in any layer, or a threshold moved: the step is named where it shows."""
    torch.manual_seed(0)
    build, shape = BUILT[name]
    model = build().eval()
    packed, images = packed_from(model, tmp_path, shape), images_of(shape, 10)
    graph, planned = fold(model, shape, pixel_range=(0.0, 1.0))
    tensors = {key: tensor.make() for key, tensor in planned.items()}
    shown = 0
    for key, tensor in tensors.items():
        if key.endswith(".flip"):
            continue
        changed = tensor.copy()
        if changed.dtype == np.uint64:
            # the lowest bit, or where levels are ternary the sign of the lowest that is not 0
            words = changed.reshape(-1, changed.shape[-1])
            nonzero = int(changed[1, 0, 0]) if changed.ndim == 3 else 1
            words[0, 0] ^= np.uint64(nonzero & -nonzero)
        else:
            changed += np.maximum(np.abs(changed) * 0.01, 1).astype(changed.dtype)
        write(tmp_path / "broken", graph, {**tensors, key: changed})
        broken = PackedModel.load(tmp_path / "broken")
        found = verify(model, broken, images)
        same = np.array_equal(packed.predict(images), broken.predict(images))
        assert found.holds == same, key
        shown += not same
    assert shown > len(tensors) / 4


def test_rounding_of_float32_condemns_nothing(tmp_path: Path) -> None:
    """Filters whose sums are exactly 0, which float32 makes something of either sign: the packed network is right."""
    torch.manual_seed(0)
    binary = {"bias": False, "weight_quantizer": Sign()}
    model = nn.Sequential(
        QuantConv2d(2, 64, 3, **binary), nn.Flatten(), QuantLinear(64, 10, input_quantizer=Sign(), **binary)
    ).eval()
    with torch.no_grad():
        for filters in (model[0].weight, model[2].weight):
            nn.init.normal_(filters)
        model[0].weight[:32] = torch.tensor([1.0, -1.0])[:, None, None]  # the difference of the two channels
    packed = packed_from(model, tmp_path, (2, 3, 3))
    draws = np.random.default_rng(0)
    images = images_of((2, 3, 3), 200)
    for image in images:
        image[1] = draws.permutation(image[0].reshape(-1)).reshape(3, 3)
    found = verify(model, packed, images)
    assert found.integers
    assert found.logits_differ > 0, "float32 rounds to other levels"
    assert found.ties == found.decisions_differ
    assert (found.wrong, found.holds) == (0, True)
    assert found.packed_error < 1e-6 < found.float_error
    assert (found.packed_nearer, found.float_nearer) == (found.logits_differ, 0)


def test_layers_that_share_their_quantizers(tmp_path: Path) -> None:
    """One Sign in many layers, each with another number of inputs, and a layer that runs twice."""
    torch.manual_seed(0)
    binary = {"bias": False, "input_quantizer": Sign(), "weight_quantizer": Sign()}
    twice = nn.Sequential(QuantLinear(20, 20, **binary), nn.BatchNorm1d(20))

    def build() -> nn.Module:
        return nn.Sequential(
            QuantConv2d(1, 8, 3, bias=False, weight_quantizer=binary["weight_quantizer"]),
            nn.BatchNorm2d(8),
            nn.Flatten(),
            QuantLinear(8, 20, **binary),
            nn.BatchNorm1d(20),
            twice,
            twice,
            QuantLinear(20, 5, **binary),
        ).eval()

    model, other = build(), build()
    packed, images = packed_from(model, tmp_path, (1, 3, 3)), images_of((1, 3, 3), 40)
    module = importlib.import_module("hypersign.packing.verify")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module._Judged, "agree", lambda self, found, expected: np.zeros(len(found[0]), bool))
        found = verify(model, packed, images)
    assert (found.logits_differ, found.wrong, found.decisions_differ) == (40, 0, 0)
    with torch.no_grad():
        levels = module._float_levels(model, [torch.from_numpy(images).float() / 255])
    assert [tuple(values.shape) for values in levels.values()] == [(40, 8), (40, 20), (40, 20), (40, 20), (40, 20)][
        :1
    ] + [(40, 20)] * 3
    different = verify(other, packed, images)
    assert different.wrong == different.logits_differ > 0
    assert {row.layer for row in different.differences} == {"3"}


def test_a_head_without_flatten(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 5, 1), nn.AdaptiveAvgPool2d(1))
    packed, images = packed_from(model.eval(), tmp_path, (1, 4, 4)), images_of((1, 4, 4), 7)
    found = verify(model, packed, images)
    assert (found.images, found.logits_differ, found.holds) == (7, 0, True)
    assert found.largest_difference < 1e-6
    with pytest.raises(HypersignError, match=r"it gives logits .7, 5., the network .7, 6."):
        verify(nn.Sequential(*model[:2], nn.AdaptiveAvgPool2d(1)), packed, images)
    with pytest.raises(HypersignError, match=r"it gives logits .7, 5., the network .7, 5, 4, 4."):
        verify(model[:3], packed, images)


def test_a_network_of_another_size(tmp_path: Path) -> None:
    torch.manual_seed(0)
    packed = packed_from(mlp((1, 3, 3), 4, hidden=(70,)).eval(), tmp_path, (1, 3, 3))
    with pytest.raises(HypersignError, match="at fc2 it has 70 numbers per image, the network 60: pack it again"):
        verify(mlp((1, 3, 3), 4, hidden=(60,)).eval(), packed, images_of((1, 3, 3), 50))


def test_every_layer_that_packs_can_be_verified() -> None:
    assert set(STEPS) == set(HANDLERS)


def test_batches_of_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = resnet20((3, 8, 8), 4, widths=(4, 8)).eval()
    packed, images = packed_from(model, tmp_path, (3, 8, 8)), images_of((3, 8, 8), 3)
    seen: list[int] = []
    assert verify(model, packed, images, batch_size=1, progress=seen.append).holds
    assert seen == [1, 2, 3]


class Negated(nn.Sequential):
    """Its forward is not that of its layers."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return -super().forward(input)


@pytest.mark.parametrize("way", ["subclass", "forward", "hook", "double", "str"])
def test_a_network_that_computes_something_else_than_its_layers(way: str, tmp_path: Path) -> None:
    model: Any = step_at(100)
    packed = packed_from(model, tmp_path, SHAPE)
    if way == "subclass":
        model = Negated(*model)
    elif way == "forward":
        model.forward = lambda x, forward=model.forward: -forward(x)
    elif way == "hook":
        model[-1].register_forward_hook(lambda _, inputs, output: -output)
    elif way == "double":
        model.double()
    else:
        model = "network"
    messages = {
        "forward": "its forward was replaced",
        "hook": "it has a forward hook",
        "double": "must be float32",
        "str": "got str",
    }
    if way == "subclass":  # its forward is followed
        assert not verify(model, packed, PIXELS).holds
        return
    with pytest.raises(HypersignError, match=messages[way]):
        verify(model, packed, PIXELS)


def test_what_cannot_be_verified(tmp_path: Path) -> None:
    model = step_at(100)
    packed = packed_from(model, tmp_path, SHAPE)
    with pytest.raises(HypersignError, match="at least one image"):
        verify(model, packed, PIXELS[:0])
    with pytest.raises(HypersignError, match="images must be uint8"):
        verify(model, packed, PIXELS.astype(np.int64))
    pack(model, tmp_path / "real", SHAPE, pixel_range=None)
    with pytest.raises(HypersignError, match="images must be float32"):
        verify(model, PackedModel.load(io.BytesIO((tmp_path / "real").read_bytes())), PIXELS)
    broken = nn.Sequential(nn.Flatten(), nn.Linear(2, 2))
    with torch.no_grad():
        broken[1].bias.fill_(torch.nan)
    with pytest.raises(HypersignError, match="logits must be finite numbers; image 0 gives NaN"):
        verify(broken, packed, PIXELS)
    nn.init.ones_(broken[1].bias)
    with pytest.raises(HypersignError, match="it has nothing like 1: pack it again"):
        verify(broken, packed, PIXELS)
