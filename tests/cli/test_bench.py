"""What bench counts is what the network computes; of times the tests only look whether they are there."""

import functools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hypersign._checks import HypersignError
from hypersign.bits import backend
from hypersign.bits.backend import forced
from hypersign.cli.main import main
from hypersign.models import fast_transform, mlp, resnet20, vgg
from hypersign.packed import PackedModel
from hypersign.packed.profile import profile
from hypersign.packing import pack
from hypersign.packing.dense import DenseNetwork
from hypersign.packing.peers import peers
from hypersign.summaries import summary

NETWORKS = {
    "vgg": (vgg, (3, 8, 8), {"widths": (16, 40), "pools": (2,), "hidden": (24,)}),
    "mlp": (mlp, (1, 6, 5), {"hidden": (33, 20)}),
    "resnet": (resnet20, (3, 9, 9), {"widths": (8, 16)}),
}


@pytest.fixture(params=NETWORKS, scope="module")
def packed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    make, shape, options = NETWORKS[request.param]
    model = make(shape, 10, **options).eval()
    path = tmp_path_factory.mktemp("bench") / "net.hypersign"
    pack(model, path, shape, pixel_range=(-1.0, 1.0))
    return model, shape, path


def test_counts_are_those_of_the_summary(packed) -> None:
    model, shape, path = packed
    found = profile(PackedModel.load(path), images=2, repeats=1)
    total = summary(model, shape).total
    counted = {
        kind: sum(node.macs for node in found.nodes if node.arithmetic == kind)
        for kind in ("bits", "integers", "float32")
    }
    assert (counted["bits"], counted["integers"]) == (total.binary_macs, total.mixed_macs)
    assert counted["float32"] == total.float_macs
    assert found.seconds > 0
    assert all(node.seconds > 0 for node in found.nodes)


def test_rivals_and_peak_are_timed_as_often_as_the_network(packed) -> None:
    calls = {"a": 0, "b": 0}

    def rival(name: str) -> None:
        calls[name] += 1

    rivals = {name: functools.partial(rival, name) for name in calls}
    found = profile(PackedModel.load(packed[2]), images=2, repeats=4, rivals=rivals)
    assert calls == {"a": 5, "b": 5}  # once to warm up
    assert set(found.rivals) == {"a", "b"}
    assert all(0 < seconds < 1 for seconds in found.rivals.values())
    assert (found.peak > 0) == (backend() != "numpy")
    with forced("numpy"):
        assert profile(PackedModel.load(packed[2]), repeats=1).peak == 0
    with pytest.raises(HypersignError, match="threads must be an integer from 1 to 4096"):
        profile(PackedModel.load(packed[2]), threads=3 * 10**9)


WITHOUT_TORCH = """
import sys
from importlib.machinery import PathFinder

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name == "torch" else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
from hypersign.cli import main
main(["bench", sys.argv[1], "--batch-sizes", "1", "--repeats", "1", "--json"])
"""


def test_bench_works_without_torch(packed) -> None:
    (batch,) = json.loads(in_a_process(WITHOUT_TORCH, str(packed[2])))["batches"]
    assert batch["dense_seconds"] == {}
    assert batch["seconds"] > 0


def test_dense_network_has_the_same_layers(packed) -> None:
    model, shape, path = packed
    file = PackedModel.load(path)
    dense = DenseNetwork(file.graph, file.values)
    assert dense(torch.randn(2, *shape)).shape == (2, 10)
    weights = sorted(p.numel() for p in dense.parameters() if p.dim() > 1)
    assert weights == sorted(p.numel() for p in model.parameters() if p.dim() > 1)


def test_a_network_of_transforms_replaces_no_dense_one(tmp_path: Path) -> None:
    pack(fast_transform((1, 4, 4), 3, hidden=(16,)), tmp_path / "net", (1, 4, 4), pixel_range=(-1.0, 1.0))
    assert peers(PackedModel.load(tmp_path / "net"), 1) == {}


def in_a_process(code: str, *words: str) -> str:
    """What Python prints: other runtimes change how a process handles signals, which ends later tests of Ctrl-C."""
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


COMMANDS = """
import sys
from hypersign.cli.main import main
main(["bench", sys.argv[1], "--batch-sizes", "1", "2", "--repeats", "1"])
print("=====")
main(["bench", sys.argv[1], "--batch-sizes", "3", "--repeats", "1", "--json"])
"""


def test_command_prints_tables_or_json(packed) -> None:
    tables, found = in_a_process(COMMANDS, str(packed[2])).split("=====")
    assert tables.count("ms per image") >= 2
    (batch,) = json.loads(found)["batches"]
    assert batch["images"] == 3
    assert batch["dense_seconds"]["torch float32"] > 0


RUNTIMES = """
import json, sys
from hypersign.packed import PackedModel
from hypersign.packing.peers import peers
calls = peers(PackedModel.load(sys.argv[1]), 16)  # OpenVINO 2026.4's products in 8 bits are wrong for 2 images
print(json.dumps({name: call().tolist() for name, call in calls.items()}))
"""


def test_other_runtimes_compute_the_same_network(packed) -> None:
    """ONNX Runtime and OpenVINO on the exported network, against torch; in 8 bits roughly."""
    pytest.importorskip("onnx")
    found = {name: np.array(logits) for name, logits in json.loads(in_a_process(RUNTIMES, str(packed[2]))).items()}
    expected = found.pop("torch float32")
    scale = np.abs(expected).max()
    for name, logits in found.items():
        assert logits.shape == (16, 10)
        room = 1e-4 if name.endswith("float32") else 0.1
        assert np.abs(logits - expected).max() < room * scale, name


def test_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.hypersign").write_bytes(b"no")
    with pytest.raises(SystemExit) as end:
        main(["bench", str(tmp_path / "net.hypersign")])
    assert end.value.code == 1
    assert "hypersign bench:" in capsys.readouterr().err
