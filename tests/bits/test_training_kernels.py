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
