"""The first layer against a loop over taps and the reference, on every back end."""

from typing import Any

import numpy as np
import pytest

from hypersign._checks import HypersignError
from hypersign.bits import (
    Filters,
    Thresholds,
    available_backends,
    image_conv2d,
    pack,
    pack_ternary,
    unpack,
    unpack_ternary,
)
from hypersign.bits.backend import forced
from hypersign.bits.images import channels_last


def filters_and_levels(shape: tuple[int, int, int, int], *, ternary: bool) -> tuple[Filters, np.ndarray]:
    generator = np.random.default_rng(sum(shape))
    w = generator.choice([-1, 0, 1] if ternary else [-1, 1], shape)
    rows = w.reshape(len(w), -1)
    return Filters(pack_ternary(rows, low=0, high=1) if ternary else pack(rows), shape=shape[1:]), w


def loop(x: np.ndarray, w: np.ndarray, multiplier: int, shift: int, **options: tuple[int, int]) -> np.ndarray:
    """The definition, tap by tap in Python's integers."""
    (down, right), (pad, aside), (apart, between) = (options[name] for name in ("stride", "padding", "dilation"))
    images, height, width, _ = x.shape
    filters, kh, kw, _ = w.shape
    out_height = (height + 2 * pad - apart * (kh - 1) - 1) // down + 1
    out_width = (width + 2 * aside - between * (kw - 1) - 1) // right + 1
    y = np.zeros((images, out_height, out_width, filters), np.int64)
    for i in range(out_height):
        for j in range(out_width):
            for a in range(kh):
                for b in range(kw):
                    row, column = i * down - pad + a * apart, j * right - aside + b * between
                    if 0 <= row < height and 0 <= column < width:
                        y[:, i, j] += (multiplier * x[:, row, column].astype(np.int64) + shift) @ w[:, a, b].T
    return y


CASES = [
    ((2, 8, 9, 3), (16, 3, 3, 3), {"padding": (1, 1)}),
    ((1, 5, 5, 1), (1, 3, 3, 1), {"padding": (2, 2)}),
    ((2, 6, 7, 3), (65, 3, 2, 3), {"stride": (2, 1), "padding": (1, 0)}),
    ((1, 9, 9, 2), (31, 3, 3, 2), {"dilation": (2, 3), "padding": (2, 3)}),
    ((1, 4, 4, 4), (33, 1, 1, 4), {"stride": (3, 3)}),
    ((1, 3, 3, 5), (127, 3, 3, 5), {}),
    ((1, 12, 11, 3), (64, 7, 7, 3), {"padding": (3, 3), "stride": (2, 2)}),
    ((1, 1, 1, 1), (2, 5, 5, 1), {"padding": (2, 2)}),
    ((1, 3, 4, 17), (63, 2, 2, 17), {"padding": (0, 1)}),
    ((0, 4, 4, 3), (32, 3, 3, 3), {"padding": (1, 1)}),
]


@pytest.mark.parametrize("ternary", [False, True])
@pytest.mark.parametrize(("multiplier", "shift"), [(1, 0), (2, -255), (-64, 1000)])
@pytest.mark.parametrize(("image", "shape", "given"), CASES)
def test_sums_and_levels(
    image: tuple[int, ...], shape: tuple[int, ...], given: dict[str, Any], multiplier: int, shift: int, ternary: bool
) -> None:
    generator = np.random.default_rng(0)
    filters, w = filters_and_levels(shape, ternary=ternary)  # type: ignore[arg-type]
    x = generator.integers(0, 256, image, dtype=np.uint8)
    x[..., :1, :] = 255
    options = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1)} | given
    expected = loop(x, w, multiplier, shift, **options)
    middle = int(np.median(expected)) if expected.size else 0
    low = (middle + generator.integers(-300, 300, len(w))).astype(np.int32)
    high = (low + generator.integers(0, 500, len(w))).astype(np.int32)
    flip = generator.random(len(w)) < 0.5
    sign = np.where((expected < low) ^ flip, -1, 1)
    three = np.where(expected < low, -1, np.where(expected >= high, 1, 0)) * np.where(flip, -1, 1)
    for name in available_backends():
        with forced(name):
            scaled = {"multiplier": multiplier, "shift": shift} | options
            sums = image_conv2d(x, filters, **scaled)  # type: ignore[arg-type]
            assert sums.dtype == np.int32
            assert np.array_equal(sums, expected)
            for threads in (1, 3):
                binary = image_conv2d(x, filters, thresholds=Thresholds(low, flip), threads=threads, **scaled)  # type: ignore[arg-type]
                planes = image_conv2d(x, filters, thresholds=Thresholds(low, flip, high), threads=threads, **scaled)  # type: ignore[arg-type]
                assert np.array_equal(unpack(binary, len(w)), sign)
                assert np.array_equal(unpack_ternary(planes, len(w)), three)
                assert np.array_equal(binary, pack(sign))  # bits past the filters too


@pytest.mark.parametrize("name", available_backends())
def test_largest_pixels_and_weights_do_not_saturate(name: str) -> None:
    filters = Filters(pack(np.ones((16, 27))), shape=(3, 3, 3))
    x = np.full((1, 3, 3, 3), 255, np.uint8)
    for multiplier in (64, -64):
        with forced(name):
            sums = image_conv2d(x, filters, multiplier=multiplier, shift=-1)
        assert (sums == 27 * (255 * multiplier - 1)).all()


