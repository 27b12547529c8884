"""`hypersign hash`: vectors to codes, and their predicted recall."""

import contextlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from rich.table import Table

from hypersign import _defaults
from hypersign._checks import HypersignError, check_int
from hypersign._json import prints_text, write_json
from hypersign._locks import writing_file
from hypersign.cli.options import JsonTarget, Option, Seed, parse, progress_bars
from hypersign.cli.printing import console
from hypersign.hashing import HammingIndex, Plan, SignHasher, hash_file, import_bits, measure, open_vectors
from hypersign.hashing import plan as predict
from hypersign.hashing.vectors import hashable

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
    skip: bool = False,
    bits: int | None = None,
    bits_per_dimension: float = 1,
    metric: Literal["hamming", "euclidean", "cosine", "inner_product"] | None = None,
    rotation: Literal["hadamard", "haar", "none"] = "hadamard",
    rounds: int = _defaults.ROTATION_ROUNDS,
    center: float = 1.0,
    pca: int | None = None,
    neighbours: int | None = None,
    queries: Annotated[str | None, Option(metavar="INT|FILE")] = None,
    recall: float | None = None,
    bytes: int | None = None,
    seed: Seed = 0,
    json: JsonTarget = None,
) -> None:
    """Hash vectors into packed codes, or predict the recall of codes by their kind and rescoring factor.

    The file may be larger than memory. If hashing is stopped, the same command resumes it. Sign codes sort by angle
    after centring. Codes of a metric estimate its distances, with 1, 1.5, 2, 3, 4 or 6 bits per dimension. The plan's
    true neighbours are by --metric, or by Euclidean distance. Recall among a sample of the vectors is higher than
    among all: plan on all of them, or on growing samples.

    Examples:
        hypersign hash vectors.npy -o codes --plan --bits 128
        hypersign hash vectors.npy --plan --recall .95 --bytes 64
        hypersign hash vectors.npy -o codes --bits-per-dimension 2 --metric cosine

    Args:
        vectors: .npy, .npz, .fvecs, .bvecs, .safetensors, HDF5, Parquet or Arrow file, or a folder of them, read in
            the order of their names; FILE::NAME names one of several arrays.
        output: codes file to write.
        plan: predict recall; with --output, also measure it after hashing.
        packed: the vectors are packed bits already (sentence-transformers' ubinary or binary); write them as codes.
        bounds: write 8 bytes more per vector, for search --exact; sign codes only.
        skip: leave out vectors that cannot be hashed (NaN, infinite, or without a direction); row numbers stay ids.
        bits: length of a code, in bits; by default 256, or for codes of a metric as many components as vectors have.
        bits_per_dimension: 1, 1.5, 2, 3, 4 or 6.
        metric: hamming (signs alone), or the metric that codes estimate; by default hamming at 1 bit per dimension,
            else euclidean.
        rotation: hadamard (additions only), haar (multiplications), or none (signs of the components as they are).
        rounds: rounds of random signs and Hadamard transforms.
        center: share of the vectors' mean to subtract first, 0 to 1; --plan shows the best one.
        pca: number of principal components of the vectors to keep, in place of --bits; codes of a metric only.
            --plan --bytes shows whether they have more recall at equal bytes.
        neighbours: k of the plan's recall@k; 10 by default.
        queries: number of rows that the plan draws as queries, 200 by default, or a file of queries of your own.
        recall: name the cheapest code of the plan with this recall, 0 to 1: the fewest candidates to rescore, then
            the fewest bytes; without --bytes the fewest bytes first.
        bytes: largest code, in bytes per vector; the plan then has the longest code of each kind that fits.
        seed: seed of the rotation and of the plan's draws.
        json: print the plan as JSON instead of tables; with FILE, print the tables and write the JSON to FILE.
    """
    if output is None and not plan:
        raise HypersignError("nothing to do: give --output FILE to hash, or --plan to predict recall, or both")
    if packed and (plan or output is None):
        raise HypersignError("--packed writes bits that are there already as codes; give --output FILE and no --plan")
    if bounds and (packed or output is None or rotation == "none"):
        raise HypersignError("--bounds writes the bounds of rotated vectors; give --output FILE and a rotation")
    if skip and (packed or bounds or (plan and output is not None)):
        raise HypersignError("--skip goes with --output or with --plan, and without --packed and --bounds")
    if json is not None and not plan:
        raise HypersignError("--json prints the plan; add --plan")
    if plan and rotation == "none":
        raise HypersignError("--plan needs a random rotation; got --rotation none: use hadamard or haar")
    of_plan = {"neighbours": neighbours, "queries": queries, "recall": recall, "bytes": bytes}
    if not plan and (given := [f"--{name}" for name, value in of_plan.items() if value is not None]):
        words = ("belongs", "it") if len(given) == 1 else ("belong", "them")
        raise HypersignError(f"{', '.join(given)} {words[0]} to a plan; add --plan, or leave {words[1]} out")
    neighbours = _defaults.NEIGHBOURS if neighbours is None else check_int("--neighbours", neighbours, min=1)
    queries = str(_defaults.PLAN_QUERIES) if queries is None else queries
    hasher = SignHasher(
        bits,
        bits_per_dimension=bits_per_dimension,
        metric=metric,
        rotation=None if rotation == "none" else rotation,
        rounds=rounds,
        center=center,
        seed=seed,
        pca=pca,
    )
    names = ("bits", "bits_per_dimension", "metric", "rotation", "rounds", "center", "seed", "pca")
    given = [name for name in names if getattr(hasher, name) not in (getattr(SignHasher(), name), "hamming")]
    if packed and given:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise HypersignError(f"--packed writes bits as they are, which are sign codes; leave {options} out")
    planned = None
    with contextlib.ExitStack() as locks:
        if output is not None:  # before the plan, which takes long, so that nobody else writes between both
            locks.enter_context(writing_file(output))
        if plan:
            planned = _planned(vectors, hasher, queries, bytes, neighbours, skip)
        if output is not None:
            with progress_bars() as progress:
                hashed: Any = import_bits if packed else partial(hash_file, hasher=hasher, bounds=bounds, skip=skip)
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
            if recall is not None or bytes is not None:
                out.print(_choice(planned, 1.0 if recall is None else recall, bytes, hasher, skip), soft_wrap=True)
        if output is not None:
            metric_name = hasher.metric_.replace("_", " ")
            out.print(f"Codes: {output}; metric {metric_name}, {hasher.row_bytes()} bytes per vector", soft_wrap=True)
            left_out = len(open_vectors(vectors)) - len(HammingIndex.load(output)) if skip else 0
            if left_out:
                out.print(f"{left_out:,} vectors could not be hashed and were left out; ids are row numbers")


