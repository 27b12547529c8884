"""`group_norm`: groups of channels, normalised over the whole image."""

import numpy as np
from numpy.typing import NDArray

from hypersign._checks import HypersignError, check_real
from hypersign.packed.operations.operation import NodeData, NodeShapes, Operation, Plan
from hypersign.packed.operations.real_functions import rounded_once
from hypersign.packed.values import Value

__all__ = ["GroupNorm"]


class GroupNorm(Operation):
    """`(x - mean) / sqrt(variance + eps) * scale + shift`, mean and variance of each group of channels."""

    name = "group_norm"
    options = ("groups", "eps")
    tensors = ("scale", "shift")

    def check(self, node: NodeShapes) -> Value:
        x = node.input("real")
        if x.channels % node.integer("groups", min=1):
            raise HypersignError(f"groups must divide the {x.channels} channels; got {node.option('groups')}")
        check_real("eps", node.option("eps"), min=0)
        for role in self.tensors:
            node.tensor(role, np.float32, (x.channels,))
        return x

    def check_content(self, node: NodeData) -> None:
        node.check_finite(*self.tensors)

    def plan(self, node: NodeData) -> Plan:
        scale, shift = (node.tensors[role].astype(np.float64) for role in self.tensors)
        groups, eps = node.options["groups"], node.options["eps"]

        def compute(x: NDArray[np.float64]) -> NDArray[np.float64]:
            apart = x.reshape(len(x), -1, groups, x.shape[-1] // groups)
            centred = apart - apart.mean((1, 3), keepdims=True)
            with np.errstate(divide="ignore", invalid="ignore"):  # eps may be 0
                normed = centred / np.sqrt(np.square(centred).mean((1, 3), keepdims=True) + eps)
            y: NDArray[np.float64] = normed.reshape(x.shape) * scale + shift
            return y

        return rounded_once(compute)
