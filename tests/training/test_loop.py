import io
import json
import math
import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from hypersign import models
from hypersign._checks import HypersignError
from hypersign.bits.backend import backend, forced
from hypersign.data import Augmentation, Batches
from hypersign.data import load as load_data
from hypersign.evaluate import evaluate
from hypersign.layers import quant_layers
from hypersign.runs import load
from hypersign.tasks import Classification, squared_hinge
from hypersign.training import DivergedError, InterruptedTrainingError, Recipe, resume
from hypersign.training.checkpoint import Belongs, load_state, state_path
from hypersign.training.divergence import FiniteCheck
from hypersign.training.setup import build_network, new_run
from hypersign.training.step import Step


@pytest.fixture
def at_step(monkeypatch):
    """`at_step(n, action)`: `action(step, images)` runs before the n-th step of a process."""

    def plan(number, action):
        call, seen = Step.__call__, [0]

        def counted(self, images, labels, rate):
            seen[0] += 1
            if seen[0] == number:
                action(self, images)
            return call(self, images, labels, rate)

        monkeypatch.setattr(Step, "__call__", counted)

    return plan


def fresh(recipe, data):
    """The network as a training begins with it."""
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        return models.build(recipe.model, data.shape, len(data.classes), **recipe.model_options())


def test_against_a_naive_loop(vgg, train_quietly, weights):
    recipe = vgg(
        epochs=3, validation=60, images=110, schedule_per="step", flip=True, crop_padding=1, norm_momentum=0.3
    )
    run = train_quietly(recipe)
    data = load_data("digits")
    model = fresh(recipe, data)
    optimizer = torch.optim.Adam(model.parameters(), foreach=False, fused=False)
    chosen = data.train[: len(data.train) - 60]
    batches = Batches(chosen[:110], 25, pixel_range=data.pixel_range, seed=0, augmentation=Augmentation(True, 1))
    rows, step = run.metrics(), 0
    for epoch in (1, 2, 3):
        before = {name: layer.weight.detach().clone() for name, layer in quant_layers(model).items()}
        losses, right = [], 0
        for x, labels in list(batches.epoch(epoch))[:4]:  # the fifth is not full
            step += 1
            optimizer.param_groups[0]["lr"] = rate = 1e-3 * (3e-7 / 1e-3) ** (step / 12)
            logits = model.train()(x)
            loss = squared_hinge(logits, labels)
            optimizer.zero_grad()
            loss.backward()
            for p in model.parameters():
                p.grad.clamp_(-1, 1)
            optimizer.step()
            with torch.no_grad():
                for layer in quant_layers(model).values():
                    layer.weight.clamp_(-1, 1)
            losses.append(loss.item())
            right += int((logits.argmax(1) == labels).sum())
        row = rows[epoch - 1]
        assert list(row) == [
            "epoch",
            "step",
            "seconds",
            "images_per_second",
            "learning_rate",
            "loss",
            "accuracy",
            "validation_loss",
            "validation_accuracy",
            "layers",
        ]
        assert (row["epoch"], row["step"]) == (epoch, step)
        assert row["learning_rate"] == pytest.approx(rate, rel=1e-12)
        assert row["loss"] == pytest.approx(np.mean(losses), rel=1e-6)
        assert row["accuracy"] == right / 100
        held = data.train[len(data.train) - 60 :]
        expected = evaluate(model, Batches(held, 7, pixel_range=data.pixel_range), task=Classification(squared_hinge))
        assert row["validation_accuracy"] == expected.accuracy
        assert row["validation_loss"] == pytest.approx(expected.loss, rel=1e-5)
        assert row["images_per_second"] > 0
        assert row["seconds"] > (rows[epoch - 2]["seconds"] if epoch > 1 else 0)
        assert list(row["layers"]) == list(before) == ["conv1", "conv2", "fc1", "fc2"]
        for name, layer in quant_layers(model).items():
            flips = ((layer.weight < 0) != (before[name] < 0)).sum().item() / layer.weight.numel()
            assert row["layers"][name]["flipped_signs"] == pytest.approx(flips, rel=1e-6)
            angles = [
                math.degrees(math.acos(float(w.abs().sum() / w.norm() / math.sqrt(w.numel()))))
                for w in layer.weight.detach().double()
            ]
            assert row["layers"][name]["angle_degrees"] == pytest.approx(np.mean(angles), rel=1e-5)
    assert any(row["layers"]["fc1"]["flipped_signs"] for row in rows)
    trained = weights(run.path)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(trained[name], parameter.detach(), rtol=1e-5, atol=1e-6)


