"""`hypersign forecast`: what each format of each layer does to a run's decisions, and the plan for a size."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.table import Table

from hypersign import _defaults
from hypersign._checks import HypersignError, check_int
from hypersign._files import write_atomic
from hypersign._json import prints_text, write_json
from hypersign._locks import writing_file
from hypersign.cli.options import JsonTarget, Option, RunPath, Seed, Weights, parse, progress_bars
from hypersign.cli.printing import console, number

if TYPE_CHECKING:
    from hypersign.forecasting import Effect, Estimate, Forecast, Plan
    from hypersign.runs import Run


def run(words: Sequence[str]) -> None:
    """Parses `hypersign forecast`'s options, measures and prints."""
    parse(forecast, words, "forecast")


def forecast(
    run: RunPath,
    /,
    *,
    formats: tuple[str, ...] = ("binary", "ternary", "4-level", "8-level"),
    images: int = _defaults.FORECAST_IMAGES,
    held_out: int = _defaults.FORECAST_HELD_OUT,
    quick: bool = False,
    raw: bool = False,
    mixtures: int = 12,
    bytes: int | None = None,
    bits_per_weight: float | None = None,
    agreement: float | None = None,
    emit: Annotated[Path | None, Option(metavar="FILE", written="file")] = None,
    weights: Weights = "last",
    seed: Seed = 0,
    json: JsonTarget = None,
) -> None:
    """Forecast what quantizing each layer of a run does to its decisions; plan for a size; write forecast.json.

    Formats: binary, ternary, 4-level, 8-level; then perhaps what shares a scale, :tensor, :filter, :32, :64 or :128;
    then perhaps +hadamard. method:NAME is what a method of the field (hypersign train --method) makes of weights;
    methods stands for all of them. Inputs: inputs:binary, inputs:ternary, inputs:8-bit. Repair matches the mean and
    deviation of each output channel to the float network's; it needs no labels.

    Examples:
        hypersign forecast runs/digits/twin --bits-per-weight 2
        hypersign forecast runs/digits/twin --agreement .99 --emit plan.py

    Args:
        formats: the formats to judge.
        images: measure on INT training images (of a text: sequences), spread over all of them.
        held_out: measure the plan on the first INT test images or sequences.
        quick: measure on every 24th image, in about a tenth of the time.
        raw: measure without repair, instead of with it.
        mixtures: random mixtures that are measured, to fit the law and to know its error.
        bytes: plan the smallest damage with at most INT bytes of parameters.
        bits_per_weight: plan the smallest damage with at most FLOAT bits per weight, scales included.
        agreement: plan the smallest size with at least this share of unchanged decisions.
        emit: write the Python code that makes the planned network.
        seed: seed of the mixtures.
    """
    from hypersign import runs, study
    from hypersign.forecasting import check_real_weights, inputs_of
    from hypersign.forecasting import forecast as measure

    goal = _goal(bytes, bits_per_weight, agreement)
    if emit is not None and not goal:
        raise HypersignError("--emit writes a plan: name its goal with --bytes, --bits-per-weight or --agreement")
    check_int("--images", images, min=2)
    check_int("--held-out", held_out, min=2)
    opened = runs.load(run)
    folder = opened.results_folder
    if goal:
        check_real_weights(opened.load_model(weights))
    with writing_file(folder / "forecast.json"):
        with progress_bars() as progress:
            found = measure(
                opened,
                formats=formats,
                images=images,
                quick=quick,
                repaired=not raw,
                mixtures=mixtures,
                weights=weights,
                seed=seed,
                progress=progress,
            )
        plan = None
        if goal:
            data = opened.data()
            others = inputs_of(data, data.test, held_out, spread=False)
            plan = found.plan(**goal, repaired=not raw, held_out=others)
        answer = {
            "run": opened.name,
            "weights": weights,
            "weights_sha256": study.weights_hash(opened, weights),
            "seed": seed,
            "unit": opened.unit,
            **found.as_dict(),
        }
        answer["plan"] = None if plan is None else plan.as_dict()
        write_json(answer, folder / "forecast.json")
        write_json(answer, json)
        if emit is not None and plan is not None:
            write_atomic(emit, code(plan, run, images, weights))
    page = study.refresh_report(opened)
    if prints_text(json):
        files = {"Numbers": folder / "forecast.json", "Report": page, "Code": emit}
        _print(opened, found, plan, not raw, files)


