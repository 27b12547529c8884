import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from hypersign import theory
from hypersign._checks import HypersignError


def covariance(d: int, seed: int = 0) -> np.ndarray:
    factors = np.random.default_rng(seed).standard_normal((d, 2 * d))
    return factors @ factors.T / d * np.outer(np.arange(1, d + 1), np.arange(1, d + 1)) / d


def test_weights_binarized_on_data_of_any_law_and_mean_is_exact():
    rng = np.random.default_rng(0)
    a = rng.exponential(size=(500, 12)) @ rng.standard_normal((12, 12)) + 3
    w = rng.standard_normal((5, 12))
    for b in (np.sign(w), np.sign(w) * (np.abs(w) > 0.6), np.round(w)):
        measured = [np.corrcoef(a @ w[i], a @ b[i])[0, 1] for i in range(5)]
        np.testing.assert_allclose(theory.weights_binarized_r(w, b, np.cov(a.T)), measured, rtol=1e-9)
        np.testing.assert_allclose(theory.weights_binarized_r(w, 7 * b, np.cov(a.T)), measured, rtol=1e-9)


def test_independent_inputs_give_the_cosine():
    w = np.random.default_rng(0).standard_normal((3, 4, 1152))
    b = np.sign(w)
    cosine = (w * b).sum(-1) / np.linalg.norm(w, axis=-1) / np.linalg.norm(b, axis=-1)
    np.testing.assert_allclose(theory.weights_binarized_r(w, b, 2.5 * np.eye(1152)), cosine)
    np.testing.assert_allclose(theory.activations_binarized_r(w, 2.5 * np.eye(1152)), np.sqrt(2 / np.pi))
    np.testing.assert_allclose(theory.both_binarized_r(w, b, 2.5 * np.eye(1152)), np.sqrt(2 / np.pi) * cosine)
    assert theory.both_binarized_r(w, b, np.eye(1152)).mean() == pytest.approx(2 / np.pi, abs=0.01)


@pytest.mark.parametrize("seed", [0, 1])
def test_activations_binarized_by_monte_carlo(seed):
    d, n = 8, 200_000
    c = covariance(d, seed)
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((n, d)) @ np.linalg.cholesky(c).T
    w = rng.standard_normal((4, d))
    b = np.sign(w)
    for i in range(4):
        r = theory.activations_binarized_r(w, c)[i]
        assert r == pytest.approx(np.corrcoef(a @ w[i], np.sign(a) @ w[i])[0, 1], abs=4 / np.sqrt(n))
        r = theory.both_binarized_r(w, b, c)[i]
        assert r == pytest.approx(np.corrcoef(a @ w[i], np.sign(a) @ b[i])[0, 1], abs=4 / np.sqrt(n))


def test_unit_variance_is_the_formula_of_correlations():
    c = covariance(8)
    r = c / np.sqrt(np.outer(np.diag(c), np.diag(c)))
    w = np.random.default_rng(1).standard_normal(8)
    b = np.sign(w)
    asin = np.arcsin(np.clip(r, -1, 1))
    assert theory.activations_binarized_r(w, r) == pytest.approx(np.sqrt(w @ r @ w / (w @ asin @ w)))
    assert theory.both_binarized_r(w, b, r) == pytest.approx(w @ r @ b / np.sqrt(w @ r @ w * (b @ asin @ b)))


@pytest.mark.parametrize(("strength", "expected"), [(0, 0.806), (10, 0.763), (100, 0.61)])
def test_a_bright_component_lowers_r_of_zero_mean_filters(strength, expected):
    d = 27
    w = np.random.default_rng(0).standard_normal((20_000, d))
    w -= w.mean(1, keepdims=True)
    r = theory.weights_binarized_r(w, np.sign(w), np.eye(d) + strength / d * np.ones((d, d)))
    assert r.mean() == pytest.approx(expected, abs=0.006)


def test_constant_products_and_inputs():
    c = np.diag([1.0, 0.0, 2.0])
    assert np.isnan(theory.weights_binarized_r([0.0, 1.0, 0.0], [1.0, 1.0, 1.0], c))
    assert np.isnan(theory.activations_binarized_r([0.0, 1.0, 0.0], c))
    with_constant = theory.both_binarized_r([1.0, 5.0, 2.0], [1.0, 1.0, 1.0], c)
    assert with_constant == pytest.approx(theory.both_binarized_r([1.0, 2.0], [1.0, 1.0], np.diag([1.0, 2.0])))


def test_shapes_that_do_not_fit():
    for w, b, c in (([1.0], [1.0, 2.0], np.eye(1)), ([1.0, 2.0], [1.0, 2.0], np.eye(3)), (1.0, 1.0, 1.0)):
        with pytest.raises(HypersignError, match="of one shape"):
            theory.weights_binarized_r(w, b, c)


PLACES = [0.0, 1.0, -1.0, 2.0, -0.001, 5.0]


@pytest.mark.parametrize("r", [-1.0, -0.999, -0.5, 0.0, 0.3, 0.9, 0.99999, 1.0])
def test_sign_flips_against_scipys_bivariate_normal(r):
    law = stats.multivariate_normal([0, 0], [[1, r], [r, 1]], allow_singular=True)
    h, k = np.meshgrid(PLACES, PLACES)
    below = np.array([[law.cdf([-x, -y]) for x, y in zip(*row, strict=True)] for row in zip(h, k, strict=True)])
    expected = stats.norm.cdf(-h) + stats.norm.cdf(-k) - 2 * below
    np.testing.assert_allclose(theory.sign_flip_share(r, h, k), expected, atol=2e-8)


@settings(deadline=None, max_examples=60)
@given(st.floats(-1, 1), st.floats(-6, 6), st.floats(-6, 6))
def test_sign_flips_are_symmetric_shares(r, h, k):
    share = theory.sign_flip_share(r, h, k)
    assert 0 <= share <= 1
    assert share == pytest.approx(theory.sign_flip_share(r, k, h), abs=1e-14)
    assert share == pytest.approx(theory.sign_flip_share(r, -h, -k), abs=1e-14)
    assert share == pytest.approx(1 - theory.sign_flip_share(-r, h, -k), abs=1e-13)


def test_sign_flips_at_the_edges():
    r = np.array([0.8, 0.95, 0.98, 0.99])
    np.testing.assert_allclose(100 * theory.sign_flip_share(r), [20.5, 10.1, 6.4, 4.5], atol=0.051)
    np.testing.assert_allclose(theory.sign_flip_share(r), theory.sign_disagreement(r), atol=1e-14)
    inf = np.inf
    h, k = np.array([inf, -inf, inf, inf, -inf, inf]), np.array([1.0, 1.0, inf, -inf, inf, 0.0])
    expected = [stats.norm.cdf(-1), stats.norm.cdf(1), 0, 1, 1, 0.5]
    np.testing.assert_allclose(theory.sign_flip_share(0.5, h, k), expected, atol=1e-14)
    assert np.isnan(theory.sign_flip_share([np.nan, 0.5], [1.0, np.nan], 1.0)).all()
    assert theory.sign_flip_share(1 + 1e-9, 0.3, 0.3) == 0


def test_means_make_the_simple_formula_wrong():
    n = 400_000
    x, z = np.random.default_rng(0).standard_normal((2, n))
    y = 0.8 * x + 0.6 * z
    measured = np.mean((x + 0.2 < 0) != (y - 0.9 < 0))
    assert theory.sign_flip_share(0.8, 0.2, -0.9) == pytest.approx(measured, abs=4 * 0.5 / np.sqrt(n))
    assert abs(theory.sign_disagreement(0.8) - measured) > 0.1
