"""Correlations and signs of dot products."""

import numpy as np
from numpy.typing import ArrayLike

from hypersign.geometry.theory._arrays import Array

__all__ = ["sign_disagreement"]


def sign_disagreement(r: ArrayLike) -> Array:
    """Share of pairs of zero-mean, jointly normal numbers with correlation r whose signs differ.

        P = arccos(r) / pi

    With means or thresholds away from zero it can be far off. r beyond [-1, 1] by rounding counts as +-1.
    Source: Sheppard 1899; Anderson & Berg 2018 (arXiv 1705.07199), section 4.

    >>> round(float(sign_disagreement(0.8)), 3)
    0.205
    """
    return np.arccos(np.clip(np.asarray(r, dtype=np.float64), -1, 1)) / np.pi
