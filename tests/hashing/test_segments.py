"""An index that changes, against a naive one: a dictionary of codes and a full sort."""

import copy
import itertools
import pickle
import threading

import numpy as np
import pytest

from hypersign._checks import HypersignError
from hypersign.hashing import HammingIndex, Neighbours, SignHasher, segments

DIMENSION, BITS = 12, 70


@pytest.fixture(scope="module")
def hasher():
    return SignHasher(BITS).fit(np.random.default_rng(9).standard_normal((50, DIMENSION)))


class Naive:
    """Ids and vectors in a dictionary; searches sort all pairs (distance, id)."""

    def __init__(self, hasher):
        self.hasher, self.codes = hasher, {}

    def add(self, vectors, ids):
        self.codes |= dict(zip(ids, self.hasher.codes(vectors).tolist(), strict=True))

    def ranked(self, query, allowed):
        words = self.hasher.codes(query[None])[0].tolist()
        return sorted(
            (sum((a ^ b).bit_count() for a, b in zip(words, code, strict=True)), key)
            for key, code in self.codes.items()
            if allowed is None or key in allowed
        )


def check(index, naive, random):
    ids = sorted(naive.codes)
    assert len(index) == len(ids)
    assert index.ids.tolist() == ids
    assert index.codes.tolist() == [naive.codes[key] for key in ids]
    sizes = [len(segment.codes) for segment in index._segments]
    assert all(a > b for a, b in itertools.pairwise(sizes))
    queries = random.integers(-2, 3, (3, DIMENSION)) + 0.5
    some = set(random.permutation(ids)[: len(ids) // 3].tolist()) | {-5, 10**12}
    mask = random.random(len(ids)) < 0.5
    filters = [(None, None), (some, sorted(some)), ({key for key, m in zip(ids, mask, strict=True) if m}, mask)]
    for allowed, argument in filters:
        ranked = [naive.ranked(query, allowed) for query in queries]
        for k in {1, 4, len(ranked[0])}:
            if not 0 < k <= len(ranked[0]):
                with pytest.raises(HypersignError, match="k must be"):
                    index.search(queries, k, allowed=argument)
                continue
            found = index.search(queries, k, allowed=argument)
            pairs = np.stack([found.distances, found.indices], 2).tolist()
            assert pairs == [[list(pair) for pair in row[:k]] for row in ranked]
        within = index.range_search(queries, 30, allowed=argument)
        for i, row in enumerate(ranked):
            part = slice(within.starts[i], within.starts[i + 1])
            pairs = zip(within.distances[part].tolist(), within.indices[part].tolist(), strict=True)
            assert list(pairs) == [pair for pair in row if pair[0] <= 30]


@pytest.mark.parametrize("seed", range(6))
def test_random_changes_against_a_naive_index(hasher, seed, tmp_path):
    """Few different vectors, so that many distances are equal."""
    random = np.random.default_rng(seed)
    index, naive = HammingIndex(hasher), Naive(hasher)
    for step in range(40):
        what = random.integers(0, 10)
        if what < 5 or not naive.codes:
            count = int(random.integers(0, 12))
            vectors = random.integers(-2, 3, (max(count, 1), DIMENSION))[:count] + 0.5
            free = sorted(set(range(-100, 200)) - set(naive.codes))
            ids = random.permutation(free)[:count] if what % 2 else None
            if count:
                given = index.add(vectors, ids)
                if ids is None:
                    start = max(naive.codes, default=-1) + 1
                    assert given.tolist() == list(range(start, start + count))
                naive.add(vectors, given.tolist())
        elif what < 8:
            gone = random.permutation(sorted(naive.codes))[: random.integers(1, 9)]
            index.remove(gone)
            for key in gone.tolist():
                del naive.codes[key]
        elif what == 8:
            index.save(tmp_path / "index")
            index = HammingIndex.load(tmp_path / "index")
        else:
            index = pickle.loads(pickle.dumps(copy.deepcopy(index)))
        if step % 4 == 0:
            check(index, naive, random)
    check(index, naive, random)


@pytest.mark.parametrize(("bits", "metric"), [(1.5, "euclidean"), (2, "inner_product"), (4, "cosine")])
def test_level_codes_change_as_sign_codes(bits, metric, tmp_path):
    """Whatever the segments, results are those of one index of the same codes."""
    random = np.random.default_rng(4)
    x = random.integers(-2, 3, (200, DIMENSION)) + 0.5
    hasher = SignHasher(bits_per_dimension=bits, metric=metric).fit(x)
    index = HammingIndex(hasher)
    ids = random.permutation(1000)[:200]
    for start in range(0, 200, 40):
        index.add(x[start : start + 40], ids[start : start + 40])
        index.remove(ids[start : start + 40 : 3])
    index.add(x[:40:3], ids[:40:3])
    index.save(tmp_path / "index")
    left = np.isin(ids, index.ids)
    whole = HammingIndex(hasher, hasher.codes(x[left]), ids[left])
    for allowed in (None, ids[::2], random.random(len(index)) < 0.3):
        for other in (whole, HammingIndex.load(tmp_path / "index")):
            found, expected = (i.search(x[:5], 20, allowed=allowed) for i in (index, other))
            np.testing.assert_array_equal(found.indices, expected.indices)
            np.testing.assert_array_equal(found.distances, expected.distances)
        pairs = [list(zip(*row, strict=True)) for row in zip(found.distances, found.indices, strict=True)]
        assert pairs == [sorted(row) for row in pairs]


def test_an_empty_index(hasher, tmp_path):
    x = np.random.default_rng(0).standard_normal((5, DIMENSION))
    index = HammingIndex(hasher)
    index.remove([])
    assert (len(index), index.codes.shape, index.ids.shape) == (0, (0, 2), (0,))
    with pytest.raises(HypersignError, match="k must be at most the number of codes in the index, 0; got 1"):
        index.search(x, 1)
    assert index.range_search(x, 70).starts.tolist() == [0] * 6
    index.save(tmp_path / "index")
    again = HammingIndex.load(tmp_path / "index")
    assert again.add(x).tolist() == [0, 1, 2, 3, 4]
    again.remove(again.ids)
    assert len(again) == 0
    assert again.add(x[:2], [4, 0]).tolist() == [4, 0]
    assert again.search(x[:2], 1).indices.tolist() == [[4], [0]]


def test_removed_ids_come_again_with_other_codes(hasher):
    x = np.random.default_rng(0).standard_normal((9, DIMENSION))
    index = HammingIndex(hasher, hasher.codes(x))
    index.remove([3, 8])
    assert len(index._segments) == 1
    index.add(x[8:], [3])
    assert index.search(x[8:], 1).indices.tolist() == [[3]]
    assert index.add(x[3:4]).tolist() == [8]
    assert index.ids.tolist() == list(range(9))


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["a", "b"], "ids must be integers of 64 bits; got <U1: number your keys, and keep a table of them"),
        ([1.0, 2.0], "ids must be integers of 64 bits; got float64"),
        ([True, False], "got bool"),
        ([1], r"ids must be of shape \(2,\); got \(1,\)"),
        ([[1, 2]], r"ids must be of shape \(2,\); got \(1, 2\)"),
        (np.array([1, 2**63], np.uint64), "ids must be at most 9223372036854775807; got 9223372036854775808"),
        ([2**70, 1], "ids must be integers of 64 bits; got object"),
        ([100, 100], "each id must be in the index once; 100 is there already"),
        ([3, 100], "each id must be in the index once; 3 is there already"),
    ],
)
def test_bad_ids_change_nothing(hasher, ids, message):
    x = np.random.default_rng(0).standard_normal((9, DIMENSION))
    index = HammingIndex(hasher, hasher.codes(x))
    index.add(x[:2])
    before = index._segments
    with pytest.raises(HypersignError, match=message):
        index.add(x[:2], ids)
    with pytest.raises(HypersignError):
        index.remove(["a"])
    with pytest.raises(
        HypersignError, match=r"only ids in the index can be removed; 77, 78, 79, \.\.\. are not in it"
    ):
        index.remove([0, *range(77, 90)])
    with pytest.raises(HypersignError, match=r"a bool for each id of the index, shape \(11,\)"):
        index.search(x, 1, allowed=np.ones(10, bool))
    with pytest.raises(HypersignError, match="ids must be integers"):
        index.search(x, 1, allowed=["a"])
    with pytest.raises(HypersignError, match="number of allowed codes in the index, 0; got 1"):
        index.search(x, 1, allowed=[-1])
    assert index._segments is before


