"""Measures of a layer's latent weights: their angle to their levels, their moments, density and levels.

A filter is one vector of `fan_in` weights. Everything is computed in float64.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hypersign import theory
from hypersign.geometry.results import AngleStats, Density, WeightStats
from hypersign.layers import QuantLayer

__all__ = [
    "angles",
    "angle_stats",
    "predicted_angle",
    "input_threshold",
    "input_cosine",
    "weight_stats",
    "level_shares",
    "kernel_density",
]

_POINTS = 512  # points of every density
_FINE = 8  # cells of the binned estimate per point
_BLOCK = 1 << 16  # weights per block, so that a block stays in the cache


def _filters(values: Tensor) -> np.ndarray:
    """Returns the filters of a weight as rows, in float64."""
    return values.detach().cpu().double().numpy().reshape(len(values), -1)


def filters_first(layer: Any, weight: Tensor) -> Tensor:
    """A weight of a layer with the filters first, whether the layer is quantized or torch's own."""
    return layer.filters_first(weight) if isinstance(layer, QuantLayer) else weight


def angles(layer: QuantLayer) -> np.ndarray:
    """The angle between each latent filter w of a layer and its levels q, in radians, shape `(filters,)`.

        theta = arccos( w.q / (|w| |q|) )

    The angle is NaN if w or q is zero, and 0 for an Identity. A scale does not change it. With an offset, q is the
    scaled levels plus the offset.
    Source: Anderson & Berg 2018 (arXiv 1705.07199), section 2.

    >>> import torch
    >>> from hypersign.layers import QuantLinear
    >>> from hypersign.quantizers import Sign
    >>> layer = QuantLinear(2, 1, weight_quantizer=Sign())
    >>> _ = layer.weight.data.copy_(torch.tensor([[3.0, -4.0]]))
    >>> np.degrees(angles(layer)).round(2).tolist()
    [8.13]
    """
    # Runs on the weights' own device if it has float64, because training calls this after every epoch.
    device = "cpu" if layer.weight.device.type == "mps" else layer.weight.device
    latent, levels = (
        filters_first(layer, w.detach()).to(device).flatten(1).double()
        for w in (layer.weight, layer.effective_weight())
    )
    size = latent.norm(dim=1) * levels.norm(dim=1)
    cosine = ((latent * levels).sum(1) / size).clamp(-1, 1)
    angle = cosine.arccos() if layer.quantizes_weights else torch.zeros_like(size)
    return angle.where(size > 0, torch.nan).cpu().numpy()


def _thresholds(layer: QuantLayer) -> np.ndarray | None:
    """The threshold of each filter, of shape `(filters,)`; None if the quantizer states none."""
    thresholds = layer.weight_quantizer.thresholds(filters_first(layer, layer.weight))
    return None if thresholds is None else thresholds.detach().cpu().double().numpy()


def angle_stats(layer: QuantLayer) -> AngleStats:
    """The angles of a layer's filters, beside the prediction for its fan-in and quantizer, in degrees.

    The ternary prediction uses the threshold t/sigma, with t the layer's mean threshold and sigma the standard
    deviation of its weights. (Thresholds that follow each filter, such as `Optimal()`, spread the angles a fifth
    less at a fan-in of 9; from a fan-in of 27 on there is no visible difference.) For a quantizer without
    thresholds, the prediction is its `predicted_cosine`, without a spread; it is NaN if the quantizer has none.
    `AngleStats` defines every field.

    >>> import torch
    >>> from hypersign.layers import QuantLinear
    >>> from hypersign.quantizers import Sign
    >>> stats = angle_stats(QuantLinear(100, 50, weight_quantizer=Sign()))
    >>> round(stats.predicted_mean, 2), round(stats.moments_mean)  # Gaussian; torch initialises uniformly
    (36.83, 30)
    """
    measured = np.degrees(angles(layer))
    seen = measured[~np.isnan(measured)]
    found = _predictions(layer)
    predicted, own = found.gaussian, found.own()
    reach = 0.0 if np.isnan(predicted[1]) else 4 * predicted[1]
    density, peak = kernel_density(seen, show=(predicted[0] - reach, predicted[0] + reach))
    grid = np.asarray(density.grid)
    if predicted[1] > 0:
        expected = np.radians(found.density(np.radians(grid)))  # per degree
    elif np.isnan(predicted[1]):  # no prediction of the spread
        expected = np.zeros_like(grid)
    else:
        step = grid[1] - grid[0]
        expected = np.exp(-0.5 * ((grid - predicted[0]) / step) ** 2) / (step * np.sqrt(2 * np.pi))
    return AngleStats(
        mean=float(seen.mean()) if len(seen) else np.nan,
        std=float(seen.std(ddof=1)) if len(seen) > 1 else np.nan,
        peak=peak,
        predicted_mean=predicted[0],
        predicted_std=predicted[1],
        moments_mean=own[0],
        moments_std=own[1],
        per_filter=tuple(measured.tolist()),
        density=density,
        predicted_density=Density(density.grid, tuple(expected.tolist())),
    )


