"""Backward products of levels: rounding without bias, and products equal to torch's own in float64."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hypersign._checks import HypersignError
from hypersign.bits import available_backends, input_gradient, pack, pack_ternary, round_gradient, weight_gradient
from hypersign.bits.backend import forced

Pair = tuple[int, int]


def packed(levels: NDArray[np.float32], ternary: bool) -> NDArray[np.uint64]:
    return pack_ternary(levels, low=np.float32(-0.5), high=np.float32(0.5)) if ternary else pack(levels)


def check_products(
    image: tuple[int, int, int, int],
    filters: int,
    kernel: Pair,
    *,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    pad_value: int = 0,
    ternary: tuple[bool, bool] = (False, False),
    seed: int = 0,
) -> None:
    """Both products of one convolution, on every back end, against autograd in float64."""
    rng = np.random.default_rng(seed)
    n, h, w, c = image
    x = rng.choice([-1, 0, 1] if ternary[0] else [-1, 1], image).astype(np.float32)
    weight = rng.choice([-1, 0, 1] if ternary[1] else [-1, 1], (filters, *kernel, c)).astype(np.float32)
    inputs = torch.from_numpy(x).double().permute(0, 3, 1, 2).requires_grad_()
    rows = torch.from_numpy(weight).double().permute(0, 3, 1, 2).requires_grad_()
    border = (padding[1], padding[1], padding[0], padding[0])
    y = torch.nn.functional.conv2d(
        torch.nn.functional.pad(inputs, border, value=pad_value), rows, stride=stride, dilation=dilation
    )
    q = rng.integers(-31, 32, (n, y.shape[2], y.shape[3], filters)).astype(np.int8)
    # powers of 2, so that the scaled sums are exact
    image_scales = (2.0 ** rng.integers(-9, 3, n)).astype(np.float32)
    filter_scales = (2.0 ** rng.integers(-9, 3, filters)).astype(np.float32)
    g = torch.from_numpy(q).double().permute(0, 3, 1, 2)
    to_x = torch.autograd.grad(
        y, inputs, g * torch.from_numpy(image_scales).double().view(-1, 1, 1, 1), retain_graph=True
    )[0].permute(0, 2, 3, 1)
    to_weight = torch.autograd.grad(y, rows, g * torch.from_numpy(filter_scales).double().view(1, -1, 1, 1))[0]
    options: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation}
    shape = (*kernel, c)
    for name in available_backends():
        for threads in (1, 3):
            with forced(name):
                words = packed(weight.reshape(filters, -1), ternary[1])
                found = input_gradient(q, image_scales, words, shape=shape, size=(h, w), threads=threads, **options)
                assert np.array_equal(found, to_x.numpy()), name
                found = weight_gradient(
                    q,
                    filter_scales,
                    packed(x, ternary[0]),
                    shape=shape,
                    pad_value=pad_value,
                    threads=threads,
                    **options,
                )
                assert np.array_equal(found, to_weight.permute(0, 2, 3, 1).numpy()), name


@pytest.mark.parametrize("channels", [1, 31, 32, 33, 63, 64, 65, 127, 130])
@pytest.mark.parametrize("filters", [1, 3, 4, 5, 64, 130])
def test_sizes_around_the_edges(channels: int, filters: int) -> None:
    check_products((2, 5, 4, channels), filters, (3, 3), padding=(1, 1), seed=channels * filters)


@pytest.mark.parametrize("seed", range(25))
def test_random_convolutions(seed: int) -> None:
    rng = np.random.default_rng(seed)

    def pair(low: int, high: int) -> Pair:
        return int(rng.integers(low, high)), int(rng.integers(low, high))

    check_products(
        (int(rng.integers(1, 5)), *pair(5, 12), int(rng.integers(1, 140))),
        int(rng.integers(1, 140)),
        pair(1, 4),
        stride=pair(1, 4),
        padding=pair(0, 4),
        dilation=pair(1, 3),
        pad_value=int(rng.integers(2)),
        ternary=(bool(rng.integers(2)), bool(rng.integers(2))),
        seed=seed,
    )


@pytest.mark.parametrize(
    ("image", "filters"),
    [((3, 1, 1, 70), 1030), ((1030, 1, 1, 40), 5), ((1, 40, 70, 40), 33), ((0, 4, 4, 3), 2), ((7, 1, 1, 3000), 2)],
    ids=["more tables than fit in 16 bits", "many images", "several pieces of pixels", "no images", "a long row"],
)
def test_large_and_empty(image: tuple[int, int, int, int], filters: int) -> None:
    kernel = (1, 1) if image[1] == 1 else (3, 3)
    padding = (kernel[0] // 2, kernel[1] // 2)
    check_products(image, filters, kernel, padding=padding)
    check_products(image, filters, kernel, padding=padding, ternary=(True, True))


# Where widths are multiples of 8, taps of a column share indices, and images may lie side by side. Where filters are
# multiples of 16, tables of a row are built at once.
@pytest.mark.parametrize(
    ("image", "filters", "kernel", "padding", "dilation"),
    [
        ((3, 8, 8, 33), 70, (3, 3), (1, 1), (1, 1)),
        ((5, 4, 16, 65), 40, (3, 3), (1, 1), (1, 1)),
        ((2, 6, 24, 8), 9, (3, 5), (1, 2), (1, 1)),
        ((3, 9, 10, 8), 9, (3, 3), (0, 0), (1, 1)),
        ((1, 7, 8, 40), 5, (1, 1), (0, 0), (1, 1)),
        ((3, 5, 16, 12), 9, (2, 3), (2, 2), (2, 2)),
        ((19, 8, 8, 5), 3, (3, 3), (1, 1), (1, 1)),
        ((5, 33, 32, 4), 7, (3, 3), (1, 1), (1, 1)),
        ((9, 33, 32, 2), 3, (3, 3), (1, 1), (1, 1)),
        ((1, 4, 520, 2), 3, (3, 3), (1, 1), (1, 1)),
        ((1, 2, 1032, 2), 3, (3, 3), (1, 1), (1, 1)),
        ((2, 5, 6, 9), 48, (2, 3), (3, 4), (1, 1)),
        ((2, 7, 40, 9), 16, (3, 3), (0, 0), (2, 2)),
    ],
)
def test_lines_of_pixels(
    image: tuple[int, int, int, int], filters: int, kernel: Pair, padding: Pair, dilation: Pair
) -> None:
    options: dict[str, Any] = {"padding": padding, "dilation": dilation}
    check_products(image, filters, kernel, **options)
    check_products(image, filters, kernel, pad_value=1, ternary=(True, False), **options)


@pytest.mark.parametrize("size", [(4, 6), (3, 5), (5, 7)])
@pytest.mark.parametrize("filters", [1, 16, 70])
def test_a_rounded_gradient_before_a_max_pool(size: Pair, filters: int) -> None:
    rng = np.random.default_rng(filters)
    x = torch.from_numpy(rng.standard_normal((2, filters, *size))).requires_grad_()
    y, flat = torch.nn.functional.max_pool2d(x, (2, 3), ceil_mode=size != (5, 7), return_indices=True)
    row, column = flat // size[1], flat % size[1]
    left = torch.arange(y.shape[3]) * 3
    place = (row - 2 * torch.arange(y.shape[2])[:, None]) * (size[1] - left).clamp(max=3) + column - left
    places = place.permute(0, 2, 3, 1).contiguous().numpy().astype(np.uint8)
    rounded = round_gradient(rng.standard_normal((2, *y.shape[2:], filters)).astype(np.float32), 3)
    for name in available_backends():
        for threads in (1, 3):
            with forced(name):
                found = rounded.unpooled(places, (2, 3), size, threads=threads)
            for q, ours in ((rounded.by_image, found.by_image), (rounded.by_filter, found.by_filter)):
                g = torch.from_numpy(q).double().permute(0, 3, 1, 2)
                expected = torch.autograd.grad(y, x, g, retain_graph=True)[0].permute(0, 2, 3, 1)
                assert np.array_equal(ours, expected.numpy()), name
    with pytest.raises(HypersignError, match="places must be uint8"):
        rounded.unpooled(places, (2, 3), (1, 1))


@pytest.mark.parametrize(
    "shape", [(2, 3, 4, 1), (3, 1, 1, 8), (1, 5, 2, 13), (2, 2, 2, 64), (0, 2, 2, 3), (2, 0, 3, 4)]
)
def test_rounding_is_the_same_everywhere(shape: tuple[int, ...]) -> None:
    gradient = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    with forced("numpy"):
        expected = round_gradient(gradient, 7)
    for name in available_backends():
        for threads in (1, 2, 5):
            with forced(name):
                found = round_gradient(gradient, 7, threads=threads)
            for field in ("by_image", "image_scales", "by_filter", "filter_scales"):
                assert np.array_equal(getattr(found, field), getattr(expected, field)), (name, field)
    if gradient.size:
        assert not np.array_equal(round_gradient(gradient, 8).by_image, expected.by_image)


def test_rounding_has_no_bias_and_moves_no_number_by_a_step() -> None:
    rng = np.random.default_rng(2)
    gradient = (rng.standard_normal((2, 3, 5, 6)) * rng.standard_normal(6) ** 2).astype(np.float32)
    draws = 4000
    sums = np.zeros((2, *gradient.shape))
    for seed in range(draws):
        q = round_gradient(gradient, seed)
        by_image = q.by_image * q.image_scales[:, None, None, None]
        by_filter = q.by_filter * q.filter_scales
        assert np.all(np.abs(by_image - gradient) <= 1.0001 * q.image_scales[:, None, None, None])
        assert np.all(np.abs(by_filter - gradient) <= 1.0001 * q.filter_scales)
        sums += by_image, by_filter
    # A rounded number's standard deviation is at most half a step.
    steps = np.broadcast_to(q.image_scales[:, None, None, None], gradient.shape), q.filter_scales
    for total, step in zip(sums, steps, strict=True):
        z = (total / draws - gradient) / (0.5 * step / draws**0.5)
        assert np.abs(z).max() < 4.5
    assert q.by_image.max() == 31 or q.by_image.min() == -31


def test_extreme_gradients() -> None:
    gradient = np.zeros((3, 1, 2, 2), np.float32)
    gradient[1, 0, 0, 0], gradient[2, 0, 1, 1] = np.inf, np.nan
    gradient[0, 0, 0] = 1e-45, -1e-45  # below what has an inverse
    for name in available_backends():
        with forced(name):
            q = round_gradient(gradient, 0)
        assert q.image_scales[0] == 0, name
        assert np.isnan(q.image_scales[1:]).all(), name
        assert np.isnan(q.filter_scales).all(), name
        assert not q.by_image[0].any(), name


def test_what_does_not_fit_is_refused() -> None:
    q = np.zeros((1, 2, 2, 3), np.int8)
    scales, words = np.ones(1, np.float32), np.zeros((3, 1), np.uint64)
    with pytest.raises(HypersignError, match=r"float32 \(N, H, W, F\); got float64 of shape \(2,\)"):
        round_gradient(np.zeros(2), 0)  # type: ignore[arg-type]
    with pytest.raises(HypersignError, match="seed must be"):
        round_gradient(np.zeros((1, 1, 1, 1), np.float32), -1)
    with pytest.raises(HypersignError, match=r"int8 \(N, H', W', F\); got float32"):
        input_gradient(q.astype(np.float32), scales, words, shape=(1, 1, 5), size=(2, 2))  # type: ignore[arg-type]
    with pytest.raises(HypersignError, match=r"uint64 words \(3, 2\), one row per filter"):
        input_gradient(q, scales, words, shape=(1, 1, 70), size=(2, 2))
    with pytest.raises(HypersignError, match="must be 3 x 2; got 2 x 2"):
        input_gradient(q, scales, words, shape=(1, 1, 5), size=(3, 2))
    with pytest.raises(HypersignError, match=r"one for each of 1 images; got shape \(2,\)"):
        input_gradient(q, np.ones(2, np.float32), words, shape=(1, 1, 5), size=(2, 2))
    x = np.zeros((1, 2, 2, 1), np.uint64)
    with pytest.raises(HypersignError, match=r"inputs of 70 channels must come as uint64 words \(N, H, W, 2\)"):
        weight_gradient(q, np.ones(3, np.float32), x, shape=(1, 1, 70))
    with pytest.raises(HypersignError, match="one image for each of the gradient's 1; got 2"):
        weight_gradient(q, np.ones(3, np.float32), np.repeat(x, 2, 0), shape=(1, 1, 5))
    with pytest.raises(HypersignError, match="one for each of 3 filters"):
        weight_gradient(q, scales, x, shape=(1, 1, 5))
    with pytest.raises(HypersignError, match="pad_value must be"):
        weight_gradient(q, np.ones(3, np.float32), x, shape=(1, 1, 5), pad_value=2)


@pytest.mark.parametrize("back_end", available_backends())
def test_no_filters_have_a_gradient_of_zeros(back_end: str) -> None:
    q, scales = np.zeros((2, 3, 3, 0), np.int8), np.ones(2, np.float32)
    with forced(back_end):
        found = input_gradient(q, scales, np.zeros((0, 1), np.uint64), shape=(1, 1, 5), size=(3, 3))
        assert found.shape == (2, 3, 3, 5)
        assert not found.any()
        words = np.zeros((2, 3, 3, 1), np.uint64)
        assert weight_gradient(q, np.ones(0, np.float32), words, shape=(1, 1, 5)).shape == (0, 1, 1, 5)
