"""Conversion of arguments and the type of results, shared by all formulas."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from hypersign._checks import HypersignError

Array = Any  # a float64 array, or a NumPy scalar if every argument was a scalar


def fan_in(d: ArrayLike) -> np.ndarray:
    """Returns `d` as a float64 array. Raises HypersignError if a value is below 1."""
    values = np.asarray(d, dtype=np.float64)
    if not np.all(values >= 1):
        raise HypersignError(f"d, the fan-in, must be >= 1; got {d!r}")
    return values
