"""Chooses a plan: one format per layer, for a size or an agreement."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from hypersign._checks import HypersignError, check_int, check_real
from hypersign.forecasting.bench import Layer
from hypersign.forecasting.effects import Effect
from hypersign.forecasting.formats import formats_of, sides_of
from hypersign.forecasting.layers import changeable_layers
from hypersign.forecasting.mixtures import together
from hypersign.forecasting.plan import Plan, call_text
from hypersign.forecasting.planning import Option, best, cheapest, smallest
from hypersign.forecasting.sizes import file_size_of
from hypersign.quantizers import Quantizer

if TYPE_CHECKING:
    from hypersign.forecasting.results import Forecast

__all__ = ["COSTS", "Goal", "check_real_weights", "choose"]

CORRECTIONS = 4
"""Times that a plan for an agreement is corrected, at most."""

COSTS: tuple[Callable[[Effect], float], ...] = (
    lambda effect: -math.log(min(max(effect.r.value, 1e-3), 1.0)),
    lambda effect: max(effect.kl.value, 0.0),
)
"""Costs of a change alone whose sum over the layers a plan makes small: -log r, and KL."""


@dataclasses.dataclass(frozen=True)
class Goal:
    """What a plan has to reach; exactly one is given.

    Args:
        bytes: at most this many bytes for all parameters.
        bits_per_weight: at most this many bits per weight, scales included, over the layers.
        agreement: at least this share of equal decisions, predicted.
    """

    bytes: int | None = None
    bits_per_weight: float | None = None
    agreement: float | None = None

    def __post_init__(self) -> None:
        given = sum(goal is not None for goal in (self.bytes, self.bits_per_weight, self.agreement))
        if given != 1:
            raise HypersignError(
                f"a plan needs one goal: bytes, bits_per_weight or agreement; got {given or 'none'} of them"
            )


def choose(found: "Forecast", goal: Goal, *, repaired: bool, held_out: Iterable[Any] | None) -> Plan:
    """The plan that reaches the goal with the least damage; see `Forecast.plan`."""
    found.law(repaired)
    check_real_weights(found.bench.model)
    tables = [_options(found, repaired, cost) for cost in COSTS]
    measure = functools.partial(_expected, found, repaired=repaired)
    chosen, predicted = best(tables, _budget(found, tables[0], goal, repaired), measure)
    if goal.agreement is not None:
        wanted = aim = goal.agreement
        for _ in range(CORRECTIONS):  # the law's own aim is corrected by what the plan measures
            if (short := wanted - predicted.agreement.value) <= 0:
                break
            aim = min(aim + short, 1.0)
            chosen, predicted = best(tables, _budget_for(found, tables[0], aim, repaired), measure)
    return _described(found, chosen, predicted, repaired, held_out)


def _cheapest(options: list[list[Option]], budget: int) -> Sequence[Option]:
    chosen = cheapest(options, budget)
    assert chosen is not None  # the budget is at least the smallest choice
    return chosen


def _expected(found: "Forecast", chosen: Sequence[Option], *, repaired: bool) -> Effect:
    """The effect of a choice, measured as the mixtures of the fit are."""
    sides = {name: sides_of(text) for name, text in _named(found, chosen).items() if text != "float"}
    if not sides or (repaired and not found.bench.splits):
        return found.predict(_named(found, chosen), repaired=repaired)
    return together(found.bench, sides, repaired=repaired)


def check_real_weights(model: nn.Module) -> None:
    """Raises HypersignError if the weights of all layers are quantized, so that a plan has nothing to choose."""
    layers = changeable_layers(model)
    if layers and all(Layer(name, module).quantized for name, module in layers.items()):
        raise HypersignError(
            "a plan needs a network with layers in float; the weights of all layers are quantized already: "
            "plan for the float network it came from"
        )


def _options(found: "Forecast", repaired: bool, cost: Callable[[Effect], float]) -> list[list[Option]]:
    """For each layer, the formats that can be chosen: their bytes, and the cost of the format alone."""
    table = []
    for layer in found.layers:
        given = layer.bytes["float"]
        assert given is not None
        options = [Option("float", given, 0.0)]
        effects = layer.repaired if repaired else layer.raw
        for name, effect in effects.items():
            size = layer.bytes.get(name)
            if not layer.quantized and size is not None:
                options.append(Option(name, size, cost(effect)))
        table.append(options)
    return table


def _budget(found: "Forecast", options: list[list[Option]], goal: Goal, repaired: bool) -> int:
    """The bytes that the layers' weights and scales may take."""
    least = smallest(options)
    if goal.bytes is not None:
        budget = check_int("bytes", goal.bytes, min=1) - found.other_bytes
        _check_budget(budget, least, "bytes", f"{goal.bytes:,}", f"{least + found.other_bytes:,}")
    elif goal.bits_per_weight is not None:
        weights = sum(layer.weights for layer in found.layers)
        bits = check_real("bits_per_weight", goal.bits_per_weight, above=0)
        budget = math.floor(bits * weights / 8)
        _check_budget(budget, least, "bits_per_weight", f"{bits:g}", f"{8 * least / weights:.4f}")
    else:
        wanted = check_real("agreement", goal.agreement, min=0, max=1)
        budget = _budget_for(found, options, wanted, repaired)
    return budget


