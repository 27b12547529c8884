"""Packing numbers into words of levels, and unpacking words."""

from __future__ import annotations  # each planned call defines a function; its annotations would cost too much time

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hypersign._checks import HypersignError
from hypersign.bits import reference
from hypersign.bits.backend import native
from hypersign.bits.reference import Words

__all__ = ["pack", "pack_ternary", "unpack", "unpack_ternary"]

Bound = Callable[[int], Any]
"""An operation bound to its arrays. A call with a number of threads reads one array and writes the other."""

Planned = Callable[[NDArray[Any], NDArray[Any]], Bound]
"""An operation whose options are checked. A call with an input and an output array binds it to them."""


def check_rows(what: str, words: Words, row: int) -> None:
    """Raises HypersignError where `words` are no rows of `row` packed words, nor two planes of such rows."""
    shape = words.shape
    if words.dtype != np.uint64 or words.ndim not in (2, 3) or shape[-1] != row or shape[:-2] not in ((), (2,)):
        raise HypersignError(
            f"{what} must come as uint64 words (filters, {row}) or (2, filters, {row}); got {words.dtype} of shape "
            f"{shape}"
        )


def pack(x: ArrayLike, *, threshold: ArrayLike = 0, flip: ArrayLike = False) -> Words:
    """Packs the levels -1 and +1 of numbers along the last axis, 64 per word.

        level = -1 where x < threshold, else +1;  negated where flip

    Args:
        x: numbers or booleans (true = 1), shape (..., n).
        threshold: one number, or one number for each of the n positions.
        flip: one boolean, or one boolean for each position.

    Returns uint64 words, shape (..., ceil(n/64)): bit 1 = -1, least significant bit first, bits past n are 0.

    Raises:
        HypersignError: `x` has no axis or contains NaN, or the thresholds do not fit it.

    >>> [int(word) for word in pack([-1.0, 2.0, -0.0, -3.0])]
    [9]
    """
    return _pack(np.asarray(x), {"threshold": threshold}, flip)


def pack_ternary(x: ArrayLike, *, low: ArrayLike, high: ArrayLike, flip: ArrayLike = False) -> Words:
    """Packs the levels -1, 0 and +1 of numbers along the last axis, as two planes.

        level = -1 where x < low, +1 where x >= high, else 0;  negated where flip

    Returns uint64 words, shape (2, ..., ceil(n/64)): the plane of signs and the plane of non-zeros.

    Raises:
        HypersignError: `x` has no axis or contains NaN, or the thresholds do not fit it.

    >>> pack_ternary([-1.0, 0.2, 2.0], low=-0.5, high=0.5).tolist()
    [[1], [5]]
    """
    return _pack(np.asarray(x), {"low": low, "high": high}, flip)


