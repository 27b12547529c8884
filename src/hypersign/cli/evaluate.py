"""`hypersign evaluate`: accuracy, loss and confusion matrix of a run."""

from collections.abc import Sequence
from typing import Literal

from rich.table import Table
from rich.text import Text

from hypersign._checks import check_int
from hypersign._json import prints_text, write_json
from hypersign.cli.options import JsonTarget, RunPath, Weights, parse
from hypersign.cli.printing import bits_words, console


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

    Example:
        hypersign evaluate runs/demo --images 100

    Args:
        split: evaluate on the test or the training images.
        images: evaluate on the first INT images (of a text: characters); all by default.
        batch_size: images per batch; results do not depend on it. A recurrent network reads a text as this many
            streams side by side.
    """
    from hypersign import runs
    from hypersign.evaluate import evaluate as measure
    from hypersign.training.setup import carries_state

    opened = runs.load(run)
    if images is not None:
        check_int("--images", images, min=1)
    data = opened.data()
    chosen = (data.test if split == "test" else data.train)[:images]
    model = opened.load_model(weights)
    options = {"streams": True} if carries_state(model, data) else {}
    result = measure(model, data.batches(chosen, batch_size, **options), task=opened.task())
    found = result.as_dict(data.unit)
    write_json({"run": opened.name, "weights": weights, "split": split, **found}, json)
    if not prints_text(json):
        return
    out = console()
    out.print(
        f"{opened.name}, {weights} weights: {result.accuracy:.2%} of {found[data.unit]:,} {split} {data.unit}, "
        f"loss {result.loss:.4f}{bits_words(found, data.unit)}",
    )
    if result.confusion is None or not data.classes:
        return
    table = Table(title="rows: class of the label; columns: predicted class", title_justify="left")
    table.add_column("")
    for name in data.classes:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("right", justify="right")
    for i, (name, row) in enumerate(zip(data.classes, result.confusion, strict=True)):
        share = f"{row[i] / sum(row):.1%}" if sum(row) else "-"
        cells = [Text(str(count), "bold") if i == j else str(count) if count else "" for j, count in enumerate(row)]
        table.add_row(name, *cells, share)
    out.print(table)
