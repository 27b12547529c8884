"""What inspection found, as named results: the one thing that measures hand to figures and reports.

The dataclasses are the schema of `geometry.json`: `Geometry.save` writes their fields under their own names,
`Geometry.load` reads them back. Arrays are tuples of floats there, so that a result compares and prints as
what it is. Angles end in `_degrees`; everything else is a pure number.
"""

import dataclasses
import json
import types
import typing
from pathlib import Path
from typing import Any, Self

from hypersign._checks import HypersignError

__all__ = ["Geometry", "LayerGeometry", "AngleStats", "WeightStats", "DotProducts", "Density", "Histogram"]

Floats = tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Density:
    """A density estimate: `density[i]` per unit of `grid`, at `grid[i]` (both of one length)."""

    grid: Floats
    density: Floats


@dataclasses.dataclass(frozen=True)
class Histogram:
    """A 2-D histogram: `counts[i][j]` pairs with x in `[x_edges[i], x_edges[i+1])`, y in `[y_edges[j], ...)`.

    Pairs outside the edges are counted in the outermost bins.
    """

    x_edges: Floats
    y_edges: Floats
    counts: tuple[tuple[int, ...], ...]


@dataclasses.dataclass(frozen=True)
class AngleStats:
    """Angle between each latent filter and its quantized version, over the filters of a layer, in degrees.

    `predicted_*` is exact theory for Gaussian weights at this fan-in and quantizer; `moments_*` is the
    prediction for independent weights with the layer's own empirical moments; `per_filter` the angles
    themselves; `peak` where their kernel density is highest.
    """

    mean: float
    std: float
    peak: float
    predicted_mean: float
    predicted_std: float
    moments_mean: float
    moments_std: float
    per_filter: Floats
    density: Density
    predicted_density: Density


@dataclasses.dataclass(frozen=True)
class WeightStats:
    """Latent weights of a layer: moments (`kurtosis` is 3 for a Gaussian), density, and thresholds drawn in it."""

    mean: float
    std: float
    skewness: float
    kurtosis: float
    absolute_mean: float
    density: Density
    thresholds: Floats


@dataclasses.dataclass(frozen=True)
class DotProducts:
    """One family of dot products against another, over images, positions and filters of a layer.

    `pearson_r` pools everything, `pearson_r_per_filter` one value a filter (NaN, written null, where a
    filter's products do not vary); `slope` is that of the least-squares line y on x; `sign_disagreement` the
    share of pairs whose signs differ; `intercept` belongs to the line.
    """

    pearson_r: float
    pearson_r_per_filter: Floats
    predicted_pearson_r: float
    slope: float
    intercept: float
    sign_disagreement: float
    predicted_sign_disagreement: float
    histogram: Histogram


@dataclasses.dataclass(frozen=True)
class LayerGeometry:
    """Everything measured of one quantized layer.

    `kind` is the layer's class, `level_shares` the share of weights on each level ("-1", "0", "+1"),
    `input_quantizer` and `weight_quantizer` their representations.
    `weights_binarized` holds x = a_b.w_b, y = a_b.w_c; `activations_binarized` x = a_c.w_b, y = a_b.w_b;
    `both_binarized` x = a_c.w_c, y = a_b.w_b; `permuted` is the first with the activations permuted.
    """

    name: str
    kind: str
    fan_in: int
    filters: int
    input_quantizer: str
    weight_quantizer: str
    angle_degrees: AngleStats
    level_shares: dict[str, float]
    latent_weights: WeightStats
    weights_binarized: DotProducts
    activations_binarized: DotProducts
    both_binarized: DotProducts
    permuted: DotProducts


@dataclasses.dataclass(frozen=True)
class Geometry:
    """What inspection of one network on `images` images of `dataset` found; `accuracy` is over those images."""

    run: str
    dataset: str
    images: int
    accuracy: float
    layers: tuple[LayerGeometry, ...]

    def save(self, path: Path) -> None:
        """Writes `geometry.json`: these fields, NaN as null, whole or not at all."""
        raise NotImplementedError

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads what `save` wrote.

        Raises:
            HypersignError: the file is missing, is not JSON, or lacks a field.
        """
        raise NotImplementedError
