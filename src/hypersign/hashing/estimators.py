"""Estimates of angles and cosines from codes.

All cosines are between centred vectors, x - mean and q - mean. There are three kinds. Symmetric: both vectors are
hashed. Asymmetric: the query stays real, which is more accurate. RaBitQ: a number stored with each code says how
close the code is to its vector. RaBitQ's estimate has no bias and a bound on its error; the error vanishes as query
and vector come together, while that of the asymmetric estimate does not.

Level codes estimate the distance of their own metric, with such a bound (`code_distances`).
"""

import dataclasses
import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hypersign import bits
from hypersign._checks import HypersignError, check_int, check_real
from hypersign.hashing.hasher import SignHasher
from hypersign.hashing.levels import CODE_NOISE

__all__ = [
    "DistanceEstimate",
    "Estimate",
    "asymmetric_cosine",
    "code_cosines",
    "code_distances",
    "hamming_angle",
    "hamming_cosine",
    "rabitq_cosine",
]

PLANES = 4
"""Bits per component of RaBitQ's quantized query."""


def hamming_angle(distances: ArrayLike, bits: int) -> NDArray[np.float64]:
    """Estimates the angle between two vectors, in radians, from the Hamming distance of their codes.

        theta = pi h/m,   std below sqrt(theta (pi - theta)/m) (`theory.orthogonal_hash_angle_std`)

    Args:
        distances: h, the number of differing bits.
        bits: m, the length of a code.

    >>> round(float(hamming_angle(32, 128)), 4)
    0.7854
    """
    check_int("bits", bits, min=1)
    return np.pi * np.asarray(distances, dtype=np.float64) / bits


def hamming_cosine(distances: ArrayLike, bits: int) -> NDArray[np.float64]:
    """Estimates the cosine of two vectors from the Hamming distance of their codes: cos(pi h/m).

    >>> round(float(hamming_cosine(32, 128)), 4)
    0.7071
    """
    return np.cos(hamming_angle(distances, bits))


def asymmetric_cosine(hasher: SignHasher, queries: ArrayLike, codes: NDArray[np.uint64]) -> NDArray[np.float32]:
    """Estimates the cosines of real queries and hashed vectors.

        <s, R q> n / (m E|r|_1),   E|r|_1 = n Gamma(n/2) / (sqrt(pi) Gamma((n+1)/2))

    s is the code as -1/+1, q the centred query over its length, and r a random unit vector of the rotation's
    dimension n. Returns float32 (q, codes); the mean over rotations is the cosine.
    Raises HypersignError if queries are bad, codes have another width, or the hasher has no rotation.

    >>> x = np.eye(64)
    >>> hasher = SignHasher(bits=64, center=False).fit(x)
    >>> bool(abs(asymmetric_cosine(hasher, x[:1], hasher.transform(x[:1]))[0, 0] - 1) < 0.2)
    True
    """
    projected = _unit_projections(hasher, queries)
    n = hasher.size()
    # theory.sign_cosine(n) * sqrt(n), written out so that a search imports no more than it needs.
    mean_l1 = n / math.sqrt(math.pi) * math.exp(math.lgamma(n / 2) - math.lgamma((n + 1) / 2))
    return _products(projected, codes, hasher.bits_) * np.float32(n / (hasher.bits_ * mean_l1))


def code_cosines(hasher: SignHasher, vectors: ArrayLike) -> NDArray[np.float32]:
    """The number that RaBitQ stores with each code: how close the code is to its vector.

        c = <s, R o>/sqrt(m),   s = sign(R o);   on average sqrt(m/n) sqrt(2/pi)

    o is the centred vector over its length, for m bits of a rotation of n dimensions. If m = n, c is the cosine of
    the vector and its code. Returns float32 (vectors,).
    Raises HypersignError if vectors are bad, or the hasher has no rotation.
    """
    return _code_cosines(hasher, *_projections(hasher, vectors))


def code_bounds(hasher: SignHasher, vectors: ArrayLike) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """`code_cosines` and the lengths of centred vectors, which bounds need; each float32 (vectors,)."""
    projected, lengths = _projections(hasher, vectors)
    with np.errstate(over="ignore"):
        stored = lengths.astype(np.float32)
    if not np.isfinite(stored).all():
        raise HypersignError(
            "bounds need vectors whose lengths are float32 numbers; divide all vectors by one number"
        )
    return _code_cosines(hasher, projected, lengths), stored


