"""Shared by the three convolutions: the checks of their window, filters and sums."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from hypersign._checks import HypersignError, check_int
from hypersign.packed.operations.operation import NodeShapes
from hypersign.packed.operations.pooling import check_window
from hypersign.packed.operations.thresholds import check_thresholds
from hypersign.packed.transforms import LARGEST_SUM
from hypersign.packed.values import Value

__all__ = ["WINDOW", "check_convolution", "check_sums", "convolution_macs", "covers_image", "fan_in", "kernel_bytes"]

WINDOW = ("kernel", "stride", "padding", "dilation")
"""The options of every convolution."""

LANES = 32
"""Filters fill registers: the compiled kernels round their number up to at most a multiple of this."""


def check_convolution(node: NodeShapes, x: Value) -> tuple[int, int, int]:
    """Takes a convolution's options and its weight, packed or (for real inputs) float32.

    Returns the number of filters, and the output's height and width.

    Raises:
        HypersignError: something does not fit.
    """
    kernel, _, (height, width) = check_window(node, x, "kernel", node.pair("dilation", min=1))
    groups = check_int("groups", node.options.get("groups", 1), min=1)
    if x.channels % groups:
        raise HypersignError(f"groups must divide the {x.channels} channels; got {groups}")
    depth = x.channels // groups
    words = -(-math.prod(kernel) * depth // 64)
    if x.kind == "real" and node.is_float("weight"):
        filters = node.tensor("weight", np.float32, (-1, *kernel, depth)).shape[0]
    else:
        filters = node.tensor("weight", np.uint64, (-1, words), (2, -1, words)).shape[-2]
    if filters % groups:
        raise HypersignError(f"groups must divide the {filters} filters; got {groups}")
    return filters, height, width


def check_sums(node: NodeShapes, filters: int, height: int, width: int, largest: int) -> Value:
    """What a product of integers gives: sums, or levels where the node has thresholds.

    Raises:
        HypersignError: a sum could pass 2^31 - 1, or the thresholds do not fit.
    """
    if largest > LARGEST_SUM:
        raise HypersignError(f"its sums must stay within {LARGEST_SUM}; they could reach {largest}")
    if not node.has("low"):
        return Value("sums", height, width, filters)
    return Value("levels", height, width, filters, check_thresholds(node, filters, np.int32))


def fan_in(options: Mapping[str, Any], channels: int) -> int:
    """The weights of one filter."""
    return math.prod(options["kernel"]) * channels // options.get("groups", 1)


def convolution_macs(options: Mapping[str, Any], x: Value, y: Value) -> int:
    """Multiply-accumulates per image."""
    return y.height * y.width * y.channels * fan_in(options, x.channels)


def covers_image(options: Mapping[str, Any], x: Value) -> bool:
    """Whether one filter covers the whole image, as in a fully connected layer."""
    whole = tuple(options["kernel"]) == (x.height, x.width) and tuple(options["padding"]) == (0, 0)
    return whole and options.get("groups", 1) == 1


def kernel_bytes(filters: int, kernel: tuple[int, int], depth: int, groups: int, ternary: bool) -> int:
    """A bound on the bytes that `bits.Filters` allocates for the compiled kernels.

    Each position of the kernel takes whole 32-bit words in each filter, twice for ternary ones, in three copies, and
    a 32-bit count. Filters come in whole registers. Groups are merged until their channels fill words, which makes
    filters ternary: 0 at the channels of other groups.
    """
    merged = min(groups, math.lcm(32 // math.gcd(32, depth), LANES // math.gcd(LANES, filters // groups)))
    words = -(-merged * depth // 32) * (2 if ternary or merged > 1 else 1)
    padded = -(-filters // LANES) * LANES
    return 4 * padded * (3 * words * math.prod(kernel) + (kernel[0] + 1) * (kernel[1] + 1))
