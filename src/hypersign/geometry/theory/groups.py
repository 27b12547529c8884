"""One scale for each group of weights."""

import numpy as np
from numpy.typing import ArrayLike

from hypersign.geometry.theory._arrays import Array
from hypersign.geometry.theory.sign import sign_cosine_second_moment

__all__ = ["group_cosine"]


def group_cosine(size: ArrayLike) -> Array:
    """Cosine between infinitely many independent normals and their signs, with one scale a group of `size`.

        c = sqrt(2/pi + (1 - 2/pi)/beta),   beta the size of a group

    Every group's scale is its mean |w|, the least-squares one. beta = 1 keeps everything (0 degrees); a large
    beta is one scale for all (37.07 degrees). Raises HypersignError where the size is below 1.
    Source: the scaled signs keep E c^2 of each group's square, as `sign_cosine_second_moment` has it.

    >>> np.degrees(np.arccos(group_cosine([2, 8, 64]))).round(1).tolist()
    [25.2, 34.3, 36.7]
    """
    return np.sqrt(sign_cosine_second_moment(size))
