"""Says what one bit or three levels would do to each layer of any network, and which layers to keep in float.

Use it for a network that is not quantized, or only in part. A forecast measures how many decisions change if one
layer alone is quantized; the covariance of each layer's inputs says why. Both are for the current weights: training
afterwards recovers much of the loss.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table
from torch import nn

from hypersign import theory
from hypersign._checks import HypersignError, check_real
from hypersign._display import shown
from hypersign.forecasting import Effect, forecast
from hypersign.geometry.covariance import (
    LayerCovariance,
    WhatIf,
    effective_dimension,
    input_covariances,
    quantizable_layers,
    what_if,
)
from hypersign.geometry.covariance.measure import Batch
from hypersign.quantizers import Optimal, Sign, Ternary

__all__ = ["Advice", "LayerAdvice", "advise", "layer_advice"]

KEEP = "keep in float"


@shown
@dataclasses.dataclass(frozen=True)
class LayerAdvice:
    """What quantizing a layer's weights does, and a recommendation: "binarize", "ternarize" or "keep in float".

    `binary_changes` and `ternary_changes` are the shares of the network's decisions that change if this layer alone
    is quantized and the network repaired; NaN if unknown. `binarized` predicts the effect of signs on the layer's dot
    products, `ternarized` that of levels -1, 0, +1 with a threshold of .612 standard deviations of each filter; both
    are NaN if the layer was not measured. `predicted_angle_degrees` is the mean angle between Gaussian weights of
    this fan-in and their signs. `effective_dimension` describes the inputs. `reason` explains the recommendation,
    which is empty if no forecast was made.
    """

    name: str
    kind: str
    fan_in: int
    filters: int
    effective_dimension: float
    predicted_angle_degrees: float
    binarized: WhatIf
    ternarized: WhatIf
    recommendation: str
    reason: str
    binary_changes: float = math.nan
    ternary_changes: float = math.nan


@shown
@dataclasses.dataclass(frozen=True)
class Advice:
    """One row per layer that could be quantized, in the network's order, measured on `images` images."""

    images: int
    layers: tuple[LayerAdvice, ...]

    def table(self) -> Table:
        """The advice as a table for a terminal, with two lines per layer: signs, then ternary levels."""
        table = Table(
            caption="first line for signs as weights, second for ternary levels. Changed: the network's decisions "
            "that change if this layer alone is quantized. r: of the dot products, predicted, median over filters. "
            "Angle: between filters and signs, below it that of Gaussian weights. Dimension: the effective one of "
            f"the inputs. From {self.images:,} images.",
            caption_justify="left",
            padding=(0, 1, 0, 0),
        )
        table.add_column("layer", overflow="fold")
        for name in ("fan-in", "dimen-\nsion", "angle", "r", "changed,\n%"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("recommendation")
        for layer in self.layers:
            both = layer.binarized, layer.ternarized
            angles = layer.binarized.median("angle_degrees"), layer.predicted_angle_degrees
            r = [what.median("pearson_r") for what in both]
            table.add_row(
                escape(layer.name or layer.kind),
                f"{layer.fan_in}",
                _cell(layer.effective_dimension, 1),
                "\n".join(_cell(angle, 1) for angle in angles),
                "\n".join(_cell(value, 2) for value in r),
                "\n".join(_cell(100 * share, 1) for share in (layer.binary_changes, layer.ternary_changes)),
                f"[bold]{layer.recommendation}[/bold]: {escape(layer.reason)}",
                end_section=True,
            )
        return table


def _cell(value: float, digits: int) -> str:
    return "-" if np.isnan(value) else f"{value:.{digits}f}"


def advise(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    changes: float = 0.01,
    memory_bytes: int = 2**31,
    progress: Callable[[int], Any] | None = None,
) -> Advice:
    """Measures what binarizing or ternarizing each layer's weights does to decisions, and recommends one of them.

    The network may be quantized or not. Every `nn.Linear`, `nn.Conv1d` and `nn.Conv2d` gets one row. Nothing is
    quantized, and the model does not change. The first rule that applies decides:

    1. keep in float, if the layer cannot be measured or would lose everything (weights that are NaN or all zero,
       constant inputs, a fan-in of 1);
    2. binarize, if at most a share `changes` of the network's decisions change when this layer alone is binarized;
    3. ternarize, if at most this share changes when it is ternarized;
    4. keep in float otherwise.

    Decisions are those of `forecast`, after repair, on these inputs, so n inputs resolve shares of 1/n. The layers
    that are worth more bits together, and a size, come from `forecast(...).plan(...)`.

    Args:
        model: any network with such layers that gives logits, as in `forecast`. If it cannot be forecast, the reason
            says so, and no layer is recommended to be quantized.
        batches: the inputs, as in `forecast`: a few hundred, in batches of 100 or so.
        changes: the share of decisions that one layer may change.
        memory_bytes: the memory for covariances, as in `input_covariances`.
        progress: called after each batch of the covariances with the number of images seen.

    Raises:
        HypersignError: for the same reasons as in `input_covariances`; `changes` is not between 0 and 1.

    Source: Anderson & Berg 2018 (arXiv 1705.07199), sections 2 and 3; `what_if`, `forecast`.

    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(nn.Linear(100, 50), nn.ReLU(), nn.Linear(50, 4))
    >>> advice = advise(model, [torch.randn(500, 100)])
    >>> advice.layers[0].recommendation, advice.layers[0].reason
    ('keep in float', 'decisions change in 30.4 % of images with one bit, 20.0 % with ternary levels')
    """
    check_real("changes", changes, min=0, max=1)
    held = list(batches)
    found = input_covariances(model, held, memory_bytes=memory_bytes, progress=progress)
    rows = []
    for name, layer in quantizable_layers(model).items():
        if name in found.layers:
            rows.append(layer_advice(found.layers[name]))
        else:
            nothing = (np.nan,) * len(layer.weight)
            unknown = WhatIf("sign", nothing, nothing, nothing)
            fan_in = layer.weight[0].numel()
            rows.append(
                LayerAdvice(
                    name=name,
                    kind=type(layer).__name__,
                    fan_in=fan_in,
                    filters=len(layer.weight),
                    effective_dimension=np.nan,
                    predicted_angle_degrees=float(np.degrees(theory.sign_angle(fan_in))),
                    binarized=unknown,
                    ternarized=dataclasses.replace(unknown, quantizer="ternary"),
                    recommendation=KEEP,
                    reason=f"not measured: {found.unmeasured[name]}",
                )
            )
    try:
        measured = forecast(model, held, formats=("binary", "ternary"), repaired=True, mixtures=0)
    except HypersignError as error:
        why = f"its effect on decisions is unknown: {error}"
        return Advice(found.images, tuple(row if row.recommendation else _kept(row, why) for row in rows))
    effects = {layer.name: layer.repaired for layer in measured.layers}
    return Advice(
        found.images,
        tuple(
            row if row.recommendation else _decided(row, effects.get(row.name), measured.unmeasured, changes)
            for row in rows
        ),
    )


def _kept(row: LayerAdvice, reason: str) -> LayerAdvice:
    return dataclasses.replace(row, recommendation=KEEP, reason=_joined(reason, row.reason))


def _decided(
    row: LayerAdvice, effects: dict[str, Effect] | None, unmeasured: dict[str, str], limit: float
) -> LayerAdvice:
    """The row with the recommendation that follows from the decisions that change."""
    if effects is None:
        return _kept(row, f"its effect on decisions is unknown: {unmeasured[row.name]}")
    binary, ternary = (1 - effects[name].agreement.value for name in ("binary", "ternary"))
    recommendation, reason = KEEP, f"{_words(binary)} with one bit, {100 * ternary:.1f} % with ternary levels"
    if binary <= limit:
        recommendation, reason = "binarize", _words(binary)
    elif ternary <= limit:
        recommendation, reason = "ternarize", f"{_words(ternary)}; {100 * binary:.1f} % with one bit"
    return dataclasses.replace(
        row,
        recommendation=recommendation,
        reason=_joined(reason, row.reason),
        binary_changes=binary,
        ternary_changes=ternary,
    )


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)


