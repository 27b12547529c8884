"""Networks for numbers and for tokens go the way of images: training, resuming, evaluation, inspection, ablation."""

import json
import math
import os
import signal

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from hypersign._checks import HypersignError
from hypersign.data import TensorData, TensorSplit
from hypersign.data import load as load_data
from hypersign.evaluate import evaluate
from hypersign.geometry import inspect
from hypersign.geometry.ablation import ablate
from hypersign.geometry.depth import measure_depth
from hypersign.layers import QuantLinear
from hypersign.quantizers import Sign
from hypersign.runs import load, read_tensors
from hypersign.study import ablate_run, write_report
from hypersign.summaries import summary
from hypersign.tasks import Classification, NextToken, Regression
from hypersign.training import RECIPES, InterruptedTrainingError, Recipe, resume, train
from hypersign.training.step import Step

QUIET = {"device": "cpu", "console": Console(quiet=True)}


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def sums_of_pairs():
    """Regression: the sum of an input's positive numbers, two outputs of it."""
    x = torch.randn(260, 6, generator=torch.Generator().manual_seed(1))
    y = torch.stack([x.clamp(min=0).sum(1), x.sum(1)], 1)
    return TensorData("sums", TensorSplit(x[:200], y[:200]), TensorSplit(x[200:], y[200:]), Regression(tolerance=0.5))


def counting():
    """Tokens: three plus the one before, modulo 5."""
    tokens = (3 * torch.arange(8)[None] + torch.randint(5, (240, 1), generator=torch.Generator().manual_seed(2))) % 5
    parts = (TensorSplit(part[:, :-1], part[:, 1:]) for part in (tokens[:200], tokens[200:]))
    return TensorData("counting", *parts, NextToken(), classes=tuple("abcde"))


def regressor():
    return nn.Sequential(
        nn.Linear(6, 32),
        nn.BatchNorm1d(32),
        QuantLinear(32, 32, bias=False, input_quantizer=Sign(), weight_quantizer=Sign()),
        nn.BatchNorm1d(32),
        nn.Linear(32, 2),
    )


def speaker():
    return nn.Sequential(
        nn.Embedding(5, 24),
        QuantLinear(24, 48, bias=False, weight_quantizer=Sign()),
        nn.LayerNorm(48),
        QuantLinear(48, 5, bias=False, input_quantizer=Sign(), weight_quantizer=Sign()),
        nn.LayerNorm(5),
    )


CASES = {"regression": (sums_of_pairs, regressor), "tokens": (counting, speaker)}


@pytest.fixture(params=list(CASES))
def case(request):
    data, model = CASES[request.param]
    return data(), model


def recipe(**fields):
    return Recipe(
        **{
            **RECIPES["anderson-berg-2018"].as_dict(),
            "epochs": 6,
            "batch_size": 20,
            "validation": 40,
            "learning_rate": 0.02,
            "final_learning_rate": 0.002,
            **fields,
        }
    )


def by_hand(task, model, split):
    """Loss and metrics one example at a time, in plain Python."""
    loss = right = 0.0
    count = 0
    for x, target in zip(split.inputs, split.targets, strict=True):
        with torch.no_grad():
            output = model.eval()(x[None])[0].tolist()
        for out, wanted in zip(output, target.tolist(), strict=True):
            count += 1
            if isinstance(task, NextToken):
                loss += math.log(sum(math.exp(value) for value in out)) - out[wanted]
                right += max(range(5), key=out.__getitem__) == wanted
            else:
                loss += (out - wanted) ** 2
                right += abs(out - wanted) <= 0.5
    return loss / count, right / count


