"""Evaluates a network: loss, metrics and confusion. Also re-estimates its batch-norm statistics."""

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hypersign._checks import HypersignError
from hypersign._display import shown
from hypersign.layers.stateful import carrying
from hypersign.tasks import Classification, Task, inputs_and_targets

__all__ = ["Evaluation", "evaluate", "reestimate_batch_norm"]


@shown
@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Result of a network on `examples` examples: the mean loss, and each metric of its task by name.

    `decisions` counts the targets: as many as examples for images, and the characters of a text.

    `confusion[i][j]` counts the examples of class i that the network assigns to class j; None without classes.
    """

    examples: int
    loss: float
    metrics: dict[str, float]
    confusion: tuple[tuple[int, ...], ...] | None
    decisions: int | None = None

    @property
    def accuracy(self) -> float:
        """The share of correct decisions."""
        return self.metrics["accuracy"]

    def as_dict(self, unit: str = "examples") -> dict[str, Any]:
        """The result for JSON: the number of examples under `unit`, then metrics and loss; None if not finite."""
        numbers = {**self.metrics, "loss": self.loss}
        counted = self.decisions if unit in ("characters", "bytes") else self.examples
        found: dict[str, Any] = {unit: counted, **{name: finite(value) for name, value in numbers.items()}}
        if self.confusion is not None:
            found["confusion"] = [list(row) for row in self.confusion]
        return found


def finite(value: float) -> float | None:
    """The number, or None if it is not finite and JSON cannot hold it."""
    return value if math.isfinite(value) else None


@contextmanager
def mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Sets every module of `model` to one mode, and restores each module's own mode afterwards."""
    before = {module: module.training for module in model.modules()}
    model.train(training)
    try:
        yield
    finally:
        for module, was in before.items():
            module.training = was


@contextmanager
def full_precision(device: str) -> Iterator[None]:
    """Computes in full float32: no autocast, and no TF32, which rounds the factors of a product to 11 bits."""
    backends: Any = torch.backends  # its stubs lack the setting of convolutions
    settings = backends.cudnn.conv, backends.cuda.matmul
    before = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            setting.fp32_precision = "ieee"
        with torch.autocast(device, enabled=False):
            yield
    finally:
        for setting, precision in zip(settings, before, strict=True):
            setting.fp32_precision = precision


def as_input(values: Tensor, example: Tensor | None) -> Tensor:
    """Moves `values` to the device of the `example` weight, and floating-point values to its type."""
    if example is None:
        return values
    return values.to(example.device, example.dtype if values.is_floating_point() else None)


def example_weight(model: nn.Module) -> Tensor | None:
    """A floating-point weight or statistic of the model; inputs need its device and type. None if there is none."""
    tensors = itertools.chain(model.parameters(), model.buffers())
    return next((tensor for tensor in tensors if tensor.is_floating_point()), None)


def evaluate(model: nn.Module, batches: Iterable[Any], *, task: Task | None = None) -> Evaluation:
    """Evaluates a network on batches, in float32, one batch in memory at a time.

    Args:
        model: a network that maps inputs to the task's outputs; its mode does not change.
        batches: pairs of inputs and targets. They are moved to the model's device, and floating-point inputs get its
            type. Empty batches are skipped.
        task: the network's task; `Classification()`, with the cross-entropy, if None.

    Raises:
        HypersignError: there is no example; a weight, statistic or output is NaN; outputs or targets do not have the
            task's shape; a target is not a class.

    >>> model = nn.Flatten()
    >>> found = evaluate(model, [(torch.eye(3), torch.tensor([0, 1, 0]))])
    >>> round(found.accuracy, 3), found.confusion
    (0.667, ((1, 0, 1), (0, 1, 0), (0, 0, 0)))
    """
    task = Classification() if task is None else task
    for name, tensor in model.state_dict().items():
        if torch.isnan(tensor).any():  # a NaN latent weight would go unnoticed, because sign(NaN) is a level
            raise HypersignError(f"{name} must hold numbers; it holds NaN: use an earlier state")
    examples, decisions, total = 0, 0, 0.0
    sums = dict.fromkeys(task.metrics, 0.0)
    confusion: Tensor | None = None
    example = example_weight(model)
    device = "cpu" if example is None else example.device.type
    with full_precision(device), mode(model, False), carrying(model, batches), torch.no_grad():
        for batch in batches:
            inputs, targets = inputs_and_targets(batch)
            if not len(inputs):
                continue
            outputs = model(as_input(inputs, example)).float()
            if torch.isnan(outputs).any():
                raise HypersignError(
                    f"the network's outputs must be numbers; example {examples} or one soon after it gives NaN: "
                    "its weights or statistics are broken, use an earlier state"
                )
            targets = targets.to(outputs.device)
            task.check(outputs, targets)
            counts = task.confusion(outputs, targets)
            if counts is not None:
                confusion = counts if confusion is None else confusion + counts
            for name, value in task.measure(outputs, targets).items():
                sums[name] += float(value)
            total += float(task.loss(outputs, targets)) * targets.numel()
            examples, decisions = examples + len(inputs), decisions + targets.numel()
    if not examples:
        raise HypersignError("evaluation needs at least one example; got none")
    return Evaluation(
        examples=examples,
        loss=total / decisions,
        metrics={name: value / decisions for name, value in sums.items()},
        confusion=None if confusion is None else tuple(tuple(row) for row in confusion.tolist()),
        decisions=decisions,
    )


