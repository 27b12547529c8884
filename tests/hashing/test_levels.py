"""Codes of 1 to 6 bits per dimension, against formulas in float64 and against Monte Carlo over rotations."""

import json
import math

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from hypersign._checks import HypersignError
from hypersign.bits import LevelCode, pack_levels, unpack_levels
from hypersign.hashing import HammingIndex, SignHasher, asymmetric_cosine, code_distances, hash_file, recall
from hypersign.hashing.levels import SCALES, UNIT, encode, quantize_queries
from hypersign.rotations import HadamardRotation

from .brute_force import distances

BITS = (1, 1.5, 2, 3, 4, 6)
METRICS = ("euclidean", "cosine", "inner_product")


def vectors(n=300, d=40, seed=0):
    random = np.random.default_rng(seed)
    return random.standard_normal((n, d)) * np.exp(-0.05 * np.arange(d)) + random.standard_normal(d)


def best_cosine(row, levels, unit):
    """The scales one after the other, a component at a time."""
    best, found = -1.0, None
    rms = math.sqrt(sum(y * y for y in row) / len(row))
    for scale in SCALES:
        code = [min(levels, key=lambda level: abs(y / (unit * scale * rms) - level)) for y in row]
        norm = math.sqrt(sum(float(c) ** 2 for c in code))
        cosine = sum(c * y for c, y in zip(code, row, strict=True)) / norm if norm else 0
        if cosine > best + 1e-9:
            best, found = cosine, code
    return best / math.sqrt(sum(y * y for y in row)), found


@pytest.mark.parametrize("bits", BITS)
def test_the_best_of_eight_scales(bits):
    code = LevelCode(bits, 33)
    levels = [int(level) for level in code.levels]
    rows = np.random.default_rng(1).standard_normal((20, 33))
    for row, indices in zip(rows, encode(rows, code), strict=True):
        cosine, expected = best_cosine(row, levels, UNIT[bits])
        values = code.levels[indices].astype(float)
        assert values @ row / np.linalg.norm(values) / np.linalg.norm(row) == pytest.approx(cosine, abs=1e-4)
        assert np.mean(values == expected) > 0.95  # rounding to 16 bits moves few


@pytest.mark.parametrize(
    ("bits", "noise"), [(1, 0.571), (1.5, 0.232), (2, 0.131), (3, 0.0347), (4, 0.0087), (6, 0.00079)]
)
def test_the_noise_of_codes_of_gaussians(bits, noise):
    """1/cosine^2 - 1, the variance of an estimated product; that of Lloyd-Max is .571, .235, .133, .0358, .0096."""
    x = np.random.default_rng(0).standard_normal((500, 256))
    code = LevelCode(bits, 256)
    values = code.levels[encode(x, code)].astype(float)
    cosines = (values * x).sum(1) / np.linalg.norm(values, axis=1) / np.linalg.norm(x, axis=1)
    assert np.mean(1 / cosines**2 - 1) == pytest.approx(noise, rel=0.03)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("metric", METRICS)
