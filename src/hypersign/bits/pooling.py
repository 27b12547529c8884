"""Max-pooling of packed levels."""

from __future__ import annotations  # each planned call defines a function; its annotations would cost too much time

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hypersign._checks import HypersignError
from hypersign.bits import reference
from hypersign.bits.backend import native
from hypersign.bits.reference import Words
from hypersign.bits.windows import check_pair, output_size
from hypersign.bits.words import Bound, Planned

__all__ = ["max_pool2d"]


def max_pool2d(
    x: Words,
    *,
    size: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int] = (0, 0),
    ceil_mode: bool = False,
    flip: ArrayLike | None = None,
) -> Words:
    """The largest level of each window of packed images, per channel.

        binary: and of the bits;  ternary: -1 if all are -1, +1 if any is +1, else 0

    Padded positions are never the maximum. Output sizes are those of torch's MaxPool2d.

    Args:
        x: packed images: words (N, H, W, ceil(channels/64)) or planes (2, N, H, W, ceil(channels/64)).
        size, stride, padding: pairs (vertical, horizontal); the padding is at most half the size.
        ceil_mode: whether the last window may extend past the edge.
        flip: boolean (channels,), true for channels whose maximum is negated, which pooling before a negative scale
            needs; None negates no channel.

    Returns packed levels (N, H', W', words) or (2, N, H', W', words).

    Raises:
        HypersignError: `x` has no packed images, a window is larger than the padded image, the padding is too large,
            or `flip` does not fit.

    >>> from hypersign.bits import pack, unpack
    >>> x = pack([[[[-1], [1]], [[-1], [-1]]]])
    >>> unpack(max_pool2d(x, size=(2, 1), stride=(1, 1)), 1).ravel().tolist()
    [-1, 1]
    """
    x = np.asarray(x)
    size, stride = check_pair("size", size, min=1), check_pair("stride", stride, min=1)
    padding = check_pair("padding", padding, min=0)
    if x.dtype != np.uint64 or x.ndim not in (4, 5) or x.shape[:-4] not in ((), (2,)):
        raise HypersignError(
            f"packed images must be uint64 words (N, H, W, words) or (2, N, H, W, words); got {x.dtype} of shape "
            f"{x.shape}"
        )
    if padding[0] > size[0] // 2 or padding[1] > size[1] // 2:
        raise HypersignError(f"padding must be at most half of the window {size}; got {padding}")
    out = output_size(x.shape[-3:-1], size, stride=stride, padding=padding, ceil_mode=ceil_mode)
    y = np.empty((*x.shape[:-3], *out, x.shape[-1]), np.uint64)
    mask = flip_mask(flip, x.shape[-1])
    planned_max_pool2d(mask, size=size, stride=stride, padding=padding)(np.require(x, requirements=["C", "A"]), y)(1)
    return y


def planned_max_pool2d(
    mask: Words, *, size: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]
) -> Planned:
    """`max_pool2d` without checks. `mask` is the packed `flip`."""

    def bind(x: NDArray[Any], out: NDArray[Any]) -> Bound:
        kernels = native()
        if kernels is not None and out.size:
            planes = (x, out) if x.ndim == 5 else (x[None], out[None])
            bound: Bound = kernels.max_pool2d(*planes, mask, size, stride, padding)
            return bound

        def run(threads: int) -> None:
            n = 64 * x.shape[-1]
            ternary = x.ndim == 5
            levels = reference.ternary_levels(x, n) if ternary else reference.levels(x, n)
            pooled = reference.max_pool2d(levels, size=size, stride=stride, padding=padding, out=out.shape[-3:-1])
            out[:] = reference.threshold(pooled, 0, 1 if ternary else None, reference.unpack_bits(mask, n))

        return run

    return bind


def flip_mask(flip: ArrayLike | None, words: int) -> Words:
    """Packs `flip` into one row of `words` words."""
    if flip is None:
        return np.zeros(words, np.uint64)
    flip = np.asarray(flip)
    if flip.dtype != np.bool_ or flip.ndim != 1 or -(-len(flip) // 64) != words:
        raise HypersignError(
            f"flip must be boolean, one for each of at most {64 * words} channels in {words} words; got {flip.dtype} "
            f"of shape {flip.shape}"
        )
    return reference.pack_bits(flip)
