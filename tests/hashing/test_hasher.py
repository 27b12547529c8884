import numpy as np
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import estimator_checks_generator

from hypersign._checks import HypersignError
from hypersign.bits import unpack
from hypersign.hashing import BoundedIndex, HammingIndex, SignHasher, StoredVectors
from hypersign.rotations import HaarRotation, HadamardRotation


def vectors(n=300, d=40, seed=0):
    random = np.random.default_rng(seed)
    return random.standard_normal((n, d)) * np.exp(-0.05 * np.arange(d)) + random.standard_normal(d)


@pytest.mark.parametrize("bits", [1, 31, 63, 64, 65, 200])
@pytest.mark.parametrize("rotation", ["hadamard", "haar"])
def test_codes_are_signs_of_the_rotated_centred_vectors(bits, rotation):
    x = vectors()
    codes = SignHasher(bits, rotation=rotation, seed=5).fit_transform(x)
    assert codes.dtype == np.uint64
    assert codes.shape == (300, -(-bits // 64))
    if rotation == "hadamard":
        turned = HadamardRotation(40, 3, 5, outputs=bits)(x - x.mean(0))
    else:
        turned = (x - x.mean(0)) @ HaarRotation(40, 5, outputs=bits).matrix.T
    np.testing.assert_array_equal(unpack(codes, bits), np.where(turned < 0, -1, 1))


def test_without_rotation_or_centring():
    x = vectors(d=64)
    codes = SignHasher(64, rotation=None, center=False).fit_transform(x)
    np.testing.assert_array_equal(unpack(codes, 64), np.where(x < 0, -1, 1))
    with pytest.raises(HypersignError, match="a bit for every component, here 64; got bits=32"):
        SignHasher(32, rotation=None).fit(x)


@pytest.mark.parametrize("dtype", [np.float64, np.uint8])
def test_a_share_of_the_mean(dtype):
    x = np.random.default_rng(0).integers(0, 256, (100, 40)).astype(dtype)
    hasher = SignHasher(64, center=0.5).fit(x)
    np.testing.assert_allclose(hasher.mean_, x.mean(0, dtype=float) / 2)
    turned = HadamardRotation(40, outputs=64)(x - x.mean(0, dtype=float) / 2)
    np.testing.assert_array_equal(unpack(hasher.transform(x), 64), np.where(turned < 0, -1, 1))


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.int32, bool])
@pytest.mark.parametrize("rotation", ["hadamard", None, "haar"])
def test_integers_are_hashed_as_their_float64_values(dtype, rotation):
    x = np.random.default_rng(0).integers(0, 2 if dtype is bool else 100, (500, 64)).astype(dtype)
    hasher = SignHasher(64, rotation=rotation).fit(x)
    mean = x.astype(np.float64).mean(0)
    np.testing.assert_allclose(hasher.mean_, mean, rtol=1e-12)
    turned = x - mean
    if rotation == "hadamard":
        turned = HadamardRotation(64)(turned)
    elif rotation == "haar":
        turned = HaarRotation(64, 0)(turned)
    sure = np.abs(turned) > 1e-4
    assert sure.mean() > 0.999
    np.testing.assert_array_equal(unpack(hasher.transform(x), 64)[sure], np.where(turned < 0, -1, 1)[sure])


class Additions(np.ndarray):
    """An array that takes part in sums, differences and sign flips, and in no product of two numbers but +-1."""

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        plain = [x.view(np.ndarray) if isinstance(x, Additions) else x for x in inputs]
        if ufunc in (np.multiply, np.matmul, np.divide, np.power):
            assert ufunc is np.multiply
            assert any(np.isin(np.asarray(x), (-1, 1)).all() for x in plain), "a product that is no sign flip"
        return getattr(ufunc, method)(*plain, **options).view(Additions)


