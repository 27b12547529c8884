"""Standard normals, row by row, and sums over rows that nobody has to hold: what simulations are drawn from.

A row is a function of a key and of its number, whoever draws it: results depend on no block size and no number of
threads. Radius and direction (Box & Muller 1958) come from two words of xoshiro128++ (Blackman & Vigna 2021), eight
generators a row side by side, started by splitmix64 (Steele, Lea & Flood 2014). Compiled kernels draw a row and sum
over it while it is in the nearest cache; the NumPy reference here gives the same numbers, to the bit.
"""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypersign.bits.backend import native

__all__ = ["RowSums", "normals", "row_sums"]

_LANES = 8
_NO_WORDS = np.empty(0, np.float32)


@dataclasses.dataclass(frozen=True)
class RowSums:
    """Sums over rows x of d numbers: |x|, x^2, and x times the row before (0 unless asked for), shape (rows,).

    For each threshold, shape (rows, thresholds): `above`, the sum of |x| where it is larger, and the `number` of
    components where it is.
    """

    absolute: NDArray[np.float64]
    square: NDArray[np.float64]
    product: NDArray[np.float64]
    above: NDArray[np.float64]
    number: NDArray[np.float64]


def normals(key: int, first: int, rows: int, d: int, *, threads: int = 1) -> NDArray[np.float32]:
    """Rows `first`, `first` + 1, ... of d independent standard normals, shape (rows, d).

    Largest magnitude 6.66; relative error of the functions used 1e-6. `key` is below 2^64.

    >>> bool((normals(7, 2, 1, 100) == normals(7, 0, 3, 100)[2]).all())
    True
    """
    kernels = native()
    if kernels is None:
        return _reference(key, first, rows, d)
    x = np.empty((rows, d), np.float32)
    kernels.gaussian_rows(x, key, first % 2**64, threads)
    return x


def row_sums(
    key: int,
    first: int,
    rows: int,
    d: int,
    *,
    scale: NDArray[np.float32] | None = None,
    thresholds: NDArray[np.float32] = _NO_WORDS,
    products: bool = False,
    threads: int = 1,
) -> RowSums:
    """Sums over the rows that `normals` draws, each component times its entry of `scale` (shape (d,)) before.

    `products` asks for the dot product of each row with the one before, of number `first` - 1 for the first.

    >>> found = row_sums(7, 0, 3, 100, thresholds=np.float32([0.5]))
    >>> bool(np.allclose(found.square, np.square(normals(7, 0, 3, 100)).sum(1)))
    True
    """
    kernels = native()
    sums: NDArray[np.float64] = np.zeros((3, rows))
    above: NDArray[np.float64] = np.zeros((2, rows, len(thresholds)))
    if kernels is not None:
        factors = _NO_WORDS if scale is None else np.ascontiguousarray(scale, np.float32)
        limits = np.ascontiguousarray(thresholds, np.float32)
        flat = above.reshape(2 * rows, len(limits))
        kernels.gaussian_sums(sums, flat, factors, limits, d, key, first % 2**64, products, threads)
        return RowSums(*sums, *above)
    x = _reference(key, first - 1, rows + 1, d)
    if scale is not None:
        x *= scale
    exact = x.astype(np.float64)
    size = np.abs(exact[1:])
    if products:
        sums[2] = (exact[1:] * exact[:-1]).sum(1)
    for i, threshold in enumerate(thresholds):
        over = size > threshold
        above[:, :, i] = np.where(over, size, 0).sum(1), over.sum(1)
    return RowSums(size.sum(1), np.square(size).sum(1), sums[2], *above)


