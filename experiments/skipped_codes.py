"""How many results are lost when level codes are skipped by their signs, and how much time does it save?

    OMP_NUM_THREADS=1 python experiments/skipped_codes.py --json docs/results/skipped-codes.json

Searches with and without `exact`, for five sets of vectors, three metrics, and 1, 2 and 4 bits: 2,000 queries of 10
neighbours each. Pixels need MNIST in HYPERSIGN_DATA. Only AVX-512 skips codes; elsewhere nothing can be missing.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import rich
import rich.table
from numpy.typing import NDArray

from hypersign._json import prints_text, write_json
from hypersign._machine import machine, versions
from hypersign.bits import backend
from hypersign.data import read
from hypersign.hashing import HammingIndex, SignHasher

K = 10
QUERIES = 2000
COUNT = 60_000
METRICS = ("euclidean", "cosine", "inner_product")
BITS = (1, 2, 4)

Vectors = NDArray[np.float32]


def data_sets() -> Iterator[tuple[str, Vectors, Vectors]]:
    """A name, vectors, and queries that are not among them."""
    random = np.random.default_rng(0)

    def normal(count: int, dimension: int) -> Vectors:
        return random.standard_normal((count, dimension), np.float32)

    def parted(x: Vectors) -> tuple[Vectors, Vectors]:
        return x[:-QUERIES], x[-QUERIES:]

    digits = read("mnist")
    pixels, more = (part.images.reshape(-1, 784).astype(np.float32) for part in (digits.train, digits.test))
    yield "MNIST pixels", pixels[:COUNT], more[:QUERIES]
    yield "anisotropic normal", *parted(normal(COUNT + QUERIES, 768) * np.arange(1, 769, dtype=np.float32) ** -0.5)
    yield "isotropic normal", *parted(normal(COUNT + QUERIES, 256))
    clusters = normal(200, 300)[random.integers(0, 200, COUNT + QUERIES)]
    yield "200 clusters", *parted(clusters + 0.4 * normal(COUNT + QUERIES, 300))
    nearly_equal = np.repeat(normal(COUNT // 10, 256), 10, axis=0) + 1e-3 * normal(COUNT, 256)
    yield "ten nearly equal", nearly_equal, nearly_equal[:: COUNT // QUERIES] + 0.5 * normal(QUERIES, 256)


def compare(index: HammingIndex, queries: Vectors) -> dict[str, Any]:
    """Results of a search of all codes that the default search lacks, and processor seconds of both."""
    seconds, results = [], []
    for exact in (True, False):
        start = time.process_time()
        results.append(index.search(queries, K, exact=exact).indices.tolist())
        seconds.append(time.process_time() - start)
    missing = sum(len(set(all_codes) - set(found)) for all_codes, found in zip(*results, strict=True))
    return {"missing": missing, "results": K * len(queries), "exact_seconds": seconds[0], "seconds": seconds[1]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to FILE; - prints them")
    words = parser.parse_args()
    rows: dict[str, Any] = {}
    for name, vectors, queries in data_sets():
        for metric in METRICS:
            for bits in BITS:
                hasher = SignHasher(bits_per_dimension=bits, metric=metric).fit(vectors)
                rows[f"{name}, {metric}, {bits} bits"] = compare(HammingIndex(hasher, hasher.codes(vectors)), queries)
            print(name, metric, file=sys.stderr)
    write_json({"rows": rows, "backend": backend(), "machine": machine(), "versions": versions("numpy")}, words.json)
    if not prints_text(words.json):
        return
    table = rich.table.Table("vectors, metric, bits", "missing", "of", "times as fast")
    for name, row in rows.items():
        faster = row["exact_seconds"] / row["seconds"]
        table.add_row(name, str(row["missing"]), str(row["results"]), f"{faster:.2f}")
    rich.print(table)


if __name__ == "__main__":
    main()
