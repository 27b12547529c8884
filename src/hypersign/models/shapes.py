"""Checks the sizes of networks, so that the bytes of every tensor fit into 64 bits."""

from collections.abc import Sequence

from hypersign._checks import HypersignError, check_int

__all__ = ["MOST_FILTERS", "MOST_UNITS", "check_shape"]

MOST_FILTERS = 2**14
"""The largest number of filters of a convolution."""

MOST_UNITS = 2**20
"""The largest number of outputs of a linear layer."""

MOST_NUMBERS = 2**26
"""The largest number of values in an image."""


def check_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    """Returns `shape` as (channels, height, width), or raises HypersignError if it has another form."""
    if len(shape) != 3:
        raise HypersignError(f"shape must be (channels, height, width) of the images; got {tuple(shape)}")
    channels, height, width = (check_int("shape (channels, height, width)", size, min=1) for size in shape)
    if channels * height * width > MOST_NUMBERS:
        raise HypersignError(f"images must hold at most {MOST_NUMBERS:,} numbers; shape {tuple(shape)} has more")
    return channels, height, width