def test_training_and_evaluation(case, tmp_path):
    data, model = case
    run = train(recipe(), tmp_path / "run", data=data, model=model, **QUIET)
    rows, first = run.metrics(), next(iter(data.task.metrics))
    assert rows[-1]["loss"] < 0.7 * rows[0]["loss"], "it learns"
    assert rows[-1][f"validation_{first}"] < rows[0][f"validation_{first}"]
    scale = 1 / math.log(2) if first == "bits_per_token" else 1
    for row in rows:
        assert row[first] == pytest.approx(row["loss"] * scale, rel=1e-5)
        assert row["examples_per_second"] > 0
    results, info = run.info["results"], run.info
    assert results["best_epoch"] == 1 + int(np.argmin([row["validation_loss"] for row in rows]))
    assert (info["data"]["source"], info["recipe"]["data"]) == (None, data.name)
    assert (info["data"]["train_examples"], info["data"]["test_examples"]) == (200, len(data.test))
    json.loads((run.path / "run.json").read_text(), parse_constant=pytest.fail)
    trained = run.load_model()
    loss, accuracy = by_hand(data.task, trained, data.test)
    test = results["test"]
    assert test["examples"] == len(data.test)
    assert (test["loss"], test["accuracy"]) == (pytest.approx(loss, rel=1e-4), pytest.approx(accuracy))
    assert "confusion" not in test
    for size in (7, 100):
        found = evaluate(trained, data.batches(data.test, size), task=run.task())
        assert (found.loss, found.accuracy) == (pytest.approx(loss, rel=1e-4), pytest.approx(accuracy))
        assert found.metrics[first] == pytest.approx(loss * scale, rel=1e-4)


def test_inspection_ablation_and_depth(case, tmp_path):
    data, model = case
    run = train(recipe(epochs=2), tmp_path / "run", data=data, model=model, **QUIET)
    trained, batches = run.load_model(), data.batches(data.test, 16)
    loss, accuracy = by_hand(data.task, trained, data.test)
    found = inspect(trained, batches, name="r", dataset=data.name, task=run.task())
    assert found.accuracy == pytest.approx(accuracy)
    assert all(0 < layer.weights_binarized.pearson_r <= 1 for layer in found.layers)
    removed = ablate(trained, batches, [data.batches(data.train, 100)], task=run.task())
    if data.task.name == "next token":  # it has no batch norm that is re-estimated
        assert (removed.loss, removed.accuracy) == (pytest.approx(loss, rel=1e-4), pytest.approx(accuracy))
    changed = next(row for row in removed.ablated if (row.side, row.scope) == ("weights", "one"))
    assert changed.loss - removed.loss == pytest.approx(changed.loss_change.mean, abs=1e-9)
    assert 0 < changed.logit_r < 1
    assert len(measure_depth(trained, batches, data.batches(data.train, 100)).layers) == len(found.layers)


def test_the_disturbance_is_the_loss_beyond_its_slope(tmp_path):
    """Of the squared error it is the mean square of the outputs' change, exactly."""
    data = sums_of_pairs()
    torch.manual_seed(0)
    model = regressor()
    batches, sets = data.batches(data.test, 16), [data.batches(data.train, 100)]
    found = ablate(model, batches, sets, task=data.task)
    row = found.ablated[0]
    before, after = (outputs_of(network, sets[0], data.test.inputs) for network in (model, real(model)))
    assert row.disturbance.mean == pytest.approx(((after - before) ** 2).mean(), rel=1e-4)
    right, right_after = (np.abs(outputs - data.test.targets.numpy()) <= 0.5 for outputs in (before, after))
    assert found.accuracy == pytest.approx(right.mean())
    assert row.accuracy_change.mean == pytest.approx(right_after.mean() - right.mean())
    assert row.logit_r == pytest.approx(np.mean([np.corrcoef(before[:, k], after[:, k])[0, 1] for k in (0, 1)]))


def real(model):
    from hypersign.geometry.depth import back_to_float

    return back_to_float(model, weights=["2"])


def outputs_of(model, batches, inputs):
    from hypersign.evaluate import reestimate_batch_norm

    reestimate_batch_norm(model, batches)
    with torch.no_grad():
        return model.eval()(inputs).double().numpy()


