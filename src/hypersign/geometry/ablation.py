"""Ablation: what a network loses by one bit in each layer, beside the loss that geometry predicts.

A layer's weights, or its inputs, go back to real numbers; batch-norm statistics are re-estimated, since sums of
latent weights have other sizes than sums of signs; then accuracy and loss are measured on the same images. A
network that was trained with its signs has fitted itself to them: putting real weights back disturbs it, and its
loss rises. One that was quantized after training gains by it. In both cases the size of the change says how much
the layer's bit matters, and that is what geometry predicts the order of.
"""

import dataclasses
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from hypersign._checks import HypersignError
from hypersign.evaluate import Loss, cross_entropy, full_precision, mode, reestimate_batch_norm
from hypersign.geometry.capture import Progress
from hypersign.geometry.depth import LayerR, accumulated_r, back_to_float, check_repeatable, layer_r
from hypersign.layers import quant_layers

__all__ = ["Ablated", "Ablation", "Change", "Ranking", "ablate"]

SIDES = ("weights", "inputs")
ERRORS = 2.0
"""Standard errors by which two layers' losses must differ to count as different."""


@dataclasses.dataclass(frozen=True)
class Change:
    """A difference between two networks on the same images, with its standard error.

    Per image and round of re-estimation the difference d is one number. The error is sqrt(s_i^2/n + s_r^2/R): s_i
    the standard deviation, over the n images, of d averaged over rounds; s_r that, over the R rounds, of d averaged
    over images (0 for one round, which then cannot be known). Images that both networks treat alike add nothing to
    it, so that it is much smaller than the error of either network's own mean.
    """

    mean: float
    error: float


@dataclasses.dataclass(frozen=True)
class Ablated:
    """A network in which some layers are real, against a reference, over test images and rounds.

    `side` is what went back to float, "weights" or "inputs". `scope`: "one": in the layer `name` alone, against the
    network as it is; "all": in all layers (`name` is "all"), against the same; "all but one": in all but the
    layer `name`, against all. `accuracy_change` and `loss_change` are this network's minus the reference's.
    `logit_r` is the correlation of its logits with the reference's, mean over classes; `predicted_logit_r` what
    `accumulated_r` says of it.

    `disturbance` is the part of the loss change that the size of the disturbance decides:

        L(z') - L(z) - (z' - z).grad L(z)

    with logits z of the reference and z' of this network, mean over images and rounds; to second order half of
    (z' - z)' H (z' - z), which no convex loss has below 0. The rest of the change, the product with the gradient, is
    how the disturbance goes with what the reference gets wrong; no geometry can tell.
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
    """How the predicted order of layers goes with the measured one, on one side and in one scope.

    Predicted: by `predicted_logit_r`, the lowest first. Measured: by the size of `loss_change`, the largest first.
    `spearman` is their rank correlation (NaN below two layers, or where all are equal), `spearman_logits` that of
    the predicted with the measured correlation of logits: where the first is low and the second high, geometry was
    right and the loss went by something else. Of the `pairs` of layers, the loss changes of `apart` differ in size
    by more than two standard errors (of the paired difference); of these, `in_order` are in the predicted order.
    `noticed` names the layers whose own loss change is more than two standard errors away from 0.

    `spearman_disturbance` and the two counts after it are for `disturbance` in place of the size of `loss_change`.
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


