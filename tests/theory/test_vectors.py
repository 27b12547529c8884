"""Theory of pairs of vectors and of correlated components."""

import numpy as np
import pytest
from scipy import integrate, linalg, stats

from hypersign import theory
from hypersign._checks import HypersignError


@pytest.mark.parametrize("d", [2, 3, 10, 27])
def test_pairs_by_quadrature_and_monte_carlo(d):
    grid = np.linspace(0, np.pi, 20001)
    density = theory.pair_angle_density(grid, d)
    assert integrate.trapezoid(density, grid) == pytest.approx(1, abs=1e-6)
    variance = integrate.trapezoid(density * (grid - np.pi / 2) ** 2, grid)
    assert theory.pair_angle_std(d) == pytest.approx(np.sqrt(variance), rel=1e-6)
    n = 50_000
    u, v = np.random.default_rng(0).standard_normal((2, n, d))
    cosine = (u * v).sum(1) / np.linalg.norm(u, axis=1) / np.linalg.norm(v, axis=1)
    assert theory.pair_cosine_std(d) == pytest.approx(cosine.std(), rel=4 / np.sqrt(n))
    angle = np.arccos(cosine.clip(-1, 1))
    assert theory.pair_angle_std(d) == pytest.approx(angle.std(), rel=4 / np.sqrt(n))
    # K-S at its 1e-4 quantile
    cumulated = integrate.cumulative_trapezoid(density, grid, initial=0)
    assert stats.kstest(angle, lambda x: np.interp(x, grid, cumulated)).statistic < 2.2 / np.sqrt(n)


def test_pairs_at_the_edges():
    assert theory.pair_angle_density([-0.1, 3.2], 5).tolist() == [0, 0]
    assert theory.pair_angle_std(1) == pytest.approx(np.pi / 2)
    assert theory.binary_pair_angle_std(1) == pytest.approx(np.pi / 2)
    assert theory.pair_angle_std(1e6) == pytest.approx(1e-3, rel=1e-5)
    with pytest.raises(HypersignError, match="d >= 2 only"):
        theory.pair_angle_density(1.0, 1)
    with pytest.raises(HypersignError, match="must be an integer"):
        theory.binary_pair_angle_std(2.5)


@pytest.mark.parametrize("d", [2, 10, 100, 1000])
def test_binary_pairs_are_the_whole_binomial_sum(d):
    h = np.arange(d + 1)
    mass = stats.binom.pmf(h, d, 0.5)
    expected = np.sqrt((mass * (np.arccos(1 - 2 * h / d) - np.pi / 2) ** 2).sum())
    assert theory.binary_pair_angle_std(d) == pytest.approx(expected, rel=1e-10)
    assert theory.binary_pair_angle_std([d, 1_000_000])[1] == pytest.approx(1e-3, rel=1e-4)


def test_equal_independent_components_are_the_sign():
    for d in (1, 2, 27, 1152):
        assert theory.correlated_sign_cosine(np.full(d, 3.0)) == pytest.approx(theory.sign_cosine(d), rel=1e-9)
        assert theory.correlated_sign_cosine_std(np.full(d, 3.0)) == pytest.approx(
            theory.sign_cosine_std(d), rel=1e-4, abs=1e-5
        )
    assert theory.correlated_sign_cosine_std(np.eye(27)) == pytest.approx(theory.sign_cosine_std(27), rel=1e-6)
    # a vector along one axis
    assert theory.correlated_sign_cosine([1.0, 0, 0, 0]) == pytest.approx(0.5, rel=1e-9)
    assert theory.correlated_sign_cosine_std([1.0, 0, 0, 0]) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("kind", ["variances", "correlated", "one round"])
def test_correlated_by_monte_carlo(kind):
    d, n = 16, 100_000
    rng = np.random.default_rng(0)
    covariance = np.exp(0.4 * np.arange(d))
    if kind == "correlated":
        factors = rng.standard_normal((d, 3))
        covariance = factors @ factors.T + 0.05 * np.eye(d)
    if kind == "one round":
        rotation = linalg.hadamard(d) / np.sqrt(d)
        covariance = (rotation * covariance) @ rotation.T
    full = covariance if covariance.ndim == 2 else np.diag(covariance)
    x = rng.standard_normal((n, d)) @ np.linalg.cholesky(full).T
    cosine = np.abs(x).sum(1) / np.sqrt(d * (x * x).sum(1))
    error = 4 / np.sqrt(n)
    assert theory.correlated_sign_cosine(covariance) == pytest.approx(cosine.mean(), abs=error * cosine.std())
    assert theory.correlated_sign_cosine_std(covariance) == pytest.approx(cosine.std(), rel=error)


def test_exponential_spread_against_the_table():
    # covariance std exp(-0.1 i): no rotation and one round of Hadamard, d = 128; no rotation, d = 512
    variances = np.exp(-0.2 * np.arange(128))
    rotation = linalg.hadamard(128) / np.sqrt(128)
    for covariance, mean, std, error in (
        (variances, 70.8, 1.9, 0.11),
        ((rotation * variances) @ rotation.T, 35.1, 4.3, 0.11),
        (np.exp(-0.2 * np.arange(512)), 80.6, None, 0.051),
    ):
        moments = theory.correlated_sign_cosine(covariance), theory.correlated_sign_cosine_std(covariance)
        d = len(covariance)
        assert np.degrees(theory.angle_mean(*moments, d)) == pytest.approx(mean, abs=error)
        if std is not None:
            assert np.degrees(theory.angle_std(*moments, d)) == pytest.approx(std, abs=error)


def test_one_round_of_hadamard_is_its_covariance():
    for variances in (np.exp(-0.3 * np.arange(32)), np.random.default_rng(0).random(8), np.eye(16)[3]):
        d = len(variances)
        rotation = linalg.hadamard(d) / np.sqrt(d)
        covariance = (rotation * variances) @ rotation.T
        mean, std = theory.hadamard_sign_cosine(variances), theory.hadamard_sign_cosine_std(variances)
        assert mean == pytest.approx(theory.correlated_sign_cosine(covariance), rel=1e-7)
        assert std == pytest.approx(theory.correlated_sign_cosine_std(covariance), rel=1e-5, abs=2e-4)
    with pytest.raises(HypersignError, match="power of two"):
        theory.hadamard_sign_cosine_std(np.ones(3))
    with pytest.raises(HypersignError, match="must be of shape"):
        theory.hadamard_sign_cosine(np.eye(4))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.ones((2, 3)), "of shape"),
        ([[1.0, 0.5], [0.1, 1.0]], "symmetric"),
        ([1.0, -1.0], "eigenvalues >= 0"),
        ([0.0, 0.0], "eigenvalues >= 0"),
        ([1.0, np.nan], "finite"),
    ],
)
def test_covariances_that_are_none(bad, message):
    with pytest.raises(HypersignError, match=message):
        theory.correlated_sign_cosine(bad)