@pytest.mark.parametrize("name", available_backends())
@pytest.mark.parametrize("shift", [-79_000_000, 79_000_000])
def test_thresholds_as_far_from_sums_as_can_be(name: str, shift: int) -> None:
    filters = Filters(pack(np.repeat([[1], [-1]], 8, 0) * np.ones(27)), shape=(3, 3, 3))
    x = np.random.default_rng(0).integers(0, 256, (1, 4, 4, 3), dtype=np.uint8)
    least, most = np.iinfo(np.int32).min, np.iinfo(np.int32).max
    low = np.array(2 * [least, least + 1, -(2**30), -1, 0, 2**30, most - 1, most], np.int32)
    with forced(name):
        sums = image_conv2d(x, filters, multiplier=2, shift=shift, padding=(1, 1))
        levels = image_conv2d(
            x, filters, multiplier=2, shift=shift, padding=(1, 1), thresholds=Thresholds(low, np.zeros(16, bool))
        )
    assert np.array_equal(unpack(levels, 16), np.where(sums < low, -1, 1))


@pytest.mark.parametrize("name", available_backends())
@pytest.mark.parametrize("ternary", [False, True])
@pytest.mark.parametrize("taps", [63, 64, 65, 127, 128, 129])
def test_levels_where_sums_of_16_bits_end(name: str, taps: int, ternary: bool) -> None:
    levels = np.repeat([[1], [-1], [0 if ternary else 1]], 11, 0) * np.ones(taps, int)
    filters = Filters(pack_ternary(levels, low=0, high=1) if ternary else pack(levels), shape=(1, taps, 1))
    x = np.zeros((1, 3, taps + 2, 1), np.uint8)
    x[0, 0] = 255
    x[0, 1] = np.random.default_rng(taps).integers(0, 256, (taps + 2, 1))
    sums = 3 * loop(x, levels.reshape(33, 1, taps, 1), 1, 0, stride=(1, 1), padding=(0, 0), dilation=(1, 1))
    edges = 3 * 255 * taps * np.array([-1, 1])
    for limit in (*edges - 1, *edges, *edges + 1, 0, *(3 * 32767 * np.array([-1, 1])), 1 << 20, -(1 << 20)):
        low, high = np.full(33, limit, np.int32), np.full(33, limit + 2, np.int32)
        with forced(name):
            binary = image_conv2d(x, filters, multiplier=3, shift=0, thresholds=Thresholds(low, np.zeros(33, bool)))
            three = image_conv2d(
                x, filters, multiplier=3, shift=0, thresholds=Thresholds(low, np.zeros(33, bool), high)
            )
        assert np.array_equal(binary, pack(np.where(sums < low, -1, 1)))
        assert np.array_equal(unpack_ternary(three, 33), np.where(sums < low, -1, np.where(sums >= high, 1, 0)))


@pytest.mark.parametrize("name", available_backends())
def test_other_layouts(name: str) -> None:
    filters, _ = filters_and_levels((20, 3, 3, 3), ternary=False)
    x = np.random.default_rng(2).integers(0, 256, (2, 3, 6, 6), dtype=np.uint8)  # as torch has them
    with forced(name):
        strided = image_conv2d(x.transpose(0, 2, 3, 1), filters, multiplier=2, shift=-255)
        copied = image_conv2d(x.transpose(0, 2, 3, 1).copy(), filters, multiplier=2, shift=-255)
    assert np.array_equal(strided, copied)


@pytest.mark.parametrize("name", available_backends())
@pytest.mark.parametrize("shape", [(0, 3, 2, 2), (2, 3, 5, 7), (1, 1, 3, 3), (2, 4, 3, 1), (1, 17, 2, 3)])
def test_channels_last(name: str, shape: tuple[int, ...]) -> None:
    generator = np.random.default_rng(0)
    x = generator.integers(0, 256, shape, dtype=np.uint8)
    for images in (x, x[..., ::-1], x.astype(np.float32)):
        y = np.empty((shape[0], *shape[2:], shape[1]), images.dtype)
        with forced(name):
            channels_last(images, y)
        assert np.array_equal(y, images.transpose(0, 2, 3, 1))


@pytest.mark.parametrize("name", available_backends())
def test_what_does_not_fit_is_refused(name: str) -> None:
    filters, _ = filters_and_levels((4, 3, 3, 3), ternary=False)
    x = np.zeros((1, 4, 4, 3), np.uint8)
    scale: dict[str, Any] = {"multiplier": 1, "shift": 0}
    with forced(name):
        for wrong in (x.astype(np.int8), x[0], x[..., :2]):
            with pytest.raises(HypersignError, match=r"images must be uint8 \(N, H, W, 3\)"):
                image_conv2d(wrong, filters, **scale)
        with pytest.raises(HypersignError, match="at least as large as the window"):
            image_conv2d(x[:, :2], filters, **scale)
        with pytest.raises(HypersignError, match="multiplier must be an integer from -64 to 64"):
            image_conv2d(x, filters, multiplier=65, shift=0)
        with pytest.raises(HypersignError, match="could pass 2147483647"):
            image_conv2d(x, filters, multiplier=1, shift=2**30)
        with pytest.raises(HypersignError, match="thresholds' low must be"):
            image_conv2d(x, filters, thresholds=Thresholds(np.zeros(3, np.int32), np.zeros(3, bool)), **scale)
        with pytest.raises(HypersignError, match="threads must be an integer from 1 to 4096"):
            image_conv2d(x, filters, threads=0, **scale)
        grouped = Filters(pack(np.ones((4, 9))), shape=(3, 3, 1), groups=3 - 1)
        with pytest.raises(HypersignError, match="filters of one group"):
            image_conv2d(np.zeros((1, 4, 4, 2), np.uint8), grouped, **scale)
