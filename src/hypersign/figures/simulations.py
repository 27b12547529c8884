"""Figures of simulated angles: histograms, and mean and spread against a parameter.

The functions take samples or their statistics as arrays, and draw a prediction if one is given. `save_simulation`
calls them with the results of `hypersign.simulation.vectors`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from hypersign._checks import HypersignError
from hypersign._locks import writing_file
from hypersign.figures.style import GUIDE, MEASURED, PREDICTED, axes, layer_colours, legend, logarithmic, panels, save
from hypersign.simulation.estimates import SimulatedAngle, Simulation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["angle_against_dimension", "angle_against_threshold", "angle_histograms", "save_simulation"]


def angle_histograms(
    samples: Mapping[str, ArrayLike], ax: "Axes | None" = None, *, predicted: Sequence[float] = ()
) -> "Axes":
    """Draws densities of angles, one line per set of samples: `{"d = 10": angles in degrees, ...}`.

    Use it for the angle between two random vectors, between a vector and its sign, between random binary vectors, and
    for vectors with unequal spreads with and without a rotation. Lines mark the `predicted` angles.

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
    """Draws mean and standard deviation of an angle (degrees) against the dimension d, on a log axis."""
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
    """Draws mean and standard deviation of the ternary angle (degrees) against threshold/σ."""
    ax = _against(thresholds, mean, std, ax, predicted)
    ax.set(xlabel="threshold / σ", ylabel="angle (degrees)")
    return ax


def save_simulation(simulation: Simulation, folder: Path | str) -> list[Path]:
    """Draws the figures of a simulation into `folder`, as PDF and PNG; returns their paths.

    These are the histograms of all cases (for a rotation, one panel per dimension). For dimensions and thresholds
    there is also a figure of mean and spread.

    Raises:
        HypersignError: a case has no angle, matplotlib is not installed, `folder` is not writable, or another process
            is drawing this simulation into it.
    """
    cases, name = simulation.cases, simulation.name
    dimensions = sorted({case.dimension for case in cases})
    grouped = simulation.parameter == "rotation"
    groups = [[case for case in cases if case.dimension == d] for d in dimensions] if grouped else [cases]

    def histograms(group: Sequence[SimulatedAngle], ax: "Axes") -> None:
        means = {case.angle_degrees.predicted_mean for case in group}
        labels = {case: case.label.partition(", ")[2] if grouped else case.label for case in group}
        angle_histograms(
            {labels[case]: case.sample_degrees for case in group},
            ax,
            predicted=sorted(mean for mean in means if np.isfinite(mean)),
        )
        # Space for the legend above the curves
        columns = 2 if len(group) > 1 else 1
        legend(ax, loc="upper center", ncols=columns)
        ax.set_ylim(top=ax.get_ylim()[1] * (1.06 + 0.1 * -(-len(group) // columns)))
        ax.set_title(f"d = {group[0].dimension}" if grouped else simulation.title, fontsize="medium")

    size = (3.4, 2.9) if len(groups) > 1 else (5.0, 3.6)
    drawn = {f"{name}_histograms": panels(histograms, groups, size=size)}
    against = {"dimension": angle_against_dimension, "threshold": angle_against_threshold}.get(simulation.parameter)
    if against:
        angles = [case.angle_degrees for case in cases]
        ax = against(
            [case.value for case in cases],
            [angle.mean for angle in angles],
            [angle.std for angle in angles],
            predicted=[angle.predicted_mean for angle in angles],
        )
        drawn[f"{name}_against_{simulation.parameter}"] = ax.get_figure()  # type: ignore[assignment]
    with writing_file(Path(folder) / name):
        return [path for stem, fig in drawn.items() for path in save(fig, folder, stem)]


def _against(x: ArrayLike, mean: ArrayLike, std: ArrayLike, ax: "Axes | None", predicted: ArrayLike | None) -> "Axes":
    ax = axes(ax)
    ax.errorbar(x, mean, yerr=std, fmt="o", color=MEASURED, capsize=3, markersize=4, label="simulated, ±1 std")
    if predicted is not None:
        ax.plot(x, predicted, "--", color=PREDICTED, label="predicted")
    legend(ax)
    return ax
