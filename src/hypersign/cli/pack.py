"""`hypersign pack`: a run's network as one file of bits."""

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.console import Console
from rich.table import Table

from hypersign._checks import HypersignError, check_threads
from hypersign._json import write_json
from hypersign._locks import writing_file
from hypersign._machine import machine, versions
from hypersign.cli.options import Option, RunPath, Threads, Weights, parse, progress_bars
from hypersign.cli.printing import console
from hypersign.packed import Node, PackedModel, PackedText

if TYPE_CHECKING:
    from hypersign.packing import Certificate
    from hypersign.runs import Run


def run(words: Sequence[str]) -> None:
    """Parses `hypersign pack`'s options, packs and prints."""
    parse(pack, words, "pack")


def pack(
    run: RunPath,
    /,
    *,
    output: Annotated[Path, Option(metavar="FILE", short="-o")],
    weights: Weights = "last",
    verify: bool = False,
    threads: Threads = 1,
) -> None:
    """Pack a run's network into one file of bits, which hypersign run and hypersign bench read.

    Example:
        hypersign pack runs/demo -o digits.hypersign --verify

    Args:
        output: packed file to write; its name usually ends in .hypersign.
        verify: run the test set in float32 and packed, and write the result to FILE.json. A float64 replica judges
            each image whose logits differ; the command exits with 1 if the packed network is wrong on one.
        threads: number of threads for --verify.
    """
    from hypersign import packing, runs
    from hypersign.summaries import summary

    check_threads(threads, "--threads")
    opened = runs.load(run)
    data = opened.data()
    model = opened.load_model(weights)
    if opened.reads_text:
        _pack_text(opened, model, data, output, verify)
        return
    with writing_file(output):
        if verify:
            with contextlib.suppress(OSError):  # it belongs to the file that is replaced
                _certificate(output).unlink()
        packing.pack(model, output, data.shape, pixel_range=data.pixel_range, classes=data.classes)
        packed = PackedModel.load(output)
        size = output.stat().st_size
        predicted = packing.file_size(model, data.shape, pixel_range=data.pixel_range, classes=data.classes)
        out = console()
        out.print(nodes_table(packed))
        out.print(
            f"{output}: {size:,} bytes, as predicted ({predicted:,}); "
            f"{_compared(size, summary(model, data.shape).float_bytes)} its float32 weights",
            soft_wrap=True,
        )
        if verify:
            _verify(opened, weights, packed, output, threads, out)


TEXT_DECISIONS = 100_000
"""Next-token decisions that `--verify` compares."""


def _pack_text(opened: "Run", model: Any, data: Any, output: Path, verify: bool) -> None:
    """Packs a language model, and compares its decisions with the network's, on test sequences."""
    from hypersign import packing
    from hypersign.summaries import summary

    with writing_file(output):
        with contextlib.suppress(OSError):
            _certificate(output).unlink()
        packing.pack_text(model, output, data.classes, data.unit)
        packed, size = PackedText.load(output), output.stat().st_size
        out = console()
        floats = summary(opened).float_bytes
        out.print(f"{output}: {size:,} bytes; {_compared(size, floats)} its float32 weights", soft_wrap=True)
        if not verify:
            return
        count = min(-(-TEXT_DECISIONS // data.length), (len(data.test) - 1) // data.length)
        tokens = next(iter(data.batches(data.test, max(1, count), drop_last=True)))[0]
        found = packing.verify_text(model, packed, tokens)
        certificate = {"file": output.name, **dataclasses.asdict(found), "length": data.length, "run": opened.name}
        facts = {"data": {"name": data.name, "sha256": data.sha256}, "machine": machine()}
        write_json({**certificate, **facts, "versions": versions("torch", "numpy")}, _certificate(output))
        out.print(
            f"{found.decisions:,} next {data.unit}, the state reset every {data.length}: {found.equal:,} equal, "
            f"{found.ties:,} ties that rounding decides, {found.wrong:,} wrong; logits differ by at most "
            f"{found.largest_difference:.1e}\nCertificate: {_certificate(output)}",
            soft_wrap=True,
        )
        if found.wrong:
            raise HypersignError(
                f"the packed network is wrong on {found.wrong:,} of {found.decisions:,} next {data.unit}: rounding "
                f"does not explain them; do not use {output}"
            )


def _verify(opened: "Run", weights: str, packed: PackedModel, output: Path, threads: int, out: Console) -> None:
    from hypersign import packing

    data = opened.data()
    images = data.test.images.numpy()
    with progress_bars() as progress:
        found = packing.verify(
            opened.load_model(weights),
            packed,
            images,
            threads=threads,
            progress=lambda seen: progress("verifying", seen, len(images)),
        )
    certificate = _certificate(output)
    write_json(
        {
            "file": output.name,
            **found.as_dict(),
            "run": opened.name,
            "weights": weights,
            "data": {"name": data.name, "sha256": data.sha256},
            "machine": machine(),
            "versions": versions("torch", "numpy"),
        },
        certificate,
    )
    out.print(f"{_sentence(found)}\nCertificate: {certificate}", soft_wrap=True)
    if not found.holds:
        first = next(row for row in found.differences if not row.tie)
        raise HypersignError(
            f"the packed network is wrong on {found.wrong:,} of {found.images:,} test images: rounding does not "
            f"explain its classes or logits (image {first.image}, from {first.wrong_step} on); do not use {output}"
        )


def _compared(size: int, float_bytes: int) -> str:
    """`size` in words, for "... its float32 weights": a file with real weights may be larger than they are.

    >>> _compared(10, 315), _compared(105, 100)
    ('31.5 times smaller than', '1.05 times the size of')
    """
    if size < float_bytes:
        return f"{float_bytes / size:.1f} times smaller than"
    return f"{size / float_bytes:.3g} times the size of"


def _certificate(output: Path) -> Path:
    return Path(f"{output}.json")


def _sentence(found: "Certificate") -> str:
    ties = f" ({found.ties} of them ties that rounding decides)" if found.ties else ""
    text = (
        f"{found.images:,} test images: {found.decisions_differ} with a different class{ties}; logits differ by at "
        f"most {found.largest_difference:.1e} (the largest is {found.largest_logit:.3g})"
    )
    if not found.logits_differ:
        return text
    nearer = f"packed is nearer on {found.packed_nearer:,} images, float32 on {found.float_nearer:,}"
    return (
        f"{text}\nLogits that differ beyond rounding, judged by a float64 replica: {found.logits_differ:,} images; "
        f"the packed network is wrong on {found.wrong:,}\nMean distance from float64's logits: packed "
        f"{found.packed_error:.1e}, float32 {found.float_error:.1e}; {nearer}"
    )


def arithmetic(packed: PackedModel, node: Node) -> str:
    """What a node computes with: bits, integers or float32."""
    value = packed.values[node.name]
    source = packed.values[node.inputs[0]] if node.inputs else value
    if "real" in (source.kind, value.kind):
        return "float32"
    return "bits" if source.kind == "levels" else "integers"


def nodes_table(packed: PackedModel) -> Table:
    """One row per operation: its output and its arithmetic."""
    table = Table(
        caption="bits: products of packed levels; integers: sums of pixels; "
        "float32: real weights or inputs, with multiplications",
        caption_justify="left",
    )
    for title in ("node", "operation", "output", "arithmetic"):
        table.add_column(title, no_wrap=True)
    for node in packed.graph.nodes:
        table.add_row(node.name, node.op, str(packed.values[node.name]), arithmetic(packed, node))
    return table
