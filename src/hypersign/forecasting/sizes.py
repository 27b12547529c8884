"""The size of the packed file of a planned network."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from hypersign._checks import HypersignError
from hypersign.forecasting.bench import Bench
from hypersign.forecasting.repairs import repair
from hypersign.layers import convert
from hypersign.layers.copying import copy_module
from hypersign.packing import file_size
from hypersign.quantizers import Quantizer

__all__ = ["Images", "file_size_of"]


@dataclasses.dataclass(frozen=True)
class Images:
    """What a packed file states of its images: shape, values of the pixels 0 and 255, and names of the classes."""

    shape: tuple[int, int, int]
    pixel_range: tuple[float, float] | None = None
    classes: tuple[str, ...] | None = None


def file_size_of(
    bench: Bench, weights: Mapping[str, Quantizer], images: Images | None, *, repaired: bool
) -> tuple[int | None, str]:
    """The bytes of the packed file of the network with these weights, or None and the reason why there is none.

    Args:
        bench: the network and its inputs.
        weights: the quantizers of the plan.
        images: what the file states of images; from the first batch, with float32 inputs, if None.
        repaired: repair adds a bias to layers without one, so the network is repaired on the first batch.
    """
    images = _images(bench.batches[0]) if images is None else images
    if images is None:
        return None, "packed files are for networks of images"
    try:
        model = convert(bench.model, weight_quantizer=weights).model if weights else copy_module(bench.model)
        if repaired and weights:
            repair(model, bench.batches[:1], original=bench.model)
        return file_size(model, images.shape, pixel_range=images.pixel_range, classes=images.classes), ""
    except HypersignError as error:
        return None, str(error)


def _images(batch: Any) -> Images | None:
    first = batch[0] if isinstance(batch, tuple | list) else batch
    if not isinstance(first, Tensor) or first.dim() != 4:
        return None
    channels, height, width = map(int, first.shape[1:])
    return Images((channels, height, width))
