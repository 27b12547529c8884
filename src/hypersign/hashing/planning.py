"""Plans codes: recall by kind of code and rescoring factor, predicted before hashing and measured after."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hypersign import _defaults, theory
from hypersign._checks import HypersignError, check_choice, check_int, check_real
from hypersign._display import shown
from hypersign.bits import LevelCode
from hypersign.bits.hadamard import next_power_of_two
from hypersign.hashing.expected_scores import Angles, expected_scores
from hypersign.hashing.hasher import MOST_BITS, SignHasher, check_share
from hypersign.hashing.index import HammingIndex
from hypersign.hashing.levels import NUMBERS
from hypersign.hashing.prediction import predict
from hypersign.hashing.principal import MOST_DIMENSIONS
from hypersign.hashing.sample import Sample, sampled
from hypersign.hashing.stored import AnyVectors

__all__ = ["Choice", "Plan", "Row", "measure", "plan"]

CENTERS = (1.0, 0.5, 0.0)
"""Shares of the mean that are compared."""

SAMPLE = 10_000
"""Number of vectors on which the effective dimension and the angles are measured."""


@shown
@dataclasses.dataclass(frozen=True)
class Row:
    """Predictions for codes of one kind.

    Attributes: `bits` of a code, without the numbers of level codes; `bits_per_dimension`; `metric`, what codes are
    compared by: "hamming" for sign codes, else the metric that level codes estimate; `bytes` per vector; `smaller`,
    the vectors' size divided by the codes' size; `recall`, the predicted recall@k by rescoring factor;
    `standard_error`, its standard error over the queries (NaN for one query); `recall_by_center`, the recall by the
    share of the mean that is subtracted; `best_center`, the share with the highest recall (level codes know the
    lengths and have one share alone); `measured_recall`, the recall measured after hashing, or None; `pca`, the
    number of principal components that codes keep, if they do.
    """

    bits: int
    bytes: int
    smaller: float
    recall: dict[int, float]
    standard_error: dict[int, float]
    recall_by_center: dict[float, dict[int, float]]
    best_center: float
    measured_recall: dict[int, float] | None = None
    bits_per_dimension: float = 1
    metric: str = "hamming"
    pca: int | None = None

    def kind(self) -> tuple[float, int, str, int | None]:
        """Bits per dimension, bits, metric and `pca`."""
        return self.bits_per_dimension, self.bits, self.metric, self.pca


@dataclasses.dataclass(frozen=True)
class Choice:
    """The code that a budget leads to.

    Attributes: `row` of the plan; rescoring `factor`; `center`, share of the mean to subtract; predicted `recall`;
    `enough`, whether that reaches the recall asked for.
    """

    row: Row
    factor: int
    center: float
    recall: float
    enough: bool


@shown
@dataclasses.dataclass(frozen=True)
class Plan:
    """The geometry of a set of vectors, and the recall that its codes should have.

    Attributes:
        vectors, dimension: number of vectors, and of their components.
        k: number of neighbours that count.
        metric: metric of the true neighbours: "Euclidean", "cosine" or "inner product".
        nearest, all: angles between queries and their k true neighbours, and between queries and all vectors, after
            centring if asked.
        effective_dimension: (tr C)^2 / tr C^2, C the covariance. Isotropic vectors of that dimension have the same
            spread of cosines.
        code_angle: mean angle between a vector and its signs, in degrees: `plain`, `centred`, `rotated` (centred if
            asked, then rotated), and `predicted` for rotated vectors.
        rows: one row per kind of code.
        queries: the query vectors, shape (q, dimension).
        query_rows: rows of the queries, if they were drawn from the vectors. A query is not its own neighbour.
        truth: the true neighbours of each query, int64 (q, k or more): all that are no farther than the k-th, of the
            2 k + 16 nearest, then -1.
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

    def choose(self, recall: float, bytes: int | None = None) -> Choice:
        """The code for a recall and a number of bytes per vector.

        Rows, factors and shares of the mean are compared. The choice has the fewest candidates to rescore of those
        that reach the recall, then the fewest bytes, then the highest recall. Without `bytes`, bytes count first. If
        none reaches the recall, it is the one with the highest.

        Raises:
            HypersignError: no row fits into `bytes`, or a number is out of range.

        >>> x = np.random.default_rng(0).standard_normal((2000, 32))
        >>> found = plan(x, bits=(64,), bits_per_dimension=(2, 4), sample=50).choose(0.95, bytes=24)
        >>> found.row.bits_per_dimension, found.factor, found.enough
        (4, 2, True)
        """
        check_real("recall", recall, above=0, max=1)
        most = max(row.bytes for row in self.rows) if bytes is None else check_int("bytes", bytes, min=1)
        found = [
            Choice(row, factor, center, expected, expected >= recall)
            for row in self.rows
            if row.bytes <= most
            for center, by_factor in row.recall_by_center.items()
            for factor, expected in by_factor.items()
        ]
        if not found:
            least = min(row.bytes for row in self.rows)
            raise HypersignError(f"the plan has no code of at most {most} bytes; its shortest has {least}")

        def cost(choice: Choice) -> tuple[float, float, float]:
            size, factor = choice.row.bytes, choice.factor
            return (*((size, factor) if bytes is None else (factor, size)), -choice.recall)

        enough = [choice for choice in found if choice.enough]
        return min(enough, key=cost) if enough else max(found, key=lambda choice: choice.recall)


