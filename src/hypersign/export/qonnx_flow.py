"""What a value of a QONNX graph is while it is read: a value of the packed network, and what still waits."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from hypersign._checks import HypersignError

__all__ = ["Attributes", "Flow", "Step", "channels_of", "level_unit", "per_channel"]

Step = Callable[[NDArray[Any]], NDArray[Any]]
"""A scale and a shift of numbers (..., channels), in the numbers' own type."""


@dataclasses.dataclass(frozen=True)
class Flow:
    """A value of the packed network, and what is still to be done with its numbers.

    Args:
        node: the packed node that gives it, or the input.
        kind: "image", "levels", "sums" or "real".
        shape: (channels, height, width).
        flat: whether the file has it as (N, features), in the order (channel, row, column).
        largest: the largest absolute sum; 0 for other kinds.
        steps: scales and shifts that wait.
        pads: rows and columns of the constant 1 around it.
    """

    node: str
    kind: str
    shape: tuple[int, int, int]
    flat: bool = False
    largest: int = 0
    steps: tuple[Step, ...] = ()
    pads: tuple[int, int] = (0, 0)

    def apply(self, numbers: NDArray[Any]) -> NDArray[Any]:
        """The numbers (..., channels) after all steps."""
        for step in self.steps:
            numbers = step(numbers)
        return numbers

    def then(self, step: Step) -> "Flow":
        """The flow with one more step."""
        return dataclasses.replace(self, steps=(*self.steps, step))


class Attributes(dict[str, Any]):
    """The attributes of an operator."""

    def __init__(self, node: onnx.NodeProto) -> None:
        try:
            super().__init__({entry.name: helper.get_attribute_value(entry) for entry in node.attribute})
        except ValueError as error:
            raise HypersignError(f"an attribute cannot be read ({error!s:.100})") from error

    def of(self, name: str, default: Any) -> Any:
        """An attribute of the default's type, or the default.

        Raises:
            HypersignError: the attribute has another type.
        """
        value = self.get(name, default)
        fits = isinstance(value, type(default)) or (isinstance(default, float) and isinstance(value, int))
        if not fits or (isinstance(default, list) and not all(isinstance(part, int) for part in value)):
            raise HypersignError(f"its attribute {name} must be like {default!r}; it is {value!r:.60}")
        return value

    def pair(self, name: str, default: int) -> tuple[int, int]:
        """Two integers, vertical and horizontal, at least 1."""
        found = self.of(name, [default, default])
        if len(found) != 2 or min(found) < 1:
            raise HypersignError(f"its attribute {name} must be two integers from 1; it is {found}")
        return found[0], found[1]

    def padding(self) -> tuple[int, int]:
        """The attribute pads, as much on either side."""
        found = self.of("pads", [0, 0, 0, 0])
        if self.of("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID") or len(found) != 4 or found[:2] != found[2:]:
            raise HypersignError("padding must be stated as pads, as much on either side")
        return found[0], found[1]


def channels_of(flow: Flow) -> int:
    """The channels of a value on which numbers per channel act."""
    return flow.shape[0]


def per_channel(flow: Flow, numbers: NDArray[Any]) -> NDArray[Any]:
    """A constant as one number, or one per channel."""
    numbers = np.asarray(numbers)
    if numbers.size == 1:
        return numbers.reshape(())
    channels, height, width = flow.shape
    fits = (channels,) if flow.flat else (channels, 1, 1)
    shape = numbers.shape[1:] if numbers.ndim == len(fits) + 1 and numbers.shape[0] == 1 else numbers.shape
    if shape != fits or (flow.flat and (height, width) != (1, 1)):
        raise HypersignError(f"a constant must be one number, or one per channel; its shape is {numbers.shape}")
    return numbers.reshape(-1)


def level_unit(flow: Flow) -> tuple[float, NDArray[np.int8]]:
    """What the level 1 of a value became: its size, the same in all channels, and its sign in each."""
    minus, zero, plus = (flow.apply(np.full((1, channels_of(flow)), number, np.float32))[0] for number in (-1, 0, 1))
    unit = np.abs(plus)
    if not (np.array_equal(minus, -plus) and not zero.any() and unit[0] > 0 and (unit == unit[0]).all()):
        raise HypersignError("its levels must be -s, 0 and +s with one s for all channels")
    return float(unit[0]), np.sign(plus).astype(np.int8)
