"""The real inputs of a layer: their moments and groups, and the layer's input quantizer as a step function."""

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hypersign import theory
from hypersign.geometry.covariance.accumulator import CovarianceAccumulator
from hypersign.geometry.covariance.patches import groups_of, input_patches
from hypersign.geometry.covariance.sample import VectorSample, similar_groups
from hypersign.layers import QuantLayer

__all__ = ["MIXTURE_GROUPS", "RealInputSums", "RealInputs", "input_steps", "sample_size"]

MIXTURE_GROUPS = 16
"""The largest number of groups of similar inputs."""

_VECTORS_PER_GROUP = 12
_SAMPLE = 1 << 21  # numbers in a sample of vectors
_GRID = 513  # points at which an input quantizer is read
_REACH = 8  # standard deviations


@dataclasses.dataclass(frozen=True, eq=False)
class RealInputs:
    """The inputs of a layer before its input quantizer: one `NormalMixture` per group of the layer.

    `steps` is the layer's own input quantizer, one `Steps` per group of the layer; None if it is no function of
    single numbers. `deviation` is the root mean square of the inputs' standard deviations.
    """

    mixtures: tuple[theory.NormalMixture, ...]
    steps: tuple[theory.Steps, ...] | None
    deviation: float


class RealInputSums:
    """Accumulates the real inputs of a layer that quantizes its inputs."""

    def __init__(self, layer: Any, *, mapped: bool = False) -> None:
        self.layer = layer
        fan_in = layer.weight[0].numel()
        self.sums = CovarianceAccumulator(
            groups_of(layer), fan_in, single=True, device=layer.weight.device, mapped=mapped
        )
        self.sample = VectorSample(sample_size(fan_in))
        self._masks: list[tuple[int, Tensor]] = []  # the first place of a batch, and its patches' kernel positions

    def update(self, x: Tensor) -> None:
        """Adds an input of the layer, as it is before the input quantizer."""
        self._add_mask(x)
        for patches in input_patches(self.layer, x):
            self.sums.update(patches)
            self.sample.update(patches)

    def _add_mask(self, x: Tensor) -> None:
        """Remembers which kernel positions are inside, for the patches of one image of this size."""
        layer = self.layer
        if getattr(layer, "padding_mode", "") == "zeros" and any(layer._reversed_padding_repeated_twice):
            one = x if x.dim() == layer.weight.dim() else x[None]
            one = torch.full_like(one[:1], float(getattr(layer, "pad_value", 0)) + 1)
            patches = torch.cat(list(input_patches(layer, one)), dim=2)[0, : layer.weight[0, 0].numel()]
            mask = (patches != float(getattr(layer, "pad_value", 0))).float().cpu()
        else:
            mask = torch.ones(1, 1)
        if not self._masks or not torch.equal(self._masks[-1][1], mask):
            self._masks.append((self.sums.count, mask))

    def result(self) -> RealInputs:
        """The moments and groups. The accumulators cannot be used afterwards."""
        count = self.sums.count
        mean, covariance = self.sums.result()
        kernel = max(len(mask) for _, mask in self._masks)
        present, inside = np.zeros((kernel, kernel)), np.ones((kernel, len(self.sample.places)), bool)
        stops = [start for start, _ in self._masks[1:]] + [count]
        places = self.sample.places
        for (start, mask), stop in zip(self._masks, stops, strict=True):
            present += ((mask @ mask.T) / mask.shape[1]).numpy() * (stop - start) / count
            here = (places >= start) & (places < stop)
            inside[:, here.numpy()] = mask[:, (places[here] - start) % mask.shape[1]].numpy() > 0
        padding = float(getattr(self.layer, "pad_value", 0))
        vectors = self.sample.vectors.double().numpy()
        mixtures = tuple(
            _mixture(m, c, v, inside, present, padding) for m, c, v in zip(mean, covariance, vectors, strict=True)
        )
        variances = covariance.diagonal(axis1=1, axis2=2)
        deviation = float(np.sqrt(np.maximum(variances, 0).mean()))
        reach = float((np.abs(mean) + _REACH * np.sqrt(np.maximum(variances, 0))).max())
        return RealInputs(mixtures, input_steps(self.layer, reach), deviation)


