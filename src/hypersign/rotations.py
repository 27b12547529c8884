"""Random rotations: the Haar rotation and the randomized Hadamard rotation.

A Haar rotation is uniform over all rotations and takes d^2 multiplications per vector. A randomized Hadamard rotation
is k rounds of signs and Hadamard transforms; it only adds, k n log2 n times per vector.

A rotation spreads any vector evenly over all components. Its sign then lies at the angle of section 2 of Anderson &
Berg: R' sign(R x) is the generalized binarization of x.

If the number of outputs differs from the dimension, the vector is padded with zeros and rotated, and the first
components are kept. So R, of shape (outputs, dimension), is a corner of a rotation. Its columns are orthonormal if no
output is dropped; its rows are orthonormal if no zeros are added.

Both rotations depend only on their seed. The signs come from a counter-based generator and are the same on every
machine. The Haar matrix is the same up to the rounding of a QR decomposition.
"""

import math
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from hypersign._checks import HypersignError, check_int
from hypersign.bits import hadamard_transform
from hypersign.bits.hadamard import can_rotate, next_power_of_two, rotate

__all__ = ["HaarRotation", "HadamardRotation", "random_signs"]

Array = TypeVar("Array", bound=Any)

_GOLDEN = 0x9E3779B97F4A7C15

KEPT_SIGNS = 1 << 16
"""Most signs that a Hadamard rotation keeps between calls."""


class HaarRotation:
    """A rotation drawn uniformly (Haar's measure) from all orthogonal matrices, reflections included.

        y = R x,   R the Q of a QR decomposition of a Gaussian matrix

    The signs of Q's columns are chosen such that the triangular factor has a positive diagonal. If the number of
    outputs differs from the dimension d, the Gaussian matrix has max(d, outputs) rows and min(d, outputs) columns,
    and Q is transposed if there are fewer outputs than d. Call the rotation with NumPy arrays or torch tensors of
    shape (..., dimension); it rotates their last dimension. Gradients pass through it.

    Args:
        dimension: the length d of a vector; R has d * outputs numbers and takes of the order of d^3 operations to
            build.
        seed: seed of the rotation.
        outputs: number of components of a rotated vector; d if None.

    Raises:
        HypersignError: a dimension is below 1, the seed is below 0, or, in a call, the last dimension does not fit.

    Source: Mezzadri 2007, "How to generate random matrices from the classical compact groups".

    >>> rotation = HaarRotation(3, seed=0)
    >>> round(float(np.linalg.norm(rotation(np.array([1.0, 2.0, 2.0])))), 6)
    3.0
    >>> HaarRotation(3, seed=0, outputs=5).matrix.shape
    (5, 3)
    """

    def __init__(self, dimension: int, seed: int, *, outputs: int | None = None) -> None:
        self.dimension = check_int("a rotation's dimension", dimension, min=1)
        self.outputs = dimension if outputs is None else check_int("a rotation's outputs", outputs, min=1)
        self.seed = check_int("a rotation's seed", seed, min=0)
        shape = max(self.dimension, self.outputs), min(self.dimension, self.outputs)
        q, r = np.linalg.qr(np.random.Generator(np.random.Philox(seed)).standard_normal(shape))
        q = q * np.where(np.diagonal(r) < 0, -1.0, 1.0)
        self.matrix = np.ascontiguousarray(q if q.shape == (self.outputs, self.dimension) else q.T)
        """R, float64, shape (outputs, dimension)."""
        self._held: dict[Any, Any] = {}

    def __call__(self, x: Array) -> Array:
        """Returns R x for every vector x in the last dimension."""
        _check_last(x, self.dimension)
        return x @ self._like(x).T

    def inverse(self, x: Array) -> Array:
        """Returns R' x for every vector x in the last dimension. It undoes a rotation that drops no output."""
        _check_last(x, self.outputs)
        return x @ self._like(x)

    def __repr__(self) -> str:
        return f"HaarRotation({self.dimension}, seed={self.seed}{_outputs(self.outputs, self.dimension)})"

    def _like(self, x: Any) -> Any:
        """The matrix with the type and device of `x`. It is kept for the next call, because it may be large."""
        if isinstance(x, np.ndarray):
            return self.matrix.astype(x.dtype if x.dtype.kind == "f" else np.float64, copy=False)
        import torch

        key = (x.device, x.dtype)
        if key not in self._held:
            self._held[key] = torch.as_tensor(self.matrix, dtype=x.dtype, device=x.device)
        return self._held[key]


