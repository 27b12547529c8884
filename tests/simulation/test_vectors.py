import json

import numpy as np
import pytest
import torch
from scipy import stats

from hypersign import simulation, theory
from hypersign._checks import HypersignError
from hypersign.simulation import vectors


def distances(simulation) -> list[float]:
    """How far every mean and deviation lies from theory, in standard errors; those without a prediction left out."""
    values = [
        distance
        for case in simulation.cases
        for estimate in (case.cosine, case.angle_degrees)
        for distance in (estimate.mean_distance, estimate.std_distance)
    ]
    return [value for value in values if not np.isnan(value)]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("experiment", "arguments"),
    [
        (simulation.pairs, {"dimensions": [2, 3, 10, 27]}),
        (simulation.binary_pairs, {"dimensions": [10, 63, 64, 65, 1000]}),
        (simulation.sign, {"dimensions": [2, 3, 10, 27, 100, 301]}),
        (simulation.ternary, {"thresholds": [0, 0.01, 0.1111, 0.5, 0.612, 1.5], "dimension": 300}),
        (simulation.levels, {"numbers": [2, 3, 4, 5], "dimension": 301}),
        (simulation.rotated, {"dimensions": [10, 100]}),
        (simulation.rotated, {"dimensions": [128], "rotations": simulation.ROTATIONS}),
    ],
)
def test_simulation_meets_theory(experiment, arguments, seed):
    found = distances(experiment(**arguments, draws=4000, seed=seed))
    assert len(found) >= 4 * len(next(iter(arguments.values()))) - 2
    # theory of the levels' and three rounds' deviation is of leading order: half a standard error more
    assert np.abs(found).max() < 4.5


@pytest.mark.parametrize(
    ("experiment", "arguments"),
    [
        (simulation.pairs, {"dimensions": [1, 10, 1000]}),
        (simulation.ternary, {"thresholds": [0.1111, 0.612]}),
        (simulation.levels, {"numbers": [2, 5, 8]}),
        (simulation.rotated, {"dimensions": [64], "rotations": simulation.ROTATIONS}),
    ],
)
def test_other_devices_meet_theory_too(experiment, arguments):
    """By another name this processor is taken for a device that has torch's generator alone."""
    found = distances(experiment(**arguments, draws=2000, device="cpu:0"))
    assert np.abs(found).max() < 4.5


@pytest.mark.parametrize("k", [2, 3, 8, 9, 256])
@pytest.mark.parametrize("d", [2, 301])
def test_levels_are_those_of_each_component(k, d):
    draws = 50
    case = simulation.levels([k], dimension=d, draws=draws, seed=5).cases[0]
    x = vectors.Source(5, 0).normals(draws, d).astype(np.float64)
    quantizer = theory.lloyd_max(k)
    q = np.array(quantizer.levels)[np.searchsorted(quantizer.thresholds, x)]
    seen = q.any(1)
    assert case.undefined == draws - seen.sum()
    cosines = (q * x).sum(1)[seen] / np.linalg.norm(q, axis=1)[seen] / np.linalg.norm(x, axis=1)[seen]
    assert np.cos(np.radians(case.sample_degrees)) == pytest.approx(cosines, abs=2e-7)


def test_given_covariances():
    d, rng = 16, np.random.default_rng(0)
    factors = rng.standard_normal((d, 3))
    covariance = 1e40 * (factors @ factors.T + 0.1 * np.eye(d))
    turned = simulation.rotated(covariance=covariance, rotations=simulation.ROTATIONS, draws=4000)
    assert [case.dimension for case in turned.cases] == [d] * 5
    assert np.abs(distances(turned)[:8]).max() < 4.5
    one_round = turned.cases[2].angle_degrees
    assert np.isnan(one_round.predicted_mean)
    assert np.isnan(one_round.mean_distance)
    variances = simulation.rotated(covariance=np.diag(covariance), rotations=["none", "hadamard-1"], draws=4000)
    assert np.abs(distances(variances)).max() < 4.5
    assert len(distances(variances)) == 8


def test_the_reference_table_of_rotations():
    table = {"none": (70.8, 1.9), "haar": (36.9, 1.8), "hadamard-1": (35.1, 4.3), "hadamard-3": (36.9, 1.8)}
    for case in simulation.rotated([128], rotations=list(table), draws=4000).cases:
        mean, std = table[case.label.partition(", ")[2]]
        assert case.angle_degrees.mean == pytest.approx(mean, abs=0.05 + 4 * case.angle_degrees.mean_error)
        assert case.angle_degrees.std == pytest.approx(std, abs=0.05 + 4 * case.angle_degrees.std_error)


def test_vectors_of_which_nothing_exceeds_the_threshold_have_no_angle():
    case = simulation.ternary([2.5], dimension=20, draws=20_000).cases[0]
    share = (1 - theory.ternary_nonzero_share(2.5)) ** 20
    assert case.undefined / case.draws == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / case.draws))
    assert len(case.sample_degrees) == case.draws - case.undefined
    assert abs(case.cosine.mean_distance) < 4
    nothing = simulation.ternary([30.0], dimension=2, draws=10)
    assert nothing.cases[0].undefined == 10
    assert np.isnan(nothing.cases[0].angle_degrees.mean)
    json.dumps(nothing.as_dict(), allow_nan=False)


