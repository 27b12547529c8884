"""What one core does with vectors: reads for the mean, hashes, scans, rescores; the numbers of docs/scale.md.

    OMP_NUM_THREADS=1 python benchmarks/bench_scale.py [--count 100000] [--rounds 5] [--json [FILE]]

Processor time of one thread, the minimum over interleaved rounds, in vectors (or codes, or candidates) per second:

- mean: `ExactMean` of float32 vectors in memory
- hash: their sign codes, as many bits as dimensions
- scan: `HammingIndex.search` of 200 queries, k = 40: codes compared per second
- rescore: candidates per second, read at random from a memory-mapped file in the cache

Then `hash_file` of a million uint8 and of a million float32 vectors of 128 components to 128 bits: processor seconds,
reading and writing included.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from interleaved import show
from numpy.typing import NDArray

from hypersign import HammingIndex, SignHasher
from hypersign._machine import machine, versions
from hypersign.bits import backend
from hypersign.hashing import ExactMean, hash_file, open_vectors

QUERIES, CANDIDATES = 200, 40


def rates(count: int, dimension: int, rounds: int, folder: Path) -> dict[str, float]:
    x = np.random.default_rng(0).standard_normal((count, dimension), np.float32)
    hasher = SignHasher(dimension).fit(x)
    index = HammingIndex(hasher, hasher.codes(x))
    np.save(folder / "x.npy", x)
    mapped = open_vectors(folder / "x.npy")
    queries = x[:QUERIES] + np.float32(0.5)
    asked = HammingIndex(hasher, hasher.codes(queries))
    found = index.search(asked, CANDIDATES)
    steps: dict[str, tuple[int, Callable[[], Any]]] = {
        "mean": (count, lambda: ExactMean().add(x)),
        "hash": (count, lambda: hasher.codes(x)),
        "scan": (count * QUERIES, lambda: index.search(asked, CANDIDATES)),
        "rescore": (QUERIES * CANDIDATES, lambda: index.rescore(queries, found, mapped, 10)),
    }
    least = dict.fromkeys(steps, float("inf"))
    for _ in range(rounds):
        for name, (_, step) in steps.items():
            least[name] = min(least[name], seconds(step))
    return {f"{name}_per_second": steps[name][0] / least[name] for name in steps}


def seconds(step: Callable[[], Any]) -> float:
    start = time.process_time()
    step()
    return time.process_time() - start


def million(kind: type, rounds: int, folder: Path) -> dict[str, float]:
    """Processor seconds of hashing a file of a million vectors."""
    random = np.random.default_rng(0)
    x: NDArray[Any] = random.integers(0, 256, (1_000_000, 128), np.uint8)
    np.save(folder / "million.npy", x.astype(kind))
    del x
    spent = [
        seconds(lambda: hash_file(folder / "million.npy", folder / "codes", SignHasher(128))) for _ in range(rounds)
    ]
    return {"processor_seconds": min(spent)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000, help="vectors (default 100000)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, nargs="?", const="-", metavar="FILE")
    options = parser.parse_args()
    rows: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        for dimension in (128, 768):
            rows[f"{dimension} dimensions"] = rates(options.count, dimension, options.rounds, Path(name))
        for kind in (np.uint8, np.float32):
            rows[f"a million {kind.__name__}"] = million(kind, 2, Path(name))
    result = {
        "benchmark": "scale",
        "machine": machine(),
        "versions": versions("numpy"),
        "backend": backend(),
        "count": options.count,
        "queries": QUERIES,
        "candidates": CANDIDATES,
        "rows": rows,
    }
    show(result, "Per second and core", options.json)


if __name__ == "__main__":
    main()
