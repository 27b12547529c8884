"""The law against NumPy, where a linear network has a closed form."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from hypersign.forecasting import Effect, Estimate, Law, Mixture, effect, fit, forecast
from hypersign.forecasting.bench import Bench
from hypersign.forecasting.effects import centred, unseen
from hypersign.forecasting.formats import sides_of


def linear() -> tuple[nn.Module, np.ndarray, list[np.ndarray]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 30, bias=False), nn.Linear(30, 20, bias=False), nn.Linear(20, 6, bias=False))
    x = np.random.default_rng(0).standard_normal((200, 40))
    return model, x, [layer.weight.detach().numpy().astype(np.float64) for layer in model]


def binary(w: np.ndarray) -> np.ndarray:
    return np.sign(w) * np.abs(w).mean(1, keepdims=True)


def run(x: np.ndarray, weights: list[np.ndarray]) -> np.ndarray:
    for w in weights:
        x = x @ w.T
    return (x - x.mean(1, keepdims=True))[:, None]


def test_a_linear_network_in_closed_form() -> None:
    model, x, weights = linear()
    found = forecast(model, [torch.from_numpy(x).float()], formats=["binary"], repaired=False, mixtures=0)
    c = run(x, weights)
    alone = [run(x, [binary(w) if i == k else w for i, w in enumerate(weights)]) for k in range(3)]
    for layer, s in zip(found.layers, alone, strict=True):
        expected = (s * c).sum() / math.sqrt((s * s).sum() * (c * c).sum())
        assert layer.raw["binary"].r.value == pytest.approx(expected, abs=1e-5)
    gains = [(s * c).sum() / (c * c).sum() for s in alone]
    noise = sum(s / a - c for s, a in zip(alone, gains, strict=True))
    r = 1 / math.sqrt(1 + (noise**2).sum() / (c**2).sum())
    everything = dict.fromkeys("012", "binary")
    predicted = found.predict(everything, repaired=False)
    assert predicted.r.value == pytest.approx(r, abs=1e-5)
    law = found.law(False)
    assert law.gains == pytest.approx(gains, abs=1e-5)
    assert law.logits([0, 1, 2]) == pytest.approx(c + noise, abs=1e-4)
    assert law.logits([]) is law.original
    measured = found.measure(everything, repaired=False)
    real = effect(c, run(x, [binary(w) for w in weights]))
    assert measured.r.value == pytest.approx(real.r.value, abs=1e-5)
    assert measured.kl.value == pytest.approx(real.kl.value, rel=1e-4)
    assert measured.agreement.value == real.agreement.value
    assert abs(predicted.r.value - real.r.value) < 0.05


def test_one_change_is_predicted_as_measured() -> None:
    model, x, _ = linear()
    found = forecast(model, [torch.from_numpy(x).float()], formats=["ternary"], repaired=False, mixtures=0)
    alone = found.layers[1].raw["ternary"]
    predicted = found.predict({"1": "ternary"}, repaired=False)
    assert predicted.r.value == pytest.approx(alone.r.value, abs=1e-6)
    assert predicted.r.error == pytest.approx(alone.r.error, rel=0.05)
    assert predicted.kl.value == pytest.approx(alone.kl.value, rel=1e-4)
    assert found.predict({}, repaired=False).agreement.value == 1


def independent(count: int, size: float, n: int = 300) -> tuple[np.ndarray, list[np.ndarray]]:
    generator = np.random.default_rng(3)
    c = centred(generator.standard_normal((n, 1, 8))).astype(np.float32)
    return c, [centred(c + size * generator.standard_normal(c.shape)).astype(np.float32) for _ in range(count)]


def test_independent_errors_add() -> None:
    c, changed = independent(4, 0.4)
    law = Law.of(c, changed)
    together = effect(c, c + sum(s - c for s in changed))
    found = law.predict(range(4))
    assert found.r.value == pytest.approx(together.r.value, abs=0.01)
    assert found.agreement.value == pytest.approx(together.agreement.value, abs=3 * together.agreement.error)
    assert found.kl.value == pytest.approx(together.kl.value, rel=0.05)


def test_shrunk_logits_are_not_noise() -> None:
    c, (s,) = independent(1, 0.3)
    assert Law.of(c, [0.2 * s]).r([0]) == pytest.approx(Law.of(c, [s]).r([0]))


def test_a_fit_learns_a_power_law_and_its_own_error() -> None:
    c, changed = independent(6, 0.35)
    law = Law.of(c, changed)
    mixtures = []
    for count in range(1, 7):
        r = math.exp(-1.5 * law.error(range(count)) ** 1.2)
        noise = sum(changed[i] - c for i in range(count))
        mixtures.append(Mixture(tuple(range(count)), effect(c, law._scaled(noise, r))))
    fitted = fit(law, mixtures)
    plain = [abs(law.r(m.picks) - m.measured.r.value) for m in mixtures]
    better = [abs(fitted.r(m.picks) - m.measured.r.value) for m in mixtures]
    assert np.mean(better) < 0.6 * np.mean(plain)
    found = fitted.predict(range(6)).r
    assert found.error >= -found.value * math.log(found.value) * fitted.spread[0] > 0
    assert fit(law, []).r(range(3)) == law.r(range(3))


def test_halves_measure_repair_on_inputs_that_it_has_not_seen() -> None:
    model, x, _ = linear()
    batches = [torch.from_numpy(part).float() for part in (x[:40], x[40:])]
    bench = Bench(model, batches)
    assignment = {name: sides_of("binary") for name in "012"}
    original, same, other = bench.halves(assignment)
    halves = [[batch[start::2] for batch in batches] for start in (0, 1)]
    for start, (fitted, unseen_half) in enumerate((halves, halves[::-1])):
        alone = Bench(model, fitted)
        rows = slice(100 * start, 100 * start + 100)
        assert original[rows] == pytest.approx(alone.original, abs=1e-5)
        assert same[rows] == pytest.approx(alone.together(assignment, repaired=True), abs=1e-4)
        rows = slice(100 * (1 - start), 100 * (1 - start) + 100)
        others = alone.together(assignment, repaired=True, batches=unseen_half)
        assert other[rows] == pytest.approx(others, abs=1e-4)


def test_repair_by_n_inputs_from_repairs_by_half_of_them() -> None:
    """Errors that go as 1/n on other inputs, and as -1/n on the same, are met exactly."""
    limit, k, n = 0.2, 3.0, 100

    def effect_of(minus_log_r: float) -> Effect:
        return Effect(Estimate(math.exp(-minus_log_r), 0.1), Estimate(2 * minus_log_r, 0.1), Estimate(1.0, 0.1))

    found = unseen(effect_of(limit - k / (n / 2)), effect_of(limit + k / (n / 2)))
    assert -math.log(found.r.value) == pytest.approx(limit + k / n)
    assert found.kl.value == pytest.approx(2 * (limit + k / n))
    assert found.influence is None


def test_the_influence_of_inputs_on_a_repair_that_has_not_seen_them() -> None:
    """Moving one input's share of both r by its influence moves the mixed r by the mixed influence."""
    same, other = (
        Effect(Estimate(r, 0.1), Estimate(0.1, 0.1), Estimate(1.0, 0.1), np.array(influence))
        for r, influence in ((0.9, [0.02, -0.02]), (0.8, [-0.01, 0.01]))
    )
    found = unseen(same, other)
    assert found.influence is not None
    for i, moved in enumerate(found.influence):
        step = 1e-6
        nudged = [dataclasses.replace(e, r=Estimate(e.r.value + step * e.influence[i], 0.1)) for e in (same, other)]
        assert (unseen(*nudged).r.value - found.r.value) / step == pytest.approx(moved, rel=1e-4)


