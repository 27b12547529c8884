"""Sums over the patches of a convolution, without writing each patch.

Patches overlap: kernel rows i and i + k of all patches hold the same pairs of image rows, but for the first and last
ones. So the product of a pair of rows is computed once for each k, and its border rows are added for each i. A 3 x 3
convolution then needs a third of the operations and memory of its patches.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from hypersign.geometry.covariance import patches
from hypersign.geometry.covariance.accumulator import CovarianceAccumulator
from hypersign.geometry.covariance.sample import VectorSample

__all__ = ["add_inputs"]

MOST = 4 * patches.NUMBERS
"""The most numbers in a covariance that is computed at once; larger ones are computed in blocks, from patches."""


def add_inputs(layer: Any, x: Tensor, sums: CovarianceAccumulator, sample: VectorSample) -> None:
    """Adds all vectors that `layer` multiplies its filters with on the input `x`, to the sums and to the sample."""
    if not _has_rows(layer, x):
        for vectors in patches.input_patches(layer, x):
            sums.update(vectors)
            sample.update(vectors)
        return
    for n, mean, scatter in _moments(layer, x, sums):
        sums.combine(n, mean, scatter)
    height, width = (size - k + 1 for size, k in zip(_padded_size(layer, x), layer.kernel_size, strict=True))
    padded = patches.padded(layer, x)

    def vectors_at(places: Tensor) -> Tensor:
        places = places.to(x.device)
        image, row, column = places // (height * width), places // width % height, places % width
        windows = padded.unfold(2, layer.kernel_size[0], 1).unfold(3, layer.kernel_size[1], 1)
        return windows[image, :, row, column].flatten(1).T.reshape(layer.groups, -1, len(places))

    sample.extend(len(x) * height * width, vectors_at)


def _has_rows(layer: Any, x: Tensor) -> bool:
    """Whether patches of `x` share image rows, and there are enough of these."""
    if not isinstance(layer, nn.Conv2d) or x.dim() < 4 or not len(x):
        return False
    if layer.kernel_size[0] == 1 or any(step != 1 for step in (*layer.stride, *layer.dilation)):
        return False
    if layer.groups * layer.weight[0].numel() ** 2 > MOST:
        return False
    return _padded_size(layer, x)[0] >= 2 * layer.kernel_size[0]


def _padded_size(layer: Any, x: Tensor) -> tuple[int, int]:
    left, right, top, bottom = layer._reversed_padding_repeated_twice
    return x.shape[2] + top + bottom, x.shape[3] + left + right


def _moments(layer: Any, x: Tensor, sums: CovarianceAccumulator) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yields number, mean and centred scatter of the patches, for a few images at a time."""
    (k, kw), groups = layer.kernel_size, layer.groups
    high, wide = _padded_size(layer, x)
    height, width = high - k + 1, wide - kw + 1
    channels = x.shape[1]
    for part in x.split(max(1, patches.NUMBERS // (channels * kw * high * width))):
        part = part.to(sums.device, sums.dtype)
        centre = torch.zeros(channels, dtype=torch.float64, device=part.device)
        inside = patches.padded(layer, part)
        if not sums.levels:  # levels are integers, so their sums are exact anyway
            centre = part.sum((0, 2, 3), dtype=torch.float64) / (len(part) * part[0, 0].numel())
            inside = inside - centre.to(part.dtype)[:, None, None]
        n = len(part) * height * width
        rows = inside.new_empty(channels, kw, high, len(part), width)
        for j in range(kw):
            rows[:, j] = inside[..., j : j + width].permute(1, 2, 0, 3)
        rows = rows.view(groups, -1, high, len(part) * width)
        scatter = inside.new_empty(groups, channels // groups, k, kw, channels // groups, k, kw)
        for apart in range(k):
            for i, product in enumerate(_row_products(rows, apart, k, height)):
                block = product.view(groups, channels // groups, kw, channels // groups, kw)
                scatter[:, :, i, :, :, i + apart] = block
                scatter[:, :, i + apart, :, :, i] = block.permute(0, 3, 4, 1, 2)
        scatter = scatter.view(groups, channels // groups * k * kw, -1)
        line = rows.sum(3, dtype=torch.float64)
        mean = torch.stack([line[..., i : i + height].sum(2) for i in range(k)], 2) / n  # about the centre
        mean = mean.view(groups, channels // groups, kw, k).transpose(2, 3).reshape(groups, -1)
        centre = centre.view(groups, -1, 1).expand(-1, -1, k * kw).reshape(groups, -1)
        scatter = scatter.to(sums.kept) - (n * mean[:, :, None] * mean[:, None]).to(sums.kept)
        yield n, mean + centre, scatter


def _row_products(rows: Tensor, apart: int, k: int, height: int) -> Iterator[Tensor]:
    """Yields, for i = 0, ..., k - 1 - apart, the sum over y from i to i + height - 1 of row y times row y + apart."""

    def product(start: int, stop: int) -> Tensor:
        return rows[:, :, start:stop].flatten(2) @ rows[:, :, start + apart : stop + apart].flatten(2).mT

    most = k - 1 - apart
    middle = product(most, height)
    ends = [(product(i, i + 1), product(height + i, height + i + 1)) for i in range(most)]
    for i in range(most + 1):
        total = middle
        for first, _ in ends[i:]:
            total = total + first
        for _, last in ends[:i]:
            total = total + last
        yield total
