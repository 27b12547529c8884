import numpy as np
import pytest
from scipy import stats

from hypersign import theory
from hypersign._checks import HypersignError


def haar_columns(rng: np.random.Generator, n: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Two orthonormal vectors, shape (n, d) each: what n Haar rotations make of two orthogonal unit vectors."""
    x, y = rng.standard_normal((2, n, d))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    y -= (x * y).sum(1, keepdims=True) * x
    return x, y / np.linalg.norm(y, axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("theta", "bits", "d", "n"),
    [(np.pi / 3, 128, 128, 10_000), (np.pi / 3, 3, 3, 100_000), (np.pi / 2, 8, 8, 50_000), (0.3, 4, 8, 50_000)],
)
def test_orthogonal_rows_by_monte_carlo(theta, bits, d, n):
    x, y = haar_columns(np.random.default_rng(0), n, d)
    x, y = x[:, :bits], np.cos(theta) * x[:, :bits] + np.sin(theta) * y[:, :bits]
    estimate = np.pi * np.mean((x < 0) != (y < 0), axis=1)
    assert estimate.mean() == pytest.approx(theta, abs=4 * estimate.std() / np.sqrt(n))
    spread = theory.orthogonal_hash_angle_std(theta, bits, d)
    assert spread == pytest.approx(estimate.std(), rel=4 / np.sqrt(2 * n))
    assert spread < theory.hash_angle_std(theta, bits)


def test_orthogonal_rows_in_many_dimensions_and_at_the_edges():
    # leading order: each row is anticorrelated by sin^2(theta)/pi^2/d with every other
    theta = np.array([0.2, 1.0, 2.5])
    p = theta / np.pi
    leading = np.pi * np.sqrt((p * (1 - p) - np.sin(theta) ** 2 / np.pi**2) / 1e6)
    np.testing.assert_allclose(theory.orthogonal_hash_angle_std(theta, 1e6, 1e6), leading, rtol=1e-4)
    assert theory.orthogonal_hash_angle_std(1.0, 1, 64) == pytest.approx(theory.hash_angle_std(1.0, 1))
    np.testing.assert_allclose(theory.orthogonal_hash_angle_std([0.0, np.pi], 64, 64), 0, atol=1e-7)
    # several rotations average independent estimates
    one, four = (theory.orthogonal_hash_angle_std(1.0, m, 64) for m in (64, 256))
    assert four == pytest.approx(one / 2)
    with pytest.raises(HypersignError, match="must be >= 3"):
        theory.orthogonal_hash_angle_std(1.0, 2, 2)


def test_independent_hyperplanes():
    n, m, theta = 20_000, 50, np.pi / 3
    g, h = np.random.default_rng(0).standard_normal((2, n, m))
    differ = (g < 0) != (np.cos(theta) * g + np.sin(theta) * h < 0)
    assert differ.mean() == pytest.approx(1 - theory.hash_collision(theta), abs=4 * 0.5 / np.sqrt(n * m))
    spread = np.std(np.pi * differ.mean(1))
    assert theory.hash_angle_std(theta, m) == pytest.approx(spread, rel=4 / np.sqrt(2 * n))
    assert theory.hash_angle_std(theta, 128) == pytest.approx(0.131, abs=5e-4)
    product = np.mean(1 - 2 * differ)
    assert theory.hash_product(np.cos(theta)) == pytest.approx(product, abs=4 / np.sqrt(n * m))
    assert theory.hash_product([-1, 0, 1 + 1e-12]).tolist() == [-1, 0, 1]
    with pytest.raises(HypersignError, match="number of bits must be >= 1"):
        theory.hash_angle_std(1.0, 0)


@pytest.mark.parametrize("product", [0.0, 0.5, 0.9])
def test_rabitq_by_monte_carlo(product):
    n, d = 40_000, 64
    o, across = haar_columns(np.random.default_rng(1), n, d)
    q = product * o + np.sqrt(1 - product**2) * across
    code = np.where(o >= 0, 1, -1) / np.sqrt(d)
    cosine = (code * o).sum(1)
    error = (code * q).sum(1) / cosine - product
    assert error.mean() == pytest.approx(0, abs=4 * error.std() / np.sqrt(n))
    assert theory.rabitq_std(product, d) == pytest.approx(error.std(), rel=4 / np.sqrt(2 * n) + 0.5 / d)
    within = np.mean(np.abs(error) <= theory.rabitq_bound(cosine, d))
    share = theory.rabitq_bound_share(product, d)
    assert 0.94 <= share <= 1
    assert share == pytest.approx(within, abs=4 * np.sqrt(share * (1 - share) / n) + 1e-4)


def test_rabitq_at_the_edges():
    assert theory.rabitq_std(1.0, 64) == 0
    assert theory.rabitq_bound(1.0, 64) == 0
    assert theory.rabitq_bound_share(1.0, 64) == 1
    assert theory.rabitq_bound_share(0.0, 1e6) == pytest.approx(1 - 2 * stats.norm.cdf(-1.9), abs=1e-5)
    # in three dimensions t is the cosine of a uniform angle
    assert theory.rabitq_bound_share(0.0, 3, 1.0) == pytest.approx(0.5)
    with pytest.raises(HypersignError, match="D, the dimension"):
        theory.rabitq_std(0.5, 1)
