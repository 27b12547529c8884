"""`hypersign export`: a packed network in another tool's format."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray

from hypersign import export as formats
from hypersign._arrays import open_npy
from hypersign._checks import HypersignError
from hypersign.cli.options import Option, RunOrFile, load_packed_or_run, parse
from hypersign.cli.printing import console
from hypersign.cli.run import open_images
from hypersign.packed.text import PackedText, is_packed_text

SUFFIXES = {".onnx": "onnx", ".c": "c"}
"""The format of an output file that --format does not name."""


def run(words: Sequence[str]) -> None:
    """Parses `hypersign export`'s options, writes the file and checks it."""
    parse(export, words, "export")


def export(
    file: RunOrFile,
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
        images: images to compare on, as hypersign run takes them; token sequences (N, T) in a .npy file for a
            recurrent language model, which goes to onnx. onnx needs the package onnxruntime, qonnx the
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
    if _is_text(file):
        _export_text(file, output, form, images)
        return
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
    _report(formats.compare(model, output, form, np.asarray(rows(slice(0, len(names))))), output)


def _report(found: formats.Agreement, output: Path) -> None:
    """Prints the comparison.

    Raises:
        HypersignError: the file gives other decisions.
    """
    console().print(found.sentence(), soft_wrap=True)
    if found.wrong:
        raise HypersignError(
            f"{found.wrong:,} of {found.images:,} {found.what} have another decision than the packed network, and "
            f"rounding does not explain it; do not use {output}"
        )


def _is_text(path: Path) -> bool:
    """Whether it is a packed language model, or a run on a text."""
    if path.is_file():
        return is_packed_text(path)
    if not (path / "run.json").is_file():
        return False
    from hypersign import runs

    return runs.load(path).reads_text


def _export_text(file: Path, output: Path, form: str, tokens: Path | None) -> None:
    """Writes and checks a recurrent language model."""
    if form != "onnx":
        raise HypersignError(f"a language model is exported to onnx only; the format is {form}")
    model = PackedText.load(file) if file.is_file() else _packed_run(file)
    read = None if tokens is None else _sequences(tokens)
    formats.write_onnx_text(model, output)
    console().print(f"{output}: {output.stat().st_size:,} bytes of onnx", soft_wrap=True)
    if read is not None:
        _report(formats.compare(model, output, form, read), output)


def _packed_run(folder: Path) -> PackedText:
    from hypersign import packing, runs

    opened = runs.load(folder)
    data = opened.data()
    with tempfile.TemporaryDirectory() as place:
        packing.pack_text(opened.load_model(), f"{place}/run.hypersign", data.classes, data.unit)
        return PackedText.load(f"{place}/run.hypersign")


def _sequences(path: Path) -> NDArray[Any]:
    """Token sequences (N, T) of an array file."""
    try:
        found = np.asarray(open_npy(path))
    except HypersignError as error:
        raise HypersignError(f"--images of a language model must be a .npy file of tokens (N, T); {error}") from error
    if found.ndim != 2 or found.dtype.kind not in "iu" or not found.size:
        raise HypersignError(
            f"--images of a language model must hold tokens, integers (N, T); {path} has {found.dtype} {found.shape}"
        )
    return found
