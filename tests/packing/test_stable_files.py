"""Packed files and their logits stay what they were: hashes of networks whose numbers NumPy draws from a seed.

A hash is changed on purpose alone: then files of an earlier version are other files, and CHANGELOG says why. Run this
file as a script to print the table.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from hypersign._checks import HypersignError
from hypersign.layers import QuantConv2d, QuantLinear
from hypersign.models import build, mlp, resnet20
from hypersign.packed import PackedModel
from hypersign.packing import file_size, pack
from hypersign.quantizers import Identity, MeanScale, Optimal, Sign, Ternary

from ..small_networks import settled


def vgg(shape=(3, 32, 32), classes=10, **options):
    """The network by its plain options."""
    return build("vgg", shape, classes, **options)


def fast_transform(shape=(3, 32, 32), classes=10, **options):
    """The network by its plain options."""
    return build("fast-transform", shape, classes, **options)


def associative_memory(shape=(3, 32, 32), classes=10, **options):
    """The network by its plain options."""
    return build("associative-memory", shape, classes, **options)


SHAPE = (3, 9, 9)
SMALL: dict[str, Any] = {"widths": (16, 8, 70), "pools": (2, 3), "hidden": (40,), "norm_scale": True}


def conv(*arguments: Any, **options: Any) -> QuantConv2d:
    return QuantConv2d(*arguments, **{"input_quantizer": Sign(), "weight_quantizer": Sign(), **options})


def linear(*arguments: Any, **options: Any) -> QuantLinear:
    return QuantLinear(*arguments, **{"input_quantizer": Sign(), "weight_quantizer": Sign(), **options})


def layers() -> nn.Module:
    """Strides, dilations, groups, pads of one, scales, biases, clips and pools of levels and of real numbers."""
    ternary = Ternary(0.1, scale=MeanScale())
    return nn.Sequential(
        conv(3, 8, (2, 3), stride=(2, 1), padding=(1, 2), dilation=(1, 2)), nn.BatchNorm2d(8), nn.Hardtanh(),
        nn.MaxPool2d(3, 1, 1), nn.BatchNorm2d(8), nn.Dropout(),
        conv(8, 12, 3, groups=4, padding=1, pad_value=1, weight_quantizer=ternary), nn.ReLU(), nn.BatchNorm2d(12),
        conv(12, 70, 2, input_quantizer=Ternary(0.4)), nn.AvgPool2d(2, 1, 1, count_include_pad=False),
        nn.MaxPool2d(2), nn.Hardtanh(-2, 3), conv(70, 8, 1, input_quantizer=Identity()), nn.ReLU6(), nn.Flatten(),
        linear(64, 5, input_quantizer=None),
    )  # fmt: skip


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int], tuple[float, float] | None]] = {
    "vgg": (lambda: vgg(SHAPE, 5, **SMALL), SHAPE, (-1.0, 1.0)),
    "vgg, the paper's": (vgg, (3, 32, 32), (-1.0, 1.0)),
    "vgg, ternary": (lambda: vgg(SHAPE, 5, **SMALL, levels=3, threshold=0.05), SHAPE, (0.0, 1.0)),
    "vgg, optimal": (lambda: vgg(SHAPE, 5, **SMALL, levels=3, threshold=Optimal()), SHAPE, (-1.0, 4.0)),
    "vgg, float weights": (
        lambda: vgg(SHAPE, 5, **SMALL, float_weights=("conv1", "conv2", "fc1")), SHAPE, (-1.0, 1.0)
    ),
    "vgg, odd pixels": (lambda: vgg(SHAPE, 5, **SMALL), SHAPE, (-0.7, 1.1)),
    "vgg, float images": (lambda: vgg(SHAPE, 5, **SMALL), SHAPE, None),
    "mlp": (lambda: mlp((1, 7, 9), 10, hidden=(64, 65)), (1, 7, 9), (-1.0, 1.0)),
    "resnet20": (lambda: resnet20((3, 9, 10), 7, widths=(4, 8)), (3, 9, 10), (-1.0, 1.0)),
    "layers": (layers, SHAPE, (-1.0, 1.0)),
    "fast transform": (lambda: fast_transform((2, 5, 6), 3, hidden=(64,) * 3), (2, 5, 6), (-1.0, 1.0)),
    "fast transform, ternary": (
        lambda: fast_transform((2, 5, 6), 3, hidden=(128,), levels=3, threshold=0.1), (2, 5, 6), (0.0, 1.0)
    ),
    "associative memory": (lambda: associative_memory((2, 5, 6), 4, hidden=(100,)), (2, 5, 6), (-1.0, 1.0)),
    "associative memory, ternary": (
        lambda: associative_memory((2, 5, 6), 4, hidden=(70,), levels=3, threshold=0.3), (2, 5, 6), (-1.0, 1.0)
    ),
}  # fmt: skip

EXPECTED: dict[str, tuple[str, str]] = {
    "vgg": ("e31c8d65249dbe7dbf4744630870f22f", "d64edbdaabe771559e11870c679c5988"),
    "vgg, the paper's": ("42e517fae97708bc994efcfae4cfa505", "8e116a7c4ff7c4a7d6393bb590dc735a"),
    "vgg, ternary": ("49e5a97c5163e5e6a83945e0987df6e3", "b993da7429871eec0076e85e249db564"),
    "vgg, optimal": ("f057a9079d1563efdf95c8e02b5c3614", "dd4284850c5d7b870f55bdfc369c4978"),
    "vgg, float weights": ("a736c36ef33290bbe9a90715318499c3", "e84e669551b45d3b2b3107177ebe7543"),
    "vgg, odd pixels": ("d793679f3254c1401c4e65923643da19", "11aafeb2a830a1efec8b029b2766b42f"),
    "vgg, float images": ("600c453b38c0c03fb7b899cb76ecf4f1", "0117d7969b3cb3782c5d70be63397a22"),
    "mlp": ("5fbbb95a5ac51c8229d7880a0d56a47e", "d3966976824a812fd753714c63ec199c"),
    "resnet20": ("9dba29d9c66674e59666a9a359596fa0", "f959d182d9cc64831cfab753dea6ab1d"),
    "layers": ("c95d558cde7e84a1f908f89016e8a138", "8057c7ba060f1db7519b41dec96498da"),
    "fast transform": ("2f7d0fe5f4ff3857ea7dcd7c786fc0ee", "a721de121a1cafca7ff6ebdd69a8a609"),
    "fast transform, ternary": ("b53be2194dad2e7e98c65b0df5151d11", "5dedf270ec2597ecea79fd282cf6564a"),
    "associative memory": ("4840d7a57021c0e39a416b828fbb90b2", "51903ae5e1bd136c0b92cc0f12d92922"),
    "associative memory, ternary": ("b7d8d5cc076f30d27bd21af110ebe63a", "b17f710e123b57477213dad4263efb58"),
}
"""By network: 32 digits of the SHA-256 of the file (without float thresholds) and of the logits of `images`."""

UNPACKED = {
    "thermometer": "first (Thermometer) cannot be packed: no packed form is known of ge in its forward",
    "bit-planes": "first (BitPlanes) cannot be packed: no packed form is known of round in its forward",
}
"""First layers that have no packed form, and what is said of them."""


def images(shape: tuple[int, int, int], pixel_range: tuple[float, float] | None) -> np.ndarray[Any, Any]:
    drawn = np.random.default_rng(7).integers(0, 256, (9, *shape)).astype(np.uint8)
    return drawn if pixel_range is not None else drawn.astype(np.float32) / 128 - 1


def digests(name: str, folder: Path) -> tuple[str, str]:
    make, shape, pixel_range = NETWORKS[name]
    model = settled(make())
    pack(model, folder / "net", shape, pixel_range=pixel_range)
    data = (folder / "net").read_bytes()
    assert file_size(model, shape, pixel_range=pixel_range) == len(data)
    logits = PackedModel.load(folder / "net").predict(images(shape, pixel_range))
    assert len(np.unique(logits, axis=0)) == len(logits), "a network that tells images apart"
    return digest(blanked(data)), digest(logits.astype("<f4").tobytes())


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


def blanked(data: bytes) -> bytes:
    """The file without its float thresholds, whose last bits depend on how torch rounds on this machine."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    sha256 = header.pop("__metadata__")["sha256"]
    found = bytearray(data)
    for name, entry in header.items():
        if entry["dtype"] == "F32" and name.endswith((".low", ".high")):
            start, stop = (end + offset for offset in entry["data_offsets"])
            found[start:stop] = bytes(stop - start)
    return data if found == data else bytes(found).replace(sha256.encode(), b"")


@pytest.mark.parametrize("name", NETWORKS)
def test_files_and_logits_are_what_they_were(name: str, tmp_path: Path) -> None:
    """Real sums run in float64 in one order, so logits are the same on every machine too."""
    assert digests(name, tmp_path) == EXPECTED[name]


@pytest.mark.parametrize("first_layer", UNPACKED)
def test_first_layers_that_have_no_packed_form(first_layer: str, tmp_path: Path) -> None:
    with pytest.raises(HypersignError) as error:
        pack(vgg(SHAPE, 5, **SMALL, first_layer=first_layer), tmp_path / "net", SHAPE, pixel_range=(-1.0, 1.0))
    assert UNPACKED[first_layer] in str(error.value)


if __name__ == "__main__":
    for network in NETWORKS:
        with tempfile.TemporaryDirectory() as temporary:
            file, logits = digests(network, Path(temporary))
        print(f'    "{network}": ("{file}", "{logits}"),')
