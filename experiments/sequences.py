"""What do low bits cost networks for sequences? Binary and ternary networks beside their float twins.

    HYPERSIGN_DATA=... python experiments/sequences.py --size small --folder runs/sequences [--only rows-float ...]
        [--seeds 1] [--device cpu] [--json docs/results/sequences.json]

Trains one run after another; Ctrl-C or SIGTERM saves the current one, and the same command resumes it. A finished run
is not trained again. The JSON has every run of the folder that is finished, and how far the others are. --time first
measures a step of each network.

- rows: an LSTM that reads MNIST row by row; float and binary weights;
- lstm: a character LSTM on War and Peace; float, with a learned length per row or without (float_no_norm); binary and
  ternary weights with a learned length per row, with a least-squares scale per row (binary_scale, ternary_scale), or
  with the same scale and PARQ's hardening during training (ternary_parq); float_no_norm, binary_scale and
  ternary_scale at a higher rate (float_high_rate, binary_high_rate, ternary_high_rate); binary weights with neither
  length nor scale (plain); float, binary and ternary trained on from the weights of the finished float network
  (float_on, binary_on, ternary_on);
- gpt: a transformer on tiny Shakespeare; float, and ternary with 8-bit activations; both also with RMS norm before
  each part only (float_plain, plain).

Twins have the same number of epochs, and the same learning rate unless it is said above; those that train on have a
lower one. --size small fits a busy core in three hours: 128 units, 256 units, and nanoGPT's network for a CPU. --size
published has the sizes of the literature: 256 units, 512 units (5 epochs: 25 minutes of a core for each network), and
nanoGPT's character model (for a GPU).
"""

import argparse
import dataclasses
import math
import time
from pathlib import Path
from typing import Any

import rich
import rich.table
import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import nn

import hypersign
from hypersign._json import prints_text, write_json
from hypersign._machine import machine, versions
from hypersign.layers import RecurrentProduct
from hypersign.models import build
from hypersign.training import DivergedError, Recipe, resume

FLOAT = {"weights": "float", "inputs": "float"}
LSTM = {"model": "lstm", "gradient_norm": 5.0, "reestimate_images": 0}
GPT = {
    "model": "gpt",
    "optimizer": "adamw",
    "gradient_norm": 1.0,
    "latent_clip": "none",
    "reestimate_images": 0,
}
ON = {"norm": "none", "learning_rate": 3e-3, "start": "float"}
BITNET = {"levels": 3, "method": "bitnet"}
KINDS: dict[str, dict[str, Any]] = {
    "rows": {**LSTM, "data": "mnist", "batch_size": 100, "learning_rate": 4e-3},
    "lstm": {**LSTM, "data": "war-and-peace", "batch_size": 64, "learning_rate": 1e-2},
    "gpt": {**GPT, "data": "tinyshakespeare", "learning_rate": 1e-3},
}
"""What all runs of a kind share."""
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "rows": {"float": FLOAT, "binary": {"weights": "sign"}},
    "lstm": {
        "float": FLOAT,
        "float_no_norm": {**FLOAT, "norm": "none"},
        "binary": {"weights": "sign"},
        "ternary": {"levels": 3, "weights": "ternary:threshold=optimal"},
        "binary_scale": {"weights": "sign:scale=filter", "norm": "none"},
        "ternary_scale": {"levels": 3, "weights": "ternary:threshold=least-squares,scale=filter", "norm": "none"},
        "ternary_parq": {"levels": 3, "weights": "parq:count=3", "norm": "none"},
        "float_high_rate": {**FLOAT, "norm": "none", "learning_rate": 1e-2},
        "binary_high_rate": {"weights": "sign:scale=filter", "norm": "none", "learning_rate": 1e-2},
        "ternary_high_rate": {
            "levels": 3,
            "weights": "ternary:threshold=least-squares,scale=filter",
            "norm": "none",
            "learning_rate": 1e-2,
        },
        "plain": {"weights": "sign", "norm": "none"},
        "float_on": {**FLOAT, **ON},
        "binary_on": {"weights": "sign:scale=filter", **ON},
        "ternary_on": {"levels": 3, "weights": "ternary:threshold=least-squares,scale=filter", **ON},
    },
    "gpt": {
        "float": FLOAT,
        "ternary": BITNET,
        "float_plain": {**FLOAT, "inner_norm": False},
        "plain": {**BITNET, "inner_norm": False},
    },
}
SIZES: dict[str, dict[str, dict[str, Any]]] = {
    "small": {
        "rows": {"hidden": (128,), "epochs": 10},
        "lstm": {"hidden": (256,), "batch_size": 32, "epochs": 1},
        "gpt": {"width": 128, "blocks": 4, "heads": 4, "length": 64, "batch_size": 12, "epochs": 1},
    },
    "published": {
        "rows": {"hidden": (256,), "epochs": 15},
        "lstm": {"hidden": (512,), "batch_size": 32, "learning_rate": 5e-3, "epochs": 5},
        "gpt": {"length": 256, "batch_size": 64, "epochs": 80, "warmup": 2, "dropout": 0.2},
    },
    "tiny": {
        "rows": {"hidden": (16,), "epochs": 1, "images": 500},
        "lstm": {"hidden": (16,), "epochs": 1, "images": 4000, "batch_size": 8},
        "gpt": {"width": 16, "blocks": 1, "heads": 1, "length": 32, "batch_size": 4, "epochs": 1, "images": 4000},
    },
}

DIVERGED = "diverged.txt"
"""In the folder of a run whose numbers became infinite: why it stopped. It is not trained again."""


