"""Sizes of networks, checked: the bytes of every tensor then fit into 64 bits."""

from collections.abc import Sequence

from hypersign._checks import HypersignError, check_int

__all__ = ["MOST_FILTERS", "MOST_UNITS", "check_shape"]

MOST_FILTERS = 2**14
"""Filters of a convolution."""

MOST_UNITS = 2**20
"""Outputs of a linear layer."""

MOST_NUMBERS = 2**26
"""Numbers of an image."""


def check_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    """`shape` as (channels, height, width), or raises HypersignError."""
    if len(shape) != 3:
        raise HypersignError(f"shape must be (channels, height, width) of the images; got {tuple(shape)}")
    channels, height, width = (check_int("shape (channels, height, width)", size, least=1) for size in shape)
    if channels * height * width > MOST_NUMBERS:
        raise HypersignError(f"images must hold at most {MOST_NUMBERS:,} numbers; shape {tuple(shape)} has more")
    return channels, height, width
