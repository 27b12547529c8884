"""Binary and ternary filters, and their products with packed inputs: matrix products and convolutions."""

from __future__ import annotations  # each planned call defines a function; its annotations would cost too much time

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hypersign._checks import HypersignError, check_int, check_threads
from hypersign.bits import reference
from hypersign.bits.backend import backend, native
from hypersign.bits.memory import aligned_empty
from hypersign.bits.reference import Words
from hypersign.bits.thresholds import Thresholds
from hypersign.bits.windows import check_pair, output_size
from hypersign.bits.words import Bound, Planned, check_rows

__all__ = ["Filters"]


class Filters:
    """Packed filters, ready to be multiplied with packed inputs.

    Args:
        words: the levels, one row per filter, in (kernel row, kernel column, channel) order: uint64
            (filters, ceil(d/64)) with d = kernel height * kernel width * channels. Ternary filters are planes
            (2, filters, ceil(d/64)).
        shape: (kernel height, kernel width, channels per group).
        groups: number of groups of channels; the filters are divided equally among the groups.

    Raises:
        HypersignError: the shapes do not fit each other, or a filter has 2^30 levels or more.

    >>> from hypersign.bits import pack
    >>> filters = Filters(pack(np.ones((2, 5))), shape=(1, 1, 5))
    >>> filters.matmul(pack([[1, 1, 1, -1, -1]])).tolist()
    [[1, 1]]
    """

    def __init__(self, words: ArrayLike, *, shape: tuple[int, int, int], groups: int = 1) -> None:
        words = np.require(words, requirements=["C", "A"])
        rows, columns, depth = shape
        what = "shape (kernel height, kernel width, channels)"
        self.shape = (
            check_int(what, rows, min=1),
            check_int(what, columns, min=1),
            check_int(what, depth, min=1),
        )
        self.groups = check_int("groups", groups, min=1)
        d = math.prod(self.shape)
        if d >= 2**30:
            raise HypersignError(f"filters must have fewer than 2^30 levels, so that sums are int32; got {d}")
        row = -(-d // 64)
        check_rows(f"filters of shape {self.shape}", words, row)
        self.ternary = words.ndim == 3
        self.filters = words.shape[-2]
        if self.filters % self.groups:
            raise HypersignError(f"{self.filters} filters must divide into groups evenly; got {self.groups} groups")
        self.words: Words = words
        self._compiled: dict[str, Any] = {}  # per back end: the filters in the order of its kernels

    def _kernels(self) -> Any:
        """The filters in the order of the back end in use, built once; None for the NumPy reference."""
        module, name = native(), backend()
        if module is not None and name not in self._compiled:
            self._compiled[name] = module.Filters(self.words, *self.shape, self.groups)
        return None if module is None else self._compiled[name]

    @property
    def channels(self) -> int:
        """Number of input channels, over all groups."""
        return self.shape[2] * self.groups

    def levels(self) -> NDArray[np.int8]:
        """The filters as int8 levels, shape (filters, kernel height, kernel width, channels per group)."""
        d = int(np.prod(self.shape))
        flat = reference.ternary_levels(self.words, d) if self.ternary else reference.levels(self.words, d)
        return flat.reshape(self.filters, *self.shape)

    def matmul(self, x: Words, *, threads: int = 1) -> NDArray[np.int32]:
        """Dot products of packed rows with every filter: `x` (M, words) or planes (2, M, words) -> (M, filters).

        Raises:
            HypersignError: the rows do not fit the filters, or the filters have more than one tap.
        """
        x = np.asarray(x)
        if x.ndim not in (2, 3) or self.shape[:2] != (1, 1):
            raise HypersignError(
                f"rows must be packed words (M, words) or (2, M, words), and filters have one tap; got rows of shape "
                f"{x.shape}, and filters of {self.shape[0]} x {self.shape[1]} taps"
            )
        return self.conv2d(x[..., :, None, None, :], threads=threads)[:, 0, 0]

    def conv2d(
        self,
        x: Words,
        *,
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int] = (0, 0),
        dilation: tuple[int, int] = (1, 1),
        pad_value: int = 0,
        thresholds: Thresholds | None = None,
        threads: int = 1,
        out: NDArray[Any] | None = None,
    ) -> NDArray[Any]:
        """The convolution of packed images with every filter.

            s(n, h, w, f) = sum over i, j, c of x(n, h s + i d - p, w s + j d - p, c) filter(f, i, j, c)

        Stride s, dilation d and padding p have one number for rows and one for columns.

        Args:
            x: packed images, each pixel a row of channels: words (N, H, W, ceil(channels/64)) or planes
                (2, N, H, W, ...). Bits past the last channel are 0.
            stride, padding, dilation: pairs (vertical, horizontal).
            pad_value: the level of padded positions, 0 or 1.
            thresholds: thresholds that turn the sums into packed levels; if None, the sums are returned.
            threads: number of threads.
            out: array for the result, with its shape and type, in C order; None for a new array.

        Returns int32 sums (N, H', W', filters), or packed levels (N, H', W', words), ternary (2, N, H', W', words).

        Raises:
            HypersignError: images, filters, thresholds and options do not fit each other.

        >>> from hypersign.bits import pack
        >>> filters = Filters(pack(np.ones((1, 9))), shape=(3, 3, 1))
        >>> filters.conv2d(pack(np.ones((1, 3, 3, 1))), padding=(1, 1))[0, ..., 0].tolist()
        [[4, 6, 4], [6, 9, 6], [4, 6, 4]]
        """
        x = np.asarray(x)
        words = -(-self.channels // 64)
        if x.dtype != np.uint64 or x.ndim not in (4, 5) or x.shape[-1] != words or x.shape[:-4] not in ((), (2,)):
            raise HypersignError(
                f"images of {self.channels} channels must come as uint64 words (N, H, W, {words}) or "
                f"(2, N, H, W, {words}); got {x.dtype} of shape {x.shape}"
            )
        stride, padding = check_pair("stride", stride, min=1), check_pair("padding", padding, min=0)
        dilation = check_pair("dilation", dilation, min=1)
        pad_value = check_int("pad_value", pad_value, min=0, max=1)
        threads = check_threads(threads)
        size = output_size(x.shape[-3:-1], self.shape[:2], stride=stride, padding=padding, dilation=dilation)
        shape: tuple[int, ...] = (x.shape[-4], *size, self.filters)
        if thresholds is not None:
            self._thresholds(thresholds)
            shape = (*([2] if thresholds.ternary else []), *shape[:3], -(-self.filters // 64))
        dtype = np.int32 if thresholds is None else np.uint64
        if out is None:
            out = np.empty(shape, dtype)
        elif out.shape != shape or out.dtype != dtype or not (out.flags.c_contiguous and out.flags.behaved):
            raise HypersignError(
                f"out must be a writable {np.dtype(dtype)} array of shape {shape} in C order; got {out.dtype} of "
                f"shape {out.shape}"
            )
        if not (x.flags.c_contiguous and x.flags.aligned):
            x = x.copy(order="C")
        planned = self.planned(
            stride=stride, padding=padding, dilation=dilation, pad_value=pad_value, thresholds=thresholds
        )
        planned(x, out)(threads)
        return out

    def real_conv2d(
        self,
        x: Words,
        *,
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int] = (0, 0),
        dilation: tuple[int, int] = (1, 1),
        pad_value: int = 0,
        threads: int = 1,
    ) -> NDArray[np.float32]:
        """The sums of `conv2d` as float32, rounded above 2^24, without checks; they are never stored as integers."""
        if native() is None:
            options = {"stride": stride, "padding": padding, "dilation": dilation, "pad_value": pad_value}
            return self.conv2d(x, **options).astype(np.float32)  # type: ignore[arg-type]
        size = output_size(x.shape[-3:-1], self.shape[:2], stride=stride, padding=padding, dilation=dilation)
        y = aligned_empty((x.shape[-4], *size, self.filters), np.float32)
        self._kernels().convolve(x, stride, padding, dilation, pad_value, None, None, None, y)(threads)
        return y

    def planned(
        self,
        *,
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int] = (0, 0),
        dilation: tuple[int, int] = (1, 1),
        pad_value: int = 0,
        thresholds: Thresholds | None = None,
    ) -> Planned:
        """`conv2d` without checks, for networks that check everything once. It builds the kernels' filters."""
        self._kernels()
        low = high = flip = None
        if thresholds is not None:
            low, high, flip = thresholds.low, thresholds.high, thresholds.flip

        def bind(x: NDArray[Any], out: NDArray[Any]) -> Bound:
            kernels = self._kernels()
            if kernels is not None:
                bound: Bound = kernels.convolve(x, stride, padding, dilation, pad_value, low, high, flip, out)
                return bound

            def run(threads: int) -> None:
                out[:] = self._reference(x, stride, padding, dilation, pad_value, thresholds)

            return run

        return bind

    def _thresholds(self, thresholds: Thresholds) -> None:
        if len(thresholds.low) != self.filters:
            raise HypersignError(
                f"the thresholds' low must be one for each of {self.filters} filters; got {len(thresholds.low)}"
            )

    def _reference(
        self,
        x: Words,
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int],
        pad_value: int,
        thresholds: Thresholds | None,
    ) -> NDArray[Any]:
        values = (reference.ternary_levels if x.ndim == 5 else reference.levels)(x, self.channels)
        sums = reference.convolve(
            values.astype(np.int32),
            self.levels().astype(np.int32),
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=self.groups,
            pad_value=pad_value,
        )
        if thresholds is None:
            return sums
        return reference.threshold(sums, thresholds.low, thresholds.high, thresholds.flip)
