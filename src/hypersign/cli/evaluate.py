"""`hypersign evaluate`."""

from collections.abc import Sequence
from typing import Literal

from rich.console import Console
from rich.table import Table

from hypersign import runs
from hypersign._checks import check_int
from hypersign._json import prints_text, write_json
from hypersign.cli.options import JsonTarget, RunPath, Weights, parse
from hypersign.evaluate import evaluate as measure


def run(words: Sequence[str]) -> None:
    """Parses `hypersign evaluate`'s options, evaluates and prints."""
    parse(evaluate, words, "evaluate")


def evaluate(
    run: RunPath,
    /,
    *,
    weights: Weights = "last",
    split: Literal["test", "train"] = "test",
    images: int | None = None,
    batch_size: int = 500,
    json: JsonTarget = None,
) -> None:
    """Print accuracy, the recipe's loss and the confusion matrix of a run, computed in float32.

    Args:
        run: run folder.
        weights: the last weights, or those with the best validation accuracy.
        split: images to evaluate on.
        images: number of images to evaluate, the first ones; all by default.
        batch_size: images per batch.
        json: print JSON instead of the tables; with FILE, also write it there.
    """
    opened = runs.load(run)
    if images is not None:
        check_int("--images", images, least=1)
    data = opened.data()
    chosen = (data.test if split == "test" else data.train)[:images]
    result = measure(opened.load_model(weights), data.batches(chosen, batch_size), task=opened.task())
    write_json({"run": opened.name, "weights": weights, "split": split, **result.as_dict(data.unit)}, json)
    if not prints_text(json):
        return
    table = Table(title="rows: the label's class; columns: the class it was taken for", title_justify="left")
    table.add_column("")
    for name in data.classes:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("right", justify="right")
    for i, (name, row) in enumerate(zip(data.classes, result.confusion or (), strict=True)):
        share = f"{row[i] / sum(row):.1%}" if sum(row) else "-"
        cells = [f"[bold]{count}[/]" if i == j else str(count) if count else "" for j, count in enumerate(row)]
        table.add_row(name, *cells, share)
    console = Console()
    console.print(
        f"{opened.name}, {weights} weights: {result.accuracy:.2%} of {result.examples:,} {split} {data.unit}, "
        f"loss {result.loss:.4f}",
        highlight=False,
    )
    console.print(table)
