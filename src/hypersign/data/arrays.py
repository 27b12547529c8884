"""Data sets of images as NumPy arrays, as the readers of files give them; no torch."""

import dataclasses
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hypersign._checks import HypersignError, check_int

__all__ = ["ImageArrays", "Labelled", "divide", "stratified_split"]

TEST_SHARE = 0.2


class Labelled(NamedTuple):
    """Images, uint8 of shape `(N, C, H, W)`, and their class numbers, int64 of shape `(N,)`."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class ImageArrays:
    """A data set of images: what `ImageData` holds as tensors. `pixel_range` are the values of pixel 0 and 255."""

    name: str
    train: Labelled
    test: Labelled
    classes: tuple[str, ...]
    pixel_range: tuple[float, float]


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


def divide(name: str, parts: list[Labelled], classes: tuple[str, ...], seed: int, *, origin: str) -> ImageArrays:
    """Makes a data set from a user's images: `parts` holds a training and a test split, or one split to divide.

    Raises:
        HypersignError: for the same reasons as in `stratified_split`; the message begins with `origin`.
    """
    try:
        if len(parts) == 1:
            rows = stratified_split(parts[0].labels, seed)
        else:
            generator = np.random.default_rng(seed)
            rows = generator.permutation(len(parts[0].labels)), generator.permutation(len(parts[1].labels))
    except HypersignError as error:
        raise HypersignError(f"{origin}: {error}") from error
    train, test = (
        Labelled(part.images[i], part.labels[i]) for part, i in zip((parts[0], parts[-1]), rows, strict=True)
    )
    return ImageArrays(name, train, test, classes, (-1.0, 1.0))
