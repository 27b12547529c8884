"""`hypersign bench`: time of a packed network and its operations, beside the dense network."""

import dataclasses
import importlib.util
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from hypersign._checks import check_int
from hypersign._json import prints_text, write_json
from hypersign._machine import machine, versions
from hypersign.bits.backend import native
from hypersign.cli.options import JsonTarget, parse
from hypersign.packed import PackedModel
from hypersign.packed.profile import Profile, profile

PEERS = ("torch", "onnxruntime", "openvino")

FilePath = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")]


def run(words: Sequence[str]) -> None:
    """Parses `hypersign bench`'s options, measures, and prints."""
    parse(bench, words, "bench")


def bench(
    file: FilePath,
    /,
    *,
    batch_sizes: tuple[int, ...] = (1, 32),
    threads: int = 1,
    repeats: int = 30,
    json: JsonTarget = None,
) -> None:
    """Time a packed network and each of its operations, beside the dense network in other runtimes.

    It compares with the runtimes that are installed: torch, ONNX Runtime, OpenVINO (`hypersign[benchmark]`), in
    float32 and, where they have it, int8 or bfloat16.

    Times are the minimum over interleaved repeats, so other load affects all equally.

    Args:
        file: packed file that hypersign pack wrote.
        batch_sizes: images per batch; one table per value.
        threads: number of threads.
        repeats: number of repeats.
        json: print JSON instead of the tables; with FILE, also write it there.
    """
    model = PackedModel.load(file)
    for size in batch_sizes:
        check_int("--batch-sizes", size, least=1)
    check_int("--repeats", repeats, least=1)
    found = [measure(model, size, threads=threads, repeats=repeats) for size in batch_sizes]
    write_json(
        {
            "file": file.name,
            "machine": machine(),
            "versions": versions("numpy", *(name for name in PEERS if importlib.util.find_spec(name))),
            "batches": [row for _, row in found],
        },
        json,
    )
    if prints_text(json):
        console = Console()
        for times, row in found:
            console.print(bench_table(times, row))


def measure(model: PackedModel, batch: int, *, threads: int, repeats: int) -> tuple[Profile, dict[str, Any]]:
    """A profile of the network, and all of it as plain data with the limit and the dense network's times."""
    calls = _peers(model, batch, threads)
    limit, times = 0.0, None
    dense = dict.fromkeys(calls, math.inf)
    for _ in range(repeats):
        now = profile(model, images=batch, threads=threads, repeats=1)
        times = now if times is None else _least(times, now)
        limit = max(limit, bit_limit())
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            dense[name] = min(dense[name], time.perf_counter() - start)
    assert times is not None
    row = {
        **times.as_dict(),
        "seconds_per_image": times.seconds_per_image,
        "limit_macs_per_second": limit * threads or None,
        "dense_seconds": dense,
    }
    return times, row


def bit_limit() -> float:
    """Binary multiply-accumulates a second that a core reaches with nothing to load or store: xor, popcount, add.

    0 on the NumPy reference, which has no such loop.
    """
    kernels = native()
    if kernels is None:
        return 0.0
    start = time.perf_counter()
    macs = kernels.product_limit(20_000)
    return float(macs / (time.perf_counter() - start))


def _least(a: Profile, b: Profile) -> Profile:
    nodes = tuple(
        dataclasses.replace(x, seconds=min(x.seconds, y.seconds)) for x, y in zip(a.nodes, b.nodes, strict=True)
    )
    return dataclasses.replace(a, seconds=min(a.seconds, b.seconds), nodes=nodes)


def _peers(model: PackedModel, batch: int, threads: int) -> dict[str, Callable[[], Any]]:
    """Calls of the dense network on a batch, by runtime; none where torch is not installed."""
    if importlib.util.find_spec("torch") is None:
        return {}
    from hypersign.packing.peers import peers

    calls = peers(model, batch, threads=threads)
    for call in calls.values():
        call()  # builds what is built once
    return calls


def bench_table(times: Profile, row: dict[str, Any]) -> Table:
    """Per operation: time, share of the total, and speed of its products beside peak."""
    limit = row["limit_macs_per_second"]
    table = Table(
        title=f"batch {times.images}, {times.threads} thread{'s'[: times.threads > 1]}, back end {times.backend}: "
        f"{times.seconds_per_image * 1e3:.3f} ms an image",
        title_justify="left",
        caption_justify="left",
    )
    notes = [
        f"the same layers in {name}: {dense / times.images * 1e3:.3f} ms an image, {dense / times.seconds:.1f}x"
        for name, dense in row["dense_seconds"].items()
    ]
    if limit:
        notes.append(
            f"limit: {limit / 1e12:.2f} T binary multiply-accumulates a second (the inner loop on registers alone)"
        )
    table.caption = "\n".join(notes)
    table.add_column("operation", no_wrap=True)
    table.add_column("arithmetic", no_wrap=True)
    for name in ("MACs\nan image", "µs\na batch", "share", "T MAC/s", "of\nlimit"):
        table.add_column(name, justify="right", no_wrap=True)
    total = sum(node.seconds for node in times.nodes)
    for node in times.nodes:
        rate = node.macs * times.images / node.seconds
        table.add_row(
            node.name,
            node.arithmetic or node.op,
            f"{node.macs:,}" if node.macs else "",
            f"{node.seconds * 1e6:,.1f}",
            f"{node.seconds / total:.0%}",
            f"{rate / 1e12:.3f}" if node.macs else "",
            f"{rate / limit:.0%}" if limit and node.arithmetic == "bits" else "",
        )
    return table
