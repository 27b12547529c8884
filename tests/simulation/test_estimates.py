import math

import numpy as np
import pytest

from hypersign.simulation.estimates import Estimate, Tally


def test_a_tally_is_numpys_moments_in_any_blocks():
    rng = np.random.default_rng(0)
    cosine = 0.8 + 0.05 * rng.standard_normal(1000)
    tally = Tally(1000)
    for block in np.split(cosine, [1, 1, 300, 301]):
        tally.add(block)
    case = tally.case("x", 1.0, 7, 0.8, 0.05, np.arccos(0.8), np.nan)
    angles = np.degrees(np.arccos(cosine))
    assert case.cosine.mean == pytest.approx(cosine.mean(), rel=1e-12)
    assert case.cosine.std == pytest.approx(cosine.std(), rel=1e-9)
    fourth = np.mean((cosine - cosine.mean()) ** 4)
    expected = np.sqrt((fourth - cosine.std() ** 4) / 1000) / (2 * cosine.std())
    assert case.cosine.std_error == pytest.approx(expected, rel=1e-9)
    assert case.cosine.mean_error == pytest.approx(cosine.std() / np.sqrt(1000), rel=1e-9)
    assert case.angle_degrees.mean == pytest.approx(angles.mean(), rel=1e-12)
    assert case.angle_degrees.std == pytest.approx(angles.std(), rel=1e-9)
    assert case.angle_degrees.predicted_mean == pytest.approx(36.8699, abs=1e-4)
    np.testing.assert_allclose(case.sample_degrees, angles)


def test_standard_errors_are_the_spread_over_repetitions():
    rng = np.random.default_rng(0)
    found = []
    for _ in range(1500):
        tally = Tally(200)
        tally.add(0.5 + 0.1 * (rng.random(200) - 0.5))
        found.append(tally.case("x", 0, 1, 0.5, 0.1 / np.sqrt(12), 0.0, 0.0).cosine)
    assert np.std([e.mean for e in found]) == pytest.approx(np.mean([e.mean_error for e in found]), rel=0.08)
    assert np.std([e.std for e in found]) == pytest.approx(np.mean([e.std_error for e in found]), rel=0.08)
    assert np.std([e.mean_distance for e in found]) == pytest.approx(1, rel=0.08)


def test_grouped_draws_have_the_groups_errors():
    rng = np.random.default_rng(0)
    centres = 0.5 + 0.02 * rng.standard_normal(30)
    tally, means = Tally(30 * 50), []
    for group, centre in enumerate(centres):
        values = centre + 0.01 * rng.standard_normal(50)
        means.append(values.mean())
        tally.add(values[:20], group)
        tally.add(values[20:], group)
    estimate = tally.case("x", 0, 1, 0.5, 0.02, 0.0, 0.0).cosine
    assert estimate.mean_error == pytest.approx(np.std(means, ddof=1) / np.sqrt(30))


def test_distances_at_the_edges():
    assert Estimate(1.0, 0.0, 0.0, 0.0, 1.0, 0.0).mean_distance == 0
    assert Estimate(1.0, 0.0, 0.0, 0.0, 0.5, 0.1).std_distance == math.inf
    assert math.isnan(Estimate(1.0, 0.1, 0.0, 0.0, math.nan, 0.0).mean_distance)
    assert Estimate(1.0, 0.1, 0.5, 0.2, 0.8, 0.1).mean_distance == pytest.approx(2)
