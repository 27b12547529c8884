"""`hypersign inspect`: measure a run and write its report; inspect_files.py does weight and vector files."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from rich.table import Table

from hypersign import _defaults
from hypersign._checks import check_int
from hypersign._locks import writing_file
from hypersign.cli import inspect_files
from hypersign.cli.options import Option, RunPath, Seed, Weights, parse, progress_bars
from hypersign.cli.printing import beside, console

if TYPE_CHECKING:
    from hypersign.geometry import Geometry


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
    output: Annotated[Path | None, Option(metavar="FOLDER", written="folder")] = None,
    figures: bool = False,
    ablate: bool = False,
    seed: Seed = 0,
) -> None:
    """Measure a run's geometry beside theory, on its test images; write report.html and geometry.json.

    In place of a run folder it also takes weights (.safetensors, .gguf, a folder of .safetensors) or vectors (.npy).
    These have their own options: hypersign inspect model.safetensors --help, hypersign inspect vectors.npy --help.

    Example:
        hypersign inspect runs/demo --images 200 --figures

    Args:
        images: measure on the first INT test images and predict from as many training images (all, if there are
            fewer); memory does not grow with it.
        output: folder for the report; by default the run folder.
        figures: also draw the paper's figures, as PDF and PNG, into figures/ in that folder.
        ablate: also turn layers back to float, as hypersign ablate --depth does, and show it in the report; takes
            several times as long.
        seed: seed of the permutation test and of the training images that batch norm is re-estimated on.
    """
    from hypersign import geometry, runs, study  # torch: files of weights and of vectors are inspected without it

    opened = runs.load(run)
    check_int("--images", images, min=1)
    folder = output or opened.results_folder
    out = console()
    with writing_file(folder / "geometry.json"):
        ablation, depth = None, None
        with progress_bars() as progress:
            found = geometry.inspect(opened, images=images, weights=weights, seed=seed, progress=progress)
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
        page = study.write_report(opened, found, folder, ablation=ablation, depth=depth)
        out.print(geometry_table(found))
        for remark in zero_filters(found):
            out.print(remark)
        out.print(covariance_table(found))
        if shares := sign_flips(found):
            out.print(shares)
        for layer in found.layers:
            if layer.reason and not layer.covariance_pearson_r:
                out.print(f"{layer.name}: {layer.reason}")
        if figures:
            from hypersign.figures import save_analysis

            paths = save_analysis(found, folder / "figures", metrics=opened.metrics())
            out.print(f"{len(paths)} figures in {folder / 'figures'}", soft_wrap=True)
        out.print(f"Report: {page}\nNumbers: {folder / 'geometry.json'}", soft_wrap=True)


def sign_flips(found: "Geometry") -> str:
    """The shares of signs that differ, as measured and as counted on training images, in words; may be empty."""
    shares = [
        f"{layer.name} {beside(100 * layer.weights_binarized.sign_disagreement, counted, 1)}"
        for layer in found.layers
        if not math.isnan(counted := 100 * layer.training_sign_disagreement)
    ]
    return f"Signs that differ, %, measured / counted on training images: {', '.join(shares)}" if shares else ""


def zero_filters(found: "Geometry") -> list[str]:
    """A sentence for each layer that has filters without an angle."""
    counts = {layer.name: sum(map(math.isnan, layer.angle_degrees.per_filter)) for layer in found.layers}
    return [
        f"{name}: {count} filters have no angle: they, or all their levels, are zero"
        for name, count in counts.items()
        if count
    ]


def geometry_table(found: "Geometry") -> Table:
    """One row per layer: measured and predicted angle and correlations of dot products."""
    table = Table(
        title=f"{found.run}: {found.accuracy:.2%} of {found.images:,} {found.dataset} test images",
        caption="each measured / predicted; angle: between latent and quantized filters,\n"
        "in degrees; r: Pearson correlation of dot products when weights,\n"
        "activations or both are binarized",
        caption_justify="left",
    )
    table.add_column("layer", no_wrap=True)
    table.add_column("fan-in", justify="right", no_wrap=True)
    table.add_column("angle", justify="right", no_wrap=True)
    for name in ("weights", "activations", "both"):
        table.add_column(f"r {name}", justify="right", no_wrap=True)
    for layer in found.layers:
        families = (layer.weights_binarized, layer.activations_binarized, layer.both_binarized)
        table.add_row(
            layer.name,
            str(layer.fan_in),
            beside(layer.angle_degrees.mean, layer.angle_degrees.predicted_mean, 1),
            *(beside(family.pearson_r, family.predicted_pearson_r, 2) for family in families),
        )
    return table


def covariance_table(found: "Geometry") -> Table:
    """One row per layer: the inputs' effective dimension, and measured and predicted r with quantized weights."""
    table = Table(
        caption="r: medians over filters, as measured and as predicted from\n"
        f"the inputs' covariance over {found.covariance_images:,} training images;\n"
        "effective dimension: number of directions in which inputs vary",
        caption_justify="left",
    )
    table.add_column("layer", no_wrap=True)
    for name in ("fan-in", "effective\ndimension", "r weights,\nmeasured", "predicted", "apart"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("remark")
    for layer in found.layers:
        if not layer.covariance_pearson_r:
            continue
        r = np.array([layer.weights_binarized.pearson_r_per_filter, layer.covariance_pearson_r])
        r = r[:, np.isfinite(r).all(0)]
        known = r.size > 0
        cells = (*np.median(r, axis=1), np.median(np.abs(r[0] - r[1]))) if known else (np.nan,) * 3
        table.add_row(
            layer.name,
            str(layer.fan_in),
            f"{layer.effective_dimension:.1f}",
            *(f"{cell:.3f}" for cell in cells),
            layer.reason,
        )
    return table
