"""Layers of other classes that keep their own forward: only the weight that it reads is quantized, and its input."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hypersign.layers.conv import TransposedFilters
from hypersign.layers.layer import QuantLayer

__all__ = ["OwnForward", "own_forward", "quantized_subclass"]


class OwnForward(QuantLayer):
    """A layer whose own forward runs with the quantized weight and the quantized input.

        y = forward(s_a q_a(x) + o_a) with s q_w(W) + o in place of `self.weight`

    The input is the first tensor of real numbers that the layer is called with. `layer.weight` is the latent weight
    outside the forward. What the forward does to the weight or the input before it multiplies, such as
    standardisation or padding, it does to the quantized ones.

    `convert` makes these classes of subclasses of torch's layers; `kind` is the class that the layer had.
    """

    kind: type[nn.Module]

    def forward(self, *args: Any, **options: Any) -> Any:
        """The forward of the layer's own class."""
        own = self.__dict__
        args, options = self._with_quantized_input(args, options)
        own["_computes_with"] = self.scaled_weight()
        try:
            return self.kind.forward(self, *args, **options)
        finally:
            own["_computes_with"] = None

    def _with_quantized_input(self, args: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if self.quantizes_inputs:
            for i, value in enumerate(args):
                if _is_real(value):
                    return (*args[:i], self.effective_input(value), *args[i + 1 :]), options
            for name, value in options.items():
                if _is_real(value):
                    return args, {**options, name: self.effective_input(value)}
        return args, options


class ColumnFilters(QuantLayer):
    """A weight stored as `(channels, filters)`, such as that of GPT-2's Conv1D."""

    def filters_first(self, weight: Tensor) -> Tensor:
        """`(channels, filters)` -> `(filters, channels)`."""
        return weight.t()

    def as_stored(self, filters: Tensor) -> Tensor:
        """`(filters, channels)` -> `(channels, filters)`."""
        return filters.t()


def _is_real(value: Any) -> bool:
    return isinstance(value, torch.fx.Proxy) or (isinstance(value, Tensor) and value.is_floating_point())


def _weight(self: Any) -> Any:
    """The weight: the latent one, or the quantized one while the layer's forward runs."""
    found = self.__dict__.get("_computes_with")
    return self._parameters["weight"] if found is None else found


@functools.cache
def own_forward(kind: Any) -> Any:
    """The quantized class of layers of class `kind`, which computes by its own forward."""
    layout: tuple[type, ...] = ()
    if issubclass(kind, nn.modules.conv._ConvTransposeNd):
        layout = (TransposedFilters,)
    elif not issubclass(kind, nn.Linear | nn.modules.conv._ConvNd | nn.Embedding):
        layout = (ColumnFilters,)
    return _subclass(kind, (*layout, OwnForward, kind), {"kind": kind, "weight": property(_weight)}, own_forward)


@functools.cache
def quantized_subclass(kind: Any, base: Any) -> Any:
    """The quantized class of layers of class `kind`, which has the forward of torch's layer; `base` is that one's."""
    return _subclass(kind, (base, kind), {}, quantized_subclass, base)


def _subclass(
    kind: type, bases: tuple[type, ...], members: dict[str, Any], make: Callable[..., type], *rest: Any
) -> Any:
    """A class with these bases; its objects are copied and pickled by the class that they come from."""

    def reduced(self: Any, protocol: Any) -> Any:
        return _empty, (make, kind, *rest), self.__dict__

    return type(
        f"Quant{kind.__name__}",
        bases,
        {**members, "__module__": OwnForward.__module__, "__doc__": bases[0].__doc__, "__reduce_ex__": reduced},
    )


def _empty(make: Callable[..., type], *kinds: type) -> Any:
    made: Any = make(*kinds)
    return made.__new__(made)
