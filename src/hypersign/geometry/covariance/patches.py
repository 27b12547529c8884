"""The inputs that a layer's filters are multiplied with: rows of a linear layer, patches of a convolution."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["NUMBERS", "groups_of", "input_patches", "quantizable_layers"]

NUMBERS = 1 << 21
"""Numbers that a chunk of patches holds, unless a single row of outputs has more: 8 MiB in float32."""

_KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d)


def quantizable_layers(model: nn.Module) -> dict[str, Any]:
    """The layers of `model` whose weights could be quantized, or are, by name, in module order.

    These are `nn.Linear`, `nn.Conv1d`, `nn.Conv2d` and what derives from them, quantized layers included.

    >>> list(quantizable_layers(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Linear(4, 3))))
    ['0', '2']
    """
    return {name: module for name, module in model.named_modules() if isinstance(module, _KINDS)}


def groups_of(layer: nn.Module) -> int:
    """Groups of a convolution, each with inputs and filters of its own; 1 of a fully connected layer."""
    return int(getattr(layer, "groups", 1))


def input_patches(layer: Any, x: Tensor) -> Iterator[Tensor]:
    """The vectors that `layer` multiplies its filters with when it is given `x`, in chunks.

        product[.., f] = weight[f].flatten() . patch        for every patch of the group of f

    Patches are those of the padded input: the padding counts, as zeros, as `pad_value`, or as the layer's padding
    mode has it.

    Args:
        layer: fully connected, or a convolution of one or two dimensions.
        x: its input, as the product sees it, which is after an input quantizer.

    Yields tensors of shape (groups, fan-in, patches) of the type of `x`, about `NUMBERS` numbers each, whose memory
    is not that of `x`.

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
    x = _padded(layer, x)
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
            # channels, places in the kernel, images, rows, columns: a filter's weights are channels, then places
            patches = x.new_empty(x.shape[1], kernel[0] * kernel[1], len(part), count, width)
            for place in range(kernel[0] * kernel[1]):
                i, j = place // kernel[1] * dilation[0], place % kernel[1] * dilation[1]
                first = top * stride[0] + i
                seen = part[:, :, first : first + (count - 1) * stride[0] + 1 : stride[0]]
                seen = seen[..., j : j + (width - 1) * stride[1] + 1 : stride[1]]
                patches[:, place] = seen.transpose(0, 1)
            yield patches.view(layer.groups, -1, len(part) * count * width)


def _padded(layer: Any, x: Tensor) -> Tensor:
    both_sides = layer._reversed_padding_repeated_twice  # torch lists the last dimension first; "same" is resolved
    if not any(both_sides):
        return x
    if layer.padding_mode == "zeros":
        return F.pad(x, both_sides, value=float(getattr(layer, "pad_value", 0)))
    return F.pad(x, both_sides, mode=layer.padding_mode)
