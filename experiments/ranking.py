"""Whether geometry knows which layers lose most by one bit: its ranking beside that of measured losses.

    HYPERSIGN_DATA=... python experiments/ranking.py [--images 4000] [--folder runs/ranking] [--json [FILE]]

Three small networks on Fashion-MNIST, with the recipe of experiments/remedies.py: binary and ternary (threshold of
the least angle), trained with their levels; and one trained with real weights, whose weights are binarized
afterwards, as for deployment (its first layer, of which nothing was quantized, stays real). Each is ablated as
`hypersign ablate` does. Can be stopped and started again: what is done is kept in --folder, `--runs` of
experiments/remedies.py are used where they are there."""

import argparse
import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import rich
import rich.table
import torch
from remedies import BINARY, REMEDIES, trained
from rich.console import Console
from torch import nn

from hypersign._json import plain, prints_text, write_json
from hypersign._machine import machine, versions
from hypersign.geometry import ablate
from hypersign.layers import quant_layers
from hypersign.quantizers import Sign
from hypersign.runs import Run
from hypersign.tasks import Classification

LAYERS = ("conv1", "conv2", "conv3", "conv4", "fc1", "fc2")
NETWORKS: dict[str, dict[str, Any]] = {
    "binary": {},
    "ternary, best threshold": {"levels": 3, "threshold": "optimal"},
    "real weights, binarized afterwards": {"float_weights": LAYERS},
}
REESTIMATION = 500
"""Training images that batch norm is re-estimated on, in each of two rounds."""


def network(run: Run, name: str) -> nn.Module:
    model = run.load_model()
    if name.endswith("afterwards"):
        for layer in quant_layers(model).values():
            layer.weight_quantizer = Sign()
    return model


def ablated(run: Run, name: str, images: int) -> dict[str, Any]:
    data = run.data()
    drawn = data.batches(data.train, REESTIMATION, seed=0)
    found = ablate(
        network(run, name),
        data.batches(data.test[:images], 100),
        [list(itertools.islice(drawn.epoch(i), 1)) for i in range(2)],
        task=Classification(),
    )
    return plain(dataclasses.asdict(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=4000, help="test images (default 4000)")
    parser.add_argument("--folder", type=Path, default=Path("runs/ranking"), help="of what is done")
    parser.add_argument("--runs", type=Path, default=Path("runs/remedies"), help="of experiments/remedies.py")
    parser.add_argument(
        "--json", type=Path, nargs="?", const="-", metavar="FILE", help="print JSON, or write it there"
    )
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    networks: dict[str, dict[str, Any]] = {}
    for number, (name, options) in enumerate(NETWORKS.items()):
        kept = arguments.folder / f"{number}-of-{arguments.images}.json"
        if not kept.exists():
            known = arguments.runs / f"{list(REMEDIES).index(name):02}-seed-0" if name in REMEDIES else None
            folder = known if known is not None and known.exists() else arguments.folder / f"{number}"
            found = ablated(trained(folder, dataclasses.replace(BINARY, **options)), name, arguments.images)
            kept.write_text(json.dumps(found), encoding="utf-8")
        networks[name] = json.loads(kept.read_text(encoding="utf-8"))
        Console(stderr=True).print(f"{name}: accuracy {networks[name]['accuracy']:.2%}", highlight=False)
    result = {
        "benchmark": "ranking",
        "machine": machine(),
        "versions": versions("torch", "numpy"),
        "recipe_of_binary": BINARY.as_dict(),
        "networks": networks,
    }
    write_json(result, arguments.json)
    if not prints_text(arguments.json):
        return
    columns = "network", "real", "in", "rank correlation with losses", "with r of logits", "pairs apart", "in order"
    table = rich.table.Table(*columns, title="Predicted ranking of layers, Fashion-MNIST")
    for name, found in networks.items():
        for row in found["rankings"]:
            correlations = (f"{row[key]:.2f}" for key in ("spearman", "spearman_logits"))
            counts = f"{row['apart']} of {row['pairs']}", str(row["in_order"])
            table.add_row(name, row["side"], row["scope"], *correlations, *counts)
    rich.print(table)


if __name__ == "__main__":
    main()
