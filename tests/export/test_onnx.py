"""ONNX Runtime and qonnx's executor decide as the packed network does."""

import warnings
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hypersign import HypersignError
from hypersign.export import compare, onnx_model, qonnx_model, write_onnx, write_qonnx
from hypersign.export.onnx_graph import ACTIVATIONS, HANDLERS
from hypersign.layers import QuantConv2d, QuantConvTranspose2d
from hypersign.packed import PackedModel
from hypersign.packed.operations import OPERATIONS
from hypersign.quantizers import Sign

from ..small_networks import NETWORKS, WITHOUT_PRODUCTS, images_for, packed

EXACT = [name for name in NETWORKS if name not in ("resnet20", "every layer")]
"""Networks whose real numbers ONNX Runtime rounds as the packed runtime does."""

UNSIGNED = ("unpadded", "ones", "ternary", "ternary, padded by ones", "mlp")
"""Networks that never pad signs with zeros."""


@pytest.mark.parametrize("name", NETWORKS)
def test_onnx_runtime_gives_the_same_outputs(name: str, tmp_path: Path) -> None:
    model = packed(name, tmp_path)
    write_onnx(model, tmp_path / "net.onnx")
    found = compare(model, tmp_path / "net.onnx", "onnx", images_for(model, 501))
    assert (found.images, found.differ, found.wrong) == (501, 0, 0)
    assert found.largest_difference <= (0 if name in EXACT else 1e-4)
    assert found.tool.startswith("ONNX Runtime")


@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
@pytest.mark.parametrize("activations", ACTIVATIONS)
@pytest.mark.parametrize("name", UNSIGNED)
def test_qonnx_gives_the_same_outputs(name: str, activations: str, last: bool, tmp_path: Path) -> None:
    model = packed(name, tmp_path)
    write_qonnx(model, tmp_path / "net.onnx", activations=activations, channels_last=last)
    found = compare(model, tmp_path / "net.onnx", "qonnx", images_for(model, 5 if last else 30))
    assert (found.differ, found.largest_difference) == (0, 0)


def test_a_wrong_file_is_told(tmp_path: Path) -> None:
    """Another network's file, compared with this one's outputs."""
    model, other = packed("vgg", tmp_path), packed("ones", tmp_path)
    write_onnx(other, tmp_path / "other.onnx")
    found = compare(model, tmp_path / "other.onnx", "onnx", images_for(model, 50))
    assert found.wrong > 10
    assert found.wrong <= found.differ


def test_qonnx_refuses_zeros_among_signs(tmp_path: Path) -> None:
    with pytest.raises(HypersignError, match=r"node 'conv2': QONNX has no zero among signs.*--padding valid"):
        qonnx_model(packed("vgg", tmp_path))


@pytest.mark.parametrize("name", WITHOUT_PRODUCTS)
def test_operations_without_an_exact_form_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(HypersignError, match="no exact form of the operation rotate in float32; run the packed file"):
        onnx_model(packed(name, tmp_path))


def test_the_other_operations_have_one() -> None:
    assert set(OPERATIONS) - set(HANDLERS) == {
        "recurrent", "group_norm", "matmul", "attention", "rearrange", "slice", "resize2d", "constant",
        "rotate", "switch", "hadamard", "signed_sum",
    }  # fmt: skip


def test_the_file_is_plain_onnx() -> None:
    model = onnx_model(PackedModel.pretrained("digits"))
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} == {""}
    assert [d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == ["N", 1, 8, 8]
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert properties["sha256"] == PackedModel.pretrained("digits").sha256
    assert properties["classes"].split("\n") == list(PackedModel.pretrained("digits").classes)


def test_qonnx_has_no_signs_outside_quantizers(tmp_path: Path) -> None:
    """Filters whose levels are flipped are negated, so that nothing multiplies between layers."""
    kinds = [node.op_type for node in qonnx_model(packed("unpadded", tmp_path)).graph.node]
    products = kinds.count("Conv") + kinds.count("MatMul")
    assert kinds.count("BipolarQuant") == 2 * products - 1  # weights of each, activations of all but the last
    assert kinds.count("Mul") == 3  # the pixels' multiplier, channels negated after the pool, the last layer's scale
    graph = qonnx_model(packed("unpadded", tmp_path), activations="multithreshold").graph
    assert [n.op_type for n in graph.node].count("MultiThreshold") == products - 1


def test_large_sums_are_refused(tmp_path: Path) -> None:
    from hypersign import packing
    from hypersign.layers import QuantLinear
    from hypersign.quantizers import Sign

    network = nn.Sequential(nn.Flatten(), QuantLinear(300 * 300, 2, bias=False, weight_quantizer=Sign())).eval()
    packing.pack(network, tmp_path / "net.hypersign", (1, 300, 300), pixel_range=(-1.0, 1.0))
    with pytest.raises(HypersignError, match="its sums can reach 22950000; float32 is exact up to 16777216"):
        onnx_model(PackedModel.load(tmp_path / "net.hypersign"))


def test_importing_the_part_needs_no_onnx() -> None:
    import subprocess
    import sys

    code = "import sys, hypersign.export, hypersign.cli.export; print({'onnx', 'qonnx', 'torch'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


@pytest.fixture(autouse=True)
def _quiet():
    """The executor's own packages warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


class Excited(nn.Module):
    """Squeeze and excitation, layer norm over channels, and a transposed convolution."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        signs = {"input_quantizer": Sign(), "weight_quantizer": Sign()}
        self.first, self.norm = QuantConv2d(1, 6, 3, weight_quantizer=Sign(), bias=False), nn.BatchNorm2d(6)
        self.squeeze, self.excite = nn.Linear(6, 3), nn.Linear(3, 6)
        self.up, self.norm2 = QuantConvTranspose2d(6, 5, 3, stride=2, bias=False, **signs), nn.BatchNorm2d(5)
        self.act, self.gate = activation, nn.Sigmoid()
        self.layer_norm, self.last = nn.LayerNorm(5), nn.Linear(5, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.first(x))
        share = self.gate(self.excite(self.act(self.squeeze(x.mean((2, 3))))))
        x = x * share[:, :, None, None]
        x = self.norm2(self.up(x)).mean((2, 3))
        return F.log_softmax(self.last(self.layer_norm(x)), 1)


@pytest.mark.parametrize("kind", [nn.SiLU, nn.GELU, nn.Hardswish, nn.Hardsigmoid, nn.Tanh])
def test_real_functions(kind: type[nn.Module], tmp_path: Path) -> None:
    from hypersign import packing

    torch.manual_seed(0)
    network = Excited(kind()).eval()
    packing.pack(network, tmp_path / "net.hypersign", (1, 7, 7), pixel_range=(-1.0, 1.0))
    model = PackedModel.load(tmp_path / "net.hypersign")
    write_onnx(model, tmp_path / "net.onnx")
    found = compare(model, tmp_path / "net.onnx", "onnx", images_for(model, 200))
    assert (found.differ, found.wrong) == (0, 0)
    assert found.largest_difference < 1e-5
    with pytest.raises(HypersignError, match="no zero among signs, but a transposed"):
        qonnx_model(model)