class HadamardRotation:
    """Rounds of random signs and an orthonormal Walsh-Hadamard transform.

        y = H D_k ... H D_2 H D_1 x,   D_i diagonal with random signs, H the Hadamard matrix over sqrt(n)

    n is the smallest power of two that is not below the dimension or the number of outputs. x is padded with zeros to
    length n, and the first `outputs` components of y are kept. After one round, a vector with few non-zero components
    is far from Gaussian (a vector along an axis becomes binary). After three rounds, angles have the mean and
    standard deviation of a Haar rotation. Call the rotation with NumPy arrays or torch tensors of shape
    (..., dimension); it rotates their last dimension. Gradients pass through it.

    A tight rotation has n = max(dimension, outputs), which may be no power of two. A round is then: signs; H on the
    first p components, where p is the largest power of two below n; signs again; H on the last p components; sums and
    differences of the first and the last half, over sqrt(2). So a vector keeps its length in n components.

    Args:
        dimension: the length d of a vector.
        rounds: the number of rounds, k.
        seed: seed of the signs.
        outputs: number of components of a rotated vector; n if None, which equals d if d is a power of two.
        tight: whether n is max(dimension, outputs) instead of a power of two.

    Raises:
        HypersignError: a dimension or `rounds` is below 1, the seed is below 0, or, in a call, the last dimension
            does not fit or the numbers are not of a floating type.

    Source: Ailon & Chazelle 2009, "The fast Johnson-Lindenstrauss transform"; three rounds as in Andoni et al.
    2015, "Practical and optimal LSH for angular distance" (arXiv 1509.02897).

    >>> rotation = HadamardRotation(4, rounds=1, seed=0)
    >>> rotation(np.array([2.0, 0.0, 0.0, 0.0])).tolist()
    [-1.0, -1.0, -1.0, -1.0]
    >>> HadamardRotation(27).outputs, HadamardRotation(27, tight=True).outputs
    (32, 27)
    """

    def __init__(
        self, dimension: int, rounds: int = 3, seed: int = 0, *, outputs: int | None = None, tight: bool = False
    ) -> None:
        self.dimension = check_int("a rotation's dimension", dimension, min=1)
        wanted = 1 if outputs is None else check_int("a rotation's outputs", outputs, min=1)
        longest = max(self.dimension, wanted)
        self.size = longest if tight else next_power_of_two(longest)
        """n, the dimension of the full rotation."""
        self.window = self.size if self.size == next_power_of_two(longest) else next_power_of_two(longest) // 2
        """p, the length of the transforms: n, or the largest power of two below it."""
        self.outputs = self.size if outputs is None else wanted
        self.rounds = check_int("a Hadamard rotation's rounds", rounds, min=1)
        self.seed = check_int("a rotation's seed", seed, min=0, max=2**64 - 1)
        self._kept: np.ndarray | None = None

    def signs(self, number: int) -> np.ndarray:
        """The signs of round `number` (from 0): float32, shape (size,). Every call computes them again."""
        return random_signs(self.size, self.seed, number)

    def _all_signs(self) -> np.ndarray:
        """The signs of all rounds, also of second transforms in a tight rotation. Few are kept for the next call."""
        if self._kept is not None:
            return self._kept
        rounds = self.rounds if self.window == self.size else 2 * self.rounds
        signs = np.stack([self.signs(number) for number in range(rounds)])
        if signs.size <= KEPT_SIGNS:
            self._kept = signs
        return signs

    def __call__(self, x: Array) -> Array:
        """Returns R x for every vector x in the last dimension."""
        _check_last(x, self.dimension)
        if isinstance(x, np.ndarray) and can_rotate(x.dtype):
            rotated: Any = rotate(x, self._all_signs(), self.window, self.outputs)
            return rotated
        y: Any = _padded(x, self.size)
        for number in range(self.rounds):
            y = self._round(y, number)
        return y[..., : self.outputs]

    def inverse(self, x: Array) -> Array:
        """Returns R' x for every vector x in the last dimension. It undoes a rotation that drops no output."""
        _check_last(x, self.outputs)
        y: Any = _padded(x, self.size)
        for number in reversed(range(self.rounds)):
            y = self._inverse_round(y, number)
        return y[..., : self.dimension]

    def sums(self, x: Array) -> Array:
        """Returns n^(k/2) R x, which has the signs of R x, by sign flips and additions alone.

        Integers give exact sums: int32 if the largest number of their type cannot overflow it, else int64. Floating
        types and arrays of Python numbers keep their type.

        Raises:
            HypersignError: the sums of integers could exceed int64 (`fits` tells for which vectors); or a tight
                rotation is no power of two long, so that its components are sums with different factors.

        >>> HadamardRotation(4, rounds=2).sums(np.array([200, 7, 0, 1], np.uint8)).tolist()
        [-800, 28, 0, 4]
        """
        _check_last(x, self.dimension)
        if self.window != self.size:
            raise HypersignError(
                f"sums need a rotation whose size is a power of two; this one's is {self.size}: leave tight out"
            )
        y: Any = _padded(self._widened(x), self.size)
        for number in range(self.rounds):
            signs = self._signs_like(y, number)
            if isinstance(y, np.ndarray) and y.dtype.kind == "i":
                signs >>= 1  # -1 (all bits set) or 0; -y is ~y + 1, three times as fast as np.where
                y = (y ^ signs) - signs
            else:
                y = np.where(signs < 0, -y, y) if isinstance(y, np.ndarray) else y.where(signs > 0, -y)
            y = _transform(y, orthonormal=False)
        return y[..., : self.outputs]

    def __repr__(self) -> str:
        return (
            f"HadamardRotation({self.dimension}, rounds={self.rounds}, seed={self.seed}"
            f"{_outputs(self.outputs, self.size)}{'' if self.window == self.size else ', tight=True'})"
        )

    def _round(self, y: Any, number: int) -> Any:
        y = y * self._signs_like(y, number)
        if self.window == self.size:
            return _transform(y)
        y[..., : self.window] = _transform(y[..., : self.window])
        y = y * self._signs_like(y, self.rounds + number)
        y[..., -self.window :] = _transform(y[..., -self.window :])
        return self._halves(y)

    def _inverse_round(self, y: Any, number: int) -> Any:
        if self.window == self.size:
            return _transform(y) * self._signs_like(y, number)
        y = self._halves(y)
        y[..., -self.window :] = _transform(y[..., -self.window :])
        y = y * self._signs_like(y, self.rounds + number)
        y[..., : self.window] = _transform(y[..., : self.window])
        return y * self._signs_like(y, number)

    def _halves(self, y: Any) -> Any:
        """Sums and differences of the first and the last half, over sqrt(2); the middle of an odd size stays."""
        half = self.size // 2
        first, last = y[..., :half], y[..., self.size - half :]
        y = y * 1  # a copy, of arrays and tensors alike
        y[..., :half], y[..., self.size - half :] = (first + last) * 0.5**0.5, (first - last) * 0.5**0.5
        return y

    def _signs_like(self, x: Any, number: int) -> Any:
        if isinstance(x, np.ndarray):
            return self.signs(number).astype(x.dtype if x.dtype.kind != "O" else np.int8, copy=False)
        import torch

        return torch.from_numpy(self.signs(number)).to(device=x.device, dtype=x.dtype)

    def fits(self, x: np.ndarray) -> NDArray[np.bool_]:
        """Whether the sums of each vector fit in int64, for integers (..., dimension).

        The test is n^(k/2) sqrt(d) max|x| < 2^63, a bound on the sums.

        >>> HadamardRotation(4, rounds=2).fits(np.array([[1, 2, 3, 4], [2**62, 0, 0, 0]])).tolist()
        [True, False]
        """
        _check_last(x, self.dimension)
        limits = np.iinfo(x.dtype)
        if self._below(max(-int(limits.min), int(limits.max)), 2**63):
            return np.ones(x.shape[:-1], np.bool_)
        most = math.isqrt((2**126 - 1) // self._gain())  # the largest |x| whose bound stays below 2^63
        inside = (x <= min(most, int(limits.max))) & (x >= max(-most, int(limits.min)))
        return np.asarray(inside.all(-1))

    def _widened(self, x: Any) -> Any:
        """Returns `x`; integers get a type that holds their rotated sums."""
        numpy = isinstance(x, np.ndarray)
        if numpy:
            if x.dtype.kind not in "iu":
                return x
            limits: Any = np.iinfo(x.dtype)
        else:
            import torch

            if x.is_floating_point():
                return x
            limits = torch.iinfo(x.dtype)
        narrow = self._below(max(-int(limits.min), int(limits.max)), 2**31)
        if not narrow:
            fits = self.fits(x if numpy else x.detach().cpu().numpy())
            if not fits.all():
                raise HypersignError(
                    f"the sums of {int((~fits).sum())} of these vectors could leave int64: {self.rounds} rounds of "
                    f"transforms of length {self.size} are too many for integers so large; convert them to float64"
                )
        if numpy:
            return x.astype(np.int32 if narrow else np.int64)
        return x.to(torch.int32 if narrow else torch.int64)

    def _below(self, largest: int, limit: int) -> bool:
        """Whether no sum of integers up to `largest` can reach `limit`, which is at most 2^63."""
        return largest**2 * self._gain() < limit**2

    def _gain(self) -> int:
        """Returns (n^(k/2) sqrt(d))^2, the square of the largest ratio of a sum to the largest number of a vector."""
        return self.dimension * self.size ** min(
            self.rounds, 126
        )  # of two numbers or more, 126 rounds overflow int64


def random_signs(count: int, seed: int, stream: int = 0) -> np.ndarray:
    """Independent random signs, -1 or +1, the same on every machine.

    A sign is a function of the seed, the stream and its index alone. Signs 64 i to 64 i + 63 are the bits of the i-th
    output of SplitMix64, least significant bit first; a bit of 1 is -1. The initial state of SplitMix64 is a hash of
    seed and stream.

    Returns float32, shape (count,). Raises HypersignError if a number is negative.
    Source: Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators".

    >>> random_signs(8, seed=0).astype(int).tolist()
    [-1, 1, 1, 1, -1, 1, 1, -1]
    """
    check_int("the number of signs", count, min=0)
    check_int("seed", seed, min=0, max=2**64 - 1)
    check_int("stream", stream, min=0, max=2**64 - 1)
    state = 0
    for word in (seed, stream):
        state = int(_mix(np.array([state ^ word], np.uint64) + np.uint64(_GOLDEN))[0])
    places = np.arange(1, -(-count // 64) + 1, dtype=np.uint64)
    words = _mix(np.uint64(state) + places * np.uint64(_GOLDEN))
    bits = np.unpackbits(words.astype("<u8").view(np.uint8), bitorder="little", count=count)
    return np.float32(1) - np.float32(2) * bits


def _mix(words: np.ndarray) -> np.ndarray:
    """SplitMix64's finalizer: every input bit affects every output bit. Sums and products are modulo 2^64."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _transform(x: Any, *, orthonormal: bool = True) -> Any:
    """The Hadamard transform of an array or a tensor. Tensors use torch's number of threads."""
    if isinstance(x, np.ndarray):
        return hadamard_transform(x, orthonormal=orthonormal)
    from hypersign import ops

    return ops.hadamard_transform(x, orthonormal=orthonormal)


def _padded(x: Any, size: int) -> Any:
    """Pads the last dimension of `x` with zeros to length `size`."""
    missing = size - x.shape[-1]
    if not missing:
        return x
    if isinstance(x, np.ndarray):
        return np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)])
    import torch

    return torch.nn.functional.pad(x, (0, missing))


def _outputs(outputs: int, usual: int) -> str:
    return "" if outputs == usual else f", outputs={outputs}"


def _check_last(x: Any, dimension: int) -> None:
    if not len(x.shape) or x.shape[-1] != dimension:
        raise HypersignError(f"this rotation takes vectors of shape (..., {dimension}); got shape {tuple(x.shape)}")
