"""Angles of heavy-tailed weights, by a bootstrap of the weights' own values in NumPy."""

import dataclasses

import numpy as np
import pytest

from hypersign import theory
from hypersign.theory import Moments
from hypersign.theory.distribution import Distribution

ROWS = 1500


def draw(law, n=100_000):
    rng = np.random.default_rng(0)
    kind, *numbers = law
    if kind == "t":
        return rng.standard_t(numbers[0], n)
    if kind == "laplace":
        return rng.laplace(size=n)
    share, size = numbers  # normals, or signs, with outliers
    bulk = np.where(rng.random(n) < 0.5, -1.0, 1.0) if kind == "signs" else rng.standard_normal(n)
    return np.where(rng.random(n) < share, size * bulk, bulk)


LAWS = [
    *(("t", df) for df in (2.5, 3, 4, 5, 8, 30)),
    ("laplace",),
    ("normal", 0, 0),
    ("normal", 0.001, 1000),
    ("normal", 0.0001, 1000),
    ("normal", 0.002, 10_000),
    ("normal", 0.01, 30),
    ("normal", 0.1, 10),
    ("normal", 0.8, 0),
    ("signs", 0.001, 200),
]


def bootstrap(values, d, threshold=0.0, size=None):
    """Mean and standard deviation, in degrees, and the standard error of the mean."""
    rng = np.random.default_rng(1)
    angles = []
    for _ in range(0, ROWS, 100):
        x = np.abs(values[rng.integers(0, len(values), (100, d))])
        if size is None:
            levels = np.where((x > threshold) | (threshold == 0), 1.0, 0.0)
        else:
            levels = np.concatenate(
                [
                    np.repeat(part.mean(1, keepdims=True), part.shape[1], 1)
                    for part in np.split(x, range(size, d, size), 1)
                ],
                axis=1,
            )
        used = levels.any(1) & x.any(1)
        x, levels = x[used], levels[used]
        cosine = (x * levels).sum(1) / np.sqrt((x * x).sum(1) * (levels * levels).sum(1))
        angles.append(np.degrees(np.arccos(np.minimum(cosine, 1))))
    found = np.concatenate(angles)
    return found.mean(), found.std(), found.std() / np.sqrt(len(found))


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_angle_by_bootstrap(law):
    values = draw(law)
    moments = Moments.of(values)
    for d in (9, 16, 64, 300, 1152, 4608):
        mean, std, error = bootstrap(values, d)
        row = np.degrees(theory.moments_angle(moments, d))
        assert row[0] == pytest.approx(mean, abs=0.3 + 4 * error), d
        assert row[1] == pytest.approx(std, abs=0.8 + 4 * error), d
        groups = [np.degrees(theory.moments_angle(moments, d, size))[0] for size in (32, 64, 128) if size < d]
        assert [*groups, row[0]] == sorted([*groups, row[0]]), d
        bare = theory.moments_angle(dataclasses.replace(moments, distribution=None), d)
        # Moments alone: a right number, or none
        assert np.isnan(bare).all() == (moments.kurtosis > 0.3 * d)


@pytest.mark.parametrize("law", LAWS[::2], ids=str)
@pytest.mark.parametrize(("d", "size"), [(64, 32), (100, 32), (300, 128), (300, 64)])
def test_group_angle_by_bootstrap(law, d, size):
    values = draw(law)
    mean, std, error = bootstrap(values, d, size=size)
    found = np.degrees(theory.moments_angle(Moments.of(values), d, size))
    assert found[0] == pytest.approx(mean, abs=0.4 + 4 * error)
    assert found[1] == pytest.approx(std, abs=0.8 + 4 * error)


@pytest.mark.parametrize("law", LAWS[::2], ids=str)
@pytest.mark.parametrize("d", [9, 64, 1152])
def test_ternary_angle_by_bootstrap(law, d):
    values = draw(law)
    threshold = 0.6
    mean, std, error = bootstrap(values, d, threshold)
    found = np.degrees(theory.moments_angle(Moments.of(values, threshold), d))
    assert found[0] == pytest.approx(mean, abs=0.4 + 4 * error)
    assert found[1] == pytest.approx(std, abs=1 + 4 * error)


@pytest.mark.parametrize("zeros", [0.8, 0.9, 0.95])
@pytest.mark.parametrize("d", [4, 9, 16, 64])
def test_ternary_angle_of_sparse_weights_by_bootstrap(zeros, d):
    """Nearly all levels are 0, so one or two weights decide, and many angles are exactly 0."""
    values = draw(("normal", zeros, 0))
    mean, std, error = bootstrap(values, d, 0.6)
    found = np.degrees(theory.moments_angle(Moments.of(values, 0.6), d))
    assert found[0] == pytest.approx(mean, abs=0.3 + 4 * error)
    assert found[1] == pytest.approx(std, abs=0.8 + 4 * error)


