"""The work of the commands as plain functions, for a notebook or a script: ablate, compare, twin, report.

Each function takes runs and returns results. `progress` is called with the name of the current work, how much of it
is done, and how much there is. The commands only add words, tables and files.
"""

import dataclasses
import hashlib
import itertools
import json
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from hypersign import _defaults, bits, playground, report, simulation
from hypersign._checks import HypersignError, check_int
from hypersign._files import open_file, write_atomic
from hypersign._json import parse_object, plain
from hypersign._locks import writing_file, writing_folder
from hypersign._machine import machine
from hypersign.data import ImageData
from hypersign.geometry import Geometry
from hypersign.geometry.ablation import Ablation, ablate
from hypersign.geometry.depth import Depth, measure_depth
from hypersign.geometry.inspection import SEQUENCES, StageProgress, silent
from hypersign.geometry.positions import PositionR, position_r, positioned_layers
from hypersign.geometry.recurrence import OverTime, over_time
from hypersign.geometry.results import LayerGeometry, from_plain
from hypersign.layers import QuantRecurrent, quant_layers
from hypersign.models import options_of
from hypersign.models.build import SEQUENCES as SEQUENCE_MODELS
from hypersign.packed import PackedModel, PackedText
from hypersign.packed.profile import profile
from hypersign.packing import pack
from hypersign.report import Pictures
from hypersign.runs import WEIGHTS, Run
from hypersign.runs import load as load_run
from hypersign.simulation import Simulation
from hypersign.summaries import summary
from hypersign.training import Recipe, resume, train

__all__ = [
    "ablate_run",
    "compare_runs",
    "inspect_positions",
    "inspect_over_time",
    "is_recurrent",
    "keep_ablation",
    "kept_ablation",
    "network_call",
    "paper_simulations",
    "pictures_of",
    "refresh_report",
    "train_twin",
    "twin_recipe",
    "weights_hash",
    "write_comparison",
    "write_report",
    "write_training_page",
]

ABLATION_BATCH = 100
"""Test images per batch during ablation."""

PLAYED_IMAGES = 12
"""Test images in the report's playground."""

SEARCHED_IMAGES = 500
"""Test images among which wrongly classified ones are looked for."""

REESTIMATION_BATCH = 500
"""Training images per batch when batch norm is re-estimated."""

TWIN_BATCH = 32
"""Images per batch when a network's speed is compared with that of its float twin."""