def test_uint8_is_hashed_by_additions_sign_flips_and_comparisons(monkeypatch):
    x = np.random.default_rng(0).integers(0, 256, (50, 32)).astype(np.uint8)
    hasher = SignHasher(64).fit(x)
    expected = hasher.transform(x)
    sums = hasher.rotation_.sums(x)
    assert sums.dtype == np.int32
    hidden = hasher.rotation_.sums(x.view(Additions))
    np.testing.assert_array_equal(np.asarray(hidden), sums)
    threshold = np.ceil(hasher.rotation_.sums(hasher.mean_)).astype(np.int64)
    np.testing.assert_array_equal(unpack(expected, 64), np.where(sums < threshold, -1, 1))


@pytest.mark.parametrize("output", ["packed", "bits"])
def test_follows_the_conventions_of_scikit_learn(output):
    failed = []
    for estimator, check in estimator_checks_generator(SignHasher(bits=64, output=output)):
        try:
            check(estimator)
        except Exception as error:
            if type(error).__name__ != "SkipTest":
                failed.append(f"{check.func.__name__}: {error}")
    assert not failed


def test_bits_as_columns_are_the_packed_bits():
    x = vectors()
    for m in (1, 63, 64, 65, 200):
        packed, columns = SignHasher(m), SignHasher(m, output="bits")
        codes, found = packed.fit_transform(x), columns.fit_transform(x)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, unpack(codes, m) < 0)
        np.testing.assert_array_equal(columns.codes(x), codes)
        assert columns.get_feature_names_out().tolist() == [f"signhasher{i}" for i in range(m)]
        assert packed.difference(columns) == ""
    columns.set_params(output="packed")
    assert columns.transform(x).shape == (300, len(columns.get_feature_names_out()))
    with pytest.raises(HypersignError, match="output must be one of"):
        SignHasher(output="words").fit(x)


def test_estimators_that_follow_see_bits():
    """Packed words are numbers to a classifier, which finds nothing in them."""
    random = np.random.default_rng(0)
    labels = np.arange(600) % 10
    x = random.standard_normal((10, 64))[labels] + 0.7 * random.standard_normal((600, 64))
    accuracy = {}
    for output in ("packed", "bits"):
        hash_some = ColumnTransformer([("codes", SignHasher(256, output=output), slice(0, 64))])
        pipeline = make_pipeline(hash_some, KNeighborsClassifier(3)).fit(x[:400], labels[:400])
        accuracy[output] = pipeline.score(x[400:], labels[400:])
    assert accuracy["packed"] < 0.8
    assert accuracy["bits"] > 0.95


@pytest.mark.parametrize("output", ["packed", "bits"])
def test_data_frames(output):
    pandas = pytest.importorskip("pandas")
    x = vectors()
    hasher = SignHasher(70, output=output).set_output(transform="pandas").fit(x)
    frame = hasher.transform(x)
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame.columns) == list(hasher.get_feature_names_out())
    plain = SignHasher(70, output=output).fit(x)
    np.testing.assert_array_equal(frame.to_numpy(), plain.transform(x))
    index = HammingIndex(hasher, frame)
    np.testing.assert_array_equal(index.codes, plain.codes(x))
    np.testing.assert_array_equal(index.search(x[:5], k=1).indices[:, 0], range(5))
    # frames of vectors too, whose index is not that of their rows
    table = pandas.DataFrame(x, index=np.arange(len(x))[::-1])
    candidates = index.search(table[:5], k=8)
    np.testing.assert_array_equal(candidates.indices, index.search(x[:5], k=8).indices)
    found, expected = (index.rescore(y[:5], candidates, y, k=3) for y in (table, x))
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_array_equal(found.distances, expected.distances)


@pytest.mark.parametrize("options", [{"bits_per_dimension": 2}, {"metric": "cosine"}], ids=str)
def test_data_frames_of_level_codes(options):
    pytest.importorskip("pandas")
    x = vectors()
    hasher = SignHasher(**options).set_output(transform="pandas").fit(x)
    index = HammingIndex(hasher, hasher.transform(x))
    np.testing.assert_array_equal(index.codes, hasher.codes(x))
    candidates = index.search(x[:5], k=8)
    np.testing.assert_array_equal(index.rescore(x[:5], candidates, x, k=1).indices[:, 0], range(5))


