"""Figures of the angle between latent and quantized filters: its density, and its spread against fan-in."""

from typing import TYPE_CHECKING

import numpy as np

from hypersign.figures.style import GUIDE, MEASURED, PREDICTED, axes, layer_colours, legend, logarithmic
from hypersign.geometry.results import Geometry, LayerGeometry

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["angle_density", "angle_density_zoomed", "angle_spread", "fan_in_labels"]


def angle_density(geometry: Geometry, ax: "Axes | None" = None) -> "Axes":
    """Draws the density of the angle between latent and quantized filters, one line per layer, from 0 to 90 degrees.

    Heights are scaled to 1, because the peak of a layer with fan-in d is of order sqrt(d). Two random vectors have an
    angle of 90 degrees. Source: Anderson & Berg 2018 (arXiv 1705.07199), figure 2.
    """
    ax = axes(ax, size=(6.0, 3.6))
    for layer, colour in zip(geometry.layers, layer_colours(len(geometry.layers)), strict=True):
        stats = layer.angle_degrees
        density = np.asarray(stats.density.density, dtype=float)
        if not density.size or not density.max() > 0:
            continue  # a layer without weight quantizer has no angle
        label = f"{layer.name} (d = {layer.fan_in})"
        ax.plot(stats.density.grid, density / density.max(), color=colour, label=label)
        if np.isfinite(stats.predicted_mean):
            ax.axvline(stats.predicted_mean, color=colour, linewidth=0.8, linestyle=":")
    ax.axvline(90, color=GUIDE, linestyle="--", linewidth=1)
    ax.annotate("random\nvectors", (90, 0.98), (-4, 0), textcoords="offset points", ha="right", va="top")
    ax.set(xlim=(0, 92), ylim=(0, 1.05), xlabel="angle, latent to quantized filter (degrees)")
    ax.set(ylabel="density, scaled to 1")
    legend(ax)
    return ax


def angle_density_zoomed(layer: LayerGeometry, ax: "Axes | None" = None) -> "Axes":
    """Draws the same density around one layer's angles, with the predicted density and mean, and the peak."""
    ax = axes(ax)
    stats = layer.angle_degrees
    ax.fill_between(stats.density.grid, stats.density.density, color=MEASURED, alpha=0.15, linewidth=0)
    ax.plot(stats.density.grid, stats.density.density, color=MEASURED, label=f"measured, peak {stats.peak:.2f}°")
    if any(stats.predicted_density.density):
        ax.plot(
            stats.predicted_density.grid, stats.predicted_density.density, color=PREDICTED, linestyle="--", lw=1.2
        )
    if np.isfinite(stats.predicted_mean):
        label = f"predicted, mean {stats.predicted_mean:.2f}°"
        ax.axvline(stats.predicted_mean, color=PREDICTED, lw=1.2, label=label)
    ax.plot(stats.peak, max(stats.density.density, default=0), "o", color=MEASURED, markersize=4)
    ax.set(title=f"{layer.name} (d = {layer.fan_in})", xlabel="angle (degrees)", ylabel="density (per degree)")
    ax.set_ylim(0, 1.45 * max((*stats.density.density, *stats.predicted_density.density), default=1))
    legend(ax, loc="upper left")
    return ax


def angle_spread(geometry: Geometry, ax: "Axes | None" = None) -> "Axes":
    """Draws the standard deviation of the angle over a layer's filters against fan-in d, both on log axes.

    Crosses show the exact prediction, `~ 20.18 / sqrt(d)` degrees for the sign. The dashed guide has slope -1/2 and
    passes through the predictions. Source: Anderson & Berg 2018 (arXiv 1705.07199), figure 2.
    """
    ax = axes(ax)
    layers = _spread_layers(geometry)
    logarithmic(ax, "x")
    logarithmic(ax, "y")
    ax.set(xlabel="fan-in d", ylabel="standard deviation of the angle (degrees)")
    if layers:
        fan_in = np.array([layer.fan_in for layer in layers], dtype=float)
        predicted = np.array([layer.angle_degrees.predicted_std for layer in layers])
        guide = np.exp(np.mean(np.log(predicted * np.sqrt(fan_in)))) / np.sqrt(fan_in)
        measured = [layer.angle_degrees.std for layer in layers]
        ax.plot(fan_in, guide, color=GUIDE, linestyle="--", linewidth=1, label="guide, slope −1/2")
        ax.plot(fan_in, predicted, "x", color=PREDICTED, label="predicted")
        ax.plot(fan_in, measured, "o", color=MEASURED, label="measured")
        for layer, label in fan_in_labels(geometry):
            # Names end below their points, under the guide. A long name at the smallest fan-in would not fit there.
            aside = len(label) > 8 and layer.fan_in == fan_in[0]
            ax.annotate(
                label,
                (layer.fan_in, layer.angle_degrees.std),
                (6, 5) if aside else (-5, -5),
                textcoords="offset points",
                ha="left" if aside else "right",
                va="bottom" if aside else "top",
                fontsize="small",
            )
        ax.margins(x=0.18, y=0.15)
    legend(ax)
    return ax


def fan_in_labels(geometry: Geometry) -> list[tuple[LayerGeometry, str]]:
    """Labels for the points of `angle_spread`. Layers of nearly the same fan-in share one, at the lowest point.

    Fan-ins are nearly the same if they differ by less than a fifth. A label of more than four names shows only the
    first and the last.
    """
    groups: list[list[LayerGeometry]] = []
    for layer in _spread_layers(geometry):
        if groups and layer.fan_in < 1.2 * groups[-1][0].fan_in:
            groups[-1].append(layer)
        else:
            groups.append([layer])
    labels = []
    for group in groups:
        names = [layer.name for layer in geometry.layers if layer in group]
        lowest = min(group, key=lambda layer: layer.angle_degrees.std)
        labels.append((lowest, ", ".join(names) if len(names) <= 4 else f"{names[0]} … {names[-1]}"))
    return labels


def _spread_layers(geometry: Geometry) -> list[LayerGeometry]:
    """The layers whose angles vary, sorted by fan-in."""
    spreading = (
        layer for layer in geometry.layers if layer.angle_degrees.std > 0 and layer.angle_degrees.predicted_std > 0
    )
    return sorted(spreading, key=lambda layer: layer.fan_in)
