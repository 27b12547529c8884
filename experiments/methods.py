"""Every method by name: one small network and budget, a few seeds; does the diagnosis predict the gain?

    HYPERSIGN_DATA=... python experiments/methods.py [--methods bnn ir-net] [--seeds 3] [--network vgg]
        [--images 20000] [--epochs 5] [--cells docs/results/methods] [--folder runs/methods] [--figure FILE]

Trains each method once per seed on one core. A finished cell is one JSON file in --cells, and is not trained again.
Processes with different --methods, or each with another seed (--only), may work at once. `--epochs 0` trains nothing
and prints the table of the finished cells. `--network resnet20 --best 1 6` takes the six methods that are best on the
VGG. A cell has the accuracy on the test images, the time, the mean angle and r over layers, the share of
signs that flipped per epoch, and the size and speed of the packed network, or why there is none.

Weights and inputs are quantized in every cell: methods for weights alone get `sign` as inputs and no activation
function. Loss and optimizer are the method's own, with these epochs and batches of 100, without warm-up and crops.
`OVERRIDES` replaces settings for hundreds of epochs or for weights that are trained already: AskewSGD's interval
narrows in these epochs; some methods have no weight decay, some the rate of the recipe `modern`. So the order says
which method learns fast, and not which one is best after 400 epochs.
"""

import argparse
import math
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import rich
import rich.table
import torch
from remedies import accuracy, trained
from rich.console import Console
from scipy import stats

from hypersign import HypersignError
from hypersign._json import parse_object, prints_text, write_json
from hypersign._machine import machine, versions
from hypersign.geometry import inspect
from hypersign.packed import PackedModel
from hypersign.packing import pack, verify
from hypersign.runs import Run
from hypersign.training import METHODS, Recipe

NETWORKS: dict[str, dict[str, Any]] = {
    "vgg": {"model": "vgg", "widths": (32, 32, 64, 64, 128, 128), "hidden": (256, 256)},
    "resnet20": {"model": "resnet20"},
}
_MODERN: dict[str, Any] = {"optimizer": "adam", "learning_rate": 4e-3, "weight_decay": 0.0}
OVERRIDES: dict[str, dict[str, Any]] = {
    "askew-sgd": {"latent_rule": "askew-sgd:hold=1,decay=0.1"},
    "rbnn": {"weight_decay": 0.0},
    "reste": {"weight_decay": 0.0},
    "ovsw": {"weight_decay": 0.0},
    "biper": {"weight_decay": 0.0, "learning_rate": 0.1},
    "proxquant": _MODERN,
    "parq": _MODERN,
    "mpt": _MODERN,
}
GEOMETRY = ("angle_degrees", "r_weights", "r_both", "flips_per_epoch", "flips_in_last_epoch")
"""Quantities whose rank correlation with accuracy over methods is printed."""
R_BOTH = "mean r, weights and inputs quantized"
LAST_FLIPS = "share of signs that flip in the last epoch"
INSPECTED = 500
"""Test images of the inspection."""


def recipe_of(method: str, seed: int, arguments: argparse.Namespace) -> Recipe:
    """The recipe of a cell."""
    chosen = dict(OVERRIDES.get(method, {}))
    if METHODS[method].parts.get("inputs") == "float":
        chosen |= {"inputs": "sign", "activation": "none"}
    sizes = {"epochs": arguments.epochs, "images": arguments.images, "batch_size": 100, "warmup": 0, "seed": seed}
    few = {"reestimate_images": min(5000, arguments.images)}
    return Recipe.of(
        method, **{"data": arguments.data, "crop_padding": 0, **NETWORKS[arguments.network], **sizes, **few, **chosen}
    )


def cell(run: Run) -> dict[str, Any]:
    """The measures of a finished run."""
    data, model = run.data(), run.load_model()
    found = inspect(model, data.batches(data.test[:INSPECTED], 100), task=run.task())
    layers = [layer for layer in found.layers if layer.quantizes_weights]
    flips = [
        statistics.fmean(layer["flipped_signs"] for layer in row["layers"].values())
        for row in run.metrics()
        if row["layers"]
    ]

    def mean(values: list[float]) -> float | None:
        known = [value for value in values if math.isfinite(value)]
        return statistics.fmean(known) if known else None

    return {
        "accuracy": accuracy(run),
        "training_seconds": run.info["results"]["seconds"],
        "angle_degrees": mean([layer.angle_degrees.mean for layer in layers]),
        "predicted_angle_degrees": mean([layer.angle_degrees.predicted_mean for layer in layers]),
        "r_weights": mean([layer.weights_binarized.pearson_r for layer in layers]),
        "r_both": mean([layer.both_binarized.pearson_r for layer in layers]),
        "flips_per_epoch": mean(flips),
        "flips_in_last_epoch": flips[-1] if flips else None,
        **packed(run, model, data.test.images[:INSPECTED].numpy()),
    }


