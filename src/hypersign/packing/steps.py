"""The steps of a forward that are functions and not layers, as small layers of their own.

A trace turns every function into one of these or into a layer of torch. So what folds a network, and what checks it,
know layers alone. Shapes and dimensions are torch's, without the batch: dimension 0 is the first after it.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = [
    "FUNCTIONS",
    "Add",
    "Affine",
    "Attention",
    "Concat",
    "Constant",
    "Function",
    "GroupNorm",
    "LayerNorm",
    "MatMul",
    "Mean",
    "Multiply",
    "Permute",
    "Resize",
    "Slice",
    "Softmax",
    "View",
    "ZeroPad",
]


class View(nn.Module):
    """The same numbers in another shape."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), *self.shape)


class Permute(nn.Module):
    """The dimensions in another order."""

    def __init__(self, order: tuple[int, ...]) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, *(axis + 1 for axis in self.order))


class Slice(nn.Module):
    """Every `step`-th from `start` up to `stop`, along one dimension."""

    def __init__(self, dim: int, start: int, stop: int, step: int = 1) -> None:
        super().__init__()
        self.dim, self.start, self.stop, self.step = dim, start, stop, step

    def forward(self, x: Tensor) -> Tensor:
        return x[(slice(None),) * (self.dim + 1) + (slice(self.start, self.stop, self.step),)]


class Concat(nn.Module):
    """Values behind one another, along one dimension."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, *values: Tensor) -> Tensor:
        return torch.cat(values, self.dim + 1)


class Constant(nn.Module):
    """Numbers that the network holds, one set for each input."""

    value: Tensor

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.register_buffer("value", value.detach().float())

    def forward(self, x: Tensor) -> Tensor:
        return self.value.expand(len(x), *self.value.shape)


class ZeroPad(nn.Module):
    """`stride - 1` zeros between the pixels of an image, then rows and columns of zeros around it."""

    def __init__(self, stride: tuple[int, int], before: tuple[int, int], after: tuple[int, int]) -> None:
        super().__init__()
        self.stride, self.before, self.after = stride, before, after

    def forward(self, x: Tensor) -> Tensor:
        (down, right), (top, left), (bottom, far) = self.stride, self.before, self.after
        image = x if x.dim() == 4 else x[:, :, None]
        height, width = ((n - 1) * step + 1 for n, step in zip(image.shape[2:], self.stride, strict=True))
        y = image.new_zeros(*image.shape[:2], height, width)
        y[:, :, ::down, ::right] = image
        y = F.pad(y, (left, far, top, bottom))
        return y if x.dim() == 4 else y[:, :, 0]


class Affine(nn.Module):
    """`x * scale + shift` with numbers that the network holds."""

    scale: Tensor
    shift: Tensor

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale.detach().float())
        self.register_buffer("shift", shift.detach().float())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


class Add(nn.Module):
    """The sum of values."""

    def forward(self, *values: Tensor) -> Tensor:
        return sum(values[1:], values[0])


class Multiply(nn.Module):
    """The product of two values, number by number."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a * b


class MatMul(nn.Module):
    """The matrix product of two values."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a @ b


class Attention(nn.Module):
    """softmax(scale q k^T) v, causal or not."""

    def __init__(self, scale: float, causal: bool) -> None:
        super().__init__()
        self.scale, self.causal = scale, causal

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = q @ k.transpose(-1, -2) * self.scale
        if self.causal:
            scores = scores.masked_fill(~torch.ones(scores.shape[-2:], dtype=torch.bool).tril(), -math.inf)
        return scores.softmax(-1) @ v


class Mean(nn.Module):
    """The mean, or the maximum, over some dimensions, which go."""

    def __init__(self, dims: tuple[int, ...], maximum: bool = False) -> None:
        super().__init__()
        self.dims, self.maximum = dims, maximum

    def forward(self, x: Tensor) -> Tensor:
        dims = tuple(dim + 1 for dim in self.dims)
        return x.amax(dims) if self.maximum else x.mean(dims)


class Softmax(nn.Module):
    """The softmax along one dimension, or its logarithm."""

    def __init__(self, dim: int, log: bool) -> None:
        super().__init__()
        self.dim, self.log = dim, log

    def forward(self, x: Tensor) -> Tensor:
        return x.log_softmax(self.dim + 1) if self.log else x.softmax(self.dim + 1)


class LayerNorm(nn.Module):
    """The last `axes` dimensions normalised: a layer norm, or without `centre` an RMS norm."""

    scale: Tensor
    shift: Tensor

    def __init__(self, axes: int, scale: Tensor, shift: Tensor, eps: float, centre: bool = True) -> None:
        super().__init__()
        self.register_buffer("scale", scale.detach().float())
        self.register_buffer("shift", shift.detach().float())
        self.axes, self.eps, self.centre = axes, eps, centre

    def forward(self, x: Tensor) -> Tensor:
        dims = tuple(range(-self.axes, 0))
        if self.centre:
            x = x - x.mean(dims, keepdim=True)
        return x / torch.sqrt(x.square().mean(dims, keepdim=True) + self.eps) * self.scale + self.shift


class GroupNorm(nn.Module):
    """Groups of channels, normalised over the image."""

    scale: Tensor
    shift: Tensor

    def __init__(self, groups: int, scale: Tensor, shift: Tensor, eps: float) -> None:
        super().__init__()
        self.register_buffer("scale", scale.detach().float())
        self.register_buffer("shift", shift.detach().float())
        self.groups, self.eps = groups, eps

    def forward(self, x: Tensor) -> Tensor:
        return F.group_norm(x, self.groups, self.scale, self.shift, self.eps)


class Resize(nn.Module):
    """An image of another height and width."""

    def __init__(self, size: tuple[int, int], mode: str) -> None:
        super().__init__()
        self.size, self.mode = size, mode

    def forward(self, x: Tensor) -> Tensor:
        if self.mode == "nearest":
            return F.interpolate(x, self.size, mode="nearest")
        return F.interpolate(x, self.size, mode="bilinear", align_corners=self.mode == "bilinear_corners")


class Function(nn.Module):
    """A function of each number, by its name in packed files."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        return FUNCTIONS[self.name](x)


FUNCTIONS: dict[str, Any] = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softplus": lambda x: F.softplus(x, threshold=1e9),
    "mish": F.mish,
    "elu": F.elu,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "exp": torch.exp,
    "abs": torch.abs,
}
"""Torch's functions, by the names of `hypersign.packed.functions`."""
