"""Recall of sign codes: predicted, measured, and beside FAISS's codes of as many bytes (pip install faiss-cpu).

    python benchmarks/bench_hashing.py [--bits 64 128 256 512 1024] [--seeds 20] [--data FOLDER] [--json [FILE]]

Two sets of 9,500 vectors and 500 queries: SIFT descriptors (bigann10k, 128 components of 8 bits; --data names the
folder that holds bigann10k, by default $HYPERSIGN_DATA) and anisotropic Gaussian vectors of 256 components, with
standard deviations (i + 1)^-1/2 along random axes and a mean as long as a vector. First, by length of code, recall@10
by Euclidean distance, each a mean over seeds:

- predicted: by `plan`; hadamard (three rounds) and haar: measured; x4: four candidates for each neighbour, rescored
- best_center: the share of the mean to subtract (1, 0.5 or 0) that `plan` predicts to be best; advised_predicted and
  advised: with this share, by the Hadamard rotation
- real: by `asymmetric_cosine`, whose queries are not hashed
- lsh: FAISS's IndexLSH as it comes; lsh_learned: with thresholds that it learns
- pq: FAISS's product quantizer, 8 bits a group of components, trained on these vectors; its queries are not hashed

Then RaBitQ's estimator at a bit a component, beside FAISS's index of it, both with queries of 4 bits: slope of
estimates on true cosines, less 1 (their bias); root mean square error; the share of pairs within the bound at
epsilon 1.9 beside theory's; recall@10 by estimated distances, and of `BoundedIndex`, with the share of vectors
that it reads.
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from interleaved import show
from numpy.typing import NDArray

from hypersign import theory
from hypersign._json import prints_text
from hypersign._machine import machine, versions
from hypersign.hashing import (
    BoundedIndex,
    HammingIndex,
    SignHasher,
    asymmetric_cosine,
    code_cosines,
    plan,
    rabitq_cosine,
    recall,
)
from hypersign.rotations import HaarRotation

K, FACTOR = 10, 4
TRAININGS = 5
"""Trainings of the product quantizer; they take most of the time and differ little."""

Vectors = NDArray[Any]
Row = dict[str, float]


def sift(folder: Path) -> tuple[Vectors, Vectors]:
    """Base and held-out queries of bigann10k."""
    with np.load(folder / "bigann10k" / "bigann10k.npz") as file:
        return file["base"][:9500], file["base"][9500:]


def anisotropic() -> tuple[Vectors, Vectors]:
    random = np.random.default_rng(0)
    scales = np.arange(1, 257) ** -0.5
    mean = random.standard_normal(256)
    x = random.standard_normal((10_000, 256)) * scales + mean * np.linalg.norm(scales) / np.linalg.norm(mean)
    x = HaarRotation(256, seed=0)(x).astype(np.float32)
    return x[:9500], x[9500:]


def squared_distances(base: Vectors, queries: Vectors) -> NDArray[np.float64]:
    b, q = base.astype(np.float64), queries.astype(np.float64)
    return np.square(q).sum(1)[:, None] + np.square(b).sum(1) - 2 * q @ b.T


def least(scores: NDArray[Any], count: int = FACTOR * K) -> NDArray[np.int64]:
    return np.argsort(scores, axis=1, kind="stable")[:, :count]


def signs(rotation: str, center: float, base: Vectors, queries: Vectors, bits: int, seed: int) -> NDArray[np.int64]:
    hasher = SignHasher(bits, rotation=rotation, center=center, seed=seed).fit(base)
    return HammingIndex(hasher, hasher.transform(base)).search(queries, FACTOR * K).indices


def real(base: Vectors, queries: Vectors, bits: int, seed: int) -> NDArray[np.int64]:
    hasher = SignHasher(bits, seed=seed).fit(base)
    return least(-asymmetric_cosine(hasher, queries, hasher.transform(base)))


def lsh(learn: bool, base: Vectors, queries: Vectors, bits: int, seed: int) -> NDArray[np.int64]:
    index = faiss.IndexLSH(base.shape[1], bits, True, learn)
    index.rrot.init(seed + 1)
    return searched(index, base, queries)


def pq(base: Vectors, queries: Vectors, bits: int, seed: int) -> NDArray[np.int64]:
    index = faiss.IndexPQ(base.shape[1], bits // 8, 8)
    index.pq.cp.seed = seed + 1
    index.pq.cp.min_points_per_centroid = 1  # it would warn: 9,500 vectors are 37 for each of 256
    return searched(index, base, queries)


def searched(index: Any, base: Vectors, queries: Vectors) -> NDArray[np.int64]:
    base, queries = base.astype(np.float32), queries.astype(np.float32)
    index.train(base)
    index.add(base)
    found: NDArray[np.int64] = index.search(queries, FACTOR * K)[1]
    return found


WAYS: dict[str, Callable[[Vectors, Vectors, int, int], NDArray[np.int64]]] = {
    "hadamard": lambda *given: signs("hadamard", 1, *given),
    "haar": lambda *given: signs("haar", 1, *given),
    "real": real,
    "lsh": lambda *given: lsh(False, *given),
    "lsh_learned": lambda *given: lsh(True, *given),
    "pq": pq,
}


def compare(base: Vectors, queries: Vectors, lengths: list[int], seeds: int) -> dict[str, tuple[Row, Row]]:
    """By bits, without rescoring and with: predicted recall and the means of every way's; and standard errors."""
    truth = least(squared_distances(base, queries), K)
    expected = plan(base, queries=queries, bits=lengths, bits_per_dimension=(), factors=(1, FACTOR), k=K)
    rows: dict[str, tuple[Row, Row]] = {}
    for row in expected.rows:
        ways = WAYS | {"advised": lambda *given, best=row.best_center: signs("hadamard", best, *given)}
        indices = {
            name: [
                way(base, queries, row.bits, seed) for seed in range(min(seeds, TRAININGS) if name == "pq" else seeds)
            ]
            for name, way in ways.items()
        }
        for factor, name in ((1, f"{row.bits} bits"), (FACTOR, f"{row.bits} bits, x{FACTOR}")):
            recalls = {way: [recall(i[:, : factor * K], truth, K) for i in found] for way, found in indices.items()}
            rows[name] = (
                {
                    "predicted": row.recall[factor],
                    "best_center": row.best_center,
                    "advised_predicted": row.recall_by_center[row.best_center][factor],
                }
                | {way: float(np.mean(values)) for way, values in recalls.items()},
                {way: float(np.std(values, ddof=1) / len(values) ** 0.5) for way, values in recalls.items()},
            )
    return rows