def _check_budget(budget: int, least: int, what: str, came: str, wanted: str) -> None:
    if budget < least:
        raise HypersignError(
            f"{what} must be at least {wanted}, the smallest choice of these formats; got {came}: allow more, or "
            "forecast smaller formats"
        )


def _budget_for(found: "Forecast", options: list[list[Option]], wanted: float, repaired: bool) -> int:
    """The smallest budget whose plan reaches the agreement, to a thousandth of the range, by bisection."""
    low, high = smallest(options), sum(choices[0].bytes for choices in options)

    def reaches(budget: int) -> bool:
        agreement = found.predict(_named(found, _cheapest(options, budget)), repaired=repaired).agreement
        return agreement.value - agreement.bias >= wanted

    if reaches(low):
        return low
    step = max(1, (high - low) // 1000)
    while high - low > step:
        middle = (low + high) // 2
        low, high = (low, middle) if reaches(middle) else (middle, high)
    return high


def _named(found: "Forecast", chosen: Sequence[Option]) -> dict[str, str]:
    return {layer.name: option.name for layer, option in zip(found.layers, chosen, strict=True)}


def _described(
    found: "Forecast",
    chosen: Sequence[Option],
    predicted: Effect,
    repaired: bool,
    held_out: Iterable[Any] | None,
) -> Plan:
    """The plan of these formats, with its predicted effect, sizes and Python call."""
    assignment = _named(found, chosen)
    size = sum(option.bytes for option in chosen)
    weights = {
        layer.name: _quantizer(name, layer.fan_in)
        for layer, name in zip(found.layers, assignment.values(), strict=True)
        if name != "float"
    }
    macs: dict[int, int] = {}
    for layer in found.layers:
        bits = _level_bits(weights[layer.name]) if layer.name in weights else _given_bits(found, layer.name)
        macs[bits or 32] = macs.get(bits or 32, 0) + layer.macs
    file_bytes, reason = file_size_of(found.bench, weights, found.images, repaired=repaired)
    call = call_text(weights, {}, repaired=repaired)
    if "cannot be converted" in reason:
        call = f"# convert refuses this plan: {reason}\n{call}"
    return Plan(
        assignment=assignment,
        predicted=predicted,
        measured=None if held_out is None else found.measure(assignment, held_out, repaired=repaired),
        repaired=repaired,
        bytes=size + found.other_bytes,
        bits_per_weight=8 * size / sum(layer.weights for layer in found.layers),
        macs=dict(sorted(macs.items())),
        file_bytes=file_bytes,
        no_file=reason,
        call=call,
    )


def _quantizer(name: str, fan_in: int) -> Quantizer:
    (format,) = formats_of(name)
    return format.quantizer(fan_in)


def _given_bits(found: "Forecast", name: str) -> int | None:
    layer = found.bench.layers[name]
    return layer.module.weight_quantizer.bits_per_level if layer.quantized else 32


def _level_bits(quantizer: Quantizer) -> int | None:
    """The bits of a level, also inside a rotation or a group scale."""
    inner: Any = quantizer
    while hasattr(inner, "quantizer"):
        inner = inner.quantizer
    return inner.bits_per_level