def _code_cosines(hasher: SignHasher, projected: NDArray[Any], lengths: NDArray[np.float64]) -> NDArray[np.float32]:
    return (np.abs(projected).sum(1) / (lengths * math.sqrt(hasher.bits_))).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Estimated cosines, and bounds on their errors.

    Attributes: `cosine` and `bound`, each float32 (queries, codes).
    """

    cosine: NDArray[np.float32]
    bound: NDArray[np.float32]


def rabitq_cosine(
    hasher: SignHasher,
    queries: ArrayLike,
    codes: NDArray[np.uint64],
    cosines: NDArray[np.float32],
    *,
    epsilon: float = 1.9,
    seed: int = 0,
    threads: int = 1,
) -> Estimate:
    """Estimates the cosines of queries and hashed vectors without bias, by popcounts, with a bound on each error.

        <o, q> ~ <s, v> step/2 / (sqrt(m) c),   bound^2 = epsilon^2 [(1 - c^2)/((n - 1) c^2) + rounding/(m c^2)]

    v is the rotated query R q in units of step/2: odd integers from -15 to 15, so 4 bits each. They are rounded up or
    down at random, so that their mean is R q. Bit plane j of v has the Hamming distance h_j from a code, and
    <s, v> = sum_j 2^j (m - 2 h_j). `rounding` is the variance that rounding adds; it is known exactly for each query,
    and is about 5 % of the total. The bound holds for at least the share of pairs that `theory.rabitq_bound_share`
    gives.

    Args:
        hasher: a fitted hasher with a rotation of n dimensions.
        queries: vectors (q, dimension).
        codes: packed codes, uint64 (codes, words).
        cosines: c from `code_cosines`, float32 (codes,).
        epsilon: width of the bound, about in standard deviations.
        seed: seed of the rounding.
        threads: number of threads.

    Raises:
        HypersignError: queries are bad, or codes and cosines do not fit each other or the hasher.

    Source: Gao & Long 2024, "RaBitQ" (SIGMOD; arXiv 2405.12497); here the levels are symmetric about zero, and the
    bound includes the rounding.
    """
    epsilon = check_real("epsilon", epsilon, above=0)
    cosines = np.asarray(cosines, np.float32)
    if cosines.shape != (len(codes),) or not (cosines > 0).all():
        raise HypersignError(
            f"{len(codes)} codes need as many positive cosines, of code_cosines; got shape {cosines.shape}"
        )
    projected = _unit_projections(hasher, queries)
    m = hasher.bits_
    step = 2 * np.abs(projected).max(1, keepdims=True) / (2**PLANES - 1)
    steps = projected / step + (2**PLANES - 1) / 2  # from 0 to 15
    # All queries use one row of random numbers, so that the estimates of a query do not depend on the others.
    random = np.random.Generator(np.random.Philox(check_int("seed", seed, min=0))).random(m, dtype=np.float32)
    levels = np.clip(np.floor(steps + random), 0, 2**PLANES - 1)
    part = steps - np.floor(steps)
    rounding = np.square(step[:, 0]) * (part * (1 - part)).sum(1)
    products = np.zeros((len(projected), len(codes)), np.int32)
    for j in range(PLANES):
        # level l stands for the odd integer 2 l - 15 = sum_j 2^j (+1 or -1), +1 where l's bit j is set
        plane = bits.pack((levels.astype(np.int32) >> j & 1) - 0.5)
        products += 2**j * (m - 2 * bits.hamming(plane, codes, threads=threads))
    cosine = products * (step / 2) / (math.sqrt(m) * cosines)
    square = np.square(cosines)
    variance = (1 - square) / ((hasher.size() - 1) * square) + rounding[:, None] / (m * square)
    return Estimate(cosine.astype(np.float32), (epsilon * np.sqrt(variance)).astype(np.float32))


@dataclasses.dataclass(frozen=True)
class DistanceEstimate:
    """Estimated distances, and bounds on their errors.

    Attributes: `distance` and `bound`, each float64 (queries, codes). The distance is squared for the Euclidean
    metric, 1 - cosine, or the negated inner product.
    """

    distance: NDArray[np.float64]
    bound: NDArray[np.float64]


def code_distances(
    hasher: SignHasher, queries: ArrayLike, codes: NDArray[np.uint8], *, epsilon: float = 1.9, threads: int = 1
) -> DistanceEstimate:
    """Estimates the distances of queries and level codes without bias, with a bound on each error.

        <x', q'> ~ f <c, v> step,   bound^2 = epsilon^2 [|q'|^2 (f^2 |c|^2 - |x'|^2)/(n - 1) + f^2 |c|^2 r^2/m]

    x' and q' are vector and query less the subtracted mean; f = |x'|^2/<c, y>, the other symbols as in `SignHasher`;
    r is the length of what rounding the query to 8 bits changes. The distance is a term of the query and one of
    the code, less 2 <x', q'> (Euclidean, squared) or less <x', q'> (others); the bound is doubled for the Euclidean
    metric. Codes of inner products do not store |x'|: there it is f |c| times the cosine of a Gaussian vector and its
    levels, as the components of a rotated vector nearly are.

    Args:
        hasher: a fitted hasher of level codes.
        queries: vectors (q, dimension).
        codes: level codes, uint8 (n, bytes).
        epsilon: width of the bound, about in standard deviations.
        threads: number of threads.

    Raises:
        HypersignError: the hasher makes sign codes or keeps principal components alone, queries are bad, or the codes
            are not the hasher's.

    Source: Gao & Long 2024, "RaBitQ" (arXiv 2405.12497), theorem 3.2; Gao et al. 2024 (arXiv 2409.09913).

    >>> x = np.eye(64)
    >>> hasher = SignHasher(bits_per_dimension=4).fit(x)
    >>> found = code_distances(hasher, x[:1], hasher.codes(x))
    >>> bool(abs(found.distance[0] - 2)[1:].mean() < 0.2)
    True
    """
    epsilon = check_real("epsilon", epsilon, above=0)
    if hasher.pca:
        raise HypersignError(
            "codes of principal components have no bounds on their errors: use the estimates of HammingIndex.search"
        )
    asked, code = hasher.quantized_queries(queries), hasher.level_code_
    assert code is not None
    dots = bits.level_dots(asked.integers, codes, code, threads=threads)
    numbers = np.ascontiguousarray(codes[:, code.width :]).view("<f4").astype(np.float64)
    distance = dots * asked.steps[:, None].astype(np.float64) * numbers[:, 0] + numbers[:, 1] + asked.terms[:, None]
    levels = np.square(code.levels.astype(np.float64))[bits.unpack_levels(codes[:, : code.width], code)]
    lengths = np.square(numbers[:, 0]) * levels.sum(1)  # f^2 |c|^2, four times that for the Euclidean metric
    squares = {
        "euclidean": 4 * numbers[:, 1],
        "cosine": 1 + hasher.mean_ @ hasher.mean_ + 2 * numbers[:, 1],
        # A code of inner products does not store |x'|, so its cosine with the vector is that of Gaussian components.
        "inner_product": lengths * (code.count / hasher.size() / (1 + CODE_NOISE[code.bits])),
    }[hasher.metric_]
    noise = np.maximum(lengths - squares, 0) / max(hasher.size() - 1, 1)
    rounding = lengths * (asked.rounding() / code.count)[:, None]
    return DistanceEstimate(distance, epsilon * np.sqrt(asked.squares[:, None] * noise + rounding))


def _unit_projections(hasher: SignHasher, vectors: ArrayLike) -> NDArray[np.float32]:
    """R o, o the centred vectors over their lengths; float32."""
    projected, lengths = _projections(hasher, vectors)
    return (projected / lengths[:, None]).astype(np.float32)


def _projections(hasher: SignHasher, vectors: ArrayLike) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """R (x - mean), and the lengths of x - mean."""
    if hasher.rotation is None:
        raise HypersignError("estimates of cosines need a hasher with a random rotation; this one has none")
    x = np.asarray(vectors)
    projected = hasher.project(x)
    if hasher.level_code_ is not None:
        raise HypersignError("this estimate is for sign codes; `code_distances` is for level codes")
    with np.errstate(over="ignore"):
        return projected, np.linalg.norm(x - hasher.mean_, axis=1)


def _products(projected: NDArray[np.float32], codes: NDArray[np.uint64], m: int) -> NDArray[Any]:
    """<s, y> for every row y and every code s; codes are unpacked block by block."""
    found = np.empty((len(projected), len(codes)), np.float32)
    for start in range(0, len(codes), rows := max(1, (1 << 22) // m)):
        signs = bits.unpack(codes[start : start + rows], m).astype(np.float32)
        found[:, start : start + rows] = projected @ signs.T
    return found
