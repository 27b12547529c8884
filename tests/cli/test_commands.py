"""The commands that read a run: run as a user would, on a small trained network."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from hypersign import study
from hypersign._installation import program
from hypersign.cli import main
from hypersign.cli.demo import recipe
from hypersign.geometry import Geometry
from hypersign.runs import load
from hypersign.study import kept_ablation


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "small"
    words = (
        "--data digits --widths 8 16 --pools 1 2 --hidden 16 --epochs 2 --validation 100 --no-flip --crop-padding 0"
    )
    main(["train", *words.split(), "--device", "cpu", "--output", str(folder)])
    return folder


def fails(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line a command prints as it fails with status 1."""
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    return line


def test_info(run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    main(["info", str(run), "--json", str(tmp_path / "info.json")])
    text = capsys.readouterr().out
    found = json.loads((tmp_path / "info.json").read_text())
    assert found["recipe"] == load(run).info["recipe"]
    assert [row["epoch"] for row in found["metrics"]] == [1, 2]
    # 8x9, 16x72, 16x64 and 10x16 weights, one bit each
    assert found["summary"]["total"]["parameters_1bit"] == 72 + 16 * 72 + 16 * 64 + 160
    assert "small: finished" in text
    assert f"{found['results']['test']['accuracy']:.2%} of 359" in text
    assert {"processor", "cores", "system"} <= set(found["machine"])


def test_evaluate_agrees_with_the_end_of_training(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["evaluate", str(run), "--json"])
    found = json.loads(capsys.readouterr().out)
    test = load(run).info["results"]["test"]
    assert (found["accuracy"], found["confusion"]) == (test["accuracy"], test["confusion"])
    assert sum(map(sum, found["confusion"])) == found["images"] == 359


def test_evaluate_best_weights_on_some_training_images(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["evaluate", str(run), "--weights", "best", "--split", "train", "--images", "51", "--batch-size", "10"])
    text = capsys.readouterr().out
    assert "small, best weights" in text
    assert "of 51 train images" in text


def test_inspect_writes_every_promised_number(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["inspect", str(run), "--images", "120", "--output", str(tmp_path)])
    assert (tmp_path / "report.html").stat().st_size > 100_000
    found = json.loads((tmp_path / "geometry.json").read_text())
    assert (found["run"], found["dataset"], found["images"]) == ("small", "digits", 120)
    assert [layer["name"] for layer in found["layers"]] == ["conv1", "conv2", "fc1", "fc2"]
    for layer in found["layers"]:
        assert {"kind", "fan_in", "filters", "level_shares"} <= set(layer)
        assert {"mean", "std", "peak", "predicted_mean", "predicted_std"} <= set(layer["angle_degrees"])
        for family in ("weights_binarized", "activations_binarized", "both_binarized", "permuted"):
            numbers = layer[family]
            assert len(numbers["pearson_r_per_filter"]) == layer["filters"]
            assert {"pearson_r", "predicted_pearson_r", "slope", "sign_disagreement"} <= set(numbers)
        assert (
            abs(
                layer["weights_binarized"]["training_sign_disagreement"]
                - layer["weights_binarized"]["sign_disagreement"]
            )
            < 0.05
        )
    text = capsys.readouterr().out
    assert "conv2" in text
    assert "counted on training images: conv1" in " ".join(text.split())
    assert str(tmp_path / "report.html") in text.replace("\n", "")


def test_zero_filters_are_named(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(run, broken)
    weights = load_file(broken / "model.safetensors")
    weights["fc1.weight"][:3] = 0
    save_file(weights, broken / "model.safetensors")
    main(["inspect", str(broken), "--images", "20"])
    assert "fc1: 3 filters have no angle" in capsys.readouterr().out


def test_reproduce_draws_everything_and_judges_every_claim(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["reproduce", str(run), "--output", str(tmp_path), "--images", "60", "--draws", "400", "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "claims.json").read_text())
    assert {claim["verdict"] for claim in printed["claims"]} <= {"holds", "does not hold"}
    simulated = [claim for claim in printed["claims"] if claim["claim"].startswith("simulation")]
    assert len(simulated) == 3 + 3 + 3 + 5 + 6
    assert all(claim["verdict"] == "holds" for claim in simulated)
    names = {path.stem for path in (tmp_path / "figures").glob("*.pdf")}
    assert {"weights_binarized", "angle_density", "pairs_histograms", "rotated_histograms", "quantizer_sign"} <= names


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


def test_demo_recognises_the_digits(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both networks do; and the commands that it says to type next work as typed."""
    monkeypatch.chdir(here)
    main(["demo"])
    done = load(here / "runs/demo")
    recorded = json.loads((Path(__file__).parents[2] / "docs/results/digits-demo.json").read_text())
    assert done.info["recipe"].items() >= recorded["recipe"].items()  # its numbers are those of README
    assert done.info["results"]["test"]["accuracy"] >= 0.96
    assert done.info["recipe"]["epochs"] == recipe().epochs
    assert {"report.html", "geometry.json"} <= {file.name for file in done.path.iterdir()}
    text = capsys.readouterr().out
    assert f"{done.info['results']['test']['accuracy']:.2%}" in text
    twin = done.info["twin"]
    assert twin["accuracy"] == load(done.path / "twin").info["results"]["test"]["accuracy"] >= 0.96
    assert f"{twin['accuracy']:.2%} in float32" in text
    typed = [line.split("#")[0].split() for line in text.partition("Next,")[2].splitlines() if program() in line]
    assert [words[1] for words in typed] == ["info", "pack", "data", "run", "bench"]
    for words in typed:
        assert words[0] == program()
        main([*words[1:], *(["--repeats", "1"] if words[1] == "bench" else [])])
    assert len((here / "predictions.csv").read_text().splitlines()) == 360
    text = capsys.readouterr().out
    size = (here / "digits.hypersign").stat().st_size
    assert twin["packed_bytes"] == size
    assert text.count(f"{size:,} bytes") >= 3  # info: the twin's row and the table; pack


def test_inspection_keeps_an_earlier_ablation(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the same weights; one of other weights is left out."""
    monkeypatch.chdir(here)
    run = load("runs/demo")
    kept = (run.path / "ablation.json").read_bytes()
    main(["inspect", "runs/demo", "--images", "50"])
    assert (run.path / "ablation.json").read_bytes() == kept
    ablation, depth = kept_ablation(run.path, run, "last")
    assert [layer.name for layer in depth.layers] == ["conv1", "conv2", "conv3", "conv4", "fc1", "fc2"]
    assert ablation.images == 300
    shown = {}
    monkeypatch.setattr("hypersign.report.write", lambda path, found, **parts: shown.update(parts))
    found = Geometry.load(run.path / "geometry.json")
    study.write_report(run, found)
    assert shown["ablation"] == ablation
    assert shown["depth"] is not None
    other = here / "other"
    shutil.copytree(run.path, other)
    weights = load_file(other / "model.safetensors")
    weights["fc1.weight"][0] *= -1
    save_file(weights, other / "model.safetensors")
    study.write_report(load(other), found)
    assert (shown["ablation"], shown["depth"]) == (None, None)


def test_demo_keeps_off_another_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(run.iterdir())
    assert "another run than this demo" in fails(["demo", "--output", str(run)], capsys)
    assert sorted(run.iterdir()) == before


@pytest.mark.parametrize("verb", ["info", "evaluate", "inspect"])
def test_what_is_no_run_folder(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "there is none" in fails([verb, str(tmp_path / "missing")], capsys)
    assert "must be a run folder, with a run.json" in fails([verb, str(tmp_path)], capsys)
    assert list(tmp_path.iterdir()) == []


def test_numbers_of_images_are_checked(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--images must be an integer >= 1" in fails(["inspect", str(run), "--images", "0"], capsys)
    assert "--images must be an integer >= 1" in fails(["evaluate", str(run), "--images", "0"], capsys)
    assert "batch_size must be" in fails(["evaluate", str(run), "--batch-size", "0"], capsys)


def test_an_unknown_command_and_none(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["inspekt"])
    assert "'inspekt' is no command" in capsys.readouterr().err
    main([])
    assert "evaluate" in capsys.readouterr().out
