"""Products of 8-bit inputs with binary or ternary weights: the linear layers of 1-bit language models."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hypersign._checks import HypersignError, check_int, check_threads
from hypersign.bits import reference
from hypersign.bits.backend import native
from hypersign.bits.words import check_rows

__all__ = ["Filters8"]

LARGEST = 2**19


class Filters8:
    """Binary or ternary filters, ready to be multiplied with 8-bit inputs.

        s_mn = sum over k of x_mk w_nk
        y_mn = a_m (sum over groups g of b_ng (sum over k in g of x_mk w_nk))

    `x` has integers from -128 to 127, `w` levels -1, 0 and +1. `a` is the scale of a row of inputs and `b` the
    scale of a filter or of a group of its weights. Sums are exact; then each operation is rounded to float32, in
    this order. The filters are stored in the kernels' order, in 1 bit per binary weight and 2 bits per ternary
    weight.

    Args:
        words: the levels, one row per filter: uint64 (filters, ceil(d/64)), or ternary planes
            (2, filters, ceil(d/64)). They are copied.
        features: d, the number of levels of a filter: from 1 to 2^19 - 1.
        scale: float32 numbers that fit (filters, groups), such as one number, or (filters, 1); None for 1.
        group: levels that share a scale, such as 128. The last group of a filter may be shorter. None for all.

    Raises:
        HypersignError: words, features, scale and group do not fit each other.

    >>> from hypersign.bits import pack
    >>> filters = Filters8(pack([[1, -1, -1], [1, 1, 1]]), 3, scale=0.5)
    >>> x = np.array([[127, 1, -128]], np.int8)
    >>> filters.sums(x).tolist(), filters.matmul(x, [2.0]).tolist()
    ([[254, 0]], [[254.0, 0.0]])
    """

    def __init__(
        self, words: ArrayLike, features: int, *, scale: ArrayLike | None = None, group: int | None = None
    ) -> None:
        words = np.require(words, requirements=["C", "A"])
        self.features = check_int("features", features, min=1, max=LARGEST - 1)
        self.group = self.features if group is None else check_int("group", group, min=1)
        self.group = min(self.group, self.features)
        row = -(-self.features // 64)
        check_rows(f"filters of {self.features} levels", words, row)
        self.ternary, self.filters = words.ndim == 3, words.shape[-2]
        shape = (self.filters, -(-self.features // self.group))
        try:
            scales = None if scale is None else np.broadcast_to(np.asarray(scale, np.float32), shape)
        except ValueError:
            raise HypersignError(
                f"scale must fit {shape}, one number per filter and group; got {scale!r:.60}"
            ) from None
        scales = None if scales is None else np.ascontiguousarray(scales)
        kernels = native()
        self._kernels: Any = None
        if kernels is not None:
            self._kernels = kernels.Product8Filters(words, self.features, scales, self.group)
        else:
            self._levels = (reference.ternary_levels if self.ternary else reference.levels)(words, self.features)
            self._scale = np.ones(shape, np.float32) if scales is None else scales

    def sums(
        self, x: NDArray[np.int8], *, threads: int = 1, out: NDArray[np.int32] | None = None
    ) -> NDArray[np.int32]:
        """The integer products, without scales: `x` int8 (M, d) -> int32 (M, filters), in `out` if it is given.

        Raises:
            HypersignError: `x` does not fit the filters, or `out` is no C-ordered array of that shape and type.
        """
        x = self._rows(x)
        y = self._output(out, len(x), np.int32)
        if self._kernels is None:
            y[:] = reference.product8(x, self._levels)
        else:
            self._kernels.sums(x, y, check_threads(threads))
        return y

    def matmul(
        self,
        x: NDArray[np.int8],
        scale: ArrayLike,
        *,
        threads: int = 1,
        out: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """The scaled products: `x` int8 (M, d), `scale` (M,) or one number -> float32 (M, filters).

        Raises:
            HypersignError: `x` does not fit the filters, `scale` does not fit `x`, or `out` the result.
        """
        x = self._rows(x)
        try:
            rows = np.ascontiguousarray(np.broadcast_to(np.asarray(scale, np.float32), (len(x),)))
        except ValueError:
            raise HypersignError(
                f"scale must fit ({len(x)},), one number per row; got shape {np.shape(scale)}"
            ) from None
        y = self._output(out, len(x), np.float32)
        if self._kernels is None:
            y[:] = reference.scaled_product8(x, self._levels, self._scale, rows, group=self.group)
        else:
            self._kernels.scaled(x, rows, y, check_threads(threads))
        return y

    def _output(self, out: NDArray[Any] | None, rows: int, dtype: type) -> NDArray[Any]:
        shape = (rows, self.filters)
        if out is None:
            return np.empty(shape, dtype)
        if out.shape != shape or out.dtype != dtype or not out.flags.carray:
            raise HypersignError(f"out must be a C-ordered {np.dtype(dtype)} array of shape {shape}")
        return out

    def _rows(self, x: NDArray[np.int8]) -> NDArray[np.int8]:
        if not (isinstance(x, np.ndarray) and x.flags.carray):
            x = np.require(x, requirements=["C", "A"])  # takes as long as a small product
        if x.dtype != np.int8 or x.ndim != 2 or x.shape[1] != self.features:
            raise HypersignError(f"x must be int8 (M, {self.features}); got {x.dtype} of shape {x.shape}")
        return x
