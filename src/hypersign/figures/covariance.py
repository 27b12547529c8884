"""The figure that compares predicted with measured r."""

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from hypersign.figures.style import GUIDE, axes, layer_colours, legend, panels
from hypersign.geometry.results import Geometry

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["predicted_r", "predicted_r_families"]

TITLES = {
    "weights_binarized": "weights binarized",
    "activations_binarized": "activations binarized",
    "both_binarized": "both binarized",
}


def predicted_r(geometry: Geometry, ax: "Axes | None" = None, *, family: str = "weights_binarized") -> "Axes":
    """Draws the measured correlation of each filter's dot products against the predicted one.

    There is one point per filter and one colour per layer. On the dashed diagonal both agree. The legend gives the
    median distance for each layer. Layers without a prediction are left out, and the title names them.

    Args:
        geometry: the result of inspection.
        ax: where to draw; a new figure if None.
        family: "weights_binarized", "activations_binarized" or "both_binarized".
    """
    ax = axes(ax, size=(4.6, 4.6))
    left_out, lowest = [], 1.0
    for layer, colour in zip(geometry.layers, layer_colours(len(geometry.layers)), strict=True):
        products = getattr(layer, family)
        if not products.predicted_pearson_r_per_filter:
            left_out.append(layer.name)
            continue
        predicted = np.asarray(products.predicted_pearson_r_per_filter)
        measured = np.asarray(products.pearson_r_per_filter)
        known = np.isfinite(predicted) & np.isfinite(measured)
        predicted, measured = predicted[known], measured[known]
        apart = f"{np.median(np.abs(predicted - measured)):.4f}" if len(predicted) else "no r"
        ax.plot(predicted, measured, "o", color=colour, markersize=3.5, alpha=0.7, label=f"{layer.name} ({apart})")
        lowest = min([lowest, *predicted, *measured])
    limits = lowest - 0.05 * (1 - lowest) - 0.005, 1 + 0.05 * (1 - lowest) + 0.005
    ax.plot(limits, limits, color=GUIDE, linestyle="--", linewidth=1, zorder=1)
    ax.set(xlim=limits, ylim=limits, aspect="equal")
    ax.set(xlabel="r predicted", ylabel="r measured")
    if left_out:
        ax.set_title(f"without a prediction: {', '.join(left_out)}", fontsize="small")
    legend(ax, title="layer (median distance)", title_fontsize="small", loc="upper left")
    return ax


def predicted_r_families(geometry: Geometry) -> "Figure":
    """Draws `predicted_r` for weights, activations and both binarized, side by side.

    A family without any prediction is left out; so are layers with real inputs where activations are binarized.
    """
    shown = {}
    for family in TITLES:
        layers = [layer for layer in geometry.layers if family == "weights_binarized" or layer.quantizes_inputs]
        if any(getattr(layer, family).predicted_pearson_r_per_filter for layer in layers):
            shown[family] = dataclasses.replace(geometry, layers=tuple(layers))

    def draw(family: str, ax: "Axes") -> None:
        predicted_r(shown[family], ax, family=family)
        ax.set_title("\n".join(filter(None, (TITLES[family], ax.get_title()))), fontsize="small")

    return panels(draw, tuple(shown), size=(4.6, 4.6))