def test_results(vgg, train_quietly, weights):
    """The last weights carry re-estimated statistics; the best are those of the best epoch."""
    recipe = vgg(epochs=4, validation=100, images=500, learning_rate=0.01, final_learning_rate=0.01)
    run = train_quietly(recipe)
    data, results = load_data("digits"), run.info["results"]
    held, seen = data.train[len(data.train) - 100 :], data.train[:100]
    accuracies = [row["validation_accuracy"] for row in run.metrics()]
    assert results["best_epoch"] == 1 + int(np.argmax(accuracies))
    best = evaluate(run.load_model("best"), Batches(held, 50, pixel_range=data.pixel_range))
    assert best.accuracy == max(accuracies)
    last = run.load_model()
    test = evaluate(last, Batches(data.test, 50, pixel_range=data.pixel_range), task=Classification(squared_hinge))
    assert results["test"]["accuracy"] == test.accuracy
    assert results["test"]["confusion"] == [list(counts) for counts in test.confusion]
    assert results["test"]["loss"] == pytest.approx(test.loss, rel=1e-5)
    assert results["validation"]["images"] == 100
    images = next(iter(Batches(seen, 100, pixel_range=data.pixel_range)))[0]
    torch.testing.assert_close(last.norm1.running_mean, last.pool1(last.conv1(images)).mean((0, 2, 3)))
    assert not state_path(run.path).parent.exists()
    assert "validation" not in train_quietly(vgg(epochs=1), "plain").info["results"]


def test_without_reestimation_the_running_averages_stay(mlp, train_quietly):
    run = train_quietly(mlp(epochs=1, reestimate_images=0, norm_momentum=1e-6))
    assert 0 < run.load_model().norm1.running_mean.abs().max() < 1e-3


@pytest.mark.parametrize(
    "fields",
    [
        {"loss": "cross-entropy"},
        {"levels": 3},
        {"levels": 3, "threshold": "optimal"},
        {"levels": 3, "threshold": 0.999},  # every filter is zero
        {"continuous": True},
        {"float_weights": ("conv1", "fc2"), "float_inputs": ("fc1",), "norm_scale": True},
        {"flip": True, "crop_padding": 2},
        {"surrogate": "tanh", "optimizer": "sgd", "weight_decay": 1e-4},
        {"optimizer": "adamw", "weight_decay": 0.01, "adam_epsilon": "uncorrected", "latent_clip": "before-forward"},
        {"precision": "bf16"},
        {"precision": "bits"},
        {"precision": "bits", "levels": 3},
        {"pools": (), "sign_zero": 0, "filter_size": 1, "gradient_clip": None, "latent_clip": "none"},
        {"model": "resnet20", "widths": (2, 3, 4), "pools": None, "hidden": None, "surrogate": "polynomial"},
        {"model": "resnet18", "widths": (2, 2, 3, 4), "pools": None, "hidden": None},
        {"model": "mlp", "widths": None, "pools": None, "hidden": ()},
        {"float_weights": ("conv1", "conv2", "fc1", "fc2")},
    ],
    ids=lambda fields: " ".join(f"{key}={value}" for key, value in fields.items()),
)
def test_every_kind_of_network_trains(vgg, train_quietly, fields):
    run = train_quietly(vgg(epochs=1, **fields))
    (row,) = run.metrics()
    assert 0 < row["loss"] < 50
    json.loads((run.path / "metrics.jsonl").read_text(), parse_constant=pytest.fail)  # no NaN: strict JSON
    assert 0 <= run.info["results"]["test"]["accuracy"] <= 1


def test_bf16_stays_near_float32(vgg, train_quietly):
    losses = [
        train_quietly(vgg(epochs=1, images=500, precision=precision), precision).metrics()[0]["loss"]
        for precision in ("float32", "bf16")
    ]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


def test_on_bits_is_near_float32_and_comes_back(vgg, train_quietly, weights, assert_same):
    first, again, real = (
        train_quietly(vgg(epochs=2, images=500, precision=precision), name)
        for precision, name in (("bits", "first"), ("bits", "again"), ("float32", "real"))
    )
    assert_same(weights(first.path), weights(again.path))
    assert not torch.equal(*(weights(run.path)["conv2.weight"] for run in (first, real)))  # gradients were rounded
    losses = [run.metrics()[0]["loss"] for run in (first, real)]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def test_what_stays_in_float_is_told(vgg, train_quietly):
    console = Console(file=io.StringIO(), width=200)
    train_quietly(vgg(epochs=1, precision="bits"), console=console)
    first = console.file.getvalue().splitlines()[0]
    assert first == f"on bits ({backend()}); conv1 in float32: its inputs are not binary or ternary: Identity()"