def test_rows_hold_levels_and_numbers_of_the_metric(bits, metric):
    x = vectors(50, 37)
    hasher = SignHasher(bits_per_dimension=bits, metric=metric, center=0.7, seed=3).fit(x)
    directed = x / np.linalg.norm(x, axis=1)[:, None] if metric == "cosine" else x
    mean = 0.7 * directed.mean(0)
    np.testing.assert_allclose(hasher.mean_, mean)
    y = HadamardRotation(37, 3, 3, tight=True)(directed - mean)
    np.testing.assert_allclose(hasher.project(x), y, rtol=1e-6, atol=1e-9)
    codes, code = hasher.transform(x), LevelCode(bits, 37)
    assert codes.dtype == np.uint8
    assert codes.shape == (50, hasher.row_bytes()) == (50, len(hasher.get_feature_names_out()))
    levels = code.levels[unpack_levels(codes[:, : code.width], code)].astype(float)
    np.testing.assert_array_equal(levels, code.levels[encode(y, code)])
    numbers = codes[:, code.width :].copy().view("<f4")
    f = np.square(directed - mean).sum(1) / (levels * y).sum(1)
    second = np.square(directed - mean).sum(1) if metric == "euclidean" else -(directed @ mean)
    np.testing.assert_allclose(numbers[:, 0], (-2 if metric == "euclidean" else -1) * f, rtol=1e-5)
    np.testing.assert_allclose(numbers[:, 1], second, rtol=1e-5, atol=1e-6)
    assert numbers.shape[1] == 2


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("metric", METRICS)
def test_search_sorts_by_the_estimates(bits, metric):
    x, q = vectors(200, 65), vectors(7, 65, seed=1)
    hasher = SignHasher(bits_per_dimension=bits, metric=metric).fit(x)
    codes, code = hasher.codes(x), LevelCode(bits, 65)
    levels = code.levels[unpack_levels(codes[:, : code.width], code)].astype(float)
    numbers = codes[:, code.width :].copy().view("<f4").astype(float)
    v, steps = quantize_queries(hasher.project(q))
    directed = q / np.linalg.norm(q, axis=1)[:, None] if metric == "cosine" else q
    rest = directed - hasher.mean_
    term = {
        "euclidean": np.square(rest).sum(1),
        "cosine": 1 - rest @ hasher.mean_,
        "inner_product": -rest @ hasher.mean_,
    }[metric]
    expected = (v * steps[:, None].astype(float)) @ levels.T * numbers[:, 0] + numbers[:, 1] + term[:, None]
    estimate = code_distances(hasher, q, codes)
    np.testing.assert_allclose(estimate.distance, expected, rtol=1e-6, atol=1e-5)
    index = HammingIndex(hasher, codes)
    found = index.search(q, k=200)
    np.testing.assert_array_equal(np.sort(found.indices, 1), np.tile(np.arange(200), (7, 1)))
    odd = index.search(q, 10, allowed=np.arange(1, 200, 2))
    for row, all_of_row in zip(odd.indices, found.indices, strict=True):
        np.testing.assert_array_equal(row, all_of_row[all_of_row % 2 == 1][:10])
    parts = HammingIndex(hasher, codes[:150], ids=np.arange(50, 200))
    parts.add(x[150:], ids=np.arange(50))
    moved = parts.search(q, k=200).indices
    np.testing.assert_array_equal((moved - 50) % 200, found.indices)
    parts.remove(found.indices[0, :3] + 50 if (found.indices[0, :3] < 150).all() else parts.ids[:3])
    assert len(parts) == 197
    values = np.sqrt(np.maximum(expected, 0)) if metric == "euclidean" else expected
    np.testing.assert_allclose(found.distances, np.take_along_axis(values, found.indices, 1), rtol=1e-3, atol=1e-4)
    assert (np.diff(found.distances, axis=1) >= 0).all()


@pytest.mark.parametrize(
    ("bits", "metric", "components"),
    [
        *((b, "euclidean", 24) for b in BITS),
        (2, "cosine", 24),
        (4, "inner_product", 24),
        (2, "euclidean", 20),
        (3, "inner_product", 40),
    ],
)
def test_estimates_have_no_bias_over_rotations_and_keep_their_bound(bits, metric, components):
    x, q = vectors(12, 24), vectors(6, 24, seed=1)
    truth = distances(metric, x, q)
    errors, bounds = [], []
    for seed in range(150):
        hasher = SignHasher(
            math.ceil(bits * components),
            bits_per_dimension=bits,
            metric=metric,
            center=0.5,
            rotation="haar",
            seed=seed,
        ).fit(x)
        estimate = code_distances(hasher, q, hasher.codes(x))
        errors.append(estimate.distance - truth)
        bounds.append(estimate.bound)
    error, bound = np.array(errors), np.array(bounds)
    deviation = error.mean(0) / (error.std(0) / math.sqrt(len(error)))
    assert np.abs(deviation).max() < 4.5  # of 72 pairs, which share their rotations
    assert np.sqrt(np.square(deviation).mean()) < 1.8
    # 1.9 standard deviations of a bound that holds for queries at right angles to the vector and is wide for others
    assert (np.abs(error) <= bound).mean() > 0.93


def test_more_bits_find_more():
    random = np.random.default_rng(0)
    x, q = random.standard_normal((1000, 32)), random.standard_normal((30, 32))
    for metric in METRICS:
        truth = np.argsort(distances(metric, x, q), axis=1)[:, :10]
        found = []
        for bits in BITS:
            hasher = SignHasher(bits_per_dimension=bits, metric=metric).fit(x)
            found.append(recall(HammingIndex(hasher, hasher.codes(x)).search(q, 10).indices, truth, 10))
        assert found == sorted(found)
        assert found[0] > 0.35
        assert found[-1] > 0.85


