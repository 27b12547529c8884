"""Writes a page on which several runs are overlaid."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hypersign.report.content import finite, training_content
from hypersign.report.document import render, save

__all__ = ["write_comparison"]

QUANTITIES = {
    "angle": ("Angle, latent to quantized", "angle (degrees)", "angle_degrees", "predicted_angle_degrees"),
    "weights": ("r, weights binarized", "r", "r", "predicted_r"),
    "activations": ("r, activations binarized", "r", "activations_r", "predicted_activations_r"),
    "both": ("r, both binarized", "r", "both_r", "predicted_both_r"),
}
"""For each chart its title, the title of its axis, and a layer's keys of the measured and the predicted value."""


def write_comparison(
    path: Path | str, compared: Mapping[str, Any], metrics: Mapping[str, Sequence[Mapping[str, Any]]]
) -> Path:
    """Writes a comparison of runs as one self-contained HTML page, and returns the path of the page.

    Args:
        path: the file to write, atomically; its folder is made if necessary.
        compared: the result of `study.compare_runs`.
        metrics: the rows of `Run.metrics()` of each run, by the same names.

    Raises:
        HypersignError: jinja2 is not installed, or the folder is not writable.
    """
    runs, differences = compared["runs"], compared["differences"]
    layers = {
        f"layers-{name}": {"title": axis, "rows": _rows(runs, measured, predicted)}
        for name, (_, axis, measured, predicted) in QUANTITIES.items()
    }
    layers = {name: chart for name, chart in layers.items() if chart["rows"]}
    training = _training(metrics)
    text = render(
        "compare.html",
        {"runs": list(runs), "layers": layers, "training": training},
        name=", ".join(runs),
        answer=_answer(runs),
        runs=runs,
        differences=differences,
        missing=[f"{label}: {text}" for label, facts in runs.items() for text in facts["missing"]],
        layers=layers,
        charts=[(f"layers-{name}", values[0]) for name, values in QUANTITIES.items() if f"layers-{name}" in layers],
        training=training,
        reload_seconds=None,
    )
    return save(Path(path), text)


def _answer(runs: Mapping[str, Any]) -> str:
    """Which run is the most accurate, and by how many standard errors."""
    known = [
        (facts["test"]["accuracy"], next(iter(facts["test"].values())), label)
        for label, facts in runs.items()
        if facts["test"]
    ]
    if len(known) < 2:
        return f"{len(known) or 'None'} of {len(runs)} runs is finished."
    (best, n, first), (second, m, other) = sorted(known, reverse=True)[:2]
    error = math.sqrt(best * (1 - best) / n + second * (1 - second) / m)
    text = f"{first} is the most accurate, {100 * best:.2f} %; {other} has {100 * second:.2f} %"
    if best - second < 2 * error:
        return f"{text}: no difference beyond chance (standard error of the difference {100 * error:.2f} points)."
    return f"{text} (standard error of the difference {100 * error:.2f} points)."


def _rows(runs: Mapping[str, Any], measured: str, predicted: str) -> list[dict[str, Any]]:
    return [
        {
            "run": label,
            "layer": name,
            "measured": finite(layer[measured]),
            "predicted": finite(layer.get(predicted)),
        }
        for label, facts in runs.items()
        for name, layer in facts["layers"].items()
        if finite(layer.get(measured)) is not None
    ]


def _training(metrics: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """The training curves, with a series per run; measures of layers are averaged over them."""
    found: dict[str, list[dict[str, Any]]] = {
        name: [] for name in ("loss", "accuracy", "validation", "rate", "flipped", "angle")
    }
    for label, rows in metrics.items():
        curves = training_content(rows)
        for name in ("loss", "accuracy"):
            for row in curves[name]:
                if row["series"] == "training":
                    found[name].append({**row, "series": label})
                elif name == "accuracy":
                    found["validation"].append({**row, "series": label})
        found["rate"] += [{**row, "series": label} for row in curves["rate"]]
        for name in ("flipped", "angle"):
            for epoch in dict.fromkeys(row["epoch"] for row in curves[name]):
                values = [row["value"] for row in curves[name] if row["epoch"] == epoch]
                found[name].append({"epoch": epoch, "series": label, "value": finite(sum(values) / len(values))})
    return found
