"""The kernels of `hypersign.bits` as torch operators on CPU tensors. They work under torch.compile and torch.export.

Words are int64 tensors here, with the same bits as the uint64 words of `hypersign.bits`, because torch supports few
operations on uint64. The operators on words return exact integers and have no gradient.
`hypersign.layers.use_kernels` makes a trained network use them.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from hypersign import bits
from hypersign._checks import HypersignError, check_threads
from hypersign._pooled_gradient import PooledGradient
from hypersign.bits import Filters, Filters8
from hypersign.bits.hadamard import check_hadamard, transform
from hypersign.bits.words import pack_clipped, pack_signs

__all__ = [
    "conv2d_of_levels",
    "hadamard",
    "hadamard_transform",
    "pack",
    "pack_ternary",
    "packed_conv2d",
    "packed_linear",
    "packed_linear8",
    "linear_of_levels8",
]


@torch.library.custom_op("hypersign::pack", mutates_args=(), device_types="cpu")
def pack(x: Tensor) -> Tensor:
    """Packs the signs of the last dimension: bit 1 where x < 0, least significant bit first.

    Args:
        x: real numbers, shape (..., n), of any type except bfloat16 and float16.

    Returns int64 words, shape (..., ceil(n/64)).

    Raises:
        HypersignError: `x` contains NaN.

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
        threshold: the threshold, 0 or more. It is compared in float32, as in the quantizer.

    Returns int64 words, shape (2, ..., ceil(n/64)).

    Raises:
        HypersignError: `x` contains NaN.

    >>> pack_ternary(torch.tensor([-1.0, 0.2, 2.0]), 0.5).tolist()
    [[1], [5]]
    """
    t = np.float32(threshold)
    # -1 where x < -t; +1 where x >= the next number after t, which means x > t
    return _tensor(bits.pack_ternary(x.numpy(force=True), low=-t, high=np.nextafter(t, np.float32(np.inf))))


@pack_ternary.register_fake
def _(x: Tensor, threshold: float) -> Tensor:
    return x.new_empty((2, *x.shape[:-1], -(-x.shape[-1] // 64)), dtype=torch.int64)


@torch.library.custom_op("hypersign::packed_linear", mutates_args=(), device_types="cpu")
def packed_linear(x: Tensor, filters: Tensor, features: int) -> Tensor:
    """Dot products of packed rows: s_ij = sum_k x_ik w_jk over levels -1, 0, +1.

    Args:
        x: packed rows: words (M, ceil(features/64)) or planes (2, M, ...).
        filters: packed filters: words (F, ceil(features/64)) or planes (2, F, ...).
        features: number of levels in a row.

    Returns int32, shape (M, F).

    >>> packed_linear(pack(torch.ones(1, 5)), pack(torch.tensor([[1.0, 1.0, -1.0, 1.0, 1.0]])), 5).tolist()
    [[3]]
    """
    return torch.from_numpy(_filters(filters, (1, 1, features), 1).matmul(_words(x), threads=torch.get_num_threads()))


@packed_linear.register_fake
def _(x: Tensor, filters: Tensor, features: int) -> Tensor:
    return x.new_empty((x.shape[-2], filters.shape[-2]), dtype=torch.int32)


@torch.library.custom_op("hypersign::packed_linear8", mutates_args=(), device_types="cpu")
def packed_linear8(x: Tensor, filters: Tensor, features: int) -> Tensor:
    """Dot products of 8-bit rows with packed filters: s_ij = sum_k x_ik w_jk, exact.

    Args:
        x: integers from -128 to 127 as int8, shape (M, features).
        filters: packed filters: words (F, ceil(features/64)), or planes (2, F, ...) of ternary ones.
        features: number of levels in a row.

    Returns int32, shape (M, F).

    >>> x, filters = torch.tensor([[100, -7]], dtype=torch.int8), pack(torch.tensor([[1.0, -1.0]]))
    >>> packed_linear8(x, filters, 2).tolist()
    [[107]]
    """
    found = _filters8(filters, features)
    return torch.from_numpy(found.sums(x.contiguous().numpy(), threads=torch.get_num_threads()))


@packed_linear8.register_fake
def _(x: Tensor, filters: Tensor, features: int) -> Tensor:
    return x.new_empty((x.shape[0], filters.shape[-2]), dtype=torch.int32)


@torch.library.custom_op("hypersign::packed_linear8_grouped", mutates_args=(), device_types="cpu")
def packed_linear8_grouped(x: Tensor, filters: Tensor, scale: Tensor, group: int) -> Tensor:
    """Dot products of 8-bit rows with packed filters whose groups of weights have scales: y = sum_g b_jg s_ijg.

    Args:
        x: integers from -128 to 127 as int8, shape (M, features).
        filters: packed filters: words (F, ceil(features/64)), or planes (2, F, ...) of ternary ones.
        scale: b, float32, shape (F, groups).
        group: number of weights that share a scale; the last group may have fewer.

    Returns float32, shape (M, F): sums s within a group are exact, each operation after that rounds once.

    >>> x, filters = torch.tensor([[100, -7, 1]], dtype=torch.int8), pack(torch.tensor([[1.0, -1.0, 1.0]]))
    >>> packed_linear8_grouped(x, filters, torch.tensor([[0.5, 2.0]]), 2).tolist()
    [[55.5]]
    """
    found = _filters8(filters, x.shape[1], scale, group)
    ones = np.ones(len(x), np.float32)
    return torch.from_numpy(found.matmul(x.contiguous().numpy(), ones, threads=torch.get_num_threads()))


@packed_linear8_grouped.register_fake
def _(x: Tensor, filters: Tensor, scale: Tensor, group: int) -> Tensor:
    return x.new_empty((x.shape[0], filters.shape[-2]), dtype=torch.float32)


@torch.library.custom_op("hypersign::linear_of_levels8", mutates_args=(), device_types="cpu")
def linear_of_levels8(x: Tensor, weight: Tensor, ternary: bool) -> Tensor:
    """The product of 8-bit levels with binary or ternary ones, for training on the CPU: exact, like its gradients.

    Args:
        x: integers from -128 to 127 of any floating type, shape (M, K).
        weight: levels, shape (F, K), of any floating type.
        ternary: whether `weight` has zeros besides -1 and +1.

    Returns (M, F), with the type of `x`. bfloat16 and float16 round large sums. Gradients are those of
    `x @ weight.T`.

    >>> linear_of_levels8(torch.tensor([[100.0, -7.0]]), torch.tensor([[1.0, -1.0]]), False).tolist()
    [[107.0]]
    """
    filters = Filters8(_words(_levels(weight.float(), ternary)), weight.shape[1])
    sums = filters.sums(x.to(torch.int8).contiguous().numpy(), threads=torch.get_num_threads())
    return torch.from_numpy(sums).to(x.dtype)


@linear_of_levels8.register_fake
def _(x: Tensor, weight: Tensor, ternary: bool) -> Tensor:
    return x.new_empty((len(x), len(weight)))


def _levels8_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])


def _levels8_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    to_x = gradient @ weight.to(gradient.dtype) if ctx.needs_input_grad[0] else None
    to_weight = (gradient.T @ x.to(gradient.dtype)).to(weight.dtype) if ctx.needs_input_grad[1] else None
    return to_x, to_weight, None


linear_of_levels8.register_autograd(_levels8_backward, setup_context=_levels8_context)


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
        x: packed images, each pixel a row of channels: words (N, H, W, ceil(channels/64)) or planes
            (2, N, H, W, ...).
        filters: packed filters in (kernel row, kernel column, channel) order: words (F, ceil(d/64)) or planes
            (2, F, ...) with d = kernel height * kernel width * channels / groups.
        channels: number of input channels, over all groups.
        kernel_size, stride, padding, dilation: pairs (vertical, horizontal).
        groups: number of groups of channels.
        pad_value: the level of padded positions, 0 or 1.

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
    height, width = _output_size(x.shape[-3:-1], kernel_size, stride, padding, dilation)
    return x.new_empty((x.shape[-4], height, width, filters.shape[-2]), dtype=torch.int32)


def conv2d_of_levels(
    x: Tensor,
    weight: Tensor,
    seed: Tensor,
    *,
    ternary: tuple[bool, bool] = (False, False),
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    pad_value: int = 0,
    clips: tuple[float | None, float | None] = (None, None),
) -> Tensor:
    """The convolution of levels with levels, for training on the CPU: exact forward, 6-bit gradients backward.

    The gradient of the outputs is rounded at random to whole multiples of a scale, without bias
    (`hypersign.bits.gradients`). The products of the rounded gradient with weights and inputs are exact.

    Args:
        x: input levels (N, C, H, W), channels-last in memory, of any floating type; where they are binary, any
            numbers, of which the signs count.
        weight: weight levels (F, C, kernel height, kernel width), of any floating type; in the same way.
        seed: seed of the rounding, an int64 tensor with one number. The backward pass reads it.
        ternary: two booleans: whether `x` has zeros besides -1 and +1, and whether `weight` has.
        stride, padding, dilation: pairs (vertical, horizontal).
        pad_value: the level of padded positions, 0 or 1.
        clips: for `x` and for `weight`: c where the gradient is 0 at numbers whose magnitude is not below c (the
            surrogate `HardTanh`); None passes all of the gradient.

    Returns (N, F, H', W'), with the type of `x`, channels-last in memory. bfloat16 and float16 round large sums.

    Raises:
        HypersignError: the inputs have another number of channels than the weights, or ternary levels have a clip.

    >>> x, weight = torch.ones(1, 2, 1, 1), torch.tensor([[1.0, 1.0]]).view(1, 2, 1, 1).requires_grad_()
    >>> y = conv2d_of_levels(x, weight, torch.tensor(0))
    >>> y.item(), torch.autograd.grad(y, weight, torch.full_like(y, 0.5))[0].flatten().tolist()
    (2.0, [0.5, 0.5])
    """
    if x.dim() != 4 or weight.dim() != 4 or x.shape[1] != weight.shape[1]:  # words cannot tell 7 channels from 8
        raise HypersignError(f"the layer takes images of shape (N, {weight.shape[1]}, H, W); got {tuple(x.shape)}")
    if any(clip is not None and zeros for clip, zeros in zip(clips, ternary, strict=True)):
        raise HypersignError(f"only binary levels have a clip; got clips {clips} for ternary {ternary}")
    limits = [0.0 if clip is None else clip for clip in clips]  # a clip is above 0
    options = (list(ternary), list(stride), list(padding), list(dilation), pad_value, limits)
    # Levels are exact in float32, and the rounding of gradients reads float32.
    return _conv2d_of_levels(x.float(), weight.float(), seed, *options)[0].to(x.dtype)


@torch.library.custom_op("hypersign::conv2d_of_levels", mutates_args=(), device_types="cpu")
def _conv2d_of_levels(
    x: Tensor,
    weight: Tensor,
    seed: Tensor,
    ternary: list[bool],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    pad_value: int,
    clips: list[float],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    inputs, inside = _signs(x.movedim(1, -1), ternary[0], clips[0])
    filters, filters_inside = _signs(weight.movedim(1, -1).flatten(1), ternary[1], clips[1])
    sums = Filters(_words(filters), shape=(*weight.shape[2:], weight.shape[1])).real_conv2d(
        _words(inputs),
        stride=(stride[0], stride[1]),
        padding=(padding[0], padding[1]),
        dilation=(dilation[0], dilation[1]),
        pad_value=pad_value,
        threads=torch.get_num_threads(),
    )
    return torch.from_numpy(sums).movedim(-1, 1), inputs, filters, inside, filters_inside


@_conv2d_of_levels.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    seed: Tensor,
    ternary: list[bool],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    pad_value: int,
    clips: list[float],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    channels, *kernel = weight.shape[1:]
    height, width = _output_size(x.shape[2:], kernel, stride, padding, dilation)
    images, rows = (len(x), *x.shape[2:], -(-channels // 64)), (len(weight), -(-weight[0].numel() // 64))
    return (
        x.new_empty((len(x), height, width, len(weight))).movedim(-1, 1),
        x.new_empty((*[2] * ternary[0], *images), dtype=torch.int64),
        x.new_empty((*[2] * ternary[1], *rows), dtype=torch.int64),
        x.new_empty(images if clips[0] else 0, dtype=torch.int64),
        x.new_empty(rows if clips[1] else 0, dtype=torch.int64),
    )


@torch.library.custom_op("hypersign::conv2d_of_levels_backward", mutates_args=(), device_types="cpu")
def _gradients(
    gradient: Tensor,
    inputs: Tensor,
    filters: Tensor,
    seed: Tensor,
    inside: Tensor,
    filters_inside: Tensor,
    place: Tensor,
    window: list[int],
    size: list[int],
    kernel: list[int],
    wanted: list[bool],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    pad_value: int,
) -> tuple[Tensor, Tensor]:
    threads = torch.get_num_threads()
    rounded = bits.round_gradient(
        gradient.movedim(1, -1).contiguous().numpy(), int(seed) & 0xFFFFFFFFFFFFFFFF, threads=threads
    )
    shape = (kernel[0], kernel[1], kernel[2])
    if place.numel():
        height, width = _output_size(size, kernel[:2], stride, padding, dilation)
        rounded = rounded.unpooled(
            place.movedim(1, -1).numpy(), (window[0], window[1]), (height, width), threads=threads
        )
    options: dict[str, Any] = {
        "stride": (stride[0], stride[1]),
        "padding": (padding[0], padding[1]),
        "dilation": (dilation[0], dilation[1]),
        "threads": threads,
    }
    to_inputs, to_filters = gradient.new_empty(0), gradient.new_empty(0)
    if wanted[0]:
        found = bits.input_gradient(
            rounded.by_image,
            rounded.image_scales,
            _words(filters),
            shape=shape,
            size=(size[0], size[1]),
            inside=_words(inside) if inside.numel() else None,
            **options,
        )
        to_inputs = torch.from_numpy(found).movedim(-1, 1)
    if wanted[1]:
        found = bits.weight_gradient(
            rounded.by_filter,
            rounded.filter_scales,
            _words(inputs),
            shape=shape,
            pad_value=pad_value,
            inside=_words(filters_inside) if filters_inside.numel() else None,
            **options,
        )
        to_filters = torch.from_numpy(found).movedim(-1, 1)
    return to_inputs, to_filters


@_gradients.register_fake
def _(
    gradient: Tensor,
    inputs: Tensor,
    filters: Tensor,
    seed: Tensor,
    inside: Tensor,
    filters_inside: Tensor,
    place: Tensor,
    window: list[int],
    size: list[int],
    kernel: list[int],
    wanted: list[bool],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    pad_value: int,
) -> tuple[Tensor, Tensor]:
    return (
        gradient.new_empty((len(gradient), *size, kernel[2])).movedim(-1, 1) if wanted[0] else gradient.new_empty(0),
        gradient.new_empty((gradient.shape[1], *kernel)).movedim(-1, 1) if wanted[1] else gradient.new_empty(0),
    )


def _levels_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weight, seed, _, *ctx.options, _ = inputs
    ctx.size, ctx.kernel = list(x.shape[2:]), [*weight.shape[2:], weight.shape[1]]
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[1], output[2], seed, output[3], output[4])


def _levels_backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    wanted = list(ctx.needs_input_grad[:2])
    if isinstance(gradient, PooledGradient):
        place, window, gradient = gradient.place, list(gradient.window), gradient.outputs
    else:
        place, window = gradient.new_empty(0), [1, 1]
    parts = *ctx.saved_tensors, place, window, ctx.size, ctx.kernel
    found = _gradients(gradient, *parts, wanted, *ctx.options)
    return (*(g if want else None for g, want in zip(found, wanted, strict=True)), *[None] * 7)


_conv2d_of_levels.register_autograd(_levels_backward, setup_context=_levels_context)


_COMPILED = (torch.float32, torch.float64, torch.int32, torch.int16)


def hadamard_transform(x: Tensor, *, orthonormal: bool = True, threads: int | None = None) -> Tensor:
    """Multiplies the last dimension of `x` by the Hadamard matrix of its size n, as `bits.hadamard_transform` does.

    Args:
        x: numbers on any device, shape (..., n), n a power of two up to 2^24. Gradients pass through.
        orthonormal: whether to divide by sqrt(n); `x` must then be of a floating type.
        threads: number of threads that share the vectors; torch's number if None.

    Raises:
        HypersignError: n is not a power of two or is above 2^24, or `x` has integers and `orthonormal` is True.

    >>> hadamard_transform(torch.tensor([1, 2, 3, 4]), orthonormal=False).tolist()
    [10, -2, -4, 0]
    """
    check_hadamard(tuple(x.shape), x.dtype, floating=x.is_floating_point() or x.is_complex(), orthonormal=orthonormal)
    if threads is not None:
        check_threads(threads)
    return hadamard(x, x.shape[-1] ** -0.5 if orthonormal else 1.0, threads or 0)


def hadamard(x: Tensor, factor: float, threads: int = 0) -> Tensor:
    """Returns `factor` times the Walsh-Hadamard transform of the last dimension. It checks nothing.

    The kernel transforms float32, float64, int32 and int16 on the CPU, on `threads` threads (torch's number if 0).
    Other types and devices use butterflies in torch.

    >>> hadamard(torch.tensor([1.0, 2.0]), 1.0)
    tensor([ 3., -1.])
    """
    if x.device.type == "cpu" and x.dtype in _COMPILED:
        return _hadamard(x, factor, threads)
    y = x.float() if x.dtype == torch.float16 and factor != 1 else x  # sums may exceed float16
    for _ in range(x.shape[-1].bit_length() - 1):
        y = torch.cat((y[..., 0::2] + y[..., 1::2], y[..., 0::2] - y[..., 1::2]), -1)
    return (y * factor).to(x.dtype) if factor != 1 else y.clone() if y is x else y


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


def _output_size(
    size: Sequence[int], kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> list[int]:
    return [(size[i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in (0, 1)]


def _levels(x: Tensor, ternary: bool) -> Tensor:
    """Packs the levels of the last dimension."""
    return pack_ternary(x, 0.5) if ternary else pack(x)


def _signs(x: Tensor, ternary: bool, clip: float) -> tuple[Tensor, Tensor]:
    """Packs the levels of the last dimension, or the signs of numbers; and if clip is not 0, where |x| < clip.

    NaN is +1, as for the quantizer.
    """
    if clip:
        both = pack_clipped(x.contiguous().numpy(force=True), clip, torch.get_num_threads())
        return _tensor(both[0]), _tensor(both[1])
    signs = pack_ternary(x, 0.5) if ternary else _tensor(pack_signs(x.contiguous().numpy(force=True)))
    return signs, signs.new_empty(0)


_built: WeakIdKeyDictionary = WeakIdKeyDictionary()
"""Filters in the layout of the kernels, for each live tensor of words, and the version of the tensor they were built
from."""


_built8: WeakIdKeyDictionary = WeakIdKeyDictionary()
"""The same for products with 8-bit inputs."""


def _filters(words: Tensor, shape: tuple[int, int, int], groups: int) -> Filters:
    key = (words._version, shape, groups)
    if words in _built and _built[words][0] == key:
        return _built[words][1]
    filters = Filters(_words(words), shape=shape, groups=groups)
    _built[words] = (key, filters)
    return filters


def _filters8(words: Tensor, features: int, scale: Tensor | None = None, group: int | None = None) -> Filters8:
    key = (words._version, features, None if scale is None else (id(scale), scale._version), group)
    if words in _built8 and _built8[words][0] == key:
        return _built8[words][1]
    scales = None if scale is None else scale.detach().contiguous().numpy()
    filters = Filters8(_words(words), features, scale=scales, group=group)
    _built8[words] = (key, filters, scale)  # the scale stays, so that no other tensor gets its id
    return filters


def _words(x: Tensor) -> np.ndarray:
    return x.contiguous().numpy().view(np.uint64)


def _tensor(words: np.ndarray) -> Tensor:
    return torch.from_numpy(words.view(np.int64))
