"""The recall of codes, predicted from a sample of queries before anything is hashed.

A code gives each vector a score that is right on average and noisy:

    sign codes, Hamming distance h of m bits: h/m    mean theta/pi, std `orthogonal_hash_angle_std`
    level codes, estimate of |x - q|^2, ...          mean as exact, std |x'| |q'| sin(theta) sqrt(v/(n - 1))

theta is the angle between the centred x' and q', n the dimension of the rotation, and v = 1/cos^2 - 1 for the cosine
between a vector and its code. A true neighbour is a candidate if fewer than factor k vectors have lower scores. The
scores of all vectors come from the sample's distances: exactly for the true neighbours, as a histogram for others.

Three things make it hold. The scores of one query share part of their noise, which moves all alike and changes no
order; it is left out (`_shared`). The number of vectors ahead is the sum of many events, some nearly certain: it gets
its own mean and variance (a shifted Poisson distribution). Equal vectors have equal codes, so they count together.
"""

import copy
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from hypersign import _defaults
from hypersign._checks import HypersignError, check_real
from hypersign.hashing.expected_scores import ExpectedScores, expected_scores
from hypersign.hashing.hasher import MOST_BITS, SignHasher, check_share
from hypersign.hashing.sample import Sample, sampled
from hypersign.hashing.score_noise import Code, Noise
from hypersign.hashing.stored import AnyVectors

__all__ = ["Prediction", "predict", "predicted_recall", "recall_by_query"]

GRID = 28
"""Scores at which the vectors ahead are counted, from the lowest that a true neighbour may have to the highest."""

QUANTILES = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Quantiles that stand for the distribution of a threshold."""

QUERIES = 32
"""Queries whose recall is computed at a time: for each, groups of vectors and draws take up to a megabyte."""

DRAWS = 32
"""Draws of the scores of groups of equal vectors."""

_NORMAL = special.ndtr((np.arange(8192) + 0.5) / 512 - 8)


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Predicted recall of one kind of codes.

    Attributes: `recall`, by rescoring factor; `standard_error`, over the queries, by rescoring factor (NaN for one
    query).
    """

    recall: dict[Any, float]
    standard_error: dict[Any, float]


def predicted_recall(
    vectors: AnyVectors | ArrayLike,
    hashers: Sequence[SignHasher],
    *,
    queries: ArrayLike | None = None,
    k: int = _defaults.NEIGHBOURS,
    factors: Sequence[float] = (1,),
    metric: str = "euclidean",
    sample: int = _defaults.PLAN_QUERIES,
    seed: int = 0,
) -> list[Prediction]:
    """Predicts the recall@k of codes of any kind, without hashing.

        recall = mean over queries of min(k, hits)/k

    A hit is a vector no farther than the k-th true neighbour, among the factor * k vectors with the lowest scores. Of
    vectors at the distance of the k-th, those among the 2 k + 16 nearest and their copies are known.

    Recall among a sample of the vectors is higher than among all.

    Args:
        vectors: shape (n, d); may be a file (`open_vectors`).
        hashers: what makes the codes; they need not be fitted. Their seeds have no effect.
        queries: shape (q, d). By default random rows of `vectors`; a row is not its own neighbour.
        k: number of neighbours that count.
        factors: rescoring factors: candidates per neighbour. factor * k must be a whole number: 2.5 with k = 10 is 25
            candidates.
        metric: metric of the true neighbours: "euclidean", "cosine" or "inner_product".
        sample: number of queries to draw.
        seed: seed of the draws.

    Returns a prediction for each hasher.

    Raises:
        HypersignError: there are fewer than k + 2 vectors, a vector has no direction from the mean (sign codes) or
            from 0 (cosine), or an option is out of range.

    Source: derived here; the noise of level codes is that of Gao & Long 2024, "RaBitQ" (arXiv 2405.12497).

    >>> x = np.random.default_rng(0).standard_normal((2000, 32))
    >>> (found,) = predicted_recall(x, [SignHasher(128)], factors=(1, 8), sample=50)
    >>> round(found.recall[1], 1), round(found.recall[8], 1)
    (0.3, 0.8)
    """
    start = sampled(vectors, queries, k, metric, sample, seed)
    known: dict[Any, Any] = {}
    return [predict(start, hasher, factors, known) for hasher in hashers]


