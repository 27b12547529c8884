"""Plans sign codes: recall by code length and rescoring factor, predicted before hashing and measured after."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hypersign import _defaults, theory
from hypersign._checks import HypersignError, check_choice, check_int
from hypersign._display import shown
from hypersign.bits.hadamard import next_power_of_two
from hypersign.hashing.hasher import MOST_BITS, SignHasher, check_share
from hypersign.hashing.index import HammingIndex, differences, recall
from hypersign.hashing.prediction import FAR, Angles, Crowd, keep_least, meet, recall_by_factor
from hypersign.hashing.stored import AnyVectors, as_vectors, read_blocks

__all__ = ["Plan", "Row", "measure", "plan"]

CENTERS = (1.0, 0.5, 0.0)
"""Shares of the mean that are compared."""

SAMPLE = 10_000
"""Number of vectors on which the effective dimension and the angles are measured."""


@shown
@dataclasses.dataclass(frozen=True)
class Row:
    """Predictions for codes of one length.

    Attributes: `bits`; `bytes` per vector; `smaller`, the vectors' size divided by the codes' size; `recall`, the
    predicted recall@k by rescoring factor; `standard_error`, its standard error over the queries (NaN for one query);
    `recall_by_center`, the recall by the share of the mean that is subtracted; `best_center`, the share with the
    highest recall; `measured_recall`, the recall measured after hashing, or None.
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
    """The geometry of a set of vectors, and the recall that its codes should have.

    Attributes:
        vectors, dimension: number of vectors, and of their components.
        k: number of neighbours that count.
        metric: metric of the true neighbours, "Euclidean". Scale vectors to length 1 first to search by angle
            (cosine); if lengths differ, the recall is another one.
        nearest, all: angles between queries and their k true neighbours, and between queries and all vectors, after
            centring if asked.
        effective_dimension: (tr C)^2 / tr C^2, C the covariance. Isotropic vectors of that dimension have the same
            spread of cosines.
        code_angle: mean angle between a vector and its signs, in degrees: `plain`, `centred`, `rotated` (centred if
            asked, then rotated), and `predicted` for rotated vectors.
        rows: one row per code length.
        queries: the query vectors, shape (q, dimension).
        query_rows: rows of the queries, if they were drawn from the vectors. A query is not its own neighbour.
        truth: the true neighbours of each query, int64 (q, k).
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
        """The plan for JSON, with the number of queries in place of the queries."""
        found = dataclasses.asdict(self)
        for name in ("queries", "query_rows", "truth"):
            del found[name]
        return found | {"queries": len(self.queries)}


def plan(
    vectors: AnyVectors,
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
    """Predicts recall@k by code length and rescoring factor, without hashing.

    It is the share of the k nearest vectors that are among the factor * k nearest codes. "Nearest" is Euclidean:
    scale vectors to length 1 first to search by angle. All vectors are read, block by block, for a sample of queries.

    Args:
        vectors: shape (n, dimension); may be a file (`open_vectors`).
        queries: shape (q, dimension). By default random rows of `vectors`; a row is not its own neighbour.
        bits: code lengths.
        factors: rescoring factors: candidates per neighbour.
        k: number of neighbours that count.
        rotation: "hadamard" (three rounds, as good as Haar's rotation) or "haar".
        center: share of the mean that the hasher will subtract. The shares 1, 0.5 and 0 are compared with it, unless
            one leaves a vector without a direction.
        sample: number of queries to draw.
        seed: seed of the draws.

    Raises:
        HypersignError: there are fewer than k + 2 vectors, a vector cannot be hashed, or an option is out of range.

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
    random = np.random.default_rng(check_int("seed", seed, min=0))
    vectors, asked, rows = _asked(vectors, queries, k, sample, random)
    n, d = vectors.shape
    share = check_share(center)
    fitted = SignHasher(bits=max(d, 2), rotation="hadamard", center=True, seed=seed)
    fitted.fit_blocks((block for _, block in read_blocks(vectors)), d)
    truth = _true_neighbours(vectors, asked, rows, k)
    companions = np.sort(random.choice(n, min(FAR, n), replace=False))
    crowds: dict[float, Crowd] = {}
    for s in sorted({*CENTERS, share}, reverse=True):
        try:
            crowds[s] = meet(vectors, asked, rows, truth, companions, s * fitted.mean_)
        except HypersignError:  # a vector at this centre could not be hashed
            if s == share:
                raise
    table = []
    for m in bits:
        size = next_power_of_two(max(d, m)) if rotation == "hadamard" else max(d, m)
        by_query = {s: recall_by_factor(crowd, m, size, k, factors) for s, crowd in crowds.items()}
        table.append(_row(m, by_query, share, d * vectors.dtype.itemsize))
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


def _asked(
    vectors: AnyVectors, queries: ArrayLike | None, k: int, sample: int, random: np.random.Generator
) -> tuple[AnyVectors, NDArray[Any], NDArray[np.int64] | None]:
    """The vectors, the queries, and the rows of the queries if they were drawn from the vectors."""
    vectors = as_vectors(vectors)
    if vectors.ndim != 2:
        raise HypersignError(f"vectors must be of shape (n, dimension); got {vectors.shape}")
    check_int("k", k, min=1)
    if len(vectors) < k + 2:
        raise HypersignError(f"{k} neighbours of a query need at least {k + 2} vectors; got {len(vectors)}")
    n, d = vectors.shape
    rows = None
    if queries is None:
        rows = np.sort(random.choice(n, min(check_int("sample", sample, min=1), n), replace=False))
        queries = vectors[rows]
    asked = np.asarray(queries)
    if asked.ndim != 2 or not len(asked) or asked.shape[1] != d:
        raise HypersignError(f"queries must be of shape (q, {d}); got {asked.shape}")
    return vectors, asked, rows


def _row(m: int, by_query: dict[float, dict[int, NDArray[np.float64]]], share: float, vector_bytes: int) -> Row:
    """The plan's row for m bits, from the recall of each query by centre and factor."""
    expected = {s: {f: float(values.mean()) for f, values in found.items()} for s, found in by_query.items()}
    return Row(
        bits=m,
        bytes=8 * -(-m // 64),
        smaller=vector_bytes / (8 * -(-m // 64)),
        recall=expected[share],
        standard_error={f: _standard_error(values) for f, values in by_query[share].items()},
        recall_by_center=expected,
        best_center=max(expected, key=lambda s: sum(expected[s].values())),
    )


def measure(index: HammingIndex, planned: Plan, *, threads: int = 1) -> Plan:
    """Returns the plan with the measured recall of an index of the same vectors, in the row of its code length.

    Raises HypersignError if the index has another number of vectors or another dimension, or no row has its length.
    """
    hasher = index.hasher
    if (len(index), hasher.n_features_in_) != (planned.vectors, planned.dimension):
        raise HypersignError(
            f"the plan is for {planned.vectors} vectors of dimension {planned.dimension}; the index has "
            f"{len(index)} of dimension {hasher.n_features_in_}"
        )
    if hasher.bits_ not in [row.bits for row in planned.rows]:
        raise HypersignError(f"the plan has no row for the index's {hasher.bits_} bits; plan with them")
    rows = []
    for row in planned.rows:
        if row.bits == hasher.bits_:
            row = dataclasses.replace(row, measured_recall=_measured(index, planned, tuple(row.recall), threads))
        rows.append(row)
    return dataclasses.replace(planned, rows=tuple(rows))


def _standard_error(values: NDArray[np.float64]) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def _measured(index: HammingIndex, planned: Plan, factors: Sequence[int], threads: int) -> dict[int, float]:
    own = 0 if planned.query_rows is None else 1
    found = index.search(planned.queries, min(max(factors) * planned.k + own, len(index)), threads=threads).indices
    if planned.query_rows is not None:
        # Drop the query itself, or the last candidate if the query was not found.
        keep = found != planned.query_rows[:, None]
        keep[keep.all(1), -1] = False
        found = found[keep].reshape(len(found), -1)
    return {factor: recall(found[:, : factor * planned.k], planned.truth, planned.k) for factor in factors}


def _true_neighbours(
    vectors: AnyVectors, queries: NDArray[Any], rows: NDArray[np.int64] | None, k: int
) -> NDArray[np.int64]:
    """The k nearest vectors of each query, itself left out; of equal distances the lower index first."""
    # Distances from each other do not change where all are seen from the first, and squares are smaller there.
    origin = np.asarray(vectors[0])
    q = differences(queries, origin)
    distances, indices = np.full((len(q), k), np.inf), np.empty((len(q), k), np.int64)
    for start, rows_here in read_blocks(vectors):
        block = differences(rows_here, origin)
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