@pytest.mark.parametrize("d", [1, 2, 3, 63, 64, 65, 100])
@pytest.mark.parametrize("bits", BITS)
def test_any_dimension_and_one_row(d, bits):
    x = np.random.default_rng(d).standard_normal((5, d)).astype(np.float32)
    for rows in (x, x[:1]):
        for center in (False, True):
            hasher = SignHasher(bits_per_dimension=bits, metric="euclidean", center=center).fit(rows)
            found = HammingIndex(hasher, hasher.codes(rows)).search(rows, len(rows))
            assert np.isfinite(found.distances).all()
    if d == 1:  # the level of a single component is exact
        np.testing.assert_allclose(found.distances, 0, atol=1e-6)


def test_zero_vectors_and_the_mean_are_hashed():
    x = np.array([[1.0, 2], [-1, -2], [0, 0], [3, 4]])
    hasher = SignHasher(bits_per_dimension=2, center=False).fit(x)
    found = HammingIndex(hasher, hasher.codes(x)).search([[0.1, 0.1], [0, 0]], 1)
    np.testing.assert_allclose(found.distances[:, 0], [math.hypot(0.1, 0.1), 0], rtol=1e-6)
    assert found.indices.tolist() == [[2], [2]]
    equal = np.ones((3, 4))
    hasher = SignHasher(bits_per_dimension=4).fit(equal)
    found = HammingIndex(hasher, hasher.codes(equal)).search([[1.0, 1, 1, 3]], 3)
    np.testing.assert_allclose(found.distances, [[2, 2, 2]])
    assert found.indices.tolist() == [[0, 1, 2]]


def test_scales_of_vectors_change_nothing():
    x = vectors(100, 20)
    plain = SignHasher(bits_per_dimension=3).fit(x)
    expected = HammingIndex(plain, plain.codes(x)).search(x[:5], 10)
    for power in (-40, 40):
        hasher = SignHasher(bits_per_dimension=3).fit(x * 2.0**power)
        found = HammingIndex(hasher, hasher.codes(x * 2.0**power)).search(x[:5] * 2.0**power, 10)
        np.testing.assert_array_equal(found.indices, expected.indices)
        np.testing.assert_allclose(found.distances, expected.distances * 2.0**power)


