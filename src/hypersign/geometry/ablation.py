"""Ablation: measures what one bit costs in each layer, beside the cost that geometry predicts.

Ablation turns a layer's weights or inputs back to real numbers. It re-estimates batch-norm statistics, because dot
products with latent weights have another scale than dot products with signs. Then it measures accuracy and loss on
the same examples. A network that was trained with its signs has adapted to them: real weights disturb it, and its
loss rises. A network that was quantized after training gains from real weights. In both cases the size of the
change says how much the layer's bit matters, and geometry predicts the order of these sizes.
"""

import dataclasses
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from hypersign._checks import HypersignError
from hypersign._display import shown
from hypersign.evaluate import as_input, example_weight, full_precision, mode, reestimate_batch_norm
from hypersign.geometry.capture import Progress
from hypersign.geometry.depth import LayerR, accumulated_r, back_to_float, check_repeatable, layer_r
from hypersign.layers import quant_layers
from hypersign.tasks import Classification, Task, inputs_and_targets

__all__ = ["Ablated", "Ablation", "Change", "Ranking", "ablate"]

SIDES = ("weights", "inputs")
ERRORS = 2.0
"""Two layers' losses count as different if they differ by more than this number of standard errors."""


@dataclasses.dataclass(frozen=True)
class Change:
    """The difference between two networks on the same images, with its standard error.

    The difference d is one number per image and round of re-estimation. The error is sqrt(s_i^2/n + s_r^2/R). s_i is
    the standard deviation over the n images of d averaged over rounds. s_r is the standard deviation over the R
    rounds of d averaged over images; it is unknown and set to 0 if there is only one round. Images on which both
    networks do the same add nothing to the error, so it is much smaller than the error of either network's own mean.
    """

    mean: float
    error: float


@dataclasses.dataclass(frozen=True)
class Ablated:
    """A network in which some layers are real, compared with a reference over test images and rounds.

    `side` says what was turned back to float, "weights" or "inputs". `scope` says where:

        "one"           in the layer `name` alone; the reference is the unchanged network
        "all"           in all layers (`name` is "all"); the reference is the unchanged network
        "all but one"   in all layers except `name`; the reference is the network with all layers turned back

    `accuracy_change` and `loss_change` are this network's values minus the reference's. `logit_r` is the correlation
    between its logits and the reference's, averaged over classes. `predicted_logit_r` is the prediction of
    `accumulated_r`.

    `disturbance` is the part of the loss change that depends on the size of the logit change alone:

        L(z') - L(z) - (z' - z).grad L(z)

    z are the logits of the reference and z' those of this network; the value is a mean over images and rounds. To
    second order it is half of (z' - z)' H (z' - z), which is never negative for a convex loss. The rest of the
    change, the product with the gradient, depends on the labels, so geometry cannot predict it.
    """

    side: str
    scope: str
    name: str
    accuracy: float
    loss: float
    accuracy_change: Change
    loss_change: Change
    disturbance: Change
    logit_r: float
    predicted_logit_r: float


@dataclasses.dataclass(frozen=True)
class Ranking:
    """How well the predicted order of layers agrees with the measured order, for one side and one scope.

    The predicted order sorts by `predicted_logit_r`, the lowest first. The measured order sorts by the size of
    `loss_change`, the largest first. `spearman` is their rank correlation (NaN for fewer than two layers, or if all
    values are equal). `spearman_logits` compares the predicted with the measured correlation of logits: if it is
    high and `spearman` is low, geometry was right and something else decides the loss. `pairs` counts the pairs of
    layers. In `apart` of them the sizes of the loss changes differ by more than two standard errors (of the paired
    difference), and `in_order` of these have the predicted order. `noticed` names the layers whose own loss change
    is more than two standard errors away from 0.

    `spearman_disturbance` and the two counts after it use `disturbance` instead of the size of `loss_change`.
    """

    side: str
    scope: str
    spearman: float
    spearman_logits: float
    pairs: int
    apart: int
    in_order: int
    noticed: tuple[str, ...]
    spearman_disturbance: float
    disturbance_apart: int
    disturbance_in_order: int


