"""What the outputs of a packed network stand for: a class, or numbers. Without torch, unlike `tasks`."""

import dataclasses
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from hypersign._checks import check_real

__all__ = ["CLASSIFICATION", "Classification", "Regression", "Task"]


@dataclasses.dataclass(frozen=True)
class Classification:
    """One class per input: the one with the largest output.

    >>> Classification().decide(np.float32([[2, 0], [1, 3]])).tolist()
    [0, 1]
    """

    name: ClassVar[str] = "classification"

    def decide(self, outputs: NDArray[np.float32]) -> NDArray[Any]:
        """The class of each input, shape (N,)."""
        return outputs.argmax(1)

    def same(self, outputs: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Of each input, whether two networks' outputs mean the same class, shape (N,)."""
        return outputs.argmax(1) == others.argmax(1)


@dataclasses.dataclass(frozen=True)
class Regression:
    """The outputs themselves; those of two networks are the same if they differ by at most a tolerance.

    Args:
        tolerance: the largest difference between two numbers that count as the same.

    Raises:
        HypersignError: the tolerance is negative or no number.

    >>> Regression(tolerance=0.5).same(np.float32([[1, 4]]), np.float32([[1.5, 2]])).tolist()
    [False]
    """

    name: ClassVar[str] = "regression"
    tolerance: float

    def __post_init__(self) -> None:
        check_real("tolerance", self.tolerance, min=0)

    def decide(self, outputs: NDArray[np.float32]) -> NDArray[Any]:
        """The outputs, shape (N, outputs)."""
        return outputs

    def same(self, outputs: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Of each input, whether no output differs by more than the tolerance, shape (N,)."""
        return (np.abs(outputs - others) <= self.tolerance).all(1)


Task = Classification | Regression

CLASSIFICATION = Classification()
