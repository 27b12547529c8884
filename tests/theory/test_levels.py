import numpy as np
import pytest
from scipy import integrate, stats

from hypersign import theory
from hypersign._checks import HypersignError

# from the project's reference table, degrees
LLOYD_MAX = {2: 37.07, 3: 25.86, 4: 20.05, 5: 16.42, 6: 13.93, 7: 12.11, 8: 10.71, 16: 5.59, 32: 2.87}


def test_lloyd_max_against_the_table():
    degrees = np.degrees(np.arccos(theory.lloyd_max_cosine(list(LLOYD_MAX))))
    np.testing.assert_allclose(degrees, list(LLOYD_MAX.values()), atol=0.0055)


@pytest.mark.parametrize("k", [2, 3, 4, 5, 8, 17, 101])
def test_levels_are_their_intervals_means_and_thresholds_lie_halfway(k):
    found = theory.lloyd_max(k)
    levels, thresholds = np.array(found.levels), np.array(found.thresholds)
    np.testing.assert_allclose(thresholds, (levels[1:] + levels[:-1]) / 2, atol=1e-15)
    edges = np.concatenate([[-np.inf], thresholds, [np.inf]])
    # SciPy's truncated normal, on the positive side, where it is accurate
    for low, high, level in list(zip(edges[:-1], edges[1:], levels, strict=True))[(k + 1) // 2 :: max(1, k // 16)]:
        assert level == pytest.approx(stats.truncnorm.mean(low, high), rel=1e-9)
    np.testing.assert_allclose(levels, -levels[::-1], atol=0)
    x = np.linspace(0, 9, 2_000_001)
    nearest = levels[np.searchsorted(thresholds, x)]
    half = integrate.trapezoid((x - nearest) ** 2 * stats.norm.pdf(x), x)
    assert theory.lloyd_max_error(k) == pytest.approx(2 * half, rel=2e-6)


def test_many_levels_approach_panter_and_dite():
    # D k^2 -> pi sqrt(3)/2
    assert theory.lloyd_max_error(16384) * 16384**2 == pytest.approx(np.pi * np.sqrt(3) / 2, rel=2e-3)


def test_two_levels_are_the_sign_and_three_the_best_ternary():
    assert theory.lloyd_max_cosine(2) == pytest.approx(np.sqrt(2 / np.pi), rel=1e-12)
    found = theory.lloyd_max(3)
    assert found.thresholds[1] == pytest.approx(theory.OPTIMAL_THRESHOLD, abs=1e-7)
    assert theory.lloyd_max_cosine(3) == pytest.approx(theory.ternary_cosine(theory.OPTIMAL_THRESHOLD), rel=1e-9)
    assert theory.lloyd_max(1) == theory.Levels((0.0,), ())
    assert theory.lloyd_max_cosine(1) == 0


@pytest.mark.parametrize("bad", [0, -1, 2.5, [2, 0], 20000, "two"])
def test_numbers_of_levels_that_are_none(bad):
    with pytest.raises(HypersignError, match="number of levels, must be an integer"):
        theory.lloyd_max_error(bad)


def test_greedy_against_the_table():
    np.testing.assert_allclose(
        np.degrees(np.arccos(theory.greedy_cosine([1, 2, 3, 4]))), [37.07, 20.79, 13.45, 9.90], atol=0.0055
    )
    np.testing.assert_allclose(theory.greedy_error([2, 3, 4]), [0.1305, 0.0584, 0.0329], atol=5.5e-5)


@pytest.mark.parametrize("order", [1, 2, 3, 5, 8])
def test_greedy_by_monte_carlo(order):
    n = 400_000
    x = np.random.default_rng(0).standard_normal(n)
    q = np.zeros(n)
    for scale in theory.greedy_scales(order):
        residual = x - q
        assert np.abs(residual).mean() == pytest.approx(scale, abs=4 * np.abs(residual).std() / np.sqrt(n))
        q += scale * np.where(residual >= 0, 1, -1)
    square = (x - q) ** 2
    assert theory.greedy_error(order) == pytest.approx(square.mean(), abs=4 * square.std() / np.sqrt(n))
    assert theory.greedy_error(order) == pytest.approx(1 - np.sum(np.square(theory.greedy_scales(order))), rel=1e-9)
    cosine = (x @ q) / np.sqrt((x @ x) * (q @ q))
    assert theory.greedy_cosine(order) == pytest.approx(cosine, abs=4 * square.std() / np.sqrt(n))


def test_greedy_orders_that_are_none():
    with pytest.raises(HypersignError, match="order of a greedy expansion must be an integer"):
        theory.greedy_scales(0)
    with pytest.raises(HypersignError, match="order of a greedy expansion must be an integer"):
        theory.greedy_cosine(17)


def test_group_scales_against_the_table():
    degrees = np.degrees(np.arccos(theory.group_cosine([1, 2, 4, 8, 16, 64])))
    np.testing.assert_allclose(degrees, [0, 25.2, 31.5, 34.3, 35.7, 36.7], atol=0.051)


@pytest.mark.parametrize("size", [2, 5, 64])
def test_group_scales_by_monte_carlo(size):
    x = np.random.default_rng(0).standard_normal((400_000 // size, size))
    q = np.abs(x).mean(1, keepdims=True) * np.sign(x)
    cosine = (x * q).sum() / np.sqrt((x * x).sum() * (q * q).sum())
    assert theory.group_cosine(size) == pytest.approx(cosine, abs=2e-3)


@pytest.mark.parametrize(("k", "d"), [(2, 2), (2, 64), (3, 3), (3, 64), (4, 9), (4, 200), (5, 64), (16, 2), (16, 27)])
def test_levels_of_finite_vectors_by_monte_carlo(k, d):
    n = 20_000
    x = np.random.default_rng(0).standard_normal((n, d))
    found = theory.lloyd_max(k)
    q = np.array(found.levels)[np.searchsorted(found.thresholds, x)]
    x, q = x[q.any(1)], q[q.any(1)]
    cosine = (x * q).sum(1) / np.sqrt((x * x).sum(1) * (q * q).sum(1))
    error = 4 / np.sqrt(n)
    mean, std = theory.lloyd_max_cosine(k, d), theory.lloyd_max_cosine_std(k, d)
    assert mean == pytest.approx(cosine.mean(), abs=error * cosine.std())
    assert std == pytest.approx(cosine.std(), rel=max(error, 0.1 if k == 16 and d < 9 else 0))
    if k == 2:
        assert mean == pytest.approx(theory.sign_cosine(d), rel=2e-6)
        assert std == pytest.approx(theory.sign_cosine_std(d), rel=1e-4)
    if k == 3:
        assert mean == pytest.approx(theory.ternary_cosine(theory.OPTIMAL_THRESHOLD, d), rel=2e-6)
        assert std == pytest.approx(theory.ternary_cosine_std(theory.OPTIMAL_THRESHOLD, d), rel=1e-4)


@pytest.mark.parametrize("k", [2, 3, 4, 5])
def test_the_expansion_for_long_vectors_meets_the_quadrature(k):
    d = np.array([2999, 3000])
    assert np.diff(theory.lloyd_max_cosine(k, d))[0] == pytest.approx(0, abs=1e-6)
    assert np.diff(theory.lloyd_max_cosine_std(k, d))[0] == pytest.approx(0, abs=5e-6)
