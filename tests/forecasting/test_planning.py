import itertools

import numpy as np
import pytest

from hypersign.forecasting import Option, cheapest
from hypersign.forecasting.planning import near, smallest


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


@pytest.mark.parametrize("seed", range(6))
def test_exchanges_near_a_choice(seed: int) -> None:
    options = layers(seed, 4, 4)
    for budget in (smallest(options), smallest(options) + 9, 60, 10_000):
        if budget < smallest(options):
            continue
        chosen = cheapest(options, budget)
        assert chosen is not None
        exchanges = []
        for choice in itertools.product(*options):
            pairs = [(o, old) for o, old in zip(choice, chosen, strict=True) if o != old]
            one_each = len(pairs) == 2 and any(
                a[0].cost < a[1].cost and b[0].bytes < b[1].bytes for a, b in (pairs, pairs[::-1])
            )
            if one_each and sum(o.bytes for o in choice) <= budget:
                exchanges.append(sum(o.cost for o in choice))
        found = near(options, chosen, budget, 3)
        assert [sum(o.cost for o in choice) for choice in found] == pytest.approx(sorted(exchanges)[:3])
        assert all(sum(o.bytes for o in choice) <= budget for choice in found)


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