def predicted_angle(layer: QuantLayer) -> float:
    """The predicted mean angle, in radians, of Gaussian filters with the layer's fan-in and quantizer.

    It equals the `predicted_mean` of `angle_stats`. It is 0 for an Identity and NaN if there is no prediction.

    >>> from hypersign.layers import QuantLinear
    >>> from hypersign.quantizers import Sign
    >>> round(float(np.degrees(predicted_angle(QuantLinear(27, 5, weight_quantizer=Sign())))), 2)
    36.19
    """
    return float(np.radians(_predictions(layer).gaussian[0]))


@dataclasses.dataclass(frozen=True)
class _Predictions:
    """Mean and standard deviation of the angle, in degrees: for Gaussian weights, and for the layer's own moments.

    Values without a prediction are NaN. `density` is the density of the angle for Gaussian weights, in radians.
    """

    gaussian: tuple[float, float]
    own: Callable[[], tuple[float, float]]
    density: Callable[[np.ndarray], np.ndarray]


def _predictions(layer: QuantLayer) -> _Predictions:
    quantizer, d = layer.weight_quantizer, layer.fan_in
    if not layer.quantizes_weights:
        return _Predictions((0.0, 0.0), lambda: (0.0, 0.0), np.zeros_like)
    prepared = quantizer.prepare(filters_first(layer, layer.weight)).detach()  # the values that the quantizer rounds
    thresholds = _thresholds(layer)
    mean = 0.0 if thresholds is None else float(thresholds.mean())
    ratio = 0.0
    if thresholds is not None and not np.all(thresholds == 0):
        sigma = float(_filters(prepared).std())
        ratio = mean / sigma if sigma > 0 else np.nan

    def moments() -> theory.Moments:
        return theory.Moments.of(_filters(prepared), mean)

    of_filters = _of_filters(layer, prepared)

    if not quantizer.predicted_by_thresholds:

        def angle(moments: theory.Moments) -> tuple[float, float]:
            cosine = quantizer.predicted_cosine(d, moments)
            return (np.nan if cosine is None else float(np.degrees(np.arccos(cosine)))), np.nan

        def own_angle() -> tuple[float, float]:
            mean, std = angle(moments())
            return float(np.degrees(np.arccos(of_filters(np.cos(np.radians(mean)))))), std

        return _Predictions(angle(theory.Moments.gaussian(ratio)), own_angle, np.zeros_like)
    cosine, spread = theory.ternary_cosine(ratio, d), theory.ternary_cosine_std(ratio, d)

    def own() -> tuple[float, float]:
        mean, std = theory.moments_angle(moments(), d)
        return float(np.degrees(np.arccos(of_filters(np.cos(mean))))), float(np.degrees(std))

    if ratio == 0:  # the sign: exact at small d
        exact = float(np.degrees(theory.sign_angle(d))), float(np.degrees(theory.sign_angle_std(d)))
        return _Predictions(exact, own, lambda angles: theory.sign_angle_density(angles, d))
    return _Predictions(
        _angle(cosine, spread, d), own, lambda angles: theory.angle_density(angles, cosine, spread, d)
    )


