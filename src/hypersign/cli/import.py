"""`hypersign import`: a QONNX network as a packed file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np

from hypersign import export as formats
from hypersign._checks import HypersignError
from hypersign.cli.options import Option, parse
from hypersign.cli.printing import console
from hypersign.cli.run import open_images
from hypersign.packed import PackedModel


def run(words: Sequence[str]) -> None:
    """Parses `hypersign import`'s options, reads the network and writes the packed file."""
    parse(import_, words, "import")


def import_(
    file: Annotated[Path, Option("QONNX file of a binary or ternary network", "FILE")],
    /,
    *,
    output: Annotated[Path, Option(metavar="FILE", short="-o", written="file")],
    pixel_range: tuple[float, float] | None = None,
    images: Path | None = None,
) -> None:
    """Read a QONNX network of binary and ternary layers, and write it as a packed file.

    With --images, the executor of the package qonnx runs the file on these images, and its classes are compared.

    Example:
        hypersign import TFC_1W1A.onnx -o tfc.hypersign

    Args:
        output: packed file to write; its name usually ends in .hypersign.
        pixel_range: numbers that the pixels 0 and 255 are at the file's input; by default 0 and 1, or 0 and 255 for a
            file that hypersign export wrote.
        images: images to compare on, as hypersign run takes them.
    """
    scale = formats.pixel_range_of(file) if pixel_range is None else pixel_range
    formats.import_qonnx(file, output, pixel_range=scale)
    model = PackedModel.load(output)
    out = console()
    real = f"; in float32: {', '.join(model.float_nodes[:-1])}" if len(model.float_nodes) > 1 else ""
    out.print(
        f"{output}: {output.stat().st_size:,} bytes, {len(model.graph.nodes)} operations{real}. "
        f"The pixels 0 and 255 stand for {scale[0]:g} and {scale[1]:g}.",
        soft_wrap=True,
    )
    if images is None:
        return
    names, rows = open_images(images, model, "--images")
    found = formats.compare(model, file, "qonnx", np.asarray(rows(slice(0, len(names)))))
    out.print(found.sentence(), soft_wrap=True)
    if found.wrong:
        raise HypersignError(
            f"{found.wrong:,} of {found.images:,} images have another class in the packed network, and rounding does "
            f"not explain it; do not use {output}"
        )
