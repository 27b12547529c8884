"""Before training from scratch: does it help to keep the layers in float that the forecast names?

    HYPERSIGN_DATA=... python experiments/forecast_training.py [--images 50000] [--seeds 3] [--json [FILE]]

The quarter-width CIFAR-10 VGG, trained binary for five epochs. For k = 1 and 2: the k layers whose binary weights
alone, repaired, change the float twin's logits most keep their weights in float. For comparison, k layers drawn at
random do so, twice per seed. The forecast of the twin is the cell that experiments/forecast.py keeps in --folder.
Finished runs are kept there too, so it can be stopped and started again; several processes may each train one seed
(--only), and a last call without it prints the table.
"""

import argparse
import dataclasses
import json
import random
import statistics
from pathlib import Path
from typing import Any

import rich
import rich.table
import torch
from rich.console import Console

from hypersign._json import prints_text, write_json
from hypersign._machine import machine, versions
from hypersign.runs import load
from hypersign.training import Recipe, resume, train

KEPT = (1, 2)
"""Numbers of layers kept in float."""

DRAWS = 2
"""Random draws of other layers, per seed and number."""

BINARY = Recipe(
    data="cifar-10",
    flip=True,
    widths=(32, 32, 64, 64, 128, 128),
    hidden=(256, 256),
    epochs=5,
    batch_size=50,
    loss="cross-entropy",
    learning_rate=2e-3,
    final_learning_rate=0.0,
    schedule="cosine",
    schedule_per="step",
    gradient_clip=None,
    reestimate_images=2000,
)


def order(folder: Path) -> list[str]:
    """The layers, the one whose binary weights alone lower r of the logits most first."""
    kept = folder / "vgg" / "alone.json"
    if not kept.exists():
        raise SystemExit(f"{kept} is missing: run experiments/forecast.py --networks vgg --folder {folder} first")
    rows = json.loads(kept.read_text())["forecast"]["layers"]
    return [row["name"] for row in sorted(rows, key=lambda row: row["repaired"]["binary"]["r"])]


def choices(layers: list[str], seed: int) -> dict[str, tuple[str, ...]]:
    """Layers kept in float: by name of the run."""
    draw = random.Random(seed)
    found: dict[str, tuple[str, ...]] = {"binary": ()}
    for k in KEPT:
        found[f"forecast-{k}"] = tuple(layers[:k])
        for i in range(DRAWS):
            chosen = tuple(layers[:k])
            while set(chosen) == set(layers[:k]) or chosen in found.values():
                chosen = tuple(sorted(draw.sample(layers, k)))
            found[f"random-{k}-{i}"] = chosen
    return found


def accuracy(folder: Path, recipe: Recipe, device: str) -> float:
    """The test accuracy of the finished run in `folder`; trained or resumed if needed."""
    quiet = Console(quiet=True)
    if (folder / "run.json").exists():
        run = load(folder)
        if Recipe(**run.info["recipe"]) != recipe:
            raise SystemExit(f"{folder} holds another run: name another --folder, or remove it")
        run = run if run.finished else resume(folder, device=device, console=quiet)
    else:
        run = train(recipe, folder, device=device, console=quiet)
    return float(run.info["results"]["test"]["accuracy"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50_000, help="training images (default 50000)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--names", nargs="+", help="with --only: train these runs alone, such as binary random-1-0")
    parser.add_argument("--only", type=int, metavar="SEED", help="train the runs of this seed and stop")
    parser.add_argument("--device", default="cpu", help="device that trains (default cpu)")
    parser.add_argument("--folder", type=Path, default=Path("runs/forecast"), help="of experiments/forecast.py")
    parser.add_argument(
        "--json", type=Path, nargs="?", const="-", metavar="FILE", help="print JSON, or write it there"
    )
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    layers = order(arguments.folder)
    found: list[dict[str, Any]] = []
    for seed in range(arguments.seeds) if arguments.only is None else [arguments.only]:
        for name, kept in choices(layers, seed).items():
            if arguments.names and name not in arguments.names:
                continue
            recipe = dataclasses.replace(
                BINARY,
                seed=seed,
                images=arguments.images,
                float_weights=tuple(x for x in sorted(layers) if x in kept),
            )
            folder = arguments.folder / "training" / f"{arguments.images}-{seed}-{name}"
            value = accuracy(folder, recipe, arguments.device)
            found.append({"seed": seed, "name": name, "float_weights": kept, "accuracy": value})
            Console(stderr=True).print(f"seed {seed}, {name} {kept}: {value:.2%}", highlight=False)
    if arguments.only is not None:
        return
    result = {
        "benchmark": "forecast-training",
        "machine": machine(),
        "versions": versions("torch", "numpy"),
        "binary_recipe": BINARY.as_dict(),
        "images": arguments.images,
        "seeds": arguments.seeds,
        "order": layers,
        "runs": found,
        "gains": [gain(found, k) for k in KEPT],
    }
    write_json(result, arguments.json)
    if prints_text(arguments.json):
        table = rich.table.Table("kept in float", "accuracy", "gain over random layers", "gain over binary")
        for row in result["gains"]:
            over = (f"{100 * row[key]:+.2f} ± {100 * row[f'{key}_error']:.2f}" for key in ("random", "binary"))
            table.add_row(", ".join(layers[: row["k"]]), f"{row['accuracy']:.2%}", *over)
        rich.print(table)


def gain(runs: list[dict[str, Any]], k: int) -> dict[str, float]:
    """The paired gain in accuracy of the named layers over random ones, and over none, with errors over seeds."""
    seeds = sorted({run["seed"] for run in runs})

    def value(seed: int, start: str) -> float:
        return statistics.fmean(r["accuracy"] for r in runs if r["seed"] == seed and r["name"].startswith(start))

    found: dict[str, float] = {"k": k, "accuracy": statistics.fmean(value(seed, f"forecast-{k}") for seed in seeds)}
    for name, start in (("random", f"random-{k}"), ("binary", "binary")):
        gains = [value(seed, f"forecast-{k}") - value(seed, start) for seed in seeds]
        found[name] = statistics.fmean(gains)
        found[f"{name}_error"] = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else 0.0
    return found


if __name__ == "__main__":
    main()
