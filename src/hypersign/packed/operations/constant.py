"""`constant`: numbers that the file holds, the same for every image."""

import numpy as np

from hypersign._checks import HypersignError
from hypersign.packed.operations.operation import NodeData, NodeShapes, Operation, Plan
from hypersign.packed.values import Value

__all__ = ["Constant"]


class Constant(Operation):
    """Learned positions, class tokens and the like."""

    name = "constant"
    tensors = ("value",)

    def check(self, node: NodeShapes) -> Value:
        if node.inputs:
            raise HypersignError(f"constant takes no inputs; got {len(node.inputs)}")
        height, width, channels = node.tensor("value", np.float32, (-1, -1, -1)).shape
        return Value("real", height, width, channels)

    def check_content(self, node: NodeData) -> None:
        node.check_finite("value")

    def plan(self, node: NodeData) -> Plan:
        value = node.tensors["value"][None]
        return Plan(run=lambda threads: value)
