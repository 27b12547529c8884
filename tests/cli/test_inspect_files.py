import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from hypersign._installation import program
from hypersign.cli import main


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A float file, its signs, vectors, in the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    w = np.random.default_rng(0).standard_normal((64, 256)).astype(np.float32)
    save_file({"layers.0.weight": w, "layers.0.bias": w[0]}, "model.safetensors")
    save_file({"layers.0.weight": np.sign(w)}, "low.safetensors")
    np.save("vectors.npy", w)
    return tmp_path


def test_weights(files, capsys):
    main(["inspect", "model.safetensors", "--json", "found.json"])
    printed = capsys.readouterr().out
    found = json.loads((files / "found.json").read_text())
    (tensor,) = found["tensors"]
    assert tensor["angle_degrees"]["predicted_mean"] == pytest.approx(36.98, abs=0.01)
    assert "one dimension: a bias or a scale" in printed
    assert "GB/s" in printed
    for shown in (tensor["angle_degrees"]["mean"], tensor["rotated_angle_degrees"]["after"]):
        assert f"{shown:.1f}" in printed
    assert "…" not in printed
    assert max(map(len, printed.splitlines()[:-1])) <= 80
    (files / "low.safetensors").unlink()  # a folder of one
    main(["inspect", ".", "--json"])
    assert json.loads(capsys.readouterr().out)["tensors"][0]["name"] == "layers.0.weight"


def test_two_files(files, capsys):
    main(["inspect", "low.safetensors", "--against", "model.safetensors"])
    printed = capsys.readouterr().out
    assert "2 levels, β = 256" in printed
    assert "Only in model.safetensors: layers.0.bias" in printed
    assert "100.00" in printed
    assert "…" not in printed
    main(["inspect", "low.safetensors", "--against", "model.safetensors", "--json"])
    (pair,) = json.loads(capsys.readouterr().out)["tensors"]
    assert pair["cosine"]["mean"] == pytest.approx(pair["cosine"]["predicted_mean"], abs=0.01)


def test_names_are_printed_as_they_are(files, capsys):
    """Brackets and colons are markup to the printer of tables."""
    save_file({"a[red].w:x:": np.eye(40, dtype=np.float32), "c[/b]": np.ones(3, np.float32)}, "m[dim].safetensors")
    main(["inspect", "m[dim].safetensors"])
    printed = capsys.readouterr().out
    for name in ("m[dim].safetensors", "a[red].w:x:", "c[/b]"):
        assert name in printed
    save_file({"a[red].w:x:": np.eye(40, dtype=np.float32)}, "low.safetensors")
    main(["inspect", "low.safetensors", "--against", "m[dim].safetensors"])
    printed = capsys.readouterr().out
    assert "a[red].w:x:" in printed
    assert "Only in m[dim].safetensors: c[/b]" in printed


def test_nothing_measured_has_no_rate(files, capsys):
    save_file({"b": np.ones(3, np.float32)}, "bias.safetensors")
    with pytest.raises(SystemExit):
        main(["inspect", "bias.safetensors"])
    printed = capsys.readouterr().out
    assert "one dimension: a bias or a scale" in printed
    assert "GB/s" not in printed


def test_vectors(files, capsys):
    main(["inspect", "vectors.npy", "--bits", "32", "64", "--json", "found.json"])
    printed = capsys.readouterr().out
    found = json.loads((files / "found.json").read_text())
    assert [row["bits"] for row in found["recalls"]] == [32, 64]
    for row in found["recalls"]:
        assert f"{row['rotated']:.3f} / {row['rotated_predicted']:.3f}" in printed
    assert "64 vectors of 256 dimensions; 64 measured" in printed
    assert found["metric"] == "angular"
    assert "Metric: angular" in printed
    assert "…" not in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["missing.safetensors"], "missing.safetensors could not be read: No such file"),
        (["cut.safetensors"], "cut.safetensors is no whole safetensors file"),
        (["model.safetensors", "--against", "vectors.npy"], "weights are read from .safetensors and .gguf files"),
        (
            ["model.safetensors", "model.safetensors"],
            "inspect takes one file; compare two with: PROGRAM inspect model.safetensors --against",
        ),
        (["bias.safetensors"], "bias.safetensors must hold a tensor that can be measured; none of its 1 tensors can"),
        (["model.bin"], "inspect takes a run folder, weights (.safetensors, .gguf, a folder of .safetensors) or "),
        (["cut.npy"], "cut.npy must hold 65536 bytes of numbers after its header; it holds 65531"),
        (["vectors.npy", "--sample", "3"], "sample must be an integer >= 12; got 3"),
    ],
)
def test_bad_input_is_one_sentence(words, message, files, capsys):
    for name in ("model.safetensors", "vectors.npy"):
        (files / f"cut.{name.partition('.')[2]}").write_bytes((files / name).read_bytes()[:-5])
    (files / "model.bin").write_bytes(b"x")
    save_file({"b": np.ones(3, np.float32)}, "bias.safetensors")
    with pytest.raises(SystemExit, match=r"^1$"):
        main(["inspect", *words])
    error = capsys.readouterr().err
    assert error.startswith(f"hypersign inspect: {message.replace('PROGRAM', program())}")
    assert error.count("\n") == 1


def test_inspect_without_words_says_what_it_takes(capsys) -> None:
    main(["inspect"])
    text = capsys.readouterr().out
    assert all(word in text for word in ("RUN", "WEIGHTS", "VECTORS", "hypersign inspect runs/demo"))
