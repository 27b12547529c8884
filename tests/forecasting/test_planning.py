import itertools

import numpy as np
import pytest

from hypersign.forecasting import Option, cheapest
from hypersign.forecasting.planning import smallest


def layers(seed: int, count: int, formats: int) -> list[list[Option]]:
    generator = np.random.default_rng(seed)
    return [
        [Option(str(i), int(generator.integers(1, 40)), float(generator.random())) for i in range(formats)]
        for _ in range(count)
    ]


@pytest.mark.parametrize("seed", range(12))
def test_no_other_choice_that_fits_is_cheaper(seed: int) -> None:
    options = layers(seed, 5, 4)
    for budget in (smallest(options), smallest(options) + 7, 90, 10_000):
        fitting = [c for c in itertools.product(*options) if sum(o.bytes for o in c) <= budget]
        if not fitting:
            assert cheapest(options, budget) is None
            continue
        found = cheapest(options, budget)
        assert found is not None
        assert sum(o.bytes for o in found) <= budget
        assert sum(o.cost for o in found) == pytest.approx(min(sum(o.cost for o in c) for c in fitting), abs=1e-9)
        assert [o in row for o, row in zip(found, options, strict=True)] == [True] * 5


def test_a_budget_below_the_smallest_choice() -> None:
    options = layers(0, 3, 3)
    assert cheapest(options, smallest(options) - 1) is None


def test_a_large_network() -> None:
    generator = np.random.default_rng(0)
    options = []
    for _ in range(60):
        weights, damage = int(generator.integers(1_000, 1_000_000)), float(generator.random()) ** 3
        options.append([Option(str(bits), weights * bits // 8, damage / 4**bits) for bits in (1, 2, 3, 4, 32)])
    budget = 3 * smallest(options)
    found = cheapest(options, budget)
    assert found is not None
    used = sum(o.bytes for o in found)
    assert budget - 1_000_000 < used <= budget
