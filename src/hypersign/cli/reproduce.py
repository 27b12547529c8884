"""`hypersign reproduce`: every figure and number of the paper's analysis and simulations, and the table of claims."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich.table import Table
from rich.text import Text

from hypersign import _defaults
from hypersign._checks import check_int
from hypersign._json import prints_text, write_json
from hypersign._locks import writing_file
from hypersign.cli.options import JsonTarget, Option, RunPath, Seed, Weights, parse, progress_bars
from hypersign.cli.printing import console

if TYPE_CHECKING:
    from hypersign.geometry import Geometry
    from hypersign.geometry.claims import Claim
    from hypersign.runs import Run
    from hypersign.simulation import Simulation


def run(words: Sequence[str]) -> None:
    """Parses `hypersign reproduce`'s options, measures, simulates, and writes."""
    parse(reproduce, words, "reproduce")


def reproduce(
    run: RunPath,
    /,
    *,
    output: Annotated[Path | None, Option(metavar="FOLDER", short="-o", written="folder")] = None,
    images: int = _defaults.INSPECTED_IMAGES,
    weights: Weights = "last",
    draws: int = _defaults.DRAWS,
    seed: Seed = 0,
    json: JsonTarget = None,
) -> None:
    """Draw every figure of the paper from a run and from random vectors, and check its claims.

    Example:
        hypersign reproduce runs/demo --images 200 --draws 2000

    Args:
        output: folder for the figures, geometry.json and claims.json; by default reproduction/ in the run folder.
        images: measure on the first INT test images (the paper used 500).
        draws: random vectors per simulated case.
        seed: seed of the permutation test and of the simulations.
    """
    from hypersign import geometry, runs, study
    from hypersign.geometry.claims import network_claims, simulation_claims

    opened = runs.load(run)
    check_int("--images", images, min=1)
    check_int("--draws", draws, min=2)
    folder = output or opened.results_folder / "reproduction"
    with writing_file(folder / "geometry.json"):
        progress = console(stderr=True)
        with progress_bars() as bars:
            found = geometry.inspect(opened, images=images, weights=weights, seed=seed, progress=bars)
        with progress.status("simulating random vectors"):
            simulations = study.paper_simulations(draws=draws, seed=seed)
        claims = network_claims(found) + simulation_claims(simulations)
        found.save(folder / "geometry.json")
        with progress.status("drawing figures"):
            figures = _draw(opened, found, simulations, folder / "figures")
        rows = {
            "run": opened.name,
            "dataset": found.dataset,
            "images": found.images,
            "accuracy": found.accuracy,
            "draws": draws,
            "seed": seed,
            "model": opened.info["model"],
            "versions": opened.info["versions"],
            "claims": [claim.as_dict() for claim in claims],
        }
        write_json(rows, folder / "claims.json")
    write_json(rows, json)
    if prints_text(json):
        out = console()
        out.print(claims_table(found.run, claims))
        out.print(
            f"{len(figures)} figures: {folder / 'figures'}\n"
            f"Numbers: {folder / 'claims.json'}, {folder / 'geometry.json'}",
            soft_wrap=True,
        )


def claims_table(name: str, claims: Sequence["Claim"]) -> Table:
    """One row per claim, with a line for each layer or case; those that do not hold are marked."""
    held = sum(claim.holds for claim in claims)
    table = Table(title=f"{name}: {held} of {len(claims)} claims hold", caption_justify="left")
    table.caption = "should be: the prediction with its tolerance, or a bound that follows from it"
    table.add_column("claim")
    table.add_column("of", no_wrap=True)
    table.add_column("measured", justify="right", no_wrap=True)
    table.add_column("should be", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for name in dict.fromkeys(claim.claim for claim in claims):
        rows = [claim for claim in claims if claim.claim == name]
        table.add_row(
            name,
            "\n".join(claim.subject for claim in rows),
            "\n".join(f"{claim.measured:.3f}" for claim in rows),
            "\n".join(map(_bound, rows)),
            Text("\n").join(Text("holds") if claim.holds else Text("no", "bold red") for claim in rows),
            end_section=True,
        )
    return table


def _bound(claim: "Claim") -> str:
    return {
        "near": f"{claim.predicted:.3f} ± {claim.tolerance:.3f}",
        "at least": f">= {claim.predicted - claim.tolerance:.3f}",
        "at most": f"<= {claim.predicted + claim.tolerance:.3f}",
        "below": f"< {claim.predicted:.3f}",
    }[claim.relation]


def _draw(opened: "Run", found: "Geometry", simulations: Sequence["Simulation"], folder: Path) -> list[Path]:
    from hypersign.figures import quantizer_curves, save, save_analysis, save_simulation
    from hypersign.quantizers import Sign, Ternary

    paths = save_analysis(found, folder, metrics=opened.metrics())
    for simulated in simulations:
        paths += save_simulation(simulated, folder)
    for name, quantizer in (("sign", Sign()), ("ternary", Ternary())):
        paths += save(quantizer_curves(quantizer).get_figure(), folder, f"quantizer_{name}")  # type: ignore[arg-type]
    return paths
