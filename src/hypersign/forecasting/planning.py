"""The exact choice of one format per layer under a budget of bytes."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

__all__ = ["Option", "cheapest", "smallest"]


@dataclasses.dataclass(frozen=True)
class Option:
    """A format that a layer may take: its name, bytes, and cost (-log r of the change alone)."""

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
