"""The law: what several changes together do, from what each does alone. NumPy alone.

With c the original's centred logits and s_i those with change i alone:

    gain a_i = <s_i, c>/<c, c>          residual N_i = s_i/a_i - c
    E = ln(1 + |sum N_i|^2/|c|^2)/2     -ln r = factor E^power n^crowding q^coherence
    n = E/max_i E_i                     q = |sum N_i|^2/sum |N_i|^2
    decisions are those of z = c + t sum N_i,   t such that z has this r

Residuals add, with their correlations; gains multiply and leave r as it is. E_i is the error of change i alone, n the
number of errors that count, and q what their correlations add. `factor` and `power` are 1, `crowding` and `coherence`
are 0, or all are fitted to a few measured random mixtures: together, errors cost more than their sum without repair
(crowding > 0), and less where signs saturate (< 0). Decisions use each input's own residuals: errors are large where
margins are large. Gaussian errors of the same covariance, or residuals with random signs, change too few decisions.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypersign.forecasting.effects import Effect, Estimate, effect, error_of_mean, kl_divergence

__all__ = ["Law", "Mixture", "fit"]

Array = NDArray[Any]

MIN_GAIN = 0.05
"""The smallest gain: below it a change destroys the logits, and its residual is noise divided by almost zero."""

MIN_CROWD = 0.3
"""The smallest n: residuals that cancel leave an error smaller than one of them."""

MIN_COHERENCE = 0.1
"""The smallest q."""

RIDGE = (0.02, 2.0, 0.2, 0.2)
"""How strongly a fit draws ln factor, power, crowding and coherence to 0, 1, 0 and 0, in mixtures."""

PRIOR = (0.15, 0.15, 0.03)
"""Deviations of -ln r (its logarithm), ln KL and agreement from the law that count as much as two mixtures."""

CURVES = 8
"""Random mixtures of a curve."""


@dataclasses.dataclass(frozen=True, eq=False)
class Law:
    """Predicts the effect of any set of changes, each of which was measured alone.

    Args:
        original: centred logits, shape `(inputs, rows, classes)`.
        residuals: N of each change, shape `(changes, inputs, rows, classes)`.
        gains: a of each change.
        factor, power, crowding, coherence: see above.
        bias: mean of predicted minus measured ln KL and agreement, over measured mixtures.
        spread: deviations of predicted minus measured ln(-ln r), ln KL and agreement; each mixture is predicted from
            the others.
        mixtures: those that `fit` used.
        groups: the number of each input's group; None if all inputs are independent.
    """

    original: Array
    residuals: Array
    gains: Array
    factor: float = 1.0
    power: float = 1.0
    crowding: float = 0.0
    coherence: float = 0.0
    bias: tuple[float, float] = (0.0, 0.0)
    spread: tuple[float, float, float] = (0.0, 0.0, 0.0)
    mixtures: "tuple[Mixture, ...]" = ()
    groups: Array | None = None

    @classmethod
    def of(cls, original: Array, changed: Sequence[Array], groups: Array | None = None) -> "Law":
        """The law of changes whose centred logits alone are `changed`."""
        c = original.astype(np.float64).ravel()
        cc = float(c @ c)
        gains = np.array([max(float(s.astype(np.float64).ravel() @ c) / cc, MIN_GAIN) for s in changed])
        residuals = np.empty((len(changed), *original.shape), np.float32)
        for i, s in enumerate(changed):
            residuals[i] = s / gains[i] - original
        return cls(original, residuals, gains, groups=groups)

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

    def correlation(self, picks: Sequence[int]) -> float:
        """q, the square of the summed residuals over the sum of their squares; at least MIN_COHERENCE."""
        chosen = self.residuals[np.asarray(picks)].astype(np.float64)
        squares = float((chosen**2).sum())
        return max(float((chosen.sum(0) ** 2).sum()) / squares, MIN_COHERENCE) if squares else 1.0

    def r(self, picks: Sequence[int]) -> float:
        """The predicted r of the logits."""
        if not len(picks):
            return 1.0
        together = self.crowd(picks) ** self.crowding * self.correlation(picks) ** self.coherence
        return math.exp(-self.factor * self.error(picks) ** self.power * together)

    def logits(self, picks: Sequence[int]) -> Array:
        """The predicted centred logits, without the gains."""
        return self._scaled(self.residuals[np.asarray(picks)].sum(0), self.r(picks)) if len(picks) else self.original

    def predict(self, picks: Sequence[int]) -> Effect:
        """The predicted effect of these changes together, with standard errors and known bias."""
        if not len(picks):
            return Effect(Estimate(1.0, 0.0), Estimate(0.0, 0.0), Estimate(1.0, 0.0))
        return self.at(picks, self.r(picks))

    def at(self, picks: Sequence[int], r: float) -> Effect:
        """The effect of these changes together if they have this r."""
        c, chosen = self.original, np.asarray(picks)
        z = self._scaled(self.residuals[chosen].sum(0), r)
        found = effect(c, z, self.groups)
        kl = kl_divergence(c, float(np.prod(self.gains[chosen])) * z).mean(1)
        kl_error = error_of_mean(kl, self.groups)
        size, mean = -r * math.log(r), float(kl.mean())  # the derivative of r by ln(-ln r), without its sign
        return Effect(
            Estimate(r, math.hypot(found.r.error, size * self.spread[0])),
            Estimate(mean, math.hypot(kl_error, mean * self.spread[1]), mean * self.bias[0]),
            Estimate(found.agreement.value, math.hypot(found.agreement.error, self.spread[2]), self.bias[1]),
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
    """The law with its exponents fitted to measured mixtures, and with its error on them.

    ln(-ln r) = ln factor + power ln E + crowding ln n + coherence ln q by ridge regression, see RIDGE. Mixtures below
    r = .3 are left out. The law's error is measured by leaving out one mixture at a time.
    """
    used = [m for m in mixtures if 0.3 <= m.measured.r.value < 1 and law.error(m.picks) > 0]
    law = dataclasses.replace(law, mixtures=tuple(mixtures))
    if len(used) < 2:
        return law
    x = np.log([[law.error(m.picks), law.crowd(m.picks), law.correlation(m.picks)] for m in used])
    y = np.log([-math.log(m.measured.r.value) for m in used]) - x[:, 0]
    middle = np.array([x[:, 0].mean(), 0, 0])
    design = np.column_stack([np.ones(len(x)), x - middle])
    solve = np.linalg.solve(design.T @ design + np.diag(RIDGE), design.T)
    level, slope, crowding, coherence = map(float, solve @ y)
    power = max(1 + slope, 0.5)
    factor = math.exp(level + (1 - power) * middle[0])
    law = dataclasses.replace(law, factor=factor, power=power, crowding=crowding, coherence=coherence)
    apart = (design @ solve @ y - y) / (1 - np.einsum("ij,ji->i", design, solve))
    others: list[tuple[float, float]] = []
    for mixture, off in zip(used, apart, strict=True):
        real = mixture.measured
        if real.destroyed:
            continue
        found = law.at(mixture.picks, real.r.value ** math.exp(off))
        logs = math.log(max(found.kl.value, 1e-9) / max(real.kl.value, 1e-9))
        others.append((logs, found.agreement.value - real.agreement.value))
    columns = [apart, *np.array(others).reshape(-1, 2).T]
    (_, r_spread), (kl, kl_spread), (agreement, agreement_spread) = map(_error_of, columns, PRIOR)
    return dataclasses.replace(law, bias=(kl, agreement), spread=(r_spread, kl_spread, agreement_spread))


def _error_of(apart: Array, prior: float) -> tuple[float, float]:
    """Bias and deviation of predictions with the errors `apart`.

    James and Stein shrink the bias by the variance of the mean.
    """
    n = len(apart)
    bias = float(apart.mean()) if n else 0.0
    variance = (float(((apart - bias) ** 2).sum()) + 2 * prior**2) / (max(n - 1, 0) + 2)
    kept = bias * max(1 - variance / n / bias**2, 0.0) if bias else 0.0
    return kept, math.sqrt(variance + (bias - kept) ** 2)
