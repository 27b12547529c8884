"""`hypersign theory`: the closed forms, printed."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from rich.table import Table

from hypersign import theory
from hypersign._checks import HypersignError, check_int, check_real
from hypersign._json import prints_text, write_json
from hypersign.cli.options import JsonTarget, parse_one_of
from hypersign.cli.printing import console

Rows = list[dict[str, float]]

THRESHOLDS = (0.0, 0.01, 0.1, 0.1111, 0.2, 0.3, 0.5, 0.612, 0.7, 1.0, 1.5)
"""Thresholds of the table of ternary levels, in standard deviations."""


def run(words: Sequence[str]) -> None:
    """Parses `hypersign theory NAME`'s options and prints."""
    parse_one_of(COMMANDS, words, "theory", "print values of the closed forms")


def angle(*, dimension: tuple[int, ...] = (27,), threshold: float = 0.0, json: JsonTarget = None) -> None:
    """Print the angle between a Gaussian vector and its sign or ternary levels: mean and standard deviation.

    Example:
        hypersign theory angle --dimension 27 1152

    Args:
        dimension: dimensions of the vector (fan-ins of a filter), one row per value.
        threshold: threshold of ternary levels, in standard deviations; 0 means the sign.
    """
    for d in dimension:
        check_int("--dimension", d, min=1)
    check_real("--threshold", threshold, min=0)
    if not dimension:
        raise HypersignError("--dimension needs at least one value; got none")
    title = "A Gaussian vector and its sign" if threshold == 0 else f"Ternary levels, threshold {threshold:g}"
    _print({title: _angles(dimension, threshold)}, json)


def ternary(
    *,
    thresholds: tuple[float, ...] = THRESHOLDS,
    json: JsonTarget = None,
) -> None:
    """Print, for ternary levels of Gaussian weights in high dimension, angle, share of zeros and best level.

    Example:
        hypersign theory ternary --thresholds 0.3 0.612

    Args:
        thresholds: thresholds in standard deviations, one row per value; 0.612 gives the smallest angle.
    """
    for t in thresholds:
        check_real("--thresholds", t, min=0)
    if not thresholds:
        raise HypersignError("--thresholds needs at least one value; got none")
    _print({"Ternary levels": _ternary(thresholds)}, json)


def table(*, json: JsonTarget = None) -> None:
    """Print the reference tables: angles by dimension, threshold and number of levels, sign flips by correlation.

    Example:
        hypersign theory table
    """
    groups = np.array([1, 2, 4, 8, 16, 64])
    correlations = np.array([0.8, 0.95, 0.98, 0.99])
    angles = np.radians([15, 30, 60, 90])
    _print(
        {
            "A Gaussian vector and its sign": _angles((3, 10, 27, 100, 1152, 4608), 0.0),
            "Ternary levels": _ternary(THRESHOLDS),
            "The k best levels (Lloyd-Max)": [
                {
                    "levels": k,
                    "angle_degrees": _degrees(theory.lloyd_max_cosine(k)),
                    "error": float(theory.lloyd_max_error(k)),
                }
                for k in (2, 3, 4, 5, 6, 7, 8, 16, 32)
            ],
            "Greedy sums of binary vectors": [
                {
                    "order": order,
                    "angle_degrees": _degrees(theory.greedy_cosine(order)),
                    "error": float(theory.greedy_error(order)),
                }
                for order in (1, 2, 3, 4)
            ],
            "One scale for each group of weights": [
                {"group": int(size), "angle_degrees": _degrees(theory.group_cosine(size))} for size in groups
            ],
            "Dot products of zero mean": [
                {"r": float(r), "flipped_percent": 100 * float(theory.sign_flip_share(r))} for r in correlations
            ],
            "Angles from 128 sign bits": [
                {
                    "angle_degrees": float(np.degrees(a)),
                    "std_degrees": float(np.degrees(theory.hash_angle_std(a, 128))),
                    "orthogonal_std_degrees": float(np.degrees(theory.orthogonal_hash_angle_std(a, 128, 128))),
                }
                for a in angles
            ],
        },
        json,
    )


COMMANDS: dict[str, Callable[..., None]] = {"angle": angle, "ternary": ternary, "table": table}


def _angles(dimensions: Sequence[int], threshold: float) -> Rows:
    rows = []
    for d in dimensions:
        cosine, std = theory.ternary_cosine(threshold, d), theory.ternary_cosine_std(threshold, d)
        if threshold == 0:
            cosine, std = theory.sign_cosine(d), theory.sign_cosine_std(d)
            mean, spread = theory.sign_angle(d), theory.sign_angle_std(d)
        else:
            mean, spread = theory.angle_mean(cosine, std, d), theory.angle_std(cosine, std, d)
        row = {"dimension": d, "cosine": float(cosine), "cosine_std": float(std)}
        rows.append(row | {"angle_degrees": float(np.degrees(mean)), "std_degrees": float(np.degrees(spread))})
    return rows


def _ternary(thresholds: Sequence[float]) -> Rows:
    return [
        {
            "threshold": t,
            "angle_degrees": _degrees(theory.ternary_cosine(t)),
            "zeros_percent": 100 * (1 - float(theory.ternary_nonzero_share(t))),
            "level": float(theory.ternary_level(t)),
        }
        for t in thresholds
    ]


def _degrees(cosine: Any) -> float:
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def _print(tables: dict[str, Rows], json: Any) -> None:
    write_json(tables if len(tables) > 1 else next(iter(tables.values())), json)
    if not prints_text(json):
        return
    out = console()
    for title, rows in tables.items():
        printed = Table(title=title, title_justify="left")
        for name in rows[0]:
            printed.add_column(name.replace("_", " "), justify="right", no_wrap=True)
        for row in rows:
            printed.add_row(*(f"{value:g}" if value == round(value, 3) else f"{value:.5f}" for value in row.values()))
        out.print(printed)