def packed(run: Run, model: torch.nn.Module, images: np.ndarray) -> dict[str, Any]:
    """Size, speed and correctness of the packed network, or why there is none."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "net"
        try:
            pack(run, file)
        except HypersignError as error:
            return {"packed_refused": str(error)}
        network = PackedModel.load(file)
        network.predict(images, threads=1)
        times = []
        for _ in range(5):
            started = time.perf_counter()
            network.predict(images, threads=1)
            times.append(time.perf_counter() - started)
        return {
            "packed_bytes": file.stat().st_size,
            "packed_images_per_second": len(images) / min(times),
            "packed_wrong": verify(model, network, images).wrong,
        }


def rank_correlations(rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Spearman's rank correlation of each quantity with accuracy over methods, and its p-value."""
    found = {}
    for name in GEOMETRY:
        pairs = [(row[name], row["accuracy"]) for row in rows.values() if row.get(name) is not None]
        if len(pairs) > 3 and len({a for a, _ in pairs}) > 1:
            rho = stats.spearmanr(*zip(*pairs, strict=True))
            found[name] = {"rank_correlation": float(rho.statistic), "p": float(rho.pvalue), "methods": len(pairs)}
    return found


def row(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the seeds of one method; the accuracy has a standard error where there are several."""
    values = [one["accuracy"] for one in cells]
    numbers = [key for key, value in cells[0].items() if isinstance(value, int | float)]
    means = {}
    for key in numbers:
        known = [one[key] for one in cells if one.get(key) is not None]
        means[key] = statistics.fmean(known)
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    refused = {key: value for key, value in cells[0].items() if key == "packed_refused"}
    return {**means, **refused, "accuracies": values, "accuracy_error": error}


def best(cells: Path) -> list[str]:
    """The methods by mean accuracy over the finished cells of the VGG, best first."""
    found: dict[str, list[float]] = {}
    for file in cells.glob("vgg-*.json"):
        one = parse_object(str(file), file.read_text())
        found.setdefault(one["method"], []).append(one["accuracy"])
    return sorted(found, key=lambda method: -statistics.fmean(found[method]))


def draw(rows: dict[str, dict[str, Any]], correlations: dict[str, dict[str, float]], file: Path) -> None:
    """Accuracy of each method, and accuracy over r of both quantized and over the flips of the last epoch."""
    from matplotlib.figure import Figure

    from hypersign.figures.style import GUIDE, MEASURED
    from hypersign.figures.style import axes as styled

    names = sorted(rows, key=lambda name: rows[name]["accuracy"])
    figure = Figure(figsize=(11, 0.19 * len(names) + 1.6))
    first, *others = (styled(ax) for ax in figure.subplots(1, 3, width_ratios=(1.2, 1, 1)))
    values = [100 * rows[name]["accuracy"] for name in names]
    errors = [100 * (rows[name]["accuracy_error"] or 0) for name in names]
    first.errorbar(values, range(len(names)), xerr=errors, fmt="o", color=MEASURED, markersize=4)
    first.set_yticks(range(len(names)), names, fontsize="x-small")
    first.set(xlabel="test accuracy (%)")
    for ax, quantity, words in zip(others, ("r_both", "flips_in_last_epoch"), (R_BOTH, LAST_FLIPS), strict=True):
        known = [name for name in names if rows[name].get(quantity) is not None]
        points = [(rows[name][quantity], 100 * rows[name]["accuracy"]) for name in known]
        ax.scatter(*zip(*points, strict=True), s=14, color=MEASURED)
        for name, point in zip(known, points, strict=True):
            ax.annotate(name, point, (2, 2), textcoords="offset points", fontsize=5, color=GUIDE)
        rho = correlations.get(quantity, {}).get("rank_correlation", math.nan)
        ax.set(xlabel=words, ylabel="test accuracy (%)", title=f"rank correlation {rho:+.2f}")
        ax.title.set_fontsize("small")
    figure.tight_layout()
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS), metavar="METHOD")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each method (default 3)")
    parser.add_argument(
        "--best", type=int, nargs=2, metavar=("A", "B"), help="the Ath to Bth best methods on the VGG, by its cells"
    )
    parser.add_argument("--only", type=int, metavar="SEED", help="train and show the cells of this seed alone")
    parser.add_argument("--network", choices=list(NETWORKS), default="vgg")
    parser.add_argument("--data", default="cifar-10")
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--epochs", type=int, default=5, help="0: print the finished cells")
    parser.add_argument("--cells", type=Path, default=Path("docs/results/methods"), help="of the finished cells")
    parser.add_argument("--folder", type=Path, default=Path("runs/methods"), help="of the runs")
    parser.add_argument("--device", default="cpu", help="device that trains (default cpu)")
    parser.add_argument("--figure", type=Path, help="draws accuracy over angle")
    parser.add_argument(
        "--json", type=Path, nargs="?", const="-", metavar="FILE", help="print JSON, or write it there"
    )
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    if arguments.best is not None:
        first, last = arguments.best
        arguments.methods = best(arguments.cells)[first - 1 : last]
    cells: dict[str, list[dict[str, Any]]] = {}
    for seed in range(arguments.seeds) if arguments.only is None else [arguments.only]:
        for method in arguments.methods:
            file = arguments.cells / f"{arguments.network}-{method}-seed-{seed}.json"
            if not file.exists():
                if not arguments.epochs:
                    continue
                recipe = recipe_of(method, seed, arguments)
                folder = arguments.folder / f"{arguments.network}-{method}-seed-{seed}"
                try:
                    run = trained(folder, recipe, arguments.device)
                except (HypersignError, RuntimeError) as error:  # it diverged, or this device cannot train it
                    Console(stderr=True).print(f"seed {seed}, {method}: {error}", highlight=False)
                    continue
                file.parent.mkdir(parents=True, exist_ok=True)
                device = torch.cuda.get_device_name() if arguments.device == "cuda" else arguments.device
                found = {"method": method, "recipe": recipe.as_dict(), "device": device, **cell(run)}
                write_json(found | {"machine": machine(), "versions": versions("torch", "numpy")}, file)
                Console(stderr=True).print(f"seed {seed}, {method}: {found['accuracy']:.2%}", highlight=False)
            cells.setdefault(method, []).append(parse_object(str(file), file.read_text()))

    rows = {method: row(found) for method, found in cells.items()}
    correlations = rank_correlations(rows)
    one = next(iter(cells.values()))[0] if cells else {}
    made = {key: one.get(key) for key in ("device", "machine", "versions")}
    write_json(
        {
            "benchmark": "methods",
            "network": arguments.network,
            "seeds": arguments.seeds,
            **made,
            "rows": rows,
            "rank_correlations": correlations,
        },
        arguments.json,
    )
    if arguments.figure is not None:
        draw(rows, correlations, arguments.figure)
    if prints_text(arguments.json):
        show(rows, correlations)


def show(rows: dict[str, dict[str, Any]], correlations: dict[str, dict[str, float]]) -> None:
    """The table, best first, and the rank correlations."""
    table = rich.table.Table("method", "accuracy", "minutes", "angle", "r", "r, both", "flips", "packed", "images/s")
    for name, values in sorted(rows.items(), key=lambda item: -item[1]["accuracy"]):
        error = "" if values["accuracy_error"] is None else f" ± {100 * values['accuracy_error']:.2f}"
        shown = [values.get(key) for key in ("angle_degrees", "r_weights", "r_both", "flips_per_epoch")]
        words = ["-" if value is None else f"{value:.3g}" for value in shown]
        size = f"{values['packed_bytes']:,.0f} B" if "packed_bytes" in values else "no"
        speed = f"{values['packed_images_per_second']:,.0f}" if "packed_bytes" in values else ""
        minutes = f"{values['training_seconds'] / 60:.1f}"
        table.add_row(name, f"{100 * values['accuracy']:.2f} %{error}", minutes, *words, size, speed)
    rich.print(table)
    for name, found in correlations.items():
        rich.print(
            f"{name}: rank correlation with accuracy {found['rank_correlation']:+.2f} over "
            f"{found['methods']} methods (p = {found['p']:.2g})"
        )


if __name__ == "__main__":
    main()
