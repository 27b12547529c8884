"""Networks without multiplications, packed: the same integers as their own inference, and torch's logits."""

import hashlib
import io
import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from hypersign._checks import HypersignError
from hypersign.layers import Rotation
from hypersign.models import Switch, Transform, build
from hypersign.packed import PackedModel
from hypersign.packed.transforms import room, rotated_norm, shifted_norm, signed_sums
from hypersign.packing import file_size, pack, verify
from hypersign.rotations import HaarRotation, HadamardRotation
from hypersign.summaries import summary


def fast_transform(shape=(3, 32, 32), classes=10, **options):
    """The network by its plain options."""
    return build("fast-transform", shape, classes, **options)


def associative_memory(shape=(3, 32, 32), classes=10, **options):
    """The network by its plain options."""
    return build("associative-memory", shape, classes, **options)


SHAPE = (2, 5, 6)


def packed_from(model, path, shape=SHAPE, pixel_range=(-1.0, 1.0)) -> PackedModel:
    pack(model, path / "net", shape, pixel_range=pixel_range)
    assert (path / "net").stat().st_size == file_size(model, shape, pixel_range=pixel_range)
    return PackedModel.load(path / "net")


def images(n=40, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).choice([0, 1, 128, 254, 255], (n, *SHAPE)).astype(np.uint8)


@pytest.mark.parametrize("levels", [2, 3])
@pytest.mark.parametrize(("units", "depth"), [(64, 1), (128, 3), (64, 12)])
def test_the_integers_of_the_model_itself(levels, units, depth, tmp_path) -> None:
    torch.manual_seed(depth)
    model = fast_transform(SHAPE, 3, hidden=(units,) * depth, levels=levels, threshold=0.1)
    if depth == 12:
        with torch.no_grad():  # nothing shrinks, and images that are as long as can be
            for module in model:
                if isinstance(module, Switch):
                    module.slopes.sign_()
    found = packed_from(model, tmp_path)
    x = images() if depth < 12 else (images() > 1).astype(np.uint8) * 255
    values = found.trace(x)
    assert values["fc"].dtype == np.int32
    np.testing.assert_array_equal(values["fc"].reshape(len(x), 3), model.integer_logits(2 * x.astype(int) - 255))
    if depth == 12:
        assert max(np.abs(values[f"transform{i}"]).max() for i in range(1, 13)) > 2**20
    certificate = verify(model, found, x)
    assert certificate.decisions_differ == 0
    assert not certificate.integers  # sums are rounded
    assert certificate.largest_difference < 1e-4 * certificate.largest_logit


@pytest.mark.parametrize("pixel_range", [(-1.0, 1.0), (0.0, 1.0)])
@pytest.mark.parametrize("levels", [2, 3])
def test_a_memory(levels, pixel_range, tmp_path) -> None:
    torch.manual_seed(0)
    memory = associative_memory(SHAPE, 4, hidden=(100,), levels=levels, threshold=0.3)
    torch.nn.init.normal_(memory.fc.weight)
    certificate = verify(memory, packed_from(memory, tmp_path, pixel_range=pixel_range), images())
    assert certificate.decisions_differ == 0
    assert certificate.largest_difference < 1e-4 * certificate.largest_logit


def test_sums_of_64_bits_where_31_do_not_hold_them(tmp_path) -> None:
    model = torch.nn.Sequential(
        torch.nn.Flatten(),
        Rotation(HadamardRotation(60, rounds=7, seed=1, outputs=200)),
        associative_memory(SHAPE, 2, hidden=(200,)).fc,
    )
    torch.nn.init.normal_(model[2].weight)
    assert rotated_norm(255, 60, 256, 7) > 2**31
    assert verify(model, packed_from(model, tmp_path), images()).decisions_differ == 0


def test_slopes_and_signs_take_three_bits_and_one(tmp_path) -> None:
    model = fast_transform(SHAPE, 3, hidden=(128, 128))
    pack(model, tmp_path / "net", SHAPE, pixel_range=(-1.0, 1.0))
    data = (tmp_path / "net").read_bytes()
    body = len(data) - 8 - int.from_bytes(data[:8], "little")
    signs, slopes, weights, scales = 2 * 128 / 8, 2 * 2 * 3 * 128 / 8, 3 * 128 / 8, 2 * 3 * 4
    assert body == signs + slopes + weights + scales