def test_names_of_the_words():
    names = SignHasher(65).fit(vectors()).get_feature_names_out()
    assert names.tolist() == ["signhasher0", "signhasher1"]


def test_blocks_change_nothing(monkeypatch):
    x = vectors()
    whole = SignHasher(128).fit(x)
    monkeypatch.setattr("hypersign.hashing.stored.BLOCK", 7 * 40)
    parts = SignHasher(128).fit(x)
    np.testing.assert_array_equal(parts.mean_, whole.mean_)
    np.testing.assert_array_equal(parts.transform(x), whole.transform(x))


class File(StoredVectors):
    """Vectors that cannot be read all at once."""

    def __init__(self, x):
        self.x, self.shape, self.dtype = x, x.shape, x.dtype

    def read(self, start, stop):
        assert stop - start <= 7
        return self.x[start:stop]


@pytest.mark.parametrize("options", [{"bits": 128}, {"bits_per_dimension": 2, "metric": "cosine"}])
def test_vectors_of_a_file_are_read_in_blocks(options, monkeypatch):
    monkeypatch.setattr("hypersign.hashing.stored.BLOCK", 7 * 40)
    x = vectors()
    expected, hasher = SignHasher(**options).fit(x), SignHasher(**options).fit(File(x))
    assert hasher.difference(expected) == ""
    codes = expected.codes(x)
    np.testing.assert_array_equal(hasher.transform(File(x)), codes)
    np.testing.assert_array_equal(SignHasher(**options).fit_transform(File(x)), codes)
    index = HammingIndex(hasher)
    index.add(File(x))
    np.testing.assert_array_equal(index.codes, codes)
    if "bits" in options:
        found, bounded = BoundedIndex(hasher, File(x)), BoundedIndex(expected, x)
        for name in ("codes", "cosines", "lengths"):
            np.testing.assert_array_equal(getattr(found, name), getattr(bounded, name))
    with pytest.raises(HypersignError, match="X has 39 features, but SignHasher is expecting 40"):
        hasher.codes(File(x[:, :39]))
    for bad in (x[:0], x[:, :0]):
        with pytest.raises(HypersignError):
            hasher.fit(File(bad))
    x[100, 3] = np.nan
    with pytest.raises(HypersignError, match="NaN in row 100, column 3"):
        expected.codes(File(x))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bits": 0}, "bits must be an integer from 1 to 1048576; got 0"),
        ({"rotation": "random"}, "rotation must be one of hadamard, haar; got 'random'"),
        ({"rounds": 0}, "rounds must be an integer from 1 to 100; got 0"),
        ({"seed": -1}, "seed must be an integer from 0"),
        ({"center": 1.5}, "center must be a number >= 0 and <= 1; got 1.5"),
    ],
)
def test_bad_options(change, message):
    with pytest.raises(HypersignError, match=message):
        SignHasher(**change).fit(vectors())


def test_bad_vectors():
    x = vectors()
    hasher = SignHasher(64, center=False).fit(x)
    x[17, 3] = np.nan
    for fails in (SignHasher(64).fit, hasher.transform, hasher.project):
        with pytest.raises(HypersignError, match="finite; got NaN in row 17, column 3"):
            fails(x)
    x[17] = 0
    with pytest.raises(HypersignError, match="row 17 is zero and so has no direction to hash"):
        hasher.transform(x)
    zeros = np.zeros((2, 40), np.uint8)
    with pytest.raises(HypersignError, match="row 0 is zero"):
        hasher.transform(zeros)
    with pytest.raises(HypersignError, match="row 0 is the mean of the vectors"):
        SignHasher(64).fit_transform(np.ones((1, 40)))
    with pytest.raises(HypersignError, match="X has 39 features, but SignHasher is expecting 40"):
        hasher.transform(np.ones((2, 39)))
    with pytest.raises(HypersignError, match="0 sample"):
        hasher.transform(np.ones((0, 40)))


