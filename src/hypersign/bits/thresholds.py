"""Thresholds that turn sums into levels. Batch norm and the quantizer after it fold into them."""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from hypersign._checks import HypersignError

__all__ = ["Thresholds"]


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """One or two thresholds per channel, which give the level of a sum s.

        binary:   -1 if s < low, else +1;  ternary: -1 if s < low, +1 if s >= high, else 0;
        negated if flip

    `low` and `high` are int32 of shape (channels,) with low <= high; `high` is None for binary levels. `flip` is a
    boolean array of the same shape; a batch norm with a negative scale reverses the order and needs it.

    Raises:
        HypersignError: an array has another type, or the shapes differ.

    >>> Thresholds(low=np.zeros(2, np.int32), flip=np.zeros(2, bool)).ternary
    False
    """

    low: NDArray[np.int32]
    flip: NDArray[np.bool_]
    high: NDArray[np.int32] | None = None

    def __post_init__(self) -> None:
        for name, dtype in (("low", np.int32), ("flip", np.bool_), ("high", np.int32)):
            array = getattr(self, name)
            if name == "high" and array is None:
                continue
            if not isinstance(array, np.ndarray) or array.dtype != dtype or array.shape != (self.low.size,):
                raise HypersignError(
                    f"the thresholds' {name} must be {np.dtype(dtype)}, one for each channel; got "
                    f"{getattr(array, 'dtype', type(array).__name__)} of shape {getattr(array, 'shape', ())}"
                )
            object.__setattr__(self, name, np.require(array, requirements=("C", "A")))  # the layout that kernels read

    @property
    def ternary(self) -> bool:
        """Whether the levels are -1, 0 and +1."""
        return self.high is not None
