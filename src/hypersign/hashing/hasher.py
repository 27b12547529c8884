"""The hasher: centre, rotate, take signs or levels, pack.

The hasher follows scikit-learn's conventions. If scikit-learn is installed, it is one of its transformers and works
in pipelines. Sign codes are uint64 words in the bit convention of `hypersign.bits`. Codes that know a metric are rows
of bytes: levels, then float32 numbers (`hypersign.hashing.levels`). `HammingIndex` searches both. Codes with one
column per bit are for scikit-learn's own estimators.
"""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hypersign import _defaults
from hypersign import bits as words
from hypersign._checks import HypersignError, check_choice, check_int, check_real
from hypersign.bits.levels import LEVELS, MOST_LEVELS, LevelCode
from hypersign.hashing.levels import (
    LEVEL_METRICS,
    NUMBERS,
    encode,
    factors,
    quantize_queries,
    unit_queries,
    unit_rows,
)
from hypersign.hashing.mean import ExactMean
from hypersign.hashing.principal import MOST_DIMENSIONS, SecondMoments
from hypersign.hashing.stored import AnyVectors, StoredVectors, read_blocks
from hypersign.hashing.transformer import Transformer
from hypersign.rotations import HaarRotation, HadamardRotation

__all__ = ["METRICS", "MOST_BITS", "SignHasher"]

METRICS = ("hamming", *LEVEL_METRICS)
"""What codes compare by: the bits that differ, or an estimate of a metric of the vectors."""

_SCALE = "divide all vectors by one number"

MOST_BITS = 1 << 20
"""Length of the longest code."""

MOST_ROUNDS = 100
"""Maximum number of rounds of signs and transforms. Three rounds already give the angles of a random rotation."""

MOST_HAAR = 2**26
"""Maximum number of entries in a Haar rotation's matrix, 8 bytes each."""

PIECE = 1 << 19
"""Components rotated at a time: 2 MB of float32 or int32, which fit into the caches."""


