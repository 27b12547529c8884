"""What the outputs of a packed network stand for: a class, or numbers. Without torch, unlike `tasks`."""

import dataclasses
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from hypersign._checks import check_real

__all__ = ["CLASSIFICATION", "NUMBERS", "Classification", "Numbers", "Regression", "Task"]


@dataclasses.dataclass(frozen=True)
class Classification:
    """One class per input, the one with the largest output; for outputs (N, classes, ...) one at each position.

    >>> Classification().decide(np.float32([[2, 0], [1, 3]])).tolist()
    [0, 1]
    """

    name: ClassVar[str] = "classification"

    def decide(self, outputs: NDArray[np.float32]) -> NDArray[Any]:
        """The class of each input, shape (N, ...)."""
        return outputs.argmax(1)

    def same(self, outputs: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Of each input, whether two networks' outputs mean the same class everywhere, shape (N,)."""
        return _everywhere(outputs.argmax(1) == others.argmax(1))


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
        return _everywhere(np.abs(outputs - others) <= self.tolerance)


@dataclasses.dataclass(frozen=True)
class Numbers:
    """Numbers without a tolerance of their own: boxes, maps, sequences.

    Two networks' are the same where they differ by at most 0.1 % of the input's largest number.

    >>> Numbers().same(np.float32([[100, 0]]), np.float32([[100, 0.2]])).tolist()
    [False]
    """

    name: ClassVar[str] = "numbers"

    def decide(self, outputs: NDArray[np.float32]) -> NDArray[Any]:
        """The outputs, shape (N, ...)."""
        return outputs

    def same(self, outputs: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Of each input, whether no number differs by more than 0.1 % of the largest of `others`, shape (N,)."""
        flat = others.reshape(len(others), -1)
        room = 1e-3 * np.abs(flat).max(1, keepdims=True)
        return (np.abs(outputs.reshape(flat.shape) - flat) <= room).all(1)


def _everywhere(same: NDArray[Any]) -> NDArray[np.bool_]:
    return np.asarray(same.reshape(len(same), -1).all(1))


Task = Classification | Regression | Numbers

CLASSIFICATION = Classification()
NUMBERS = Numbers()