def test_the_largest_id_ends_numbering(hasher):
    x = np.random.default_rng(0).standard_normal((3, DIMENSION))
    index = HammingIndex(hasher, hasher.codes(x[:2]), [2**63 - 1, -(2**63)])
    assert index.search(x[:2], 1).indices.ravel().tolist() == [2**63 - 1, -(2**63)]
    with pytest.raises(HypersignError, match="ids must be at most 9223372036854775807"):
        index.add(x[2:])


def test_an_index_adds_another(hasher):
    x = np.random.default_rng(0).standard_normal((9, DIMENSION))
    index, more = HammingIndex(hasher, hasher.codes(x[:4])), HammingIndex(hasher, hasher.codes(x[4:]))
    assert index.add(more).tolist() == [4, 5, 6, 7, 8]
    np.testing.assert_array_equal(index.codes, hasher.codes(x))
    other = SignHasher(BITS, seed=1).fit(x)
    with pytest.raises(HypersignError, match="differ in seed 0 and 1"):
        index.add(HammingIndex(other, other.codes(x)))


def test_neighbours_as_scikit_learn_has_them(hasher):
    from sklearn.neighbors import NearestNeighbors

    x = np.random.default_rng(3).integers(-1, 2, (60, DIMENSION)) + 0.5
    columns = SignHasher(BITS, output="bits").restore(hasher.mean_)
    index = HammingIndex(hasher, hasher.codes(x))
    theirs = NearestNeighbors(metric="manhattan", algorithm="brute").fit(columns.transform(x).astype(float))
    queries = x[:7] + 0.2
    for ours, expected in (
        (index.kneighbors(queries, 4), theirs.kneighbors(columns.transform(queries).astype(float), 4)),
        (index.kneighbors(n_neighbors=59), theirs.kneighbors(n_neighbors=59)),
    ):
        np.testing.assert_array_equal(ours[0], expected[0])
        assert ours[1].shape == expected[1].shape
    for i, row in enumerate(index.kneighbors(n_neighbors=59, return_distance=False)):
        assert sorted(row) == [j for j in range(60) if j != i]
    assert index.kneighbors(queries)[0].shape == theirs.kneighbors(columns.transform(queries))[0].shape
    for ours, expected in (
        (index.radius_neighbors(queries, 20), theirs.radius_neighbors(columns.transform(queries).astype(float), 20)),
        (index.radius_neighbors(radius=20), theirs.radius_neighbors(radius=20)),
    ):
        for a, b in zip(ours[1], expected[1], strict=True):
            assert sorted(a) == sorted(b)
        for a, b in zip(ours[0], expected[0], strict=True):
            assert a.tolist() == sorted(b)
    with pytest.raises(HypersignError, match="n_neighbors must be less than the number of codes in the index, 60"):
        index.kneighbors(n_neighbors=60)