def predict(sample: Sample, hasher: SignHasher, factors: Sequence[float], known: dict[Any, Any]) -> Prediction:
    """The prediction for a hasher's codes. `known` keeps what hashers of one metric and centre have in common."""
    by_query = recall_by_query(sample, hasher, factors, known)
    return Prediction(
        {f: float(values.mean()) for f, values in by_query.items()},
        {f: _standard_error(values) for f, values in by_query.items()},
    )


def recall_by_query(
    sample: Sample, hasher: SignHasher, factors: Sequence[float], known: dict[Any, Any]
) -> dict[float, NDArray[np.float64]]:
    """The expected recall of each query, shape (q,), by rescoring factor."""
    code = _code(hasher, sample.queries.shape[1])
    share = check_share(hasher.center)
    expected, model = expected_scores(sample, code.metric, share, known, hasher.pca), Noise(code)
    total = len(sample.vectors) - (sample.rows is not None)
    correlation = np.where(expected.noise_sample.differ, model.correlation(expected.noise_sample), 0)
    found = {}
    for factor in factors:
        wanted = _candidates(factor, sample.k)
        if wanted >= total:
            found[factor] = np.ones(len(sample.queries))  # every vector is a candidate
            continue
        shared = _shared(expected, model, correlation, wanted)
        found[factor] = _recall(sample, expected, model, shared, wanted)
    return found


def _candidates(factor: float, k: int) -> int:
    """The number of candidates, factor * k."""
    exact = check_real("factors", factor, min=1, max=MOST_BITS) * k
    count = round(exact)
    if abs(exact - count) > 1e-6 * count:  # factors such as 10/3 are rounded
        raise HypersignError(
            f"factors must make whole numbers of candidates; got {factor} for k = {k}: {count} candidates are the "
            f"factor {count / k:g}"
        )
    return count


def _standard_error(values: NDArray[np.float64]) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def _code(hasher: SignHasher, dimension: int) -> Code:
    """The kind of codes that a hasher makes of vectors of this dimension."""
    hasher.check_options(dimension)
    if hasher.rotation is None:
        raise HypersignError("predictions need a hasher with a random rotation; this one has none")
    # Without options of one kind of codes alone, so that no vector need be read.
    made = copy.copy(hasher)
    made.output = "packed"
    made.restore(np.zeros(dimension))
    level = made.level_code_
    return Code(made.metric_, level.bits if level else 1, level.count if level else made.bits_, made.size())


def _recall(
    sample: Sample, expected: ExpectedScores, model: Noise, shared: float, wanted: int
) -> NDArray[np.float64]:
    """Expected recall of each query among `wanted` candidates."""
    repeated = expected.other_groups.repeated
    found = np.empty(len(repeated))
    for chosen, recall in ((~repeated, _recall_of_single), (repeated, _recall_of_groups)):
        rows = np.flatnonzero(chosen)
        for start in range(0, len(rows), QUERIES):
            some = rows[start : start + QUERIES]
            found[some] = recall(sample, expected, model, shared, wanted, some)
    return found


