"""The results of inspection: the one thing that measures hand to figures and reports.

The dataclasses are the schema of `geometry.json`: `Geometry.save` writes their fields under their own names,
`Geometry.load` reads them back. Arrays are tuples of floats there, so that a result compares and prints as
what it is. Angles end in `_degrees`; everything else is a pure number.
"""

import dataclasses
import json
import math
import typing
from pathlib import Path
from typing import Any, Self

from hypersign._checks import HypersignError
from hypersign._files import write_atomic
from hypersign._json import plain

__all__ = [
    "Geometry",
    "LayerGeometry",
    "AngleStats",
    "WeightStats",
    "DotProducts",
    "Density",
    "Histogram",
    "WhatIfCurve",
    "Components",
]

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

    `predicted_*` is theory for Gaussian weights at this fan-in and quantizer (`theory.sign_angle`, or the
    ternary law at the layer's own threshold/std); `moments_*` is the prediction for independent weights with
    the layer's own empirical moments; `per_filter` the angles themselves, NaN where the filter or its levels
    are all zero; `mean`, `std` (of the sample, n - 1) and `density` are over the others, NaN or 0 where there
    are too few; `peak` is where the kernel density is highest. An angle that does not vary is drawn with the
    smallest bandwidth, .01 degrees, in both densities.
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
    """Latent weights of a layer: moments (`kurtosis` is 3 for a Gaussian), density, and thresholds drawn in it.

    `thresholds` are the places where the level changes: 0 for the sign, -t and t for ternary levels (the mean
    t where each filter has its own), none for an Identity or a quantizer that states no thresholds.
    """

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
    share of pairs whose signs differ, 0 counting as positive; `intercept` belongs to the line.

    `predicted_pearson_r` is theory for uncorrelated inputs of unit variance (correlation matrix R = I):
    weights binarized and permuted: the mean over filters of the cosine between latent and quantized filter;
    activations binarized: the cosine between a standard normal and its quantized version (sqrt(2/pi) for the
    sign), 1 without an input quantizer; both: the product of the two. `predicted_sign_disagreement` is
    arccos(predicted_pearson_r)/pi, for normal products of zero mean, which those of first and last layers are not.
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
class WhatIfCurve:
    """Predicted effect of a quantizer on a layer, against its threshold or its number of levels.

    `kind` is "threshold" (ternary, in standard deviations of each filter; 0 is the sign) or "levels"; `rotation` what
    the filters go through before and back after: "none" or "hadamard". For each of `values`: the medians over
    `filters` filters, evenly spread over the layer's, of the angle between latent and quantized filter and of the
    predicted correlation and share of flipped signs of dot products; NaN where no filter has one.
    """

    rotation: str
    kind: str
    filters: int
    values: Floats
    angle_degrees: Floats
    pearson_r: Floats
    sign_flip_share: Floats


@dataclasses.dataclass(frozen=True)
class Components:
    """Shares in the k leading principal components of a layer's inputs, for each k of `numbers`.

    `variance` of the inputs' variance, `weight_energy` and `level_energy` of the squared length of the latent filters
    and of their levels, means over filters: k/d for filters that lie anyhow. Empty where not computed.
    """

    numbers: tuple[int, ...] = ()
    variance: Floats = ()
    weight_energy: Floats = ()
    level_energy: Floats = ()


@dataclasses.dataclass(frozen=True)
class LayerGeometry:
    """Everything measured of one quantized layer.

    `kind` is the layer's class, `level_shares` the share of weights on each level ("-1", "0", "+1"; empty for
    an Identity), `input_quantizer` and `weight_quantizer` what quantizes them, on one line.
    `weights_binarized` holds x = a_b.w_b, y = a_b.w_c; `activations_binarized` x = a_c.w_b, y = a_b.w_b;
    `both_binarized` x = a_c.w_c, y = a_b.w_b; `permuted` is the first with the activations permuted.

    From the covariance C of the layer's inputs a_b over `Geometry.covariance_images` training images:
    `covariance_pearson_r` predicts `weights_binarized.pearson_r_per_filter`, w'Cb / sqrt(w'Cw b'Cb), and
    `training_sign_disagreement` is the share of signs that differ, counted on those images (a check that what is
    measured holds for other images; NaN where not counted), and
    `effective_dimension` is (trace C)^2 / |C|_F^2, of how many directions the inputs vary in; `components` says how
    the filters lie to these; `what_if` what other quantizers would do; `recommendation` ("binarize", "ternarize" or
    "keep in float") and its `reason` are `layer_advice`'s for the latent weights. Empty and NaN where no covariance
    was measured, and then `reason` says why.
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
    covariance_pearson_r: Floats = ()
    training_sign_disagreement: float = math.nan
    effective_dimension: float = math.nan
    components: Components = Components()
    what_if: tuple[WhatIfCurve, ...] = ()
    recommendation: str = ""
    reason: str = ""

    @property
    def quantizes_weights(self) -> bool:
        """Whether the weights are quantized: the weight quantizer is no Identity."""
        return self.weight_quantizer != "Identity()"

    @property
    def quantizes_inputs(self) -> bool:
        """Whether the inputs are quantized: the input quantizer is no Identity."""
        return self.input_quantizer != "Identity()"


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Result of inspecting one network on `images` images of `dataset`; `accuracy` is over those images.

    `covariance_images` counts the images that predictions from covariance come from, 0 where there are none.
    """

    run: str
    dataset: str
    images: int
    accuracy: float
    layers: tuple[LayerGeometry, ...]
    covariance_images: int = 0

    def save(self, path: Path) -> None:
        """Writes `geometry.json`: these fields, NaN as null, whole or not at all.

        Raises:
            HypersignError: the file cannot be written.
        """
        write_atomic(Path(path), json.dumps(plain(dataclasses.asdict(self)), allow_nan=False) + "\n")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads what `save` wrote.

        Raises:
            HypersignError: the file is missing, is not JSON, or lacks a field that has no default.
        """
        path = Path(path)
        try:
            value = json.loads(path.read_bytes())
        except OSError as error:
            raise HypersignError(
                f"{path} could not be read ({error.strerror}); `hypersign inspect` writes it"
            ) from error
        except ValueError as error:  # JSONDecodeError and UnicodeDecodeError
            raise HypersignError(
                f"{path} must be JSON as `hypersign inspect` writes it; {error}; inspect again"
            ) from error
        try:
            return _typed(cls, value, "")
        except _Mismatch as error:
            raise HypersignError(
                f"{path} must be as this version of HyperSign writes it; {error}; inspect again"
            ) from None


class _Mismatch(Exception):
    """A value that does not fit its field; the text says which and how."""


def _typed(kind: Any, value: Any, where: str) -> Any:
    """`value`, as JSON gives it, as an object of type `kind`: a dataclass, tuple, dict, float, int or str."""
    if dataclasses.is_dataclass(kind):
        _expect(value, dict, "an object", where)
        hints = typing.get_type_hints(kind)
        needed = {field.name for field in dataclasses.fields(kind) if field.default is dataclasses.MISSING}
        missing = [name for name in hints if name in needed and name not in value]
        if missing:
            raise _Mismatch(f"{where or 'the top level'} lacks {', '.join(missing)}")
        prefix = f"{where}." if where else ""
        fields = {name: _typed(hint, value[name], prefix + name) for name, hint in hints.items() if name in value}
        return typing.cast(Any, kind)(**fields)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        _expect(value, list, "a list", where)
        return tuple(_typed(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is dict:
        _expect(value, dict, "an object", where)
        return {key: _typed(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if kind is float:
        if value is None:
            return math.nan
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _Mismatch(f"{where} must be a number or null and is {value!r:.40}")
        return float(value)
    if isinstance(value, bool) or not isinstance(value, kind):
        raise _Mismatch(f"{where} must be of type {kind.__name__} and is {value!r:.40}")
    return value


def _expect(value: Any, kind: type, words: str, where: str) -> None:
    if not isinstance(value, kind):
        raise _Mismatch(f"{where or 'the top level'} must be {words} and is {value!r:.40}")
