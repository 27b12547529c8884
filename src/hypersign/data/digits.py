"""The digits of scikit-learn: 1797 real scans of 8x8 pixels inside the package, so nothing is downloaded."""

import importlib.util
from pathlib import Path

import numpy as np

from hypersign._checks import HypersignError
from hypersign._installation import missing
from hypersign.data.arrays import ImageArrays, Labelled, stratified_split

__all__ = ["CLASSES", "IMAGES", "SHAPE", "folder", "read_digits"]

CLASSES = tuple("0123456789")
IMAGES = (1438, 359)
SHAPE = (1, 8, 8)


def folder() -> Path:
    """Returns the folder of scikit-learn that holds the file `digits.csv.gz`."""
    spec = importlib.util.find_spec("sklearn")  # finds the folder without the import, which takes a second
    if spec is None or spec.origin is None:
        raise HypersignError(missing("the data set digits", "scikit-learn", "pipelines"))
    return Path(spec.origin).parent / "datasets" / "data"


def read_digits(seed: int) -> ImageArrays:
    """Reads the digits. `seed` draws a fifth of each class as the test split.

    scikit-learn's values v = 0, 1, ..., 16 become the pixels nearest to 255 v / 16 (8 becomes 128), with an error of
    at most half a grey level. So the pixels use all of `pixel_range` (0, 1).

    Example:
        >>> data = read_digits(seed=0)
        >>> data.train.images.shape, len(data.test.labels), len(np.unique(data.train.images))
        ((1438, 1, 8, 8), 359, 17)

    Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998.
    """
    folder()  # says how to install scikit-learn if it is missing
    import sklearn.datasets

    bunch = sklearn.datasets.load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, None]  # (N, 1, 8, 8)
    labels = bunch.target.astype(np.int64)
    train, test = (Labelled(images[rows], labels[rows]) for rows in stratified_split(labels, seed))
    return ImageArrays("digits", train, test, CLASSES, (0.0, 1.0))
