"""Options of windows, as torch's layers hold them and as packed graphs write them."""

from typing import Any

__all__ = ["pair"]


def pair(value: Any) -> list[int]:
    """One number for both directions, or two, as [vertical, horizontal].

    >>> pair(3), pair((1, 2))
    ([3, 3], [1, 2])
    """
    return [int(n) for n in value] if isinstance(value, tuple | list) else [int(value)] * 2
