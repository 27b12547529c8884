"""Figures of the cost of each layer's bit, and of errors over depth, measured and predicted."""

from typing import TYPE_CHECKING

import numpy as np

from hypersign._checks import HypersignError
from hypersign.figures.style import GUIDE, MEASURED, PREDICTED, axes, legend
from hypersign.geometry.ablation import Ablation
from hypersign.geometry.depth import Depth

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["ablated_layers", "depth_r"]


def ablated_layers(
    ablation: Ablation, ax: "Axes | None" = None, *, side: str = "weights", scope: str = "one"
) -> "Axes":
    """Draws the loss change of each layer against the predicted disturbance of the logits, 1 - r.

    Error bars are two standard errors. If the predicted order is correct, the points rise from left to right; if real
    numbers lower the loss, they fall.

    Raises:
        HypersignError: nothing was ablated on this side and in this scope, or matplotlib is not installed.
    """
    rows = [row for row in ablation.ablated if (row.side, row.scope) == (side, scope)]
    if not rows:
        raise HypersignError(
            f"the ablation must contain layers with {side} turned back to float, scope {scope!r}; it has none"
        )
    rows = [row for row in rows if np.isfinite(row.predicted_logit_r)]  # NaN has no position on the axis
    ax = axes(ax)
    x = np.array([1 - row.predicted_logit_r for row in rows])
    y = np.array([row.loss_change.mean for row in rows])
    ax.errorbar(x, y, [2 * row.loss_change.error for row in rows], fmt="o", color=MEASURED, capsize=3, markersize=4)
    for row, across, up in zip(rows, x, y, strict=True):
        ax.annotate(row.name, (across, up), (4, 4), textcoords="offset points", fontsize="small", color=GUIDE)
    ax.axhline(0, color="black", linewidth=0.5)
    ax.margins(x=0.12)
    (ranking,) = (r for r in ablation.rankings if (r.side, r.scope) == (side, scope))
    reference = "the unchanged network" if scope == "one" else f"all {side} real"
    ax.set(xlabel="predicted disturbance of the logits, 1 - r", ylabel="change of loss")
    correlation = f"{ranking.spearman:.2f}" if np.isfinite(ranking.spearman) else "unknown"
    ax.set_title(f"real {side} in {scope}, against {reference}\nrank correlation {correlation}", fontsize="small")
    return ax


def depth_r(depth: Depth, ax: "Axes | None" = None) -> "Axes":
    """Draws each layer's correlation with the float replica, beside that on training images and the layer's own r."""
    ax = axes(ax)
    names = [layer.name for layer in depth.layers]
    ax.plot(names, [layer.own_r for layer in depth.layers], ":", color=GUIDE, marker=".", label="this layer alone")
    ax.plot(names, [layer.training_r for layer in depth.layers], "--", color=PREDICTED, label="training images")
    ax.plot(names, [layer.r for layer in depth.layers], color=MEASURED, marker="o", markersize=4, label="measured")
    ax.set(ylim=(0, 1.02), ylabel="r with the float replica")
    ax.tick_params(axis="x", labelrotation=45 if len(names) > 6 else 0)
    legend(ax, loc="lower left")
    return ax
