"""The effect of one bit, or a few, on the weights of a file, without their network.

Every tensor is read once, in blocks that stay in the cache, for its moments and for the angle between each row and
its signs, with one scale a row and with one a group of weights. What needs sorting or rotating, the best levels and
the gain of a Hadamard rotation, is measured on a sample of rows, evenly spaced. Memory is that of a block and of a
sample; of a row, where a row is longer.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from hypersign import _defaults, theory
from hypersign._checks import check_int
from hypersign._display import shown
from hypersign._json import plain
from hypersign.bits.backend import native
from hypersign.rotations import HadamardRotation
from hypersign.theory.distribution import Distribution, SizeCounts
from hypersign.weight_files.stored import StoredTensor, TensorFile

__all__ = [
    "GROUPS",
    "LEVELS",
    "inspect_weights",
    "WeightsGeometry",
    "TensorGeometry",
    "Unmeasured",
    "RowAngles",
    "GroupAngle",
    "LevelsAngle",
    "RotatedAngle",
]

GROUPS = (32, 64, 128)
"""Sizes of the groups that have a scale of their own."""

LEVELS = (3, 4, 16)
"""Numbers of levels whose least error is looked for; two are the sign."""

_LONG_ROW = 1000  # from here on, normals in a row and normals in general have the same best levels
_POINTS = 1 << 14  # of the distribution of normals in shorter rows
_BLOCK = 1 << 16  # weights at a time: those, in float32, and what they are decoded from fit into a cache of 512 KB


@dataclasses.dataclass(frozen=True)
class RowAngles:
    """Angle between each row and its signs, over a tensor's rows, in degrees.

    `predicted_*` are for independent normals of this length. `moments_*` are for rows drawn from all of the tensor's
    weights at random (`theory.moments_angle`). If only the second prediction agrees with the measured angle, the
    weights are not normal. If neither does, rows differ in size or their weights are not independent.
    """

    mean: float
    std: float
    predicted_mean: float
    predicted_std: float
    moments_mean: float
    moments_std: float


@dataclasses.dataclass(frozen=True)
class GroupAngle:
    """Mean angle between rows and their signs, in degrees, with one least-squares scale a group of `size` weights.

    A row's last group has the rest. `predicted_mean` is for independent normals, `moments_mean` for rows drawn from
    the tensor's weights (`theory.moments_angle`).
    """

    size: int
    mean: float
    predicted_mean: float
    moments_mean: float


@dataclasses.dataclass(frozen=True)
class LevelsAngle:
    """Angle, in degrees, between the sampled rows and their best `levels` levels, one set for the whole tensor.

        angle = arcsin(sqrt(D)),   D the mean squared error of the rows, each divided by its root mean square

    `values` are the positive levels, in those units (an odd number has 0 besides, an even one is symmetric);
    `predicted` is for independent normals in rows of this length. The levels come from Lloyd's iteration, started at
    the quantiles that are best for a normal. They are a local minimum of the error, not always the global one.
    """

    levels: int
    angle: float
    predicted: float
    values: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class RotatedAngle:
    """Mean angle between the sampled rows and their signs, in degrees, before and after a Hadamard rotation.

    Three rounds, in `dimension` dimensions: the row's length, or the next power of two, the row padded with zeros,
    and then as many bits. `predicted` is for the rotated rows (`theory.sign_angle`), whatever the rows were.
    """

    dimension: int
    before: float
    after: float
    predicted: float


@shown
@dataclasses.dataclass(frozen=True)
class TensorGeometry:
    """Measures of one tensor: `rows` vectors of `row_length` weights each.

    `zero_rows` of them hold zeros alone and have no angle. `mean`, `std`, `kurtosis` (3 for normals; NaN where
    weights do not vary) and `zeros`, the share of weights that are 0, are over all weights. Group sizes below the
    row's length are in `group_angles_degrees`. `sampled_rows` went into the last two fields.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    rows: int
    row_length: int
    zero_rows: int
    mean: float
    std: float
    kurtosis: float
    zeros: float
    angle_degrees: RowAngles
    group_angles_degrees: tuple[GroupAngle, ...]
    sampled_rows: int
    level_angles_degrees: tuple[LevelsAngle, ...]
    rotated_angle_degrees: RotatedAngle