def test_equal_codes_do_not_hide_a_code_from_itself(hasher):
    """More copies than neighbours: a code's own id may not be among the nearest with itself."""
    index = HammingIndex(hasher, np.zeros((6, 2), np.uint64), range(10, 16))
    assert index.kneighbors(n_neighbors=2)[1].tolist() == [[11, 12], [10, 12], *[[10, 11]] * 4]


def test_rescoring_by_ids(hasher):
    x = np.random.default_rng(0).standard_normal((40, DIMENSION))
    index = HammingIndex(hasher, hasher.codes(x))
    index.remove(range(0, 40, 2))
    found = index.rescore(x[1:9:2], index.search(x[1:9:2], 10), x, 2)
    assert found.indices[:, 0].tolist() == [1, 3, 5, 7]
    named = HammingIndex(hasher, hasher.codes(x), 1000 - np.arange(40))
    candidates = named.search(x[:5], 20)
    again = named.rescore(x[:5], candidates, lambda ids: x[1000 - ids], 3)
    assert again.indices[:, 0].tolist() == [1000, 999, 998, 997, 996]
    with pytest.raises(HypersignError, match="the vector of id i must be row i; got 40 rows for ids from 96"):
        named.rescore(x[:5], candidates, x, 3)
    with pytest.raises(HypersignError, match=r"the vectors of \d+ ids must be of shape \(\d+, 12\)"):
        named.rescore(x[:5], candidates, lambda ids: x[ids[1:] - 961], 3)
    equal = named.rescore(
        np.zeros((1, DIMENSION)),
        Neighbours(np.zeros((1, 3)), np.array([[999, 970, 980]])),
        lambda ids: np.ones((len(ids), DIMENSION)),
        3,
    )
    assert equal.indices.tolist() == [[970, 980, 999]]


class Watched(HammingIndex):
    """Records the number of codes in every state that a search could see."""

    def __setattr__(self, name, value):
        if name == "_segments":
            self.__dict__.setdefault("seen", []).append(sum(map(len, value)))
        super().__setattr__(name, value)


def test_each_change_is_one_step(hasher):
    x = np.random.default_rng(0).standard_normal((9, DIMENSION))
    index = Watched(hasher, hasher.codes(x))
    index.add(x[:4])
    index.add(x[:1], [100])
    index.remove([0, 5, 100])
    index.remove(range(6, 13))
    with pytest.raises(HypersignError):
        index.add(x, range(9))
    assert index.seen == [0, 9, 13, 14, 11, 4]


def test_searches_while_codes_are_added_and_removed(hasher):
    """Batches of copies of one vector: a search finds whole batches, those added first."""
    x = np.random.default_rng(0).standard_normal((1, DIMENSION))
    index = HammingIndex(hasher, hasher.codes(-x), [-1])
    done, wrong = threading.Event(), []

    def read():
        before = 0
        while not done.is_set():
            found = index.range_search(x, 0).indices.tolist()
            if found != list(range(len(found))) or len(found) % 10 or len(found) < before - 10:
                wrong.append(found)
            before = len(found)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for first in range(0, 3000, 10):
        index.add(np.repeat(x, 10, 0), range(first, first + 10))
        if first % 90 == 0:
            index.remove(range(first, first + 10))
            index.add(np.repeat(x, 10, 0), range(first, first + 10))
    done.set()
    for reader in readers:
        reader.join()
    assert not wrong
    assert len(index) == 3001


def test_one_code_at_a_time_makes_few_segments(hasher):
    index = HammingIndex(hasher)
    codes = np.random.default_rng(0).integers(0, 64, (500, 2)).astype(np.uint64)
    for code in codes:
        index.add(HammingIndex(hasher, code[None]))
        assert len(index._segments) <= 9
    np.testing.assert_array_equal(index.codes, codes)
    assert segments.merged(index._segments).numbered()
