"""`rearrange`: the numbers of an image in another order or shape."""

import math

import numpy as np
from numpy.typing import NDArray

from hypersign._checks import HypersignError, check_int
from hypersign.packed.operations.operation import NodeData, NodeShapes, Operation, Plan
from hypersign.packed.values import MOST_NUMBERS, Value

__all__ = ["Rearrange"]

MOST_AXES = 12


class Rearrange(Operation):
    """The numbers as an array of the sizes `split`, its axes in the `order`, seen as (height, width, channels)."""

    name = "rearrange"
    options = ("split", "order", "shape")

    def check(self, node: NodeShapes) -> Value:
        x = node.input("real")
        split, order, shape = (self._sizes(node, name) for name in self.options)
        if len(split) > MOST_AXES or sorted(order) != list(range(len(split))):
            raise HypersignError(f"order must name each axis of split, at most {MOST_AXES}, once; got {order}")
        count = x.height * x.width * x.channels
        if len(shape) != 3 or math.prod(split) != count or math.prod(shape) != count:
            raise HypersignError(f"split and shape must be sizes of {count} numbers; got {split} and {shape}")
        return Value("real", shape[0], shape[1], shape[2])

    @staticmethod
    def _sizes(node: NodeShapes, name: str) -> list[int]:
        found = node.option(name)
        if not isinstance(found, list | tuple):
            raise HypersignError(f"{name} must be a list of integers; got {found!r:.60}")
        return [check_int(name, size, min=0 if name == "order" else 1, max=MOST_NUMBERS) for size in found]

    def plan(self, node: NodeData) -> Plan:
        split, order, shape = (tuple(node.options[name]) for name in self.options)
        axes = (0, *(axis + 1 for axis in order))

        def run(v: NDArray[np.float32], threads: int) -> NDArray[np.float32]:
            return v.reshape(len(v), *split).transpose(axes).reshape(len(v), *shape)

        return Plan(run=run)
