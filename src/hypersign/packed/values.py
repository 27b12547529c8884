"""Nodes of a packed graph, and the values that they pass to each other."""

import dataclasses
from typing import Any, Literal, Protocol

import numpy as np

from hypersign._checks import HypersignError

__all__ = ["MOST_NUMBERS", "Kind", "Node", "Tensor", "Value", "check_size"]

MOST_NUMBERS = 2**26
"""Maximum number of numbers in one value per image, padding included."""

Kind = Literal["image", "levels", "sums", "real"]


@dataclasses.dataclass(frozen=True)
class Node:
    """One operation of a graph: its name, its options, and its inputs (`"input"` or the names of earlier nodes)."""

    op: str
    name: str
    inputs: tuple[str, ...]
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Value:
    """The kind ("image", "levels", "sums" or "real") of a node's output, and its shape for one image.

    `norm` is an upper bound of the Euclidean norm of the sums of a rotated image. It is 0 for other values.
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
    """The properties of a tensor that `check_graph` reads."""

    @property
    def dtype(self) -> np.dtype:
        """The type of the tensor's numbers."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape."""
        ...


def check_size(what: str, height: int, width: int, channels: int) -> None:
    """Raises HypersignError if a value has more than `MOST_NUMBERS` numbers per image."""
    if height * width * channels > MOST_NUMBERS:
        raise HypersignError(
            f"{what} must have at most {MOST_NUMBERS} numbers per image; got {height} x {width} x {channels}"
        )
