"""Formats that a forecast judges: a name for each quantizer of weights or inputs, its values and its bytes."""

import dataclasses
import functools
import math
import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from hypersign._checks import HypersignError, check_choice
from hypersign.methods import METHODS, distinct
from hypersign.quantizers import (
    Grid,
    GroupScaled,
    MeanScale,
    Optimal,
    Quantizer,
    Rotated,
    Sign,
    TensorScale,
    Ternary,
    Uniform,
    quantizer_of,
)
from hypersign.quantizers.base import Rule
from hypersign.rotations import HadamardRotation

__all__ = ["FORMATS", "Format", "fit_grid", "fitted", "format_of", "formats_of", "weight_bytes", "weight_values"]

FORMATS = ("binary", "ternary", "4-level", "8-level")
"""The formats that a forecast judges if none are named."""

_LEVELS = {"binary": Sign, "ternary": Ternary, "4-level": Uniform, "8-level": Uniform}
_INPUTS = {"inputs:binary": 2, "inputs:ternary": 3, "inputs:8-bit": 256}
_SCALES = ("tensor", "filter", "32", "64", "128")
_METHOD = "method:"
_SCORES_SEED = 7919_000_003  # no seed that drew the weights: scores must not depend on them
_SAMPLE = 1 << 16
"""Inputs that a grid is fitted to."""


@dataclasses.dataclass(frozen=True)
class Format:
    """How a layer's weights, or its inputs, are stored.

    Args:
        name: the text that names it, see `format_of`.
        side: "weights" or "inputs".
        levels: the number of levels of inputs; 0 for weights.
    """

    name: str
    side: str = "weights"
    levels: int = 0

    def quantizer(self, fan_in: int) -> Quantizer:
        """The quantizer of the weights of a layer with this fan-in."""
        if self.name.startswith(_METHOD):
            return quantizer_of(METHODS[self.name.removeprefix(_METHOD)].weights)
        base, _, rotated = self.name.partition("+")
        kind, _, scale = base.partition(":")
        if kind not in _LEVELS or "=" in scale:
            return quantizer_of(self.name)
        rules: dict[str, Rule] = {"": MeanScale(), "filter": MeanScale(), "tensor": TensorScale()}
        rule = rules.get(scale)
        quantizer = _of_levels(kind, rule)
        if rule is None:
            quantizer = GroupScaled(quantizer, int(scale))
        return Rotated(quantizer, HadamardRotation(fan_in)) if rotated else quantizer

    @functools.cache  # noqa: B019, formats are few and small
    def bytes(self, filters: int, fan_in: int) -> int | None:
        """The bytes of a layer's weights in this format, see `weight_bytes`."""
        return weight_bytes(self.quantizer(fan_in), filters, fan_in)


def _of_levels(kind: str, rule: Rule | None) -> Quantizer:
    if kind == "binary":
        return Sign(scale=rule)
    return Ternary(Optimal(), scale=rule) if kind == "ternary" else Uniform(int(kind[0]), scale=rule)


def format_of(text: str) -> Format:
    """The format that a text names.

    Weights: `binary`, `ternary`, `4-level` or `8-level`; then perhaps the part that shares a least-squares scale:
    `:tensor`, `:filter` (the default), or a group of `:32`, `:64` or `:128` weights; then perhaps `+hadamard`, which
    quantizes in a rotated frame. `method:NAME` is what a method of `METHODS` makes of weights. Every other text names
    a quantizer of the table, as `quantizer_of` takes it. Inputs: `inputs:binary`, `inputs:ternary`, `inputs:8-bit`,
    with equally spaced levels fitted to the layer's inputs.

    Raises:
        HypersignError: the text names no format.

    >>> format_of("4-level:64").quantizer(128).describe()
    'GroupScaled(Uniform(levels=4), 64)'
    """
    if not isinstance(text, str):
        raise HypersignError(f"a format must be a name such as 'binary' or 'ternary:64'; got {text!r:.60}")
    if text.startswith(_METHOD):
        check_choice("a format's method", text.removeprefix(_METHOD), METHODS)
        return Format(text)
    if text in _INPUTS:
        return Format(text, "inputs", _INPUTS[text])
    if text.startswith("inputs:"):
        raise HypersignError(f"a format of inputs must be one of {', '.join(_INPUTS)}; got {text!r:.60}")
    found = re.fullmatch(r"([^:+]+)(?::([^+]*))?(\+hadamard)?", text)
    if found and found[1] in _LEVELS and (found[2] is None or found[2] in _SCALES):
        return Format(text)
    if found and found[1] in _LEVELS and "=" not in text:
        raise HypersignError(f"a format's scale must be one of {', '.join(_SCALES)}; got {text!r:.60}")
    try:
        quantizer_of(text)
    except HypersignError as error:
        raise HypersignError(
            f"a format must be {', '.join(_LEVELS)} or {', '.join(_INPUTS)}, as in 'ternary:64+hadamard', or a "
            f"quantizer of the table; got {text!r:.60} ({error!s:.150})"
        ) from error
    return Format(text)


