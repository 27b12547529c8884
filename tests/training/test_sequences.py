"""Texts through the loop: learning, carried states, resuming bit by bit, sampling."""

import contextlib
import dataclasses
import json

import numpy as np
import pytest
import torch
from rich.console import Console

from hypersign import HypersignError
from hypersign.cli import main
from hypersign.evaluate import evaluate
from hypersign.generation import continued
from hypersign.layers import quant_layers
from hypersign.runs import load
from hypersign.study import twin_recipe
from hypersign.training import RECIPES, InterruptedTrainingError, Recipe, resume, train
from hypersign.training.checkpoint import state_path

QUIET = {"device": "cpu", "console": Console(quiet=True)}
TEXT = "the cat sat on the mat and the rat ate the hat. a cat ate the fat rat and sat; that is that. " * 30


@pytest.fixture
def text(tmp_path):
    file = tmp_path / "rhyme.txt"
    file.write_text(TEXT)
    return f"text:{file}"


def recipe(text, model="lstm", **options):
    small = {"hidden": (24,)} if model == "lstm" else {"width": 16, "blocks": 1, "heads": 2}
    common = {"epochs": 6, "batch_size": 8, "length": 16, "learning_rate": 0.02, "latent_clip": "none"}
    return Recipe(data=text, model=model, **{**small, **common, **options})


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"model": "gpt", "method": "bitnet", "levels": 3, "optimizer": "adamw", "gradient_norm": 1.0},
        {"weights": "random-levels", "norm": "batch"},
    ],
)
def test_a_text_is_learned(text, tmp_path, options):
    run = train(recipe(text, **options), tmp_path / "run", **QUIET)
    bits = [row["bits_per_token"] for row in run.metrics()]
    test = run.info["results"]["test"]
    assert bits[-1] < bits[0]
    assert test["bits_per_token"] == pytest.approx(test["loss"] / np.log(2), abs=1e-6)
    assert test["bits_per_token"] < 3.2  # the characters' entropy is 3.5
    assert run.unit == "characters"
    assert test["characters"] in (
        len(TEXT) - int(len(TEXT) * 0.9) - 1,
        (len(TEXT) - int(len(TEXT) * 0.9) - 1) // 8 * 8,
    )
    assert run.info["model"]["shape"] == [16]
    again = load(run.path)
    data = again.data()
    found = evaluate(
        again.load_model(), data.batches(data.test, 500, streams="model" not in options), task=again.task()
    )
    assert found.loss == pytest.approx(test["loss"], abs=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"dropout": 0.2},
        {"cell": "gru", "norm": "layer"},
        {"weights": "random-levels:count=3", "norm": "batch"},
        {"model": "gpt", "dropout": 0.1, "weights": "bitnet", "inputs": "int8"},
    ],
)
def test_a_stopped_run_ends_with_the_same_bits(text, tmp_path, options, monkeypatch):
    """Stopped within an epoch: carried states, dropout and random levels go on as they would have."""
    chosen = recipe(text, epochs=2, **options)
    whole = train(chosen, tmp_path / "whole", **QUIET)
    looks = iter(range(1000))

    class Stop:
        @property
        def made(self):
            return next(looks) == 12

    with monkeypatch.context() as patch:
        patch.setattr("hypersign.training.loop.stoppable", lambda processes: contextlib.nullcontext(Stop()))
        with pytest.raises(InterruptedTrainingError):
            train(chosen, tmp_path / "stopped", **QUIET)
    assert state_path(tmp_path / "stopped").exists()
    torch.manual_seed(123)
    done = resume(tmp_path / "stopped", **QUIET)
    a, b = whole.load_model().state_dict(), done.load_model().state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert whole.info["results"]["test"]["loss"] == done.info["results"]["test"]["loss"]


def test_training_leaves_torchs_generator_alone(text, tmp_path):
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    train(recipe(text, epochs=1, dropout=0.2), tmp_path / "run", **QUIET)
    assert torch.equal(torch.rand(3), wanted)


def test_the_commands_know_texts(text, tmp_path, capsys):
    run = str(tmp_path / "run")
    words = ["--model", "lstm", "--hidden", "24", "--epochs", "4", "--batch-size", "8", "--length", "16"]
    main(["train", "--data", text, *words, "--learning-rate", "0.02", "--output", run, "--device", "cpu"])
    shown = capsys.readouterr()
    assert "bits per character" in shown.out
    assert "characters/s" in shown.err
    assert f"hypersign generate {run}" in shown.out
    main(["info", run])
    assert "bits per character" in " ".join(capsys.readouterr().out.split())
    main(["evaluate", run, "--json"])
    found, stored = json.loads(capsys.readouterr().out), load(run).info["results"]["test"]
    assert {key: found[key] for key in stored} == pytest.approx(stored, abs=1e-6)
    main(["generate", run, "--prompt", "the cat", "--count", "30", "--seed", "3"])
    first = capsys.readouterr().out
    main(["generate", run, "--prompt", "the cat", "--count", "30", "--seed", "3"])
    assert capsys.readouterr().out == first
    assert first.startswith("the cat")
    assert len(first) == len("the cat") + 31
    with pytest.raises(SystemExit):
        main(["generate", run, "--prompt", "Q"])
    assert "it has 'Q': leave them out" in capsys.readouterr().err


