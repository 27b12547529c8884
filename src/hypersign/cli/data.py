"""`hypersign data`: get a data set, see which are there, and write images as arrays."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from rich.table import Table

from hypersign._arrays import npy_bytes
from hypersign._checks import HypersignError
from hypersign._files import check_file, write_atomic
from hypersign._json import prints_text, write_json
from hypersign.cli.options import JsonTarget, Option, parse_one_of
from hypersign.cli.printing import console, say

__all__ = ["export", "fetch", "list_"]


def fetch(name: Annotated[str, Option(metavar="NAME")], /) -> None:
    """Download, check and unpack a data set, and print its folder.

    Files in the folder that HYPERSIGN_DATA names are checked and used where they are. Downloads go into your cache
    folder; an interrupted one resumes when you run the command again.

    Example:
        hypersign data fetch digits

    Args:
        name: digits, mnist, fashion-mnist, cifar-10, cifar-100, tinyshakespeare or war-and-peace.
    """
    from hypersign import data

    say(str(data.fetch(name)))


def export(
    name: Annotated[str, Option(metavar="NAME")],
    file: Annotated[Path, Option(metavar="FILE")],
    /,
    *,
    split: Literal["test", "train"] = "test",
    vectors: bool = False,
) -> None:
    """Write the images of a data set as a .npy array, and their labels beside it (images.npy, images-labels.npy).

    hypersign run reads the images, hypersign hash and search read them as vectors.

    Examples:
        hypersign data export digits images.npy
        hypersign data export digits vectors.npy --split train --vectors
        hypersign data export digits queries.npy --vectors

    Args:
        name: digits, mnist, fashion-mnist, cifar-10, cifar-100, a folder of class folders, or a .npz file.
        file: array to write: uint8 of shape (N, channels, height, width).
        split: test or training images.
        vectors: write each image as a row of float32, shape (N, channels * height * width).
    """
    from hypersign import data

    if file.suffix != ".npy":
        raise HypersignError(f"the file must end in .npy; got {file}")
    check_file("the file", file)
    if data.is_text(name):
        raise HypersignError(f"export writes images; {name} is a text: read its file, in the folder of data fetch")
    loaded = data.read(name)
    chosen = loaded.test if split == "test" else loaded.train
    images = chosen.images
    if vectors:
        images = images.reshape(len(images), -1).astype(np.float32)
    labels = file.with_name(f"{file.stem}-labels.npy")
    for path, array in ((file, images), (labels, chosen.labels)):
        write_atomic(path, npy_bytes(array))
    shape = " x ".join(map(str, images.shape))
    say(f"{file}: {shape}, {images.dtype}; labels: {labels}")


def list_(*, json: JsonTarget = None) -> None:
    """List the named data sets: their size, and where they are on this machine.

    Every command that takes a data set also accepts a folder with one folder of images per class, or a .npz file
    with the arrays images and labels.

    Example:
        hypersign data list
    """
    from hypersign import data

    found = data.status()
    write_json([dataclasses.asdict(item) for item in found], json)
    if prints_text(json):
        out = console()
        out.print(_table(found))
        for item in found:  # below the table, which has no room for paths
            if item.path is not None:
                out.print(f"{item.name}: {item.path}", soft_wrap=True)


def _table(found: list[Any]) -> Table:
    table = Table(title="Data sets", title_justify="left", padding=(0, 1, 0, 0))
    table.add_column("name", overflow="fold")
    for column in ("training", "test", "shape", "classes"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("where")
    for item in found:
        where = item.place
        if item.path is None:
            where = f"{item.download_bytes / 1e6:,.0f} MB to download" if item.download_bytes else f"needs {where}"
        counts = (
            f"{item.train_images:,}",
            f"{item.test_images:,}",
            "x".join(map(str, item.shape)) or "text",
            str(item.classes),
        )
        table.add_row(item.name, *counts, where)
    return table


COMMANDS: dict[str, Callable[..., None]] = {"list": list_, "fetch": fetch, "export": export}


def run(words: Sequence[str]) -> None:
    """Parses `hypersign data export|fetch|list` and carries it out."""
    parse_one_of(COMMANDS, words, "data", "list, download and export data sets")
