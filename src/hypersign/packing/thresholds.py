"""Integer thresholds of a sum, found by bisection on the float layers that follow it.

Batch norm, scales, clipping and the quantizer after them are monotone in each channel, so a channel's level changes
at one sum (two if ternary). A formula would not round exactly like float32, so bisection runs the layers themselves.
The thresholds then agree with the layers at every sum, exact ties included.
"""

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["FLOATS", "find_thresholds", "float_of", "thresholds_hold"]

Level = Callable[[Tensor], Tensor]

FLOATS = (-0x7F800000, 0x7F7FFFFF)
"""The first and the last index of the finite float32 numbers in increasing order; see `float_of`."""


def find_thresholds(level: Level, first: int, last: int, channels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Finds where the levels of each channel change.

        flip_c = level_c(last) < level_c(first);    b_c = -level_c if flip_c, else level_c
        low_c = min n with b_c(n) > -1;    high_c = min n with b_c(n) > 0;    last + 1 if there is none

    Args:
        level: function that maps integers n of shape (channels,) to levels -1, 0 or 1; monotone in each channel.
        first: smallest possible integer.
        last: largest possible integer.
        channels: number of channels.

    Returns low (int64), high (int64) and flip (bool), all of shape (channels,).

    >>> low, high, flip = find_thresholds(lambda n: torch.sign(2.5 - n), -9, 9, 1)
    >>> low.item(), high.item(), flip.item()
    (3, 3, True)
    """
    at_first, at_last = level(torch.full((channels,), first)), level(torch.full((channels,), last))
    flip = at_last < at_first

    def least(above: float) -> Tensor:
        start, stop = torch.full((channels,), first), torch.full((channels,), last + 1)
        while (start < stop).any():
            middle = torch.div(start + stop, 2, rounding_mode="floor")
            levels = level(middle.clamp(max=last))
            reached = torch.where(flip, -levels, levels) > above
            open_ = start < stop
            stop = torch.where(open_ & reached, middle, stop)
            start = torch.where(open_ & ~reached, middle + 1, start)
        return start

    return least(-1), least(0), flip


def thresholds_hold(level: Level, found: tuple[Tensor, Tensor, Tensor], first: int, last: int) -> bool:
    """Whether thresholds give the levels of some integers at and around them, drawn by channel.

    They do not for a quantizer that mixes channels (by their mean, say) or whose levels are not monotone.
    """
    low, high, flip = found
    generator = torch.Generator().manual_seed(0)
    for edge in (low, high) * 2:
        near = edge - torch.randint(0, 2, edge.shape, generator=generator)
        anywhere = torch.randint(first, last + 1, edge.shape, generator=generator)
        n = torch.where(torch.rand(edge.shape, generator=generator) < 0.7, near, anywhere).clamp(first, last)
        expected = (n >= low).int() + (n >= high).int() - 1
        if not torch.equal(level(n).int(), torch.where(flip, -expected, expected)):
            return False
    return True


def float_of(n: Tensor) -> Tensor:
    """The n-th float32 in increasing order: n = 0 is 0, n = -1 is -0, and n = 1 is the smallest number above 0.

    >>> float_of(torch.tensor([0, 0x3F800000, -1 - 0x3F800000])).tolist()
    [0.0, 1.0, -1.0]
    """
    return torch.where(n < 0, n ^ 0x7FFFFFFF, n).to(torch.int32).view(torch.float32)