def plan(
    vectors: AnyVectors,
    *,
    queries: ArrayLike | None = None,
    bits: Sequence[int] = (64, 128, 256, 512, 1024),
    bits_per_dimension: Sequence[float] = (1, 1.5, 2, 3, 4, 6),
    bytes: int | None = None,
    hasher: SignHasher | None = None,
    metric: str = "euclidean",
    factors: Sequence[int] = (1, 2, 4, 8),
    k: int = _defaults.NEIGHBOURS,
    rotation: str = "hadamard",
    center: bool | float = True,
    sample: int = _defaults.PLAN_QUERIES,
    seed: int = 0,
) -> Plan:
    """Predicts recall@k by kind of code and rescoring factor, without hashing.

    It is `predicted_recall` for each. All vectors are read, block by block, for a sample of queries. Recall among a
    sample of the vectors is higher than among all: plan on all of them, or on growing samples.

    Args:
        vectors: shape (n, dimension); may be a file (`open_vectors`).
        queries: shape (q, dimension). By default random rows of `vectors`; a row is not its own neighbour.
        bits: lengths of sign codes, which are compared by their Hamming distance.
        bits_per_dimension: bits of level codes, which estimate the metric; they keep as many components as vectors
            have.
        bytes: adds the longest code of each kind that fits into this number of bytes per vector; level codes then
            keep principal components (`pca`) of vectors of at most 4,096.
        hasher: adds a hasher of level codes, which need not be fitted.
        metric: metric of the true neighbours: "euclidean", "cosine" or "inner_product". Recall above factor 1 is
            that of candidates rescored by it: `rescore(..., metric=metric)`.
        factors: rescoring factors: candidates per neighbour.
        k: number of neighbours that count.
        rotation: "hadamard" (three rounds, as good as Haar's rotation) or "haar".
        center: share of the mean that the hasher will subtract. For sign codes the shares 1, 0.5 and 0 are compared
            with it, unless one leaves a vector without a direction.
        sample: number of queries to draw.
        seed: seed of the draws.

    Raises:
        HypersignError: there are fewer than k + 2 vectors, a vector cannot be hashed, or an option is out of range.

    >>> x = np.random.default_rng(0).standard_normal((2000, 32))
    >>> expected = plan(x, bits=(128,), bits_per_dimension=(), sample=50).rows[0].recall
    >>> round(expected[1], 1), round(expected[8], 1)
    (0.3, 0.8)
    """
    check_choice("rotation", rotation, ("hadamard", "haar"))
    for values, name in ((bits, "bits"), (factors, "factors")):
        if not len(values):
            raise HypersignError(f"{name} must name at least one; got none")
        for value in values:
            check_int(name, value, min=1, max=MOST_BITS)
    share = check_share(center)
    common = {"rotation": rotation, "seed": seed}
    start = sampled(vectors, queries, k, metric, sample, seed)
    vectors, (n, d) = start.vectors, start.vectors.shape
    known: dict[Any, Any] = {}
    size = d * vectors.dtype.itemsize
    table = [_sign_row(start, m, share, common, factors, known, size) for m in bits]
    levels = _level_hashers(d, bits_per_dimension, bytes, metric, share, common)
    if hasher is not None and hasher.kind(d) not in [other.kind(d) for other in levels]:
        levels.append(hasher)
    table += [_level_row(start, level, factors, known, size) for level in levels]
    if bytes is not None and 8 * (bytes // 8) and 64 * (bytes // 8) not in bits:
        table.append(_sign_row(start, 64 * (bytes // 8), share, common, factors, known, size))
    random = np.random.default_rng(seed)
    few = np.asarray(vectors[np.sort(random.choice(n, min(SAMPLE, n), replace=False))], np.float64)
    expected = expected_scores(start, "hamming", share, known)
    return Plan(
        vectors=n,
        dimension=d,
        k=k,
        nearest=expected.nearest_angles(start),
        all=expected.all_angles(),
        effective_dimension=theory.effective_dimension(np.cov(few, rowvar=False, ddof=0)),
        code_angle=_code_angles(few, start.means[""], share, seed),
        rows=tuple(table),
        queries=start.queries,
        query_rows=start.rows,
        truth=np.where(start.true, start.nearest, -1),
        metric={"euclidean": "Euclidean"}.get(metric, metric.replace("_", " ")),
    )


def _level_hashers(
    d: int, kinds: Sequence[float], bytes: int | None, metric: str, share: float, common: dict[str, Any]
) -> list[SignHasher]:
    """The hashers of level codes with all components, and of those with as many principal ones as `bytes` allow."""
    found = []
    for kind in kinds:
        options = common | {"bits_per_dimension": kind, "metric": metric, "center": share}
        whole = SignHasher(**options)
        whole.check_options(d)
        found.append(whole)
        if bytes is not None and whole.columns(d) > bytes and (count := _fitting(kind, bytes, d)):
            kept = {"pca": count} if d <= MOST_DIMENSIONS else {"bits": math.ceil(count * kind)}
            found.append(SignHasher(**options | kept))
    return found


def _fitting(kind: float, bytes: int, d: int) -> int:
    """The most components, fewer than the dimension, that level codes of at most `bytes` bytes keep; 0 for none."""
    low, high = 0, d - 1
    while low < high:
        count = (low + high + 1) // 2
        fits = LevelCode(kind, count).width + 4 * NUMBERS <= bytes
        low, high = (count, high) if fits else (low, count - 1)
    return low


def _sign_row(
    start: Sample,
    m: int,
    share: float,
    common: dict[str, Any],
    factors: Sequence[int],
    known: dict[Any, Any],
    vector_bytes: int,
) -> Row:
    """The plan's row for sign codes of m bits."""
    by_center = {}
    for s in sorted({*CENTERS, share}, reverse=True):
        try:
            by_center[s] = predict(start, SignHasher(m, center=s, **common), factors, known)
        except HypersignError:  # a vector at this centre could not be hashed
            if s == share:
                raise
    expected = {s: found.recall for s, found in by_center.items()}
    return Row(
        bits=m,
        bytes=8 * -(-m // 64),
        smaller=vector_bytes / (8 * -(-m // 64)),
        recall=expected[share],
        standard_error=by_center[share].standard_error,
        recall_by_center=expected,
        best_center=max(expected, key=lambda s: sum(expected[s].values())),
    )


def _level_row(
    start: Sample, hasher: SignHasher, factors: Sequence[int], known: dict[Any, Any], vector_bytes: int
) -> Row:
    d, share = start.vectors.shape[1], check_share(hasher.center)
    found = predict(start, hasher, factors, known)
    (per, bits, metric, pca), size = hasher.kind(d), hasher.columns(d)
    return Row(
        bits=bits,
        bytes=size,
        smaller=vector_bytes / size,
        recall=found.recall,
        standard_error=found.standard_error,
        recall_by_center={share: found.recall},
        best_center=share,
        bits_per_dimension=per,
        metric=metric,
        pca=pca,
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
    own = hasher.kind(planned.dimension)
    if own not in [row.kind() for row in planned.rows]:
        raise HypersignError(f"the plan has no row for the index's {hasher.bits_} bits; plan with them")
    rows = []
    for row in planned.rows:
        if own == row.kind():
            row = dataclasses.replace(row, measured_recall=_measured(index, planned, tuple(row.recall), threads))
        rows.append(row)
    return dataclasses.replace(planned, rows=tuple(rows))


def _measured(index: HammingIndex, planned: Plan, factors: Sequence[int], threads: int) -> dict[int, float]:
    own = 0 if planned.query_rows is None else 1
    found = index.search(planned.queries, min(max(factors) * planned.k + own, len(index)), threads=threads).indices
    if planned.query_rows is not None:
        # Drop the query itself, or the last candidate if the query was not found.
        keep = found != planned.query_rows[:, None]
        keep[keep.all(1), -1] = False
        found = found[keep].reshape(len(found), -1)
    hits = np.array([np.isin(row, true[true >= 0]) for row, true in zip(found, planned.truth, strict=True)])
    k = planned.k
    return {factor: float((np.minimum(hits[:, : factor * k].sum(1), k) / k).mean()) for factor in factors}


def _code_angles(x: NDArray[np.float64], mean: NDArray[np.float64], share: float, seed: int) -> dict[str, float]:
    def angle(y: NDArray[np.float64]) -> float:
        y = y[y.any(1)]  # zero has no angle
        norms = np.sqrt(np.square(y).sum(1) * y.shape[1])
        return float(np.degrees(np.arccos(np.clip(np.abs(y).sum(1) / norms, -1, 1))).mean())

    size = next_power_of_two(x.shape[1])
    rotated = SignHasher(bits=size, seed=seed).restore(share * mean)
    return {
        "plain": angle(x),
        "centred": angle(x - mean),
        "rotated": angle(rotated.project(x)),
        "predicted": float(np.degrees(theory.sign_angle(size))),
    }
