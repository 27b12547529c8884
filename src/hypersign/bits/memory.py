"""Arrays that begin at a cache line, where vector registers of 64 bytes load and store fastest."""

import math
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = ["aligned_empty"]

LINE = 64
"""Bytes of a cache line."""


def aligned_empty(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """An array that is not initialized and begins at a cache line.

    >>> x = aligned_empty((3, 5), np.float32)
    >>> x.shape, x.ctypes.data % 64
    ((3, 5), 0)
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + LINE, np.uint8)
    start = -memory.ctypes.data % LINE
    return memory[start : start + size].view(dtype).reshape(shape)
