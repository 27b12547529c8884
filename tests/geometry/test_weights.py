import math
import statistics

import numpy as np
import pytest
import torch
from scipy import stats

from hypersign.geometry import weights
from hypersign.layers import QuantConv2d, QuantLinear
from hypersign.quantizers import GroupScaled, MeanScale, Optimal, Sign, Ternary


def _layer(values, quantizer):
    values = torch.as_tensor(values, dtype=torch.float32)
    layer = QuantLinear(values.shape[1], len(values), weight_quantizer=quantizer)
    layer.weight.data.copy_(values)
    return layer


def _gaussian(filters, d, quantizer, scale=1.0):
    return _layer(scale * np.random.default_rng(0).standard_normal((filters, d)), quantizer)


@pytest.mark.parametrize("quantizer", [Sign(), Sign(scale=MeanScale()), Ternary(0.4), Ternary(Optimal())])
@pytest.mark.parametrize("d", [9, 27, 1152])
def test_gaussian_weights_meet_both_predictions(quantizer, d):
    stats_ = weights.angle_stats(_gaussian(800, d, quantizer))
    assert stats_.mean == pytest.approx(stats_.predicted_mean, abs=stats_.std / 7 + 5 / d)
    # a threshold that follows each filter's own deviation spreads the angles less at tiny fan-ins
    own = isinstance(quantizer, Ternary) and isinstance(quantizer.threshold, Optimal)
    assert stats_.std == pytest.approx(stats_.predicted_std, rel=0.25 if own and d == 9 else 0.1)
    assert stats_.moments_mean == pytest.approx(stats_.predicted_mean, abs=0.6)
    assert stats_.moments_std == pytest.approx(stats_.predicted_std, rel=0.1)
    assert stats_.peak == pytest.approx(stats_.predicted_mean, abs=stats_.std)


def test_uniform_weights_need_their_own_moments():
    w = np.random.default_rng(0).uniform(-0.1, 0.1, (500, 300))
    found = weights.angle_stats(_layer(w, Sign()))
    assert found.mean == pytest.approx(30, abs=0.1)
    assert found.moments_mean == pytest.approx(found.mean, abs=0.1)
    assert found.moments_std == pytest.approx(found.std, rel=0.1)
    assert found.predicted_mean == pytest.approx(37, abs=0.1)


def test_fixed_threshold_is_measured_in_the_layers_own_deviation():
    # the paper's trained network: .02/.18 = .111 -> 33.84 degrees
    found = weights.angle_stats(_gaussian(400, 2304, Ternary(0.02), scale=0.18))
    assert found.predicted_mean == pytest.approx(33.84, abs=0.05)
    assert found.mean == pytest.approx(33.84, abs=0.1)


@pytest.mark.parametrize("quantizer", [Sign(), Ternary(0.5)])
@pytest.mark.parametrize("d", [9, 27, 300])
def test_densities_are_densities(quantizer, d):
    found = weights.angle_stats(_gaussian(300, d, quantizer))
    for density in (found.density, found.predicted_density):
        assert np.trapezoid(density.density, density.grid) == pytest.approx(1, abs=0.01)
        assert len(density.grid) == len(density.density) == 512
    assert found.density.grid == found.predicted_density.grid
    mean = np.trapezoid(
        np.multiply(found.predicted_density.grid, found.predicted_density.density), found.density.grid
    )
    assert mean == pytest.approx(found.predicted_mean, abs=0.1)


def test_float_weights_have_no_angle():
    layer = QuantLinear(20, 5)
    found = weights.angle_stats(layer)
    assert found.per_filter == (0.0,) * 5
    assert (found.mean, found.std, found.predicted_mean, found.predicted_std) == (0, 0, 0, 0)
    assert found.peak == pytest.approx(0, abs=1e-9)
    assert np.trapezoid(found.predicted_density.density, found.density.grid) == pytest.approx(1, abs=1e-3)
    assert weights.level_shares(layer) == {}
    assert weights.weight_stats(layer).thresholds == ()


def test_one_filter():
    found = weights.angle_stats(_gaussian(1, 100, Sign()))
    assert found.mean == found.per_filter[0]
    assert np.isnan(found.std)
    assert found.peak == pytest.approx(found.mean, abs=0.05)


def test_fan_in_one_turns_nothing():
    found = weights.angle_stats(_gaussian(8, 1, Sign()))
    assert (found.mean, found.predicted_mean, found.predicted_std, found.moments_mean) == (0, 0, 0, 0)


def test_filters_that_all_have_one_angle():
    found = weights.angle_stats(_layer(np.tile([3.0, -4.0, 1.0], (6, 1)), Sign()))
    assert found.std == pytest.approx(0, abs=1e-9)
    assert found.peak == pytest.approx(found.mean, abs=0.2)
    assert np.trapezoid(found.density.density, found.density.grid) == pytest.approx(1, abs=0.01)


def test_zero_filters_have_no_angle():
    w = np.array([[0.0, 0.0], [0.1, 0.1], [3.0, 1.0]])  # zero, all below the threshold, (1, 1)
    found = weights.angle_stats(_layer(w, Ternary(0.5)))
    assert np.isnan(found.per_filter).tolist() == [True, True, False]
    assert found.mean == pytest.approx(np.degrees(np.arccos(4 / np.sqrt(20))))
    nothing = weights.angle_stats(_layer(np.zeros((2, 3)), Ternary(0.5)))
    assert np.isnan([nothing.mean, nothing.std, nothing.peak, nothing.predicted_mean, nothing.moments_mean]).all()
    assert set(nothing.density.density) == {0.0}


