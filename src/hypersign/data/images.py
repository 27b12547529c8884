"""A data set of images: two splits of uint8 images with their labels, all in memory.

Pixels stay integers from the file to the device; `Batches` scales them to `pixel_range` last. The largest known data
set, CIFAR-10, takes 184 MB.
"""

import dataclasses
import hashlib
from typing import Any, ClassVar

import numpy as np
import torch

from hypersign._checks import HypersignError
from hypersign._display import shown
from hypersign.data.arrays import ImageArrays
from hypersign.data.base import Data
from hypersign.data.batches import Batches
from hypersign.data.splits import Split
from hypersign.tasks import LOSSES, Classification, Task

__all__ = ["ImageData", "fingerprint", "image_data"]


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


def image_data(arrays: ImageArrays) -> ImageData:
    """The data set as tensors, which share the arrays' memory, with its hash.

    Raises:
        HypersignError: for the same reasons as in `ImageData`.
    """
    train, test = (Split(_tensor(part.images), torch.from_numpy(part.labels)) for part in (arrays.train, arrays.test))
    return ImageData(arrays.name, train, test, arrays.classes, arrays.pixel_range, fingerprint(train, test))


def _tensor(images: np.ndarray) -> torch.Tensor:
    """Images as a tensor whose strides are those of its shape.

    NumPy gives an axis of size 1 any stride. torch reads from it whether channels come last, and then convolves, and
    rounds, in another way.
    """
    return torch.from_numpy(np.ascontiguousarray(images)).view(-1).view(images.shape)
