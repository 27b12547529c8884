"""Loads data sets of images as tensors: a known name, a folder of class folders, or a `.npz` file."""

from pathlib import Path

from hypersign.data.folder import read_folder
from hypersign.data.images import ImageData, image_data
from hypersign.data.npz import read_npz_images
from hypersign.data.reading import read

__all__ = ["load", "load_folder", "load_npz"]


def load(name_or_path: str, *, seed: int = 0) -> ImageData:
    """Loads a whole data set into memory; downloads or extracts it first if necessary.

    Args:
        name_or_path: a name in `NAMES`, or the path of a folder of class folders (`load_folder`) or of a `.npz` file
            (`load_npz`). Names have priority over paths: write `./digits` for a folder called digits.
        seed: the seed that divides `digits`, and your own data without a test split, into training and test, and
            puts both in random order. The official data sets keep their split and order.

    Raises:
        HypersignError: there is no such data set, or its files are missing, damaged or not as described.

    Example:
        >>> data = load("digits")
        >>> data.shape, len(data.train), len(data.test), data.pixel_range
        ((1, 8, 8), 1438, 359, (0.0, 1.0))
    """
    return image_data(read(name_or_path, seed=seed))


def load_folder(path: Path, seed: int) -> ImageData:
    """Loads a folder of class folders: see `folder.read_folder`, which also says what it raises."""
    return image_data(read_folder(path, seed))


def load_npz(path: Path, seed: int) -> ImageData:
    """Loads a `.npz` file of images: see `npz.read_npz_images`, which also says what it raises."""
    return image_data(read_npz_images(path, seed))
