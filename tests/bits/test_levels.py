import math

import numpy as np
import pytest

from hypersign._checks import HypersignError
from hypersign.bits import (
    LevelCode,
    available_backends,
    forced,
    level_dots,
    level_topk,
    nearest_levels,
    pack_levels,
    unpack_levels,
)
from hypersign.bits.levels import LEVELS
from hypersign.hashing.levels import encode, quantize_queries

BITS = tuple(LEVELS)
COMPILED = available_backends()[1:]


def some(code, queries, rows, seed=0, more=8):
    """Queries, indices of levels, and packed rows with random numbers behind them."""
    random = np.random.default_rng(seed)
    x = random.integers(-127, 128, (queries, code.count)).astype(np.int8)
    indices = random.integers(0, len(code.levels), (rows, code.count)).astype(np.uint8)
    factors = random.standard_normal((rows, more // 4)).astype("<f4")
    return x, indices, np.concatenate([pack_levels(indices, code), factors.view(np.uint8)], axis=1)


@pytest.mark.parametrize("backend", available_backends())
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("count", [1, 2, 3, 5, 31, 63, 64, 65, 128, 300])
def test_dots_are_exact(backend, bits, count):
    code = LevelCode(bits, count)
    for queries, rows in ((0, 3), (1, 0), (1, 1), (3, 17), (5, 130), (13, 131), (26, 40)):
        x, indices, packed = some(code, queries, rows, seed=rows)
        expected = x.astype(np.int64) @ code.levels[indices].T.astype(np.int64)
        with forced(backend):
            for each in (packed, packed[:, : code.width]):
                found = level_dots(x, np.ascontiguousarray(each), code)
                assert found.dtype == np.int32
                np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("backend", COMPILED)
@pytest.mark.parametrize("bits", BITS)
def test_the_largest_sums_fit(backend, bits):
    code = LevelCode(bits, 2**16)
    top = np.full((1, 2**16), len(code.levels) - 1, np.uint8)
    rows = pack_levels(np.concatenate([top, 0 * top]), code)
    x = np.repeat(np.array([[127], [-127]], np.int8), 2**16, axis=1)
    with forced(backend):
        found = level_dots(x, rows, code)
    largest = 2**16 * int(code.levels[-1])
    assert found.tolist() == [[127 * largest, -127 * largest], [-127 * largest, 127 * largest]]


@pytest.mark.parametrize("backend", COMPILED)
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("threads", [1, 3])
def test_the_best_scores_are_those_of_numpy(backend, bits, threads):
    for count, queries, n, k in (
        (1, 2, 9, 9),
        (64, 13, 300, 10),
        (65, 5, 10000, 64),
        (40, 1, 9000, 1),
        (7, 30, 1, 1),
    ):
        code = LevelCode(bits, count)
        x, _, rows = some(code, queries, n, seed=n, more=12)
        steps = np.random.default_rng(1).random(queries).astype(np.float32)
        allowed = np.random.default_rng(2).random(n) < 0.5
        for mask in (None, allowed) if allowed.sum() >= k else (None,):
            with forced("numpy"):
                scores, indices = level_topk(x, steps, rows, code, k, allowed=mask)
            with forced(backend):
                found = level_topk(x, steps, rows, code, k, allowed=mask, threads=threads)
            np.testing.assert_array_equal(found[0], scores)
            np.testing.assert_array_equal(found[1], indices)


@pytest.mark.parametrize("backend", available_backends())
def test_equal_scores_and_numbers_that_are_none(backend):
    code = LevelCode(2, 64)
    x, _, rows = some(code, 3, 500)
    rows[:] = rows[:1]
    numbers = np.zeros((500, 2), "<f4")
    numbers[:, 1] = np.random.default_rng(0).choice([0.0, -0.0, 1.0, -math.inf, math.inf, math.nan], 500)
    rows[:, code.width :] = numbers.view(np.uint8)
    with forced(backend):
        scores, indices = level_topk(x, np.ones(3, np.float32), rows, code, 500)
        few = level_topk(x, np.ones(3, np.float32), rows, code, 7)
    order = np.argsort(numbers[:, 1], kind="stable")
    for row in range(3):
        np.testing.assert_array_equal(indices[row], order)
        np.testing.assert_array_equal(scores[row], numbers[order, 1])
        np.testing.assert_array_equal(few[1][row], order[:7])


@pytest.mark.parametrize("backend", COMPILED)
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_levels_of_rows_are_those_of_numpy(backend, bits, dtype):
    random = np.random.default_rng(0)
    for count in (1, 7, 64, 65, 257, 768):
        code = LevelCode(bits, count)
        rows = random.standard_normal((60, count)) * random.choice([1e-30, 1, 1e20], (60, 1))
        rows[:30] = np.round(3 * random.standard_normal((30, count)))  # many components at thresholds
        rows[0], rows[1], rows[2] = 0, 1, -1
        factors = np.sort(random.standard_normal((5, len(code.levels) - 1)), axis=1)
        with forced("numpy"):
            expected = nearest_levels(rows.astype(dtype), code, factors)
        with forced(backend):
            found = nearest_levels(rows.astype(dtype), code, factors, threads=2)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("bits", BITS)
def test_every_byte_can_be_scanned(bits):
    """Damaged rows may hold bytes that no packing makes, as 255 in base 3; all back ends read them alike."""
    code = LevelCode(bits, 40)
    rows = np.random.default_rng(0).integers(0, 256, (256, code.width)).astype(np.uint8)
    rows[:, 0] = np.arange(256)
    x = np.random.default_rng(1).integers(-127, 128, (2, 40)).astype(np.int8)
    values = code.levels[unpack_levels(rows, code)].astype(int)
    for backend in available_backends():
        with forced(backend):
            np.testing.assert_array_equal(level_dots(x, rows, code), x.astype(int) @ values.T)


def test_bad_arguments():
    code = LevelCode(2, 8)
    x, _, rows = some(code, 2, 5)
    steps = np.ones(2, np.float32)
    for message, call in (
        (r"queries must be int8 \(q, 8\)", lambda: level_dots(x[:, :7], rows, code)),
        (r"queries must be int8 \(q, 8\)", lambda: level_dots(x.astype(int), rows, code)),
        ("from -127 to 127; got -128", lambda: level_dots(np.full((1, 8), -128, np.int8), rows, code)),
        (r"uint8 \(n, 2 or more\)", lambda: level_dots(x, rows[:, :1], code)),
        (r"uint8 \(n, 10 or more\)", lambda: level_topk(x, steps, rows[:, :9], code, 1)),
        ("as many steps", lambda: level_topk(x, steps[:1], rows, code, 1)),
        ("k must be", lambda: level_topk(x, steps, rows, code, 6)),
        ("k must be", lambda: level_topk(x, steps, rows, code, 2, allowed=np.arange(5) == 0)),
        ("allowed must be bool", lambda: level_topk(x, steps, rows, code, 1, allowed=np.ones(4, bool))),
        ("bits of a level must be one of", lambda: LevelCode(5, 8)),
        ("the number of levels must be", lambda: LevelCode(2, 2**16 + 1)),
        ("indices must be below 4; got 4", lambda: pack_levels(np.full((1, 8), 4, np.uint8), code)),
        (r"float32 or float64 \(n, 8\)", lambda: nearest_levels(np.zeros((1, 7)), code, np.zeros((1, 3)))),
        (r"of shape \(scales, 3\)", lambda: nearest_levels(np.zeros((1, 8)), code, np.zeros((1, 2)))),
        (r"must be uint8 \(n, 8\)", lambda: pack_levels(np.zeros((1, 7), np.uint8), code)),
    ):
        with pytest.raises(HypersignError, match=message):
            call()


@pytest.mark.parametrize("backend", COMPILED)
def test_many_queries(backend):
    """More than meet a block before the next is laid out, and fewer when each keeps many results."""
    code = LevelCode(2, 8)
    x, indices, rows = some(code, 2500, 1100)
    with forced(backend):
        np.testing.assert_array_equal(level_dots(x, rows, code), x.astype(int) @ code.levels[indices].T.astype(int))
        for k in (3, 1000):
            found = level_topk(x, np.ones(2500, np.float32), rows, code, k)
            for i in (0, 500, 700, 1020, 1024, 2400, 2499):
                alone = level_topk(x[i : i + 1], np.ones(1, np.float32), rows, code, k)
                np.testing.assert_array_equal(found[0][i], alone[0][0])
                np.testing.assert_array_equal(found[1][i], alone[1][0])


def near_rows(bits, rows, queries=70, count=256):
    """Packed levels of Gaussian rows that vary along few directions, and queries beside some of them."""
    random = np.random.default_rng(0)
    axes = random.standard_normal((12, count), np.float32)
    x = random.standard_normal((rows, 12), np.float32) @ axes + random.standard_normal((rows, count), np.float32) / 2
    y = x[:: rows // queries][:queries] + random.standard_normal((queries, count), np.float32)
    code = LevelCode(bits, count)
    codes = pack_levels(encode(x, code), code)
    numbers = np.stack([-random.uniform(0.5, 2, rows), random.standard_normal(rows)], axis=1).astype("<f4")
    return code, *quantize_queries(y), np.concatenate([codes, numbers.view(np.uint8)], axis=1)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("threads", [1, 2])
def test_rows_that_are_skipped_by_their_signs_would_not_be_found(bits, threads):
    code, x, steps, rows = near_rows(bits, 65_000 if bits > 2 else 25_000)
    numbers = rows[:, code.width :].view("<f4")
    rows[2000:2064] = rows[70]  # equal rows: the lower indices are found
    numbers[500:9000:500, 0] = 0  # these cannot be skipped
    numbers[501:9000:500, 0] = 0.001
    numbers[502:9000:500, 1] = math.nan
    numbers[503:9000:500] = -math.inf, math.inf
    numbers[504, 0] = -1e-30
    allowed = np.random.default_rng(1).random(len(rows)) < 0.9
    for k, mask in ((10, None), (10, allowed), (20, None)):
        expected = level_topk(x, steps, rows, code, k, allowed=mask, threads=threads)
        found = level_topk(x, steps, rows, code, k, allowed=mask, exact=False, threads=threads)
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])
