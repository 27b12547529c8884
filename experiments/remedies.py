"""Remedies for what one bit costs: the same small network and budget with each, on Fashion-MNIST.

    HYPERSIGN_DATA=... python experiments/remedies.py [--seeds 2] [--folder runs/remedies] [--json [FILE]]

Trains one network per remedy and seed, about a minute each on one core. It can be stopped and started again:
finished runs are kept in --folder. Images, epochs, learning rate and seeds are the same for all. `predicted` keeps
the two layers in float whose bit costs most by geometry, in the binary run of the same seed on training images
(`accumulated_r`: the smallest correlation of logits with only this layer binarized); `random` keeps two others.
Besides its accuracy, each remedy is measured in the first layer: the angle between latent and quantized filters,
and r of the dot products with quantized weights, and with quantized weights and inputs, on 500 test images.
"""

import argparse
import dataclasses
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
from hypersign.geometry import accumulated_r, angle_stats, layer_r
from hypersign.layers import quant_layers
from hypersign.runs import Run, load
from hypersign.summaries import summary
from hypersign.training import Recipe, resume, train

KEPT = 2
"""Layers kept in float."""

BINARY = Recipe(
    data="fashion-mnist",
    images=10_000,
    widths=(16, 16, 32, 32),
    pools=(2, 4),
    hidden=(64,),
    epochs=3,
    batch_size=50,
    loss="cross-entropy",
    learning_rate=3e-3,
    final_learning_rate=0.0,
    schedule="cosine",
    schedule_per="step",
    gradient_clip=None,
    reestimate_images=2000,
)
REMEDIES: dict[str, dict[str, Any]] = {
    "binary": {},
    "first layer: float weights": {"float_weights": ("conv1",)},
    "first layer: Haar rotation to 64": {"first_layer": "haar", "first_dimensions": 64},
    "first layer: Hadamard rotation to 32": {"first_layer": "hadamard", "first_dimensions": 32},
    "first layer: Hadamard rotation to 64": {"first_layer": "hadamard", "first_dimensions": 64},
    "first layer: Hadamard rotation to 128": {"first_layer": "hadamard", "first_dimensions": 128},
    "first layer: Hadamard rotation to 256": {"first_layer": "hadamard", "first_dimensions": 256},
    "first layer: thermometer of 8": {"first_layer": "thermometer"},
    "first layer: 8 bit planes": {"first_layer": "bit-planes"},
    "ternary, threshold .02": {"levels": 3},
    "ternary, best threshold": {"levels": 3, "threshold": "optimal"},
    "a scale per filter": {"weight_scale": "filter"},
    "a scale per 16 weights": {"weight_scale": 16},
    f"{KEPT} layers in float: predicted": {},
    f"{KEPT} layers in float: random": {},
}


def predicted_layers(run: Run) -> list[str]:
    """The layers in the order in which geometry says that their bit costs: least correlation of logits first."""
    data, model = run.data(), run.load_model()
    train_images = data.train[: BINARY.images][::20]
    layers = layer_r(model, data.batches(train_images, 100))
    return sorted((layer.name for layer in layers), key=lambda name: accumulated_r(layers, weights=[name])[-1])


def options(name: str, seed: int, binary: Run | None) -> dict[str, Any]:
    """The recipe's fields that make the remedy, of which some depend on the binary run of the same seed."""
    if "layers in float" not in name:
        return REMEDIES[name]
    assert binary is not None
    order = predicted_layers(binary)
    chosen = set(order[:KEPT])
    draw = random.Random(seed)
    while name.endswith("random") and chosen & set(order[:KEPT]):
        chosen = set(draw.sample(order, KEPT))
    return {"float_weights": tuple(layer for layer in quant_layers(binary.build_model()) if layer in chosen)}


