"""Figures of recurrent layers over time."""

from typing import TYPE_CHECKING

import numpy as np

from hypersign.figures.style import GUIDE, MEASURED, PREDICTED, axes, legend, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from hypersign.geometry.recurrence import LayerOverTime, OverTime

__all__ = ["dot_products_over_time", "over_time", "states_over_time"]


def dot_products_over_time(layer: "LayerOverTime", ax: "Axes | None" = None) -> "Axes":
    """Draws r and accumulated R at each step, measured with two standard errors, beside their predictions."""
    ax = axes(ax)
    steps = np.arange(1, len(layer.r) + 1)
    for values, errors, predicted, style, name in (
        (layer.r, layer.r_error, layer.predicted_r, "-", "r"),
        (layer.accumulated, layer.accumulated_error, layer.predicted_accumulated, "--", "R, accumulated"),
    ):
        low, high = np.subtract(values, 2 * np.array(errors)), np.add(values, 2 * np.array(errors))
        ax.fill_between(steps, low, high, color=MEASURED, alpha=0.15, linewidth=0)
        ax.plot(steps, values, style, color=MEASURED, label=f"{name}, measured")
        ax.plot(steps, predicted, style, color=PREDICTED, linewidth=1, label=f"{name}, predicted")
    ax.set(xlabel="step", ylabel="correlation", title=layer.name)
    legend(ax)
    return ax


def states_over_time(layer: "LayerOverTime", ax: "Axes | None" = None) -> "Axes":
    """Draws the states' root mean square, their mean, and the gate that keeps them, at each step."""
    ax = axes(ax)
    steps = np.arange(1, len(layer.r) + 1)
    ax.plot(steps, np.sqrt(layer.state_mean_square), color=MEASURED, label="states, root mean square")
    ax.plot(steps, layer.state_mean, color=GUIDE, label="states, mean")
    if not np.isnan(layer.forget).all():
        ax.plot(steps, layer.forget, color=PREDICTED, label="gate that keeps the state, mean")
    ax.set(xlabel="step", title=f"{layer.name}: states")
    legend(ax)
    return ax


def over_time(found: "OverTime") -> "Figure":
    """Draws both for every recurrent layer.

    Raises:
        HypersignError: matplotlib is not installed.
    """
    drawn = [(draw, layer) for layer in found.layers for draw in (dot_products_over_time, states_over_time)]
    return panels(lambda each, ax: each[0](each[1], ax), drawn, columns=2, size=(5.0, 3.6))
