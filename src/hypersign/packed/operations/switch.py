"""`switch`: each number is shifted right and perhaps negated, by what its sign chooses."""

import dataclasses

import numpy as np

from hypersign.packed import transforms
from hypersign.packed.operations.operation import NodeData, NodeShapes, Operation, Plan
from hypersign.packed.operations.rotated import rotated_input
from hypersign.packed.values import Value

__all__ = ["Switch"]


class Switch(Operation):
    """Slopes of 1, 1/2, 1/4 or 1/8 with a sign, for numbers >= 0 and below; and 2^exponent for all."""

    name = "switch"
    options = ("exponent",)
    tensors = ("slopes",)

    def check(self, node: NodeShapes) -> Value:
        x = rotated_input(node)
        node.tensor("slopes", np.uint64, (2, 3, -(-x.channels // 64)))
        exponent = node.integer("exponent", min=-28, max=0)
        return dataclasses.replace(x, norm=transforms.shifted_norm(x.norm, x.channels, exponent))

    def check_content(self, node: NodeData) -> None:
        node.check_unused_bits("slopes", node.input.channels)

    def plan(self, node: NodeData) -> Plan:
        minus, shifts = transforms.slopes(node.tensors["slopes"], node.input.channels)
        shifts -= node.options["exponent"]
        return Plan(run=lambda v, threads: transforms.switch(v, minus, shifts))
