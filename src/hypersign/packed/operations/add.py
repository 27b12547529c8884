"""`add`: the sum of two values of one shape."""

from hypersign._checks import HypersignError
from hypersign.packed.operations.operation import NodeData, NodeShapes, Operation, Plan
from hypersign.packed.values import Value

__all__ = ["Add"]


class Add(Operation):
    """Adds a shortcut, in float32."""

    name = "add"

    def check(self, node: NodeShapes) -> Value:
        x = node.input("real", count=2)
        if node.inputs[1] != x:
            raise HypersignError(f"add takes two values of one shape; got {x} and {node.inputs[1]}")
        return x

    def plan(self, node: NodeData) -> Plan:
        return Plan(run=lambda a, b, threads: a + b, emit=lambda program, y, a, b: program.add(y, a, b))