@shown
@dataclasses.dataclass(frozen=True)
class Ablation:
    """Result of `ablate`: the unchanged network, every ablated one, and how well the order of layers was predicted.

    `accuracy_error` is the binomial standard error sqrt(p (1 - p)/n). `loss_error` is the standard error of the mean
    over images.
    """

    images: int
    rounds: int
    accuracy: float
    accuracy_error: float
    loss: float
    loss_error: float
    layers: tuple[LayerR, ...]
    ablated: tuple[Ablated, ...]
    rankings: tuple[Ranking, ...]


def ablate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    reestimation: Sequence[Iterable[tuple[Tensor, Tensor]]],
    *,
    task: Task | None = None,
    progress: Progress | None = None,
) -> Ablation:
    """Measures accuracy and loss with layers turned back to float, beside the predicted order of layers.

    For weights and for inputs, it turns back each layer alone, all layers, and all layers except one.
    `back_to_float` makes these networks. The prediction is the correlation of logits by `accumulated_r`: a layer
    with a low r changes more signs after it, and an earlier layer has more layers after it that multiply the error.
    Where the reference has real weights in all layers, the prediction uses the gains g_l of that reference. The
    model does not change. Results do not depend on the batch size of `batches`.

    Args:
        model: a network with quantized layers.
        batches: pairs of inputs and targets to measure on. They are read many times, so pass a list or `Batches`,
            not a generator.
        reestimation: one or more sets of training batches. Each set gives one round: batch norm is re-estimated on
            it and everything is measured again. Every network sees the same sets.
        task: the network's task, with its loss; `Classification()` if None. Accuracy is the share of correct
            decisions. An example with several targets counts once, with the mean over its targets.
        progress: called after each ablated network with the number of networks done.

    Raises:
        HypersignError: the model has no quantized layer, or the forward pass does not reach one; there are no
            images, or they can be read only once; there is no round; weights, activations or logits are NaN or
            infinite.

    Source: Anderson & Berg's code begins this ablation and leaves it unfinished, because it does not re-estimate
    batch norm.

    >>> from hypersign.layers import QuantLinear
    >>> from hypersign.quantizers import Sign
    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(QuantLinear(64, 64, weight_quantizer=Sign(), bias=False),
    ...                       QuantLinear(64, 4, weight_quantizer=Sign(), bias=False))
    >>> for layer in model: _ = nn.init.normal_(layer.weight)
    >>> _ = model[1].weight.data.sign_()  # real already at +-1: one bit costs nothing here
    >>> x = torch.randn(500, 64)
    >>> found = ablate(model, [(x, model(x).argmax(1))], [[(x, torch.zeros(500))]])
    >>> [(row.name, round(row.logit_r, 1), round(row.predicted_logit_r, 1)) for row in found.ablated[:2]]
    [('0', 0.8, 0.8), ('1', 1.0, 1.0)]
    """
    check_repeatable("batches", batches)
    if not len(reestimation):
        raise HypersignError("ablation needs at least one set of batches to re-estimate batch norm on; got none")
    for round_of_batches in reestimation:
        check_repeatable("reestimation batches", round_of_batches)
    layers = quant_layers(model)
    if not layers:
        raise HypersignError("the network must have quantized layers to ablate; it has none: `convert` makes some")
    with full_precision(next(iter(layers.values())).weight.device.type):
        study = _Study(model, batches, reestimation, Classification() if task is None else task, progress)
        rankings = [ranking for side in SIDES if study.names[side] for ranking in study.ablate(side)]
    base = study.base
    examples = base.right.shape[1]
    accuracy, losses = float(base.right.mean()), base.losses.mean(0)
    return Ablation(
        images=examples,
        rounds=len(reestimation),
        accuracy=accuracy,
        accuracy_error=float(np.sqrt(accuracy * (1 - accuracy) / examples)),
        loss=float(losses.mean()),
        loss_error=_error(losses),
        layers=study.geometry,
        ablated=tuple(row.found for row in study.rows),
        rankings=tuple(rankings),
    )


