"""`activation`: a function of each number."""

from hypersign._checks import check_choice
from hypersign.packed.functions import ACTIVATIONS
from hypersign.packed.operations.operation import NodeData, NodeShapes, Operation, Plan
from hypersign.packed.operations.real_functions import rounded_once
from hypersign.packed.values import Value

__all__ = ["Activation"]


class Activation(Operation):
    """GELU, SiLU, sigmoid and others, in float64 and rounded once."""

    name = "activation"
    options = ("function",)

    def check(self, node: NodeShapes) -> Value:
        check_choice("function", node.option("function"), ACTIVATIONS)
        return node.input("real")

    def plan(self, node: NodeData) -> Plan:
        return rounded_once(ACTIVATIONS[node.options["function"]])
