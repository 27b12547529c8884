"""Options of windows, as torch's layers hold them and as packed graphs write them."""

from typing import Any

__all__ = ["pair"]


def pair(value: Any) -> list[int]:
    """One number for both directions, or two, as [vertical, horizontal]; a signal has one.

    >>> pair(3), pair((1, 2)), pair((5,))
    ([3, 3], [1, 2], [1, 5])
    """
    if isinstance(value, tuple | list):
        return [int(n) for n in ((1, *value) if len(value) == 1 else value)]
    return [int(value)] * 2
