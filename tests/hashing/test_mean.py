"""The exact mean: that of Python's fractions, for every division of the vectors."""

from fractions import Fraction

import numpy as np
import pytest

from hypersign.hashing import ExactMean, SignHasher

RANDOM = np.random.default_rng(0)
WIDE = RANDOM.standard_normal((300, 5)) * 10.0 ** RANDOM.integers(-300, 300, (300, 5))


@pytest.mark.parametrize(
    "x",
    [
        RANDOM.standard_normal((500, 7)),
        RANDOM.standard_normal((5000, 7)).astype(np.float32),
        RANDOM.standard_normal((50, 3)).astype(np.float16),
        WIDE,
        np.full((3, 2), np.finfo(np.float64).max),
        RANDOM.integers(0, 9, (5, 2)) * 5e-324,
        np.array([[1e308, -0.0], [-1e308, 0.0], [5e-324, 0.0]]),
        RANDOM.integers(-(2**63), 2**63 - 1, (50, 3)),
        RANDOM.integers(0, 2**64 - 1, (50, 3), dtype=np.uint64),
        RANDOM.integers(0, 256, (5000, 3)).astype(np.uint8),
        RANDOM.integers(-128, 128, (63, 3)).astype(np.int8),
        np.ones((1, 4), bool),
        RANDOM.standard_normal((3, 40_000)),  # a vector longer than a piece
    ],
    ids=str,
)
def test_the_mean_is_rounded_once(x) -> None:
    exact = [float(sum(map(Fraction, column)) / len(x)) for column in x.T[:50].tolist()]
    assert ExactMean().add(x).value()[:50].tolist() == exact


def test_any_division_and_order_of_the_vectors_gives_the_same_bits() -> None:
    whole = ExactMean().add(WIDE).value()
    for parts in (2, 7, 300):
        mean = ExactMean()
        for part in RANDOM.permutation(parts):
            mean.merge(ExactMean.from_bytes(ExactMean().add(WIDE[part::parts]).to_bytes()))
        assert (mean.count, mean.dimension) == (300, 5)
        np.testing.assert_array_equal(mean.value(), whole)
    assert not np.array_equal(np.sum([WIDE[i::7].sum(0) for i in range(7)], 0) / 300, whole)  # as float64 sums differ


def test_nothing_added_adds_nothing() -> None:
    mean = ExactMean().merge(ExactMean())
    assert (mean.count, mean.dimension) == (0, 0)
    assert ExactMean.from_bytes(mean.to_bytes()).count == 0
    np.testing.assert_array_equal(mean.add(WIDE[:1]).add(WIDE[:0]).merge(ExactMean()).value(), WIDE[0])


def test_a_hasher_fitted_to_parts_is_that_of_the_whole() -> None:
    hasher, whole = SignHasher(64, center=0.5), SignHasher(64, center=0.5).fit(WIDE)
    mean = ExactMean()
    for part in (WIDE[100:], WIDE[:100]):
        mean.merge(hasher.add_block(ExactMean(), part))
    assert hasher.fit_mean(mean, 5).difference(whole) == ""
