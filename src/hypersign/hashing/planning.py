"""The plan of sign codes: recall by bits and rescoring factor, predicted before hashing, measured after."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hypersign import _defaults, theory
from hypersign._checks import HypersignError, check_choice, check_int
from hypersign._display import shown
from hypersign.bits.hadamard import next_power_of_two
from hypersign.hashing.hasher import MOST_BITS, SignHasher, block_rows, check_share
from hypersign.hashing.index import HammingIndex, differences, recall
from hypersign.hashing.prediction import FAR, Angles, Crowd, keep_least, meet, recall_by_factor

__all__ = ["Plan", "Row", "measure", "plan"]

CENTERS = (1.0, 0.5, 0.0)
"""Shares of the mean that are compared."""

SAMPLE = 10_000
"""Vectors on which spectrum and code angles are measured."""


@shown
@dataclasses.dataclass(frozen=True)
class Row:
    """Predictions for codes of one length.

    Attributes: `bits`; `bytes` per vector; `smaller`, how many times smaller than the vectors; `recall`, the
    predicted recall@k by rescoring factor; `standard_error` of it, over the queries (NaN for a single one);
    `recall_by_center`, the same by the share of the mean that is subtracted; `best_center`, the share of the
    greatest recall; `measured_recall`, after hashing, or None.
    """

    bits: int
    bytes: int
    smaller: float
    recall: dict[int, float]
    standard_error: dict[int, float]
    recall_by_center: dict[float, dict[int, float]]
    best_center: float
    measured_recall: dict[int, float] | None = None


@shown
@dataclasses.dataclass(frozen=True)
class Plan:
    """Geometry of a set of vectors, and the recall to expect of their codes.

    Attributes:
        vectors, dimension: how many there are, and of how many components.
        k: neighbours that count.
        metric: "Euclidean", of the true neighbours. Scale vectors to length 1 beforehand for neighbours by angle, as
            by cosine; where lengths differ, recall differs too.
        nearest, all: angles between queries and their k true neighbours, and all vectors, after centring if asked.
        effective_dimension: (tr C)^2 / tr C^2 of the covariance C: that of isotropic vectors with the same spread
            of cosines.
        code_angle: mean angle in degrees of a vector and its signs: `plain` as it is, `centred`, `rotated` (centred
            if asked, then rotated), and `predicted` for the last.
        rows: one for each length of code.
        queries: the query vectors, (q, dimension).
        query_rows: their rows among the vectors, where they were drawn from them; not their own neighbours.
        truth: their true neighbours, int64 (q, k).
    """

    vectors: int
    dimension: int
    k: int
    nearest: Angles
    all: Angles
    effective_dimension: float
    code_angle: dict[str, float]
    rows: tuple[Row, ...]
    queries: NDArray[Any] = dataclasses.field(repr=False)
    query_rows: NDArray[np.int64] | None = dataclasses.field(repr=False)
    truth: NDArray[np.int64] = dataclasses.field(repr=False)
    metric: str = "Euclidean"

    def as_dict(self) -> dict[str, Any]:
        """The plan as JSON has it, without the queries."""
        found = dataclasses.asdict(self)
        for name in ("queries", "query_rows", "truth"):
            del found[name]
        return found | {"queries": len(self.queries)}


def plan(
    vectors: NDArray[Any],
    *,
    queries: ArrayLike | None = None,
    bits: Sequence[int] = (64, 128, 256, 512, 1024),
    factors: Sequence[int] = (1, 2, 4, 8),
    k: int = _defaults.NEIGHBOURS,
    rotation: str = "hadamard",
    center: bool | float = True,
    sample: int = _defaults.PLAN_QUERIES,
    seed: int = 0,
) -> Plan:
    """Predicts recall@k by length of code and rescoring factor: the share of the k nearest vectors that are among
    the nearest factor * k codes. "Nearest" is Euclidean: scale vectors to length 1 beforehand to search by angle.

    Reads all vectors, a block at a time, for a sample of queries; hashes nothing.

    Args:
        vectors: shape (n, dimension); a memory-mapped file will do (`open_vectors`).
        queries: shape (q, dimension); rows of `vectors` drawn at random if None, each left out of its own neighbours.
        bits: lengths of codes.
        factors: rescoring factors: candidates per neighbour.
        k: neighbours that count.
        rotation: "hadamard" (three rounds are like Haar's rotation) or "haar".
        center: the share of the mean that the hasher will subtract; 1, 0.5 and 0 are compared with it, but for those
            that leave a vector without a direction.
        sample: queries to draw.
        seed: of the draws.

    Raises:
        HypersignError: fewer vectors than k and a query need, vectors that cannot be hashed, or an option out of
            its range.

    >>> x = np.random.default_rng(0).standard_normal((2000, 32))
    >>> expected = plan(x, bits=(128,), sample=50).rows[0].recall
    >>> round(expected[1], 1), round(expected[8], 1)
    (0.3, 0.8)
    """
    check_choice("rotation", rotation, ("hadamard", "haar"))
    for values, name in ((bits, "bits"), (factors, "factors")):
        if not len(values):
            raise HypersignError(f"{name} must name at least one; got none")
        for value in values:
            check_int(name, value, min=1, max=MOST_BITS)
    vectors = np.asanyarray(vectors)
    if vectors.ndim != 2:
        raise HypersignError(f"vectors must be of shape (n, dimension); got {vectors.shape}")
    check_int("k", k, min=1)
    if len(vectors) < k + 2:
        raise HypersignError(f"{k} neighbours of a query need at least {k + 2} vectors; got {len(vectors)}")
    n, d = vectors.shape
    random = np.random.default_rng(check_int("seed", seed, min=0))
    rows = None
    if queries is None:
        rows = np.sort(random.choice(n, min(check_int("sample", sample, min=1), n), replace=False))
        queries = vectors[rows]
    asked = np.asarray(queries)
    if asked.ndim != 2 or not len(asked) or asked.shape[1] != d:
        raise HypersignError(f"queries must be of shape (q, {d}); got {asked.shape}")

    share = check_share(center)
    fitted = SignHasher(bits=max(d, 2), rotation="hadamard", center=True, seed=seed).fit(vectors)
    truth = _true_neighbours(vectors, asked, rows, k)
    companions = np.sort(random.choice(n, min(FAR, n), replace=False))
    crowds: dict[float, Crowd] = {}
    for s in sorted({*CENTERS, share}, reverse=True):
        try:
            crowds[s] = meet(vectors, asked, rows, truth, companions, s * fitted.mean_)
        except HypersignError:  # a vector that lies at this centre could not be hashed
            if s == share:
                raise
    table = []
    for m in bits:
        size = next_power_of_two(max(d, m)) if rotation == "hadamard" else max(d, m)
        by_query = {s: recall_by_factor(crowd, m, size, k, factors) for s, crowd in crowds.items()}
        expected = {s: {f: float(found[f].mean()) for f in factors} for s, found in by_query.items()}
        table.append(
            Row(
                bits=m,
                bytes=8 * -(-m // 64),
                smaller=d * vectors.dtype.itemsize / (8 * -(-m // 64)),
                recall=expected[share],
                standard_error={f: _standard_error(by_query[share][f]) for f in factors},
                recall_by_center=expected,
                best_center=max(expected, key=lambda s: sum(expected[s].values())),
            )
        )
    few = np.asarray(vectors[np.sort(random.choice(n, min(SAMPLE, n), replace=False))], np.float64)
    return Plan(
        vectors=n,
        dimension=d,
        k=k,
        nearest=crowds[share].nearest,
        all=crowds[share].all,
        effective_dimension=theory.effective_dimension(np.cov(few, rowvar=False, ddof=0)),
        code_angle=_code_angles(few, fitted, share),
        rows=tuple(table),
        queries=asked,
        query_rows=rows,
        truth=truth,
    )


def measure(index: HammingIndex, planned: Plan, *, threads: int = 1) -> Plan:
    """The plan with the recall that an index of its vectors has for its queries, in the row of its bits.

    Raises HypersignError if the index is of other vectors, by their number and dimension, or no row has its bits.
    """
    hasher = index.hasher
    if (len(index), hasher.n_features_in_) != (planned.vectors, planned.dimension):
        raise HypersignError(
            f"the plan is for {planned.vectors} vectors of dimension {planned.dimension}; the index has "
            f"{len(index)} of dimension {hasher.n_features_in_}"
        )
    if hasher.bits not in [row.bits for row in planned.rows]:
        raise HypersignError(f"the plan has no row for the index's {hasher.bits} bits; plan with them")
    rows = []
    for row in planned.rows:
        if row.bits == hasher.bits:
            row = dataclasses.replace(row, measured_recall=_measured(index, planned, tuple(row.recall), threads))
        rows.append(row)
    return dataclasses.replace(planned, rows=tuple(rows))


def _standard_error(values: NDArray[np.float64]) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def _measured(index: HammingIndex, planned: Plan, factors: Sequence[int], threads: int) -> dict[int, float]:
    own = 0 if planned.query_rows is None else 1
    found = index.search(planned.queries, min(max(factors) * planned.k + own, len(index)), threads=threads).indices
    if planned.query_rows is not None:
        # Out goes the query itself, or the last where it was not found among the nearest.
        keep = found != planned.query_rows[:, None]
        keep[keep.all(1), -1] = False
        found = found[keep].reshape(len(found), -1)
    return {factor: recall(found[:, : factor * planned.k], planned.truth, planned.k) for factor in factors}


def _true_neighbours(
    vectors: NDArray[Any], queries: NDArray[Any], rows: NDArray[np.int64] | None, k: int
) -> NDArray[np.int64]:
    """The k nearest vectors of each query, itself left out; of equal distances the lower index first."""
    # Distances from each other do not change where all are seen from the first, and squares are smaller there.
    origin = np.asarray(vectors[0])
    q = differences(queries, origin)
    distances, indices = np.full((len(q), k), np.inf), np.empty((len(q), k), np.int64)
    step = block_rows(vectors.shape[1])
    for start in range(0, len(vectors), step):
        block = differences(np.asarray(vectors[start : start + step]), origin)
        squares = np.square(q).sum(1)[:, None] + np.square(block).sum(1) - 2 * q @ block.T
        if rows is not None:
            own = np.flatnonzero((start <= rows) & (rows < start + len(block)))
            squares[own, rows[own] - start] = np.inf
        keep_least(distances, indices, squares, start)
    return indices


def _code_angles(x: NDArray[np.float64], fitted: SignHasher, share: float) -> dict[str, float]:
    def angle(y: NDArray[np.float64]) -> float:
        y = y[y.any(1)]  # zero has no angle
        norms = np.sqrt(np.square(y).sum(1) * y.shape[1])
        return float(np.degrees(np.arccos(np.clip(np.abs(y).sum(1) / norms, -1, 1))).mean())

    size = next_power_of_two(x.shape[1])
    rotated = SignHasher(bits=size, seed=fitted.seed).restore(share * fitted.mean_)
    return {
        "plain": angle(x),
        "centred": angle(x - fitted.mean_),
        "rotated": angle(rotated.project(x)),
        "predicted": float(np.degrees(theory.sign_angle(size))),
    }
