"""Predicted beside measured recall of codes: every number of bits, metric and rescoring factor, on four data sets.

    python experiments/recall.py --json docs/results/recall.json

SIFT needs HYPERSIGN_DATA with bigann10k/, pixels need MNIST. Measured recall is the mean over rotations; prediction
and measurement have the same 200 queries, which are not among the vectors.
"""

import argparse
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypersign._machine import machine, versions
from hypersign.data import read
from hypersign.hashing import HammingIndex, SignHasher, predicted_recall

FACTORS = (1, 4)
K = 10
QUERIES = 200


# Vectors and rotations of each data set. Few distinct vectors have few independent errors: among duplicates, recall
# has a standard deviation of .024 over rotations, so it takes many.
SIZES = {
    "SIFT": (4000, 3),
    "MNIST pixels": (1500, 3),
    "anisotropic normal": (4000, 3),
    "heavy duplicates": (2000, 60),
}


def data_set(name: str, vectors: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Vectors and queries."""
    if name == "SIFT":
        with np.load(Path(os.environ["HYPERSIGN_DATA"]) / "bigann10k" / "bigann10k.npz") as saved:
            x = saved[saved.files[0]].astype(np.float32)
    elif name == "MNIST pixels":
        x = read("mnist").test.images.reshape(10_000, -1).astype(np.float32)
    else:
        random = np.random.default_rng(0)
        spread = np.exp(-0.03 * np.arange(96)).astype(np.float32)
        x = (random.standard_normal((vectors + QUERIES, 96), np.float32) + 0.5) * spread
        if name == "heavy duplicates":
            distinct = x[QUERIES : QUERIES + vectors // 5]
            copies = np.minimum(random.zipf(1.5, len(distinct)), 50)  # half of them once, one in thirty 50 times
            return np.repeat(distinct, copies, axis=0)[random.permutation(copies.sum())], x[:QUERIES]
    return x[QUERIES:][:vectors], x[:QUERIES]


METRICS = ("euclidean", "cosine", "inner_product")


def codes(metric: str, dimension: int) -> dict[str, dict[str, Any]]:
    """The options of the hashers, by the name of the code; "2 of 1/2" keeps half as many principal components."""
    levels = {f"{bits:g}": {"bits_per_dimension": bits, "metric": metric} for bits in (1, 1.5, 2, 3, 4, 6)}
    principal = {
        f"{bits} of 1/{part}": levels[f"{bits}"] | {"pca": dimension // part} for bits, part in ((2, 2), (4, 4))
    }
    return {"signs": {"bits": 256}} | levels | principal


def distances(vectors: NDArray[Any], queries: NDArray[Any], metric: str) -> NDArray[np.float64]:
    """Numbers that order the vectors as their distances do, (queries, vectors)."""
    q, x = queries.astype(np.float64), vectors.astype(np.float64)
    if metric == "cosine":
        q, x = (y / np.linalg.norm(y, axis=1, keepdims=True) for y in (q, x))
    return np.stack([((x - query) ** 2).sum(1) if metric == "euclidean" else -(x @ query) for query in q])


def measured(
    vectors: NDArray[Any], queries: NDArray[Any], exact: NDArray[np.float64], hasher: SignHasher
) -> list[float]:
    """Recall of an index, by factor: hits are vectors no farther than the k-th true neighbour."""
    index = HammingIndex(hasher.fit(vectors), hasher.codes(vectors))
    found = index.search(queries, max(FACTORS) * K).indices
    kth = np.partition(exact, K - 1, axis=1)[:, K - 1 : K]
    hits = np.take_along_axis(exact, found, 1) <= kth + 1e-9 * np.abs(exact).max(1, keepdims=True)
    return [float(np.minimum(hits[:, : f * K].sum(1), K).mean() / K) for f in FACTORS]


def compared(name: str, vectors: NDArray[Any], queries: NDArray[Any], rotations: int) -> Iterator[dict[str, Any]]:
    """A row for each metric, code and factor."""
    for metric in METRICS:
        kinds = codes(metric, vectors.shape[1])
        hashers = [SignHasher(**kind) for kind in kinds.values()]
        exact = distances(vectors, queries, metric)
        predictions = predicted_recall(vectors, hashers, queries=queries, k=K, factors=FACTORS, metric=metric)
        for (code, kind), prediction in zip(kinds.items(), predictions, strict=True):
            runs = [measured(vectors, queries, exact, SignHasher(**kind, seed=seed)) for seed in range(rotations)]
            for f, value in zip(FACTORS, np.mean(runs, axis=0), strict=True):
                yield {
                    "data": name,
                    "vectors": len(vectors),
                    "metric": metric,
                    "code": code,
                    "factor": f,
                    "predicted": round(prediction.recall[f], 4),
                    "standard_error": round(prediction.standard_error[f], 4),
                    "measured": round(float(value), 4),
                    "rotations": rotations,
                    "difference": round(prediction.recall[f] - float(value), 4),
                }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows as JSON")
    parser.add_argument("--data", default="", metavar="WORD", help="only data sets whose names have this word")
    options = parser.parse_args()
    rows = []
    for name, (count, rotations) in SIZES.items():
        if options.data not in name:
            continue
        for row in compared(name, *data_set(name, count), rotations):
            rows.append(row)
            print(*row.values(), flush=True)
    worst = max(rows, key=lambda row: abs(row["difference"]))
    print("largest difference:", worst)
    if options.json:
        found = {"k": K, "queries": QUERIES, "machine": machine(), "versions": versions(), "rows": rows}
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
