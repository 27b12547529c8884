"""`hypersign run`: predictions of a packed network, without torch."""

import csv
import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from hypersign import _defaults
from hypersign._arrays import npy_bytes, npz_bytes, open_npy, read_npz
from hypersign._checks import HypersignError, check_int, check_threads
from hypersign._files import write_atomic
from hypersign._pictures import SUFFIXES, opened
from hypersign.cli.options import Option, PackedFile, Threads, load_packed, parse, progress_bars
from hypersign.cli.printing import console, printable
from hypersign.packed import PackedModel
from hypersign.packed.decisions import Classification

MODES = {1: "L", 3: "RGB"}

SHOWN = 10
"""Predictions in the table."""

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
    output: Annotated[Path | None, Option(metavar="FILE", short="-o", written="file")] = None,
    batch_size: int = _defaults.PACKED_BATCH,
    threads: Threads = 1,
) -> None:
    """Predict with a packed network. It needs no torch.

    Examples:
        hypersign run digits.hypersign --input images.npy --output predictions.csv
        hypersign run digits.hypersign --input digit.png

    Args:
        input: images: an array (.npy), uint8 of shape (N, channels, height, width), an image file, or a folder of
            them, also in folders below it, all of the network's size; float32 vectors (N, features) for a network of
            vectors, signals (N, channels, length) for one of signals; for a network of several inputs a .npz file
            with an array for each, by its name (hypersign info names them).
        output: file to write: .csv (one row per image: name or number, label, logits; a regression has no label),
            .npy (logits, float32 of shape (N, classes)), or for a network of several outputs .npz; names that a
            spreadsheet would compute, as =1+1, get an apostrophe in front. Without it, the first 10 predictions are
            printed.
        batch_size: images per batch; results do not depend on it.
    """
    check_int("--batch-size", batch_size, min=1, max=MOST_IMAGES)
    check_threads(threads, "--threads")
    if output is not None and output.suffix not in (".npy", ".csv", ".npz"):
        raise HypersignError(f"--output must end in .npy, .csv or .npz; got {output}")
    model = load_packed(file)
    if output is not None:
        _check_suffix(output, model)
    names, read = open_images(input, model)
    outputs = [np.empty((len(names), *shape), np.float32) for shape in model.output_shapes.values()]
    if not names:
        model.predict(read(slice(0)))  # even no images have a type and a shape
    start = time.perf_counter()
    with progress_bars() as progress:
        for first in range(0, len(names), batch_size):
            rows = slice(first, first + batch_size)
            found = model.predict(read(rows), batch_size=batch_size, threads=threads)
            for whole, part in zip(outputs, found if isinstance(found, tuple) else [found], strict=True):
                whole[rows] = part
            progress("predicting", min(first + batch_size, len(names)), len(names))
    seconds = time.perf_counter() - start
    if output is not None:
        if output.suffix == ".npz":
            write_atomic(output, npz_bytes(dict(zip(model.output_shapes, outputs, strict=True))))
        else:
            write_atomic(output, npy_bytes(outputs[0]) if output.suffix == ".npy" else _csv(names, outputs[0], model))
    out = console()
    if output is None and len(names):
        out.print(_maps(names, outputs, model) if model.graph.outputs else _table(names, outputs[0], model))
    images = f"{len(names):,} image{'s'[: len(names) != 1]}"
    speed = f" in {seconds:.2g} s, {len(names) / seconds:,.0f} per second" if len(names) else ""
    out.print(f"{images}{speed}" + (f": {output}" if output is not None else ""), soft_wrap=True)


def _table(names: list[str], outputs: NDArray[np.float32], model: PackedModel) -> Table:
    """The first predictions: the class, its logit and its lead over the next one; of a regression its numbers."""
    table = Table()
    table.add_column("image", overflow="fold")
    if not model.classes:
        table.add_column("outputs", overflow="fold")
        for name, row in zip(names[:SHOWN], outputs[:SHOWN], strict=True):
            table.add_row(name, "  ".join(f"{value:.4g}" for value in row))
        return table
    table.add_column("class", overflow="fold")
    table.add_column("logit", justify="right", no_wrap=True)
    table.add_column("ahead of the next", justify="right", no_wrap=True)
    for name, row in zip(names[:SHOWN], outputs[:SHOWN], strict=True):
        *_, second, first = sorted([-np.inf, *map(float, row)])
        table.add_row(name, model.classes[int(row.argmax())], f"{first:.3g}", f"{first - second:.3g}")
    return table


