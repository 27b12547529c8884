"""`hypersign simulate`: Monte Carlo beside the closed forms."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import rich.box
import tyro
from rich.console import Console
from rich.table import Table

from hypersign import simulation
from hypersign._arrays import open_npy
from hypersign._json import prints_text, write_json
from hypersign.cli.options import JsonTarget
from hypersign.simulation import Simulation


def run(words: Sequence[str]) -> None:
    """Parses `hypersign simulate NAME`'s options and runs it."""
    tyro.extras.subcommand_cli_from_dict(
        {
            "pairs": pairs,
            "binary-pairs": binary_pairs,
            "sign": sign,
            "ternary": ternary,
            "levels": levels,
            "rotated": rotated,
        },
        args=list(words),
        prog="hypersign simulate",
        description="Draw random vectors, and print their angles beside theory.",
    )


def pairs(
    *,
    dimensions: tuple[int, ...] = (3, 10, 27),
    draws: int = 10_000,
    seed: int = 0,
    device: str = "cpu",
    figures: Path | None = None,
    json: JsonTarget = None,
) -> None:
    """Angles of two independent Gaussian vectors.

    Args:
        dimensions: dimensions of the vectors, one case per value.
        draws: pairs per case.
        seed: seed of the random numbers.
        device: where to draw: cpu, cuda, ...
        figures: folder for the histograms, as PDF and PNG.
        json: print JSON instead of the table; with FILE, also write it there.
    """
    _finish(lambda: simulation.pairs(dimensions, draws=draws, seed=seed, device=device), figures, json)


def binary_pairs(
    *,
    dimensions: tuple[int, ...] = (10, 100, 1000),
    draws: int = 10_000,
    seed: int = 0,
    figures: Path | None = None,
    json: JsonTarget = None,
) -> None:
    """Angles of two independent vectors of random signs.

    Args:
        dimensions: dimensions of the vectors, one case per value.
        draws: pairs per case.
        seed: seed of the random numbers.
        figures: folder for the histograms, as PDF and PNG.
        json: print JSON instead of the table; with FILE, also write it there.
    """
    _finish(lambda: simulation.binary_pairs(dimensions, draws=draws, seed=seed), figures, json)


def sign(
    *,
    dimensions: tuple[int, ...] = (3, 10, 27),
    draws: int = 10_000,
    seed: int = 0,
    device: str = "cpu",
    figures: Path | None = None,
    json: JsonTarget = None,
) -> None:
    """Angles of a Gaussian vector and its sign.

    Args:
        dimensions: dimensions of the vector, one case per value.
        draws: vectors per case.
        seed: seed of the random numbers.
        device: where to draw: cpu, cuda, ...
        figures: folder for the histograms, as PDF and PNG.
        json: print JSON instead of the table; with FILE, also write it there.
    """
    _finish(lambda: simulation.sign(dimensions, draws=draws, seed=seed, device=device), figures, json)


def ternary(
    *,
    thresholds: tuple[float, ...] = (0.01, 0.111, 0.2, 0.3, 0.5),
    dimension: int = 1000,
    draws: int = 10_000,
    seed: int = 0,
    device: str = "cpu",
    figures: Path | None = None,
    json: JsonTarget = None,
) -> None:
    """Angles of a Gaussian vector and its ternary levels.

    Args:
        thresholds: thresholds in standard deviations, one case per value; .612 is the best.
        dimension: dimension of the vectors.
        draws: vectors per case.
        seed: seed of the random numbers.
        device: where to draw: cpu, cuda, ...
        figures: folder for the histograms, as PDF and PNG.
        json: print JSON instead of the table; with FILE, also write it there.
    """
    _finish(
        lambda: simulation.ternary(thresholds, dimension=dimension, draws=draws, seed=seed, device=device),
        figures,
        json,
    )


def levels(
    *,
    numbers: tuple[int, ...] = (2, 3, 4, 8),
    dimension: int = 1000,
    draws: int = 10_000,
    seed: int = 0,
    device: str = "cpu",
    figures: Path | None = None,
    json: JsonTarget = None,
) -> None:
    """Angles of a Gaussian vector and its k best levels (Lloyd-Max).

    Args:
        numbers: numbers of levels k, one case per value.
        dimension: dimension of the vectors.
        draws: vectors per case.
        seed: seed of the random numbers.
        device: where to draw: cpu, cuda, ...
        figures: folder for the histograms, as PDF and PNG.
        json: print JSON instead of the table; with FILE, also write it there.
    """
    _finish(
        lambda: simulation.levels(numbers, dimension=dimension, draws=draws, seed=seed, device=device), figures, json
    )


def rotated(
    *,
    dimensions: tuple[int, ...] = (10, 100, 500),
    rotations: tuple[str, ...] = ("none", "haar"),
    rate: float = 0.1,
    covariance: Path | None = None,
    draws: int = 10_000,
    seed: int = 0,
    device: str = "cpu",
    figures: Path | None = None,
    json: JsonTarget = None,
) -> None:
    """Angles of a vector of unequal or correlated components and its sign, with and without a rotation.

    Args:
        dimensions: dimensions of the vectors, one case per value (powers of two for Hadamard rotations); ignored with
            --covariance.
        rotations: none, haar, hadamard-1, hadamard-2, hadamard-3 (rounds).
        rate: component i has standard deviation exp(rate i).
        covariance: .npy file of a covariance matrix, or of variances, instead of the exponential ones.
        draws: vectors per case.
        seed: seed of the random numbers.
        device: where to draw: cpu, cuda, ...
        figures: folder for the histograms, as PDF and PNG.
        json: print JSON instead of the table; with FILE, also write it there.
    """
    given = None if covariance is None else np.asarray(open_npy(covariance), np.float64)
    _finish(
        lambda: simulation.rotated(
            dimensions, rotations=rotations, rate=rate, covariance=given, draws=draws, seed=seed, device=device
        ),
        figures,
        json,
    )


def _finish(simulated: Callable[[], Simulation], figures: Path | None, json: Path | None) -> None:
    """Simulates, then prints, writes and draws the results."""
    found = simulated()
    write_json(found.as_dict(), json)
    if prints_text(json):
        Console().print(_table(found))
    if figures is not None:
        from hypersign.figures import save_simulation

        paths = save_simulation(found, figures)
        if prints_text(json):
            Console().print(f"{len(paths)} files in {figures}", highlight=False, soft_wrap=True)


def _table(found: Simulation) -> Table:
    """Mean and standard deviation of the angle per case, with standard errors, beside theory."""
    undefined = sum(case.undefined for case in found.cases)
    note = f"\n{undefined:,} vectors whose levels are all zero have no angle" if undefined else ""
    table = Table(
        title=f"{found.title}: {found.cases[0].draws:,} draws a case",
        caption=f"angles in degrees ± their standard errors; off: from theory, in these{note}",
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
