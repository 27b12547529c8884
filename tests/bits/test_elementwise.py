"""Programs of elementwise operations and pools of real numbers: the same bits as NumPy, on every back end."""

from typing import Any

import numpy as np
import pytest

from hypersign import bits
from hypersign.bits import available_backends, reference
from hypersign.bits.backend import forced, native

BACKENDS = [name for name in available_backends() if name != "numpy"]
pytestmark = pytest.mark.skipif(not BACKENDS, reason="the compiled kernels are not installed")


def reals(generator: np.random.Generator, *shape: int) -> np.ndarray[Any, Any]:
    return generator.standard_normal(shape, dtype=np.float32)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("channels", [1, 3, 16, 63, 64, 65, 300])
@pytest.mark.parametrize("pixels", [0, 1, 63, 64, 65, 1000])
def test_every_operation_is_numpys(name: str, pixels: int, channels: int) -> None:
    generator = np.random.default_rng(pixels + channels)
    a, b = reals(generator, pixels, channels), reals(generator, pixels, channels)
    whole = generator.integers(-500, 500, (pixels, channels)).astype(np.int32)
    byte = generator.integers(0, 256, (pixels, channels)).astype(np.uint8)
    one = reals(generator, pixels, 1)
    scale, shift, low = (reals(generator, channels) for _ in range(3))
    high, flip = low + 1, generator.random(channels) < 0.5
    out = {key: np.full((pixels, channels), np.nan, np.float32) for key in ("int", "byte", "sum", "clip", "outer")}
    words = -(-channels // 64)
    binary, ternary = np.empty((pixels, words), np.uint64), np.empty((2, pixels, words), np.uint64)
    with forced(name):
        program = native().Elementwise(pixels)
        x, y = program.array(a, channels, 0), program.array(b, channels, 0)
        spare = program.scratch(channels)
        program.affine(program.output(out["int"], channels), program.array_int32(whole, channels), scale, shift)
        program.affine(program.output(out["byte"], channels), program.array_uint8(byte, channels), scale, shift)
        program.affine(spare, x, scale, shift)
        program.add(spare, spare, y)
        program.clip(program.output(out["clip"], channels), spare, -0.5, 0.75)
        program.clip(program.output(out["sum"], channels), spare, -np.inf, np.inf)
        program.outer(program.output(out["outer"], channels), program.array(one, 1, 0), scale)
        flips = reference.pack_bits(flip)
        program.levels(program.words(binary, channels, False), spare, low, None, flips)
        program.levels(program.words(ternary, channels, True), spare, low, high, flips)
        call = program.call()
        for threads in (1, 3):
            call(threads)
    summed = (a * scale + shift) + b
    assert np.array_equal(out["int"], whole.astype(np.float32) * scale + shift)
    assert np.array_equal(out["byte"], byte.astype(np.float32) * scale + shift)
    assert np.array_equal(out["sum"], summed)
    assert np.array_equal(out["clip"], np.clip(summed, np.float32(-0.5), np.float32(0.75)))
    assert np.array_equal(out["outer"], one * scale)
    assert np.array_equal(binary, reference.threshold(summed, low, None, flip))
    assert np.array_equal(ternary, reference.threshold(summed, low, high, flip))


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 2), (9, 8)])
def test_an_array_that_repeats_is_added_to_every_image(name: str, height: int, width: int) -> None:
    generator = np.random.default_rng(0)
    images, channels = 5, 20
    x, each = reals(generator, images, height, width, channels), reals(generator, 1, height, width, channels)
    y = np.empty_like(x)
    with forced(name):
        program = native().Elementwise(images * height * width)
        repeated = program.array(each, channels, height * width)
        program.add(program.output(y, channels), program.array(x, channels, 0), repeated)
        program.call()(2)
        with pytest.raises(ValueError, match="to write to"):
            program.add(repeated, repeated, repeated)
    assert np.array_equal(y, x + each)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("filters", [1, 63, 64, 65])
@pytest.mark.parametrize("size", [(1, 1), (7, 9), (4, 33)])
def test_sums_of_a_product_never_reach_memory(name: str, filters: int, size: tuple[int, int]) -> None:
    """Two products of the same inputs in one, as the planes of a weight: s1 a1 + s2 a2."""
    generator = np.random.default_rng(filters)
    x = bits.pack(reals(generator, 3, *size, 40))
    levels = [reals(generator, filters, 9 * 40) for _ in range(2)]
    scales, zeros = reals(generator, 2, filters), np.zeros(filters, np.float32)
    options: dict[str, Any] = {"padding": (1, 1)}
    with forced("numpy"):
        sums = [bits.Filters(bits.pack(part), shape=(3, 3, 40)).conv2d(x, **options) for part in levels]
    expected = sums[0].astype(np.float32) * scales[0] + sums[1].astype(np.float32) * scales[1]
    y = np.empty((3, *size, filters), np.float32)
    with forced(name):
        both = bits.Filters(bits.pack(np.concatenate(levels)), shape=(3, 3, 40))._kernels()
        program = native().Elementwise(y[..., 0].size)
        parts = [program.scratch(filters) for _ in range(2)]
        for i in range(2):
            program.affine(parts[i], program.product(i * filters, filters), scales[i], zeros)
        program.add(program.output(y, filters), *parts)
        with pytest.raises(ValueError, match="without a product"):
            program.call()
        call = program.call_after(both, x, size, (1, 1), (1, 1), (1, 1), 0)
        for threads in (1, 3):
            y.fill(np.nan)
            call(threads)
            assert np.array_equal(y, expected)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("channels", [16, 20, 32, 48, 64, 80, 144])
