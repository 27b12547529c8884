"""`quantize`: numbers to packed levels, by thresholds."""

import dataclasses
from typing import Any

import numpy as np

from hypersign.bits import reference
from hypersign.bits.words import planned_pack
from hypersign.packed.operations.operation import NodeData, NodeShapes, Operation, Plan
from hypersign.packed.operations.thresholds import THRESHOLDS, check_threshold_content, check_thresholds
from hypersign.packed.values import Value

__all__ = ["Quantize"]

DTYPES: dict[str, np.dtype[Any]] = {
    "image": np.dtype(np.uint8),
    "sums": np.dtype(np.int32),
    "real": np.dtype(np.float32),
}
"""The type of the input's numbers, by its kind."""


class Quantize(Operation):
    """The levels of pixels, sums or real numbers."""

    name = "quantize"
    tensors = THRESHOLDS

    def check(self, node: NodeShapes) -> Value:
        x = node.input("image", "sums", "real")
        ternary = check_thresholds(node, x.channels, np.float32 if x.kind == "real" else np.int32)
        return dataclasses.replace(x, kind="levels", ternary=ternary)

    def check_content(self, node: NodeData) -> None:
        check_threshold_content(node)

    def plan(self, node: NodeData) -> Plan:
        limits = [node.tensors[name] for name in ("low", "high") if name in node.tensors]
        x, flip = node.input, node.tensors["flip"]
        bind = planned_pack(DTYPES[x.kind], x.channels, limits, flip)
        if x.kind != "real":
            return Plan(bind=bind)
        flips, high = reference.pack_bits(flip), limits[1] if len(limits) == 2 else None
        return Plan(bind=bind, emit=lambda program, y, x: program.levels(y, x, limits[0], high, flips))
