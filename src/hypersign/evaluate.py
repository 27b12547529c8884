"""How good a network is at its task: loss, metrics, confusion; and batch-norm statistics that fit its weights."""

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
from hypersign.tasks import Classification, Task, inputs_and_targets

__all__ = ["Evaluation", "evaluate", "reestimate_batch_norm"]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Result of a network on `examples` examples: mean loss, and each metric of its task by name.

    `confusion[i][j]` counts the examples of class i that were taken for class j; None for tasks without classes.
    """

    examples: int
    loss: float
    metrics: dict[str, float]
    confusion: tuple[tuple[int, ...], ...] | None

    @property
    def accuracy(self) -> float:
        """Share of decisions that are right."""
        return self.metrics["accuracy"]

    def as_dict(self, unit: str = "examples") -> dict[str, Any]:
        """As JSON keeps it: the number of examples under `unit`, then metrics and loss; None where not finite."""
        numbers = {**self.metrics, "loss": self.loss}
        found: dict[str, Any] = {unit: self.examples, **{name: finite(value) for name, value in numbers.items()}}
        if self.confusion is not None:
            found["confusion"] = [list(row) for row in self.confusion]
        return found


def finite(value: float) -> float | None:
    """The number, or None where JSON has none for it."""
    return value if math.isfinite(value) else None


@contextmanager
def mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Every module of `model` in one mode, and back in its own afterwards."""
    before = {module: module.training for module in model.modules()}
    model.train(training)
    try:
        yield
    finally:
        for module, was in before.items():
            module.training = was


@contextmanager
def full_precision(device: str) -> Iterator[None]:
    """float32 throughout: no autocast, and no TF32, which rounds the factors of a product to 11 bits."""
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
    """`values` on the device of a model's `example` weight, floating ones in its type; integers stay integers."""
    if example is None:
        return values
    return values.to(example.device, example.dtype if values.is_floating_point() else None)


def example_weight(model: nn.Module) -> Tensor | None:
    """A floating-point weight or statistic of the model, whose device and type its inputs need; None without any."""
    tensors = itertools.chain(model.parameters(), model.buffers())
    return next((tensor for tensor in tensors if tensor.is_floating_point()), None)


def evaluate(model: nn.Module, batches: Iterable[Any], *, task: Task | None = None) -> Evaluation:
    """Evaluates a network on batches, in float32, one batch in memory at a time.

    Args:
        model: maps inputs to the task's outputs; left in the mode it is in.
        batches: pairs of inputs and targets; they are moved to the model's device, and floating inputs to its type.
            Empty batches are skipped.
        task: the network's task; `Classification()`, with the cross-entropy, if None.

    Raises:
        HypersignError: there is no example; a weight, statistic or output is NaN; outputs or targets do not have the
            task's shape, or a target is no class.

    >>> model = nn.Flatten()
    >>> found = evaluate(model, [(torch.eye(3), torch.tensor([0, 1, 0]))])
    >>> round(found.accuracy, 3), found.confusion
    (0.667, ((1, 0, 1), (0, 1, 0), (0, 0, 0)))
    """
    task = Classification() if task is None else task
    for name, tensor in model.state_dict().items():
        if torch.isnan(tensor).any():  # a latent weight that is NaN would go unseen: sign(NaN) is a level
            raise HypersignError(f"{name} must hold numbers; it holds NaN: take an earlier state")
    examples, decisions, total = 0, 0, 0.0
    sums = dict.fromkeys(task.metrics, 0.0)
    confusion: Tensor | None = None
    example = example_weight(model)
    with full_precision("cpu" if example is None else example.device.type), mode(model, False), torch.no_grad():
        for batch in batches:
            inputs, targets = inputs_and_targets(batch)
            if not len(inputs):
                continue
            outputs = model(as_input(inputs, example)).float()
            if torch.isnan(outputs).any():
                raise HypersignError(
                    f"the network's outputs must be numbers; example {examples} or one soon after it gives NaN: "
                    "its weights or statistics are broken, take an earlier state"
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
    )


def reestimate_batch_norm(model: nn.Module, batches: Iterable[Any]) -> int:
    """Sets the running statistics of every batch norm to the mean over `batches` of their batch statistics.

    Running averages lag behind weights that move, and one flipped sign moves a whole layer's input: after few steps
    slow averages (the original's decay is .999) are far off. The batches should be at least as large as those of the
    training.

    Args:
        model: left in the mode it is in; weights are not touched. After an exception it has its old statistics.
        batches: pairs of inputs and targets (targets are not used); inputs are moved to the model's device and type.

    Returns:
        The number of examples seen; 0, and nothing done, where the model has no batch norm.

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
    with mode(model, False), values_per_channel(model, least=2), torch.no_grad():
        # Only the batch norms go into training mode: dropout stays off, wherever it is called from.
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
    """Counts how many values per channel each batch norm is given, the fewest of all calls, by name.

    Raises:
        HypersignError: from the forward pass, where a batch norm is given fewer than `least`.
    """
    fewest: dict[str, int] = {}

    def count(name: str) -> Any:
        def hook(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0]
            values = x.numel() // x.shape[1]
            fewest[name] = min(values, fewest.get(name, values))
            if values < least:
                raise HypersignError(
                    f"{name or 'the batch norm'} needs at least {least} values per channel to take their variance; "
                    f"a batch of {len(x)} gives it {values}: use larger batches"
                )

        return hook

    with contextlib.ExitStack() as hooks:
        for name, norm in _batch_norms(model).items():
            hooks.callback(norm.register_forward_pre_hook(count(name)).remove)
        yield fewest


def _batch_norms(model: nn.Module) -> dict[str, _BatchNorm]:
    return {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}
