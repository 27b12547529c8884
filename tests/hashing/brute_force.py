"""Distances to all vectors, and the recall of an index beside them."""

from typing import Any

import numpy as np

from hypersign.hashing import HammingIndex, SignHasher


def distances(metric: str, x: Any, q: Any) -> Any:
    """Squared Euclidean distances, 1 - cosine or negated inner products, (queries, vectors)."""
    if metric == "euclidean":
        return np.square(x[None] - q[:, None]).sum(2)
    if metric == "inner_product":
        return -(q @ x.T)
    return 1 - (q @ x.T) / np.linalg.norm(q, axis=1)[:, None] / np.linalg.norm(x, axis=1)


def measured_recall(options: dict[str, Any], x: Any, q: Any, rotations: int) -> Any:
    """Recall@10 of level codes alone and with four rescored candidates per neighbour: a mean over rotations."""
    exact = distances(options["metric"], x, q)
    kth = np.sort(exact, axis=1)[:, 9]
    found = []
    for seed in range(rotations):
        hasher = SignHasher(**options, seed=seed).fit(x)
        indices = HammingIndex(hasher, hasher.codes(x)).search(q, 40).indices
        hits = np.take_along_axis(exact, indices, 1) <= kth[:, None]
        found.append([hits[:, :10].sum(1).mean() / 10, np.minimum(hits.sum(1), 10).mean() / 10])
    return np.mean(found, 0)