def test_stop_and_resume(case, tmp_path, monkeypatch):
    data, model = case
    whole = train(recipe(epochs=2), tmp_path / "whole", data=data, model=model, **QUIET)
    call, seen = Step.__call__, [0]

    def counted(self, *words):
        seen[0] += 1
        if seen[0] == 11:
            os.kill(os.getpid(), signal.SIGINT)
        return call(self, *words)

    monkeypatch.setattr(Step, "__call__", counted)
    with pytest.raises(InterruptedTrainingError):
        train(recipe(epochs=2), tmp_path / "run", data=data, model=model, **QUIET)
    with pytest.raises(HypersignError, match=r"was trained on \w+, a data set made in Python: give it again"):
        resume(tmp_path / "run", **QUIET)
    with pytest.raises(
        HypersignError, match=r"was trained on your own network, .*: give the function that builds it"
    ):
        resume(tmp_path / "run", data=data, **QUIET)
    with pytest.raises(HypersignError, match=r"was trained on data with hash \w{12}, but digits now gives"):
        resume(tmp_path / "run", data=load_data("digits"), model=model, **QUIET)
    again = resume(tmp_path / "run", data=data, model=model, **QUIET)
    ours, theirs = (read_tensors(run.path / "model.safetensors")[0] for run in (again, whole))
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    opened = load(tmp_path / "run", data=data, model=model)
    assert opened.task() == data.task
    assert torch.equal(opened.load_model()[0].weight, theirs["0.weight"])


def test_the_seed_decides_the_initial_weights(tmp_path):
    data = sums_of_pairs()
    torch.manual_seed(5)
    runs = [
        train(recipe(epochs=1, seed=seed), tmp_path / name, data=data, model=regressor, **QUIET)
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    a, b, c = (read_tensors(run.path / "model.safetensors")[0]["0.weight"] for run in runs)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_named_networks_learn_from_tensors(tmp_path):
    """Vectors with classes, and the recipe's own network for images of one row."""
    x = torch.randn(150, 1, 1, 12, generator=torch.Generator().manual_seed(0))
    labels = (x[:, 0, 0, 0] > 0).long()
    data = TensorData(
        "halves", TensorSplit(x[:100], labels[:100]), TensorSplit(x[100:], labels[100:]), Classification(),
        classes=("below", "above"),
    )  # fmt: skip
    chosen = Recipe(model="mlp", hidden=(64,), epochs=8, batch_size=10, learning_rate=0.01)
    run = train(chosen, tmp_path / "run", data=data, **QUIET)
    assert run.info["model"]["shape"] == [1, 1, 12]
    assert np.sum(run.info["results"]["test"]["confusion"]) == 50
    assert run.metrics()[-1]["accuracy"] > 0.6
    assert run.task().loss is Classification().loss  # the data's own, not the recipe's


@pytest.mark.parametrize(
    ("fields", "model", "message"),
    [
        ({"flip": True}, regressor, "flips and crops are for images; sums holds none"),
        ({"first_layer": "bit-planes"}, None, "first_layer bit-planes codes pixels; sums has none"),
        ({"hidden": (3,)}, regressor, "options of the network belong to networks built by name; got hidden beside"),
        (
            {"label_smoothing": 0.1, "loss": "cross-entropy"},
            regressor,
            "label_smoothing spreads labels over classes; the task is regression",
        ),
        ({"batch_size": 1}, regressor, "batch_size must be at least 2 per process: 1 takes the variance"),
        ({"reestimate_images": 1}, regressor, "reestimate_images must be at least 2 per process: 1 takes"),
        ({"batch_size": 161}, regressor, "batch_size must be at most the number of examples, 160"),
        ({"validation": 200}, regressor, "the number of examples held out must be an integer from 0 to 199"),
        ({}, lambda: nn.Linear(6, 3), r"targets must have the shape of the network's outputs, \(1, 3\)"),
    ],
    ids=str,
)
def test_what_does_not_fit_together(tmp_path, fields, model, message):
    with pytest.raises(HypersignError, match=message):
        train(recipe(**fields), tmp_path / "run", data=sums_of_pairs(), model=model, **QUIET)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"model": regressor()},
            "model must be a function that builds .*; got Sequential: give the class",
        ),
        ({"model": "mlp"}, "model must be a function that builds .*; got str"),
        ({"data": (torch.zeros(3), torch.zeros(3))}, "data must be a data set, as TensorData .*; got tuple"),
    ],
)
def test_what_is_given_has_its_kind(tmp_path, given, message):
    run = train(recipe(epochs=1), tmp_path / "run", data=sums_of_pairs(), model=regressor, **QUIET)
    for call in (lambda: train(recipe(), tmp_path / "new", **given), lambda: load(run.path, **given)):
        with pytest.raises(HypersignError, match=message):
            call()
    with pytest.raises(HypersignError, match=r"must return an nn\.Module; got int"):
        train(recipe(), tmp_path / "new", data=sums_of_pairs(), model=lambda: 3, **QUIET)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


# Data


