"""The first layer: a convolution of 8-bit images with binary or ternary filters, in integers."""

from __future__ import annotations  # each planned call defines a function; its annotations would cost too much time

import math
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypersign._checks import HypersignError, check_int, check_threads
from hypersign.bits import reference
from hypersign.bits.backend import native
from hypersign.bits.filters import Filters
from hypersign.bits.thresholds import Thresholds
from hypersign.bits.windows import check_pair, output_size
from hypersign.bits.words import Bound, Planned

__all__ = ["image_conv2d"]

LARGEST = 2**31 - 1

LANES, TAPS = 16, 4
"""Numbers of adjacent filters, and of adjacent taps per filter, in the kernels' order of the weights."""

_layouts: weakref.WeakKeyDictionary[Filters, tuple[NDArray[np.int8], NDArray[np.int32]]] = weakref.WeakKeyDictionary()
"""Weights in the kernels' order, built when filters are first used on an image."""


def image_conv2d(
    x: NDArray[np.uint8],
    filters: Filters,
    *,
    multiplier: int,
    shift: int,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    thresholds: Thresholds | None = None,
    threads: int = 1,
) -> NDArray[Any]:
    """The convolution of 8-bit images, scaled to signed integers, with binary or ternary filters.

        s = sum over taps inside the image of (multiplier x + shift) w

    Padding is zero: a tap outside the image adds nothing, whatever the shift. For pixels that stand for the range
    (-1, 1), the multiplier is 2 and the shift -255 (in units of 1/255).

    Args:
        x: images, uint8 (N, H, W, channels).
        filters: packed filters with one group.
        multiplier: integer factor of a pixel, from -64 to 64.
        shift: integer that is added to each scaled pixel.
        stride, padding, dilation: pairs (vertical, horizontal).
        thresholds: thresholds that turn the sums into packed levels; if None, the sums are returned.
        threads: number of threads.

    Returns int32 sums (N, H', W', filters), or packed levels (N, H', W', words), ternary (2, N, H', W', words).

    Raises:
        HypersignError: images, filters and options do not fit each other, or sums could exceed 2^31 - 1.

    >>> from hypersign.bits import Filters, pack
    >>> filters = Filters(pack([[1, 1], [1, -1]]), shape=(1, 2, 1))
    >>> x = np.array([[[[0], [255]]]], np.uint8)
    >>> image_conv2d(x, filters, multiplier=2, shift=-255).tolist()
    [[[[0, -510]]]]
    """
    x = np.asarray(x)
    if x.dtype != np.uint8 or x.ndim != 4 or x.shape[-1] != filters.channels or filters.groups != 1:
        raise HypersignError(
            f"images must be uint8 (N, H, W, {filters.channels}) and filters of one group; got {x.dtype} of shape "
            f"{x.shape} and {filters.groups} groups"
        )
    multiplier = check_int("multiplier", multiplier, min=-64, max=64)
    shift = check_int("shift", shift, min=-LARGEST, max=LARGEST)
    stride, padding = check_pair("stride", stride, min=1), check_pair("padding", padding, min=0)
    dilation = check_pair("dilation", dilation, min=1)
    threads = check_threads(threads)
    out = output_size(x.shape[1:3], filters.shape[:2], stride=stride, padding=padding, dilation=dilation)
    taps = math.prod(filters.shape)
    if taps * max(255 * abs(multiplier), abs(shift), abs(255 * multiplier + shift)) > LARGEST:
        raise HypersignError(
            f"sums of {taps} taps of {multiplier} x + {shift} could pass {LARGEST}, the largest int32; use a smaller "
            "multiplier and shift"
        )
    if thresholds is not None:
        filters._thresholds(thresholds)
        y = np.empty((*([2] if thresholds.ternary else []), len(x), *out, -(-filters.filters // 64)), np.uint64)
    else:
        y = np.empty((len(x), *out, filters.filters), np.int32)
    planned = planned_image_conv2d(
        filters,
        multiplier=multiplier,
        shift=shift,
        stride=stride,
        padding=padding,
        dilation=dilation,
        thresholds=thresholds,
    )
    planned(np.require(x, requirements=["C", "A"]), y)(threads)
    return y


def channels_last(x: NDArray[Any], out: NDArray[Any]) -> None:
    """Copies images (N, C, H, W) to `out` (N, H, W, C), which has the same type."""
    kernels = native()
    if kernels is not None and x.dtype == np.uint8 and x.flags.c_contiguous:
        kernels.channels_last(x, out)  # NumPy copies byte by byte and takes as long as a small layer
    else:
        np.copyto(out, x.transpose(0, 2, 3, 1))


def planned_image_conv2d(
    filters: Filters,
    *,
    multiplier: int,
    shift: int,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    thresholds: Thresholds | None,
) -> Planned:
    """`image_conv2d` without checks, for networks that check everything once."""
    weights, taps = _layout(filters)
    weights, taps = weights * np.int8(multiplier), taps * np.int32(shift)
    limits = flip = None
    if thresholds is not None:
        levels = (thresholds.low,) if thresholds.high is None else (thresholds.low, thresholds.high)
        limits = np.zeros((len(levels), taps.shape[-1]), np.int32)
        limits[:, : filters.filters] = levels
        flip = reference.pack_bits(thresholds.flip)

    def bind(x: NDArray[Any], out: NDArray[Any]) -> Bound:
        kernels = native()
        if kernels is not None:
            sums, planes = (out, None) if thresholds is None else (None, out if thresholds.ternary else out[None])
            arrays = sums, limits, flip, planes
            bound: Bound = kernels.image_conv2d(x, weights, taps, stride, padding, dilation, *arrays, filters.filters)
            return bound

        def run(threads: int) -> None:
            result = reference.convolve(
                multiplier * x.astype(np.int32) + shift,
                filters.levels().astype(np.int32),
                stride=stride,
                padding=padding,
                dilation=dilation,
                groups=1,
                pad_value=0,
            )
            if thresholds is not None:
                result = reference.threshold(result, thresholds.low, thresholds.high, thresholds.flip)
            out[:] = result

        return run

    return bind


def _layout(filters: Filters) -> tuple[NDArray[np.int8], NDArray[np.int32]]:
    """Returns the weights in the kernels' order and their sums over channels.

    The weights have shape (blocks of 16 filters, groups of 4 taps, 16, 4) and are padded with zeros. The sums have
    shape (kernel height, kernel width, 16 * blocks).
    """
    if filters not in _layouts:
        levels = filters.levels()
        blocks, fours = -(-len(levels) // LANES), -(-int(np.prod(filters.shape)) // TAPS)
        rows = np.zeros((blocks * LANES, fours * TAPS), np.int8)
        rows[: len(levels), : levels[0].size] = levels.reshape(len(levels), -1)
        weights = rows.reshape(blocks, LANES, fours, TAPS).swapaxes(1, 2)
        taps = np.zeros((*filters.shape[:2], blocks * LANES), np.int32)
        taps[..., : len(levels)] = levels.sum(-1, dtype=np.int32).transpose(1, 2, 0)
        _layouts[filters] = np.ascontiguousarray(weights), taps
    return _layouts[filters]
