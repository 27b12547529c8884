"""Thresholds that turn sums into levels: what batch norm and a quantizer fold into."""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from hypersign._checks import HypersignError

__all__ = ["Thresholds"]


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """Per channel, the levels of a sum s.

        binary:   -1 where s < low, else +1;  ternary: -1 where s < low, +1 where s >= high, else 0;
        negated where flip

    `low` and `high` are int32 of shape (channels,) with low <= high, `high` None for binary levels; `flip` is a
    boolean array of the same shape (a batch norm with a negative scale turns the order round).

    Raises:
        HypersignError: arrays of other types, or of different shapes.

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
            object.__setattr__(self, name, np.require(array, requirements=("C", "A")))  # as the kernels read them

    @property
    def ternary(self) -> bool:
        """Whether the levels are -1, 0 and +1."""
        return self.high is not None
