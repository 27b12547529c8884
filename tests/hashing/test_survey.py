import math

import numpy as np
import pytest

from hypersign._checks import HypersignError
from hypersign.hashing import SignHasher, inspect_vectors, open_vectors, predicted_recall
from hypersign.rotations import HaarRotation


def angle(u):
    return math.degrees(math.acos(np.abs(u).sum() / math.sqrt(len(u) * (u @ u))))


def test_angles_norms_and_dimension_are_those_of_loops():
    x = np.random.default_rng(0).standard_normal((300, 24)) * np.arange(1, 25) + 3
    found = inspect_vectors(x, bits=[8])
    centred = x - x.mean(0)
    for measured, vectors in ((found.signs_degrees, x), (found.centred_degrees, centred)):
        angles = [angle(v) for v in vectors]
        assert measured.mean == pytest.approx(np.mean(angles), abs=1e-6)
        assert measured.std == pytest.approx(np.std(angles, ddof=1), abs=1e-6)
    eigenvalues = np.linalg.eigvalsh(np.cov(x.T))
    assert found.effective_dimension == pytest.approx(eigenvalues.sum() ** 2 / (eigenvalues**2).sum())
    norms = np.linalg.norm(x, axis=1)
    assert (found.norm_least, found.norm_most) == pytest.approx((norms.min(), norms.max()))
    assert (found.norm_mean, found.norm_std) == pytest.approx((norms.mean(), norms.std()))
    assert found.mean_share == pytest.approx((x.mean(0) ** 2).sum() / (norms**2).mean())
    assert (found.rotated_dimension, found.sampled, found.queries) == (32, 300, 100)


def test_angles_meet_theory():
    """Unequal components with means: the law before rotations; after them that of normals, in 256 dimensions."""
    generator = np.random.default_rng(1)
    scale = np.exp(-0.02 * np.arange(256))
    x = generator.standard_normal((2000, 256)) * scale + generator.standard_normal(256)
    found = inspect_vectors(x, bits=[64])
    for angles in (found.signs_degrees, found.centred_degrees):
        assert angles.mean == pytest.approx(angles.predicted_mean, abs=0.1)
        assert angles.std == pytest.approx(angles.predicted_std, rel=0.05)
    assert found.centred_degrees.mean > 42
    # One rotation for all: what vectors have in common keeps its angle
    for angles in (found.rotated_degrees, found.centred_rotated_degrees):
        assert angles.mean == pytest.approx(angles.predicted_mean, abs=0.6)
        assert angles.predicted_mean == pytest.approx(36.98, abs=0.01)
    assert found.centred_rotated_degrees.std == pytest.approx(found.centred_rotated_degrees.predicted_std, rel=0.1)


@pytest.mark.parametrize("law", [3, 10, "laplace"])
def test_angles_of_heavy_tailed_components(law):
    generator = np.random.default_rng(0)
    shape = (3000, 48)
    x = generator.laplace(size=shape) if law == "laplace" else generator.standard_t(law, shape)
    x *= np.exp(-0.02 * np.arange(48))
    found = inspect_vectors(x, bits=[64])
    drawn = x[generator.integers(0, 3000, shape), np.arange(48)]  # a bootstrap of every component
    angles = [angle(v) for v in drawn]
    for predicted in (found.signs_degrees, found.centred_degrees):
        assert predicted.predicted_mean == pytest.approx(np.mean(angles), abs=0.4)
        assert predicted.predicted_std == pytest.approx(np.std(angles), rel=0.1)


def measured_recall(queries, vectors, nearest, bits, rotations):
    """By codes of Haar rotations, ties broken at random: the k codes of least distance, by sorting."""
    generator = np.random.default_rng(2)
    shares = []
    for seed in range(rotations):
        rotation = HaarRotation(queries.shape[1], seed, outputs=bits)
        a, b = (np.where(rotation(v) < 0, -1, 1) for v in (queries, vectors))
        distances = (bits - a @ b.T) / 2 + generator.random((len(queries), len(vectors))) / 2
        order = np.argsort(distances, axis=1)[:, : nearest.shape[1]]
        shares += [len(set(row) & set(wanted)) / len(wanted) for row, wanted in zip(order, nearest, strict=True)]
    return np.mean(shares)


@pytest.mark.parametrize("kind", ["isotropic", "clustered", "unequal"])
@pytest.mark.parametrize("bits", [32, 128])
def test_predicted_recall_is_measured(kind, bits):
    generator = np.random.default_rng(0)
    d, n = 128, 1500
    x = generator.standard_normal((n, d))
    if kind == "clustered":
        x = 0.5 * x + generator.standard_normal((15, d))[np.arange(n) % 15]
    if kind == "unequal":
        x *= np.exp(-0.05 * np.arange(d))
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    queries, vectors = unit[:40], unit[40:]
    nearest = np.argsort(-queries @ vectors.T, axis=1)[:, :10]
    (found,) = predicted_recall(vectors, [SignHasher(bits, center=False)], queries=queries, metric="cosine")
    predicted = found.recall[1]
    assert predicted == pytest.approx(measured_recall(queries, vectors, nearest, bits, 6), abs=0.035)
    assert 0.03 < predicted < 0.6


