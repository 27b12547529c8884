"""`hypersign run`: predictions of a packed network, without torch."""

import csv
import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from hypersign import _defaults
from hypersign._arrays import open_npy
from hypersign._checks import HypersignError, check_int, check_threads
from hypersign._files import write_atomic
from hypersign._pictures import SUFFIXES, opened
from hypersign.cli.options import Option, PackedFile, Threads, parse, progress_bars
from hypersign.cli.printing import console, printable
from hypersign.packed import PackedModel

MODES = {1: "L", 3: "RGB"}

MOST_IMAGES = 1 << 24
"""The most images in a batch."""


def run(words: Sequence[str]) -> None:
    """Parses `hypersign run`'s options, predicts and writes."""
    parse(predict, words, "run")


def predict(
    file: PackedFile,
    /,
    *,
    input: Annotated[Path, Option(short="-i")],
    output: Annotated[Path, Option(metavar="FILE", short="-o", written="file")],
    batch_size: int = _defaults.PACKED_BATCH,
    threads: Threads = 1,
) -> None:
    """Predict with a packed network and write the predictions. It needs no torch.

    Example:
        hypersign run digits.hypersign --input images.npy --output labels.csv

    Args:
        input: images: an array (.npy), uint8 of shape (N, channels, height, width), or a folder of image files, also
            in folders below it, all of the network's size; float32 vectors (N, features) for a network of vectors.
        output: .csv (one row per image: name or number, label, logits; a regression has no label) or .npy (logits,
            float32 of shape (N, classes)); names that a spreadsheet would compute, as =1+1, get an apostrophe in
            front.
        batch_size: images per batch; results do not depend on it.
    """
    check_int("--batch-size", batch_size, min=1, max=MOST_IMAGES)
    check_threads(threads, "--threads")
    if output.suffix not in (".npy", ".csv"):
        raise HypersignError(f"--output must end in .npy or .csv; got {output}")
    model = PackedModel.load(file)
    names, read = open_images(input, model)
    logits = np.empty((len(names), model.outputs), np.float32)
    start = time.perf_counter()
    with progress_bars() as progress:
        for first in range(0, len(names), batch_size):
            rows = slice(first, first + batch_size)
            logits[rows] = model.predict(read(rows), batch_size=batch_size, threads=threads)
            progress("predicting", min(first + batch_size, len(names)), len(names))
    seconds = time.perf_counter() - start
    write_atomic(output, _npy(logits) if output.suffix == ".npy" else _csv(names, logits, model))
    speed = f" in {seconds:.2g} s, {len(names) / seconds:,.0f} per second" if len(names) else ""
    console().print(f"{len(names):,} images{speed}: {output}", soft_wrap=True)


Read = Callable[[slice], NDArray[Any]]
"""Returns the images of some rows."""


def open_images(path: Path, model: PackedModel, option: str = "--input") -> tuple[list[str], Read]:
    """The names of the images in a .npy file or a folder, and a function that reads some of them.

    Raises:
        HypersignError: there are no images that fit the network. The message names the option.
    """
    return _folder(path, model, option) if path.is_dir() else _array(path, option)


def _array(path: Path, option: str) -> tuple[list[str], Read]:
    try:
        images = open_npy(path)
    except HypersignError as error:
        raise HypersignError(f"{option} must be a .npy file or a folder of images; {error}") from error
    if images.ndim not in (2, 4):
        raise HypersignError(
            f"{option} must hold one array: images (N, channels, height, width) or vectors (N, features); the shape "
            f"in {path} is {images.shape}"
        )
    kind = images.dtype.newbyteorder("=")
    return [str(i) for i in range(len(images))], lambda rows: np.asarray(images[rows], kind)


def _folder(folder: Path, model: PackedModel, option: str) -> tuple[list[str], Read]:
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    )
    if not files:
        raise HypersignError(
            f"{option} must be a folder with images ({', '.join(sorted(SUFFIXES))}); {folder} has none"
        )
    if model.shape[0] not in MODES or model.graph.pixel_range is None:
        raise HypersignError(
            f"image files have 1 or 3 channels of 8 bits, this network's inputs {model.shape[0]}"
            f"{' of float32' * (model.graph.pixel_range is None)}: give them as a .npy file"
        )
    return [str(path.relative_to(folder)) for path in files], lambda rows: np.stack(
        [_image(path, model.shape) for path in files[rows]]
    )


def _image(path: Path, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """One image file as (channels, height, width)."""
    channels, height, width = shape
    with opened(path) as image:
        found = (image.mode, image.height, image.width)
        if found != (MODES[channels], height, width):  # before the pixels are decoded
            raise HypersignError(
                f"{path}: must be {width}x{height} of mode {MODES[channels]} for this network; it is "
                f"{found[2]}x{found[1]} of mode {found[0]}: convert it"
            )
        pixels = np.asarray(image)
    return pixels.reshape(height, width, channels).transpose(2, 0, 1)


def _npy(logits: NDArray[np.float32]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, logits)
    return buffer.getvalue()


def _csv(names: list[str], outputs: NDArray[np.float32], model: PackedModel) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    labels = [_cell(label) for label in model.classes]
    columns = ["label", *labels] if labels else [f"output {i}" for i in range(model.outputs)]
    writer.writerow(["image", *columns])
    decisions = model.decide(outputs)
    for i, (name, row) in enumerate(zip(names, outputs, strict=True)):
        label = [labels[decisions[i]]] if labels else []
        writer.writerow([_cell(name), *label, *(f"{value:.6g}" for value in row)])
    return text.getvalue()


def _cell(text: str) -> str:
    """A name that no spreadsheet computes; control characters and bytes that are not UTF-8 are escaped."""
    try:
        float(text)
    except ValueError:
        text = f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
    return printable(text)
