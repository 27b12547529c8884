"""Hamming distances and search against Python's own integers and a full sort, on every back end."""

from collections.abc import Iterator

import numpy as np
import pytest

from hypersign._checks import HypersignError
from hypersign.bits import available_backends, hamming, hamming_topk, hamming_within
from hypersign.bits.backend import forced


@pytest.fixture(autouse=True, params=available_backends())
def _each_backend(request: pytest.FixtureRequest) -> Iterator[None]:
    with forced(request.param):
        yield


def codes(count: int, words: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**64, (count, words), dtype=np.uint64)


def sparse(count: int, words: int, seed: int) -> np.ndarray:
    """Codes with few ones: many equal distances."""
    return codes(count, words, seed) & codes(count, words, seed + 1) & codes(count, words, seed + 2)


def counted(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Distances, counted in Python's own integers."""
    rows = [[[int(word) for word in code] for code in these] for these in (a, b)]
    return np.array(
        [[sum((p ^ q).bit_count() for p, q in zip(x, y, strict=True)) for y in rows[1]] for x in rows[0]], int
    ).reshape(len(a), len(b))


def sorted_by_distance(distances: np.ndarray) -> np.ndarray:
    """Indices, nearest first, of equal distances the lower index first."""
    return np.array([sorted(range(len(row)), key=lambda i, row=row: (row[i], i)) for row in distances], int).reshape(
        distances.shape
    )


@pytest.mark.parametrize("words", [0, 1, 2, 3, 16, 33, 65])
def test_all_distances(words: int) -> None:
    for a, b in [(0, 5), (5, 0), (1, 1), (3, 31), (2, 33), (1, 63), (2, 64), (3, 65), (1, 130)]:
        check_distances(a, b, words)


def check_distances(a: int, b: int, words: int) -> None:
    x, y = codes(a, words, 1), codes(b, words, 2)
    if a and b:
        y[-1] = ~x[-1]  # the largest distance
        y[0] = x[0]
    expected = counted(x, y)
    for threads in (1, 3):
        found = hamming(x, y, threads=threads)
        assert found.dtype == np.int32
        assert np.array_equal(found, expected)


def test_as_far_as_can_be() -> None:
    """Every bit differs, over more words than a byte can count."""
    zeros = np.zeros((17, 100), np.uint64)
    assert (hamming(zeros, ~zeros) == 6400).all()


@pytest.mark.parametrize("k", [0, 1, 10, 64, 100, 299, 300])
@pytest.mark.parametrize("words", [1, 2])
def test_nearest(words: int, k: int) -> None:
    x, y = sparse(3, words, 3), sparse(300, words, 4)
    expected = counted(x, y)
    order = sorted_by_distance(expected)[:, :k]
    for threads in (1, 3):
        distances, indices = hamming_topk(x, y, k, threads=threads)
        assert (distances.dtype, indices.dtype) == (np.int32, np.int64)
        assert np.array_equal(indices, order)
        assert np.array_equal(distances, np.take_along_axis(expected, order, 1))


@pytest.mark.parametrize("threads", [1, 2])
def test_nearest_of_many(threads: int) -> None:
    """Several shares of codes, several blocks of queries; the nearest come last, as hard as can be."""
    y = sparse(9_000, 1, 5)
    x = sparse(130, 1, 6)
    y = y[np.argsort(-hamming(x[:1], y)[0], kind="stable")]
    all_distances = hamming(x, y)
    order = np.argsort(all_distances, axis=1, kind="stable")[:, :10]
    distances, indices = hamming_topk(x, y, 10, threads=threads)
    assert np.array_equal(indices, order)
    assert np.array_equal(distances, np.take_along_axis(all_distances, order, 1))
    starts, near, where = hamming_within(x[:5], y, 6, threads=threads)
    for i, row in enumerate(all_distances[:5]):
        expected = [j for j in np.argsort(row, kind="stable") if row[j] <= 6]
        assert where[starts[i] : starts[i + 1]].tolist() == expected
        assert near[starts[i] : starts[i + 1]].tolist() == row[expected].tolist()


@pytest.mark.parametrize("radius", [0, 5, 64, 10**12])
def test_within(radius: int) -> None:
    x, y = sparse(4, 1, 7), sparse(70, 1, 8)
    y[40] = x[2]
    expected = counted(x, y)
    starts, distances, indices = hamming_within(x, y, radius)
    assert (starts.dtype, distances.dtype, indices.dtype) == (np.int64, np.int32, np.int64)
    assert starts[-1] == len(distances) == len(indices) == (expected <= radius).sum()
    for i, order in enumerate(sorted_by_distance(expected)):
        mine = [j for j in order if expected[i, j] <= radius]
        assert indices[starts[i] : starts[i + 1]].tolist() == mine
        assert distances[starts[i] : starts[i + 1]].tolist() == expected[i, mine].tolist()


@pytest.mark.parametrize("words", [1, 3])
@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.99, 1.0])
def test_only_allowed_codes_are_found(words: int, share: float) -> None:
    x, y = sparse(5, words, 11), sparse(9_000, words, 12)
    allowed = np.random.default_rng(13).random(len(y)) < share
    allowed[[0, -1]] = True
    allowed[64:600] = False
    all_distances = hamming(x, y)
    hidden = np.where(allowed, all_distances, 10**6)
    for k in (1, 2, min(70, allowed.sum()), allowed.sum()):
        order = np.argsort(hidden, axis=1, kind="stable")[:, :k]
        for threads in (1, 3):
            distances, indices = hamming_topk(x, y, k, allowed=allowed, threads=threads)
            assert np.array_equal(indices, order)
            assert np.array_equal(distances, np.take_along_axis(all_distances, order, 1))
    starts, distances, indices = hamming_within(x, y, 7, allowed=allowed, threads=2)
    for i, row in enumerate(hidden):
        expected = [j for j in np.argsort(row, kind="stable") if row[j] <= 7]
        assert indices[starts[i] : starts[i + 1]].tolist() == expected
        assert distances[starts[i] : starts[i + 1]].tolist() == row[expected].tolist()


