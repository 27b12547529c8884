"""The law: what several changes together do, from what each does alone. NumPy alone.

With c the original's centred logits and s_i those with change i alone:

    gain a_i = <s_i, c>/<c, c>          residual N_i = s_i/a_i - c
    E = ln(1 + |sum N_i|^2/|c|^2)/2     -ln r = factor E^power n^crowding,   n = E/max_i E_i
    decisions are those of z = c + t sum N_i,   t such that z has this r

Residuals add, with their correlations; gains multiply and leave r as it is. E_i is the error of change i alone, and n
the number of errors that count. `factor` and `power` are 1 and `crowding` is 0, or all are fitted to a few random
mixtures that were measured: together, errors cost more than their sum without repair (crowding > 0), and less where
signs saturate (< 0). Decisions use each input's own residuals: errors are large where margins are
large, and Gaussian errors of the same covariance, or the residuals with random signs, change too few decisions.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypersign.forecasting.effects import Effect, Estimate, effect, kl_divergence

__all__ = ["Law", "Mixture", "fit"]

Array = NDArray[Any]

MIN_GAIN = 0.05
"""The smallest gain: below it a change destroys the logits, and its residual would be noise over nothing."""

MIN_CROWD = 0.3
"""The smallest n: residuals that cancel leave an error smaller than one of them."""

CURVES = 8
"""Random mixtures of a curve."""


@dataclasses.dataclass(frozen=True, eq=False)
class Law:
    """Predicts the effect of any set of changes, each of which was measured alone.

    Args:
        original: centred logits, shape `(inputs, rows, classes)`.
        residuals: N of each change, shape `(changes, inputs, rows, classes)`.
        gains: a of each change.
        factor, power, crowding: see above.
        bias, spread: mean and deviation of predicted minus measured r, ln KL and agreement, over measured mixtures.
        mixtures: those that `fit` used.
    """

    original: Array
    residuals: Array
    gains: Array
    factor: float = 1.0
    power: float = 1.0
    crowding: float = 0.0
    bias: tuple[float, float, float] = (0.0, 0.0, 0.0)
    spread: tuple[float, float, float] = (0.0, 0.0, 0.0)
    mixtures: "tuple[Mixture, ...]" = ()

    @classmethod
    def of(cls, original: Array, changed: Sequence[Array]) -> "Law":
        """The law of changes whose centred logits alone are `changed`."""
        c = original.astype(np.float64).ravel()
        cc = float(c @ c)
        gains = np.array([max(float(s.astype(np.float64).ravel() @ c) / cc, MIN_GAIN) for s in changed])
        residuals = np.empty((len(changed), *original.shape), np.float32)
        for i, s in enumerate(changed):
            residuals[i] = s / gains[i] - original
        return cls(original, residuals, gains)

    @functools.cached_property
    def alone(self) -> Array:
        """E of each change alone."""
        squares = np.array([float((part.astype(np.float64) ** 2).sum()) for part in self.residuals])
        return 0.5 * np.log1p(squares / (self.original.astype(np.float64) ** 2).sum())

    def error(self, picks: Sequence[int]) -> float:
        """E, the error of these changes before the fit."""
        if not len(picks):
            return 0.0
        total = self.residuals[np.asarray(picks)].sum(0, dtype=np.float64)
        return 0.5 * math.log1p(float((total**2).sum() / (self.original.astype(np.float64) ** 2).sum()))

    def crowd(self, picks: Sequence[int]) -> float:
        """n, the number of errors that count: E of all, over the largest of one; at least MIN_CROWD."""
        largest = float(self.alone[np.asarray(picks)].max())
        return max(self.error(picks) / largest, MIN_CROWD) if largest else 1.0

    def r(self, picks: Sequence[int]) -> float:
        """The predicted r of the logits."""
        if not len(picks):
            return 1.0
        return math.exp(-self.factor * self.error(picks) ** self.power * self.crowd(picks) ** self.crowding)

    def predict(self, picks: Sequence[int]) -> Effect:
        """The predicted effect of these changes together, with standard errors and known bias."""
        if not len(picks):
            return Effect(Estimate(1.0, 0.0), Estimate(0.0, 0.0), Estimate(1.0, 0.0))
        c, chosen = self.original, np.asarray(picks)
        r = self.r(picks)
        z = self._scaled(self.residuals[chosen].sum(0), r)
        found = effect(c, z)
        kl = kl_divergence(c, float(np.prod(self.gains[chosen])) * z).mean(1)
        return Effect(
            self._estimate(0, r, found.r.error),
            self._estimate(1, float(kl.mean()), float(kl.std(ddof=1) / math.sqrt(len(c)))),
            self._estimate(2, found.agreement.value, found.agreement.error),
        )

    def curve(self, points: int = 41) -> dict[str, list[float]]:
        """KL without gains and agreement over r, from .3 to 1: the mean over random mixtures of the changes."""
        generator = np.random.default_rng(0)
        decided = self.original.argmax(-1)
        count = min(CURVES, max(1, 4_000_000 // self.original.size))
        shares = generator.random((count, len(self.residuals))) < 0.5
        shares[0] = True
        noise = [self.residuals[row].sum(0) for row in shares]
        found: dict[str, list[float]] = {"r": [], "kl": [], "agreement": []}
        for r in np.linspace(0.3, 1.0, points):
            changed = [self._scaled(part, float(r)) for part in noise]
            found["r"].append(round(float(r), 4))
            found["kl"].append(float(np.mean([kl_divergence(self.original, z).mean() for z in changed])))
            found["agreement"].append(float(np.mean([(z.argmax(-1) == decided).mean() for z in changed])))
        return found

    def _estimate(self, which: int, value: float, error: float) -> Estimate:
        spread, bias = self.spread[which], self.bias[which]
        if which == 1:  # of the logarithm
            spread, bias = spread * value, bias * value
        return Estimate(value, math.hypot(error, spread), bias)

    def _scaled(self, noise: Array, r: float) -> Array:
        """c + t noise, with t such that the noise has the size that belongs to r."""
        size = float((noise.astype(np.float64) ** 2).sum())
        cc = float((self.original.astype(np.float64) ** 2).sum())
        t = math.sqrt(max(1 / r**2 - 1, 0.0) * cc / size) if size else 0.0
        return self.original + np.float32(t) * noise


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Changes that were measured together: their numbers, and their measured effect."""

    picks: tuple[int, ...]
    measured: Effect


