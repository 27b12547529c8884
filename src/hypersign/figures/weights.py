"""Figures of the latent weights: their density with the thresholds, and their share on each level."""

from typing import TYPE_CHECKING

import numpy as np

from hypersign.figures.style import GUIDE, MEASURED, PREDICTED, axes, legend
from hypersign.geometry.results import Geometry, LayerGeometry

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["level_shares", "weight_density"]

_LEVEL_COLOURS = {"-1": "#3b6fb6", "0": "#b9bfc9", "+1": "#d07a3a"}


def weight_density(layer: LayerGeometry, ax: "Axes | None" = None) -> "Axes":
    """Draws the density of a layer's latent weights on a log axis, with the thresholds of a ternary quantizer.

    The dashed line is the normal distribution with the same mean and standard deviation.
    """
    ax = axes(ax)
    stats = layer.latent_weights
    grid, density = np.asarray(stats.density.grid), np.asarray(stats.density.density)
    ax.set(yscale="log", title=f"{layer.name} (σ = {stats.std:.3f})", xlabel="latent weight", ylabel="density")
    positive = density > 0
    if positive.any():
        top = density.max()
        normal = np.exp(-(((grid - stats.mean) / stats.std) ** 2) / 2) / (stats.std * np.sqrt(2 * np.pi))
        ax.plot(grid, normal, color=GUIDE, linestyle="--", linewidth=1, label="normal")
        ax.plot(grid[positive], density[positive], color=MEASURED, label="measured")
        ax.set_ylim(max(density[positive].min(), top / 1e5), 3 * top)
    if thresholds := [abs(t) for t in stats.thresholds if t]:
        # Filters may have different thresholds; they are drawn as one band from the smallest to the largest.
        for sign, label in ((-1, "threshold"), (1, None)):
            edges = sign * min(thresholds), sign * max(thresholds)
            ax.axvspan(*edges, color=PREDICTED, linewidth=0.8, alpha=0.6, label=label)
    legend(ax, loc="lower center")
    return ax


def level_shares(geometry: Geometry, ax: "Axes | None" = None) -> "Axes":
    """Draws the share of each layer's weights on each level, as stacked bars."""
    ax = axes(ax, size=(5.0, 0.9 + 0.3 * len(geometry.layers)))
    names = [layer.name for layer in geometry.layers]
    left = np.zeros(len(names))
    levels = dict.fromkeys(level for layer in geometry.layers for level in layer.level_shares)
    for level in sorted(levels, key=float):
        shares = np.array([layer.level_shares.get(level, 0.0) for layer in geometry.layers])
        if not shares.any():
            continue
        bars = ax.barh(names, shares, left=left, label=level, color=_LEVEL_COLOURS.get(level))
        labels = [f"{100 * share:.1f} %" if share > 0.06 else "" for share in shares]
        ax.bar_label(bars, labels, label_type="center", fontsize="small")
        left += shares
    ax.invert_yaxis()
    ax.grid(visible=False)
    ax.set(xlim=(0, 1), xlabel="share of weights")
    legend(ax, ncols=3, loc="lower left", bbox_to_anchor=(0, 1))
    return ax
