"""`unpack`: packed levels as float32."""

import dataclasses

import numpy as np

from hypersign import bits
from hypersign.packed.operations.operation import NodeData, NodeShapes, Operation, Plan
from hypersign.packed.values import Value

__all__ = ["Unpack"]


class Unpack(Operation):
    """-1, 0 and +1."""

    name = "unpack"

    def check(self, node: NodeShapes) -> Value:
        return dataclasses.replace(node.input("levels"), kind="real", ternary=False)

    def plan(self, node: NodeData) -> Plan:
        unpack = bits.unpack_ternary if node.input.ternary else bits.unpack
        return Plan(run=lambda v, threads: unpack(v, node.input.channels).astype(np.float32))