class _Study:
    """The measurements of one ablation: the unchanged network, and every ablated copy."""

    def __init__(
        self,
        model: nn.Module,
        batches: Iterable[Any],
        reestimation: Sequence[Iterable[Any]],
        task: Task,
        progress: Progress | None,
    ) -> None:
        self.model, self.batches, self.reestimation = model, batches, reestimation
        self.task, self.progress = task, progress
        layers = quant_layers(model)
        self.names = {
            "weights": [n for n, layer in layers.items() if layer.quantizes_weights],
            "inputs": [n for n, layer in layers.items() if layer.quantizes_inputs],
        }
        self.rows: list[_Row] = []
        base_model = back_to_float(model)  # an unchanged copy
        reestimate_batch_norm(base_model, reestimation[0])
        self.geometry = layer_r(base_model, batches)
        self.base = _measure(base_model, batches, reestimation, task)
        self.real_weights = _with_real_gains(model, self.geometry, self.names["weights"], batches, reestimation[0])

    def ablate(self, side: str) -> list[Ranking]:
        """Ablates each layer alone, all layers, and all layers except one, on one side."""
        names = self.names[side]
        start = len(self.rows)
        for name in names:
            self._measure(side, "one", name, [name], self.base)
        one = _ranking(self.rows[start:])
        every = self._measure(side, "all", "all", names, self.base)
        start = len(self.rows)
        for name in names:
            self._measure(side, "all but one", name, [n for n in names if n != name], every)
        return [one, _ranking(self.rows[start:])]

    def _measure(self, side: str, scope: str, name: str, real: Collection[str], against: "_Measured") -> "_Measured":
        """Measures the network with the layers `real` turned back to float, and adds a row."""
        copy = back_to_float(self.model, **{side: real})
        found = _measure(copy, self.batches, self.reestimation, self.task)
        changes = found.losses - against.losses
        bends = changes - (against.slopes * (found.outputs - against.outputs)).sum((2, 3))
        known = self.real_weights if side == "weights" and scope != "one" else self.geometry
        self.rows.append(
            _Row(
                Ablated(
                    side=side,
                    scope=scope,
                    name=name,
                    accuracy=float(found.right.mean()),
                    loss=float(found.losses.mean()),
                    accuracy_change=_change(found.right - against.right),
                    loss_change=_change(changes),
                    disturbance=_change(bends),
                    logit_r=_logit_r(found.outputs, against.outputs),
                    predicted_logit_r=_predicted(known, side, scope, name, self.names[side]),
                ),
                changes,
                bends,
            )
        )
        if self.progress is not None:
            self.progress(len(self.rows))
        return found


@dataclasses.dataclass(frozen=True)
class _Measured:
    """What a network does on each example.

    `right` is the share of the example's decisions that are correct; it and `losses` have shape (rounds, examples).
    `outputs` has shape (rounds, examples, positions, classes), with one position if an output is one row. `slopes`
    is the gradient of each example's loss with respect to its outputs.
    """

    right: np.ndarray
    losses: np.ndarray
    outputs: np.ndarray
    slopes: np.ndarray


@dataclasses.dataclass(frozen=True)
class _Row:
    """Measures of an ablated network, and the values behind its means, shape (rounds, examples)."""

    found: Ablated
    changes: np.ndarray
    bends: np.ndarray


def _measure(
    model: nn.Module, batches: Iterable[Any], reestimation: Sequence[Iterable[Any]], task: Task
) -> _Measured:
    """Evaluates `model` once for each set of re-estimation batches; this changes the model."""
    each = torch.vmap(torch.func.grad_and_value(lambda z, target: task.loss(z[None], target[None])))
    example = example_weight(model)
    rounds = []
    for batch_norm_batches in reestimation:
        reestimate_batch_norm(model, batch_norm_batches)
        parts = []
        with mode(model, False), torch.no_grad():
            for batch in batches:
                inputs, targets = inputs_and_targets(batch)
                if not len(inputs):
                    continue
                outputs = model(as_input(inputs, example)).float()
                if not torch.isfinite(outputs).all():
                    raise HypersignError("the network's outputs must be finite numbers; NaN or infinity came")
                targets = targets.to(outputs.device)
                task.check(outputs, targets)
                slopes, losses = each(outputs, targets)
                right = task.correct(outputs, targets).float().view(len(outputs), -1).mean(1)
                found = right, losses, _positions(outputs), _positions(slopes)
                parts.append([values.cpu().numpy() for values in found])
        rounds.append([np.concatenate(part) for part in zip(*parts, strict=True)])
    return _Measured(*(np.stack(part).astype(np.float64) for part in zip(*rounds, strict=True)))


def _positions(outputs: Tensor) -> Tensor:
    """Reshapes outputs to (examples, positions, classes)."""
    return outputs.reshape(len(outputs), -1, outputs.shape[-1] if outputs.dim() > 1 else 1)