def test_bits_need_kernels(vgg, train_quietly):
    with forced("numpy"), pytest.raises(HypersignError, match="precision bits needs the CPU and compiled kernels"):
        train_quietly(vgg(precision="bits"))
    with pytest.raises(HypersignError, match="whose weights and inputs are quantized; this one has none"):
        train_quietly(vgg(precision="bits", float_inputs=("conv2", "fc1", "fc2")), "real")


def test_compiled_is_as_eager(mlp, train_quietly, weights):
    eager, compiled = (train_quietly(mlp(epochs=1, compile=c, surrogate="tanh"), str(c)) for c in (False, True))
    left, right = weights(eager.path), weights(compiled.path)
    for name, tensor in left.items():
        torch.testing.assert_close(right[name], tensor, rtol=1e-4, atol=1e-4)
    assert compiled.metrics()[0]["loss"] == pytest.approx(eager.metrics()[0]["loss"], rel=1e-4)


def test_a_small_network_learns(train_quietly):
    recipe = Recipe(model="mlp", hidden=(64,), epochs=5, learning_rate=0.01, final_learning_rate=1e-3)
    assert train_quietly(recipe).info["results"]["test"]["accuracy"] > 0.85


def test_the_same_again_and_global_state_untouched(mlp, train_quietly, weights, assert_same):
    torch.manual_seed(5)
    before = torch.get_rng_state(), signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    first = train_quietly(mlp(), "first", deterministic=True)
    torch.rand(3)
    assert not torch.are_deterministic_algorithms_enabled()
    second = train_quietly(mlp(), "second")
    assert_same(weights(first.path), weights(second.path))
    torch.manual_seed(5)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before[1:]
    assert not torch.equal(
        weights(train_quietly(mlp(seed=1), "third").path)["fc1.weight"], weights(first.path)["fc1.weight"]
    )


def test_tensorboard_only_when_asked(mlp, train_quietly):
    pytest.importorskip("tensorboard")
    run = train_quietly(mlp(epochs=1), tensorboard=True)
    assert [path.name[:6] for path in (run.path / "tensorboard").iterdir()] == ["events"]
    assert not (train_quietly(mlp(epochs=1), "without").path / "tensorboard").exists()


# What cannot be: one sentence, and nothing made


