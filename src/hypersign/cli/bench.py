"""`hypersign bench`: time of a packed network and its operations, beside the dense network."""

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

from rich.table import Table

from hypersign import _defaults
from hypersign._checks import HypersignError, check_int, check_threads
from hypersign._json import prints_text, write_json
from hypersign._machine import machine, versions
from hypersign.cli.options import JsonTarget, PackedFile, Threads, load_packed, parse
from hypersign.cli.printing import console
from hypersign.packed import PackedModel
from hypersign.packed.profile import Profile, profile

RUNTIMES = ("torch", "onnxruntime", "openvino")


def run(words: Sequence[str]) -> None:
    """Parses `hypersign bench`'s options, measures, and prints."""
    parse(bench, words, "bench")


def bench(
    file: PackedFile,
    /,
    *,
    batch_sizes: tuple[int, ...] = (1, 32),
    threads: Threads = 1,
    repeats: int = _defaults.PROFILE_REPEATS,
    json: JsonTarget = None,
) -> None:
    """Time a packed network and each of its operations, beside the dense network in other runtimes.

    It compares with the runtimes that are installed: torch, ONNX Runtime, OpenVINO (pip install
    'hypersign[benchmark]'), in float32 and, where they have it, int8 or bfloat16. It needs none of them.

    It reports the minimum over interleaved repeats, so other load affects all equally.

    Example:
        hypersign bench digits.hypersign --batch-sizes 1 32 --threads 2

    Args:
        batch_sizes: images per batch, one table per value.
        repeats: number of repeats.
    """
    model = load_packed(file)
    if not batch_sizes:
        raise HypersignError("--batch-sizes needs at least one value; got none")
    for size in batch_sizes:
        check_int("--batch-sizes", size, min=1, max=1 << 20)
    check_int("--repeats", repeats, min=1)
    check_threads(threads, "--threads")
    found = [
        profile(model, images=size, threads=threads, repeats=repeats, rivals=_dense(model, size, threads))
        for size in batch_sizes
    ]
    write_json(
        {
            "file": file.name,
            "machine": machine(),
            "versions": versions("numpy", *(name for name in RUNTIMES if importlib.util.find_spec(name))),
            "batches": [_row(times) for times in found],
        },
        json,
    )
    if prints_text(json):
        for times in found:
            console().print(bench_table(times))


def _dense(model: PackedModel, batch: int, threads: int) -> dict[str, Callable[[], Any]]:
    """Calls of the dense network on a batch, by runtime; none if torch is not installed."""
    if importlib.util.find_spec("torch") is None:
        return {}
    from hypersign.packing.peers import peers

    return peers(model, batch, threads=threads)


def _row(times: Profile) -> dict[str, Any]:
    row = times.as_dict()
    peak, rivals = row.pop("peak"), row.pop("rivals")
    return {
        **row,
        "seconds_per_image": times.seconds_per_image,
        "peak_macs_per_second": peak or None,
        "dense_seconds": rivals,
    }


def _shares(times: Profile) -> str:
    """What share of the multiply-accumulates runs on what, with the names of those in float32."""
    total = sum(node.macs for node in times.nodes)
    parts = []
    for kind in ("bits", "integers", "float32"):
        found = [node for node in times.nodes if node.arithmetic == kind and node.macs]
        if found:
            named = ", ".join(node.name for node in found[:4]) + ", ..." * (len(found) > 4)
            share = sum(node.macs for node in found) / total
            parts.append(f"{share:.1%} {kind}" + f" ({len(found)}: {named})" * (kind == "float32"))
    return f"multiply-accumulates: {', '.join(parts)}"


def bench_table(times: Profile) -> Table:
    """Per operation: time, share of the total, and speed of its products beside the peak."""
    table = Table(
        title=f"batch {times.images}, {times.threads} thread{'s'[: times.threads > 1]}, back end {times.backend}: "
        f"{times.seconds_per_image * 1e3:.3f} ms per image",
        title_justify="left",
        caption_justify="left",
    )
    notes = [_shares(times)] if any(node.macs for node in times.nodes) else []
    notes += [
        f"the same layers in {name}: {dense / times.images * 1e3:.3f} ms per image, {dense / times.seconds:.1f} times"
        for name, dense in times.rivals.items()
    ]
    if times.peak:
        notes.append(f"peak: {times.peak / 1e12:.2f} T binary multiply-accumulates per second (registers only)")
    table.caption = "\n".join(notes)
    table.show_footer = True
    summed = sum(node.seconds for node in times.nodes)
    total = max(times.seconds, summed)  # the shortest times of the nodes may add up to more than that of the whole
    table.add_column("operation", "whole batch", no_wrap=True)
    table.add_column("arithmetic", no_wrap=True)
    macs = sum(node.macs for node in times.nodes)
    for name, footer in (
        ("MACs per\nimage", f"{macs:,}"),
        ("µs per\nbatch", f"{total * 1e6:,.1f}"),
        ("share", "100%"),
        ("T MAC/s", f"{macs * times.images / total / 1e12:.3f}"),
        ("of\npeak", ""),
    ):
        table.add_column(name, footer, justify="right", no_wrap=True)
    for node in times.nodes:
        rate = node.macs * times.images / node.seconds
        table.add_row(
            node.name,
            node.arithmetic or node.op,
            f"{node.macs:,}" if node.macs else "",
            f"{node.seconds * 1e6:,.1f}",
            f"{node.seconds / total:.0%}",
            f"{rate / 1e12:.3f}" if node.macs else "",
            f"{rate / times.peak:.0%}" if times.peak and node.arithmetic == "bits" else "",
        )
    between = total - summed
    table.add_row("the rest", "copies, calls", "", f"{between * 1e6:,.1f}", f"{between / total:.0%}", "", "")
    return table
