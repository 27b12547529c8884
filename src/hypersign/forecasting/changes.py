"""One layer's change: its weights, bias or inputs replaced for a while, and the match of its output channels."""

import contextlib
import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from hypersign.forecasting.formats import Format, fit_grid, fitted, weight_values
from hypersign.forecasting.layers import bias_place, hooked, product_rows, takes_shift, weight_place
from hypersign.layers import QuantLayer, RecurrentProduct
from hypersign.quantizers import Grid, Identity

__all__ = ["Change", "Moments", "change_of", "channel_axis", "given_weight", "match", "matched", "run_matched"]

MAX_SCALE = 10.0
"""The largest factor by which a channel is stretched: a channel that lost its variation would only gain noise."""

PASSES = 3
"""Passes that match layers that one pass calls several times: each pass uses the match of the one before."""

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
        modules, places = layer._modules, [weight_place(layer), bias_place(layer)]
        before = [(place, name, place.get(name)) for place, name in (*places, (layer._parameters, "gain"))]
        quantizers = {name: modules[name] for name in ("weight_quantizer", "input_quantizer") if name in modules}
        hook = None
        if self.grid is not None and isinstance(layer, RecurrentProduct):
            modules["input_quantizer"] = self.grid
        elif self.grid is not None:
            hook = layer.register_forward_pre_hook(_quantizing(self.grid), with_kwargs=True)
        try:
            for values, (place, name) in zip((self.weight, self.bias), places, strict=True):
                if values is not None:
                    place[name] = nn.Parameter(values, requires_grad=False)
            if self.weight is not None:
                if layer._parameters.get("gain") is not None:
                    layer._parameters["gain"] = None
                if quantizers:
                    modules["weight_quantizer"] = Identity()
            yield
        finally:
            if hook is not None:
                hook.remove()
            for place, name, values in before:
                if name in place:
                    place[name] = values
            modules.update(quantizers)


def _quantizing(grid: Grid) -> Callable[..., tuple[tuple, dict[str, Any]]]:
    """A hook that gives a layer the nearest values of a grid as inputs."""

    def quantize(_: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        if args:
            return (grid.values(args[0]), *args[1:]), kwargs
        name, x = next(iter(kwargs.items()))
        return args, {**kwargs, name: grid.values(x)}

    return quantize


def given_weight(layer: Any) -> Tensor:
    """The weight that a layer multiplies now: its own, or scale times levels."""
    weight = layer.weight.detach()
    if isinstance(layer, QuantLayer) and layer.quantizes_weights:
        weight = weight_values(layer.weight_quantizer, weight)
    return product_rows(layer, weight)


def change_of(
    layer: Any,
    formats: tuple[Format | None, Format | None],
    given: Tensor | None = None,
    inputs: Tensor | None = None,
) -> Change:
    """The change that gives a layer these formats of weights and inputs.

    New weights of a layer that is quantized already have the size of those `given`; a grid is fitted to `inputs`.
    """
    weights, sides = formats
    weight = grid = None
    if weights is not None:
        latent = layer.weight.detach()
        quantizer = fitted(weights.quantizer(latent[0].numel()).to(latent.device), latent)
        weight = product_rows(layer, weight_values(quantizer, latent, given))
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


def match(layer: Any, wanted: Moments, came: Moments) -> tuple[Tensor, Tensor]:
    """Scale g and shift h per channel of a layer such that g y + h has the wanted mean and deviation.

        g = min(sd(wanted) / sd(came), 10),   h = mean(wanted) - g mean(came)

    A channel that (almost) does not vary in one of the two only gets the shift. A layer that takes no shift only gets
    a scale: the ratio of root mean squares in place of deviations.
    """
    assert wanted.mean is not None
    assert came.mean is not None
    shifts = takes_shift(layer)
    ours = wanted.variance if shifts else wanted.variance + wanted.mean**2
    theirs = came.variance if shifts else came.variance + came.mean**2
    known = (theirs > TINY * theirs.max()) & (ours > 0)
    ratio = (ours / theirs.clamp(min=1e-300)).sqrt().clamp(max=MAX_SCALE)
    scale = torch.where(known, ratio, 1.0)
    return scale, wanted.mean - scale * came.mean if shifts else torch.zeros_like(scale)


T = TypeVar("T")


def run_matched(
    run: Callable[[], T],
    wanted: Mapping[Any, Moments],
    repeated: Collection[Any] = (),
    came: Mapping[Any, Moments] | None = None,
) -> T:
    """Runs a network with the output channels of layers matched to the moments of the original network.

    Args:
        run: runs it on one batch.
        wanted: layer -> its moments in the original network on this batch.
        repeated: the layers that a pass calls several times. Each call sees what the calls before gave, so the match
            is found by repetition: `PASSES` passes, each with the match of the pass before.
        came: layer -> accumulator of its moments before the match.

    Later layers see matched inputs, so one pass matches all layers that are called once.
    """
    again = [layer for layer in wanted if layer in repeated]
    known: dict[Any, tuple[Tensor, Tensor]] = {}
    seen: dict[Any, Moments] = {}
    for _ in range(PASSES if again else 1):
        before, seen = seen, {layer: Moments() for layer in wanted}
        known = {layer: match(layer, wanted[layer], before[layer]) for layer in again if before}
        with _matching(wanted, seen, again, known):
            output = run()
    for layer, total in ({} if came is None else came).items():
        if layer in wanted:  # by what the last pass was matched
            total.merge((before if layer in again else seen)[layer])
    return output


def _matching(
    wanted: Mapping[Any, Moments],
    seen: Mapping[Any, Moments],
    again: Collection[Any],
    known: Mapping[Any, tuple[Tensor, Tensor]],
) -> contextlib.AbstractContextManager[None]:
    """Matches layers, those in `again` as `known` says, and notes the moments before the match."""

    def hook(layer: Any, x: Tensor, output: Tensor) -> Tensor:
        moments = Moments()
        moments.add(layer, output)
        seen[layer].merge(moments)
        if layer in again and layer not in known:
            return output
        scale, shift = known[layer] if layer in again else match(layer, wanted[layer], moments)
        shape = [1] * output.dim()
        shape[channel_axis(layer, output)] = -1
        return torch.addcmul(shift.to(output).view(shape), output, scale.to(output).view(shape))

    return hooked(wanted, hook)


def matched(layer: Any, change: Change, scale: Tensor, shift: Tensor) -> Change:
    """The change with every output channel scaled and shifted: in its weight and bias."""
    weight = given_weight(layer) if change.weight is None else change.weight
    scale, shift = scale.to(weight), shift.to(weight)
    place, name = bias_place(layer)
    bias = place.get(name)
    if not takes_shift(layer):
        bias = None
    elif bias is None:
        bias = shift
    elif isinstance(layer, RecurrentProduct):  # its output is the product alone, without the bias
        bias = bias.detach() + shift
    else:
        bias = scale * bias.detach() + shift
    return Change(weight * scale.view(-1, *[1] * (weight.dim() - 1)), bias, change.grid)
