"""Every method of the field through the command line: it trains, resumes, inspects, and packs or says why not."""

import json
import math
import os
import signal

import pytest
import torch
from torch import nn

from hypersign import training
from hypersign._checks import HypersignError
from hypersign.cli import train as command
from hypersign.forecasting import forecast
from hypersign.geometry import inspect
from hypersign.layers import QuantLinear, quant_layers, train_on_bits
from hypersign.packed import PackedModel
from hypersign.packing import pack, verify
from hypersign.quantizers import Sign, quantizer_of
from hypersign.runs import load
from hypersign.training import METHODS, DivergedError, InterruptedTrainingError, Recipe, resume
from hypersign.training.step import Step

SMALL = (
    *("--data", "digits", "--images", "100", "--epochs", "2", "--batch-size", "25", "--reestimate-images", "100"),
    *("--widths", "4", "8", "--pools", "1", "2", "--hidden", "16", "--warmup", "0"),
    *("--no-flip", "--crop-padding", "0", "--device", "cpu"),
)

REFUSED = {
    "hadanets": "GroupScaled has a scale per group of weights, and packed layers have one per filter",
    "bitnet": "its 8-bit inputs have one scale per token",
}
"""Methods whose networks do not pack, and why."""


def train(folder, *words):
    command.run([*SMALL, *words, "--output", str(folder)])
    return load(folder)


@pytest.mark.parametrize("method", METHODS)
def test_each_method_trains_resumes_inspects_forecasts_and_packs(
    method, tmp_path, monkeypatch, capsys, quiet, weights, assert_same
):
    whole = train(tmp_path / "whole", "--method", method)
    assert whole.info["recipe"]["method"] == method
    call, seen = Step.__call__, []

    def stopping(self, *batch):
        seen.append(batch)
        if len(seen) == 6:
            os.kill(os.getpid(), signal.SIGINT)
        return call(self, *batch)

    monkeypatch.setattr(Step, "__call__", stopping)
    with pytest.raises(InterruptedTrainingError):
        train(tmp_path / "stopped", "--method", method)
    run = resume(tmp_path / "stopped", **quiet)
    assert_same(weights(run.path), weights(whole.path))
    model, data = run.load_model(), run.data()
    for layer in quant_layers(model).values():
        if layer.quantizes_weights and layer.weight_quantizer.levels:
            assert set(layer.quantized_weight().unique().tolist()) <= set(layer.weight_quantizer.levels)
    found = inspect(model, data.batches(data.test[:50], 50), task=run.task())
    assert [layer.name for layer in found.layers] == list(quant_layers(model))
    forecasted = forecast(model, data.batches(data.train[:40], 40), formats=["binary"], mixtures=2, repaired=False)
    assert [layer.name for layer in forecasted.layers] == list(quant_layers(model))
    assert all(math.isfinite(effect.r.value) for layer in forecasted.layers for effect in layer.raw.values())
    file = tmp_path / "net.hypersign"
    if method in REFUSED:
        with pytest.raises(HypersignError, match=REFUSED[method]):
            pack(run, file)
        assert not file.exists()
        return
    pack(run, file)
    assert verify(model, PackedModel.load(file), data.test.images[:100].numpy()).wrong == 0


@pytest.mark.parametrize("method", METHODS)
def test_each_method_tells_of_divergence_with_the_layer(method, tmp_path, quiet, monkeypatch):
    """NaN in the images, or in a latent weight, which some methods' levels hide, ends training in that step."""
    options = {"data": "digits", "images": 100, "epochs": 2, "batch_size": 25, "warmup": 0, "reestimate_images": 0}
    network = {"widths": (4, 8), "pools": (1, 2), "hidden": (16,), "flip": False, "crop_padding": 0}
    recipe = Recipe.of(method, **options, **network)
    call = Step.__call__
    poisons = (
        (lambda step, images: images.fill_(torch.nan), "the output of conv1"),
        (
            lambda step, images: step.latents[1].weight.data[0].fill_(torch.nan),
            r"the (output|gradient|latent weight) (of )?conv2",
        ),
    )
    for number, (poison, where) in enumerate(poisons):

        def poisoned(self, images, labels, rate, poison=poison):
            if self.steps == 2:
                poison(self, images)
            return call(self, images, labels, rate)

        monkeypatch.setattr(Step, "__call__", poisoned)
        with pytest.raises(DivergedError, match=rf"must stay finite, but in step 3 \(epoch 1\) {where}"):
            training.train(recipe, tmp_path / str(number), **quiet)


