"""Angles that simulations drew: their histograms, and their mean and spread against a parameter.

Every function takes the samples or their statistics as arrays; where a prediction is given, it is drawn in.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from hypersign._checks import HypersignError
from hypersign.figures.style import GUIDE, MEASURED, PREDICTED, axes, layer_colours, legend, logarithmic

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["angle_against_dimension", "angle_against_threshold", "angle_histograms"]


def angle_histograms(
    samples: Mapping[str, ArrayLike], ax: "Axes | None" = None, *, predicted: Sequence[float] = ()
) -> "Axes":
    """Densities of angles, a line a set of samples: `{"d = 10": angles in degrees, ...}`.

    It serves the angle of two random vectors, of a vector and its sign, of random binary vectors, and of
    vectors with unequal spreads with and without a rotation. `predicted` angles are drawn as lines.

    Raises:
        HypersignError: a set has no finite sample.
    """
    ax = axes(ax)
    for (label, values), colour in zip(samples.items(), layer_colours(len(samples)), strict=True):
        angles = np.asarray(values, dtype=float).ravel()
        angles = angles[np.isfinite(angles)]
        if not angles.size:
            raise HypersignError(f"angles of {label!r} must hold at least one finite number; got none")
        bins = int(np.clip(angles.size**0.5, 10, 80))
        ax.hist(angles, bins=bins, density=True, histtype="step", color=colour, linewidth=1.4, label=label)
    for angle in predicted:
        ax.axvline(angle, color=GUIDE, linestyle="--", linewidth=1)
    ax.set(xlabel="angle (degrees)", ylabel="density (per degree)")
    legend(ax)
    return ax


def angle_against_dimension(
    dimensions: ArrayLike,
    mean: ArrayLike,
    std: ArrayLike,
    ax: "Axes | None" = None,
    *,
    predicted: ArrayLike | None = None,
) -> "Axes":
    """Mean and standard deviation of an angle (degrees) against the dimension d, logarithmic in d."""
    ax = _against(dimensions, mean, std, ax, predicted)
    logarithmic(ax, "x")
    ax.set(xlabel="dimension d", ylabel="angle (degrees)")
    return ax


def angle_against_threshold(
    thresholds: ArrayLike,
    mean: ArrayLike,
    std: ArrayLike,
    ax: "Axes | None" = None,
    *,
    predicted: ArrayLike | None = None,
) -> "Axes":
    """Mean and standard deviation of the ternary angle (degrees) against threshold/σ."""
    ax = _against(thresholds, mean, std, ax, predicted)
    ax.set(xlabel="threshold / σ", ylabel="angle (degrees)")
    return ax


def _against(x: ArrayLike, mean: ArrayLike, std: ArrayLike, ax: "Axes | None", predicted: ArrayLike | None) -> "Axes":
    ax = axes(ax)
    ax.errorbar(x, mean, yerr=std, fmt="o", color=MEASURED, capsize=3, markersize=4, label="simulated, ±1 std")
    if predicted is not None:
        ax.plot(x, predicted, "--", color=PREDICTED, label="predicted")
    legend(ax)
    return ax
