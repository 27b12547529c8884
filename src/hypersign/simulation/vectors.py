"""Monte Carlo beside the closed forms: the angles of random vectors, drawn many at a time.

Each function here is one experiment of Anderson & Berg 2018, or one beside them. It draws vectors block by block,
keeps nothing of a block but sums, so that memory does not grow with the number of draws, and returns for every
case the mean and standard deviation that it found, their standard errors, and what theory says.

The draws depend on the seed and on the kind of device: CPU and GPU have different generators. A CPU
draws on as many threads as torch has (`torch.set_num_threads`), the same numbers and sums for any number of them.
Vectors are float32, sums float64.
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
"""Rotations before the sign: none, Haar, or rounds of Hadamard."""

HAAR_ROTATIONS = 16
"""Rotations that the draws of a Haar case are spread over."""


def pairs(
    dimensions: Sequence[int] = _defaults.PAIR_DIMENSIONS,
    *,
    draws: int = _defaults.DRAWS,
    seed: int = 0,
    device: str = "cpu",
) -> Simulation:
    """Angles of two independent Gaussian vectors, for each dimension; theory: `theory.pair_angle_std`.

    Each vector is paired with the two before it. Directions being independent and uniform, the cosines of any two of
    these pairs are independent, of those of three vectors too: means, deviations and their standard errors are those
    of pairs drawn one by one.

    Raises HypersignError where a dimension or the number of draws is out of range.

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
            rows = len(square) - 2  # the very first two have none before them
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

    Signs are packed 64 to a word, and disagreements counted on words. Raises HypersignError where a dimension or
    the number of draws is out of range.

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
        mask[-1] >>= np.uint64(-d % 64)  # bits past d count nowhere
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

    Raises HypersignError where a dimension or the number of draws is out of range.

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

    Thresholds are in standard deviations; the defaults are the original's, of which .02/.18 is its trained
    network's. All thresholds see the same vectors. Raises HypersignError where an argument is out of range.

    >>> case = ternary([0.612], draws=500).cases[0]
    >>> abs(case.angle_degrees.mean_distance) < 4, round(case.angle_degrees.predicted_mean, 2)
    (True, 25.83)
    """
    (d,) = _dimensions([dimension])
    limits = [check_real("a threshold", t, least=0) for t in _some("thresholds", thresholds)]
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

    All k see the same vectors. Theory's standard deviation is of leading order in 1/d. Raises HypersignError where
    an argument is out of range.

    >>> case = levels([4], draws=500).cases[0]
    >>> abs(case.angle_degrees.mean_distance) < 4, round(case.angle_degrees.predicted_mean, 1)
    (True, 20.0)
    """
    (d,) = _dimensions([dimension])
    quantizers = [theory.lloyd_max(check_int("a number of levels", k, least=2)) for k in _some("levels", numbers)]
    tallies = [Tally(draws) for _ in quantizers]
    # Levels being symmetric, the least counts for every |x|, and each step to the next for those beyond its edge.
    sizes = [np.array(q.levels[-(len(q.levels) + 1) // 2 :]) for q in quantizers]
    edges = [q.thresholds[len(q.thresholds) - len(size) + 1 :] for q, size in zip(quantizers, sizes, strict=True)]
    every = [edge for some in edges for edge in some]
    # Times 1, so that squares are summed one by one: pairs' energies, a millionth off, would blur many levels.
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
    """Angles of a Gaussian vector of unequal or correlated components and its sign, each rotation before the sign.

    The standard deviation of component i is exp(rate i), as in the original, unless a covariance is given. The
    smallest independent components, as many as together stay below float32's rounding of the whole vector (2^-24 of
    its length), are taken for 0: of a thousand with rate .1, all but 167.

    Hadamard rotations have fresh random signs for every vector; a power of two must be the dimension. Haar draws
    are spread over 16 rotations, and their standard errors are over those. Theory: `theory.correlated_sign_cosine`
    without a rotation; `theory.hadamard_sign_cosine` after one round, for independent components; and
    `theory.sign_angle` for Haar's rotation, for three rounds, and for the mean of two, which nearly come up to it.

    Args:
        dimensions: dimensions of the exponential case; ignored with a covariance.
        rotations: of `ROTATIONS`.
        rate: of the exponential.
        covariance: shape (d, d), or variances of shape (d,).
        draws: vectors per case.
        seed: of everything random.
        device: where vectors live.

    Raises HypersignError where an argument is out of range.

    >>> none, haar = rotated([100], draws=2000).cases
    >>> round(none.angle_degrees.predicted_mean, 1), round(haar.angle_degrees.predicted_mean, 2)
    (68.2, 36.83)
    """
    for rotation in _some("rotations", rotations):
        check_choice("a rotation", rotation, ROTATIONS)
    check_real("rate", rate, least=-10, most=10)
    given = None if covariance is None else np.asarray(covariance, dtype=np.float64)
    if given is not None:
        theory.correlated_sign_cosine(given)  # which says what is wrong with it
        dimensions = [given.shape[0]]
    cases = []
    for number, d in enumerate(_dimensions(dimensions)):
        if d & (d - 1) and any(rotation.startswith("hadamard") for rotation in rotations):
            raise HypersignError(f"a Hadamard rotation's dimension must be a power of two; got {d}")
        # The largest is 1: a factor changes no angle, and float32 holds nothing above 1e38.
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
    """Cosines with their sign of vectors of d after a Haar rotation, each block with the number of its rotation.

    A vector of independent components along any axes is turned like one along the first of d, so that as many rows
    of a rotation as there are components are all that is drawn of it and multiplied.
    """
    groups = min(HAAR_ROTATIONS, draws)
    for group in range(groups):
        frame = source.frame(len(spread), d)
        share = draws * (group + 1) // groups - draws * group // groups
        for x in _gaussian_blocks(len(spread), share, source, width=d):
            x *= spread
            yield group, _sign_cosine(x @ frame, x)


def _rotation_theory(rotation: str, covariance: np.ndarray) -> tuple[float, float, float, float]:
    """Mean and deviation of the cosine and of the angle; NaN for one round on correlated components."""
    d = len(covariance)
    if rotation == "none":
        moments = theory.correlated_sign_cosine(covariance), theory.correlated_sign_cosine_std(covariance)
    elif rotation == "hadamard-2":
        # The mean is nearly Haar's, the deviation not yet: .2 degrees more at d = 128.
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
    """Cosine of each vector y, as long as x, and its sign; y sign(y) is |y|, whatever the sign of 0."""
    return y.abs().sum(1) / (y.shape[1] * torch.linalg.vecdot(x, x)).sqrt()


def _components(covariance: np.ndarray, device: str) -> tuple[Tensor, Tensor]:
    """Standard deviations of the independent components, shape (k,), and what makes vectors of normals.

    The latter has shape (d, k), or for variances (d,), with zeros. Either is less the components that float32 does
    not see beside the others: products of them would come near 1e-38, where arithmetic is a hundred times slower.
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
    return [check_int("a dimension", d, least=1) for d in _some("dimensions", values)]


def _some(name: str, values: Sequence[Any]) -> Sequence[Any]:
    if not len(values):
        raise HypersignError(f"{name} must name at least one; got none")
    return values


CPU_BLOCK = 1 << 19
"""Numbers drawn at a time on a CPU: what is made of them then stays in its cache, and calls are few."""

GPU_BLOCK = 1 << 25


def _block_rows(draws: int, width: int, device: str) -> Iterator[int]:
    """Sizes of the blocks of vectors that the draws are done in."""
    rows = max(1, (CPU_BLOCK if device == "cpu" else GPU_BLOCK) // width)
    for start in range(0, draws, rows):
        yield min(rows, draws - start)


def _gaussian_blocks(d: int, draws: int, source: "_Source", *, width: int | None = None) -> Iterator[Tensor]:
    """Vectors of d independent standard normals, shape (rows, d), float32, on the source's device.

    Blocks are of as many as fit when each becomes a vector of `width`.
    """
    for rows in _block_rows(draws, width or d, source.device):
        yield source.normals(rows, d)


def _bit_generator(*streams: int) -> np.random.SFC64:
    return np.random.SFC64(np.random.SeedSequence([check_int("seed", stream, least=0) for stream in streams]))


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
        """Sums over `draws` vectors of d normals (times `scale`), in blocks; the first two have no products."""
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
        """The first k rows of a Haar rotation of d dimensions, but for signs, which no angle here sees; float32.

        The product of k Householder reflections, of vectors of d, d - 1, ... normals (Stewart 1980, "The efficient
        generation of random orthogonal matrices"), is I - V T V', V having these vectors for columns, and T the
        inverse of the upper triangle of V' V with half its diagonal (Puglisi 1992, "Modification of the Householder
        method based on the compact WY representation").
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
