import numpy as np
import pytest

from hypersign._checks import HypersignError
from hypersign.bits import unpack
from hypersign.hashing import BoundedIndex, HammingIndex, Neighbours, SignHasher, recall


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal((400, 24))


@pytest.fixture
def index(x):
    hasher = SignHasher(70).fit(x)
    return HammingIndex(hasher, hasher.transform(x))


def distances(index, queries):
    a, b = (unpack(codes, 70) for codes in (index.hasher.transform(queries), index.codes))
    return (a[:, None] != b).sum(2)


def test_search_is_a_stable_sort_of_all_distances(x, index):
    queries = x[:20] + 0.3
    full = distances(index, queries)
    order = np.argsort(full, axis=1, kind="stable")
    for k in (1, 10, 400):
        found = index.search(queries, k)
        np.testing.assert_array_equal(found.indices, order[:, :k])
        np.testing.assert_array_equal(found.distances, np.take_along_axis(full, order[:, :k], 1))


def test_an_index_of_bits_is_the_index_of_the_packed_codes(x, index):
    columns = SignHasher(70, output="bits").fit(x)
    same = HammingIndex(columns, columns.transform(x))
    np.testing.assert_array_equal(same.codes, index.codes)
    for queries in (x[:5], HammingIndex(columns, columns.transform(x[:5]))):
        np.testing.assert_array_equal(index.search(queries, 3).indices, same.search(queries, 3).indices)
    for bad in (columns.transform(x) * 2, columns.transform(x).astype(float), columns.transform(x)[:, :69]):
        with pytest.raises(HypersignError, match=r"or zeros and ones in uint8 of shape \(n, 70\)"):
            HammingIndex(columns, bad)


def test_range_search_finds_all_within(x, index):
    queries = x[:20] + 0.3
    full = distances(index, queries)
    found = index.range_search(queries, 20)
    for i in range(20):
        order = np.argsort(full[i], kind="stable")
        expected = order[full[i, order] <= 20]
        part = slice(found.starts[i], found.starts[i + 1])
        np.testing.assert_array_equal(found.indices[part], expected)
        np.testing.assert_array_equal(found.distances[part], full[i, expected])


def test_rescoring_all_is_exact_search(x, index):
    queries = x[:20] + 0.3
    squares = ((queries[:, None] - x) ** 2).sum(2)
    order = np.argsort(squares, axis=1, kind="stable")
    found = index.rescore(queries, index.search(queries, 400), x, 10)
    np.testing.assert_array_equal(found.indices, order[:, :10])
    np.testing.assert_allclose(found.distances, np.sqrt(np.take_along_axis(squares, order[:, :10], 1)))
    some = index.rescore(queries, index.search(queries, 40), x, 10)
    assert 0.5 < recall(some.indices, order, 10) < 1
    assert (np.diff(some.distances) >= 0).all()


@pytest.mark.parametrize("options", [{}, {"bits_per_dimension": 2, "metric": "inner_product"}])
@pytest.mark.parametrize("metric", ["euclidean", "cosine", "inner_product"])
def test_rescoring_by_any_metric(metric, options):
    random = np.random.default_rng(0)
    x = random.standard_normal((300, 24)) * np.exp(random.standard_normal((300, 1)))
    queries = random.standard_normal((10, 24))
    hasher = SignHasher(**options).fit(x)
    index = HammingIndex(hasher, hasher.codes(x))
    products, lengths = queries @ x.T, np.linalg.norm(x, axis=1)
    exact = {
        "euclidean": np.sqrt(np.square(queries[:, None] - x).sum(2)),
        "cosine": 1 - products / np.linalg.norm(queries, axis=1)[:, None] / lengths,
        "inner_product": -products,
    }
    candidates = index.search(queries, 300)
    found = index.rescore(queries, candidates, x, 10, metric=metric)
    np.testing.assert_array_equal(found.indices, np.argsort(exact[metric], axis=1)[:, :10])
    np.testing.assert_allclose(found.distances, np.sort(exact[metric], axis=1)[:, :10], atol=1e-12)
    by_default = exact[options.get("metric", "euclidean")]
    found = index.rescore(queries, candidates, x, 10)
    np.testing.assert_array_equal(found.indices, np.argsort(by_default, axis=1)[:, :10])