def _reference(key: int, first: int, rows: int, d: int) -> NDArray[np.float32]:
    """What csrc/gaussian does, in the same order of operations."""
    steps = -(-d // (2 * _LANES))
    state = _start(key, first, rows)
    x: NDArray[np.float32] = np.empty((rows, steps, 2, _LANES), np.float32)
    for step in range(steps):
        radius = np.sqrt(_minus_two_log(_next(state)))
        cosine, sine = _direction(_next(state))
        x[:, step, 0], x[:, step, 1] = cosine * radius, sine * radius
    return np.ascontiguousarray(x.reshape(rows, -1)[:, :d])


def _start(key: int, first: int, rows: int) -> list[NDArray[np.uint32]]:
    """The four words of each lane's generator, each of shape (rows, lanes)."""
    numbers = np.arange(rows, dtype=np.uint64) + np.uint64(first % 2**64)
    place = (numbers[:, None] * np.uint64(_LANES) + np.arange(_LANES, dtype=np.uint64)) * np.uint64(2)
    words: list[Any] = []
    for i in (1, 2):
        z: Any = np.uint64(key) + (place + np.uint64(i)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
        words += [z.astype(np.uint32), (z >> np.uint64(32)).astype(np.uint32)]
    return words


def _next(s: list[NDArray[np.uint32]]) -> NDArray[np.uint32]:
    """The next word of each generator, whose state moves on: xoshiro128++."""

    def turned(x: NDArray[np.uint32], left: int) -> NDArray[np.uint32]:
        return (x << np.uint32(left)) | (x >> np.uint32(32 - left))

    word = turned(s[0] + s[3], 7) + s[0]
    shifted = s[1] << np.uint32(9)
    s[2] = s[2] ^ s[0]
    s[3] = s[3] ^ s[1]
    s[1] = s[1] ^ s[2]
    s[0] = s[0] ^ s[3]
    s[2] = s[2] ^ shifted
    s[3] = turned(s[3], 11)
    return word


_LOG = np.array(
    [
        0.11896102130413055,
        -0.18667852878570557,
        0.2049632966518402,
        -0.24909743666648865,
        0.3331450819969177,
        -0.500011146068573,
        1.0000009536743164,
    ],
    np.float32,
)
"""ln(1 + f)/f for f in [sqrt(1/2) - 1, sqrt(2) - 1), the highest power first; relative error 1.1e-6, minimax."""
_SINE = np.array([-3.59504520019982e-05, 0.00249000103212893, -0.08074543625116348, 0.7853981852531433], np.float32)
"""sin(pi s/4)/s for s in [-1, 1), of s^2; relative error 3e-9."""
_COSINE = np.array(
    [-0.00031872783438302577, 0.015849683433771133, -0.308424174785614, 0.9999999403953552], np.float32
)
"""cos(pi s/4), likewise; 3e-8."""
_UNIT = np.float32(2.0**-31)


def _polynomial(coefficients: NDArray[np.float32], x: NDArray[np.float32]) -> NDArray[np.float32]:
    y = np.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        y = y * x + coefficient
    return y


def _minus_two_log(word: NDArray[np.uint32]) -> NDArray[np.float32]:
    """-2 ln U, U = (the word's lower 31 bits + 1/2)/2^31."""
    uniform = ((word & np.uint32(0x7FFFFFFF)).astype(np.int32).astype(np.float32) + np.float32(0.5)) * _UNIT
    bits = uniform.view(np.int32)
    e = (bits - np.int32(0x3F3504F3)) >> np.int32(23)
    f = (bits - (e << np.int32(23))).view(np.float32) - np.float32(1)
    return (_polynomial(_LOG, f) * f + e.astype(np.float32) * np.float32(0.6931471824645996)) * np.float32(-2)


def _direction(word: NDArray[np.uint32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A point on the circle within 45 degrees of an axis, which the word's lowest two bits choose with its sign."""
    s = (word & ~np.uint32(3)).view(np.int32).astype(np.float32) * _UNIT
    square = s * s
    sine = _polynomial(_SINE, square) * s
    cosine = (_polynomial(_COSINE, square).view(np.uint32) ^ (word << np.uint32(31))).view(np.float32)
    turned = (word & np.uint32(2)).astype(bool)
    return np.where(turned, sine, cosine), np.where(turned, cosine, sine)
