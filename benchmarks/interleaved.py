"""Shared by benchmarks of kernels: interleaved timing, peak, tables."""

import ctypes
import functools
import importlib.util
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import rich
import rich.table

from hypersign._json import prints_text, write_json
from hypersign.bits.backend import native


def least_seconds(functions: Mapping[str, Callable[[], object]], budget: float, threads: int) -> dict[str, float]:
    """Minimum seconds of each function over interleaved calls, until each has used its share of `budget`.

    The minimum counts, because every disturbance adds time. Calls are interleaved, because the speed of a machine
    changes over time. Each function is called three times in a row, so that it finds its own data in the caches;
    once, if one call takes the whole share. With one thread the time is processor time, so that other programs do
    not count. If it is far below the elapsed time, elapsed time is used: on some virtual machines the processor
    clock stops at times.
    """
    clock = time.process_time if threads == 1 else time.perf_counter
    least = dict.fromkeys(functions, float("inf"))
    left = dict.fromkeys(functions, budget / len(functions))

    def call(name: str) -> None:
        begin, start = time.perf_counter(), clock()
        functions[name]()
        spent, took = clock() - start, time.perf_counter() - begin
        least[name] = min(least[name], spent if spent > 0.8 * took else took)
        left[name] -= took

    for name in functions:
        call(name)  # builds what is built once
    while any(rest > 0 for rest in left.values()):
        for name in functions:
            for _ in range(3):
                if left[name] > 0:
                    call(name)
    return least


def peak(macs: float, *, of: str = "product") -> tuple[Callable[[], object], float]:
    """The kernels' inner loop on registers alone, and how many multiply-accumulates a call makes.

    They are about `macs`, but take at most a fifth of a millisecond. For 8-bit inputs (`of="product8"`), it is a loop
    of vpmaddubsw and vpaddw on x86.
    """
    module = native()
    if module is None:
        raise SystemExit("the peak is that of compiled kernels; HYPERSIGN_BACKEND is numpy")
    loop = getattr(module, f"{of}_peak")
    rounds = max(1, int(min(macs, 2e8) / loop(1)))
    return lambda: loop(rounds), rounds * loop(1)


@functools.cache
def limits() -> ctypes.CDLL:
    """The compiled machine_limits.c."""
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "machine_limits.so"
        source = Path(__file__).with_name("machine_limits.c")
        subprocess.run(["cc", "-O3", "-march=native", "-shared", "-fPIC", source, "-o", library], check=True)
        loaded = ctypes.CDLL(str(library))
    loaded.memory.restype, loaded.memory.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    loaded.read_all.restype, loaded.read_all.argtypes = ctypes.c_uint64, [ctypes.c_void_p, ctypes.c_size_t]
    loaded.dot_products.restype, loaded.dot_products.argtypes = ctypes.c_int64, [ctypes.c_int64]
    return loaded


def reading(size: int) -> Callable[[], Any]:
    """Reads `size` bytes: a sum of 64-bit words."""
    loop = limits()
    memory = loop.memory(size)
    assert loop.read_all(memory, size) == int.from_bytes(b"\1" * 8) * (size // 8) % 2**64
    return lambda: loop.read_all(memory, size)


def installed(*packages: str) -> list[str]:
    """Those of the packages that are there."""
    return [name for name in packages if importlib.util.find_spec(name) is not None]


def show(result: dict[str, Any], title: str, target: Path | None) -> None:
    """The table of result["rows"], or JSON: on the screen for "-", else also in the file."""
    write_json(result, target)
    if not prints_text(target):
        return
    rows = result["rows"]
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    cells = {
        (name, column): f"{row[column]:.3g}" if column in row else "-"
        for name, row in rows.items()
        for column in columns
    }
    if len(columns) <= len(rows):
        table = rich.table.Table("", *(column.replace("_", " ") for column in columns), title=title)
        for name in rows:
            table.add_row(name, *(cells[name, column] for column in columns))
    else:  # many columns of few rows: on their side, so that a terminal holds them
        table = rich.table.Table("", *rows, title=title)
        for column in columns:
            table.add_row(column.replace("_", " "), *(cells[name, column] for name in rows))
    rich.print(table)
