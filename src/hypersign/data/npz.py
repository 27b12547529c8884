"""Loads your own images from a `.npz` file that `numpy.savez` wrote."""

from pathlib import Path

import numpy as np

from hypersign._arrays import npz_names, read_npz
from hypersign._checks import HypersignError
from hypersign.data.arrays import ImageArrays, Labelled, divide

__all__ = ["read_npz_images"]

KEYS = ("images", "labels")
TEST_KEYS = ("test_images", "test_labels")


def read_npz_images(path: Path, seed: int) -> ImageArrays:
    """Reads the arrays `images` and `labels`, and `test_images` and `test_labels` if they are there.

    Images are uint8 of shape `(N, H, W)` (grey), `(N, H, W, C)` or `(N, C, H, W)` with C = 1 or 3. With four axes,
    the channels are the second or the last axis, whichever has 1 or 3 entries. Labels are integers of shape `(N,)`,
    from 0 to the number of classes - 1, and each class has a training image. Without a test split, a fifth of each
    class becomes the test split (`stratified_split`). `seed` puts both splits in random order; pixels are scaled to
    [-1, 1]. Other arrays in the file are ignored. A pickled object is an error.

    Raises:
        HypersignError: the file is damaged, lacks an array, or has an array of another form.
    """
    arrays = _read(path)
    classes = _class_count(path, arrays["labels"])
    parts = []
    for images_key, labels_key in (KEYS, TEST_KEYS):
        if images_key in arrays:
            images = _to_nchw(path, images_key, arrays[images_key])
            labels = arrays[labels_key]
            if labels.shape != images.shape[:1]:
                raise HypersignError(
                    f"{path}: {labels_key} must have one label for each of the {len(images)} images, shape "
                    f"({len(images)},); its shape is {labels.shape}"
                )
            if not len(labels):
                raise HypersignError(f"{path}: {images_key} must hold at least one image; it is empty")
            if labels.min() < 0 or labels.max() >= classes:
                worst = labels.min() if labels.min() < 0 else labels.max()
                raise HypersignError(
                    f"{path}: {labels_key} must be from 0 to {classes - 1}, as labels has {classes} classes; "
                    f"got {worst}"
                )
            parts.append(Labelled(images, labels.astype(np.int64)))
    names = tuple(str(label) for label in range(classes))
    return divide(path.stem, parts, names, seed, origin=str(path))


def _read(path: Path) -> dict[str, np.ndarray]:
    there = npz_names(path)
    wanted = KEYS + (TEST_KEYS if any(key in there for key in TEST_KEYS) else ())
    missing = [key for key in wanted if key not in there]
    if missing:
        raise HypersignError(
            f"{path}: must hold the arrays {', '.join(wanted)}; {' and '.join(missing)} "
            f"{'are' if missing[1:] else 'is'} missing among {', '.join(there)[:200] or 'none'}"
        )
    arrays = read_npz(path, wanted)
    for key, array in arrays.items():
        if key in (KEYS[1], TEST_KEYS[1]) and (array.ndim != 1 or array.dtype.kind not in "iu"):
            raise HypersignError(
                f"{path}: {key} must be integers of shape (N,); got {array.dtype} of shape {array.shape}"
            )
    return arrays


def _class_count(path: Path, labels: np.ndarray) -> int:
    found = np.unique(labels)
    if not len(found):
        raise HypersignError(f"{path}: labels must hold at least one label; it is empty")
    gaps = np.flatnonzero(found != np.arange(len(found)))
    if len(gaps):
        raise HypersignError(
            f"{path}: labels must be 0, 1, ... without a gap; {gaps[0]} has no image, and the next label "
            f"is {found[gaps[0]]}"
        )
    return len(found)


def _to_nchw(path: Path, key: str, images: np.ndarray) -> np.ndarray:
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise HypersignError(
            f"{path}: {key} must be uint8 of shape (N, H, W), (N, H, W, C) or (N, C, H, W); "
            f"got {images.dtype} of shape {images.shape}"
        )
    if images.ndim == 3:
        return np.ascontiguousarray(images[:, None])
    first, last = images.shape[1] in (1, 3), images.shape[3] in (1, 3)
    if first == last:
        raise HypersignError(
            f"{path}: {key} must have 1 or 3 channels as either its second or its last axis, "
            f"not {'both' if first else 'neither'}; its shape is {images.shape}"
        )
    return np.ascontiguousarray(images if first else images.transpose(0, 3, 1, 2))
