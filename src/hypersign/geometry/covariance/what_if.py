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
from hypersign.geometry.covariance.real_inputs import RealInputs, steps_of
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

    `angle_degrees` is the angle between the latent filter w and the quantized filter b. The others are for the inputs
    q that the layer sees and its real inputs a: `pearson_r` is the predicted correlation of q.w and q.b (weights
    binarized), `activations_pearson_r` of a.b and q.b, and `both_pearson_r` of a.w and q.b. Without an input
    quantizer q is a. `sign_flip_share` is the share of dot products whose signs differ between q.w and q.b, counted
    on a sample of the inputs, with a standard error of up to .5/sqrt(n) for n vectors; without a sample, or for
    another input quantizer, it is that of jointly normal products with these means. A value is NaN if w or b is zero
    or NaN, if the products do not vary, or if there is no prediction.
    """

    quantizer: str
    angle_degrees: tuple[float, ...]
    pearson_r: tuple[float, ...]
    sign_flip_share: tuple[float, ...]
    activations_pearson_r: tuple[float, ...] = ()
    both_pearson_r: tuple[float, ...] = ()

    def median(self, field: str) -> float:
        """The median of one of the fields over the filters where it is not NaN; NaN if there are none."""
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


def what_if(
    layer: LayerCovariance,
    quantizers: Mapping[str, WeightQuantizer] | None = None,
    *,
    inputs: WeightQuantizer | None = None,
) -> tuple[WhatIf, ...]:
    """Predicts what quantizing the weights would do to a layer: the angle, r and sign flips of every filter.

        r = w'Cb / sqrt(w'Cw b'Cb),   b = q(w),   C the covariance of the layer's inputs

    For the inputs from which C was computed, r with binarized weights is exact, whatever their distribution. r with
    binarized activations, or both, follows from the real inputs (`theory.QuantizedNormals`). A scale per filter
    changes neither.

    Args:
        layer: one of the layers that `input_covariances` returns.
        quantizers: maps names to quantizers such as `Ternary(0.1)`, `LloydMax(4)`, `GroupScaled(Sign(), 64)` or
            `Rotated(Sign(), HaarRotation(fan_in, seed=0))`, which is the generalized binarization R' sign(R w). Any
            function that maps filters `(filters, d)` to quantized filters will do. `usual_quantizers` if None.
        inputs: a quantizer of inputs in place of the layer's own, such as `Ternary(0.5)`: any function of single
            numbers. The inputs that the layer then sees are predicted too.

    Returns one `WhatIf` per quantizer. Raises:
        HypersignError: a quantizer returns another shape; `inputs` is no function of single numbers.

    Source: Anderson & Berg 2018 (arXiv 1705.07199), sections 2.2 and 3.5; `theory.weights_binarized_r`.

    >>> _ = torch.manual_seed(0)
    >>> from hypersign.geometry.covariance import input_covariances
    >>> model, inputs = torch.nn.Linear(256, 32), torch.randn(2000, 256)
    >>> layer = input_covariances(model, [inputs]).layers[""]
    >>> rows = what_if(layer, {"sign": Sign(), "4 levels": LloydMax(4)})
    >>> [(row.quantizer, round(row.median("pearson_r"), 2)) for row in rows]  # uniform weights: .866
    [('sign', 0.86), ('4 levels', 0.96)]
    >>> (row,) = what_if(layer, {"sign": Sign()}, inputs=Sign())
    >>> round(row.median("activations_pearson_r"), 2), round(row.median("both_pearson_r"), 2)
    (0.8, 0.69)
    """
    quantizers = usual_quantizers(layer.fan_in) if quantizers is None else quantizers
    steps = None if inputs is None else _steps(layer, inputs)
    products = _Products(layer, steps)
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


def _steps(layer: LayerCovariance, quantizer: WeightQuantizer) -> tuple[theory.Steps, ...]:
    if layer.real is None:
        raise HypersignError(f"the real inputs of {layer.name} are unknown; measure them with input_covariances")
    found = steps_of(quantizer, 1, layer.real.reach, torch.empty(0, dtype=torch.float64))
    if found is None:
        raise HypersignError(f"a quantizer of inputs must be a function of single numbers; got {quantizer!r}")
    return (found,) * layer.groups


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
        caption="medians over filters; r: with quantized weights, real or own inputs; least r: "
        "of all filters; both: also the inputs; signs flipped: counted on a sample",
        caption_justify="left",
    )
    table.add_column("weights", no_wrap=True)
    for name in ("angle", "r", "least r", "both", "signs\nflipped"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        least = np.nanmin(row.pearson_r) if not np.isnan(row.pearson_r).all() else np.nan
        table.add_row(
            row.quantizer,
            f"{row.median('angle_degrees'):.1f}°",
            f"{row.median('pearson_r'):.3f}",
            f"{least:.3f}",
            f"{row.median('both_pearson_r'):.3f}",
            f"{100 * row.median('sign_flip_share'):.1f} %",
        )
    return table


class _Products:
    """Means, variances and covariances of a layer's dot products; those with latent weights are computed once.

    With `steps` the inputs are quantized by these instead of the layer's own input quantizer.
    """

    def __init__(self, layer: LayerCovariance, steps: Sequence[theory.Steps] | None = None) -> None:
        self.layer, self.steps = layer, steps
        shape = (layer.groups, -1, layer.fan_in)
        self.latent = layer.weights.reshape(shape)
        self.sample = layer.sample if steps is None else layer.sample[:, :, :0]
        if self.sample.shape[2]:
            self.negative = self.latent.astype(np.float32) @ self.sample < 0
        self.real_latent: np.ndarray | None = None  # w'C for real inputs
        if steps is None:
            self.covariance, self.mean = layer.covariance, layer.mean
            own = layer.real.steps if layer.real is not None and layer.quantizes_inputs else None
            if own is not None and layer.real is not None:
                self._cross(layer.real, own)
        else:
            assert layer.real is not None
            laws = [theory.QuantizedNormals(m, s) for m, s in zip(layer.real.mixtures, steps, strict=True)]
            self.covariance, self.mean = (
                np.stack([_matrix(law) for law in laws]),
                np.stack([law.mean for law in laws]),
            )
            self._cross(layer.real, steps)
        self.spread = np.sqrt(np.maximum(self.covariance.diagonal(axis1=1, axis2=2), 0))[:, None]  # (groups, 1, d)
        self.latent_c = self.latent @ self.covariance
        self.variance, self.means = self._moments(self.latent, self.latent_c)

    def _cross(self, real: RealInputs, steps: Sequence[theory.Steps]) -> None:
        """Prepares what depends on the real inputs: their covariance and cov(a_i, q_j), in float32."""
        laws = [theory.QuantizedNormals(m, s) for m, s in zip(real.mixtures, steps, strict=True)]
        self.cross = [np.concatenate([block.astype(np.float32) for _, block in law.cross_blocks()]) for law in laws]
        self.real = [m.covariance.astype(np.float32, copy=False) for m in real.mixtures]
        single = self.latent.astype(np.float32)
        self.real_latent = np.stack([w @ c for w, c in zip(single, self.real, strict=True)])
        self.real_variance = (self.real_latent * single).sum(2)
        self.latent_cross = np.stack([w @ k for w, k in zip(single, self.cross, strict=True)])

    def _moments(self, weights: np.ndarray, weights_c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Variance and mean of the products with `weights`; `weights_c` is `weights` times C.

        A variance no larger than its rounding error becomes 0.
        """
        variance = (weights_c * weights).sum(2)
        mean = (weights * self.mean[:, None]).sum(2)
        size = np.abs(weights)
        rounding = 1e-7 * (size * self.spread).sum(2) + 1e-12 * (size * np.abs(self.mean[:, None])).sum(2)
        return np.where(variance > rounding**2, variance, np.where(np.isnan(variance), np.nan, 0.0)), mean

    def against(self, name: str, values: np.ndarray) -> WhatIf:
        """The what-if for the quantized filters `values`, of shape (filters, d)."""
        levels = values.reshape(self.latent.shape)
        variance, mean = self._moments(levels, levels @ self.covariance)
        r = _ratio((self.latent_c * levels).sum(2), self.variance * variance)
        cosine = _ratio((self.latent * levels).sum(2), (self.latent**2).sum(2) * (levels**2).sum(2))
        angle = np.degrees(np.arccos(cosine))
        found = (angle, r, self._flips(levels, r, mean, variance), *self._inputs_too(levels, r, variance))
        return WhatIf(name, *(tuple(array.ravel().tolist()) for array in found))

    def _flips(self, levels: np.ndarray, r: np.ndarray, mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
        if self.sample.shape[2]:
            negative = np.nan_to_num(levels).astype(np.float32) @ self.sample < 0
            return np.where(np.isnan(r), np.nan, (negative != self.negative).mean(2))
        with np.errstate(divide="ignore", invalid="ignore"):  # means of products that do not vary
            first, second = self.means / np.sqrt(self.variance), mean / np.sqrt(variance)
        return np.asarray(theory.sign_flip_share(r, first, second))

    def _inputs_too(self, levels: np.ndarray, r: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """r with binarized activations, and with both binarized."""
        if self.real_latent is None:
            if self.layer.quantizes_inputs:
                return np.full_like(r, np.nan), np.full_like(r, np.nan)
            return np.where(np.isnan(r), np.nan, 1.0), r
        single = levels.astype(np.float32)
        real = np.stack([((b @ c) * b).sum(1) for b, c in zip(single, self.real, strict=True)])
        cross = np.stack([((b @ k) * b).sum(1) for b, k in zip(single, self.cross, strict=True)])
        both = (self.latent_cross * single).sum(2)
        known = np.where(np.isnan(r), np.nan, variance)
        return _ratio(cross, real * known), _ratio(both, self.real_variance * known)


def _matrix(law: theory.QuantizedNormals) -> np.ndarray:
    """The whole covariance of the quantized inputs."""
    d = len(law.mean)
    found = np.empty((d, d))
    for rows, _, covariance in law.blocks():
        found[rows, rows.start :] = covariance
        found[rows.start :, rows] = covariance.T
    return found


def _ratio(product: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """A correlation or cosine, from the product and the product of squares; NaN if the squares are 0."""
    root = np.sqrt(np.where(squares > 0, squares, np.nan))
    return np.clip(product / root, -1, 1)
