"""Hamming distances of packed codes: all distances, the nearest codes, or the codes within a radius."""

import numpy as np
from numpy.typing import NDArray

from hypersign._checks import HypersignError, check_int, check_threads
from hypersign.bits import reference
from hypersign.bits.backend import native
from hypersign.bits.reference import Words

__all__ = ["hamming", "hamming_topk", "hamming_within"]


def hamming(a: Words, b: Words, *, threads: int = 1) -> NDArray[np.int32]:
    """The number of bits in which each row of `a` differs from each row of `b`.

    Args:
        a, b: packed codes from `pack`, uint64 (rows, words).
        threads: number of threads.

    Returns int32 (len(a), len(b)).

    Raises:
        HypersignError: an array has no packed words, or the codes have different lengths.

    >>> from hypersign.bits import pack
    >>> hamming(pack([[1, -1, 1]]), pack([[1, 1, 1], [-1, 1, -1]])).tolist()
    [[1, 3]]
    """
    a, b = _codes(a, b, "a", "b")
    threads = check_threads(threads)
    kernels = native()
    if kernels is None:
        return reference.hamming(a, b)
    distances = np.empty((len(a), len(b)), np.int32)
    kernels.hamming(a, b, distances, threads)
    return distances


def hamming_topk(
    queries: Words, codes: Words, k: int, *, allowed: NDArray[np.bool_] | None = None, threads: int = 1
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """The k nearest codes of every query by Hamming distance, found by comparing it with all codes.

    Args:
        queries: packed queries, uint64 (q, words).
        codes: packed codes, uint64 (n, words).
        k: number of codes per query, at most n, or the number of allowed codes.
        allowed: bool (n,): the codes that may be found; None allows all.
        threads: number of threads.

    Returns (distances int32 (q, k), indices int64 (q, k)), nearest first. If distances are equal, the lower index
    comes first.

    Raises:
        HypersignError: an array has no packed words, the codes have different lengths, `allowed` does not fit the
            codes, or k is too large.

    >>> from hypersign.bits import pack
    >>> distances, indices = hamming_topk(pack([[1, 1, 1]]), pack([[-1, -1, 1], [1, 1, -1], [1, -1, 1]]), 2)
    >>> distances.tolist(), indices.tolist()
    ([[1, 1]], [[1, 2]])
    """
    queries, codes = _codes(queries, codes, "queries", "codes")
    allowed = check_allowed(allowed, len(codes))
    k = check_int("k", k, min=0, max=len(codes) if allowed is None else int(np.count_nonzero(allowed)))
    threads = check_threads(threads)
    kernels = native()
    if kernels is None:
        rows = np.arange(len(codes)) if allowed is None else np.flatnonzero(allowed)
        distances, places = reference.nearest(reference.hamming(queries, codes[rows]), k)
        return distances, rows[places]
    distances = np.empty((len(queries), k), np.int32)
    indices = np.empty((len(queries), k), np.int64)
    kernels.hamming_topk(queries, codes, allowed, distances, indices, threads)
    return distances, indices


def hamming_within(
    queries: Words, codes: Words, radius: int, *, allowed: NDArray[np.bool_] | None = None, threads: int = 1
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64]]:
    """The codes within a Hamming distance of every query, found by comparing it with all codes.

    Args:
        queries: packed queries, uint64 (q, words).
        codes: packed codes, uint64 (n, words).
        radius: the largest distance, in bits.
        allowed: bool (n,): the codes that may be found; None allows all.
        threads: number of threads.

    Returns (starts int64 (q + 1,), distances int32, indices int64). The codes of query i are
    `indices[starts[i]:starts[i + 1]]`, nearest first. If distances are equal, the lower index comes first.

    Raises:
        HypersignError: an array has no packed words, the codes have different lengths, `allowed` does not fit the
            codes, or the radius is negative.

    >>> from hypersign.bits import pack
    >>> starts, distances, indices = hamming_within(pack([[1, 1, 1]]), pack([[-1, -1, 1], [1, 1, -1]]), 1)
    >>> starts.tolist(), distances.tolist(), indices.tolist()
    ([0, 1], [1], [1])
    """
    queries, codes = _codes(queries, codes, "queries", "codes")
    allowed = check_allowed(allowed, len(codes))
    radius = check_int("radius", radius, min=0)
    threads = check_threads(threads)
    kernels = native()
    if kernels is not None:
        return kernels.hamming_within(queries, codes, allowed, min(radius, 64 * codes.shape[1]), threads)
    rows = np.arange(len(codes)) if allowed is None else np.flatnonzero(allowed)
    distances, places = reference.nearest(reference.hamming(queries, codes[rows]), len(rows))
    near = distances <= radius
    starts = np.concatenate([[0], near.sum(1).cumsum()])
    return starts, distances[near], rows[places[near]]


def check_allowed(allowed: NDArray[np.bool_] | None, count: int) -> NDArray[np.bool_] | None:
    """The mask of `count` rows, ready for the kernels; raises HypersignError if it does not fit."""
    if allowed is None:
        return None
    if allowed.dtype != np.bool_ or allowed.shape != (count,):
        raise HypersignError(
            f"allowed must be bool of shape ({count},), one for each code; got {allowed.dtype} of shape "
            f"{allowed.shape}"
        )
    return np.ascontiguousarray(allowed)


def _codes(a: Words, b: Words, name: str, other: str) -> tuple[Words, Words]:
    a, b = np.asarray(a), np.asarray(b)
    for words, which in ((a, name), (b, other)):
        if words.dtype != np.uint64 or words.ndim != 2:
            raise HypersignError(
                f"{which} must be uint64 words (rows, words), as pack makes them; got {words.dtype} of shape "
                f"{words.shape}"
            )
    if a.shape[1] != b.shape[1]:
        raise HypersignError(
            f"{name} and {other} must have the same number of words; got {a.shape[1]} and {b.shape[1]}"
        )
    if a.shape[1] >= 2**18:
        raise HypersignError(f"codes must have fewer than {2**18} words; got {a.shape[1]}")
    return np.require(a, requirements=["C", "A"]), np.require(b, requirements=["C", "A"])
