"""One scale for each group of weights."""

import numpy as np
from numpy.typing import ArrayLike

from hypersign.theory._arrays import Array, fan_in

__all__ = ["group_cosine"]

NORMAL = np.sqrt(2 / np.pi)


def group_cosine(size: ArrayLike, limit: ArrayLike = NORMAL) -> Array:
    """Cosine between infinitely many independent weights and their signs, with one scale a group of `size`.

        c = sqrt(c_inf^2 + (1 - c_inf^2)/beta),   beta the size of a group, c_inf = E|w| / sqrt(E w^2)

    Every group's scale is its mean |w|, the least-squares one. beta = 1 keeps everything (0 degrees); a large
    beta is one scale for all: `limit`, c_inf, is that of normals unless another is given (37.07 degrees).
    Raises HypersignError where the size is below 1.
    Source: of a group's |w|_1^2 the beta squares give E w^2 each, the beta (beta - 1) products (E|w|)^2.

    >>> np.degrees(np.arccos(group_cosine([2, 8, 64]))).round(1).tolist()
    [25.2, 34.3, 36.7]
    """
    square = np.asarray(limit, dtype=np.float64) ** 2
    return np.sqrt(square + (1 - square) / fan_in(size))[()]