def test_weight_moments_against_scipy():
    w = np.random.default_rng(0).gamma(2, 0.1, (30, 5000)).astype(np.float32)  # more than one block of them
    found = weights.weight_stats(_layer(w, Ternary(0.25)))
    flat = w.astype(float).ravel()
    assert found.mean == pytest.approx(flat.mean())
    assert found.std == pytest.approx(flat.std())
    assert found.skewness == pytest.approx(stats.skew(flat))
    assert found.kurtosis == pytest.approx(stats.kurtosis(flat, fisher=False))
    assert found.absolute_mean == pytest.approx(np.abs(flat).mean())
    assert found.thresholds == (-0.25, 0.25)


def test_constant_weights():
    found = weights.weight_stats(_layer(np.full((3, 4), 0.5), Sign()))
    assert (found.mean, found.std) == (0.5, 0)
    assert np.isnan([found.skewness, found.kurtosis]).all()
    assert found.thresholds == (0.0,)
    assert np.trapezoid(found.density.density, found.density.grid) == pytest.approx(1, abs=0.01)


def test_level_shares_and_thresholds():
    layer = _layer([[0.5, -0.5, 0.0, 0.1], [0.1, -0.0, -0.1, 0.0]], Sign())
    assert weights.level_shares(layer) == {"-1": 2 / 8, "+1": 6 / 8}
    normal = _gaussian(50, 400, Ternary(Optimal()), scale=0.3)
    shares = weights.level_shares(normal)
    assert shares["0"] == pytest.approx(0.459, abs=0.01)
    assert sum(shares.values()) == pytest.approx(1)
    t = weights.weight_stats(normal).thresholds
    assert t[1] == -t[0] == pytest.approx(0.612 * 0.3, rel=0.01)


def test_convolution_filters_are_whole_vectors():
    layer = QuantConv2d(4, 6, 3, groups=2, weight_quantizer=Sign())
    w = layer.weight.detach().numpy().astype(float).reshape(6, 18)
    expected = np.arccos(np.abs(w).sum(1) / np.sqrt(18 * (w * w).sum(1)))
    np.testing.assert_allclose(weights.angles(layer), expected, atol=1e-7)


@pytest.mark.parametrize("n", [3, 50, 30_000])
def test_kernel_density_is_scipys(n):
    values = np.random.default_rng(0).standard_normal(n) * 5 + 30
    density, peak = weights.kernel_density(values)
    expected = stats.gaussian_kde(values)(np.asarray(density.grid))
    np.testing.assert_allclose(density.density, expected, atol=0.004 * expected.max())
    if n < 1000:
        fine = np.linspace(*np.asarray(density.grid)[[0, -1]], 4000)
        assert stats.gaussian_kde(values)(peak) == pytest.approx(stats.gaussian_kde(values)(fine).max(), rel=1e-3)


def test_kernel_density_shows_a_window_and_survives_nothing():
    density, _ = weights.kernel_density(np.array([1.0, 2.0]), show=(-5, 9))
    assert density.grid[0] < -5
    assert density.grid[-1] > 9
    density, peak = weights.kernel_density(np.array([]))
    assert np.isnan(peak)
    assert set(density.density) == {0.0}
    density, peak = weights.kernel_density(np.array([1e6, 1e6]))
    assert peak == pytest.approx(1e6)
    assert np.trapezoid(density.density, density.grid) == pytest.approx(1, abs=0.01)


def test_mean_and_deviation_of_a_few_angles_by_hand():
    w = np.random.default_rng(5).standard_normal((4, 12))
    degrees = [math.degrees(math.acos(np.abs(row).sum() / math.sqrt(12 * (row**2).sum()))) for row in w]
    found = weights.angle_stats(_layer(w, Sign()))
    assert found.mean == pytest.approx(statistics.mean(degrees), abs=1e-4)
    assert found.std == pytest.approx(statistics.stdev(degrees), abs=1e-4)  # over n - 1


@pytest.mark.parametrize("quantizer", [Sign(), Ternary(0.4), GroupScaled(Sign(), 4)])
@pytest.mark.parametrize("d", [9, 64, 600])
def test_heavy_tails_by_bootstrap(quantizer, d):
    """Weights of Student's t with 2.5 degrees of freedom: kurtosis in the hundreds, at any fan-in."""
    layer = _gaussian(60_000 // d, d, quantizer)
    generator = np.random.default_rng(0)
    values = generator.standard_t(2.5, (len(layer.weight), d)).astype(np.float32)
    layer.weight.data.copy_(torch.from_numpy(values))
    found = weights.angle_stats(layer)
    threshold = 0.4 if isinstance(quantizer, Ternary) else 0.0
    x = np.abs(values.ravel()[generator.integers(0, values.size, (1500, d))]).astype(np.float64)
    levels = (x >= threshold).astype(np.float64)
    if isinstance(quantizer, GroupScaled):
        starts = np.arange(0, d, 4)
        sums = np.add.reduceat(x, starts, axis=1) / np.minimum(d - starts, 4)
        levels = np.repeat(sums, np.minimum(d - starts, 4), axis=1)
    cosine = (x * levels).sum(1) / np.sqrt((x * x).sum(1) * (levels * levels).sum(1))
    angles = np.degrees(np.arccos(np.minimum(cosine, 1)))
    error = 4 * angles.std() / np.sqrt(len(angles))
    assert found.moments_mean == pytest.approx(angles.mean(), abs=0.2 + error)
    if not isinstance(quantizer, GroupScaled):  # no spread is predicted
        assert found.moments_std == pytest.approx(angles.std(), abs=0.4 + error)
