"""`add`: the sum of two values."""

from hypersign._checks import HypersignError
from hypersign.packed.operations.operation import NodeData, NodeShapes, Operation, Plan
from hypersign.packed.values import Value

__all__ = ["Add", "check_broadcast"]


def check_broadcast(node: NodeShapes) -> Value:
    """The value that two real inputs give number by number; a size of 1 counts as the other's.

    Raises:
        HypersignError: they are not two real values, or two of their sizes differ and neither is 1.
    """
    x = node.input("real", count=2)
    sizes = [(value.height, value.width, value.channels) for value in node.inputs]
    for a, b in zip(*sizes, strict=True):
        if a != b and 1 not in (a, b):
            raise HypersignError(f"{node.op} takes two values of one shape; got {x} and {node.inputs[1]}")
    return Value("real", *(max(a, b) for a, b in zip(*sizes, strict=True)))


class Add(Operation):
    """Adds in float32; a height, width or number of channels of 1 counts as the other's."""

    name = "add"

    def check(self, node: NodeShapes) -> Value:
        return check_broadcast(node)

    def plan(self, node: NodeData) -> Plan:
        a, b = node.inputs
        if a != b:
            return Plan(run=lambda a, b, threads: a + b)
        return Plan(run=lambda a, b, threads: a + b, emit=lambda program, y, a, b: program.add(y, a, b))