FLOAT32 = {
    **dict.fromkeys(("ls-2", "greedy", "hadanets"), "its weights are not binary or ternary"),
    **dict.fromkeys(("paretoq", "lab"), "its inputs are not binary or ternary"),
    **dict.fromkeys(("proxquant", "parq", "binary-relax", "askew-sgd"), "its inputs are not binary or ternary"),
    "biper": "its weights are real until training ends or hardens",
}
"""Methods that cannot train on bits, and why."""


@pytest.mark.parametrize("method", METHODS)
def test_training_on_bits(method, vgg, train_quietly):
    recipe = Recipe.of(method, vgg(), precision="bits", epochs=1, batch_size=25, crop_padding=0, flip=False, warmup=0)
    if method in FLOAT32:
        with pytest.raises(HypersignError, match=rf"a network to train on bits must .*conv2: {FLOAT32[method]}"):
            train_quietly(recipe)
    else:
        assert train_quietly(recipe).finished


def test_levels_that_a_method_has():
    assert Recipe.of("parq").levels == 2
    assert Recipe.of("parq", levels=3).weights == "parq:count=3"
    assert Recipe.of("ls-t").levels == 3
    for method, levels in (("bop", 3), ("ls-t", 2), ("bitnet", 2)):
        with pytest.raises(
            HypersignError,
            match=rf"^levels must be {5 - levels} with the method {method}, whose weights have no .*; got {levels}$",
        ):
            Recipe.of(method, levels=levels)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": "abc"}, "method must be one of bnn, .*; got 'abc'"),
        (
            {"method": "adabin", "model": "associative-memory", "hidden": (256,)},
            "associative-memory has no option activation, weights, which the method adabin sets; its options are",
        ),
        (
            {"method": "bop", "latent_rule": "bop:tau=1"},
            "options of the latent rule bop must be option=value with gamma",
        ),
        ({"method": "greedy", "weights": "greedy:planes=9"}, "planes must be an integer from 1 to 8; got 9"),
        ({"activation": "swish"}, "activation must be one of none, hardtanh, rprelu, maxout; got 'swish'"),
    ],
)
def test_what_a_method_does_not_have(fields, message):
    with pytest.raises(HypersignError, match=message):
        Recipe(**fields)


def test_a_layer_that_a_rule_cannot_train(mlp, train_quietly, tmp_path):
    recipe = Recipe.of("bop", mlp(), weights="ternary")
    message = r"the latent rule bop cannot train fc1: it flips signs, and the weights' levels are \(-1.0, 0.0, 1.0\)"
    with pytest.raises(HypersignError, match=message):
        train_quietly(recipe)
    assert not (tmp_path / "run").exists()


def test_every_part_of_a_method_stays_an_option():
    recipe = Recipe.of("adabin", inputs="sign", activation="none", epochs=3)
    assert (recipe.weights, recipe.inputs, recipe.activation, recipe.epochs) == ("adabin", "sign", "none", 3)
    assert Recipe(**recipe.as_dict()) == recipe
    for method in METHODS:
        recipe = Recipe.of(method)
        assert Recipe(**recipe.as_dict()) == recipe
        assert all(getattr(recipe, part) is not None for part in METHODS[method].parts)
        assert METHODS[method].source


