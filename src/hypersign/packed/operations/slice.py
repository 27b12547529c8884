"""`slice`: some of the rows, columns or channels of an image."""

import dataclasses
from typing import Any

from hypersign._checks import HypersignError
from hypersign.packed.operations.operation import NodeData, NodeShapes, Operation, Plan
from hypersign.packed.values import Value

__all__ = ["Slice"]

AXES = ("height", "width", "channels")


class Slice(Operation):
    """Every `step`-th from `start` up to `stop`, along `axis`: 0 for rows, 1 for columns, 2 for channels."""

    name = "slice"
    options = ("axis", "start", "stop", "step")

    def check(self, node: NodeShapes) -> Value:
        x = node.input("real")
        axis = AXES[node.integer("axis", min=0, max=2)]
        size: int = getattr(x, axis)
        start, stop = node.integer("start", min=0, max=size), node.integer("stop", min=0, max=size)
        if start >= stop:
            raise HypersignError(f"start must be below stop; got {start} and {stop}")
        count = len(range(start, stop, node.integer("step", min=1, max=size)))
        sizes: dict[str, Any] = {axis: count}
        return dataclasses.replace(x, **sizes)

    def plan(self, node: NodeData) -> Plan:
        options = node.options
        part = slice(options["start"], options["stop"], options["step"])
        index = (slice(None),) * (options["axis"] + 1) + (part,)
        return Plan(run=lambda v, threads: v[index])
