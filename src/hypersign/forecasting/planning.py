"""The choice of one format per layer under a budget of bytes: exact for sums of costs, then the best measured one."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import numpy as np

from hypersign.forecasting.effects import Effect, gain

__all__ = ["Option", "best", "cheapest", "near", "smallest"]

NEAR = 4
"""Exchanges of two layers that a plan measures beside the cheapest choices."""


@dataclasses.dataclass(frozen=True)
class Option:
    """A format that a layer may take: its name, bytes, and cost."""

    name: str
    bytes: int
    cost: float


def smallest(layers: Sequence[Sequence[Option]]) -> int:
    """The bytes of the smallest choice of one option per layer."""
    return sum(min(option.bytes for option in options) for options in layers)


def cheapest(layers: Sequence[Sequence[Option]], budget: int) -> list[Option] | None:
    """The choice of one option per layer with the smallest sum of costs among those of at most `budget` bytes.

    It is exact. Partial choices are extended layer by layer; one is dropped if another is no larger and no costlier,
    or if even the relaxed rest (fractions of options allowed) makes it costlier than a known whole choice.

    Returns None if no choice fits. Of two choices with equal costs the smaller one is returned.

    >>> large = [Option("float", 40, 0.0), Option("binary", 2, 0.5)]
    >>> small = [Option("float", 8, 0.0), Option("binary", 1, 0.4)]
    >>> [option.name for option in cheapest([large, small], 12)]
    ['binary', 'float']
    """
    if smallest(layers) > budget:
        return None
    hulls = [_hull(options) for options in layers]
    rest = _relaxed(hulls)
    best = _greedy(hulls, budget)
    sizes, costs = np.zeros(1, np.int64), np.zeros(1)
    trail: list[tuple[np.ndarray, np.ndarray]] = []  # for each layer: the earlier choice, and the option
    for number, options in enumerate(layers):
        count = len(sizes)
        sizes = (sizes[None] + np.array([o.bytes for o in options])[:, None]).ravel()
        costs = (costs[None] + np.array([o.cost for o in options])[:, None]).ravel()
        points, values = rest[number + 1]
        left = budget - sizes
        bound = costs + np.interp(left, points, values)
        order = np.flatnonzero((left >= points[0]) & (bound <= best + 1e-12 * (1 + best)))
        order = order[np.lexsort((costs[order], sizes[order]))]
        lowest = np.minimum.accumulate(costs[order])
        kept = order[np.concatenate([[True], costs[order][1:] < lowest[:-1]])]
        trail.append((kept % count, kept // count))
        sizes, costs = sizes[kept], costs[kept]
    place = int(np.lexsort((sizes, costs))[0])
    chosen: list[Option] = []
    for options, (earlier, option) in zip(reversed(layers), reversed(trail), strict=True):
        chosen.append(options[int(option[place])])
        place = int(earlier[place])
    return chosen[::-1]


def best(
    tables: Sequence[Sequence[Sequence[Option]]], budget: int, measure: Callable[[Sequence[Option]], Effect]
) -> tuple[Sequence[Option], Effect]:
    """A choice that fits, and its effect: the cheapest one, or another that measures better by two standard errors.

    The others are the cheapest choices by the costs of the other tables, and `NEAR` exchanges near the best so far,
    by the costs of the first table. No sum over layers knows exactly how changes add up, so choices with nearly equal
    sums are told apart by measuring them. The budget is at least `smallest`.
    """
    choices = [cheapest(table, budget) for table in tables]
    first, *rest = (_named(tables[0], chosen) for chosen in choices if chosen is not None)
    found = _better((first, measure(first)), rest, measure)
    return _better(found, near(tables[0], found[0], budget, NEAR), measure)


def _better(
    found: tuple[Sequence[Option], Effect],
    others: Sequence[Sequence[Option]],
    measure: Callable[[Sequence[Option]], Effect],
) -> tuple[Sequence[Option], Effect]:
    for chosen in others if found[1].influence is not None else ():
        effect = measure(chosen)
        more = gain(effect, found[1])
        if more.value > 2 * more.error:
            found = chosen, effect
    return found


def _named(layers: Sequence[Sequence[Option]], chosen: Sequence[Option]) -> list[Option]:
    """The options of these names."""
    return [next(o for o in mine if o.name == option.name) for mine, option in zip(layers, chosen, strict=True)]


def near(layers: Sequence[Sequence[Option]], chosen: Sequence[Option], budget: int, count: int) -> list[list[Option]]:
    """Other choices of at most `budget` bytes: one layer gets a cheaper option, another a smaller one.

    Of all such exchanges it returns the `count` with the smallest sums of costs, the smallest first.

    >>> first = [Option("float", 40, 0.0), Option("ternary", 4, 0.2), Option("binary", 2, 0.5)]
    >>> second = [Option("float", 40, 0.0), Option("ternary", 4, 0.1), Option("binary", 2, 0.6)]
    >>> chosen = cheapest([first, second], 7)
    >>> [[option.name for option in choice] for choice in (chosen, *near([first, second], chosen, 7, 2))]
    [['binary', 'ternary'], ['ternary', 'binary']]
    """
    changes = [(number, option) for number, mine in enumerate(layers) for option in mine if option != chosen[number]]
    cheaper = [(number, option) for number, option in changes if option.cost < chosen[number].cost]
    smaller = [(number, option) for number, option in changes if option.bytes < chosen[number].bytes]

    def gains(side: list[tuple[int, Option]], name: str) -> np.ndarray:
        return np.array([getattr(option, name) - getattr(chosen[number], name) for number, option in side], float)

    costs = gains(cheaper, "cost")[:, None] + gains(smaller, "cost")
    sizes = gains(cheaper, "bytes")[:, None] + gains(smaller, "bytes")
    apart = np.array([number for number, _ in cheaper])[:, None] != np.array([number for number, _ in smaller])
    fits = apart & (sizes <= budget - sum(option.bytes for option in chosen))
    found = []
    for place in np.argsort(np.where(fits, costs, np.inf), axis=None, kind="stable")[: min(count, int(fits.sum()))]:
        choice = list(chosen)
        for number, option in (cheaper[place // len(smaller)], smaller[place % len(smaller)]):
            choice[number] = option
        found.append(choice)
    return found


def _hull(options: Sequence[Option]) -> list[tuple[int, float]]:
    """(bytes, cost) of the options on the lower convex hull, from the smallest to the cheapest."""
    hull: list[tuple[int, float]] = []
    for size, cost in sorted({(option.bytes, option.cost) for option in options}):
        if hull and cost >= hull[-1][1]:
            continue
        if hull and size == hull[-1][0]:
            hull.pop()
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) >= _slope(hull[-2], (size, cost)):
            hull.pop()
        hull.append((size, cost))
    return hull


def _slope(first: tuple[int, float], second: tuple[int, float]) -> float:
    return (second[1] - first[1]) / (second[0] - first[0])


def _steps(hulls: Sequence[list[tuple[int, float]]]) -> list[tuple[float, int, int]]:
    """(slope, layer, bytes) of every step along the hulls, the best first."""
    return sorted(
        (_slope(first, second), number, second[0] - first[0])
        for number, hull in enumerate(hulls)
        for first, second in itertools.pairwise(hull)
    )


def _relaxed(hulls: Sequence[list[tuple[int, float]]]) -> list[tuple[np.ndarray, np.ndarray]]:
    """For the layers from each number on: the smallest relaxed cost as a piecewise linear function of bytes."""
    found = []
    for number in range(len(hulls) + 1):
        part = hulls[number:]
        points, values = [sum(hull[0][0] for hull in part)], [sum(hull[0][1] for hull in part)]
        for slope, _, size in _steps(part):
            points.append(points[-1] + size)
            values.append(values[-1] + slope * size)
        found.append((np.array(points, float), np.array(values, float)))
    return found


def _greedy(hulls: Sequence[list[tuple[int, float]]], budget: int) -> float:
    """The cost of a whole choice that fits: steps along the hulls, the best first, while they fit."""
    places = [0] * len(hulls)
    size = sum(hull[0][0] for hull in hulls)
    stuck = set()
    for _, number, step in _steps(hulls):
        if number in stuck or size + step > budget:
            stuck.add(number)
            continue
        places[number] += 1
        size += step
    return sum(hull[place][1] for hull, place in zip(hulls, places, strict=True))
