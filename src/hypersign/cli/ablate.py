"""`hypersign ablate`: layers turned back to float, with measured and predicted loss."""

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from hypersign import _defaults
from hypersign._checks import check_int
from hypersign._json import plain, prints_text, write_json
from hypersign._locks import writing_file
from hypersign.cli.options import Figures, JsonTarget, RunPath, Seed, Weights, parse, progress_bars
from hypersign.cli.printing import beside, console, number

if TYPE_CHECKING:
    from pathlib import Path

    from hypersign.geometry.ablation import Ablation, Change, Ranking
    from hypersign.geometry.depth import Depth


def run(words: Sequence[str]) -> None:
    """Parses `hypersign ablate`'s options, measures and prints."""
    parse(ablate, words, "ablate")


def ablate(
    run: RunPath,
    /,
    *,
    images: int = _defaults.ABLATED_IMAGES,
    reestimate_images: int = _defaults.REESTIMATE_IMAGES,
    rounds: int = _defaults.ABLATION_ROUNDS,
    depth: bool = False,
    weights: Weights = "last",
    seed: Seed = 0,
    figures: Figures = None,
    json: JsonTarget = None,
) -> None:
    """Turn a run's layers back to float (one, all, all but one), and print measured and predicted loss.

    Batch norm is re-estimated after each change, on training images drawn anew in each round.

    Example:
        hypersign ablate runs/demo --images 200 --rounds 2

    Args:
        images: measure on the first INT test images, or on all if there are fewer.
        reestimate_images: training images that batch norm is re-estimated on, in each round.
        rounds: number of repeats, for the error bars.
        depth: also measure how errors accumulate from layer to layer, and run the permutation tests.
        seed: seed of the training images drawn and of the permutation tests.
    """
    from hypersign import runs, study

    opened = runs.load(run)
    for name, value in (("images", images), ("reestimate-images", reestimate_images), ("rounds", rounds)):
        check_int(f"--{name}", value, min=1)
    check_int("--seed", seed, min=0)
    with contextlib.ExitStack() as stack:
        if figures is not None:
            stack.enter_context(writing_file(figures / "ablation"))
        progress = stack.enter_context(progress_bars())
        found, deep = study.ablate_run(
            opened,
            images=images,
            reestimate_images=reestimate_images,
            rounds=rounds,
            depth=depth,
            weights=weights,
            seed=seed,
            progress=progress,
        )
        answer = {"run": opened.name, "weights": weights, "seed": seed, **dataclasses.asdict(found)}
        write_json(plain(answer if deep is None else {**answer, "depth": dataclasses.asdict(deep)}), json)
        if figures is not None:
            _draw(found, deep, figures)
    if not prints_text(json):
        return
    out = console()
    out.print(
        f"{opened.name}, {weights} weights: accuracy {found.accuracy:.2%} ± {found.accuracy_error:.2%}, "
        f"loss {found.loss:.4f} ± {found.loss_error:.4f} on {found.images:,} {opened.data().name} test images, "
        f"{found.rounds} round{'s' if found.rounds > 1 else ''} of batch norm",
    )
    for ranking in found.rankings:
        out.print(ablation_table(found, ranking.side, ranking.scope))
        out.print(ranking_words(ranking))
    if deep is not None:
        out.print(depth_table(deep))
        out.print(permutation_table(deep))


def ablation_table(found: "Ablation", side: str, scope: str) -> Table:
    """One row per layer: what changes if only its weights (or inputs) go back to float, or all but its own."""
    alone = scope == "one"
    table = Table(
        title=f"{side} back to float: " + ("one layer's" if alone else "all but one layer's"),
        title_justify="left",
        caption=f"change against {'the network as it is' if alone else 'all layers in float'}, ± one standard error "
        "of the paired difference, over images and rounds; disturbance: the part of the loss change that the size of "
        "the logits' change decides; r: correlation of the two networks' logits",
        caption_justify="left",
    )
    table.add_column("layer", overflow="fold")
    for name in ("loss", "accuracy, %", "disturbance", "r", "predicted"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in found.ablated:
        if row.side != side or row.scope not in (scope, "all" if alone else scope):
            continue
        if row.scope == "all":
            table.add_section()
        table.add_row(
            row.name,
            _signed(row.loss_change, 1, 3),
            _signed(row.accuracy_change, 100, 1),
            _signed(row.disturbance, 1, 3),
            number(row.logit_r, 2),
            number(row.predicted_logit_r, 2),
        )
    return table


def ranking_words(ranking: "Ranking") -> str:
    """The rank correlations in sentences."""
    from hypersign.geometry.ablation import ERRORS

    scope = "one layer" if ranking.scope == "one" else "all but one"

    def counted(apart: int, in_order: int) -> str:
        if not ranking.pairs:
            return "one layer has no order"
        return (
            f"{in_order} of {apart} distinct pairs in order" if apart else f"none of {ranking.pairs} pairs distinct"
        )

    return (
        f"{ranking.side}, {scope}: rank correlation of predicted with measured r "
        f"{number(ranking.spearman_logits, 2)}; "
        f"with the disturbance {number(ranking.spearman_disturbance, 2)} "
        f"({counted(ranking.disturbance_apart, ranking.disturbance_in_order)}); with the size of the loss change "
        f"{number(ranking.spearman, 2)} ({counted(ranking.apart, ranking.in_order)}). Distinct pairs differ by "
        f"more than {ERRORS:g} standard errors. Loss changes distinct from 0: {', '.join(ranking.noticed) or 'none'}."
    )


def depth_table(found: "Depth") -> Table:
    """One row per layer: correlation with the float replica, and signs that differ."""
    table = Table(
        title="depth: all layers quantized",
        title_justify="left",
        caption=f"r: correlation of the layer's dot products with those of a float replica, {found.images:,} images; "
        "flips: inputs whose sign differs; both on test / training images; alone: without errors of earlier layers",
        caption_justify="left",
    )
    table.add_column("layer", overflow="fold")
    for name in ("r alone", "r", "flips, %"):
        table.add_column(name, justify="right", no_wrap=True)
    for layer in found.layers:
        table.add_row(
            layer.name,
            f"{layer.own_r:.2f}",
            beside(layer.r, layer.training_r, 2),
            beside(100 * layer.input_flips, 100 * layer.training_input_flips, 1),
        )
    return table


def permutation_table(found: "Depth") -> Table:
    """One row per layer: r with quantized weights on permuted inputs."""
    table = Table(
        title="r with quantized weights, on permuted inputs",
        title_justify="left",
        caption="each measured / predicted; inputs are permuted over everything, within each image, or over the "
        "images for each channel and position",
        caption_justify="left",
    )
    table.add_column("layer", overflow="fold")
    for name in ("over everything", "within images", "over images"):
        table.add_column(name, justify="right", no_wrap=True)
    for layer in found.layers:
        table.add_row(layer.name, *(beside(test.r, test.predicted_r, 3) for test in layer.permuted))
    return table


def _draw(found: "Ablation", deep: "Depth | None", folder: "Path") -> None:
    from hypersign.figures import ablated_layers, depth_r, panels, save

    fig = panels(
        lambda ranking, ax: ablated_layers(found, ax, side=ranking.side, scope=ranking.scope),
        found.rankings,
        columns=2,
        size=(4.2, 3.4),
    )
    save(fig, folder, "ablation")
    if deep is not None:
        save(depth_r(deep).get_figure(), folder, "depth")  # type: ignore[arg-type]


def _signed(change: "Change", factor: float, digits: int) -> str:
    return f"{factor * change.mean:+.{digits}f} ± {factor * change.error:.{digits}f}"
