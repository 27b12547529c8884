"""The fast Walsh-Hadamard transform against copying its numbers, torch butterflies and the dense product.

    python benchmarks/bench_hadamard.py [--rows 4096] [--size 1024] [--rounds 15] [--threads 1] [--json [FILE]]

Everything transforms the same `rows` vectors of `size` numbers into another array: float32, int32 and int16 by the
kernel, float32 by butterflies in torch (two concatenated halves per stage) and by torch's product with the matrix.
The methods are interleaved and the minimum over rounds counts, so stalls of the machine affect all equally. The
product is by far the slowest and gets only a third of the rounds.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import rich
import rich.table
import torch
from torch import Tensor

from hypersign import bits
from hypersign._json import prints_text, write_json
from hypersign._machine import machine, versions
from hypersign.bits import hadamard_transform


def butterflies(x: Tensor) -> Tensor:
    """The transform as one would write it in torch."""
    shape, stride = x.shape, 1
    while stride < shape[-1]:
        pairs = x.view(-1, shape[-1] // (2 * stride), 2, stride)
        x = torch.cat((pairs[:, :, :1] + pairs[:, :, 1:], pairs[:, :, :1] - pairs[:, :, 1:]), 2).view(shape)
        stride *= 2
    return x


def methods(rows: int, size: int, threads: int) -> dict[str, Callable[[], object]]:
    generator = np.random.default_rng(0)
    made: dict[str, Callable[[], object]] = {}
    for kind in (np.float32, np.int32, np.int16):
        x = generator.integers(-30, 31, (rows, size)).astype(kind)
        y = np.empty_like(x)
        if kind == np.float32:
            source, target = x, y
            made["copy float32"] = lambda x=x, y=y: np.copyto(y, x)
        made[f"ours {x.dtype}"] = lambda x=x, y=y: hadamard_transform(x, orthonormal=False, out=y, threads=threads)
    tensor = torch.from_numpy(source)
    matrix = torch.from_numpy(hadamard_transform(np.eye(size, dtype=np.float32), orthonormal=False))
    made["torch butterflies"] = lambda: butterflies(tensor)
    product = torch.empty(rows, size)
    made["dense product"] = lambda: torch.mm(tensor, matrix, out=product)
    for method in made.values():
        method()
    assert np.array_equal(target, product.numpy()), "the transform is not the product"
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4096, help="vectors (default 4096)")
    parser.add_argument("--size", type=int, default=1024, help="numbers of a vector, a power of two (default 1024)")
    parser.add_argument("--rounds", type=int, default=15, help="interleaved rounds (default 15)")
    parser.add_argument("--threads", type=int, default=1, help="threads (default 1)")
    parser.add_argument(
        "--json", type=Path, nargs="?", const="-", metavar="FILE", help="print JSON, or write it there"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    runs = methods(options.rows, options.size, options.threads)
    seconds = dict.fromkeys(runs, float("inf"))
    for i in range(options.rounds):
        for name, run in runs.items():
            if name == "dense product" and i % 3:
                continue
            start = time.perf_counter()
            run()
            seconds[name] = min(seconds[name], time.perf_counter() - start)
    ours = seconds["ours float32"]
    result = {
        "benchmark": "hadamard",
        "machine": machine() | {"threads": options.threads, "backend": bits.backend()},
        "versions": versions("torch", "numpy"),
        "rows": options.rows,
        "size": options.size,
        "seconds": seconds,
        "over_copy": ours / seconds["copy float32"],
        "faster_than_torch_butterflies": seconds["torch butterflies"] / ours,
        "faster_than_dense_product": seconds["dense product"] / ours,
        "int16_faster_than_float32": ours / seconds["ours int16"],
    }
    write_json(result, options.json)
    if not prints_text(options.json):
        return
    title = f"Hadamard transform of {options.rows} x {options.size}, {bits.backend()}, {options.threads} thread(s)"
    table = rich.table.Table("", "ms", "times ours", title=title)
    for name, spent in seconds.items():
        table.add_row(name, f"{1000 * spent:.3f}", f"{spent / ours:.2f}")
    rich.print(table)


if __name__ == "__main__":
    main()