def reestimate_batch_norm(model: nn.Module, batches: Iterable[Any]) -> int:
    """Sets the running statistics of every batch norm to the mean of its batch statistics over `batches`.

    Running averages lag behind the weights, and one flipped sign moves a whole layer's input. After a few steps slow
    averages (the paper's code uses a decay of .999) are far off. Use batches at least as large as in training.

    Args:
        model: the network; its mode and weights do not change. After an exception it has its old statistics.
        batches: pairs of inputs and targets; inputs are moved to the model's device and type, targets are ignored.

    Returns:
        The number of examples seen. If the model has no batch norm, nothing is done and the number is 0.

    Raises:
        HypersignError: there is no batch, or a batch gives a batch norm a single value per channel, which has no
            variance.

    >>> norm = nn.BatchNorm1d(1)
    >>> reestimate_batch_norm(norm, [(torch.tensor([[1.0], [3.0]]), torch.zeros(2))])
    2
    >>> norm.running_mean, norm.running_var
    (tensor([2.]), tensor([2.]))
    """
    norms = [norm for norm in _batch_norms(model).values() if norm.track_running_stats]
    if not norms:
        return 0
    momenta = [norm.momentum for norm in norms]
    before = [{name: buffer.clone() for name, buffer in norm.named_buffers()} for norm in norms]
    example, examples, done = example_weight(model), 0, False
    with mode(model, False), values_per_channel(model, least=2), carrying(model, batches), torch.no_grad():
        # Only the batch norms go into training mode, so that dropout stays off.
        for norm in norms:
            norm.training = True
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean over all batches
        try:
            for batch in batches:
                inputs, _ = inputs_and_targets(batch)
                if not len(inputs):
                    continue
                model(as_input(inputs, example))
                examples += len(inputs)
            if not examples:
                raise HypersignError("re-estimating batch norm needs at least one batch; got none")
            done = True
        finally:
            for norm, momentum, old in zip(norms, momenta, before, strict=True):
                norm.momentum = momentum
                if not done:
                    for name, buffer in norm.named_buffers():
                        buffer.copy_(old[name])
    return examples


@contextmanager
def values_per_channel(model: nn.Module, *, least: int = 0) -> Iterator[dict[str, int]]:
    """Yields the smallest number of values per channel that each batch norm receives in any call, by name.

    Raises:
        HypersignError: from the forward pass, if a batch norm receives fewer than `least` values.
    """
    fewest: dict[str, int] = {}

    def count(name: str) -> Any:
        def hook(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0]
            values = x.numel() // x.shape[1]
            fewest[name] = min(values, fewest.get(name, values))
            if values < least:
                raise HypersignError(
                    f"{name or 'the batch norm'} needs at least {least} values per channel for their variance; "
                    f"a batch of {len(x)} gives it {values}: use larger batches"
                )

        return hook

    with contextlib.ExitStack() as hooks:
        for name, norm in _batch_norms(model).items():
            hooks.callback(norm.register_forward_pre_hook(count(name)).remove)
        yield fewest


def _batch_norms(model: nn.Module) -> dict[str, _BatchNorm]:
    return {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}
