"""The digits of scikit-learn: 1797 real scans of 8x8 pixels inside the package, so nothing is downloaded."""

import importlib.util
from pathlib import Path

import numpy as np
import torch

from hypersign._checks import HypersignError
from hypersign._installation import missing
from hypersign.data.images import ImageData, fingerprint, stratified_split
from hypersign.data.splits import Split

__all__ = ["CLASSES", "IMAGES", "SHAPE", "folder", "load_digits"]

CLASSES = tuple("0123456789")
IMAGES = (1438, 359)
SHAPE = (1, 8, 8)


def folder() -> Path:
    """Returns the folder of scikit-learn that holds the file `digits.csv.gz`."""
    spec = importlib.util.find_spec("sklearn")  # finds the folder without the import, which takes a second
    if spec is None or spec.origin is None:
        raise HypersignError(missing("the data set digits", "scikit-learn", "train"))
    return Path(spec.origin).parent / "datasets" / "data"


def load_digits(seed: int) -> ImageData:
    """Loads the digits. `seed` draws a fifth of each class as the test split.

    scikit-learn's values v = 0, 1, ..., 16 become the pixels nearest to 255 v / 16 (8 becomes 128), with an error of
    at most half a grey level. So the pixels use all of `pixel_range` (0, 1).

    Example:
        >>> data = load_digits(seed=0)
        >>> data.train.images.shape, len(data.test), data.train.images.unique().numel()
        (torch.Size([1438, 1, 8, 8]), 359, 17)

    Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998.
    """
    import sklearn.datasets

    bunch = sklearn.datasets.load_digits()
    images = torch.from_numpy(np.rint(bunch.images * (255 / 16)).astype(np.uint8))[:, None]  # (N, 1, 8, 8)
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    train, test = (Split(images[rows], labels[rows]) for rows in stratified_split(bunch.target, seed))
    return ImageData("digits", train, test, CLASSES, (0.0, 1.0), fingerprint(train, test))