def sample_size(fan_in: int) -> int:
    """The least number of vectors in a sample: about 8 MiB of them in float32."""
    return max(256, min(2048, _SAMPLE // fan_in))


def _mixture(
    mean: np.ndarray,
    covariance: np.ndarray,
    vectors: np.ndarray,
    inside: np.ndarray,
    present: np.ndarray,
    padding: float,
) -> theory.NormalMixture:
    """The mixture of one group of a layer, with groups of similar vectors from a sample (d, n) of it."""
    kernel = np.arange(len(mean)) % len(present)
    share = present.diagonal()[kernel]
    centre = np.divide(mean - padding, share, out=np.zeros_like(mean), where=share > 0) + padding
    normal = theory.NormalMixture(np.ones(1), centre[None], np.ones(1), covariance, present, padding)
    mask = inside[kernel].T  # (n, d)
    spread = np.sqrt(np.maximum(covariance.diagonal().astype(np.float64), 0))
    rows = np.where(mask, vectors.T - centre, 0) / np.where(spread > 0, spread, 1)
    groups = similar_groups(rows, min(MIXTURE_GROUPS, len(rows) // _VECTORS_PER_GROUP))
    names, sizes = np.unique(groups, return_counts=True)
    if len(names) < 2:
        return normal
    shares = sizes / sizes.sum()
    means, spreads = np.empty((len(names), len(mean))), np.empty(len(names))
    for g, name in enumerate(names):
        chosen, seen = rows[groups == name], mask[groups == name].sum(0)
        means[g] = np.divide(chosen.sum(0), seen, out=np.zeros(len(mean)), where=seen > 0)
        spreads[g] = (mask[groups == name] * (chosen - means[g]) ** 2).sum() / max(seen.sum(), 1)
    means = centre + (means - shares @ means) * spread
    total = shares @ spreads
    if not total > 0:
        return normal
    return theory.NormalMixture(shares, means, np.sqrt(spreads / total), covariance, present, padding)


def input_steps(layer: QuantLayer, reach: float) -> tuple[theory.Steps, ...] | None:
    """A layer's input quantizer as step functions, one per group of the layer; None if it is no such function.

    The quantizer is read on a grid from -reach to reach, and each step is found by bisection. A quantizer whose scale
    depends on the other inputs is no function of single numbers.

    >>> from hypersign.layers import QuantLinear
    >>> from hypersign.quantizers import Ternary
    >>> (steps,) = input_steps(QuantLinear(3, 1, input_quantizer=Ternary(0.5)), 4.0)
    >>> steps.thresholds.round(4).tolist(), steps.levels.tolist()
    ([[-0.5, 0.5]], [[-1.0, 0.0, 1.0]])
    """
    groups = groups_of(layer)
    channels = layer.weight.shape[1] * groups
    axes = [1] * (layer.weight.dim() - 2)

    def levels(values: Tensor) -> Tensor:
        with torch.no_grad():
            return layer.effective_input(values.view(len(values), channels, *axes)).reshape(len(values), channels)

    weight = layer.weight.detach()
    reach = reach if np.isfinite(reach) and reach > 0 else 1.0
    grid = torch.linspace(-reach, reach, _GRID, dtype=weight.dtype, device=weight.device)[:, None].repeat(1, channels)
    try:
        values = levels(grid)
        again = levels(torch.cat([grid, 3 * grid]))[:_GRID]
    except RuntimeError:  # a quantizer for one shape of inputs only
        return None
    if not torch.equal(values, again) or not torch.isfinite(values).all():
        return None
    at = (values[1:] != values[:-1]).any(1).nonzero()[:, 0]
    low, high = grid[at], grid[at + 1]
    for _ in range(40 if len(at) else 0):
        middle = (low + high) / 2
        below = levels(middle) == values[at]
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    rows = torch.cat([values[:1], values[at + 1]]).T.double().cpu().numpy()  # (channels, steps + 1)
    cuts = high.T.double().cpu().numpy()
    if (rows == rows[0]).all() and (cuts == cuts[0]).all():
        return (theory.Steps(cuts[:1], rows[:1]),) * groups
    kernel = layer.weight[0, 0].numel()
    parts = zip(np.split(cuts, groups), np.split(rows, groups), strict=True)
    return tuple(theory.Steps(np.repeat(c, kernel, 0), np.repeat(r, kernel, 0)) for c, r in parts)
