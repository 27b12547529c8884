"""`hypersign export`: a packed network in another tool's format."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np

from hypersign import export as formats
from hypersign._checks import HypersignError
from hypersign.cli.options import Option, PackedFile, load_packed_or_run, parse
from hypersign.cli.printing import console
from hypersign.cli.run import open_images

SUFFIXES = {".onnx": "onnx", ".c": "c"}
"""The format of an output file that --format does not name."""


def run(words: Sequence[str]) -> None:
    """Parses `hypersign export`'s options, writes the file and checks it."""
    parse(export, words, "export")


def export(
    file: PackedFile,
    /,
    *,
    output: Annotated[Path, Option(metavar="FILE", short="-o", written="file")],
    format: Literal["onnx", "qonnx", "c"] | None = None,
    activations: Literal["quant", "multithreshold"] = "quant",
    channels_last: bool = False,
    name: str | None = None,
    images: Path | None = None,
) -> None:
    """Write a packed network, or a run's, for another tool: as ONNX, as QONNX, or as C.

    With --images, the other tool runs the file on these images, and its classes are compared with the packed
    network's.

    Examples:
        hypersign export digits -o digits.onnx --images images.npy
        hypersign export digits -o digits.c

    Args:
        output: file to write: .onnx, or .c.
        format: onnx: standard operators, float32. qonnx: BipolarQuant and IntQuant. c: one C99 file for
            microcontrollers. By default onnx or c, as the name of the file ends.
        activations: how qonnx writes the quantizers of activations: BipolarQuant and IntQuant, or MultiThreshold.
        channels_last: write qonnx with images as (1, height, width, channels), as hls4ml reads it.
        name: prefix of the C functions; by default the name of the file.
        images: images to compare on, as hypersign run takes them. onnx needs the package onnxruntime, qonnx the
            package qonnx, c a compiler named cc.
    """
    form = SUFFIXES.get(output.suffix) if format is None else format
    if form is None:
        raise HypersignError(f"--output must end in .onnx or .c, or --format name the format; got {output}")
    if activations != "quant" and form != "qonnx":
        raise HypersignError(f"--activations is for --format qonnx; the format is {form}")
    if channels_last and form != "qonnx":
        raise HypersignError(f"--channels-last is for --format qonnx; the format is {form}")
    if name is not None and form != "c":
        raise HypersignError(f"--name is for --format c; the format is {form}")
    model = load_packed_or_run(file)
    read = None if images is None else open_images(images, model, "--images")
    if form == "c":
        formats.write_c(model, output, name=name)
    elif form == "qonnx":
        formats.write_qonnx(model, output, activations=activations, channels_last=channels_last)
    else:
        formats.write_onnx(model, output)
    out = console()
    packed = len(model.to_bytes())
    out.print(f"{output}: {output.stat().st_size:,} bytes of {form}; the packed file has {packed:,}", soft_wrap=True)
    if read is None:
        return
    names, rows = read
    found = formats.compare(model, output, form, np.asarray(rows(slice(0, len(names)))))
    out.print(found.sentence(), soft_wrap=True)
    if found.wrong:
        raise HypersignError(
            f"{found.wrong:,} of {found.images:,} images have another decision than the packed network, and rounding "
            f"does not explain it; do not use {output}"
        )