class SignHasher(Transformer):
    """Hashes vectors: a sign or a level for each component, after centring and a rotation.

        y = R (x - share mean)
        sign code:   bit 1 where y is negative;   sign(0) = +1
        level code:  c, the levels of y, and two numbers a and b of the metric

    R is the first rows and columns of a random rotation, which depends only on the seed (`hypersign.rotations`).

    **Sign codes** (the default) are compared by their Hamming distance, which sorts centred vectors by angle; they do
    not contain the length of a vector. With the Hadamard rotation, integer vectors such as uint8 descriptors need
    only sign flips, additions and comparisons: the integer sums R x are compared with those of the mean. If such sums
    could overflow int64, float64 is used.

    **Level codes** have 1, 1.5, 2, 3, 4 or 6 bits per dimension and estimate a metric. The query stays real: v is R
    (query - share mean) in integers of 8 bits times a step, and

        a <c, v> step + b + a term of the query   estimates   |x - q|^2,  1 - cos(x, q)  or  -<x, q>

    without bias over rotations: a comes from |x - mean|^2/<c, y>. So lower is nearer for every metric.
    `code_distances` has the bound on the error. For "cosine", vectors are scaled to length 1 first.

    **Principal components** (`pca=m`): level codes keep the directions in which the vectors vary most,

        y = R P (x - share mean),    a from |P (x - share mean)|^2/<c, y>

    P are the first m principal components of the vectors, and R rotates in their m dimensions. The products of what P
    leaves out count as 0; lengths are whole. Where few directions hold most of the variance, as in image descriptors
    and pixels, these with more bits find more neighbours than all components with fewer bits. Where many do, as in
    some word vectors, they find fewer. `plan(vectors, bytes=...)` compares both.

    Packed codes are not features: scikit-learn's estimators would read their words as numbers, and a
    `ColumnTransformer` rounds them to float64. Use `output="bits"` in a pipeline.

    Args:
        bits: length of a code, without the numbers of the metric: `bits_per_dimension` times the number m of
            components that it keeps (rounded up). None: 256 for sign codes, and for level codes `pca` components or
            as many as vectors have.
        bits_per_dimension: 1, 1.5 (levels -1, 0 and 1, stored in 1.6 bits), 2, 3, 4 or 6.
        metric: "hamming" for sign codes; "euclidean", "cosine" or "inner_product" for level codes. None: "hamming" at
            1 bit per dimension, else "euclidean".
        rotation: "hadamard", "haar", or None. "haar" multiplies by a matrix; sign codes have more recall by it if the
            dimension is no power of two, because "hadamard" rotates in the next larger power. None takes the signs of
            the components themselves, so `bits` must be the dimension; level codes need a rotation.
        rounds: number of rounds of signs and transforms, for "hadamard".
        center: share of the mean of the vectors given to `fit` that is subtracted; True is 1, False is 0. The full
            mean spreads vectors over the widest range of angles, but hides their lengths from sign codes. A smaller
            share can be better for long sign codes, if lengths differ or if all were equal before centring (`plan`
            compares shares). Level codes know the lengths.
        seed: seed of the rotation.
        pca: number of principal components of the vectors given to `fit` that level codes keep, in place of `bits`.
            At most 4,096 vectors of each block of 4 million numbers count. None: all components, or random ones.
        output: form of the codes from `transform`. "packed" gives uint64 (n, ceil(bits/64)) for sign codes and uint8
            (n, row_bytes()) for level codes, for `HammingIndex`. "bits" gives the bits of sign codes as uint8
            (n, bits), 1 where negative, for estimators that follow in a pipeline. The Hamming distance is the
            Manhattan distance of two rows of bits, and the square of their Euclidean distance.

    Attributes:
        mean_: the vector that is subtracted, float64 (dimension,).
        n_features_in_: the dimension.
        metric_: one of `METRICS`.
        bits_: length of a code, without the numbers of the metric.
        components_: P, float32 (m, dimension), or None without `pca`.
        level_code_: the form of level codes (`bits.LevelCode`; its `count` is m), None for sign codes.

    Raises:
        HypersignError: an option is out of range; a vector has NaN or infinity; or a vector has no direction: it
            equals the subtracted mean (sign codes) or is zero (cosine).

    Sources: Charikar 2002, "Similarity estimation techniques from rounding algorithms"; rotations as in section 2 of
    Anderson & Berg (arXiv 1705.07199); Gao & Long 2024, "RaBitQ" (arXiv 2405.12497); Gao et al. 2024, extended RaBitQ
    (arXiv 2409.09913).

    >>> x = np.random.default_rng(0).standard_normal((1000, 96))
    >>> SignHasher(bits=128).fit_transform(x).shape
    (1000, 2)
    >>> SignHasher(bits_per_dimension=2, metric="cosine").fit_transform(x).shape  # 24 bytes of levels, 8 of numbers
    (1000, 32)
    """

    mean_: NDArray[np.float64]
    n_features_in_: int
    metric_: str
    bits_: int
    components_: NDArray[np.float32] | None
    level_code_: LevelCode | None

    def __init__(
        self,
        bits: int | None = None,
        *,
        bits_per_dimension: float = 1,
        metric: str | None = None,
        rotation: str | None = "hadamard",
        rounds: int = _defaults.ROTATION_ROUNDS,
        center: bool | float = True,
        seed: int = 0,
        pca: int | None = None,
        output: str = "packed",
    ) -> None:
        self.bits = bits
        self.bits_per_dimension = bits_per_dimension
        self.metric = metric
        self.rotation = rotation
        self.rounds = rounds
        self.center = center
        self.seed = seed
        self.pca = pca
        self.output = output

    def fit(self, X: AnyVectors | ArrayLike, y: object = None) -> "SignHasher":
        """Computes the mean of vectors of shape (n, dimension), block by block, and makes the rotation."""
        x = self._readable(X, reset=True)
        return self.fit_blocks((block for _, block in read_blocks(x)), x.shape[1])

    def transform(self, X: AnyVectors | ArrayLike) -> NDArray[np.uint64] | NDArray[np.uint8]:
        """The codes of vectors (n, dimension), in the form of `output`."""
        codes = self.codes(X)
        return codes if self.output == "packed" else (words.unpack(codes, self.bits_) < 0).view(np.uint8)

    def codes(self, X: AnyVectors | ArrayLike) -> NDArray[Any]:
        """The packed codes of vectors (n, dimension), block by block; `output` and `set_output` have no effect.

        Sign codes are uint64 (n, words), level codes uint8 (n, row_bytes()).
        """
        self._check_fitted()
        x = self._readable(X, reset=False)
        codes = self.empty_codes(len(x))
        for start, block in read_blocks(x):
            codes[start : start + len(block)] = self.hash_block(block, start)
        return codes

    def project(self, X: ArrayLike) -> NDArray[Any]:
        """R (x - mean), shape (n, m): its signs or levels are the code. float32, or float64 for vectors that need it.

        With the metric "cosine", x is scaled to length 1 first.
        """
        self._check_fitted()
        x = self._validated(X, reset=False)
        self._check_block(x, 0)
        return self._rotated(self._directed(x))

    def quantized_queries(self, X: ArrayLike) -> "Queries":
        """Queries (q, dimension) of level codes as integers of 8 bits, with what their scores need."""
        self._check_fitted()
        if self.level_code_ is None:
            raise HypersignError("sign codes are compared with sign codes; quantized queries are for level codes")
        x = self._validated(X, reset=False)
        self._check_block(x, 0)
        x = unit_queries(x) if self.metric_ == "cosine" else x
        rotated = self._rotated(x)
        with np.errstate(over="ignore", invalid="ignore"):
            integers, steps = quantize_queries(rotated)
            if self.metric_ == "cosine":
                products, square = x @ self.mean_, self.mean_ @ self.mean_
                terms, squares = 1 + square - products, np.maximum(1 + square - 2 * products, 0)
            else:
                centred = x - self.mean_
                squares = np.einsum("ij,ij->i", centred, centred)
                terms = squares if self.metric_ == "euclidean" else -(centred @ self.mean_)
        if not (np.isfinite(steps).all() and np.isfinite(terms).all()):
            raise HypersignError(
                f"queries and the vectors' mean must be float32 numbers; some are too large: {_SCALE}"
            )
        return Queries(integers, steps, terms, squares, rotated)

    def fit_blocks(self, blocks: Iterable[NDArray[Any]], dimension: int) -> "SignHasher":
        """Does what `fit` does, for vectors that come in blocks (rows, dimension), as from a large file."""
        mean, share = ExactMean(), self.check_options(dimension)
        moments = SecondMoments(dimension, unit=self._metric() == "cosine") if self.pca else None
        if share or moments:
            for block in blocks:
                self.add_block(mean, block)
                if moments:
                    moments.add(block)
        return self._fit(mean, moments, dimension)

    def add_block(self, mean: ExactMean, block: NDArray[Any]) -> ExactMean:
        """Checks a block of vectors (rows, dimension) and adds it to the mean of vectors that `fit_mean` takes."""
        _check_finite(block, mean.count)
        if self._metric() == "cosine":
            _check_nonzero(block, mean.count)
            block = unit_rows(block)
        return mean.add(block)

    def fit_mean(self, mean: ExactMean, dimension: int) -> "SignHasher":
        """Does what `fit` does, for vectors that were added to a mean, on this machine or on others.

        >>> x = np.random.default_rng(0).standard_normal((1000, 32))
        >>> hasher = SignHasher(bits=64)
        >>> first, second = (hasher.add_block(ExactMean(), part) for part in (x[:300], x[300:]))
        >>> hasher.fit_mean(second.merge(first), 32).difference(SignHasher(bits=64).fit(x))
        ''
        """
        if self.pca:
            raise HypersignError(
                "pca needs the vectors, not their mean alone: use fit or hash_file, or leave pca out"
            )
        return self._fit(mean, None, dimension)

    def _fit(self, mean: ExactMean, moments: SecondMoments | None, dimension: int) -> "SignHasher":
        share, subtracted = self.check_options(dimension), np.zeros(dimension)
        if share and mean.count:
            value = mean.value()
            with np.errstate(over="ignore"):
                if not np.isfinite(value * mean.count).all():
                    raise HypersignError(
                        f"the sum of the vectors must be a float64 number; it is too large: {_SCALE}"
                    )
            subtracted = share * value
        kept = None if moments is None else moments.components(subtracted, self._kept(dimension))
        return self.restore(subtracted, kept)

    def check_options(self, dimension: int) -> float:
        """Returns the share of the mean. Raises HypersignError if an option does not fit this dimension."""
        if self.bits is not None:
            check_int("bits", self.bits, min=1, max=MOST_BITS)
        check_real("bits_per_dimension", self.bits_per_dimension)
        if self.bits_per_dimension not in LEVELS:
            raise HypersignError(
                f"bits_per_dimension must be one of {', '.join(map(str, LEVELS))}; got {self.bits_per_dimension!r}"
            )
        if self.metric is not None:
            check_choice("metric", self.metric, METRICS)
        if self.rotation is not None:
            check_choice("rotation", self.rotation, ("hadamard", "haar"))
        check_choice("output", self.output, ("packed", "bits"))
        if self.pca is not None:
            check_int("pca", self.pca, min=1)
        if self._metric() == "hamming":
            self._check_signs(dimension)
        else:
            self._check_levels(dimension)
        count = self._kept(dimension)
        if self.rotation == "haar" and dimension * count > MOST_HAAR:
            raise HypersignError(
                f"a haar rotation must hold at most {MOST_HAAR:,} numbers; {dimension} dimensions to {count} "
                "bits need more: use the hadamard rotation"
            )
        share = check_share(self.center)
        check_int("rounds", self.rounds, min=1, max=MOST_ROUNDS)
        check_int("seed", self.seed, min=0, max=2**64 - 1)
        return share

    def restore(self, mean: NDArray[np.float64], components: NDArray[np.float32] | None = None) -> "SignHasher":
        """Sets what `fit` measures, as for codes that are read from a file, and makes the rotation.

        `mean` is the vector that is subtracted, `components` what `components_` is.
        """
        self.mean_, self.components_ = mean, components
        self.n_features_in_ = len(mean)
        _, self.bits_, self.metric_, _ = self.kind(len(mean))
        count, signs = self._kept(len(mean)), self.metric_ == "hamming"
        dimension = count if self.pca else len(mean)
        self.level_code_ = None if signs else LevelCode(self.bits_per_dimension, count)
        self.rotation_: HaarRotation | HadamardRotation | None = None
        if self.rotation == "hadamard":
            self.rotation_ = HadamardRotation(dimension, self.rounds, self.seed, outputs=count, tight=not signs)
        elif self.rotation == "haar":
            self.rotation_ = HaarRotation(dimension, self.seed, outputs=count)
        self._threshold: Any = self._sums(mean) if signs else None
        return self

    def hash_block(self, block: NDArray[Any], first: int) -> NDArray[Any]:
        """The packed codes of a block in memory; `first` is the number of its first row, for messages."""
        self._check_block(block, first)
        codes = self.empty_codes(len(block))
        rows = max(1, PIECE // self.size())
        hashed = self._codes if self.level_code_ is None else self._level_rows
        for start in range(0, len(block), rows):
            codes[start : start + rows] = hashed(block[start : start + rows])
        return codes

    def hashable(self, block: NDArray[Any]) -> NDArray[np.bool_]:
        """Which rows of a block can be hashed, bool (rows,): they are finite and have a direction."""
        fits = finite_rows(block)
        if self.metric_ == "hamming":
            return fits & ~_at(block, self.mean_)
        return fits & block.any(1) if self.metric_ == "cosine" else fits

    def empty_codes(self, count: int) -> NDArray[Any]:
        """An array for the packed codes of `count` vectors."""
        return np.empty((count, self.columns(self.n_features_in_)), np.uint8 if self.level_code_ else np.uint64)

    def row_bytes(self) -> int:
        """Bytes of a packed code, with the numbers of its metric."""
        return self.empty_codes(0).itemsize * self.columns(self.n_features_in_)

    def kind(self, dimension: int) -> tuple[float, int, str, int | None]:
        """Bits per dimension, bits, metric and `pca` of codes of vectors of this dimension."""
        per = self.bits_per_dimension
        return per, math.ceil(self._kept(dimension) * per), self._metric(), self.pca

    def columns(self, dimension: int) -> int:
        """Columns of packed codes of vectors of this dimension: words of sign codes, bytes of level codes."""
        count, metric = self._kept(dimension), self._metric()
        if metric == "hamming":
            return -(-count // 64)
        return LevelCode(self.bits_per_dimension, count).width + 4 * NUMBERS

    def size(self) -> int:
        """The dimension of the full rotation that R is taken from; predictions need it."""
        count = self.bits_ if self.level_code_ is None else self.level_code_.count
        return getattr(self.rotation_, "size", max(count, self.n_features_in_))

    def difference(self, other: "SignHasher") -> str:
        """How two fitted hashers differ, in words; empty if their codes can be compared."""
        names = [
            "bits_",
            "bits_per_dimension",
            "metric_",
            "rotation",
            "rounds",
            "center",
            "seed",
            "pca",
            "n_features_in_",
        ]
        if self.rotation != "hadamard":
            names.remove("rounds")
        parts = [
            f"{name.removesuffix('_')} {getattr(self, name)} and {getattr(other, name)}"
            for name in names
            if getattr(self, name) != getattr(other, name)
        ]
        if not parts and not np.array_equal(self.mean_, other.mean_):
            parts = ["the means of different vectors"]
        if not parts and self.pca and not np.array_equal(self.components_, other.components_):  # type: ignore[arg-type]
            parts = ["the principal components of different vectors"]
        return ", ".join(parts)

    @property
    def _n_features_out(self) -> int:
        """Columns of `transform`, which scikit-learn names."""
        return self.bits_ if self.output == "bits" else self.columns(self.n_features_in_)

    def _readable(self, x: AnyVectors | ArrayLike, reset: bool) -> AnyVectors:
        """Vectors that `read_blocks` reads, checked as `_validated` does; those of a file stay there."""
        if not isinstance(x, StoredVectors):
            return self._validated(x, reset)
        self._validated(x[:1], reset)
        return x

    def _metric(self) -> str:
        return self.metric or ("hamming" if self.bits_per_dimension == 1 else "euclidean")

    def _kept(self, dimension: int) -> int:
        """m, the number of components that a code keeps of vectors of this dimension."""
        if self.bits is None:
            if self._metric() != "hamming":
                return self.pca or dimension
            return dimension if self.rotation is None else _defaults.CODE_BITS
        return int(self.bits / self.bits_per_dimension)

    def _check_signs(self, dimension: int) -> None:
        if self.bits_per_dimension != 1:
            raise HypersignError(
                f"the metric hamming is for 1 bit per dimension; got {self.bits_per_dimension}: choose euclidean, "
                "cosine or inner_product"
            )
        if self.pca:
            raise HypersignError(
                "pca is for codes of a metric; these are sign codes: name a metric, or leave pca out"
            )
        if self.rotation is None and self.bits not in (None, dimension):
            raise HypersignError(
                f"without a rotation a code has a bit for every component, here {dimension}; got bits={self.bits}; "
                f"use bits={dimension}, or a rotation"
            )

    def _check_levels(self, dimension: int) -> None:
        per, count = self.bits_per_dimension, self._kept(dimension)
        if self.rotation is None:
            raise HypersignError("level codes need a random rotation; got rotation=None: use hadamard or haar")
        if self.output != "packed":
            raise HypersignError('output="bits" is for sign codes; level codes are packed: use output="packed"')
        if self.bits is not None and (count < 1 or math.ceil(count * per) != self.bits):
            raise HypersignError(
                f"bits must be a multiple of bits_per_dimension, {per:g} for each component; got {self.bits}"
            )
        if self.pca and self.bits is not None:
            raise HypersignError(
                f"pca says how many components a code keeps, and so does bits; got pca={self.pca} and "
                f"bits={self.bits}: leave one out"
            )
        if self.pca and self.pca > dimension:
            raise HypersignError(f"pca keeps at most the {dimension} components of the vectors; got {self.pca}")
        if self.pca and dimension > MOST_DIMENSIONS:
            raise HypersignError(f"pca takes vectors of at most {MOST_DIMENSIONS:,} components; got {dimension:,}")
        if count > MOST_LEVELS:
            raise HypersignError(
                f"level codes keep at most {MOST_LEVELS:,} components; got {count:,}: give fewer bits"
            )

    def _check_block(self, block: NDArray[Any], first: int) -> None:
        _check_finite(block, first)
        if self.metric_ == "hamming":
            _check_rows(block, self.mean_, first)
        elif self.metric_ == "cosine":
            _check_nonzero(block, first)

    def _directed(self, x: NDArray[Any]) -> NDArray[Any]:
        return unit_rows(x) if self.metric_ == "cosine" else x

    def _level_rows(self, x: NDArray[Any]) -> NDArray[np.uint8]:
        assert self.level_code_ is not None
        x = self._directed(x)
        rotated = self._rotated(x)
        indices = encode(rotated, self.level_code_)
        numbers = factors(self.metric_, x, self.mean_, rotated, self.level_code_.levels[indices], bool(self.pca))
        if not np.isfinite(numbers).all():
            raise HypersignError(
                f"squares of the vectors' lengths must be float32 numbers; some are too large: {_SCALE}"
            )
        return np.concatenate([words.pack_levels(indices, self.level_code_), numbers.view(np.uint8)], axis=1)

    def _codes(self, x: NDArray[Any]) -> NDArray[np.uint64]:
        if x.dtype.kind not in "iub" or self.rotation == "haar":
            return words.pack(self._rotated(x))
        x = x.astype(np.uint8) if x.dtype.kind == "b" else x
        fits = self.rotation_.fits(x) if isinstance(self.rotation_, HadamardRotation) else np.ones(len(x), np.bool_)
        if not fits.all():  # row by row, so that a code does not depend on the vectors beside it
            codes = self.empty_codes(len(x))
            codes[fits], codes[~fits] = self._codes(x[fits]), words.pack(self._rotated(x[~fits]))
            return codes
        # R x < R mean in integers, both multiplied by n^(k/2): no multiplication is needed, and x is not rounded.
        return words.pack(self._sums(x), threshold=self._threshold)

    def _sums(self, x: NDArray[Any]) -> NDArray[Any]:
        return self.rotation_.sums(x) if isinstance(self.rotation_, HadamardRotation) else x

    def _rotated(self, x: NDArray[Any]) -> NDArray[Any]:
        """R (x - mean) in float32, or in float64 if the numbers need it."""
        kind = np.float64 if x.dtype.itemsize > (2 if x.dtype.kind in "iub" else 4) else np.float32
        with np.errstate(over="ignore", invalid="ignore"):
            centred = x.astype(kind, copy=False) - self.mean_.astype(kind)
            if self.components_ is not None:
                centred = centred @ self.components_.T.astype(kind, copy=False)
            rotated = centred if self.rotation_ is None else self.rotation_(centred)
        if _all_finite(rotated):
            return rotated
        finite = np.isfinite(rotated).all(1)
        if kind == np.float64:
            raise HypersignError(
                f"rotated vectors must be float64 numbers; {int((~finite).sum())} of these are too large: {_SCALE}"
            )
        rotated = rotated.astype(np.float64)
        rotated[~finite] = self._rotated(x[~finite].astype(np.float64))
        return rotated


@dataclasses.dataclass(frozen=True)
class Queries:
    """Queries of level codes.

    Attributes:
        integers: v, int8 (q, m).
        steps: what 1 in v stands for, float32 (q,).
        terms: what is added to a score: the estimate of a squared Euclidean distance, of 1 - cosine or of the negated
            inner product is (<c, v> step) a + b + term. float64 (q,).
        squares: |query - mean|^2, float64 (q,).
        rotated: R (query - mean), shape (q, m), which integers and steps round.
    """

    integers: NDArray[np.int8]
    steps: NDArray[np.float32]
    terms: NDArray[np.float64]
    squares: NDArray[np.float64]
    rotated: NDArray[Any]

    def rounding(self) -> NDArray[np.float64]:
        """The squared length of what rounding to integers changes, float64 (q,)."""
        rounded = self.integers * self.steps[:, None].astype(np.float64)
        return np.asarray(np.square(self.rotated - rounded).sum(1))


def check_share(center: bool | float) -> float:
    """The share of the mean to subtract, from 0 to 1."""
    return float(center) if isinstance(center, bool) else check_real("center", center, min=0, max=1)


def _all_finite(x: NDArray[Any]) -> bool:
    """Whether all numbers are finite. If their sum is finite, they are; if it is not, each one is checked."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(x.sum())) or bool(np.isfinite(x).all())


def _check_finite(block: NDArray[Any], first: int) -> None:
    if block.dtype.kind not in "iubf":
        raise HypersignError(f"vectors must be real numbers; got {block.dtype}")
    if block.dtype.kind == "f" and not _all_finite(block):
        row, column = np.argwhere(~np.isfinite(block))[0]
        raise HypersignError(
            f"vectors must be finite; got {'NaN' if np.isnan(block[row, column]) else 'inf'} in row {first + row}, "
            f"column {column}"
        )


def _check_nonzero(block: NDArray[Any], first: int) -> None:
    zero = ~block.any(1)
    if zero.any():
        raise HypersignError(
            f"row {first + int(zero.argmax())} is zero and so has no cosine with others; leave such vectors out "
            f"({int(zero.sum())} here)"
        )


def finite_rows(block: NDArray[Any]) -> NDArray[np.bool_]:
    """Which rows are finite."""
    return np.isfinite(block).all(1) if block.dtype.kind == "f" else np.ones(len(block), np.bool_)


def _at(block: NDArray[Any], mean: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which rows are the mean."""
    if block.dtype.kind == "f":
        with np.errstate(over="ignore"):
            return np.asarray((block == mean.astype(block.dtype)).all(1))
    # As integers: float64 would round those of 64 bits.
    limits = np.iinfo(block.dtype if block.dtype.kind in "iu" else np.uint8)
    whole = (mean == np.floor(mean)) & (mean >= float(limits.min)) & (mean < limits.max + 1.0)
    return np.asarray((whole & (block == np.where(whole, mean, 0).astype(limits.dtype))).all(1))


def _check_rows(block: NDArray[Any], mean: NDArray[np.float64], first: int) -> None:
    there = _at(block, mean)
    if there.any():
        raise HypersignError(
            f"row {first + int(there.argmax())} is {'the mean of the vectors' if mean.any() else 'zero'} and so has "
            f"no direction to hash; leave such vectors out ({int(there.sum())} here)"
        )
