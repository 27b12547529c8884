"""`softmax`: the softmax over the channels, or its logarithm."""

from hypersign.packed.functions import log_softmax, softmax
from hypersign.packed.operations.operation import NodeData, NodeShapes, Operation, Plan
from hypersign.packed.operations.real_functions import rounded_once
from hypersign.packed.values import Value

__all__ = ["Softmax"]


class Softmax(Operation):
    """`exp(x) / sum exp(x)` over the channels of each pixel, in float64 and rounded once."""

    name = "softmax"
    options = ("log",)

    def check(self, node: NodeShapes) -> Value:
        node.flag("log")
        return node.input("real")

    def plan(self, node: NodeData) -> Plan:
        return rounded_once(log_softmax if node.options["log"] else softmax)
