"""Means and covariances of vectors that arrive in chunks."""

import shutil
import tempfile
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from hypersign._checks import HypersignError
from hypersign.geometry.covariance.patches import NUMBERS

__all__ = ["CovarianceAccumulator"]

_ROWS = 512  # rows per block of the covariance


class CovarianceAccumulator:
    """Accumulates vectors and computes their mean and centred covariance.

        mean = sum x / n,    C = sum (x - mean)(x - mean)' / n

    Each chunk is reduced in float64 about its own mean, and chunks are combined by Chan's formula. So a large mean
    costs no digits, results do not depend on how the vectors were divided into chunks, and accumulators of several
    processes can be added. A constant input has a variance of exactly 0. C is computed in blocks of 512 rows, on and
    above the diagonal only: besides C itself, memory holds one chunk and one block.

    Args:
        groups: the number of independent sets of vectors, all of the same dimension.
        dimension: the dimension d of the vectors.
        single: compute and keep C in float32, which takes half the memory and time; means stay float64.
        levels: True if every component is -1, 0 or +1. Then sums of products are integers and exact in float32,
            which takes half the time.
        device: the device that holds the accumulators; the CPU is used if it has no float64.
        mapped: keep C (8 groups d^2 bytes) in a mapped temporary file instead of memory. The file is in the folder
            that TMPDIR names, and disappears with the array.

    Raises:
        HypersignError: the file would not fit on its disk.

    Source: Chan, Golub & LeVeque 1983, "Algorithms for computing the sample variance".

    >>> sums = CovarianceAccumulator(1, 2)
    >>> sums.update(torch.tensor([[[1.0, 3.0], [5.0, 5.0]]]))  # (1, 5) and (3, 5)
    >>> mean, covariance = sums.result()
    >>> mean.tolist(), covariance.tolist()
    ([[2.0, 5.0]], [[[1.0, 0.0], [0.0, 0.0]]])
    """

    def __init__(
        self,
        groups: int,
        dimension: int,
        *,
        levels: bool = False,
        single: bool = False,
        device: torch.device | str = "cpu",
        mapped: bool = False,
    ) -> None:
        self.groups, self.dimension, self.levels = groups, dimension, levels
        self._reduced = 0
        device = torch.device("cpu" if mapped or torch.device(device).type == "mps" else device)
        self._mean = torch.zeros(groups, dimension, dtype=torch.float64, device=device)
        shape = (groups, dimension, dimension)
        dtype = torch.float32 if single else torch.float64
        self._scatter = _mapped(shape, dtype) if mapped else torch.zeros(shape, dtype=dtype, device=device)
        self._pending: list[Tensor] = []

    @property
    def device(self) -> torch.device:
        """The device of the sums."""
        return self._mean.device

    @property
    def kept(self) -> torch.dtype:
        """The type of the sums."""
        return self._scatter.dtype

    @property
    def dtype(self) -> torch.dtype:
        """The type in which products of vectors are summed within a chunk."""
        return torch.float32 if self.levels else self.kept

    @property
    def count(self) -> int:
        """The number of vectors added to each group."""
        return self._reduced + sum(part.shape[2] for part in self._pending)

    def update(self, vectors: Tensor) -> None:
        """Adds n < 2^24 vectors, of shape (groups, d, n) and any floating type; keeps them for a while, uncopied."""
        if not vectors.shape[2]:
            return
        self._pending.append(vectors)
        # Small batches are collected first, because reducing a chunk reads and writes all of C.
        if sum(part.numel() for part in self._pending) >= NUMBERS // 2:
            self._reduce()

    def _reduce(self) -> None:
        if not self._pending:
            return
        chunk = torch.cat(self._pending, dim=2).to(self.device, self.dtype)
        self._pending = []
        n = chunk.shape[2]
        mean = chunk.sum(2, dtype=torch.float64) / n
        if not self.levels:
            chunk = chunk - mean[..., None].to(self.dtype)

        def scatter(rows: slice) -> Tensor:
            block = (chunk[:, rows] @ chunk[:, rows.start :].mT).to(self.kept)
            if self.levels:  # levels were not centred
                block -= n * mean[:, rows, None] * mean[:, None, rows.start :]
            return block

        self._combine(n, mean, scatter)

    def combine(self, n: int, mean: Tensor, scatter: Tensor) -> None:
        """Adds n vectors by their mean, of shape (groups, d), and sum (x - mean)(x - mean)', (groups, d, d)."""
        self._combine(n, mean, lambda rows: scatter[:, rows, rows.start :])

    def _combine(self, n: int, mean: Tensor, scatter: Callable[[slice], Tensor]) -> None:
        """Adds n vectors; `scatter` gives rows of their scatter, from the diagonal on."""
        total = self._reduced + n
        shift = mean - self._mean
        for rows in self._blocks():
            block = scatter(rows) + self._reduced * n / total * shift[:, rows, None] * shift[:, None, rows.start :]
            self._scatter[:, rows, rows.start :] += block
        self._mean += shift * (n / total)
        self._reduced = total

    def _blocks(self) -> list[slice]:
        rows = max(1, min(_ROWS, NUMBERS // (self.groups * self.dimension)))
        return [slice(start, start + rows) for start in range(0, self.dimension, rows)]

    def merge(self, other: "CovarianceAccumulator") -> None:
        """Adds the vectors of another accumulator.

        Raises HypersignError if the two differ in groups or dimension.
        """
        ours, theirs = ((a.groups, a.dimension) for a in (self, other))
        if ours != theirs:
            raise HypersignError(
                f"accumulators must agree in groups and dimension to be merged; got {ours} and {theirs}"
            )
        for sums in (self, other):
            sums._reduce()
        total = self.count + other.count
        if not other.count:
            return
        shift = other._mean.to(self._mean.device) - self._mean
        for rows in self._blocks():
            block = other._scatter[:, rows, rows.start :].to(self._mean.device)
            both = self.count * other.count / total * shift[:, rows, None] * shift[:, None, rows.start :]
            self._scatter[:, rows, rows.start :] += block + both
        self._mean += shift * (other.count / total)
        self._reduced = total

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """The mean, of shape (groups, d), and the symmetric covariance, of shape (groups, d, d).

        The result uses the accumulator's memory, so do not use the accumulator again. Raises HypersignError if
        nothing was added.
        """
        self._reduce()
        if not self.count:
            raise HypersignError("a covariance needs at least one vector; none came")
        c = self._scatter
        for rows in self._blocks():
            c[:, rows, rows.start :] /= self.count
            square = c[:, rows, rows]
            c[:, rows, rows] = square.triu() + square.triu(1).mT
            c[:, rows.stop :, rows] = c[:, rows, rows.stop :].mT
        return self._mean.cpu().numpy(), c.cpu().numpy()


def _mapped(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Zeros in a mapped temporary file; the operating system writes pages that do not fit in memory to disk."""
    size, free = dtype.itemsize * int(np.prod(shape)), shutil.disk_usage(tempfile.gettempdir()).free
    if size > free:  # checked here, because a full disk would end the process at a later write
        raise HypersignError(
            f"a covariance of shape {shape} needs {size / 1e9:.1f} GB in {tempfile.gettempdir()}, which has "
            f"{free / 1e9:.1f} GB left: name a larger folder in TMPDIR, or raise memory_bytes"
        )
    with tempfile.TemporaryFile() as file:
        return torch.from_numpy(np.memmap(file, str(dtype).removeprefix("torch."), "w+", shape=shape))