def _words(share: float) -> str:
    return f"decisions change in {100 * share:.1f} % of images" if share else "no decision changes"


def layer_advice(layer: LayerCovariance) -> LayerAdvice:
    """What the covariance of one layer's inputs says: predictions, and "keep in float" if it would lose everything.

    The recommendation is empty for other layers, because only a forecast shows what they do to decisions.
    """
    binarized, ternarized = what_if(layer, {"sign": Sign(), "ternary": Ternary(Optimal())})
    defect = _defect(layer, binarized.median("pearson_r"))
    return LayerAdvice(
        name=layer.name,
        kind=layer.kind,
        fan_in=layer.fan_in,
        filters=layer.filters,
        effective_dimension=effective_dimension(layer),
        predicted_angle_degrees=float(np.degrees(theory.sign_angle(layer.fan_in))),
        binarized=binarized,
        ternarized=ternarized,
        recommendation=KEEP if defect else "",
        reason=_joined(defect, _remark(layer, binarized)),
    )


def _defect(layer: LayerCovariance, binary: float) -> str:
    """Why a layer would lose everything, from its weights, inputs and median r with signs; empty if it would not."""
    finite = np.isfinite(layer.weights)
    if not finite.all():
        return f"{(~finite).any(1).sum()} of its {layer.filters} filters hold NaN or infinity"
    if not layer.weights.any():
        return "its weights are all zero"
    if not layer.covariance.diagonal(axis1=1, axis2=2).any():
        return "its inputs are constant over these images"
    if layer.fan_in == 1:
        return "a fan-in of 1: a filter is one number, and one bit keeps only its sign"
    return "the inputs that its filters use are constant over these images" if np.isnan(binary) else ""


def _remark(layer: LayerCovariance, binarized: WhatIf) -> str:
    """Remarks about filters that the medians leave out, and about constant inputs."""
    remarks = []
    zero = int((~layer.weights.any(1)).sum())
    if 0 < zero < layer.filters:
        remarks.append(f"{zero} of {layer.filters} filters are zero")
    idle = int(np.isnan(binarized.pearson_r).sum()) - zero
    if 0 < idle < layer.filters - zero and np.isfinite(layer.weights).all():
        remarks.append(f"the products of {idle} do not vary")
    variances = layer.covariance.diagonal(axis1=1, axis2=2)
    dead = int((variances == 0).sum())
    if 0 < dead < variances.size:
        remarks.append(f"{dead} of {variances.size} inputs are constant")
    return "; ".join(remarks)
