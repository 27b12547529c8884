"""Monte Carlo experiments on the angles of random vectors, compared with the closed forms.

Each function is an experiment of Anderson & Berg 2018, or a related one. It draws vectors block by block and keeps
only sums, so memory does not grow with the number of draws. For every case it returns the mean and the standard
deviation, their standard errors, and the predictions of theory.

The draws depend on the seed and on the kind of device, because CPU and GPU have different generators. A CPU needs no
torch. It draws on as many threads as torch has, if torch is imported (`torch.set_num_threads`), else on
`OMP_NUM_THREADS` or all; numbers and sums do not depend on the number of threads. Vectors are float32, sums float64.
"""

import math
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hypersign import _defaults, theory
from hypersign._checks import HypersignError, check_choice, check_int, check_real
from hypersign.bits import hadamard_transform
from hypersign.simulation import gaussian
from hypersign.simulation.estimates import Simulation, Tally
from hypersign.theory.angle import angle_moments
from hypersign.theory.sign import sign_moments

__all__ = [
    "ROTATIONS",
    "binary_pairs",
    "levels",
    "pairs",
    "rotated",
    "sign",
    "ternary",
]

ROTATIONS = ("none", "haar", "hadamard-1", "hadamard-2", "hadamard-3")
"""Rotations before the sign: none, Haar, or one to three rounds of Hadamard."""

HAAR_ROTATIONS = 16
"""Number of Haar rotations among which the draws of a case are divided."""