def test_bad_metrics_of_rescoring(x, index):
    found = index.search(x[:1], 400)
    with pytest.raises(HypersignError, match="metric must be one of euclidean, cosine, inner_product; got 'hamming'"):
        index.rescore(x[:1], found, x, 5, metric="hamming")
    x[3] = 0
    with pytest.raises(HypersignError, match="finite vectors that are not zero; query 0 or row 3 is not"):
        index.rescore(x[:1], found, x, 5, metric="cosine")


def test_equal_distances_go_by_index_after_rescoring():
    x = np.array([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    hasher = SignHasher(8, center=False).fit(x)
    index = HammingIndex(hasher, hasher.transform(x))
    found = index.rescore(np.zeros((1, 2)), Neighbours(np.zeros((1, 4)), np.array([[3, 0, 2, 1]])), x, 4)
    assert found.indices.tolist() == [[0, 1, 2, 3]]


def test_rescoring_reads_a_mapped_file(x, index, tmp_path):
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    candidates = index.search(x[:5], 20)
    ours, theirs = (index.rescore(x[:5], candidates, v, 3) for v in (mapped, x))
    np.testing.assert_array_equal(ours.indices, theirs.indices)
    assert ours.distances[:, 0].tolist() == [0] * 5


@pytest.mark.parametrize("options", [{}, {"rotation": "haar", "seed": 3}, {"center": False, "rounds": 1}])
def test_a_saved_index_knows_its_hasher(x, options, tmp_path):
    hasher = SignHasher(70, **options).fit(x)
    index = HammingIndex(hasher, hasher.transform(x))
    index.save(tmp_path / "codes.safetensors")
    again = HammingIndex.load(tmp_path / "codes.safetensors")
    np.testing.assert_array_equal(again.codes, index.codes)
    assert again.hasher.get_params() == hasher.get_params()
    assert again.hasher.difference(hasher) == ""
    np.testing.assert_array_equal(again.hasher.transform(x), index.codes)
    np.testing.assert_array_equal(index.search(again, 1).indices[:, 0], index.search(x, 1).indices[:, 0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "differ in seed 0 and 1"),
        ({"bits": 65}, "differ in bits 70 and 65"),
        ({"rotation": "haar"}, "differ in rotation hadamard and haar"),
        ({"center": False}, "differ in center True and False"),
    ],
)
def test_codes_of_another_hasher_are_refused(x, index, change, message):
    other = SignHasher(**({"bits": 70} | change)).fit(x)
    queries = HammingIndex(other, other.transform(x[:3]))
    with pytest.raises(HypersignError, match=message):
        index.search(queries, 1)
    with pytest.raises(HypersignError, match=message):
        index.range_search(queries, 1)


def test_codes_centred_on_other_vectors_are_refused(x, index):
    other = SignHasher(70).fit(x[:100])
    with pytest.raises(HypersignError, match="differ in the means of different vectors"):
        index.search(HammingIndex(other, other.transform(x)), 1)


def test_bad_searches(x, index):
    with pytest.raises(HypersignError, match="at most the number of codes in the index, 400; got 401"):
        index.search(x[:1], 401)
    with pytest.raises(HypersignError, match="k must be an integer >= 1"):
        index.search(x[:1], 0)
    with pytest.raises(HypersignError, match="X has 5 features, but SignHasher is expecting 24"):
        index.search(x[:1, :5], 1)
    with pytest.raises(HypersignError, match=r"codes of 70 bits must be uint64 of shape \(n, 2\)"):
        HammingIndex(index.hasher, index.codes[:, :1])
    found = index.search(x[:1], 5)
    with pytest.raises(HypersignError, match="index is of 400 vectors of dimension 24; got vectors of shape"):
        index.rescore(x[:1], found, x[:399], 5)
    with pytest.raises(HypersignError, match="k must be an integer from 1 to 5; got 6"):
        index.rescore(x[:1], found, x, 6)
    with pytest.raises(HypersignError, match="must be of shape"):
        index.rescore(x[:2], found, x, 5)
    broken = x.copy()
    broken[0, 3] = np.nan
    with pytest.raises(HypersignError, match="needs finite vectors; query 0 or row 0 is not"):
        index.rescore(x[:1], found, broken, 5)


def test_recall_counts_hits():
    assert recall(np.array([[0, 1], [5, 6]]), np.array([[1, 0, 9], [6, 7, 5]]), k=2) == 0.75


@pytest.mark.parametrize(("kind", "other"), [("i8", "i8"), ("u8", "u8"), ("i8", "u8"), ("i8", "u1"), ("i4", "i4")])
def test_rescoring_integers_that_float64_rounds(kind, other):
    random = np.random.default_rng(0)
    most = min(np.iinfo(kind).max, np.iinfo(other).max)
    for centre, spread in ((most // 2, 50), (most // 2, most // 2)):
        x = (centre + random.integers(-spread, spread, (100, 8))).astype(kind)
        queries = (centre + random.integers(-spread, spread, (3, 8))).astype(other)
        hasher = SignHasher(64).fit(x)
        index = HammingIndex(hasher, hasher.transform(x))
        found = index.rescore(queries, index.search(queries, k=100), x, 5)
        for query, distances, indices in zip(queries.tolist(), found.distances, found.indices, strict=True):
            squares = [sum((a - b) ** 2 for a, b in zip(row, query, strict=True)) for row in x.tolist()]
            nearest = sorted(range(100), key=lambda i: (squares[i], i))[:5]
            np.testing.assert_allclose(distances, [squares[i] ** 0.5 for i in nearest], rtol=1e-12)
            np.testing.assert_allclose(distances, [squares[i] ** 0.5 for i in indices], rtol=1e-12)


class Table:
    def __init__(self, codes):
        self.values = codes

    def __array__(self, dtype=None, copy=None):
        return self.values


class Tables(SignHasher):
    """Its `transform` gives tables, as that of every transformer does after `set_output(transform="pandas")`."""

    def transform(self, X):
        return Table(self.codes(X))


def test_tables_in_place_of_arrays():
    x = np.random.default_rng(0).standard_normal((50, 20))
    hasher, tables = (kind(bits=70).fit(x) for kind in (SignHasher, Tables))
    index = HammingIndex(tables, hasher.transform(x))
    assert index.search(x, 1).indices[:, 0].tolist() == list(range(50))
    assert len(HammingIndex(tables, tables.transform(x))) == 50
    assert BoundedIndex(tables, x).codes.dtype == np.uint64


def test_one_query_must_be_a_row():
    x = np.random.default_rng(0).standard_normal((50, 20))
    hasher = SignHasher(bits=64).fit(x)
    with pytest.raises(HypersignError, match=r"shape \(n, dimension\); got shape \(20,\).* x to \[x\]$"):
        HammingIndex(hasher, hasher.transform(x)).search(x[0], 1)


@pytest.mark.parametrize("metric", ["euclidean", "cosine", "inner_product"])
def test_batches_of_wide_level_codes_find_what_a_whole_scan_finds(metric):
    random = np.random.default_rng(0)
    x = random.standard_normal((24_000, 10), np.float32) @ random.standard_normal((10, 256), np.float32)
    x += random.standard_normal(x.shape, np.float32) / 2 + 1
    hasher = SignHasher(bits_per_dimension=2, metric=metric).fit(x)
    index = HammingIndex(hasher, hasher.codes(x))
    index.remove(np.arange(0, 24_000, 7))
    index.add(x[:70:7])
    queries = x[:1100] + random.standard_normal((1100, 256), np.float32) / 2
    for allowed in (None, index.ids[::2]):
        found = index.search(queries, 10, allowed=allowed)
        expected = index.search(queries, 10, allowed=allowed, exact=True)
        assert (found.indices == expected.indices).mean() > 0.9995
        np.testing.assert_array_equal(found.distances[:, 0], expected.distances[:, 0])