def _planned(vectors: Path, hasher: SignHasher, queries: str, bytes: int | None, neighbours: int, skip: bool) -> Plan:
    """The plan for the kinds of codes that are compared, and for the hasher's."""
    drawn = queries.strip().lstrip("+-").isdigit()
    sample = check_int("--queries", int(queries), min=1) if drawn else _defaults.PLAN_QUERIES
    signs = hasher.metric in (None, "hamming") and hasher.bits_per_dimension == 1
    opened = open_vectors(vectors)
    return predict(
        hashable(opened, hasher) if skip else opened,
        queries=None if drawn else np.asarray(open_vectors(queries)),
        bits=sorted({*LENGTHS, hasher.bits or _defaults.CODE_BITS} if signs else LENGTHS),
        hasher=None if signs else hasher,
        bytes=None if bytes is None else check_int("--bytes", bytes, min=1),
        metric="euclidean" if hasher.metric in (None, "hamming") else hasher.metric,
        k=neighbours,
        rotation=str(hasher.rotation),
        center=hasher.center,
        sample=sample,
        seed=hasher.seed,
    )


def _choice(planned: Plan, recall: float, bytes: int | None, hasher: SignHasher, skip: bool) -> str:
    """The code that a budget leads to, as options; those of the plan's hasher that are not the default too."""
    choice = planned.choose(recall, bytes)
    row = choice.row
    options = f"--pca {row.pca}" if row.pca else f"--bits {row.bits}"
    if row.metric != "hamming":
        options = f"--metric {row.metric} --bits-per-dimension {row.bits_per_dimension:g} {options}"
    more = {"rotation": hasher.rotation, "rounds": hasher.rounds, "center": choice.center, "seed": hasher.seed}
    default = SignHasher()
    options += "".join(f" --{name} {value}" for name, value in more.items() if value != getattr(default, name))
    options += " --skip" if skip else ""
    rescored = f", then search --rescore FILE --factor {choice.factor}" if choice.factor > 1 else ""
    metric = planned.metric.lower().replace(" ", "_")
    if rescored and metric != ("euclidean" if row.metric == "hamming" else row.metric):
        rescored += f" --metric {metric}"  # search would rescore by another one
    text = f"{options}{rescored}: recall@{planned.k} {choice.recall:.3f}, {row.bytes} bytes per vector"
    limit = "" if bytes is None else f" of at most {bytes} bytes"
    return f"Choice: {text}" if choice.enough else f"No code{limit} has a recall of {recall:g}. Best: {text}"


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
        caption=f"Metric of the neighbours: {planned.metric}. "
        "Sign codes sort by angle: scale vectors to length 1 first to search by cosine with them.\n"
        f"Recall is among these {planned.vectors:,} vectors; among more it is lower.\n"
        f"±: standard error of the prediction over {len(planned.queries)} queries.\n"
        "code: signs and their number, or bits per dimension of codes that estimate the metric (pca: --pca);\n"
        "codes: by codes alone; xF: rescoring F times as many candidates;\n"
        "best --center: best share of the mean to subtract, of 1, 0.5 and 0, and the codes' recall with it",
        caption_justify="left",
        padding=(0, 1, 0, 0),  # 80 columns hold it
    )
    for name in (
        "code",
        "bytes",
        *("codes" if factor == 1 else f"x{factor}" for factor in factors),
        "best\n--center",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    for row in planned.rows:
        cells = [
            f"{row.recall[f]:.2f}"
            + (f" / {row.measured_recall[f]:.2f}" if row.measured_recall else "")
            + f"\n±{row.standard_error[f]:.3f}"
            for f in factors
        ]
        signs = row.metric == "hamming"
        best = f"{row.best_center:g}: {row.recall_by_center[row.best_center][factors[0]]:.2f}" if signs else "-"
        name = f"{row.bits}\nsigns" if signs else f"{row.bits_per_dimension:g}\n{'pca' if row.pca else 'bits'}"
        table.add_row(name, f"{row.bytes}\n{row.smaller:.3g}x", *cells, best)
    return [geometry, table]