def _recall_of_single(
    sample: Sample, expected: ExpectedScores, model: Noise, shared: float, wanted: int, rows: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Of queries with k true neighbours and no equal vectors nearby.

    A neighbour is found if its score is below a threshold: the score below which `wanted` other vectors are. It has a
    narrow distribution.
    """
    most = int(sample.true[rows].sum(1).max())
    there, means = sample.true[rows, :most], expected.of_true[rows, :most]
    deviations = np.sqrt(_own(model, means, expected.true_units[rows, :most], shared))
    own = _own(model, expected.scores[rows], expected.units[rows], shared)
    low, high = (np.where(there, means + sign * 4 * deviations, np.nan) for sign in (-1, 1))
    grid, ahead, spread = _ahead(
        expected.counts[rows], expected.scores[rows], own, np.nanmin(low, axis=1), np.nanmax(high, axis=1)
    )
    uncertain = np.take_along_axis(spread / np.maximum(ahead, 1e-12), _first(ahead >= wanted)[:, None], 1)[:, 0]
    # A neighbour is not ahead of itself.
    others = ahead[:, None] - _below((grid[:, None] - means[:, :, None]) / deviations[:, :, None])
    logs = np.log(np.maximum(others, 1e-30)).ravel()  # counts grow like exponentials
    start, step = np.arange(means.size).reshape(means.shape) * GRID, grid[:, 1] - grid[:, 0]
    hits = np.zeros(means.shape)
    for target in _thresholds(wanted, np.clip(uncertain, 0, 1)):
        left = np.maximum(_first(others >= target[:, None, None]), 1) - 1
        a, b = logs[start + left], logs[start + left + 1]
        part = np.clip((np.log(np.maximum(target, 1e-30))[:, None] - a) / np.maximum(b - a, 1e-12), 0, 1)
        threshold = grid[:, :1] + (left + part) * step[:, None]
        hits += special.ndtr((threshold - means) / deviations) / len(QUANTILES)
    return np.asarray(np.where(there, hits, 0).sum(1) / sample.k)


def _first(reached: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The first place of True in the last axis; the last place if there is none."""
    return np.where(reached.any(-1), reached.argmax(-1), reached.shape[-1] - 1)


def _thresholds(wanted: int, uncertain: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """For each quantile, the mean number of vectors ahead at which fewer than `wanted` are, with its probability.

    The number is shifted Poisson: `uncertain` is its variance over its mean.
    """
    ratios, table = _threshold_table(wanted)
    return [np.interp(uncertain, ratios, column) for column in table]


@functools.lru_cache(maxsize=64)
def _threshold_table(wanted: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    ratios = np.linspace(0.01, 1, 34)
    low, high = np.zeros((2, len(QUANTILES), len(ratios)))
    high += wanted + 12 * np.sqrt(wanted) + 12
    for _ in range(40):
        mean = (low + high) / 2
        variance = ratios * mean
        count = wanted - mean + variance
        fewer = np.where(count > 0, special.gammaincc(np.maximum(count, 1e-9), variance), 0)
        enough = fewer > np.array(QUANTILES)[:, None]
        low, high = np.where(enough, mean, low), np.where(enough, high, mean)
    return ratios, (low + high) / 2


def _recall_of_groups(
    sample: Sample, expected: ExpectedScores, model: Noise, shared: float, wanted: int, rows: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Of queries with equal vectors nearby, or with more than k true neighbours: a mean over drawn scores.

    Equal vectors are found together. Of vectors at equal distances, any will do.
    """
    random = np.random.default_rng(rows[0])  # other draws for other queries
    first = (sample.group[rows] == np.arange(sample.group.shape[1])) & sample.true[rows]
    order = np.argsort(~first, axis=1, kind="stable")[:, : int(first.sum(1).max())]
    there, means, units, sizes = (
        np.take_along_axis(x, order, 1)
        for x in (first, expected.of_true[rows], expected.true_units[rows], expected.copies[rows])
    )
    sizes = np.where(there, sizes, 0)
    deviations = np.sqrt(_own(model, means, units, shared))
    s = means[:, :, None] + deviations[:, :, None] * random.standard_normal((*means.shape, DRAWS))
    other_groups = expected.other_groups
    spread = np.sqrt(_own(model, other_groups.scores[rows], other_groups.units[rows], shared))
    others = other_groups.scores[rows, :, None] + spread[:, :, None] * random.standard_normal((*spread.shape, DRAWS))
    own = _own(model, expected.scores[rows], expected.units[rows], shared)
    known = np.where(there[:, :, None], s, np.nan)
    grid, outside, _ = _ahead(
        other_groups.outside[rows],
        expected.scores[rows],
        own,
        np.nanmin(known, axis=(1, 2)),
        np.nanmax(known, axis=(1, 2)),
    )
    outside = np.stack([np.interp(x, g, y) for x, g, y in zip(s, grid, outside, strict=True)])
    known = np.concatenate([other_groups.sizes[rows], sizes], axis=1)
    clump = (np.square(known).sum(1) / np.maximum(known.sum(1), 1))[:, None, None]
    ahead = clump * random.poisson(np.minimum(outside / clump, 1e9))
    ahead += ((others[:, None] < s[:, :, None]) * other_groups.sizes[rows][:, None, :, None]).sum(2)
    ahead += ((s[:, None] < s[:, :, None]) * sizes[:, None, :, None]).sum(2)
    hits = np.clip(wanted - ahead, 0, sizes[:, :, None]).sum(1)
    return np.asarray((np.minimum(hits, sample.k) / sample.k).mean(1))


def _own(model: Noise, scores: NDArray[np.float64], units: NDArray[np.float64], shared: float) -> NDArray[np.float64]:
    """Variance of scores without the part that all scores of a query share."""
    variance = model.variance(scores, units)
    return np.maximum(variance - shared * model.base(scores, units), 1e-3 * variance + 1e-300)


def _ahead(
    counts: NDArray[np.float64],
    scores: NDArray[np.float64],
    variance: NDArray[np.float64],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """A grid of scores, and the mean and variance of the number of vectors with lower ones, each (q, GRID)."""
    step = np.maximum((high - low) / (GRID - 1), 1e-300)
    grid = low[:, None] + step[:, None] * np.arange(GRID)
    below = _below((grid[:, :, None] - scores[:, None]) / np.sqrt(np.maximum(variance, 1e-300))[:, None])
    ahead = (below @ counts[:, :, None])[:, :, 0]
    return grid, ahead, ahead - (np.square(below, out=below) @ counts[:, :, None])[:, :, 0]


def _shared(expected: ExpectedScores, model: Noise, correlation: NDArray[np.float64], wanted: int) -> float:
    """The part of the variance that the scores of a query share, near the lowest `wanted` scores."""
    noise_sample = expected.noise_sample
    own = model.variance(expected.scores, expected.units)[noise_sample.queries]
    counts, scores = expected.counts[noise_sample.queries], expected.scores[noise_sample.queries]
    limits = _limits(counts, scores, own, wanted)
    deviations = np.sqrt(np.maximum(model.variance(noise_sample.scores, noise_sample.units), 1e-300))
    weight = np.exp(-np.square((limits[:, None] - noise_sample.scores) / deviations) / 2) / deviations
    weight *= noise_sample.stands
    weight /= np.maximum(weight.sum(1, keepdims=True), 1e-300)
    total = np.einsum("qi,qi->", weight, (correlation @ weight[:, :, None])[:, :, 0])
    pairs = np.einsum("qi,qi->", weight, (noise_sample.differ @ weight[:, :, None])[:, :, 0])
    return float(np.clip(total / max(pairs, 1e-300), 0, 0.99))


def _below(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """P(normal < z) from a table, relative error below 1 %: there are many z."""
    z *= len(_NORMAL) / 16
    z += len(_NORMAL) / 2
    return _NORMAL[np.clip(z, 0, len(_NORMAL) - 1, out=z).astype(np.int64)]


def _limits(
    counts: NDArray[np.float64], scores: NDArray[np.float64], variance: NDArray[np.float64], wanted: int
) -> NDArray[np.float64]:
    """The scores that `wanted` vectors do not exceed on average, by bisection."""
    deviations = np.sqrt(np.maximum(variance, 1e-300))
    there = counts > 0
    low = np.where(there, scores - 6 * deviations, np.inf).min(1)
    high = np.where(there, scores + 6 * deviations, -np.inf).max(1)
    for _ in range(16):
        middle = (low + high) / 2
        below = (counts * _below((middle[:, None] - scores) / deviations)).sum(1)
        low, high = np.where(below < wanted, middle, low), np.where(below < wanted, high, middle)
    return (low + high) / 2
