"""The paper's whole network, packed, against the dense network in the runtimes that are installed.

    python benchmarks/bench_end_to_end.py [--file FILE] [--batches 1 8 32] [--seconds 6] [--json [FILE]]

Without a packed FILE it is the paper's CIFAR-10 network with random weights: 617 million multiply-accumulates for an
image. Images come as each runtime wants them: 8-bit ones for the packed network, float32 for the others, whose batch
norms are folded but for torch's, which is eager. All take turns on one thread. Then:

- threads: what two threads gain on the largest batch, beside what two copies of the limit's loop gain side by side
- start: seconds from a shell's `hypersign run` of one image to its end, and of `import hypersign.packed` alone
"""

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from turns import installed, least_seconds, limit, show

from hypersign._machine import machine, versions
from hypersign.bits import backend
from hypersign.models import vgg
from hypersign.packed import PackedModel
from hypersign.packed.profile import profile
from hypersign.packing import pack
from hypersign.packing.peers import peers


def images(model: PackedModel, batch: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (batch, *model.shape), dtype=np.uint8)


def compare(model: PackedModel, batch: int, seconds: float) -> dict[str, float]:
    """Milliseconds an image of all ways, and how many times faster the packed network is."""
    x = images(model, batch)
    loop, loop_macs = limit(float("inf"))
    ways: dict[str, Callable[[], Any]] = {
        "packed": lambda: model.predict(x, batch_size=batch),
        **peers(model, batch),
        "limit": loop,
    }
    least = least_seconds(ways, seconds, 1)
    # the time that the binary products alone would take at the limit
    nodes = profile(model, images=1, repeats=1).nodes
    macs = sum(node.macs for node in nodes if node.arithmetic == "bits")
    times = {name: 1e3 * spent / batch for name, spent in least.items() if name != "limit"}
    row = {"milliseconds": times["packed"], "milliseconds_at_limit": 1e3 * macs * least["limit"] / loop_macs}
    for name, spent in times.items():
        if name != "packed":
            row |= {f"{name}": spent, f"{name}, times": spent / times["packed"]}
    return row


def gain(model: PackedModel, batch: int, seconds: float) -> dict[str, float]:
    """What a second thread gains: for a prediction, and for two copies of the limit's loop, a thread each."""
    x = images(model, batch)
    loop, _ = limit(float("inf"))

    def loops() -> None:
        for _ in range(100):
            loop()

    def two() -> None:
        threads = [threading.Thread(target=loops) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    ways: dict[str, Callable[[], Any]] = {
        "one": lambda: model.predict(x, batch_size=batch),
        "two": lambda: model.predict(x, batch_size=batch, threads=2),
        "loop": loops,
        "two loops": two,
    }
    least = least_seconds(ways, seconds, 2)
    predict, limits = least["one"] / least["two"], 2 * least["loop"] / least["two loops"]
    return {"gain": predict, "gain_of_the_limit": limits, "share": predict / limits}


def start(file: Path, model: PackedModel) -> dict[str, float]:
    """Least seconds, of five, that the command line and the import take."""
    code = "import time; t = time.perf_counter(); import hypersign.packed; print(time.perf_counter() - t)"
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/image.npy", images(model, 1))
        command = [sys.executable, "-m", "hypersign", "run", str(file)]
        command += ["--input", f"{folder}/image.npy", "--output", f"{folder}/classes.csv"]
        runs, imports = [], []
        for _ in range(5):
            begin = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            runs.append(time.perf_counter() - begin)
            imports.append(
                float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout)
            )
    return {"hypersign_run": min(runs), "import": min(imports)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, help="a packed network (default: the paper's, with random weights)")
    parser.add_argument(
        "--batches", type=int, nargs="+", default=[1, 8, 32], help="images at a time (default 1 8 32)"
    )
    parser.add_argument("--seconds", type=float, default=6, help="for each batch (default 6)")
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE", help="print JSON, or write it to FILE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = options.file
        if file is None:
            file = Path(folder) / "paper.hypersign"
            torch.manual_seed(0)
            pack(vgg(), file, (3, 32, 32), pixel_range=(-1.0, 1.0))
        model = PackedModel.load(file)
        rows = {f"batch {batch}": compare(model, batch, options.seconds) for batch in options.batches}
        result = {
            "benchmark": "end_to_end",
            "network": "the paper's, random weights" if options.file is None else options.file.name,
            "machine": machine(),
            "versions": versions("numpy", *installed("torch", "onnxruntime", "openvino")),
            "backend": backend(),
            "rows": rows,
            "threads": gain(model, max(options.batches), options.seconds),
            "start_seconds": start(file, model),
        }
    show(result, f"milliseconds an image, {backend()}; `times`: as slow as the packed network", options.json)
    if options.json != "-":
        for name in ("threads", "start_seconds"):
            print(f"{name}:", ", ".join(f"{key} {value:.3f}" for key, value in result[name].items()))


if __name__ == "__main__":
    main()
