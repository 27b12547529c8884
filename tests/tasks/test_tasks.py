"""Each task's loss, decisions and metrics against loops, and what it refuses."""

import math

import numpy as np
import pytest
import torch

from hypersign._checks import HypersignError
from hypersign.tasks import LOSSES, Classification, NextToken, Regression, Task, inputs_and_targets, squared_hinge


def numbers(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def nats(row, target):
    return math.log(sum(math.exp(value) for value in row)) - row[target]


def test_classification_by_loops():
    logits, labels = numbers(9, 4), torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 0])
    task = Classification()
    rows = logits.tolist()
    best = [max(range(4), key=row.__getitem__) for row in rows]
    assert task.decide(logits).tolist() == best
    right = [a == b for a, b in zip(best, labels.tolist(), strict=True)]
    assert 0 < sum(right) < 9
    assert task.correct(logits, labels).tolist() == right
    assert task.measure(logits, labels) == {"accuracy": sum(right)}
    counts = np.zeros((4, 4), int)
    for label, guess in zip(labels.tolist(), best, strict=True):
        counts[label, guess] += 1
    assert task.confusion(logits, labels).tolist() == counts.tolist()
    expected = np.mean([nats(row, label) for row, label in zip(rows, labels.tolist(), strict=True)])
    assert task.loss(logits, labels).item() == pytest.approx(expected)
    assert Classification(squared_hinge).loss(logits, labels) == squared_hinge(logits, labels)
    assert task.score(1.0, {"accuracy": 0.25}) == 0.25


def test_the_losses_of_a_recipe():
    logits, labels = torch.tensor([[2.0, 0.0]]), torch.tensor([0])
    assert LOSSES["squared-hinge"](logits, labels) == 0.5
    assert LOSSES["cross-entropy"](logits, labels).item() == pytest.approx(math.log(1 + math.exp(-2)))


def test_next_token_by_loops():
    logits, tokens = numbers(3, 5, 6), torch.arange(15).view(3, 5) % 6
    task = NextToken()
    total, right = 0.0, 0
    for n in range(3):
        for t in range(5):
            row = logits[n, t].tolist()
            total += nats(row, int(tokens[n, t]))
            right += max(range(6), key=row.__getitem__) == int(tokens[n, t])
    assert 0 < right < 15
    assert task.loss(logits, tokens).item() == pytest.approx(total / 15)
    measured = task.measure(logits, tokens)
    assert list(measured) == list(task.metrics)
    assert measured["bits_per_token"].item() == pytest.approx(total / math.log(2))
    assert measured["accuracy"] == right
    assert task.decide(logits).shape == tokens.shape
    assert task.score(1.5, {}) == -1.5


def test_bits_of_a_uniform_guess():
    logits, tokens = torch.zeros(2, 7, 8), torch.zeros(2, 7, dtype=torch.long)
    assert NextToken().measure(logits, tokens)["bits_per_token"].item() / 14 == pytest.approx(3)


def test_regression_by_loops():
    outputs, targets = numbers(6, 2), numbers(6, 2) + torch.tensor([0.5, -0.1])
    task = Regression(tolerance=0.2)
    squares = [(a - b) ** 2 for a, b in zip(outputs.flatten().tolist(), targets.flatten().tolist(), strict=True)]
    assert task.loss(outputs, targets).item() == pytest.approx(np.mean(squares))
    measured = task.measure(outputs, targets)
    assert list(measured) == list(task.metrics)
    assert measured["mean_squared_error"].item() == pytest.approx(sum(squares))
    assert measured["accuracy"] == 6
    assert task.correct(outputs, targets).tolist() == [[False, True]] * 6
    assert task.confusion(outputs, targets) is None


def test_a_tolerance_has_two_ends():
    task = Regression(tolerance=0.5)
    difference = torch.tensor([-0.75, -0.5, 0.0, 0.5, 0.75])
    assert task.equal(difference, torch.zeros(5)).tolist() == [False, True, True, True, False]
    assert Regression(tolerance=0).equal(torch.ones(1), torch.ones(1)).all()
    for bad in (-0.1, math.nan, "1"):
        with pytest.raises(HypersignError, match="tolerance must be a number >= 0"):
            Regression(tolerance=bad)


LABELS = torch.tensor([0, 2])


@pytest.mark.parametrize(
    ("task", "outputs", "targets", "message"),
    [
        (Classification(), (2, 3, 1, 1), LABELS, r"logits of shape \(N, classes\); it gives \(2, 3, 1, 1\): end it"),
        (Classification(), (2, 3), torch.eye(3)[:2], r"class numbers of shape \(2,\); .* of one-hot labels take arg"),
        (Classification(), (2, 3), LABELS[:, None], r"class numbers of shape \(2,\); got shape \(2, 1\)"),
        (Classification(), (2, 3), torch.tensor([0, 3]), "labels must be integers from 0 to 2; got 3: leave out"),
        (Classification(), (2, 3), torch.tensor([0, -100]), "labels must be integers from 0 to 2; got -100"),
        (Classification(), (2, 3), LABELS.float(), "labels must be integers from 0 to 2; got torch.float32"),
        (NextToken(), (2, 3), LABELS, r"logits of shape \(N, positions, vocabulary\); it gives \(2, 3\)"),
        (NextToken(), (2, 3, 4), LABELS, r"token numbers of shape \(2, 3\), one per position; got shape \(2,\)"),
        (NextToken(), (1, 2, 2), LABELS[None], "tokens must be integers from 0 to 1; got 2"),
        (Regression(1), (2, 1), torch.zeros(2), r"shape of the network's outputs, \(2, 1\); got shape \(2,\)"),
        (Regression(1), (2,), LABELS, "finite floating-point numbers; got torch.int64: convert"),
        (Regression(1), (2,), torch.tensor([0.0, torch.nan]), "finite floating-point numbers; .* NaN or infinity"),
    ],
)
def test_what_does_not_fit(task, outputs, targets, message):
    with pytest.raises(HypersignError, match=message):
        task.check(torch.zeros(outputs), targets)


def test_what_fits():
    Classification().check(torch.zeros(2, 3), LABELS)
    Classification().check(torch.zeros(2, 3), LABELS.int())
    Classification().check(torch.zeros(0, 3), LABELS[:0])
    NextToken().check(torch.zeros(1, 2, 3), LABELS[None])
    Regression(1).check(torch.zeros(2), torch.zeros(2))


@pytest.mark.parametrize(
    ("batch", "came"),
    [
        (torch.zeros(2, 3), "got Tensor"),
        ({"x": torch.zeros(2)}, "got dict"),
        ((torch.zeros(2), [0, 1]), "got tuple of Tensor, list"),
        ((), "got tuple of nothing"),
        ((torch.zeros(2),) * 3, "got tuple of Tensor, Tensor, Tensor"),
    ],
)
def test_a_batch_is_a_pair(batch, came):
    with pytest.raises(HypersignError, match=f"a batch must be a pair of tensors, inputs and targets; {came}"):
        inputs_and_targets(batch)


@pytest.mark.parametrize("targets", [torch.zeros(3), torch.tensor(1.0)])
def test_a_batch_has_as_many_targets_as_inputs(targets):
    with pytest.raises(HypersignError, match="as many targets as inputs"):
        inputs_and_targets((torch.zeros(2, 5), targets))


def test_a_task_must_say_what_it_is():
    for call in ("check", "measure"):  # accuracy needs decisions
        with pytest.raises(NotImplementedError):
            getattr(Task(), call)(torch.zeros(1), torch.zeros(1))
