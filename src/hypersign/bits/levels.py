"""Vectors of few levels, packed in 1 to 6 bits each: dot products with 8-bit queries, and the best scores.

A row has m levels; u, from 0 to L - 1, is the index of a level in ascending order. The levels are integers:

    bits   L    levels                                          bytes of a row
    1      2    -1, 1                                           ceil(m/8)
    1.5    3    -1, 0, 1                                        ceil(m/5), five base-3 digits in a byte
    2      4    -3, -1, 1, 3                                    ceil(m/4)
    3      8    +-7, +-22, +-39, +-62                           ceil(m/4) + ceil(m/8)
    4      16   +-3, +-9, +-15, +-21, +-28, +-36, +-46, +-61    ceil(m/2)
    6      64   +-1, +-3, ..., +-63                             ceil(m/2) + ceil(m/4)

The levels of 3 and 4 bits are those of Lloyd and Max for a Gaussian, rounded; `hypersign.hashing.levels` says why.
None is above 63, so that the products of two neighbours fit into 16 bits together.
A byte holds levels that are a part apart: with 2 bits and w = ceil(m/4), byte j holds levels j, j + w, j + 2w and
j + 3w, the first in the lowest bits. So one mask picks 4-level groups that meet adjacent numbers of a query. Rows of
3 bits have a row of the two lower bits, then a row of the upper bits. Rows of 6 bits have a row of the four lower
bits, then a row of the two upper ones. Missing levels at the end have the index 0.
"""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypersign._checks import HypersignError, check_int, check_threads
from hypersign.bits import reference
from hypersign.bits.backend import native
from hypersign.bits.hamming import check_allowed

__all__ = [
    "LEVELS",
    "MOST_LEVELS",
    "LevelCode",
    "level_dots",
    "level_topk",
    "nearest_levels",
    "pack_levels",
    "unpack_levels",
]

MOST_LEVELS = 1 << 16
"""Most levels of a row. Sums of products with 8-bit numbers then fit into 32 bits."""


def _symmetric(*positive: int) -> NDArray[np.int8]:
    return np.array([-x for x in reversed(positive)] + list(positive), np.int8)


LEVELS: dict[float, NDArray[np.int8]] = {
    1: _symmetric(1),
    1.5: np.array([-1, 0, 1], np.int8),
    2: _symmetric(1, 3),
    3: _symmetric(7, 22, 39, 62),
    4: _symmetric(3, 9, 15, 21, 28, 36, 46, 61),
    6: _symmetric(*range(1, 64, 2)),
}
"""The levels by number of bits."""