def test_the_rate_warms_up_and_falls_linearly():
    recipe = Recipe(
        schedule="linear", schedule_per="step", warmup=2, epochs=4, learning_rate=1.0, final_learning_rate=0
    )
    rates = [recipe.rate(epoch=epoch, progress=0.5) for epoch in (1, 2, 3, 4)]
    assert rates == [0.25 * 0.875, 0.75 * 0.625, 0.375, 0.125]
    per_epoch = Recipe(schedule="linear", schedule_per="epoch", epochs=4, learning_rate=1.0)
    assert [per_epoch.rate(epoch=epoch, progress=1.0) for epoch in (1, 2, 3, 4)] == [1.0, 0.75, 0.5, 0.25]


def test_on_bits_weights_stay_real_as_long_as_a_method_wants():
    """Their levels say one bit, and their products would be those of the signs."""
    for text in ("parq", "binary-relax", "real-until", "biper"):
        relaxed = QuantLinear(4, 3, input_quantizer=Sign(), weight_quantizer=quantizer_of(text))
        kept = train_on_bits(
            nn.Sequential(relaxed, QuantLinear(3, 2, input_quantizer=Sign(), weight_quantizer=Sign()))
        )
        assert kept["0"].startswith("its weights are real until training ends or hardens")


# A teacher, and weights to start from


def test_a_teacher_takes_the_place_of_the_labels(mlp, train_quietly, weights):
    teacher = train_quietly(mlp(), "teacher")
    run = train_quietly(mlp(teacher=str(teacher.path), seed=1, epochs=1))
    plain = train_quietly(mlp(seed=1, epochs=1), "plain")
    assert run.info["recipe"]["teacher"] == str(teacher.path.resolve())
    assert not torch.equal(weights(run.path)["fc1.weight"], weights(plain.path)["fc1.weight"])


def test_the_loss_of_a_teacher():
    from hypersign.training.step import _soft_loss

    teacher, x = torch.nn.Linear(4, 3), torch.randn(5, 4)
    outputs = torch.randn(5, 3)
    p = torch.exp(teacher(x)) / torch.exp(teacher(x)).sum(1, keepdim=True)
    q = torch.exp(outputs) / torch.exp(outputs).sum(1, keepdim=True)
    torch.testing.assert_close(_soft_loss(outputs, teacher, x), -(p * torch.log(q)).sum(1).mean())


@pytest.mark.parametrize("share", [0.1, 1.0])
@pytest.mark.parametrize("shape", [(5,), (2, 3)], ids=["classes", "tokens"])
def test_the_loss_of_smoothed_labels(shape, share):
    from hypersign.training.step import _smoothed_loss

    logits, labels = torch.randn(*shape, 4, dtype=torch.float64), torch.randint(4, shape)
    losses = []
    for z, label in zip(logits.reshape(-1, 4).tolist(), labels.flatten().tolist(), strict=True):
        total = sum(math.exp(value) for value in z)
        soft = [share / 4 + (1 - share) * (c == label) for c in range(4)]
        losses.append(-sum(t * math.log(math.exp(value) / total) for t, value in zip(soft, z, strict=True)))
    assert _smoothed_loss(logits, labels, share).item() == pytest.approx(sum(losses) / len(losses), rel=1e-12)


def test_smoothed_labels_change_training_and_not_the_loss_of_the_test_images(mlp, train_quietly):
    run = train_quietly(mlp(loss="cross-entropy", label_smoothing=0.1))
    plain = train_quietly(mlp(loss="cross-entropy"), "plain")
    smooth, hard = (json.loads((r.path / "metrics.jsonl").read_text().splitlines()[-1])["loss"] for r in (run, plain))
    assert smooth != hard
    model, images = run.load_model(), run.data().test
    inputs = run.data().batches(images, len(images.labels))
    logits = torch.cat([model(x) for x, _ in inputs])
    expected = torch.nn.functional.cross_entropy(logits, images.labels).item()
    assert run.info["results"]["test"]["loss"] == pytest.approx(expected, rel=1e-5)


