"""A data set of images: two splits of uint8 images with their labels, all in memory.

Pixels stay integers from the file to the device; `Batches` scales them to `pixel_range` last. The largest known data
set, CIFAR-10, takes 184 MB.
"""

import dataclasses
import hashlib
from typing import Any, ClassVar

import numpy as np

from hypersign._checks import HypersignError, check_int
from hypersign._display import shown
from hypersign.data.base import Data
from hypersign.data.batches import Batches
from hypersign.data.splits import Split
from hypersign.tasks import LOSSES, Classification, Task

__all__ = ["ImageData", "divide", "fingerprint", "stratified_split"]

TEST_SHARE = 0.2


@shown
@dataclasses.dataclass(frozen=True, eq=False)
class ImageData(Data):
    """A data set of images with labels: the names of the classes, and the range that pixels are scaled to.

    Args:
        name: the name of the data set in tables and run folders.
        train: the training split.
        test: the test split; its images have the same shape as in `train`.
        classes: the names of class 0, 1, ...
        pixel_range: the values of pixel 0 and pixel 255 in a batch.
        sha256: `fingerprint(train, test)`, which identifies the images.

    Raises:
        HypersignError: a split is empty, the shapes differ, or a label is not a class.
    """

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    pixel_range: tuple[float, float]
    sha256: str
    unit: ClassVar[str] = "images"

    def __post_init__(self) -> None:
        for name, split in (("training", self.train), ("test", self.test)):
            if not len(split):
                raise HypersignError(f"{self.name}: the {name} split must hold at least one image; it is empty")
            if split.labels.max() >= len(self.classes):
                raise HypersignError(
                    f"{self.name}: labels of the {name} split must be from 0 to {len(self.classes) - 1}, "
                    f"one of {len(self.classes)} classes; got {int(split.labels.max())}"
                )
        if self.train.images.shape[1:] != self.test.images.shape[1:]:
            raise HypersignError(
                f"{self.name}: test images must have the shape of the training images, {self.shape}; "
                f"got {tuple(self.test.images.shape[1:])}"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape (channels, height, width) of an image."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    @property
    def task(self) -> Task:  # type: ignore[override]  # an attribute that is computed
        """Classification with the loss `cross_entropy`; a recipe can name another loss."""
        return Classification()

    def task_with(self, loss: str) -> Task:
        """Classification with the loss that a recipe names."""
        return Classification(LOSSES[loss])

    def batches(self, split: Split, batch_size: int, **options: Any) -> Batches:
        """The batches of a split, scaled to `pixel_range`; `options` are those of `Batches`."""
        return Batches(split, batch_size, pixel_range=self.pixel_range, **options)

    def facts(self) -> dict[str, Any]:
        """The range of the pixels."""
        return {"pixel_range": list(self.pixel_range)}


def fingerprint(train: Split, test: Split) -> str:
    """Returns the SHA-256 of all pixels and labels in their order, which identifies the data of a run.

    First `train` and then `test` is hashed: the shape of the images as text, their bytes, and the labels as
    little-endian int64. Equal data has an equal hash, wherever it comes from.

    Example:
        >>> import torch
        >>> split = Split(torch.zeros(1, 1, 2, 2, dtype=torch.uint8), torch.tensor([0]))
        >>> fingerprint(split, split)[:8]
        '7829f9f6'
    """
    digest = hashlib.sha256()
    for split in (train, test):
        digest.update(str(tuple(split.images.shape)).encode())
        digest.update(np.ascontiguousarray(split.images.numpy()).data)
        digest.update(np.ascontiguousarray(split.labels.numpy(), dtype="<i8").data)
    return digest.hexdigest()


def stratified_split(labels: np.ndarray, seed: int, *, share: float = TEST_SHARE) -> tuple[np.ndarray, np.ndarray]:
    """Divides images at random into a training and a test split, with the same proportion of each class.

    From a class of n images, `round(share * n)` go to the test split, at least 1 and at most n - 1. Both splits are
    in random order, so the last images (held out for validation) and the first ones (inspected) contain every class.

    Args:
        labels: the labels, integers of shape `(N,)`.
        seed: the seed of the division; the same seed divides the same labels in the same way.
        share: the share of each class that goes to the test split.

    Returns:
        The positions of the training images and of the test images.

    Raises:
        HypersignError: a class has fewer than two images.

    Example:
        >>> train, test = stratified_split(np.repeat([0, 1], [40, 10]), seed=0)
        >>> len(train), len(test)
        (40, 10)
    """
    generator = np.random.default_rng(check_int("seed", seed, min=0))
    train, test = [], []
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        if len(members) < 2:
            raise HypersignError(
                f"a class must have at least 2 images to be divided into training and test; "
                f"class {label} has {len(members)}"
            )
        border = min(max(round(share * len(members)), 1), len(members) - 1)
        test.append(members[:border])
        train.append(members[border:])
    return generator.permutation(np.concatenate(train)), generator.permutation(np.concatenate(test))


def divide(name: str, parts: list[Split], classes: tuple[str, ...], seed: int, *, origin: str) -> ImageData:
    """Makes a data set from a user's images: `parts` holds a training and a test split, or one split to divide.

    Raises:
        HypersignError: for the same reasons as in `ImageData` and `stratified_split`; the message begins with
            `origin`.
    """
    try:
        if len(parts) == 1:
            train_rows, test_rows = stratified_split(parts[0].labels.numpy(), seed)
        else:
            generator = np.random.default_rng(seed)
            train_rows, test_rows = (generator.permutation(len(part)) for part in parts)
    except HypersignError as error:
        raise HypersignError(f"{origin}: {error}") from error
    train = Split(parts[0].images[train_rows], parts[0].labels[train_rows])
    test = Split(parts[-1].images[test_rows], parts[-1].labels[test_rows])
    return ImageData(name, train, test, classes, (-1.0, 1.0), fingerprint(train, test))
