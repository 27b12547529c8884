"""Recurrent language models in ONNX Runtime beside the packed ones, for every cell, norm and quantizer."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from hypersign import HypersignError
from hypersign.cli import main
from hypersign.export import compare, write_onnx_text
from hypersign.packed import PackedText
from hypersign.packing import pack_text

from ..packing.test_text import CLASSES, NETWORKS, network

TOKENS = np.random.default_rng(3).integers(0, 11, (40, 20))
RECURRENT = [name for name, (kind, _) in NETWORKS.items() if kind == "lstm"]


def packed_text(name: str, folder: Path) -> PackedText:
    pack_text(network(name), folder / "net.hypersign", CLASSES)
    return PackedText.load(folder / "net.hypersign")


@pytest.mark.parametrize("name", RECURRENT)
def test_the_same_next_tokens(name: str, tmp_path: Path) -> None:
    model = packed_text(name, tmp_path)
    write_onnx_text(model, tmp_path / "net.onnx")
    onnx.checker.check_model(tmp_path / "net.onnx", full_check=True)
    found = compare(model, tmp_path / "net.onnx", "onnx", TOKENS)
    assert (found.images, found.differ, found.what) == (800, 0, "next tokens")
    assert found.largest_difference < (0.1 if "8-bit" in name else 1e-4)  # an 8-bit level may move by one


def test_another_file_is_told(tmp_path: Path) -> None:
    model = packed_text("binary lstm", tmp_path)
    write_onnx_text(packed_text("gru", tmp_path), tmp_path / "net.onnx")
    assert compare(model, tmp_path / "net.onnx", "onnx", TOKENS).wrong > 100


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packed_text("two layers", tmp_path)
    file, target = str(tmp_path / "net.hypersign"), str(tmp_path / "net.onnx")
    np.save(tmp_path / "tokens.npy", TOKENS)
    main(["export", file, "-o", target, "--images", str(tmp_path / "tokens.npy")])
    assert "800 next tokens, 0 with another decision" in capsys.readouterr().out
    for words, reason in (
        (["-o", str(tmp_path / "net.c")], "a language model is exported to onnx only; the format is c"),
        (["-o", target, "--images", file], "--images of a language model must be a .npy file of tokens"),
    ):
        with pytest.raises(SystemExit):
            main(["export", file, *words])
        assert reason in " ".join(capsys.readouterr().err.split())
    np.save(tmp_path / "tokens.npy", np.zeros((2, 3)))
    with pytest.raises(SystemExit):
        main(["export", file, "-o", target, "--images", str(tmp_path / "tokens.npy")])
    assert "must hold tokens, integers (N, T)" in " ".join(capsys.readouterr().err.split())


def test_the_file_is_read_again(tmp_path: Path) -> None:
    model = packed_text("gru", tmp_path)
    packed_text("rnn", tmp_path)
    with pytest.raises(HypersignError, match="has changed since it was loaded"):
        write_onnx_text(model, tmp_path / "net.onnx")
    (tmp_path / "net.hypersign").unlink()
    with pytest.raises(HypersignError, match=r"net\.hypersign could not be read"):
        write_onnx_text(model, tmp_path / "net.onnx")


def test_transformers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(HypersignError, match="takes recurrent language models; this one is a gpt"):
        write_onnx_text(packed_text("bitnet", tmp_path), tmp_path / "net.onnx")
    assert not (tmp_path / "net.onnx").exists()
