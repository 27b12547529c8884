"""An evenly spread sample of a stream of vectors, and groups of similar vectors in it."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

__all__ = ["VectorSample", "similar_groups"]

_GOLDEN = (5**0.5 - 1) / 2
_FEATURES = 16
_ROUNDS = 10


class VectorSample:
    """Keeps between `size` and 2 `size` vectors of a stream, evenly spread, whatever the chunks.

    Vector t is kept if the fractional part of t times the golden ratio is below p: such t never line up with the rows
    of an image. p is halved when there are more than 2 `size`.

    >>> sample = VectorSample(10)
    >>> for chunk in torch.arange(1000.0).view(1, 1, 1000).split(100, dim=2): sample.update(chunk)
    >>> sample.places[:4].tolist(), len(sample.places)
    ([0, 34, 89, 178], 16)
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._count, self._share = 0, 1.0
        self._places: list[Tensor] = []
        self._vectors: list[Tensor] = []

    def update(self, vectors: Tensor) -> None:
        """Adds vectors of shape (groups, d, n)."""
        self.extend(vectors.shape[2], lambda places: vectors.index_select(2, places.to(vectors.device)))

    def extend(self, count: int, vectors_at: Callable[[Tensor], Tensor]) -> None:
        """Adds `count` vectors, of which `vectors_at` gives those at some places, of shape (groups, d, places)."""
        new = self._chosen(torch.arange(self._count, self._count + count))
        while sum(map(len, self._places)) + len(new) > 2 * self.size:
            self._share /= 2
            new = self._chosen(new)
            if self._places:
                places, vectors = self.places, self.vectors
                kept = self._chosen(places)
                self._places = [kept]
                self._vectors = [vectors[:, :, torch.isin(places, kept)]]
        self._places.append(new)
        self._vectors.append(vectors_at(new - self._count).cpu())
        self._count += count

    def _chosen(self, places: Tensor) -> Tensor:
        """Those of some places that are kept at the current share."""
        return places[(places.double() * _GOLDEN) % 1 < self._share]

    @property
    def places(self) -> Tensor:
        """Where the kept vectors are in the stream."""
        return torch.cat(self._places)

    @property
    def vectors(self) -> Tensor:
        """The kept vectors, of shape (groups, d, n)."""
        return torch.cat(self._vectors, dim=2)


def similar_groups(vectors: np.ndarray, number: int) -> np.ndarray:
    """Divides vectors into groups of similar ones, and returns the group of each.

    It is k-means on the 16 leading principal components (by subspace iteration), from random first centres; the
    result depends on the vectors alone.

    Args:
        vectors: shape (n, d).
        number: the number of groups; some may stay empty.

    >>> similar_groups(np.array([[0.0], [0.1], [5.0], [5.1]]), 2).tolist() in ([0, 0, 1, 1], [1, 1, 0, 0])
    True
    """
    generator = np.random.default_rng(0)
    n, d = vectors.shape
    if number < 2 or n < 2:
        return np.zeros(n, np.int64)
    basis = generator.standard_normal((d, min(_FEATURES, d, n)))
    for _ in range(3):
        basis = np.linalg.qr(vectors.T @ (vectors @ basis))[0]
    points = vectors @ basis
    centres = points[generator.choice(n, min(number, n), replace=False)]
    for _ in range(_ROUNDS):
        distances = (centres**2).sum(1) - 2 * points @ centres.T
        groups = distances.argmin(1)
        member = groups == np.arange(len(centres))[:, None]
        sizes = member.sum(1, keepdims=True)
        centres = np.where(sizes > 0, member @ points / np.maximum(sizes, 1), centres)
    return groups
