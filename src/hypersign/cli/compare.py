"""`hypersign compare`: runs side by side."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from rich.table import Table

from hypersign._installation import as_typed
from hypersign._json import prints_text, write_json
from hypersign.cli.options import JsonTarget, Option, parse
from hypersign.cli.printing import console

PageTarget = Annotated[
    Path | None, Option("also write a page on which the runs are overlaid", "FILE", written="file")
]
RunPaths = Annotated[tuple[Path, ...], Option("two or more run folders", "RUN ...")]


QUANTITIES = (
    ("angle between latent and quantized filters, in degrees", ("angle_degrees", "predicted_angle_degrees"), 1),
    ("r of dot products, weights quantized", ("r", "training_r", "predicted_r"), 3),
    ("r, inputs quantized", ("activations_r", "training_activations_r", "predicted_activations_r"), 3),
    ("r, weights and inputs quantized", ("both_r", "training_both_r", "predicted_both_r"), 3),
)
"""Title, keys of the measured and the predicted value (and between them the one of training images), and digits."""


def run(words: Sequence[str]) -> None:
    """Parses `hypersign compare`'s options and prints."""
    parse(compare, words, "compare")


def compare(runs_: RunPaths, /, *, report: PageTarget = None, json: JsonTarget = None) -> None:
    """Print runs side by side: settings that differ, accuracy, and each layer's angle and r.

    Angles and r come from the geometry.json that hypersign inspect wrote; runs without one are named.

    Example:
        hypersign compare runs/demo runs/demo/twin --report compared.html
    """
    from hypersign import runs, study

    opened = [runs.load(path) for path in runs_]
    answer = study.compare_runs(opened)
    if report is not None:
        study.write_comparison(report, opened)
    found, differences = answer["runs"], answer["differences"]
    write_json(answer, json)
    if not prints_text(json):
        return
    out = console()
    out.print(_overview(found, differences))
    measured = {label: facts["layers"] for label, facts in found.items() if facts["layers"]}
    for title, keys, digits in QUANTITIES if measured else ():
        out.print(_layers(title, measured, keys, digits))
    for label, facts in found.items():
        for missing in facts["missing"]:
            out.print(as_typed(f"{label}: {missing}"), soft_wrap=True)
    if report is not None:
        out.print(f"Page: {report}", soft_wrap=True)


def _overview(found: dict[str, dict[str, Any]], differences: dict[str, dict[str, Any]]) -> Table:
    """Accuracy and loss with their errors, then every setting that differs."""
    table = Table(
        title="results, and the settings that differ",
        title_justify="left",
        caption="± one binomial standard error of the accuracy, over test images",
        caption_justify="left",
    )
    table.add_column("result or setting", overflow="fold")
    for label in found:
        table.add_column(label, justify="right", overflow="fold")
    tests = [facts["test"] for facts in found.values()]
    table.add_row("test accuracy", *(_accuracy(test) for test in tests))
    table.add_row("test loss", *(f"{test['loss']:.4f}" if test else "-" for test in tests))
    table.add_section()
    for name, values in differences.items():
        table.add_row(name, *(_setting(value) for value in values.values()))
    if not differences:
        table.add_row("no setting differs", *[""] * len(found))
    return table


def _setting(value: Any) -> str:
    if value is None:
        return "-"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _accuracy(test: dict[str, Any]) -> str:
    if not test:
        return "-"
    p, n = test["accuracy"], next(iter(test.values()))  # the number of examples comes first, under their name
    return f"{p:.2%} ± {math.sqrt(p * (1 - p) / n):.2%}"


def _layers(title: str, measured: dict[str, dict[str, Any]], keys: tuple[str, ...], digits: int) -> Table:
    """One row per layer, one column per run: measured beside predicted."""
    words = "measured / predicted" if len(keys) == 2 else "measured / from training images / predicted"
    table = Table(title=f"{title}:\n{words}", title_justify="left")
    table.add_column("layer", overflow="fold")
    for label in measured:
        table.add_column(label, justify="right", overflow="fold")
    for name in dict.fromkeys(name for layers in measured.values() for name in layers):
        found = [layers.get(name) for layers in measured.values()]
        table.add_row(
            name,
            *("-" if layer is None else " / ".join(_text(layer.get(key), digits) for key in keys) for layer in found),
        )
    return table


def _text(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
