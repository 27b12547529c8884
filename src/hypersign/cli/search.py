"""`hypersign search`: the nearest vectors of queries, by their codes."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from hypersign._arrays import is_npy
from hypersign._checks import HypersignError, check_int
from hypersign._files import write_atomic
from hypersign._json import prints_text, write_json
from hypersign.cli.options import JsonTarget, parse
from hypersign.hashing import HammingIndex, Neighbours, open_vectors

SHOWN = 10
"""Queries in the table."""


def run(words: Sequence[str]) -> None:
    """Parses `hypersign search`'s options and searches."""
    parse(search, words, "search")


def search(
    codes: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CODES")],
    queries: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="QUERIES")],
    /,
    *,
    neighbours: Annotated[int, tyro.conf.arg(aliases=("-k",))] = 10,
    rescore: Path | None = None,
    factor: int = 4,
    threads: int = 1,
    output: Annotated[Path | None, tyro.conf.arg(aliases=("-o",))] = None,
    json: JsonTarget = None,
) -> None:
    """Find the nearest codes of each query by exact search; --rescore sorts them by their original vectors.

    The metric is the Hamming distance of codes, which sorts by angle (after centring), or with --rescore the
    Euclidean distance of vectors. Scale vectors and queries to length 1 before hashing to search by cosine.

    Args:
        codes: file that hypersign hash wrote.
        queries: .npy file of shape (q, dimension), or a codes file of the same hasher.
        neighbours: number of neighbours per query.
        rescore: .npy file of the vectors that were hashed; candidates are sorted by Euclidean distance.
        factor: candidates per neighbour, with --rescore.
        threads: number of threads.
        output: .npz file to write: distances and indices, each of shape (q, neighbours).
        json: print all results as JSON instead of the table; with FILE, also write it there.
    """
    index = HammingIndex.load(codes)
    vectors = queries.suffix.lower() == ".npy" or is_npy(queries)
    asked: Any = open_vectors(queries) if vectors else HammingIndex.load(queries)
    if rescore is None:
        found = index.search(asked, neighbours, threads=threads)
    else:
        if isinstance(asked, HammingIndex):
            raise HypersignError(f"--rescore needs the queries' vectors; {queries} holds codes: name the .npy file")
        check_int("--factor", factor, least=1)
        check_int("--neighbours", neighbours, least=1, most=len(index))
        candidates = index.search(asked, min(factor * neighbours, len(index)), threads=threads)
        found = index.rescore(asked, candidates, open_vectors(rescore), neighbours)
    metric = "Hamming" if rescore is None else "Euclidean"
    write_json({"metric": metric, "distances": found.distances.tolist(), "indices": found.indices.tolist()}, json)
    if output is not None:
        if output.suffix != ".npz":
            raise HypersignError(f"--output must name a .npz file; got {output}")
        content = io.BytesIO()
        np.savez(content, distances=found.distances, indices=found.indices)
        write_atomic(output, content.getvalue())
    if prints_text(json):
        console = Console()
        console.print(_table(found))
        unit = "Hamming distance, in bits" if rescore is None else "Euclidean distance"
        hidden = len(found.indices) - SHOWN
        console.print(f"row number: {unit}" + (f"; {hidden} more queries" if hidden > 0 else ""), highlight=False)


def _table(found: Neighbours) -> Table:
    table = Table(title="Nearest")
    table.add_column("query", justify="right")
    table.add_column("neighbours", overflow="fold")
    for i, (distances, indices) in enumerate(zip(found.distances[:SHOWN], found.indices[:SHOWN], strict=True)):
        table.add_row(str(i), "  ".join(f"{j}: {d:.4g}" for d, j in zip(distances, indices, strict=True)))
    return table
