"""Products of packed words: every back end gives the integers of a NumPy loop."""

import itertools
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hypersign._checks import HypersignError
from hypersign.bits import Filters, Thresholds, available_backends, reference
from hypersign.bits.backend import forced

COMPILED = available_backends()[1:]
AROUND_WORDS = [1, 2, 3, 7, 16, 31, 32, 33, 63, 64, 65, 97, 127, 128]


def packed(rng: np.random.Generator, shape: tuple[int, ...], ternary: bool) -> np.ndarray:
    """Random levels (..., n) as words, or planes."""
    values = rng.integers(-1, 2, shape) if ternary else rng.choice([-1, 1], shape)
    return reference.threshold(values, 0, 1 if ternary else None, False)


def random_filters(
    rng: np.random.Generator, filters: int, shape: tuple[int, int, int], groups: int = 1, ternary: bool = False
) -> Filters:
    return Filters(packed(rng, (filters, int(np.prod(shape))), ternary), shape=shape, groups=groups)


def random_thresholds(rng: np.random.Generator, filters: int, d: int, ternary: bool) -> Thresholds:
    """Thresholds near the sums' usual values, some on values that sums take and some beyond all."""
    spread = int(2 * d**0.5) + 1
    low = rng.integers(-spread, spread + 1, filters).astype(np.int32)
    low[rng.random(filters) < 0.1] = np.iinfo(np.int32).min
    low[rng.random(filters) < 0.1] = np.iinfo(np.int32).max
    high = np.where(low < 2**30, low + rng.integers(0, spread, filters), low).astype(np.int32) if ternary else None
    return Thresholds(low=low, high=high, flip=rng.random(filters) < 0.5)


def use_often(filters: Filters, x: np.ndarray, **options: Any) -> None:
    """Uses the filters until their LUT indices are written."""
    for name in COMPILED[1:]:
        with forced(name):
            for _ in range(16):
                filters.conv2d(x, **options)


def on_every_backend(filters: Filters, x: np.ndarray, **options: Any) -> np.ndarray:
    """The result of the reference, after comparing it with that of every compiled back end."""
    with forced("numpy"):
        expected = filters.conv2d(x, **options)
    for name, threads in itertools.product(COMPILED, (1, 3)):
        out = np.full(expected.shape, -1).astype(expected.dtype)  # all bits set
        with forced(name):
            found = filters.conv2d(x, **options, threads=threads, out=out)
        assert found.dtype == expected.dtype
        assert found.shape == expected.shape
        np.testing.assert_array_equal(found, expected, err_msg=name)
    return expected


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[Filters, np.ndarray, dict[str, Any]]:
    groups = draw(st.sampled_from([1, 1, 1, 2, 3, 8]))
    depth = draw(st.sampled_from(AROUND_WORDS[: 8 if groups > 3 else None]))
    per_group = draw(st.sampled_from([1, 2, 4, 15, 16, 17, 31, 32, 33, 64, 65, 129]))
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    padding = draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    dilation = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    least = [max(1, d * (k - 1) + 1 - 2 * p) for d, k, p in zip(dilation, kernel, padding, strict=True)]
    height, width = (draw(st.integers(low, low + 4)) for low in least)
    ternary_x, ternary_w = draw(st.booleans()), draw(st.booleans())
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    filters = random_filters(rng, groups * per_group, (*kernel, depth), groups, ternary_w)
    x = packed(rng, (draw(st.integers(0, 2)), height, width, groups * depth), ternary_x)
    options: dict[str, Any] = {
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "pad_value": draw(st.integers(0, 1)),
    }
    levels = draw(st.sampled_from([None, 2, 3]))
    if levels is not None:
        d = int(np.prod(kernel)) * depth
        options["thresholds"] = random_thresholds(rng, filters.filters, d, levels == 3)
    return filters, x, options


@settings(max_examples=150, deadline=None)
@given(convolutions())
def test_convolution(case: tuple[Filters, np.ndarray, dict[str, Any]]) -> None:
    filters, x, options = case
    on_every_backend(filters, x, **options)


