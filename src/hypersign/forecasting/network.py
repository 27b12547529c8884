"""The forecast of a whole network: each change alone, any of them together, and plans."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table
from torch import nn

from hypersign import _defaults
from hypersign._checks import HypersignError, check_int, check_real
from hypersign._display import as_html, as_text, shown
from hypersign.data import ImageData
from hypersign.forecasting.bench import Bench, Key, Layer
from hypersign.forecasting.effects import Effect, effect, unseen
from hypersign.forecasting.formats import FORMATS, Format, formats_of, sides_of, weight_bytes
from hypersign.forecasting.law import Law, Mixture, fit
from hypersign.forecasting.plan import Plan, call_text
from hypersign.forecasting.planning import Option, cheapest, smallest
from hypersign.forecasting.replay import batch_size, every
from hypersign.forecasting.sizes import Images, file_size_of
from hypersign.layers.layer import quantizable_layers
from hypersign.quantizers import Quantizer
from hypersign.runs import Run

__all__ = ["Forecast", "LayerForecast", "Progress", "check_real_weights", "forecast"]

MIXTURES = 12
"""Random mixtures that are measured to fit the law and to know its error."""

QUICK = 12
"""The quick mode measures on one of this many inputs."""

BATCH = 128
"""Inputs of a run per batch."""

SPLIT = 16
"""Batches of fewer inputs are not split to measure repair on inputs that it has not seen."""

Progress = Callable[[str, int, int], object]
"""Called with the name of the current work, how much of it is done, and how much there is."""

Sides = tuple[Format | None, Format | None]

_MOST_COLUMNS = 5
"""Formats that a table has as columns."""


def silent(what: str, done: int, total: int) -> None:
    """Shows no progress."""


@shown
@dataclasses.dataclass(frozen=True)
class LayerForecast:
    """One layer: what each format of it alone does to the network's decisions.

    `raw` and `repaired` map a format's name to its effect. `bytes` maps it to the bytes of weights and scales, None
    if unknown; "float" stands for the layer as given. `macs` are its multiply-accumulates for one input.
    """

    name: str
    kind: str
    fan_in: int
    filters: int
    weights: int
    macs: int
    quantized: bool
    raw: dict[str, Effect]
    repaired: dict[str, Effect]
    bytes: dict[str, int | None]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Forecast:
    """What formats of each layer do at the network's output: alone (measured), and together (predicted).

    `layers` are in the order of their first calls. `unmeasured` has the reason for each layer that could not be
    changed. `inputs` were measured on, `decisions` of them are kept. `seconds` is the time it took, and `passes` the
    number of passes of the whole network over the inputs that it took. `other_bytes` are those of all parameters
    outside the layers' weights.
    """

    layers: tuple[LayerForecast, ...]
    unmeasured: dict[str, str]
    formats: tuple[str, ...]
    inputs: int
    decisions: int
    classes: int
    other_bytes: int
    seconds: float
    passes: float
    raw_law: Law | None
    repaired_law: Law | None
    bench: Bench
    keys: tuple[Key, ...] = ()
    images: Images | None = None

    def __str__(self) -> str:
        """Which layers matter, and the table."""
        return as_text(*self._shown())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return as_html(*self._shown())

    def _shown(self) -> tuple[str, Table]:
        repaired = self.repaired_law is not None
        return self.words(repaired=repaired), self.table(repaired=repaired)

    def table(self, *, repaired: bool = True) -> Table:
        """One row per layer: r of the logits, and the share of decisions that change, for each format alone.

        With more than 5 formats there is one row per format instead: the layer that it harms most, and all layers
        together, as predicted.
        """
        table = Table(
            title=f"one layer changed, {'repaired' if repaired else 'without repair'}",
            title_justify="left",
            caption=f"r of the logits / decisions that change, %; from {self.inputs:,} inputs,\n"
            f"{self.passes:.0f} passes, {self.seconds:.0f} s",
            caption_justify="left",
        )
        if len(self.formats) > _MOST_COLUMNS:
            return self._by_format(table, repaired)
        table.add_column("layer", overflow="fold")
        table.add_column("weights", justify="right", no_wrap=True)
        for text in self.formats:
            table.add_column(text.replace(":", ":\n").replace("+", "\n+"), justify="right", no_wrap=True)
        for layer in self.layers:
            effects = layer.repaired if repaired else layer.raw
            cells = [_cell(effects[text]) if text in effects else "-" for text in self.formats]
            table.add_row(escape(layer.name or layer.kind), f"{layer.weights:,}", *cells)
        return table

    def _by_format(self, table: Table, repaired: bool) -> Table:
        """One row per format."""
        table.add_column("format", no_wrap=True)
        table.add_column("harms most", overflow="fold")
        table.add_column("there", justify="right", no_wrap=True)
        table.add_column("all layers,\npredicted", justify="right", no_wrap=True)
        for text in self.formats:
            known = [
                (effects[text], layer)
                for layer in self.layers
                if text in (effects := layer.repaired if repaired else layer.raw)
            ]
            if not known:
                table.add_row(text, "-", "-", "-")
                continue
            worst, at = min(known, key=lambda pair: pair[0].r.value)
            together = self.predict({layer.name: text for _, layer in known}, repaired=repaired)
            table.add_row(text, escape(at.name or at.kind), _cell(worst), _cell(together))
        return table

    def law(self, repaired: bool = True) -> Law:
        """The law that combines changes, after repair or before."""
        found = self.repaired_law if repaired else self.raw_law
        if found is None:
            other = "without" if repaired else "with"
            raise HypersignError(f"this forecast was only measured {other} repair; call forecast with repaired=None")
        return found

    def predict(self, assignment: Mapping[str, Any], *, repaired: bool = True) -> Effect:
        """The predicted effect of formats of several layers together.

        Args:
            assignment: layer -> format, or a pair of formats, of weights and of inputs. Layers left out, and "float",
                stay as given.
            repaired: after repair.

        Raises:
            HypersignError: a layer or format that was not measured.
        """
        return self.law(repaired).predict(self.picks(assignment))

    def picks(self, assignment: Mapping[str, Any]) -> list[int]:
        """The numbers of the changes that an assignment stands for."""
        numbers = {key: number for number, key in enumerate(self.keys)}
        found = []
        for name, value in assignment.items():
            for side in sides_of(value):
                if side is None:
                    continue
                if (name, side.name) not in numbers:
                    known = list(dict.fromkeys(key[0] for key in self.keys))
                    raise HypersignError(
                        f"an assignment must name measured layers and formats; {side.name!r} of {name!r} was not "
                        f"measured (layers: {', '.join(known)}; formats: {', '.join(self.formats)})"
                    )
                found.append(numbers[name, side.name])
        return found

    def measure(
        self, assignment: Mapping[str, Any], batches: Iterable[Any] | None = None, *, repaired: bool = True
    ) -> Effect:
        """Measures an assignment on the forecast's own inputs, or on others.

        Repair matches channels on the forecast's own inputs, as `repair` does.

        Raises:
            HypersignError: a layer that cannot be changed, an unknown format, fewer than two inputs.
        """
        sides = {name: sides_of(value) for name, value in assignment.items()}
        unknown = [name for name in sides if name not in self.bench.layers]
        if unknown:
            raise HypersignError(
                f"an assignment must name the layers {', '.join(self.bench.layers)}; got {', '.join(unknown)}"
            )
        sides = {name: pair for name, pair in sides.items() if pair != (None, None)}
        held, original = (None, self.bench.original) if batches is None else self.bench.others(batches)
        return effect(original, self.bench.together(sides, repaired=repaired, batches=held))

    def plan(
        self,
        *,
        bytes: int | None = None,
        bits_per_weight: float | None = None,
        agreement: float | None = None,
        repaired: bool = True,
        held_out: Iterable[Any] | None = None,
    ) -> Plan:
        """The assignment with the smallest predicted damage for a size, or the smallest one for an agreement.

        Of all choices of one format per layer it takes the one with the smallest sum of -log r of its changes alone,
        an exact knapsack. Only formats of weights are chosen; layers whose weights are quantized stay as given.

        Args:
            bytes: at most this many bytes for all parameters.
            bits_per_weight: at most this many bits per weight, scales included, over the layers.
            agreement: the smallest size whose predicted agreement, bias taken off, is at least this share.
            repaired: after repair.
            held_out: other inputs on which the plan is measured once.

        Raises:
            HypersignError: not exactly one goal; one that no choice reaches; a network without a layer in float.
        """
        goals = [goal for goal in (bytes, bits_per_weight, agreement) if goal is not None]
        if len(goals) != 1:
            raise HypersignError(
                f"a plan needs one goal: bytes, bits_per_weight or agreement; got {len(goals) or 'none'} of them"
            )
        options = self._options(repaired)
        if bytes is not None:
            budget = check_int("bytes", bytes, min=1) - self.other_bytes
            self._check_budget(options, budget, "bytes", f"{bytes:,}", f"{smallest(options) + self.other_bytes:,}")
        elif bits_per_weight is not None:
            weights = sum(layer.weights for layer in self.layers)
            bits = check_real("bits_per_weight", bits_per_weight, above=0)
            budget = math.floor(bits * weights / 8)
            self._check_budget(
                options, budget, "bits_per_weight", f"{bits:g}", f"{8 * smallest(options) / weights:.4f}"
            )
        else:
            budget = self._budget_for(options, check_real("agreement", agreement, min=0, max=1), repaired)
        chosen = cheapest(options, budget)
        assert chosen is not None
        return self._described(chosen, repaired, held_out)

    def _check_budget(
        self, options: Sequence[Sequence[Option]], budget: int, what: str, came: str, least: str
    ) -> None:
        if budget < smallest(options):
            raise HypersignError(
                f"{what} must be at least {least}, the smallest choice of these formats; got {came}: allow more, or "
                "forecast smaller formats"
            )

    def _options(self, repaired: bool) -> list[list[Option]]:
        self.law(repaired)
        check_real_weights(self.bench.model)
        found = []
        for layer in self.layers:
            given = layer.bytes["float"]
            assert given is not None
            options = [Option("float", given, 0.0)]
            effects = layer.repaired if repaired else layer.raw
            for name, found_effect in effects.items():
                size = layer.bytes.get(name)
                if layer.quantized or size is None:
                    continue
                options.append(Option(name, size, -math.log(min(max(found_effect.r.value, 1e-3), 1.0))))
            found.append(options)
        return found

    def _budget_for(self, options: list[list[Option]], wanted: float, repaired: bool) -> int:
        """The smallest budget whose plan reaches the agreement, to a thousandth of the range, by bisection."""
        low, high = smallest(options), sum(choices[0].bytes for choices in options)

        def reaches(budget: int) -> bool:
            chosen = cheapest(options, budget)
            assert chosen is not None
            found = self.predict(self._named(chosen), repaired=repaired).agreement
            return found.value - found.bias >= wanted

        if reaches(low):
            return low
        step = max(1, (high - low) // 1000)
        while high - low > step:
            middle = (low + high) // 2
            low, high = (low, middle) if reaches(middle) else (middle, high)
        return high

    def _named(self, chosen: Sequence[Option]) -> dict[str, str]:
        return {layer.name: option.name for layer, option in zip(self.layers, chosen, strict=True)}

    def _described(self, chosen: Sequence[Option], repaired: bool, held_out: Iterable[Any] | None) -> Plan:
        assignment = self._named(chosen)
        size = sum(option.bytes for option in chosen)
        weights = {
            layer.name: _format(name).quantizer(layer.fan_in)
            for layer, name in zip(self.layers, assignment.values(), strict=True)
            if name != "float"
        }
        macs: dict[int, int] = {}
        for layer in self.layers:
            bits = _format_bits(weights[layer.name]) if layer.name in weights else self._given_bits(layer.name)
            macs[bits or 32] = macs.get(bits or 32, 0) + layer.macs
        file_bytes, reason = file_size_of(self.bench, weights, self.images, repaired=repaired)
        call = call_text(weights, {}, repaired=repaired)
        if "cannot be converted" in reason:
            call = f"# convert refuses this plan: {reason}\n{call}"
        return Plan(
            assignment=assignment,
            predicted=self.predict(assignment, repaired=repaired),
            measured=None if held_out is None else self.measure(assignment, held_out, repaired=repaired),
            repaired=repaired,
            bytes=size + self.other_bytes,
            bits_per_weight=8 * size / sum(layer.weights for layer in self.layers),
            macs=dict(sorted(macs.items())),
            file_bytes=file_bytes,
            no_file=reason,
            call=call,
        )

    def _given_bits(self, name: str) -> int | None:
        layer = self.bench.layers[name]
        return layer.module.weight_quantizer.bits_per_level if layer.quantized else 32

    def words(self, *, repaired: bool = True) -> str:
        """Which layers matter, in one or two sentences with an action.

        The layers that matter are those whose smallest format alone changes the most decisions.
        """
        rows = []
        for layer in self.layers:
            effects = layer.repaired if repaired else layer.raw
            sized = [(size, name) for name in effects if (size := layer.bytes.get(name)) is not None]
            if sized and not layer.quantized:
                name = min(sized)[1]
                rows.append((1 - effects[name].agreement.value, layer.name or layer.kind, name))
        if not rows:
            return "The weights of all layers are quantized already."
        rows.sort(reverse=True)
        total = sum(row[0] for row in rows)
        if not total:
            return f"No layer matters alone: {rows[0][2]} weights in any one layer change no decision."
        count, share = 0, 0.0
        while share < total / 2 and count < 3:
            share += rows[count][0]
            count += 1
        names = _listed([name for _, name, _ in rows[:count]])
        shares = _listed([f"{100 * change:.1f}" for change, _, _ in rows[:count]])
        one = count == 1
        others = f" (any other layer: at most {100 * rows[count][0]:.1f} %)" if rows[count:] else ""
        return (
            f"{names} {'matters' if one else 'matter'} most: {rows[0][2]} weights there alone change {shares} % of "
            f"decisions{others}. Give {'it' if one else 'them'} more bits first."
        )

    def as_dict(self) -> dict[str, Any]:
        """The forecast as plain data; docs/forecast.md lists the entries."""
        return {
            "version": 1,
            "inputs": self.inputs,
            "decisions": self.decisions,
            "classes": self.classes,
            "seconds": self.seconds,
            "passes": self.passes,
            "formats": list(self.formats),
            "other_bytes": self.other_bytes,
            "layers": [_layer_dict(layer) for layer in self.layers],
            "unmeasured": self.unmeasured,
            "words": {
                name: self.words(repaired=name == "repaired")
                for name, law in (("raw", self.raw_law), ("repaired", self.repaired_law))
                if law is not None
            },
            "laws": {
                name: None if law is None else law_dict(law, self.keys)
                for name, law in (("raw", self.raw_law), ("repaired", self.repaired_law))
            },
        }


def check_real_weights(model: nn.Module) -> None:
    """Raises HypersignError if the weights of all layers are quantized, so that a plan has nothing to choose."""
    layers = quantizable_layers(model)
    if layers and all(Layer(name, module).quantized for name, module in layers.items()):
        raise HypersignError(
            "a plan needs a network with layers in float; the weights of all layers are quantized already: "
            "plan for the float network it came from"
        )


def _layer_dict(layer: LayerForecast) -> dict[str, Any]:
    found = {field.name: getattr(layer, field.name) for field in dataclasses.fields(layer)}
    for side in ("raw", "repaired"):
        found[side] = {name: value.as_dict() for name, value in found[side].items()}
    return found


def law_dict(law: Law, keys: Sequence[Key]) -> dict[str, Any]:
    """What a page needs to predict any assignment: r from the products of residuals, the rest from curves over r."""
    flat = law.residuals.reshape(len(law.residuals), -1).astype(np.float64)
    size = float((law.original.astype(np.float64) ** 2).sum())
    return {
        "changes": [{"layer": layer, "format": name} for layer, name in keys],
        "products": (flat @ flat.T / size).round(7).tolist(),
        "gains": law.gains.tolist(),
        "factor": law.factor,
        "power": law.power,
        "crowding": law.crowding,
        "bias": dict(zip(("r", "log_kl", "agreement"), law.bias, strict=True)),
        "spread": dict(zip(("r", "log_kl", "agreement"), law.spread, strict=True)),
        "curve": law.curve(),
    }


def _cell(found: Effect) -> str:
    if found.destroyed:
        return "destroyed"
    return f"{found.r.value:.3f} / {100 * (1 - found.agreement.value):.1f}"


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _format(name: str) -> Format:
    (found,) = formats_of(name)
    return found


def _format_bits(quantizer: Quantizer) -> int | None:
    """The bits of a level, also inside a rotation or a group scale."""
    inner: Any = quantizer
    while hasattr(inner, "quantizer"):
        inner = inner.quantizer
    return inner.bits_per_level


def forecast(
    model: nn.Module | Run,
    batches: Iterable[Any] | None = None,
    *,
    formats: Iterable[str] = FORMATS,
    repaired: bool | None = None,
    quick: bool = False,
    mixtures: int = MIXTURES,
    images: int = _defaults.FORECAST_IMAGES,
    weights: str = "last",
    seed: int = 0,
    progress: Progress = silent,
) -> Forecast:
    """Measures what each format of each layer alone does to a network's decisions, and predicts any mixture of them.

    No labels and no gradients are needed. The model does not change. Each change is one pass over the inputs from the
    changed layer on; before it, recorded outputs are used. Memory holds the outputs of all modules for one batch, and
    the logits of every change.

    Args:
        model: any network with `nn.Linear`, `nn.Conv1d` or `nn.Conv2d` that gives logits, `(N, classes)` or
            `(N, tokens, classes)`; or a run. Layers that are quantized already are changed from their latent weights,
            and compared with the network as given.
        batches: inputs: tensors, tuples that begin with one (labels may follow), or dictionaries of the model's
            arguments. 128 diverse inputs in one batch or a few serve well. None for a run.
        formats: names of formats, see `format_of`.
        repaired: True measures with repair alone, False without alone, None both.
        quick: measure on every twelfth input: a twelfth of the time, and larger standard errors.
        mixtures: number of random mixtures that are measured too, to fit the law and to know its error.
        images: of a run: training images, spread over all of them.
        weights: of a run: "last", or "best" by validation accuracy.
        seed: seed of the mixtures.
        progress: called with what is measured.

    Raises:
        HypersignError: no layer can be changed; fewer than two inputs; NaN in weights, inputs or logits; the output
            is no logits; an unknown format; batches for a run, or none for a network.

    Source: Anderson & Berg 2018 (arXiv 1705.07199) for single layers; docs/forecast.md for the law.

    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> net, x = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)), torch.randn(128, 64)
    >>> found = forecast(net, [x], formats=["binary", "8-level"], mixtures=2)
    >>> [round(layer.repaired["8-level"].r.value, 2) for layer in found.layers]
    [0.99, 0.99]
    >>> found.predict({"0": "binary", "2": "8-level"}).r.value < found.layers[0].repaired["binary"].r.value
    True
    """
    start = time.perf_counter()
    stated: Images | None = None
    if isinstance(model, Run):
        if batches is not None:
            raise HypersignError("a run brings its own inputs; leave batches out")
        count = check_int("images", images, min=2)
        data, model = model.data(), model.load_model(weights)
        train = data.train[:: max(1, len(data.train) // count)][:count]
        batches = data.batches(train, BATCH)
        if isinstance(data, ImageData):
            stated = Images(data.shape, data.pixel_range, data.classes)
    elif batches is None:
        raise HypersignError("a network is forecast on batches of inputs; got none")
    check_int("mixtures", mixtures, min=0)
    check_int("seed", seed, min=0)
    chosen = formats_of(formats)
    held = list(batches)
    if quick:
        held = [every(batch, QUICK) for batch in held]
    bench = Bench(model, held)
    changes = _changes(bench, chosen)
    if not changes:
        raise HypersignError(
            "a forecast needs a layer that these formats can change; the inputs of all layers are quantized already"
        )
    raws, repairs = bench.alone(
        changes,
        raw=repaired is not True,
        repaired=repaired is not False,
        progress=lambda done: progress("each change alone", done, bench.inputs * len(changes)),
    )
    rows = tuple(_layer(layer, chosen, changes, bench, raws, repairs) for layer in bench.layers.values())
    laws: list[Law | None] = []
    keys = tuple(changes)
    for logits, with_repair in ((raws, False), (repairs, True)):
        if not logits:
            laws.append(None)
            continue
        law = Law.of(bench.original, [logits[key] for key in keys])
        found = _mixtures(bench, changes, keys, mixtures, with_repair, seed, progress)
        laws.append(fit(law, found))
    total = sum(layer.macs for layer in rows) or 1
    return Forecast(
        layers=rows,
        unmeasured=bench.unmeasured,
        formats=tuple(format.name for format in chosen),
        inputs=bench.inputs,
        decisions=bench.original.shape[0] * bench.original.shape[1],
        classes=bench.original.shape[2],
        other_bytes=_other_bytes(model, rows),
        seconds=time.perf_counter() - start,
        passes=_passes(rows, changes, total, laws, mixtures),
        raw_law=laws[0],
        repaired_law=laws[1],
        bench=bench,
        keys=keys,
        images=stated,
    )


def _changes(bench: Bench, formats: Sequence[Format]) -> dict[Key, Sides]:
    found: dict[Key, Sides] = {}
    for name, layer in bench.layers.items():
        for format in formats:
            if format.side == "weights":
                found[name, format.name] = (format, None)
            elif not layer.quantized_inputs:
                found[name, format.name] = (None, format)
    return found


def _layer(
    layer: Layer,
    formats: Sequence[Format],
    changes: Mapping[Key, Sides],
    bench: Bench,
    raws: Mapping[Key, Any],
    repairs: Mapping[Key, Any],
) -> LayerForecast:
    module = layer.module
    filters, fan_in = len(module.weight), module.weight[0].numel()
    mine = [format.name for format in formats if (layer.name, format.name) in changes]
    sizes: dict[str, int | None] = {
        format.name: weight_bytes(format.quantizer(fan_in), filters, fan_in)
        for format in formats
        if format.side == "weights"
    }
    given = 4 * module.weight.numel()
    if layer.quantized:
        given = weight_bytes(module.weight_quantizer, filters, fan_in) or given
    return LayerForecast(
        name=layer.name,
        kind=type(module).__name__,
        fan_in=fan_in,
        filters=filters,
        weights=module.weight.numel(),
        macs=layer.macs,
        quantized=layer.quantized,
        raw={name: effect(bench.original, raws[layer.name, name]) for name in mine if raws},
        repaired={name: effect(bench.original, repairs[layer.name, name]) for name in mine if repairs},
        bytes={"float": given, **sizes},
    )


def _mixtures(
    bench: Bench,
    changes: Mapping[Key, Sides],
    keys: Sequence[Key],
    count: int,
    repaired: bool,
    seed: int,
    progress: Progress,
) -> list[Mixture]:
    """Random mixtures, from one changed layer to all in equal ratios, and their measured effects.

    Each has its own random proportions of the formats, so some are nearly all binary: there errors add up most.
    """
    generator = np.random.default_rng(seed)
    numbers = {key: number for number, key in enumerate(keys)}
    weights = [key for key in keys if changes[key][0] is not None] or list(keys)
    names, texts = (list(dict.fromkeys(key[i] for key in weights)) for i in (0, 1))
    found = []
    for index in range(count if len(names) > 1 else 0):
        share = len(names) ** ((index + 1) / count - 1)
        proportions = dict(zip(texts, generator.dirichlet(np.ones(len(texts))), strict=True))
        assignment: dict[str, Sides] = {}
        picks = []
        for name in names:
            mine = [key for key in weights if key[0] == name]
            if generator.random() < share:
                odds = np.array([proportions[key[1]] for key in mine])
                key = mine[generator.choice(len(mine), p=odds / odds.sum())]
                assignment[name] = changes[key]
                picks.append(numbers[key])
        if picks:
            found.append(Mixture(tuple(picks), _together(bench, assignment, repaired)))
        progress(f"mixtures{', repaired' if repaired else ''}", index + 1, count)
    return found


def _together(bench: Bench, assignment: Mapping[str, Sides], repaired: bool) -> Effect:
    """The measured effect of a mixture; with repair, as on inputs that repair has not seen."""
    if not repaired or min(map(batch_size, bench.batches)) < SPLIT:
        return effect(bench.original, bench.together(assignment, repaired=repaired))
    original, same, other = bench.halves(assignment)
    return unseen(effect(original, same), effect(original, other))


def _other_bytes(model: nn.Module, layers: Sequence[LayerForecast]) -> int:
    """The bytes of parameters outside the layers' weights, as float32."""
    weights = {id(model.get_submodule(layer.name)._parameters["weight"]): layer.weights for layer in layers}
    return 4 * (sum(p.numel() for p in model.parameters()) - sum(weights.values()))


def _passes(
    layers: Sequence[LayerForecast],
    changes: Mapping[Key, Sides],
    total: int,
    laws: Sequence[Law | None],
    mixtures: int,
) -> float:
    """Passes of the whole network: its first two, for each change what follows it, and the mixtures."""
    left, after = total, {}
    for layer in layers:
        after[layer.name] = left / total
        left -= layer.macs
    kinds = sum(law is not None for law in laws)
    together = mixtures * (2 * (laws[1] is not None) + (laws[0] is not None)) if len(layers) > 1 else 0
    return 2 + kinds * sum(after[key[0]] for key in changes) + together
