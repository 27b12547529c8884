"""How every formula here treats its arguments and results."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from hypersign._checks import HypersignError

Array = Any  # a float64 array, or a NumPy scalar where every argument was one


def fan_in(d: ArrayLike) -> np.ndarray:
    """`d` as a float64 array; raises HypersignError where it is below 1."""
    values = np.asarray(d, dtype=np.float64)
    if not np.all(values >= 1):
        raise HypersignError(f"d, the fan-in, must be >= 1; got {d!r}")
    return values