def pairs(
    dimensions: Sequence[int] = _defaults.PAIR_DIMENSIONS,
    *,
    draws: int = _defaults.DRAWS,
    seed: int = 0,
    device: str = "cpu",
) -> Simulation:
    """Angles of two independent Gaussian vectors, for each dimension; theory: `theory.pair_angle_std`.

    Each vector is paired with the two vectors before it. Directions are independent and uniform, so the cosines of
    any two of these pairs are independent, even if the pairs share a vector. So means, standard deviations and their
    standard errors are the same as for pairs drawn separately.

    Raises HypersignError if a dimension or the number of draws is out of range.

    >>> case = pairs([100], draws=2000).cases[0]
    >>> abs(case.angle_degrees.mean_distance) < 4, case.angle_degrees.predicted_mean
    (True, 90.0)
    """
    cases = []
    for number, d in enumerate(_dimensions(dimensions)):
        tally = Tally(draws)
        square = np.empty(0)
        left = draws
        for sums in _source(device, seed, number).sums((draws + 1) // 2 + 2, d, products=True):
            square = np.concatenate([square[-2:], sums.square])
            rows = len(square) - 2  # the first two vectors of the case have no vectors before them
            products = np.stack([sums.product, sums.product_two_before], 1)[len(sums.product) - rows :]
            before = np.stack([square[1:-1], square[:-2]], 1)
            tally.add((products / np.sqrt(square[2:, None] * before)).flatten()[:left])
            left -= 2 * rows
        spread = float(theory.pair_angle_std(d))
        cases.append(tally.case(f"d = {d}", d, d, 0.0, theory.pair_cosine_std(d), np.pi / 2, spread))
    return Simulation("pairs", "Two random vectors", "dimension", seed, tuple(cases))


def binary_pairs(
    dimensions: Sequence[int] = _defaults.BINARY_PAIR_DIMENSIONS, *, draws: int = _defaults.DRAWS, seed: int = 0
) -> Simulation:
    """Angles of two independent vectors of random signs, for each dimension; theory: `theory.binary_pair_angle_std`.

    Signs are packed, 64 per word, and disagreements are counted on words. Raises HypersignError if a dimension or the
    number of draws is out of range.

    >>> case = binary_pairs([100], draws=2000).cases[0]
    >>> abs(case.angle_degrees.std_distance) < 4
    True
    """
    cases = []
    for number, d in enumerate(_dimensions(dimensions)):
        tally = Tally(draws)
        bits = _bit_generator(seed, number)
        words = -(-d // 64)
        mask = np.full(words, ~np.uint64(0))
        mask[-1] >>= np.uint64(-d % 64)  # ignore the bits past d
        for rows in block_rows(draws, words, "cpu"):
            u, v = (bits.random_raw(rows * words).reshape(rows, words) for _ in range(2))
            differ = np.bitwise_count((u ^ v) & mask).sum(1, dtype=np.int64)
            tally.add(1 - 2 * differ / d)
        spread = float(theory.binary_pair_angle_std(d))
        cases.append(tally.case(f"d = {d}", d, d, 0.0, theory.pair_cosine_std(d), np.pi / 2, spread))
    return Simulation("binary-pairs", "Two random binary vectors", "dimension", seed, tuple(cases))


def sign(
    dimensions: Sequence[int] = _defaults.SIGN_DIMENSIONS,
    *,
    draws: int = _defaults.DRAWS,
    seed: int = 0,
    device: str = "cpu",
) -> Simulation:
    """Angles of a Gaussian vector and its sign, for each dimension; theory: `theory.sign_angle`.

    Raises HypersignError if a dimension or the number of draws is out of range.

    >>> case = sign([27], draws=4000).cases[0]
    >>> abs(case.angle_degrees.mean_distance) < 4, round(case.angle_degrees.predicted_mean, 2)
    (True, 36.19)
    """
    cases = []
    for number, d in enumerate(_dimensions(dimensions)):
        tally = Tally(draws)
        for sums in _source(device, seed, number).sums(draws, d):
            tally.add(sums.absolute / np.sqrt(d * sums.square))
        cases.append(tally.case(f"d = {d}", d, d, *_sign_theory(d)))
    return Simulation("sign", "A vector and its sign", "dimension", seed, tuple(cases))


def ternary(
    thresholds: Sequence[float] = _defaults.TERNARY_THRESHOLDS,
    *,
    dimension: int = _defaults.LEVEL_DIMENSION,
    draws: int = _defaults.DRAWS,
    seed: int = 0,
    device: str = "cpu",
) -> Simulation:
    """Angles of a Gaussian vector and its ternary levels, for each threshold; theory: `theory.ternary_cosine`.

    Thresholds are in standard deviations. The defaults are those of Anderson & Berg; .02/.18 is the threshold of
    their trained network. All thresholds use the same vectors. Raises HypersignError if an argument is out of range.

    >>> case = ternary([0.612], draws=500).cases[0]
    >>> abs(case.angle_degrees.mean_distance) < 4, round(case.angle_degrees.predicted_mean, 2)
    (True, 25.83)
    """
    (d,) = _dimensions([dimension])
    limits = [check_real("a threshold", t, min=0) for t in _some("thresholds", thresholds)]
    tallies = [Tally(draws) for _ in limits]
    for sums in _source(device, seed, 0).sums(draws, d, thresholds=limits):
        with np.errstate(invalid="ignore"):  # all levels are zero: no angle
            cosines = sums.above / np.sqrt(sums.number * sums.square[:, None])
        for i, tally in enumerate(tallies):
            tally.add(cosines[:, i])
    cases = [
        tally.case(
            f"t = {t:.4g}", t, d, *_with_angle(theory.ternary_cosine(t, d), theory.ternary_cosine_std(t, d), d)
        )
        for t, tally in zip(limits, tallies, strict=True)
    ]
    return Simulation("ternary", f"A vector and its ternary levels, d = {d}", "threshold", seed, tuple(cases))


def levels(
    numbers: Sequence[int] = _defaults.LEVEL_NUMBERS,
    *,
    dimension: int = _defaults.LEVEL_DIMENSION,
    draws: int = _defaults.DRAWS,
    seed: int = 0,
    device: str = "cpu",
) -> Simulation:
    """Angles of a Gaussian vector and its k best levels, for each k; theory: `theory.lloyd_max_cosine`.

    All k use the same vectors. Theory's standard deviation is correct at leading order in 1/d. Raises HypersignError
    if an argument is out of range.

    >>> case = levels([4], draws=500).cases[0]
    >>> abs(case.angle_degrees.mean_distance) < 4, round(case.angle_degrees.predicted_mean, 1)
    (True, 20.0)
    """
    (d,) = _dimensions([dimension])
    quantizers = [theory.lloyd_max(check_int("a number of levels", k, min=2)) for k in _some("levels", numbers)]
    tallies = [Tally(draws) for _ in quantizers]
    # The levels are symmetric: a sum over levels is the smallest level for every |x|, plus, for each threshold, the
    # step to the next level for the |x| beyond it.
    sizes = [np.array(q.levels[-(len(q.levels) + 1) // 2 :]) for q in quantizers]
    edges = [q.thresholds[len(q.thresholds) - len(size) + 1 :] for q, size in zip(quantizers, sizes, strict=True)]
    every = [edge for some in edges for edge in some]
    # A scale of 1 makes the kernel sum squares one by one. Without a scale it sums the squared radius of each pair,
    # whose error of 1e-6 would be visible with many levels.
    source = _source(device, seed, 0)
    for sums in source.sums(draws, d, scale=np.ones(d, np.float32), thresholds=every):
        start = 0
        for size, some, tally in zip(sizes, edges, tallies, strict=True):
            beyond = slice(start, start := start + len(some))
            steps = np.diff([size, size**2])
            product = size[0] * sums.absolute + sums.above[:, beyond] @ steps[0]
            square = size[0] ** 2 * d + sums.number[:, beyond] @ steps[1]
            with np.errstate(invalid="ignore"):  # all levels are zero: no angle
                tally.add(product / np.sqrt(square * sums.square))
    cases = [
        tally.case(
            f"k = {k}", k, d, *_with_angle(theory.lloyd_max_cosine(k, d), theory.lloyd_max_cosine_std(k, d), d)
        )
        for k, tally in zip(numbers, tallies, strict=True)
    ]
    return Simulation("levels", f"A vector and its k best levels, d = {d}", "levels", seed, tuple(cases))


def rotated(
    dimensions: Sequence[int] = _defaults.ROTATED_DIMENSIONS,
    *,
    rotations: Sequence[str] = _defaults.ROTATIONS,
    rate: float = _defaults.RATE,
    covariance: ArrayLike | None = None,
    draws: int = _defaults.DRAWS,
    seed: int = 0,
    device: str = "cpu",
) -> Simulation:
    """Angles of a Gaussian vector with unequal or correlated components and its sign, after each rotation.

    The standard deviation of component i is exp(rate i), as in Anderson & Berg, unless a covariance is given. The
    smallest independent components count as 0 if, together, they stay below float32's rounding of the whole vector
    (2^-24 of its length). For rate .1, only 167 of a thousand components stay.

    Hadamard rotations draw new random signs for every vector; the dimension must be a power of two. The draws of a
    Haar case are divided among 16 rotations, and the standard errors are over the rotations.

    Theory: `theory.correlated_sign_cosine` without a rotation; `theory.hadamard_sign_cosine` for one round on
    independent components; `theory.sign_angle` for the Haar rotation, for three rounds, and for the mean of two
    rounds, which is nearly the same.

    Args:
        dimensions: the dimensions of the exponential case; ignored if a covariance is given.
        rotations: names from `ROTATIONS`.
        rate: the rate of the exponential.
        covariance: a covariance, shape (d, d), or variances, shape (d,).
        draws: number of vectors per case.
        seed: seed of all random numbers.
        device: device on which vectors are drawn.

    Raises HypersignError if an argument is out of range.

    >>> none, haar = rotated([100], draws=2000).cases
    >>> round(none.angle_degrees.predicted_mean, 1), round(haar.angle_degrees.predicted_mean, 2)
    (68.2, 36.83)
    """
    for rotation in _some("rotations", rotations):
        check_choice("a rotation", rotation, ROTATIONS)
    check_real("rate", rate, min=-10, max=10)
    given = None if covariance is None else np.asarray(covariance, dtype=np.float64)
    if given is not None:
        theory.correlated_sign_cosine(given)  # raises an error if the covariance is invalid
        dimensions = [given.shape[0]]
    cases = []
    for number, d in enumerate(_dimensions(dimensions)):
        if d & (d - 1) and any(rotation.startswith("hadamard") for rotation in rotations):
            raise HypersignError(f"a Hadamard rotation's dimension must be a power of two; got {d}")
        # Scale the largest to 1: a factor changes no angle, and float32 holds nothing above 1e38.
        shape = np.exp(2 * rate * np.arange(d) - 2 * max(0.0, rate * (d - 1))) if given is None else given
        spread, factor = _components(shape)
        for place, rotation in enumerate(rotations):
            tally = Tally(draws)
            source = _source(device, seed, number, place)
            if rotation == "none" and factor.ndim == 1:
                for sums in source.sums(draws, len(spread), scale=spread):
                    tally.add(sums.absolute / np.sqrt(d * sums.square))
            elif rotation == "haar":
                for group, cosines in _haar_blocks(spread, d, draws, source):
                    tally.add(cosines, group)
            else:
                rounds = 0 if rotation == "none" else int(rotation[-1])
                root = source.array(factor)
                for x in gaussian_blocks(root.shape[-1], draws, source, width=d):
                    y = x * root if factor.ndim == 1 else x @ root.T
                    for _ in range(rounds):
                        y = source.hadamard(y * source.signs(len(y), d))
                    tally.add(source.sign_cosine(y, y))
            cases.append(tally.case(f"d = {d}, {rotation}", d, d, *_rotation_theory(rotation, shape)))
    what = f"standard deviations exp({rate:g} i)" if given is None else "the given covariance"
    return Simulation("rotated", f"A vector with {what} and its sign", "rotation", seed, tuple(cases))


def _haar_blocks(
    spread: NDArray[np.float32], d: int, draws: int, source: "Source"
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Yields blocks (rotation number, cosines) of the cosines between rotated vectors of dimension d and their signs.

    The Haar rotation is uniform, so the components may lie along the first axes. Then only the first k rows of the
    rotation are drawn and multiplied, where k is the number of independent components.
    """
    groups, scale = min(HAAR_ROTATIONS, draws), source.array(spread)
    for group in range(groups):
        frame = source.frame(len(spread), d)
        share = draws * (group + 1) // groups - draws * group // groups
        for x in gaussian_blocks(len(spread), share, source, width=d):
            x *= scale
            yield group, source.sign_cosine(x @ frame, x)


def _rotation_theory(rotation: str, covariance: np.ndarray) -> tuple[float, float, float, float]:
    """Predicted mean and standard deviation of the cosine and of the angle; NaN if theory has no prediction."""
    d = len(covariance)
    if rotation == "none":
        moments = theory.correlated_sign_cosine(covariance), theory.correlated_sign_cosine_std(covariance)
    elif rotation == "hadamard-2":
        # The mean is nearly that of Haar. The standard deviation is not: it is .2 degrees larger at d = 128.
        return theory.sign_cosine(d), math.nan, theory.sign_angle(d), math.nan
    elif rotation != "hadamard-1":
        return _sign_theory(d)
    elif covariance.ndim == 1:
        moments = theory.hadamard_sign_cosine(covariance), theory.hadamard_sign_cosine_std(covariance)
    else:
        return (math.nan,) * 4
    return _with_angle(*moments, d)


def _sign_theory(d: int) -> tuple[float, float, float, float]:
    mean, std, angle, spread = map(float, sign_moments(d))
    return mean, std, angle, spread


def _with_angle(mean: float, std: float, d: int) -> tuple[float, float, float, float]:
    angle, spread = angle_moments(mean, std, d)
    return mean, std, float(angle), float(spread)


def _components(covariance: np.ndarray) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Standard deviations of the independent components, shape (k,), and the factor that turns normals into vectors.

    The factor is a matrix (d, k), or a vector (d,) with zeros if variances are given. Components too small for
    float32 beside the others are omitted: their products would come near 1e-38, where arithmetic is a hundred times
    slower.
    """
    values, vectors = (covariance, None) if covariance.ndim == 1 else np.linalg.eigh(covariance)
    values = np.maximum(values, 0) / values.max()
    ascending = np.argsort(values)
    unseen = np.cumsum(values[ascending]) <= 2.0**-48 * values.sum()
    spread = np.sqrt(values)
    spread[ascending[unseen]] = 0
    seen = spread > 0
    root = spread if vectors is None else vectors[:, seen] * spread[seen]
    return spread[seen].astype(np.float32), root.astype(np.float32)


def _dimensions(values: Sequence[int]) -> list[int]:
    return [check_int("a dimension", d, min=1) for d in _some("dimensions", values)]


def _some(name: str, values: Sequence[Any]) -> Sequence[Any]:
    if not len(values):
        raise HypersignError(f"{name} must name at least one; got none")
    return values


CPU_BLOCK = 1 << 19
"""Numbers per block on a CPU: few enough that temporary arrays stay in the cache, many enough to need few calls."""

GPU_BLOCK = 1 << 25


def _source(device: str, *streams: int) -> "Source":
    """The random numbers of one stream on a device; only another device than the CPU needs torch."""
    if device == "cpu":
        return Source(*streams)
    from hypersign.simulation.devices import DeviceSource

    return DeviceSource(device, *streams)


def _threads() -> int:
    if (torch := sys.modules.get("torch")) is not None:
        return torch.get_num_threads()
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdecimal() and int(given) else os.cpu_count() or 1


def block_rows(draws: int, width: int, device: str) -> Iterator[int]:
    """Yields the number of vectors in each block."""
    rows = max(1, (CPU_BLOCK if device == "cpu" else GPU_BLOCK) // width)
    for start in range(0, draws, rows):
        yield min(rows, draws - start)


def gaussian_blocks(d: int, draws: int, source: "Source", *, width: int | None = None) -> Iterator[Any]:
    """Yields blocks of vectors of d independent standard normals: float32, shape (rows, d), on the source's device.

    `width` is the length that a vector has later; the number of rows per block follows from it.
    """
    for rows in block_rows(draws, width or d, source.device):
        yield source.normals(rows, d)


def _bit_generator(*streams: int) -> np.random.SFC64:
    return np.random.SFC64(np.random.SeedSequence([check_int("seed", stream, min=0) for stream in streams]))


class Source:
    """Random numbers of one stream, as NumPy arrays on the CPU."""

    device = "cpu"

    def __init__(self, *streams: int) -> None:
        self._bits = _bit_generator(*streams)
        self._key = int(self._bits.random_raw(1)[0])
        self._row = 0

    def array(self, values: NDArray[np.float32]) -> Any:
        """The values where this source draws."""
        return values

    def normals(self, rows: int, d: int) -> Any:
        """Independent standard normals, float32, shape (rows, d)."""
        first, self._row = self._row, self._row + rows
        return gaussian.normals(self._key, first, rows, d, threads=_threads())

    def sums(
        self,
        draws: int,
        d: int,
        *,
        scale: NDArray[np.float32] | None = None,
        thresholds: Sequence[float] = (),
        products: bool = False,
    ) -> Iterator[gaussian.RowSums]:
        """Yields sums over `draws` vectors of d normals (times `scale`) in blocks. The first two have no products."""
        options: dict[str, Any] = {
            "scale": scale,
            "thresholds": np.array(thresholds, np.float32),
            "products": products,
            "threads": _threads(),
        }
        for rows in block_rows(draws, 16 + 2 * len(thresholds), self.device):
            first, self._row = self._row, self._row + rows
            yield gaussian.row_sums(self._key, first, rows, d, **options)

    def frame(self, k: int, d: int) -> Any:
        """The first k rows of a Haar rotation of d dimensions, float32, up to signs that change no angle here.

        The rotation is a product of k Householder reflections along vectors of d, d - 1, ... normals (Stewart 1980,
        "The efficient generation of random orthogonal matrices"). The product is I - V T V', where the columns of V
        are these vectors, and T is the inverse of the upper triangle of V' V with half its diagonal (Puglisi 1992,
        "Modification of the Householder method based on the compact WY representation").
        """
        from scipy.linalg import solve_triangular

        vectors = np.triu(self.normals(k, d))  # V'
        length = np.sqrt(np.linalg.vecdot(vectors, vectors))
        first = np.einsum("ii->i", vectors[:, :k])  # a view of the diagonal
        first += np.copysign(np.where(length > 0, length, np.float32(1)), first)
        gram = vectors @ vectors.T
        np.einsum("ii->i", gram)[:] *= 0.5
        mixed = solve_triangular(gram, vectors[:, :k])
        frame = -(mixed.T @ vectors)
        np.einsum("ii->i", frame[:, :k])[:] += 1
        return frame

    def signs(self, rows: int, d: int) -> Any:
        """Independent random signs, float32, shape (rows, d)."""
        words = self._bits.random_raw(-(-rows * d // 64))
        bits = np.unpackbits(words.view(np.uint8), count=rows * d).reshape(rows, d)
        return 1 - 2 * bits.astype(np.float32)

    def hadamard(self, x: Any) -> Any:
        """The orthonormal Hadamard transform of each vector."""
        return hadamard_transform(x, threads=_threads())

    def sign_cosine(self, y: Any, x: Any) -> NDArray[np.float64]:
        """Cosine between each vector y and its sign, where x has the same length as y.

        y sign(y) is |y|, so the sign of 0 does not matter.
        """
        cosine = np.abs(y).sum(1) / np.sqrt(y.shape[1] * np.linalg.vecdot(x, x))
        return cosine.astype(np.float64)