def test_a_teacher_of_other_classes(mlp, train_quietly, tmp_path):
    teacher = train_quietly(mlp(epochs=1), "teacher")
    teacher.update(model={**teacher.info["model"], "classes": 7})
    with pytest.raises(
        HypersignError, match=r"the teacher must have the network's classes, 10; .* has 7: train it on"
    ):
        train_quietly(mlp(teacher=str(teacher.path)))
    with pytest.raises(HypersignError, match="a run folder was expected at"):
        train_quietly(mlp(teacher=str(tmp_path / "none")))


def test_training_starts_from_a_run_or_a_file(mlp, train_quietly, weights, assert_same):
    first = train_quietly(mlp(), "first")
    recipe = mlp(learning_rate=1e-30, final_learning_rate=1e-30, epochs=1)
    for number, start in enumerate((first.path, first.path / "model.safetensors")):
        run = train_quietly(Recipe(**{**recipe.as_dict(), "start": str(start)}), f"second{number}")
        for name, tensor in weights(run.path).items():
            if name.endswith("weight"):
                torch.testing.assert_close(tensor, weights(first.path)[name])
    # what a method learns starts from the loaded weights
    run = train_quietly(
        Recipe.of("recu", recipe, start=str(first.path), learning_rate=1e-30, warmup=0, batch_size=50), "third"
    )
    found = weights(run.path)
    torch.testing.assert_close(
        found["fc1.weight_quantizer.scale.alpha"], weights(first.path)["fc1.weight"].abs().mean(1)
    )


@pytest.mark.parametrize(
    ("first", "second"), [("lab", "recu"), ("recu", "paretoq"), ("reactnet", "bit"), ("recu", "recu")]
)
def test_what_a_method_learns_is_for_that_method(first, second, mlp, train_quietly, weights):
    few = {"epochs": 1, "warmup": 0, "batch_size": 50}
    start = train_quietly(Recipe.of(first, mlp(), **few), "start")
    still = {**few, "learning_rate": 1e-30, "final_learning_rate": 0.0, "schedule": "cosine"}
    run = train_quietly(Recipe.of(second, mlp(), start=str(start.path), **still), "run")
    found, before = weights(run.path), weights(start.path)
    torch.testing.assert_close(found["fc1.weight"], before["fc1.weight"])
    if first == second:
        name = "fc1.weight_quantizer.scale.alpha"
        torch.testing.assert_close(found[name], before[name])
        assert not torch.allclose(found[name], before["fc1.weight"].abs().mean(1), rtol=1e-4)
    fresh = run.build_model()
    fresh.load_state_dict({**fresh.state_dict(), "fc1.weight": found["fc1.weight"]})
    fresh.fc1.fit_quantizers()
    for name, tensor in fresh.fc1.state_dict().items():
        if first != second and "quantizer" in name:
            torch.testing.assert_close(found[f"fc1.{name}"], tensor)


def test_scores_follow_the_seed_and_leave_the_callers_generator_alone(mlp, train_quietly, weights):
    start = train_quietly(mlp(epochs=1), "start")
    found = []
    for number, seed in enumerate((0, 0, 1)):
        torch.manual_seed(number)
        before = torch.random.get_rng_state()
        few = {"seed": seed, "epochs": 1, "batch_size": 50, "learning_rate": 1e-30}
        recipe = Recipe.of("mpt", mlp(), start=str(start.path), **few)
        run = train_quietly(recipe, f"run{number}")
        assert torch.equal(torch.random.get_rng_state(), before)
        found.append(weights(run.path)["fc1.weight_quantizer.scores"])
    torch.testing.assert_close(found[0], found[1])
    assert not torch.allclose(found[0], found[2])


def test_weights_to_start_from_that_do_not_fit(mlp, train_quietly, tmp_path):
    first = train_quietly(mlp(epochs=1), "first")
    with pytest.raises(HypersignError, match=r"to start from, does not fit the network: fc1.weight has shape"):
        train_quietly(mlp(start=str(first.path), hidden=(8,)))
    with pytest.raises(HypersignError, match="must be a whole safetensors file"):
        train_quietly(mlp(start=str(tmp_path / "none.safetensors")))
    assert not (tmp_path / "run").exists()
