"""Surveys a set of vectors, such as embeddings: the angles to their signs, and the recall of sign codes.

The signs of the components themselves are good codes if the components vary equally about 0. Centring removes a
common mean, and a random rotation makes the components vary equally. After a rotation, every vector has the angle to
its signs that theory gives for Gaussian vectors, and the share of bits in which two vectors differ estimates the
angle between them with a known spread. This spread and the angles in the set predict the recall of codes, before any
code is made.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypersign import _defaults, theory
from hypersign._checks import HypersignError, check_int
from hypersign._display import shown
from hypersign._json import plain
from hypersign.hashing.hasher import MOST_BITS, SignHasher
from hypersign.hashing.prediction import predict
from hypersign.hashing.sample import ALIKE, sampled
from hypersign.hashing.stored import AnyVectors
from hypersign.rotations import HadamardRotation

__all__ = ["inspect_vectors", "CodeRecall", "VectorAngles", "VectorsGeometry"]

NEIGHBOURS = 10
"""Number of nearest vectors per query that codes should find."""

QUERIES = 100
"""Maximum number of sampled vectors that are queries; their neighbours are searched among the others."""


@dataclasses.dataclass(frozen=True)
class VectorAngles:
    """Angle between vectors and their signs, over the sample, in degrees, beside its prediction.

    After a rotation the prediction is that of independent normals (`theory.sign_angle`), whatever the vectors are.
    Without a rotation it is for independent components, each with the sample's own values: the values of each
    component are shuffled over the vectors. So it holds for unequal components, for means and for heavy tails.
    """

    mean: float
    std: float
    predicted_mean: float
    predicted_std: float


@dataclasses.dataclass(frozen=True)
class CodeRecall:
    """The share of the 10 nearest neighbours by angle that are among the 10 nearest codes of `bits` bits.

    It is measured on the sample. Any vector no farther than the tenth neighbour counts, so all copies of a vector do;
    ties in the Hamming distance count in part. `signs` and `centred` use the signs of
    the first components (NaN if there are fewer components than bits). `rotated` and `centred_rotated` use the signs
    after a Hadamard rotation with one seed, beside `predicted_recall`.
    """

    bits: int
    signs: float
    centred: float
    rotated: float
    rotated_predicted: float
    centred_rotated: float
    centred_rotated_predicted: float


@shown
@dataclasses.dataclass(frozen=True)
class VectorsGeometry:
    """Measures of `sampled` evenly spaced vectors out of `vectors`; `zero_vectors` of them were left out.

    Norms are Euclidean. `mean_share` is the squared length of the mean over the mean squared length: 0 for centred
    vectors, near 1 in a narrow cone. `effective_dimension` is (tr C)^2/tr(C^2), C the covariance: `dimension` if all
    directions vary equally. Rotations have `rotated_dimension` dimensions, a power of two. `metric` is the metric of
    the true neighbours: "angular" (the order of cosines). `recalls` are for `queries` of the sampled vectors,
    searched among the other ones; recall among more vectors is lower.
    """

    file: str
    vectors: int
    dimension: int
    sampled: int
    zero_vectors: int
    norm_mean: float
    norm_std: float
    norm_least: float
    norm_most: float
    mean_share: float
    effective_dimension: float
    rotated_dimension: int
    signs_degrees: VectorAngles
    centred_degrees: VectorAngles
    rotated_degrees: VectorAngles
    centred_rotated_degrees: VectorAngles
    queries: int
    recalls: tuple[CodeRecall, ...]
    metric: str = "angular"

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON: NaN as None."""
        return plain(dataclasses.asdict(self))


