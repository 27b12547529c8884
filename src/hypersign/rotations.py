"""Random rotations: Haar's, uniform over all of them, and the randomized Hadamard rotation, which only adds.

A rotation spreads a vector evenly over all components, whatever it was before, so that its sign lies at the angle
of section 2 of Anderson & Berg: R' sign(R x) is the generalized binarization of x. A Haar rotation takes d^2
multiplications a vector, k rounds of signs and Hadamard transforms k d log2 d additions.

Both are functions of their seed alone. Signs come from a counter-based generator and are the same bits on every
machine; Haar's matrix is the same up to the rounding of a QR decomposition.
"""

from typing import Any, TypeVar

import numpy as np

from hypersign._checks import HypersignError, check_int
from hypersign.hadamard import hadamard_transform

__all__ = ["HaarRotation", "HadamardRotation", "random_signs"]

Array = TypeVar("Array", bound=Any)

_GOLDEN = 0x9E3779B97F4A7C15


class HaarRotation:
    """A rotation drawn uniformly (Haar's measure) from all orthogonal matrices, reflections included.

        y = R x,   R the Q of a QR decomposition of a Gaussian matrix, its columns' signs such that R's are > 0

    Called with NumPy arrays or torch tensors of shape (..., dimension) it rotates their last dimension;
    `inverse` undoes that. Gradients pass.

    Args:
        dimension: d; the matrix holds d^2 numbers and takes of the order of d^3 operations to make.
        seed: what the rotation is a function of.

    Raises:
        HypersignError: the dimension is below 1 or the seed below 0; in calls, the last dimension is another.

    Source: Mezzadri 2007, "How to generate random matrices from the classical compact groups".

    >>> rotation = HaarRotation(3, seed=0)
    >>> round(float(np.linalg.norm(rotation(np.array([1.0, 2.0, 2.0])))), 6)
    3.0
    """

    def __init__(self, dimension: int, seed: int) -> None:
        self.dimension = check_int("a rotation's dimension", dimension, least=1)
        self.seed = check_int("a rotation's seed", seed, least=0)
        normals = np.random.Generator(np.random.Philox(seed)).standard_normal((dimension, dimension))
        q, r = np.linalg.qr(normals)
        self.matrix = q * np.where(np.diagonal(r) < 0, -1.0, 1.0)
        """R, float64, shape (dimension, dimension)."""
        self._held: dict[Any, Any] = {}

    def __call__(self, x: Array) -> Array:
        """R x for every vector x in the last dimension."""
        return x @ self._like(x).T

    def inverse(self, x: Array) -> Array:
        """R' x, which undoes the rotation."""
        return x @ self._like(x)

    def _like(self, x: Any) -> Any:
        """The matrix, of the type of `x` and on its device; held, since it may be large."""
        _check_last(x, self.dimension)
        if isinstance(x, np.ndarray):
            return self.matrix.astype(x.dtype if x.dtype.kind == "f" else np.float64, copy=False)
        import torch

        key = (x.device, x.dtype)
        if key not in self._held:
            self._held[key] = torch.as_tensor(self.matrix, dtype=x.dtype, device=x.device)
        return self._held[key]


class HadamardRotation:
    """Rounds of random signs and an orthonormal Walsh-Hadamard transform.

        y = H D_k ... H D_2 H D_1 x,   D_i diagonal with random signs, H the Hadamard matrix over sqrt(d)

    One round leaves vectors with few non-zero components far from Gaussian (a vector along an axis stays binary);
    after three, angles have the mean and spread of a Haar rotation. Called with NumPy arrays or torch tensors of
    shape (..., dimension) it rotates their last dimension; `inverse` undoes that. Gradients pass.

    Args:
        dimension: d, a power of two.
        rounds: k.
        seed: what the signs are a function of.

    Raises:
        HypersignError: the dimension is no power of two, the rounds are below 1 or the seed below 0; in calls,
            the last dimension is another, or not of a floating type.

    Source: Ailon & Chazelle 2009, "The fast Johnson-Lindenstrauss transform"; three rounds as in Andoni et al.
    2015, "Practical and optimal LSH for angular distance" (arXiv 1509.02897).

    >>> rotation = HadamardRotation(4, rounds=1, seed=0)
    >>> rotation(np.array([2.0, 0.0, 0.0, 0.0])).tolist()
    [-1.0, -1.0, -1.0, -1.0]
    """

    def __init__(self, dimension: int, rounds: int = 3, seed: int = 0) -> None:
        self.dimension = check_int("a rotation's dimension", dimension, least=1)
        if dimension & (dimension - 1):
            raise HypersignError(
                f"a Hadamard rotation's dimension must be a power of two; got {dimension}; pad vectors with zeros to "
                f"{1 << dimension.bit_length()} or take a Haar rotation"
            )
        self.rounds = check_int("a Hadamard rotation's rounds", rounds, least=1)
        self.seed = check_int("a rotation's seed", seed, least=0, most=2**64 - 1)

    def signs(self, number: int) -> np.ndarray:
        """The signs of round `number`, from 0: float32, shape (dimension,), made anew at every call."""
        return random_signs(self.dimension, self.seed, number)

    def __call__(self, x: Array) -> Array:
        """The rotated vectors."""
        _check_last(x, self.dimension)
        y: Any = x
        for number in range(self.rounds):
            y = hadamard_transform(y * self._signs_like(y, number))
        return y

    def inverse(self, x: Array) -> Array:
        """What rotates to `x`: the rounds undone, the last one first."""
        _check_last(x, self.dimension)
        y: Any = x
        for number in reversed(range(self.rounds)):
            y = hadamard_transform(y) * self._signs_like(y, number)
        return y

    def _signs_like(self, x: Any, number: int) -> Any:
        if isinstance(x, np.ndarray):
            return self.signs(number).astype(x.dtype, copy=False)
        import torch

        return torch.from_numpy(self.signs(number)).to(device=x.device, dtype=x.dtype)


def random_signs(count: int, seed: int, stream: int = 0) -> np.ndarray:
    """Independent random signs, -1 or +1: a function of (seed, stream, place) alone, the same on every machine.

    Signs 64 i to 64 i + 63 are the bits of the i-th output of SplitMix64, least significant first, 1 meaning -1,
    its state being a hash of seed and stream.

    Returns float32, shape (count,). Raises HypersignError where a number is negative.
    Source: Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators".

    >>> random_signs(8, seed=0).astype(int).tolist()
    [-1, 1, 1, 1, -1, 1, 1, -1]
    """
    check_int("the number of signs", count, least=0)
    check_int("seed", seed, least=0, most=2**64 - 1)
    check_int("stream", stream, least=0, most=2**64 - 1)
    state = 0
    for word in (seed, stream):
        state = int(_mix(np.array([state ^ word], np.uint64) + np.uint64(_GOLDEN))[0])
    places = np.arange(1, -(-count // 64) + 1, dtype=np.uint64)
    words = _mix(np.uint64(state) + places * np.uint64(_GOLDEN))
    bits = np.unpackbits(words.astype("<u8").view(np.uint8), bitorder="little", count=count)
    return np.float32(1) - np.float32(2) * bits


def _mix(words: np.ndarray) -> np.ndarray:
    """SplitMix64's finalizer: every input bit moves every output bit. Sums and products are modulo 2^64."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _check_last(x: Any, dimension: int) -> None:
    if not len(x.shape) or x.shape[-1] != dimension:
        raise HypersignError(f"this rotation takes vectors of shape (..., {dimension}); got shape {tuple(x.shape)}")