@dataclasses.dataclass(frozen=True)
class Unmeasured:
    """A tensor that was not measured, and why."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    reason: str


@shown
@dataclasses.dataclass(frozen=True)
class WeightsGeometry:
    """Measures of a weight file.

    `measured_bytes` were read in `seconds` for moments and angles; the samples took `sample_seconds`.
    """

    file: str
    nbytes: int
    measured_bytes: int
    seconds: float
    sample_seconds: float
    tensors: tuple[TensorGeometry, ...]
    unmeasured: tuple[Unmeasured, ...]

    @property
    def bytes_per_second(self) -> float:
        """Of reading, moments and angles; NaN where nothing was measured."""
        return self.measured_bytes / self.seconds if self.seconds > 0 else float("nan")

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON: NaN as None."""
        return plain(dataclasses.asdict(self) | {"bytes_per_second": self.bytes_per_second})


def inspect_weights(
    file: TensorFile,
    *,
    sample: int = _defaults.SAMPLED_WEIGHTS,
    seed: int = 0,
    progress: Callable[[int], object] | None = None,
) -> WeightsGeometry:
    """Measures every tensor of a file whose rows could be quantized, beside theory.

    Args:
        file: result of `open_tensors`.
        sample: weights of each tensor, in whole rows, for best levels and rotation: angles of normals are then
            known to 20.18/sqrt(sample) degrees.
        seed: of the rotation.
        progress: called with the number of bytes done after every block.

    Raises:
        HypersignError: the sample is below 1. Tensors that cannot be measured are in `unmeasured`,
            with the reason.

    >>> from hypersign.weight_files.tensors import open_tensors
    >>> import tempfile
    >>> from pathlib import Path
    >>> from safetensors.numpy import save_file
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     w = np.random.default_rng(0).uniform(-1, 1, (64, 512)).astype(np.float32)
    ...     save_file({"w": w, "bias": w[0]}, f"{folder}/model.safetensors")
    ...     found = inspect_weights(open_tensors(Path(folder)))
    >>> (w,), (bias,) = found.tensors, found.unmeasured
    >>> round(w.angle_degrees.mean), round(w.angle_degrees.moments_mean), round(w.angle_degrees.predicted_mean)
    (30, 30, 37)
    >>> bias.reason
    'one dimension: a bias or a scale'
    """
    check_int("sample", sample, min=1)
    measured, unmeasured = [], []
    done = 0
    seconds = sample_seconds = 0.0

    def tell(fresh: int) -> None:
        if progress is not None:
            progress(done + fresh)

    for tensor in file.tensors.values():
        reason = why_not(tensor)
        if not reason:
            start = time.perf_counter()
            sums = _sums(tensor, tell)
            reason = sums if isinstance(sums, str) else ""
            seconds += time.perf_counter() - start
        if reason:
            unmeasured.append(Unmeasured(tensor.name, tensor.dtype, tensor.shape, tensor.nbytes, reason))
        else:
            assert isinstance(sums, _Sums)
            start = time.perf_counter()
            measured.append(_measured(tensor, sums, sample, seed))
            sample_seconds += time.perf_counter() - start
        done += tensor.nbytes
        tell(0)
    return WeightsGeometry(
        file=str(file.path),
        nbytes=done,
        measured_bytes=sum(tensor.nbytes for tensor in measured),
        seconds=seconds,
        sample_seconds=sample_seconds,
        tensors=tuple(measured),
        unmeasured=tuple(unmeasured),
    )


def why_not(tensor: StoredTensor) -> str:
    """Why a tensor's rows are not to be quantized, as far as can be said without reading it; "" if they are."""
    if tensor.part_of:
        return f"no weights: it belongs to the quantized {tensor.part_of}"
    if tensor.unreadable:
        return tensor.unreadable
    if 0 in tensor.shape:
        return "it is empty"
    if len(tensor.shape) < 2:
        return "one dimension: a bias or a scale"
    if tensor.row_length == 1:
        return "rows of one weight, which are their own signs"
    return ""


@dataclasses.dataclass
class _Sums:
    """Sums of a tensor: |w|_1 and |w|^2 per row, the share of |w|^2 that groups keep, and sums over all."""

    absolute: np.ndarray  # (rows,)
    square: np.ndarray  # (rows,)
    kept: np.ndarray  # (len(GROUPS), rows)
    means: np.ndarray  # of x, x^3, |x|^3, x^4
    zeros: int


