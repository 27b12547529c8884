"""Thresholds of what follows a sum, found by asking the float layers themselves.

Batch norm, scales and clipping are monotone in each channel, and so is the quantizer after them, so a channel's
level changes at one sum (two if ternary). Where that is follows from no formula that rounds as float32 does: the
layers are asked, in bisection, and so agree with the thresholds at every sum, exact ties included.
"""

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["FLOATS", "find_thresholds", "float_of"]

Level = Callable[[Tensor], Tensor]

FLOATS = (-0x7F800000, 0x7F7FFFFF)
"""First and last of the integers that stand for the finite float32 in their order, see `float_of`."""


def find_thresholds(level: Level, first: int, last: int, channels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Finds where the levels of each channel change.

        flip_c = level_c(last) < level_c(first);    b_c = -level_c where flip_c, else level_c
        low_c = least n with b_c(n) > -1;    high_c = least n with b_c(n) > 0;    last + 1 where there is none

    Args:
        level: the level (-1, 0 or 1) of the integer n_c in channel c, for n of shape (channels,); monotone in each.
        first, last: the least and the greatest integer that can come.
        channels: their number.

    Returns low and high, int64, and flip, bool, all of shape (channels,).

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


def float_of(n: Tensor) -> Tensor:
    """The float32 with place n in their order: n = 0 is 0, n = -1 is -0, n = 1 the least above 0.

    >>> float_of(torch.tensor([0, 0x3F800000, -1 - 0x3F800000])).tolist()
    [0.0, 1.0, -1.0]
    """
    return torch.where(n < 0, n ^ 0x7FFFFFFF, n).to(torch.int32).view(torch.float32)
