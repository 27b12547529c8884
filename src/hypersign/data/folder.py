"""Loads your own images from a folder with one subfolder per class. Pillow reads the images."""

from pathlib import Path

import numpy as np

from hypersign._checks import HypersignError
from hypersign._pictures import SUFFIXES, opened
from hypersign.data.arrays import ImageArrays, Labelled, divide

__all__ = ["read_folder"]

CHANNELS = {"L": 1, "RGB": 3}


def read_folder(path: Path, seed: int) -> ImageArrays:
    """Reads `path/CLASS/IMAGE`, or `path/train/CLASS/IMAGE` and `path/test/CLASS/IMAGE`.

    The classes are the names of the folders in alphabetical order. All images have the same size and the same mode,
    grey (L) or RGB. Hidden files, and files without an image suffix, are ignored. Without train and test folders, a
    fifth of each class becomes the test split (`stratified_split`). `seed` puts both splits in random order; pixels
    are scaled to [-1, 1].

    Raises:
        HypersignError: there are no class folders, a class is empty, an image cannot be read, or two images differ
            in size or mode (the message names both).
    """
    named = [name for name in ("train", "test") if (path / name).is_dir() and _folders(path / name)]
    if len(named) == 1:
        other = "test" if named == ["train"] else "train"
        raise HypersignError(
            f"{path}: the class folders must lie in train/ and test/, or directly in {path}; "
            f"there is {named[0]}/ but no {other}/ with folders in it"
        )
    roots = [path / name for name in named] or [path]
    classes = tuple(folder.name for folder in _folders(roots[0]))
    if len(classes) < 2:
        raise HypersignError(
            f"{roots[0]}: must hold at least two folders, one for each class, with images in them; "
            f"it holds {len(classes)}"
        )
    files = [_list_images(root, classes) for root in roots]
    first = files[0][0][0]
    parts = []
    for listed in files:
        images = _read_images([file for file, _ in listed], first)
        parts.append(Labelled(images, np.array([label for _, label in listed], np.int64)))
    return divide(path.resolve().name, parts, classes, seed, origin=str(path))


def _folders(path: Path) -> list[Path]:
    return sorted(item for item in path.iterdir() if item.is_dir() and not item.name.startswith("."))


def _list_images(root: Path, classes: tuple[str, ...]) -> list[tuple[Path, int]]:
    listed = []
    for folder in _folders(root):
        if folder.name not in classes:
            raise HypersignError(f"{folder}: every class in test/ must be in train/; this one is not")
        files = sorted(
            file
            for file in folder.iterdir()
            if file.is_file() and file.suffix.lower() in SUFFIXES and not file.name.startswith(".")
        )
        if not files:
            raise HypersignError(
                f"{folder}: must hold at least one image ({', '.join(sorted(SUFFIXES))}); it holds none"
            )
        listed += [(file, classes.index(folder.name)) for file in files]
    return listed


def _read_images(files: list[Path], first: Path) -> np.ndarray:
    """Reads images with the size and mode of `first` into one array, uint8 of shape `(N, C, H, W)`."""
    expected: tuple[str, int, int] | None = None
    images = np.empty(0, np.uint8)
    for row, file in enumerate((first, *files)):
        with opened(file) as image:
            found = (image.mode, image.width, image.height)
            if found[0] not in CHANNELS:
                raise HypersignError(f"{file}: must be grey (mode L) or RGB; its mode is {found[0]}; convert it")
            if expected is None:
                expected = found
                images = _room(len(files), CHANNELS[found[0]], found[2], found[1])
                continue
            if found != expected:
                raise HypersignError(
                    "all images must have one size and mode: "
                    f"{first} is {_describe(expected)}, {file} is {_describe(found)}; convert one of them"
                )
            pixels = np.asarray(image)
        images[row - 1] = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return images


def _room(*shape: int) -> np.ndarray:
    try:
        return np.empty(shape, np.uint8)
    except MemoryError as error:
        raise HypersignError(
            f"{shape[0]:,} images of {shape[3]}x{shape[2]} must fit in memory; they do not: make them smaller"
        ) from error


def _describe(found: tuple[str, int, int]) -> str:
    return f"{found[1]}x{found[2]} {found[0]}"
