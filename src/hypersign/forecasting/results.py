"""The result of a forecast: each change alone, any of them together, and plans."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from hypersign._checks import HypersignError
from hypersign._display import as_html, as_text, shown
from hypersign.forecasting.bench import Bench, Key
from hypersign.forecasting.choice import Goal, choose
from hypersign.forecasting.effects import Effect, effect
from hypersign.forecasting.formats import sides_of
from hypersign.forecasting.law import Law
from hypersign.forecasting.plan import Plan
from hypersign.forecasting.sizes import Images

__all__ = ["Forecast", "LayerForecast"]

_MOST_COLUMNS = 5
"""Formats that a table has as columns."""


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
            caption=f"r of the logits / decisions that change, %; from {self.inputs:,} inputs, "
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
        groups = self.bench.groups if batches is None else None
        return effect(original, self.bench.together(sides, repaired=repaired, batches=held), groups)

    def plan(
        self,
        *,
        bytes: int | None = None,
        bits_per_weight: float | None = None,
        agreement: float | None = None,
        repaired: bool = True,
        held_out: Iterable[Any] | None = None,
    ) -> Plan:
        """The assignment with the least damage that fits a size, or the smallest that keeps an agreement.

        Of all choices of one format per layer it finds the one with the smallest sum of -log r of its changes alone,
        an exact knapsack. This choice, the one with the smallest sum of KL, and exchanges near them are measured like
        a mixture of the fit: on the forecast's own inputs, where repair by one half of them is measured on the other
        half. Another choice takes the place of the first if its r is larger by two standard errors of the paired
        difference. The measurement is the plan's predicted effect. Only formats of weights are chosen, because those
        of inputs change no size; layers whose weights are quantized stay as given.

        Args:
            bytes: at most this many bytes for all parameters.
            bits_per_weight: at most this many bits per weight, scales included, over the layers.
            agreement: the smallest size whose predicted agreement is at least this share.
            repaired: after repair.
            held_out: other inputs on which the plan is measured once.

        Raises:
            HypersignError: not exactly one goal; one that no choice reaches; a network without a layer in float.
        """
        return choose(self, Goal(bytes, bits_per_weight, agreement), repaired=repaired, held_out=held_out)

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
            "version": 2,
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
        "coherence": law.coherence,
        "bias": dict(zip(("log_kl", "agreement"), law.bias, strict=True)),
        "spread": dict(zip(("log_r", "log_kl", "agreement"), law.spread, strict=True)),
        "curve": law.curve(),
    }


def _cell(found: Effect) -> str:
    if found.destroyed:
        return "destroyed"
    return f"{found.r.value:.3f} / {100 * (1 - found.agreement.value):.1f}"


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
