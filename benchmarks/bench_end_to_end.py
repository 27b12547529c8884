"""A whole network, packed, against the dense network in the runtimes that are installed.

    python benchmarks/bench_end_to_end.py [--network vgg | resnet18 | resnet20] [--file FILE] [--batches 1 32]
        [--seconds 20] [--json [FILE]]

Without a packed FILE it is a network for CIFAR-10 with random weights and batch norms: the paper's (vgg, 617 million
multiply-accumulates per image), or a residual network with real shortcuts. The packed network gets 8-bit images, the
other runtimes float32 images. Their batch norms are folded, except in torch, which runs eagerly. Runs are interleaved
on one thread; times are processor time. Then:

- layers: microseconds per image of each operation of the packed network, in the smallest batch, wall-clock time
- threads: speed-up by two threads on the largest batch, beside that of two copies of the peak loop side by side;
  wall-clock time, so it needs an idle machine
- start: processor seconds of `hypersign run` on one image, start to end, and of `import hypersign.packed`
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from interleaved import installed, least_seconds, peak, show
from torch import nn

from hypersign._json import prints_text
from hypersign._machine import machine, versions
from hypersign.bits import backend
from hypersign.models import resnet18, resnet20, vgg
from hypersign.packed import PackedModel, profile
from hypersign.packing import pack, peers

NETWORKS = {"vgg": vgg, "resnet18": resnet18, "resnet20": resnet20}


def random_network(name: str) -> nn.Module:
    """A network whose batch norms are no identities."""
    torch.manual_seed(0)
    network = NETWORKS[name]()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 2)
            module.running_var.uniform_(1, 21)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias, 0, 0.3)
    return network.eval()


def images(model: PackedModel, batch: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (batch, *model.shape), dtype=np.uint8)


def compare(model: PackedModel, batch: int, seconds: float) -> dict[str, float]:
    """Milliseconds per image in every runtime, and how many times faster the packed network is."""
    x = images(model, batch)
    loop, loop_macs = peak(float("inf"))
    ways: dict[str, Callable[[], Any]] = {
        "packed": lambda: model.predict(x, batch_size=batch),
        **peers(model, batch),
        "peak": loop,
    }
    least = least_seconds(ways, seconds, 1)
    # the time that the binary products alone would take at peak
    nodes = profile(model, images=1, repeats=1).nodes
    macs = sum(node.macs for node in nodes if node.arithmetic == "bits")
    times = {name: 1e3 * spent / batch for name, spent in least.items() if name != "peak"}
    row = {"milliseconds": times["packed"], "at_peak": 1e3 * macs * least["peak"] / loop_macs}
    for name, spent in times.items():
        if name != "packed":
            row |= {name: spent, f"{name}, times": spent / times["packed"]}
    return row


def layers(model: PackedModel, batch: int, repeats: int) -> dict[str, float]:
    """Minimum microseconds per image of each operation of the packed network."""
    x = images(model, batch)
    found = [model.times(x) for _ in range(repeats)]
    return {name: 1e6 * min(times[name] for times in found) / batch for name in found[0]}


def gain(model: PackedModel, batch: int, seconds: float) -> dict[str, float]:
    """What a second thread gains: for a prediction, and for two copies of the peak loop, one per thread."""
    x = images(model, batch)
    loop, _ = peak(float("inf"))

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
    predict, loops_gain = least["one"] / least["two"], 2 * least["loop"] / least["two loops"]
    return {"gain": predict, "gain_of_peak_loops": loops_gain, "share": predict / loops_gain}


def start(file: Path, model: PackedModel) -> dict[str, float]:
    """Least processor seconds, of five, that the command line and the import take, the interpreter's among them."""
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/image.npy", images(model, 1))
        run = ["-m", "hypersign", "run", str(file), "--input", f"{folder}/image.npy"]
        programs = {
            "hypersign_run": [*run, "--output", f"{folder}/classes.csv"],
            "import": ["-c", "import hypersign.packed"],
            "import_numpy": ["-c", "import numpy"],
        }
        return {name: min(processor_seconds(words) for _ in range(5)) for name, words in programs.items()}


def processor_seconds(words: list[str]) -> float:
    """What a Python program takes of the processor."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=NETWORKS, default="vgg", help="with random weights (default vgg)")
    parser.add_argument("--file", type=Path, help="a packed network in its place")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32], help="images at a time (default 1 32)")
    parser.add_argument("--seconds", type=float, default=20, help="for each batch (default 20)")
    parser.add_argument(
        "--json", type=Path, nargs="?", const="-", metavar="FILE", help="print JSON, or write it there"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = options.file
        if file is None:
            file = Path(folder) / f"{options.network}.hypersign"
            pack(random_network(options.network), file, (3, 32, 32), pixel_range=(-1.0, 1.0))
        model = PackedModel.load(file)
        rows = {f"batch {batch}": compare(model, batch, options.seconds) for batch in options.batches}
        result = {
            "benchmark": "end_to_end",
            "network": f"{options.network}, random weights" if options.file is None else options.file.name,
            "machine": machine(),
            "versions": versions("numpy", *installed("torch", "onnxruntime", "openvino")),
            "backend": backend(),
            "load_average": os.getloadavg()[0],
            "rows": rows,
            "layer_microseconds": layers(model, min(options.batches), 200),
            "threads": gain(model, max(options.batches), options.seconds),
            "start_seconds": start(file, model),
        }
    show(result, f"milliseconds an image, {backend()}; `times`: as slow as the packed network", options.json)
    if prints_text(options.json):
        for name in ("threads", "start_seconds"):
            print(f"{name}:", ", ".join(f"{key} {value:.3f}" for key, value in result[name].items()))


if __name__ == "__main__":
    main()