def _with_real_gains(
    model: nn.Module,
    layers: tuple[LayerR, ...],
    names: Sequence[str],
    batches: Iterable[Any],
    reestimation: Iterable[Any],
) -> tuple[LayerR, ...]:
    """Returns `layers` with the correlations for quantized inputs measured again with all weights real.

    These correlations decide how much of an error a layer lets through. If the reference has real weights, its own
    filters decide that, and real filters let through less.
    """
    replica = back_to_float(model, weights=names)
    if not any(layer.quantizes_inputs for layer in quant_layers(replica).values()):
        return layers
    reestimate_batch_norm(replica, reestimation)
    inputs = {layer.name: layer.inputs for layer in layer_r(replica, batches)}
    return tuple(dataclasses.replace(layer, inputs=inputs.get(layer.name, layer.inputs)) for layer in layers)


def _predicted(layers: Sequence[LayerR], side: str, scope: str, name: str, names: Sequence[str]) -> float:
    differing = names if scope == "all" else [name]
    # If the inputs of all layers but one are real, they are real in both networks.
    real = [n for n in names if n != name] if (side, scope) == ("inputs", "all but one") else []
    return accumulated_r(layers, **{side: differing}, real=real)[-1]


def _error(values: np.ndarray) -> float:
    """The standard error of the mean; 0 for a single value."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


def _change(differences: np.ndarray) -> Change:
    """The mean and its error, from differences of shape (rounds, images)."""
    return Change(
        float(differences.mean()), float(np.hypot(_error(differences.mean(0)), _error(differences.mean(1))))
    )


def _logit_r(outputs: np.ndarray, reference: np.ndarray) -> float:
    """The correlation over examples and positions, averaged over the rounds and classes whose outputs vary."""
    x, y = (z.reshape(len(z), -1, z.shape[-1]) for z in (outputs, reference))
    x, y = (z - z.mean(1, keepdims=True) for z in (x, y))
    squares = (x * x).sum(1) * (y * y).sum(1)
    varies = squares > 0
    r = (x * y).sum(1)[varies] / np.sqrt(squares[varies])
    return float(r.mean()) if len(r) else float("nan")


def _ranking(rows: Sequence[_Row]) -> Ranking:
    """The ranking of the rows of one side and scope."""
    predicted = np.array([1 - row.found.predicted_logit_r for row in rows])
    # The size of each layer's change counts. Multiplying all its differences by one sign keeps them paired.
    sizes = [np.sign(row.found.loss_change.mean) * row.changes for row in rows]
    bends = [row.bends for row in rows]
    apart, in_order = _in_order(predicted, sizes)
    disturbance_apart, disturbance_in_order = _in_order(predicted, bends)
    disturbed = np.array([1 - row.found.logit_r for row in rows])
    first = rows[0].found
    noticed = (row.found for row in rows if abs(row.found.loss_change.mean) > ERRORS * row.found.loss_change.error)
    return Ranking(
        side=first.side,
        scope=first.scope,
        spearman=_spearman(predicted, np.array([size.mean() for size in sizes])),
        spearman_logits=_spearman(predicted, disturbed),
        pairs=len(rows) * (len(rows) - 1) // 2,
        apart=apart,
        in_order=in_order,
        noticed=tuple(row.name for row in noticed),
        spearman_disturbance=_spearman(predicted, np.array([bend.mean() for bend in bends])),
        disturbance_apart=disturbance_apart,
        disturbance_in_order=disturbance_in_order,
    )


def _in_order(predicted: np.ndarray, measured: Sequence[np.ndarray]) -> tuple[int, int]:
    """How many pairs of layers differ by more than `ERRORS` standard errors, and how many of these as predicted."""
    apart = in_order = 0
    known = [i for i, value in enumerate(predicted) if np.isfinite(value)]
    for i in known:
        for j in (j for j in known if j < i):
            difference = _change(measured[i] - measured[j])
            if abs(difference.mean) > ERRORS * difference.error:
                apart += 1
                in_order += (predicted[i] - predicted[j]) * difference.mean > 0
    return apart, int(in_order)


def _spearman(x: np.ndarray, y: np.ndarray) -> float:
    """The rank correlation; NaN if there is no order to compare, or a value is not finite."""
    compares = len(x) > 1 and np.isfinite(x).all() and np.isfinite(y).all() and np.ptp(x) > 0 and np.ptp(y) > 0
    return float(stats.spearmanr(x, y).statistic) if compares else float("nan")
