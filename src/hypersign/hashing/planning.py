"""What recall codes will have, predicted from angles before anything is hashed; and measured afterwards.

Given the angle theta of a query and a vector, the number h of bits that differ has mean m theta/pi and, R being
random, a variance that is known (`theory.orthogonal_hash_angle_std`). Distances of one query share some of their
noise, as P(both bits differ) = (p_i + p_j - p_ij)/2 with p = theta/pi of each pair; that part moves all candidates
alike and changes no order. What is left decides whether a true neighbour stays ahead of the crowd, whose angles are
counted over all vectors. Orthogonal rows share less (`_covariances`).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hypersign import theory
from hypersign._checks import HypersignError, check_choice, check_int
from hypersign.bits.hadamard import next_power_of_two
from hypersign.hashing.hasher import SignHasher, block_rows, check_share
from hypersign.hashing.index import HammingIndex, recall

__all__ = ["Angles", "Plan", "Row", "measure", "plan"]

BINS = 512
"""Of a histogram of angles from 0 to pi: .35 degrees each, a seventh of the noise of 512 bits or less."""

NEAR, FAR = 128, 256
"""Vectors, nearest by angle and at random, on which the noise that a query's distances share is measured."""

COARSE = 8
"""Bins that go together where it is."""

CENTERS = (1.0, 0.5, 0.0)
"""Shares of the mean that are compared."""

SAMPLE = 10_000
"""Vectors on which spectrum and code angles are measured."""


@dataclasses.dataclass(frozen=True)
class Angles:
    """Angles in degrees: `mean` and `std`."""

    mean: float
    std: float


@dataclasses.dataclass(frozen=True)
class Row:
    """What to expect of codes of one length.

    Attributes: `bits`; `bytes` a vector; `smaller`, how many times smaller than the vectors; `recall`, the predicted
    recall@k by rescoring factor; `recall_by_center`, the same by the share of the mean that is subtracted;
    `best_center`, the share of the greatest recall; `measured_recall`, after hashing, or None.
    """

    bits: int
    bytes: int
    smaller: float
    recall: dict[int, float]
    recall_by_center: dict[float, dict[int, float]]
    best_center: float
    measured_recall: dict[int, float] | None = None


