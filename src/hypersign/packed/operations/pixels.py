"""`pixels`: 8-bit pixels as the float32 numbers they stand for."""

import dataclasses

import numpy as np

from hypersign.packed.operations.operation import NodeData, NodeShapes, Operation, Plan
from hypersign.packed.values import Value

__all__ = ["Pixels"]


class Pixels(Operation):
    """`pixel * (high - low) / 255 + low`, where `pixel_range` is (low, high)."""

    name = "pixels"

    def check(self, node: NodeShapes) -> Value:
        return dataclasses.replace(node.input("image"), kind="real")

    def plan(self, node: NodeData) -> Plan:
        assert node.pixel_range is not None
        low, high = node.pixel_range
        scale, shift = np.float32((high - low) / 255), np.float32(low)
        rows = np.full(node.input.channels, scale), np.full(node.input.channels, shift)
        return Plan(run=lambda v, threads: v * scale + shift, emit=lambda program, y, x: program.affine(y, x, *rows))
