"""Real layers: the same bits on every back end, in any batch, and close to exact sums."""

from typing import Any

import numpy as np
import pytest

from hypersign._checks import HypersignError
from hypersign.bits import available_backends, real_conv2d, real_matmul
from hypersign.bits.backend import forced
from hypersign.bits.real import planned_affine

CASES = [
    ((2, 6, 5, 3), (8, 3, 3, 3), {"padding": (1, 1)}),
    ((1, 7, 7, 8), (33, 3, 2, 8), {"stride": (2, 1), "padding": (1, 0)}),
    ((2, 5, 5, 16), (16, 1, 1, 16), {"stride": (2, 2)}),
    ((1, 9, 8, 6), (12, 3, 3, 2), {"groups": 3, "dilation": (2, 2), "padding": (2, 2)}),
    ((1, 4, 4, 5), (5, 3, 3, 1), {"groups": 5, "padding": (1, 1)}),
    ((1, 1, 1, 65), (31, 1, 1, 65), {}),
    ((1, 8, 8, 3), (17, 8, 8, 3), {}),
    ((0, 4, 4, 2), (3, 3, 3, 2), {}),
    # wide rows, whose patches are read from the image
    ((2, 18, 17, 3), (20, 3, 3, 3), {"padding": (1, 1)}),
    ((1, 5, 40, 2), (16, 3, 2, 2), {"stride": (2, 2), "padding": (3, 4), "dilation": (2, 1)}),
    ((1, 3, 16, 70), (3, 2, 1, 70), {"padding": (0, 2)}),
    ((1, 30, 64, 80), (2, 5, 3, 80), {"padding": (2, 1)}),
]


@pytest.mark.parametrize(("image", "shape", "options"), CASES)
def test_convolution(image: tuple[int, ...], shape: tuple[int, ...], options: dict[str, Any]) -> None:
    import torch

    generator = np.random.default_rng(0)
    x = generator.standard_normal(image).astype(np.float32)
    weight = generator.standard_normal(shape).astype(np.float32)
    bias = generator.standard_normal(shape[0]).astype(np.float32)
    exact = torch.nn.functional.conv2d(
        torch.from_numpy(x).double().permute(0, 3, 1, 2),
        torch.from_numpy(weight).double().permute(0, 3, 1, 2),
        torch.from_numpy(bias).double(),
        **options,
    )
    with forced("numpy"):
        expected = real_conv2d(x, weight, bias=bias, **options)
    assert expected.dtype == np.float32
    np.testing.assert_allclose(expected, exact.permute(0, 2, 3, 1).numpy(), rtol=1e-7, atol=1e-12)
    for name in available_backends():
        with forced(name):
            for threads in (1, 3):
                y = real_conv2d(x, weight, bias=bias, threads=threads, **options)
                assert np.array_equal(y, expected)  # to the last bit
            if len(x):
                assert np.array_equal(real_conv2d(x[-1:], weight, bias=bias, **options), expected[-1:])
            assert np.array_equal(real_conv2d(x, weight, **options), real_conv2d(x, weight, bias=0 * bias, **options))


@pytest.mark.parametrize("rows", [0, 1, 7, 8, 9, 63, 64, 65])
def test_rows_do_not_depend_on_their_batch(rows: int) -> None:
    generator = np.random.default_rng(rows)
    x = generator.standard_normal((rows, 127)).astype(np.float32)
    weight = generator.standard_normal((10, 127)).astype(np.float32)
    bias = generator.standard_normal(10).astype(np.float32)
    exact = x.astype(np.float64) @ weight.T.astype(np.float64) + bias
    for name in available_backends():
        with forced(name):
            y = real_matmul(x, weight, bias, threads=2)
            assert y.shape == (rows, 10)
            np.testing.assert_allclose(y, exact, rtol=1e-7, atol=1e-12)
            for i in range(rows):
                assert np.array_equal(real_matmul(x[i : i + 1], weight, bias)[0], y[i])


@pytest.mark.parametrize("name", available_backends())
def test_cancelling_sums_are_exact(name: str) -> None:
    """1e8 + 1 - 1e8 is 0 in float32."""
    x = np.array([[1e8, 1.0, -1e8]], np.float32)
    with forced(name):
        assert real_matmul(x, np.ones((1, 3), np.float32)).tolist() == [[1.0]]


@pytest.mark.parametrize("name", available_backends())
def test_infinite_and_nan_numbers_pass_through(name: str) -> None:
    x = np.array([[np.inf, 1.0], [np.nan, 1.0], [3e38, 3e38]], np.float32)
    with forced(name):
        y = real_matmul(x, np.ones((1, 2), np.float32))
    assert np.array_equal(y[:, 0], [np.inf, np.nan, np.inf], equal_nan=True)


@pytest.mark.parametrize("name", available_backends())
@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.float32])
@pytest.mark.parametrize("shape", [(0, 1, 1, 3), (1, 1, 1, 10), (3, 5, 7, 16), (2, 3, 1, 255), (1, 9, 1, 257)])
def test_affine_rounds_the_product_and_the_sum(name: str, dtype: type[Any], shape: tuple[int, ...]) -> None:
    generator = np.random.default_rng(0)
    x = (generator.standard_normal(shape) * 2**28).astype(dtype)
    scale, shift = generator.standard_normal((2, shape[-1])).astype(np.float32)
    shift *= np.float32(2**29)  # so that a product that is not rounded shows
    product = x.astype(np.float32).astype(np.float64) * scale
    expected = (product.astype(np.float32).astype(np.float64) + shift).astype(np.float32)
    y = np.empty(shape, np.float32)
    for threads in (1, 3):
        y.fill(np.nan)
        with forced(name):
            planned_affine(scale, shift)(x, y)(threads)
        assert np.array_equal(y, expected)
    if y.size > 100:
        assert not np.array_equal(y, (product + shift).astype(np.float32))


@pytest.mark.parametrize("name", available_backends())
def test_other_layouts(name: str) -> None:
    generator = np.random.default_rng(0)
    x = generator.standard_normal((2, 3, 6, 6)).astype(np.float32).transpose(0, 2, 3, 1)
    weight = generator.standard_normal((4, 3, 3, 3)).astype(np.float32).transpose(0, 2, 3, 1)
    with forced(name):
        assert np.array_equal(real_conv2d(x, weight), real_conv2d(x.copy("C"), weight.copy("C")))


@pytest.mark.parametrize("name", available_backends())
def test_what_does_not_fit_is_refused(name: str) -> None:
    x, weight = np.zeros((1, 4, 4, 2), np.float32), np.zeros((4, 3, 3, 2), np.float32)
    cases: list[tuple[Any, Any, dict[str, Any], str]] = [
        (x.astype(np.float64), weight, {}, "must be float32; got float64"),
        (x[0], weight, {}, "must be float32"),
        (x, weight[..., :1], {}, "must fit images of 2 channels in 1 groups"),
        (x, weight[..., :1], {"groups": 3}, "must fit images of 2 channels in 3 groups"),
        (x, weight[:3, ..., :1], {"groups": 2}, "in 2 groups"),
        (x, weight, {"bias": [1.0]}, r"bias must be \(4,\)"),
        (x[:, :2], weight, {}, "at least as large as the window"),
        (x, weight, {"stride": (1, 0)}, r"stride\[1\] must be"),
    ]
    with forced(name):
        for images, filters, options, message in cases:
            with pytest.raises(HypersignError, match=message):
                real_conv2d(images, filters, **options)
        with pytest.raises(HypersignError, match=r"real_matmul multiplies \(M, d\)"):
            real_matmul(x[0, 0], weight[0, 0, :, :1])
