"""Forecasts a network: measures each change alone and some mixtures, and fits the law that combines changes."""

import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from hypersign import _defaults
from hypersign._checks import HypersignError, check_int
from hypersign.data import ImageData, TextData
from hypersign.data.base import Data
from hypersign.forecasting.bench import Bench, Key, Layer
from hypersign.forecasting.effects import Effect, effects
from hypersign.forecasting.formats import FORMATS, Format, formats_of, weight_bytes
from hypersign.forecasting.law import Law, Mixture, fit
from hypersign.forecasting.mixtures import together
from hypersign.forecasting.replay import batch_size, picked
from hypersign.forecasting.results import Forecast, LayerForecast
from hypersign.forecasting.sizes import Images
from hypersign.runs import Run

__all__ = ["Progress", "forecast", "inputs_of"]

MIXTURES = 12
"""Random mixtures that are measured to fit the law and to know its error."""

QUICK = 24
"""The quick mode measures on one of this many inputs."""

BATCH = 128
"""Inputs of a run per batch."""

Progress = Callable[[str, int, int], object]
"""Called with the name of the current work, how much of it is done, and how much there is."""

Sides = tuple[Format | None, Format | None]


def silent(what: str, done: int, total: int) -> None:
    """Shows no progress."""


def forecast(
    model: nn.Module | Run,
    batches: Iterable[Any] | None = None,
    *,
    groups: Sequence[Any] | None = None,
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
        model: any network with linear, convolutional or recurrent layers that gives logits, `(N, classes)` or
            `(N, tokens, classes)`; or a run. Layers that are quantized already are changed from their latent weights,
            and compared with the network as given.
        batches: inputs: tensors, tuples that begin with one (labels may follow), or dictionaries of the model's
            arguments. 128 diverse inputs in one batch or a few serve well. None for a run.
        groups: for each input a label, such as its photograph, patient or document. Inputs with the same label are
            alike: standard errors are then over labels, and repair is judged on labels that it has not seen. None:
            all inputs are independent.
        formats: names of formats, see `format_of`.
        repaired: True measures with repair alone, False without alone, None both.
        quick: measure on every 24th input: about a tenth of the time or less, and larger standard errors. Rank
            changes by r then: it needs fewer inputs than KL and agreement.
        mixtures: number of random mixtures that are measured too, to fit the law and to know its error.
        images: of a run: training images, spread over all of them; of a text, sequences of the run's length.
        weights: of a run: "last", or "best" by validation accuracy.
        seed: seed of the mixtures.
        progress: called with what is measured.

    Raises:
        HypersignError: no layer can be changed; fewer than two inputs or groups; not one group per input; NaN in
            weights, inputs or logits; the output is no logits; an unknown format; batches or groups for a run, or no
            batches for a network.

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
    network, held, stated = _network_and_inputs(model, batches, groups, images, weights)
    check_int("mixtures", mixtures, min=0)
    check_int("seed", seed, min=0)
    chosen = formats_of(formats)
    numbers = None if groups is None else _numbers(groups, [batch_size(batch) for batch in held])
    if quick:
        held = [picked(batch, slice(None, None, QUICK)) for batch in held]
        numbers = None if numbers is None else [part[::QUICK] for part in numbers]
    if quick and (few := sum(map(batch_size, held))) < 2:
        raise HypersignError(
            f"a quick forecast measures on every {QUICK}th input of each batch and needs two of them; got {few}: "
            "leave quick out, or give more inputs"
        )
    together = None if numbers is None else np.concatenate(numbers)
    if together is not None and len(set(together.tolist())) < 2:
        raise HypersignError("groups must name at least two different groups, for standard errors; all are the same")
    bench = Bench(network, held, together, keep=True)
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
    keys = tuple(changes)
    raw, again = (
        dict(zip(logits, effects(bench.original, logits.values(), bench.groups), strict=True))
        for logits in (raws, repairs)
    )
    rows = tuple(_layer(layer, chosen, changes, raw, again) for layer in bench.layers.values())
    laws: list[Law | None] = []
    for logits, with_repair in ((raws, False), (repairs, True)):
        law = None
        if logits:
            found = _mixtures(bench, changes, keys, mixtures, with_repair, seed, progress)
            law = fit(Law.of(bench.original, [logits[key] for key in keys], bench.groups), found)
        laws.append(law)
    return Forecast(
        layers=rows,
        unmeasured=bench.unmeasured,
        formats=tuple(format.name for format in chosen),
        inputs=bench.inputs,
        decisions=bench.original.shape[0] * bench.original.shape[1],
        classes=bench.original.shape[2],
        other_bytes=_other_bytes(bench.model, rows),
        seconds=time.perf_counter() - start,
        passes=_passes(rows, changes, laws, mixtures),
        raw_law=laws[0],
        repaired_law=laws[1],
        bench=bench,
        keys=keys,
        images=stated,
    )


def _network_and_inputs(
    model: nn.Module | Run, batches: Iterable[Any] | None, groups: Any, images: int, weights: str
) -> tuple[nn.Module, list[Any], Images | None]:
    """The network, its inputs, and what the packed file of a run states of its images."""
    if not isinstance(model, Run):
        if batches is None:
            raise HypersignError("a network is forecast on batches of inputs; got none")
        if isinstance(batches, Tensor):
            raise HypersignError("batches must be a list of batches; got one tensor: write [batch]")
        return model, list(batches), None
    if batches is not None or groups is not None:
        raise HypersignError("a run brings its own inputs; leave batches and groups out")
    count = check_int("images", images, min=2)
    data = model.data()
    stated = Images(data.shape, data.pixel_range, data.classes) if isinstance(data, ImageData) else None
    return model.load_model(weights), inputs_of(data, data.train, count), stated


def _numbers(groups: Sequence[Any], sizes: Sequence[int]) -> list[NDArray[Any]]:
    """The number of each input's group, in the order of their first inputs, for each batch."""
    if not isinstance(groups, Sequence) and not hasattr(groups, "tolist"):
        raise HypersignError(f"groups must be a list with a label for each input; got {type(groups).__name__}")
    labels = groups.tolist() if hasattr(groups, "tolist") else list(groups)
    if not all(isinstance(label, Hashable) for label in labels):
        raise HypersignError("groups must be labels, such as numbers or texts; a list cannot be one")
    if len(labels) != sum(sizes):
        raise HypersignError(
            f"groups must have a label for each of the {sum(sizes):,} inputs; got {len(labels):,} labels"
        )
    known = {label: number for number, label in enumerate(dict.fromkeys(labels))}
    return np.split(np.array([known[label] for label in labels]), np.cumsum(sizes)[:-1])


def inputs_of(data: Data, part: Any, count: int, *, spread: bool = True) -> list[Any]:
    """Inputs of a data set for a forecast, in batches: images, or of a text windows of its length.

    Args:
        data: the data set.
        part: its training or test part.
        count: the number of inputs; fewer if the part has fewer.
        spread: over the whole part, in place of its first ones.

    Raises:
        HypersignError: a text is shorter than two windows.
    """
    if isinstance(data, TextData):
        windows = part.tokens[: len(part) // data.length * data.length].view(-1, data.length)
        if len(windows) < 2:
            raise HypersignError(
                f"a forecast needs at least two sequences of {data.length} {data.unit}; {data.name} has {len(part)} "
                f"{data.unit} there: use a longer text"
            )
        return list(windows[:: max(1, len(windows) // count) if spread else 1][:count].split(BATCH))
    chosen = part[:: max(1, len(part) // count) if spread else 1][:count]
    return list(data.batches(chosen, BATCH))


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
    raw: Mapping[Key, Effect],
    repaired: Mapping[Key, Effect],
) -> LayerForecast:
    module = layer.module
    filters, fan_in = len(module.weight), module.weight[0].numel()
    mine = [format.name for format in formats if (layer.name, format.name) in changes]
    sizes: dict[str, int | None] = {
        format.name: format.bytes(filters, fan_in) for format in formats if format.side == "weights"
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
        raw={name: raw[layer.name, name] for name in mine if raw},
        repaired={name: repaired[layer.name, name] for name in mine if repaired},
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
            found.append(Mixture(tuple(picks), together(bench, assignment, repaired=repaired)))
        progress(f"mixtures{', repaired' if repaired else ''}", index + 1, count)
    return found


def _other_bytes(model: nn.Module, layers: Sequence[LayerForecast]) -> int:
    """The bytes of parameters outside the layers' weights, as float32."""
    weights = {id(model.get_submodule(layer.name).weight): layer.weights for layer in layers}
    return 4 * (sum(p.numel() for p in model.parameters()) - sum(weights.values()))


def _passes(
    layers: Sequence[LayerForecast],
    changes: Mapping[Key, Sides],
    laws: Sequence[Law | None],
    mixtures: int,
) -> float:
    """Passes of the whole network: its first two, for each change what follows it, and the mixtures."""
    total = sum(layer.macs for layer in layers) or 1
    left, after = total, {}
    for layer in layers:
        after[layer.name] = left / total
        left -= layer.macs
    kinds = sum(law is not None for law in laws)
    together = mixtures * (2 * (laws[1] is not None) + (laws[0] is not None)) if len(layers) > 1 else 0
    return 2 + kinds * sum(after[key[0]] for key in changes) + together
