"""What the `modern` recipe's choices are worth on CIFAR-10: one field changed at a time, from a common start.

    HYPERSIGN_DATA=... python experiments/tune_recipe.py [--seeds 0 1] [--images 20000] [--epochs 2]
        [--choices "learning rate 4e-3" ...] [--folder runs/tune] [--json [FILE]]

Trains the quarter-width network, on bits, two minutes a choice and seed on one core, and can be stopped and started
again: finished runs are kept in --folder, so that a seed each can be trained beside another. The budget is a
hundredth of the recipe's: it tells rates, losses and surrogates apart, and says nothing of what pays in long training
only (crops, which are off here, and epochs). Accuracy is that of the 10,000 test images after batch norm is
re-estimated; no choice was made on them that the table does not show.
"""

import argparse
import dataclasses
import statistics
from pathlib import Path
from typing import Any

import rich
import rich.table
import torch
from remedies import accuracy, trained
from rich.console import Console

from hypersign._json import prints_text, write_json
from hypersign._machine import machine, versions
from hypersign.training import RECIPES

START = "learning rate 2e-3, batches of 100"
BASE = dataclasses.replace(
    RECIPES["modern"],
    crop_padding=0,
    batch_size=100,
    learning_rate=2e-3,
    widths=(32, 32, 64, 64, 128, 128),
    hidden=(256, 256),
    precision="bits",
    reestimate_images=5000,
)
CHOICES: dict[str, dict[str, Any]] = {
    START: {},
    "learning rate 1e-3": {"learning_rate": 1e-3},
    "learning rate 4e-3": {"learning_rate": 4e-3},
    "learning rate 8e-3": {"learning_rate": 8e-3},
    "batches of 50": {"batch_size": 50},
    "squared hinge": {"loss": "squared-hinge"},
    "exponential schedule": {"schedule": "exponential", "final_learning_rate": 2e-5},
    "surrogate: polynomial": {"surrogate": "polynomial"},
    "surrogate: annealed tanh": {"surrogate": "tanh"},
    "batch norm with scale": {"norm_scale": True},
}
FILE_NAME = str.maketrans({" ": "-", ":": None, ",": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="of the runs (default 0 1)")
    parser.add_argument("--images", type=int, default=20_000, help="of CIFAR-10's 50,000 (default 20000)")
    parser.add_argument("--epochs", type=int, default=2, help="of each run (default 2)")
    others = [name for name in CHOICES if name != START]
    parser.add_argument("--choices", nargs="*", default=others, choices=others, metavar="CHOICE", help="default: all")
    parser.add_argument("--folder", type=Path, default=Path("runs/tune"), help="of the runs")
    parser.add_argument(
        "--json", type=Path, nargs="?", const="-", metavar="FILE", help="print JSON, or write it there"
    )
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    base = dataclasses.replace(BASE, images=arguments.images, epochs=arguments.epochs)
    found: dict[str, list[float]] = {name: [] for name in (START, *arguments.choices)}
    for seed in arguments.seeds:
        for name in found:
            folder = arguments.folder / f"{name.translate(FILE_NAME)}-seed-{seed}"
            found[name].append(accuracy(trained(folder, dataclasses.replace(base, seed=seed, **CHOICES[name]))))
            Console(stderr=True).print(f"seed {seed}, {name}: {found[name][-1]:.2%}", highlight=False)

    rows = {name: row(values, found[START]) for name, values in found.items()}
    result = {
        "benchmark": "tune_recipe",
        "machine": machine(),
        "versions": versions("torch", "numpy"),
        "recipe_of_start": base.as_dict(),
        "seeds": arguments.seeds,
        "choices": {name: {"fields": CHOICES[name], **rows[name]} for name in found},
    }
    write_json(result, arguments.json)
    if not prints_text(arguments.json):
        return
    title = f"CIFAR-10, quarter width, {base.images:,} images, {base.epochs} epochs"
    table = rich.table.Table("choice", "accuracy", "against the first", title=title)
    for name, values in rows.items():
        table.add_row(name, f"{values['accuracy']:.2%}", f"{100 * values['change']:+.2f}")
    rich.print(table)


def row(values: list[float], base: list[float]) -> dict[str, Any]:
    """Accuracies of a choice, and the mean change against the start with the same seeds."""
    changes = [value - other for value, other in zip(values, base, strict=True)]
    return {"accuracies": values, "accuracy": statistics.fmean(values), "change": statistics.fmean(changes)}


if __name__ == "__main__":
    main()
