"""`hypersign search`: the nearest vectors of queries, by their codes."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from hypersign import _defaults
from hypersign._arrays import open_npy
from hypersign._checks import HypersignError, check_int, check_threads
from hypersign._files import write_atomic
from hypersign._json import prints_text, write_json
from hypersign.cli.options import JsonTarget, Option, Threads, parse
from hypersign.cli.printing import console
from hypersign.hashing import BoundedIndex, HammingIndex, Neighbours, Pruned, open_vectors, packed_words
from hypersign.hashing.vectors import is_codes

METRICS = {
    "hamming": ("Hamming", "Hamming distance in bits"),
    "euclidean": ("Euclidean", "Euclidean distance"),
    "cosine": ("cosine", "cosine distance (1 - cosine)"),
    "inner_product": ("inner product", "inner product, negated"),
}
"""The metrics in words: in JSON, and under the table."""

SHOWN = 10
"""Queries in the table."""

SHOWN_NEIGHBOURS = 8
"""Neighbours in the table, as many as 80 columns hold."""


def run(words: Sequence[str]) -> None:
    """Parses `hypersign search`'s options and searches."""
    parse(search, words, "search")


def search(
    codes: Annotated[Path, Option(metavar="CODES")],
    queries: Annotated[Path, Option(metavar="QUERIES")],
    /,
    *,
    neighbours: Annotated[int, Option(short="-k")] = _defaults.NEIGHBOURS,
    rescore: Annotated[Path | None, Option(metavar="FILE")] = None,
    factor: int | None = None,
    metric: Literal["euclidean", "cosine", "inner_product"] | None = None,
    exact: bool = False,
    every_code: bool = False,
    allowed: Annotated[Path | None, Option(metavar="FILE")] = None,
    threads: Threads = 1,
    output: Annotated[Path | None, Option(metavar="FILE", short="-o", written="file")] = None,
    json: JsonTarget = None,
) -> None:
    """Find the nearest codes of each query; --rescore sorts them by their original vectors.

    With --exact, all vectors that may be among the nearest are compared, by bounds that `hypersign hash --bounds`
    wrote: about 1 neighbour in 200 to 500 is missed, and few vectors are read.

    Codes of a metric estimate its distances: Euclidean, cosine (1 - cosine) or inner product (negated), and --rescore
    computes them. Sign codes have the Hamming distance, which sorts by angle (after centring), and --rescore sorts
    them by the Euclidean distance, or by --metric.
    The table shows the first 10 queries, the JSON all of them.

    Example:
        hypersign search codes queries.npy -k 5 --rescore vectors.npy

    Args:
        codes: codes file, as hypersign hash writes it.
        queries: file or folder of vectors, as hypersign hash reads them, or of packed bits for codes of --packed; or
            a codes file of the same hasher.
        neighbours: number of neighbours per query.
        rescore: file or folder of the vectors that were hashed; sorts candidates by their exact distances.
        factor: candidates per neighbour, for --rescore; 4 by default.
        metric: metric that --rescore sorts by; by default that of the codes, and Euclidean for sign codes.
        exact: with --rescore, read all vectors whose bounds do not exclude them, in place of --factor candidates.
        every_code: compare every code of a metric; otherwise a batch of 64 queries or more may skip some, each of the
            results with a probability of at most 2 in 10,000. Sign codes are always compared.
        allowed: .npy file of the ids that may be found, integers (m,), or one bool for each id.
        output: .npz file to write: distances and indices, each of shape (q, neighbours).
    """
    check_threads(threads, "--threads")
    check_int("--neighbours", neighbours, min=1)
    if factor is not None and (rescore is None or exact):
        raise HypersignError("--factor is the number of candidates of --rescore FILE, without --exact: leave it out")
    factor = 4 if factor is None else check_int("--factor", factor, min=1)
    if output is not None and output.suffix != ".npz":
        raise HypersignError(f"--output must name a .npz file; got {output}")
    if exact and (rescore is None or allowed is not None):
        raise HypersignError("--exact compares all original vectors; give --rescore FILE and no --allowed")
    if metric is not None and (rescore is None or exact):
        raise HypersignError("--metric sorts the candidates of --rescore FILE; --exact is by Euclidean distance")
    if every_code and exact:
        raise HypersignError("--exact leaves out vectors by their bounds; leave --every-code out")
    index = HammingIndex.load(codes)
    asked = _asked(queries, index)
    only = None if allowed is None else np.asarray(open_npy(allowed))
    options: dict[str, Any] = {"allowed": only, "exact": every_code, "threads": threads}
    read: dict[str, Any] = {}
    if rescore is None:
        found = index.search(asked, neighbours, **options)
    elif exact:
        pruned = _exact(codes, asked, rescore, neighbours, threads)
        found, read = pruned.neighbours, {"read": pruned.read.tolist()}
    else:
        if isinstance(asked, HammingIndex):
            raise HypersignError(f"--rescore needs the queries' vectors; {queries} holds codes: name their file")
        most = len(index) if only is None else _count(index, only)
        candidates = index.search(asked, max(neighbours, min(factor * neighbours, most)), **options)
        found = index.rescore(asked, candidates, open_vectors(rescore), neighbours, metric=metric)
    own = index.hasher.metric_
    by = metric or ("euclidean" if rescore is not None and own == "hamming" else own)
    result = {"metric": METRICS[by][0], "distances": found.distances.tolist(), "indices": found.indices.tolist()}
    write_json(result | read, json)
    if output is not None:
        content = io.BytesIO()
        np.savez(content, distances=found.distances, indices=found.indices)
        write_atomic(output, content.getvalue())
    if prints_text(json):
        out = console()
        out.print(_table(found))
        estimated = rescore is None and by != "hamming"
        out.print(_caption(found, ("estimated " if estimated else "") + METRICS[by][1]))
        if read:
            out.print(f"vectors read per query: {np.mean(read['read']):,.0f} of {len(index):,}")


