"""Predicts the effect of any quantizer on a layer's dot products, from the covariance of its inputs alone."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from rich.table import Table
from torch import Tensor

from hypersign import theory
from hypersign._checks import HypersignError, check_int
from hypersign._display import shown
from hypersign.geometry.covariance.measure import LayerCovariance
from hypersign.quantizers import GroupScaled, Optimal, Quantizer, Rotated, Sign, Ternary
from hypersign.rotations import HadamardRotation

__all__ = [
    "LloydMax",
    "WhatIf",
    "predicted_r",
    "usual_quantizers",
    "what_if",
    "what_if_table",
]

WeightQuantizer = Callable[[Tensor], Tensor]


@shown
@dataclasses.dataclass(frozen=True)
class LloydMax:
    """The k levels with the smallest mean squared error for Gaussian weights, scaled by each filter's size.

        q(x) = sigma l_i   where t_(i-1) <= x/sigma < t_i,   l, t as in `theory.lloyd_max`

    sigma is the root mean square of the filter's weights. k = 2 is the sign; k = 3 is `Ternary(Optimal())` if the
    weights have no mean. This class is for what-ifs about weights; layers do not accept it.

    Raises:
        HypersignError: k is not an integer from 1 to 16,384.

    >>> LloydMax(4)(torch.tensor([[-2.0, -0.5, 0.5, 2.0]]))
    tensor([[-2.2018, -0.6600,  0.6600,  2.2018]])
    """

    k: int

    def __post_init__(self) -> None:
        check_int("k, the number of levels,", self.k, min=1, max=16384)

    def __call__(self, weights: Tensor) -> Tensor:
        """The levels of filters of shape `(filters, d)`."""
        levels, thresholds = (
            torch.tensor(values, dtype=weights.dtype, device=weights.device)
            for values in dataclasses.astuple(theory.lloyd_max(self.k))
        )
        sigma = weights.square().mean(1, keepdim=True).sqrt()
        return sigma * levels[torch.bucketize((weights / sigma).nan_to_num(), thresholds, right=True)]


@shown
@dataclasses.dataclass(frozen=True)
class WhatIf:
    """The predicted effect of a quantizer on a layer, with one value per filter.

    `angle_degrees` is the angle between the latent filter w and the quantized filter b. `pearson_r` is the predicted
    correlation of the dot products a.w and a.b over the inputs a. `sign_flip_share` is the predicted share of dot
    products whose signs differ, for jointly normal products with these means. Products of first and last layers are
    often not normal: for a network on CIFAR-10, .267 and .191 were predicted there, and .300 and .208 counted on the
    same images; single filters were off by .18. `LayerCovariance.sign_flips` counts them for a layer's own quantizer.
    A value is NaN if w or b is zero or NaN, or if the products do not vary.
    """

    quantizer: str
    angle_degrees: tuple[float, ...]
    pearson_r: tuple[float, ...]
    sign_flip_share: tuple[float, ...]

    def median(self, field: str) -> float:
        """The median of one of the three fields over the filters where it is not NaN; NaN if there are none."""
        values = np.asarray(getattr(self, field))
        known = values[~np.isnan(values)]
        return float(np.median(known)) if len(known) else np.nan


def usual_quantizers(fan_in: int) -> dict[str, WeightQuantizer]:
    """The quantizers of a what-if table, by name: sign, ternary, more levels, group scales, Hadamard rotations.

    A Haar rotation, `Rotated(Sign(), HaarRotation(fan_in, seed=0))`, is not included: it gives the same result as
    three rounds of Hadamard, and needs a matrix of fan_in^2 numbers.

    >>> list(usual_quantizers(27))[:5]
    ['sign', 'ternary, best threshold', '4 levels', '8 levels', 'sign, a scale per 8']
    """
    return {
        "sign": Sign(),
        "ternary, best threshold": Ternary(Optimal()),
        **{f"{k} levels": LloydMax(k) for k in (4, 8)},
        **{f"sign, a scale per {size}": GroupScaled(Sign(), size) for size in (8, 64) if size < fan_in},
        **{
            f"sign, Hadamard-{rounds}": Rotated(Sign(), HadamardRotation(fan_in, rounds=rounds, seed=0))
            for rounds in (1, 3)
        },
    }


def what_if(layer: LayerCovariance, quantizers: Mapping[str, WeightQuantizer] | None = None) -> tuple[WhatIf, ...]:
    """Predicts what quantizing the weights would do to a layer: the angle, r and sign flips of every filter.

        r = w'Cb / sqrt(w'Cw b'Cb),   b = q(w),   C the covariance of the layer's inputs
        flips = mass of the bivariate normal where one of a.w, a.b is negative, the other not

    For the inputs from which C was computed, r is exact, whatever their distribution. Flips are exact if the
    products are normal. A scale per filter changes neither.

    Args:
        layer: one of the layers that `input_covariances` returns.
        quantizers: maps names to quantizers such as `Ternary(0.1)`, `LloydMax(4)`, `GroupScaled(Sign(), 64)` or
            `Rotated(Sign(), HaarRotation(fan_in, seed=0))`, which is the generalized binarization R' sign(R w). Any
            function that maps filters `(filters, d)` to quantized filters will do. `usual_quantizers` if None.

    Returns one `WhatIf` per quantizer. Raises:
        HypersignError: a quantizer returns another shape.

    Source: Anderson & Berg 2018 (arXiv 1705.07199), sections 2.2 and 3.5; `theory.weights_binarized_r`.

    >>> _ = torch.manual_seed(0)
    >>> from hypersign.geometry.covariance import input_covariances
    >>> model, inputs = torch.nn.Linear(256, 32), torch.randn(2000, 256)
    >>> layer = input_covariances(model, [inputs]).layers[""]
    >>> rows = what_if(layer, {"sign": Sign(), "4 levels": LloydMax(4)})
    >>> [(row.quantizer, round(row.median("pearson_r"), 2)) for row in rows]  # uniform weights: .866
    [('sign', 0.86), ('4 levels', 0.96)]
    """
    quantizers = usual_quantizers(layer.fan_in) if quantizers is None else quantizers
    products = _Products(layer)
    latent = torch.from_numpy(layer.weights)
    # A quantizer may map NaN to +1, but a filter that contains NaN has no levels.
    broken = ~np.isfinite(layer.weights).all(1, keepdims=True)
    found = []
    for name, quantizer in quantizers.items():
        with torch.no_grad():
            levels = quantizer.effective(latent) if isinstance(quantizer, Quantizer) else quantizer(latent)
        if levels.shape != latent.shape:
            raise HypersignError(
                f"a quantizer must keep the shape {tuple(latent.shape)} of the filters; {name} returned "
                f"{tuple(levels.shape)}"
            )
        found.append(products.against(name, np.where(broken, np.nan, levels.numpy())))
    return tuple(found)


def predicted_r(layer: LayerCovariance) -> np.ndarray:
    """The predicted correlation between a layer's dot products with latent weights and with its quantized weights.

        r = w'Cb / sqrt(w'Cw b'Cb),   b the filter's levels

    For the inputs from which C was computed, it equals the measured correlation, `weights_binarized` of `inspect`.
    For other inputs it estimates that correlation. The result has shape `(filters,)`; it is NaN for filters whose
    products do not vary.

    >>> from hypersign.layers import QuantLinear
    >>> from hypersign.geometry.covariance import input_covariances
    >>> layer = QuantLinear(2, 1, weight_quantizer=Sign())
    >>> _ = layer.weight.data.copy_(torch.tensor([[3.0, 1.0]]))
    >>> found = input_covariances(layer, [torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])])
    >>> predicted_r(found.layers[""]).round(4).tolist()  # 4 / sqrt(10 * 2)
    [0.8944]
    """
    return np.asarray(_Products(layer).against("", layer.levels).pearson_r)


def what_if_table(rows: Sequence[WhatIf], title: str = "") -> Table:
    """The what-ifs as a table for a terminal: medians over filters, and the smallest r."""
    table = Table(
        title=title,
        caption="medians over filters; least r: of all filters;\n"
        "signs flipped: if products are normal (off by up to .03 in first and last layers)",
        caption_justify="left",
    )
    table.add_column("weights", no_wrap=True)
    for name in ("angle", "r", "least r", "signs\nflipped"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        least = np.nanmin(row.pearson_r) if not np.isnan(row.pearson_r).all() else np.nan
        table.add_row(
            row.quantizer,
            f"{row.median('angle_degrees'):.1f}°",
            f"{row.median('pearson_r'):.3f}",
            f"{least:.3f}",
            f"{100 * row.median('sign_flip_share'):.1f} %",
        )
    return table


class _Products:
    """Means, variances and covariances of a layer's dot products; those with latent weights are computed once."""

    def __init__(self, layer: LayerCovariance) -> None:
        self.layer = layer
        shape = (layer.groups, -1, layer.fan_in)
        self.latent = layer.weights.reshape(shape)
        self.spread = np.sqrt(layer.covariance.diagonal(axis1=1, axis2=2))[:, None]  # (groups, 1, d)
        self.latent_c = self.latent @ layer.covariance
        self.variance, self.mean = self._moments(self.latent, self.latent_c)

    def _moments(self, weights: np.ndarray, weights_c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Variance and mean of the products with `weights`; `weights_c` is `weights` times C.

        A variance no larger than its rounding error becomes 0.
        """
        variance = (weights_c * weights).sum(2)
        mean = (weights * self.layer.mean[:, None]).sum(2)
        size = np.abs(weights)
        rounding = 1e-7 * (size * self.spread).sum(2) + 1e-12 * (size * np.abs(self.layer.mean[:, None])).sum(2)
        return np.where(variance > rounding**2, variance, np.where(np.isnan(variance), np.nan, 0.0)), mean

    def against(self, name: str, values: np.ndarray) -> WhatIf:
        """The what-if for the quantized filters `values`, of shape (filters, d)."""
        levels = values.reshape(self.latent.shape)
        variance, mean = self._moments(levels, levels @ self.layer.covariance)
        r = _ratio((self.latent_c * levels).sum(2), self.variance * variance)
        cosine = _ratio((self.latent * levels).sum(2), (self.latent**2).sum(2) * (levels**2).sum(2))
        with np.errstate(divide="ignore", invalid="ignore"):  # means of products that do not vary
            first, second = self.mean / np.sqrt(self.variance), mean / np.sqrt(variance)
        flips = theory.sign_flip_share(r, first, second)
        angle = np.degrees(np.arccos(cosine))
        return WhatIf(name, *(tuple(found.ravel().tolist()) for found in (angle, r, flips)))


def _ratio(product: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """A correlation or cosine, from the product and the product of squares; NaN if the squares are 0."""
    root = np.sqrt(np.where(squares > 0, squares, np.nan))
    return np.clip(product / root, -1, 1)
