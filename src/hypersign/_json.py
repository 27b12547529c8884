"""What JSON can hold of a result."""

import math
from typing import Any

__all__ = ["plain"]


def plain(value: Any) -> Any:
    """`value`, of dicts, lists and tuples, with each number that JSON has no word for (NaN, infinities) as None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