def _sums(tensor: StoredTensor, tell: Callable[[int], None]) -> _Sums | str:
    """The sums, or why there are none."""
    sums = _accumulate(tensor, np.float32, tell)
    if not np.isfinite(sums.square).all():
        step = max(1, _BLOCK // tensor.row_length)
        blocks = (tensor.read(slice(start, start + step)) for start in range(0, tensor.rows, step))
        bad = sum(int(np.count_nonzero(~np.isfinite(block))) for block in blocks)
        if bad:
            return f"{bad:,} of its {tensor.rows * tensor.row_length:,} weights are NaN or infinite"
    # Float32 has not the range for fourth powers of huge or tiny weights, nor the digits for moments about a mean
    # that is many standard deviations from 0.
    mean, fourth = sums.means[0], sums.means[3]
    second = sums.square.sum() / (tensor.rows * tensor.row_length)
    if not (1e-28 < fourth < np.inf) or mean**2 > 0.9 * second:
        sums = _accumulate(tensor, np.float64, tell)
        if sums.zeros == tensor.rows * tensor.row_length:
            return "all its weights are 0"
        if not (np.isfinite(sums.means).all() and sums.means[3] > 0):
            return "its weights are too large or too small for their fourth powers to be float64"
    return sums


def _accumulate(tensor: StoredTensor, dtype: type, tell: Callable[[int], None]) -> _Sums:
    rows, d = tensor.rows, tensor.row_length
    unit, most = GROUPS[0], GROUPS[-1]
    width = -(-d // most) * most  # zeros fill up the last group
    shares = [1 / np.clip(d - np.arange(0, width, size), 1, size) for size in GROUPS]  # of a group's weights
    absolute, square, kept = np.zeros(rows), np.zeros(rows), np.zeros((len(GROUPS), rows))
    totals, zeros = np.zeros(4), 0
    step = max(1, _BLOCK // width)
    ones: NDArray[Any] = np.ones(max(unit, step * width), dtype)
    kernels = native() if dtype is np.float32 else None
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        for start in range(0, rows, step):
            here = slice(start, min(start + step, rows))
            x: NDArray[Any] = tensor.read(here).astype(dtype, copy=False)
            if width > d:
                x = np.pad(x, ((0, 0), (0, width - d)))
            if kernels is not None:
                by_unit: NDArray[np.float64] = np.empty((len(x), width // unit))
                zeros += kernels.weight_moments(np.require(x, requirements=["C", "A"]), by_unit, square[here], totals)
            else:
                x = x.reshape(-1)
                size = np.abs(x)
                power = np.square(x)
                # Products with ones: BLAS adds up a group many times as fast as a reduction along short rows.
                by_unit = (size.reshape(-1, unit) @ ones[:unit]).reshape(-1, width // unit).astype(np.float64)
                units = (power.reshape(-1, unit) @ ones[:unit]).reshape(-1, width // unit)
                square[here] = units.sum(1, dtype=np.float64)
                totals += x @ ones[: len(x)], x @ power, size @ power, power @ power
                zeros += int(np.count_nonzero(x == 0))
            zeros -= len(by_unit) * (width - d)
            absolute[here] = by_unit.sum(1)
            by_group = by_unit
            for i, share in enumerate(shares):
                if i:
                    by_group = by_group[:, 0::2] + by_group[:, 1::2]  # each size is twice the one before
                kept[i, here] = np.square(by_group) @ share
            tell(tensor.nbytes * here.stop // rows)
    return _Sums(absolute, square, kept, totals / (rows * d), zeros)


def _measured(tensor: StoredTensor, sums: _Sums, sample: int, seed: int) -> TensorGeometry:
    rows, d = tensor.rows, tensor.row_length
    count = rows * d
    there = sums.square > 0
    cosine = np.clip(sums.absolute[there] / np.sqrt(d * sums.square[there]), 0, 1)
    angles = np.degrees(np.arccos(cosine))
    mean, third, absolute_third, fourth = (float(value) for value in sums.means)
    first, second = float(sums.absolute.sum() / count), float(sums.square.sum() / count)
    variance = max(second - mean**2, 0.0)
    central = fourth - 4 * mean * third + 6 * mean**2 * second - 3 * mean**4
    varies = variance > 1e-12 * second
    moments = theory.Moments((1.0, first, second, absolute_third), second, fourth)
    if not moments.light_tails(d):
        moments = dataclasses.replace(moments, distribution=_distribution(tensor, second**-0.5))
    own = theory.moments_angle(moments, d)
    groups = []
    for size, kept in zip(GROUPS, sums.kept, strict=True):
        if size < d:
            share = np.clip(kept[there] / sums.square[there], 0, 1)
            groups.append(
                GroupAngle(
                    size,
                    float(np.degrees(np.arccos(np.sqrt(share))).mean()),
                    _normal_group_degrees(d, size),
                    math.degrees(theory.moments_angle(moments, d, size)[0]),
                )
            )
    places = np.flatnonzero(there)
    places = places[np.unique(np.linspace(0, len(places) - 1, min(len(places), -(-sample // d))).round().astype(int))]
    values = tensor.read(places).astype(np.float64)
    values /= np.sqrt(np.mean(np.square(values), axis=1, keepdims=True))
    return TensorGeometry(
        name=tensor.name,
        dtype=tensor.dtype,
        shape=tensor.shape,
        nbytes=tensor.nbytes,
        rows=rows,
        row_length=d,
        zero_rows=int(rows - there.sum()),
        mean=mean,
        std=variance**0.5,
        kurtosis=central / variance**2 if varies else float("nan"),
        zeros=sums.zeros / count,
        angle_degrees=RowAngles(
            mean=float(angles.mean()),
            std=float(angles.std(ddof=1)) if len(angles) > 1 else float("nan"),
            predicted_mean=float(np.degrees(theory.sign_angle(d))),
            predicted_std=float(np.degrees(theory.sign_angle_std(d))),
            moments_mean=math.degrees(own[0]),
            moments_std=math.degrees(own[1]),
        ),
        group_angles_degrees=tuple(groups),
        sampled_rows=len(places),
        level_angles_degrees=tuple(_best_levels(np.sort(np.abs(values), axis=None), k, d) for k in LEVELS),
        rotated_angle_degrees=_rotated(values, seed),
    )


def _degrees(cosine: Any) -> float:
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def _distribution(tensor: StoredTensor, unit: float) -> Distribution:
    """The distribution of all weights' sizes; the tensor is read again."""
    counts = SizeCounts(unit)
    step = max(1, _BLOCK // tensor.row_length)
    for start in range(0, tensor.rows, step):
        block = tensor.read(slice(start, min(start + step, tensor.rows)))
        counts.add(np.abs(block.astype(np.float64 if block.dtype == np.float64 else np.float32, copy=False)).ravel())
    return counts.distribution()


@functools.cache
def _normal_group_degrees(d: int, size: int) -> float:
    return math.degrees(theory.moments_angle(theory.Moments.gaussian(), d, size)[0])


@functools.cache
def _normal_levels_degrees(k: int, d: int) -> float:
    """The angle between rows of d independent normals, each divided by its root mean square, and their k levels.

    A weight x of such a row has x^2/d beta-distributed, with the parameters 1/2 and (d - 1)/2.
    """
    if d >= _LONG_ROW:
        return _degrees(theory.lloyd_max_cosine(k))
    middles = (np.arange(_POINTS) + 0.5) / _POINTS
    return _lloyd(np.sqrt(d * special.betaincinv(0.5, (d - 1) / 2, middles)), k)[0]


def _best_levels(sizes: np.ndarray, k: int, d: int) -> LevelsAngle:
    """The best levels of rows of d weights, from their sorted magnitudes of mean square 1."""
    angle, levels = _lloyd(sizes, k)
    return LevelsAngle(k, angle, _normal_levels_degrees(k, d), tuple(levels.tolist()))


def _lloyd(sizes: np.ndarray, k: int) -> tuple[float, np.ndarray]:
    """Angle and levels of Lloyd's iteration on sorted magnitudes: a level is the mean of those nearest to it."""
    sums = np.concatenate([[0], np.cumsum(sizes)])
    normal = np.array([level for level in theory.lloyd_max(k).levels if level > 0])
    levels = np.quantile(sizes, special.erf(normal / np.sqrt(2)))  # as rare here as they are for normals
    for _ in range(300):
        low = np.concatenate([[levels[0] / 2 if k % 2 else 0.0], (levels[1:] + levels[:-1]) / 2])
        cuts = np.append(np.searchsorted(sizes, low, side="right" if k % 2 else "left"), len(sizes))
        counts = np.diff(cuts)
        means = np.where(counts > 0, np.diff(sums[cuts]) / np.maximum(counts, 1), levels)
        moved = float(np.abs(means - levels).max())
        levels = np.sort(means)
        if moved < 1e-7:
            break
    error = 1 - float((counts * levels**2).sum()) / len(sizes)
    return float(np.degrees(np.arcsin(np.sqrt(np.clip(error, 0, 1))))), levels


def _rotated(values: np.ndarray, seed: int) -> RotatedAngle:
    """Angles of rows of mean square 1, shape (rows, d), before and after the rotation."""
    rotation = HadamardRotation(values.shape[1], seed=seed)
    turned = rotation(values.astype(np.float32))
    cosine = np.abs(turned).sum(1) / np.sqrt(rotation.size * np.square(turned).sum(1))
    return RotatedAngle(
        rotation.size,
        float(np.degrees(np.arccos(np.clip(np.abs(values).mean(1), 0, 1))).mean()),
        float(np.degrees(np.arccos(np.clip(cosine, 0, 1))).mean()),
        float(np.degrees(theory.sign_angle(rotation.size))),
    )