def formats_of(texts: Iterable[str] | str) -> tuple[Format, ...]:
    """The formats that texts name, each once, in their order.

    "methods" names those of all methods, once where methods have the same quantizer of weights.

    Raises:
        HypersignError: a text names no format, or there is none.
    """
    named = [texts] if isinstance(texts, str) else list(texts)
    each = [f"{_METHOD}{name}" for name in distinct()]
    words = [word for text in named for word in (each if text == "methods" else [text])]
    found = tuple(dict.fromkeys(format_of(word) for word in words))
    if not found:
        raise HypersignError(f"a forecast needs at least one format, such as {', '.join(FORMATS)}; got none")
    return found


def weight_values(quantizer: Quantizer, latent: Tensor, given: Tensor | None = None) -> Tensor:
    """The values that a layer multiplies after its latent weights are quantized: scale times levels plus offset.

    If the network's own weights are quantized, `given` holds their values. Each filter of the result is then scaled
    to be as near as possible to the given one, because the network was trained for products of that size.
    """
    with torch.no_grad():
        levels = quantizer(latent)
        shape = (-1, *[1] * (latent.dim() - 1))
        values = levels if quantizer.scale is None else quantizer.scale(latent, levels).view(shape) * levels
        if quantizer.offset is not None:
            values = values + quantizer.offset(latent, levels).view(shape)
        if given is None:
            return values
        flat = values.flatten(1)
        size = (given.flatten(1) * flat).sum(1) / flat.square().sum(1).clamp(min=torch.finfo(flat.dtype).tiny)
        return size.view(shape) * values


def fitted(quantizer: Quantizer, latent: Tensor) -> Quantizer:
    """The quantizer, with what it learns started from these latent weights; random scores have a fixed seed."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(_SCORES_SEED)  # torch.manual_seed looks for every kind of device: slow
        if latent.is_cuda:
            torch.cuda.manual_seed(_SCORES_SEED)
        quantizer.fit(latent)
    return quantizer


def weight_bytes(quantizer: Quantizer, filters: int, fan_in: int) -> int | None:
    """The bytes of quantized weights: whole 64-bit words per filter and bit, and 4 bytes per scale or offset.

    None if the quantizer states neither levels nor bits.

    >>> weight_bytes(Sign(scale=MeanScale()), 10, 100)  # two words and a scale per filter
    200
    """
    count, scales = fan_in, 0
    inner: Any = quantizer
    if isinstance(inner, Rotated):
        inner, count = inner.quantizer, inner.rotation.outputs
    if isinstance(inner, GroupScaled):
        scales, inner = filters * math.ceil(count / inner.size), inner.quantizer
    if inner.bits_per_level is None:
        return None
    rules = [rule for rule in (inner.scale, inner.offset) if rule is not None]
    scales += sum(1 if isinstance(rule, TensorScale) else filters for rule in rules)
    if inner.bits_per_level == 32:
        return 4 * (filters * count + scales)
    return filters * inner.bits_per_level * -(-count // 64) * 8 + 4 * scales


def fit_grid(levels: int, x: Tensor) -> Grid:
    """The equally spaced levels that are best for a sample of inputs, by alternating least squares.

        low, step = argmin sum (x - low - step q(x))^2,   q(x) the nearest level

    It starts from the sample's range, with few levels from its quartiles.

    >>> fit_grid(2, torch.tensor([0.0, 0.2, 1.8, 2.0])).describe()
    'Grid(2, low=0.1, step=1.8)'
    """
    values = x.detach().flatten().double()
    if len(values) > _SAMPLE:
        values = values[:: len(values) // _SAMPLE]
    ends = (0.0, 1.0) if levels > 16 else (0.5 / levels, 1 - 0.5 / levels)
    low, high = torch.quantile(values, torch.tensor(ends, dtype=values.dtype)).tolist()
    if high <= low:
        low, high = float(values.min()), float(values.max())
    step = (high - low) / (levels - 1) or 1.0
    for _ in range(30):
        q = ((values - low) / step).round().clamp(0, levels - 1)
        spread = float(q.var(correction=0))
        if not spread:
            break
        new = float(((q - q.mean()) * values).mean()) / spread
        if new <= 0:
            break
        low, step = float(values.mean()) - new * float(q.mean()), new
    return Grid(levels, low=low, step=step)


Sides = tuple[Format | None, Format | None]
"""The formats of a layer's weights and of its inputs; None where it stays as given."""


def sides_of(value: Any) -> Sides:
    """The formats of weights and inputs that an entry of an assignment names: a text, or a pair or list of texts.

    Raises:
        HypersignError: a text names no format, or two name the same side.
    """
    if not isinstance(value, str | tuple | list):
        raise HypersignError(f"an assignment gives each layer a format or a pair of formats; got {value!r:.60}")
    texts = [value] if isinstance(value, str) else list(value)
    found: dict[str, Format] = {}
    for text in texts:
        if text == "float":
            continue
        made = format_of(text)
        if made.side in found:
            raise HypersignError(f"a layer takes one format of weights and one of inputs; got {value!r:.80}")
        found[made.side] = made
    return found.get("weights"), found.get("inputs")