@pytest.mark.parametrize("ending", ["rprelu", "rprelu read twice", "none"])
@pytest.mark.parametrize("levels", [True, False])
def test_the_end_of_a_residual_block(name: str, channels: int, ending: str, levels: bool) -> None:
    """Batch norm, shortcut, RPReLU and levels are one loop on some back ends; a value that others read stays."""
    generator = np.random.default_rng(channels)
    pixels = 37
    filters = bits.Filters(bits.pack(reals(generator, channels + 3, 70)), shape=(1, 1, 70))
    x, shortcut = bits.pack(reals(generator, 1, 1, pixels, 70)), reals(generator, pixels, channels)
    shortcut[0, :4] = 0, -0.0, np.inf, -np.inf
    rows = reals(generator, 8, channels)
    rows[2], rows[3, :5] = 1, (0, -0.0, 1, -1, 0.5)
    low = reals(generator, channels)
    flip, words = generator.random(channels) < 0.5, np.zeros((pixels, -(-channels // 64)), np.uint64)
    y, twice = (np.full((pixels, channels), np.nan, np.float32) for _ in range(2))
    with forced("numpy"):
        sums = filters.matmul(x[0, 0])[:, 3:]
    expected = (sums.astype(np.float32) * rows[0] + rows[1]) + shortcut
    if ending != "none":
        before = expected * rows[2] + rows[3]
        right = np.maximum(before, np.float32(0)) * rows[4] + rows[5]
        expected = right + (np.minimum(before, np.float32(0)) * rows[6] + rows[7])
    with forced(name):
        program = native().Elementwise(pixels)
        output, a, b, c = program.output(y, channels), *(program.scratch(channels) for _ in range(3))
        last = output if ending == "none" else a
        program.affine(last, program.product(3, channels), rows[0], rows[1])
        program.add(last, last, program.array(shortcut, channels, 0))
        if ending != "none":
            program.affine(b, a, rows[2], rows[3])
            program.clip(c, b, 0, np.inf)
            program.affine(c, c, rows[4], rows[5])
            program.clip(a, b, -np.inf, 0)
            program.affine(a, a, rows[6], rows[7])
            program.add(output, c, a)
        if levels:
            program.levels(program.words(words, channels, False), output, low, None, reference.pack_bits(flip))
        if ending == "rprelu read twice":
            program.clip(program.output(twice, channels), b, -np.inf, np.inf)
        call = program.call_after(filters._kernels(), x, (1, pixels), (1, 1), (0, 0), (1, 1), 0)
        for threads in (1, 3):
            call(threads)
            assert y.tobytes() == expected.tobytes()
            assert not levels or np.array_equal(words, reference.threshold(expected, low, None, flip))
            assert ending != "rprelu read twice" or np.array_equal(twice, before)
        shortcut[36, channels - 1] = np.nan
        if levels:
            with pytest.raises(ValueError, match="NaN, which has no sign"):
                call(1)


@pytest.mark.parametrize("name", BACKENDS)
def test_the_level_of_nan_is_an_error(name: str) -> None:
    x, words = np.zeros((70, 70), np.float32), np.empty((70, 2), np.uint64)
    with forced(name):
        program = native().Elementwise(70)
        zeros, flip = np.zeros(70, np.float32), np.zeros(2, np.uint64)
        program.levels(program.words(words, 70, False), program.array(x, 70, 0), zeros, None, flip)
        call = program.call()
        call(1)
        x[69, 69] = np.nan
        with pytest.raises(ValueError, match="NaN, which has no sign"):
            call(2)
        x[69, 69] = 0
        call(1)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("channels", [1, 16, 65])
def test_pools(name: str, channels: int) -> None:
    x = reals(np.random.default_rng(0), 2, 7, 5, channels)
    y = np.empty((2, 4, 3, channels), np.float32)
    divisors = np.arange(1, 13, dtype=np.float32).reshape(4, 3)
    window = (3, 3), (2, 2), (1, 1)
    padded = {fill: np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=fill) for fill in (0, -np.inf)}

    def windows(values: Any) -> list[Any]:
        return [values[:, i : i + 7 : 2, j : j + 5 : 2] for i in range(3) for j in range(3)]

    with forced(name):
        native().real_pool(x, y, *window, None)(2)
        assert np.array_equal(y, np.max(windows(padded[-np.inf]), 0))
        native().real_pool(x, y, *window, divisors)(1)
        total = 0
        for part in windows(padded[0]):  # in this order
            total = total + part
        assert np.array_equal(y, total / divisors[:, :, None])
        x[0, 3, 3, -1] = np.nan
        native().real_pool(x, y, *window, None)(1)
        assert np.isnan(y[0, 1:3, 1:, -1]).all()
        assert not np.isnan(y[1]).any()
