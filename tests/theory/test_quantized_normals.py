import math

import numpy as np
import pytest
from scipy import integrate, stats

from hypersign import theory
from hypersign._checks import HypersignError
from hypersign.theory import NormalMixture, QuantizedNormals, Steps

SIGN = Steps.of([0.0], [-1.0, 1.0])


def whole(law):
    """Both covariances, put together from the blocks."""
    d = len(law.mean)
    cross, covariance = np.empty((d, d)), np.empty((d, d))
    for rows, first, second in law.blocks():
        cross[rows] = first
        covariance[rows, rows.start :] = second
        covariance[rows.start :, rows] = second.T
    return cross, covariance


@pytest.mark.parametrize("rho", [-0.999, -0.95, -0.5, 0.0, 0.3, 0.8, 0.95, 0.99, 1.0])
def test_signs_follow_the_arcsine_law(rho):
    law = QuantizedNormals(NormalMixture.normal([0, 0], [[1, 2 * rho], [2 * rho, 4]]), SIGN)
    cross, covariance = whole(law)
    assert covariance[0, 1] == pytest.approx(2 / np.pi * math.asin(rho), abs=1e-3)
    assert covariance.diagonal() == pytest.approx([1, 1])
    np.testing.assert_allclose(cross, math.sqrt(2 / np.pi) * np.array([[1, rho], [2 * rho, 2]]), atol=1e-6)


def test_means_thresholds_and_levels_against_double_integrals():
    """Two normals with means, five levels, by quadrature of the bivariate density."""
    mean, c = np.array([0.3, -0.6]), np.array([[1.5, 0.7], [0.7, 0.8]])
    t, v = np.array([-1.0, -0.2, 0.4, 1.1]), np.array([-2.0, -0.7, 0.1, 0.9, 2.5])
    law = QuantizedNormals(NormalMixture.normal(mean, c), Steps.of(t, v))
    cross, covariance = whole(law)
    edges = np.array([-np.inf, *t, np.inf])

    def share(i):  # of each level of number i
        return np.diff(stats.norm.cdf((edges - mean[i]) / math.sqrt(c[i, i])))

    means = [share(i) @ v for i in (0, 1)]
    assert law.mean == pytest.approx(means, abs=1e-12)
    both = stats.multivariate_normal(mean, c)
    corner = [[both.cdf([min(a, 50), min(b, 50)]) if min(a, b) > -np.inf else 0.0 for b in edges] for a in edges]
    cells = np.diff(np.diff(corner, axis=0), axis=1)
    assert covariance[0, 1] == pytest.approx(v @ cells @ v - means[0] * means[1], abs=1e-4)
    assert covariance[0, 0] == pytest.approx(share(0) @ v**2 - means[0] ** 2, abs=1e-12)

    def integrand(x):  # E[x_0 q(x_0)]
        return x * v[np.searchsorted(t, x, side="right")] * stats.norm.pdf(x, mean[0], math.sqrt(c[0, 0]))

    own = integrate.quad(integrand, -12, 12, points=list(t), limit=200)[0] - mean[0] * means[0]
    assert cross[0, 0] == pytest.approx(own, abs=1e-8)
    assert cross[1, 0] == pytest.approx(c[0, 1] / c[0, 0] * own, abs=1e-8)  # the regression of x_1 on x_0


def test_a_mixture_with_padding_against_monte_carlo():
    generator = np.random.default_rng(0)
    shares, spreads = np.array([0.3, 0.7]), np.array([0.6, math.sqrt((1 - 0.3 * 0.36) / 0.7)])
    means = np.array([[1.0, -0.5, 0.0, 0.4], [-0.4, 0.3, 0.2, -0.1]])
    w = np.eye(4) + 0.4
    n = 400_000
    group = (generator.random(n) > 0.3).astype(int)
    x = means[group] + spreads[group, None] * generator.multivariate_normal(np.zeros(4), w, n)
    q = np.where(x >= 0, 1.0, -1.0)
    # Two kernel positions per channel; the second is outside in a third of the patches, and both in none.
    outside = np.tile([[0, 0], [0, 1], [0, 0]], (n // 3 + 1, 2))[:n].astype(bool)
    x[outside], q[outside] = 1.0, 1.0
    present = np.array([[1, 2 / 3], [2 / 3, 2 / 3]])
    numbers = NormalMixture(shares, means, spreads, np.cov(x.T, bias=True), present, 1.0)
    law = QuantizedNormals(numbers, SIGN)
    cross, covariance = whole(law)
    np.testing.assert_allclose(numbers.padded_mean, x.mean(0), atol=0.01)
    np.testing.assert_allclose(law.mean, q.mean(0), atol=0.01)
    np.testing.assert_allclose(covariance, np.cov(q.T, bias=True), atol=0.01)
    np.testing.assert_allclose(cross, (x - x.mean(0)).T @ (q - q.mean(0)) / n, atol=0.015)


def test_blocks_are_one_matrix():
    generator = np.random.default_rng(1)
    d = 600  # three blocks
    mixing = generator.standard_normal((d, d)) / math.sqrt(d)
    c = mixing @ mixing.T
    law = QuantizedNormals(NormalMixture.normal(generator.standard_normal(d) / 3, c), SIGN)
    cross, covariance = whole(law)
    np.testing.assert_array_equal(cross, np.concatenate([block for _, block in law.cross_blocks()]))
    few = [3, 300, 599]
    alone = QuantizedNormals(NormalMixture.normal(law._numbers.mean[few], c[np.ix_(few, few)]), SIGN)
    for mine, theirs in zip(whole(alone), (cross, covariance), strict=True):
        np.testing.assert_allclose(mine, theirs[np.ix_(few, few)], atol=1e-6)


def test_numbers_that_do_not_vary_keep_their_level():
    law = QuantizedNormals(NormalMixture.normal([0.0, -0.5, 2.0], np.diag([0.0, 0.0, 1.0])), SIGN)
    cross, covariance = whole(law)
    assert law.mean[:2].tolist() == [1, -1]  # sign(0) = +1
    assert np.isfinite(cross).all()
    assert covariance[:2].any() == cross[:2].any() == cross[:, :2].any() == False  # noqa: E712


def test_steps_need_one_level_more():
    with pytest.raises(HypersignError, match="one level more than thresholds"):
        Steps.of([0.0, 1.0], [-1.0, 1.0])


def test_pooled_r_is_that_of_all_pairs():
    generator = np.random.default_rng(2)
    x = generator.standard_normal((500, 6)) * np.arange(1, 7) + np.arange(6)
    y = 0.5 * x + generator.standard_normal((500, 6)) - 2 * np.arange(6)
    moments = ((x - x.mean(0)) * (y - y.mean(0))).mean(0), x.var(0), y.var(0), x.mean(0), y.mean(0)
    pooled, per_filter = theory.pooled_r(*moments)
    assert pooled == pytest.approx(np.corrcoef(x.ravel(), y.ravel())[0, 1])
    assert per_filter == pytest.approx([np.corrcoef(x[:, f], y[:, f])[0, 1] for f in range(6)])
    assert np.isnan(theory.pooled_r([0.0], [0.0], [1.0], [3.0], [1.0])[0])