def test_sampling_takes_the_likeliest_tokens(text, tmp_path):
    model = train(recipe(text, "gpt", weights="float", epochs=3), tmp_path / "run", **QUIET).load_model()
    tokens = [3, 5, 1]
    greedy = list(continued(model, tokens, 12, temperature=0))
    assert greedy == list(continued(model, tokens, 12, top_k=1, seed=7))
    seen = list(tokens)
    for token in greedy:  # without a cache
        assert token == int(model(torch.tensor([seen]))[0, -1].argmax())
        seen.append(token)
    assert len(list(continued(model, tokens, 50))) == 50  # longer than the context
    assert list(continued(model, tokens, 20, seed=1)) != list(continued(model, tokens, 20, seed=2))
    for wrong, message in (({"temperature": -1.0}, "temperature"), ({"top_k": 0}, "top_k"), ({"seed": -1}, "seed")):
        with pytest.raises(HypersignError, match=message):
            list(continued(model, tokens, 1, **wrong))
    with pytest.raises(HypersignError, match="at least one token"):
        list(continued(model, [], 1))
    with pytest.raises(HypersignError, match="reads a text in pieces"):
        list(continued(torch.nn.Identity(), tokens, 1))


def test_images_row_by_row(tmp_path):
    run = train(
        Recipe(data="digits", model="lstm", hidden=(32,), epochs=8, batch_size=50, learning_rate=0.01),
        tmp_path / "run",
        **QUIET,
    )
    assert run.info["results"]["test"]["accuracy"] > 0.8
    with pytest.raises(HypersignError, match="generate continues a text"):
        main_error(run)


def main_error(run):
    from hypersign.generation import generate

    next(generate(run, ""))


def test_named_recipes():
    assert RECIPES["bitnet"].weights == "bitnet"
    assert RECIPES["bitnet"].inputs == "int8"
    assert RECIPES["bitnet"].activation is None
    assert RECIPES["hou-2019"].gradient_norm == 5.0
    assert RECIPES["ardakani-2019"].rate(epoch=200, progress=1.0) == pytest.approx(1e-3)
    assert Recipe(data="text:a.txt").crop_padding == 0
    with pytest.raises(HypersignError, match="vgg has no option cell"):
        Recipe(cell="gru")
    with pytest.raises(HypersignError, match="length must be"):
        dataclasses.replace(RECIPES["bitnet"], length=0)


def test_a_forecast_of_a_text(text, tmp_path, capsys):
    run = tmp_path / "run"
    words = ["--model", "lstm", "--hidden", "12", "--epochs", "1", "--batch-size", "8", "--length", "16"]
    words += ["--weights", "float", "--inputs", "float"]
    main(["train", "--data", text, *words, "--output", str(run), "--device", "cpu"])
    code = tmp_path / "plan.py"
    options = ["--images", "40", "--held-out", "6", "--mixtures", "2", "--formats", "binary", "4-level"]
    main(["forecast", str(run), *options, "--bits-per-weight", "4", "--emit", str(code)])
    found = json.loads((run / "forecast.json").read_text())
    assert [layer["name"] for layer in found["layers"]] == ["layer1.ih_l0", "layer1.hh_l0", "head"]
    assert (found["inputs"], found["decisions"], found["unit"]) == (40, 640, "characters")
    assert found["plan"]["no_file"] == "packed files are for networks of images"
    made: dict = {}
    exec(code.read_text(), made)
    assert made["quantized"].layer1.hh_l0.quantizes_weights
    assert "Measured on test characters" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--model", "lstm", "--hidden", "12"], ["--model", "gpt", "--method", "bitnet"]])
def test_a_float_twin(text, tmp_path, capsys, words):
    run = tmp_path / "run"
    size = ["--width", "8", "--blocks", "1", "--heads", "1"] if "gpt" in words else []
    options = [*words, *size, "--epochs", "1", "--batch-size", "8", "--length", "16", "--device", "cpu"]
    main(["train", "--data", text, *options, "--output", str(run)])
    main(["train", "--twin", str(run), "--device", "cpu"])
    said = " ".join(capsys.readouterr().out.split())
    found, twin = load(run), load(run / "twin")
    facts, test = found.info["twin"], twin.info["results"]["test"]
    assert (facts["loss"], facts["bits_per_token"]) == (test["loss"], test["bits_per_token"])
    assert twin.info["recipe"]["weights"] == twin.info["recipe"]["inputs"] == "float"
    assert not quant_layers(twin.load_model()) or not any(
        layer.quantizes_weights or layer.quantizes_inputs for layer in quant_layers(twin.load_model()).values()
    )
    assert facts["float_bytes"] == 4 * sum(p.numel() for p in twin.load_model().parameters())
    assert facts["seconds_per_token"] > 0 < facts["packed_seconds_per_token"]
    ours = found.info["results"]["test"]["bits_per_token"]
    assert f"{ours:.3f} bits per character with" in said
    assert f"{facts['packed_bytes']:,} bytes packed" in said
    main(["info", str(run)])
    assert f"{test['bits_per_token']:.3f} in float32" in " ".join(capsys.readouterr().out.split())


def test_the_twin_of_an_image_network_has_no_relu_in_its_states():
    assert twin_recipe(Recipe(data="mnist", model="lstm", hidden=(8,))).inputs == "float"


def test_commands_for_images_say_so(text, tmp_path, capsys):
    run = str(tmp_path / "run")
    words = ["--model", "lstm", "--hidden", "12", "--epochs", "1", "--batch-size", "8", "--length", "16"]
    main(["train", "--data", text, *words, "--output", run, "--device", "cpu"])
    capsys.readouterr()
    for command, message in ((["ablate", run], "recurrent layers are measured over time"),):
        with pytest.raises(SystemExit):
            main(command)
        assert message in capsys.readouterr().err
