"""Codes of a few bits per dimension: each rotated component gets a level, and two numbers make its products unbiased.

Which levels. A rotated component is nearly Gaussian. Levels on a uniform grid through the origin, with the grid's
scale chosen for each vector to maximise the cosine of vector and code, are RaBitQ's extended codes; Lloyd-Max levels
minimise the error of a Gaussian with one scale for all. Measured on SIFT descriptors (128 components), as
1/cosine^2 - 1, which is the variance of an estimated product in units of |x|^2 |q|^2 / 127:

    bits   uniform, scale per vector   Lloyd-Max, one scale   Lloyd-Max, scale per vector
    1.5    .2293                       .2299                  .2293
    2      .1304                       .1301                  .1289
    3      .0359                       .0345                  .0326
    4      .0099                       .0092                  .0079
    6      .00068                      .00061                 .00051

So codes have a scale per vector, and Lloyd-Max levels at 3 and 4 bits, rounded to integers up to 63; at 2 bits a
uniform grid is as good within 1 %, and it needs no table. Nor does it at 6 bits, where 64 levels do not fit into a
register. Eight scales are tried; 32 gain 1 % at 4 bits and 5 % at 6.

Sources: Gao & Long 2024, "RaBitQ" (arXiv 2405.12497); Gao et al. 2024, extended RaBitQ (arXiv 2409.09913); Lloyd 1982
and Max 1960 for the levels.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypersign.bits.levels import LevelCode, nearest_levels

__all__ = [
    "CODE_NOISE",
    "LEVEL_METRICS",
    "NUMBERS",
    "encode",
    "factors",
    "quantize_queries",
    "unit_queries",
    "unit_rows",
]

LEVEL_METRICS = ("euclidean", "cosine", "inner_product")
"""What level codes can estimate."""

NUMBERS = 2
"""How many float32 numbers follow the levels of a code."""

CODE_NOISE: dict[float, float] = {1: 0.571, 1.5: 0.232, 2: 0.131, 3: 0.0347, 4: 0.0087, 6: 0.00079}
"""1/cosine^2 - 1 of a Gaussian vector of many components and its levels."""

UNIT: dict[float, float] = {1: 0.7979, 1.5: 1.2240, 2: 0.4979, 3: 0.03462, 4: 0.04480, 6: 0.05203}
"""What 1 in `LEVELS` stands for, in standard deviations of a Gaussian: the scale of least error."""

SCALES = np.geomspace(0.8, 1.25, 8)
"""Scales tried for each vector, relative to that of a Gaussian."""


def encode(rotated: NDArray[np.floating], code: LevelCode) -> NDArray[np.uint8]:
    """The indices of levels (n, m) that maximise the cosine with each row, among those of eight scales.

        u_j = the level nearest to y_j / (scale unit rms),   y the row in integers up to 32767

    A row of zeros gets the same index everywhere.

    >>> encode(np.array([[-3.0, -1.0, 1.0, 3.0]]), LevelCode(2, 4)).tolist()
    [[0, 1, 2, 3]]
    """
    levels = code.levels.astype(np.float64)
    scales = SCALES if code.bits > 1 else SCALES[:1]
    return nearest_levels(rotated, code, (levels[1:] + levels[:-1]) / 2 * (UNIT[code.bits] * scales)[:, None])


def quantize_queries(rotated: NDArray[np.floating]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Rows (q, m) in integers up to 127, and their steps float32 (q,): row = step integers, nearly.

    The error of a component is at most half a step; a row of zeros has the step 0.

    >>> quantize_queries(np.array([[1.0, -0.5, 0.0]]))[0].tolist()
    [[127, -64, 0]]
    """
    steps = (np.abs(rotated).max(1) / 127).astype(np.float32)
    scaled = rotated / np.where(steps > 0, steps, 1).astype(np.float32)[:, None]
    return np.rint(scaled, out=scaled).astype(np.int8), steps


def unit_queries(x: NDArray[Any]) -> NDArray[np.floating]:
    """Queries scaled to length 1: in float32 if they come in it and squares of their lengths fit, else in float64."""
    if x.dtype == np.float32:
        with np.errstate(over="ignore"):
            lengths = np.sqrt(np.einsum("ij,ij->i", x, x))
        if lengths.size and lengths.min() > 1e-15 and lengths.max() < 1e15:
            return np.asarray(x / lengths[:, None])
    return unit_rows(x)


def factors(
    metric: str,
    x: NDArray[Any],
    mean: NDArray[np.float64],
    rotated: NDArray[np.floating],
    values: NDArray[np.int8],
    pca: bool = False,
) -> NDArray[np.float32]:
    """The numbers that follow the levels of each row, float32 (n, NUMBERS).

        f = |x - mean|^2/<c, y>,   <x - mean, q - mean> ~ f <c, R (q - mean)>
        euclidean: -2 f, |x - mean|^2    cosine and inner product: -f, -<x, mean>

    With `pca`, y has only the part of x - mean along the principal components, and f = |y|^2/<c, y>.

    Args:
        metric: "euclidean", "cosine" or "inner_product".
        x: the vectors (n, d), of length 1 for the cosine.
        mean: what was subtracted (d,).
        rotated: y = R (x - mean), shape (n, m).
        values: c, the levels of y, int8 (n, m).
        pca: whether y is that part alone.
    """
    x = x.astype(np.float64)
    with np.errstate(over="ignore"):
        squares = np.square(x - mean).sum(1)
    products = np.einsum("ij,ij->i", values.astype(np.float64), rotated)
    with np.errstate(over="ignore"):
        kept = np.square(rotated, dtype=np.float64).sum(1) if pca else squares
        f = np.divide(kept, products, out=np.zeros(len(x)), where=products > 0)
    columns = [-2 * f, squares] if metric == "euclidean" else [-f, -(x @ mean)]
    with np.errstate(over="ignore"):
        return np.stack(columns, axis=1).astype("<f4")


def unit_rows(x: NDArray[Any]) -> NDArray[np.float64]:
    """Rows scaled to length 1, in float64; none may be zero.

    >>> unit_rows(np.array([[3, 4]])).tolist()
    [[0.6, 0.8]]
    """
    x = x.astype(np.float64)
    x = x / np.abs(x).max(1, keepdims=True)  # squares of the largest and smallest numbers would leave float64
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True))
