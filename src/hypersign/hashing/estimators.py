"""Estimates from codes: angle and cosine from signs of both, from signs of one, and without bias.

All cosines are between centred vectors, x - mean and q - mean. Symmetric: both are hashed. Asymmetric: the query
stays real, which is more accurate. RaBitQ: a number stored with each code tells how well it stands for its vector;
its error vanishes as the two get near, where that of the asymmetric estimate does not, and has a bound.
"""

import dataclasses
import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hypersign import bits
from hypersign._checks import HypersignError, check_int, check_real
from hypersign.hashing.hasher import SignHasher

__all__ = ["Estimate", "asymmetric_cosine", "code_cosines", "hamming_angle", "hamming_cosine", "rabitq_cosine"]

PLANES = 4
"""Bits of a component of RaBitQ's quantized query."""


def hamming_angle(distances: ArrayLike, bits: int) -> NDArray[np.float64]:
    """The angle in radians of two vectors, estimated from the Hamming distance of their codes.

        theta = pi h/m,   std below sqrt(theta (pi - theta)/m) (`theory.orthogonal_hash_angle_std`)

    Args:
        distances: h, differing bits.
        bits: m, length of a code.

    >>> round(float(hamming_angle(32, 128)), 4)
    0.7854
    """
    check_int("bits", bits, min=1)
    return np.pi * np.asarray(distances, dtype=np.float64) / bits


def hamming_cosine(distances: ArrayLike, bits: int) -> NDArray[np.float64]:
    """The cosine of two vectors, estimated from the signs of both: cos(pi h/m).

    >>> round(float(hamming_cosine(32, 128)), 4)
    0.7071
    """
    return np.cos(hamming_angle(distances, bits))


def asymmetric_cosine(hasher: SignHasher, queries: ArrayLike, codes: NDArray[np.uint64]) -> NDArray[np.float32]:
    """Cosines of real queries and codes.

        <s, R q> n / (m E||r||_1),   s the code as -1/+1, q a centred unit vector, r a random unit vector of dimension
        n, that of the rotation, whose E||r||_1 = n Gamma(n/2) / (sqrt(pi) Gamma((n+1)/2))

    Returns float32 (q, codes). Its mean over rotations is the cosine.
    Raises HypersignError for bad queries, codes of another width, or a hasher without a rotation.

    >>> x = np.eye(64)
    >>> hasher = SignHasher(bits=64, center=False).fit(x)
    >>> bool(abs(asymmetric_cosine(hasher, x[:1], hasher.transform(x[:1]))[0, 0] - 1) < 0.2)
    True
    """
    projected = _unit_projections(hasher, queries)
    n = hasher.size()
    # The closed form of theory.sign_cosine times sqrt(n), here so that searching imports no more than it needs.
    mean_l1 = n / math.sqrt(math.pi) * math.exp(math.lgamma(n / 2) - math.lgamma((n + 1) / 2))
    return _products(projected, codes, hasher.bits) * np.float32(n / (hasher.bits * mean_l1))


def code_cosines(hasher: SignHasher, vectors: ArrayLike) -> NDArray[np.float32]:
    """The number that RaBitQ stores with each code: how close the code is to its vector.

        c = <s, R o>/sqrt(m),   o the centred vector over its length, s = sign(R o); mean sqrt(m/n) sqrt(2/pi)

    for m bits of a rotation of n dimensions; where m = n it is the cosine of the vector and its code.

    Returns float32 (n,). Raises HypersignError for bad vectors, or a hasher without a rotation.
    """
    projected = _unit_projections(hasher, vectors)
    return np.abs(projected).sum(1) / np.float32(math.sqrt(hasher.bits))


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Cosines, and bounds on their errors.

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
    """Cosines of queries and codes without bias, by popcounts alone, each with a bound on its error.

        <o, q> ~ <s, v> step/2 / (sqrt(m) c),   bound^2 = epsilon^2 [(1 - c^2)/((n - 1) c^2) + rounding/(m c^2)]

    v is the rotated query R q in steps of step/2: odd integers from -15 to 15, so 4 bits, rounded up or down at
    random so that their mean is R q. Bit plane j of v against the codes is a Hamming distance h_j, and
    <s, v> = sum_j 2^j (m - 2 h_j). `rounding` is the variance that rounding adds, known exactly for every query,
    about 5 % of the whole. The bound holds for at least the share of pairs that `theory.rabitq_bound_share` gives.

    Args:
        hasher: fitted, with a rotation, of n dimensions.
        queries: vectors (q, dimension).
        codes: uint64 (codes, words).
        cosines: c of `code_cosines`, float32 (codes,).
        epsilon: how many standard deviations, about, the bound is wide.
        seed: of the rounding.
        threads: number of threads.

    Raises:
        HypersignError: bad queries; codes and cosines that do not fit each other or the hasher.

    Source: Gao & Long 2024, "RaBitQ" (SIGMOD; arXiv 2405.12497), with levels that are symmetric about zero, and
    the rounding in the bound.
    """
    epsilon = check_real("epsilon", epsilon, above=0)
    cosines = np.asarray(cosines, np.float32)
    if cosines.shape != (len(codes),) or not (cosines > 0).all():
        raise HypersignError(
            f"{len(codes)} codes need as many positive cosines, of code_cosines; got shape {cosines.shape}"
        )
    projected = _unit_projections(hasher, queries)
    m = hasher.bits
    step = 2 * np.abs(projected).max(1, keepdims=True) / (2**PLANES - 1)
    steps = projected / step + (2**PLANES - 1) / 2  # from 0 to 15
    # One row of random numbers serves all queries: a query's estimates do not depend on its neighbours.
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


def _unit_projections(hasher: SignHasher, vectors: ArrayLike) -> NDArray[np.float32]:
    """R o of the centred vectors scaled to length 1, float32."""
    if hasher.rotation is None:
        raise HypersignError("estimates of cosines need a hasher with a random rotation; this one has none")
    x = np.asarray(vectors)
    projected = hasher.project(x)
    lengths = np.linalg.norm(x.astype(np.float64) - hasher.mean_, axis=1, keepdims=True)
    return (projected / lengths).astype(np.float32)


def _products(projected: NDArray[np.float32], codes: NDArray[np.uint64], m: int) -> NDArray[Any]:
    """<s, y> of every row y and every code, codes unpacked a block at a time."""
    found = np.empty((len(projected), len(codes)), np.float32)
    for start in range(0, len(codes), rows := max(1, (1 << 22) // m)):
        signs = bits.unpack(codes[start : start + rows], m).astype(np.float32)
        found[:, start : start + rows] = projected @ signs.T
    return found
