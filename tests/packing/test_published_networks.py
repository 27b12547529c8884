"""The networks of the field after a few steps: packed classes are equal, or ties by the float64 replica."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hypersign.layers import train_on_bits
from hypersign.models import build
from hypersign.packed import PackedModel
from hypersign.packing import file_size, pack, verify

SHAPE = (3, 9, 10)
METHODS = {
    "bnn": {"weights": "sign", "inputs": "sign", "activation": "hardtanh"},
    "reactnet": {"weights": "sign:scale=filter", "inputs": "rsign", "activation": "rprelu"},
    "adabin": {"weights": "adabin", "inputs": "adabin-inputs", "activation": "maxout"},
}
NETWORKS = {
    "vgg-small": ("vgg-small", {"widths": (8, 8, 12)}),
    "vgg-small, ends on bits": ("vgg-small", {"widths": (8, 8), "float_first": False, "float_last": False}),
    "resnet20": ("resnet20", {"widths": (4, 8)}),
    "resnet20, ReCU": ("resnet20", {"widths": (4, 8), "form": "recu"}),
    "resnet20, AdaBin": ("resnet20", {"widths": (4, 7), "form": "adabin"}),
    "resnet18": ("resnet18", {"widths": (4, 8)}),
    "resnet18, AdaBin": ("resnet18", {"widths": (4, 8), "form": "adabin"}),
    "reactnet-a": ("reactnet-a", {"widths": (4, 8, 16, 16)}),
}


def trained(name: str, options: dict, steps: int = 8) -> nn.Module:
    """A network after a few steps on random images, in evaluation mode."""
    torch.manual_seed(0)
    model = build(name, SHAPE, 5, **options)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(steps):
        x, labels = torch.rand(16, *SHAPE) * 2 - 1, torch.randint(5, (16,))
        optimizer.zero_grad()
        F.cross_entropy(model(x), labels).backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("network", NETWORKS)
def test_packs_with_equal_classes(network: str, method: str, tmp_path) -> None:
    name, options = NETWORKS[network]
    model = trained(name, options | METHODS[method])
    pack(model, tmp_path / "net", SHAPE, pixel_range=(-1.0, 1.0))
    assert file_size(model, SHAPE, pixel_range=(-1.0, 1.0)) == (tmp_path / "net").stat().st_size
    packed = PackedModel.load(tmp_path / "net")
    pixels = np.random.default_rng(0).integers(0, 256, (60, *SHAPE)).astype(np.uint8)
    certificate = verify(model, packed, pixels)
    assert certificate.wrong == 0, certificate
    x = torch.from_numpy(pixels).float() * (2 / 255) - 1
    with torch.no_grad():
        expected = model(x).argmax(1).numpy()
    assert (packed.predict(pixels).argmax(1) == expected).mean() > 0.9  # the certificate judged the others


@pytest.mark.parametrize(
    ("name", "form", "op"),
    [("vgg-small", {"float_first": False}, "image_conv2d"), ("vgg-small", {}, "real_conv2d")],
)
def test_the_first_layer_is_8_bits_times_1_bit_or_float(name: str, form: dict, op: str, tmp_path) -> None:
    pack(build(name, SHAPE, 5, widths=(4,), **form).eval(), tmp_path / "net", SHAPE, pixel_range=(-1.0, 1.0))
    nodes = PackedModel.load(tmp_path / "net").graph.nodes
    assert next(node.op for node in nodes if node.name == "conv1") == op


@pytest.mark.parametrize("network", NETWORKS)
def test_trains_on_bits(network: str) -> None:
    """Outputs on bits are those in float32."""
    name, options = NETWORKS[network]
    model = trained(name, options | METHODS["bnn"], steps=1)
    x = torch.rand(4, *SHAPE) * 2 - 1
    expected = model(x)
    kept = train_on_bits(model)
    assert set(kept) <= {"conv1"}
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)
