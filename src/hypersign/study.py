"""The work of the commands as plain functions, for a notebook or a script: ablate, compare, reproduce, report.

Each function takes runs and returns results. `progress` is called with the name of the current work, how much of it
is done, and how much there is. The commands only add words, tables and files.
"""

import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from hypersign import _defaults, playground, report, simulation
from hypersign._checks import HypersignError, check_int
from hypersign._files import open_file
from hypersign._json import parse_object, plain
from hypersign._locks import writing_file
from hypersign.data import ImageData
from hypersign.geometry import Geometry
from hypersign.geometry.ablation import Ablation, ablate
from hypersign.geometry.depth import Depth, measure_depth
from hypersign.geometry.inspection import StageProgress, silent
from hypersign.layers import quant_layers
from hypersign.packed import PackedModel
from hypersign.packing import pack
from hypersign.report import Pictures
from hypersign.runs import Run
from hypersign.runs import load as load_run
from hypersign.simulation import Simulation
from hypersign.summaries import summary

__all__ = [
    "ablate_run",
    "compare_runs",
    "paper_simulations",
    "pictures_of",
    "refresh_report",
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


def write_report(
    run: Run,
    found: Geometry,
    folder: Path | None = None,
    *,
    ablation: Ablation | None = None,
    depth: Depth | None = None,
) -> Path:
    """Writes geometry.json and report.html of an inspected run, and returns the path of the page.

    Args:
        run: the run that was inspected.
        found: the result of inspection.
        folder: the folder to write to; the run's `results_folder` if None.
        ablation: the result of ablation, for the page.
        depth: the accumulated errors, for the page.

    Raises:
        HypersignError: another process is writing these files, or `report.write` fails.
    """
    folder = run.results_folder if folder is None else folder
    with writing_file(folder / "geometry.json"):
        found.save(folder / "geometry.json")
        return report.write(
            folder / "report.html",
            found,
            run=run,
            summary=summary(run),
            ablation=ablation,
            depth=depth,
            forecast=_kept_forecast(run),
            pictures=pictures_of(run),
            play=_playground(run),
        )


def refresh_report(run: Run) -> Path | None:
    """Writes the report of an inspected run again, with what was measured since; None if it was not inspected.

    The report of a float twin's network also shows the twin's forecast, so that report is written too.
    """
    above = run.path.resolve().parent
    if run.name == "twin" and (above / "run.json").is_file():
        refresh_report(load_run(above, data=run.given_data))
    path = run.results_folder / "geometry.json"
    return write_report(run, Geometry.load(path)) if path.is_file() else None


def _playground(run: Run) -> str | None:
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
            pack(run, path)
            return playground.page(PackedModel.load(path), title=run.name, samples=samples)
    except HypersignError:
        return None


def _kept_forecast(run: Run) -> dict[str, Any] | None:
    """What `hypersign forecast` wrote about the run or about its float twin; None if there is none."""
    for folder in (run.path, run.path / "twin"):
        path = folder / "forecast.json"
        if path.is_file():
            with open_file(path) as file:
                return parse_object(str(path), file.read())
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
    layers = {
        layer.name: {
            "fan_in": layer.fan_in,
            "angle_degrees": layer.angle_degrees.mean,
            "predicted_angle_degrees": layer.angle_degrees.predicted_mean,
            "r": layer.weights_binarized.pearson_r,
            "predicted_r": layer.weights_binarized.predicted_pearson_r,
        }
        for layer in (geometry.layers if geometry else ())
    }
    return {
        "settings": settings,
        "finished": run.finished,
        "test": {key: value for key, value in info.get("results", {}).get("test", {}).items() if key != "confusion"},
        "inspected_images": geometry.images if geometry else None,
        "layers": plain(layers),
        "missing": missing,
    }
