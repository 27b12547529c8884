import json

import numpy as np
import pytest

from hypersign.cli import main

NAMES = ["pairs", "binary-pairs", "sign", "ternary", "levels", "rotated"]


@pytest.mark.parametrize("name", NAMES)
def test_every_simulation_prints_a_table_that_fits_and_json(name, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    size = ["--dimension", "16"] if name in ("ternary", "levels") else ["--dimensions", "16", "1024"]
    if name == "rotated":
        size += ["--rotations", "none", "hadamard-3"]
    main(["simulate", name, *size, "--draws", "200", "--json", str(tmp_path / "found.json")])
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["name"] == name
    assert "…" not in printed
    for case in found["cases"]:
        assert case["draws"] == 200
        assert "sample_degrees" not in case
        assert case["label"] in printed
        assert f"{case['angle_degrees']['mean']:.3f}" in printed
        assert f"{case['angle_degrees']['predicted_std']:.3f}" in printed


def test_rotations_are_those_asked_for_and_a_seed_repeats(capsys):
    words = ["simulate", "rotated", "--dimensions", "16", "--rotations", "hadamard-1", "hadamard-2", "--draws", "100"]
    outputs = []
    for seed in ("3", "3", "4"):
        main([*words, "--seed", seed, "--json"])
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1] != outputs[2]
    first, second = json.loads(outputs[0])["cases"]
    assert (first["label"], second["label"]) == ("d = 16, hadamard-1", "d = 16, hadamard-2")
    assert second["angle_degrees"]["predicted_std"] is None
    main(words)
    assert " - " in capsys.readouterr().out


def test_a_covariance_file_and_figures(capsys, tmp_path):
    np.save(tmp_path / "c.npy", np.diag([1.0, 4.0, 9.0, 16.0]))
    words = ["--covariance", str(tmp_path / "c.npy"), "--figures", str(tmp_path / "figures")]
    main(["simulate", "rotated", *words, "--draws", "100", "--json"])
    assert [case["dimension"] for case in json.loads(capsys.readouterr().out)["cases"]] == [4, 4]
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        "rotated_histograms.pdf",
        "rotated_histograms.png",
    }


def test_vectors_without_an_angle_are_counted(capsys):
    main(["simulate", "ternary", "--thresholds", "2.5", "--dimension", "4", "--draws", "200"])
    assert "have no angle" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sign", "--draws", "1"], "draws must be an integer >= 2; got 1"),
        (["rotated", "--covariance", "missing.npy"], "missing.npy could not be read"),
        (["rotated", "--covariance", "text.npy"], "text.npy could not be read as a .npy file"),
        (["sign", "--device", "abacus"], "device must be one that torch finds here"),
    ],
)
def test_bad_options_are_one_sentence(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.npy").write_text("no array")
    with pytest.raises(SystemExit, match=r"^1$"):
        main(["simulate", *words])
    error = capsys.readouterr().err
    assert error.startswith(f"hypersign simulate: {message}")
    assert error.count("\n") == 1
