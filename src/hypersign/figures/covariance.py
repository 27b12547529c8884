"""The figure that compares predictions from the covariance of the inputs with measurements."""

from typing import TYPE_CHECKING

import numpy as np

from hypersign.figures.style import GUIDE, axes, layer_colours, legend
from hypersign.geometry.results import Geometry

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["predicted_r"]


def predicted_r(geometry: Geometry, ax: "Axes | None" = None) -> "Axes":
    """Draws the measured correlation of each filter's dot products against its prediction from covariance.

    There is one point per filter and one colour per layer. On the dashed diagonal both agree. The legend gives the
    median distance for each layer. Layers without a covariance are left out, and the title names them.
    """
    ax = axes(ax, size=(4.6, 4.6))
    left_out, lowest = [], 1.0
    for layer, colour in zip(geometry.layers, layer_colours(len(geometry.layers)), strict=True):
        if not layer.covariance_pearson_r:
            left_out.append(layer.name)
            continue
        predicted = np.asarray(layer.covariance_pearson_r)
        measured = np.asarray(layer.weights_binarized.pearson_r_per_filter)
        known = np.isfinite(predicted) & np.isfinite(measured)
        predicted, measured = predicted[known], measured[known]
        apart = f"{np.median(np.abs(predicted - measured)):.4f}" if len(predicted) else "no r"
        ax.plot(predicted, measured, "o", color=colour, markersize=3.5, alpha=0.7, label=f"{layer.name} ({apart})")
        lowest = min([lowest, *predicted, *measured])
    limits = lowest - 0.05 * (1 - lowest) - 0.005, 1 + 0.05 * (1 - lowest) + 0.005
    ax.plot(limits, limits, color=GUIDE, linestyle="--", linewidth=1, zorder=1)
    ax.set(xlim=limits, ylim=limits, aspect="equal")
    ax.set(xlabel="r predicted from the inputs' covariance", ylabel="r measured")
    if left_out:
        ax.set_title(f"without a covariance: {', '.join(left_out)}", fontsize="small")
    legend(ax, title="layer (median distance)", title_fontsize="small", loc="upper left")
    return ax
