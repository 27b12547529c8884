"""Rows of standard normals for the simulations, and sums over rows that are never stored.

A row is a function of a key and of the row number alone, so results do not depend on block size or number of threads.
Two words of SFC32 (Doty-Humphrey 2010) give a radius and a direction (Box & Muller 1958). Each row has eight
generators side by side, seeded by splitmix64 (Steele, Lea & Flood 2014). The compiled kernels sum a row while they
draw it. The NumPy reference in this file gives the same numbers, to the bit.
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
    """Sums over each row x of d numbers.

    Shape (rows,): `absolute`, the sum of |x|; `square`, of x^2; `product`, the dot product with the previous row;
    `product_two_before`, with the row before that one. Sums that were not requested are 0.

    Shape (rows, thresholds): `above`, the sum of the |x| above each threshold; `number`, the number of these |x|.
    """

    absolute: NDArray[np.float64]
    square: NDArray[np.float64]
    product: NDArray[np.float64]
    product_two_before: NDArray[np.float64]
    above: NDArray[np.float64]
    number: NDArray[np.float64]


def normals(key: int, first: int, rows: int, d: int, *, threads: int = 1) -> NDArray[np.float32]:
    """Rows `first`, `first` + 1, ... of d independent standard normals, shape (rows, d).

    The largest magnitude is 6.56. The logarithm of the uniform number has an error of 7e-7, the sine a relative error
    of 2e-6. Their mean and mean square have no error. `key` must be below 2^64.

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
    """Sums over the rows that `normals` draws, after multiplying each component by its entry of `scale`, shape (d,).

    With `products`, the result has the dot products of each row with the two rows before it, and not the sum of |x|.
    For the first row, these are rows `first` - 1 and `first` - 2.

    >>> found = row_sums(7, 0, 3, 100, thresholds=np.float32([0.5]))
    >>> bool(np.allclose(found.square, np.square(normals(7, 0, 3, 100)).sum(1)))
    True
    """
    kernels = native()
    sums: NDArray[np.float64] = np.zeros((4, rows))
    above: NDArray[np.float64] = np.zeros((2, rows, len(thresholds)))
    if kernels is not None:
        factors = _NO_WORDS if scale is None else np.ascontiguousarray(scale, np.float32)
        limits = np.ascontiguousarray(thresholds, np.float32)
        flat = above.reshape(2 * rows, len(limits))
        kernels.gaussian_sums(sums, flat, factors, limits, d, key, first % 2**64, products, threads)
        return RowSums(*sums, *above)
    x = _reference(key, first - 2, rows + 2, d)
    if scale is not None:
        x *= scale
    exact = x.astype(np.float64)
    size = np.abs(exact[2:])
    sums[1] = np.square(size).sum(1)
    if products:
        sums[2:] = (exact[2:] * exact[1:-1]).sum(1), (exact[2:] * exact[:-2]).sum(1)
    else:
        sums[0] = size.sum(1)
    for i, threshold in enumerate(thresholds):
        over = size > threshold
        above[:, :, i] = np.where(over, size, 0).sum(1), over.sum(1)
    return RowSums(*sums, *above)


def _reference(key: int, first: int, rows: int, d: int) -> NDArray[np.float32]:
    """Computes the same as csrc/gaussian, in the same order of operations."""
    steps = -(-d // (2 * _LANES))
    state = _start(key, first, rows)
    x: NDArray[np.float32] = np.empty((rows, steps, 2, _LANES), np.float32)
    for step in range(steps):
        u, v = _next(state), _next(state)
        uniform = _uniform(u)
        radius = _signed(np.sqrt(_energy(uniform)), v << np.uint32(27))
        s = v.view(np.int32).astype(np.float32) * _UNIT
        minor, main = _polynomial(_SINE, s * s) * s, _polynomial(_COSINE, s * s)
        turned = np.signbit(uniform)
        x[:, step, 0], x[:, step, 1] = np.where(turned, minor, main) * radius, np.where(turned, main, minor) * radius
    return np.ascontiguousarray(x.reshape(rows, -1)[:, :d])


def _start(key: int, first: int, rows: int) -> list[NDArray[np.uint32]]:
    """Returns the initial state of all generators: four arrays of words, each of shape (rows, lanes)."""
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


def _next(state: list[NDArray[np.uint32]]) -> NDArray[np.uint32]:
    """Returns the next word of each SFC32 generator and advances its state."""
    a, b, c, counter = state
    word = a + b + counter
    turned = (c << np.uint32(21)) | (c >> np.uint32(11))
    state[:] = b ^ (b >> np.uint32(9)), c + (c << np.uint32(3)), turned + word, counter + np.uint32(1)
    return word


_LOG = np.array(
    [
        -0.014717801474034786,
        0.02559169940650463,
        -0.03747083991765976,
        0.07043471187353134,
        -0.14252839982509613,
        0.32064467668533325,
        -0.9617958068847656,
        -0.5849629044532776,
    ],
    np.float32,
)
"""Coefficients of -log2(x + 1.5) for x in [-1/2, 1/2), highest power first: minimax, exact mean, error 4e-7."""
_SINE = np.array([0.0028671985492110252, -0.09504547715187073, 0.9247342348098755], np.float32)
"""Coefficients of sqrt(2 ln 2) sin(pi s/4)/s in powers of s^2, for s in [-1, 1): minimax, exact mean square, relative
error 1.6e-6."""
_COSINE = np.array([-0.00037546464591287076, 0.0186618659645319, -0.363141804933548, 1.1774100065231323], np.float32)
"""Coefficients of sqrt(2 ln 2) cos(pi s/4), in the same form; relative error 3e-8."""
_UNIT = np.float32(2.0**-31)
_SIGN = np.uint32(0x80000000)


def _polynomial(coefficients: NDArray[np.float32], x: NDArray[np.float32]) -> NDArray[np.float32]:
    y = np.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        y = y * x + coefficient
    return y


def _uniform(word: NDArray[np.uint32]) -> NDArray[np.float32]:
    """Returns the word as an odd signed integer: a random sign, and a uniform U times 2^31."""
    return (word | np.uint32(1)).view(np.int32).astype(np.float32)


def _energy(uniform: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns -log2 U, half the squared radius in units of ln 2. The error is 7e-7; the result is never negative."""
    bits = uniform.view(np.uint32) & ~_SIGN
    e = np.float32(158) - (bits >> np.uint32(23)).view(np.int32).astype(np.float32)
    x = ((bits & np.uint32(0x007FFFFF)) | np.uint32(0x3F800000)).view(np.float32) - np.float32(1.5)
    q = x * x
    c7, c6, c5, c4, c3, c2, c1, c0 = _LOG
    low = (x * c1 + c0 + e) + (x * c3 + c2) * q
    high = (x * c5 + c4) + (x * c7 + c6) * q
    return high * (q * q) + low


def _signed(x: NDArray[np.float32], word: NDArray[np.uint32]) -> NDArray[np.float32]:
    """Returns the positive `x` with the word's highest bit as its sign."""
    return (x.view(np.uint32) ^ (word & _SIGN)).view(np.float32)
