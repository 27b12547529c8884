"""Handlers of pools."""

import dataclasses
from typing import Any

from torch import nn

from hypersign.bits.windows import output_size
from hypersign.packing.folding import Flow, Folding, Monotone, refusal
from hypersign.packing.handlers.windows import pair

__all__ = ["adaptive_avg_pool", "adaptive_max_pool", "avg_pool", "max_pool"]


def max_pool(folding: Folding, name: str, module: nn.MaxPool2d, x: Flow) -> Flow:
    """Waits: it moves behind the thresholds of the next quantizer, where it runs on bits."""
    if pair(module.dilation) != [1, 1] or module.return_indices:
        raise refusal(name, module, "dilation and return_indices are not supported")
    x, options = folding.as_image(name, x), _options(module)
    return _pooled(x, options).then(Monotone(name, pool=options))


def avg_pool(folding: Folding, name: str, module: nn.AvgPool2d, x: Flow) -> Flow:
    """A node on float32."""
    if module.divisor_override is not None:
        raise refusal(name, module, "divisor_override is not supported")
    return _averaged(folding, name, {**_options(module), "count_include_pad": module.count_include_pad}, x)


def adaptive_avg_pool(folding: Folding, name: str, module: nn.AdaptiveAvgPool2d, x: Flow) -> Flow:
    """The mean over the whole image, or over equal parts of it."""
    x = folding.as_image(name, x)
    return _averaged(folding, name, {**_equal_parts(name, module, x), "count_include_pad": True}, x)


def adaptive_max_pool(folding: Folding, name: str, module: nn.AdaptiveMaxPool2d, x: Flow) -> Flow:
    """The maximum over the whole image, or over equal parts of it."""
    x = folding.as_image(name, x)
    if module.return_indices:
        raise refusal(name, module, "return_indices is not supported")
    options = _equal_parts(name, module, x)
    return _pooled(x, options).then(Monotone(name, pool=options))


def _equal_parts(name: str, module: Any, x: Flow) -> dict[str, Any]:
    """The options of the pool that gives the output's size, if its windows are of one size."""
    given = module.output_size
    pair_given = given if isinstance(given, tuple | list) else (given, given)
    height, width = (
        n if size is None else int(size) for n, size in zip((x.height, x.width), pair_given, strict=True)
    )
    if x.height % height or x.width % width:
        reason = f"an output of {height} x {width} must divide the image of {x.height} x {x.width} into equal parts"
        raise refusal(name, module, reason)
    size = [x.height // height, x.width // width]
    return {"size": size, "stride": size, "padding": [0, 0], "ceil_mode": False}


def _averaged(folding: Folding, name: str, options: dict[str, Any], x: Flow) -> Flow:
    y = folding.real(folding.as_image(name, x))
    return _pooled(y, options).after(folding.node("avg_pool2d", name, y.name, **options))


def _options(module: Any) -> dict[str, Any]:
    return {
        "size": pair(module.kernel_size),
        "stride": pair(module.stride),
        "padding": pair(module.padding),
        "ceil_mode": module.ceil_mode,
    }


def _pooled(x: Flow, options: dict[str, Any]) -> Flow:
    """`x` with the height and width after the pool."""
    size, stride, padding = (tuple(options[name]) for name in ("size", "stride", "padding"))
    height, width = output_size(
        (x.height, x.width), size, stride=stride, padding=padding, ceil_mode=options["ceil_mode"]
    )
    return dataclasses.replace(x, height=height, width=width)
