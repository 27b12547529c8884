"""The real inputs of a layer: their moments and groups, and the layer's input quantizer as a step function."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hypersign import theory
from hypersign.geometry.covariance.accumulator import CovarianceAccumulator
from hypersign.geometry.covariance.convolutions import add_inputs
from hypersign.geometry.covariance.patches import groups_of, input_patches
from hypersign.geometry.covariance.sample import VectorSample, similar_groups
from hypersign.layers import QuantLayer

__all__ = ["MIXTURE_GROUPS", "RealInputSums", "RealInputs", "input_steps", "sample_size", "steps_of"]

MIXTURE_GROUPS = 16
"""The largest number of groups of similar inputs."""

_VECTORS_PER_GROUP = 12
_SAMPLE = 1 << 21  # numbers in a sample of vectors
_GRID = 513  # points at which an input quantizer is read
_REACH = 8  # standard deviations


@dataclasses.dataclass(frozen=True, eq=False)
class RealInputs:
    """The inputs of a layer before its input quantizer: one `NormalMixture` per group of the layer.

    `steps` is the layer's own input quantizer, one `Steps` per group of the layer; None if it has none, or if it is
    no function of single numbers. `deviation` is the root mean square of the inputs' standard deviations, `reach` a
    bound of nearly all inputs.
    """

    mixtures: tuple[theory.NormalMixture, ...]
    steps: tuple[theory.Steps, ...] | None
    deviation: float
    reach: float

    @property
    def means(self) -> np.ndarray:
        """The mean of each input, padding included, of shape (groups, d)."""
        return np.stack([mixture.padded_mean for mixture in self.mixtures])


class RealInputSums:
    """Accumulates the real inputs of a layer: `sums` and `sample`, and where its patches are padding.

    A layer without input quantizer sees real inputs, so these are its own sums and sample; `update` is then not
    called, but `note`.
    """

    def __init__(self, layer: Any, sums: CovarianceAccumulator, sample: VectorSample) -> None:
        self.layer, self.sums, self.sample = layer, sums, sample
        self._masks: list[tuple[int, Tensor]] = []  # the first place of a batch, and its patches' kernel positions

    def update(self, x: Tensor) -> None:
        """Adds an input of the layer, as it is before the input quantizer."""
        self.note(x)
        add_inputs(self.layer, x, self.sums, self.sample)

    def note(self, x: Tensor) -> None:
        """Notes which kernel positions are inside, for the patches of one image of this size; before it is added."""
        layer = self.layer
        if getattr(layer, "padding_mode", "") == "zeros" and any(layer._reversed_padding_repeated_twice):
            padding = float(getattr(layer, "pad_value", 0))
            one = torch.full_like((x if x.dim() == layer.weight.dim() else x[None])[:1], padding + 1)
            patches = torch.cat(list(input_patches(layer, one)), dim=2)[0, : layer.weight[0, 0].numel()]
            mask = (patches != padding).float().cpu()
        else:
            mask = torch.ones(1, 1)
        if not self._masks or not torch.equal(self._masks[-1][1], mask):
            self._masks.append((self.sums.count, mask))

    def result(self, mean: np.ndarray, covariance: np.ndarray, *, quantized: bool) -> RealInputs:
        """The moments and groups, from the result of `sums`."""
        count = self.sums.count
        kernel = max(len(mask) for _, mask in self._masks)
        places = self.sample.places
        present, inside = np.zeros((kernel, kernel)), np.ones((kernel, len(places)), bool)
        stops = [start for start, _ in self._masks[1:]] + [count]
        for (start, mask), stop in zip(self._masks, stops, strict=True):
            present += ((mask @ mask.T) / mask.shape[1]).numpy() * (stop - start) / count
            here = (places >= start) & (places < stop)
            inside[:, here.numpy()] = mask[:, (places[here] - start) % mask.shape[1]].numpy() > 0
        padding = float(getattr(self.layer, "pad_value", 0))
        vectors = self.sample.vectors.double().numpy()
        mixtures = tuple(
            _mixture(m, c, v, inside, present, padding) for m, c, v in zip(mean, covariance, vectors, strict=True)
        )
        spread = np.sqrt(np.maximum(covariance.diagonal(axis1=1, axis2=2).astype(np.float64), 0))
        reach = float((np.abs(mean) + _REACH * spread).max())
        steps = input_steps(self.layer, reach) if quantized else None
        return RealInputs(mixtures, steps, float(np.sqrt((spread**2).mean())), reach)


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

    Args:
        layer: the layer.
        reach: the quantizer is read from -reach to reach.

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
        return layer.effective_input(values.view(len(values), channels, *axes)).reshape(len(values), channels)

    found = steps_of(levels, channels, reach, layer.weight.detach())
    if found is None or len(found.levels) == 1:
        return None if found is None else (found,) * groups
    kernel = layer.weight[0, 0].numel()
    parts = zip(np.split(found.thresholds, groups), np.split(found.levels, groups), strict=True)
    return tuple(theory.Steps(np.repeat(t, kernel, 0), np.repeat(v, kernel, 0)) for t, v in parts)


def steps_of(
    quantizer: Callable[[Tensor], Tensor], channels: int, reach: float, example: Tensor
) -> theory.Steps | None:
    """A quantizer of numbers as a step function per channel; one row if all channels have the same.

    It is read on a grid of 513 points, and each step is found by bisection. A quantizer whose scale depends on the
    other inputs is no function of single numbers, and the result is None.

    Args:
        quantizer: maps numbers of shape (n, channels) to their levels, of the same shape.
        channels: the number of channels.
        reach: the quantizer is read from -reach to reach.
        example: a tensor of the type and on the device to use.
    """
    reach = reach if np.isfinite(reach) and reach > 0 else 1.0
    line = torch.linspace(-reach, reach, _GRID, dtype=example.dtype, device=example.device)
    grid = line[:, None].repeat(1, channels)
    with torch.no_grad():
        try:
            values = quantizer(grid)
            again = quantizer(torch.cat([grid, 3 * grid]))[:_GRID]
        except RuntimeError:  # a quantizer for one shape of inputs only
            return None
        if not torch.equal(values, again) or not torch.isfinite(values).all():
            return None
        at = (values[1:] != values[:-1]).any(1).nonzero()[:, 0]
        low, high = grid[at], grid[at + 1]
        for _ in range(40 if len(at) else 0):
            middle = (low + high) / 2
            below = quantizer(middle) == values[at]
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    levels = torch.cat([values[:1], values[at + 1]]).T.double().cpu().numpy()  # (channels, steps + 1)
    thresholds = high.T.double().cpu().numpy()
    same = (levels == levels[0]).all() and (thresholds == thresholds[0]).all()
    return theory.Steps(thresholds[:1], levels[:1]) if same else theory.Steps(thresholds, levels)
