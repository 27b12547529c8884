"""What benchmarks of kernels share: contestants in turn, the machine's limit, tables."""

import importlib.util
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import rich
import rich.table

from hypersign.bits.backend import native


def least_seconds(functions: Mapping[str, Callable[[], object]], budget: float, threads: int) -> dict[str, float]:
    """Least seconds of each function, all in turn, three calls a turn, for `budget` seconds, at least 5 turns.

    The least, since all that disturbs adds time; in turn, since a machine is not as fast at one time as at another;
    three calls, so that each finds its own numbers in the caches and not those of the one before.
    On one thread the processor time of the process counts, so that other programs do not.
    """
    clock = time.process_time if threads == 1 else time.perf_counter
    least = dict.fromkeys(functions, float("inf"))
    for function in functions.values():
        function()  # builds what is built once
    end, rounds = time.perf_counter() + budget, 0
    while rounds < 5 or time.perf_counter() < end:
        rounds += 1
        for name, function in functions.items():
            for _ in range(3):
                start = clock()
                function()
                least[name] = min(least[name], clock() - start)
    return least


def limit(macs: float) -> tuple[Callable[[], object], float]:
    """The kernels' inner loop on registers alone, with about `macs` multiply-accumulates, but at most a fifth of a
    millisecond of them; and how many those are."""
    module = native()
    if module is None:
        raise SystemExit("the limit is that of compiled kernels; HYPERSIGN_BACKEND is numpy")
    each = module.product_limit(1)
    rounds = max(1, int(min(macs, 2e8) / each))
    return lambda: module.product_limit(rounds), rounds * each


def installed(*packages: str) -> list[str]:
    """Those of the packages that are there."""
    return [name for name in packages if importlib.util.find_spec(name) is not None]


def show(result: dict[str, Any], title: str, target: str | None) -> None:
    """The table of result["rows"], or JSON: on the screen for "-", else also in the file."""
    if target == "-":
        print(json.dumps(result, indent=2))
        return
    if target:
        Path(target).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    rows = result["rows"]
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    table = rich.table.Table("", *(column.replace("_", " ") for column in columns), title=title)
    for name, row in rows.items():
        table.add_row(name, *(f"{row[column]:.3g}" if column in row else "-" for column in columns))
    rich.print(table)
