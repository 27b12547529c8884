"""`hypersign compare` on run folders that are made up: it reads run.json and geometry.json alone."""

import json
from pathlib import Path

import pytest

from hypersign._installation import program
from hypersign.cli import main


@pytest.fixture
def runs(tmp_path: Path, synthetic) -> list[Path]:
    """A binary run, inspected; a ternary one, inspected; and a run that was stopped."""
    folders = []
    for name, levels, accuracy in (("binary", 2, 0.8), ("ternary", 3, 0.9), ("stopped", 2, None)):
        folder = tmp_path / name
        folder.mkdir()
        test = {"test": {"images": 100, "accuracy": accuracy, "loss": 0.5, "confusion": [[1]]}} if accuracy else {}
        info = {
            "format": 1,
            "finished": accuracy is not None,
            "model": {"name": "vgg", "shape": [1, 8, 8], "classes": 10, "options": {"levels": levels}},
            "recipe": {"epochs": 12, "levels": levels, "seed": 0},
            "data": {
                "name": "digits",
                "source": "digits",
                "seed": 0,
                "sha256": "0" * 64,
                "classes": ["0", "1"],
                "pixel_range": [-1.0, 1.0],
                "train_images": 8,
                "test_images": 4,
            },
            "versions": {},
            "results": test,
        }
        (folder / "run.json").write_text(json.dumps(info))
        if accuracy:
            synthetic.geometry(ternary=levels == 3, run=name).save(folder / "geometry.json")
        folders.append(folder)
    (folders[2] / "metrics.jsonl").write_text('{"epoch": 1}\n')
    return folders


def test_runs_stand_side_by_side(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, synthetic
) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    target = tmp_path / "compared.json"
    main(["compare", *map(str, runs), "--json", str(target)])
    text, found = capsys.readouterr().out, json.loads(target.read_text())
    levels = {"binary": 2, "ternary": 3, "stopped": 2}
    assert found["differences"] == {"recipe.levels": levels, "model.levels": levels}
    assert found["runs"]["binary"]["test"] == {"images": 100, "accuracy": 0.8, "loss": 0.5}
    ours = synthetic.geometry(ternary=True).layers[0]
    layer = found["runs"]["ternary"]["layers"]["conv1"]
    assert layer["angle_degrees"] == ours.angle_degrees.mean
    assert (layer["r"], layer["predicted_r"]) == (
        ours.weights_binarized.pearson_r,
        ours.weights_binarized.predicted_pearson_r,
    )
    assert "80.00% ± 4.00%" in text
    assert f"{ours.angle_degrees.mean:.1f} / {ours.angle_degrees.predicted_mean:.1f}" in text
    inner = next(layer for layer in synthetic.geometry(ternary=True).layers if layer.quantizes_inputs)
    for products in (ours.weights_binarized, inner.activations_binarized, inner.both_binarized):
        three = products.pearson_r, products.training_pearson_r, products.predicted_pearson_r
        assert " / ".join("-" if value != value else f"{value:.3f}" for value in three) in text
    assert "stopped: not finished, 1 of 12 epochs are done" in text
    assert f"stopped: no geometry.json, so no angles and r; make it with: {program()} inspect" in text
    assert found["runs"]["stopped"]["layers"] == {}
    assert len(found["runs"]["stopped"]["missing"]) == 2


def test_runs_of_one_name_go_by_their_paths(runs: list[Path], tmp_path: Path, capsys) -> None:
    twin = tmp_path / "more" / "binary"
    twin.mkdir(parents=True)
    (twin / "run.json").write_text((runs[0] / "run.json").read_text())
    main(["compare", str(runs[0]), str(twin), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert list(found["runs"]) == [str(runs[0]), str(twin)]
    assert found["differences"] == {}


def test_bad_input_is_one_sentence(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    (runs[1] / "geometry.json").write_text("{}")
    for words, message in (
        ([runs[0]], "compare needs two or more run folders; got 1"),
        ([], "compare needs two or more run folders; got 0"),
        ([runs[0], runs[0]], "compare needs different run folders; got one folder twice"),
        ([runs[0], runs[0] / "none"], "there is none"),
        ([runs[0], runs[1]], "geometry.json must be as this version of HyperSign writes it"),
    ):
        with pytest.raises(SystemExit, match=r"^1$"):
            main(["compare", *map(str, words)])
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("hypersign compare: ")
        assert message in line


def test_the_page_of_a_comparison_is_written(runs: list[Path], tmp_path: Path, capsys) -> None:
    main(["compare", *map(str, runs), "--report", str(tmp_path / "page.html")])
    assert f"Page: {tmp_path / 'page.html'}" in capsys.readouterr().out
    assert "ternary is the most accurate, 90.00 %" in (tmp_path / "page.html").read_text()