def recipe_of(kind: str, variant: str, size: str, seed: int) -> Recipe:
    """The recipe of a run."""
    return Recipe(**KINDS[kind] | SIZES[size][kind] | VARIANTS[kind][variant], seed=seed)


def plain_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """The weights of a recurrent network, with each learned length of a row multiplied into the row."""
    state = dict(model.state_dict())
    for name, product in model.named_modules():
        if isinstance(product, RecurrentProduct) and product.gain is not None:
            owner = name.rpartition(".")[0]
            state[f"{owner}.{product.parameter}"] = product.matrix().detach()
            del state[f"{name}.gain"]
    return {name: values.contiguous() for name, values in state.items()}


def started(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with the weights of the finished run in `folder` as its start, in a file beside the run."""
    path = folder.with_name(f"{folder.name}.safetensors")
    if not path.exists():
        save_file(plain_weights(hypersign.load(folder).load_model()), path)
    return dataclasses.replace(recipe, start=str(path))


def seconds_per_step(kind: str, size: str, device: str) -> float:
    """Seconds of a step of the low-bit network, forward, backward and update: the minimum of a few."""
    recipe = recipe_of(kind, "binary" if kind == "rows" else "ternary", size, 0)
    shape, classes = ((1, 28, 28), 10) if kind == "rows" else ((recipe.length,), 84)
    torch.manual_seed(0)
    model = build(recipe.model, shape, classes, **recipe.model_options()).to(device)
    count = recipe.batch_size * (1 if kind == "rows" else recipe.length)
    targets = torch.randint(classes, (count,), device=device)
    inputs = torch.randn(recipe.batch_size, *shape) if kind == "rows" else targets.view(recipe.batch_size, -1)
    optimizer, times = torch.optim.Adam(model.parameters(), 1e-3), []
    for _ in range(6):
        started = time.perf_counter()
        nn.functional.cross_entropy(model(inputs.to(device)).flatten(0, -2), targets).backward()
        optimizer.step()
        optimizer.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return min(times)


def found_in(folder: Path) -> dict[str, dict[str, Any]]:
    """Every run of the folder: recipe, epochs done, and the test loss of finished ones."""
    rows = {}
    for path in sorted(folder.glob("*/run.json")):
        run = hypersign.load(path.parent)
        metrics = [{name: value for name, value in row.items() if name != "layers"} for row in run.metrics()]
        rows[run.name] = {
            "finished": run.finished,
            "recipe": {name: value for name, value in run.info["recipe"].items() if value is not None},
            "metrics": metrics,
        }
        if start := run.info["recipe"]["start"]:
            rows[run.name]["recipe"]["start"] = Path(start).name
        if (path.parent / DIVERGED).exists():
            rows[run.name]["diverged"] = (path.parent / DIVERGED).read_text().strip()
        if run.finished:
            results = dict(run.info["results"])
            results["test"] = {name: value for name, value in results["test"].items() if name != "confusion"}
            rows[run.name] |= {"results": results, "parameters": _parameters(run)}
    return rows


def _parameters(run: hypersign.runs.Run) -> int:
    return sum(parameter.numel() for parameter in run.load_model().parameters())


def show(rows: dict[str, dict[str, Any]]) -> None:
    """Prints what the finished runs reach."""
    table = rich.table.Table("run", "epochs", "minutes", "test")
    for name, row in rows.items():
        done = f"{len(row['metrics'])} of {row['recipe']['epochs']}"
        if not row["finished"]:
            table.add_row(name, done, "", "diverged" if "diverged" in row else "not finished")
            continue
        test = row["results"]["test"]
        nats, minutes = test["loss"], row["results"]["seconds"] / 60
        words = f"{test['accuracy']:.2%}"
        if row["recipe"]["model"] == "gpt" or row["recipe"]["data"] == "war-and-peace":
            words = f"{nats / math.log(2):.3f} bits per character, {nats:.3f} nats"
        table.add_row(name, done, f"{minutes:.0f}", words)
    rich.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/sequences"))
    parser.add_argument("--size", choices=tuple(SIZES), default="small")
    names = [f"{kind}-{variant}" for kind, variants in VARIANTS.items() for variant in variants]
    parser.add_argument("--only", nargs="*", choices=names, default=names, metavar="RUN", help=", ".join(names))
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds, from 0")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--time", action="store_true", help="print the seconds per step of each network, and stop")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to FILE; - prints them")
    words = parser.parse_args()
    torch.set_num_threads(1)
    if words.time:
        for kind in KINDS:
            print(kind, f"{seconds_per_step(kind, words.size, words.device):.3f} s per step")
        return
    for seed in range(words.seeds):
        for name in words.only:
            kind, variant = name.split("-")
            folder = words.folder / f"{name}-{words.size}-seed-{seed}"
            recipe, console = recipe_of(kind, variant, words.size, seed), Console(stderr=True)
            if recipe.start is not None and not folder.exists():
                recipe = started(recipe, words.folder / f"{kind}-{recipe.start}-{words.size}-seed-{seed}")
            try:
                if (folder / DIVERGED).exists():
                    continue
                if (folder / "run.json").exists():
                    resume(folder, device=words.device, console=console)
                else:
                    hypersign.train(recipe, folder, device=words.device, console=console)
            except DivergedError as error:
                (folder / DIVERGED).write_text(f"{error}\n")
            write(words)
    rows = write(words)
    if prints_text(words.json):
        show(rows)


def write(words: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Stores what the folder holds so far, and returns it."""
    rows = found_in(words.folder)
    if words.json is not None:
        write_json({"runs": rows, "machine": machine(), "versions": versions("torch", "numpy")}, words.json)
    return rows


if __name__ == "__main__":
    main()
