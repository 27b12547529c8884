"""The fast Walsh-Hadamard transform of NumPy arrays; `hypersign.hadamard` checks arguments and explains it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypersign.bits.backend import native

__all__ = ["transform"]


def transform(x: NDArray[Any], out: NDArray[Any], *, factor: float = 1.0, threads: int = 1) -> None:
    """Writes `factor` H x, for every x in the last axis of `x`, to `out`, which may be `x` itself.

    `out` is C-contiguous, of the shape and type of `x`. Every back end adds in the same order, so all give the same
    bits; integers wrap round, and take no factor.
    """
    kernels, n = native(), x.shape[-1]
    if kernels is None or not hasattr(kernels, f"hadamard_{x.dtype.name}") or not x.dtype.isnative:
        y = x
        for _ in range(n.bit_length() - 1):
            # neighbours meet, sums come before differences: after log2(n) such stages the order is natural again
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