def faiss_rabitq(base: Vectors, queries: Vectors, seed: int) -> NDArray[np.float64]:
    """Squared distances that FAISS's index estimates, (queries, base)."""
    index = faiss.IndexRaBitQ(base.shape[1], faiss.METRIC_L2)
    index.qb = 4
    rotated = HaarRotation(base.shape[1], seed=seed)  # which its authors ask for, and the index leaves to its user
    base, queries = rotated(base.astype(np.float32)), rotated(queries.astype(np.float32))
    index.train(base)
    index.add(base)
    distances, indices = index.search(queries, len(base))
    found = np.empty(distances.shape)
    np.put_along_axis(found, indices, distances, 1)
    return found


def rabitq(base: Vectors, queries: Vectors, seeds: int) -> dict[str, Row]:
    truth = least(squared_distances(base, queries), K)
    mean = base.mean(0, dtype=np.float64)
    o, q = base - mean, queries - mean
    lengths, asked = np.linalg.norm(o, axis=1), np.linalg.norm(q, axis=1)[:, None]
    true = q @ o.T / (asked * lengths)
    rows: dict[str, list[Row]] = {"ours": [], "FAISS": []}
    for seed in range(seeds):
        hasher = SignHasher(base.shape[1], seed=seed).fit(base)
        estimate = rabitq_cosine(hasher, queries, hasher.transform(base), code_cosines(hasher, base), seed=seed)
        theirs = (lengths**2 + asked**2 - faiss_rabitq(base, queries, seed)) / (2 * asked * lengths)
        for name, cosine in (("ours", estimate.cosine), ("FAISS", theirs)):
            distances = lengths**2 - 2 * lengths * asked * cosine
            rows[name].append(
                {
                    "bias": float((cosine * true).sum() / np.square(true).sum() - 1),
                    "mean_error": float((cosine - true).mean()),
                    "rms_error": float(np.sqrt(np.square(cosine - true).mean())),
                    "recall": recall(least(distances, K), truth, K),
                    f"recall_x{FACTOR}": recall(least(distances), truth, K),
                }
            )
        bounded = BoundedIndex(hasher, base).search(queries, K, seed=seed)
        within = np.abs(estimate.cosine - true) <= estimate.bound
        rows["ours"][-1] |= {
            "coverage": float(within.mean()),
            "coverage_in_theory": float(theory.rabitq_bound_share(true, base.shape[1]).mean()),
            "bounded_recall": recall(bounded.neighbours.indices, truth, K),
            "bounded_read": float(bounded.read.mean() / len(base)),
        }
    return {
        name: {key: float(np.mean([row[key] for row in found])) for key in found[0]} for name, found in rows.items()
    }