def trained(folder: Path, recipe: Recipe, device: str = "cpu") -> Run:
    """The finished run of this recipe in `folder`; trained or resumed if needed."""
    if not (folder / "run.json").exists():
        return train(recipe, folder, device=device, console=Console(quiet=True))
    run = load(folder)
    if Recipe(**run.info["recipe"]) != recipe:
        raise SystemExit(f"{folder} holds another run than this remedy: name another --folder, or remove it")
    return run if run.finished else resume(folder, device=device, console=Console(quiet=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2, help="runs of each remedy (default 2)")
    parser.add_argument("--folder", type=Path, default=Path("runs/remedies"), help="of the runs")
    parser.add_argument(
        "--json", type=Path, nargs="?", const="-", metavar="FILE", help="print JSON, or write it there"
    )
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    runs: dict[str, list[Run]] = {name: [] for name in REMEDIES}
    for seed in range(arguments.seeds):
        for number, name in enumerate(REMEDIES):
            binary = runs["binary"][seed] if number else None
            recipe = dataclasses.replace(BINARY, seed=seed, **options(name, seed, binary))
            run = trained(arguments.folder / f"{number:02}-seed-{seed}", recipe)
            runs[name].append(run)
            Console(stderr=True).print(f"seed {seed}, {name}: {accuracy(run):.2%}", highlight=False)

    rows = {name: row(done, runs["binary"]) for name, done in runs.items()}
    result = {
        "benchmark": "remedies",
        "machine": machine(),
        "versions": versions("torch", "numpy"),
        "recipe_of_binary": BINARY.as_dict(),
        "seeds": arguments.seeds,
        "rows": rows,
    }
    write_json(result, arguments.json)
    if not prints_text(arguments.json):
        return
    columns = "remedy", "accuracy", "against binary", "angle", "r", "r, both", "weights packed"
    table = rich.table.Table(*columns, title="Fashion-MNIST; angle and r of the first layer")
    for name, found in rows.items():
        change = f"{100 * found['change']:+.2f} ± {100 * found['change_error']:.2f}"
        first = found["first_layer"]
        geometry = f"{first['angle_degrees']:.1f}", f"{first['weights_r']:.3f}", f"{first['both_r']:.3f}"
        table.add_row(name, f"{found['accuracy']:.2%}", change, *geometry, f"{found['packed_bytes']:,} B")
    rich.print(table)


def accuracy(run: Run) -> float:
    return float(run.info["results"]["test"]["accuracy"])


def first_layer(run: Run) -> dict[str, float]:
    """Means over the filters of conv1: the angle, and r of its products with weights, and with both, quantized."""
    data, model = run.data(), run.load_model()
    found = {layer.name: layer for layer in layer_r(model, data.batches(data.test[:500], 100))}
    if "conv1" not in found:  # nothing of it is quantized
        return {"angle_degrees": 0.0, "weights_r": 1.0, "both_r": 1.0}
    layer = found["conv1"]
    angle = angle_stats(quant_layers(model)["conv1"]).mean
    return {"angle_degrees": angle, "weights_r": layer.weights, "both_r": layer.both}


def row(done: list[Run], binary: list[Run]) -> dict[str, Any]:
    """Accuracies of a remedy, and the paired change against the binary runs with its standard error over seeds."""
    changes = [accuracy(run) - accuracy(base) for run, base in zip(done, binary, strict=True)]
    firsts = [first_layer(run) for run in done]
    size = summary(done[0].build_model(), tuple(done[0].info["model"]["shape"])).total
    return {
        "accuracies": [accuracy(run) for run in done],
        "accuracy": statistics.fmean(accuracy(run) for run in done),
        "change": statistics.fmean(changes),
        "change_error": statistics.stdev(changes) / len(changes) ** 0.5 if len(changes) > 1 else 0.0,
        "first_layer": {
            name: statistics.fmean(geometry[name] for geometry in firsts)
            for name in ("angle_degrees", "weights_r", "both_r")
        },
        "float_weights": [run.info["recipe"]["float_weights"] for run in done],
        "packed_bytes": size.packed_bytes,
        "binary_macs": size.binary_macs,
        "float_macs": size.float_macs,
    }


if __name__ == "__main__":
    main()
