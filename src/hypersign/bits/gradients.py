"""Backward products of layers whose inputs and filters are levels: 6-bit integer gradients times bits.

A gradient is rounded at random to whole multiples of a scale, up or down, so that its expected value is the exact
gradient. The products of the rounded gradient are exact, so their expected values are the exact products. Rounding
only adds noise: the variance per entry is at most a quarter of the squared scale.
"""

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray

from hypersign._checks import HypersignError, check_int, check_threads
from hypersign.bits import reference
from hypersign.bits.backend import native
from hypersign.bits.memory import aligned_empty
from hypersign.bits.reference import Words
from hypersign.bits.windows import check_pair, output_size

__all__ = ["RoundedGradient", "input_gradient", "round_gradient", "weight_gradient"]


@dataclasses.dataclass(frozen=True)
class RoundedGradient:
    """A gradient (N, H, W, F) as int8 multiples of a scale, rounded once for each of the two products.

    `by_image` has one scale per image, `image_scales` (N,), and gives the gradient of the inputs. `by_filter` has one
    scale per filter, `filter_scales` (F,), and gives the gradient of the filters. A scale is NaN if the gradient of
    the image or filter is not finite.
    """

    by_image: NDArray[np.int8]
    image_scales: NDArray[np.float32]
    by_filter: NDArray[np.int8]
    filter_scales: NDArray[np.float32]

    def unpooled(
        self, place: NDArray[np.uint8], window: tuple[int, int], size: tuple[int, int], *, threads: int = 1
    ) -> "RoundedGradient":
        """The rounded gradient of a max pool's inputs, if this is that of its outputs: 0 but at the maxima.

        Args:
            place: the place of each maximum in its window, counted row by row, uint8 (N, H, W, F).
            window: (height, width) of the windows, which lie side by side.
            size: (height, width) of the pool's inputs; the last windows may reach past the edge.
            threads: number of threads.

        Raises:
            HypersignError: arrays and sizes do not fit each other.

        >>> q = np.array([[[[5]]]], np.int8)
        >>> one = RoundedGradient(q, np.ones(1, np.float32), q, np.ones(1, np.float32))
        >>> one.unpooled(np.array([[[[2]]]], np.uint8), (2, 2), (2, 2)).by_image[0, :, :, 0].tolist()
        [[0, 0], [5, 0]]
        """
        images, *shape, filters = self.by_image.shape
        window, threads = check_pair("window", window, min=1), check_threads(threads)
        covered = all(0 < -(-n // k) >= out for out, n, k in zip(shape, size, window, strict=True))
        if place.dtype != np.uint8 or place.shape != self.by_image.shape or not covered:
            raise HypersignError(
                f"places must be uint8 {self.by_image.shape} for windows {window} in {size}; got {place.dtype} of "
                f"shape {place.shape}"
            )
        found, kernels = [], native()
        for q in (self.by_image, self.by_filter):
            out = aligned_empty((images, *size, filters), np.int8)
            if kernels is None:
                out[...] = reference.unpool(q, place, window, size)
            else:
                kernels.max_pool_bytes_gradient(q, place, out, window, threads)
            found.append(out)
        return RoundedGradient(found[0], self.image_scales, found[1], self.filter_scales)


def round_gradient(gradient: NDArray[np.float32], seed: int, *, threads: int = 1) -> RoundedGradient:
    """Rounds a gradient at random to 6 bits, without bias.

        q = floor(g / s + u),    s = max |g| / 31,    u uniform in [0, 1):    E[s q] = g

    The maximum is taken once per image and once per filter. u has 16 bits and comes from xorshift generators
    (Marsaglia 2003), eight per image, that `seed` starts. The result does not depend on the number of threads.

    Args:
        gradient: the gradient with respect to a layer's outputs, float32 (N, H, W, F).
        seed: an integer from 0 to 2^64 - 1; use a different one for every call.
        threads: number of threads.

    Raises:
        HypersignError: `gradient` is not float32 with four axes, or `seed` is out of range.

    >>> q = round_gradient(np.array([[[[0.5, -1.0]]]], np.float32), seed=1)
    >>> q.by_filter.tolist(), bool(abs(q.by_image[0, 0, 0, 0] - 15.5) == 0.5)
    ([[[[31, -31]]]], True)
    """
    gradient = np.require(gradient, requirements=["C", "A"])
    if gradient.dtype != np.float32 or gradient.ndim != 4:
        raise HypersignError(
            f"a gradient must be float32 (N, H, W, F); got {gradient.dtype} of shape {gradient.shape}"
        )
    seed = check_int("seed", seed, min=0, max=2**64 - 1)
    threads = check_threads(threads)
    images, height, width, filters = gradient.shape
    kernels = native()
    if kernels is None:
        return RoundedGradient(*reference.round_gradient(gradient, seed))
    q = RoundedGradient(
        aligned_empty(gradient.shape, np.int8),
        np.zeros(images, np.float32),
        aligned_empty(gradient.shape, np.int8),
        np.zeros(filters, np.float32),
    )
    if gradient.size:
        flat = (images, height * width, filters)
        kernels.round_gradients(
            gradient.reshape(flat),
            seed,
            q.by_image.reshape(flat),
            q.image_scales,
            q.by_filter.reshape(flat),
            q.filter_scales,
            threads,
        )
    return q


def input_gradient(
    q: NDArray[np.int8],
    scales: NDArray[np.float32],
    words: Words,
    *,
    shape: tuple[int, int, int],
    size: tuple[int, int],
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    inside: Words | None = None,
    threads: int = 1,
) -> NDArray[np.float32]:
    """The gradient with respect to a convolution's inputs.

        dX(n, y, x, c) = s(n) sum over i, j, f of q(n, y', x', f) filter(f, i, j, c)
        with y = y' stride + i dilation - padding, and the same for x

    Args:
        q: the rounded gradient of the outputs, `RoundedGradient.by_image`, int8 (N, H', W', F).
        scales: its scales s, float32 (N,).
        words: packed filters in (kernel row, kernel column, channel) order: uint64 (F, ceil(d/64)) or planes
            (2, F, ...) with d = kernel height * kernel width * channels.
        shape: shape of a filter, (kernel height, kernel width, channels).
        size: (height, width) of the inputs.
        stride, padding, dilation: pairs (vertical, horizontal) of the convolution.
        inside: bits uint64 (N, H, W, ceil(channels/64)); the gradient is 0 where the bit is 0. None: nowhere.
        threads: number of threads.

    Returns float32 (N, H, W, channels): an exact sum of integers, times its scale.

    Raises:
        HypersignError: arrays and options do not fit each other.

    >>> from hypersign.bits import pack
    >>> q = np.full((1, 1, 1, 2), 3, np.int8)
    >>> words = pack([[1.0, -1.0, -1.0], [1.0, 1.0, -1.0]])
    >>> input_gradient(q, np.full(1, 0.5, np.float32), words, shape=(1, 1, 3), size=(1, 1)).tolist()
    [[[[3.0, 0.0, -3.0]]]]
    """
    q, scales, words = _gradient(q), _scales(scales), _words(words)
    d = int(np.prod(shape))
    if (
        words.dtype != np.uint64
        or words.shape[-2:] != (q.shape[3], -(-d // 64))
        or words.shape[:-2] not in ((), (2,))
    ):
        raise HypersignError(
            f"filters of shape {shape} must come as uint64 words ({q.shape[3]}, {-(-d // 64)}), one row per filter "
            f"of the gradient, or as two planes of them; got {words.dtype} of shape {words.shape}"
        )
    options = _options(q, size, shape[:2], stride, padding, dilation)
    if scales.shape != q.shape[:1]:
        raise HypersignError(f"scales must be one for each of {len(q)} images; got shape {scales.shape}")
    inside = _inside(inside, (len(q), *size, -(-shape[2] // 64)))
    kernels = native()
    if kernels is None:
        return _kept(reference.input_gradient(q, scales, words, shape, size, *options), inside, shape[2])
    out = aligned_empty((len(q), *size, shape[2]), np.float32)
    planes = words.reshape(2 if words.ndim == 3 else 1, *words.shape[-2:])
    if out.size:
        kernels.input_gradient(q, scales, planes, inside, out, shape[:2], *options, check_threads(threads))
    return out


def weight_gradient(
    q: NDArray[np.int8],
    scales: NDArray[np.float32],
    x: Words,
    *,
    shape: tuple[int, int, int],
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    pad_value: int = 0,
    inside: Words | None = None,
    threads: int = 1,
) -> NDArray[np.float32]:
    """The gradient with respect to a convolution's filters.

        dW(f, i, j, c) = s(f) sum over n, y', x' of q(n, y', x', f) x(n, y' stride + i dilation - padding, ..., c)

    Args:
        q: the rounded gradient of the outputs, `RoundedGradient.by_filter`, int8 (N, H', W', F).
        scales: its scales s, float32 (F,).
        x: packed inputs, uint64 (N, H, W, ceil(channels/64)) or planes (2, N, H, W, ...).
        shape: shape of a filter, (kernel height, kernel width, channels).
        stride, padding, dilation: pairs (vertical, horizontal) of the convolution.
        pad_value: the level of padded positions, 0 or 1.
        inside: bits uint64 (F, ceil(d/64)), in the order of packed filters; the gradient is 0 where the bit is 0.
            None: nowhere.
        threads: number of threads.

    Returns float32 (F, kernel height, kernel width, channels).

    Raises:
        HypersignError: arrays and options do not fit each other.

    >>> from hypersign.bits import pack
    >>> q = np.full((1, 1, 1, 1), -2, np.int8)
    >>> weight_gradient(q, np.ones(1, np.float32), pack([[[[1.0, -1.0]]]]), shape=(1, 1, 2)).tolist()
    [[[[-2.0, 2.0]]]]
    """
    q, scales, x = _gradient(q), _scales(scales), _words(x)
    words = -(-shape[2] // 64)
    if x.dtype != np.uint64 or x.ndim not in (4, 5) or x.shape[-1] != words or x.shape[:-4] not in ((), (2,)):
        raise HypersignError(
            f"inputs of {shape[2]} channels must come as uint64 words (N, H, W, {words}) or (2, N, H, W, {words}); "
            f"got {x.dtype} of shape {x.shape}"
        )
    if x.shape[-4] != len(q):
        raise HypersignError(f"inputs must have one image for each of the gradient's {len(q)}; got {x.shape[-4]}")
    options = _options(q, x.shape[-3:-1], shape[:2], stride, padding, dilation)
    if scales.shape != q.shape[3:]:
        raise HypersignError(f"scales must be one for each of {q.shape[3]} filters; got shape {scales.shape}")
    pad_value = check_int("pad_value", pad_value, min=0, max=1)
    inside = _inside(inside, (q.shape[3], -(-math.prod(shape) // 64)))
    kernels = native()
    if kernels is None:
        return _kept(reference.weight_gradient(q, scales, x, shape, *options, pad_value), inside, math.prod(shape))
    out = aligned_empty((q.shape[3], *shape), np.float32)
    planes = x.reshape(2 if x.ndim == 5 else 1, *x.shape[-4:])
    kernels.weight_gradient(q, scales, planes, inside, out, *options, pad_value, check_threads(threads))
    return out


def _inside(inside: Words | None, shape: tuple[int, ...]) -> Words | None:
    if inside is None:
        return None
    inside = np.ascontiguousarray(inside)
    if inside.dtype != np.uint64 or inside.shape != shape:
        raise HypersignError(
            f"bits of a clipped gradient must be uint64 of shape {shape}; got {inside.dtype} of shape {inside.shape}"
        )
    return inside


def _kept(gradient: NDArray[np.float32], inside: Words | None, n: int) -> NDArray[np.float32]:
    """The gradient where the bit in rows of n is 1, and 0 elsewhere."""
    if inside is None:
        return gradient
    return np.where(reference.unpack_bits(inside, n).reshape(gradient.shape), gradient, np.float32(0))


Pair = tuple[int, int]


def _gradient(q: NDArray[np.int8]) -> NDArray[np.int8]:
    q = np.ascontiguousarray(q)
    if q.dtype != np.int8 or q.ndim != 4:
        raise HypersignError(f"a rounded gradient must be int8 (N, H', W', F); got {q.dtype} of shape {q.shape}")
    return q


def _scales(scales: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.require(scales, np.float32, ["C", "A"])


def _words(words: Words) -> Words:
    return np.require(words, requirements=["C", "A"])


def _options(
    q: NDArray[np.int8], size: tuple[int, ...], kernel: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> tuple[Pair, Pair, Pair]:
    stride, padding = check_pair("stride", stride, min=1), check_pair("padding", padding, min=0)
    dilation = check_pair("dilation", dilation, min=1)
    expected = output_size(size, kernel, stride=stride, padding=padding, dilation=dilation)
    if q.shape[1:3] != expected:
        raise HypersignError(
            f"the gradient of a convolution of {size[0]} x {size[1]} must be {expected[0]} x {expected[1]}; got "
            f"{q.shape[1]} x {q.shape[2]}"
        )
    return stride, padding, dilation
