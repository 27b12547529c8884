"""`clip`: numbers kept between two bounds."""

import numpy as np

from hypersign._checks import HypersignError, check_real
from hypersign.packed.operations.operation import NodeData, NodeShapes, Operation, Plan
from hypersign.packed.values import Value

__all__ = ["Clip"]


class Clip(Operation):
    """`min(max(x, low), high)`; a bound that is null does not bind."""

    name = "clip"
    options = ("low", "high")

    def check(self, node: NodeShapes) -> Value:
        bounds = [node.option(name) for name in self.options]
        for bound in bounds:
            if bound is not None:
                check_real("low and high", bound)
        if None not in bounds and bounds[0] > bounds[1]:
            raise HypersignError(f"low must be at most high; got {bounds}")
        return node.input("real")

    def plan(self, node: NodeData) -> Plan:
        low, high = (node.options[name] for name in self.options)
        ends = -np.inf if low is None else low, np.inf if high is None else high
        return Plan(
            run=lambda v, threads: np.clip(v, low, high), emit=lambda program, y, x: program.clip(y, x, *ends)
        )
