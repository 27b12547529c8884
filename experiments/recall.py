"""Predicted beside measured recall of codes: every number of bits, metric and rescoring factor, on four data sets.

    python experiments/recall.py --json docs/results/recall.json

SIFT needs HYPERSIGN_DATA with bigann10k/, pixels need MNIST. Measured recall is the mean over rotations; prediction
and measurement have the same 200 queries, which are not among the vectors.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypersign.data import read
from hypersign.hashing import SignHasher
from hypersign.hashing.index import HammingIndex
from hypersign.hashing.prediction import recall_by_query, sampled

FACTORS = (1, 4)
K = 10
QUERIES = 200


def data_sets(vectors: int) -> Iterator[tuple[str, NDArray[Any], NDArray[Any]]]:
    """Name, vectors, queries."""
    folder = Path(os.environ["HYPERSIGN_DATA"])
    with np.load(folder / "bigann10k" / "bigann10k.npz") as saved:
        sift = saved[saved.files[0]].astype(np.float32)
    yield "SIFT", sift[QUERIES:][:vectors], sift[:QUERIES]
    pixels = read("mnist").test.images.reshape(10_000, -1).astype(np.float32)
    yield "MNIST pixels", pixels[QUERIES:][:vectors], pixels[:QUERIES]
    random = np.random.default_rng(0)
    spread = np.exp(-0.03 * np.arange(96)).astype(np.float32)
    x = (random.standard_normal((vectors + QUERIES, 96), np.float32) + 0.5) * spread
    yield "anisotropic normal", x[QUERIES:], x[:QUERIES]
    distinct = x[QUERIES : QUERIES + vectors // 5]
    copies = np.minimum(random.zipf(1.5, len(distinct)), 50)  # half of them once, one in thirty 50 times
    yield "heavy duplicates", np.repeat(distinct, copies, axis=0)[random.permutation(copies.sum())], x[:QUERIES]


def hashers() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Name of the code, metric of the true neighbours, options."""
    for metric in ("euclidean", "cosine", "inner_product"):
        yield "signs", metric, {"bits": 256}
        for bits in (1, 1.5, 2, 3, 4):
            yield f"{bits:g}", metric, {"bits_per_dimension": bits, "metric": metric}


def measured(sample: Any, hasher: SignHasher, factors: tuple[int, ...]) -> dict[int, float]:
    """Recall of an index: hits are vectors no farther than the k-th true neighbour."""
    vectors, queries = sample.vectors, sample.queries
    index = HammingIndex(hasher.fit(vectors), hasher.codes(vectors))
    found = index.search(queries, max(factors) * K).indices
    q, x = queries.astype(np.float64), vectors.astype(np.float64)
    if sample.metric == "cosine":
        q, x = (y / np.linalg.norm(y, axis=1, keepdims=True) for y in (q, x))
    recalls: dict[int, list[float]] = {f: [] for f in factors}
    for query, row in zip(q, found, strict=True):
        distances = ((x - query) ** 2).sum(1) if sample.metric == "euclidean" else -(x @ query)
        kth = np.sort(distances)[K - 1]
        hit = distances[row] <= kth + 1e-9 * np.abs(distances).max()
        for f in factors:
            recalls[f].append(min(hit[: f * K].sum(), K) / K)
    return {f: float(np.mean(values)) for f, values in recalls.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--vectors", type=int, default=3000)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    rows = []
    for name, vectors, queries in data_sets(options.vectors):
        if options.only and options.only not in name:
            continue
        samples: dict[str, Any] = {}
        crowds: dict[str, dict] = {}
        for code, metric, kind in hashers():
            began = time.process_time()
            if metric not in samples:
                samples[metric], crowds[metric] = sampled(vectors, queries, K, metric, QUERIES, 0), {}
            sample = samples[metric]
            predicted = {
                f: float(v.mean())
                for f, v in recall_by_query(sample, SignHasher(**kind), FACTORS, crowds[metric]).items()
            }
            seconds = time.process_time() - began
            # Few distinct vectors have few independent errors, so their recall varies more from rotation to rotation.
            seeds = options.seeds * (4 if name == "heavy duplicates" else 1)
            by_seed = [measured(sample, SignHasher(**kind, seed=seed), FACTORS) for seed in range(seeds)]
            for f in FACTORS:
                values = [found[f] for found in by_seed]
                rows.append(
                    {
                        "data": name,
                        "vectors": len(vectors),
                        "metric": metric,
                        "code": code,
                        "factor": f,
                        "predicted": round(predicted[f], 4),
                        "measured": round(float(np.mean(values)), 4),
                        "rotations": seeds,
                        "difference": round(predicted[f] - float(np.mean(values)), 4),
                    }
                )
                print(*rows[-1].values(), f"{seconds:.2f} s", flush=True)
        if options.json:
            options.json.write_text(json.dumps({"k": K, "queries": QUERIES, "rows": rows}, indent=1) + "\n")
    worst = max(rows, key=lambda row: abs(row["difference"]))
    print("largest difference", worst)


if __name__ == "__main__":
    main()
