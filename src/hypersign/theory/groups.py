"""The cosine for binary weights with one scale per group of weights."""

import numpy as np
from numpy.typing import ArrayLike

from hypersign.theory._arrays import Array, fan_in

__all__ = ["group_cosine"]

NORMAL = np.sqrt(2 / np.pi)


def group_cosine(size: ArrayLike, limit: ArrayLike = NORMAL) -> Array:
    """Cosine between infinitely many independent weights and their signs, with one scale per group of `size` weights.

        c = sqrt(c_inf^2 + (1 - c_inf^2)/beta),   beta the size of a group, c_inf = E|w| / sqrt(E w^2)

    The scale of a group is its mean |w|, which is the least-squares scale. beta = 1 loses nothing (0 degrees). A
    large beta amounts to one scale for all weights: the cosine is then `limit`, which is c_inf. By default it is that
    of normal weights (37.07 degrees). Raises HypersignError if a size is below 1.
    Source: in a group's |w|_1^2, each of the beta squares has mean E w^2, each of the beta (beta - 1) products
    (E|w|)^2.

    >>> np.degrees(np.arccos(group_cosine([2, 8, 64]))).round(1).tolist()
    [25.2, 34.3, 36.7]
    """
    square = np.asarray(limit, dtype=np.float64) ** 2
    return np.sqrt(square + (1 - square) / fan_in(size))[()]
