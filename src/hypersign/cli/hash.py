"""`hypersign hash`: vectors to codes, and their predicted recall."""

import contextlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from rich.table import Table

from hypersign import _defaults
from hypersign._checks import HypersignError, check_int
from hypersign._json import prints_text, write_json
from hypersign._locks import writing_file
from hypersign.cli.options import JsonTarget, Option, Seed, parse, progress_bars
from hypersign.cli.printing import console
from hypersign.hashing import HammingIndex, Plan, SignHasher, hash_file, import_bits, measure, open_vectors
from hypersign.hashing import plan as predict

LENGTHS = (64, 128, 256, 512, 1024)
"""Code lengths that a plan compares with --bits."""


def run(words: Sequence[str]) -> None:
    """Parses `hypersign hash`'s options, plans and hashes."""
    parse(hash_, words, "hash")


def hash_(
    vectors: Annotated[Path, Option(metavar="VECTORS")],
    /,
    *,
    output: Annotated[Path | None, Option(metavar="FILE", short="-o")] = None,
    plan: bool = False,
    packed: bool = False,
    bounds: bool = False,
    bits: int | None = None,
    bits_per_dimension: float = 1,
    metric: Literal["hamming", "euclidean", "cosine", "inner_product"] | None = None,
    rotation: Literal["hadamard", "haar", "none"] = "hadamard",
    rounds: int = _defaults.ROTATION_ROUNDS,
    center: float = 1.0,
    neighbours: int = _defaults.NEIGHBOURS,
    queries: int = _defaults.PLAN_QUERIES,
    seed: Seed = 0,
    json: JsonTarget = None,
) -> None:
    """Hash vectors into packed codes, or predict the recall of sign codes by length and rescoring factor.

    The file may be larger than memory. If hashing is stopped, the same command resumes it. Sign codes sort by angle
    after centring; the plan's neighbours are by Euclidean distance, so scale vectors to length 1 first to search by
    cosine. Codes of a metric estimate its distances, with 1, 1.5, 2, 3 or 4 bits per dimension.

    Examples:
        hypersign hash vectors.npy -o codes --plan --bits 128
        hypersign hash vectors.npy -o codes --bits-per-dimension 2 --metric cosine

    Args:
        vectors: .npy, .npz, .fvecs, .bvecs, .safetensors, HDF5, Parquet or Arrow file, or a folder of them, read in
            the order of their names; FILE::NAME names one of several arrays.
        output: codes file to write.
        plan: predict recall; with --output, also measure it after hashing.
        packed: the vectors are packed bits already (sentence-transformers' ubinary or binary); write them as codes.
        bounds: write 8 bytes more per vector, for search --exact; sign codes only.
        bits: length of a code, in bits; by default 256, or for codes of a metric as many components as vectors have.
        bits_per_dimension: 1, 1.5, 2, 3 or 4.
        metric: hamming (signs alone), or the metric that codes estimate; by default hamming at 1 bit per dimension,
            else euclidean.
        rotation: hadamard (additions only), haar (multiplications), or none (signs of the components as they are).
        rounds: rounds of random signs and Hadamard transforms.
        center: share of the vectors' mean to subtract first, 0 to 1; --plan shows the best one.
        neighbours: k of the plan's recall@k.
        queries: number of rows that the plan draws as queries.
        seed: seed of the rotation and of the plan's draws.
        json: print the plan as JSON instead of tables; with FILE, print the tables and write the JSON to FILE.
    """
    if output is None and not plan:
        raise HypersignError("nothing to do: give --output FILE to hash, or --plan to predict recall, or both")
    if packed and (plan or output is None):
        raise HypersignError("--packed writes bits that are there already as codes; give --output FILE and no --plan")
    if bounds and (packed or output is None or rotation == "none"):
        raise HypersignError("--bounds writes the bounds of rotated vectors; give --output FILE and a rotation")
    if json is not None and not plan:
        raise HypersignError("--json prints the plan; add --plan")
    if plan and rotation == "none":
        raise HypersignError("--plan needs a random rotation; got --rotation none: use hadamard or haar")
    check_int("--neighbours", neighbours, min=1)
    check_int("--queries", queries, min=1)
    hasher = SignHasher(
        bits,
        bits_per_dimension=bits_per_dimension,
        metric=metric,
        rotation=None if rotation == "none" else rotation,
        rounds=rounds,
        center=center,
        seed=seed,
    )
    if (plan or packed) and (metric not in (None, "hamming") or bits_per_dimension != 1):
        raise HypersignError("--plan and --packed are for sign codes; leave --metric and --bits-per-dimension out")
    planned = None
    with contextlib.ExitStack() as locks:
        if output is not None:  # before the plan, which takes long, so that nobody else writes between both
            locks.enter_context(writing_file(output))
        if plan:
            planned = predict(
                open_vectors(vectors),
                bits=sorted({*LENGTHS, bits or _defaults.CODE_BITS}),
                k=neighbours,
                rotation=rotation,
                center=center,
                sample=queries,
                seed=seed,
            )
        if output is not None:
            with progress_bars() as progress:
                hashed: Any = import_bits if packed else partial(hash_file, hasher=hasher, bounds=bounds)
                hasher = hashed(vectors, output, progress=lambda done, total: progress("hashing", done, total))
            if planned is not None:
                planned = measure(HammingIndex.load(output), planned)
    if planned is not None:
        write_json(planned.as_dict(), json)
    if prints_text(json):
        out = console()
        if planned is not None:
            for table in _tables(planned):
                out.print(table)
        if output is not None:
            metric_name = hasher.metric_.replace("_", " ")
            out.print(f"Codes: {output}; metric {metric_name}, {hasher.row_bytes()} bytes per vector", soft_wrap=True)


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
        f"±: standard error of the prediction over {len(planned.queries)} queries.\n"
        "codes: by codes alone; xF: rescoring F times as many candidates;\n"
        "best --center: best share of the mean to subtract, of 1, 0.5 and 0, and the codes' recall with it",
        caption_justify="left",
        padding=(0, 1, 0, 0),  # 80 columns hold it
    )
    table.add_column("bits", justify="right", no_wrap=True)
    table.add_column("smaller", justify="right", no_wrap=True)
    for factor in factors:
        table.add_column("codes" if factor == 1 else f"x{factor}", justify="right", no_wrap=True)
    table.add_column("best\n--center", justify="right", no_wrap=True)
    for row in planned.rows:
        cells = [
            f"{row.recall[f]:.2f}"
            + (f" / {row.measured_recall[f]:.2f}" if row.measured_recall else "")
            + f"\n±{row.standard_error[f]:.3f}"
            for f in factors
        ]
        best = f"{row.best_center:g}: {row.recall_by_center[row.best_center][factors[0]]:.2f}"
        table.add_row(str(row.bits), f"{row.smaller:.3g}x", *cells, best)
    return [geometry, table]
