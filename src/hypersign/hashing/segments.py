"""Segments of an index: codes in the order of their ids. A segment never changes, so a search needs no lock.

An index is a tuple of segments. Adding appends a segment and merges the last ones while they are of similar size, so
n single additions make at most log2(n) segments and copy each code at most log2(n) times. Removing marks rows.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypersign._checks import HypersignError

__all__ = ["Segment", "appended", "check_ids", "merged"]

Ids = range | NDArray[np.int64]
MOST_ID = 2**63 - 1


@dataclasses.dataclass(frozen=True, eq=False)
class Segment:
    """Codes in ascending order of their ids.

    Attributes:
        codes: one row per code; may be mapped from a file.
        ids: int64 (n,), ascending, or a range.
        kept: bool (n,), False where a code was removed; None if none was.
    """

    codes: NDArray[Any]
    ids: Ids
    kept: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.codes) if self.kept is None else int(np.count_nonzero(self.kept))

    def numbered(self) -> bool:
        """Whether the ids are 0 to n - 1."""
        return isinstance(self.ids, range) and self.ids.start == 0 and self.kept is None

    def all_ids(self) -> NDArray[np.int64]:
        """The ids of all rows, also of removed ones."""
        ids = self.ids
        return np.arange(ids.start, ids.stop, dtype=np.int64) if isinstance(ids, range) else ids

    def at(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The ids of rows."""
        return rows + np.int64(self.ids.start) if isinstance(self.ids, range) else self.ids[rows]

    def find(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """The row of each id; -1 for ids that are not here or were removed."""
        if isinstance(self.ids, range):
            here = (ids >= self.ids.start) & (ids < self.ids.stop)
            rows = np.where(here, ids - np.int64(self.ids.start), -1)
        else:
            rows = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
            rows = np.where(self.ids[rows] == ids, rows, -1)
        return rows if self.kept is None else np.where(self.kept[rows], rows, -1)

    def last(self) -> int:
        """The largest id."""
        row = len(self.codes) - 1 if self.kept is None else len(self.codes) - 1 - int(self.kept[::-1].argmax())
        return int(self.ids[row])

    def without(self, rows: NDArray[np.int64]) -> "Segment":
        """The segment with some rows removed. It is rewritten when fewer than half of its rows are left."""
        kept = np.ones(len(self.codes), np.bool_) if self.kept is None else self.kept.copy()
        kept[rows] = False
        left = Segment(self.codes, self.ids, kept)
        return left if 2 * len(left) >= len(self.codes) else merged([left])

    def allowed(self, ids: NDArray[np.int64] | None) -> NDArray[np.bool_] | None:
        """Which rows may be found, bool (n,); None for all rows. `ids` are the allowed ids; None allows all."""
        if ids is None:
            return self.kept
        rows = self.find(ids)
        mask = np.zeros(len(self.codes), np.bool_)
        mask[rows[rows >= 0]] = True
        return mask


def merged(segments: Sequence[Segment]) -> Segment:
    """One segment with the rows of several that were not removed; ids must differ."""
    if len(segments) == 1 and segments[0].kept is None:
        return segments[0]
    ids = np.concatenate([s.all_ids() if s.kept is None else s.all_ids()[s.kept] for s in segments])
    codes = np.concatenate([s.codes if s.kept is None else s.codes[s.kept] for s in segments])
    return ordered(codes, ids)


def ordered(codes: NDArray[Any], ids: NDArray[np.int64]) -> Segment:
    """A segment of codes whose ids come in any order."""
    if len(ids) and not (ids[1:] > ids[:-1]).all():
        order = np.argsort(ids, kind="stable")
        codes, ids = codes[order], ids[order]
    first, last = (int(ids[0]), int(ids[-1])) if len(ids) else (0, -1)
    return Segment(codes, range(first, last + 1) if last - first + 1 == len(ids) else ids)


def appended(segments: tuple[Segment, ...], more: Segment) -> tuple[Segment, ...]:
    """The segments with another one, which is merged with those before it that are at most twice as large."""
    tail = [more]
    while segments and len(segments[-1].codes) <= 2 * sum(len(s.codes) for s in tail):
        tail.insert(0, segments[-1])
        segments = segments[:-1]
    return (*segments, merged(tail)) if sum(map(len, tail)) else segments


def check_ids(ids: object, count: int | None = None) -> NDArray[np.int64]:
    """Ids as int64 (n,). Raises HypersignError if they are no integers of 64 bits, or not `count` of them."""
    found = np.asarray(ids)
    wanted = "(n,)" if count is None else f"({count},)"
    if not found.size and found.ndim == 1:
        found = found.astype(np.int64)
    if found.dtype.kind not in "iu":
        raise HypersignError(
            f"ids must be integers of 64 bits; got {found.dtype}: number your keys, and keep a table of them"
        )
    if found.ndim != 1 or (count is not None and len(found) != count):
        raise HypersignError(f"ids must be of shape {wanted}; got {found.shape}")
    if found.dtype == np.uint64 and found.size and int(found.max()) > MOST_ID:
        raise HypersignError(f"ids must be at most {MOST_ID}; got {int(found.max())}")
    return found.astype(np.int64)
