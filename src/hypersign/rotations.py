"""Random rotations: Haar's, uniform over all of them, and the randomized Hadamard rotation, which only adds.

A rotation spreads a vector evenly over all components, whatever it was before, so that its sign lies at the angle
of section 2 of Anderson & Berg: R' sign(R x) is the generalized binarization of x. A Haar rotation takes d^2
multiplications per vector, k rounds of signs and Hadamard transforms k n log2 n additions.

To more or fewer dimensions: the vector is padded with zeros, rotated, and the first components are kept. So R, of
shape (outputs, dimension), is a corner of a rotation: its columns are orthonormal where no output is dropped, its
rows where no zeros were added.

Both are functions of their seed alone. Signs come from a counter-based generator and are the same bits on every
machine; Haar's matrix is the same up to the rounding of a QR decomposition.
"""

import math
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from hypersign._checks import HypersignError, check_int
from hypersign.bits import hadamard_transform
from hypersign.bits.hadamard import next_power_of_two

__all__ = ["HaarRotation", "HadamardRotation", "random_signs"]

Array = TypeVar("Array", bound=Any)

_GOLDEN = 0x9E3779B97F4A7C15


class HaarRotation:
    """A rotation drawn uniformly (Haar's measure) from all orthogonal matrices, reflections included.

        y = R x,   R the Q of a QR decomposition of a Gaussian matrix, its columns' signs such that R's are > 0

    With more or fewer outputs than the dimension d, Q is that of a Gaussian matrix of max(d, outputs) rows and
    min(d, outputs) columns, transposed where the outputs are fewer. Called with NumPy arrays or torch tensors of
    shape (..., dimension) it rotates their last dimension. Gradients pass.

    Args:
        dimension: d; the matrix holds d outputs numbers and takes of the order of d^3 operations to make.
        seed: seed of the rotation.
        outputs: components of a rotated vector; d if None.

    Raises:
        HypersignError: a dimension is below 1 or the seed below 0; in calls, the last dimension is another.

    Source: Mezzadri 2007, "How to generate random matrices from the classical compact groups".

    >>> rotation = HaarRotation(3, seed=0)
    >>> round(float(np.linalg.norm(rotation(np.array([1.0, 2.0, 2.0])))), 6)
    3.0
    >>> HaarRotation(3, seed=0, outputs=5).matrix.shape
    (5, 3)
    """

    def __init__(self, dimension: int, seed: int, *, outputs: int | None = None) -> None:
        self.dimension = check_int("a rotation's dimension", dimension, least=1)
        self.outputs = dimension if outputs is None else check_int("a rotation's outputs", outputs, least=1)
        self.seed = check_int("a rotation's seed", seed, least=0)
        shape = max(self.dimension, self.outputs), min(self.dimension, self.outputs)
        q, r = np.linalg.qr(np.random.Generator(np.random.Philox(seed)).standard_normal(shape))
        q = q * np.where(np.diagonal(r) < 0, -1.0, 1.0)
        self.matrix = np.ascontiguousarray(q if q.shape == (self.outputs, self.dimension) else q.T)
        """R, float64, shape (outputs, dimension)."""
        self._held: dict[Any, Any] = {}

    def __call__(self, x: Array) -> Array:
        """R x for every vector x in the last dimension."""
        _check_last(x, self.dimension)
        return x @ self._like(x).T

    def inverse(self, x: Array) -> Array:
        """R' x for every vector x of the last dimension: undoes the rotation where no output was dropped."""
        _check_last(x, self.outputs)
        return x @ self._like(x)

    def __repr__(self) -> str:
        return f"HaarRotation({self.dimension}, seed={self.seed}{_outputs(self.outputs, self.dimension)})"

    def _like(self, x: Any) -> Any:
        """The matrix, of the type of `x` and on its device; held, since it may be large."""
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

    n is the smallest power of two that holds both the dimension and the outputs: x is padded with zeros to n, and
    the first `outputs` components of y are kept. One round leaves vectors with few non-zero components far from
    Gaussian (a vector along an axis stays binary); after three, angles have the mean and spread of a Haar rotation.
    Called with NumPy arrays or torch tensors of shape (..., dimension) it rotates their last dimension. Gradients
    pass.

    Args:
        dimension: d.
        rounds: k.
        seed: seed of the signs.
        outputs: components of a rotated vector; all n if None, which is d itself where that is a power of two.

    Raises:
        HypersignError: a dimension or the rounds are below 1, or the seed is below 0; in calls, the last dimension
            is another, or not of a floating type.

    Source: Ailon & Chazelle 2009, "The fast Johnson-Lindenstrauss transform"; three rounds as in Andoni et al.
    2015, "Practical and optimal LSH for angular distance" (arXiv 1509.02897).

    >>> rotation = HadamardRotation(4, rounds=1, seed=0)
    >>> rotation(np.array([2.0, 0.0, 0.0, 0.0])).tolist()
    [-1.0, -1.0, -1.0, -1.0]
    >>> HadamardRotation(27).outputs
    32
    """

    def __init__(self, dimension: int, rounds: int = 3, seed: int = 0, *, outputs: int | None = None) -> None:
        self.dimension = check_int("a rotation's dimension", dimension, least=1)
        wanted = 1 if outputs is None else check_int("a rotation's outputs", outputs, least=1)
        self.size = next_power_of_two(max(self.dimension, wanted))
        """n, the length of the transforms."""
        self.outputs = self.size if outputs is None else wanted
        self.rounds = check_int("a Hadamard rotation's rounds", rounds, least=1)
        self.seed = check_int("a rotation's seed", seed, least=0, most=2**64 - 1)

    def signs(self, number: int) -> np.ndarray:
        """The signs of round `number`, from 0: float32, shape (size,), made anew at every call."""
        return random_signs(self.size, self.seed, number)

    def __call__(self, x: Array) -> Array:
        """R x for every vector x in the last dimension."""
        _check_last(x, self.dimension)
        y: Any = _padded(x, self.size)
        for number in range(self.rounds):
            y = _transform(y * self._signs_like(y, number))
        return y[..., : self.outputs]

    def inverse(self, x: Array) -> Array:
        """R' x for every vector x in the last dimension: undoes the rotation where no output was dropped."""
        _check_last(x, self.outputs)
        y: Any = _padded(x, self.size)
        for number in reversed(range(self.rounds)):
            y = _transform(y) * self._signs_like(y, number)
        return y[..., : self.dimension]

    def sums(self, x: Array) -> Array:
        """n^(k/2) R x, which has the signs of R x, by sign flips and additions alone.

        Integers give exact sums: int32 if the largest number of their type cannot overflow it, else int64. Floating
        types and arrays of Python's numbers stay as they are.

        Raises:
            HypersignError: integers whose sums could leave int64 (`fits` says which vectors those are).

        >>> HadamardRotation(4, rounds=2).sums(np.array([200, 7, 0, 1], np.uint8)).tolist()
        [-800, 28, 0, 4]
        """
        _check_last(x, self.dimension)
        y: Any = _padded(self._widened(x), self.size)
        for number in range(self.rounds):
            signs = self._signs_like(y, number)
            if isinstance(y, np.ndarray) and y.dtype.kind == "i":
                signs >>= 1  # -1, which is all bits, or 0: -y is ~y + 1, thrice as fast as np.where
                y = (y ^ signs) - signs
            else:
                y = np.where(signs < 0, -y, y) if isinstance(y, np.ndarray) else y.where(signs > 0, -y)
            y = _transform(y, orthonormal=False)
        return y[..., : self.outputs]

    def __repr__(self) -> str:
        return (
            f"HadamardRotation({self.dimension}, rounds={self.rounds}, seed={self.seed}"
            f"{_outputs(self.outputs, self.size)})"
        )

    def _signs_like(self, x: Any, number: int) -> Any:
        if isinstance(x, np.ndarray):
            return self.signs(number).astype(x.dtype if x.dtype.kind != "O" else np.int8, copy=False)
        import torch

        return torch.from_numpy(self.signs(number)).to(device=x.device, dtype=x.dtype)

    def fits(self, x: np.ndarray) -> NDArray[np.bool_]:
        """Whether n^(k/2) sqrt(d) max|x|, which bounds a vector's sums, fits int64, for integers (..., dimension).

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
        """`x`, with integers in a type that holds their rotated sums."""
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
        """(n^(k/2) sqrt(d))^2, the square of the most that a sum can be larger than the largest number."""
        return self.dimension * self.size ** min(
            self.rounds, 126
        )  # of two numbers or more, 126 rounds overflow int64


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


def _transform(x: Any, *, orthonormal: bool = True) -> Any:
    """The Hadamard transform of an array, or of a tensor on torch's own number of threads."""
    if isinstance(x, np.ndarray):
        return hadamard_transform(x, orthonormal=orthonormal)
    from hypersign import ops

    return ops.hadamard_transform(x, orthonormal=orthonormal)


def _padded(x: Any, size: int) -> Any:
    """`x` with zeros behind its last dimension, which becomes `size`."""
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
