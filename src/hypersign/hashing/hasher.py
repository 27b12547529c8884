"""The hasher: centre, rotate, take signs, pack.

The hasher follows scikit-learn's conventions. If scikit-learn is installed, it is one of its transformers and works
in pipelines. Packed codes are uint64 words in the bit convention of `hypersign.bits`, for `HammingIndex`. Codes with
one column per bit are for scikit-learn's own estimators.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hypersign import _defaults
from hypersign import bits as words
from hypersign._checks import HypersignError, check_choice, check_int, check_real
from hypersign.hashing.mean import ExactMean
from hypersign.hashing.transformer import Transformer
from hypersign.rotations import HaarRotation, HadamardRotation

__all__ = ["MOST_BITS", "SignHasher"]

BLOCK = 1 << 22
"""Components read at a time."""

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
    """Hashes vectors: one bit for the sign of each component, after centring and a rotation.

        code(x) = sign(R (x - share mean)),   bit 1 where negative;   sign(0) = +1

    R is the first rows and columns of a random rotation, which depends only on the seed (`hypersign.rotations`). With
    the Hadamard rotation, integer vectors such as uint8 descriptors need only sign flips, additions and comparisons:
    the integer sums R x are compared with those of the mean. If such sums could overflow int64, float64 is used.

    Packed codes are not features: scikit-learn's estimators would read their words as numbers, and a
    `ColumnTransformer` rounds them to float64. Use `output="bits"` in a pipeline. The Hamming distance sorts centred
    vectors by angle; a code does not contain the length of its vector.

    Args:
        bits: length m of a code.
        rotation: "hadamard", "haar", or None. None takes the signs of the components themselves, so `bits` must be
            the dimension.
        rounds: number of rounds of signs and transforms, for "hadamard".
        center: share of the mean of the vectors given to `fit` that is subtracted; True is 1, False is 0. The full
            mean spreads vectors over the widest range of angles, but hides their lengths. A smaller share can be
            better for long codes, if lengths differ or if all were equal before centring (`plan` compares shares).
        seed: seed of the rotation.
        output: form of the codes from `transform`. "packed" gives uint64 (n, ceil(bits/64)), for `HammingIndex`.
            "bits" gives uint8 (n, bits), 1 where negative, for estimators that follow in a pipeline. The Hamming
            distance is the Manhattan distance of two rows of bits, and the square of their Euclidean distance.

    Attributes: `mean_`, the vector that is subtracted, float64 (dimension,); `n_features_in_`, the dimension.

    Raises:
        HypersignError: an option is out of range; a vector has NaN or infinity; or a vector equals the subtracted
            mean and so has no direction (without centring: a zero vector).

    Source: Charikar 2002, "Similarity estimation techniques from rounding algorithms"; rotations as in section 2 of
    Anderson & Berg (arXiv 1705.07199).

    >>> x = np.random.default_rng(0).standard_normal((1000, 96))
    >>> SignHasher(bits=128).fit_transform(x).shape
    (1000, 2)
    """

    mean_: NDArray[np.float64]
    n_features_in_: int

    def __init__(
        self,
        bits: int = _defaults.CODE_BITS,
        *,
        rotation: str | None = "hadamard",
        rounds: int = _defaults.ROTATION_ROUNDS,
        center: bool | float = True,
        seed: int = 0,
        output: str = "packed",
    ) -> None:
        self.bits = bits
        self.rotation = rotation
        self.rounds = rounds
        self.center = center
        self.seed = seed
        self.output = output

    def fit(self, X: ArrayLike, y: object = None) -> "SignHasher":
        """Computes the mean of vectors of shape (n, dimension), block by block, and makes the rotation."""
        x = self._validated(X, reset=True)
        return self.fit_blocks(_blocks(x), x.shape[1])

    def transform(self, X: ArrayLike) -> NDArray[np.uint64] | NDArray[np.uint8]:
        """The codes of vectors (n, dimension): packed uint64 (n, ceil(bits/64)), or bits uint8 (n, bits)."""
        codes = self.codes(X)
        return codes if self.output == "packed" else (words.unpack(codes, self.bits) < 0).view(np.uint8)

    def codes(self, X: ArrayLike) -> NDArray[np.uint64]:
        """The packed codes of vectors (n, dimension), uint64 (n, words); `output` and `set_output` have no effect."""
        self._check_fitted()
        x = self._validated(X, reset=False)
        codes = np.empty((len(x), -(-self.bits // 64)), np.uint64)
        start = 0
        for block in _blocks(x):
            codes[start : start + len(block)] = self.hash_block(block, start)
            start += len(block)
        return codes

    def project(self, X: ArrayLike) -> NDArray[Any]:
        """R (x - mean), shape (n, bits): its signs are the code. float32, or float64 for vectors that need it."""
        self._check_fitted()
        x = self._validated(X, reset=False)
        _check_finite(x, 0)
        _check_rows(x, self.mean_, 0)
        return self._rotated(x)

    def fit_blocks(self, blocks: Iterable[NDArray[Any]], dimension: int) -> "SignHasher":
        """Does what `fit` does, for vectors that come in blocks (rows, dimension), as from a large file."""
        mean = ExactMean()
        if self.check_options(dimension):
            for block in blocks:
                self.add_block(mean, block)
        return self.fit_mean(mean, dimension)

    def add_block(self, mean: ExactMean, block: NDArray[Any]) -> ExactMean:
        """Checks a block of vectors (rows, dimension) and adds it to the mean of vectors that `fit_mean` takes."""
        _check_finite(block, mean.count)
        return mean.add(block)

    def fit_mean(self, mean: ExactMean, dimension: int) -> "SignHasher":
        """Does what `fit` does, for vectors that were added to a mean, on this machine or on others.

        >>> x = np.random.default_rng(0).standard_normal((1000, 32))
        >>> hasher = SignHasher(bits=64)
        >>> first, second = (hasher.add_block(ExactMean(), part) for part in (x[:300], x[300:]))
        >>> hasher.fit_mean(second.merge(first), 32).difference(SignHasher(bits=64).fit(x))
        ''
        """
        share = self.check_options(dimension)
        if not share or not mean.count:
            return self.restore(np.zeros(dimension))
        value = mean.value()
        with np.errstate(over="ignore"):
            if not np.isfinite(value * mean.count).all():
                raise HypersignError(f"the sum of the vectors must be a float64 number; it is too large: {_SCALE}")
        return self.restore(share * value)

    def check_options(self, dimension: int) -> float:
        """Returns the share of the mean. Raises HypersignError if an option does not fit this dimension."""
        check_int("bits", self.bits, min=1, max=MOST_BITS)
        if self.rotation is not None:
            check_choice("rotation", self.rotation, ("hadamard", "haar"))
        elif self.bits != dimension:
            raise HypersignError(
                f"without a rotation a code has a bit for every component, here {dimension}; got bits={self.bits}; "
                f"use bits={dimension}, or a rotation"
            )
        if self.rotation == "haar" and dimension * self.bits > MOST_HAAR:
            raise HypersignError(
                f"a haar rotation must hold at most {MOST_HAAR:,} numbers; {dimension} dimensions to {self.bits} "
                "bits need more: use the hadamard rotation"
            )
        share = check_share(self.center)
        check_choice("output", self.output, ("packed", "bits"))
        check_int("rounds", self.rounds, min=1, max=MOST_ROUNDS)
        check_int("seed", self.seed, min=0, max=2**64 - 1)
        return share

    def restore(self, mean: NDArray[np.float64]) -> "SignHasher":
        """Sets the vector that is subtracted, and makes the rotation: for codes that are read from a file."""
        self.mean_ = mean
        self.n_features_in_ = len(mean)
        self.rotation_: HaarRotation | HadamardRotation | None = None
        if self.rotation == "hadamard":
            self.rotation_ = HadamardRotation(len(mean), self.rounds, self.seed, outputs=self.bits)
        elif self.rotation == "haar":
            self.rotation_ = HaarRotation(len(mean), self.seed, outputs=self.bits)
        self._threshold = self._sums(mean)
        return self

    def hash_block(self, block: NDArray[Any], first: int) -> NDArray[np.uint64]:
        """The packed codes of a block in memory; `first` is the number of its first row, for messages."""
        _check_finite(block, first)
        _check_rows(block, self.mean_, first)
        codes = np.empty((len(block), -(-self.bits // 64)), np.uint64)
        rows = max(1, PIECE // self.size())
        for start in range(0, len(block), rows):
            codes[start : start + rows] = self._codes(block[start : start + rows])
        return codes

    def empty_codes(self, count: int) -> NDArray[np.uint64]:
        """Room for `count` codes."""
        return np.empty((count, -(-self.bits // 64)), np.uint64)

    def size(self) -> int:
        """The dimension of the full rotation that R is taken from; predictions need it."""
        return getattr(self.rotation_, "size", max(self.bits, self.n_features_in_))

    def difference(self, other: "SignHasher") -> str:
        """How two fitted hashers differ, in words; empty if their codes can be compared."""
        names: tuple[str, ...] = ("bits", "rotation", "rounds", "center", "seed", "n_features_in_")
        if self.rotation != "hadamard":
            names = tuple(name for name in names if name != "rounds")
        parts = [
            f"{name.removesuffix('_')} {getattr(self, name)} and {getattr(other, name)}"
            for name in names
            if getattr(self, name) != getattr(other, name)
        ]
        if not parts and not np.array_equal(self.mean_, other.mean_):
            parts = ["the means of different vectors"]
        return ", ".join(parts)

    @property
    def _n_features_out(self) -> int:
        """Columns of `transform`, which scikit-learn names."""
        return self.bits if self.output == "bits" else -(-self.bits // 64)

    def _codes(self, x: NDArray[Any]) -> NDArray[np.uint64]:
        if x.dtype.kind not in "iub" or self.rotation == "haar":
            return words.pack(self._rotated(x))
        x = x.astype(np.uint8) if x.dtype.kind == "b" else x
        fits = self.rotation_.fits(x) if isinstance(self.rotation_, HadamardRotation) else np.ones(len(x), np.bool_)
        if not fits.all():  # row by row, so that a code does not depend on the vectors beside it
            codes = np.empty((len(x), -(-self.bits // 64)), np.uint64)
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
            centred = x.astype(kind) - self.mean_.astype(kind)
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


def check_share(center: bool | float) -> float:
    """The share of the mean to subtract, from 0 to 1."""
    return float(center) if isinstance(center, bool) else check_real("center", center, min=0, max=1)


def block_rows(dimension: int) -> int:
    """Number of rows in a block of vectors of this dimension."""
    return max(1, BLOCK // dimension)


def _blocks(x: NDArray[Any]) -> Iterator[NDArray[Any]]:
    rows = block_rows(x.shape[1])
    return (x[start : start + rows] for start in range(0, len(x), rows))


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


def _check_rows(block: NDArray[Any], mean: NDArray[np.float64], first: int) -> None:
    if block.dtype.kind == "f":
        with np.errstate(over="ignore"):
            there = (block == mean.astype(block.dtype)).all(1)
    else:
        # As integers: float64 would round those of 64 bits.
        limits = np.iinfo(block.dtype if block.dtype.kind in "iu" else np.uint8)
        whole = (mean == np.floor(mean)) & (mean >= float(limits.min)) & (mean < limits.max + 1.0)
        there = (whole & (block == np.where(whole, mean, 0).astype(limits.dtype))).all(1)
    if there.any():
        raise HypersignError(
            f"row {first + int(there.argmax())} is {'the mean of the vectors' if mean.any() else 'zero'} and so has "
            f"no direction to hash; leave such vectors out ({int(there.sum())} here)"
        )
