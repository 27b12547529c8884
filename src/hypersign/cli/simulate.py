"""`hypersign simulate`: Monte Carlo beside the closed forms."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rich.box
from rich.table import Table

from hypersign import _defaults
from hypersign._arrays import open_npy
from hypersign._json import prints_text, write_json
from hypersign.cli.options import Device, Figures, JsonTarget, Seed, parse_one_of
from hypersign.cli.printing import console

if TYPE_CHECKING:
    from hypersign.simulation import Simulation


def run(words: Sequence[str]) -> None:
    """Parses `hypersign simulate NAME`'s options and runs it."""
    parse_one_of(COMMANDS, words, "simulate", "draw random vectors, and print their angles beside theory")


def pairs(
    *,
    dimensions: tuple[int, ...] = _defaults.PAIR_DIMENSIONS,
    draws: int = _defaults.DRAWS,
    seed: Seed = 0,
    device: Device = "cpu",
    figures: Figures = None,
    json: JsonTarget = None,
) -> None:
    """Print the angle between two independent Gaussian vectors: mean and standard deviation.

    Example:
        hypersign simulate pairs --dimensions 3 27 --draws 100000

    Args:
        dimensions: dimensions of the vectors, one case per value.
        draws: pairs per case.
    """
    _simulate("pairs", figures, json, dimensions=dimensions, draws=draws, seed=seed, device=device)


def binary_pairs(
    *,
    dimensions: tuple[int, ...] = _defaults.BINARY_PAIR_DIMENSIONS,
    draws: int = _defaults.DRAWS,
    seed: Seed = 0,
    figures: Figures = None,
    json: JsonTarget = None,
) -> None:
    """Print the angle between two independent vectors of random signs: mean and standard deviation.

    Example:
        hypersign simulate binary-pairs --dimensions 64 1024

    Args:
        dimensions: dimensions of the vectors, one case per value.
        draws: pairs per case.
    """
    _simulate("binary_pairs", figures, json, dimensions=dimensions, draws=draws, seed=seed)


def sign(
    *,
    dimensions: tuple[int, ...] = _defaults.SIGN_DIMENSIONS,
    draws: int = _defaults.DRAWS,
    seed: Seed = 0,
    device: Device = "cpu",
    figures: Figures = None,
    json: JsonTarget = None,
) -> None:
    """Print the angle between a Gaussian vector and its sign: mean and standard deviation.

    Example:
        hypersign simulate sign --dimensions 27 1152

    Args:
        dimensions: dimensions of the vector, one case per value.
        draws: vectors per case.
    """
    _simulate("sign", figures, json, dimensions=dimensions, draws=draws, seed=seed, device=device)


def ternary(
    *,
    thresholds: tuple[float, ...] = _defaults.TERNARY_THRESHOLDS,
    dimension: int = _defaults.LEVEL_DIMENSION,
    draws: int = _defaults.DRAWS,
    seed: Seed = 0,
    device: Device = "cpu",
    figures: Figures = None,
    json: JsonTarget = None,
) -> None:
    """Print the angle between a Gaussian vector and its ternary levels: mean and standard deviation.

    Example:
        hypersign simulate ternary --thresholds 0.3 0.612

    Args:
        thresholds: thresholds in standard deviations, one case per value; 0.612 gives the smallest angle.
        dimension: dimension of the vectors.
        draws: vectors per case.
    """
    options: dict[str, Any] = {"dimension": dimension, "draws": draws, "seed": seed, "device": device}
    _simulate("ternary", figures, json, thresholds=thresholds, **options)


def levels(
    *,
    numbers: tuple[int, ...] = _defaults.LEVEL_NUMBERS,
    dimension: int = _defaults.LEVEL_DIMENSION,
    draws: int = _defaults.DRAWS,
    seed: Seed = 0,
    device: Device = "cpu",
    figures: Figures = None,
    json: JsonTarget = None,
) -> None:
    """Print the angle between a Gaussian vector and its k best levels (Lloyd-Max): mean and standard deviation.

    Example:
        hypersign simulate levels --numbers 2 4 16

    Args:
        numbers: numbers of levels k, one case per value.
        dimension: dimension of the vectors.
        draws: vectors per case.
    """
    options: dict[str, Any] = {"dimension": dimension, "draws": draws, "seed": seed, "device": device}
    _simulate("levels", figures, json, numbers=numbers, **options)


