"""The commands on packed networks of several inputs and outputs, and of maps."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hypersign import HypersignError, PackedModel, pack
from hypersign.cli.main import main
from hypersign.layers import QuantConv2d
from hypersign.quantizers import Sign


class Both(nn.Module):
    """A map and a vector, from an image and a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = QuantConv2d(1, 3, 3, padding=1, input_quantizer=Sign(), weight_quantizer=Sign())
        self.fc = nn.Linear(4, 2)

    def forward(self, image: Tensor, vector: Tensor) -> dict[str, Tensor]:
        return {"map": self.conv(image), "numbers": self.fc(vector)}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    torch.manual_seed(0)
    model = Both().eval()
    pack(model, folder / "both.hypersign", [(1, 5, 4), (4,)], pixel_range=(0.0, 1.0))
    pack(nn.Sequential(model.conv, nn.Tanh()), folder / "map.hypersign", (1, 5, 4), classes="abc")
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (6, 1, 5, 4)).astype(np.uint8)
    vector = generator.normal(size=(6, 4)).astype(np.float32)
    np.savez(folder / "inputs.npz", input=image, input2=vector)
    np.savez(folder / "one.npz", input=image)
    np.savez(folder / "uneven.npz", input=image, input2=vector[:5])
    np.save(folder / "images.npy", image.astype(np.float32))
    return folder


def test_info(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["info", str(files / "both.hypersign")])
    text = capsys.readouterr().out
    assert "input: uint8 (N, 1, 5, 4)" in text
    assert "input input2: float32 (N, 4, 1, 1)" in text
    assert "output map: float32 (N, 3, 5, 4)" in text
    assert "output numbers: float32 (N, 2)" in text
    main(["info", str(files / "map.hypersign"), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["outputs"] == {"output": [3, 5, 4]}
    assert found["tasks"] == ["classification"]
    assert {node["name"]: node["arithmetic"] for node in found["nodes"]}["0"] == "bits"


def test_run(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", str(files / "both.hypersign"), "--input", str(files / "inputs.npz")]
    main([*words, "--output", str(tmp_path / "out.npz"), "--batch-size", "4"])
    with np.load(files / "inputs.npz") as given, np.load(tmp_path / "out.npz") as found:
        expected = PackedModel.load(files / "both.hypersign").predict((given["input"], given["input2"]))
        for name, values in zip(("map", "numbers"), expected, strict=True):
            np.testing.assert_array_equal(found[name], values)
    main(words)
    assert "map 3 x 5 x 4" in capsys.readouterr().out
    main(["run", str(files / "map.hypersign"), "--input", str(files / "images.npy")])
    text = capsys.readouterr().out
    assert "%" in text
    assert "output 3 x 5 x 4" in text


@pytest.mark.parametrize(
    ("file", "given", "output", "message"),
    [
        ("both", "one.npz", "out.npz", "must be a .npz file with the arrays input, input2; .* lacks input2"),
        ("both", "uneven.npz", "out.npz", "must hold as many rows in each array"),
        ("both", "images.npy", "out.npz", "npz"),
        ("both", "inputs.npz", "out.csv", r"must end in .npz for a network that gives map \(3, 5, 4\), numbers"),
        ("map", "images.npy", "out.csv", "must end in .npy for a network"),
        ("map", "images.npy", "out.npz", "must end in .npy for a network"),
    ],
)
def test_bad_input_is_said(
    files: Path, tmp_path: Path, file: str, given: str, output: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "run",
        str(files / f"{file}.hypersign"),
        "--input",
        str(files / given),
        "--output",
        str(tmp_path / output),
    ]
    with pytest.raises((SystemExit, HypersignError)):
        main(words)
    import re

    assert re.search(message, " ".join(capsys.readouterr().err.split()))
    assert not list(tmp_path.iterdir())


def test_bench_says_what_runs_on_what(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["bench", str(files / "both.hypersign"), "--batch-sizes", "1", "--repeats", "1"])
    text = " ".join(capsys.readouterr().out.split())
    assert "multiply-accumulates: 98.5% bits, 1.5% float32 (1: fc)" in text
