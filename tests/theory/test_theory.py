import dataclasses

import numpy as np
import pytest
from scipy import integrate, optimize, special, stats

from hypersign import theory
from hypersign._checks import HypersignError
from hypersign.theory import Moments

# d: E c, std c (exact); angle mean, std in degrees (numerical), from the project's reference table
SIGN = {
    3: (0.86603, 0.08801, 28.12, 10.91),
    10: (0.81805, 0.06126, 34.64, 6.17),
    27: (0.80530, 0.03952, 36.19, 3.83),
    100: (0.79988, 0.02104, 36.83, 2.01),
    1152: (0.79806, 0.00625, 37.05, 0.594),
    4608: (0.79793, 0.00313, 37.07, 0.297),
}


@pytest.mark.parametrize("d", SIGN)
def test_sign_against_the_table(d):
    mean, std, angle, angle_std = SIGN[d]
    assert theory.sign_cosine(d) == pytest.approx(mean, abs=6e-6)
    assert theory.sign_cosine_std(d) == pytest.approx(std, abs=6e-6)
    assert np.degrees(theory.sign_angle(d)) == pytest.approx(angle, abs=0.01)
    assert np.degrees(theory.sign_angle_std(d)) == pytest.approx(angle_std, abs=0.006)


@pytest.mark.parametrize("d", [2, 3, 9, 16, 17, 27, 64, 144])
def test_sign_by_monte_carlo(d):
    n = 200_000 if d < 30 else 50_000
    w = np.abs(np.random.default_rng(0).standard_normal((n, d)))
    cosine = w.sum(1) / np.sqrt(d * (w * w).sum(1))
    angle = np.arccos(np.minimum(cosine, 1))
    error = 4 / np.sqrt(n)  # in standard deviations: a correct value is outside once in 16,000
    assert abs(cosine.mean() - theory.sign_cosine(d)) < error * cosine.std()
    assert np.mean(cosine**2) == pytest.approx(theory.sign_cosine_second_moment(d), abs=error * cosine.std() * 2)
    assert cosine.std() == pytest.approx(theory.sign_cosine_std(d), rel=error)
    assert abs(angle.mean() - theory.sign_angle(d)) < error * angle.std() + np.radians(0.002)
    assert angle.std() == pytest.approx(theory.sign_angle_std(d), rel=error)
    # the density, through its distribution function
    grid = np.linspace(0, np.arccos(d**-0.5), 4001)
    cumulated = integrate.cumulative_trapezoid(theory.sign_angle_density(grid, d), grid, initial=0)
    assert cumulated[-1] == pytest.approx(1, abs=2e-3)
    distance = stats.kstest(angle, lambda x: np.interp(x, grid, cumulated / cumulated[-1])).statistic
    assert distance < 2.0 / np.sqrt(n) + 0.004


def test_sign_in_two_dimensions_is_uniform():
    # theta is uniform on [0, pi/4]
    assert theory.sign_angle(2) == pytest.approx(np.pi / 8, rel=1e-6)
    assert theory.sign_angle_std(2) == pytest.approx(np.pi / 4 / np.sqrt(12), rel=1e-5)
    np.testing.assert_allclose(theory.sign_angle_density([0, 0.3, 0.78], 2), 4 / np.pi, rtol=1e-6)
    assert theory.sign_angle_density([-0.1, 0.79], 2).tolist() == [0, 0]


def test_sign_in_one_dimension_has_no_angle():
    assert theory.sign_cosine(1) == pytest.approx(1)
    assert theory.sign_cosine_std(1) == theory.sign_angle(1) == theory.sign_angle_std(1) == 0


def test_sign_for_large_d():
    d = np.array([64.0, 1e3, 8192, 1e6, 1e9])
    np.testing.assert_allclose(theory.sign_cosine_std(d) * np.sqrt(d), np.sqrt(1 - 3 / np.pi), rtol=0.015)
    np.testing.assert_allclose(np.degrees(theory.sign_angle_std(d)) * np.sqrt(d), 20.18, rtol=0.015)
    np.testing.assert_allclose(np.degrees(theory.sign_angle(d)), 37.071 - 23.66 / d, atol=2e-3)
    # where lgammas are subtracted and where their series is used, the same number comes out
    d = np.array([63.999999, 64.0])
    assert np.diff(theory.sign_cosine(d))[0] == pytest.approx(0, abs=1e-10)
    assert np.diff(theory.sign_cosine_std(d))[0] == pytest.approx(0, abs=1e-9)


