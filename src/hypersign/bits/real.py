"""Convolutions and products of real numbers, for the layers of a packed network that integers cannot represent.

Sums run in float64 in one fixed order. So a result is the same to the last bit on every back end, for any number of
threads and any batch size.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hypersign._checks import HypersignError, check_int, check_threads
from hypersign.bits import reference
from hypersign.bits.backend import native
from hypersign.bits.windows import check_pair, output_size
from hypersign.bits.words import Bound, Planned

__all__ = ["real_conv2d", "real_matmul"]


def real_conv2d(
    x: NDArray[np.float32],
    weight: NDArray[np.float32],
    *,
    bias: ArrayLike | None = None,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    threads: int = 1,
) -> NDArray[np.float32]:
    """The convolution of real images with real filters, padded with zeros.

    Args:
        x: images, float32 (N, H, W, C).
        weight: filters, float32 (filters, kernel height, kernel width, C / groups).
        bias: one number per filter, float32 (filters,); None for zeros.
        stride, padding, dilation: pairs (vertical, horizontal).
        groups: number of groups of channels; the filters are divided equally among the groups.
        threads: number of threads.

    Returns float32 (N, H', W', filters). Each number is a float64 sum, rounded once.

    Raises:
        HypersignError: arrays and options do not fit each other.

    >>> x = np.array([[[[1.5], [2.0]]]], np.float32)
    >>> real_conv2d(x, np.array([[[[2.0], [-1.0]]]], np.float32), bias=[0.5]).tolist()
    [[[[1.5]]]]
    """
    x, weight = np.asarray(x), np.asarray(weight)
    if x.dtype != np.float32 or weight.dtype != np.float32 or x.ndim != 4 or weight.ndim != 4:
        raise HypersignError(
            "images (N, H, W, C) and weight (filters, kernel height, kernel width, C / groups) must be float32; got "
            f"{x.dtype} of shape {x.shape} and {weight.dtype} of shape {weight.shape}"
        )
    filters = weight.shape[0]
    groups = check_int("groups", groups, min=1)
    if min(weight.shape) < 1 or weight.shape[3] * groups != x.shape[3] or filters % groups:
        raise HypersignError(
            f"weight (filters, kernel height, kernel width, C / groups) must fit images of {x.shape[3]} channels in "
            f"{groups} groups; got {weight.shape}"
        )
    stride, padding = check_pair("stride", stride, min=1), check_pair("padding", padding, min=0)
    dilation = check_pair("dilation", dilation, min=1)
    threads = check_threads(threads)
    offset = np.zeros(filters, np.float32) if bias is None else np.asarray(bias, np.float32)
    if offset.shape != (filters,):
        raise HypersignError(f"bias must be ({filters},), one number for each filter; got shape {offset.shape}")
    out = output_size(x.shape[1:3], weight.shape[1:3], stride=stride, padding=padding, dilation=dilation)
    y = np.empty((len(x), *out, filters), np.float32)
    planned = planned_real_conv2d(
        np.require(weight, requirements=["C", "A"]),
        np.require(offset, requirements=["C", "A"]),
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
    )
    planned(np.require(x, requirements=["C", "A"]), y)(threads)
    return y


def real_matmul(
    x: NDArray[np.float32], weight: NDArray[np.float32], bias: ArrayLike | None = None, *, threads: int = 1
) -> NDArray[np.float32]:
    """Products of real rows with real filters: `x` (M, d), `weight` (filters, d), `bias` (filters,) -> (M, filters).

        y = x weight^T + bias

    Raises:
        HypersignError: the arrays do not fit each other.

    >>> real_matmul(np.ones((1, 2), np.float32), np.array([[1.0, 2.0]], np.float32), [0.5]).tolist()
    [[3.5]]
    """
    x, weight = np.asarray(x), np.asarray(weight)
    if x.ndim != 2 or weight.ndim != 2 or x.shape[1] != weight.shape[1]:
        raise HypersignError(
            f"real_matmul multiplies (M, d) with (filters, d); got shapes {x.shape} and {weight.shape}"
        )
    return real_conv2d(x[:, None, None], weight[:, None, None], bias=bias, threads=threads)[:, 0, 0]


def planned_real_conv2d(
    weight: NDArray[np.float32],
    bias: NDArray[np.float32],
    *,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
) -> Planned:
    """`real_conv2d` without checks, for networks that check everything once."""

    def bind(x: NDArray[Any], out: NDArray[Any]) -> Bound:
        kernels = native()
        if kernels is not None:
            bound: Bound = kernels.real_conv2d(x, weight, bias, out, stride, padding, dilation, groups)
            return bound

        def run(threads: int) -> None:
            out[:] = reference.real_conv2d(
                x, weight, bias, stride=stride, padding=padding, dilation=dilation, groups=groups
            )

        return run

    return bind


def planned_affine(scale: NDArray[np.float32], shift: NDArray[np.float32]) -> Planned:
    """Plans x * scale + shift for numbers (..., C), without checks. Product and sum are rounded to float32 each."""

    def bind(x: NDArray[Any], out: NDArray[Any]) -> Bound:
        kernels = native()
        if kernels is not None and x.dtype in (np.int32, np.float32) and x.flags.c_contiguous:
            bound: Bound = kernels.real_affine(x, scale, shift, out)
            return bound

        def run(threads: int) -> None:
            np.multiply(x, scale, out=out, dtype=np.float32, casting="unsafe")
            np.add(out, shift, out=out)

        return run

    return bind
