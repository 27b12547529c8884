"""Shared by operations that compute in float64 and round once to float32."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypersign.packed.operations.operation import Plan

__all__ = ["rounded_once"]

AT_ONCE = 2**20
"""Numbers of the first input per piece: float64 copies of a whole batch would leave the cache."""


def rounded_once(compute: Callable[..., NDArray[Any]]) -> Plan:
    """Plans a function of real inputs `(N, height, width, channels)`, each image by itself."""

    def run(*values: NDArray[np.float32], threads: int) -> NDArray[np.float32]:
        each = max(1, AT_ONCE // max(1, values[0][:1].size))
        with np.errstate(over="ignore"):
            parts = [
                compute(*(value[i : i + each].astype(np.float64) for value in values)).astype(np.float32)
                for i in range(0, max(1, len(values[0])), each)
            ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    return Plan(run=run)
