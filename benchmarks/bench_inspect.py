"""Inspection of the paper's network against doing what the original's analysis does, and its peak memory.

    python benchmarks/bench_inspect.py [--images 250] [--rounds 2] [--json [FILE]]

The original holds every activation and every dot product of every convolution at once, then makes one
`numpy.histogram2d`, one `scipy.stats.pearsonr` and one `scipy.stats.linregress` call a layer and family. Here
it is given the same layers and the same four families as ours: it spares itself our fully connected layers,
values per filter, sign disagreements and weight densities. Runs are interleaved, and the ratio is that of the sums.
"""

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import rich
import rich.table
import torch
from scipy import stats
from torch import Tensor, nn

from hypersign._json import prints_text, write_json
from hypersign._machine import machine, versions
from hypersign.evaluate import reestimate_batch_norm
from hypersign.geometry import inspect
from hypersign.layers import QuantConv2d, QuantLayer, quant_layers
from hypersign.models import vgg

BATCH = 50


def paper_network(width: int) -> nn.Sequential:
    """The reference network (617 million multiply-accumulates an image at width 128), weights as initialised."""
    torch.manual_seed(0)
    model = vgg(widths=[width, width, 2 * width, 2 * width, 4 * width, 4 * width], hidden=[8 * width, 8 * width])
    reestimate_batch_norm(model, batches(16))
    return model.eval()


def batches(images: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Random images, made batch by batch: what is measured is inspection's memory, not a data set's."""
    generator = torch.Generator().manual_seed(1)
    for start in range(0, images, BATCH):
        n = min(BATCH, images - start)
        yield torch.rand(n, 3, 32, 32, generator=generator) * 2 - 1, torch.zeros(n, dtype=torch.long)


@torch.no_grad()
def as_the_original(model: nn.Sequential, images: int) -> dict[str, dict[str, float]]:
    """The four families of every convolution, all images at once and every tensor held, on torch's products."""
    x = torch.cat([batch for batch, _ in batches(images)])
    convolutions = {n: layer for n, layer in quant_layers(model).items() if isinstance(layer, QuantConv2d)}
    inputs: dict[str, Tensor] = {}

    def keep(name: str):
        return lambda layer, args, output: inputs.__setitem__(name, args[0])

    hooks = [layer.register_forward_hook(keep(name)) for name, layer in convolutions.items()]
    try:
        model(x)
    finally:
        for hook in hooks:
            hook.remove()
    held: dict[str, tuple[np.ndarray, ...]] = {}
    generator = np.random.default_rng(0)
    for name, layer in convolutions.items():
        ac = inputs[name]
        ab = layer.input_quantizer(ac)
        wb, wc = layer.quantized_weight(), layer.weight
        mixed = torch.from_numpy(generator.permutation(ab.numpy().ravel()).reshape(ab.shape))
        pairs = [(ab, wb), (ab, wc), (ac, wb), (ac, wc), (mixed, wb), (mixed, wc)]
        held[name] = tuple(_product(layer, a, w) for a, w in pairs)
    found = {}
    for name, (bb, bc, cb, cc, mixed_bb, mixed_bc) in held.items():
        families = {"weights": (bb, bc), "activations": (cb, bb), "both": (cc, bb), "permuted": (mixed_bb, mixed_bc)}
        found[name] = {}
        for family, (first, second) in families.items():
            np.histogram2d(first, second, bins=50)
            found[name][family] = float(stats.pearsonr(first, second).statistic)
            stats.linregress(first, second)
    return found


def _product(layer: QuantLayer, a: Tensor, w: Tensor) -> np.ndarray:
    return layer.product(a, w).numpy().ravel()


def seconds(function, *arguments) -> tuple[float, object]:
    start = time.perf_counter()
    value = function(*arguments)
    return time.perf_counter() - start, value


def ours(model: nn.Module, images: int):
    return inspect(model, batches(images), name="bench", dataset="random")


def peak_megabytes(images: int, width: int) -> float:
    """Peak resident memory of a fresh process that inspects `images` images."""
    command = [sys.executable, __file__, "--peak", str(images), "--width", str(width)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=250, help="images for the speed ratio (default 250)")
    parser.add_argument("--rounds", type=int, default=2, help="interleaved rounds (default 2)")
    parser.add_argument("--width", type=int, default=128, help="filters of the first layer (default 128)")
    parser.add_argument(
        "--memory-images", type=int, nargs="*", default=[500, 5000], help="images for peak memory (default 500 5000)"
    )
    parser.add_argument(
        "--json", type=Path, nargs="?", const="-", metavar="FILE", help="print JSON, or write it there"
    )
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak is not None:
        ours(paper_network(options.width), options.peak)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(peak / (1024 if sys.platform != "darwin" else 1024**2))
        return

    memory = {images: peak_megabytes(images, options.width) for images in options.memory_images}
    model = paper_network(options.width)
    times: dict[str, list[float]] = {"ours": [], "original": []}
    for _ in range(options.rounds):
        spent, geometry = seconds(ours, model, options.images)
        times["ours"].append(spent)
        spent, found = seconds(as_the_original, model, options.images)
        times["original"].append(spent)
        for layer in geometry.layers:  # what is compared must be the same thing
            for family in ("weights", "activations", "both") if layer.name in found else ():
                r = getattr(layer, f"{family}_binarized").pearson_r
                if abs(r - found[layer.name][family]) > 1e-3:
                    raise SystemExit(f"{layer.name}, {family}: {r} is not {found[layer.name][family]}")
    result = {
        "benchmark": "inspect",
        "machine": machine() | {"threads": torch.get_num_threads()},
        "versions": versions("torch", "numpy", "scipy"),
        "network": f"vgg, width {options.width}, binary",
        "images": options.images,
        "seconds": times,
        "ratio": sum(times["original"]) / sum(times["ours"]) if options.rounds else None,
        "peak_megabytes": {str(images): peak for images, peak in memory.items()},
    }
    write_json(result, options.json)
    if not prints_text(options.json):
        return
    table = rich.table.Table("what", "figure", title=f"Inspection, {result['network']}, {options.images} images")
    if options.rounds:
        for name, spent_times in times.items():
            table.add_row(f"{name}, seconds", "  ".join(f"{t:.1f}" for t in spent_times))
        table.add_row("times as fast", f"{result['ratio']:.2f}")
    for images, peak in memory.items():
        table.add_row(f"peak memory at {images} images, MB", f"{peak:.0f}")
    rich.print(table)


if __name__ == "__main__":
    main()
