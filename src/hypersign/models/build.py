"""Builds a network from its name and options, which run folders store."""

import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any

from torch import nn

from hypersign import quantizers
from hypersign._checks import HypersignError, check_choice
from hypersign.models.associative_memory import associative_memory
from hypersign.models.fast_transform import fast_transform
from hypersign.models.gpt import gpt
from hypersign.models.recurrent import lstm
from hypersign.models.resnet import reactnet_a, resnet18, resnet20
from hypersign.models.vgg import mlp, vgg
from hypersign.models.vgg_small import vgg_small
from hypersign.quantizers import Quantization

__all__ = ["MODELS", "build", "options_of"]

MODELS: dict[str, Callable[..., nn.Module]] = {
    "vgg": vgg,
    "mlp": mlp,
    "vgg-small": vgg_small,
    "resnet20": resnet20,
    "resnet18": resnet18,
    "reactnet-a": reactnet_a,
    "fast-transform": fast_transform,
    "associative-memory": associative_memory,
    "lstm": lstm,
    "gpt": gpt,
}

SEQUENCES = ("lstm", "gpt")
"""Networks that read texts."""

_COMMON = ("levels", "threshold", "surrogate")
_BOTH = (*_COMMON, "weights", "inputs", "sign_zero", "weight_scale")
_LAYERS = (*_BOTH, "float_weights", "float_inputs")
_QUANTIZATION: dict[str, tuple[str, ...]] = {
    "vgg": (*_LAYERS, "continuous", "first_layer", "first_dimensions", "pixel_range"),
    "mlp": _LAYERS,
    "vgg-small": _BOTH,
    "resnet20": _BOTH,
    "resnet18": _BOTH,
    "reactnet-a": _BOTH,
    "fast-transform": (*_COMMON, "weights"),
    "associative-memory": (*_COMMON, "inputs"),
    "lstm": _LAYERS,
    "gpt": _LAYERS,
}
"""The arguments of `Quantization.of` that are options of each network."""


def options_of(name: str) -> tuple[str, ...]:
    """The names of the options of the network `name`.

    >>> "pools" in options_of("vgg"), "pools" in options_of("mlp")
    (True, False)
    """
    check_choice("model", name, MODELS)
    parameters = inspect.signature(MODELS[name]).parameters.values()
    return tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY) + _QUANTIZATION[name]


def build(name: str, shape: tuple[int, ...], classes: int, **options: Any) -> nn.Module:
    """Builds the network `name` for images of `shape` (channels, height, width) and `classes` classes.

    For texts the shape is `(length,)` and `classes` is the size of the vocabulary.

    Options are plain data, as in recipes and run folders: the keyword arguments of the network's function and of
    `Quantization.of`.

    Raises:
        HypersignError: the name or an option is unknown, or the value of an option is outside its range.

    >>> build("mlp", (1, 8, 8), 10, hidden=[32]).fc1
    QuantLinear(
      in_features=64, out_features=32, bias=False
      (input_quantizer): Identity()
      (weight_quantizer): Sign(
        (surrogate): HardTanh(clip=1)
      )
    )
    """
    known = options_of(name)
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise HypersignError(
            f"{name} has no option {', '.join(unknown):.200}; its options are {', '.join(known)}: leave the others "
            "out"
        )
    _check_kinds(name, options)
    if name in SEQUENCES:  # in such networks "binary" means the weights alone
        options.setdefault("inputs", "float")
    plain = {option: options.pop(option) for option in _QUANTIZATION[name] if option in options}
    return MODELS[name](shape, classes, Quantization.of(**plain), **options)


def _check_kinds(name: str, options: Mapping[str, Any]) -> None:
    """Raises HypersignError for an option whose value is of another kind than the builder's annotation says."""
    for option, value in options.items():
        kind = _kinds(name).get(option, Any)
        if not _is(value, kind):
            wanted = str(kind).replace("collections.abc.", "").replace("<class '", "").replace("'>", "")
            raise HypersignError(f"the option {option} of {name} must be of the kind {wanted}; got {value!r:.60}")


@functools.cache
def _kinds(name: str) -> dict[str, Any]:
    types = {quantizer: getattr(quantizers, quantizer) for quantizer in quantizers.__all__}  # loads the lazy ones
    found: dict[str, Any] = {}
    for function in (Quantization, Quantization.of, MODELS[name]):
        found |= typing.get_type_hints(function, localns=types)
    return found


def _is(value: Any, kind: Any) -> bool:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return any(_is(value, one) for one in arguments)
    if kind is Any:
        return True
    if origin is typing.Literal:
        return value in arguments
    if origin is not None:  # Sequence[int], tuple[str, ...], tuple[float, float]: JSON has lists
        length = len(arguments) if origin is tuple and arguments[-1] is not ... else None
        return (
            isinstance(value, list | tuple)
            and length in (None, len(value))
            and all(_is(item, arguments[0]) for item in value)
        )
    if kind in (int, float):
        number = isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
        return number and not (isinstance(value, int) and abs(value) >= 2**63)  # floats hold no integer of 400 digits
    return isinstance(value, kind)