def summary(rows: dict[str, Row], errors: dict[str, Row]) -> Row:
    """The largest differences; the least of what signs are above LSH less a standard error of it; and the least
    recall, and what it was predicted to be, where .95 or more was predicted of rescoring."""
    codes = [name for name in rows if not name.endswith(f"x{FACTOR}")]
    sure = [
        (row[measured], row[predicted])
        for name, row in rows.items()
        for measured, predicted in (("hadamard", "predicted"), ("advised", "advised_predicted"))
        if name not in codes and row[predicted] >= 0.95
    ]
    least, foretold = min(sure, default=(float("nan"), float("nan")))

    def over(ours: str, theirs: str) -> float:
        return min(rows[name][ours] - rows[name][theirs] + errors[name][theirs] for name in codes)

    return {
        "predicted_apart": max(abs(row["predicted"] - row["hadamard"]) for row in rows.values()),
        "advised_apart": max(abs(row["advised_predicted"] - row["advised"]) for row in rows.values()),
        "haar_apart": max(abs(row["haar"] - row["hadamard"]) for row in rows.values()),
        "over_lsh": over("hadamard", "lsh"),
        "advised_over_lsh": over("advised", "lsh"),
        "over_lsh_learned": over("hadamard", "lsh_learned"),
        "advised_over_lsh_learned": over("advised", "lsh_learned"),
        "where_predicted_95": least,
        "its_prediction": foretold,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bits", type=int, nargs="+", default=[64, 128, 256, 512, 1024], help="lengths of codes")
    parser.add_argument("--seeds", type=int, default=20, help="rotations (default 20); pq is trained 5 times at most")
    parser.add_argument("--data", type=Path, default=os.environ.get("HYPERSIGN_DATA"), help="holds bigann10k")
    parser.add_argument(
        "--json", type=Path, nargs="?", const="-", metavar="FILE", help="print JSON, or write it there"
    )
    options = parser.parse_args()
    if options.data is None:
        parser.error("name the folder that holds bigann10k by --data, or by HYPERSIGN_DATA")
    if any(bits < 64 or bits % 64 for bits in options.bits) or options.seeds < 2:
        parser.error("--bits must be multiples of 64, and --seeds at least 2")

    result: dict[str, Any] = {
        "benchmark": "hashing",
        "machine": machine(),
        "versions": versions("numpy", "faiss-cpu"),
        "seeds": options.seeds,
        "k": K,
        "rows": {},
        "standard_errors": {},
    }
    estimates: dict[str, Any] = {}
    for name, (base, queries) in {"sift": sift(options.data), "anisotropic": anisotropic()}.items():
        for bits, (row, errors) in compare(base, queries, options.bits, options.seeds).items():
            result["rows"][f"{name}, {bits}"] = row
            result["standard_errors"][f"{name}, {bits}"] = errors
        for who, row in rabitq(base, queries, options.seeds).items():
            estimates[f"{name}, {who}"] = row
    result |= {"rabitq": estimates, "summary": summary(result["rows"], result["standard_errors"])}
    show(result, f"Recall@{K}", options.json)
    if prints_text(options.json):
        show({"rows": estimates}, "RaBitQ's estimator", None)
        show({"rows": {"all rows": result["summary"]}}, "Least and largest", None)


if __name__ == "__main__":
    main()
