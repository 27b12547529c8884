"""Size and speed of the networks in docs/results, packed and as float twins.

    OMP_NUM_THREADS=1 python benchmarks/bench_results.py --json docs/results/bench-results.json

Speed does not depend on the weights, so each network is built anew from its file. Times are the processor time of one
thread, which other load hardly changes: the minimum over repeats, for batches of 32 images. The twin runs in
torch, in float32. Networks without multiplications have no twin.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import hypersign
from hypersign._checks import HypersignError
from hypersign._json import write_json
from hypersign._machine import machine, versions
from hypersign.bits import backend
from hypersign.models import build
from hypersign.study import TWIN_BATCH, network_call, twin_recipe

RESULTS = Path(__file__).parents[1] / "docs/results"


def measure(run: dict, repeats: int) -> dict:
    """Sizes and times of the network that a file of results describes."""
    model, data = run["model"], run["data"]
    torch.manual_seed(0)
    network = build(model["name"], tuple(model["shape"]), model["classes"], **model["options"]).eval()
    shape, pixels = tuple(model["shape"]), tuple(data["pixel_range"])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "packed"
        hypersign.pack(network, path, shape, pixel_range=pixels, classes=data["classes"])
        packed, size = hypersign.PackedModel.load(path), path.stat().st_size
    found = {"packed_bytes": size, "float_bytes": hypersign.summary(network, shape).float_bytes}
    rivals: dict[str, Callable[[], object]] = {}
    try:
        known = {name: value for name, value in run["recipe"].items() if name in hypersign.Recipe().as_dict()}
        options = twin_recipe(hypersign.Recipe(**known)).model_options()
        twin = build(model["name"], shape, model["classes"], **options).eval()
        rivals["twin"] = network_call(twin, shape)
    except HypersignError as error:
        found["no_twin"] = str(error)
    images = np.random.default_rng(0).integers(0, 256, (TWIN_BATCH, *shape), np.uint8)
    rivals["packed"] = lambda: packed.predict(images, batch_size=TWIN_BATCH)
    times = {name: [_seconds(call) for _ in range(repeats)] for name, call in rivals.items()}
    found |= {"packed_seconds_per_image": min(times["packed"]) / TWIN_BATCH, "backend": backend()}
    if "twin" in times:
        found["seconds_per_image"] = min(times["twin"]) / TWIN_BATCH
    return found


def _seconds(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--only", nargs="+", metavar="FILE", help="measure these files alone; keep the other rows")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to FILE")
    words = parser.parse_args()
    rows = json.loads(words.json.read_text())["rows"] if words.only and words.json else {}
    for file in sorted(RESULTS.glob("*.json")):
        run = json.loads(file.read_text())
        if {"recipe", "model"} <= set(run) and (not words.only or file.name in words.only):
            rows[file.name] = found = measure(run, words.repeats)
            print(file.name, found, flush=True)
    write_json(
        {
            "batch": TWIN_BATCH,
            "threads": 1,
            "machine": machine(),
            "versions": versions("torch", "numpy"),
            "rows": dict(sorted(rows.items())),
        },
        words.json,
    )


if __name__ == "__main__":
    main()