@dataclasses.dataclass(frozen=True)
class Ablation:
    """What `ablate` found: the network as it is, every ablated one, and how well the layers' order was predicted.

    `accuracy_error` is the binomial standard error sqrt(p (1 - p)/n); `loss_error` that of the mean over images.
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
    loss: Loss = cross_entropy,
    progress: Progress | None = None,
) -> Ablation:
    """Measures a network's accuracy and loss with layers put back to float, beside the predicted order of layers.

    For weights and for inputs: each layer alone, all, and all but each. Real numbers are put in by
    `back_to_float`. The prediction is the correlation of logits by `accumulated_r`: a layer whose own r is low
    changes more signs after it, and the earlier it stands the more layers multiply these. Against a network whose
    weights are all real, it is made with the gains g_l of that network. The model is left as found; results do not
    depend on the batch size of `batches`.

    Args:
        model: a network with quantized layers; its output is one row of class scores an image.
        batches: (images, labels) to measure on; gone through many times: a list or `Batches`, not a generator.
        reestimation: one or more sets of training batches; the whole measurement is done anew, a round, with batch
            norm re-estimated on each. Every network sees the same ones.
        loss: mean loss of a batch, as the network was trained for.
        progress: called after each ablated network with the number of networks done so far.

    Raises:
        HypersignError: the model has no quantized layer, or one that was never reached; there are no images, or
            they can be gone through only once; no round; weights, activations or logits are NaN or infinite.

    Source: the ablation that Anderson & Berg's code left unfinished, for want of re-estimated batch norms.

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
    for images in reestimation:
        check_repeatable("reestimation batches", images)
    layers = quant_layers(model)
    if not layers:
        raise HypersignError("the network must have quantized layers to ablate; it has none: `convert` makes some")
    names = {
        "weights": [n for n, layer in layers.items() if layer.quantizes_weights],
        "inputs": [n for n, layer in layers.items() if layer.quantizes_inputs],
    }
    device = next(iter(layers.values())).weight.device.type
    with full_precision(device):
        base_model = back_to_float(model)  # a copy as it is
        reestimate_batch_norm(base_model, reestimation[0])
        geometry = layer_r(base_model, batches)
        base = _measure(base_model, batches, reestimation, loss)
        real_weights = _with_real_gains(model, geometry, names["weights"], batches, reestimation[0])
        done = 0
        rows: list[_Row] = []

        def measure(side: str, scope: str, name: str, real: Collection[str], against: _Measured) -> _Measured:
            nonlocal done
            found = _measure(back_to_float(model, **{side: real}), batches, reestimation, loss)
            changes = found.losses - against.losses
            bends = changes - (against.slopes * (found.logits - against.logits)).sum(2)
            known = real_weights if side == "weights" and scope != "one" else geometry
            predicted = _predicted(known, side, scope, name, names[side])
            rows.append(
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
                        logit_r=_logit_r(found.logits, against.logits),
                        predicted_logit_r=predicted,
                    ),
                    changes,
                    bends,
                )
            )
            done += 1
            if progress is not None:
                progress(done)
            return found

        rankings = []
        for side in SIDES:
            if not names[side]:
                continue
            start = len(rows)
            for name in names[side]:
                measure(side, "one", name, [name], base)
            rankings.append(_ranking(rows[start:]))
            every = measure(side, "all", "all", names[side], base)
            start = len(rows)
            for name in names[side]:
                measure(side, "all but one", name, [n for n in names[side] if n != name], every)
            rankings.append(_ranking(rows[start:]))
    images = base.right.shape[1]
    accuracy, losses = float(base.right.mean()), base.losses.mean(0)
    return Ablation(
        images=images,
        rounds=len(reestimation),
        accuracy=accuracy,
        accuracy_error=float(np.sqrt(accuracy * (1 - accuracy) / images)),
        loss=float(losses.mean()),
        loss_error=_error(losses),
        layers=geometry,
        ablated=tuple(row.found for row in rows),
        rankings=tuple(rankings),
    )


@dataclasses.dataclass(frozen=True)
class _Measured:
    """A network image by image: `right`, `losses` of shape (rounds, images), `logits` (rounds, images, classes).

    `slopes` is the gradient of each image's loss by its logits.
    """

    right: np.ndarray
    losses: np.ndarray
    logits: np.ndarray
    slopes: np.ndarray


@dataclasses.dataclass(frozen=True)
class _Row:
    """What was found of an ablated network, and image by image, shape (rounds, images), where its means are from."""

    found: Ablated
    changes: np.ndarray
    bends: np.ndarray


