"""The kernels of `hypersign.bits` as torch operators: usable under torch.compile and torch.export, on CPU tensors.

Words are int64 tensors here (the same bits as the uint64 of `hypersign.bits`, which torch computes little with). The
operators on words return exact integers and have no gradient; `hypersign.layers.use_kernels` puts a trained network
on them.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from hypersign import bits
from hypersign.bits import Filters
from hypersign.bits.hadamard import transform

__all__ = ["hadamard", "pack", "pack_ternary", "packed_conv2d", "packed_linear"]


@torch.library.custom_op("hypersign::pack", mutates_args=(), device_types="cpu")
def pack(x: Tensor) -> Tensor:
    """Packs the signs of the last dimension: bit 1 where x < 0, low bit first.

    Args:
        x: numbers, shape (..., n), of a real type other than bfloat16 and float16.

    Returns int64 words, shape (..., ceil(n/64)).

    Raises:
        HypersignError: `x` holds NaN.

    >>> pack(torch.tensor([-1.0, 2.0, -0.0, -3.0])).tolist()
    [9]
    """
    return _tensor(bits.pack(x.numpy(force=True)))


@pack.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:-1], -(-x.shape[-1] // 64)), dtype=torch.int64)


@torch.library.custom_op("hypersign::pack_ternary", mutates_args=(), device_types="cpu")
def pack_ternary(x: Tensor, threshold: float) -> Tensor:
    """Packs the levels sign(x) [|x| > threshold] of the last dimension as two planes: signs, non-zeros.

    Args:
        x: float32 numbers, shape (..., n).
        threshold: at least 0; compared in float32, as the quantizer does.

    Returns int64 words, shape (2, ..., ceil(n/64)).

    Raises:
        HypersignError: `x` holds NaN.

    >>> pack_ternary(torch.tensor([-1.0, 0.2, 2.0]), 0.5).tolist()
    [[1], [5]]
    """
    t = np.float32(threshold)
    # -1 where x < -t, and +1 where x >= the next number after t: where x > t
    return _tensor(bits.pack_ternary(x.numpy(force=True), low=-t, high=np.nextafter(t, np.float32(np.inf))))


@pack_ternary.register_fake
def _(x: Tensor, threshold: float) -> Tensor:
    return x.new_empty((2, *x.shape[:-1], -(-x.shape[-1] // 64)), dtype=torch.int64)


@torch.library.custom_op("hypersign::packed_linear", mutates_args=(), device_types="cpu")
def packed_linear(x: Tensor, filters: Tensor, features: int) -> Tensor:
    """Dot products of packed rows: s_ij = sum_k x_ik w_jk over levels -1, 0, +1.

    Args:
        x: words (M, ceil(features/64)) or planes (2, M, ...).
        filters: words (F, ceil(features/64)) or planes (2, F, ...).
        features: length of the rows.

    Returns int32, shape (M, F).

    >>> packed_linear(pack(torch.ones(1, 5)), pack(torch.tensor([[1.0, 1.0, -1.0, 1.0, 1.0]])), 5).tolist()
    [[3]]
    """
    return torch.from_numpy(_filters(filters, (1, 1, features), 1).matmul(_words(x), threads=torch.get_num_threads()))


@packed_linear.register_fake
def _(x: Tensor, filters: Tensor, features: int) -> Tensor:
    return x.new_empty((x.shape[-2], filters.shape[-2]), dtype=torch.int32)


@torch.library.custom_op("hypersign::packed_conv2d", mutates_args=(), device_types="cpu")
def packed_conv2d(
    x: Tensor,
    filters: Tensor,
    channels: int,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    pad_value: int,
) -> Tensor:
    """The convolution of packed images with packed filters, in integers.

    Args:
        x: levels of each pixel's channels, words (N, H, W, ceil(channels/64)) or planes (2, N, H, W, ...).
        filters: words (F, ceil(d/64)) in (kernel row, kernel column, channel) order, or planes (2, F, ...);
            d = kernel height * kernel width * channels / groups.
        channels: of the input, of all groups together.
        kernel_size, stride, padding, dilation: (vertical, horizontal).
        groups: groups of channels.
        pad_value: the level of what is padded: 0 or 1.

    Returns int32 sums, shape (N, H', W', F).
    """
    kernels = _filters(filters, (kernel_size[0], kernel_size[1], channels // groups), groups)
    return torch.from_numpy(
        kernels.conv2d(
            _words(x),
            stride=(stride[0], stride[1]),
            padding=(padding[0], padding[1]),
            dilation=(dilation[0], dilation[1]),
            pad_value=pad_value,
            threads=torch.get_num_threads(),
        )
    )


@packed_conv2d.register_fake
def _(
    x: Tensor,
    filters: Tensor,
    channels: int,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    pad_value: int,
) -> Tensor:
    height, width = (
        (x.shape[axis - 3] + 2 * padding[axis] - dilation[axis] * (kernel_size[axis] - 1) - 1) // stride[axis] + 1
        for axis in (0, 1)
    )
    return x.new_empty((x.shape[-4], height, width, filters.shape[-2]), dtype=torch.int32)


_COMPILED = (torch.float32, torch.float64, torch.int32, torch.int16)


def hadamard(x: Tensor, factor: float, threads: int = 0) -> Tensor:
    """`factor` times the Walsh-Hadamard transform of the last dimension, which `hypersign.hadamard` explains.

    Float32, float64, int32 and int16 on the CPU go to the kernel, on `threads` threads (torch's own number if 0);
    all else takes butterflies in torch.

    >>> hadamard(torch.tensor([1.0, 2.0]), 1.0)
    tensor([ 3., -1.])
    """
    if x.device.type == "cpu" and x.dtype in _COMPILED:
        return _hadamard(x, factor, threads)
    y = x
    for _ in range(x.shape[-1].bit_length() - 1):
        y = torch.cat((y[..., 0::2] + y[..., 1::2], y[..., 0::2] - y[..., 1::2]), -1)
    return y * factor if factor != 1 else y.clone() if y is x else y


@torch.library.custom_op("hypersign::hadamard", mutates_args=(), device_types="cpu")
def _hadamard(x: Tensor, factor: float, threads: int) -> Tensor:
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    transform(x.numpy(force=True), y.numpy(), factor=factor, threads=threads or torch.get_num_threads())
    return y


@_hadamard.register_fake
def _(x: Tensor, factor: float, threads: int) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _hadamard_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    return _hadamard(grad, ctx.factor, ctx.threads), None, None  # the matrix is its own transpose


def _hadamard_context(ctx: Any, inputs: tuple[Tensor, float, int], output: Tensor) -> None:
    _, ctx.factor, ctx.threads = inputs


_hadamard.register_autograd(_hadamard_backward, setup_context=_hadamard_context)


_built: WeakIdKeyDictionary = WeakIdKeyDictionary()
"""Filters in the kernels' own layout, for each tensor of words that is still alive, with its version then."""


def _filters(words: Tensor, shape: tuple[int, int, int], groups: int) -> Filters:
    key = (words._version, shape, groups)
    if words in _built and _built[words][0] == key:
        return _built[words][1]
    filters = Filters(_words(words), shape=shape, groups=groups)
    _built[words] = (key, filters)
    return filters


def _words(x: Tensor) -> np.ndarray:
    return x.contiguous().numpy().view(np.uint64)


def _tensor(words: np.ndarray) -> Tensor:
    return torch.from_numpy(words.view(np.int64))