@dataclasses.dataclass(frozen=True)
class Plan:
    """Geometry of a set of vectors, and the recall to expect of their codes.

    Attributes:
        vectors, dimension: how many there are, and of how many components.
        k: neighbours that count.
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

    def as_dict(self) -> dict[str, Any]:
        """The plan as JSON has it, without the queries."""
        found = dataclasses.asdict(self)
        for name in ("queries", "query_rows", "truth"):
            del found[name]
        return found | {"queries": len(self.queries)}


@dataclasses.dataclass(frozen=True)
class _Crowd:
    """Angles of queries and vectors: histogram (q, BINS), bins of true neighbours (q, k); by the coarse bins of two
    vectors, the correlation of their bits summed over pairs, the part of it that is quadratic in the row, and the
    number of pairs."""

    counts: NDArray[np.float64]
    neighbours: NDArray[np.int64]
    correlation: NDArray[np.float64]
    quadratic: NDArray[np.float64]
    pairs: NDArray[np.float64]
    nearest: Angles
    all: Angles


def plan(
    vectors: NDArray[Any],
    *,
    queries: ArrayLike | None = None,
    bits: Sequence[int] = (64, 128, 256, 512, 1024),
    factors: Sequence[int] = (1, 2, 4, 8),
    k: int = 10,
    rotation: str = "hadamard",
    center: bool | float = True,
    sample: int = 200,
    seed: int = 0,
) -> Plan:
    """Predicts recall@k by length of code and rescoring factor: the share of the k nearest vectors that are among
    the nearest factor * k codes.

    Reads all vectors, a block at a time, for a sample of queries; hashes nothing.

    Args:
        vectors: shape (n, dimension); a memory-mapped file will do (`open_vectors`).
        queries: shape (q, dimension); rows of `vectors` drawn at random if None, each left out of its own neighbours.
        bits: lengths of codes.
        factors: rescoring factors: candidates looked at for each neighbour wanted.
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
            check_int(name, value, least=1)
    vectors = np.asanyarray(vectors)
    if vectors.ndim != 2:
        raise HypersignError(f"vectors must be of shape (n, dimension); got {vectors.shape}")
    check_int("k", k, least=1)
    if len(vectors) < k + 2:
        raise HypersignError(f"{k} neighbours of a query need at least {k + 2} vectors; got {len(vectors)}")
    n, d = vectors.shape
    random = np.random.default_rng(check_int("seed", seed, least=0))
    rows = None
    if queries is None:
        rows = np.sort(random.choice(n, min(check_int("sample", sample, least=1), n), replace=False))
        queries = vectors[rows]
    asked = np.asarray(queries)
    if asked.ndim != 2 or not len(asked) or asked.shape[1] != d:
        raise HypersignError(f"queries must be of shape (q, {d}); got {asked.shape}")

    share = check_share(center)
    fitted = SignHasher(bits=max(d, 2), rotation="hadamard", center=True, seed=seed).fit(vectors)
    truth = _true_neighbours(vectors, asked, rows, k)
    companions = np.sort(random.choice(n, min(FAR, n), replace=False))
    crowds: dict[float, _Crowd] = {}
    for s in sorted({*CENTERS, share}, reverse=True):
        try:
            crowds[s] = _crowd(vectors, asked, rows, truth, companions, s * fitted.mean_)
        except HypersignError:  # a vector that lies at this centre could not be hashed
            if s == share:
                raise
    table = []
    for m in bits:
        size = next_power_of_two(max(d, m)) if rotation == "hadamard" else max(d, m)
        expected = {s: _recall(crowd, m, size, k, factors) for s, crowd in crowds.items()}
        table.append(
            Row(
                bits=m,
                bytes=8 * -(-m // 64),
                smaller=d * vectors.dtype.itemsize / (8 * -(-m // 64)),
                recall=expected[share],
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
        effective_dimension=_effective_dimension(few),
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


def _measured(index: HammingIndex, planned: Plan, factors: Sequence[int], threads: int) -> dict[int, float]:
    own = 0 if planned.query_rows is None else 1
    found = index.search(planned.queries, min(max(factors) * planned.k + own, len(index)), threads=threads).indices
    if planned.query_rows is not None:
        # Out goes the query itself, or the last where it was not found among the nearest.
        keep = found != planned.query_rows[:, None]
        keep[keep.all(1), -1] = False
        found = found[keep].reshape(len(found), -1)
    return {factor: recall(found[:, : factor * planned.k], planned.truth, planned.k) for factor in factors}


def _blocks(vectors: NDArray[Any]) -> Any:
    rows = block_rows(vectors.shape[1])
    for start in range(0, len(vectors), rows):
        yield start, np.asarray(vectors[start : start + rows], np.float64)


def _true_neighbours(
    vectors: NDArray[Any], queries: NDArray[Any], rows: NDArray[np.int64] | None, k: int
) -> NDArray[np.int64]:
    """The k nearest vectors of each query, itself left out; of equal distances the lower index first."""
    q = queries.astype(np.float64)
    distances, indices = np.full((len(q), k), np.inf), np.empty((len(q), k), np.int64)
    for start, block in _blocks(vectors):
        squares = np.square(q).sum(1)[:, None] + np.square(block).sum(1) - 2 * q @ block.T
        if rows is not None:
            own = np.flatnonzero((start <= rows) & (rows < start + len(block)))
            squares[own, rows[own] - start] = np.inf
        _keep_least(distances, indices, squares, start)
    return indices


def _keep_least(
    least: NDArray[np.float64], places: NDArray[np.int64], values: NDArray[np.float64], start: int
) -> None:
    """Takes into every row of `least`, which is sorted, what is less in that of `values`; `places` go with them."""
    for i, row in enumerate(values):
        better = np.flatnonzero(row < least[i, -1])
        both = np.concatenate([least[i], row[better]])
        order = np.argsort(both, kind="stable")[: len(least[i])]
        least[i], places[i] = both[order], np.concatenate([places[i], start + better])[order]


def _crowd(
    vectors: NDArray[Any],
    queries: NDArray[Any],
    rows: NDArray[np.int64] | None,
    truth: NDArray[np.int64],
    companions: NDArray[np.int64],
    mean: NDArray[np.float64],
) -> _Crowd:
    q = _units(queries, mean, "query")
    counts = np.zeros((len(q), BINS))
    shape = len(q), min(NEAR + 1, len(vectors))
    near, angles_near = np.empty(shape, np.int64), np.full(shape, np.inf)
    for start, block in _blocks(vectors):
        angles = _angles(q @ _units(block, mean, "row", start).T)
        bins = _bin(angles)
        for i, row in enumerate(bins):
            counts[i] += np.bincount(row, minlength=BINS)
            if rows is not None and start <= rows[i] < start + len(block):
                counts[i, row[rows[i] - start]] -= 1
        _keep_least(angles_near, near, angles, start)
    neighbours = np.empty(truth.shape)
    coarse = BINS // COARSE
    sums, quadratic, pairs = np.zeros(coarse**2), np.zeros(coarse**2), np.zeros(coarse**2)
    common = _units(vectors[companions], mean, "row")
    for i, query in enumerate(q):
        neighbours[i] = _angles(_units(vectors[truth[i]], mean, "row") @ query)
        # The nearest count once; those at random, among the others, stand for all of the others.
        apart = ~np.isin(companions, near[i])
        own = np.ones(len(near[i]), bool) if rows is None else near[i] != rows[i]
        which = np.concatenate([near[i][own], companions[apart]])
        others = np.concatenate([_units(vectors[near[i][own]], mean, "row"), common[apart]])
        stands = np.ones(len(which))
        stands[own.sum() :] = (counts[i].sum() - own.sum()) / max(apart.sum(), 1)
        cosines = others @ query
        p = _angles(cosines) / np.pi
        covariance, even = _covariances(cosines, others @ others.T)
        deviations = np.outer(np.sqrt(p * (1 - p)), np.sqrt(p * (1 - p)))
        weight = np.outer(stands, stands) * (deviations > 1e-9)
        np.fill_diagonal(weight, 0)
        at = _bin(p * np.pi) // COARSE
        cells = (at[:, None] * coarse + at).ravel()
        weighted = weight / np.maximum(deviations, 1e-9)
        sums += np.bincount(cells, (weighted * covariance).ravel(), coarse**2)
        quadratic += np.bincount(cells, (weighted * even).ravel(), coarse**2)
        pairs += np.bincount(cells, weight.ravel(), coarse**2)
    total, degrees = counts.sum(0), np.degrees(_middles())
    average = float(total @ degrees / total.sum())
    return _Crowd(
        counts,
        _bin(neighbours),
        sums.reshape(coarse, coarse),
        quadratic.reshape(coarse, coarse),
        pairs.reshape(coarse, coarse),
        Angles(float(np.degrees(neighbours).mean()), float(np.degrees(neighbours).std())),
        Angles(average, float(np.sqrt(total @ np.square(degrees - average) / total.sum()))),
    )


def _covariances(
    cosines: NDArray[np.float64], between: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Covariance of "the bit differs from the query's" of every two vectors, and its part that orthogonality lessens.

        (p_i + p_j - p_ij)/2 - p_i p_j,   p = theta/pi
        [2 e (1 - c_i^2 - c_j^2) + c_i c_j (c_i^2 + c_j^2 + e^2 - 1)]/(2 pi^2 s_i s_j)

    with c and s the cosines and sines of the angles to the query and e the cosine of i and j. Whether a bit differs
    is an even function of its row's direction, and the second is the covariance of two such functions' parts of
    degree 2. Bits of two rows at right angles have a covariance of P_2(0) = -1/(n - 1) times it (Funk and Hecke's
    formula; higher degrees add of the order of 1/n^2), so that the distances of m rows have, times m, the first less
    `_orthogonality` times the second.
    """
    angles = _angles(cosines)
    p, sines, squares = angles / np.pi, np.maximum(np.sin(angles), 1e-6), np.square(cosines)
    both = squares[:, None] + squares
    even = 2 * between * (1 - both) + np.outer(cosines, cosines) * (both + np.square(between) - 1)
    return (
        (p[:, None] + p - _angles(between) / np.pi) / 2 - np.outer(p, p),
        even / (2 * np.pi**2 * np.outer(sines, sines)),
    )


def _orthogonality(m: int, size: int) -> float:
    # 1 + 2/n: the directions of rows lie on a sphere.
    return (m - 1) * (1 + 2 / size) / max(size - 1, 1)


def _recall(crowd: _Crowd, m: int, size: int, k: int, factors: Sequence[int]) -> dict[int, float]:
    """The probability that a true neighbour is among the nearest factor * k codes, averaged over all of them."""
    variance = _variance(m, size)
    correlation = crowd.correlation - _orthogonality(m, size) * crowd.quadratic
    found = {}
    for factor in factors:
        wanted = factor * k
        if wanted >= crowd.counts[0].sum():
            found[factor] = 1.0  # every vector is a candidate
            continue
        # Those at the distance that `wanted` codes do not exceed decide: their mean correlation counts.
        cdf, pmf = _distances(m, variance, 0.0)
        limit = int(np.searchsorted(crowd.counts.sum(0) @ cdf, wanted * len(crowd.counts)))
        weight = pmf[:, min(limit, m)].reshape(-1, COARSE).mean(1)
        pairs = weight @ crowd.pairs @ weight
        shared = float(weight @ correlation @ weight / pairs) if pairs else 0.0
        cdf, pmf = _distances(m, variance, min(max(shared, 0.0), 0.99))
        # Codes nearer than t, and half of those at t, as ties go by index.
        ahead = crowd.counts @ (cdf - pmf / 2)
        total = np.zeros(len(crowd.counts))
        for j in range(crowd.neighbours.shape[1]):
            bins = crowd.neighbours[:, j]
            others = ahead - (cdf - pmf / 2)[bins]
            total += (pmf[bins] * _at_most(wanted - 1, others)).sum(1)
        found[factor] = float(total.mean() / crowd.neighbours.shape[1])
    return found


def _variance(m: int, size: int) -> NDArray[np.float64]:
    """Of the number of differing bits, for every bin of angles."""
    # Its package needs torch and SciPy, which hashing and searching do without.
    if size < 3:
        return m * _middles() / np.pi * (1 - _middles() / np.pi)
    return np.square(theory.orthogonal_hash_angle_std(_middles(), m, size) * m / np.pi)


def _distances(
    m: int, variance: NDArray[np.float64], shared: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Law of the Hamming distance in every bin, less the noise that all share: cdf and pmf, (BINS, m + 1)."""
    from scipy import special

    share = _middles() / np.pi
    # The shared part is a share of the binomial variance, of which orthogonal rows leave less.
    own = np.maximum(variance - shared * m * share * (1 - share), 1e-9)
    cdf = special.ndtr((np.arange(m + 1) + 0.5 - (m * share)[:, None]) / np.sqrt(own)[:, None])
    cdf[:, -1] = 1
    return cdf, np.diff(cdf, axis=1, prepend=0)


def _at_most(count: int, mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """P(a Poisson number of this mean <= count): competitors are many, each unlikely to be ahead."""
    from scipy import special

    return special.pdtr(count, np.maximum(mean, 0))


def _effective_dimension(x: NDArray[np.float64]) -> float:
    centred = x - x.mean(0)
    covariance = centred.T @ centred / len(x)
    return float(np.trace(covariance) ** 2 / np.square(covariance).sum())


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


def _units(x: NDArray[Any], mean: NDArray[np.float64], what: str, first: int | None = None) -> NDArray[np.float64]:
    centred: NDArray[np.float64] = x.astype(np.float64) - mean
    lengths = np.linalg.norm(centred, axis=-1, keepdims=True)
    if not np.isfinite(lengths).all() or not lengths.all():
        row = int(np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))[0]) + (first or 0)
        raise HypersignError(
            f"{what} {row} is {'not finite' if not np.isfinite(lengths).all() else 'zero, or the mean,'} and has no "
            "angle to others; leave such vectors out"
        )
    return np.asarray(centred / lengths, np.float64)


def _angles(cosines: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.arccos(np.clip(cosines, -1, 1))


def _bin(angles: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.minimum((angles * (BINS / np.pi)).astype(np.int64), BINS - 1)


def _middles() -> NDArray[np.float64]:
    return np.arange(0.5, BINS) * (np.pi / BINS)
