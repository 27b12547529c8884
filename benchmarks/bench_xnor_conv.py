"""Convolutions of packed levels, each layer of the paper's network, against torch and, where installed, OpenVINO.

    python benchmarks/bench_xnor_conv.py [--batches 1 32] [--threads 1] [--seconds 2] [--json [FILE]]

3x3 filters, padding 1 by zeros, levels out by a threshold a channel. The unit is 10^12 multiply-accumulates a second;
`share of peak` compares with the kernels' inner loop on registers alone, in the same run. torch's convolutions take
and give float32 and bfloat16 numbers; OpenVINO's BinaryConvolution takes float32 numbers and packs them itself, so
that the convolution's share of it, by OpenVINO's counters, stands beside the whole.
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from interleaved import least_seconds, peak, show
from torch.nn import functional

from hypersign._machine import machine, versions
from hypersign.bits import Filters, Thresholds, backend, pack, pack_ternary

try:
    import openvino
except ImportError:
    openvino = None

# (size of the image, channels, filters) of the binary convolutions of the paper's network
LAYERS = {
    "conv2": (32, 128, 128),
    "conv3": (16, 128, 256),
    "conv4": (16, 256, 256),
    "conv5": (8, 256, 512),
    "conv6": (8, 512, 512),
}
PADDED = {"padding": (1, 1)}


def compare(layer: str, batch: int, seconds: float, threads: int) -> dict[str, float]:
    size, channels, filters = LAYERS[layer]
    macs = batch * size**2 * filters * channels * 9
    generator = np.random.default_rng(0)
    x = generator.choice(np.array([-1, 1], np.int8), (batch, size, size, channels))
    w = generator.choice(np.array([-1, 1], np.int8), (filters, 3, 3, channels))
    bits_x, planes_x = pack(x), pack_ternary(x, low=0, high=1)
    flat = w.reshape(filters, -1)
    binary = Filters(pack(flat), shape=(3, 3, channels))
    ternary = Filters(pack_ternary(flat, low=0, high=1), shape=(3, 3, channels))
    thresholds = Thresholds(np.zeros(filters, np.int32), np.zeros(filters, bool))
    three = Thresholds(np.zeros(filters, np.int32), np.zeros(filters, bool), np.ones(filters, np.int32))
    image = torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).float()
    weight = torch.from_numpy(w.transpose(0, 3, 1, 2).copy()).float()
    half = image.bfloat16(), weight.bfloat16()
    loop, loop_macs = peak(macs)
    ways: dict[str, Callable[[], Any]] = {
        "peak": loop,
        "binary": lambda: binary.conv2d(bits_x, thresholds=thresholds, threads=threads, **PADDED),  # type: ignore[arg-type]
        "ternary": lambda: ternary.conv2d(planes_x, thresholds=three, threads=threads, **PADDED),  # type: ignore[arg-type]
        "torch float32": lambda: functional.conv2d(image, weight, padding=1),
        "torch bfloat16": lambda: functional.conv2d(*half, padding=1),
    }
    expected = ways["torch float32"]().numpy().transpose(0, 2, 3, 1)
    for filters_, packed in ((binary, bits_x), (ternary, planes_x)):
        if not np.array_equal(filters_.conv2d(packed, **PADDED), expected):  # type: ignore[arg-type]
            raise SystemExit(f"{layer}: sums differ")
    if openvino is not None:
        ways["openvino"] = OpenVino(image.numpy(), w, threads)
        if not np.array_equal(ways["openvino"]().transpose(0, 2, 3, 1), expected):
            raise SystemExit(f"{layer}: OpenVINO's sums differ")
    with torch.inference_mode():
        least = least_seconds(ways, seconds, threads)
    if openvino is not None:
        least["openvino convolution"] = least["openvino"] * ways["openvino"].share  # type: ignore[attr-defined]
    speed = {name: macs / spent * 1e-12 for name, spent in least.items()}
    return {
        "binary": speed["binary"],
        "share_of_peak": speed["binary"] / (loop_macs / least["peak"] * 1e-12 * threads),
        "ternary": speed["ternary"],
        **{f"{name}, times": speed["binary"] / speed[name] for name in speed if name[:5] in ("torch", "openv")},
    }


class OpenVino:
    """OpenVINO's BinaryConvolution, whose bit 1 is +1, of inputs that are above 0; called, it runs.

    Packing the inputs takes it time as well: `share` is the convolution's part of the quickest call, by its counters.
    """

    def __init__(self, x: np.ndarray, w: np.ndarray, threads: int) -> None:
        operations = openvino.opset15
        filters, _, _, channels = w.shape
        bits = np.packbits(w.transpose(0, 3, 1, 2).reshape(-1) > 0, bitorder="little")
        weight = openvino.Tensor(bits, openvino.Shape([filters, channels, 3, 3]), openvino.Type.u1)
        node = operations.parameter(list(x.shape), np.float32)
        ends = [operations.constant(value, np.float32) for value in (0.0, 0.0, 0.0, 1.0)]
        signs = operations.fake_quantize(node, *ends, 2)
        sums = openvino.opset1.binary_convolution(
            signs, operations.constant(weight), [1, 1], [1, 1], [1, 1], [1, 1], "xnor-popcount", 0.0
        )
        settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "PERF_COUNT": True}
        compiled = openvino.Core().compile_model(openvino.Model([sums], [node]), "CPU", settings)
        self.request = compiled.create_infer_request()
        self.request.set_input_tensor(openvino.Tensor(x))
        self.least, self.share = float("inf"), 1.0

    def __call__(self) -> np.ndarray:
        self.request.infer()
        steps = [(step.node_type, step.real_time.total_seconds()) for step in self.request.profiling_info]
        whole = sum(spent for _, spent in steps)
        if 0 < whole < self.least:
            self.least, self.share = whole, dict(steps)["BinaryConvolution"] / whole
        return self.request.get_output_tensor().data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32], help="images at a time (default 1 32)")
    parser.add_argument("--threads", type=int, default=1, help="of all (default 1)")
    parser.add_argument("--seconds", type=float, default=2, help="for each layer and batch (default 2)")
    parser.add_argument(
        "--json", type=Path, nargs="?", const="-", metavar="FILE", help="print JSON, or write it there"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = {
        f"{layer}, {batch} images": compare(layer, batch, options.seconds, options.threads)
        for layer in LAYERS
        for batch in options.batches
    }
    result = {
        "benchmark": "xnor_conv",
        "machine": machine(),
        "versions": versions(*(["torch", "numpy"] + ([] if openvino is None else ["openvino"]))),
        "backend": backend(),
        "threads": options.threads,
        "load_average": os.getloadavg()[0],
        "rows": rows,
    }
    title = f"10^12 multiply-accumulates a second, {backend()}, threads: {options.threads}; `times`: as fast as"
    show(result, title, options.json)


if __name__ == "__main__":
    main()