def test_recall_of_many_bits_and_of_all_neighbours():
    x = np.random.default_rng(0).standard_normal((60, 32))
    options = {"queries": x[:5], "metric": "cosine"}
    (found,) = predicted_recall(x[5:], [SignHasher(8, center=False)], k=50, factors=(2,), **options)
    assert found.recall[2] == 1
    (found,) = predicted_recall(x[5:], [SignHasher(10**4, center=False)], k=3, **options)
    assert found.recall[1] == pytest.approx(0.887, abs=0.04)  # measured: .887


def test_recalls_of_a_set():
    """Four tight pairs of clusters: codes find their own; centring matters in a narrow cone."""
    generator = np.random.default_rng(0)
    centres = np.repeat(generator.standard_normal((30, 64)), 11, axis=0)
    x = centres + 0.02 * generator.standard_normal(centres.shape)
    found = inspect_vectors(x[generator.permutation(len(x))], bits=[64, 256])
    first, last = found.recalls
    assert math.isnan(last.signs)
    assert math.isnan(last.centred)
    for recall in (first.signs, first.centred, first.rotated, last.rotated, last.centred_rotated):
        assert recall > 0.6
    cone = inspect_vectors(generator.standard_normal((400, 64)) + 5, bits=[64]).recalls[0]
    assert cone.signs < 0.05
    assert cone.rotated < cone.centred_rotated
    assert cone.rotated == pytest.approx(cone.rotated_predicted, abs=0.06)
    assert cone.centred_rotated == pytest.approx(cone.centred_rotated_predicted, abs=0.06)


@pytest.mark.parametrize("copies", [3, 25, 100])
def test_copies_are_hits(copies):
    """Beside a loop over queries: hits are found vectors no farther than the tenth, ties broken at random."""
    generator = np.random.default_rng(0)
    x = np.repeat(generator.standard_normal((1000 // copies, 64)), copies, axis=0)
    x = x[generator.permutation(len(x))]
    (found,) = inspect_vectors(x, bits=[64]).recalls
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    asked = np.unique(np.linspace(0, len(x) - 1, 100).round().astype(int))
    others = np.delete(np.arange(len(x)), asked)
    shares = []
    for query in asked:
        cosines = unit[others] @ unit[query]
        order = np.lexsort((generator.random(len(others)), ((x[others] < 0) != (x[query] < 0)).sum(1)))[:10]
        shares.append((cosines[order] >= np.sort(cosines)[-10] - 1e-9).mean())
    assert found.signs == pytest.approx(np.mean(shares), abs=0.02)
    assert found.rotated == pytest.approx(found.rotated_predicted, abs=0.04)
    assert copies < 12 or found.rotated == 1


def test_a_sample_zeros_types_and_default_bits(tmp_path):
    x = np.random.default_rng(0).integers(0, 255, (1000, 20)).astype(np.uint8)
    x[0] = 0
    np.save(tmp_path / "x.npy", x)
    opened = open_vectors(tmp_path / "x.npy")
    assert isinstance(opened, np.memmap)
    found = inspect_vectors(opened, sample=50, name="x")
    assert (found.vectors, found.sampled, found.zero_vectors, found.norm_least) == (1000, 50, 1, 0)
    assert [recall.bits for recall in found.recalls] == [8, 16, 32]
    assert found.queries == 19
    assert found.as_dict()["recalls"][2]["signs"] is None
    same = inspect_vectors(np.ones((20, 4)), bits=[4])
    assert math.isnan(same.effective_dimension)
    assert math.isnan(same.centred_degrees.mean)


def test_bad_vectors_and_options(tmp_path):
    x = np.random.default_rng(0).standard_normal((50, 8))
    x[7, 2] = np.nan
    with pytest.raises(HypersignError, match="1 of the 50 read are not, first number 7"):
        inspect_vectors(x)
    for vectors in (x[:0], x[:5], np.zeros((30, 4))):
        with pytest.raises(HypersignError, match="at least 12 vectors must not be zero"):
            inspect_vectors(vectors)
    with pytest.raises(HypersignError, match=r"with d >= 2; got shape \(50, 1\)"):
        inspect_vectors(x[:, :1])
    with pytest.raises(HypersignError, match="bits must be an integer from 1 to 1048576; got 0"):
        inspect_vectors(x[10:], bits=[0])


@pytest.mark.parametrize("scale", [2.0**1000, 2.0**-1000])
def test_very_large_and_small_numbers(scale):
    """Angles and recalls do not depend on a common factor; lengths are multiplied by it."""
    x = np.random.default_rng(0).standard_normal((60, 16))
    plain, scaled = inspect_vectors(x, bits=[32]), inspect_vectors(x * scale, bits=[32])
    lengths = ("norm_mean", "norm_std", "norm_least", "norm_most")
    for name, value in plain.as_dict().items():
        assert getattr(scaled, name) == value * scale if name in lengths else scaled.as_dict()[name] == value