@pytest.mark.parametrize("filters", [1, 8, 15, 16, 17, 24, 31, 32, 33])
@pytest.mark.parametrize("depth", [1, 5, 16, 17, 31, 32, 33, 35, 36])
def test_few_channels_and_filters(depth: int, filters: int) -> None:
    """Narrow layers with enough pixels for lookup tables: one pass or several, sums and levels."""
    rng = np.random.default_rng([depth, filters])
    x = packed(rng, (2, 6, 7, depth), ternary=False)
    for ternary in (False, True):
        narrow = random_filters(rng, filters, (3, 3, depth), ternary=ternary)
        on_every_backend(narrow, x, padding=(1, 1))
        for levels in (2, 3):
            thresholds = random_thresholds(rng, filters, 9 * depth, levels == 3)
            on_every_backend(narrow, x, padding=(1, 1), thresholds=thresholds)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([0, 1, 2, 5, 63, 64, 65, 130]),
    st.sampled_from([1, 10, 16, 31, 32, 33, 112, 128, 240]),
    st.sampled_from([*AROUND_WORDS, 255, 256, 257, 1000, 2049]),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_matmul(rows: int, filters: int, d: int, ternary_x: bool, ternary_w: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, w = packed(rng, (rows, d), ternary_x), packed(rng, (filters, d), ternary_w)
    values = (reference.ternary_levels if ternary_x else reference.levels)(x, d).astype(np.int64)
    weight = (reference.ternary_levels if ternary_w else reference.levels)(w, d).astype(np.int64)
    product = Filters(w, shape=(1, 1, d))
    for name in available_backends():
        with forced(name):
            np.testing.assert_array_equal(product.matmul(x), values @ weight.T, err_msg=name)


@pytest.mark.parametrize("ternary_w", [False, True])
@pytest.mark.parametrize("ternary_x", [False, True])
def test_extreme_counts(ternary_x: bool, ternary_w: bool) -> None:
    # All agree, or all disagree: no partial count overflows, of 8 bits or of 16.
    d = 70_000
    for sign in (-1, 1):
        x = reference.threshold(np.ones((3, d)), 0, 1 if ternary_x else None, False)
        w = reference.threshold(np.full((2, d), sign), 0, 1 if ternary_w else None, False)
        for name in available_backends():
            with forced(name):
                assert (Filters(w, shape=(1, 1, d)).matmul(x) == sign * d).all(), name


@pytest.mark.parametrize(
    ("rows", "filters", "d"),
    [
        *itertools.product([5], [128], [255, 256, 1000, 32_736, 32_737, 65_600]),  # tiles
        *itertools.product([26], [64], [255, 256, 1000, 32_736, 32_737, 65_600]),  # lookup-table passes
        *itertools.product([60], [384], [255, 256, 1000, 32_736, 40_000]),  # the same transposed
        *itertools.product([33], [500], [64, 255, 4096, 32_704, 32_705]),  # bit-sliced counting
    ],
)
@pytest.mark.parametrize("ternary_w", [False, True])
@pytest.mark.parametrize("ternary_x", [False, True])
def test_counts_where_8_and_16_bits_end(ternary_x: bool, ternary_w: bool, d: int, rows: int, filters: int) -> None:
    # Rows and filters of one sign have the largest counts and the least; each row is in a pair or the last one.
    rng = np.random.default_rng(d)
    pixels, columns = (rng.integers(-1, 2, (n, d)) for n in (rows, filters))
    pixels[:3] = columns[:3] = np.array([1, -1, 1])[:, None]
    x = reference.threshold(pixels[:, None, None], 0, 1 if ternary_x else None, False)
    words = reference.threshold(columns, 0, 1 if ternary_w else None, False)
    product = Filters(words, shape=(1, 1, d))
    use_often(product, x)
    sums = on_every_backend(product, x)
    assert sums.max() == d
    assert sums.min() == -d
    for levels in (False, True):
        on_every_backend(product, x, thresholds=random_thresholds(rng, filters, d, levels))


@pytest.mark.parametrize(
    ("shape", "kernel", "filters", "options"),
    [
        ((1, 2100, 1, 333), (1, 1), 130, {}),
        ((1, 1, 1500, 64), (1, 1), 33, {}),
        ((2, 2, 1100, 40), (1, 3), 70, {"padding": (0, 1)}),
        ((5, 9, 10, 130), (3, 3), 200, {"padding": (1, 1)}),
        ((2, 23, 31, 65), (3, 2), 129, {"padding": (2, 3), "dilation": (2, 3), "stride": (1, 2)}),
        ((3, 17, 19, 31), (2, 3), 17, {"padding": (1, 0), "stride": (2, 1), "pad_value": 1}),
        ((3, 12, 11, 35), (3, 3), 96, {"padding": (1, 1), "groups": 3}),
        ((70, 3, 3, 64), (3, 3), 64, {"padding": (1, 1)}),
    ],
)
def test_many_pixels(shape: tuple[int, ...], kernel: tuple[int, int], filters: int, options: dict[str, Any]) -> None:
    # More pixels than kernels take at a time: rows of the output, parts of rows, rows of several images.
    groups = options.get("groups", 1)
    options = {name: value for name, value in options.items() if name != "groups"}
    for ternary_x, ternary_w, levels in ((False, False, 2), (False, True, 3), (True, False, 3), (True, True, None)):
        rng = np.random.default_rng(filters)
        product = random_filters(rng, filters, (*kernel, shape[-1]), groups, ternary_w)
        x = packed(rng, (*shape[:-1], groups * shape[-1]), ternary_x)
        d = int(np.prod(kernel)) * shape[-1]
        thresholds = random_thresholds(rng, filters, d, levels == 3) if levels else None
        on_every_backend(product, x, thresholds=thresholds, **options)


@pytest.mark.parametrize(
    ("shape", "kernel", "filters", "options"),
    [
        ((1, 8, 8, 100), (3, 3), 385, {"padding": (1, 1)}),
        ((1, 8, 8, 64), (3, 3), 449, {"padding": (1, 1), "pad_value": 1}),
        ((4, 9, 7, 33), (3, 2), 512, {"padding": (1, 0), "stride": (2, 2), "dilation": (1, 3)}),
        ((1, 1, 58, 700), (1, 1), 480, {}),
        ((64, 1, 1, 1030), (1, 1), 2081, {}),
        ((1, 8, 8, 35), (3, 3), 768, {"padding": (1, 1), "groups": 2}),
        ((1, 8, 8, 32), (3, 3), 512, {"padding": (1, 1), "groups": 4}),
        ((59, 1, 1, 32_700), (1, 1), 400, {}),
        ((1, 4, 4, 64), (3, 3), 512, {"padding": (1, 1)}),
        ((3, 7, 5, 70), (3, 3), 384, {"padding": (2, 1), "stride": (1, 2)}),
        ((1, 6, 6, 33), (2, 3), 1000, {"padding": (0, 1), "dilation": (2, 1), "pad_value": 1}),
    ],
)
@pytest.mark.parametrize("ternary", [False, True])
def test_few_pixels_and_many_filters(
    shape: tuple[int, ...], kernel: tuple[int, int], filters: int, options: dict[str, Any], ternary: bool
) -> None:
    groups = options.get("groups", 1)
    options = {name: value for name, value in options.items() if name != "groups"}
    rng = np.random.default_rng(filters)
    product = random_filters(rng, filters, (*kernel, shape[-1]), groups, ternary)
    x = packed(rng, (*shape[:-1], groups * shape[-1]), ternary)
    d = int(np.prod(kernel)) * shape[-1]
    use_often(product, x, **options)
    for levels in (None, 2, 3):
        thresholds = random_thresholds(rng, filters, d, levels == 3) if levels else None
        on_every_backend(product, x, thresholds=thresholds, **options)


@pytest.mark.parametrize("multiplier", [1, 2])
@pytest.mark.parametrize("channels", [1, 31, 32, 33, 80])
def test_depthwise(channels: int, multiplier: int) -> None:
    rng = np.random.default_rng(channels)
    filters = random_filters(rng, multiplier * channels, (3, 3, 1), groups=channels)
    x = packed(rng, (2, 5, 6, channels), False)
    on_every_backend(filters, x, padding=(1, 1))
    on_every_backend(filters, x, padding=(1, 1), thresholds=random_thresholds(rng, filters.filters, 9, False))


def test_convolution_by_loops() -> None:
    # The reference against the definition, one multiplication at a time.
    rng = np.random.default_rng(0)
    filters = random_filters(rng, 4, (2, 3, 2), groups=2)
    levels = rng.choice([-1, 1], (1, 4, 5, 4))
    weight = filters.levels()
    stride, padding, dilation = (2, 1), (1, 2), (2, 1)
    for pad_value in (0, 1):
        sums = on_every_backend(
            filters,
            reference.threshold(levels, 0, None, False),
            stride=stride,
            padding=padding,
            dilation=dilation,
            pad_value=pad_value,
        )
        for h, w, f in itertools.product(*map(range, sums.shape[1:])):
            total = 0
            for i, j, c in itertools.product(range(2), range(3), range(2)):
                y, x = h * stride[0] + i * dilation[0] - padding[0], w * stride[1] + j * dilation[1] - padding[1]
                inside = 0 <= y < 4 and 0 <= x < 5
                total += (levels[0, y, x, f // 2 * 2 + c] if inside else pad_value) * int(weight[f, i, j, c])
            assert sums[0, h, w, f] == total


def test_bits_past_the_last_filter_are_zero() -> None:
    rng = np.random.default_rng(0)
    filters = random_filters(rng, 10, (1, 1, 64))
    x = packed(rng, (1, 3, 3, 64), False)
    flip = np.ones(10, bool)
    high = np.full(10, -10, np.int32)
    for thresholds in (Thresholds(low=high, flip=flip), Thresholds(low=high, high=high, flip=flip)):
        assert (on_every_backend(filters, x, thresholds=thresholds) >> np.uint64(10) == 0).all()


def test_no_filters() -> None:
    filters = Filters(np.empty((0, 1), np.uint64), shape=(1, 1, 5))
    x = packed(np.random.default_rng(0), (2, 3, 3, 5), False)
    assert on_every_backend(filters, x).shape == (2, 3, 3, 0)


def test_signs_of_zeros_do_not_count() -> None:
    rng = np.random.default_rng(0)
    x, w = packed(rng, (5, 70), True), packed(rng, (6, 70), True)
    noisy_x, noisy_w = x.copy(), w.copy()
    ones = np.array([~np.uint64(0), np.uint64(2**6 - 1)])
    noisy_x[0] |= ~x[1] & ones
    noisy_w[0] |= ~w[1] & ones
    for name in available_backends():
        with forced(name):
            clean = Filters(w, shape=(1, 1, 70)).matmul(x)
            np.testing.assert_array_equal(Filters(noisy_w, shape=(1, 1, 70)).matmul(noisy_x), clean, err_msg=name)


def test_arrays_that_do_not_lie_in_order() -> None:
    rng = np.random.default_rng(0)
    filters = random_filters(rng, 33, (3, 3, 70))
    x = packed(rng, (2, 5, 6, 70), False)
    shifted = np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(np.uint64).reshape(x.shape)
    assert not shifted.flags.aligned
    thresholds = random_thresholds(rng, 33, 630, False)
    spread = Thresholds(low=np.repeat(thresholds.low, 2)[::2], flip=np.repeat(thresholds.flip, 2)[::2])
    for name in available_backends():
        with forced(name):
            expected = filters.conv2d(x, thresholds=thresholds)
            for other in (shifted, np.asfortranarray(x), np.repeat(x, 2, axis=1)[:, ::2]):
                np.testing.assert_array_equal(filters.conv2d(other, thresholds=spread), expected, err_msg=name)


@pytest.mark.parametrize("name", available_backends())
def test_out(name: str) -> None:
    rng = np.random.default_rng(0)
    filters = random_filters(rng, 40, (1, 1, 33))
    x = packed(rng, (1, 2, 2, 33), False)
    thresholds = random_thresholds(rng, 40, 33, True)
    with forced(name):
        for options, dtype in (({}, np.int32), ({"thresholds": thresholds}, np.uint64)):
            expected = filters.conv2d(x, **options)  # type: ignore[arg-type]
            out = np.full(expected.shape, 255, dtype)
            assert filters.conv2d(x, **options, out=out) is out  # type: ignore[arg-type]
            np.testing.assert_array_equal(out, expected)
            for wrong in (out[..., :0], out.astype(np.float32), np.asfortranarray(np.repeat(out, 2, 1))[:, ::2]):
                with pytest.raises(HypersignError, match="out must be a writable"):
                    filters.conv2d(x, **options, out=wrong)  # type: ignore[arg-type]
            out.flags.writeable = False
            with pytest.raises(HypersignError, match="out must be a writable"):
                filters.conv2d(x, **options, out=out)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", available_backends())
def test_two_threads_at_once(name: str) -> None:
    rng = np.random.default_rng(0)
    cases = []
    for channels in (64, 96):
        filters = random_filters(rng, 64, (3, 3, channels))
        x = packed(rng, (2, 6, 6, channels), False)
        cases.append((filters, x, filters.conv2d(x, padding=(1, 1))))
    wrong = []

    def work(turn: int) -> None:
        for i in range(20):
            filters, x, expected = cases[(turn + i) % 2]
            if not np.array_equal(filters.conv2d(x, padding=(1, 1), threads=2), expected):
                wrong.append((turn, i))

    with forced(name):
        threads = [threading.Thread(target=work, args=(turn,)) for turn in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_bad_filters() -> None:
    for words, shape in (
        (np.zeros((2, 1), np.int64), (1, 1, 5)),
        (np.zeros((2, 2), np.uint64), (1, 1, 5)),
        (np.zeros((3, 2, 1), np.uint64), (1, 1, 5)),
        (np.zeros(1, np.uint64), (1, 1, 5)),
    ):
        with pytest.raises(HypersignError, match="must come as uint64 words"):
            Filters(words, shape=shape)
    with pytest.raises(HypersignError, match="divide into groups evenly"):
        Filters(np.zeros((3, 1), np.uint64), shape=(1, 1, 5), groups=2)
    with pytest.raises(HypersignError, match=r"fewer than 2\^30"):
        Filters(np.zeros((0, 2**24), np.uint64), shape=(1, 1, 2**30))


def test_bad_arguments() -> None:
    rng = np.random.default_rng(0)
    filters = random_filters(rng, 4, (3, 3, 5))
    x = packed(rng, (1, 4, 4, 5), False)
    good = random_thresholds(rng, 4, 45, False)
    for images in (x.astype(np.int64), x.view(np.float64), x[0], np.zeros((3, 1, 4, 4, 1), np.uint64), x[..., :0]):
        with pytest.raises(HypersignError, match="images of 5 channels must come as uint64 words"):
            filters.conv2d(images)
    for options, message in (
        ({"stride": (0, 1)}, r"stride\[0\] must be an integer >= 1"),
        ({"stride": 1}, "stride must be a pair"),
        ({"padding": (0, -1)}, r"padding\[1\] must be an integer >= 0"),
        ({"dilation": (2, 2)}, "must be at least as large as the window"),
        ({"pad_value": 2}, "pad_value must be an integer from 0 to 1"),
        ({"threads": 0}, "threads must be an integer from 1 to 4096"),
        ({"thresholds": Thresholds(low=good.low[:3], flip=good.flip[:3])}, "low must be one for each of 4 filters"),
    ):
        with pytest.raises(HypersignError, match=message):
            filters.conv2d(x, **options)  # type: ignore[arg-type]
    with pytest.raises(HypersignError, match="filters have one tap"):
        filters.matmul(x[0, 0])


def test_bad_thresholds() -> None:
    low, flip = np.zeros(4, np.int32), np.zeros(4, bool)
    for arrays, message in (
        ({"low": low.astype(np.int64), "flip": flip}, "low must be int32, one"),
        ({"low": low[0], "flip": flip}, "low must be int32, one"),
        ({"low": low[:, None], "flip": flip}, "low must be int32, one"),
        ({"low": low, "flip": low}, "flip must be bool, one"),
        ({"low": low, "flip": flip[:3]}, "flip must be bool, one"),
        ({"low": low, "flip": flip, "high": low[:1]}, "high must be int32, one"),
    ):
        with pytest.raises(HypersignError, match=message):
            Thresholds(**arrays)
