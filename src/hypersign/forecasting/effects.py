"""The effect of a change on a network's decisions: r of the logits, KL, agreement, each with a standard error."""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "DESTROYED",
    "Effect",
    "Estimate",
    "centred",
    "effect",
    "effects",
    "error_of_mean",
    "gain",
    "kl_divergence",
    "unseen",
]

DESTROYED = 0.6
"""Below this r of the logits, forecasts are too optimistic to be shown as a number."""

Array = NDArray[Any]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number, its standard error, and its known bias (value minus truth; already taken off where it is 0)."""

    value: float
    error: float
    bias: float = 0.0


@dataclasses.dataclass(frozen=True)
class Effect:
    """What a change does to the logits of the same inputs.

    `r` is the Pearson correlation of both networks' logits, pooled over inputs, with each input's logits centred.
    `kl` is the mean Kullback-Leibler divergence from the original's softmax to the changed network's, in nats.
    `agreement` is the share of decisions that are the original's: images, or tokens.
    `influence` is what each input, or each group of inputs, adds to the error of r; it pairs two effects on the same
    inputs. None if nothing was measured.
    """

    r: Estimate
    kl: Estimate
    agreement: Estimate
    influence: Array | None = dataclasses.field(default=None, compare=False, repr=False)

    @property
    def destroyed(self) -> bool:
        """Whether r of the logits is below .6: the network no longer does what it did."""
        return not self.r.value >= DESTROYED

    def as_dict(self) -> dict[str, Any]:
        """Values and errors as plain data."""
        numbers = {name: getattr(self, name) for name in ("r", "kl", "agreement")}
        found: dict[str, Any] = {name: value.value for name, value in numbers.items()}
        found |= {f"{name}_error": value.error for name, value in numbers.items()}
        found |= {f"{name}_bias": value.bias for name, value in numbers.items() if value.bias}
        return {**found, "destroyed": self.destroyed}


def centred(logits: Array) -> Array:
    """Logits minus their mean over the classes."""
    return logits - logits.mean(-1, keepdims=True)


def log_sum(logits: Array) -> Array:
    """The logarithm of the sum of exponentials over the last axis."""
    most = logits.max(-1)
    return most + np.log(np.exp(logits - most[..., None]).sum(-1))


def kl_divergence(original: Array, changed: Array) -> Array:
    """KL from the softmax of the original logits to that of the changed ones, per row."""
    return _Reference(original).kl(changed)


class _Reference:
    """The original's logits, with what every comparison needs of them.

    KL = <p, c - s> + L(s) - L(c),   p the softmax of c, L the logarithm of the sum of exponentials
    """

    def __init__(self, original: Array) -> None:
        self.logits = original.astype(np.float64)
        self.log_sum = log_sum(self.logits)
        self.p = np.exp(self.logits - self.log_sum[..., None])
        self.decided = original.argmax(-1)

    def kl(self, changed: Array) -> Array:
        s = changed.astype(np.float64)
        return np.einsum("...k,...k->...", self.p, self.logits - s) + log_sum(s) - self.log_sum


def effect(original: Array, changed: Array, groups: Array | None = None) -> Effect:
    """The effect of a change, from centred logits of shape `(inputs, rows, classes)`.

        r = <s, c> / sqrt(<s, s> <c, c>),   c the original's centred logits, s those of the changed network

    Standard errors are over inputs: by the delta method for r, of the mean for the other two. The rows of an input,
    such as the tokens of a sequence, count as one. With `groups`, the number of each input's group, they are over
    groups.

    >>> c = np.array([[[1.0, -1.0]], [[-2.0, 2.0]]])
    >>> found = effect(c, np.array([[[1.0, -1.0]], [[0.5, -0.5]]]))
    >>> round(found.r.value, 3), found.agreement.value
    (0.0, 0.5)
    """
    return effects(original, [changed], groups)[0]


def effects(original: Array, changes: Iterable[Array], groups: Array | None = None) -> list[Effect]:
    """The effect of each of several changes, see `effect`."""
    reference, n = _Reference(original), len(original)
    c = reference.logits.reshape(n, -1)
    cc = (c * c).sum(1)
    places = None if groups is None else np.unique(groups, return_inverse=True)[1]
    found = []
    for changed in changes:
        s = changed.reshape(n, -1).astype(np.float64)
        cross, ss = (s * c).sum(1), (s * s).sum(1)
        total = math.sqrt(ss.sum() * cc.sum())
        r = float(cross.sum() / total) if total else 0.0
        parts = cross / total - r / 2 * (ss / ss.sum() + cc / cc.sum()) if total else np.zeros(n)
        influence = parts if places is None else np.bincount(places, parts)
        agree = (reference.decided == changed.argmax(-1)).mean(1)
        found.append(
            Effect(
                Estimate(r, _spread(influence) if n > 1 else 0.0),
                _mean(reference.kl(changed).mean(1), groups),
                _mean(agree, groups),
                influence,
            )
        )
    return found


def unseen(same: Effect, other: Effect) -> Effect:
    """The effect of a repair by n inputs on inputs that it has not seen, from repairs by n/2 of them.

        e + k/n = (1/4) (e - 2k/n) + (3/4) (e + 2k/n)

    e is what repair by very many inputs leaves. Repair by m inputs does better by k/m on these (`same`), and worse by
    k/m on others (`other`); here m = n/2. This holds for -ln r, for KL and for agreement.
    """

    def mixed(name: str) -> Estimate:
        first, second = getattr(same, name), getattr(other, name)
        return Estimate(0.25 * first.value + 0.75 * second.value, second.error)

    if min(same.r.value, other.r.value) <= 0:
        return other
    r = same.r.value**0.25 * other.r.value**0.75
    influence = None
    if same.influence is not None and other.influence is not None:
        influence = r * (0.25 * same.influence / same.r.value + 0.75 * other.influence / other.r.value)
    return Effect(Estimate(r, other.r.error), mixed("kl"), mixed("agreement"), influence)


def gain(first: Effect, second: Effect) -> Estimate:
    """How much larger r is in the first of two effects on the same inputs, with the error of paired differences.

    >>> c = np.array([[[1.0, -1.0]], [[-2.0, 2.0]]])
    >>> found = gain(effect(c, c), effect(c, np.array([[[1.0, -1.0]], [[0.5, -0.5]]])))
    >>> found.value, found.error > 0
    (1.0, True)
    """
    assert first.influence is not None
    assert second.influence is not None
    return Estimate(first.r.value - second.r.value, _spread(first.influence - second.influence))


def _spread(influence: Array) -> float:
    """The standard error of a number to which independent parts add `influence`; their sum is 0."""
    count = len(influence)
    return math.sqrt(count / (count - 1) * float((influence**2).sum())) if count > 1 else math.nan


def error_of_mean(values: Array, groups: Array | None = None) -> float:
    """The standard error of a mean; with `groups`, of inputs that are independent only between groups.

        se = sqrt(G/(G-1) sum_g (sum_{i in g} (x_i - mean))^2) / n

    >>> round(error_of_mean(np.array([1.0, 1.0, 3.0, 3.0]), np.array([0, 0, 1, 1])), 3)
    1.0
    """
    apart = values - values.mean()
    if groups is not None:
        apart = np.bincount(groups, apart)
    count = len(apart) if groups is None else len(np.unique(groups))
    return math.sqrt(count / (count - 1) * float((apart**2).sum())) / len(values) if count > 1 else math.nan


def _mean(values: Array, groups: Array | None) -> Estimate:
    return Estimate(float(values.mean()), error_of_mean(values, groups))
