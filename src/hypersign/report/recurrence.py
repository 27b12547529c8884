"""The page of a recurrent network: its layers over time."""

import base64
import io
import math
from pathlib import Path
from typing import TYPE_CHECKING

from hypersign.figures.recurrence import over_time
from hypersign.report.document import render, save

if TYPE_CHECKING:
    from hypersign.geometry.recurrence import LayerOverTime, OverTime

__all__ = ["TITLES", "answer", "layer_words", "shown_rows", "write_over_time"]

TITLES = ("step", "r", "predicted", "R", "predicted", "state", "angle to signs")
"""Titles of the columns of a layer's table."""


def write_over_time(path: Path | str, found: "OverTime", name: str, result: str = "") -> Path:
    """Writes what `geometry.over_time` found as one HTML page, and returns its path.

    Args:
        path: the file to write.
        found: the measures.
        name: the run's name.
        result: a sentence on the network's loss.

    Raises:
        HypersignError: jinja2 or matplotlib is not installed, or the folder is not writable.
    """
    picture = io.BytesIO()
    over_time(found).savefig(picture, format="png", dpi=110, metadata={"Software": None})
    text = render(
        "recurrence.html",
        {},
        name=name,
        answer=f"{result} {answer(found)}".strip(),
        picture=f"data:image/png;base64,{base64.b64encode(picture.getvalue()).decode()}",
        sequences=found.test_sequences,
        titles=TITLES,
        layers=[
            {"name": layer.name, "words": layer_words(layer), "rows": shown_rows(layer)} for layer in found.layers
        ],
        reload_seconds=None,
    )
    return save(Path(path), text)


def answer(found: "OverTime") -> str:
    """Whether r holds over time, in a sentence."""
    parts = []
    for layer in found.layers:
        first, last = layer.r[min(5, len(layer.r) - 1)], layer.r[-1]
        verb = "holds" if abs(first - last) < 0.03 else "rises" if last > first else "falls"
        parts.append(
            f"in {layer.name} r {verb} over {len(layer.r)} steps ({first:.3f} to {last:.3f}), and R ends at "
            f"{layer.accumulated[-1]:.3f}"
        )
    text = f"{'; '.join(parts)}."
    return text[0].upper() + text[1:]


def layer_words(layer: "LayerOverTime") -> str:
    """Whether predictions hold, and what the layer's weights and gates are."""
    departs = layer.departs()
    kept = sum(layer.forget) / len(layer.forget)
    words = (
        "r is as predicted at every step after the fifth"
        if not departs
        else f"r departs from its prediction at {len(departs)} of {len(layer.r)} steps"
    )
    gap = max(abs(a - b) for a, b in zip(layer.accumulated, layer.predicted_accumulated, strict=True))
    words += f"; R is {gap:.3f} from its prediction at most" if math.isfinite(gap) else ""
    words += f"; spectral norm of the recurrent weights {layer.quantized_norm:.2f}, latent {layer.latent_norm:.2f}"
    return words + (f"; the gate that keeps the state is {kept:.2f} on average." if math.isfinite(kept) else ".")


def shown_rows(layer: "LayerOverTime") -> list[list[str]]:
    """Rows of a layer's table, for some steps."""
    count = len(layer.r)
    steps = [t for t in (1, 2, 3, 5, 8, 13, 20, 30, 50, 75, 100, 200, 400, 783) if t <= count]
    steps += [] if steps[-1] == count else [count]
    return [
        [
            str(t),
            _number(layer.r[t - 1]),
            _number(layer.predicted_r[t - 1]),
            _number(layer.accumulated[t - 1]),
            _number(layer.predicted_accumulated[t - 1]),
            f"{math.sqrt(layer.state_mean_square[t - 1]):.3f}",
            f"{layer.sign_angle_degrees[t - 1]:.1f}",
        ]
        for t in steps
    ]


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"
