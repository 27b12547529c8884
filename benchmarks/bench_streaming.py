"""Hashing a file larger than it should ever be in memory: peak memory, vectors a second, and a kill halfway.

    python benchmarks/bench_streaming.py [--counts 1000 1000000 10000000] [--dimension 128] [--json [FILE]]

For each count a .npy file of random uint8 vectors is made in a temporary folder (--folder; 1.28 GB for ten million of
128) and hashed by `hypersign hash` in a process of its own, whose peak resident memory and processor time are read
when it ends; most of the peak is the libraries, as a file of a thousand vectors shows. Then the largest file is
hashed again, killed (SIGKILL) when half of its codes are written, and hashed a third time: the codes must not be
there before that ends, the third run must not begin anew, and the file must be the first run's, byte by byte.
"""

import argparse
import hashlib
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from interleaved import show

from hypersign._machine import machine, versions


def make(path: Path, count: int, dimension: int) -> None:
    """Writes the file, and to the disk: the process that is measured shall not wait for that."""
    random = np.random.default_rng(0)
    with path.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (count, dimension)}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, count, 10_000):
            file.write(random.bytes(min(10_000, count - start) * dimension))
        file.flush()
        os.fsync(file.fileno())


def start(vectors: Path, codes: Path, bits: int) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "hypersign", "hash", str(vectors), "-o", str(codes), "--bits", str(bits)]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL)


def finish(process: subprocess.Popen[bytes]) -> tuple[float, float]:
    """Waits for a process; returns its peak resident memory in MB, and its processor time in seconds."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"hypersign hash ended with {process.returncode}")
    # Linux counts what the parent had resident when it started the process.
    if usage.ru_maxrss <= resource.getrusage(resource.RUSAGE_SELF).ru_maxrss:
        raise SystemExit("this process takes as much memory as the one it measures, so it cannot be measured")
    return usage.ru_maxrss * (1024 if sys.platform != "darwin" else 1) / 1e6, usage.ru_utime + usage.ru_stime


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def killed(vectors: Path, whole: Path, bits: int) -> dict[str, float]:
    """Kills a run halfway and goes on; returns the share that was there, and the seconds of the rest."""
    codes = whole.with_name("again")
    size = whole.stat().st_size
    process = start(vectors, codes, bits)
    while not (parts := list(codes.parent.glob(f".{codes.name}.*.part"))) or parts[0].stat().st_size < size / 2:
        if process.poll() is not None:
            raise SystemExit("hypersign hash ended before it was halfway")
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    if codes.exists():
        raise SystemExit("a killed process left a codes file")
    share = parts[0].stat().st_size / size
    begin = time.perf_counter()
    finish(start(vectors, codes, bits))
    seconds = time.perf_counter() - begin
    if digest(codes) != digest(whole):
        raise SystemExit("the codes of two runs, one of them killed, differ from those of one")
    if list(codes.parent.glob(f".{codes.name}.*")):
        raise SystemExit("a part was left behind")
    return {"share_at_kill": share, "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--counts", type=int, nargs="+", default=[1000, 1_000_000, 10_000_000], help="vectors in a file"
    )
    parser.add_argument("--dimension", type=int, default=128, help="of a vector (default 128)")
    parser.add_argument("--bits", type=int, default=128, help="of a code (default 128)")
    parser.add_argument("--folder", type=Path, help="where there is room for the largest file")
    parser.add_argument(
        "--json", type=Path, nargs="?", const="-", metavar="FILE", help="print JSON, or write it there"
    )
    options = parser.parse_args()

    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        for count in sorted(options.counts):
            vectors, codes = folder / "vectors.npy", folder / "codes"
            make(vectors, count, options.dimension)
            begin = time.perf_counter()
            peak, processor = finish(start(vectors, codes, options.bits))
            seconds = time.perf_counter() - begin
            rows[f"{count:,} vectors"] = {
                "file_megabytes": vectors.stat().st_size / 1e6,
                "peak_megabytes": peak,
                "seconds": seconds,
                "processor_seconds": processor,
                "vectors_per_second": count / seconds,
            }
        rows["killed and gone on"] = killed(vectors, codes, options.bits)
    result = {
        "benchmark": "streaming",
        "machine": machine(),
        "versions": versions("numpy"),
        "dimension": options.dimension,
        "bits": options.bits,
        "rows": rows,
    }
    show(result, f"hypersign hash, {options.bits} bits of {options.dimension} components", options.json)


if __name__ == "__main__":
    main()
