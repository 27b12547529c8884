"""The layers that a forecast changes: linear and convolutional ones, and the matrices of recurrent layers."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor, nn

from hypersign._checks import HypersignError
from hypersign.layers import RecurrentProduct, convert
from hypersign.layers.layer import quantizable_layers
from hypersign.layers.recurrent import QuantRecurrent
from hypersign.quantizers import Identity

__all__ = [
    "bias_place",
    "called_with",
    "changeable_layers",
    "hooked",
    "product_rows",
    "takes_shift",
    "unrolled",
    "weight_place",
]

Place = tuple[dict[str, Any], str]
"""A module's parameters, and a name in them."""


def changeable_layers(model: nn.Module) -> dict[str, Any]:
    """The layers with a weight that can be quantized, by name: also each matrix of a recurrent layer.

    >>> from hypersign.layers import QuantLSTM
    >>> list(changeable_layers(nn.Sequential(QuantLSTM(3, 5), nn.Linear(5, 2))))
    ['0.ih_l0', '0.hh_l0', '1']
    """
    known = quantizable_layers(model)
    return {name: m for name, m in model.named_modules() if name in known or isinstance(m, RecurrentProduct)}


def unrolled(model: nn.Module) -> nn.Module:
    """The network with matrices that can be changed: a copy if it has a plain `nn.RNN`, `nn.LSTM` or `nn.GRU`.

    In the copy they are `QuantRecurrent` layers without quantizers, which compute the same.
    """
    plain = [n for n, m in model.named_modules() if isinstance(m, nn.RNNBase) and not isinstance(m, QuantRecurrent)]
    try:
        return convert(model, weight_quantizer={name: Identity() for name in plain}).model if plain else model
    except HypersignError:  # a subclass, or a hook computes its weights: it stays as it is
        return model


def _owner(product: RecurrentProduct) -> Any:
    return product.__dict__["_owner"]


def called_with(layer: Any) -> nn.Module:
    """The module whose call computes a layer: the layer itself, or the recurrent layer that it is a matrix of."""
    return _owner(layer) if isinstance(layer, RecurrentProduct) else layer


def takes_shift(layer: Any) -> bool:
    """Whether a shift of a layer's outputs can be put into a bias.

    Not in a recurrent layer without a bias, or with a norm between product and bias: these only get a scale.
    """
    if not isinstance(layer, RecurrentProduct):
        return True
    owner = _owner(layer)
    return bool(owner.bias) and owner.norm in ("none", "weight")


def weight_place(layer: Any) -> Place:
    """Where a layer's weight is kept."""
    if isinstance(layer, RecurrentProduct):
        return _owner(layer)._parameters, layer.parameter
    return layer._parameters, "weight"


def bias_place(layer: Any) -> Place:
    """Where the bias that follows a layer's product is kept; there may be none."""
    if isinstance(layer, RecurrentProduct):
        return _owner(layer)._parameters, layer.parameter.replace("weight", "bias")
    return layer._parameters, "bias"


def product_rows(layer: Any, weight: Tensor) -> Tensor:
    """The weight after the weight normalisation of a recurrent layer, if it has one: rows g w/|w|."""
    gain = layer.gain if isinstance(layer, RecurrentProduct) else None
    if gain is None:
        return weight
    return weight * (gain.detach() / weight.square().sum(1).clamp(min=1e-12).sqrt())[:, None]


@contextlib.contextmanager
def hooked(layers: Iterable[Any], hook: Callable[[Any, Tensor, Tensor], Tensor | None]) -> Iterator[None]:
    """Calls `hook` with each layer, its inputs and its outputs, at each call; what it returns replaces the outputs.

    A matrix of a recurrent layer is called at every step, and its output is the product alone.
    """
    wanted = set(layers)
    owners = {_owner(layer) for layer in wanted if isinstance(layer, RecurrentProduct)}
    before = {owner: owner.observer for owner in owners}

    def called(layer: Any, args: tuple, kwargs: dict[str, Any], output: Tensor) -> Tensor | None:
        return hook(layer, args[0] if args else next(iter(kwargs.values())), output)

    def step(product: RecurrentProduct, _: int, x: Tensor, output: Tensor) -> Tensor | None:
        return hook(product, x, output) if product in wanted else None

    with contextlib.ExitStack() as hooks:
        for layer in wanted:
            if not isinstance(layer, RecurrentProduct):
                hooks.callback(layer.register_forward_hook(called, with_kwargs=True).remove)
        try:
            for owner in owners:
                owner.observer = step
            yield
        finally:
            for owner, observer in before.items():
                owner.observer = observer
