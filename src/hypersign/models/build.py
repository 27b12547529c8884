"""Build a network by its name and options: what a run folder stores and rebuilds."""

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from hypersign._checks import HypersignError, check_choice
from hypersign.models.associative_memory import associative_memory
from hypersign.models.fast_transform import fast_transform
from hypersign.models.resnet import resnet18, resnet20
from hypersign.models.vgg import mlp, vgg
from hypersign.quantizers import HardTanh, Optimal, Polynomial, StraightThrough, Surrogate, Tanh, Triangle

__all__ = ["MODELS", "build", "options_of"]

MODELS: dict[str, Callable[..., nn.Module]] = {
    "vgg": vgg,
    "mlp": mlp,
    "resnet20": resnet20,
    "resnet18": resnet18,
    "fast-transform": fast_transform,
    "associative-memory": associative_memory,
}

SURROGATES: dict[str, type[Surrogate]] = {
    "hardtanh": HardTanh,
    "polynomial": Polynomial,
    "tanh": Tanh,
    "triangle": Triangle,
    "straight-through": StraightThrough,
}


def options_of(name: str) -> tuple[str, ...]:
    """Names of the options that the network `name` takes.

    >>> "pools" in options_of("vgg"), "pools" in options_of("mlp")
    (True, False)
    """
    check_choice("model", name, MODELS)
    parameters = inspect.signature(MODELS[name]).parameters.values()
    return tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)


def build(name: str, shape: tuple[int, int, int], classes: int, **options: Any) -> nn.Module:
    """Builds the network `name` for images of `shape` (channels, height, width) and `classes` classes.

    Options are the keyword arguments of the function of that name, as plain data: `threshold="optimal"`
    stands for `Optimal()`, `surrogate="tanh"` for `Tanh()` and so on (`SURROGATES`).

    Raises:
        HypersignError: an unknown name or option, or an option's value outside its range.

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
            f"{name} has no option {', '.join(unknown)}; its options are {', '.join(known)}: leave the others out"
        )
    threshold = options.get("threshold")
    if isinstance(threshold, str):
        check_choice("threshold (or a number in [0, 1))", threshold, ["optimal"])
        options = {**options, "threshold": Optimal()}
    surrogate = options.get("surrogate")
    if isinstance(surrogate, str):
        check_choice("surrogate", surrogate, SURROGATES)
        options = {**options, "surrogate": SURROGATES[surrogate]()}
    return MODELS[name](shape, classes, **options)
