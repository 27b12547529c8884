"""`hypersign inspect`: measure a run and write its report; inspect_files.py does weight and vector files."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from rich.table import Table

from hypersign import _defaults
from hypersign._checks import check_int
from hypersign._locks import writing_file
from hypersign.cli import inspect_files
from hypersign.cli.options import Option, RunPath, Seed, Weights, parse, progress_bars
from hypersign.cli.printing import beside, bits_words, console

if TYPE_CHECKING:
    from hypersign.geometry import DotProducts, Geometry, LayerGeometry, PositionR


def run(words: Sequence[str]) -> None:
    """Parses `hypersign inspect`'s options, measures, and writes the report."""
    if not inspect_files.run(words):
        parse(inspect, words, "inspect")


def inspect(
    run: RunPath,
    /,
    *,
    images: int = _defaults.INSPECTED_IMAGES,
    weights: Weights = "last",
    output: Annotated[Path | None, Option(metavar="FOLDER", short="-o", written="folder")] = None,
    figures: bool = False,
    ablate: bool = False,
    methods: bool = False,
    seed: Seed = 0,
) -> None:
    """Measure a run's geometry beside theory, on its test images; write report.html and geometry.json.

    In place of a run folder it also takes weights (.safetensors, .gguf, a folder of .safetensors) or
    vectors (.npy, .npz, HDF5, Parquet and others).
    These have their own options: hypersign inspect model.safetensors --help, hypersign inspect vectors.npy --help.
    A recurrent network is measured over time, into recurrence.json; a transformer also by head and position, into
    positions.json.

    Example:
        hypersign inspect runs/demo --images 200 --figures

    Args:
        images: measure on the first INT test images (of a text: sequences) and predict from as many training ones
            (all, if there are fewer); at most 200 sequences; memory does not grow with the number of images.
        output: folder for the report; by default the run folder.
        figures: also draw the paper's figures, as PDF and PNG, into figures/ in that folder.
        ablate: also turn layers back to float, as hypersign ablate --depth does, and show it in the report; takes
            several times as long.
        methods: also print what each method of the field (hypersign train --method) would do to these latent weights:
            the angle, measured and predicted, r and sign flips.
        seed: seed of the permutation test and of the training images that batch norm is re-estimated on.
    """
    from hypersign import geometry, runs, study  # torch: files of weights and of vectors are inspected without it

    opened = runs.load(run)
    check_int("--images", images, min=1)
    folder = output or opened.results_folder
    out = console()
    if study.is_recurrent(opened):
        _over_time(opened, folder, images=images, weights=weights, seed=seed)
        return
    with writing_file(folder / "geometry.json"):
        ablation, depth = None, None
        with progress_bars() as progress:
            found = geometry.inspect(
                opened, images=images, weights=weights, seed=seed, methods=methods, progress=progress
            )
            if ablate:
                ablation, depth = study.ablate_run(
                    opened,
                    images=images,
                    reestimate_images=images,
                    depth=True,
                    weights=weights,
                    seed=seed,
                    progress=progress,
                )
        positions = study.inspect_positions(opened, images=images, weights=weights)
        page = study.write_report(
            opened, found, folder, ablation=ablation, depth=depth, positions=positions, weights=weights
        )
        examples = "sequences" if opened.reads_text else "images"
        out.print(geometry_table(found, examples))
        if positions:
            out.print(position_table(positions))
        for remark in zero_filters(found):
            out.print(remark)
        out.print(covariance_table(found, examples))
        for sentence in (sampling(found, examples), independence(found), sign_flips(found, examples)):
            if sentence:
                out.print(sentence)
        if methods:
            layers = [[geometry.MethodGeometry(**row) for row in layer.methods] for layer in found.layers]
            out.print(geometry.methods_table(layers))
        for layer in found.layers:
            if layer.reason and not layer.what_if:
                out.print(f"{layer.name}: {layer.reason}")
        if figures:
            from hypersign.figures import save_analysis

            paths = save_analysis(found, folder / "figures", metrics=opened.metrics())
            out.print(f"{len(paths)} figures in {folder / 'figures'}", soft_wrap=True)
        out.print(f"Report: {page}\nNumbers: {folder / 'geometry.json'}", soft_wrap=True)


