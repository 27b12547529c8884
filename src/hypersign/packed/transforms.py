"""Operations of networks without multiplications: only additions, shifts and comparisons in 32-bit fixed point.

A Walsh-Hadamard transform of n numbers multiplies their Euclidean norm by sqrt(n). Signs, and slopes of at most 1, do
not increase the norm. No number is larger than the norm of its vector. So the largest norm of a rotated image bounds
every sum of the network, and determines by how many bits sums must be shifted right between transforms.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypersign.bits import unpack
from hypersign.bits.hadamard import transform

__all__ = [
    "LARGEST_SUM",
    "hadamard",
    "hadamard_norm",
    "room",
    "rotate",
    "rotated_norm",
    "shifted",
    "shifted_norm",
    "signed_sums",
    "switch",
]

LARGEST_SUM = 2**31 - 1


def rotated_norm(largest: int, count: int, size: int, rounds: int) -> int:
    """The largest Euclidean norm of `count` numbers up to `largest` after `rounds` transforms of length `size`."""
    return _root(largest**2 * count * size**rounds)


def hadamard_norm(norm: int, size: int) -> int:
    """The largest norm after a transform of length `size`, which multiplies the norm by sqrt(size)."""
    return _root(norm**2 * size)


def shifted_norm(norm: int, size: int, exponent: int) -> int:
    """The largest norm of `size` integers after each is multiplied by 2^exponent and rounded down (by less than 1).

    >>> shifted_norm(1000, 16, -3), shifted_norm(1000, 16, 1)
    (129, 2000)
    """
    return norm << exponent if exponent >= 0 else -(-norm >> -exponent) + _root(size)


def room(norm: int, size: int) -> int:
    """The largest exponent up to 16 for which a transform of `size` integers times 2^exponent fits in int32.

    >>> room(1000, 16), room(2**31, 4096)
    (16, -7)
    """
    exponent = 16
    while hadamard_norm(shifted_norm(norm, size, exponent), size) > LARGEST_SUM:
        exponent -= 1
    return exponent


def shifted(y: NDArray[Any], exponent: int) -> NDArray[Any]:
    """Multiplies integers by 2^exponent and rounds down, so signs do not change."""
    return y << exponent if exponent > 0 else y >> -exponent if exponent else y


def rotate(
    y: NDArray[np.int32 | np.int64], minus: NDArray[np.bool_], *, outputs: int, exponent: int, threads: int = 1
) -> NDArray[np.int32]:
    """Rounds of sign flips and transforms: integers (N, d) -> (N, outputs).

    The integers are padded to (N, n), transformed, and multiplied by 2^exponent. `minus`, shape (rounds, n), marks
    the numbers that each round negates. The type of `y` must hold all sums.
    """
    y = np.pad(y, ((0, 0), (0, minus.shape[1] - y.shape[1])))
    for row in minus:
        np.negative(y, out=y, where=row)
        transform(y, y, threads=threads)
    return shifted(y[:, :outputs], exponent).astype(np.int32, copy=False)


def switch(y: NDArray[Any], minus: NDArray[np.bool_], shifts: NDArray[np.integer]) -> NDArray[Any]:
    """Shifts each integer of (..., n) right, and negates some; both depend on its sign.

    `minus` and `shifts`, shape (2, n), have one row for numbers >= 0 and one row for numbers < 0.
    """
    positive = y >= 0
    y = y >> np.where(positive, shifts[0], shifts[1])
    return np.where(np.where(positive, minus[0], minus[1]), -y, y)


def hadamard(y: NDArray[np.int32], *, threads: int = 1) -> NDArray[np.int32]:
    """The Walsh-Hadamard transform of integers (N, n)."""
    out = np.empty_like(y)
    transform(y, out, threads=threads)
    return out


def signed_sums(y: NDArray[Any], levels: NDArray[Any]) -> NDArray[Any]:
    """Sums of integers `y` (N, n) with signs -1, 0, +1 (filters, n), by additions and negations: (N, filters)."""

    def signed_sum(row: NDArray[Any]) -> NDArray[Any]:
        terms = y[:, row != 0]
        return np.asarray(np.where(row[row != 0] < 0, -terms, terms).sum(-1))

    return np.stack([signed_sum(row) for row in levels], axis=-1)


def slopes(words: NDArray[np.uint64], size: int) -> tuple[NDArray[np.bool_], NDArray[np.int32]]:
    """Unpacks slopes (2, 3, words) into two arrays (2, n): the signs (true if negative) and the shifts, 0 to 3."""
    planes = unpack(words, size) < 0
    return planes[:, 0], planes[:, 1].astype(np.int32) + 2 * planes[:, 2].astype(np.int32)


def _root(square: int) -> int:
    """Returns the square root, rounded up."""
    return math.isqrt(square - 1) + 1 if square > 0 else 0