def test_allowed_must_fit() -> None:
    x = codes(9, 2, 0)
    with pytest.raises(HypersignError, match="k must be an integer from 0 to 2; got 3"):
        hamming_topk(x, x, 3, allowed=np.arange(9) < 2)
    for bad in (np.ones(8, bool), np.ones(9, np.uint8), np.ones((9, 1), bool)):
        for search in (hamming_topk, hamming_within):
            with pytest.raises(HypersignError, match=r"allowed must be bool of shape \(9,\)"):
                search(x, x, 1, allowed=bad)
    assert hamming_topk(x, x, 0, allowed=np.zeros(9, bool))[0].shape == (9, 0)
    assert hamming_within(x, x, 128, allowed=np.zeros(9, bool))[0].tolist() == [0] * 10


def test_nothing_to_search() -> None:
    none, some = codes(0, 2, 0), codes(3, 2, 0)
    assert hamming_topk(none, some, 2)[0].shape == (0, 2)
    assert hamming_topk(some, none, 0)[1].shape == (3, 0)
    assert hamming_within(none, some, 3)[0].tolist() == [0]
    assert hamming_within(some, none, 3)[0].tolist() == [0, 0, 0, 0]


def test_other_layouts() -> None:
    x, y = codes(3, 4, 9), codes(9, 4, 10)
    assert np.array_equal(hamming(x[::-1], y[:, ::-1][:, ::-1]), counted(x[::-1], y))
    raw = np.zeros(x.nbytes + 3, np.uint8)
    misaligned = raw[3:].view(np.uint64).reshape(x.shape)
    misaligned[...] = x
    assert np.array_equal(hamming(misaligned, y), counted(x, y))


def test_what_does_not_fit_is_refused() -> None:
    x = codes(3, 2, 0)
    with pytest.raises(HypersignError, match=r"queries must be uint64 words \(rows, words\)"):
        hamming_topk(x.astype(np.int64), x, 1)
    with pytest.raises(HypersignError, match="b must be uint64 words"):
        hamming(x, x[0])
    with pytest.raises(HypersignError, match="the same number of words; got 2 and 1"):
        hamming(x, x[:, :1])
    with pytest.raises(HypersignError, match="k must be an integer from 0 to 3; got 4"):
        hamming_topk(x, x, 4)
    with pytest.raises(HypersignError, match="radius must be an integer >= 0"):
        hamming_within(x, x, -1)
    with pytest.raises(HypersignError, match="threads must be an integer from 1 to 4096"):
        hamming(x, x, threads=0)
