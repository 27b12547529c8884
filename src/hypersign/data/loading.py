"""Loads every data set with one call: a known name, a folder of class folders, a `.npz` file, or a text."""

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hypersign._arrays import is_npz
from hypersign._checks import HypersignError, check_int
from hypersign.data.digits import load_digits
from hypersign.data.files import NAMES, obtain, read_file
from hypersign.data.folder import load_folder
from hypersign.data.formats import read_cifar, read_idx
from hypersign.data.images import ImageData, fingerprint
from hypersign.data.npz import load_npz
from hypersign.data.sources import SOURCES, TEXTS, Source
from hypersign.data.splits import Split
from hypersign.data.text import LENGTH, load_text, load_text_file

__all__ = ["load", "locate"]


def load(name_or_path: str, *, seed: int = 0, length: int | None = None) -> Any:
    """Loads a whole data set into memory; downloads or extracts it first if necessary.

    Args:
        name_or_path: a name in `NAMES`, or the path of a folder of class folders (`load_folder`) or of a `.npz` file
            (`load_npz`). Names have priority over paths: write `./digits` for a folder called digits.
            `text:FILE` loads the characters of any UTF-8 file, and `bytes:FILE` its bytes.
        seed: the seed that divides `digits`, and your own data without a test split, into training and test, and
            puts both in random order. The official data sets and texts keep their split and order.
        length: characters per sequence of a text; 100 if None. Images have none.

    Raises:
        HypersignError: there is no such data set, or its files are missing, damaged or not as described.

    Example:
        >>> data = load("digits")
        >>> data.shape, len(data.train), len(data.test), data.pixel_range
        ((1, 8, 8), 1438, 359, (0.0, 1.0))
    """
    check_int("seed", seed, min=0)
    if name_or_path == "digits":
        return load_digits(seed)
    if name_or_path in SOURCES:
        return _load_official(SOURCES[name_or_path])
    if name_or_path in TEXTS:
        return load_text(TEXTS[name_or_path], length or LENGTH)
    kind, colon, file = name_or_path.partition(":")
    if colon and kind in ("text", "bytes"):
        return load_text_file(kind, file, length or LENGTH)
    path = Path(name_or_path)
    if path.is_dir():
        return load_folder(path, seed)
    if path.is_file() and (path.suffix.lower() == ".npz" or is_npz(path)):
        return load_npz(path, seed)
    near = difflib.get_close_matches(name_or_path.lower(), NAMES, n=1)
    found = "not a .npz file" if path.exists() else "none of these"
    raise HypersignError(
        f"the data set must be one of {', '.join(NAMES)}, a folder of class folders, a .npz file, or "
        f"text:FILE; "
        f"{name_or_path!r} is {found}" + (f"; did you mean {near[0]}?" if near else "")
    )


def locate(name_or_path: str) -> str:
    """Returns the name of a known data set unchanged, and makes a path absolute, so that it works in any folder.

    >>> locate("cifar-10")
    'cifar-10'
    """
    if name_or_path in NAMES:
        return name_or_path
    kind, colon, file = name_or_path.partition(":")
    if colon and kind in ("text", "bytes"):
        return f"{kind}:{Path(file).resolve()}"
    return str(Path(name_or_path).resolve())


def _load_official(source: Source) -> ImageData:
    located = obtain(source)
    images = np.empty((sum(source.images), *source.shape), np.uint8)
    labels = np.empty(sum(source.images), np.int64)
    row = 0
    for part_images, part_labels in _parts(source, located):
        rows = slice(row, row + len(part_labels))
        if part_images.shape != images[rows].shape or part_labels.shape != labels[rows].shape:
            raise HypersignError(
                f"{source.name}: images {images[rows].shape} and as many labels expected; got images "
                f"{part_images.shape} and labels {part_labels.shape}"
            )
        images[rows], labels[rows] = part_images, part_labels
        row = rows.stop
    border = source.images[0]
    whole = Split(torch.from_numpy(images), torch.from_numpy(labels))
    train, test = whole[:border], whole[border:]
    return ImageData(source.name, train, test, source.classes, source.pixel_range, fingerprint(train, test))


def _parts(source: Source, located: dict[str, Path]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Images and labels in the order of the files, one file in memory at a time."""
    contents = ((read_file(source, file, located[file.name]), str(located[file.name])) for file in source.files)
    if source.folder:
        for data, origin in contents:
            yield read_cifar(data, origin, classes=len(source.classes), label_bytes=source.label_bytes)
    else:
        for data, origin in contents:  # a file of images, then a file of their labels
            yield read_idx(data, origin)[:, None], read_idx(*next(contents))
