"""`hypersign bench`: where a packed network's time goes, and what the float network takes."""

import dataclasses
import importlib.util
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from hypersign._checks import check_int
from hypersign._machine import machine, versions
from hypersign.bits.backend import native
from hypersign.cli.options import JsonTarget, parse, prints_text, write_json
from hypersign.packed import PackedModel
from hypersign.packed.profile import Profile, profile

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
    """Time a packed network and each of its operations, beside the float network in torch where that is installed.

    Every time is the least of all repeats, and all take turns, so that what else the machine does meets all alike.

    Args:
        file: a packed network, as hypersign pack writes it.
        batch_sizes: images in a batch, a table each.
        threads: number of threads.
        repeats: how often everything is run.
        json: print JSON instead of the tables; with a file's name, write the JSON there as well.
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
            "versions": versions("numpy"),
            "batches": [row for _, row in found],
        },
        json,
    )
    if prints_text(json):
        console = Console()
        for times, row in found:
            console.print(bench_table(times, row))


def measure(model: PackedModel, batch: int, *, threads: int, repeats: int) -> tuple[Profile, dict[str, Any]]:
    """A profile of the network, and all of it as plain data with the machine's limit and the float network's time."""
    dense = _dense(model, batch, threads)
    limit, dense_seconds, times = 0.0, math.inf, None
    for _ in range(repeats):
        now = profile(model, images=batch, threads=threads, repeats=1)
        times = now if times is None else _least(times, now)
        limit = max(limit, bit_limit())
        if dense is not None:
            start = time.perf_counter()
            dense()
            dense_seconds = min(dense_seconds, time.perf_counter() - start)
    assert times is not None
    row = {
        **times.as_dict(),
        "seconds_per_image": times.seconds_per_image,
        "limit_macs_per_second": limit * threads or None,
        "torch_float32_seconds": dense_seconds if dense is not None else None,
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


def _dense(model: PackedModel, batch: int, threads: int) -> Any:
    """A call of the float network on a batch, or None where torch is not installed."""
    if importlib.util.find_spec("torch") is None:
        return None
    import torch

    from hypersign.packing.dense import DenseNetwork

    torch.set_num_threads(threads)
    network = DenseNetwork(model.graph, model.values).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.randn(batch, *model.shape).to(memory_format=torch.channels_last)

    def call() -> None:
        with torch.inference_mode():
            network(images)

    call()
    return call


def bench_table(times: Profile, row: dict[str, Any]) -> Table:
    """Per operation: time, share of it, and how fast its products are beside the machine's limit."""
    limit, dense = row["limit_macs_per_second"], row["torch_float32_seconds"]
    table = Table(
        title=f"batch {times.images}, {times.threads} thread{'s'[: times.threads > 1]}, back end {times.backend}: "
        f"{times.seconds_per_image * 1e3:.3f} ms an image",
        title_justify="left",
        caption_justify="left",
    )
    notes = []
    if dense is not None:
        notes.append(
            f"the same layers in float32 (torch, channels-last): {dense / times.images * 1e3:.3f} ms an image, "
            f"{dense / times.seconds:.1f}x"
        )
    if limit:
        notes.append(
            f"limit: {limit / 1e12:.2f} T binary multiply-accumulates a second (xor, popcount and add in registers)"
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
