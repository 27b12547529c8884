"""The results of inspection, which figures and reports read.

The dataclasses are the schema of `geometry.json`: `Geometry.save` writes their fields under their own names, and
`Geometry.load` reads them back. Arrays are tuples of floats, so that results can be compared and printed. Names of
angles end in `_degrees`; everything else is a pure number.
"""

import dataclasses
import json
import math
import typing
from pathlib import Path
from typing import Any, Self

from rich.table import Table

from hypersign._checks import HypersignError
from hypersign._display import as_html, as_text, shown
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

T = typing.TypeVar("T")
Floats = tuple[float, ...]


@shown
@dataclasses.dataclass(frozen=True)
class Density:
    """A density estimate: `density[i]` is the density at `grid[i]`, per unit of `grid`. Both have the same length."""

    grid: Floats
    density: Floats


@shown
@dataclasses.dataclass(frozen=True)
class Histogram:
    """A 2-D histogram: `counts[i][j]` pairs have x in `[x_edges[i], x_edges[i+1])` and y in `[y_edges[j], ...)`.

    The outermost bins also count the pairs outside the edges.
    """

    x_edges: Floats
    y_edges: Floats
    counts: tuple[tuple[int, ...], ...]


@shown
@dataclasses.dataclass(frozen=True)
class AngleStats:
    """The angle between each latent filter and its quantized version, over the filters of a layer, in degrees.

    `per_filter` has one angle per filter, NaN if the filter or its levels are all zero. `mean`, `std` (of the
    sample, n - 1) and `density` are over the other filters; they are NaN or 0 if there are too few. `peak` is where
    the kernel density is highest. `predicted_*` is the theory for Gaussian weights with this fan-in and quantizer
    (`theory.sign_angle`, or the ternary law at the layer's own threshold/std). `moments_*` is the prediction for
    filters whose weights are drawn at random from the layer's own (`theory.moments_angle`). If the angle does not
    vary, both densities use the smallest bandwidth, .01 degrees. A quantizer that states neither thresholds nor a
    cosine has no prediction: the predicted values are NaN and the predicted density is 0. A cosine alone predicts
    means, but no spread.
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


@shown
@dataclasses.dataclass(frozen=True)
class WeightStats:
    """The latent weights of a layer: moments (`kurtosis` is 3 for a Gaussian), density and thresholds.

    `thresholds` are the values where the level changes: 0 for the sign, -t and t for ternary levels (the mean t if
    each filter has its own). An Identity, or a quantizer that states no thresholds, has none.
    """

    mean: float
    std: float
    skewness: float
    kurtosis: float
    absolute_mean: float
    density: Density
    thresholds: Floats


@shown
@dataclasses.dataclass(frozen=True)
class DotProducts:
    """Two versions y and x of a layer's dot products, compared over images, positions and filters.

    r is pooled over filters in `pearson_r`, and there is one for each filter in `pearson_r_per_filter` (NaN, written
    as null, if the filter's products do not vary). There are three numbers, and a reference:

        pearson_r              measured on test images
        training_pearson_r     the same formula on training images: it checks that the result holds for other images
        predicted_pearson_r    before anything is quantized, from mean and covariance of the layer's real inputs and
                               the rules of the quantizers (`geometry.predictions`)
        independent_pearson_r  the reference if inputs were independent and normal, with mean 0 and variance 1: the
                               cosine between latent and quantized filter, averaged over filters, for weights and
                               permuted; between a normal and its quantized version (sqrt(2/pi) for the sign) for
                               activations; the product of the two for both

    `permuted` inputs are independent, so there the prediction is the reference. `..._error` is a standard error, from
    a jackknife over groups of images (NaN for up to five images). Without training images the other numbers are NaN
    and the tuples empty.

    `slope` and `intercept` describe the least-squares line of y on x. `sign_disagreement` is the share of pairs whose
    signs differ (0 counts as positive); `training_sign_disagreement` is that of the training images.
    `predicted_sign_disagreement` is a reference for jointly normal products with the r and the means of each filter
    on training images, averaged over filters. Products of first and last layers are often not normal.
    """

    pearson_r: float
    pearson_r_per_filter: Floats
    slope: float
    intercept: float
    sign_disagreement: float
    histogram: Histogram
    independent_pearson_r: float  # required: files of earlier versions lack it, and their predicted_pearson_r is this
    pearson_r_error: float = math.nan
    training_pearson_r: float = math.nan
    training_pearson_r_error: float = math.nan
    training_pearson_r_per_filter: Floats = ()
    predicted_pearson_r: float = math.nan
    predicted_pearson_r_per_filter: Floats = ()
    training_sign_disagreement: float = math.nan
    predicted_sign_disagreement: float = math.nan

    @property
    def difference_error(self) -> float:
        """The standard error of a difference between test and training images."""
        return math.hypot(self.pearson_r_error, self.training_pearson_r_error)

    @property
    def departs(self) -> bool:
        """Whether measured and predicted r differ by more than three standard errors."""
        return abs(self.pearson_r - self.predicted_pearson_r) > 3 * self.difference_error

    @property
    def training_departs(self) -> bool:
        """Whether r on test and on training images differ by more than three standard errors."""
        return abs(self.pearson_r - self.training_pearson_r) > 3 * self.difference_error


@shown
@dataclasses.dataclass(frozen=True)
class WhatIfCurve:
    """The predicted effect of a quantizer on a layer, as a function of its threshold or its number of levels.

    `kind` is "threshold" (ternary weights, in standard deviations of each filter; 0 is the sign) or "levels" (of the
    weights); or "input threshold" and "input levels", where the inputs change instead (in standard deviations of the
    layer's inputs). `rotation` is applied to the filters before quantizing and undone after it: "none" or "hadamard".
    Each of `values` has medians over `filters` filters, evenly spread over the layer: the angle between latent and
    quantized filter, the predicted correlation of dot products with weights, activations and both binarized, and the
    share of signs that weights change, counted on a sample of the inputs. A median is NaN if no filter has a value.
    """

    rotation: str
    kind: str
    filters: int
    values: Floats
    angle_degrees: Floats
    pearson_r: Floats
    sign_flip_share: Floats
    activations_pearson_r: Floats = ()
    both_pearson_r: Floats = ()


@shown
@dataclasses.dataclass(frozen=True)
class Components:
    """Shares in the k leading principal components of a layer's inputs, for each k of `numbers`.

    `variance` is the share of the inputs' variance. `weight_energy` and `level_energy` are the shares of the squared
    length of the latent filters and of their levels, averaged over filters; filters in random directions have k/d.
    All are empty if they were not computed.
    """

    numbers: tuple[int, ...] = ()
    variance: Floats = ()
    weight_energy: Floats = ()
    level_energy: Floats = ()


@shown
@dataclasses.dataclass(frozen=True)
class LayerGeometry:
    """Everything measured about one quantized layer.

    `kind` is the layer's class. `level_shares` is the share of weights on each level ("-1", "0", "+1"; empty for an
    Identity). `input_quantizer` and `weight_quantizer` describe the quantizers on one line each. The dot products
    compared, with a for inputs, w for weights, b for quantized and c for continuous:

        weights_binarized       x = a_b.w_b, y = a_b.w_c
        activations_binarized   x = a_c.w_b, y = a_b.w_b
        both_binarized          x = a_c.w_c, y = a_b.w_b
        permuted                as `weights_binarized`, with permuted activations

    The other fields come from the covariance C of the layer's inputs a_b over `Geometry.covariance_images` training
    images, as do the predictions among the dot products.
    `effective_dimension` is (trace C)^2 / |C|_F^2, the number of directions in which the inputs vary.
    `components` says how much of the filters lies in the leading directions.
    `what_if` predicts the effect of other quantizers, and `methods`, if it was asked for, that of the methods of the
    field: the fields of a `MethodGeometry` each. `recommendation` is "keep in float" for a layer that would lose
    everything; `reason` says why, and remarks on filters and inputs that do nothing. If no covariance was measured,
    these fields are empty or NaN, and `reason` says why.
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
    effective_dimension: float = math.nan
    components: Components = Components()
    what_if: tuple[WhatIfCurve, ...] = ()
    methods: tuple[dict[str, Any], ...] = ()
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

    `covariance_images` is the number of images behind the predictions from covariance, 0 if there are none.
    """

    run: str
    dataset: str
    images: int
    accuracy: float
    layers: tuple[LayerGeometry, ...]
    covariance_images: int = 0

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False)
        for name in ("layer", "fan-in", "angle", "predicted", "r", "predicted"):
            table.add_column(name, justify="left" if name == "layer" else "right", no_wrap=True)
        for layer in self.layers:
            angle, r = layer.angle_degrees, layer.weights_binarized
            numbers = (angle.mean, angle.predicted_mean, r.pearson_r, r.predicted_pearson_r)
            cells = (f"{x:.{digits}f}" for x, digits in zip(numbers, (1, 1, 2, 2), strict=True))
            table.add_row(layer.name, f"{layer.fan_in:,}", *cells)
        return table

    def _head(self) -> str:
        return (
            f"Geometry of {self.run}: {self.accuracy:.2%} of {self.images:,} {self.dataset} test images; "
            "angle in degrees and r with quantized weights"
        )

    def __repr__(self) -> str:
        return as_text(self._head(), self._table())

    def _repr_html_(self) -> str:
        return as_html(self._head(), self._table())

    def save(self, path: Path) -> None:
        """Writes these fields to `geometry.json`, with NaN as null. A failed write leaves no partial file.

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
        return from_plain(cls, value, str(path))


def from_plain(kind: type[T], value: Any, origin: str) -> T:
    """An object of a dataclass of results, from what JSON holds of it: null is NaN.

    Raises:
        HypersignError: a field is missing or has another type; the message begins with `origin`.
    """
    try:
        return typing.cast(T, _typed(kind, value, ""))
    except _Mismatch as error:
        raise HypersignError(
            f"{origin} must be as this version of HyperSign writes it; {error}; inspect again"
        ) from None


class _Mismatch(Exception):
    """A value that does not fit its field; the message names the field and the reason."""


def _typed(kind: Any, value: Any, where: str) -> Any:
    """Turns `value`, read from JSON, into an object of type `kind`: a dataclass, tuple, dict, float, int or str."""
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