def test_a_simulation_is_a_function_of_its_seed():
    for run in (
        lambda seed: simulation.sign([10], draws=100, seed=seed),
        lambda seed: simulation.pairs([10], draws=100, seed=seed),
        lambda seed: simulation.binary_pairs([100], draws=100, seed=seed),
        lambda seed: simulation.rotated([16], rotations=["haar", "hadamard-2"], draws=100, seed=seed),
    ):
        before = torch.random.get_rng_state()
        assert run(3).as_dict() == run(3).as_dict()
        first, again, other = (run(seed).cases[0].sample_degrees for seed in (3, 3, 4))
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)
        assert torch.equal(torch.random.get_rng_state(), before)


def test_every_case_counts_every_draw_and_keeps_the_first(monkeypatch):
    monkeypatch.setattr(vectors, "CPU_BLOCK", 64)  # many blocks, the last one not full
    for found in (
        simulation.pairs([10], draws=107),
        simulation.sign([10, 100], draws=107),
        simulation.binary_pairs([100], draws=107),
        simulation.ternary([0.5], dimension=10, draws=107),
        simulation.rotated([16], rotations=simulation.ROTATIONS, draws=107),
    ):
        for case in found.cases:
            assert len(case.sample_degrees) == 107
            assert np.mean(case.sample_degrees) == pytest.approx(case.angle_degrees.mean)
            assert np.std(case.sample_degrees) == pytest.approx(case.angle_degrees.std)
    assert len(simulation.sign([2], draws=10_500).cases[0].sample_degrees) == 10_000


def test_normals_are_normal():
    x = vectors.Source(0).normals(500, 401)
    assert x.shape == (500, 401)
    assert stats.kstest(x.ravel(), "norm").statistic < 2.2 / np.sqrt(x.size)
    assert abs(stats.kurtosis(x.ravel())) < 4 * np.sqrt(24 / x.size)
    correlation = np.corrcoef(x[:, :50].T) - np.eye(50)
    assert np.abs(correlation).max() < 5 / np.sqrt(500)
    assert np.abs(np.corrcoef(np.abs(x[:, :50]).T) - np.eye(50)).max() < 5 / np.sqrt(500)


@pytest.mark.parametrize(("k", "d"), [(1, 1), (1, 2), (2, 2), (3, 40), (40, 40), (200, 300)])
def test_frames_are_orthonormal(k, d):
    frame = vectors.Source(0).frame(k, d).astype(np.float64)
    np.testing.assert_allclose(frame @ frame.T, np.eye(k), atol=3e-6)


def test_frames_are_uniform():
    """Components of a row of Haar's matrix: x^2 has a Beta law, whichever the row; rows are as one another's."""
    d, source = 4, vectors.Source(1)
    frames = np.stack([source.frame(3, d) for _ in range(3000)]).astype(np.float64)
    for row in range(3):
        for column in range(d):
            assert stats.kstest(frames[:, row, column] ** 2, stats.beta(0.5, (d - 1) / 2).cdf).pvalue > 1e-4
    assert np.abs((frames[:, 0] ** 2 * frames[:, 1] ** 2).mean(0) - 1 / (d * (d + 2))).max() < 0.003


def test_pairs_that_share_vectors_are_as_good_as_others():
    """Over many seeds the distances from theory have the mean and deviation of standard errors: 0 and 1."""
    cases = [simulation.pairs([3, 20], draws=301, seed=seed).cases for seed in range(150)]
    for case in (0, 1):
        for estimate in ("mean_distance", "std_distance"):
            found = np.array([getattr(c[case].cosine, estimate) for c in cases])
            assert abs(found.mean()) < 4 / np.sqrt(150) + 0.1  # a deviation is found a little low
            assert abs(found.std() - 1) < 0.25


def test_components_that_float32_does_not_see_are_not_drawn():
    spread, root = vectors._components(np.exp(-0.2 * np.arange(1000)))
    assert len(spread) == 167
    assert np.count_nonzero(root) == 167
    turned = np.linalg.qr(np.random.default_rng(0).standard_normal((50, 50)))[0]
    variances = np.exp(-np.arange(50))
    again, root = vectors._components(turned * variances @ turned.T)
    np.testing.assert_allclose(again[::-1], np.sqrt(variances)[: len(again)], rtol=1e-2, atol=1e-7)
    assert 30 < len(again) < 38
    np.testing.assert_allclose(root @ root.T, turned * variances @ turned.T, atol=1e-6)
    assert len(vectors._components(np.ones(1000))[0]) == 1000


def test_signs_are_fair():
    x = vectors.Source(0).signs(300, 333)
    assert set(np.unique(x)) == {-1.0, 1.0}
    assert abs(x.mean()) < 4 / np.sqrt(x.size)
    assert np.abs((x[:, 1:] * x[:, :-1]).mean(0)).max() < 5 / np.sqrt(300)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: simulation.sign([0]), "a dimension must be an integer >= 1"),
        (lambda: simulation.sign([]), "must name at least one"),
        (lambda: simulation.pairs([3], draws=1), "draws must be an integer >= 2"),
        (lambda: simulation.sign([3], seed=-1), "seed must be an integer >= 0"),
        (lambda: simulation.sign([3], device="abacus"), "device must be one that torch finds"),
        (lambda: simulation.ternary([-1.0]), "a threshold must be a number >= 0"),
        (lambda: simulation.levels([1]), "a number of levels must be an integer >= 2"),
        (lambda: simulation.rotated([10], rotations=["hadamard-1"]), "must be a power of two; got 10"),
        (lambda: simulation.rotated([10], rotations=["some"]), "a rotation must be one of"),
        (lambda: simulation.rotated(covariance=np.ones((2, 3))), "a covariance must be"),
    ],
)
def test_bad_arguments_are_said(call, message):
    with pytest.raises(HypersignError, match=message):
        call()
