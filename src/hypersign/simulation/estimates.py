"""Means, standard deviations and their standard errors, accumulated block by block and compared with theory."""

import dataclasses
import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hypersign._checks import check_int
from hypersign._display import shown
from hypersign._json import plain

__all__ = ["Estimate", "SimulatedAngle", "Simulation", "Tally"]

KEPT = 10_000
"""Number of angles per case that are kept for a histogram: the first ones."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """The mean and standard deviation of a simulated number, their standard errors, and theory's predictions.

    A field is NaN if theory has no closed form for it, or if there were too few draws.
    """

    mean: float
    mean_error: float
    std: float
    std_error: float
    predicted_mean: float
    predicted_std: float

    @property
    def mean_distance(self) -> float:
        """The difference between the simulated and the predicted mean, in standard errors."""
        return _distance(self.mean, self.predicted_mean, self.mean_error)

    @property
    def std_distance(self) -> float:
        """The difference between the simulated and the predicted standard deviation, in standard errors."""
        return _distance(self.std, self.predicted_std, self.std_error)


@shown
@dataclasses.dataclass(frozen=True)
class SimulatedAngle:
    """One case of a simulation: the cosine and the angle (in degrees) of `draws` pairs of vectors.

    `value` is the parameter of this case. `undefined` is the number of draws without an angle, because all levels
    were zero; these draws enter no statistics. `sample_degrees` holds the first angles, for histograms, and is
    ignored when cases are compared.
    """

    label: str
    value: float
    dimension: int
    draws: int
    undefined: int
    cosine: Estimate
    angle_degrees: Estimate
    sample_degrees: np.ndarray = dataclasses.field(repr=False, compare=False)


@shown
@dataclasses.dataclass(frozen=True)
class Simulation:
    """Result of an experiment, case by case.

    `parameter` names what differs between cases: "dimension", "threshold", "levels", or "rotation" (and dimension).
    """

    name: str
    title: str
    parameter: str
    seed: int
    cases: tuple[SimulatedAngle, ...]

    def as_dict(self) -> dict[str, Any]:
        """Everything except the samples, for JSON. NaN becomes None."""
        found = dataclasses.asdict(self)
        for case in found["cases"]:
            del case["sample_degrees"]
        return plain(found)


def _distance(value: float, predicted: float, error: float) -> float:
    difference = value - predicted
    if math.isnan(difference):
        return math.nan
    if error == 0:  # nothing varies
        return 0.0 if abs(difference) < 1e-6 else math.inf
    return difference / error


class _Sums:
    """Sums of powers of the deviations from the first block's mean, in float64. Blocks themselves are not kept."""

    def __init__(self) -> None:
        self.count, self.shift, self.powers = 0, 0.0, np.zeros(4)

    def add(self, values: np.ndarray) -> None:
        if not len(values):
            return
        if not self.count:
            self.shift = float(values.mean())
        about = values - self.shift
        square = about * about
        self.count += len(values)
        self.powers += about.sum(), about @ about, square @ about, square @ square

    def moments(self) -> tuple[float, float, float]:
        """Returns the mean, the variance and the fourth central moment; NaN if nothing was added."""
        if not self.count:
            return math.nan, math.nan, math.nan
        a, b, c, e = self.powers / self.count
        return self.shift + a, max(b - a * a, 0.0), max(e - 4 * a * c + 6 * a * a * b - 3 * a**4, 0.0)


class Tally:
    """Accumulates one case: sums of cosines and angles, in total and per group, and the first angles."""

    def __init__(self, draws: int) -> None:
        self.draws = check_int("draws", draws, min=2)
        self.undefined = 0
        self.cosine, self.angle = _Sums(), _Sums()
        self.groups: dict[int, tuple[_Sums, _Sums]] = {}
        self.sample: list[np.ndarray] = []
        self.kept = 0

    def add(self, cosine: NDArray[np.float64], group: int | None = None) -> None:
        """Adds the cosines of a block. A cosine is NaN if all levels of its vector are zero."""
        values = cosine
        undefined = np.isnan(values)
        if undefined.any():
            self.undefined += int(undefined.sum())
            values = values[~undefined]
        values = values.clip(-1, 1)
        angles = np.arccos(values)
        self.cosine.add(values)
        self.angle.add(angles)
        if group is not None:
            ours = self.groups.setdefault(group, (_Sums(), _Sums()))
            ours[0].add(values)
            ours[1].add(angles)
        if self.kept < KEPT:
            self.sample.append(angles[: KEPT - self.kept])
            self.kept += len(self.sample[-1])

    def case(
        self,
        label: str,
        value: float,
        d: int,
        mean: ArrayLike,
        std: ArrayLike,
        angle: ArrayLike,
        angle_std: ArrayLike,
    ) -> SimulatedAngle:
        """Returns the finished case with its predictions (angles in radians)."""
        groups = list(self.groups.values())
        cosine = _estimate(self.cosine, [group[0] for group in groups], mean, std, 1.0)
        degrees = _estimate(self.angle, [group[1] for group in groups], angle, angle_std, 180 / math.pi)
        sample = np.degrees(np.concatenate(self.sample))
        return SimulatedAngle(label, float(value), d, self.draws, self.undefined, cosine, degrees, sample)


def _estimate(sums: _Sums, groups: list[_Sums], mean: ArrayLike, std: ArrayLike, unit: float) -> Estimate:
    centre, variance, fourth = sums.moments()
    spread = math.sqrt(variance)
    count = max(sums.count, 1)
    mean_error = spread / math.sqrt(count)
    std_error = math.sqrt(max(fourth - variance**2, 0) / count) / (2 * spread) if spread > 0 else 0.0
    if len(groups) > 1:
        # Draws that share a rotation are not independent, but groups with different rotations are.
        found = np.array([group.moments()[:2] for group in groups])
        mean_error = float(found[:, 0].std(ddof=1) / math.sqrt(len(groups)))
        std_error = float(np.sqrt(found[:, 1]).std(ddof=1) / math.sqrt(len(groups)))
    values = centre, mean_error, spread, std_error, mean, std
    return Estimate(*(float(np.asarray(v)) * unit for v in values))
