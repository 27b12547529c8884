import os
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence

import pytest
import torch

from hypersign import study, training
from hypersign._installation import pip_install, program
from hypersign.cli import main
from hypersign.runs import load, read_tensors
from hypersign.training import RECIPES, Recipe
from hypersign.training.step import Step

TINY = ["--recipe", "anderson-berg-2018", "--data", "digits", "--model", "mlp", "--hidden", "8", "--validation", "0"]
TINY += ["--images", "100", "--epochs", "2"]
HOW = ["--device", "cpu", "--save-seconds", "0"]


@pytest.fixture
def command(capsys, monkeypatch, tmp_path):
    """`command("--epochs", "3") -> (exit status, standard output, standard error)`, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def run(*words):
        status = 0
        try:
            main(["train", *words])
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()

    yield run
    torch.set_num_threads(threads)


@pytest.fixture
def told(command, monkeypatch):
    """What `training.train` is told: `told("--epochs", "3") -> (recipe, folder, options)`."""
    calls = []

    def train(recipe, folder, **options):
        calls.append((recipe, folder, options))
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train", train)

    def run(*words):
        status, _, error = command(*words)
        assert status == 130, error
        return calls.pop()

    return run


OPTIONS = {"start": "from"}
"""Fields whose option has another name."""


def words_of(recipe: Recipe) -> list[str]:
    """Every field of a recipe as command-line words."""
    words = []
    for name, value in recipe.as_dict().items():
        option = OPTIONS.get(name, name).replace("_", "-")
        if isinstance(value, bool) and name in ("flip", "compile"):
            words.append(f"--{option}" if value else f"--no-{option}")
        elif isinstance(value, Sequence) and not isinstance(value, str):
            words += [f"--{option}", *map(str, value)]
        else:
            words += [f"--{option}", str(value)]
    return words


@pytest.mark.parametrize("named", RECIPES)
@pytest.mark.parametrize(
    "recipe",
    [
        *RECIPES.values(),
        Recipe(
            data="mnist",
            images=100,
            validation=10,
            flip=True,
            crop_padding=2,
            widths=(8, 16),
            pools=(2,),
            filter_size=5,
            padding="valid",
            hidden=(32,),
            levels=3,
            threshold="optimal",
            continuous=True,
            float_weights=("fc1", "fc2"),
            float_inputs=("fc2",),
            surrogate="tanh",
            norm_scale=True,
            norm_epsilon=1e-4,
            norm_momentum=1e-3,
            sign_zero=0,
            epochs=3,
            batch_size=20,
            loss="cross-entropy",
            optimizer="adamw",
            adam_epsilon="uncorrected",
            weight_decay=0.1,
            learning_rate=0.02,
            final_learning_rate=1e-5,
            schedule="cosine",
            schedule_per="step",
            gradient_clip=None,
            latent_clip="before-forward",
            reestimate_images=0,
            seed=7,
            precision="bf16",
            compile=True,
        ),
        Recipe(model="mlp", hidden=(), threshold=0.25, gradient_clip=0.5, continuous=None, data="a folder"),
        Recipe(model="resnet18", widths=(4, 4, 4, 4), surrogate="straight-through"),
    ],
    ids=[*RECIPES, "vgg", "mlp", "resnet18"],
)
def test_the_recipe_is_the_command_line(told, recipe, named):
    assert told("--recipe", named, *words_of(recipe))[0] == recipe


@pytest.mark.parametrize("named", RECIPES)
def test_a_named_recipe_sets_the_defaults(told, named):
    assert told("--recipe", named)[0] == RECIPES[named]
    assert told(f"--recipe={named}", "--epochs", "7")[0].epochs == 7


def test_options(told):
    recipe, folder, options = told("--data", "digits")
    assert recipe == Recipe() == Recipe(data="digits")
    assert told("--data=mnist", "--epochs", "3")[0] == Recipe(data="mnist", epochs=3)
    assert not Recipe(data="mnist").flip
    assert told()[0] == Recipe(data="cifar-10")
    assert Recipe(data="cifar-10").flip
    assert told("--data", "mnist", "--flip")[0] == Recipe(data="mnist", flip=True)
    assert told("--data", "x/photos.npz", "--no-flip")[0] == Recipe(data="x/photos.npz", flip=False)
    assert str(folder) == "runs/digits-vgg-binary"
    assert options == {"device": None, "deterministic": False, "tensorboard": False, "save_seconds": 60.0}
    assert str(told("--data", "x/photos.npz", "--levels", "3")[1]) == "runs/photos-vgg-ternary"
    _, folder, options = told(
        "--output", "there", "--device", "cuda", "--deterministic", "--tensorboard", "--save-seconds", "5"
    )
    assert str(folder) == "there"
    assert options == {"device": "cuda", "deterministic": True, "tensorboard": True, "save_seconds": 5.0}


def test_trains_and_says_what_comes_next(command, tmp_path):
    status, output, error = command(*TINY, *HOW)
    run = load("runs/digits-mlp-binary")
    test = run.info["results"]["test"]
    assert status == 0
    assert output.splitlines() == [
        f"runs/digits-mlp-binary: {test['accuracy']:.2%} of 359 test images, loss {test['loss']:.4f}",
        "Next:",
        "  # geometry and report",
        f"  {program()} inspect runs/digits-mlp-binary",
        "  # what low bits cost: as long as this training in float32",
        f"  {program()} train --twin runs/digits-mlp-binary",
    ]
    assert [line.split()[:2] for line in error.splitlines()] == [["epoch", "1/2"], ["epoch", "2/2"]]
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    assert command("--resume", "runs/digits-mlp-binary")[:2] == (0, output)


def test_the_page_is_written_in_every_epoch_and_at_the_end(command, tmp_path, monkeypatch):
    pages = []
    real = study.write_training_page

    def write(run, **options):
        path = real(run, **options)
        pages.append((options.get("reload_seconds"), path.read_text(encoding="utf-8")))
        return path

    monkeypatch.setattr(study, "write_training_page", write)
    status, out, _ = command(*TINY, *HOW, "--output", "run", "--report")
    assert status == 0
    assert f"Report: {tmp_path / 'run' / 'report.html'}" in out or "Report: run/report.html" in out
    assert [reload for reload, _ in pages] == [2, 2, 2, None]
    for done, (_, text) in enumerate(pages[:3]):
        assert f"Epoch <b>{done}</b> of 2" in text
    assert "test images right after 2 epochs" in pages[-1][1]
    assert "What it sees" in pages[-1][1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--data", "nope"), "the data set must be one of digits, mnist, "),
        (("--data", "digits", "--batch-size", "2000"), "batch_size must be at most the number of images, 1438"),
        (
            ("--data", "digits", "--device", "mps"),
            "device must be one that this machine and this build of torch have",
        ),
        (
            ("--data", "digits", "--output", "/dev/null/run"),
            "--output must name a folder; got /dev/null/run, but /dev/null is a file",
        ),
        (("--data", "digits", "--save-seconds", "-1"), "save_seconds must be a number >= 0; got -1"),
        (("--recipe", "nope"), "--recipe must be one of anderson-berg-2018, modern, two-cores, "),
        (("--epochs", "0"), "epochs must be an integer >= 1; got 0"),
        (("--model", "mlp", "--pools", "1"), "mlp has no option pools; its options are"),
        (("--threshold", "1.5"), "threshold (a number, or Optimal()) must be a number >= 0 and < 1; got 1.5"),
        (("--weights", "cubic"), "quantizer must be one of float, relu, sign, ternary, "),
        (("--resume", "nope"), "a run folder was expected at nope; there is none"),
        (("--resume", "x", "--output", "y"), "--resume uses the run's own recipe and folder; leave"),
        (("--resume", "x", "--epochs", "3"), "--resume uses the run's own recipe and folder; leave"),
        (("--resume", "x", "--recipe", "anderson-berg-2018"), "--resume uses the run's own recipe and folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_input(command, tmp_path, words, message):
    status, output, error = command(*words)
    assert (status, output) == (1, "")
    assert error.startswith(f"hypersign train: {message}")
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--loss", "hinge"), "invalid choice 'hinge' for argument '--loss'"),
        (("--epoch", "3"), "--epoch"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_options(command, tmp_path, words, message):
    status, _, error = command(*words)
    assert status == 2
    assert message in " ".join(error.replace("│", " ").split())
    assert list(tmp_path.iterdir()) == []


def test_help_tells_a_stranger_what_is_needed(command):
    status, output, _ = command("--help")
    assert status == 0
    text = " ".join(output.replace("│", " ").split())
    for field in Recipe().as_dict():
        assert f"--{OPTIONS.get(field, field).replace('_', '-')}" in text
    for part in (
        "--resume",
        "Ctrl-C and SIGTERM save the state and stop",
        "torchrun",
        "fashion-mnist",
        "(default: modern)",
    ):
        assert part in text
    assert "recipe_" not in text
    assert "None}" not in text
    assert "--pools INT ..." in text
    # the named recipe's defaults are shown
    assert "(default: 500)" in command("--recipe", "anderson-berg-2018", "--help")[1]


def test_ctrl_c(command, monkeypatch):
    call = Step.__call__

    def interrupted(self, images, labels, rate):
        if self.steps == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return call(self, images, labels, rate)

    monkeypatch.setattr(Step, "__call__", interrupted)
    status, output, error = command(*TINY, *HOW, "--output", "run")
    assert (status, output) == (130, "")
    assert error.splitlines()[-1] == (
        "hypersign train: training stopped in epoch 2 of 2, step 3; its state is saved. "
        f"Resume with: {program()} train --resume run"
    )
    monkeypatch.setattr(Step, "__call__", call)
    assert command("--resume", "run", *HOW)[0] == 0


def test_a_disk_that_fills_up(command, monkeypatch, tmp_path):
    """A real limit on the size of files from step 3 on; the state of step 2 is kept and goes on to the same end."""
    assert command(*TINY, *HOW, "--output", "whole")[0] == 0
    limits, call = resource.getrlimit(resource.RLIMIT_FSIZE), Step.__call__

    def filling(self, images, labels, rate):
        if self.steps == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
        return call(self, images, labels, rate)

    try:
        with monkeypatch.context() as patch:
            patch.setattr(Step, "__call__", filling)
            status, output, error = command(*TINY, *HOW, "--output", "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (status, output) == (1, "")
    assert error.splitlines()[-1].startswith("hypersign train: run/model.safetensors could not be written: ")
    assert error.endswith("; make room there or write elsewhere, then try again\n")
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]  # no half file
    assert read_tensors(tmp_path / "run" / "state" / "state.safetensors")[1]["step"] == 2
    assert command("--resume", "run", *HOW)[0] == 0
    whole, run = (read_tensors(tmp_path / name / "model.safetensors")[0] for name in ("whole", "run"))
    assert all(torch.equal(whole[name], run[name]) for name in whole)


def test_as_a_module(tmp_path):
    """What torchrun -m starts, and what a missing package says."""
    without = (
        "import runpy, sys; sys.modules['accelerate'] = None; runpy.run_module('hypersign', run_name='__main__')"
    )
    command = [sys.executable, "-c", without, "train", "--data", "digits", "--output", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == (
        "hypersign train: this command needs the package accelerate, which is not installed; install it with: "
        f"{pip_install('train')}\n"
    )
    assert not (tmp_path / "run").exists()
