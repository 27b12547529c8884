"""`hypersign play`: a packed network as a page to draw on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np

from hypersign._checks import HypersignError, check_int
from hypersign.cli.options import Option, PackedFile, load_packed, load_packed_or_run, parse
from hypersign.cli.printing import console
from hypersign.cli.run import open_images
from hypersign.playground import Sample, write


def run(words: Sequence[str]) -> None:
    """Parses `hypersign play`'s options and writes the page."""
    parse(play, words, "play")


def play(
    file: PackedFile,
    /,
    *,
    output: Annotated[Path, Option(metavar="PAGE", short="-o", written="file")],
    images: Path | None = None,
    count: int = 12,
    twin: Annotated[Path | None, Option(metavar="RUN")] = None,
) -> None:
    """Write a page that runs a packed network on what you draw. It is one file and works without a network.

    The page shows the bits of every layer, sums against thresholds, and what flipped bits change, beside theory.

    Example:
        hypersign play digits.hypersign -o play.html

    Args:
        output: HTML file to write.
        images: example images for the page: an array (.npy), uint8 of shape (N, channels, height, width), or a folder
            of image files, as hypersign run takes them.
        count: number of images of --images that the page gets.
        twin: run of the float network with the same layers, or its packed file; the page shows its value beside each
            unit.
    """
    check_int("--count", count, min=1, max=100)
    model = load_packed(file)
    samples = []
    if images is not None:
        names, read = open_images(images, model, "--images")
        pixels = read(slice(0, count))
        if pixels.dtype != np.uint8 or pixels.shape[1:] != model.shape:
            raise HypersignError(
                f"--images must be uint8 of shape (N, {', '.join(map(str, model.shape))}) for this network; got "
                f"{pixels.dtype} of shape {pixels.shape}"
            )
        samples = [Sample(name, image) for name, image in zip(names, pixels, strict=False)]
    other = None if twin is None else load_packed_or_run(twin)
    path = write(output, model, title=file.stem, twin=other, samples=samples)
    console().print(f"{path}: {path.stat().st_size:,} bytes. Open it in a browser and draw.", soft_wrap=True)
