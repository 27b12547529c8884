"""Codes of principal components, against NumPy's singular vectors and against searches by all distances."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from hypersign import cli
from hypersign._checks import HypersignError
from hypersign.bits import LevelCode, unpack_levels
from hypersign.hashing import (
    HammingIndex,
    SignHasher,
    code_distances,
    hash_dataset,
    hash_file,
    plan,
    predicted_recall,
)
from hypersign.hashing.levels import quantize_queries
from hypersign.hashing.principal import MOST_DIMENSIONS, ROWS, SecondMoments
from hypersign.rotations import HadamardRotation

from .brute_force import distances, measured_recall

METRICS = ("euclidean", "cosine", "inner_product")


def vectors(n=1500, d=48, seed=0):
    """Correlated: some ten directions hold most of the variance."""
    mixing = np.linalg.qr(np.random.default_rng(7).standard_normal((d, d)))[0]
    random = np.random.default_rng(seed)
    return (random.standard_normal((n, d)) * np.exp(-0.15 * np.arange(d))) @ mixing + 0.3


def principal(x, mean, count):
    """The right singular vectors of x - mean, one decomposition of all rows."""
    return np.linalg.svd(x - mean, full_matrices=False)[2][:count]


@pytest.mark.parametrize("share", [1, 0.5, 0])
@pytest.mark.parametrize("metric", METRICS)
def test_components_are_singular_vectors(metric, share):
    x = vectors()
    hasher = SignHasher(bits_per_dimension=4, metric=metric, center=share, pca=10).fit(x)
    directed = x / np.linalg.norm(x, axis=1)[:, None] if metric == "cosine" else x
    expected = principal(directed, share * directed.mean(0), 10)
    assert hasher.components_.dtype == np.float32
    signs = np.sign((hasher.components_ * expected).sum(1))[:, None]
    np.testing.assert_allclose(hasher.components_ * signs, expected, atol=2e-4)
    assert (np.take_along_axis(hasher.components_, np.abs(hasher.components_).argmax(1)[:, None], 1) > 0).all()
    np.testing.assert_allclose(hasher.components_ @ hasher.components_.T, np.eye(10), atol=1e-6)


def test_moments_of_blocks_far_from_the_origin():
    x = vectors() + 1e6
    whole, parts = SecondMoments(48).add(x), SecondMoments(48)
    for part in np.split(x, [1, 700, 1500]):  # the last one is empty
        parts.add(part)
    mean = x.mean(0)
    expected = principal(x, mean, 6)
    for moments in (whole, parts):
        found = moments.components(mean, 6)
        np.testing.assert_allclose(np.abs((found * expected).sum(1)), 1, atol=1e-6)
    many = np.concatenate([x, np.zeros((ROWS, 48)) + x[0]])
    assert SecondMoments(48).add(many).count == ROWS  # evenly spaced


@pytest.mark.parametrize("rotation", ["hadamard", "haar"])
@pytest.mark.parametrize("bits", [1, 1.5, 2, 3, 4, 6])
@pytest.mark.parametrize("metric", METRICS)
def test_rows_and_scores(metric, bits, rotation):
    """The codes of y = R P (x - mean), and search by their estimates, both written out."""
    x, q = vectors(150), vectors(5, seed=1)
    hasher = SignHasher(
        bits_per_dimension=bits,
        metric=metric,
        rotation=rotation,
        center=0.7,
        seed=3,
        pca=11,
    ).fit(x)
    codes, code = hasher.codes(x), LevelCode(bits, 11)
    assert codes.shape == (150, code.width + 8) == (150, hasher.row_bytes())
    directed = x / np.linalg.norm(x, axis=1)[:, None] if metric == "cosine" else x
    asked = q / np.linalg.norm(q, axis=1)[:, None] if metric == "cosine" else q
    mean = 0.7 * directed.mean(0)
    part = (directed - mean) @ hasher.components_.T
    y = hasher.project(x)
    if rotation == "hadamard":
        np.testing.assert_allclose(y, HadamardRotation(11, 3, 3, tight=True)(part), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(np.linalg.norm(y, axis=1), np.linalg.norm(part, axis=1), rtol=1e-5)
    levels = code.levels[unpack_levels(codes[:, : code.width], code)].astype(float)
    f = np.square(part).sum(1) / (levels * y).sum(1)
    v, steps = quantize_queries(hasher.project(q))
    products = (v * steps[:, None].astype(float)) @ levels.T * f
    lengths = np.square(directed - mean).sum(1) + np.square(asked - mean).sum(1)[:, None]
    expected = {
        "euclidean": lengths - 2 * products,
        "cosine": 1 - products - directed @ mean - ((asked - mean) @ mean)[:, None],
        "inner_product": -products - directed @ mean - ((asked - mean) @ mean)[:, None],
    }[metric]
    found = HammingIndex(hasher, codes).search(q, 150)
    sorted_ = np.sort(expected, axis=1)
    values = np.square(found.distances) if metric == "euclidean" else found.distances
    clipped = np.maximum(sorted_, 0) if metric == "euclidean" else sorted_
    np.testing.assert_allclose(values, clipped, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("bits", "count"), [(1.5, 20), (2, 16), (4, 8), (4, 48)])
def test_prediction_meets_measurement(metric, bits, count):
    x, q = vectors(), vectors(100, seed=1)
    options = {"bits_per_dimension": bits, "metric": metric, "pca": count}
    (predicted,) = predicted_recall(x, [SignHasher(**options)], queries=q, factors=(1, 4), metric=metric)
    np.testing.assert_allclose(list(predicted.recall.values()), measured_recall(options, x, q, 4), atol=0.02)


def test_more_recall_at_equal_bytes():
    x, q = vectors(), vectors(100, seed=1)
    truth = np.argsort(distances("euclidean", x, q), axis=1)[:, :10]
    shares = []
    for options in ({"bits_per_dimension": 1}, {"bits_per_dimension": 3, "pca": 16}):
        hasher = SignHasher(metric="euclidean", **options).fit(x)
        assert hasher.row_bytes() == 14
        found = HammingIndex(hasher, hasher.codes(x)).search(q, 10).indices
        shares.append(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, truth, strict=True)]))
    assert shares[1] > shares[0] + 0.2


def test_files(tmp_path):
    x = vectors().astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    options = {"bits_per_dimension": 4, "metric": "cosine", "pca": 12}
    hasher = hash_file(tmp_path / "x.npy", tmp_path / "c", SignHasher(**options))
    np.testing.assert_array_equal(hasher.components_, SignHasher(**options).fit(x).components_)
    index = HammingIndex.load(tmp_path / "c")
    np.testing.assert_array_equal(index.codes, hasher.codes(x))
    assert index.hasher.difference(hasher) == ""
    index.save(tmp_path / "saved")
    assert (tmp_path / "saved").read_bytes() == (tmp_path / "c").read_bytes()
    index.add(x[:3], ids=[5000, 5001, 5002])
    index.save(tmp_path / "more")
    assert HammingIndex.load(tmp_path / "more").search(x[:1], 2).indices.tolist() == [[0, 5000]]
    assert "principal components of different" in hasher.difference(
        SignHasher(**options).restore(hasher.mean_, hasher.components_[::-1])
    )
    x[7] = np.nan
    np.save(tmp_path / "x.npy", x)
    hash_file(tmp_path / "x.npy", tmp_path / "c", SignHasher(**options), skip=True)
    assert len(HammingIndex.load(tmp_path / "c")) == len(x) - 1


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"components": np.ones((11, 48), np.float32)}, {}, r"F32 and shape \(12, 48\)"),
        ({"components": np.ones((12, 48))}, {}, "F32"),
        ({"components": np.full((12, 48), np.nan, np.float32)}, {}, "entries of unit vectors"),
        ({"components": None}, {}, "must be there"),
        ({}, {"pca": None}, "must be there"),
        ({}, {"pca": 0}, "pca must be"),
        ({}, {"pca": "12"}, "pca must be"),
        ({}, {"pca": 13}, r"shape \(13, 48\)"),
        ({}, {"version": 5, "bits": 48}, "must be there"),
    ],
)
def test_damaged_files(tmp_path, change, options, message):
    x = vectors(60)
    hasher = SignHasher(bits_per_dimension=4, pca=12).fit(x)
    HammingIndex(hasher, hasher.codes(x)).save(tmp_path / "c")
    saved = {"version": 6, "rotation": "hadamard", "rounds": 3, "center": True, "seed": 0}
    saved |= {"bits_per_dimension": 4, "metric": "euclidean", "pca": 12}
    tensors = load_file(tmp_path / "c")
    save_file(tensors, tmp_path / "again", {"hypersign": json.dumps(saved)})
    assert len(HammingIndex.load(tmp_path / "again")) == 60
    tensors = {name: value for name, value in (tensors | change).items() if value is not None}
    save_file(tensors, tmp_path / "again", {"hypersign": json.dumps(saved | options)})
    with pytest.raises(HypersignError, match=message):
        HammingIndex.load(tmp_path / "again")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 64}, "these are sign codes"),
        ({"metric": "hamming", "bits": 64}, "these are sign codes"),
        ({}, "these are sign codes"),
        ({"bits_per_dimension": 2, "bits": 98}, "got pca=9 and bits=98: leave one out"),
        ({"bits_per_dimension": 2, "pca": 49}, "at most the 48 components of the vectors; got 49"),
        ({"bits_per_dimension": 2, "rotation": None}, "need a random rotation"),
        ({"bits_per_dimension": 2, "pca": 0}, "pca must be"),
        ({"bits_per_dimension": 2, "pca": True}, "pca must be"),
        ({"bits_per_dimension": 2, "pca": 2.5}, "pca must be"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(HypersignError, match=message):
        SignHasher(**{"pca": 9} | options).fit(vectors(60))


def test_vectors_that_do_not_fit():
    hasher = SignHasher(bits_per_dimension=2, pca=10)
    with pytest.raises(HypersignError, match=f"at most {MOST_DIMENSIONS:,}"):
        hasher.fit(np.zeros((3, MOST_DIMENSIONS + 1)))
    with pytest.raises(HypersignError, match="divide all vectors by one number"):
        hasher.fit(vectors(60) * 1e200)
    with pytest.raises(HypersignError, match="NaN in row 3"):
        hasher.fit(np.where(np.arange(60)[:, None] == 3, np.nan, vectors(60)))
    dask = pytest.importorskip("dask.array")
    with pytest.raises(HypersignError, match="pca needs the vectors, not their mean alone"):
        hash_dataset(dask.from_array(vectors(60)), hasher)
    with pytest.raises(HypersignError, match="no bounds on their errors"):
        code_distances(hasher.fit(vectors(60)), vectors(2), hasher.codes(vectors(60)))


@pytest.mark.parametrize("kind", [np.uint8, np.int32, np.float16, np.float32, np.float64])
def test_types_of_numbers(kind):
    x = np.clip(40 * vectors() + 100, 0, 255).astype(kind)
    hasher = SignHasher(bits_per_dimension=4, pca=12).fit(x)
    found = HammingIndex(hasher, hasher.codes(x)).search(x[:20], 1).indices[:, 0]
    assert (found == np.arange(20)).mean() > 0.9


def test_edges():
    x = vectors(12)
    fewer_vectors = SignHasher(bits_per_dimension=4, pca=24).fit(x)  # 24 components of 12 vectors
    found = HammingIndex(fewer_vectors, fewer_vectors.codes(x)).search(x, 1).indices[:, 0]
    np.testing.assert_array_equal(found, np.arange(12))
    one = SignHasher(bits_per_dimension=4, pca=1).fit(x)
    assert one.codes(x).shape == (12, 9)
    same = SignHasher(bits_per_dimension=4, pca=2).fit(np.ones((5, 48)))
    assert HammingIndex(same, same.codes(np.ones((5, 48)))).search(np.ones((1, 48)), 5).distances.max() < 1e-6


def test_a_plan_with_a_budget_names_principal_components(tmp_path, capsys):
    x = vectors()
    planned = plan(x, bytes=20, sample=60)
    kept = [row for row in planned.rows if row.pca]
    assert {row.bits_per_dimension for row in kept} == {3, 4, 6}  # of fewer bits all 48 components fit
    choice = planned.choose(0.8, bytes=20)
    assert choice.row.pca
    np.save(tmp_path / "x.npy", x)
    cli.main(["hash", str(tmp_path / "x.npy"), "--plan", "--recall", ".8", "--bytes", "20", "--queries", "60"])
    text = capsys.readouterr().out
    assert "--pca" in text.split("Choice: ")[1]
    options = text.split("Choice: ")[1].split(":")[0].split(", then")[0].split()
    words = ["hash", str(tmp_path / "x.npy"), "--plan", "-o", str(tmp_path / "c"), "--json", "-", *options]
    cli.main(words)
    rows = json.loads(capsys.readouterr().out)["rows"]
    (row,) = (row for row in rows if row["measured_recall"])
    assert row["pca"]
    assert row["measured_recall"]["1"] == pytest.approx(row["recall"]["1"], abs=0.05)
    hasher = HammingIndex.load(tmp_path / "c").hasher
    assert hasher.pca
    assert hasher.row_bytes() <= 20
