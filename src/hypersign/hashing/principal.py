"""Principal components: the directions in which vectors vary most."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypersign._checks import HypersignError
from hypersign.hashing.levels import unit_rows

__all__ = ["MOST_DIMENSIONS", "SecondMoments"]

ROWS = 1 << 12
"""Most rows of a block that count: more change the directions little, and each takes dimension^2 products."""

MOST_DIMENSIONS = 1 << 12
"""Largest dimension: the products of more components take over 128 MB, and their eigenvectors minutes."""


class SecondMoments:
    """Sums of vectors and of the products of their components, in float64, block by block.

    With `unit`, vectors are scaled to length 1 first. Both sums are taken about the first vector, which keeps digits
    where the mean is far from zero. At most `ROWS` evenly spaced rows of a block count.

    >>> moments = SecondMoments(2).add(np.array([[0.0, 0.0], [3.0, 3.0], [-3.0, -3.0], [0.1, -0.1]]))
    >>> moments.components(np.zeros(2), 1).astype(float).round(3).tolist()  # the direction of (1, 1)
    [[0.707, 0.707]]
    """

    def __init__(self, dimension: int, *, unit: bool = False) -> None:
        self.count, self.unit = 0, unit
        self._origin = np.zeros(dimension)
        self._sum = np.zeros(dimension)
        self._products = np.zeros((dimension, dimension))

    def add(self, block: NDArray[Any]) -> "SecondMoments":
        """Adds finite vectors (rows, dimension); none may be zero if they are scaled."""
        if not len(block):
            return self
        some = block[np.linspace(0, len(block) - 1, min(len(block), ROWS)).astype(np.int64)]
        x = unit_rows(some) if self.unit else some.astype(np.float64)
        if not self.count:
            self._origin = x[0]
        self.count += len(x)
        with np.errstate(over="ignore", invalid="ignore"):
            x = x - self._origin
            self._sum += x.sum(0)
            self._products += x.T @ x
        return self

    def components(self, mean: NDArray[np.float64], count: int) -> NDArray[np.float32]:
        """The `count` directions in which x - mean is largest on average, float32 (count, dimension).

            eigenvectors of E[(x - mean)(x - mean)^T], largest eigenvalues first

        They are orthonormal. The largest entry of each is positive. `mean` is what a hasher subtracts.

        Raises HypersignError if squares of the vectors are no float64 numbers.
        """
        shift = mean - self._origin
        with np.errstate(over="ignore", invalid="ignore"):
            crossed = np.outer(self._sum, shift)
            moments = self._products - crossed - crossed.T + self.count * np.outer(shift, shift)
        if not np.isfinite(moments).all():
            raise HypersignError(
                "squares of the vectors' components must be float64 numbers; some are too large: divide all vectors "
                "by one number"
            )
        _, vectors = np.linalg.eigh(moments)
        found = vectors[:, ::-1][:, :count].T
        largest = np.take_along_axis(found, np.abs(found).argmax(1)[:, None], 1)
        return np.ascontiguousarray(np.where(largest < 0, -found, found), np.float32)