def _check_suffix(output: Path, model: PackedModel) -> None:
    """Raises HypersignError where a file of this kind cannot hold the outputs."""
    several = len(model.output_shapes) > 1
    if several != (output.suffix == ".npz") or (output.suffix == ".csv" and model.graph.outputs):
        shapes = ", ".join(f"{name} {shape}" for name, shape in model.output_shapes.items())
        wanted = ".npz" if several else ".npy" if model.graph.outputs else ".npy or .csv"
        raise HypersignError(f"--output must end in {wanted} for a network that gives {shapes}; got {output}")


def _maps(names: list[str], outputs: Sequence[NDArray[np.float32]], model: PackedModel) -> Table:
    """The first predictions of several outputs, or of maps: the most frequent classes, or the range."""
    table = Table()
    table.add_column("input", overflow="fold")
    for name, shape in model.output_shapes.items():
        table.add_column(f"{name} {' x '.join(map(str, shape))}", overflow="fold")
    for i, name in enumerate(names[:SHOWN]):
        row = []
        for task, values in zip(model.tasks, outputs, strict=True):
            if not isinstance(task, Classification):
                row.append(f"{values[i].min():.4g} to {values[i].max():.4g}")
                continue
            classes, counts = np.unique(task.decide(values[i : i + 1]), return_counts=True)
            share = sorted(zip(counts / counts.sum(), classes.tolist(), strict=True), reverse=True)
            named = [(part, model.classes[of] if model.classes else str(of)) for part, of in share[:3]]
            row.append(", ".join(f"{of} {part:.0%}" for part, of in named))
        table.add_row(name, *row)
    return table


Read = Callable[[slice], Any]
"""Returns the images of some rows; a tuple for several inputs."""


def open_images(path: Path, model: PackedModel, option: str = "--input") -> tuple[list[str], Read]:
    """The names of the images in a .npy file, a folder or an image file, and a function that reads some of them.

    Raises:
        HypersignError: there are no images that fit the network. The message names the option.
    """
    if len(model.input_shapes) > 1:
        return _arrays(path, model, option)
    pictures = path.is_dir() or path.suffix.lower() in SUFFIXES
    return _pictures(path, model, option) if pictures else _array(path, option)


def _arrays(path: Path, model: PackedModel, option: str) -> tuple[list[str], Read]:
    """The arrays of a network of several inputs."""
    names = list(model.input_shapes)
    found = read_npz(path, names)
    if missing := [name for name in names if name not in found]:
        raise HypersignError(
            f"{option} must be a .npz file with the arrays {', '.join(names)}; {path} lacks {', '.join(missing)}"
        )
    count = {len(each) for each in found.values()}
    if len(count) > 1:
        raise HypersignError(f"{option} must hold as many rows in each array; {path} has {sorted(count)}")
    return [str(i) for i in range(count.pop())], lambda rows: tuple(found[name][rows] for name in names)


def _array(path: Path, option: str) -> tuple[list[str], Read]:
    try:
        images = open_npy(path)
    except HypersignError as error:
        raise HypersignError(f"{option} must be a .npy file, an image or a folder of images; {error}") from error
    if images.ndim not in (2, 3, 4):
        raise HypersignError(
            f"{option} must hold one array: images (N, channels, height, width), signals (N, channels, length) or "
            f"vectors (N, features); the shape in {path} is {images.shape}"
        )
    kind = images.dtype.newbyteorder("=")
    return [str(i) for i in range(len(images))], lambda rows: np.asarray(images[rows], kind)


def _pictures(path: Path, model: PackedModel, option: str) -> tuple[list[str], Read]:
    """The image file `path`, or those in the folder `path`."""
    files, folder = [path], path.parent
    if path.is_dir():
        folder = path
        files = sorted(
            file
            for file in folder.rglob("*")
            if file.is_file() and file.suffix.lower() in SUFFIXES and not file.name.startswith(".")
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
