"""The fast Walsh-Hadamard transform, for NumPy arrays and torch tensors: n log2 n additions, no multiplication.

The rows of the matrix are in natural (Hadamard's) order: H_1 = 1, H_2n = [[H_n, H_n], [H_n, -H_n]]. Compiled kernels
transform float32, float64, int32 and int16 on the CPU, up to twice as fast as the same numbers are copied when they
stay in the cache; other types, and tensors elsewhere, take plain butterflies over whole arrays. Every back end adds
in the same order, so all of them give the same bits.

Lengths that are no power of two have no such matrix. Pad them with zeros: that is what `HadamardRotation` does.
"""

from typing import Any, TypeVar

import numpy as np

from hypersign._checks import HypersignError, check_int
from hypersign.bits.hadamard import transform

__all__ = ["hadamard_transform"]

Array = TypeVar("Array", bound=Any)

LONGEST = 1 << 24


def hadamard_transform(
    x: Array, *, orthonormal: bool = True, out: np.ndarray | None = None, threads: int | None = None
) -> Array:
    """Multiplies the last dimension of `x` by the Hadamard matrix of its size n, a power of two up to 2^24.

        y_i = s sum_j (-1)^popcount(i and j) x_j,   s = 1/sqrt(n) if orthonormal, else 1

    The matrix is symmetric; orthonormal, it is its own inverse. Without the factor nothing is multiplied and integers
    stay integers: sums of n of them, which wrap round where their type does not hold them (int16: modulo 2^16, so
    that a sum is right whenever it fits, whatever was met on the way). Gradients pass through torch tensors.

    Args:
        x: NumPy array or torch tensor, shape (..., n), on any device.
        orthonormal: divide by sqrt(n); `x` must then be of a floating type.
        out: array to write to, C-contiguous, of the type and shape of `x`; `x` itself makes it in place. NumPy only.
        threads: number of threads that share the vectors; 1 for NumPy and torch's own number for torch if None.

    Returns the transform, of the type and shape of `x`, which is left as it is unless it is `out`.

    Raises:
        HypersignError: `x` has no dimension, n is no power of two or above 2^24, integers were to be divided, or
            `out` does not fit.

    Source: Yates 1937; Fino & Algazi 1976, "Unified matrix treatment of the fast Walsh-Hadamard transform".

    >>> hadamard_transform(np.array([1, 2, 3, 4]), orthonormal=False).tolist()
    [10, -2, -4, 0]
    """
    shape = tuple(x.shape)
    n = shape[-1] if shape else 0
    if n < 1 or n & (n - 1) or n > LONGEST:
        raise HypersignError(
            f"a Hadamard transform needs a last dimension that is a power of two up to 2^24; got shape {shape}"
        )
    numpy = isinstance(x, np.ndarray)
    floating = x.dtype.kind in "fc" if numpy else x.is_floating_point() or x.is_complex()
    if orthonormal and not floating:
        raise HypersignError(
            f"an orthonormal Hadamard transform divides by sqrt(n) and so needs floating numbers; got {x.dtype}; "
            "convert them, or say orthonormal=False"
        )
    factor = n**-0.5 if orthonormal else 1.0
    if threads is not None:
        check_int("threads", threads, least=1)
    if not numpy:
        from hypersign import ops

        if out is not None:
            raise HypersignError("out belongs to NumPy arrays; got it with a torch tensor: leave it out")
        return ops.hadamard(x, factor, threads or 0)  # type: ignore[return-value]
    if x.dtype.kind not in "iufcO":
        raise HypersignError(f"a Hadamard transform adds numbers; got {x.dtype}: convert them")
    if out is None:
        out = np.empty(shape, x.dtype)
    elif not (isinstance(out, np.ndarray) and out.shape == shape and out.dtype == x.dtype and out.flags.c_contiguous):
        raise HypersignError(
            f"out must be a C-contiguous array of type {x.dtype} and shape {shape}; got "
            f"{getattr(out, 'dtype', type(out).__name__)} of shape {getattr(out, 'shape', None)}"
        )
    transform(x, out, factor=factor, threads=threads or 1)
    return out  # type: ignore[return-value]