def _measure(
    model: nn.Module, batches: Iterable[Any], reestimation: Sequence[Iterable[Any]], loss: Loss
) -> _Measured:
    """Evaluates `model`, which is changed, once for each set of re-estimation batches."""
    each = torch.vmap(torch.func.grad_and_value(lambda z, label: loss(z[None], label[None])))
    example = next(model.parameters())
    rounds = []
    for batch_norm_images in reestimation:
        reestimate_batch_norm(model, batch_norm_images)
        parts = []
        with mode(model, False), torch.no_grad():
            for x, labels in batches:
                logits = model(x.to(example.device, example.dtype)).float()
                if not torch.isfinite(logits).all():
                    raise HypersignError("the network's logits must be finite numbers; NaN or infinity came")
                labels = labels.to(logits.device)
                slopes, losses = each(logits, labels)
                parts.append([t.cpu().numpy() for t in (logits.argmax(1) == labels, losses, logits, slopes)])
        rounds.append([np.concatenate(part) for part in zip(*parts, strict=True)])
    return _Measured(*(np.stack(part).astype(np.float64) for part in zip(*rounds, strict=True)))


def _with_real_gains(
    model: nn.Module,
    layers: tuple[LayerR, ...],
    names: Sequence[str],
    batches: Iterable[Any],
    reestimation: Iterable[Any],
) -> tuple[LayerR, ...]:
    """`layers`, with the correlations for quantized inputs that they have once all weights are real.

    These decide how much of an error the layers after it let through, and where the other network's weights are
    real, that is what its filters make of errors: real filters let through less.
    """
    replica = back_to_float(model, weights=names)
    if not any(layer.quantizes_inputs for layer in quant_layers(replica).values()):
        return layers
    reestimate_batch_norm(replica, reestimation)
    inputs = {layer.name: layer.inputs for layer in layer_r(replica, batches)}
    return tuple(dataclasses.replace(layer, inputs=inputs.get(layer.name, layer.inputs)) for layer in layers)


def _predicted(layers: Sequence[LayerR], side: str, scope: str, name: str, names: Sequence[str]) -> float:
    differing = names if scope == "all" else [name]
    # Where all inputs but one layer's are real, they are so in both networks.
    real = [n for n in names if n != name] if (side, scope) == ("inputs", "all but one") else []
    return accumulated_r(layers, **{side: differing}, real=real)[-1]


def _error(values: np.ndarray) -> float:
    """Standard error of the mean; 0 of a single value."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


def _change(differences: np.ndarray) -> Change:
    """Of differences of shape (rounds, images)."""
    return Change(
        float(differences.mean()), float(np.hypot(_error(differences.mean(0)), _error(differences.mean(1))))
    )


def _logit_r(logits: np.ndarray, reference: np.ndarray) -> float:
    """Correlation over images of each round's and class's logits, the mean of those that vary."""
    x, y = (z - z.mean(1, keepdims=True) for z in (logits, reference))
    squares = (x * x).sum(1) * (y * y).sum(1)
    varies = squares > 0
    r = (x * y).sum(1)[varies] / np.sqrt(squares[varies])
    return float(r.mean()) if len(r) else float("nan")


def _ranking(rows: Sequence[_Row]) -> Ranking:
    """The ranking of the rows of one side and scope."""
    predicted = np.array([1 - row.found.predicted_logit_r for row in rows])
    # Each layer's change counts by its size: differences turn by their own sign, so that they stay paired.
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
    """Pairs of layers whose measured means differ by more than `ERRORS` errors, and how many of them as predicted."""
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
    """Rank correlation; NaN where there is no order to compare, or no number."""
    compares = len(x) > 1 and np.isfinite(x).all() and np.isfinite(y).all() and np.ptp(x) > 0 and np.ptp(y) > 0
    return float(stats.spearmanr(x, y).statistic) if compares else float("nan")