def _goal(bytes: int | None, bits_per_weight: float | None, agreement: float | None) -> dict[str, Any]:
    """The plan's goal by its name; empty without one."""
    goals = {"bytes": bytes, "bits_per_weight": bits_per_weight, "agreement": agreement}
    given = {name: goal for name, goal in goals.items() if goal is not None}
    if len(given) > 1:
        raise HypersignError("name one of --bytes, --bits-per-weight and --agreement; got several")
    return given


def _print(run: "Run", found: "Forecast", plan: "Plan | None", repaired: bool, files: dict[str, Path | None]) -> None:
    out = console()
    out.print(f"{run.name}: {found.words(repaired=repaired)}")
    out.print(found.table(repaired=repaired))
    for name, reason in found.unmeasured.items():
        out.print(f"{name}: not measured, because {reason}")
    if plan is not None:
        out.print(plan_table(found, plan))
        for line in plan_words(plan, run.unit):
            out.print(line)
    for what, file in files.items():
        if file is not None:
            out.print(f"{what}: {file}", soft_wrap=True)


def code(plan: "Plan", run: Path, images: int, weights: str) -> str:
    """The Python code that makes the planned network of a run."""
    return (
        f"import hypersign\nfrom hypersign.forecasting import inputs_of\n\nrun = hypersign.load({str(run)!r})\n"
        f"model, data = run.load_model({weights!r}), run.data()\n"
        f"batches = inputs_of(data, data.train, {images})\n\n" + plan.call.removeprefix("import hypersign\n")
    )


def plan_table(found: "Forecast", plan: "Plan") -> Table:
    """One row per layer: its format in the plan."""
    table = Table(title="plan", title_justify="left")
    table.add_column("layer", overflow="fold")
    table.add_column("format", no_wrap=True)
    table.add_column("bytes", justify="right", no_wrap=True)
    for layer in found.layers:
        chosen = plan.assignment[layer.name]
        table.add_row(layer.name or layer.kind, chosen, f"{layer.bytes[chosen]:,}")
    return table


def plan_words(plan: "Plan", unit: str) -> list[str]:
    """The plan in sentences: size, operations, predicted and measured damage."""
    macs = ", ".join(f"{count:,} with {bits}-bit weights" for bits, count in plan.macs.items())
    lines = [
        f"{plan.bytes:,} bytes of parameters, {plan.bits_per_weight:.2f} bits per weight.",
        f"Packed file: {plan.file_bytes:,} bytes." if plan.file_bytes else f"No packed file: {plan.no_file}.",
        f"Multiply-accumulates: {macs}.",
        f"Predicted: {_effect(plan.predicted)}.",
    ]
    if plan.measured is not None:
        lines.append(f"Measured on test {unit}: {_effect(plan.measured)}.")
    return lines


def _effect(effect: "Effect") -> str:
    if effect.destroyed:
        return "destroyed (r of the logits below .6)"
    return (
        f"r {_estimate(effect.r, 3, most=1.0)}, {_estimate(effect.agreement, 3, most=1.0)} of decisions unchanged, "
        f"KL {_estimate(effect.kl, 4)} nats"
    )


def _estimate(value: "Estimate", digits: int, most: float = math.inf) -> str:
    """The estimate less its known bias, which must not push a share or a correlation past 1.

    >>> from hypersign.forecasting import Estimate
    >>> _estimate(Estimate(1.0, 0.002, -0.001), 3, most=1.0)
    '1.000 ± 0.002'
    """
    return f"{number(min(value.value - value.bias, most), digits)} ± {number(value.error, digits)}"
