"""`concat`: values side by side along the channels."""

import dataclasses

import numpy as np

from hypersign._checks import HypersignError
from hypersign.packed.operations.operation import NodeData, NodeShapes, Operation, Plan
from hypersign.packed.values import Value

__all__ = ["Concat"]


class Concat(Operation):
    """The channels of all inputs, in order; float32."""

    name = "concat"

    def check(self, node: NodeShapes) -> Value:
        x = node.input("real", count=max(len(node.inputs), 2))
        for value in node.inputs:
            if (value.height, value.width) != (x.height, x.width):
                raise HypersignError(f"concat takes values of one height and width; got {x} and {value}")
        return dataclasses.replace(x, channels=sum(value.channels for value in node.inputs))

    def plan(self, node: NodeData) -> Plan:
        return Plan(run=lambda *values, threads: np.concatenate(values, axis=-1))