def test_tensorboard_that_is_not_installed(mlp, train_quietly, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(
        HypersignError, match=r"^--tensorboard needs the package tensorboard, which is not .*pip install"
    ):
        train_quietly(mlp(), tensorboard=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("fields", "options", "message"),
    [
        ({"data": "nope"}, {}, r"the data set must be one of .*'nope' is none of these"),
        ({"batch_size": 101}, {}, r"batch_size must be at most the number of images, 100, "),
        ({"validation": 5000}, {}, r"the number of images held out must be an integer from 0 to 1437; got 5000"),
        ({"threshold": 1.0, "levels": 3}, {}, r"threshold .* must be a number >= 0 and < 1; got 1$"),
        ({"float_weights": ("conv1",)}, {}, r"float_weights and float_inputs must name layers of this network"),
        ({"levels": 4}, {}, r"levels must be 2 \(binary\) or 3 \(ternary\); got 4"),
        ({}, {"device": "mps"}, r"device must be one that this machine .*; got mps, found cpu: leave it out"),
        ({}, {"save_seconds": -1.0}, r"save_seconds must be a number >= 0; got -1"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_refuses(mlp, train_quietly, tmp_path, fields, options, message):
    with pytest.raises(HypersignError, match=message):
        train_quietly(mlp(**fields), "run", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use(mlp, train_quietly, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes").write_text("mine")
    with pytest.raises(
        HypersignError, match=r"must be new or empty; .*run is not: choose another, or resume .*--resume"
    ):
        train_quietly(mlp())
    (tmp_path / "file").write_text("mine")
    with pytest.raises(HypersignError, match=r"must be new or empty; .*file is not"):
        train_quietly(mlp(), "file")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["notes"]


def test_what_a_killed_start_left_is_no_use(mlp, train_quietly, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".run.json.abcd_123.part").write_text("{")
    run = train_quietly(mlp(epochs=1))
    assert sorted(path.name for path in run.path.iterdir()) == ["metrics.jsonl", "model.safetensors", "run.json"]


def test_a_folder_that_a_live_run_writes_to(mlp, train_quietly, quiet, tmp_path, monkeypatch, weights, assert_same):
    whole = train_quietly(mlp(), "whole")
    call, said = Step.__call__, []

    def meanwhile(self, *batch):
        if self.steps == 3:
            files = {path.name for path in (tmp_path / "run").rglob("*")}
            part = tmp_path / "run" / ".metrics.jsonl.abcd_123.part"  # what the live run may be writing
            part.write_text("{")
            with ThreadPoolExecutor(1) as thread:  # a lock taken twice by one caller is the caller's
                for intrude in (
                    lambda: train_quietly(mlp(seed=1)),
                    lambda: resume(tmp_path / "run", **quiet),
                ):
                    with pytest.raises(HypersignError) as error:
                        thread.submit(intrude).result()
                    said.append(str(error.value))
            part.unlink()  # it was not removed
            assert {path.name for path in (tmp_path / "run").rglob("*")} == files
        return call(self, *batch)

    monkeypatch.setattr(Step, "__call__", meanwhile)
    assert_same(weights(train_quietly(mlp(), save_seconds=0).path), weights(whole.path))
    assert len(said) == 2
    for sentence in said:
        assert sentence.startswith(f"{tmp_path / 'run'} is being written by process {os.getpid()} on ")
        assert sentence.endswith("; wait for it or stop it, or choose another output")
    assert not (tmp_path / "run" / ".lock").exists()


# Stopping and going on


@pytest.mark.parametrize("step", [1, 3, 4, 8], ids=["first", "within", "end of epoch", "last"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stop_and_resume(vgg, train_quietly, quiet, tmp_path, weights, assert_same, at_step, step, number):
    recipe = vgg(surrogate="tanh")
    whole = train_quietly(recipe, "whole")
    at_step(step, lambda *_: os.kill(os.getpid(), number))
    folder = tmp_path / "stopped"
    epoch = 1 if step <= 4 else 2
    with pytest.raises(
        InterruptedTrainingError,
        match=rf"^training stopped in epoch {epoch} of 2, step {step}; its state is saved\. "
        rf"Resume with: hypersign train --resume {folder}$",
    ):
        train_quietly(recipe, "stopped")
    assert not load(folder).finished
    again = resume(folder, **quiet)
    assert again.finished
    assert_same(weights(folder), weights(whole.path))
    keys = ("epoch", "step", "learning_rate", "loss", "accuracy", "layers")
    assert [[row[k] for k in keys] for row in again.metrics()] == [[row[k] for k in keys] for row in whole.metrics()]
    assert again.info["results"]["test"] == whole.info["results"]["test"]


def test_a_second_ctrl_c_stops_at_once(mlp, train_quietly, at_step, tmp_path):
    def twice(*_):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    at_step(2, twice)
    with pytest.raises(KeyboardInterrupt):
        train_quietly(mlp())
    assert not state_path(tmp_path / "run").exists()
    assert signal.getsignal(signal.SIGINT) is before


def test_from_another_thread(mlp, train_quietly):
    found = []
    thread = threading.Thread(target=lambda: found.append(train_quietly(mlp(epochs=1))))
    thread.start()
    thread.join()
    assert found[0].finished


def test_resume_of_a_finished_run_does_nothing(mlp, train_quietly, quiet):
    run = train_quietly(mlp(epochs=1))
    before = {path.name: path.stat().st_mtime_ns for path in run.path.iterdir()}
    assert resume(run.path, **quiet).info == run.info
    assert {path.name: path.stat().st_mtime_ns for path in run.path.iterdir()} == before


def test_resume_of_a_run_without_a_state_begins_anew(mlp, train_quietly, quiet, at_step, weights, assert_same):
    whole = train_quietly(mlp(), "whole")
    at_step(3, lambda *_: pytest.fail("killed"))
    with pytest.raises(pytest.fail.Exception):
        train_quietly(mlp(), "run")
    folder = whole.path.parent / "run"
    assert sorted(path.name for path in folder.iterdir()) == ["metrics.jsonl", "run.json"]
    assert_same(weights(resume(folder, **quiet).path), weights(whole.path))


@pytest.fixture
def stopped(mlp, train_quietly, at_step, tmp_path):
    """A run stopped in its second epoch."""
    at_step(3, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(InterruptedTrainingError):
        train_quietly(mlp(), "stopped")
    return tmp_path / "stopped"


def test_resume_needs_the_epochs_that_are_done(stopped, quiet):
    (stopped / "metrics.jsonl").unlink()
    with pytest.raises(
        HypersignError, match=r"metrics\.jsonl must hold the 1 epochs that are done; it has 0: restore"
    ):
        resume(stopped, **quiet)


def test_resume_of_a_state_that_is_cut_off(stopped, quiet):
    path = state_path(stopped)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(HypersignError, match=r"state\.safetensors must be a whole safetensors file"):
        resume(stopped, **quiet)


def test_resume_with_a_recipe_of_another_version(stopped, quiet):
    run = load(stopped)
    run.update(recipe={**run.info["recipe"], "momentum": 0.9})
    with pytest.raises(
        HypersignError, match=r"run\.json must be one of this version; .*'momentum': use the HyperSign version"
    ):
        resume(stopped, **quiet)


# Numbers that stop being numbers


@pytest.mark.parametrize(
    ("breaks", "where"),
    [
        (lambda s, _: s.layers["fc2"].weight.data.fill_(torch.inf), "the output of fc2"),
        (lambda s, _: s.layers["norm2"].bias.data.fill_(torch.nan), "the output of norm2"),
        (lambda _, images: images.fill_(torch.nan), "the output of flatten"),
        (lambda s, _: s.layers["fc1"].weight.register_hook(lambda g: g + torch.nan), "the gradient of fc1.weight"),
        (lambda s, _: setattr(s, "_forward", broken_loss(s._forward)), "the gradient of norm2.bias"),
        (lambda s, _: s.layers["fc1"].weight.data[0].fill_(torch.nan), "the latent weight fc1.weight"),
    ],
    ids=["weight", "shift", "images", "gradient", "loss", "latent"],
)
def test_divergence(mlp, train_quietly, quiet, tmp_path, monkeypatch, weights, assert_same, breaks, where):
    recipe = mlp(float_weights=("fc2",), epochs=3)
    whole = train_quietly(recipe, "whole")
    with monkeypatch.context() as patch:
        call = Step.__call__
        before = {}

        def contents():
            files = (path for path in (tmp_path / "run").rglob("*") if path.is_file() and path.name != ".lock")
            return {path: path.read_bytes() for path in files}

        def broken(self, images, labels, rate):
            if self.steps == 4:
                before.update(contents())
                self.layers = dict(loops[0].model.named_modules())
                breaks(self, images)
            return call(self, images, labels, rate)

        loops = []
        init = FiniteCheck.__init__
        patch.setattr(Step, "__call__", broken)
        patch.setattr(FiniteCheck, "__init__", lambda self, *words: (loops.append(self), init(self, *words))[1])
        with pytest.raises(
            DivergedError,
            match=rf"^training must stay finite, but in step 5 \(epoch 3\) {where} is not; the last good state is "
            rf"kept: hypersign train --resume {tmp_path / 'run'} resumes from it; a lower learning rate helps",
        ):
            train_quietly(recipe, save_seconds=0)
    assert contents() == before
    assert_same(weights(resume(tmp_path / "run", **quiet).path), weights(whole.path))


def broken_loss(forward):
    def nan(images, labels):
        loss, measured = forward(images, labels)
        return loss * torch.nan, measured

    return nan


def test_divergence_before_anything_was_saved(mlp, train_quietly, at_step):
    at_step(1, lambda step, images: images.fill_(torch.inf))
    with pytest.raises(DivergedError, match=r"in step 1 \(epoch 1\) .* is not; no state was saved before it;"):
        train_quietly(mlp())


@pytest.mark.parametrize("step", [1, 2, 3, 5])
def test_divergence_seen_late_names_the_step(mlp, train_quietly, quiet, tmp_path, monkeypatch, at_step, step):
    """As on CUDA, where the loss is looked at only now and then: steps have gone on, but nothing was saved."""
    monkeypatch.setattr("hypersign.training.loop.look_every", lambda device: 3)

    def once(_, images):
        images.fill_(torch.nan)

    at_step(step, once)
    with pytest.raises(DivergedError, match=rf"in step {step} \(epoch {(step + 1) // 2}\) the gradient of \w"):
        train_quietly(mlp(batch_size=50, epochs=3))
    assert not state_path(tmp_path / "run").exists()


def test_state_of_an_interrupted_run_is_that_of_its_step(stopped, mlp):
    data, recipe = load_data("digits"), mlp()
    model = fresh(recipe, data)
    optimizer = torch.optim.Adam(model.parameters())
    signs = {name: torch.zeros_like(layer.weight, dtype=torch.bool) for name, layer in quant_layers(model).items()}
    counters = load_state(
        stopped, Belongs(recipe, data.sha256, 2), model, optimizer, signs, torch.zeros(2, dtype=torch.float64)
    )
    assert (counters.epoch, counters.batch, counters.step) == (2, 1, 3)
    assert isinstance(model, nn.Sequential)


def test_codes_of_pixels_have_the_datas_range(vgg, train_quietly):
    run = train_quietly(vgg(epochs=1, images=50, first_layer="thermometer", first_dimensions=4))
    assert run.info["model"]["options"]["pixel_range"] == [0.0, 1.0]
    first = run.load_model().get_submodule("first")
    assert (first.low, first.high) == (0.0, 1.0) == run.data().pixel_range


# Few images, other default types, other folders


@pytest.mark.parametrize("option", ["batch_size", "reestimate_images"])
@pytest.mark.parametrize("kind", ["mlp", "vgg"])
def test_one_image_is_too_few_for_a_batch_norm(kind, option, mlp, vgg, train_quietly, tmp_path):
    recipe = {"mlp": mlp, "vgg": vgg}[kind](**{option: 1})
    with pytest.raises(HypersignError, match=rf"{option} must be at least 2 per process: norm\d takes the variance"):
        train_quietly(recipe)
    assert list(tmp_path.iterdir()) == []


def test_two_images_are_enough(mlp, train_quietly):
    assert train_quietly(mlp(batch_size=2, images=10, epochs=1, reestimate_images=2)).finished


def test_one_image_is_enough_for_the_batch_norm_of_a_convolution(mlp, train_quietly):
    def network():
        return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(108, 10))

    recipe = Recipe(batch_size=1, images=6, epochs=1, reestimate_images=1)
    assert train_quietly(recipe, data=load_data("digits"), model=network).finished


def test_a_default_type_of_float64(vgg, train_quietly, quiet, weights, assert_same, at_step, tmp_path):
    recipe = vgg(surrogate="tanh", validation=20, first_layer="bit-planes")
    usual = train_quietly(recipe, "usual")
    torch.set_default_dtype(torch.float64)
    try:
        run = train_quietly(recipe, "double")
        at_step(3, lambda *_: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(InterruptedTrainingError):
            train_quietly(recipe, "stopped")
        again = resume(tmp_path / "stopped", **quiet)
        assert torch.get_default_dtype() == torch.float64
        data = run.data()
        found = evaluate(run.load_model(), data.batches(data.test, 50), task=run.task())
    finally:
        torch.set_default_dtype(torch.float32)
    for other in (run, again):
        assert_same(weights(usual.path), weights(other.path))
        assert other.info["results"]["test"] == usual.info["results"]["test"]
    assert found.accuracy == usual.info["results"]["test"]["accuracy"]


def test_a_relative_path_of_data_is_read_from_elsewhere(mlp, train_quietly, tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    images = np.random.default_rng(0).integers(256, size=(40, 1, 6, 6), dtype=np.uint8)
    np.savez(tmp_path / "there" / "mine.npz", images=images, labels=np.arange(40) % 2)
    monkeypatch.chdir(tmp_path / "there")
    run = train_quietly(mlp(data="mine.npz", images=30, batch_size=10, epochs=1), "run")
    assert run.info["recipe"]["data"] == "mine.npz"
    assert run.info["data"]["source"] == str(tmp_path / "there" / "mine.npz")
    monkeypatch.chdir("/")
    assert load(run.path).data().sha256 == run.info["data"]["sha256"]
    assert train_quietly(mlp(epochs=1), "named").info["data"]["source"] == "digits"


def test_initial_weights_follow_from_the_seed(tmp_path):
    data = load_data("digits")

    def weights_of(seed):
        recipe = Recipe(data="digits", model="mlp", hidden=(8,), seed=seed)
        run = new_run(recipe, tmp_path / "run", data, given=False)
        return build_network(run, recipe, torch.device("cpu"))[0].state_dict()["fc1.weight"]

    assert torch.equal(weights_of(3), weights_of(3))
    assert not torch.equal(weights_of(3), weights_of(4))
