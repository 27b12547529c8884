"""Covariance of the widest layers that are measured: time, memory, and whether it predicts r.

    OMP_NUM_THREADS=1 python benchmarks/bench_covariance.py [--inputs 2000] [--json [FILE]]

A fully connected layer and a convolution (512 channels, filters of 4 x 4) of fan-in 8192 are given inputs that share
64 strong components and are rectified, so that they vary together and have a mean. One pass keeps both covariances in
memory, another both in mapped files (`memory_bytes=0`), each in a process of its own. Time is the processor's, all
threads together. Memory is the highest anonymous resident memory (RssAnon) until every filter's r is predicted, less
that before. The distance is that of predicted r from the correlation of the dot products themselves, in float64
NumPy, the largest of all filters.
"""

import argparse
import concurrent.futures
import multiprocessing
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import rich
import rich.table
import torch
from bench_inspect_weights import Watch, anonymous
from torch import Tensor, nn

from hypersign._json import prints_text, write_json
from hypersign._machine import machine, versions
from hypersign.geometry import input_covariances, what_if
from hypersign.quantizers import Sign

CHANNELS, SIDE, BATCH = 512, 4, 100
FAN_IN = CHANNELS * SIDE**2


class Both(nn.Module):
    """A convolution, padded, and a fully connected layer beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(CHANNELS, 32, SIDE, padding=1)
        self.linear = nn.Linear(FAN_IN, 64)

    def forward(self, x: Tensor) -> Tensor:
        return self.convolution(x).mean((1, 2, 3)) + self.linear(x.flatten(1)).mean(1)


def network() -> Both:
    torch.manual_seed(0)
    model = Both()
    for layer in (model.convolution, model.linear):
        nn.init.normal_(layer.weight)
    return model


def batches(inputs: int) -> Iterator[Tensor]:
    components = torch.randn(64, FAN_IN, generator=torch.Generator().manual_seed(0)) / 10
    generator = torch.Generator().manual_seed(1)
    for start in range(0, inputs, BATCH):
        few = min(BATCH, inputs - start)
        x = torch.randn(few, 64, generator=generator) @ components + torch.randn(few, FAN_IN, generator=generator)
        yield (x + 0.5).relu().view(few, CHANNELS, SIDE, SIDE)


def dot_products(model: Both, inputs: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Each layer's products with weights and with their signs, shape (products, filters): NumPy, float64."""
    found: dict[str, tuple[list, list]] = {name: ([], []) for name in ("convolution", "linear")}
    for batch in batches(inputs):
        x = batch.double().numpy()
        windows = np.lib.stride_tricks.sliding_window_view(
            np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1))), (SIDE, SIDE), (2, 3)
        )
        patches = windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, FAN_IN)
        for name, a in (("convolution", patches), ("linear", x.reshape(-1, FAN_IN))):
            w = getattr(model, name).weight.detach().double().numpy().reshape(-1, FAN_IN).T
            found[name][0].append(a @ w)
            found[name][1].append(a @ np.where(w >= 0, 1.0, -1.0))
    return {name: (np.concatenate(w), np.concatenate(b)) for name, (w, b) in found.items()}


def correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = x - x.mean(0), y - y.mean(0)
    return (x * y).sum(0) / np.sqrt((x * x).sum(0) * (y * y).sum(0))


def measured(memory_bytes: int, inputs: int, truth: dict[str, np.ndarray]) -> dict[str, Any]:
    model = network()
    before = anonymous()
    watch = Watch()
    watch.start()
    start = time.process_time()
    found = input_covariances(model, batches(inputs), memory_bytes=memory_bytes)
    passed = time.process_time()
    predicted = {
        name: np.array(what_if(layer, {"sign": Sign()})[0].pearson_r) for name, layer in found.layers.items()
    }
    watch.done.set()
    watch.join()
    return {
        "memory_bytes": memory_bytes,
        "pass_seconds": passed - start,
        "prediction_seconds": time.process_time() - passed,
        "anonymous_bytes": watch.peak - before,
        "patches": {name: layer.patches for name, layer in found.layers.items()},
        "median_r": {name: float(np.median(r)) for name, r in predicted.items()},
        "largest_distance": {name: float(np.abs(r - truth[name]).max()) for name, r in predicted.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=2000, help="of the network (default 2000)")
    parser.add_argument(
        "--json", type=Path, nargs="?", const="-", metavar="FILE", help="print JSON, or write it there"
    )
    options = parser.parse_args()

    truth = {name: correlation(*both) for name, both in dot_products(network(), options.inputs).items()}
    rows = []
    for memory_bytes in (2**31, 0):  # each in a new process, which owes nothing to the one before
        with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            rows.append(process.submit(measured, memory_bytes, options.inputs, truth).result())
    result = {
        "benchmark": "covariance",
        "machine": machine(),
        "versions": versions("numpy", "torch"),
        "fan_in": FAN_IN,
        "inputs": options.inputs,
        "threads": torch.get_num_threads(),
        "rows": rows,
    }
    write_json(result, options.json)
    if not prints_text(options.json):
        return
    table = rich.table.Table("covariances", "pass", "prediction", "anonymous", "largest distance of r")
    for row in rows:
        table.add_row(
            "in memory" if row["memory_bytes"] else "in mapped files",
            f"{row['pass_seconds']:.0f} s",
            f"{row['prediction_seconds']:.1f} s",
            f"{row['anonymous_bytes'] / 1e6:,.0f} MB",
            f"{max(row['largest_distance'].values()):.1e}",
        )
    rich.print(table)


if __name__ == "__main__":
    main()
