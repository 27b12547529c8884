"""Every command's help: width, words, example; every option's default against the function behind the command."""

import importlib
import inspect
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from hypersign import (
    forecasting,
    generation,
    geometry,
    hashing,
    packing,
    playground,
    simulation,
    study,
    training,
    weight_files,
)
from hypersign.cli import data, main, options, simulate, theory
from hypersign.cli.ablate import ablate
from hypersign.cli.bench import bench
from hypersign.cli.compare import compare
from hypersign.cli.demo import demo
from hypersign.cli.evaluate import evaluate
from hypersign.cli.export import export
from hypersign.cli.forecast import forecast
from hypersign.cli.generate import generate as generate_text
from hypersign.cli.hash import hash_
from hypersign.cli.info import info
from hypersign.cli.inspect import inspect as inspect_run
from hypersign.cli.inspect_files import inspect_vectors, inspect_weights
from hypersign.cli.main import VERBS
from hypersign.cli.models import models
from hypersign.cli.pack import pack
from hypersign.cli.play import play
from hypersign.cli.reproduce import reproduce
from hypersign.cli.run import predict
from hypersign.cli.search import search
from hypersign.export import c_code, onnx_graph, qonnx_import
from hypersign.packed import PackedModel
from hypersign.packed.profile import profile
from hypersign.runs import Run
from hypersign.training.recipe import RECIPES, Recipe

import_ = importlib.import_module("hypersign.cli.import").import_

GROUPS = {"data": data.COMMANDS, "simulate": simulate.COMMANDS, "theory": theory.COMMANDS}
COMMANDS = [
    *([verb] for verb in VERBS),
    *([verb, name] for verb, names in GROUPS.items() for name in names),
    ["inspect", "model.safetensors"],
    ["inspect", "vectors.npy"],
    ["train", "--recipe", "anderson-berg-2018"],
]


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files that examples name."""
    monkeypatch.chdir(tmp_path)
    save_file({"w": np.ones((2, 64))}, "model.safetensors")
    np.save("vectors.npy", np.random.default_rng(0).standard_normal((60, 16)))


def help_text(words: list[str], capsys: pytest.CaptureFixture[str], width: int = 80) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(width))
        main([*words, "--help"])
    return capsys.readouterr().out


def examples(text: str) -> list[list[str]]:
    """The command lines after `Example:`, on its line or below it."""
    found, lines = [], iter(text.splitlines())
    for line in lines:
        title, colon, rest = line.strip().partition(":")
        if title in ("Example", "Examples") and colon:
            found.append(rest or next(lines))
    return [shlex.split(line) for line in found]


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("words", [[], *COMMANDS], ids=" ".join)
def test_help_fits_the_terminal_and_has_an_example(words: list[str], width: int, capsys) -> None:
    text = help_text(words, capsys, width)
    assert max(map(len, text.splitlines())) <= width
    for wrong in ("None", "{[", "[INT [", "<", "True", "False"):
        if (wrong, words[:1]) not in (("True", ["train"]), ("False", ["train"])):  # three-valued options
            assert wrong not in text
    assert "DESCRIPTION" not in text
    assert examples(text)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_first_paragraph_is_a_sentence(words: list[str], capsys) -> None:
    text = help_text(words, capsys)
    if text.startswith("usage: "):
        first = text.split("\n\n")[1]
        assert first[0].isupper()
        assert first.endswith(".")


@pytest.mark.parametrize("words", [[], *COMMANDS], ids=" ".join)
def test_examples_parse(words: list[str], capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    found = examples(help_text(words, capsys))
    called: list[Callable[..., Any]] = []
    monkeypatch.setattr(options, "_call", lambda function, positional, named: called.append(function))
    for program, *arguments in found:
        assert program == "hypersign"
        main(arguments)
    assert len(called) == len(found) > 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "words",
    [["theory", name] for name in theory.COMMANDS] + [["data", "list"], ["inspect", "vectors.npy"]],
    ids=" ".join,
)
def test_cheap_examples_run(words: list[str], capsys, monkeypatch) -> None:
    monkeypatch.delenv("HYPERSIGN_DATA", raising=False)  # it may name a folder from another place than this
    ((_, *arguments),) = examples(help_text(words, capsys))
    main(arguments)
    assert capsys.readouterr().out


def test_help_needs_no_torch(tmp_path: Path) -> None:
    code = f"""
import sys
from hypersign.cli import main
for words in {COMMANDS}:
    main([*words, "--help"])
    assert "torch" not in sys.modules, words
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr


