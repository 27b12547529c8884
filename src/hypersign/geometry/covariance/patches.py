"""The vectors that a layer's filters are multiplied with: rows of a linear layer, patches of a convolution."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from hypersign.layers.layer import quantizable_layers

__all__ = ["NUMBERS", "groups_of", "input_patches", "padded", "quantizable_layers"]

NUMBERS = 1 << 21
"""The size of a chunk of patches, in numbers (8 MiB in float32), unless a single row of outputs has more."""


def groups_of(layer: nn.Module) -> int:
    """The number of groups of a convolution, each with its own inputs and filters; 1 for a fully connected layer."""
    return int(getattr(layer, "groups", 1))


def input_patches(layer: Any, x: Tensor) -> Iterator[Tensor]:
    """Yields, in chunks, the vectors that `layer` multiplies its filters with on the input `x`.

        product[.., f] = weight[f].flatten() . patch        for every patch of the group of f

    Patches include the padding: zeros, `pad_value`, or the values of the layer's padding mode.

    Args:
        layer: a fully connected layer, or a convolution in one or two dimensions.
        x: the input of the product, so after an input quantizer.

    Yields tensors of shape (groups, fan-in, patches) and the type of `x`, with about `NUMBERS` numbers each. They do
    not share memory with `x`.

    >>> import torch
    >>> layer = nn.Conv1d(1, 1, 3, padding=1)
    >>> (patches,) = input_patches(layer, torch.tensor([[[1.0, 2.0, 3.0]]]))
    >>> patches[0].T.tolist()
    [[0.0, 1.0, 2.0], [1.0, 2.0, 3.0], [2.0, 3.0, 0.0]]
    """
    if isinstance(layer, nn.Linear):
        rows = x.reshape(-1, layer.in_features)
        for part in rows.split(max(1, NUMBERS // layer.in_features)):
            yield part.T[None].clone()
        return
    if x.dim() < layer.weight.dim():  # one image without a batch dimension
        x = x[None]
    x = padded(layer, x)
    kernel, stride, dilation = layer.kernel_size, layer.stride, layer.dilation
    if isinstance(layer, nn.Conv1d):
        x = x[:, :, None]
        kernel, stride, dilation = (1, *kernel), (1, *stride), (1, *dilation)
    height, width = (
        (size - step * (k - 1) - 1) // s + 1
        for size, k, s, step in zip(x.shape[2:], kernel, stride, dilation, strict=True)
    )
    row = x.shape[1] * kernel[0] * kernel[1] * width  # numbers in the patches of one row of outputs
    images = max(1, NUMBERS // (row * height))
    rows_at_once = height if images > 1 else max(1, NUMBERS // row)
    for part in x.split(images):
        for top in range(0, height, rows_at_once):
            count = min(rows_at_once, height - top)
            # Axes: channel, kernel position, image, row, column. A filter's weights have the same first two axes.
            patches = x.new_empty(x.shape[1], kernel[0] * kernel[1], len(part), count, width)
            for place in range(kernel[0] * kernel[1]):
                i, j = place // kernel[1] * dilation[0], place % kernel[1] * dilation[1]
                first = top * stride[0] + i
                seen = part[:, :, first : first + (count - 1) * stride[0] + 1 : stride[0]]
                seen = seen[..., j : j + (width - 1) * stride[1] + 1 : stride[1]]
                patches[:, place] = seen.transpose(0, 1)
            yield patches.view(layer.groups, -1, len(part) * count * width)


def padded(layer: Any, x: Tensor) -> Tensor:
    """The input of a convolution with its padding."""
    both_sides = layer._reversed_padding_repeated_twice  # torch lists the last dimension first; "same" is resolved
    if not any(both_sides):
        return x
    if layer.padding_mode == "zeros":
        return F.pad(x, both_sides, value=float(getattr(layer, "pad_value", 0)))
    return F.pad(x, both_sides, mode=layer.padding_mode)
