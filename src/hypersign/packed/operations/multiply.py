"""`multiply`: the product of two values, number by number."""

from hypersign.packed.operations.add import check_broadcast
from hypersign.packed.operations.operation import NodeData, NodeShapes, Operation, Plan
from hypersign.packed.values import Value

__all__ = ["Multiply"]


class Multiply(Operation):
    """Multiplies in float32; a height, width or number of channels of 1 counts as the other's."""

    name = "multiply"

    def check(self, node: NodeShapes) -> Value:
        return check_broadcast(node)

    def plan(self, node: NodeData) -> Plan:
        return Plan(run=lambda a, b, threads: a * b)