def _count(index: HammingIndex, allowed: NDArray[Any]) -> int:
    """How many ids of the index are allowed."""
    if allowed.dtype == np.bool_:
        return int(np.count_nonzero(allowed))
    return int(np.isin(index.ids, allowed).sum())


def _exact(codes: Path, queries: Any, vectors: Path, neighbours: int, threads: int) -> Pruned:
    if isinstance(queries, HammingIndex):
        raise HypersignError("--exact needs the queries' vectors, and got codes: name their file")
    return BoundedIndex.load(codes, open_vectors(vectors)).search(queries, neighbours, threads=threads)


def _asked(queries: Path, index: HammingIndex) -> NDArray[Any] | HammingIndex:
    """The queries: vectors, or codes of the index's hasher."""
    if is_codes(queries):
        return HammingIndex.load(queries)
    opened = open_vectors(queries)
    hasher = index.hasher
    bytes_of_bits = opened.dtype.itemsize == 1 and 8 * opened.shape[1] == hasher.bits_ and hasher.rotation is None
    vectors = np.asarray(opened)
    return HammingIndex(hasher, packed_words(vectors)) if bytes_of_bits else vectors


def _caption(found: Neighbours, unit: str) -> str:
    queries, neighbours = found.indices.shape
    caption = f"1, 2, ...: nearest neighbours; each: row of the neighbour, over its {unit}"
    if neighbours > SHOWN_NEIGHBOURS:
        caption += f"; {neighbours - SHOWN_NEIGHBOURS:,} more neighbours"
    if queries > SHOWN:
        caption += f"; {queries - SHOWN:,} more queries"
    return caption


def _table(found: Neighbours) -> Table:
    """A row per query, a column per neighbour: its row in the file over its distance."""
    table = Table(padding=(0, 1, 0, 0))
    table.add_column("query", justify="right", no_wrap=True)
    for i in range(min(found.indices.shape[1], SHOWN_NEIGHBOURS)):
        table.add_column(str(i + 1), justify="right", no_wrap=True)
    for query, (distances, indices) in enumerate(zip(found.distances[:SHOWN], found.indices[:SHOWN], strict=True)):
        pairs = list(zip(indices, distances, strict=True))[:SHOWN_NEIGHBOURS]
        table.add_row(str(query), *(f"{j:,}\n{_distance(d)}" for j, d in pairs), end_section=True)
    return table


def _distance(distance: float) -> str:
    return f"{distance:,}" if isinstance(distance, int | np.integer) else f"{distance:#.4g}".removesuffix(".")
