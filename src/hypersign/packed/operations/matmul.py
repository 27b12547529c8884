"""`matmul`: the matrix product of two values, row by row of the images."""

from collections.abc import Mapping
from typing import Any

from hypersign._checks import HypersignError
from hypersign.packed.operations.operation import NodeData, NodeShapes, Operation, Plan
from hypersign.packed.operations.real_functions import rounded_once
from hypersign.packed.values import Value

__all__ = ["MatMul"]


class MatMul(Operation):
    """For each row of the image: (width, channels) times (width, channels), in float64 and rounded once."""

    name = "matmul"
    arithmetic = "float32"

    def check(self, node: NodeShapes) -> Value:
        a = node.input("real", count=2)
        b = node.inputs[1]
        if a.height != b.height or a.channels != b.width:
            raise HypersignError(
                f"matmul takes values of one height, the second as wide as the first has channels; got {a} and {b}"
            )
        return Value("real", a.height, a.width, b.channels)

    def plan(self, node: NodeData) -> Plan:
        return rounded_once(lambda a, b: a @ b)

    def macs(self, options: Mapping[str, Any], x: Value, y: Value) -> int:
        return x.height * x.width * x.channels * y.channels