def rotated(
    *,
    dimensions: tuple[int, ...] = _defaults.ROTATED_DIMENSIONS,
    rotations: tuple[str, ...] = _defaults.ROTATIONS,
    rate: float = _defaults.RATE,
    covariance: Path | None = None,
    draws: int = _defaults.DRAWS,
    seed: Seed = 0,
    device: Device = "cpu",
    figures: Figures = None,
    json: JsonTarget = None,
) -> None:
    """Print the angle between a vector and its sign, with and without a rotation.

    The vector's components have unequal variances, or are correlated.

    Example:
        hypersign simulate rotated --dimensions 64 --rotations none hadamard-3

    Args:
        dimensions: dimensions of the vectors, one case per value (powers of two for Hadamard rotations); ignored with
            --covariance.
        rotations: none, haar, or hadamard-1, hadamard-2, hadamard-3 (the number of rounds).
        rate: component i has standard deviation exp(rate i).
        covariance: .npy file of a covariance matrix, or of variances, in place of those that --rate gives.
        draws: vectors per case.
    """
    options: dict[str, Any] = {"rotations": rotations, "rate": rate, "draws": draws, "seed": seed, "device": device}
    given = None if covariance is None else np.asarray(open_npy(covariance), np.float64)
    _simulate("rotated", figures, json, dimensions=dimensions, covariance=given, **options)


COMMANDS: dict[str, Callable[..., None]] = {
    "pairs": pairs,
    "binary-pairs": binary_pairs,
    "sign": sign,
    "ternary": ternary,
    "levels": levels,
    "rotated": rotated,
}


def _simulate(name: str, figures: Path | None, json: Path | None, **options: Any) -> None:
    """Simulates, then prints, writes and draws the results."""
    if figures is not None:
        import matplotlib  # noqa: F401, the figures' package: if it is missing, nothing is simulated

    from hypersign import simulation

    found = getattr(simulation, name)(**options)
    write_json(found.as_dict(), json)
    if prints_text(json):
        console().print(_table(found))
    if figures is not None:
        from hypersign.figures import save_simulation

        paths = save_simulation(found, figures)
        if prints_text(json):
            console().print(f"{len(paths)} files in {figures}", soft_wrap=True)


def _table(found: "Simulation") -> Table:
    """Mean and standard deviation of the angle per case, with standard errors, beside theory."""
    undefined = sum(case.undefined for case in found.cases)
    note = f"\n{undefined:,} vectors have no angle: all their levels are zero" if undefined else ""
    table = Table(
        title=f"{found.title}: {found.cases[0].draws:,} draws per case",
        caption=f"angles in degrees ± standard error; off: distance from theory in standard errors{note}",
        title_justify="left",
        caption_justify="left",
        box=rich.box.SIMPLE,
        padding=(0, 1, 0, 0),
    )
    table.add_column("case", no_wrap=True)
    for column in ("mean", "theory", "off", "std", "theory", "off"):
        table.add_column(column, justify="right", no_wrap=True)
    for case in found.cases:
        angle = case.angle_degrees
        table.add_row(
            case.label,
            *_cells(angle.mean, angle.mean_error, angle.predicted_mean, angle.mean_distance),
            *_cells(angle.std, angle.std_error, angle.predicted_std, angle.std_distance),
        )
    return table


def _cells(value: float, error: float, predicted: float, distance: float) -> tuple[str, str, str]:
    known = np.isfinite(predicted)
    return f"{value:.3f}±{error:.3f}", f"{predicted:.3f}" if known else "-", f"{distance:+.1f}" if known else "-"
