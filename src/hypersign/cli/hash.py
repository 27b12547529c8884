"""`hypersign hash`: vectors to codes, and their predicted recall."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from hypersign._checks import HypersignError, check_int
from hypersign._json import prints_text, write_json
from hypersign._locks import writing_file
from hypersign.cli.options import JsonTarget, parse
from hypersign.hashing import HammingIndex, Plan, SignHasher, hash_file, measure, open_vectors
from hypersign.hashing import plan as predict

LENGTHS = (64, 128, 256, 512, 1024)
"""Lengths of codes that a plan compares, besides the one asked for."""


def run(words: Sequence[str]) -> None:
    """Parses `hypersign hash`'s options, plans and hashes."""
    parse(hash_, words, "hash")


def hash_(
    vectors: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="VECTORS")],
    /,
    *,
    output: Annotated[Path | None, tyro.conf.arg(aliases=("-o",))] = None,
    plan: bool = False,
    bits: int = 256,
    rotation: Literal["hadamard", "haar", "none"] = "hadamard",
    rounds: int = 3,
    center: float = 1.0,
    neighbours: int = 10,
    queries: int = 200,
    seed: int = 0,
    json: JsonTarget = None,
) -> None:
    """Hash vectors into packed sign codes, or predict the recall of codes by length and rescoring factor.

    The file may be larger than memory. If it is stopped, the same command resumes. Neighbours are by Euclidean
    distance; scale vectors to length 1 first to search by cosine.

    Args:
        vectors: .npy file of shape (n, dimension).
        output: codes file to write.
        plan: print predicted recall before hashing, and measured recall beside it after.
        bits: length of a code, in bits.
        rotation: hadamard (additions only), haar (multiplications), or none (signs of the components as they are).
        rounds: rounds of random signs and Hadamard transforms.
        center: share of the mean of all vectors to subtract first, 0 to 1; --plan shows the best one.
        neighbours: k of the plan's recall@k.
        queries: number of rows that the plan draws as queries.
        seed: seed of the rotation and of the plan's draws.
        json: print the plan as JSON instead of the table; with FILE, also write it there.
    """
    if output is None and not plan:
        raise HypersignError("nothing to do: give --output FILE to hash, or --plan to predict recall, or both")
    if json is not None and not plan:
        raise HypersignError("--json prints the plan; add --plan")
    if plan and rotation == "none":
        raise HypersignError("--plan needs a random rotation; got --rotation none: use hadamard or haar")
    check_int("--neighbours", neighbours, least=1)
    check_int("--queries", queries, least=1)
    console = Console(stderr=True)
    hasher = SignHasher(
        bits, rotation=None if rotation == "none" else rotation, rounds=rounds, center=center, seed=seed
    )
    planned = None
    with contextlib.ExitStack() as locks:
        if output is not None:  # before a plan, which takes long; and what is measured is what was hashed
            locks.enter_context(writing_file(output))
        if plan:
            planned = predict(
                open_vectors(vectors),
                bits=sorted({*LENGTHS, bits}),
                k=neighbours,
                rotation=rotation,
                center=center,
                sample=queries,
                seed=seed,
            )
        if output is not None:
            with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
                task = bar.add_task("hashing", total=None)
                hash_file(
                    vectors,
                    output,
                    hasher,
                    progress=lambda done, total: bar.update(task, completed=done, total=total),
                )
            if planned is not None:
                planned = measure(HammingIndex.load(output), planned)
    if planned is not None:
        write_json(planned.as_dict(), json)
    if prints_text(json):
        out = Console()
        if planned is not None:
            for table in _tables(planned):
                out.print(table)
        if output is not None:
            out.print(f"Codes: {output}", highlight=False, soft_wrap=True)


def _tables(planned: Plan) -> list[Table]:
    geometry = Table(title=f"{planned.vectors:,} vectors of dimension {planned.dimension}", show_header=False)
    geometry.add_column(no_wrap=True)
    geometry.add_column(justify="right")
    angle = planned.code_angle
    rows: list[tuple[str, str]] = [
        ("metric of the neighbours", planned.metric),
        ("effective dimension", f"{planned.effective_dimension:.1f}"),
        (f"angle to the {planned.k} nearest", f"{planned.nearest.mean:.1f} ± {planned.nearest.std:.1f}°"),
        ("angle to all", f"{planned.all.mean:.1f} ± {planned.all.std:.1f}°"),
        ("angle to its signs, as it is", f"{angle['plain']:.1f}°"),
        ("angle to its signs, centred", f"{angle['centred']:.1f}°"),
        ("angle to its signs, rotated", f"{angle['rotated']:.1f}°, predicted {angle['predicted']:.1f}°"),
    ]
    for name, value in rows:
        geometry.add_row(name, value)
    factors = list(planned.rows[0].recall)
    table = Table(
        title=f"Recall@{planned.k}, predicted"
        + (" / measured" if any(r.measured_recall for r in planned.rows) else ""),
        caption=f"Neighbours by {planned.metric} distance; for neighbours by angle (cosine), scale vectors to "
        "length 1 first.\n"
        f"± is the standard error over {len(planned.queries)} queries.\n"
        "codes: by codes alone; xF: rescoring F times as many candidates;\n"
        "best --center: the share of the mean to subtract that is best, of 1, 0.5 and 0, and codes' recall",
        caption_justify="left",
    )
    table.add_column("bits", justify="right", no_wrap=True)
    table.add_column("smaller", justify="right", no_wrap=True)
    for factor in factors:
        table.add_column("codes" if factor == 1 else f"x{factor}", justify="right", no_wrap=True)
    table.add_column("best --center", justify="right", no_wrap=True)
    for row in planned.rows:
        cells = [
            f"{row.recall[f]:.2f}±{row.standard_error[f]:.2f}"
            + (f" / {row.measured_recall[f]:.2f}" if row.measured_recall else "")
            for f in factors
        ]
        best = f"{row.best_center:g}: {row.recall_by_center[row.best_center][factors[0]]:.2f}"
        table.add_row(str(row.bits), f"{row.smaller:.3g}x", *cells, best)
    return [geometry, table]