def fit(law: Law, mixtures: Sequence[Mixture]) -> Law:
    """The law with `factor` and `power` fitted to measured mixtures, and with its error on them.

    ln(-ln r) = ln factor + power ln E + crowding ln n by least squares, drawn towards 1, 1 and 0 as by a few more
    mixtures. Mixtures below r = .3 are left out.
    """
    used = [m for m in mixtures if 0.3 <= m.measured.r.value < 1 and law.error(m.picks) > 0]
    if used:
        x = np.log([law.error(m.picks) for m in used])
        y = np.log([-math.log(m.measured.r.value) for m in used]) - x
        middle = x.mean()
        design = np.stack([np.ones(len(x)), x - middle, np.log([law.crowd(m.picks) for m in used])], 1)
        left = design.T @ design + np.diag([0.5, 2.0, 0.5])
        level, slope, crowding = map(float, np.linalg.solve(left, design.T @ y))
        power = max(1 + slope, 0.5)
        factor = math.exp(level + (1 - power) * middle)
        law = dataclasses.replace(law, factor=factor, power=power, crowding=crowding)
    law = dataclasses.replace(law, mixtures=tuple(mixtures))
    apart = []
    for mixture in mixtures:
        if mixture.measured.destroyed:
            continue
        plain = dataclasses.replace(law, bias=(0.0,) * 3, spread=(0.0,) * 3)
        found, real = plain.predict(mixture.picks), mixture.measured
        apart.append(
            (
                found.r.value - real.r.value,
                math.log(max(found.kl.value, 1e-9) / max(real.kl.value, 1e-9)),
                found.agreement.value - real.agreement.value,
            )
        )
    if len(apart) < 2:
        return law
    bias, spread = np.mean(apart, 0), np.std(apart, 0, ddof=1)
    noise = spread**2 / len(apart)  # variance of the mean; James and Stein shrink the bias by it
    bias = bias * np.clip(1 - noise / np.maximum(bias**2, 1e-30), 0, 1)
    return dataclasses.replace(law, bias=_three(bias), spread=_three(spread))


def _three(values: Array) -> tuple[float, float, float]:
    r, kl, agreement = map(float, values)
    return r, kl, agreement
