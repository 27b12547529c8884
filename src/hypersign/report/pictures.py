"""Pictures of an image network: test images with its decisions, and the filters of its first layer."""

import base64
import dataclasses
import io
from collections.abc import Sequence

import numpy as np

__all__ = ["Filters", "Pictures", "Sample", "filters_of", "png", "samples_of"]

SAMPLES = 24
"""Test images on the page."""

WRONG = 8
"""The largest number of wrongly classified images among them."""

FILTERS = 64
"""Filters on the page."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """One image as a data URI, with the names of its class and of the network's decision."""

    image: str
    truth: str
    decision: str

    @property
    def wrong(self) -> bool:
        """Whether the decision is another class."""
        return self.truth != self.decision


@dataclasses.dataclass(frozen=True)
class Filters:
    """The first `count` filters of a layer: two pictures with one tile per filter, as data URIs."""

    layer: str
    count: int
    latent: str
    levels: str


@dataclasses.dataclass(frozen=True)
class Pictures:
    """What the page shows of an image network; `filters` is None if its first layer has no picture."""

    samples: tuple[Sample, ...]
    filters: Filters | None


def samples_of(
    images: np.ndarray, truth: np.ndarray, decided: np.ndarray, classes: Sequence[str]
) -> tuple[Sample, ...]:
    """Chooses images for the page: the first wrongly classified ones, at most 8, then the first right ones, to 24.

    Args:
        images: uint8 pixels of shape `(images, channels, height, width)`.
        truth: the class of each image.
        decided: the network's decision for each image.
        classes: the names of the classes.
    """
    wrong = np.flatnonzero(decided != truth)[:WRONG]
    right = np.flatnonzero(decided == truth)[: SAMPLES - len(wrong)]
    return tuple(
        Sample(png(images[i].transpose(1, 2, 0)), classes[truth[i]], classes[decided[i]]) for i in (*wrong, *right)
    )


def filters_of(layer: str, latent: np.ndarray, levels: np.ndarray, shape: tuple[int, ...]) -> Filters | None:
    """Draws a layer's filters as images of the network's input; None if they are none.

    Args:
        layer: the name of the layer.
        latent: its latent weights. A convolution over the input's channels has filters that are small images, a
            linear layer over all pixels has filters of the input's shape.
        levels: its quantized weights, of the same shape.
        shape: the shape (channels, height, width) of an input.
    """
    channels = shape[0]
    if latent.ndim == 2 and latent.shape[1] == np.prod(shape):
        latent, levels = latent.reshape(-1, *shape), levels.reshape(-1, *shape)
    if channels not in (1, 3) or latent.ndim != 4 or latent.shape[1] != channels or max(latent.shape[2:]) == 1:
        return None
    return Filters(layer, min(FILTERS, len(latent)), _tiles(latent[:FILTERS]), _tiles(levels[:FILTERS]))


def png(pixels: np.ndarray) -> str:
    """A PNG file of uint8 pixels, of shape `(height, width, 1 or 3)`, as a data URI."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _tiles(filters: np.ndarray) -> str:
    """One picture of filters of shape `(filters, channels, height, width)`, in rows of tiles with gaps between them.

    Of one channel: negative weights are orange, positive ones blue, zero white. Of three: the colours themselves.
    Each filter has its own scale.
    """
    count, channels, height, width = filters.shape
    scale = np.abs(filters).max((1, 2, 3), keepdims=True)
    values = (filters / np.where(scale > 0, scale, 1)).transpose(0, 2, 3, 1)
    if channels == 1:
        ends = np.array([[177, 68, 10], [31, 95, 191]])  # as the page's colours: told apart by the colour-blind too
        colour = np.where(values < 0, ends[0], ends[1])
        pixels = 255 + np.abs(values) * (colour - 255)
    else:
        pixels = 127.5 + 127.5 * values
    columns = int(np.ceil(0.75 * np.sqrt(count)))
    gap = 1 if max(height, width) < 16 else 2
    sheet = np.full(
        (-(-count // columns) * (height + gap) - gap, columns * (width + gap) - gap, 3), 128, dtype=np.uint8
    )
    for i, tile in enumerate(pixels):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        sheet[top : top + height, left : left + width] = np.clip(np.round(tile), 0, 255)
    return png(sheet)
