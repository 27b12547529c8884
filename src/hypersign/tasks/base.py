"""The base of every task: a loss, a decision per target, and metrics with names."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from hypersign._checks import HypersignError

__all__ = ["Loss", "Task", "check_numbers", "inputs_and_targets"]

Loss = Callable[[Tensor, Tensor], Tensor]
"""Maps outputs and targets of a batch to their mean loss."""


class Task:
    """What a network is trained for. Training, evaluation, inspection and ablation know a network's task alone.

    A batch is a pair: inputs, shape `(N, ...)`, which the network is called with, and targets. A task makes one
    decision per target: a class per image, a token per position, a number per output.

    A task of your own subclasses this one. It needs `name`, `check`, `loss` and `decide`; `docs/extending.md` shows
    one. `loss` may be a method or a field that holds a function. A task with more metrics than `accuracy` overrides
    `metrics` and `measure`.
    """

    name: ClassVar[str] = ""
    metrics: ClassVar[Mapping[str, str]] = {"accuracy": "6.2%"}
    """Name of each metric, and the format it is printed in; each is a mean over decisions. The first one is shown
    while a network trains. `accuracy`, the share of right decisions, is always one of them."""
    loss: Any
    """Called with outputs and targets, gives their mean loss over decisions."""

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        """Raises HypersignError where outputs or targets do not have the task's type, shape or range."""
        raise NotImplementedError

    def decide(self, outputs: Tensor) -> Tensor:
        """The decisions that outputs stand for, in the shape of the targets."""
        raise NotImplementedError

    def equal(self, decisions: Tensor, others: Tensor) -> Tensor:
        """Which decisions count as the same, element by element."""
        return decisions == others

    def correct(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Which decisions are right, in the shape of the targets."""
        return self.equal(self.decide(outputs), targets)

    def measure(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """The sum of each metric over the decisions of a batch, by name, in the order of `metrics`."""
        return {"accuracy": self.correct(outputs, targets).sum()}

    def confusion(self, outputs: Tensor, targets: Tensor) -> Tensor | None:
        """Counts by target and decision, shape `(classes, classes)`, where the task keeps them."""
        return None

    def score(self, loss: float, metrics: Mapping[str, float]) -> float:
        """By which the best weights are chosen: the larger, the better."""
        return -loss


def inputs_and_targets(batch: Any) -> tuple[Tensor, Tensor]:
    """Takes a batch apart; integer targets become int64, as torch's losses want them.

    Raises:
        HypersignError: it is no pair of tensors of one length.

    >>> inputs, targets = inputs_and_targets((torch.zeros(3, 8), torch.tensor([0, 1, 2])))
    >>> inputs.shape, targets.shape
    (torch.Size([3, 8]), torch.Size([3]))
    """
    pair = isinstance(batch, tuple | list) and len(batch) == 2 and all(isinstance(part, Tensor) for part in batch)
    if not pair:
        raise HypersignError(
            f"a batch must be a pair of tensors, inputs and targets; got {_words(batch)}: "
            "give pairs, as `data.batches(split, size)` does"
        )
    inputs, targets = batch
    if not inputs.dim() or not targets.dim() or len(inputs) != len(targets):
        raise HypersignError(
            f"a batch must hold as many targets as inputs; got inputs of shape {tuple(inputs.shape)} and targets "
            f"of shape {tuple(targets.shape)}"
        )
    return inputs, targets.long() if is_whole(targets) else targets


def is_whole(values: Tensor) -> bool:
    """Whether a tensor is of an integer type."""
    return not (values.is_floating_point() or values.is_complex() or values.dtype == torch.bool)


def check_numbers(what: str, values: Tensor, count: int) -> None:
    """Raises HypersignError where values are no integers from 0 to `count - 1`; `what` names them."""
    whole = is_whole(values)
    if whole and (not values.numel() or 0 <= int(values.min()) <= int(values.max()) < count):
        return
    came = str(values.dtype)
    if whole:
        came = str(int(values.min() if values.min() < 0 else values.max()))
    raise HypersignError(
        f"{what} must be integers from 0 to {count - 1}; got {came}: leave out such examples or renumber them"
    )


def _words(batch: Any) -> str:
    if isinstance(batch, tuple | list):
        return f"{type(batch).__name__} of {', '.join(type(part).__name__ for part in batch) or 'nothing'}"
    return type(batch).__name__