def inspect_vectors(
    vectors: AnyVectors,
    *,
    name: str = "",
    bits: Sequence[int] = (),
    sample: int = _defaults.SAMPLED_VECTORS,
    seed: int = 0,
) -> VectorsGeometry:
    """Measures the angles between vectors and their signs, beside theory, and the recall of codes by length.

    Args:
        vectors: real numbers, shape (n, d), as from `open_vectors`.
        name: name of the set, for the result.
        bits: code lengths; by default the dimension, rounded up to a power of two, its half and its quarter.
        sample: maximum number of vectors to read, evenly spaced. They are in memory, in a few copies.
        seed: seed of the rotations and of the shuffled components.

    Raises:
        HypersignError: there are fewer than 12 nonzero vectors or fewer than 2 dimensions, or a number is not finite.

    >>> x = np.random.default_rng(0).standard_normal((500, 64)) + 1
    >>> found = inspect_vectors(x, bits=[256])
    >>> round(found.effective_dimension), round(found.mean_share, 2)
    (56, 0.5)
    >>> round(found.centred_rotated_degrees.mean, 1), round(found.centred_rotated_degrees.predicted_mean, 1)
    (36.9, 36.7)
    """
    check_int("sample", sample, min=12)
    if vectors.ndim != 2 or vectors.shape[1] < 2:
        raise HypersignError(f"vectors must be of shape (n, d) with d >= 2; got shape {vectors.shape}")
    n, d = vectors.shape
    size = HadamardRotation(d).size
    lengths = [
        check_int("bits", m, min=1, max=MOST_BITS) for m in (bits or [max(size >> shift, 1) for shift in (2, 1, 0)])
    ]
    places: NDArray[np.int64] = np.unique(np.linspace(0, max(n - 1, 0), min(n, sample)).round().astype(np.int64))
    x = np.asarray(vectors[places], dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(x).all(1))
    if len(bad):
        raise HypersignError(
            f"vectors must be finite; {len(bad):,} of the {len(x):,} read are not, first number {places[bad[0]]:,}; "
            "leave them out"
        )
    # A power of two changes no digit, and the squares of very large or small numbers stay in float64's range.
    exponent = int(np.frexp(np.abs(x).max(initial=0.0))[1])
    x = np.ldexp(x, -exponent)
    norms = np.linalg.norm(x, axis=1)
    x, zero = x[norms > 0], int((norms == 0).sum())
    if len(x) < NEIGHBOURS + 2:
        raise HypersignError(f"at least {NEIGHBOURS + 2} vectors must not be zero; got {len(x)} of {len(norms)} read")
    mean = x.mean(0)
    centred = x - mean
    covariance = centred.T @ centred / len(x)
    units, centred_units = _unit(x), _unit(centred)  # signs and angles do not depend on lengths
    shuffled = np.random.default_rng(seed).permuted(x, axis=0)
    rotation = HadamardRotation(d, seed=seed)
    return VectorsGeometry(
        file=name,
        vectors=n,
        dimension=d,
        sampled=len(norms),
        zero_vectors=zero,
        norm_mean=float(np.ldexp(norms.mean(), exponent)),
        norm_std=float(np.ldexp(norms.std(), exponent)),
        norm_least=float(np.ldexp(norms.min(), exponent)),
        norm_most=float(np.ldexp(norms.max(), exponent)),
        mean_share=float(mean @ mean / (norms @ norms) * len(x)),
        effective_dimension=theory.effective_dimension(covariance),
        rotated_dimension=size,
        signs_degrees=_angles(units, shuffled),
        centred_degrees=_angles(centred_units, shuffled - mean),
        rotated_degrees=_angles(rotation(units.astype(np.float32))),
        centred_rotated_degrees=_angles(rotation(centred_units.astype(np.float32))),
        queries=len(_queries(len(x))),
        recalls=_recalls(units, centred_units, lengths, seed),
    )


def _angles(units: np.ndarray, independent: np.ndarray | None = None) -> VectorAngles:
    """Angles of unit vectors (or zeros, which have none); the prediction is for `independent`, or for normals."""
    d = units.shape[1]
    mean, std = _mean_and_std(units)
    if independent is None:
        expected = float(np.degrees(theory.sign_angle(d))), float(np.degrees(theory.sign_angle_std(d)))
    else:
        expected = _mean_and_std(_unit(independent))
    return VectorAngles(mean=mean, std=std, predicted_mean=expected[0], predicted_std=expected[1])


def _mean_and_std(units: np.ndarray) -> tuple[float, float]:
    size = np.abs(units).sum(1, dtype=np.float64)
    angles = np.degrees(np.arccos(np.clip(size[size > 0] / np.sqrt(units.shape[1]), 0, 1)))
    return (
        float(angles.mean()) if len(angles) else np.nan,
        float(angles.std(ddof=1)) if len(angles) > 1 else np.nan,
    )


def _queries(n: int) -> np.ndarray:
    """Which of n vectors are queries: every other one at most."""
    return np.unique(np.linspace(0, n - 1, min(QUERIES, (n - NEIGHBOURS) // 2)).round().astype(np.int64))


def _recalls(units: np.ndarray, centred: np.ndarray, lengths: Sequence[int], seed: int) -> tuple[CodeRecall, ...]:
    d = units.shape[1]
    asked = np.zeros(len(units), bool)
    asked[_queries(len(units))] = True
    cosines = units[asked] @ units[~asked].T
    hits = cosines >= -np.partition(-cosines, NEIGHBOURS - 1, axis=1)[:, NEIGHBOURS - 1 : NEIGHBOURS] - ALIKE

    def measured(values: np.ndarray) -> float:
        signs = np.where(values < 0, np.float32(-1), np.float32(1))
        return _found((values.shape[1] - signs[asked] @ signs[~asked].T) / 2, hits)

    sample = sampled(units[~asked], units[asked], NEIGHBOURS, "cosine", 1, 0)
    known: dict[Any, Any] = {}

    def predicted(m: int, center: bool) -> float:
        try:
            return predict(sample, SignHasher(m, center=center), (1,), known).recall[1]
        except HypersignError:  # a vector at the mean has no angle
            return np.nan

    recalls = []
    for m in lengths:
        rotation = HadamardRotation(d, seed=seed, outputs=m)
        recalls.append(
            CodeRecall(
                bits=m,
                signs=measured(units[:, :m]) if m <= d else np.nan,
                centred=measured(centred[:, :m]) if m <= d else np.nan,
                rotated=measured(rotation(units.astype(np.float32))),
                rotated_predicted=predicted(m, False),
                centred_rotated=measured(rotation(centred.astype(np.float32))),
                centred_rotated_predicted=predicted(m, True),
            )
        )
    return tuple(recalls)


def _found(distances: np.ndarray, hits: np.ndarray) -> float:
    """Mean share of hits, bool (queries, vectors), among the 10 smallest distances, with ties in random order."""
    shares = []
    for row, hit in zip(distances.astype(np.int64), hits, strict=True):
        counts = np.bincount(row)
        below = np.cumsum(counts) - counts
        at = row[hit]
        shares.append(np.clip((NEIGHBOURS - below[at]) / counts[at], 0, 1).sum() / NEIGHBOURS)
    return float(np.mean(shares))


def _unit(x: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    return np.divide(x, norms, out=np.zeros_like(x, dtype=np.float64), where=norms > 0)