def position_table(found: "Sequence[PositionR]") -> Table:
    """One row per layer of a transformer: r of all units and of its extreme heads, mean over positions."""
    table = Table(
        title="Positions and heads",
        caption="each measured / predicted: r of dot products, mean over positions",
        caption_justify="left",
    )
    table.add_column("layer", overflow="fold")
    for title in ("all units", "lowest head", "highest head"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in found:
        heads = [pair for pair in row.by_head() if math.isfinite(pair[0])] if len(row.r) > 1 else []
        pairs = [row.overall(), *((min(heads), max(heads)) if heads else ())]
        table.add_row(row.name, *(beside(r, predicted, 3) for r, predicted in pairs))
    return table


def _over_time(opened: Any, folder: Path, **options: Any) -> None:
    """Inspects recurrent layers over time; writes report.html and recurrence.json."""
    from hypersign import report, study
    from hypersign.report.recurrence import TITLES, answer, layer_words, shown_rows

    with writing_file(folder / "recurrence.json"):
        found = study.inspect_over_time(opened, **options)
        found.save(folder / "recurrence.json")
        test = opened.info["results"].get("test") or {}
        result = f"Loss {test['loss']:.4f}{bits_words(test, opened.unit)}." if test.get("loss") is not None else ""
        if "twin" in opened.info:
            twin = opened.info["twin"]
            result += f" The float twin: {twin['loss']:.4f}{bits_words(twin, opened.unit)}."
        page = report.write_over_time(folder / "report.html", found, opened.name, result)
    out = console()
    for layer in found.layers:
        table = Table(
            title=f"{layer.name}: dot products of {found.test_sequences} test sequences over time",
            caption=layer_words(layer),
            caption_justify="left",
        )
        for title in TITLES:
            table.add_column(title, justify="right")
        for row in shown_rows(layer):
            table.add_row(*row)
        out.print(table)
    out.print(answer(found))
    out.print(f"Report: {page}\nNumbers: {folder / 'recurrence.json'}", soft_wrap=True)


def sign_flips(found: "Geometry", examples: str = "images") -> str:
    """The shares of signs that differ, as measured and as counted on training images, in words; may be empty."""
    shares = [
        f"{layer.name} {beside(100 * layer.weights_binarized.sign_disagreement, counted, 1)}"
        for layer in found.layers
        if not math.isnan(counted := 100 * layer.weights_binarized.training_sign_disagreement)
    ]
    return f"Signs that differ, %, measured / counted on training {examples}: {', '.join(shares)}" if shares else ""


def zero_filters(found: "Geometry") -> list[str]:
    """A sentence for each layer that has filters without an angle."""
    counts = {layer.name: sum(map(math.isnan, layer.angle_degrees.per_filter)) for layer in found.layers}
    return [
        f"{name}: {count} filters have no angle: they, or all their levels, are zero"
        for name, count in counts.items()
        if count
    ]


def sampling(found: "Geometry", examples: str = "images") -> str:
    """How far r on training images is from r on test images, in words; empty without training images."""
    gaps = [
        (abs(products.training_pearson_r - products.pearson_r), layer.name, name)
        for layer in found.layers
        for name, products in families(layer).items()
        if not math.isnan(products.training_pearson_r)
    ]
    if not gaps:
        return ""
    gap, layer, name = max(gaps)
    return (
        f"The same r on {found.covariance_images:,} training {examples} is {gap:.3f} apart at most ({layer}, "
        f"{name}): what is measured holds for other {examples}."
    )


def independence(found: "Geometry") -> str:
    """What independent inputs would give, and what the difference means, in words; may be empty."""
    rows = [
        (layer.name, layer.weights_binarized)
        for layer in found.layers
        if layer.quantizes_weights and math.isfinite(layer.weights_binarized.independent_pearson_r)
    ]
    better = [name for name, r in rows if r.pearson_r > r.independent_pearson_r + 3 * r.pearson_r_error]
    worse = [name for name, r in rows if r.pearson_r < r.independent_pearson_r - 3 * r.pearson_r_error]
    if not better and not worse:
        return ""
    mean = float(np.mean([r.independent_pearson_r for _, r in rows]))
    text = f"If inputs were independent, binary weights would give r = {mean:.2f} (mean over layers)."
    if better:
        text += f" They lose less in {_names(better)}: the filters point where the inputs vary most."
    if worse:
        verb = "loses" if len(worse) == 1 else "lose"
        text += (
            f" {_names(worse)} {verb} more: the inputs share a component, such as brightness, that latent filters "
            "cancel and binary ones do not."
        )
    return text


def _names(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) < 4 else f"{names[0]} and {len(names) - 1} other layers"


def families(layer: "LayerGeometry") -> "dict[str, DotProducts]":
    """The dot products of the families that a layer has: "weights", "activations" and "both"."""
    found = {"weights": layer.weights_binarized} if layer.quantizes_weights else {}
    if layer.quantizes_inputs:
        found["activations"] = layer.activations_binarized
    return found | {"both": layer.both_binarized}


def geometry_table(found: "Geometry", examples: str = "images") -> Table:
    """One row per layer: measured and predicted angle and correlations of dot products."""
    table = Table(
        title=f"{found.run}: {found.accuracy:.2%} of {found.images:,} {found.dataset} test {examples}",
        caption="each measured / predicted; angle: between latent and quantized filters, in degrees; "
        "r: correlation of dot products when weights, activations or both are binarized, predicted before that from "
        "the inputs' covariance; * apart by more than three standard errors",
        caption_justify="left",
    )
    table.add_column("layer", overflow="fold")
    table.add_column("angle", justify="right", no_wrap=True)
    for name in ("weights", "activations", "both"):
        table.add_column(f"r {name}", justify="right", no_wrap=True)
    for layer in found.layers:
        known = families(layer)
        table.add_row(
            layer.name,
            beside(layer.angle_degrees.mean, layer.angle_degrees.predicted_mean, 1),
            *(_cell(known[name]) if name in known else "-" for name in ("weights", "activations", "both")),
        )
    return table


def _cell(products: "DotProducts") -> str:
    text = beside(products.pearson_r, products.predicted_pearson_r, 3)
    return f"{text}*" if products.departs else f"{text} "


def covariance_table(found: "Geometry", examples: str = "images") -> Table:
    """One row per layer: the inputs' effective dimension, the distance of predictions per filter, and remarks."""
    table = Table(
        caption=f"predictions are from {found.covariance_images:,} training {examples}; apart: median over "
        "filters of the distance between measured and predicted r; effective dimension: number of directions in "
        "which inputs vary",
        caption_justify="left",
    )
    table.add_column("layer", overflow="fold")
    for name in ("fan-in", "effective\ndimension", "apart:\nweights", "activa-\ntions", "both"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("remark")
    for layer in found.layers:
        if not layer.what_if:
            continue
        known = families(layer)
        table.add_row(
            layer.name,
            str(layer.fan_in),
            f"{layer.effective_dimension:.1f}",
            *(_apart(known[name]) if name in known else "-" for name in ("weights", "activations", "both")),
            layer.reason,
        )
    return table


def _apart(products: "DotProducts") -> str:
    if not products.predicted_pearson_r_per_filter:
        return "-"
    distances = np.abs(np.subtract(products.pearson_r_per_filter, products.predicted_pearson_r_per_filter))
    known = distances[np.isfinite(distances)]
    return f"{np.median(known):.3f}" if len(known) else "-"
