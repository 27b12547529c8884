"""The nodes of a packed graph and the values that flow between them."""

import dataclasses
from typing import Any, Literal, Protocol

import numpy as np

from hypersign._checks import HypersignError

__all__ = ["MOST_NUMBERS", "Kind", "Node", "Tensor", "Value", "check_size"]

MOST_NUMBERS = 2**26
"""Numbers in one value of one image, padding included."""

Kind = Literal["image", "levels", "sums", "real"]


@dataclasses.dataclass(frozen=True)
class Node:
    """One operation of a graph: its name, the names of its inputs (`"input"`, or nodes before it), its options."""

    op: str
    name: str
    inputs: tuple[str, ...]
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Value:
    """What flows between nodes: its kind ("image", "levels", "sums" or "real") and its shape for one image.

    `norm` bounds the Euclidean norm of the sums of a rotated image; it is 0 for all else.
    """

    kind: Kind
    height: int
    width: int
    channels: int
    ternary: bool = False
    norm: int = dataclasses.field(default=0, compare=False)

    def __str__(self) -> str:
        kind = "ternary levels" if self.ternary else self.kind
        return f"{kind} of {self.height} x {self.width} x {self.channels}"


class Tensor(Protocol):
    """Properties of a tensor that the check of a graph reads."""

    @property
    def dtype(self) -> np.dtype:
        """The type of its numbers."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Its sizes."""
        ...


def check_size(what: str, height: int, width: int, channels: int) -> None:
    """Raises HypersignError where a value has more than `MOST_NUMBERS` numbers per image."""
    if height * width * channels > MOST_NUMBERS:
        raise HypersignError(
            f"{what} must have at most {MOST_NUMBERS} numbers an image; {height} x {width} x {channels} are more"
        )
