"""`max_pool2d`: the largest number of each window, of packed levels too."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypersign.bits.pooling import flip_mask, planned_max_pool2d
from hypersign.packed.operations.operation import NodeData, NodeShapes, Operation, Plan
from hypersign.packed.operations.pooling import POOLING, check_pool, planned_pool, reduce_windows
from hypersign.packed.values import Value

__all__ = ["MaxPool2d"]


class MaxPool2d(Operation):
    """The maximum; levels of the channels in `flip` are negated afterwards. Padded positions never win."""

    name = "max_pool2d"
    options = POOLING
    tensors = ("flip",)

    def check(self, node: NodeShapes) -> Value:
        x = node.input("levels", "sums", "real")
        if x.kind == "levels":
            node.tensor("flip", np.bool_, (x.channels,))
        return check_pool(node, x)

    def plan(self, node: NodeData) -> Plan:
        x, y, options = node.input, node.output, dict(node.options)
        del options["ceil_mode"]  # the output's size tells
        if x.kind == "levels":
            mask = flip_mask(node.tensors["flip"], -(-x.channels // 64))
            return Plan(bind=planned_max_pool2d(mask, **options))

        def largest(v: NDArray[Any]) -> NDArray[Any]:
            lowest = -np.inf if v.dtype.kind == "f" else np.iinfo(v.dtype).min
            return reduce_windows(v, (y.height, y.width), np.maximum, lowest, **options)

        if x.kind == "real":
            return Plan(bind=planned_pool(largest, **options))
        return Plan(run=lambda v, threads: largest(v))