def _of_filters(layer: QuantLayer, prepared: Tensor) -> Callable[[float], float]:
    """From the cosine of prepared filters and their levels, which moments predict, to that of the filters themselves.

    A mean that was subtracted is orthogonal to the levels, so the cosine is multiplied by that between the filters
    and the prepared ones. An offset adds the mean again: (m^2 + cosine)/(1 + m^2) with m = mean/standard deviation.
    """
    if not layer.weight_quantizer.transforms:
        return lambda cosine: cosine
    first, second = _filters(filters_first(layer, layer.weight)), _filters(prepared)
    if layer.weight_quantizer.offset is not None:
        with np.errstate(divide="ignore", invalid="ignore"):
            square = float(np.nanmean(first.mean(1) ** 2 / first.var(1)))
        return lambda cosine: (square + cosine) / (1 + square) if np.isfinite(square) else cosine
    size = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    known = size > 0
    aligned = float(((first * second).sum(1)[known] / size[known]).mean()) if known.any() else 1.0
    return lambda cosine: cosine * aligned


def _angle(cosine: np.ndarray, cosine_std: np.ndarray, d: int) -> tuple[float, float]:
    """Mean and standard deviation, in degrees, of the angle, from those of its cosine."""
    mean, std = theory.angle_mean(cosine, cosine_std, d), theory.angle_std(cosine, cosine_std, d)
    return float(np.degrees(mean)), float(np.degrees(std))


def input_threshold(layer: QuantLayer) -> float:
    """The threshold of a layer's input quantizer, averaged over channels.

    It is infinity for real inputs, and NaN for a quantizer without thresholds.

    >>> from hypersign.layers import QuantLinear
    >>> from hypersign.quantizers import Ternary
    >>> input_threshold(QuantLinear(2, 1)), round(input_threshold(QuantLinear(2, 1, input_quantizer=Ternary(0.5))), 2)
    (inf, 0.5)
    """
    if not layer.quantizes_inputs:
        return np.inf
    quantizer = layer.input_quantizer
    thresholds = quantizer.thresholds(layer.weight.new_zeros(1, 1)) if quantizer.predicted_by_thresholds else None
    return np.nan if thresholds is None else float(thresholds.double().mean())


def input_cosine(layer: QuantLayer) -> float:
    """The predicted cosine between standard normal inputs and their levels.

    It is 1 for real inputs, and NaN if there is no prediction.

    >>> from hypersign.layers import QuantLinear
    >>> from hypersign.quantizers import Sign
    >>> round(input_cosine(QuantLinear(2, 1, input_quantizer=Sign())), 3)
    0.798
    """
    if not layer.quantizes_inputs:
        return 1.0
    quantizer = layer.input_quantizer
    if quantizer.predicted_by_thresholds:
        return float(theory.ternary_cosine(input_threshold(layer)))
    cosine = quantizer.predicted_cosine(np.inf, theory.Moments.gaussian())
    return np.nan if cosine is None else cosine


def weight_stats(layer: QuantLayer) -> WeightStats:
    """Moments, density and thresholds of a layer's latent weights, over all its filters.

    The standardised moments (skewness, kurtosis) are NaN if the weights do not vary.

    >>> import torch
    >>> from hypersign.layers import QuantLinear
    >>> layer = QuantLinear(2, 2)
    >>> _ = layer.weight.data.copy_(torch.tensor([[1.0, -1.0], [1.0, -1.0]]))
    >>> weight_stats(layer).kurtosis
    1.0
    """
    weights = _filters(layer.weight).ravel()
    mean = float(weights.mean())
    sums = np.zeros(3)
    for start in range(0, len(weights), _BLOCK):
        z = weights[start : start + _BLOCK] - mean
        square = z * z
        sums += square.sum(), square @ z, square @ square
    second, third, fourth = (float(value) for value in sums / len(weights))
    thresholds = _thresholds(layer)
    t = 0.0 if thresholds is None else float(thresholds.mean())
    return WeightStats(
        mean=mean,
        std=second**0.5,
        skewness=third / second**1.5 if second > 0 else np.nan,
        kurtosis=fourth / second**2 if second > 0 else np.nan,
        absolute_mean=float(np.abs(weights).mean()),
        density=kernel_density(weights)[0],
        thresholds=() if thresholds is None else (-t, t) if t else (0.0,),
    )


