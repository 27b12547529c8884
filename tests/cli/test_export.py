"""`hypersign export` on files, shipped networks and runs, and what it refuses."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from hypersign import train
from hypersign.cli.demo import recipe
from hypersign.cli.main import main
from hypersign.packed import PackedModel


def said(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    main(["export", *map(str, words)])
    return " ".join(capsys.readouterr().out.split())


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    with pytest.raises(SystemExit) as end:
        main(["export", *map(str, words)])
    assert end.value.code in (1, 2)
    return " ".join(capsys.readouterr().err.split())


@pytest.fixture
def images(tmp_path: Path) -> Path:
    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 256, (20, 1, 8, 8)).astype(np.uint8))
    return tmp_path / "images.npy"


@pytest.mark.parametrize(
    ("name", "options", "tool"),
    [("a.onnx", [], "ONNX Runtime"), ("a.c", ["--name", "digits"], "cc"), ("a.txt", ["--format", "c"], "cc")],
)
def test_the_other_tool_agrees(name, options, tool, images, tmp_path, capsys) -> None:
    text = said(capsys, "digits", "-o", tmp_path / name, *options, "--images", images)
    assert f"{(tmp_path / name).stat().st_size:,} bytes" in text
    assert f"the packed file has {len(PackedModel.pretrained('digits').to_bytes()):,}" in text
    assert tool in text
    assert "20 images, 0 with another decision; outputs differ by at most 0.0e+00" in text


def test_a_run_is_packed_first(images, tmp_path, capsys) -> None:
    small = dataclasses.replace(recipe(), epochs=1, widths=(8, 8), pools=(2,), padding="ones")
    train(small, tmp_path / "run", console=Console(quiet=True))
    out = tmp_path / "run.onnx"
    text = said(
        capsys,
        tmp_path / "run",
        "-o",
        out,
        "--format",
        "qonnx",
        "--activations",
        "multithreshold",
        "--images",
        images,
    )
    assert "0 with another decision" in text


def test_what_is_refused(images, tmp_path, capsys) -> None:
    assert "must end in .onnx or .c" in refused(capsys, "digits", "-o", tmp_path / "net.txt")
    assert "--name is for --format c" in refused(capsys, "digits", "-o", tmp_path / "net.onnx", "--name", "a")
    text = refused(capsys, "digits", "-o", tmp_path / "net.onnx", "--activations", "multithreshold")
    assert "--activations is for --format qonnx" in text
    assert "no zero among signs" in refused(capsys, "digits", "-o", tmp_path / "net.onnx", "--format", "qonnx")
    assert "must be a C name" in refused(capsys, "digits", "-o", tmp_path / "net.c", "--name", "1")
    np.save(tmp_path / "other.npy", np.zeros((2, 3, 8, 8), np.uint8))
    assert "(N, 1, 8, 8)" in refused(capsys, "digits", "-o", tmp_path / "net.c", "--images", tmp_path / "other.npy")
    assert not (tmp_path / "net.txt").exists()
