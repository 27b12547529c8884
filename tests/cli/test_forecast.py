"""`hypersign forecast`, as a user would run it, on a small network with real weights."""

import json
import shutil
from pathlib import Path

import pytest

from hypersign import study
from hypersign.cli import main
from hypersign.runs import load


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "small"
    words = "--data digits --widths 8 --pools 1 --hidden 16 --epochs 8 --images 900 --no-flip --crop-padding 0"
    main(["train", *words.split(), "--weights", "float", "--device", "cpu", "--output", str(folder)])
    return folder


OPTIONS = ["--images", "100", "--held-out", "150", "--mixtures", "2", "--formats", "binary", "4-level"]


def test_a_plan_with_its_forecast_and_its_code(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code = tmp_path / "plan.py"
    main(["forecast", str(run), *OPTIONS, "--bits-per-weight", "4", "--emit", str(code)])
    text = capsys.readouterr().out
    found = json.loads((run / "forecast.json").read_text())
    assert (found["run"], found["inputs"], found["unit"]) == ("small", 100, "images")
    assert [layer["name"] for layer in found["layers"]] == ["conv1", "fc1", "fc2"]
    assert found["laws"]["raw"] is None
    plan = found["plan"]
    assert plan["bits_per_weight"] <= 4
    assert plan["measured"]["r"] == pytest.approx(plan["predicted"]["r"], abs=0.05)
    effect = found["layers"][1]["repaired"]["binary"]
    assert f"{effect['r']:.3f} / {100 * (1 - effect['agreement']):.1f}" in text
    assert " ".join(text.split()).startswith(f"small: {found['words']['repaired']}")
    for words in ("Predicted: r ", "Measured on test images: r ", "Multiply-accumulates: ", "bits per weight"):
        assert words in text, words
    made: dict = {}
    exec(code.read_text(), made)  # the file is runnable as it is
    test = made["data"].batches(made["data"].test[:150], 150)
    ((x, _),) = list(test)
    z = [logits - logits.mean(1, keepdim=True) for logits in (made["model"](x), made["quantized"](x))]
    r = float((z[0] * z[1]).sum().detach() / (z[0].norm() * z[1].norm()).detach())
    assert r == pytest.approx(plan["measured"]["r"], abs=2e-3)


def test_reports_show_it_at_once(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, synthetic) -> None:
    """The run's own report, and that of the network whose float twin the run is."""
    written = []
    monkeypatch.setattr(
        study, "write_report", lambda run, found: written.append(run.name) or run.path / "report.html"
    )
    network = tmp_path / "network"
    shutil.copytree(run, network)
    shutil.copytree(run, network / "twin")
    twin = load(network / "twin")
    assert study.refresh_report(twin) is None
    assert written == []
    synthetic.geometry().save(network / "geometry.json")
    assert study.refresh_report(twin) is None
    assert written == ["network"]
    assert study.refresh_report(load(network)) == network / "report.html"


def test_json_alone(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["forecast", str(run), *OPTIONS, "--quick", "--raw", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["inputs"] == 5
    assert found["laws"]["repaired"] is None
    assert found["plan"] is None


def test_bad_options_are_one_sentence(run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for words, message in (
        (["--bytes", "1", "--agreement", ".9"], "name one of --bytes, --bits-per-weight and --agreement"),
        (["--emit", str(tmp_path / "x.py")], "--emit writes a plan: name its goal"),
        (["--formats", "trinary"], "a format must be binary, ternary"),
        (["--images", "1"], "--images must be an integer >= 2; got 1"),
        ([*OPTIONS, "--bytes", "10"], "bytes must be at least"),
    ):
        with pytest.raises(SystemExit, match=r"^1$"):
            main(["forecast", str(run), *words])
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("hypersign forecast: ")
        assert message in line


def test_a_binary_run_has_nothing_to_plan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"^1$"):
        main(["forecast", "digits", "--bits-per-weight", "2"])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("hypersign forecast: a plan needs a network with layers in float")
    main(["forecast", "digits", "--images", "40", "--mixtures", "0", "--formats", "ternary"])
    assert "The weights of all layers are quantized already." in capsys.readouterr().out
    found = json.loads((tmp_path / "digits" / "forecast.json").read_text())
    assert [layer["quantized"] for layer in found["layers"]] == [True] * 6


def test_a_forecast_of_other_weights_is_not_shown(run: Path) -> None:
    from hypersign import runs, study

    main(["forecast", str(run), *OPTIONS, "--quick", "--json", str(run.parent / "other.json")])
    opened = runs.load(run)
    kept = study._kept_forecast(opened)
    assert kept is not None
    assert kept["weights_sha256"] == study.weights_hash(opened, "last")
    weights = (run / "model.safetensors").read_bytes()
    try:
        (run / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
        assert study._kept_forecast(opened) is None
    finally:
        (run / "model.safetensors").write_bytes(weights)
