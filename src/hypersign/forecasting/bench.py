"""A network with its inputs: runs it as it is, with one layer changed, and with many."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from hypersign._checks import HypersignError
from hypersign.forecasting.changes import Change, Moments, change_of, given_weight, match, matched, run_matched
from hypersign.forecasting.effects import centred
from hypersign.forecasting.formats import Format
from hypersign.forecasting.layers import (
    called_with,
    changeable_layers,
    hooked,
    unrolled,
    weight_place,
)
from hypersign.forecasting.replay import Replay, batch_size, logits_of, picked, prepared, run
from hypersign.layers import QuantLayer, RecurrentProduct

__all__ = ["Bench", "Key", "Layer"]

ROWS = 4096
"""Decisions that are kept: with longer outputs, such as tokens, rows spread over each input."""

INPUTS = 1 << 18
"""Inputs of a layer that are kept to fit a grid."""

STEPS = 64
"""Calls of a layer whose inputs are kept for it."""

SIDE_BY_SIDE = 256
"""Inputs of a pass that measures all formats of a layer at once, each on its own copy of a small batch."""

ALIKE = 1e-4
"""Copies of the same inputs differ by at most this share of the largest number."""

SPLIT = 16
"""Batches of fewer inputs are not split to measure repair on inputs that it has not seen."""

HELD = 2**30
"""Bytes of changed weights that are kept between batches."""

Key = tuple[str, str]
"""A layer's name and a format's name: one change."""

Assignment = Mapping[str, tuple[Format | None, Format | None]]
"""Layer -> its formats of weights and of inputs."""


@dataclasses.dataclass
class Layer:
    """A layer that a forecast can change. `first` is the moment of its first call, for the order of layers."""

    name: str
    module: Any
    macs: int = 0
    calls: int = 0
    first: int = 0
    sample: Tensor | None = None

    @functools.cached_property
    def given(self) -> Tensor:
        """The weight that it multiplies in the network as given."""
        return given_weight(self.module)

    @property
    def quantized(self) -> bool:
        """Whether its weights are quantized in the network as given."""
        return isinstance(self.module, QuantLayer) and self.module.quantizes_weights

    @property
    def quantized_inputs(self) -> bool:
        """Whether its inputs are quantized in the network as given."""
        return isinstance(self.module, QuantLayer) and self.module.quantizes_inputs


class Bench:
    """A network, the batches it is measured on, its original logits, and its layers in the order of their calls.

    Args:
        model: the network; it does not change.
        batches: inputs; they are kept.
        groups: the number of each input's group; None if all inputs are independent.
        keep: keep the outputs of all modules for `alone`, if there is one batch.

    Raises:
        HypersignError: see `hypersign.forecast`.
    """

    def __init__(
        self, model: nn.Module, batches: Iterable[Any], groups: NDArray[Any] | None = None, *, keep: bool = False
    ) -> None:
        self.model = model = unrolled(model)
        self.groups = groups
        sized = [(batch, size) for batch in batches if (size := batch_size(batch))]
        self.batches = [batch for batch, _ in sized]
        self.sizes = [size for _, size in sized]
        self.inputs = sum(self.sizes)
        if self.inputs < 2:
            raise HypersignError(f"a forecast needs at least two inputs, for its standard errors; got {self.inputs}")
        found = changeable_layers(model)
        if not found:
            raise HypersignError(
                "a network to forecast must have layers that can be quantized (nn.Linear, nn.Conv1d, nn.Conv2d, "
                "nn.RNN, nn.LSTM, nn.GRU); it has none"
            )
        _check_numbers(model)
        self.unmeasured = {
            name: "a hook or a parametrization computes its weight: remove it first"
            for name, module in found.items()
            if not isinstance(_parameter(module), nn.Parameter)
        }
        self.layers = {name: Layer(name, module) for name, module in found.items() if name not in self.unmeasured}
        self._recorded: Replay | None = None
        self.original = self._first_pass(keep and len(self.batches) == 1)
        self._changes: dict[Any, Change] = {}
        self._held = 0
        self.half_rows = self._half_rows()
        self._halves = [
            [picked(batch, rows) for batch, rows in zip(self.batches, half, strict=True)] for half in self.half_rows
        ]
        self._original_moments: dict[int, list[dict[Any, Moments]]] = {}

    def _first_pass(self, keep: bool) -> NDArray[Any]:
        """The original logits; notes each layer's calls, operations and order."""
        callers: dict[Any, list[Layer]] = {}
        for layer in self.layers.values():
            callers.setdefault(called_with(layer.module), []).append(layer)
        rows = []

        def look(module: Any, x: Any, output: Any) -> None:
            for layer in callers[module]:
                if isinstance(layer.module, RecurrentProduct):  # steps are not watched: that takes far more time
                    positions = len(x.data) if isinstance(x, PackedSequence) else x.numel() // x.shape[-1]
                    layer.calls += -(-positions // self.sizes[0])
                    layer.macs += positions * layer.module.weight.numel()
                else:
                    layer.calls += 1
                    layer.macs += output.numel() * layer.module.weight[0].numel()

        with prepared(self.model):
            for number, batch in enumerate(self.batches):
                replay = Replay(self.model)
                with hooked(callers if number == 0 else (), look):
                    logits = replay.record(batch, keep=keep)
                if number == 0:
                    self._recorded = replay if keep else None
                    for module, layers in callers.items():
                        for layer in layers:
                            layer.first = replay.first.get(module, -1)
                            layer.macs //= self.sizes[0]
                rows.append(self._kept(logits, "the network's logits"))
        for name, layer in list(self.layers.items()):
            if not layer.calls:
                self.unmeasured[name] = "the forward pass does not call it"
                del self.layers[name]
        if not self.layers:
            raise HypersignError(
                "a network to forecast must call a layer that can be quantized; its forward pass calls none of "
                f"{', '.join(self.unmeasured)}"
            )
        self.layers = dict(sorted(self.layers.items(), key=lambda item: item[1].first))
        original = np.concatenate(rows)
        if not (original != 0).any():
            raise HypersignError("a network to forecast must give logits that differ between classes; all are equal")
        return original

    def _sample(self, layer: Layer) -> Tensor:
        """Inputs of a layer in the first batch, for the grid that quantizes them."""
        if layer.sample is None:
            by_module = {layer.module: layer for layer in self.layers.values()}
            parts: dict[Any, list[Tensor]] = {module: [] for module in by_module}

            def look(module: Any, x: Tensor, output: Tensor) -> None:
                if len(parts[module]) < STEPS:
                    share = 1 if not parts[module] and not isinstance(module, RecurrentProduct) else STEPS
                    parts[module].append(x.detach().flatten()[:: max(1, x.numel() * share // INPUTS)].clone())

            with prepared(self.model), hooked(by_module, look):
                run(self.model, self.batches[0])
            for module, known in by_module.items():
                known.sample = torch.cat(parts[module])
        assert layer.sample is not None
        return layer.sample

    def _kept(self, logits: Tensor, what: str) -> NDArray[Any]:
        if not torch.isfinite(logits).all():
            raise HypersignError(f"{what} must be finite numbers; NaN or infinity came: check weights and inputs")
        most = max(1, ROWS // self.inputs)
        count = logits.shape[1]
        if count > most:
            logits = logits[:, np.linspace(0, count - 1, most).round().astype(int).tolist()]
        return centred(logits.cpu().numpy())

    def _half_rows(self) -> list[list[list[int]]]:
        """The rows of each batch in either half of the inputs: even and odd inputs, or even and odd groups."""
        numbers = [np.arange(size) for size in self.sizes]
        if self.groups is not None:
            numbers = np.split(self.groups, np.cumsum(self.sizes)[:-1])
        return [[np.flatnonzero(part % 2 == half).tolist() for part in numbers] for half in (0, 1)]

    @property
    def half_order(self) -> NDArray[Any]:
        """The inputs in the order of `half_rows`."""
        starts = np.cumsum([0, *self.sizes[:-1]]).tolist()
        return np.array(
            [start + row for half in self.half_rows for start, rows in zip(starts, half, strict=True) for row in rows]
        )

    @property
    def splits(self) -> bool:
        """Whether each half of each batch has enough inputs for a repair."""
        return 2 * min(len(rows) for half in self.half_rows for rows in half) >= SPLIT - 1

    def change(self, name: str, formats: tuple[Format | None, Format | None]) -> Change:
        """The change that gives a layer these formats."""
        key = name, formats
        if key not in self._changes:
            layer = self.layers[name]
            sample = None if formats[1] is None else self._sample(layer)
            made = change_of(layer.module, formats, layer.given if layer.quantized else None, sample)
            size = 0 if made.weight is None else made.weight.numel() * made.weight.element_size()
            if self._held + size > HELD:
                return made
            self._held += size
            self._changes[key] = made
        return self._changes[key]

    def repairable(self, first: int = 0) -> list[Layer]:
        """The layers from the moment `first` on, whose outputs are matched."""
        return [layer for layer in self.layers.values() if layer.first >= first]

    @property
    def repeated(self) -> set[Any]:
        """The layers that a pass calls more than once, such as the matrices of recurrent layers."""
        return {layer.module for layer in self.layers.values() if layer.calls > 1}

    def alone(
        self,
        changes: Mapping[Key, tuple[Format | None, Format | None]],
        *,
        raw: bool = True,
        repaired: bool = True,
        progress: Callable[[int], object] | None = None,
    ) -> tuple[dict[Key, NDArray[Any]], dict[Key, NDArray[Any]]]:
        """The centred logits after each change alone, without repair and with it."""
        found: tuple[dict[Key, list], dict[Key, list]] = ({key: [] for key in changes}, {key: [] for key in changes})
        done = 0
        recorded, self._recorded = self._recorded, None
        with prepared(self.model):
            for batch, size in zip(self.batches, self.sizes, strict=True):
                if not repaired and (rows := self._side_by_side(batch, size, changes)):
                    for key in changes:
                        found[0][key].append(rows[key])
                    done += size * len(changes)
                    continue
                replay, moments = Replay(self.model), self._moments()
                if recorded is not None and not repaired:
                    replay = recorded
                else:
                    with observing(moments if repaired else {}):
                        replay.record(batch)
                if repaired:
                    _check_values(self.repairable(), moments)
                for key, formats in changes.items():
                    layer = self.layers[key[0]]
                    with self.change(key[0], formats).applied(layer.module):
                        again = functools.partial(replay.again, called_with(layer.module), batch)
                        if raw:
                            found[0][key].append(self._kept(again(), f"{key[0]}: logits"))
                        if repaired:
                            later = {other.module: moments[other.module] for other in self.repairable(layer.first)}
                            logits = run_matched(again, later, self.repeated)
                            found[1][key].append(self._kept(logits, f"{key[0]}: logits"))
                    done += size
                    if progress is not None:
                        progress(done)
        raws, repairs = ({key: np.concatenate(rows) for key, rows in part.items() if rows} for part in found)
        return raws, repairs

    def _side_by_side(
        self, batch: Any, size: int, changes: Mapping[Key, tuple[Format | None, Format | None]]
    ) -> dict[Key, NDArray[Any]]:
        """The centred logits after each change alone, in one pass per layer over a copy of the batch for each format.

        Small batches take less time this way. Nothing if the batch is not small, if inputs are quantized, if a layer
        is called several times, or if the copies do not follow each other in a layer's inputs.
        """
        keys: dict[str, list[Key]] = {}
        for key in changes:
            keys.setdefault(key[0], []).append(key)
        copies = max(map(len, keys.values()))
        layers = [self.layers[name] for name in keys]
        if copies * size > SIDE_BY_SIDE or any(inputs is not None for _, inputs in changes.values()):
            return {}
        if any(layer.calls > 1 or isinstance(layer.module, RecurrentProduct) for layer in layers):
            return {}
        apart = []

        def look(module: Any, x: Tensor, output: Tensor) -> None:
            first, second = (part.float() for part in (x.chunk(copies)[0], x.chunk(copies)[-1]))
            equal = first.shape == second.shape and len(output) == len(first) * copies
            apart.append(not equal or float((first - second).abs().max()) > ALIKE * float(first.abs().max()))

        many, replay = picked(batch, list(range(size)) * copies), Replay(self.model)
        with hooked([layer.module for layer in layers], look):
            logits = replay.record(many)
        if any(apart) or len(logits) != copies * size:
            return {}
        found = {}
        for layer in layers:
            mine = keys[layer.name]
            with in_parts(layer.module, [self.change(layer.name, changes[key]) for key in mine], copies):
                logits = replay.again(layer.module, many)
            for key, rows in zip(mine, logits.chunk(copies), strict=False):
                found[key] = self._kept(rows, f"{layer.name}: logits")
        return found

    def together(self, assignment: Assignment, *, repaired: bool, batches: Sequence[Any] | None = None) -> Any:
        """The centred logits with all of these formats, on the bench's batches or on others.

        With `repaired` the outputs are matched on the bench's batches; the same match is used on others.
        """
        changes = {name: self.change(name, formats) for name, formats in assignment.items()}
        if repaired:
            changes, _ = self._repaired(changes, self.batches)
        rows = []
        with prepared(self.model), _all_applied(self.layers, changes):
            for batch in self.batches if batches is None else batches:
                rows.append(self._kept(logits_of(run(self.model, batch)), "the changed network's logits"))
        return np.concatenate(rows)

    def halves(self, assignment: Assignment) -> tuple[Any, Any, Any]:
        """Logits after repair on each half of the inputs: the original's, those of the same half, those of the other.

        All three are in the order of `half_rows`.
        """
        changes = {name: self.change(name, formats) for name, formats in assignment.items()}
        what = "the changed network's logits"
        same: list[Any] = []
        other: list[Any] = []
        for fitted, unseen in (self._halves, self._halves[::-1]):
            repaired, logits = self._repaired(changes, fitted)
            with prepared(self.model), _all_applied(self.layers, repaired):
                if len(fitted) > 1:  # in one batch, the matching pass is the repaired network's
                    logits = [self._kept(logits_of(run(self.model, batch)), what) for batch in fitted]
                same.append(np.concatenate(logits))
                rows = [self._kept(logits_of(run(self.model, batch)), what) for batch in unseen]
                other.append(np.concatenate(rows))
        parts = np.split(self.original, np.cumsum(self.sizes)[:-1])
        original = [part[rows] for half in self.half_rows for part, rows in zip(parts, half, strict=True)]
        return np.concatenate(original), np.concatenate(same), np.concatenate(other[::-1])

    def _repaired(
        self, changes: Mapping[str, Change], batches: Sequence[Any]
    ) -> tuple[dict[str, Change], list[NDArray[Any]]]:
        """The changes with the output channels matched to the original network, and so for all later layers.

        Also the logits of the pass that matches each batch by itself.
        """
        first = min((self.layers[name].first for name in changes), default=0)
        layers = self.repairable(first) if changes else []
        wanted, came = self._moments(), self._moments()
        rows = []
        with prepared(self.model):
            for batch, moments in zip(batches, self._moments_of(batches), strict=True):
                _check_values(layers, moments)
                for layer in layers:
                    wanted[layer.module].merge(moments[layer.module])
                with _all_applied(self.layers, changes):
                    there = {layer.module: moments[layer.module] for layer in layers}
                    output = run_matched(functools.partial(run, self.model, batch), there, self.repeated, came)
                rows.append(self._kept(logits_of(output), "the changed network's logits"))
            found = dict(changes)
            for layer in layers:
                scale, shift = match(layer.module, wanted[layer.module], came[layer.module])
                found[layer.name] = matched(layer.module, changes.get(layer.name, Change()), scale, shift)
        return found, rows

    def _moments_of(self, batches: Sequence[Any]) -> list[dict[Any, Moments]]:
        """The original network's moments on each batch; kept, because every repair needs them."""
        if id(batches) not in self._original_moments:
            found = []
            with prepared(self.model):
                for batch in batches:
                    moments = self._moments()
                    with observing(moments):
                        run(self.model, batch)
                    found.append(moments)
            self._original_moments[id(batches)] = found  # of lists that the bench holds
        return self._original_moments[id(batches)]

    def others(self, batches: Iterable[Any]) -> tuple[list[Any], NDArray[Any]]:
        """Other batches as a list, and the original network's centred logits on them."""
        held = [batch for batch in batches if batch_size(batch)]
        if sum(map(batch_size, held)) < 2:
            raise HypersignError("measuring needs at least two inputs, for its standard errors")
        with prepared(self.model):
            rows = [self._kept(logits_of(run(self.model, batch)), "the network's logits") for batch in held]
        return held, np.concatenate(rows)

    def _moments(self) -> dict[Any, Moments]:
        return {layer.module: Moments() for layer in self.repairable()}


def observing(moments: Mapping[Any, Moments]) -> contextlib.AbstractContextManager[None]:
    """Adds the outputs of layers to their moments."""

    def add(layer: Any, x: Tensor, output: Tensor) -> None:
        moments[layer].add(layer, output)

    return hooked(moments, add)


@contextlib.contextmanager
def in_parts(layer: Any, changes: Sequence[Change], copies: int) -> Iterator[None]:
    """Makes a layer compute each of equal parts of its inputs with a change of its own; the rest as it is."""
    forward = layer.forward

    def each(x: Tensor) -> Tensor:
        parts = x.chunk(copies)
        found = []
        for part, change in zip(parts, changes, strict=False):
            with change.applied(layer):
                found.append(forward(part))
        return torch.cat([*found, *(forward(part) for part in parts[len(changes) :])])

    vars(layer)["forward"] = each
    try:
        yield
    finally:
        del vars(layer)["forward"]


@contextlib.contextmanager
def _all_applied(layers: Mapping[str, Layer], changes: Mapping[str, Change]) -> Any:
    with contextlib.ExitStack() as stack:
        for name, change in changes.items():
            stack.enter_context(change.applied(layers[name].module))
        yield


def _parameter(layer: Any) -> Any:
    place, name = weight_place(layer)
    return place.get(name)


def _check_values(layers: Sequence[Layer], moments: Mapping[Any, Moments]) -> None:
    for layer in layers:
        if not moments[layer.module].count:
            raise HypersignError(
                f"a network to forecast must call the same layers each time; {layer.name or 'the layer'} was not "
                "called this time: put it in evaluation mode and switch random choices off"
            )
        if moments[layer.module].count < 2:
            raise HypersignError(
                f"repair needs at least 2 values per channel in each batch; {layer.name or 'the layer'} gets "
                f"{moments[layer.module].count}: use batches of 128 inputs or so"
            )


def _check_numbers(model: nn.Module) -> None:
    for name, values in (*model.named_parameters(), *model.named_buffers()):
        if values.is_floating_point() and not math.isfinite(float(values.detach().double().sum())):
            raise HypersignError(f"{name} must hold finite numbers; it holds NaN or infinity: use an earlier state")
