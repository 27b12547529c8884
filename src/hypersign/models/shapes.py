"""The shape of images, checked."""

from collections.abc import Sequence

from hypersign._checks import HypersignError, check_int

__all__ = ["check_shape"]


def check_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    """`shape` as (channels, height, width), or raises HypersignError."""
    if len(shape) != 3:
        raise HypersignError(f"shape must be (channels, height, width) of the images; got {tuple(shape)}")
    channels, height, width = (check_int("shape (channels, height, width)", size, least=1) for size in shape)
    return channels, height, width