@pytest.mark.parametrize("kind", [np.int64, np.uint64])
@pytest.mark.parametrize("rotation", ["hadamard", "haar", None])
def test_integers_past_the_range_of_sums(kind, rotation):
    limits = np.iinfo(kind)
    x = np.random.default_rng(0).integers(limits.min, limits.max, (200, 64), kind, endpoint=True)
    x[0, :32], x[0, 32:] = limits.min, limits.max
    x[1, :32], x[1, 32:] = limits.max, limits.min
    hasher = SignHasher(64, rotation=rotation).fit(x)
    means = [sum(column) / len(x) for column in zip(*x.tolist(), strict=True)]  # of Python's integers
    np.testing.assert_allclose(hasher.mean_, means, rtol=1e-12)
    turned = x.astype(object) - np.array(means)
    turned = turned.astype(np.float64)
    if rotation:
        turned = (HadamardRotation(64) if rotation == "hadamard" else HaarRotation(64, 0))(turned)
    sure = np.abs(turned) > 1e-6 * limits.max
    assert sure.mean() > 0.999
    codes = hasher.transform(x)
    np.testing.assert_array_equal(unpack(codes, 64)[sure], np.where(turned < 0, -1, 1)[sure])
    # a code does not depend on the vectors beside it
    small = np.random.default_rng(1).integers(0, 50, (5, 64)).astype(kind)
    mixed = hasher.transform(np.concatenate([small, x]))
    np.testing.assert_array_equal(mixed, np.concatenate([hasher.transform(small), codes]))


def test_integers_beside_a_mean_that_float64_rounds_to_them():
    x = np.array([[2**60], [2**60 + 1], [2**60 - 1], [2**60 + 2]])
    hasher = SignHasher(1, rotation=None, center=True).fit(x)
    assert hasher.mean_[0] == 2.0**60
    assert unpack(hasher.transform(x[1:]), 1)[:, 0].tolist() == [1, -1, 1]
    with pytest.raises(HypersignError, match="row 0 is the mean"):
        hasher.transform(x[:1])
    with pytest.raises(HypersignError, match=r"row 0 is zero.*1 here"):
        SignHasher(2, rotation=None, center=False).fit(x.repeat(2, 1)).transform([[0, 0], [0, 1]])


def test_floating_numbers_whose_sums_overflow():
    x = np.random.default_rng(0).standard_normal((50, 64)).clip(-3, 3)
    codes = SignHasher(64).fit_transform(x)
    for dtype, largest in ((np.float16, 2e4), (np.float32, 1e38)):
        large = (largest * x).astype(dtype)
        hasher = SignHasher(64).fit(large)
        assert (unpack(hasher.transform(large), 64) == unpack(codes, 64)).mean() > 0.999
        mixed = np.concatenate([x.astype(dtype), large])
        np.testing.assert_array_equal(
            hasher.transform(mixed), np.concatenate([hasher.transform(x.astype(dtype)), hasher.transform(large)])
        )
        assert np.isfinite(hasher.project(large)).all()
    with pytest.raises(HypersignError, match=r"sum of the vectors must be a float64 number.*divide all vectors"):
        SignHasher(64).fit(np.abs(x) * 5e307)
    hasher = SignHasher(64, center=False).fit(x)
    with pytest.raises(HypersignError, match="50 of these are too large: divide all vectors"):
        hasher.transform(x * 5e307)


def test_a_haar_rotation_that_is_too_large():
    with pytest.raises(HypersignError, match="at most 67,108,864 numbers; 1025 dimensions to 65536 bits need more"):
        SignHasher(bits=65536, rotation="haar").check_options(1025)
    SignHasher(bits=65536, rotation="haar").check_options(1024)