def test_mean_and_spread_of_the_cosine_are_exact():
    values = draw(("normal", 0.01, 30))
    moments = Moments.of(values)
    for d in (2, 9, 64):
        x = np.abs(values[np.random.default_rng(2).integers(0, len(values), (20_000, d))])
        cosine = x.sum(1) / np.sqrt(d * (x * x).sum(1))
        error = 4 * cosine.std() / np.sqrt(len(cosine))
        assert theory.mean_cosine(moments, d) == pytest.approx(cosine.mean(), abs=error)
        assert theory.std_cosine(moments, d) == pytest.approx(cosine.std(), abs=error)


def test_the_unit_of_weights_does_not_matter():
    values = draw(("t", 3))
    expected = theory.moments_angle(Moments.of(values), 64)
    for unit in (1e-60, 1e-20, 1e20, 1e60):
        assert theory.moments_angle(Moments.of(unit * values), 64) == pytest.approx(expected, abs=1e-3)


def test_edge_cases():
    assert theory.moments_angle(Moments.of(draw(("t", 3))), 1) == pytest.approx((0, 0), abs=1e-4)
    assert np.isnan(theory.moments_angle(Moments.of(np.zeros(10)), 4)).all()
    assert np.isnan(theory.moments_angle(Moments.of(np.ones(10), 2.0), 4)).all()
    assert theory.moments_angle(Moments.of(np.ones(10)), 4) == pytest.approx((0, 0), abs=1e-4)
    normal = Moments.gaussian()
    assert theory.moments_angle(normal, np.inf)[0] == pytest.approx(np.arccos(np.sqrt(2 / np.pi)))
    assert theory.moments_angle(normal, np.inf, 8)[0] == pytest.approx(np.arccos(theory.group_cosine(8)))
    assert theory.moments_angle(normal, 8, 16) == theory.moments_angle(normal, 8)
    # one zero in two: an angle unless both weights are 0
    assert theory.moments_angle(Moments.of([0.0, 1.0]), 2)[0] == pytest.approx(np.pi / 4 * 2 / 3, abs=1e-3)


def test_sums_over_weights_are_those_of_loops():
    # the groups' share, by all rows of three weights
    values = np.array([0.5, 1.0, 4.0])
    grid = np.array(np.meshgrid(values, values, values)).reshape(3, -1).T
    square = (grid**2).sum(1)
    share = (grid[:, :2].sum(1) ** 2 / 2 + grid[:, 2] ** 2) / square
    cosine = grid.sum(1) / np.sqrt(3 * square)
    found = theory.distribution.Distribution(values, np.full(3, 1 / 3), np.ones(3))
    np.testing.assert_allclose(found.share_moments(3, 2, 3), [np.mean(share**k) for k in (1, 2, 3)], rtol=1e-8)
    np.testing.assert_allclose(found.cosine_moments(3, 5), [np.mean(cosine**k) for k in range(1, 6)], rtol=1e-8)
    levels = np.array([0.0, 1.0, 3.0])
    q = levels[np.searchsorted(values, grid)]
    used = q.any(1)
    cosine = (grid * q).sum(1)[used] / np.sqrt(square * (q * q).sum(1))[used]
    found = theory.distribution.Distribution(values, np.full(3, 1 / 3), levels)
    np.testing.assert_allclose(found.cosine_moments(3, 4), [np.mean(cosine**k) for k in range(1, 5)], rtol=1e-8)


@pytest.mark.parametrize("d", [9, 27, 288, 2304])
@pytest.mark.parametrize(
    "shares", [np.full(41, 1 / 41), np.eye(1, 41, 40)[0] * 0.98 + 0.02 / 41], ids=["even", "rare"]
)
def test_sizes_that_are_nearly_equal(shares, d):
    """As where latent weights have become their levels; 1 - cosine is then as small as the rounding of moments."""
    rng = np.random.default_rng(0)
    for width in np.geomspace(1e-4, 0.5, 12):
        sizes = 1 + width * np.linspace(-1, 1, 41)
        mean, std = Distribution(sizes, shares, np.ones(41)).angle(d)
        x = rng.choice(sizes, (1000, d), p=shares)
        angles = np.arccos(np.minimum(x.sum(1) / np.sqrt(d * (x**2).sum(1)), 1))
        assert mean == pytest.approx(angles.mean(), rel=0.05, abs=4 * angles.std() / 1000**0.5)
        assert std == pytest.approx(angles.std(), rel=0.3)
