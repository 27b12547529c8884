"""Inspection of weights without their network: bytes a second, and memory.

    python benchmarks/bench_inspect_weights.py [--megabytes 2000] [--type BF16] [--json [FILE]]

Makes a safetensors file of Gaussian weights, matrices of 4096 x 4096 as a language model has them, inspects it as
`hypersign inspect FILE` does, and removes it. The rate is that of reading, moments and angles, in bytes of the file;
samples for best levels and rotation are timed apart. A second pass, with samples of a
single row, is timed by the processor: the steadier number on a machine busy with other work. Memory is the
highest anonymous resident memory (RssAnon: the process's own; pages of the mapped file are not among it) while the
first ran, less that before, libraries being loaded.
"""

import argparse
import json
import struct
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import rich
import rich.table

from hypersign._json import prints_text, write_json
from hypersign._machine import machine, versions
from hypersign.weight_files import inspect_weights, open_tensors

SIDE = 4096
SIZES = {"BF16": 2, "F16": 2, "F32": 4, "F64": 8}


def anonymous() -> int:
    """RssAnon of this process, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    (line,) = (line for line in lines if line.startswith("RssAnon"))
    return 1024 * int(line.split()[1])


def make(path: Path, size: int, kind: str) -> None:
    """A file of about `size` bytes: every matrix holds the same weights in another order of rows."""
    generator = np.random.default_rng(0)
    w = generator.standard_normal((SIDE, SIDE), np.float32) * np.float32(0.02)
    if kind == "BF16":
        stored = (w.view(np.uint32) >> 16).astype("<u2")
    else:
        stored = w.astype({"F16": "<f2", "F32": "<f4", "F64": "<f8"}[kind])
    count = max(1, round(size / stored.nbytes))
    header = {
        f"layers.{i}.weight": {
            "dtype": kind,
            "shape": [SIDE, SIDE],
            "data_offsets": [i * stored.nbytes, (i + 1) * stored.nbytes],
        }
        for i in range(count)
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _ in range(count):
            file.write(stored[generator.permutation(SIDE)].tobytes())


class Watch(threading.Thread):
    """Looks at the memory a hundred times a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak, self.done = anonymous(), threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.01):
            self.peak = max(self.peak, anonymous())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=2000, help="of the file (default 2000)")
    parser.add_argument("--type", choices=SIZES, default="BF16", help="of the weights (default BF16)")
    parser.add_argument("--folder", type=Path, help="for the file (default: the system's for temporary files)")
    parser.add_argument(
        "--json", type=Path, nargs="?", const="-", metavar="FILE", help="print JSON, or write it there"
    )
    options = parser.parse_args()

    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder, "model.safetensors")
        make(path, options.megabytes * 1_000_000, options.type)
        before = anonymous()
        watch = Watch()
        watch.start()
        found = inspect_weights(open_tensors(path))
        watch.done.set()
        watch.join()
        start = time.process_time()
        inspect_weights(open_tensors(path), sample=1)
        processor = time.process_time() - start
    angles = found.tensors[0].angle_degrees
    if not abs(angles.mean - angles.predicted_mean) < 0.05:
        raise SystemExit(f"the angle is {angles.mean} degrees, not {angles.predicted_mean}")
    result = {
        "benchmark": "inspect_weights",
        "machine": machine(),
        "versions": versions("numpy", "safetensors"),
        "type": options.type,
        "file_bytes": found.nbytes,
        "largest_tensor_bytes": max(tensor.nbytes for tensor in found.tensors),
        "seconds": found.seconds,
        "gigabytes_per_second": found.bytes_per_second / 1e9,
        "gigabytes_per_processor_second": found.nbytes / processor / 1e9,
        "sample_seconds": found.sample_seconds,
        "anonymous_bytes": watch.peak - before,
        "anonymous_bytes_of_process": watch.peak,
    }
    write_json(result, options.json)
    if not prints_text(options.json):
        return
    table = rich.table.Table("what", "value", title=f"{found.nbytes / 1e9:.2f} GB of {options.type}")
    table.add_row("moments and angles", f"{result['gigabytes_per_second']:.2f} GB/s, {found.seconds:.2f} s")
    table.add_row("in time of the processor", f"{result['gigabytes_per_processor_second']:.2f} GB/s")
    table.add_row("samples for best levels and rotation", f"{found.sample_seconds:.2f} s")
    table.add_row("anonymous resident memory", f"{result['anonymous_bytes'] / 1e6:.0f} MB")
    table.add_row("of the process, with its libraries", f"{watch.peak / 1e6:.0f} MB")
    rich.print(table)


if __name__ == "__main__":
    main()