def test_the_beta_law_meets_the_exact_one():
    # what the module's introduction claims of the two, at the dimension where one takes over from the other
    mean, std = theory.sign_cosine(16), theory.sign_cosine_std(16)
    assert np.degrees(theory.angle_mean(mean, std, 16) - theory.sign_angle(16)) == pytest.approx(0, abs=0.002)
    assert np.degrees(theory.angle_std(mean, std, 16) - theory.sign_angle_std(16)) == pytest.approx(0, abs=0.01)


def test_arrays_broadcast():
    d = np.array([[3, 27], [100, 4608]])
    for function in (theory.sign_cosine, theory.sign_cosine_std, theory.sign_angle, theory.sign_angle_std):
        np.testing.assert_array_equal(function(d), [[function(v) for v in row] for row in d])


@pytest.mark.parametrize("bad", [0, -3, np.nan, [3, 0]])
def test_fan_in_below_one(bad):
    with pytest.raises(HypersignError, match="the fan-in, must be >= 1"):
        theory.sign_cosine(bad)


def test_small_fan_ins_are_integers():
    with pytest.raises(HypersignError, match="must be an integer"):
        theory.sign_angle(2.5)
    with pytest.raises(HypersignError, match="d >= 2 only"):
        theory.sign_angle_density(0.1, 1)


# law: E|x|^k for k = 0..3, E x^2, E x^4, the limit angle in degrees
LAWS = {
    "constant": ((1, 1, 1, 1), 1, 1, 0.0),
    "uniform": ((1, 1 / 2, 1 / 3, 1 / 4), 1 / 3, 1 / 5, 30.0),
    "gaussian": ((1, np.sqrt(2 / np.pi), 1, 2 * np.sqrt(2 / np.pi)), 1, 3, 37.07143),
    "laplace": ((1, 1, 2, 6), 2, 24, 45.0),
}
DRAW = {
    "constant": lambda rng, shape: rng.choice([-1.0, 1.0], shape),
    "uniform": lambda rng, shape: rng.uniform(-1, 1, shape),
    "gaussian": lambda rng, shape: rng.standard_normal(shape),
    "laplace": lambda rng, shape: rng.laplace(size=shape),
}


@pytest.mark.parametrize("law", LAWS)
def test_any_law_from_its_moments(law):
    *given, degrees = LAWS[law]
    moments = Moments(*given)
    assert np.degrees(np.arccos(theory.limit_cosine(moments))) == pytest.approx(degrees, abs=1e-4)
    d, n = 200, 20_000
    x = DRAW[law](np.random.default_rng(0), (n, d))
    cosine = np.abs(x).sum(1) / np.sqrt(d * (x * x).sum(1))
    error = 4 / np.sqrt(n)
    assert theory.mean_cosine(moments, d) == pytest.approx(cosine.mean(), abs=error * cosine.std() + 2e-4)
    assert theory.std_cosine(moments, d) == pytest.approx(cosine.std(), rel=error + 0.02, abs=1e-9)
    own = Moments.of(x)
    np.testing.assert_allclose(own.above, given[0], rtol=0.01)
    assert (own.second, own.fourth) == pytest.approx(given[1:], rel=0.02)


def test_student_t5_limit():
    x = stats.t(5)
    first = 2 * integrate.quad(lambda v: v * x.pdf(v), 0, np.inf)[0]
    moments = Moments((1, first, 5 / 3, np.nan), 5 / 3, np.nan)
    assert np.degrees(np.arccos(theory.limit_cosine(moments))) == pytest.approx(42.7, abs=0.05)


def test_formula_of_the_sign_spread():
    # Var|x|/m1^2 - Cov(|x|, x^2)/(m1 m2) + Var(x^2)/(4 m2^2), written out
    (_, m1, m2, m3), _, m4, _ = LAWS["laplace"]
    expected = (m2 - m1**2) / m1**2 - (m3 - m1 * m2) / (m1 * m2) + (m4 - m2**2) / (4 * m2**2)
    got = theory.std_cosine(Moments((1, m1, m2, m3), m2, m4), 100)
    assert got == pytest.approx(np.sqrt(m1**2 / m2 * expected / 100))


