"""`hadamard`: the Walsh-Hadamard transform of integers."""

import dataclasses

from hypersign._checks import HypersignError
from hypersign.packed import transforms
from hypersign.packed.operations.operation import NodeData, NodeShapes, Operation, Plan
from hypersign.packed.operations.rotated import check_norm, rotated_input
from hypersign.packed.values import Value

__all__ = ["Hadamard"]


class Hadamard(Operation):
    """The transform of all channels, whose number is a power of two; not scaled."""

    name = "hadamard"

    def check(self, node: NodeShapes) -> Value:
        x = rotated_input(node)
        if x.channels & (x.channels - 1):
            raise HypersignError(f"it transforms a power of two numbers; got {x}")
        return dataclasses.replace(x, norm=check_norm(transforms.hadamard_norm(x.norm, x.channels)))

    def plan(self, node: NodeData) -> Plan:
        n = node.input.channels
        return Plan(
            run=lambda v, threads: transforms.hadamard(v.reshape(-1, n), threads=threads)[:, None, None],
        )
