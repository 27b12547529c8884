"""One layer's change: its weights, bias or inputs replaced for a while, and the match of its output channels."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hypersign.forecasting.formats import Format, fit_grid, fitted, weight_values
from hypersign.layers import QuantLayer
from hypersign.quantizers import Grid, Identity

__all__ = ["Change", "Moments", "change_of", "channel_axis", "given_weight", "match", "matched", "matching"]

MAX_SCALE = 10.0
"""The largest factor by which a channel is stretched: a channel that lost its variation would only gain noise."""

TINY = 1e-12
"""A channel whose variance is at most this share of the layer's largest counts as constant."""


@dataclasses.dataclass(frozen=True, eq=False)
class Change:
    """Replacements in a layer: `weight` and `bias` (None: as they are), and a grid that its inputs pass first."""

    weight: Tensor | None = None
    bias: Tensor | None = None
    grid: Grid | None = None

    @contextlib.contextmanager
    def applied(self, layer: Any) -> Iterator[None]:
        """Makes the replacements in the layer, and restores it afterwards."""
        parameters, modules = layer._parameters, layer._modules
        before, quantizer = dict(parameters), modules.get("weight_quantizer")
        hook = None
        if self.grid is not None:
            grid = self.grid

            def quantize(_: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
                if args:
                    return (grid.values(args[0]), *args[1:]), kwargs
                name, x = next(iter(kwargs.items()))
                return args, {**kwargs, name: grid.values(x)}

            hook = layer.register_forward_pre_hook(quantize, with_kwargs=True)
        try:
            if self.weight is not None:
                parameters["weight"] = nn.Parameter(self.weight, requires_grad=False)
                if quantizer is not None:
                    modules["weight_quantizer"] = Identity()
            if self.bias is not None:
                parameters["bias"] = nn.Parameter(self.bias, requires_grad=False)
            yield
        finally:
            if hook is not None:
                hook.remove()
            parameters.update(before)
            if quantizer is not None:
                modules["weight_quantizer"] = quantizer


def given_weight(layer: Any) -> Tensor:
    """The weight that a layer multiplies now: its own, or scale times levels."""
    weight = layer.weight.detach()
    if isinstance(layer, QuantLayer) and layer.quantizes_weights:
        return weight_values(layer.weight_quantizer, weight)
    return weight


def change_of(layer: Any, formats: tuple[Format | None, Format | None], inputs: Tensor | None = None) -> Change:
    """The change that gives a layer these formats of weights and inputs; a grid is fitted to `inputs`."""
    weights, sides = formats
    weight = grid = None
    if weights is not None:
        latent = layer.weight.detach()
        quantized = isinstance(layer, QuantLayer) and layer.quantizes_weights
        quantizer = fitted(weights.quantizer(latent[0].numel()).to(latent.device), latent)
        weight = weight_values(quantizer, latent, given_weight(layer) if quantized else None)
    if sides is not None:
        assert inputs is not None
        grid = fit_grid(sides.levels, inputs)
    return Change(weight, None, grid)


def channel_axis(layer: Any, output: Tensor) -> int:
    """The axis of a layer's output channels."""
    return output.dim() - 1 - len(getattr(layer, "kernel_size", ()))


class Moments:
    """Mean and variance of each channel, accumulated over batches in float64."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Tensor | None = None
        self.squares: Tensor | None = None

    def add(self, layer: Any, output: Tensor) -> None:
        """Adds a layer's output."""
        axes = [axis for axis in range(output.dim()) if axis != channel_axis(layer, output)]
        count = output.numel() // max(1, output.shape[channel_axis(layer, output)])
        var, mean = torch.var_mean(output.detach(), axes, correction=0)
        self.join(count, mean, var)

    def merge(self, other: "Moments") -> None:
        """Adds the values that another accumulator saw."""
        assert other.mean is not None
        self.join(other.count, other.mean, other.variance)

    def join(self, count: int, mean: Tensor, variance: Tensor) -> None:
        """Adds `count` values per channel with this mean and variance."""
        mean, squares = mean.double(), variance.double() * count
        if self.mean is None or self.squares is None:
            self.count, self.mean, self.squares = count, mean, squares
            return
        total, apart = self.count + count, mean - self.mean
        self.mean = self.mean + apart * (count / total)
        self.squares = self.squares + squares + apart.square() * (self.count * count / total)
        self.count = total

    @property
    def variance(self) -> Tensor:
        """The variance per channel."""
        assert self.squares is not None
        return self.squares / self.count


def match(wanted: Moments, came: Moments) -> tuple[Tensor, Tensor]:
    """Scale g and shift h per channel such that g y + h has the wanted mean and deviation.

        g = min(sd(wanted) / sd(came), 10),   h = mean(wanted) - g mean(came)

    A channel that (almost) does not vary in one of the two only gets the shift.
    """
    assert wanted.mean is not None
    assert came.mean is not None
    known = (came.variance > TINY * came.variance.max()) & (wanted.variance > 0)
    ratio = (wanted.variance / came.variance.clamp(min=1e-300)).sqrt().clamp(max=MAX_SCALE)
    scale = torch.where(known, ratio, 1.0)
    return scale, wanted.mean - scale * came.mean


@contextlib.contextmanager
def matching(wanted: Mapping[Any, Moments], came: Mapping[Any, Moments] | None = None) -> Iterator[None]:
    """Matches the output channels of layers to the moments of the original network, batch by batch.

    Args:
        wanted: layer -> its moments in the original network, on the batch that runs next.
        came: layer -> accumulator of its moments before the match, over all batches.

    Later layers see matched inputs, so one pass matches all of them.
    """

    def hook(layer: Any, args: tuple, output: Tensor) -> Tensor:
        moments = Moments()
        moments.add(layer, output)
        if came is not None:
            came[layer].merge(moments)
        shape = [1] * output.dim()
        shape[channel_axis(layer, output)] = -1
        scale, shift = (value.to(output).view(shape) for value in match(wanted[layer], moments))
        return torch.addcmul(shift, output, scale)

    with contextlib.ExitStack() as hooks:
        for layer in wanted:
            hooks.callback(layer.register_forward_hook(hook).remove)
        yield


def matched(layer: Any, change: Change, scale: Tensor, shift: Tensor) -> Change:
    """The change with every output channel scaled and shifted: in its weight and bias."""
    weight = given_weight(layer) if change.weight is None else change.weight
    scale, shift = scale.to(weight), shift.to(weight)
    bias = shift if layer.bias is None else scale * layer.bias.detach() + shift
    return Change(weight * scale.view(-1, *[1] * (weight.dim() - 1)), bias, change.grid)