def ablate_run(
    run: Run,
    *,
    images: int = _defaults.ABLATED_IMAGES,
    reestimate_images: int = _defaults.REESTIMATE_IMAGES,
    rounds: int = _defaults.ABLATION_ROUNDS,
    depth: bool = False,
    weights: str = "last",
    seed: int = 0,
    progress: StageProgress = silent,
) -> tuple[Ablation, Depth | None]:
    """Turns a run's layers back to float, one at a time, all, and all but one, and measures the loss each time.

    Batch norm is re-estimated after each change, on new training images in each round.

    Args:
        run: a run with weights. Its recipe names the loss.
        images: the loss is measured on the first `images` test images.
        reestimate_images: the number of training images for batch norm, in each round.
        rounds: how often everything is measured, for the error bars.
        depth: also measure how errors accumulate from layer to layer.
        weights: the weights to use: "last", or "best" by validation accuracy.
        seed: the seed that draws the training images.
        progress: called during the measurement.

    Raises:
        HypersignError: the weights or the data are missing, or a number is below 1.
    """
    for name, value in (("images", images), ("reestimate_images", reestimate_images), ("rounds", rounds)):
        check_int(name, value, min=1)
    data, model = run.data(), run.load_model(weights)
    batches = data.batches(data.test[:images], ABLATION_BATCH)
    size = min(reestimate_images, REESTIMATION_BATCH)
    drawn = data.batches(data.train, size, seed=seed)
    sets = [list(itertools.islice(drawn.epoch(i), -(-reestimate_images // size))) for i in range(rounds)]
    layers = quant_layers(model).values()
    counts = [sum(layer.quantizes_weights for layer in layers), sum(layer.quantizes_inputs for layer in layers)]
    total = sum(2 * count + 1 for count in counts if count)
    found = ablate(
        model,
        batches,
        sets,
        task=run.task(),
        progress=lambda done: progress("ablating", done, total),
    )
    return found, measure_depth(model, batches, sets[0], seed=seed) if depth else None


def is_recurrent(run: Run) -> bool:
    """Whether the run's network has recurrent layers, which are inspected over time."""
    with torch.device("meta"):
        return any(isinstance(module, QuantRecurrent) for module in run.build_model().modules())


def inspect_over_time(run: Run, *, images: int = SEQUENCES, weights: str = "last", seed: int = 0) -> OverTime:
    """Measures the recurrent layers of a run's network over time, on test sequences.

    Args:
        run: a run of a recurrent network.
        images: measure on the first `images` test sequences and predict from as many training sequences, at most
            `SEQUENCES`; a text gives sequences of the recipe's length.
        weights: "last" or "best".
        seed: of the noise in the prediction of accumulated errors.

    Raises:
        HypersignError: the network has no recurrent layer with quantized weights, or there are too few sequences.
    """
    test, training = _sequences(run, images)
    return over_time(run.load_model(weights), test, training, seed=seed)


def _sequences(run: Run, count: int) -> list[Tensor]:
    """Test and training sequences to measure on: the first `count` of each, at most `SEQUENCES`."""
    data, count, found = run.data(), min(count, SEQUENCES), []
    for split in (data.test, data.train):
        if run.reads_text:
            some = min(count, max(1, (len(split) - 1) // data.length))
            rows = data.batches(split, some, drop_last=True)
        else:
            rows = data.batches(split[:count], count)
        found.append(next(iter(rows))[0])
    return found


def inspect_positions(run: Run, *, images: int = SEQUENCES, weights: str = "last") -> list[PositionR]:
    """Measures a run's transformer by head and position; an empty list of another network, or without quantizers.

    Args:
        run: a run.
        images: measure on the first `images` test sequences and predict from as many training sequences, at most
            `SEQUENCES`.
        weights: "last" or "best".
    """
    model = run.load_model(weights)
    if not positioned_layers(model):
        return []
    test, training = _sequences(run, images)
    return position_r(model, test, training) if min(len(test), len(training)) > 1 else []


def write_report(
    run: Run,
    found: Geometry,
    folder: Path | None = None,
    *,
    ablation: Ablation | None = None,
    depth: Depth | None = None,
    positions: Sequence[PositionR] | None = None,
    weights: str = "last",
) -> Path:
    """Writes geometry.json and report.html of an inspected run, and returns the path of the page.

    An ablation is kept in ablation.json, r by position in positions.json. Without new ones, the page shows those
    that are there, if they measured the weights that the run has now.

    Args:
        run: the run that was inspected.
        found: the result of inspection.
        folder: the folder to write to; the run's `results_folder` if None.
        ablation: the result of ablation, for the page.
        depth: the accumulated errors, for the page.
        positions: r of a transformer by head and position, for the page.
        weights: the weights that were inspected: "last" or "best".

    Raises:
        HypersignError: another process is writing these files, or `report.write` fails.
    """
    folder = run.results_folder if folder is None else folder
    with writing_file(folder / "geometry.json"):
        found.save(folder / "geometry.json")
        if ablation is not None:
            keep_ablation(folder, run, weights, ablation, depth)
        else:
            ablation, depth = kept_ablation(folder, run, weights)
        if positions:
            rows = [dataclasses.asdict(row) for row in positions]
            _keep(folder / "positions.json", run, weights, positions=rows)
        else:
            kept = _kept(folder / "positions.json", run, weights).get("positions") or ()
            positions = [from_plain(PositionR, row, str(folder / "positions.json")) for row in kept]
        return report.write(
            folder / "report.html",
            found,
            run=run,
            summary=summary(run),
            ablation=ablation,
            depth=depth,
            positions=positions,
            forecast=_kept_forecast(run),
            pictures=pictures_of(run, weights),
            play=_playground(run, weights),
        )


def refresh_report(run: Run) -> Path | None:
    """Writes an inspected run's report again, with what was measured since; None without a current geometry.json.

    The report of a float twin's network also shows the twin's forecast, so that report is written too.
    """
    above = run.path.resolve().parent
    if run.name == "twin" and (above / "run.json").is_file():
        refresh_report(load_run(above, data=run.given_data))
    try:
        found = Geometry.load(run.results_folder / "geometry.json")
    except HypersignError:  # there is none, or an earlier version wrote it
        return None
    return write_report(run, found)


def keep_ablation(folder: Path, run: Run, weights: str, ablation: Ablation, depth: Depth | None) -> None:
    """Writes an ablation of a run's weights ("last" or "best") to `folder/ablation.json`, for later reports."""
    plain_depth = None if depth is None else dataclasses.asdict(depth)
    _keep(folder / "ablation.json", run, weights, ablation=dataclasses.asdict(ablation), depth=plain_depth)


def _keep(path: Path, run: Run, weights: str, **content: Any) -> None:
    """Writes what was measured on a run's weights, with their hash."""
    stated = {"weights": weights, "weights_sha256": weights_hash(run, weights)}
    write_atomic(path, json.dumps(plain(stated | content), allow_nan=False) + "\n")


def kept_ablation(folder: Path, run: Run, weights: str) -> tuple[Ablation | None, Depth | None]:
    """What `folder/ablation.json` holds, if it was measured on these weights of the run; else nothing.

    Raises:
        HypersignError: the file is damaged or from another version.
    """
    path = folder / "ablation.json"
    content = _kept(path, run, weights)
    if not content:
        return None, None
    depth = content.get("depth")
    return (
        from_plain(Ablation, content.get("ablation"), str(path)),
        None if depth is None else from_plain(Depth, depth, str(path)),
    )


def _kept(path: Path, run: Run, weights: str) -> dict[str, Any]:
    """The content of a file that `_keep` wrote; nothing if there is none, or if it measured other weights."""
    if not path.is_file():
        return {}
    with open_file(path) as file:
        content = parse_object(str(path), file.read())
    return content if content.get("weights_sha256") == weights_hash(run, weights) else {}


def weights_hash(run: Run, weights: str) -> str:
    """The SHA-256 of the file with a run's weights, "last" or "best"."""
    return hashlib.sha256((run.path / WEIGHTS[weights]).read_bytes()).hexdigest()


def twin_recipe(recipe: Recipe) -> Recipe:
    """The recipe of a network's float twin: the same network, data and training, without quantizers.

    Weights are real, a ReLU takes the place of each quantizer of inputs, the first layer reads plain pixels, and
    training is in float32. A network for sequences (lstm, gpt) gets no ReLU: it has its own functions.

    Raises:
        HypersignError: the network has no float form.

    >>> twin = twin_recipe(Recipe(levels=3, threshold="optimal"))
    >>> twin.weights, twin.inputs, twin.threshold, twin_recipe(Recipe(model="gpt", inputs="int8")).inputs
    ('float', 'relu', None, 'float')
    """
    if not {"weights", "inputs"} <= set(options_of(recipe.model)):
        raise HypersignError(f"{recipe.model} has no float twin: without its levels it is another network")
    low_bit: dict[str, Any] = {
        field.name: field.default for field in dataclasses.fields(Recipe) if field.name in _LOW_BIT
    }
    inputs = "float" if recipe.model in SEQUENCE_MODELS else "relu"
    return dataclasses.replace(recipe, **low_bit, weights="float", inputs=inputs, precision="float32")


_LOW_BIT = (
    "method",
    "levels",
    "threshold",
    "continuous",
    "activation",
    "latent_rule",
    "teacher",
    "start",
    "float_weights",
    "float_inputs",
    "surrogate",
    "sign_zero",
    "weight_scale",
    "first_layer",
    "first_dimensions",
)
"""Options of a recipe that a float network does not have."""


def train_twin(
    run: Run, *, device: str | None = None, console: Console | None = None, repeats: int = _defaults.PROFILE_REPEATS
) -> Run:
    """Trains the float twin of a run into the run's folder `twin`, and measures what low bits cost and gain.

    Returns the run with a new section `twin` in run.json: `folder`, and for the twin `accuracy`, `loss`,
    `float_bytes` (its parameters in float32) and `seconds_per_image` (in torch, float32). If the run's network can be
    packed, it also has `packed_bytes` (the packed file) and `packed_seconds_per_image`, else `packed_reason`. Both
    times are the minimum over interleaved repeats, for batches of `batch` images on one thread. A text has
    `bits_per_token`, `seconds_per_token` and `packed_seconds_per_token` instead, for reading `batch` sequences of the
    recipe's length. A finished twin is not trained again.

    Args:
        run: a finished run of a named network and a named data set.
        device, console: as in `hypersign.train`.
        repeats: number of repeats of the timing.

    Raises:
        HypersignError: the run is not finished, its network was made in Python or has no float form, or another
            process writes to the folder; also those of `hypersign.train`.
    """
    if not run.finished:
        raise HypersignError(f"{run.path} is not finished; first: hypersign train --resume {run.path}")
    if run.info["model"].get("given") or not (run.unit == "images" or run.reads_text):
        raise HypersignError(
            f"a float twin is made of a named network for images or text; {run.name} is "
            f"{run.info['model']['name']} on {run.unit}: train its twin yourself"
        )
    recipe = twin_recipe(Recipe(**run.info["recipe"]))
    folder = run.path / "twin"
    own = run.given_data if run.info["data"]["source"] is None else None  # a named data set is named in the twin too
    given: dict[str, Any] = {"data": own, "device": device, "console": console}
    with writing_folder(run.path):
        begun = (folder / "run.json").exists()
        twin = resume(folder, **given) if begun else train(recipe, folder, **given)
        return run.update(twin=_twin_facts(run, twin, repeats))


def _twin_facts(run: Run, twin: Run, repeats: int) -> dict[str, Any]:
    test = twin.info["results"]["test"]
    facts: dict[str, Any] = {
        "folder": twin.path.name,
        **{name: test[name] for name in ("accuracy", "loss", "bits_per_token") if name in test},
        "float_bytes": summary(twin).float_bytes,
    }
    with tempfile.TemporaryDirectory() as folder:
        packed = Path(folder) / "packed"
        try:
            pack(run, packed)
        except HypersignError as error:
            return {**facts, "packed_reason": str(error)}
        size = packed.stat().st_size
        if run.reads_text:
            times = _text_times(PackedText.load(packed), twin, repeats)
        else:
            model = PackedModel.load(packed)
            found = profile(
                model,
                images=TWIN_BATCH,
                repeats=repeats,
                rivals={"twin": network_call(twin.load_model(), tuple(model.shape))},
            )
            times = {
                "seconds_per_image": found.rivals["twin"] / TWIN_BATCH,
                "packed_seconds_per_image": found.seconds_per_image,
            }
    return {
        **facts,
        "packed_bytes": size,
        **times,
        "batch": TWIN_BATCH,
        "threads": 1,
        "backend": bits.backend(),
        "machine": machine(),
    }


def _text_times(packed: PackedText, twin: Run, repeats: int) -> dict[str, float]:
    """Seconds per token of a packed language model and of its float twin in torch, which read the same sequences."""
    model, length = twin.load_model(), twin.info["recipe"]["length"]
    tokens = torch.randint(len(packed.classes), (TWIN_BATCH, length), generator=torch.Generator().manual_seed(0))
    calls = {
        "seconds_per_token": _on_one_thread(lambda: model(tokens)),
        "packed_seconds_per_token": lambda: packed.predict(tokens.numpy()),
    }
    times = dict.fromkeys(calls, math.inf)
    for _ in range(repeats + 1):  # the first round warms up
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            times[name] = min(times[name], (time.perf_counter() - started) / tokens.numel())
    return times


def network_call(model: nn.Module, shape: tuple[int, ...]) -> Any:
    """A call of a float network on a batch of random images, on one thread."""
    network = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    generator = torch.Generator().manual_seed(0)
    images = torch.randn((TWIN_BATCH, *shape), generator=generator).to(memory_format=torch.channels_last)

    return _on_one_thread(lambda: network(images))


def _on_one_thread(call: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """The call in inference mode, on one thread of torch."""

    def alone() -> Tensor:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with torch.inference_mode():
                return call()
        finally:
            torch.set_num_threads(threads)

    return alone


def _playground(run: Run, weights: str) -> str | None:
    """The page that runs the packed network in a browser; None if it cannot be packed or has no such page."""
    data = run.data()
    if not isinstance(data, ImageData):
        return None
    some = data.test[:PLAYED_IMAGES]
    samples = [
        playground.Sample(f"{number}: {data.classes[label]}", image.numpy())
        for number, (image, label) in enumerate(zip(some.images, some.labels.tolist(), strict=True))
    ]
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "packed"
            pack(run, path, weights=weights)
            return playground.page(PackedModel.load(path), title=run.name, samples=samples)
    except HypersignError:
        return None


def _kept_forecast(run: Run) -> dict[str, Any] | None:
    """What `hypersign forecast` wrote about the run or about its float twin; None if there is none.

    A forecast of other weights than those of today, or of another version, is left out.
    """
    twin = run.path / "twin"
    for folder, owner in ((run.results_folder, run.path), (twin, twin)):
        path = folder / "forecast.json"
        if not path.is_file():
            continue
        with open_file(path) as file:
            content = parse_object(str(path), file.read())
        if content.get("version") != 2:  # of Forecast.as_dict
            continue
        stated, weights = content.get("weights_sha256"), owner / WEIGHTS.get(str(content.get("weights")), "")
        if stated is None or (weights.is_file() and hashlib.sha256(weights.read_bytes()).hexdigest() == stated):
            return content
    return None


def write_training_page(run: Run, *, reload_seconds: float | None = None) -> Path:
    """Writes report.html of a run that is being trained, or was; returns the path of the page.

    Args:
        run: the run.
        reload_seconds: the open page loads itself again after this time.

    Raises:
        HypersignError: another process is writing the page, or `report.write` fails.
    """
    path = run.path / "report.html"
    with writing_file(path):
        return report.write(
            path,
            None,
            run=run,
            summary=summary(run) if run.finished else None,
            pictures=pictures_of(run) if run.finished else None,
            reload_seconds=reload_seconds,
        )


def pictures_of(run: Run, weights: str = "last") -> Pictures | None:
    """Takes the pictures of a run for its page; None if its data are not images with classes.

    Wrongly classified images are looked for among the first 500 test images.

    Args:
        run: a run with weights.
        weights: "last", or "best" by validation accuracy.

    Raises:
        HypersignError: the weights or the data are missing.
    """
    data = run.data()
    if not isinstance(data, ImageData):
        return None
    model = run.load_model(weights)
    some = data.test[:SEARCHED_IMAGES]
    with torch.no_grad():
        decided = torch.cat([model(inputs).argmax(1) for inputs, _ in data.batches(some, ABLATION_BATCH)])
    layers = quant_layers(model)
    filters = None
    if layers:
        name, layer = next(iter(layers.items()))
        weight, levels = layer.weight.detach(), layer.quantized_weight().detach()
        filters = report.filters_of(name, weight.numpy(), levels.reshape(weight.shape).numpy(), data.shape)
    return Pictures(
        report.samples_of(some.images.numpy(), some.labels.numpy(), decided.numpy(), data.classes), filters
    )


def paper_simulations(*, draws: int = _defaults.DRAWS, seed: int = 0) -> tuple[Simulation, ...]:
    """Simulates random vectors in the paper's cases: pairs, binary pairs, signs, ternary levels, rotations."""
    return (
        simulation.pairs(draws=draws, seed=seed),
        simulation.binary_pairs(draws=draws, seed=seed),
        simulation.sign(draws=draws, seed=seed),
        simulation.ternary(draws=draws, seed=seed),
        simulation.rotated(draws=draws, seed=seed),
    )


def compare_runs(runs: Sequence[Run]) -> dict[str, Any]:
    """Compares runs: the settings that differ, the results, and each layer's angle and r.

    Angles and r come from the files that inspection wrote into the run folders.

    Returns:
        A dictionary with two entries. `differences` maps setting -> run -> value, for the settings that differ.
        `runs` maps each run to `finished`, `test`, `inspected_images`, `layers` and `missing`, which lists in
        sentences what the run lacks. A run is named after its folder, or by its path if two names are equal.

    Raises:
        HypersignError: there are fewer than two runs, or one of them is given twice.
    """
    if len(runs) < 2:
        raise HypersignError(f"compare needs two or more run folders; got {len(runs)}")
    facts = {label: _facts(run) for label, run in zip(_labels(runs), runs, strict=True)}
    settings = {label: found.pop("settings") for label, found in facts.items()}
    names = dict.fromkeys(name for given in settings.values() for name in given)
    rows = {name: {label: given.get(name) for label, given in settings.items()} for name in names}
    differences = {name: row for name, row in rows.items() if len({repr(value) for value in row.values()}) > 1}
    return {"differences": differences, "runs": facts}


def write_comparison(path: Path, runs: Sequence[Run]) -> Path:
    """Writes a page on which runs are overlaid, and returns its path.

    Args:
        path: the file to write.
        runs: two or more runs.

    Raises:
        HypersignError: for the same reasons as in `compare_runs`, or the page cannot be written.
    """
    with writing_file(path):
        metrics = {label: run.metrics() for label, run in zip(_labels(runs), runs, strict=True)}
        return report.write_comparison(path, compare_runs(runs), metrics)


def _labels(runs: Sequence[Run]) -> list[str]:
    """The names of the folders, or their paths if two names are equal."""
    names = [run.name for run in runs]
    if len(set(names)) == len(names):
        return names
    paths = [str(run.path) for run in runs]
    if len(set(paths)) < len(paths):
        raise HypersignError(f"compare needs different run folders; got one folder twice: {', '.join(paths)}")
    return paths


def _facts(run: Run) -> dict[str, Any]:
    """The facts that are compared: settings by name, results, layers, and sentences about what is missing."""
    info = run.info
    settings = {f"recipe.{key}": value for key, value in info["recipe"].items()}
    settings |= {f"model.{key}": value for key, value in info["model"]["options"].items()}
    settings |= {"model": info["model"]["name"], "data.sha256": info["data"]["sha256"][:12]}
    missing = []
    if not run.finished:
        done = len(run.metrics())
        missing.append(f"not finished, {done} of {info['recipe']['epochs']} epochs are done: it has no test accuracy")
    path = run.path / "geometry.json"
    geometry = Geometry.load(path) if path.exists() else None
    if geometry is None:
        missing.append(f"no geometry.json, so no angles and r; make it with: hypersign inspect {run.path}")
    layers = {layer.name: _layer_facts(layer) for layer in (geometry.layers if geometry else ())}
    return {
        "settings": settings,
        "finished": run.finished,
        "test": {key: value for key, value in info.get("results", {}).get("test", {}).items() if key != "confusion"},
        "inspected_images": geometry.images if geometry else None,
        "layers": plain(layers),
        "missing": missing,
    }


def _layer_facts(layer: LayerGeometry) -> dict[str, Any]:
    """The angle and the r of a layer, measured and predicted; r with quantized inputs if the layer quantizes them."""
    facts = {
        "fan_in": layer.fan_in,
        "angle_degrees": layer.angle_degrees.mean,
        "predicted_angle_degrees": layer.angle_degrees.predicted_mean,
        "r": layer.weights_binarized.pearson_r,
        "training_r": layer.weights_binarized.training_pearson_r,
        "predicted_r": layer.weights_binarized.predicted_pearson_r,
    }
    if layer.quantizes_inputs:
        for family, products in (("activations", layer.activations_binarized), ("both", layer.both_binarized)):
            facts[f"{family}_r"] = products.pearson_r
            facts[f"training_{family}_r"] = products.training_pearson_r
            facts[f"predicted_{family}_r"] = products.predicted_pearson_r
    return facts