@pytest.mark.parametrize("kind", [np.float32, np.uint8, np.int64, np.bool_])
def test_types_of_vectors(kind):
    x = np.random.default_rng(0).integers(0, 2 if kind is np.bool_ else 100, (60, 24)).astype(kind)
    hasher, real = (SignHasher(bits_per_dimension=4, metric="cosine").fit(x.astype(t)) for t in (kind, np.float64))
    np.testing.assert_array_equal(hasher.codes(x)[:, :12], real.codes(x.astype(np.float64))[:, :12])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits_per_dimension": 5}, "bits_per_dimension must be one of 1, 1.5, 2, 3, 4, 6; got 5"),
        ({"bits_per_dimension": math.nan}, "bits_per_dimension must be"),
        ({"metric": "manhattan"}, "metric must be one of hamming, euclidean, cosine, inner_product"),
        ({"bits_per_dimension": 2, "metric": "hamming"}, "the metric hamming is for 1 bit per dimension; got 2"),
        (
            {"bits_per_dimension": 2, "bits": 9},
            "a multiple of bits_per_dimension, 2 for each component; got 9",
        ),
        ({"bits_per_dimension": 4, "bits": 2}, "a multiple"),
        ({"bits_per_dimension": 1.5, "bits": 4}, "a multiple"),
        ({"bits_per_dimension": 2, "rotation": None}, "level codes need a random rotation"),
        ({"bits_per_dimension": 2, "output": "bits"}, 'output="bits" is for sign codes'),
        ({"bits_per_dimension": 2, "bits": 2**18}, "at most 65,536 components; got 131,072"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(HypersignError, match=message):
        SignHasher(**options).fit(np.eye(8))


def test_bad_vectors_and_codes():
    x = vectors(20, 8)
    hasher = SignHasher(bits_per_dimension=2, metric="cosine").fit(x)
    codes = hasher.codes(x)
    with pytest.raises(HypersignError, match="row 1 is zero and so has no cosine"):
        hasher.codes([[1.0] * 8, [0.0] * 8])
    with pytest.raises(HypersignError, match="got NaN in row 0"):
        hasher.codes([[math.nan] * 8])
    with pytest.raises(HypersignError, match="row 0 is zero"):
        HammingIndex(hasher, codes).search(np.zeros((1, 8)), 1)
    with pytest.raises(HypersignError, match=r"must be uint8 of shape \(n, 10\)"):
        HammingIndex(hasher, codes[:, :-1])
    with pytest.raises(HypersignError, match="codes came as queries"):
        HammingIndex(hasher, codes).search(HammingIndex(hasher, codes), 1)
    with pytest.raises(HypersignError, match="radii in bits are for sign codes"):
        HammingIndex(hasher, codes).range_search(x, 1)
    with pytest.raises(HypersignError, match="this estimate is for sign codes"):
        asymmetric_cosine(hasher, x, codes)
    with pytest.raises(HypersignError, match="quantized queries are for level codes"):
        code_distances(SignHasher(64).fit(x), x, codes)
    damaged = codes.copy()
    damaged[3, -8:-4] = np.array([np.nan], "<f4").view(np.uint8)
    assert 3 not in HammingIndex(hasher, damaged).search(x, 19).indices
    with pytest.raises(HypersignError, match="the code of id 3 is damaged"):
        HammingIndex(hasher, damaged).search(x, 20)
    with pytest.raises(HypersignError, match="too large: divide all vectors by one number"):
        SignHasher(bits_per_dimension=2).fit_transform(x * 1e30)
    other = SignHasher(bits_per_dimension=2).fit(x)
    assert other.difference(hasher) == "metric euclidean and cosine"


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("metric", METRICS)
def test_files(tmp_path, bits, metric, monkeypatch):
    monkeypatch.setattr("hypersign.hashing.stored.BLOCK", 64 * 20)
    x = vectors(150, 21).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    hasher = hash_file(tmp_path / "x.npy", tmp_path / "c", SignHasher(bits_per_dimension=bits, metric=metric))
    index = HammingIndex.load(tmp_path / "c")
    np.testing.assert_array_equal(index.codes, hasher.codes(x))
    assert index.hasher.difference(hasher) == ""
    found = index.search(x[:3], 5)
    index.save(tmp_path / "saved")
    assert (tmp_path / "saved").read_bytes() == (tmp_path / "c").read_bytes()
    exact = index.rescore(x[:3], found, x, 5)
    wide = x.astype(float)
    truth = distances(metric, wide, wide[:3])
    truth = np.sqrt(np.maximum(truth, 0)) if metric == "euclidean" else truth
    np.testing.assert_allclose(exact.distances, np.take_along_axis(truth, exact.indices, 1), atol=1e-7)


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        ({"version": 4}, "of version 4"),
        ({"version": 1}, "F64 and U64 were expected"),
        ({"bits_per_dimension": 1.5}, "makes 20"),
        ({"bits_per_dimension": "2"}, "bits_per_dimension must be"),
        ({"metric": "hamming"}, "metric must be one of euclidean, cosine, inner_product"),
        ({"metric": None}, "metric must be one of"),
        ({"bits": None}, "bits must be"),
        ({"bits": 40}, "columns"),
    ],
)
def test_damaged_files(tmp_path, saved, message):
    x = vectors(20, 40).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    hash_file(tmp_path / "x.npy", tmp_path / "c", SignHasher(84, bits_per_dimension=2))
    tensors = load_file(tmp_path / "c")
    options = {"version": 5, "bits": 84, "rotation": "hadamard", "rounds": 3, "center": True, "seed": 0}
    options |= {"bits_per_dimension": 2, "metric": "euclidean"}
    save_file(tensors, tmp_path / "again", {"hypersign": json.dumps(options)})
    assert len(HammingIndex.load(tmp_path / "again")) == 20
    save_file(tensors, tmp_path / "again", {"hypersign": json.dumps(options | saved)})
    with pytest.raises(HypersignError, match=message):
        HammingIndex.load(tmp_path / "again")


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("count", [1, 3, 4, 5, 63, 64, 65])
def test_packing(bits, count):
    code = LevelCode(bits, count)
    indices = np.random.default_rng(0).integers(0, len(code.levels), (9, count)).astype(np.uint8)
    packed = pack_levels(indices, code)
    assert packed.shape == (9, code.width)
    np.testing.assert_array_equal(unpack_levels(packed, code), indices)
    if bits == 2:
        w = -(-count // 4)
        for j in range(count):
            np.testing.assert_array_equal(packed[:, j % w] >> (2 * (j // w)) & 3, indices[:, j])