def level_shares(layer: QuantLayer) -> dict[str, float]:
    """The share of a layer's weights on each level of its quantizer; empty if the quantizer states no levels.

    >>> import torch
    >>> from hypersign.layers import QuantLinear
    >>> from hypersign.quantizers import Ternary
    >>> layer = QuantLinear(4, 1, weight_quantizer=Ternary(0.1))
    >>> _ = layer.weight.data.copy_(torch.tensor([[0.5, -0.5, 0.2, 0.0]]))
    >>> level_shares(layer)
    {'-1': 0.25, '0': 0.25, '+1': 0.5}
    """
    levels = layer.quantized_weight().detach()
    values = layer.weight_quantizer.levels
    counts = {f"{value:+g}" if value else "0": int((levels == value).sum()) for value in values}
    return {name: count / levels.numel() for name, count in counts.items()}


def kernel_density(values: np.ndarray, show: tuple[float, float] | None = None) -> tuple[Density, float]:
    """The Gaussian kernel density of `values` on 512 points, and the position of its peak.

        f(g) = sum_i exp(-(g - x_i)^2 / (2 h^2)) / (n h sqrt(2 pi)),   h = n^(-1/5) std(x)

    The bandwidth is Scott's, as in SciPy, but at least one grid spacing, so that constant values give a spike. The
    grid covers the values and the interval `show`. Values are first counted on a grid 8 times as fine: this makes
    millions of values cheap, and moves each by at most a sixteenth of the bandwidth. Without values the density is 0
    and the peak is NaN.

    >>> density, peak = kernel_density(np.array([1.0, 2.0, 3.0]))
    >>> len(density.grid), round(peak, 2)
    (512, 2.0)
    """
    values = np.asarray(values, dtype=np.float64).ravel()
    n = len(values)
    if n:
        bandwidth = n**-0.2 * values.std(ddof=1) if n > 1 else 0.0
        start, stop = values.min() - 4 * bandwidth, values.max() + 4 * bandwidth
    else:
        bandwidth, start, stop = 0.0, np.inf, -np.inf
    if show is not None and np.all(np.isfinite(show)):
        start, stop = min(start, show[0]), max(stop, show[1])
    if not start <= stop:  # neither values nor a window
        start, stop = 0.0, 1.0
    if stop - start <= 1e-6 * max(1.0, abs(start)):  # everything in one place
        start, stop = start - 0.05, stop + 0.05
    margin = 4 * (stop - start) / _POINTS  # so that the narrowest kernel fits at either end
    start, stop = start - margin, stop + margin
    fine = np.linspace(start, stop, (_POINTS - 1) * _FINE + 1)
    grid = fine[::_FINE]
    if not n:
        return Density(tuple(grid.tolist()), (0.0,) * _POINTS), np.nan
    cell = fine[1] - fine[0]
    bandwidth = max(bandwidth, cell * _FINE)
    mass = np.zeros(len(fine))
    for first in range(0, n, _BLOCK):
        nearest = ((values[first : first + _BLOCK] - (start - cell / 2)) / cell).astype(np.int64)
        mass += np.bincount(nearest, minlength=len(fine))
    reach = min(int(6 * bandwidth / cell) + 1, len(fine) - 1)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) * cell / bandwidth) ** 2)
    smooth = np.convolve(mass, kernel)[reach : reach + len(fine)] / (n * bandwidth * np.sqrt(2 * np.pi))
    density = Density(tuple(grid.tolist()), tuple(smooth[::_FINE].tolist()))
    return density, float(fine[smooth.argmax()])
