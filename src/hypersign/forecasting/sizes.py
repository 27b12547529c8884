"""The size of the packed file of a planned network."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from hypersign._checks import HypersignError
from hypersign.forecasting.bench import Bench
from hypersign.layers import convert
from hypersign.packing import file_size
from hypersign.quantizers import Quantizer

__all__ = ["file_size_of"]


def file_size_of(bench: Bench, weights: Mapping[str, Quantizer]) -> tuple[int | None, str]:
    """The bytes of the packed file, or None and the reason; the network takes float32 images there."""
    shape = _image_shape(bench.batches[0])
    if shape is None:
        return None, "packed files are for networks of images"
    try:
        model = convert(bench.model, weight_quantizer=weights).model if weights else bench.model
        return file_size(model, shape, pixel_range=None), ""
    except HypersignError as error:
        return None, str(error)


def _image_shape(batch: Any) -> tuple[int, int, int] | None:
    first = batch[0] if isinstance(batch, tuple | list) else batch
    if not isinstance(first, Tensor) or first.dim() != 4:
        return None
    channels, height, width = map(int, first.shape[1:])
    return channels, height, width
