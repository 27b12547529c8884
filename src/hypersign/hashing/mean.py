"""The mean of vectors, without rounding: the same for every order, division and number of machines."""

import json
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ExactMean"]

UNIT = 1074
"""float64 numbers are integers times 2^-UNIT."""

PIECE = 1 << 15
"""Components summed at a time: 256 kB of float64, which fits into the caches."""

ROWS = 1 << 12
"""Most vectors summed at a time: float64 then keeps 40 bits of each."""


class ExactMean:
    """The sum of vectors as integers without rounding, and its quotient by their number, rounded once.

    Machines can each add a part of the vectors; `merge` then gives the mean of all, bit for bit that of one machine,
    for any division and order of the vectors. `to_bytes` carries a part, a few kilobytes, to another machine.

    >>> mean = ExactMean().add(np.array([[0.1, 1e300], [0.2, 1.0]]))
    >>> mean.merge(ExactMean().add(np.array([[0.3, -1e300]]))).value().tolist()
    [0.2, 0.3333333333333333]
    """

    def __init__(self) -> None:
        self.count = 0
        self._total: Any = 0  # integers of any size, times 2^-UNIT

    def add(self, block: NDArray[Any]) -> "ExactMean":
        """Adds finite vectors (rows, dimension) of real numbers."""
        rows = max(1, min(PIECE // max(block.shape[1], 1), ROWS))
        for start in range(0, len(block), rows):
            piece = block[start : start + rows]
            self._add_integers(piece) if piece.dtype.kind in "iub" else self._add_real(piece)
        self.count += len(block)
        return self

    def merge(self, other: "ExactMean") -> "ExactMean":
        """Adds the vectors that `other` has added."""
        self._total = self._total + other._total
        self.count += other.count
        return self

    @property
    def dimension(self) -> int:
        """Components of the vectors; 0 before the first."""
        return len(self._total) if self.count else 0

    def value(self) -> NDArray[np.float64]:
        """The mean, float64 (dimension,). At least one block must have been added."""
        return np.array([total / (self.count << UNIT) for total in self._total], np.float64)

    def to_bytes(self) -> bytes:
        """The sum and the number of vectors as JSON; `from_bytes` reads it."""
        total = [format(value, "x") for value in self._total] if self.count else []
        return json.dumps({"count": self.count, "total": total}).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> "ExactMean":
        """Reads what `to_bytes` gave.

        >>> ExactMean.from_bytes(ExactMean().add(np.array([[0.1, 2.0]])).to_bytes()).value().tolist()
        [0.1, 2.0]
        """
        found, mean = json.loads(data), cls()
        mean.count = found["count"]
        if mean.count:
            mean._total = np.array([int(value, 16) for value in found["total"]], object)
        return mean

    def _add_integers(self, x: NDArray[Any]) -> None:
        if x.itemsize == 8:  # in halves, because the sum of 64-bit integers may be longer
            self._add_sums((x >> 32).sum(0, dtype=np.int64), 32)
            x = x & np.asarray(0xFFFFFFFF, x.dtype)
        self._add_sums(x.sum(0, dtype=np.int64), 0)

    def _add_real(self, x: NDArray[Any]) -> None:
        rest = x.astype(np.float64)
        whole = np.empty_like(rest)
        kept = 53 - len(x).bit_length()
        while (top := max(rest.max(initial=0.0), -rest.min(initial=0.0))) > 0:
            # In units of 2^shift, whole parts have at most `kept` bits, so that float64 holds their sums exactly.
            shift = max(math.frexp(top)[1] - kept, -UNIT)
            small = shift < -900  # where 2^-shift is no float64
            np.ldexp(rest, -shift, out=whole) if small else np.multiply(rest, 2.0**-shift, out=whole)
            np.trunc(whole, out=whole)
            self._add_sums(whole.sum(0).astype(np.int64), shift)
            np.ldexp(whole, shift, out=whole) if small else np.multiply(whole, 2.0**shift, out=whole)
            rest -= whole

    def _add_sums(self, sums: NDArray[np.int64], shift: int) -> None:
        self._total = self._total + (sums.astype(object) << (shift + UNIT))
