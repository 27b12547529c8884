"""Checks and output sizes of sliding windows, for convolutions and pooling."""

from collections.abc import Sequence

from hypersign._checks import HypersignError, check_int

__all__ = ["check_pair", "output_size"]


def check_pair(name: str, pair: Sequence[int], *, min: int) -> tuple[int, int]:
    """Returns the pair (vertical, horizontal) as ints. Raises HypersignError if it is no pair or out of range.

    >>> check_pair("stride", (2, 1), min=1)
    (2, 1)
    """
    if type(pair) is tuple and [type(size) for size in pair] == [int, int] and pair[0] >= min and pair[1] >= min:
        return pair  # the usual case: full checks take longer than a small layer
    if not isinstance(pair, Sequence) or len(pair) != 2:
        raise HypersignError(f"{name} must be a pair (vertical, horizontal); got {pair!r}")
    return check_int(f"{name}[0]", pair[0], min=min), check_int(f"{name}[1]", pair[1], min=min)


def output_size(
    image: Sequence[int],
    size: tuple[int, int],
    *,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int] = (1, 1),
    ceil_mode: bool = False,
) -> tuple[int, int]:
    """Returns the height and the width of the output of a sliding window.

        floor((H + 2 p - dilation (size - 1) - 1) / stride) + 1

    With `ceil_mode`, the last window may extend past the padded edge if it starts before it, as in torch.

    Raises:
        HypersignError: the padded image is smaller than the window.

    >>> output_size((32, 32), (3, 3), stride=(2, 2), padding=(1, 1))
    (16, 16)
    """
    result = []
    for length, kernel, step, pad, gap in zip(image, size, stride, padding, dilation, strict=True):
        space = length + 2 * pad - gap * (kernel - 1) - 1
        if length < 1 or space < 0:
            raise HypersignError(
                f"an image of {image[0]} x {image[1]}, padded by {padding}, must be at least as large as the window "
                f"of {size} (dilation {dilation})"
            )
        count = space // step + 1
        if ceil_mode and space % step and count * step < length + pad:
            count += 1
        result.append(count)
    return result[0], result[1]
