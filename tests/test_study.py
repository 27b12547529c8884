"""Float twins: the recipe without quantizers, trained beside its run, and what the run then says of both."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from rich.console import Console

from hypersign._checks import HypersignError
from hypersign.cli import main
from hypersign.cli import train as command
from hypersign.layers import quant_layers
from hypersign.packing import pack
from hypersign.quantizers import Identity, ReLU
from hypersign.runs import Run, load
from hypersign.study import train_twin, twin_recipe
from hypersign.training import Recipe, train

QUIET = Console(quiet=True)
SMALL = {"widths": (4, 8), "pools": (1, 2), "hidden": (16,), "epochs": 1, "loss": "cross-entropy", "images": 300}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(Recipe(levels=3, threshold=0.1, **SMALL), tmp_path_factory.mktemp("runs") / "small", console=QUIET)


def test_a_twin_has_the_recipe_without_quantizers() -> None:
    recipe = Recipe(levels=3, threshold="optimal", first_layer="haar", precision="bits", seed=3, **SMALL)
    twin = twin_recipe(recipe)
    differ = {name for name, value in twin.as_dict().items() if value != recipe.as_dict()[name]}
    assert differ == {"levels", "threshold", "first_layer", "precision", "weights", "inputs"}
    assert twin_recipe(twin) == twin
    with pytest.raises(HypersignError, match="fast-transform has no float twin"):
        twin_recipe(Recipe(model="fast-transform"))


def test_a_twin_is_real_and_not_linear() -> None:
    from hypersign.models import build

    options = twin_recipe(Recipe(**SMALL)).model_options()
    model = build("vgg", (1, 8, 8), 10, **options)
    first, *others = quant_layers(model).values() or [layer for layer in model if hasattr(layer, "weight_quantizer")]
    assert all(isinstance(layer.weight_quantizer, Identity) for layer in (first, *others))
    assert isinstance(others[-1].input_quantizer, ReLU)
    x = torch.randn(5, 3)
    assert torch.equal(ReLU()(x), x.clamp(min=0))


def test_the_run_says_what_low_bits_cost(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run"
    shutil.copytree(run.path, path)
    found = train_twin(load(path), console=QUIET, repeats=1)
    assert found.info == load(path).info
    twin, facts = load(path / "twin"), found.info["twin"]
    assert twin.info["recipe"] == json.loads(json.dumps(twin_recipe(Recipe(**run.info["recipe"])).as_dict()))
    assert facts["accuracy"] == twin.info["results"]["test"]["accuracy"]
    assert facts["float_bytes"] == 4 * sum(p.numel() for p in twin.load_model().parameters())
    pack(run, tmp_path / "packed")
    assert facts["packed_bytes"] == (tmp_path / "packed").stat().st_size
    assert min(facts["seconds_per_image"], facts["packed_seconds_per_image"]) > 0
    stamp = (path / "twin/run.json").stat().st_mtime_ns
    main(["train", "--twin", str(path)])
    assert (path / "twin/run.json").stat().st_mtime_ns == stamp  # not trained again
    text = capsys.readouterr().out
    assert f"{facts['accuracy']:.2%} in float32" in text
    assert "with ternary levels" in text
    assert f"hypersign inspect {path}" in text


def test_what_has_no_twin(run: Run, tmp_path: Path) -> None:
    open_run = tmp_path / "open"
    shutil.copytree(run.path, open_run)
    info = json.loads((open_run / "run.json").read_text())
    (open_run / "run.json").write_text(json.dumps({**info, "finished": False}))
    with pytest.raises(HypersignError, match="is not finished; first: hypersign train --resume"):
        train_twin(load(open_run))
    (open_run / "run.json").write_text(json.dumps({**info, "model": {**info["model"], "given": True}}))
    with pytest.raises(HypersignError, match="train its twin yourself"):
        train_twin(load(open_run))
    assert not (open_run / "twin").exists()
    with pytest.raises(HypersignError, match="it takes no other option than --device"):
        command.run(["--twin", str(run.path), "--tensorboard"])
    with pytest.raises(HypersignError, match="--twin uses the run's own recipe"):
        command.run(["--twin", str(run.path), "--epochs", "3"])