def test_gaussian_moments_by_quadrature():
    for t in (0, 0.1, 0.612, 2.0):
        moments = Moments.gaussian(t)
        for k, value in enumerate(moments.above):
            expected = 2 * integrate.quad(lambda x, k=k: x**k * stats.norm.pdf(x), t, np.inf)[0]
            assert value == pytest.approx(expected, rel=1e-9)


def test_leading_order_meets_the_exact_cosine():
    d = np.array([27, 100, 1152, 8192])
    for t in (0.0, 0.612):
        moments = dataclasses.replace(Moments.gaussian(t), distribution=None)
        assert np.all(np.abs(theory.mean_cosine(moments, d) - theory.ternary_cosine(t, d)) < 0.6 / d**2)
        assert np.all(np.abs(theory.std_cosine(moments, d) / theory.ternary_cosine_std(t, d) - 1) < 2 / d)


def test_threshold_zero_is_the_sign():
    d = np.array([1, 2, 9, 1152])
    np.testing.assert_allclose(theory.ternary_cosine(0, d), theory.sign_cosine(d), rtol=1e-12)
    np.testing.assert_allclose(theory.ternary_cosine_std(0, d), theory.sign_cosine_std(d), rtol=1e-8, atol=1e-7)


@pytest.mark.parametrize("t", [0.0, 0.111, 0.612, 1.5])
@pytest.mark.parametrize("d", [3, 9, 27, 300])
def test_ternary_by_monte_carlo(t, d):
    n = 60_000 if d < 30 else 15_000
    x = np.random.default_rng(1).standard_normal((n, d))
    q = np.sign(x) * (np.abs(x) > t)
    q, x = q[q.any(1)], x[q.any(1)]  # no angle where nothing exceeds the threshold
    cosine = np.minimum((x * q).sum(1) / np.sqrt((q * q).sum(1) * (x * x).sum(1)), 1)
    angle = np.arccos(cosine)
    mean, std = theory.ternary_cosine(t, d), theory.ternary_cosine_std(t, d)
    error = 4 / np.sqrt(n)
    assert mean == pytest.approx(cosine.mean(), abs=error * cosine.std())
    assert std == pytest.approx(cosine.std(), rel=error)
    if d >= 9 and t < 1:  # the beta law, with its error as stated
        beta = np.radians([0.15, 0.5] if d == 9 else [0.02, 0.06])
        assert theory.angle_mean(mean, std, d) == pytest.approx(angle.mean(), abs=error * angle.std() + beta[0])
        assert theory.angle_std(mean, std, d) == pytest.approx(angle.std(), abs=error * angle.std() + beta[1])


def test_the_smallest_ternary_vectors():
    # one weight is either zero or its own direction
    assert theory.ternary_cosine(0.5, 1) == pytest.approx(1)
    # two: one above the threshold and cos = |x|/r, or both and cos = (|x|+|y|)/(sqrt(2) r)
    t, pdf = 0.5, stats.norm.pdf
    one = 2 * 4 * integrate.dblquad(lambda y, x: pdf(x) * pdf(y) * x / np.hypot(x, y), t, 9, 0, t)[0]
    both = 4 * integrate.dblquad(lambda y, x: pdf(x) * pdf(y) * (x + y) / np.hypot(x, y) / np.sqrt(2), t, 9, t, 9)[0]
    share = 1 - (1 - theory.ternary_nonzero_share(t)) ** 2
    assert theory.ternary_cosine(t, 2) == pytest.approx((one + both) / share, rel=1e-8)


def test_ternary_against_the_table():
    t = np.array([0, 0.01, 0.10, 0.1111, 0.2, 0.3, 0.5, 0.612, 0.7, 1, 1.5])
    degrees = [37.07, 36.77, 34.15, 33.84, 31.51, 29.24, 26.32, 25.85, 26.14, 30.78, 44.88]
    zeros = [0, 0.8, 8.0, 8.8, 15.8, 23.6, 38.3, 45.9, 51.6, 68.3, 86.6]
    np.testing.assert_allclose(np.degrees(np.arccos(theory.ternary_cosine(t))), degrees, atol=0.006)
    np.testing.assert_allclose(100 * (1 - theory.ternary_nonzero_share(t)), zeros, atol=0.06)
    limits = [theory.limit_cosine(Moments.gaussian(v)) for v in t]
    np.testing.assert_allclose(theory.ternary_cosine(t), limits, rtol=1e-12)


