import math

import numpy as np
import pytest
from scipy import special, stats

from hypersign.forecasting import effect
from hypersign.forecasting.effects import centred, gain


def logits(seed: int = 0, shape: tuple[int, ...] = (60, 3, 5)) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    c = centred(generator.standard_normal(shape))
    return c, centred(c + 0.5 * generator.standard_normal(shape))


def test_the_three_numbers_by_other_formulas() -> None:
    c, s = logits()
    found = effect(c, s)
    assert found.r.value == pytest.approx(stats.pearsonr(c.ravel(), s.ravel()).statistic, abs=1e-12)
    p, q = special.softmax(c, -1), special.softmax(s, -1)
    assert found.kl.value == pytest.approx(float(special.rel_entr(p, q).sum(-1).mean()))
    same = [a.argmax() == b.argmax() for a, b in zip(c.reshape(-1, 5), s.reshape(-1, 5), strict=True)]
    assert found.agreement.value == pytest.approx(np.mean(same))


def test_standard_errors_are_those_of_resampled_inputs() -> None:
    c, s = logits()
    found = effect(c, s)
    generator = np.random.default_rng(1)
    draws = []
    for _ in range(400):
        rows = generator.integers(len(c), size=len(c))
        again = effect(c[rows], s[rows])
        draws.append((again.r.value, again.kl.value, again.agreement.value))
    errors = np.std(draws, 0)
    np.testing.assert_allclose([found.r.error, found.kl.error, found.agreement.error], errors, rtol=0.2)


def test_standard_errors_of_groups_are_those_of_resampled_groups() -> None:
    generator = np.random.default_rng(2)
    sizes = generator.integers(1, 5, 40)
    groups = np.repeat(np.arange(40), sizes)
    c, s = logits(shape=(len(groups), 2, 5))
    s = centred(s + generator.standard_normal((40, 1, 5))[groups])
    found = effect(c, s, groups)
    draws = []
    for _ in range(600):
        rows = np.concatenate([np.flatnonzero(groups == g) for g in generator.integers(40, size=40)])
        again = effect(c[rows], s[rows])
        draws.append((again.r.value, again.kl.value, again.agreement.value))
    errors = np.std(draws, 0)
    np.testing.assert_allclose([found.r.error, found.kl.error, found.agreement.error], errors, rtol=0.2)
    assert found.kl.error > 1.2 * effect(c, s).kl.error


def test_nothing_changed_and_everything_lost() -> None:
    c, _ = logits()
    same = effect(c, c)
    assert (same.r.value, same.kl.value, same.agreement.value) == (pytest.approx(1), 0, 1)
    assert not same.destroyed
    lost = effect(c, np.zeros_like(c))
    assert lost.r.value == 0
    assert lost.destroyed
    assert "destroyed" in lost.as_dict()


@pytest.mark.parametrize("grouped", [False, True])
def test_a_gain_has_the_error_of_paired_differences(grouped: bool) -> None:
    """Compared with the jackknife over inputs, or over groups of inputs."""
    generator = np.random.default_rng(3)
    c = generator.normal(size=(240, 1, 8))
    groups = np.repeat(np.arange(40), 6) if grouped else None
    noise = generator.normal(size=c.shape) + (0 if groups is None else generator.normal(size=(40, 1, 8))[groups])
    first, second = c + 0.5 * noise, c + 0.52 * noise + 0.05 * generator.normal(size=c.shape)
    found = gain(effect(c, first, groups), effect(c, second, groups))

    def difference(rows: np.ndarray) -> float:
        return effect(c[rows], first[rows]).r.value - effect(c[rows], second[rows]).r.value

    labels = np.arange(len(c)) if groups is None else groups
    without = np.array([difference(labels != label) for label in np.unique(labels)])
    error = math.sqrt((len(without) - 1) * without.var())
    assert found.value == pytest.approx(difference(labels >= 0), abs=1e-12)
    assert found.error == pytest.approx(error, rel=0.03)
    assert found.error < 0.2 * effect(c, first, groups).r.error
