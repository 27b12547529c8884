"""Loads data sets as tensors: a known name, a folder of class folders, a `.npz` file, or a text."""

from pathlib import Path
from typing import Any

from hypersign._checks import check_int
from hypersign.data.folder import read_folder
from hypersign.data.images import ImageData, image_data
from hypersign.data.npz import read_npz_images
from hypersign.data.reading import is_text, read
from hypersign.data.sources import TEXTS
from hypersign.data.text import LENGTH, load_text, load_text_file

__all__ = ["load", "load_folder", "load_npz"]


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
    if name_or_path in TEXTS:
        return load_text(TEXTS[name_or_path], length or LENGTH)
    if is_text(name_or_path):
        kind, _, file = name_or_path.partition(":")
        return load_text_file(kind, file, length or LENGTH)
    return image_data(read(name_or_path, seed=seed))


def load_folder(path: Path, seed: int) -> ImageData:
    """Loads a folder of class folders: see `folder.read_folder`, which also says what it raises."""
    return image_data(read_folder(path, seed))


def load_npz(path: Path, seed: int) -> ImageData:
    """Loads a `.npz` file of images: see `npz.read_npz_images`, which also says what it raises."""
    return image_data(read_npz_images(path, seed))