def test_bounds_hold_and_are_met() -> None:
    # a constant vector has one large sum; signs as the filter's have a sum of as much
    assert rotated_norm(255, 64, 64, 1) == 255 * 64
    y = np.array([[-7, 8, -1]])
    assert (y >> 2).tolist() == [[-2, 2, -1]]  # rounded down: by less than 1 each
    assert np.linalg.norm(y >> 2) <= shifted_norm(11, 3, -2)
    assert room(2**31, 64) == -4
    assert signed_sums(y, np.array([[1, -1, 0], [-1, -1, 1]])).tolist() == [[-15, -2]]


def test_what_cannot_be_packed(tmp_path) -> None:
    def refused(*modules, pixel_range=(-1.0, 1.0)):
        pack(torch.nn.Sequential(*modules), tmp_path / "net", SHAPE, pixel_range=pixel_range)

    flat, rotation, last = torch.nn.Flatten(), Rotation(HadamardRotation(60)), torch.nn.Linear(64, 2)
    with pytest.raises(HypersignError, match=r"1 .Rotation. cannot be packed: Haar's rotation multiplies"):
        refused(flat, Rotation(HaarRotation(60, seed=0)), torch.nn.Linear(60, 2))
    with pytest.raises(HypersignError, match="only 8-bit images can be rotated"):
        refused(flat, rotation, last, pixel_range=(-0.3, 1.0))
    with pytest.raises(HypersignError, match="only 8-bit images can be rotated"):
        refused(flat, rotation, last, pixel_range=None)
    with pytest.raises(HypersignError, match=r"1 .Switch. cannot be packed: it must come after a rotation"):
        refused(flat, Switch(60), torch.nn.Linear(60, 2))
    with pytest.raises(HypersignError, match=r"1 .Transform. cannot be packed: it must come after a rotation"):
        refused(flat, Transform(2), last)
    model = fast_transform(SHAPE, 3, hidden=(64,))
    with torch.no_grad():
        model.switch1.slopes[0, 3] = torch.nan
    with pytest.raises(HypersignError, match=r"switch1.slopes must hold numbers"):
        pack(model, tmp_path / "net", SHAPE, pixel_range=(-1.0, 1.0))


def test_summary_counts_what_the_file_holds(tmp_path) -> None:
    model = fast_transform(SHAPE, 3, hidden=(64, 64))
    pack(model, tmp_path / "net", SHAPE, pixel_range=(-1.0, 1.0))
    held = {name: tensor.nbytes for name, tensor in load_file(tmp_path / "net").items()}
    counted = {layer.name: layer for layer in summary(model, SHAPE).layers}
    for name in ("switch1", "switch2"):
        (size,) = (size for key, size in held.items() if key.startswith(f"{name}."))
        assert size == counted[name].packed_bytes == 48
        assert counted[name].parameters_3bit == 128
    assert counted["fc"].packed_bytes == 24
    assert summary(model, SHAPE).float_bytes == 4 * (2 * 128 + 3 * 64)


def test_a_damaged_file_is_refused(tmp_path) -> None:
    pack(fast_transform(SHAPE, 3, hidden=(64, 64)), tmp_path / "net", SHAPE, pixel_range=(-1.0, 1.0))
    data = (tmp_path / "net").read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8:end]), data[end:]
    graph = json.loads(header["__metadata__"]["hypersign"])

    def refusal(edit) -> str:
        changed = json.loads(json.dumps(graph))
        edit({node["name"]: node for node in changed["nodes"]})
        text = json.dumps(changed)
        header["__metadata__"] = {"hypersign": text, "sha256": hashlib.sha256(text.encode() + body).hexdigest()}
        head = json.dumps(header).encode()
        with pytest.raises(HypersignError) as error:
            PackedModel.load(io.BytesIO(len(head).to_bytes(8, "little") + head + body))
        return str(error.value)

    def option(name, **values):
        return lambda nodes: nodes[name]["options"].update(values)

    assert "could reach" in refusal(option("rotation", exponent=16))
    assert "could reach" in refusal(option("switch2", exponent=0))
    assert "could reach" in refusal(option("fc", exponent=0))
    assert "exponent must be" in refusal(option("switch2", exponent=1))
    assert "size must be a power of two that holds the 60" in refusal(option("rotation", size=96))
    assert "size must be a power of two that holds the 60" in refusal(option("rotation", size=32, outputs=32))
    assert "rotation.signs must be" in refusal(option("rotation", size=2**20))
    assert "outputs must be" in refusal(option("rotation", outputs=65))
    assert "multiplier must be" in refusal(option("rotation", multiplier=3))
    assert "it transforms a power of two" in refusal(option("rotation", outputs=63))
    assert "switch takes sums; got image" in refusal(lambda nodes: nodes["switch1"].update(inputs=["input"]))