@dataclasses.dataclass(frozen=True)
class LevelCode:
    """The form of packed rows: m levels of 1, 1.5, 2, 3, 4 or 6 bits each.

    >>> LevelCode(2, 128).width, LevelCode(1.5, 128).width
    (32, 26)
    """

    bits: float
    count: int

    def __post_init__(self) -> None:
        if self.bits not in LEVELS:
            raise HypersignError(f"bits of a level must be one of {', '.join(map(str, LEVELS))}; got {self.bits!r}")
        check_int("the number of levels", self.count, min=1, max=MOST_LEVELS)

    @property
    def levels(self) -> NDArray[np.int8]:
        """The levels, ascending: int8 (L,)."""
        return LEVELS[self.bits]

    @property
    def kind(self) -> int:
        """The number of this form in the kernels."""
        return list(LEVELS).index(self.bits)

    @property
    def width(self) -> int:
        """Bytes of a packed row."""
        return sum(-(-self.count // parts) for parts, _ in self.planes)

    @property
    def planes(self) -> tuple[tuple[int, int], ...]:
        """The rows of bytes one after the other: how many digits a byte of each holds, and the base of the digits."""
        return {
            1: ((8, 2),),
            1.5: ((5, 3),),
            2: ((4, 4),),
            3: ((4, 4), (8, 2)),
            4: ((2, 16),),
            6: ((2, 16), (4, 4)),
        }[self.bits]


def nearest_levels(
    rows: NDArray[Any], code: LevelCode, factors: NDArray[np.float64], *, threads: int = 1
) -> NDArray[np.uint8]:
    """The indices of levels, uint8 (n, m), whose cosine with each row is the largest of those of several scales.

        x = rint(row/max|row| 32767);   index = how many of ceil(factors[s] rms(x)) are at most x

    All back ends find the same indices, because x is an integer. A row of zeros counts as one of zeros.

    Args:
        rows: finite float32 or float64 (n, m).
        code: the form of the rows.
        factors: float64 (scales, L - 1), for each scale s the thresholds between neighbouring levels.
        threads: number of threads.

    Raises:
        HypersignError: arrays do not fit the code.

    >>> nearest_levels(np.array([[-3.0, -1.0, 1.0, 3.0]]), LevelCode(2, 4), np.array([[-1.0, 0.0, 1.0]])).tolist()
    [[0, 1, 2, 3]]
    """
    rows, factors = np.asarray(rows), np.ascontiguousarray(factors, np.float64)
    if rows.dtype not in (np.float32, np.float64) or rows.ndim != 2 or rows.shape[1] != code.count:
        raise HypersignError(
            f"rows to encode must be float32 or float64 (n, {code.count}); got {rows.dtype} of shape {rows.shape}"
        )
    if factors.ndim != 2 or factors.shape[1] != len(code.levels) - 1:
        raise HypersignError(f"factors must be of shape (scales, {len(code.levels) - 1}); got {factors.shape}")
    threads, kernels = check_threads(threads), native()
    if kernels is None:
        return reference.nearest_levels(rows, code.levels, factors)
    rows, indices = np.require(rows, requirements=["C", "A"]), np.empty(rows.shape, np.uint8)
    encode = kernels.level_encode_float32 if rows.dtype == np.float32 else kernels.level_encode_float64
    encode(rows, code.levels, factors, indices, threads)
    return indices


def pack_levels(indices: NDArray[np.uint8], code: LevelCode) -> NDArray[np.uint8]:
    """Packs indices of levels, uint8 (n, m), into bytes (n, width).

    Raises:
        HypersignError: the indices have another type or shape, or exceed the number of levels.

    >>> pack_levels(np.array([[3, 0, 1, 2, 1]], np.uint8), LevelCode(2, 5)).tolist()
    [[23, 8]]
    """
    indices = np.asarray(indices)
    if indices.dtype != np.uint8 or indices.ndim != 2 or indices.shape[1] != code.count:
        raise HypersignError(
            f"indices of levels must be uint8 (n, {code.count}); got {indices.dtype} of shape {indices.shape}"
        )
    if indices.size and indices.max() >= len(code.levels):
        raise HypersignError(f"indices must be below {len(code.levels)}; got {indices.max()}")
    return reference.pack_levels(indices, code.planes)


def unpack_levels(packed: NDArray[np.uint8], code: LevelCode) -> NDArray[np.uint8]:
    """Unpacks bytes (n, width) into the indices of their levels, uint8 (n, m).

    >>> unpack_levels(np.array([[23, 8]], np.uint8), LevelCode(2, 5)).tolist()
    [[3, 0, 1, 2, 1]]
    """
    return reference.unpack_levels(_packed(packed, code), code.count, code.planes)


def level_dots(
    queries: NDArray[np.int8], rows: NDArray[np.uint8], code: LevelCode, *, threads: int = 1
) -> NDArray[np.int32]:
    """The dot products of queries (q, m), integers from -127 to 127, with rows of levels: int32 (q, n).

    Rows are uint8 (n, width or more). Bytes of a row after its levels are ignored.

    Raises:
        HypersignError: queries or rows do not fit the code.

    >>> level_dots(np.array([[1, 10, 100]], np.int8), np.array([[2]], np.uint8), LevelCode(1, 3)).tolist()
    [[-91]]
    """
    queries, rows = _queries(queries, code), _packed(rows, code, exact=False)
    threads, kernels = check_threads(threads), native()
    if kernels is None:
        return reference.level_dots(queries, rows[:, : code.width], code.levels, code.planes)
    dots = np.empty((len(queries), len(rows)), np.int32)
    kernels.level_dots(queries, rows, code.kind, dots, threads)
    return dots


def level_topk(
    queries: NDArray[np.int8],
    steps: NDArray[np.float32],
    rows: NDArray[np.uint8],
    code: LevelCode,
    k: int,
    *,
    allowed: NDArray[np.bool_] | None = None,
    exact: bool = True,
    threads: int = 1,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k rows with the lowest scores of every query.

        score = (dot step) a + b,   each operation rounded to float32

    With `exact`, all rows are compared. Without it, AVX-512 may first add up the signs of the levels, and skips rows
    whose sum is 3.5 standard deviations below the mean of a row with the k-th best score so far. For queries in a
    random direction, as rotated ones have, a row of the results is skipped with a probability of at most 2 in 10,000.
    The scores of rows that are found do not change. Rows are skipped if there are at least 64 queries, 256 levels,
    1,000 rows for each result, and 5 million levels (15 million at 3 and 4 bits), except at 1.5 and 6 bits, and as
    long as at most 7 % of the rows need their whole product. Other instruction sets compare all rows.

    Args:
        queries: integers from -127 to 127, int8 (q, m).
        steps: float32 (q,), what 1 stands for in each query.
        rows: uint8 (n, width + 8 or more): the levels of a row, then its a and b, two float32 numbers in
            little-endian order. Further bytes are ignored.
        code: the form of the rows.
        k: number of rows per query, at most n, or the number of allowed rows.
        allowed: bool (n,): the rows that may be found; None allows all.
        exact: whether all rows are compared.
        threads: number of threads.

    Returns (scores float32 (q, k), indices int64 (q, k)), lowest first; at equal scores the lower index comes first.

    Raises:
        HypersignError: arrays do not fit the code or each other, or k is too large.
    """
    queries, rows = _queries(queries, code), _packed(rows, code, exact=False, more=8)
    steps = np.ascontiguousarray(steps, np.float32)
    if steps.shape != (len(queries),):
        raise HypersignError(f"{len(queries)} queries need as many steps; got shape {steps.shape}")
    allowed = check_allowed(allowed, len(rows))
    k = check_int("k", k, min=0, max=len(rows) if allowed is None else int(np.count_nonzero(allowed)))
    threads, kernels = check_threads(threads), native()
    if kernels is None:
        places = np.arange(len(rows)) if allowed is None else np.flatnonzero(allowed)
        scores, found = reference.level_topk(queries, steps, rows[places], code.levels, code.planes, code.width, k)
        return scores, places[found]
    scores, indices = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
    kernels.level_topk(queries, steps, rows, code.kind, allowed, exact, scores, indices, threads)
    return scores, indices


def _queries(queries: NDArray[np.int8], code: LevelCode) -> NDArray[np.int8]:
    queries = np.asarray(queries)
    if queries.dtype != np.int8 or queries.ndim != 2 or queries.shape[1] != code.count:
        raise HypersignError(f"queries must be int8 (q, {code.count}); got {queries.dtype} of shape {queries.shape}")
    if queries.size and queries.min() == -128:
        raise HypersignError("queries must have numbers from -127 to 127; got -128")
    return np.require(queries, requirements=["C", "A"])


def _packed(rows: NDArray[np.uint8], code: LevelCode, *, exact: bool = True, more: int = 0) -> NDArray[np.uint8]:
    rows = np.asarray(rows)
    width = code.width + more
    if rows.dtype != np.uint8 or rows.ndim != 2 or not (rows.shape[1] == width if exact else rows.shape[1] >= width):
        raise HypersignError(
            f"rows of {code.count} levels of {code.bits:g} bits must be uint8 (n, {width}"
            f"{'' if exact else ' or more'}); got {rows.dtype} of shape {rows.shape}"
        )
    return np.require(rows, requirements=["C", "A"])