def test_a_split_of_tensors():
    split = TensorSplit(torch.zeros(4, 2, dtype=torch.float64), torch.arange(4))
    assert (split.inputs.dtype, split.targets.dtype) == (torch.float32, torch.int64)
    assert split[1:3].targets.tolist() == [1, 2]
    with pytest.raises(HypersignError, match="one target per input; got 2 inputs and 3 targets"):
        TensorSplit(torch.zeros(2), torch.zeros(3))
    with pytest.raises(HypersignError, match=r"inputs must be a tensor of shape .*; got list"):
        TensorSplit([0.0], torch.zeros(1))
    with pytest.raises(HypersignError, match="targets must be a tensor"):
        TensorSplit(torch.zeros(1), torch.tensor(1.0))


@pytest.mark.parametrize(
    ("train_part", "test_part", "classes", "message"),
    [
        (((0, 3), (0,)), ((2, 3), (2,)), (), "the training split must be a TensorSplit with at least one example"),
        (
            ((4, 3), (4,)),
            ((2, 4), (2,)),
            (),
            r"test inputs must be .* torch.float32 \(3,\); got .*\(4,\)",
        ),
        (
            ((4, 3), (4,)),
            ((2, 3), (2, 1)),
            (),
            r"test targets must be .* torch.float32 \(\); got .*\(1,\)",
        ),
        (((4, 3), (4,)), ((2, 3), (2,)), ("a",), "targets of the training split must be integers from 0 to 0; got"),
    ],
)
def test_data_that_do_not_fit(train_part, test_part, classes, message):
    parts = (TensorSplit(*(torch.ones(shape) for shape in part)) for part in (train_part, test_part))
    with pytest.raises(HypersignError, match=message):
        TensorData("mine", *parts, Regression(tolerance=1), classes=classes)


def test_the_hash_is_of_inputs_and_targets():
    data, other = sums_of_pairs(), sums_of_pairs()
    assert data.sha256 == other.sha256
    targets = data.test.targets.clone()
    targets[-1, -1] += 1
    changed = TensorData("sums", data.train, TensorSplit(data.test.inputs, targets), data.task)
    assert changed.sha256 != data.sha256


def test_batches_of_tensors():
    x = torch.arange(11)
    data = TensorData("row", TensorSplit(x, 2 * x), TensorSplit(x, 2 * x), Regression(tolerance=1))
    shuffled = data.batches(data.train, 4, seed=3)
    first, again, other = (torch.cat([x for x, _ in shuffled.epoch(n)]).tolist() for n in (1, 1, 2))
    assert first == again != other
    assert sorted(first) == list(range(11))
    assert all(torch.equal(2 * a, b) for a, b in shuffled.epoch(1))
    assert [a.tolist() for a, _ in shuffled.epoch(1, start=2)] == [first[8:]]
    halves = [data.batches(data.train, 4, seed=3, rank=r, processes=2) for r in (0, 1)]
    for whole, *parts in zip(shuffled, *halves, strict=True):
        assert torch.equal(whole[0], torch.cat([inputs for inputs, _ in parts]))
    assert (shuffled.decisions, halves[0].decisions) == (4, 2)


def test_what_the_commands_do_for_images_they_do_for_any_run(case, tmp_path):
    data, model = case
    run = train(recipe(epochs=1), tmp_path / "run", data=data, model=model, **QUIET)
    opened = load(run.path, data=data, model=model)
    geometry = inspect(opened, images=30)
    assert geometry.accuracy == inspect(run.load_model(), data.batches(data.test[:30], 10), task=data.task).accuracy
    assert len(geometry.layers[0].weights_binarized.predicted_pearson_r_per_filter) == geometry.layers[0].filters
    ablation, _ = ablate_run(opened, images=30, reestimate_images=40, rounds=1)
    assert ablation.images == 30


def test_the_summary_of_a_run_knows_what_its_network_takes(case, tmp_path):
    data, model = case
    run = train(recipe(epochs=1), tmp_path / "run", data=data, model=model, **QUIET)
    assert run.info["data"]["integer_inputs"] == (data.task.name == "next token")
    assert summary(run).total.parameters == sum(p.numel() for p in model().parameters())
    found = inspect(run, images=20)
    page = write_report(run, found)
    assert page.stat().st_size > 100_000
