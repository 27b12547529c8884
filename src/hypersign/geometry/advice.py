"""Predicts what one bit or three levels would do to each layer of any network, and which layers to keep in float.

Use it for a network that is not quantized, or only in part. One pass over a few hundred images measures the
covariance of every layer's inputs; everything else follows from it and the weights. The prediction is for the
current weights: training afterwards recovers much of the loss, and a higher r is a better start.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table
from torch import nn

from hypersign import theory
from hypersign._display import shown
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

__all__ = ["LEAST_R", "Advice", "LayerAdvice", "advise", "layer_advice"]

LEAST_R = 0.75
"""The smallest median r over filters at which a layer is quantized. For Gaussian weights and inputs that vary
equally in all directions, r is .798 with one bit and .900 with three levels, so a layer below .75 loses noticeably
more than one bit has to cost."""


@shown
@dataclasses.dataclass(frozen=True)
class LayerAdvice:
    """Predictions for a layer's weights, and a recommendation: "binarize", "ternarize" or "keep in float".

    `binarized` predicts the effect of signs, `ternarized` that of levels -1, 0, +1 with a threshold of .612 standard
    deviations of each filter; both are NaN if the layer was not measured. `predicted_angle_degrees` is the mean
    angle between Gaussian weights of this fan-in and their signs. `effective_dimension` describes the inputs.
    `reason` explains the recommendation.
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


@shown
@dataclasses.dataclass(frozen=True)
class Advice:
    """One row per layer that could be quantized, in the network's order, from one pass over `images` images."""

    images: int
    layers: tuple[LayerAdvice, ...]

    def table(self) -> Table:
        """The advice as a table for a terminal, with two lines per layer: signs, then ternary levels."""
        table = Table(
            caption="medians over filters, first line for signs as weights, second for ternary levels: predicted r "
            "of the dot products and share of their signs that flip. Angle: between filters and signs, below it "
            f"that of Gaussian weights. Dimension: the effective one of the inputs. From {self.images:,} images.",
            caption_justify="left",
            padding=(0, 1, 0, 0),
        )
        table.add_column("layer", overflow="fold")
        for name in ("fan-in", "dimen-\nsion", "angle", "r", "flips,\n%"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("recommendation")
        for layer in self.layers:
            both = layer.binarized, layer.ternarized
            angles = layer.binarized.median("angle_degrees"), layer.predicted_angle_degrees
            r, flips = ([what.median(field) for what in both] for field in ("pearson_r", "sign_flip_share"))
            table.add_row(
                escape(layer.name or layer.kind),
                f"{layer.fan_in}",
                _cell(layer.effective_dimension, 1),
                "\n".join(_cell(angle, 1) for angle in angles),
                "\n".join(_cell(value, 2) for value in r),
                "\n".join(_cell(100 * share, 0) for share in flips),
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
    memory_bytes: int = 2**31,
    progress: Callable[[int], Any] | None = None,
) -> Advice:
    """Predicts what binarizing or ternarizing the weights of each layer would do, and recommends one of them.

    The network may be quantized or not. Every `nn.Linear`, `nn.Conv1d` and `nn.Conv2d` gets one row, for the inputs
    that the layer has now. Nothing is quantized, and the model does not change. The rule uses the median r over
    filters:

    1. keep in float, if the layer cannot be measured or would lose everything (weights that are NaN or all zero,
       constant inputs, a fan-in of 1);
    2. binarize, if r with signs is at least .75;
    3. ternarize, if r with ternary levels is at least .75;
    4. keep in float otherwise.

    Args:
        model: any network with such layers, as in `input_covariances`.
        batches: the inputs, as in `input_covariances`. A few hundred images determine the median r to about .01.
        memory_bytes: the memory for covariances, as in `input_covariances`.
        progress: called after each batch with the number of images seen.

    Raises:
        HypersignError: for the same reasons as in `input_covariances`.

    Source: Anderson & Berg 2018 (arXiv 1705.07199), sections 2 and 3; `what_if`.

    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(nn.Linear(100, 50), nn.ReLU(), nn.Linear(50, 1))
    >>> advice = advise(model, [torch.randn(500, 100)])
    >>> [(layer.name, layer.recommendation) for layer in advice.layers]
    [('0', 'binarize'), ('2', 'binarize')]
    >>> advice.layers[0].reason
    'r = 0.86 with one bit'
    """
    found = input_covariances(model, batches, memory_bytes=memory_bytes, progress=progress)
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
                    recommendation="keep in float",
                    reason=f"not measured: {found.unmeasured[name]}",
                )
            )
    return Advice(found.images, tuple(rows))


def layer_advice(layer: LayerCovariance) -> LayerAdvice:
    """The advice for one layer whose covariance was measured; see `advise`."""
    binarized, ternarized = what_if(layer, {"sign": Sign(), "ternary": Ternary(Optimal())})
    recommendation, reason = _recommendation(layer, binarized.median("pearson_r"), ternarized.median("pearson_r"))
    return LayerAdvice(
        name=layer.name,
        kind=layer.kind,
        fan_in=layer.fan_in,
        filters=layer.filters,
        effective_dimension=effective_dimension(layer),
        predicted_angle_degrees=float(np.degrees(theory.sign_angle(layer.fan_in))),
        binarized=binarized,
        ternarized=ternarized,
        recommendation=recommendation,
        reason=reason + _remark(layer, binarized),
    )


def _recommendation(layer: LayerCovariance, binary: float, ternary: float) -> tuple[str, str]:
    """The recommendation and its reason, from the median r with signs and with ternary levels."""
    keep = "keep in float"
    finite = np.isfinite(layer.weights)
    if not finite.all():
        return keep, f"{(~finite).any(1).sum()} of its {layer.filters} filters hold NaN or infinity"
    if not layer.weights.any():
        return keep, "its weights are all zero"
    if not layer.covariance.diagonal(axis1=1, axis2=2).any():
        return keep, "its inputs are constant over these images"
    if layer.fan_in == 1:
        return keep, "a fan-in of 1: a filter is one number, and one bit keeps only its sign"
    if np.isnan(binary):
        return keep, "the inputs that its filters use are constant over these images"
    if binary >= LEAST_R:
        return "binarize", f"r = {binary:.2f} with one bit"
    if ternary >= LEAST_R:
        return "ternarize", f"r = {binary:.2f} with one bit is below {LEAST_R}; {ternary:.2f} with ternary levels"
    # Three levels alone would keep .9. A lower r has one of two causes: the inputs share a component that cancels in
    # the latent filters but not in their levels, or a few weights dominate each filter.
    return keep, f"r = {binary:.2f} with one bit and {ternary:.2f} with ternary levels are below {LEAST_R}"


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
    return "".join(f"; {remark}" for remark in remarks)
