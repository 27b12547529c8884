"""Reads every data set as NumPy arrays with one call: a known name, a folder of class folders, or a `.npz` file."""

import difflib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hypersign._arrays import is_npz
from hypersign._checks import HypersignError, check_int
from hypersign.data.arrays import ImageArrays, Labelled
from hypersign.data.digits import read_digits
from hypersign.data.files import NAMES, obtain, read_file
from hypersign.data.folder import read_folder
from hypersign.data.formats import read_cifar, read_idx
from hypersign.data.npz import read_npz_images
from hypersign.data.sources import SOURCES, TEXTS, Source

__all__ = ["is_text", "locate", "read"]


def read(name_or_path: str, *, seed: int = 0) -> ImageArrays:
    """Reads a whole data set of images into memory, as `load` does, but as NumPy arrays and without torch.

    Args:
        name_or_path: a name in `NAMES`, or the path of a folder of class folders (`load_folder`) or of a `.npz` file
            (`load_npz`). Names have priority over paths: write `./digits` for a folder called digits.
        seed: the seed that divides `digits`, and your own data without a test split, into training and test, and
            puts both in random order. The official data sets keep their split and order.

    Raises:
        HypersignError: there is no such data set, or its files are missing, damaged or not as described.

    Example:
        >>> data = read("digits")
        >>> data.train.images.shape, data.test.labels.shape, data.pixel_range
        ((1438, 1, 8, 8), (359,), (0.0, 1.0))
    """
    check_int("seed", seed, min=0)
    if name_or_path == "digits":
        return read_digits(seed)
    if name_or_path in SOURCES:
        return _read_official(SOURCES[name_or_path])
    path = Path(name_or_path)
    if path.is_dir():
        return read_folder(path, seed)
    if path.is_file() and (path.suffix.lower() == ".npz" or is_npz(path)):
        return read_npz_images(path, seed)
    near = difflib.get_close_matches(name_or_path.lower(), NAMES, n=1)
    found = "not a .npz file" if path.exists() else "none of these"
    raise HypersignError(
        f"the data set must be one of {', '.join(NAMES)}, a folder of class folders, a .npz file, or "
        f"text:FILE; "
        f"{name_or_path!r} is {found}" + (f"; did you mean {near[0]}?" if near else "")
    )


def is_text(name_or_path: str) -> bool:
    """Whether this names a text: a known one, `text:FILE` or `bytes:FILE`.

    >>> is_text("digits"), is_text("text:mine.txt")
    (False, True)
    """
    return name_or_path in TEXTS or name_or_path.startswith(("text:", "bytes:"))


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


def _read_official(source: Source) -> ImageArrays:
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
    train, test = Labelled(images[:border], labels[:border]), Labelled(images[border:], labels[border:])
    return ImageArrays(source.name, train, test, source.classes, source.pixel_range)


def _parts(source: Source, located: dict[str, Path]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Images and labels in the order of the files, one file in memory at a time."""
    contents = ((read_file(source, file, located[file.name]), str(located[file.name])) for file in source.files)
    if source.folder:
        for data, origin in contents:
            yield read_cifar(data, origin, classes=len(source.classes), label_bytes=source.label_bytes)
    else:
        for data, origin in contents:  # a file of images, then a file of their labels
            yield read_idx(data, origin)[:, None], read_idx(*next(contents))
