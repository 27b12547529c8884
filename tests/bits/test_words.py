"""Packing against the NumPy reference, on every back end."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from hypersign._checks import HypersignError
from hypersign.bits import available_backends, pack, pack_ternary, reference, unpack, unpack_ternary
from hypersign.bits.backend import forced

SIZES = [0, 1, 2, 31, 32, 33, 63, 64, 65, 127, 128, 200]
TYPES = ["float16", "float32", "float64", "int8", "uint8", "bool", "int16", "uint16", "int32", "int64", "uint64"]


@pytest.fixture(autouse=True, params=available_backends())
def _each_backend(request: pytest.FixtureRequest) -> Iterator[None]:
    with forced(request.param):
        yield


def numbers(generator: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Numbers with many ties, with 0, -0 and infinity, and with the ends of the range."""
    if dtype.startswith("float"):
        special = [0.0, -0.0, np.inf, -np.inf, 0.5, np.finfo(dtype).max, np.finfo(dtype).smallest_subnormal]
        x = generator.integers(-3, 4, shape) / 2
        return np.where(generator.random(shape) < 0.3, generator.choice(special, shape), x).astype(dtype)
    if dtype == "bool":
        return generator.random(shape) < 0.5
    ends = np.iinfo(dtype)
    x = generator.integers(max(-3, ends.min), 4, shape).astype(dtype)
    return np.where(generator.random(shape) < 0.3, generator.choice(np.array([ends.min, ends.max], dtype), shape), x)


@pytest.mark.parametrize("dtype", TYPES)
def test_packing_equals_comparing(dtype: str) -> None:
    for n in SIZES:
        check_packing(n, dtype)


def check_packing(n: int, dtype: str) -> None:
    generator = np.random.default_rng(n)
    x = numbers(generator, (5, n), dtype)
    low, flip = generator.integers(-2, 3, n) / 2, generator.random(n) < 0.5
    high = low + generator.integers(0, 3, n) / 2
    expected = np.where((x < low) ^ flip, -1, 1)
    words = pack(x, threshold=low, flip=flip)
    assert words.shape == (5, -(-n // 64))
    assert np.array_equal(unpack(words, n), expected)
    assert np.array_equal(words, reference.threshold(x, low, None, flip))  # bits past n too
    planes = pack_ternary(x, low=low, high=high, flip=flip)
    expected = np.where(x < low, -1, np.where(x >= high, 1, 0)) * np.where(flip, -1, 1)
    assert planes.shape == (2, 5, -(-n // 64))
    assert np.array_equal(unpack_ternary(planes, n), expected)
    assert np.array_equal(planes, reference.threshold(x, low, high, flip))


LIMITS = [0, 1, 0.1, -0.5, 1e-300, 1e300, -1e300, np.inf, -np.inf, -129, 127.5, 128, 255, 256, 2**31, -(2**31) - 1]


@pytest.mark.parametrize("dtype", TYPES)
def test_limits_between_and_beyond_the_numbers_of_a_type(dtype: str) -> None:
    """0.1 lies between two float32 numbers, 256 above every uint8: no limit is rounded to what a type has."""
    x = numbers(np.random.default_rng(0), (3, 100), dtype)
    x[0, :4] = np.array([0.1, 0, 1, 127]).astype(dtype)
    for limit in LIMITS:
        assert np.array_equal(pack(x, threshold=limit), reference.threshold(x, np.asarray(limit), None, False))
        high = max(limit, -1)
        planes = pack_ternary(x, low=-1, high=high)
        assert np.array_equal(planes, reference.threshold(x, np.asarray(-1), np.asarray(high), False))


def test_any_shape_and_layout() -> None:
    generator = np.random.default_rng(1)
    x = generator.standard_normal((4, 3, 140)).astype(np.float32)
    expected = reference.threshold(x, 0, None, False)
    assert np.array_equal(pack(x), expected)
    assert np.array_equal(pack(x[:, ::-1, ::-1][:, ::-1, ::-1]), expected)
    assert np.array_equal(pack(np.asfortranarray(x)), expected)
    assert np.array_equal(pack(x.astype(">f4")), expected)
    raw = np.zeros(x.nbytes + 1, np.uint8)
    misaligned = raw[1:].view(np.float32).reshape(x.shape)
    misaligned[...] = x
    assert not misaligned.flags.aligned
    assert np.array_equal(pack(misaligned), expected)
    readonly = x.copy()
    readonly.flags.writeable = False
    assert np.array_equal(pack(readonly), expected)
    assert pack(x[:0]).shape == (0, 3, 3)
    assert pack_ternary(x[:0], low=0, high=0).shape == (2, 0, 3, 3)
    assert np.array_equal(pack(x[0, 0]), expected[0, 0])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("n", [1, 64, 130])
def test_nan_is_refused_wherever_it_is(n: int, dtype: str) -> None:
    for place in range(n):
        x = np.zeros((2, n), dtype)
        x[1, place] = np.nan
        with pytest.raises(HypersignError, match=r"must not hold NaN.*found 1 of them"):
            pack(x)
        with pytest.raises(HypersignError, match="must not hold NaN"):
            pack_ternary(x, low=-1, high=1)


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (np.float32(1), {}, "at least one axis"),
        (np.array(["a"]), {}, "at least one axis"),
        (np.zeros(3, complex), {}, "at least one axis"),
        (np.zeros(3), {"threshold": np.zeros(2)}, "threshold must be one number, or one for each of the 3"),
        (np.zeros(3), {"threshold": np.nan}, r"threshold must be .* not NaN"),
        (np.zeros(3), {"flip": np.zeros(2, bool)}, "flip must be a boolean, or one for each of the 3"),
        (np.zeros(3), {"flip": 1}, "flip must be a boolean"),
    ],
)
def test_what_cannot_be_packed_is_refused(x: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(HypersignError, match=message):
        pack(x, **options)


def test_what_cannot_be_unpacked_is_refused() -> None:
    with pytest.raises(HypersignError, match="65 elements must come as uint64 words with a last axis of 2"):
        unpack(np.zeros((3, 1), np.uint64), 65)
    with pytest.raises(HypersignError, match="uint64"):
        unpack_ternary(np.zeros((2, 1), np.int64), 3)


@pytest.mark.parametrize("kind", [np.int64, np.uint64])
def test_64_bit_integers_and_floating_limits(kind):
    limits = np.iinfo(kind)
    numbers = [v for c in (0, 2**53, 2**60, 2**63, 2**64) for v in range(c - 3, c + 4)]
    numbers = [v for v in [*numbers, int(limits.min), int(limits.max)] if limits.min <= v <= limits.max]
    x = np.array(numbers, kind)[:, None]
    for limit in (-np.inf, -(2.0**63), -0.5, 0.0, 0.5, 2.0**53, 2.0**60, 2.0**63, 2.0**64, np.inf):
        expected = [-1 if v < limit else 1 for v in numbers]  # Python compares integers and floats exactly
        assert unpack(pack(x, threshold=limit), 1)[:, 0].tolist() == expected
        assert unpack_ternary(pack_ternary(x, low=limit, high=limit), 1)[:, 0].tolist() == expected
