"""`hypersign ablate`, as a user would run it, on a small trained network."""

import json
from pathlib import Path

import pytest

from hypersign.cli import main


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "small"
    words = "--data digits --widths 4 --pools 1 --hidden 8 --epochs 1 --images 300 --no-flip --crop-padding 0"
    main(["train", *words.split(), "--device", "cpu", "--output", str(folder)])
    return folder


OPTIONS = ["--images", "60", "--reestimate-images", "100", "--rounds", "2"]


def test_tables_json_and_figures(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    before = {file.name: file.stat().st_mtime_ns for file in run.iterdir()}
    target, figures = tmp_path / "ablation.json", tmp_path / "figures"
    main(["ablate", str(run), *OPTIONS, "--depth", "--json", str(target), "--figures", str(figures)])
    text = capsys.readouterr().out
    found = json.loads(target.read_text())
    assert (found["run"], found["images"], found["rounds"]) == ("small", 60, 2)
    rows = {(row["side"], row["scope"], row["name"]): row for row in found["ablated"]}
    names = {"weights": ["conv1", "fc1", "fc2"], "inputs": ["fc1", "fc2"]}
    assert set(rows) == {
        (side, scope, name)
        for side, layers in names.items()
        for scope, named in (("one", layers), ("all", ["all"]), ("all but one", layers))
        for name in named
    }
    change = rows["weights", "one", "fc1"]["loss_change"]
    assert f"{change['mean']:+.3f} ± {change['error']:.3f}" in text
    assert [layer["name"] for layer in found["depth"]["layers"]] == names["weights"]
    assert found["layers"][0]["threshold"] is None  # real inputs have none
    for words in (
        "weights back to float",
        "inputs back to float",
        "rank correlation",
        "all layers quantized",
        "permuted inputs",
        "60 digits",
    ):
        assert words in text, words
    assert sorted(file.name for file in figures.iterdir()) == [
        "ablation.pdf", "ablation.png", "depth.pdf", "depth.png",
    ]  # fmt: skip
    assert {file.name: file.stat().st_mtime_ns for file in run.iterdir()} == before


def test_bad_options_are_one_sentence(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in (
        ([str(run), "--rounds", "0"], "--rounds must be an integer >= 1; got 0"),
        ([str(run), "--images", "0"], "--images must be an integer >= 1; got 0"),
        ([str(run / "none")], "there is none"),
    ):
        with pytest.raises(SystemExit, match=r"^1$"):
            main(["ablate", *words])
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("hypersign ablate: ")
        assert message in line