def pack_signs(x: NDArray[np.float32]) -> Words:
    """`pack` of float32 numbers in C order, without checks; NaN is +1."""
    kernels = native()
    n = x.shape[-1]
    words = np.empty((*x.shape[:-1], -(-n // 64)), np.uint64)
    if kernels is None:
        words[...] = reference.threshold(np.nan_to_num(x), np.float32(0), None, False)
    elif words.size:
        flat = words.reshape(1, -1, words.shape[-1])
        kernels.pack_float32(
            x.reshape(-1, n), np.zeros(n, np.float32), None, np.zeros(words.shape[-1], np.uint64), flat
        )
    return words


def pack_clipped(x: NDArray[np.float32], clip: float, threads: int = 1) -> tuple[Words, Words]:
    """`pack_signs` of float32 numbers in C order, without checks, and bits that are 1 where |x| < clip.

    >>> signs, inside = pack_clipped(np.array([-2.0, 0.5, -0.5], np.float32), 1.0)
    >>> int(signs[0]), int(inside[0])
    (5, 6)
    """
    kernels = native()
    n = x.shape[-1]
    signs, inside = (np.empty((*x.shape[:-1], -(-n // 64)), np.uint64) for _ in range(2))
    if kernels is None:
        signs[...], inside[...] = pack_signs(x), reference.pack_bits(np.abs(x) < np.float32(clip))
    elif x.size:
        rows = (-1, signs.shape[-1])
        kernels.pack_clipped(x.reshape(-1, n), clip, signs.reshape(rows), inside.reshape(rows), threads)
    return signs, inside


def unpack(words: ArrayLike, n: int) -> NDArray[np.int8]:
    """Unpacks words (..., W) into the levels -1 and +1, int8 (..., n). It is the inverse of `pack`.

    >>> unpack(pack([-1.0, 2.0, 0.0]), 3).tolist()
    [-1, 1, 1]
    """
    return reference.levels(_words(words, n), n)


def unpack_ternary(planes: ArrayLike, n: int) -> NDArray[np.int8]:
    """Unpacks planes (2, ..., W) into the levels -1, 0 and +1, int8 (..., n). It is the inverse of `pack_ternary`.

    >>> unpack_ternary(pack_ternary([-1.0, 0.2, 2.0], low=-0.5, high=0.5), 3).tolist()
    [-1, 0, 1]
    """
    return reference.ternary_levels(_words(planes, n), n)


KERNELS: dict[type[Any], tuple[str, type[Any]]] = {
    np.float16: ("pack_float32", np.float32),
    np.float32: ("pack_float32", np.float32),
    np.float64: ("pack_float64", np.float64),
    np.bool_: ("pack_uint8", np.uint8),
    np.uint8: ("pack_uint8", np.uint8),
    np.int8: ("pack_int8", np.int8),
    np.int16: ("pack_int32", np.int32),
    np.uint16: ("pack_int32", np.int32),
    np.int32: ("pack_int32", np.int32),
}
"""For each type, the kernel and the type that the kernel reads, which holds every number of the first type."""

WIDER: dict[type[Any], type[Any]] = {np.int8: np.int16, np.uint8: np.int16, np.int32: np.int64}


def _pack(x: NDArray[Any], limits: dict[str, ArrayLike], flip: ArrayLike) -> Words:
    """Packs the levels of numbers, for one limit or for two."""
    if x.ndim == 0 or x.dtype.kind not in "biuf":
        raise HypersignError(f"numbers to pack must have at least one axis; got {x.dtype} of shape {x.shape}")
    n = x.shape[-1]
    rows = [_limit(limit, n, name) for name, limit in limits.items()]
    flip = np.asarray(flip)
    if flip.dtype != np.bool_ or flip.shape not in ((), (n,)):
        raise HypersignError(
            f"flip must be a boolean, or one for each of the {n} positions; got {flip.dtype} of shape {flip.shape}"
        )
    planes = np.empty((len(rows), *x.shape[:-1], -(-n // 64)), np.uint64)
    out = planes if len(rows) == 2 else planes[0]
    planned_pack(x.dtype, n, rows, flip)(x, out)(1)
    return out


def planned_pack(dtype: np.dtype, n: int, limits: Sequence[NDArray[Any]], flip: NDArray[np.bool_]) -> Planned:
    """`pack`, or `pack_ternary` for two limits, for networks that check everything once.

    It handles numbers of one type, n along the last axis, and only checks for NaN.
    """
    name, read = KERNELS.get(dtype.type, ("", dtype.type))
    if name:
        exact = [_exact(limit, read, n) for limit in limits]
        low, high = exact[0], exact[1] if len(limits) == 2 else None
        flips = reference.pack_bits(np.broadcast_to(flip, (n,)))

    def bind(x: NDArray[Any], out: NDArray[Any]) -> Bound:
        kernels = native()

        def run(threads: int) -> None:
            if kernels is None or not name or x.dtype != dtype:  # sums may have 64 bits
                if x.dtype.kind == "f" and np.isnan(x).any():
                    raise _nan(x)
                out[...] = reference.threshold(x, limits[0], limits[1] if len(limits) == 2 else None, flip)
            elif out.size:
                numbers = np.require(x, read, ["C", "A"]).reshape(-1, n)
                if getattr(kernels, name)(numbers, low, high, flips, out.reshape(len(limits), -1, out.shape[-1])):
                    raise _nan(x)

        return run

    return bind


def _limit(limit: ArrayLike, n: int, name: str) -> NDArray[Any]:
    """Checks a limit and returns it as an array."""
    values = np.asarray(limit)
    if values.shape not in ((), (n,)) or values.dtype.kind not in "biuf" or np.isnan(values).any():
        raise HypersignError(
            f"{name} must be one number, or one for each of the {n} positions, and not NaN; got {values.dtype} of "
            f"shape {values.shape}"
        )
    return values


def _exact(limit: NDArray[Any], read: type[Any], n: int) -> NDArray[Any]:
    """Converts a limit to n numbers of the kernel's type. x < limit stays the same for every x of type `read`."""
    if np.issubdtype(read, np.integer):
        # x < t means x < ceil(t). A limit beyond every x still is beyond every x in the wider type.
        least, most = np.iinfo(read).min, np.iinfo(read).max
        limit = np.clip(np.ceil(limit).astype(np.float64), least, most + 1.0).astype(WIDER[read])
    else:
        with np.errstate(over="ignore"):
            rounded: NDArray[Any] = limit.astype(read)
        # x < t means x < r, where r is the smallest number of the narrower type that is not below t.
        limit = np.where(rounded < limit, np.nextafter(rounded, np.array(np.inf, read)), rounded)
    return np.ascontiguousarray(np.broadcast_to(limit, (n,)))


def _nan(x: NDArray[Any]) -> HypersignError:
    return HypersignError(f"numbers to pack must not hold NaN, which has no sign; found {np.isnan(x).sum()} of them")


def _words(words: ArrayLike, n: int) -> Words:
    words = np.asarray(words)
    if words.ndim == 0 or words.dtype != np.uint64 or words.shape[-1] != -(-n // 64):
        raise HypersignError(
            f"{n} elements must come as uint64 words with a last axis of {-(-n // 64)}; got {words.dtype} of shape "
            f"{words.shape}"
        )
    return words
