"""Bounds leave out what cannot be near, and nothing else."""

import tracemalloc

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from hypersign._checks import HypersignError
from hypersign.hashing import BoundedIndex, HammingIndex, SignHasher, hash_file, pruning, recall


@pytest.fixture(scope="module")
def vectors():
    random = np.random.default_rng(0)
    return (random.standard_normal((2100, 64)) * np.arange(1, 65) ** -0.5 + 0.1).astype(np.float32)


def brute(base, queries, k):
    squares = np.square(queries[:, None].astype(np.float64) - base.astype(np.float64)).sum(2)
    order = np.argsort(squares, axis=1, kind="stable")[:, :k]
    return np.sqrt(np.take_along_axis(squares, order, 1)), order


@pytest.mark.parametrize("bits", [64, 128])
@pytest.mark.parametrize("center", [0, 0.5, 1])
def test_wide_bounds_find_exactly_the_nearest_and_read_few(vectors, bits, center) -> None:
    base, queries = vectors[:2000], vectors[2000:]
    index = BoundedIndex(SignHasher(bits=bits, center=center).fit(base), base)
    found = index.search(queries, 10, epsilon=5.0)
    distances, order = brute(base, queries, 10)
    np.testing.assert_array_equal(found.neighbours.indices, order)
    np.testing.assert_allclose(found.neighbours.distances, distances, rtol=1e-12)
    assert found.read.mean() < 1200
    narrow = index.search(queries, 10)
    assert narrow.read.mean() < 0.6 * found.read.mean()
    assert recall(narrow.neighbours.indices, order, 10) > 0.99


def test_without_bounds_all_are_read(vectors) -> None:
    base = vectors[:100]
    index = BoundedIndex(SignHasher(bits=64).fit(base), base)
    found = index.search(vectors[100:120], 100)
    assert (found.read == 100).all()
    assert (np.sort(found.neighbours.indices, 1) == np.arange(100)).all()
    assert index.search(vectors[:0], 3).neighbours.indices.shape == (0, 3)


def test_equal_distances_come_by_index() -> None:
    base = np.repeat(np.random.default_rng(1).standard_normal((5, 16)), 4, axis=0).astype(np.float32)
    found = BoundedIndex(SignHasher(bits=16).fit(base), base).search(base[::4], 4)
    np.testing.assert_array_equal(found.neighbours.indices, np.arange(20).reshape(5, 4))


def test_rounding_hides_no_neighbour() -> None:
    # So near to each other, and so far from the centre, that float32 tells no bound from another.
    vectors = 100 + 1e-3 * np.random.default_rng(2).standard_normal((520, 16))
    base, queries = vectors[:500], vectors[500:]
    found = BoundedIndex(SignHasher(bits=16, center=0).fit(base), base).search(queries, 5, epsilon=5.0)
    np.testing.assert_array_equal(found.neighbours.indices, brute(base, queries, 5)[1])


def test_blocks_change_nothing(vectors, monkeypatch) -> None:
    hasher = SignHasher(bits=64).fit(vectors)
    whole = BoundedIndex(hasher, vectors)
    monkeypatch.setattr("hypersign.hashing.stored.BLOCK", 99 * 64)
    parts = BoundedIndex(hasher, vectors)
    np.testing.assert_array_equal(parts.cosines, whole.cosines)
    np.testing.assert_array_equal(parts.lengths, whole.lengths)


def test_codes_are_searched_in_blocks(vectors, monkeypatch) -> None:
    """Whatever the sizes of blocks and pools, the neighbours are the same, and hardly more vectors are read."""
    base, queries = vectors[:2000], vectors[2000:2020]
    index = BoundedIndex(SignHasher(bits=64).fit(base), base)
    whole = index.search(queries, 10, epsilon=5.0)
    for rows, pool in ((2000, 10**6), (7, 10**6), (100, 300), (7, 10)):
        monkeypatch.setattr(pruning, "ROWS", rows)
        monkeypatch.setattr(pruning, "POOL", pool)
        found = index.search(queries, 10, epsilon=5.0)
        np.testing.assert_array_equal(found.neighbours.indices, whole.neighbours.indices)
        np.testing.assert_array_equal(found.neighbours.distances, whole.neighbours.distances)
        if pool == 10**6:
            np.testing.assert_array_equal(found.read, whole.read)
        assert (found.read >= whole.read).all()
        assert found.read.mean() < 2 * whole.read.mean()


def test_memory_does_not_grow_with_the_codes() -> None:
    def peak(count):
        x = np.random.default_rng(0).integers(0, 256, (count, 16), np.uint8)
        index = BoundedIndex(SignHasher(bits=16).fit(x), x)
        tracemalloc.start()
        try:
            index.search(x[:16] + 0.5, 5)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(240_000) < 1.2 * peak(80_000) < 100e6


def test_bounds_in_a_file(vectors, tmp_path) -> None:
    base, queries = vectors[:2000], vectors[2000:2020]
    np.save(tmp_path / "x.npy", base)
    hasher = hash_file(tmp_path / "x.npy", tmp_path / "codes", SignHasher(bits=64), bounds=True)
    index, expected = BoundedIndex.load(tmp_path / "codes", base), BoundedIndex(hasher, base)
    for name in ("codes", "cosines", "lengths"):
        np.testing.assert_array_equal(getattr(index, name), getattr(expected, name))
    found, truth = (i.search(queries, 10) for i in (index, expected))
    np.testing.assert_array_equal(found.neighbours.indices, truth.neighbours.indices)
    np.testing.assert_array_equal(found.read, truth.read)
    assert len(HammingIndex.load(tmp_path / "codes")) == 2000
    hash_file(tmp_path / "x.npy", tmp_path / "plain", SignHasher(bits=64))
    with pytest.raises(HypersignError, match="plain has no bounds, which exact search needs; hash its vectors again"):
        BoundedIndex.load(tmp_path / "plain", base)
    with pytest.raises(HypersignError, match="holds the codes of 2000 vectors of dimension 64; got vectors of shape"):
        BoundedIndex.load(tmp_path / "codes", base[1:])
    with pytest.raises(HypersignError, match="bounds need a hasher with a random rotation"):
        hash_file(tmp_path / "x.npy", tmp_path / "none", SignHasher(bits=64, rotation=None), bounds=True)
    tensors = load_file(tmp_path / "codes")
    for name, value in (("cosines", np.nan), ("cosines", 0), ("lengths", -1), ("lengths", np.inf)):
        bad = {**tensors, name: np.where(np.arange(2000) == 7, value, tensors[name]).astype(np.float32)}
        with safe_open(tmp_path / "codes", "np") as file:
            save_file(bad, tmp_path / "bad", file.metadata())
        with pytest.raises(HypersignError, match=f"its {name} must be"):
            BoundedIndex.load(tmp_path / "bad", base)


def test_what_is_refused(vectors) -> None:
    index = BoundedIndex(SignHasher(bits=64).fit(vectors), vectors)
    with pytest.raises(HypersignError, match="k must be at most the number of vectors in the index, 2100; got 2101"):
        index.search(vectors[:1], 2101)
    with pytest.raises(HypersignError, match="epsilon"):
        index.search(vectors[:1], 1, epsilon=0.0)
    with pytest.raises(HypersignError, match="rotation"):
        BoundedIndex(SignHasher(bits=64, rotation=None).fit(vectors), vectors)
