"""Passes over activations: the same bits on every back end and number of threads, close to NumPy in float64."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hypersign.bits import available_backends, pack
from hypersign.bits.backend import forced, native
from hypersign.bits.reference import unpack_bits
from hypersign.bits.words import pack_clipped

BACKENDS = [name for name in available_backends() if name != "numpy"]
needs_kernels = pytest.mark.skipif(not BACKENDS, reason="the compiled kernels are not installed")
Floats = NDArray[np.float32]


def at_a_vectors_boundary(*shape: int, dtype: Any = np.float32) -> NDArray[Any]:
    """An array that starts at a multiple of 64 bytes: large ones are written past the caches."""
    raw = np.zeros(int(np.prod(shape)) * np.dtype(dtype).itemsize + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : raw.size - 64 + start].view(dtype).reshape(shape)


def same_everywhere(compute: Callable[[int], tuple[Floats, ...]]) -> tuple[Floats, ...]:
    """What `compute(threads)` gives, after comparing back ends and threads bit by bit."""
    found = []
    for name in BACKENDS:
        for threads in (1, 3):
            with forced(name):
                found.append(compute(threads))
    for other in found[1:]:
        assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(found[0], other, strict=True))
    return found[0]


@needs_kernels
@pytest.mark.parametrize(("rows", "channels"), [(1, 3), (2, 1), (63, 65), (129, 16), (300, 33), (9000, 2)])
@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm(rows: int, channels: int, affine: bool) -> None:
    rng = np.random.default_rng(rows)
    x, g = (rng.normal(3, 2, (rows, channels)).astype(np.float32) for _ in range(2))
    g -= 3
    x[:, 0] = 100 + x[:, 0] / 4  # a mean far above the spread
    weight, bias = (rng.normal(size=channels).astype(np.float32) if affine else None for _ in range(2))

    def forward(threads: int) -> tuple[Floats, ...]:
        y, (mean, variance, inverse) = np.empty_like(x), np.empty((3, channels), np.float32)
        native().batch_norm(x, weight, bias, 1e-3, y, mean, variance, inverse, threads)
        return y, mean, variance, inverse

    y, mean, variance, inverse = same_everywhere(forward)
    exact = x.astype(np.float64)
    centred = exact - exact.mean(0)
    deviation = np.sqrt(exact.var(0) + 1e-3)
    scale = np.ones(channels) if weight is None else weight.astype(np.float64)
    assert np.allclose(mean, exact.mean(0), rtol=1e-6)
    assert np.allclose(variance, exact.var(0), rtol=1e-5, atol=1e-6)
    assert np.allclose(inverse, 1 / deviation, rtol=1e-5)
    expected = centred / deviation * scale + (0 if bias is None else bias)
    # the mean is rounded to float32
    assert np.all(abs(y - expected) < 1e-5 * (1 + abs(expected)) + abs(scale * mean / deviation) * 2.0**-23)

    def backward(threads: int) -> tuple[Floats, ...]:
        to_x, (to_weight, to_bias) = np.empty_like(x), np.empty((2, channels), np.float32)
        native().batch_norm_gradient(g, x, weight, mean, inverse, to_x, to_weight, to_bias, threads)
        return to_x, to_weight, to_bias

    to_x, to_weight, to_bias = same_everywhere(backward)
    gradient, unit = g.astype(np.float64), centred / deviation
    assert np.allclose(to_bias, gradient.sum(0), rtol=1e-5, atol=1e-4 * np.sqrt(rows))
    assert np.allclose(to_weight, (gradient * unit).sum(0), rtol=1e-4, atol=1e-3 * np.sqrt(rows))
    expected = (gradient - gradient.mean(0) - unit * (gradient * unit).mean(0)) * scale / deviation
    assert np.allclose(to_x, expected, rtol=1e-3, atol=1e-3 * abs(expected).max() + 1e-6)


@needs_kernels
@pytest.mark.parametrize(
    ("rows", "channels"), [(1, 3), (2, 1), (63, 65), (129, 16), (300, 47), (9000, 2), (16385, 16)]
)
def test_two_slopes(rows: int, channels: int) -> None:
    rng = np.random.default_rng(rows)
    x, g = rng.normal(0.5, 2, (2, rows, channels)).astype(np.float32)
    before, left, right, after = pieces = rng.normal(size=(4, channels)).astype(np.float32)
    x.flat[0], x.flat[-1] = -before[0], np.float32(-0.0)  # u = 0
    before[-1] = np.float32(-0.0)

    def forward(threads: int) -> tuple[Floats, ...]:
        y = at_a_vectors_boundary(rows, channels)
        native().two_slopes(x, *pieces, y, threads)
        return (y,)

    (y,) = same_everywhere(forward)
    u = x + before
    assert np.array_equal(y, np.where(u > 0, right, left) * u + after)  # float32, one rounding after the other

    def backward(threads: int) -> tuple[Floats, ...]:
        to_x, to_pieces = at_a_vectors_boundary(rows, channels), np.empty((4, channels), np.float32)
        native().two_slopes_gradient(g, x, before, left, right, to_x, to_pieces, threads)
        return to_x, to_pieces

    to_x, to_pieces = same_everywhere(backward)
    assert np.array_equal(to_x, g * np.where(u > 0, right, left))
    product = g.astype(np.float64) * u
    expected = to_x.astype(np.float64), np.minimum(u, 0) * g.astype(np.float64), np.where(u > 0, product, 0), g
    for found, terms in zip(to_pieces, expected, strict=True):
        assert np.all(abs(found - terms.sum(0, dtype=np.float64)) <= 1e-5 * abs(terms).sum(0) + 1e-12)


@needs_kernels
def test_two_slopes_of_nan() -> None:
    x, one, y = np.full((3, 17), np.nan, np.float32), np.ones(17, np.float32), np.zeros((3, 17), np.float32)
    for name in BACKENDS:
        with forced(name):
            native().two_slopes(x, one, one, one, one, y, 1)
        assert np.isnan(y).all()


@needs_kernels
def test_the_gradient_of_a_large_max_pool() -> None:
    rng = np.random.default_rng(0)
    place = rng.integers(0, 4, (64, 16, 16, 32), dtype=np.uint8)
    g = rng.normal(size=place.shape).astype(np.float32)

    def backward(threads: int) -> tuple[Floats, ...]:
        to_x = at_a_vectors_boundary(64, 32, 32, 32)
        native().max_pool_floats_gradient(g, place, to_x, (2, 2), threads)
        return (to_x,)

    (to_x,) = same_everywhere(backward)
    for k in range(4):
        assert np.array_equal(to_x[:, k // 2 :: 2, k % 2 :: 2], np.where(place == k, g, 0))


@needs_kernels
@pytest.mark.parametrize("channels", [1, 15, 16, 33])
@pytest.mark.parametrize("window", [(2, 2), (3, 2), (1, 5)])
@pytest.mark.parametrize("ceil", [True, False])
def test_max_pool(channels: int, window: tuple[int, int], ceil: bool) -> None:
    rng = np.random.default_rng(channels)
    x = rng.integers(-2, 3, (2, 7, 5, channels)).astype(np.float32)  # many equal maxima: the first one counts
    x[0, 0, 0, 0] = np.nan
    out = [-(-n // k) if ceil else n // k for n, k in zip(x.shape[1:3], window, strict=True)]
    g = rng.normal(size=(2, *out, channels)).astype(np.float32)

    def both(threads: int) -> tuple[Floats, ...]:
        y, place, to_x = np.empty_like(g), np.empty(g.shape, np.uint8), np.full_like(x, 7)
        native().max_pool_floats(x, y, place, window, threads)
        native().max_pool_floats_gradient(g, place, to_x, window, threads)
        return y, to_x

    y, to_x = same_everywhere(both)
    expected = np.zeros_like(x)
    for n, i, j, c in np.ndindex(*g.shape):
        part: Any = np.s_[n, i * window[0] : (i + 1) * window[0], j * window[1] : (j + 1) * window[1], c]
        assert y[n, i, j, c] == x[part].max() or np.isnan(x[part].max())
        first = np.unravel_index(np.argmax(x[part]), x[part].shape)
        expected[part][first] = g[n, i, j, c]
    assert np.array_equal(to_x, expected)


@pytest.mark.parametrize("n", [1, 15, 16, 63, 64, 65, 130])
def test_pack_clipped(n: int) -> None:
    x = np.random.default_rng(n).normal(size=(3, n)).astype(np.float32)
    x.flat[:3] = 0.8, -0.8, -0.0
    for name in available_backends():
        for threads in (1, 3):
            with forced(name):
                signs, inside = pack_clipped(x, 0.8, threads)
            assert np.array_equal(signs, pack(x)), name
            assert np.array_equal(unpack_bits(inside, n), abs(x) < np.float32(0.8)), name
            assert not unpack_bits(inside, 64 * inside.shape[-1])[:, n:].any()


def test_pack_clipped_of_nan() -> None:
    for name in available_backends():
        with forced(name):
            signs, inside = pack_clipped(np.full((1, 3), np.nan, np.float32), 1.0)
        assert not signs.any()
        assert not inside.any()


@needs_kernels
@pytest.mark.parametrize("n", [0, 1, 15, 16, 63, 65, 16384, 40001])
def test_adam(n: int) -> None:
    rng = np.random.default_rng(n)
    g, w, m, v = rng.normal(size=(4, n)).astype(np.float32)
    v **= 2
    clip, decay, shrink, first, keep, second, step, correction, epsilon, limit = (
        np.float32(x) for x in (0.9, 0.02, 0.97, 0.1, 0.95, 0.05, 0.3, 1.7, 1e-3, 1.1)
    )

    def update(threads: int) -> tuple[Floats, ...]:
        numbers = w.copy(), m.copy(), v.copy()
        options = (float(x) for x in (clip, decay, shrink, first, keep, second, step, correction, epsilon, limit))
        square = native().adam(g, *numbers, *options, threads)
        assert np.isclose(square, native().sum_of_squares(numbers[0], threads), rtol=1e-6)
        return (*numbers, np.array([square], np.float32))

    w2, m2, v2, square = same_everywhere(update)
    wide = g.astype(np.float64).clip(-clip, clip) + decay * w
    moment = m + (wide - m) * first
    spread = v * float(keep) + wide**2 * second
    expected = (w * float(shrink) - moment * step / (np.sqrt(spread) * correction + epsilon)).clip(-limit, limit)
    assert np.allclose(m2, moment, rtol=1e-6, atol=1e-7)
    assert np.allclose(v2, spread, rtol=1e-6)
    assert np.allclose(w2, expected, rtol=1e-5, atol=1e-6)
    assert np.isclose(square[0], (expected**2).sum(), rtol=1e-5)


@needs_kernels
@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_adam_of_what_is_not_finite(broken: float) -> None:
    for limit in (1.0, np.inf):
        w, g, m = np.ones((3, 20), np.float32)
        w[17] = broken
        square = native().adam(g, w, m, np.ones_like(w), np.inf, 0, 1, 0.1, 0.9, 0.1, 0.1, 1, 1e-8, limit, 1)
        assert not np.isfinite(square)
        assert np.isfinite(np.delete(w, 17)).all()
