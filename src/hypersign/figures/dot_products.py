"""Figures of dot products before and after binarizing: one 2-D histogram per layer."""

from typing import TYPE_CHECKING

import numpy as np

from hypersign.figures.style import PREDICTED, axes
from hypersign.geometry.results import DotProducts, LayerGeometry

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["activations_binarized", "both_binarized", "permuted", "weights_binarized"]


def weights_binarized(layer: LayerGeometry, ax: "Axes | None" = None) -> "Axes":
    """Draws the effect of binarizing the weights: `a_b . w_c` (latent weights) against `a_b . w_b` (their levels).

    The colour shows the number of pairs on a log scale, and the line is the least-squares fit. In the shaded
    quadrants the signs differ. Source: Anderson & Berg 2018 (arXiv 1705.07199), figure 3.
    """
    return _histogram(
        layer.weights_binarized, ax, layer.name, r"quantized: $a_b \cdot w_b$", r"latent: $a_b \cdot w_c$"
    )


def activations_binarized(layer: LayerGeometry, ax: "Axes | None" = None) -> "Axes":
    """Draws the effect of binarizing the activations: `a_b . w_b` against `a_c . w_b`, as in `weights_binarized`.

    Use it for layers with quantized inputs; in other layers both values are equal.
    """
    return _histogram(
        layer.activations_binarized, ax, layer.name, r"real: $a_c \cdot w_b$", r"quantized: $a_b \cdot w_b$"
    )


def both_binarized(layer: LayerGeometry, ax: "Axes | None" = None) -> "Axes":
    """Draws the effect of binarizing both: `a_b . w_b` against `a_c . w_c`, as in `weights_binarized`."""
    return _histogram(layer.both_binarized, ax, layer.name, r"real: $a_c \cdot w_c$", r"quantized: $a_b \cdot w_b$")


def permuted(layer: LayerGeometry, ax: "Axes | None" = None) -> "Axes":
    """Draws `weights_binarized` for permuted activations, which shows the effect of the weights' geometry alone."""
    return _histogram(
        layer.permuted,
        ax,
        layer.name,
        r"quantized, permuted: $a_b \cdot w_b$",
        r"latent, permuted: $a_b \cdot w_c$",
    )


def _histogram(products: DotProducts, ax: "Axes | None", title: str, x_label: str, y_label: str) -> "Axes":
    ax = axes(ax)
    ax.grid(visible=False)
    from matplotlib.colors import LogNorm
    from matplotlib.patches import Rectangle

    x, y = (np.asarray(edges) for edges in (products.histogram.x_edges, products.histogram.y_edges))
    counts = np.asarray(products.histogram.counts, dtype=float).T  # (y, x), because rows are drawn upwards
    mesh = ax.pcolormesh(
        x,
        y,
        np.ma.masked_less(counts, 1),
        norm=LogNorm(1, max(counts.max(initial=1), 2)),
        cmap="viridis",
        rasterized=True,
    )
    ax.get_figure().colorbar(mesh, ax=ax, label="pairs", pad=0.02)  # type: ignore[union-attr]
    ax.set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]), xlabel=x_label, ylabel=y_label)
    for across, up in ((x[-1], y[0]), (x[0], y[-1])):  # from the origin to the corners where the signs differ
        if across * up < 0:
            ax.add_patch(Rectangle((0, 0), across, up, facecolor="#d11a4b", alpha=0.16, linewidth=0))
    ax.axhline(0, color="black", linewidth=0.5)
    ax.axvline(0, color="black", linewidth=0.5)
    ax.plot(x[[0, -1]], products.intercept + products.slope * x[[0, -1]], color=PREDICTED, linewidth=1.4)
    ax.set_title(
        f"{title}\n$r$ = {products.pearson_r:.3f}, predicted {products.predicted_pearson_r:.3f}; "
        f"{100 * products.sign_disagreement:.1f} % of signs differ",
        fontsize="small",
    )
    return ax
