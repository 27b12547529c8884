"""Dot products of a transformer, by layer, head and position."""

import contextlib
import dataclasses
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hypersign._checks import HypersignError, check_int
from hypersign._display import shown
from hypersign.evaluate import mode
from hypersign.geometry.recurrence import correlation
from hypersign.layers import QuantLinear
from hypersign.models.gpt import Attention, FeedForward

__all__ = ["PositionR", "position_r", "positioned_layers"]


@shown
@dataclasses.dataclass(frozen=True)
class PositionR:
    """r of one quantized layer of a transformer, by head and position.

    Queries, keys and values have heads. All units of another layer count as one head.

    Args:
        name: the layer, such as "block1.attention.query".
        r: correlation of real inputs with latent weights and quantized inputs with quantized weights, over test
            sequences at one position; mean over the head's units. `r[head][position]`.
        predicted_r: the same from second moments of real and quantized inputs on training sequences.
    """

    name: str
    r: tuple[tuple[float, ...], ...]
    predicted_r: tuple[tuple[float, ...], ...]

    def by_head(self) -> list[tuple[float, float]]:
        """For each head r and its prediction, means over the positions where both are known."""
        pairs = np.stack((np.array(self.r, float), np.array(self.predicted_r, float)))
        known = np.isfinite(pairs).all(0)
        means = [
            [float(row[use].mean()) if use.any() else math.nan for row, use in zip(side, known, strict=True)]
            for side in pairs
        ]
        return list(zip(*means, strict=True))

    def overall(self) -> tuple[float, float]:
        """r and its prediction, means over the heads where both are known."""
        known = [pair for pair in self.by_head() if math.isfinite(pair[0])]
        return tuple(sum(side) / len(known) for side in zip(*known, strict=True)) if known else (math.nan, math.nan)


def positioned_layers(model: nn.Module) -> dict[str, tuple[QuantLinear, int]]:
    """The quantized layers in the blocks of a transformer, by name, and how many heads each has."""
    return {
        f"{name}.{part}": (layer, module.heads if isinstance(module, Attention) and part != "output" else 1)
        for name, module in model.named_modules()
        if isinstance(module, Attention | FeedForward)
        for part, layer in module.named_children()
        if isinstance(layer, QuantLinear) and (layer.quantizes_weights or layer.quantizes_inputs)
    }


def position_r(model: nn.Module, test: Tensor, training: Tensor) -> list[PositionR]:
    """Measures the quantized layers of a transformer, by head and position, beside predictions.

    Args:
        model: a transformer, such as `gpt` builds; it does not change.
        test: tokens to measure on, `(N, T)`.
        training: tokens to predict from, `(N, T)`.

    Raises:
        HypersignError: the network has no blocks with quantized layers, or there are fewer than 2 sequences.

    Example:
        >>> from hypersign.models import gpt
        >>> tokens = torch.randint(9, (60, 6), generator=torch.Generator().manual_seed(0))
        >>> found = position_r(gpt((6,), 9, width=16, blocks=1, heads=2), tokens[:30], tokens[30:])
        >>> found[0].name, len(found[0].r), len(found[0].r[0])
        ('block1.attention.query', 2, 6)
    """
    check_int("the number of test sequences", len(test), min=2)
    check_int("the number of training sequences", len(training), min=2)
    layers = positioned_layers(model)
    if not layers:
        raise HypersignError("the network must be a transformer with quantized layers, as gpt builds it; it has none")
    measured, seen = (
        {name: _r(layer, x[name]) for name, (layer, _) in layers.items()}
        for x in (
            _inputs(model, layers, test),
            _inputs(model, layers, training),
        )
    )
    return [
        PositionR(name, _by_head(measured[name], heads), _by_head(seen[name], heads))
        for name, (_, heads) in layers.items()
    ]


def _inputs(model: nn.Module, layers: Any, tokens: Tensor) -> dict[str, Tensor]:
    """What each layer reads, `(N, T, features)`."""
    found: dict[str, Tensor] = {}
    with mode(model, False), torch.no_grad(), contextlib.ExitStack() as stack:
        for name, (layer, _) in layers.items():

            def keep(module: nn.Module, args: tuple[Tensor, ...], name: str = name) -> None:
                found[name] = args[0]

            stack.callback(layer.register_forward_pre_hook(keep).remove)
        model(tokens)
    return found


def _r(layer: QuantLinear, x: Tensor) -> Tensor:
    """Correlation over sequences, `(T, units)`: a function of second moments of real and quantized inputs alone."""
    with torch.no_grad():
        real = x @ layer.weight.T
        quantized = layer.effective_input(x) @ layer.effective_weight().T
    return correlation(real, quantized)


def _by_head(r: Tensor, heads: int) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in r.unflatten(1, (heads, -1)).nanmean(2).T.tolist())