def test_a_fit_learns_that_errors_saturate_and_keeps_single_ones() -> None:
    c, changed = independent(8, 0.35)
    law = Law.of(c, changed)
    mixtures = []
    for count in (1, 2, 3, 4, 5, 6, 7, 8):
        picks = tuple(range(count))
        r = math.exp(-law.error(picks) * law.crowd(picks) ** -0.6)
        noise = sum(changed[i] - c for i in picks)
        mixtures.append(Mixture(picks, effect(c, law._scaled(noise, r))))
    fitted = fit(law, mixtures)
    assert law.crowd([3]) == pytest.approx(1)
    assert fitted.crowding < -0.3
    assert fitted.r([7]) == pytest.approx(law.r([7]), abs=0.01)  # alone, nothing saturates
    assert fitted.r(range(8)) == pytest.approx(mixtures[-1].measured.r.value, abs=0.02)


def test_a_fit_learns_that_correlations_count_less() -> None:
    """Errors that are all alike would add to k^2 times one; here they add to k^1."""
    generator = np.random.default_rng(4)
    c = centred(generator.standard_normal((300, 1, 8))).astype(np.float32)
    shared, own = (centred(generator.standard_normal((8, *c.shape))).astype(np.float32) for _ in range(2))
    law = Law.of(c, [c + 0.25 * (shared[0] if i < 4 else own[i]) for i in range(8)])
    mixtures = []
    for picks in ((0,), (0, 1), (0, 1, 2), (0, 1, 2, 3), (4, 5), (4, 5, 6), (4, 5, 6, 7), (0, 1, 6), (0, 1, 2, 5)):
        r = math.exp(-law.error(picks) / law.correlation(picks))
        mixtures.append(Mixture(picks, effect(c, law._scaled(law.residuals[list(picks)].sum(0), r))))
    fitted = fit(law, mixtures)
    assert law.correlation((0, 1, 2, 3)) == pytest.approx(4)
    assert law.correlation((4, 5, 6, 7)) == pytest.approx(1, abs=0.1)
    assert fitted.coherence < -0.5
    for mixture in mixtures:
        assert fitted.r(mixture.picks) == pytest.approx(mixture.measured.r.value, abs=0.02)


def test_the_stated_error_is_that_of_mixtures_left_out() -> None:
    """-ln r that is off by random factors: the spread is their deviation, also with few mixtures."""
    c, changed = independent(10, 0.35)
    law = Law.of(c, changed)
    generator = np.random.default_rng(5)
    spreads = []
    for _ in range(20):
        mixtures = []
        for _ in range(8):
            picks = tuple(generator.choice(10, generator.integers(1, 6), replace=False))
            r = math.exp(-law.error(picks) * math.exp(0.2 * generator.standard_normal()))
            mixtures.append(Mixture(picks, effect(c, law._scaled(law.residuals[list(picks)].sum(0), r))))
        spreads.append(fit(law, mixtures).spread[0])
    assert 0.17 < np.mean(spreads) < 0.32  # .2, and what the fit to eight of them adds
