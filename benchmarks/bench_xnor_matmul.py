"""Matrix products of packed levels, against dense ones in torch and, where installed, NumKong's packed bits.

    python benchmarks/bench_xnor_matmul.py [--shapes 1024x1024x1024 ...] [--threads 1] [--seconds 2] [--json [FILE]]

A shape MxNxK: M rows with N filters of fan-in K. A multiply-accumulate is one of M N K; the unit is 10^12 a second.
`share of peak` compares with the kernels' inner loop on registers alone, in the same run. Weights are packed (and
laid out, by those who do) before; inputs come packed, in the type of each. All results are compared with float32's.
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from interleaved import least_seconds, peak, show

from hypersign._machine import machine, versions
from hypersign.bits import Filters, backend, pack, pack_ternary

try:
    import numkong
except ImportError:
    numkong = None

SHAPES = ("1024x1024x1024", "1024x512x4608", "4096x128x1152", "256x1024x8192", "1x1024x8192")


def compare(shape: str, seconds: float, threads: int) -> dict[str, float]:
    m, n, k = map(int, shape.split("x"))
    generator = np.random.default_rng(0)
    x, w = (generator.choice(np.array([-1, 1], np.int8), (rows, k)) for rows in (m, n))
    x3, w3 = (generator.integers(-1, 2, (rows, k), dtype=np.int8) for rows in (m, n))
    bits_x, bits_w = pack(x), pack(w)
    planes_x = pack_ternary(x3, low=0, high=1)
    binary = Filters(bits_w, shape=(1, 1, k))
    ternary = Filters(pack_ternary(w3, low=0, high=1), shape=(1, 1, k))
    dense = {
        name: (torch.from_numpy(x).to(dtype), torch.from_numpy(w).to(dtype))
        for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16), ("int8", torch.int8))
    }
    loop, loop_macs = peak(m * n * k)
    ways: dict[str, Callable[[], Any]] = {
        "peak": loop,
        "binary": lambda: binary.matmul(bits_x, threads=threads),
        "ternary": lambda: ternary.matmul(planes_x, threads=threads),
        "torch float32": lambda: dense["float32"][0] @ dense["float32"][1].T,
        "torch bfloat16": lambda: dense["bfloat16"][0] @ dense["bfloat16"][1].T,
    }
    if m > 16:  # torch's rule
        ways["torch int8"] = lambda: torch._int_mm(dense["int8"][0], dense["int8"][1].T)
    if numkong is not None and threads == 1:
        ways["numkong"] = numkong_product(bits_x, bits_w)
    expected = ways["torch float32"]().numpy()
    if not np.array_equal(ways["binary"](), expected):
        raise SystemExit(f"{shape}: binary differs")
    if not np.array_equal(ways["ternary"](), x3.astype(np.float32) @ w3.astype(np.float32).T):
        raise SystemExit(f"{shape}: ternary differs")
    least = least_seconds(ways, seconds, threads)
    speed = {name: m * n * k / spent * 1e-12 for name, spent in least.items()}
    top = loop_macs / least["peak"] * 1e-12 * threads
    return {
        "binary": speed["binary"],
        "share_of_peak": speed["binary"] / top,
        "ternary": speed["ternary"],
        **{f"{name}, times": speed["binary"] / speed[name] for name in ways if name[:5] in ("torch", "numko")},
    }


def numkong_product(x: np.ndarray, w: np.ndarray) -> Callable[[], Any]:
    """Hamming distances of all rows, by NumKong's packed product of bits."""
    packed = numkong.hammings_pack(w.view(np.uint8))
    rows = x.view(np.uint8)
    return lambda: numkong.hammings_packed(rows, packed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=SHAPES, metavar="MxNxK", help=f"default {' '.join(SHAPES)}")
    parser.add_argument("--threads", type=int, default=1, help="of ours and torch's (default 1)")
    parser.add_argument("--seconds", type=float, default=2, help="for each shape (default 2)")
    parser.add_argument(
        "--json", type=Path, nargs="?", const="-", metavar="FILE", help="print JSON, or write it there"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = {shape: compare(shape, options.seconds, options.threads) for shape in options.shapes}
    packages = ("torch", "numpy") if numkong is None else ("torch", "numpy", "numkong")
    result = {
        "benchmark": "xnor_matmul",
        "machine": machine(),
        "versions": versions(*packages),
        "backend": backend(),
        "threads": options.threads,
        "load_average": os.getloadavg()[0],
        "rows": rows,
    }
    title = f"10^12 multiply-accumulates a second, {backend()}, threads: {options.threads}; `times`: as fast as"
    show(result, title, options.json)


if __name__ == "__main__":
    main()
