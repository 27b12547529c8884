"""`hypersign pack`."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from hypersign import packing, runs
from hypersign._checks import HypersignError, check_int
from hypersign._json import write_json
from hypersign._locks import writing_file
from hypersign._machine import machine, versions
from hypersign.cli.options import RunPath, Weights, parse
from hypersign.packed import PackedModel
from hypersign.packing import Certificate
from hypersign.runs import Run
from hypersign.summaries import summary


def run(words: Sequence[str]) -> None:
    """Parses `hypersign pack`'s options, packs and prints."""
    parse(pack, words, "pack")


def pack(
    run: RunPath,
    /,
    *,
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    weights: Weights = "last",
    verify: bool = False,
    threads: int = 1,
) -> None:
    """Pack a run's network into one file of bits, which hypersign run and hypersign bench read.

    Args:
        run: run folder.
        output: the packed file; its name usually ends in .hypersign.
        weights: the last weights, or those with the best validation accuracy.
        verify: run the test set both ways, in float32 and packed, and write the certificate beside the file, its
            name with .json added. A float64 replica judges each image whose logits differ; exit with 1 where the
            packed network is wrong on one.
        threads: number of threads that verify uses.
    """
    check_int("--threads", threads, least=1)
    opened = runs.load(run)
    data = opened.data()
    model = opened.load_model(weights)
    with writing_file(output):
        if verify:
            with contextlib.suppress(OSError):  # it is of the file that goes now
                _certificate(output).unlink()
        packing.pack(model, output, data.shape, pixel_range=data.pixel_range, classes=data.classes)
        packed = PackedModel.load(output)
        size = output.stat().st_size
        predicted = packing.file_size(model, data.shape, pixel_range=data.pixel_range, classes=data.classes)
        console = Console()
        console.print(_table(packed))
        console.print(
            f"{output}: {size:,} bytes, as predicted ({predicted:,}); "
            f"{_compared(size, summary(model, data.shape).float_bytes)} its float32 weights",
            highlight=False,
            soft_wrap=True,
        )
        if verify:
            _verify(opened, weights, packed, output, threads, console)


def _verify(opened: Run, weights: str, packed: PackedModel, output: Path, threads: int, console: Console) -> None:
    data = opened.data()
    images = data.test.images.numpy()
    errors = Console(stderr=True)
    with Progress(console=errors, transient=True, disable=not errors.is_terminal) as bar:
        task = bar.add_task("verifying", total=len(images))
        found = packing.verify(
            opened.load_model(weights),
            packed,
            images,
            threads=threads,
            progress=lambda seen: bar.update(task, completed=seen),
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
    console.print(f"{_sentence(found)}\nCertificate: {certificate}", highlight=False, soft_wrap=True)
    if not found.holds:
        first = next(row for row in found.differences if not row.tie)
        raise HypersignError(
            f"{found.wrong:,} of {found.images:,} test images have another class in the packed network, or other "
            f"logits, and no rounding explains it (image {first.image}, from {first.wrong_step} on): "
            f"do not use {output}"
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


def _sentence(found: Certificate) -> str:
    ties = f" (ties that rounding decides: {found.ties})" if found.ties else ""
    text = (
        f"{found.images:,} test images: {found.classes_differ} with another class{ties}; logits differ by at most "
        f"{found.largest_difference:.1e} (the largest is {found.largest_logit:.3g})"
    )
    if not found.logits_differ:
        return text
    nearer = f"packed is the nearer one on {found.packed_nearer:,} images, float32 on {found.float_nearer:,}"
    return (
        f"{text}\nLogits that differ beyond rounding, judged by a float64 replica: {found.logits_differ:,} images; "
        f"the packed network is wrong on {found.wrong:,}\nMean distance from float64's logits: packed "
        f"{found.packed_error:.1e}, float32 {found.float_error:.1e}; {nearer}"
    )


def _table(packed: PackedModel) -> Table:
    """Every operation: what it reads, what it gives, and whether it computes in integers."""
    table = Table(
        caption="bits: products of packed levels; integers: sums of pixels;\nfloat32: real weights or inputs, with multiplications",
        caption_justify="left",
    )
    for title in ("node", "operation", "gives", "arithmetic"):
        table.add_column(title, no_wrap=True)
    for node in packed.graph.nodes:
        source, value = packed.values[node.inputs[0]], packed.values[node.name]
        real = "real" in (source.kind, value.kind)
        kind = "float32" if real else "bits" if source.kind == "levels" else "integers"
        table.add_row(node.name, node.op, str(value), kind)
    return table
