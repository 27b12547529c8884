"""Sliding windows: their checks, and pools of numbers in NumPy."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypersign._checks import HypersignError
from hypersign.bits.backend import native
from hypersign.bits.windows import output_size
from hypersign.bits.words import Bound, Planned
from hypersign.packed.operations.operation import NodeShapes
from hypersign.packed.values import Value, check_size

__all__ = ["POOLING", "check_pool", "check_window", "planned_pool", "reduce_windows"]

POOLING = ("size", "stride", "padding", "ceil_mode")
"""The options of every pool."""


def check_window(
    node: NodeShapes, x: Value, name: str, dilation: tuple[int, int] = (1, 1), ceil_mode: bool = False
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Checks a window whose size is the option `name`; returns size, padding, and the output's height and width.

    Raises:
        HypersignError: an option is wrong, or the padded image is too large or smaller than the window.
    """
    size = node.pair(name, min=1)
    stride, padding = node.pair("stride", min=1), node.pair("padding", min=0)
    check_size("its padded input", x.height + 2 * padding[0], x.width + 2 * padding[1], x.channels)
    out = output_size(
        (x.height, x.width), size, stride=stride, padding=padding, dilation=dilation, ceil_mode=ceil_mode
    )
    return size, padding, out


def check_pool(node: NodeShapes, x: Value) -> Value:
    """`x` after a pool.

    Raises:
        HypersignError: an option is wrong.
    """
    size, padding, (height, width) = check_window(node, x, "size", ceil_mode=node.flag("ceil_mode"))
    if padding[0] > size[0] // 2 or padding[1] > size[1] // 2:
        raise HypersignError(f"padding must be at most half of the window {size}; got {padding}")
    return dataclasses.replace(x, height=height, width=width, norm=0)


def planned_pool(
    reference: Callable[[NDArray[Any]], NDArray[Any]],
    *,
    size: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    divisors: NDArray[np.float32] | None = None,
) -> Planned:
    """Plans a pool of float32 numbers: the maximum, or the sum divided by the number of its place in `divisors`."""

    def bind(x: NDArray[Any], out: NDArray[Any]) -> Bound:
        kernels = native()
        if kernels is not None:
            bound: Bound = kernels.real_pool(x, out, size, stride, padding, divisors)
            return bound

        def run(threads: int) -> None:
            out[...] = reference(x)

        return run

    return bind


def reduce_windows(
    v: NDArray[Any],
    out: tuple[int, int],
    combine: np.ufunc,
    fill: float,
    *,
    size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
) -> NDArray[Any]:
    """`combine` over each window of (N, H, W, C), padded with `fill`: (N, H', W', C)."""
    ends = [(n - 1) * step + k for n, step, k in zip(out, stride, size, strict=True)]
    room = [(pad, max(end - pad - length, 0)) for pad, end, length in zip(padding, ends, v.shape[1:3], strict=True)]
    if room != [(0, 0), (0, 0)]:
        v = np.pad(v, ((0, 0), *room, (0, 0)), constant_values=fill)
    y: Any = None
    for i in range(size[0]):
        for j in range(size[1]):
            part = v[:, i : i + ends[0] - size[0] + 1 : stride[0], j : j + ends[1] - size[1] + 1 : stride[1]]
            y = part.copy() if y is None else combine(y, part, out=y)
    return y
