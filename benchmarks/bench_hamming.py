"""Exact nearest codes by Hamming distance, against FAISS's IndexBinaryFlat (pip install faiss-cpu).

    python benchmarks/bench_hamming.py [--codes 500000] [--queries 500] [--bits 128 256 1024] [--json [FILE]]

Random codes, the 10 nearest of every query. Both search in interleaved rounds, and the minimum time counts:
on one thread the processor time of the process, so that other programs do not count, else time on the clock.
Distances must be identical, or the benchmark stops. GB/s counts every code once for every query.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import rich
import rich.table

from hypersign._json import prints_text, write_json
from hypersign._machine import machine, versions
from hypersign.bits import backend, hamming_topk


def seconds(function: Callable[[], np.ndarray], threads: int) -> tuple[float, np.ndarray]:
    clock = time.process_time if threads == 1 else time.perf_counter
    start = clock()
    distances = function()
    return clock() - start, distances


def compare(bits: int, options: argparse.Namespace) -> dict[str, float]:
    """Least seconds of both at one length of codes."""
    generator = np.random.default_rng(bits)
    codes = generator.integers(0, 2**64, (options.codes, bits // 64), dtype=np.uint64)
    queries = generator.integers(0, 2**64, (options.queries, bits // 64), dtype=np.uint64)
    index = faiss.IndexBinaryFlat(bits)
    index.add(codes.view(np.uint8))
    ways = {
        "faiss": lambda: index.search(queries.view(np.uint8), options.k)[0],
        "hypersign": lambda: hamming_topk(queries, codes, options.k, threads=options.threads)[0],
    }
    least = dict.fromkeys(ways, float("inf"))
    for _ in range(options.rounds):
        found = {}
        for name, way in ways.items():
            spent, found[name] = seconds(way, options.threads)
            least[name] = min(least[name], spent)
        if not np.array_equal(found["faiss"], found["hypersign"]):
            raise SystemExit(f"{bits} bits: the distances differ")
    read = options.codes * options.queries * bits / 8
    return {
        "faiss_seconds": least["faiss"],
        "seconds": least["hypersign"],
        "times_as_fast": least["faiss"] / least["hypersign"],
        "gigabytes_per_second": read / least["hypersign"] / 1e9,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codes", type=int, default=500_000, help="codes searched (default 500000)")
    parser.add_argument("--queries", type=int, default=500, help="queries (default 500)")
    parser.add_argument(
        "--bits", type=int, nargs="+", default=[128, 256, 1024], help="of a code (default 128 256 1024)"
    )
    parser.add_argument("--k", type=int, default=10, help="nearest codes of a query (default 10)")
    parser.add_argument("--threads", type=int, default=1, help="of both (default 1)")
    parser.add_argument(
        "--rounds", type=int, default=7, help="interleaved rounds; the minimum time counts (default 7)"
    )
    parser.add_argument(
        "--json", type=Path, nargs="?", const="-", metavar="FILE", help="print JSON, or write it there"
    )
    options = parser.parse_args()
    if any(bits < 64 or bits % 64 for bits in options.bits):
        parser.error("--bits must be multiples of 64")

    faiss.omp_set_num_threads(options.threads)
    rows = {bits: compare(bits, options) for bits in options.bits}
    result = {
        "benchmark": "hamming",
        "machine": machine(),
        "versions": versions("numpy", "faiss-cpu"),
        "backend": backend(),
        "faiss": faiss.get_compile_options().strip(),
        "threads": options.threads,
        "codes": options.codes,
        "queries": options.queries,
        "k": options.k,
        "bits": rows,
    }
    write_json(result, options.json)
    if not prints_text(options.json):
        return
    title = f"{options.k} nearest of {options.codes:,} codes, {options.queries} queries, {options.threads} threads"
    table = rich.table.Table("bits", "FAISS, seconds", "ours, seconds", "times as fast", "GB/s", title=title)
    for bits, row in rows.items():
        table.add_row(
            str(bits),
            f"{row['faiss_seconds']:.3f}",
            f"{row['seconds']:.3f}",
            f"{row['times_as_fast']:.1f}",
            f"{row['gigabytes_per_second']:.0f}",
        )
    rich.print(table)


if __name__ == "__main__":
    main()
