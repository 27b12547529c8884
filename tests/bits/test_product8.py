"""Products of 8-bit inputs with binary and ternary weights, against plain integers."""

from itertools import product
from threading import Thread

import numpy as np
import pytest

from hypersign._checks import HypersignError
from hypersign.bits import Filters8, available_backends, pack, pack_ternary
from hypersign.bits.backend import forced

SIZES = (0, 1, 2, 31, 32, 33, 63, 64, 65, 127, 128, 129)


def levels_and_words(generator: np.random.Generator, filters: int, depth: int, ternary: bool):
    if ternary:
        levels = generator.integers(-1, 2, (filters, depth), dtype=np.int8)
        return levels, pack_ternary(levels, low=0, high=1)
    levels = generator.choice(np.array([-1, 1], np.int8), (filters, depth))
    return levels, pack(levels)


@pytest.mark.parametrize("ternary", [False, True])
@pytest.mark.parametrize("name", available_backends())
def test_sums_equal_plain_integers(name: str, ternary: bool) -> None:
    generator = np.random.default_rng(3)
    shapes = [(*generator.choice(SIZES, 2), generator.choice(SIZES[1:])) for _ in range(150)]
    shapes += [(rows, 33, 65) for rows in range(31)]
    shapes += [(rows, 1030, 700) for rows in (1, 2, 33, 70)]  # many filters
    shapes += [
        (16, 256, 1),
        (31, 257, 500),
        (64, 256, 65),
        (65, 300, 2049),
        (100, 2100, 333),
    ]  # lookup tables for many rows
    for rows, filters, depth in shapes:
        levels, words = levels_and_words(generator, filters, depth, ternary)
        x = generator.integers(-128, 128, (rows, depth), dtype=np.int8)
        with forced(name):
            for threads in (1, 3):
                y = Filters8(words, depth).sums(x, threads=threads)
                assert y.dtype == np.int32
                assert np.array_equal(y, x.astype(np.int64) @ levels.T.astype(np.int64)), (rows, filters, depth)


@pytest.mark.parametrize("ternary", [False, True])
@pytest.mark.parametrize("name", available_backends())
def test_scaled_sums_equal_numpy_to_the_last_bit(name: str, ternary: bool) -> None:
    generator = np.random.default_rng(4)
    groups_of = [1, 3, 32, 64, 100, 128, 1000]
    shapes = [
        (*generator.choice(SIZES, 2), generator.choice([*SIZES[1:], 300]), generator.choice(groups_of))
        for _ in range(100)
    ]
    shapes += [(64, 2100, 130, 1000), (64, 2100, 130, 64)]  # lookup tables for many rows, filters in two parts
    for rows, filters, depth, group in shapes:
        levels, words = levels_and_words(generator, filters, depth, ternary)
        x = generator.integers(-128, 128, (rows, depth), dtype=np.int8)
        groups = -(-depth // group)
        scale = generator.standard_normal((filters, groups)).astype(np.float32)
        row_scale = generator.random(rows).astype(np.float32)
        expected = np.zeros((rows, filters), np.float32)
        for g in range(groups):
            part = slice(g * group, (g + 1) * group)
            sums = x[:, part].astype(np.int64) @ levels[:, part].T.astype(np.int64)
            expected += sums.astype(np.float32) * scale[:, g]
        expected *= row_scale[:, None]
        with forced(name):
            y = Filters8(words, depth, scale=scale, group=group).matmul(x, row_scale, threads=2)
            assert np.array_equal(y, expected)
            assert np.array_equal(Filters8(words, depth, scale=scale, group=group).sums(x), x.astype(int) @ levels.T)


@pytest.mark.parametrize(("code", "value"), [*product((-1, 0, 1), (-128, 127))])
@pytest.mark.parametrize("name", available_backends())
def test_largest_sums_are_exact(name: str, code: int, value: int) -> None:
    depth = 2**19 - 1
    levels = np.full((1, depth), code, np.int8)
    packed = [pack_ternary(levels, low=0, high=1), *([pack(levels)] if code else [])]
    with forced(name):
        for words, rows in product(packed, (1, 2, 4, 8, 14) if name[:3] == "avx" else (1,)):
            filters = Filters8(words, depth)
            assert (filters.sums(np.full((rows, depth), value, np.int8)) == code * value * depth).all()


@pytest.mark.parametrize("ternary", [False, True])
@pytest.mark.parametrize("value", [-128, 127])
@pytest.mark.parametrize("name", available_backends())
def test_largest_sums_of_many_rows_are_exact(name: str, value: int, ternary: bool) -> None:
    rows, depth = 64, 1000
    levels = np.ones((300, depth), np.int8)
    levels[150:] = -1
    words = pack_ternary(levels, low=0, high=1) if ternary else pack(levels)
    x = np.full((rows, depth), value, np.int8)
    with forced(name):
        assert np.array_equal(Filters8(words, depth).sums(x), x.astype(int) @ levels.T.astype(int))


def test_rows_on_two_threads_at_once() -> None:
    generator = np.random.default_rng(5)
    levels, words = levels_and_words(generator, 70, 200, True)
    filters, found = Filters8(words, 200), {}
    x = generator.integers(-128, 128, (2, 40, 200), dtype=np.int8)

    def run(i: int) -> None:
        for _ in range(20):
            found[i] = filters.sums(x[i], threads=2)

    threads = [Thread(target=run, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(2):
        assert np.array_equal(found[i], x[i].astype(int) @ levels.T)


def test_inputs_in_another_order_of_memory() -> None:
    generator = np.random.default_rng(6)
    levels, words = levels_and_words(generator, 5, 70, False)
    x = np.asfortranarray(generator.integers(-128, 128, (6, 70), dtype=np.int8))
    assert np.array_equal(Filters8(words, 70).sums(x), x.astype(int) @ levels.T)


@pytest.mark.parametrize("name", available_backends())
def test_what_does_not_fit_is_refused(name: str) -> None:
    words = pack(np.ones((2, 70)))
    with forced(name):
        filters = Filters8(words, 70)
        for x in (np.zeros((1, 69), np.int8), np.zeros((1, 70), np.uint8), np.zeros(70, np.int8)):
            with pytest.raises(HypersignError, match=r"x must be int8 \(M, 70\)"):
                filters.sums(x)
        with pytest.raises(HypersignError, match=r"out must be a C-ordered int32 array of shape \(1, 2\)"):
            filters.sums(np.zeros((1, 70), np.int8), out=np.zeros((1, 2), np.float32))
        out = np.zeros((1, 2), np.int32)
        assert filters.sums(np.ones((1, 70), np.int8), out=out) is out
        assert out.tolist() == [[70, 70]]
        with pytest.raises(HypersignError, match=r"one number per row; got shape \(2,\)"):
            filters.matmul(np.zeros((1, 70), np.int8), [1.0, 2.0])
        with pytest.raises(HypersignError, match=r"one number per filter and group; got"):
            Filters8(words, 70, scale=[1, 2, 3])
        with pytest.raises(HypersignError, match="must come as uint64 words"):
            Filters8(words, 129)
        with pytest.raises(HypersignError, match="features must be"):
            Filters8(words, 2**19)
        with pytest.raises(HypersignError, match="group must be"):
            Filters8(words, 70, group=0)