CALLED: dict[Callable[..., Any], list[Callable[..., Any]]] = {
    ablate: [study.ablate_run],
    bench: [profile],
    compare: [],
    data.fetch: [],
    data.list_: [],
    data.export: [],
    demo: [],
    evaluate: [Run.load_model],
    export: [onnx_graph.qonnx_model, c_code.write_c],
    forecast: [forecasting.forecast],
    hash_: [hashing.SignHasher, hashing.plan, hashing.hash_file],
    import_: [qonnx_import.import_qonnx],
    generate_text: [generation.generate],
    info: [],
    inspect_run: [geometry.inspect],
    inspect_vectors: [hashing.inspect_vectors],
    inspect_weights: [weight_files.inspect_weights],
    models: [],
    pack: [Run.load_model, packing.verify],
    play: [playground.page],
    predict: [PackedModel.predict],
    reproduce: [geometry.inspect, study.paper_simulations],
    search: [hashing.HammingIndex.search, hashing.HammingIndex.rescore],
    simulate.pairs: [simulation.pairs],
    simulate.binary_pairs: [simulation.binary_pairs],
    simulate.sign: [simulation.sign],
    simulate.ternary: [simulation.ternary],
    simulate.levels: [simulation.levels],
    simulate.rotated: [simulation.rotated],
    theory.angle: [],
    theory.ternary: [],
    theory.table: [],
}
"""The functions behind each command, the one that decides a default first."""

RENAMED = {(hash_, "neighbours"): "k", (search, "neighbours"): "k"}

OWN = {
    ablate: {"figures", "json"},
    bench: {"batch_sizes", "json"},
    compare: {"json", "report"},
    data.export: {"split", "vectors"},
    data.list_: {"json"},
    demo: {"output"},
    export: {"output", "format", "images"},
    evaluate: {"split", "images", "batch_size", "json"},
    forecast: {"held_out", "raw", "bytes", "bits_per_weight", "agreement", "emit", "json"},
    generate_text: {"prompt"},
    hash_: {"output", "plan", "packed", "neighbours", "queries", "recall", "json"},
    import_: {"output", "images"},
    info: {"json"},
    inspect_run: {"output", "figures", "ablate"},
    inspect_vectors: {"json"},
    inspect_weights: {"against", "arm", "json"},
    models: {"card", "json"},
    pack: {"output", "verify"},
    play: {"output", "images", "count"},
    predict: {"input", "output"},
    reproduce: {"output", "json"},
    search: {"neighbours", "rescore", "factor", "exact", "every_code", "allowed", "output", "json"},
    theory.angle: {"dimension", "threshold", "json"},
    theory.ternary: {"thresholds", "json"},
    theory.table: {"json"},
} | {command: {"figures", "json"} for command in simulate.COMMANDS.values()}
"""Options that no function behind the command has, or has no default for."""


def test_every_command_is_listed() -> None:
    assert {function for names in GROUPS.values() for function in names.values()} <= CALLED.keys()
    assert len(CALLED) == len(VERBS) - 1 - len(GROUPS) + sum(map(len, GROUPS.values())) + 2  # without train


@pytest.mark.parametrize("command", CALLED, ids=lambda command: f"{command.__module__}.{command.__name__}")
def test_defaults_are_those_of_the_function_behind(command: Callable[..., Any]) -> None:
    for name, parameter in inspect.signature(command).parameters.items():
        if parameter.kind is parameter.POSITIONAL_ONLY or name in OWN.get(command, set()):
            continue
        wanted = RENAMED.get((command, name), name)
        known = [inspect.signature(function).parameters for function in CALLED[command]]
        (default, *_) = [found[wanted].default for found in known if wanted in found]
        assert parameter.default == default, name


@pytest.mark.parametrize("name", RECIPES)
def test_defaults_of_train(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[Callable[..., Any], Any]] = []
    monkeypatch.setattr(options, "_call", lambda function, positional, named: called.append((function, named)))
    main(["train", "--recipe", name])
    ((function, named),) = called
    assert Recipe(**vars(named["options"])) == RECIPES[name]
    for option, parameter in inspect.signature(training.train).parameters.items():
        if option in ("device", "deterministic", "tensorboard", "save_seconds"):
            assert inspect.signature(function).parameters[option].default == parameter.default
            assert named[option] == parameter.default


def test_none_is_a_value_where_it_is_not_the_default(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    called: list[Any] = []
    monkeypatch.setattr(options, "_call", lambda function, positional, named: called.append(named["options"]))
    for word in ("none", "None"):
        main(["train", "--recipe", "anderson-berg-2018", "--gradient-clip", word])
    assert [found.gradient_clip for found in called] == [None, None]
    assert "--gradient-clip FLOAT|none" in help_text(["train"], capsys)


def test_wrong_words_are_named(capsys) -> None:
    for words, message in (
        (["simulate", "sign", "--draws", "many"], "an integer is needed; got 'many'"),
        (["theory", "angle", "--threshold", "x"], "a number is needed; got 'x'"),
        (["theory", "angel"], "'angel' is not known; name one of angle, ternary, table"),
    ):
        with pytest.raises(SystemExit):
            main(words)
        assert message in " ".join(capsys.readouterr().err.split())
