"""Monte Carlo experiments on the angles of random vectors, compared with the closed forms.

Each function is an experiment of Anderson & Berg 2018, or a related one. It draws vectors block by block and keeps
only sums, so memory does not grow with the number of draws. For every case it returns the mean and the standard
deviation, their standard errors, and the predictions of theory.

The draws depend on the seed and on the kind of device, because CPU and GPU have different generators. A CPU draws on
as many threads as torch has (`torch.set_num_threads`); numbers and sums do not depend on the number of threads.
Vectors are float32, sums are float64.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from hypersign import _defaults, theory
from hypersign._checks import HypersignError, check_choice, check_int, check_real
from hypersign.ops import hadamard_transform
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
        square = torch.empty(0)
        left = draws
        for sums in _Source(device, seed, number).sums((draws + 1) // 2 + 2, d, products=True):
            square = torch.cat([square[-2:], sums.square])
            rows = len(square) - 2  # the first two vectors of the case have no vectors before them
            products = torch.stack([sums.product, sums.product_two_before], 1)[len(sums.product) - rows :]
            before = torch.stack([square[1:-1], square[:-2]], 1)
            tally.add((products / (square[2:, None] * before).sqrt()).flatten()[:left])
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
        for rows in _block_rows(draws, words, "cpu"):
            u, v = (bits.random_raw(rows * words).reshape(rows, words) for _ in range(2))
            differ = np.bitwise_count((u ^ v) & mask).sum(1, dtype=np.int64)
            tally.add(torch.from_numpy(1 - 2 * differ / d))
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
        for sums in _Source(device, seed, number).sums(draws, d):
            tally.add(sums.absolute / (d * sums.square).sqrt())
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
    for sums in _Source(device, seed, 0).sums(draws, d, thresholds=limits):
        cosines = sums.above / (sums.number * sums.square[:, None]).sqrt()
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
    source = _Source(device, seed, 0)
    for sums in source.sums(draws, d, scale=torch.ones(d, device=device), thresholds=every):
        start = 0
        for size, some, tally in zip(sizes, edges, tallies, strict=True):
            beyond = slice(start, start := start + len(some))
            steps = torch.from_numpy(np.diff([size, size**2]))
            product = size[0] * sums.absolute + sums.above[:, beyond] @ steps[0]
            square = size[0] ** 2 * d + sums.number[:, beyond] @ steps[1]
            tally.add(product / (square * sums.square).sqrt())
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
        spread, root = _components(shape, device)
        for place, rotation in enumerate(rotations):
            tally = Tally(draws)
            source = _Source(device, seed, number, place)
            if rotation == "none" and root.dim() == 1:
                for sums in source.sums(draws, len(spread), scale=spread):
                    tally.add(sums.absolute / (d * sums.square).sqrt())
            elif rotation == "haar":
                for group, cosines in _haar_blocks(spread, d, draws, source):
                    tally.add(cosines, group)
            else:
                rounds = 0 if rotation == "none" else int(rotation[-1])
                for x in _gaussian_blocks(root.shape[-1], draws, source, width=d):
                    y = x * root if root.dim() == 1 else x @ root.T
                    for _ in range(rounds):
                        y = hadamard_transform(y * source.signs(len(y), d))
                    tally.add(_sign_cosine(y, y))
            cases.append(tally.case(f"d = {d}, {rotation}", d, d, *_rotation_theory(rotation, shape)))
    what = f"standard deviations exp({rate:g} i)" if given is None else "the given covariance"
    return Simulation("rotated", f"A vector with {what} and its sign", "rotation", seed, tuple(cases))


def _haar_blocks(spread: Tensor, d: int, draws: int, source: "_Source") -> Iterator[tuple[int, Tensor]]:
    """Yields blocks (rotation number, cosines) of the cosines between rotated vectors of dimension d and their signs.

    The Haar rotation is uniform, so the components may lie along the first axes. Then only the first k rows of the
    rotation are drawn and multiplied, where k is the number of independent components.
    """
    groups = min(HAAR_ROTATIONS, draws)
    for group in range(groups):
        frame = source.frame(len(spread), d)
        share = draws * (group + 1) // groups - draws * group // groups
        for x in _gaussian_blocks(len(spread), share, source, width=d):
            x *= spread
            yield group, _sign_cosine(x @ frame, x)


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


def _sign_cosine(y: Tensor, x: Tensor) -> Tensor:
    """Cosine between each vector y and its sign, where x has the same length as y.

    y sign(y) is |y|, so the sign of 0 does not matter.
    """
    return y.abs().sum(1) / (y.shape[1] * torch.linalg.vecdot(x, x)).sqrt()


def _components(covariance: np.ndarray, device: str) -> tuple[Tensor, Tensor]:
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
    return torch.from_numpy(spread[seen]).float().to(device), torch.from_numpy(root).float().to(device)


def _dimensions(values: Sequence[int]) -> list[int]:
    return [check_int("a dimension", d, min=1) for d in _some("dimensions", values)]


def _some(name: str, values: Sequence[Any]) -> Sequence[Any]:
    if not len(values):
        raise HypersignError(f"{name} must name at least one; got none")
    return values


CPU_BLOCK = 1 << 19
"""Numbers per block on a CPU: few enough that temporary arrays stay in the cache, many enough to need few calls."""

GPU_BLOCK = 1 << 25


def _block_rows(draws: int, width: int, device: str) -> Iterator[int]:
    """Yields the number of vectors in each block."""
    rows = max(1, (CPU_BLOCK if device == "cpu" else GPU_BLOCK) // width)
    for start in range(0, draws, rows):
        yield min(rows, draws - start)


def _gaussian_blocks(d: int, draws: int, source: "_Source", *, width: int | None = None) -> Iterator[Tensor]:
    """Yields blocks of vectors of d independent standard normals: float32, shape (rows, d), on the source's device.

    `width` is the length that a vector has later; the number of rows per block follows from it.
    """
    for rows in _block_rows(draws, width or d, source.device):
        yield source.normals(rows, d)


def _bit_generator(*streams: int) -> np.random.SFC64:
    return np.random.SFC64(np.random.SeedSequence([check_int("seed", stream, min=0) for stream in streams]))


@dataclasses.dataclass(frozen=True)
class _Sums:
    """`gaussian.RowSums` as float64 tensors on the CPU."""

    absolute: Tensor
    square: Tensor
    product: Tensor
    product_two_before: Tensor
    above: Tensor
    number: Tensor


class _Source:
    """Random numbers of one stream on one device."""

    def __init__(self, device: str, *streams: int) -> None:
        self._bits = _bit_generator(*streams)
        self._key = int(self._bits.random_raw(1)[0])
        self._row = 0
        try:
            self._generator = torch.Generator(device).manual_seed(self._key >> 1)
            torch.empty(1, device=device)
        except (RuntimeError, AssertionError) as error:  # torch without CUDA raises the latter
            raise HypersignError(
                f"device must be one that torch finds here, such as cpu or cuda; got {device!r}"
            ) from error
        self.device = device

    def normals(self, rows: int, d: int) -> Tensor:
        """Independent standard normals, float32, shape (rows, d)."""
        if self.device != "cpu":
            return torch.randn(rows, d, generator=self._generator, device=self.device)
        first, self._row = self._row, self._row + rows
        return torch.from_numpy(gaussian.normals(self._key, first, rows, d, threads=torch.get_num_threads()))

    def sums(
        self,
        draws: int,
        d: int,
        *,
        scale: Tensor | None = None,
        thresholds: Sequence[float] = (),
        products: bool = False,
    ) -> Iterator[_Sums]:
        """Yields sums over `draws` vectors of d normals (times `scale`) in blocks. The first two have no products."""
        if self.device == "cpu":
            options: dict[str, Any] = {
                "scale": None if scale is None else scale.numpy(),
                "thresholds": np.array(thresholds, np.float32),
                "products": products,
                "threads": torch.get_num_threads(),
            }
            for rows in _block_rows(draws, 16 + 2 * len(thresholds), self.device):
                first, self._row = self._row, self._row + rows
                found = gaussian.row_sums(self._key, first, rows, d, **options)
                yield _Sums(**{name: torch.from_numpy(value) for name, value in vars(found).items()})
            return
        last = None
        for x in _gaussian_blocks(d, draws, self):
            x = x if scale is None else x * scale
            size = x.abs()
            over = [size > t for t in thresholds]
            before = torch.cat([x[:1].expand(2, -1) if last is None else last, x]) if products else x
            last = before[-2:].clone()
            values = (
                size.sum(1),
                torch.linalg.vecdot(x, x),
                torch.linalg.vecdot(x, before[1:-1] if products else x),
                torch.linalg.vecdot(x, before[:-2] if products else x),
                torch.stack([(size * level).sum(1) for level in over], 1) if over else x[:, :0],
                torch.stack([level.sum(1) for level in over], 1) if over else x[:, :0],
            )
            yield _Sums(*(value.double().cpu() for value in values))

    def frame(self, k: int, d: int) -> Tensor:
        """The first k rows of a Haar rotation of d dimensions, float32, up to signs that change no angle here.

        The rotation is a product of k Householder reflections along vectors of d, d - 1, ... normals (Stewart 1980,
        "The efficient generation of random orthogonal matrices"). The product is I - V T V', where the columns of V
        are these vectors, and T is the inverse of the upper triangle of V' V with half its diagonal (Puglisi 1992,
        "Modification of the Householder method based on the compact WY representation").
        """
        vectors = self.normals(k, d).triu_()  # V'
        length = torch.linalg.vecdot(vectors, vectors).sqrt()
        first = vectors.diagonal()
        first += torch.copysign(torch.where(length > 0, length, 1), first)
        gram = vectors @ vectors.T
        gram.diagonal().mul_(0.5)
        mixed = torch.linalg.solve_triangular(gram, vectors[:, :k], upper=True)
        frame = mixed.T @ vectors
        frame.neg_().diagonal().add_(1)
        return frame

    def signs(self, rows: int, d: int) -> Tensor:
        """Independent random signs, float32, shape (rows, d)."""
        if self.device != "cpu":
            shape = (rows, d)
            bits = torch.randint(0, 2, shape, generator=self._generator, device=self.device, dtype=torch.int8)
        else:
            words = self._bits.random_raw(-(-rows * d // 64))
            bits = torch.from_numpy(np.unpackbits(words.view(np.uint8), count=rows * d)).view(rows, d)
        return bits.float().mul_(-2).add_(1)