def test_the_best_ternary_threshold():
    best = optimize.minimize_scalar(lambda t: -theory.ternary_cosine(t), bounds=(0.1, 2), options={"xatol": 1e-9})
    assert best.x == pytest.approx(theory.OPTIMAL_THRESHOLD, abs=1e-6)
    root = optimize.brentq(lambda t: stats.norm.pdf(t) - 2 * t * special.ndtr(-t), 0.1, 2, xtol=1e-12)
    assert root == pytest.approx(theory.OPTIMAL_THRESHOLD, abs=1e-7)
    assert theory.ternary_cosine(theory.OPTIMAL_THRESHOLD) == pytest.approx(0.89990, abs=5e-6)
    # the best threshold lies halfway between the two levels
    assert theory.ternary_level(theory.OPTIMAL_THRESHOLD) == pytest.approx(2 * theory.OPTIMAL_THRESHOLD, abs=1e-6)


def test_far_thresholds_are_finite():
    assert np.isnan(theory.ternary_cosine(50, 10))
    assert theory.ternary_cosine(5, 10) == pytest.approx(5.19 / np.sqrt(5.19**2 + 9), abs=0.005)  # one weight far out
    assert theory.ternary_cosine(30) == pytest.approx(0, abs=1e-12)
    assert theory.ternary_level(30) == pytest.approx(30.03, abs=0.01)


def test_angle_laws_at_the_edges():
    assert theory.angle_mean(1.0, 0.0, 1) == theory.angle_std(1.0, 0.0, 1) == 0
    assert theory.angle_mean(0.5, 0.0, 100) == pytest.approx(np.pi / 3)
    assert np.isnan(theory.angle_mean(np.nan, np.nan, 10))
    assert theory.angle_density(0.3, 0.9, 0.0, 10) == 0
    # more spread than any law with this mean can have: still a law
    assert 0 < theory.angle_std(0.9, 5.0, 9) < np.pi / 2
    grid = np.linspace(0, np.arccos(27**-0.5), 20001)
    assert np.trapezoid(theory.angle_density(grid, 0.8, 0.04, 27), grid) == pytest.approx(1, abs=1e-6)


def test_sign_disagreement():
    np.testing.assert_allclose(theory.sign_disagreement([1, 0.8, 0, -1]), [0, 0.20483, 0.5, 1], atol=1e-5)
    assert theory.sign_disagreement(1 + 1e-9) == 0
    rng = np.random.default_rng(0)
    x, z = rng.standard_normal((2, 400_000))
    y = 0.95 * x + np.sqrt(1 - 0.95**2) * z
    assert np.mean((x < 0) != (y < 0)) == pytest.approx(theory.sign_disagreement(0.95), abs=0.002)


@pytest.mark.parametrize("d", [1, 5, np.inf])
def test_an_infinite_threshold_leaves_no_angle(d: float) -> None:
    """NaN, and no warning: the settings of the tests make a warning an error."""
    assert np.isnan(theory.ternary_cosine(np.inf, d))
    assert np.isnan(theory.ternary_cosine_std(np.inf, d))
    assert theory.ternary_nonzero_share(np.inf) == 0
    assert np.isnan(theory.ternary_level(np.inf))


@pytest.mark.parametrize("d", [1e9, 1e17, 1e23, 1e150, np.inf])
def test_very_large_dimensions(d):
    """cos ~ sqrt(2/pi), and both deviations fall like 1/sqrt(d); nothing overflows (warnings are errors)."""
    assert theory.sign_cosine(d) == pytest.approx(np.sqrt(2 / np.pi), rel=1e-9)
    assert theory.sign_angle(d) == pytest.approx(np.arccos(np.sqrt(2 / np.pi)), rel=1e-8)
    cosine_std = np.sqrt((1 - 3 / np.pi) / d)
    assert theory.sign_cosine_std(d) == pytest.approx(cosine_std, rel=1e-6)
    assert theory.sign_angle_std(d) == pytest.approx(cosine_std / np.sqrt(1 - 2 / np.pi), rel=1e-6)


@pytest.mark.parametrize("t", [1e-320, 1e-17])
def test_thresholds_near_zero_are_the_sign(t):
    assert theory.ternary_cosine(t, 27) == pytest.approx(theory.ternary_cosine(0, 27), rel=1e-12)
    assert np.isnan(theory.ternary_cosine(1e308, 27))
