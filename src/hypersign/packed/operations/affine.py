"""`affine`: a scale and a shift per channel."""

import dataclasses

import numpy as np

from hypersign.bits.real import planned_affine
from hypersign.packed.operations.operation import NodeData, NodeShapes, Operation, Plan
from hypersign.packed.values import Value

__all__ = ["Affine"]


class Affine(Operation):
    """`scale * x + shift` in float32."""

    name = "affine"
    tensors = ("scale", "shift")

    def check(self, node: NodeShapes) -> Value:
        x = node.input("sums", "real")
        for role in self.tensors:
            node.tensor(role, np.float32, (x.channels,))
        return dataclasses.replace(x, kind="real")

    def check_content(self, node: NodeData) -> None:
        node.check_finite(*self.tensors)

    def plan(self, node: NodeData) -> Plan:
        scale, shift = node.tensors["scale"], node.tensors["shift"]
        return Plan(
            bind=planned_affine(scale, shift),
            emit=lambda program, y, x: program.affine(y, x, scale, shift),
            affine=(scale, shift),
        )
