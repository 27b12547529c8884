"""`centre`: float32 numbers less the mean of their own image."""

import numpy as np
from numpy.typing import NDArray

from hypersign.packed.operations.operation import NodeData, NodeShapes, Operation, Plan
from hypersign.packed.values import Value

__all__ = ["Centre"]


class Centre(Operation):
    """`x - mean`, the mean over all rows, columns and channels of an image: summed in float64, rounded once."""

    name = "centre"

    def check(self, node: NodeShapes) -> Value:
        return node.input("real")

    def plan(self, node: NodeData) -> Plan:
        def run(v: NDArray[np.float32], threads: int) -> NDArray[np.float32]:
            return v - v.mean((1, 2, 3), dtype=np.float64, keepdims=True).astype(np.float32)

        return Plan(run=run)
