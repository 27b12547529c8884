import numpy as np
import pytest

from hypersign import theory
from hypersign._checks import HypersignError
from hypersign.hashing import (
    SignHasher,
    asymmetric_cosine,
    code_cosines,
    hamming_angle,
    hamming_cosine,
    rabitq_cosine,
)
from hypersign.hashing.estimators import _products, _unit_projections


def pairs(cosine, d, n, seed=0):
    """A unit query and n unit vectors at this cosine to it, otherwise at random."""
    random = np.random.default_rng(seed)
    q = random.standard_normal(d)
    q /= np.linalg.norm(q)
    across = random.standard_normal((n, d))
    across -= (across @ q)[:, None] * q
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    return q[None], cosine * q + np.sqrt(1 - cosine**2) * across


SEEDS = 40


@pytest.mark.parametrize("cosine", [0.3, 0.8])
@pytest.mark.parametrize("bits", [64, 40, 100])
def test_estimates_over_rotations(cosine, bits):
    d, n = 64, 50
    q, x = pairs(cosine, d, n)
    rows = {"hamming": [], "asymmetric": [], "rabitq": [], "bound": []}
    for seed in range(SEEDS):
        hasher = SignHasher(bits, rotation="haar", center=False, seed=seed).fit(x)
        codes = hasher.transform(x)
        differ = (np.unpackbits((hasher.transform(q) ^ codes).view(np.uint8), axis=1)).sum(1)
        rows["hamming"].append(hamming_angle(differ, bits))
        rows["asymmetric"].append(asymmetric_cosine(hasher, q, codes)[0])
        found = rabitq_cosine(hasher, q, codes, code_cosines(hasher, x), seed=seed)
        rows["rabitq"].append(found.cosine[0])
        rows["bound"].append(found.bound[0])
    found = {name: np.array(values) for name, values in rows.items()}
    # A seed's pairs share their query: the standard error goes by seeds.
    for name, truth in (("hamming", np.arccos(cosine)), ("asymmetric", cosine), ("rabitq", cosine)):
        means = found[name].mean(1)
        assert means.mean() == pytest.approx(truth, abs=4 * means.std(ddof=1) / np.sqrt(SEEDS) + 1e-3), name
    spread = theory.orthogonal_hash_angle_std(np.arccos(cosine), bits, max(bits, d))
    assert found["hamming"].std() == pytest.approx(spread, rel=0.1)
    error = found["rabitq"] - cosine
    if bits == d:
        # rounding the query adds to the error of real queries
        assert 1 < error.std() / theory.rabitq_std(cosine, d) < 1.12
    if cosine > 0.5:
        assert error.std() < found["asymmetric"].std()
    within = np.mean(np.abs(error) <= found["bound"])
    share = theory.rabitq_bound_share(cosine, max(bits, d))
    assert share - 0.02 <= within <= min(share + 0.03, 1)


def test_rabitq_is_the_quantized_product_by_hand():
    q, x = pairs(0.5, 48, 30)
    hasher = SignHasher(48, rotation="haar", seed=2).fit(x)
    codes, cosines = hasher.transform(x), code_cosines(hasher, x)
    found = rabitq_cosine(hasher, q, codes, cosines)
    y = _unit_projections(hasher, q)[0].astype(np.float64)
    step = 2 * np.abs(y).max() / 15
    random = np.random.Generator(np.random.Philox(0)).random(48, dtype=np.float32)
    v = [min(int(np.floor(a / step + 7.5 + r)), 15) * 2 - 15 for a, r in zip(y, random, strict=True)]
    signs = np.where(hasher.project(x) < 0, -1, 1)
    np.testing.assert_allclose(found.cosine[0], signs @ v * step / 2 / np.sqrt(48) / cosines, rtol=2e-5)
    assert np.abs(np.array(v) * step / 2 - y).max() <= step * 1.0001


def test_code_cosines_are_cosines_of_vectors_and_codes():
    x = np.random.default_rng(0).standard_normal((200, 64)) + 1
    hasher = SignHasher(64).fit(x)
    cosines = code_cosines(hasher, x)
    turned = hasher.project(x)
    expected = np.abs(turned).sum(1) / np.linalg.norm(turned, axis=1) / 8
    np.testing.assert_allclose(cosines, expected, rtol=1e-5)
    assert cosines.mean() == pytest.approx(theory.sign_cosine(64), abs=4 * theory.sign_cosine_std(64) / np.sqrt(200))


def test_products_in_blocks(monkeypatch):
    random = np.random.default_rng(0)
    hasher = SignHasher(70).fit(random.standard_normal((10, 9)))
    codes = hasher.transform(random.standard_normal((1000, 9)))
    y = random.standard_normal((3, 70)).astype(np.float32)
    whole = _products(y, codes, 70)
    words = np.unpackbits(codes.astype("<u8").view(np.uint8), axis=1, bitorder="little")[:, :70]
    np.testing.assert_allclose(whole, y @ (1.0 - 2.0 * words).T, atol=1e-4)


def test_angles_at_the_edges():
    assert hamming_angle([0, 64], 64).tolist() == [0, np.pi]
    np.testing.assert_allclose(hamming_cosine([0, 32, 64], 64), [1, 0, -1], atol=1e-15)
    with pytest.raises(HypersignError, match="bits must be an integer >= 1"):
        hamming_angle(0, 0)


def test_what_cannot_be_estimated():
    q, x = pairs(0.5, 64, 5)
    hasher = SignHasher(64).fit(x)
    codes, cosines = hasher.transform(x), code_cosines(hasher, x)
    with pytest.raises(HypersignError, match="5 codes need as many positive cosines"):
        rabitq_cosine(hasher, q, codes, cosines[:4])
    with pytest.raises(HypersignError, match="epsilon must be"):
        rabitq_cosine(hasher, q, codes, cosines, epsilon=0)
    plain = SignHasher(64, rotation=None).fit(x)
    for fails in (lambda: code_cosines(plain, x), lambda: asymmetric_cosine(plain, q, codes)):
        with pytest.raises(HypersignError, match="need a hasher with a random rotation"):
            fails()


@pytest.mark.parametrize(("n", "bits"), [(2, 2), (4, 4), (8, 5)])
def test_asymmetric_cosine_in_few_dimensions_by_hand(n, bits):
    """There the mean |r|_1 of a random unit vector is well above its limit, sqrt(2 n/pi)."""
    random = np.random.default_rng(0)
    x, q = random.standard_normal((20, n)), random.standard_normal((3, n))
    hasher = SignHasher(bits, rotation="haar", center=False, seed=1).fit(x)
    signs = np.where(hasher.project(x) < 0, -1, 1)
    projected = hasher.project(q / np.linalg.norm(q, axis=1, keepdims=True))
    r = random.standard_normal((1_000_000, n))
    mean_l1 = np.mean(np.abs(r).sum(1) / np.linalg.norm(r, axis=1))
    expected = projected @ signs.T * n / (bits * mean_l1)
    np.testing.assert_allclose(asymmetric_cosine(hasher, q, hasher.transform(x)), expected, rtol=1e-3, atol=1e-4)
