"""The fast Walsh-Hadamard transform of NumPy arrays: n log2 n additions, no multiplication.

The rows of the matrix are in natural (Hadamard's) order: H_1 = 1, H_2n = [[H_n, H_n], [H_n, -H_n]]. Compiled kernels
transform float32, float64, int32 and int16. In cache they are up to twice as fast as a copy of the same numbers.
Other types use plain butterflies over whole arrays. Every back end adds in the same order, so all give the same bits.

A length that is not a power of two has no such matrix. Pad the vector with zeros, as `HadamardRotation` does.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypersign._checks import HypersignError, check_threads
from hypersign.bits.backend import native

__all__ = ["can_rotate", "check_hadamard", "hadamard_transform", "next_power_of_two", "rotate", "transform"]

LONGEST = 1 << 24


def next_power_of_two(n: int) -> int:
    """The smallest power of two that is at least n, for n >= 1: the length to pad a vector to.

    >>> [next_power_of_two(n) for n in (1, 2, 3, 64, 65)]
    [1, 2, 4, 64, 128]
    """
    return 1 << (n - 1).bit_length()


def hadamard_transform(
    x: NDArray[Any], *, orthonormal: bool = True, out: NDArray[Any] | None = None, threads: int = 1
) -> NDArray[Any]:
    """Multiplies the last dimension of `x` by the Hadamard matrix of its size n, a power of two up to 2^24.

        y_i = s sum_j (-1)^popcount(i and j) x_j,   s = 1/sqrt(n) if orthonormal, else 1

    The matrix is symmetric. With orthonormal=True it is its own inverse. With orthonormal=False the transform only
    adds, and integers stay integers. Integers wrap if their type cannot hold a sum (int16: modulo 2^16, so a sum that
    fits is right even if a partial sum does not fit). `hypersign.ops.hadamard_transform` does the same for torch
    tensors.

    Args:
        x: real or complex numbers, shape (..., n).
        orthonormal: whether to divide by sqrt(n); `x` must then be of a floating type.
        out: C-contiguous array for the result, with the type and shape of `x`; pass `x` to transform in place.
        threads: number of threads that share the vectors.

    Returns the transform, with the type and shape of `x`. `x` changes only if it is `out`.

    Raises:
        HypersignError: `x` has no dimension, n is not a power of two or is above 2^24, `x` has integers and
            `orthonormal` is True, or `out` does not fit.

    Source: Yates 1937; Fino & Algazi 1976, "Unified matrix treatment of the fast Walsh-Hadamard transform".

    >>> hadamard_transform(np.array([1, 2, 3, 4]), orthonormal=False).tolist()
    [10, -2, -4, 0]
    """
    check_hadamard(x.shape, x.dtype, floating=x.dtype.kind in "fc", orthonormal=orthonormal)
    check_threads(threads)
    if x.dtype.kind not in "iufcO":
        raise HypersignError(f"a Hadamard transform adds numbers; got {x.dtype}: convert them")
    if out is None:
        out = np.empty(x.shape, x.dtype)
    elif not (
        isinstance(out, np.ndarray) and out.shape == x.shape and out.dtype == x.dtype and out.flags.c_contiguous
    ):
        raise HypersignError(
            f"out must be a C-contiguous array of type {x.dtype} and shape {x.shape}; got "
            f"{getattr(out, 'dtype', type(out).__name__)} of shape {getattr(out, 'shape', None)}"
        )
    transform(x, out, factor=x.shape[-1] ** -0.5 if orthonormal else 1.0, threads=threads)
    return out


def check_hadamard(shape: tuple[int, ...], kind: object, *, floating: bool, orthonormal: bool) -> None:
    """Raises HypersignError if an array of this shape and type has no Hadamard transform."""
    n = shape[-1] if shape else 0
    if n < 1 or n & (n - 1) or n > LONGEST:
        raise HypersignError(
            f"a Hadamard transform needs a last dimension that is a power of two up to 2^24; got shape {shape}"
        )
    if orthonormal and not floating:
        raise HypersignError(
            f"an orthonormal Hadamard transform divides by sqrt(n) and so needs floating numbers; got {kind}; "
            "convert them, or say orthonormal=False"
        )


def transform(x: NDArray[Any], out: NDArray[Any], *, factor: float = 1.0, threads: int = 1) -> None:
    """Writes `factor` H x to `out`, for every vector x in the last axis. `out` may be `x` itself.

    `out` is C-contiguous and has the shape and type of `x`. Integers wrap and need factor 1. Nothing is checked.
    """
    kernels, n = native(), x.shape[-1]
    if kernels is None or not hasattr(kernels, f"hadamard_{x.dtype.name}") or not x.dtype.isnative:
        y = x.astype(np.float32) if x.dtype == np.float16 and factor != 1 else x  # sums may exceed float16
        for _ in range(n.bit_length() - 1):
            # Add and subtract neighbours, and put sums before differences. After log2(n) such stages, the order is
            # natural again.
            y = np.concatenate((y[..., 0::2] + y[..., 1::2], y[..., 0::2] - y[..., 1::2]), axis=-1)
        out[...] = y if factor == 1 else y * factor
        return
    if x is not out:
        x = np.array(x, order="C") if np.may_share_memory(x, out) else np.require(x, requirements=["C", "A"])
    rows, to = x.reshape(-1, n), out.reshape(-1, n)
    kernel = getattr(kernels, f"hadamard_{x.dtype.name}")
    if x.dtype.kind == "f":
        kernel(rows, to, factor, threads)
    else:
        kernel(rows, to, threads)


def can_rotate(dtype: np.dtype[Any]) -> bool:
    """Whether `rotate` takes numbers of this type: there are kernels, and it is float32 or float64."""
    return native() is not None and dtype in (np.float32, np.float64) and dtype.isnative


def rotate(x: NDArray[Any], signs: NDArray[np.float32], window: int, outputs: int) -> NDArray[Any]:
    """Rounds of signs and transforms of each vector, one vector after the other, so that it stays in the first cache.

    The result has the bits of the same NumPy operations (`hypersign.rotations.HadamardRotation`).

    Args:
        x: shape (..., d), padded with zeros to length n.
        signs: (rounds, n) if `window` is n, else (2 rounds, n): those of the first transforms, then of the second.
        window: length of a transform, a power of two: n, or the largest below it.
        outputs: number of components to keep.
    """
    kernels = native()
    assert kernels is not None
    rows = np.require(x.reshape(-1, x.shape[-1]), requirements=["C", "A"])
    y = np.empty((len(rows), outputs), x.dtype)
    run = kernels.rotate_float32 if x.dtype == np.float32 else kernels.rotate_float64
    run(rows, signs, window, y, 1)
    return y.reshape(*x.shape[:-1], outputs)
