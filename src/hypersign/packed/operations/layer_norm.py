"""`layer_norm`: the channels of each pixel, normalised."""

import numpy as np
from numpy.typing import NDArray

from hypersign._checks import check_real
from hypersign.packed.operations.operation import NodeData, NodeShapes, Operation, Plan
from hypersign.packed.operations.real_functions import rounded_once
from hypersign.packed.values import Value

__all__ = ["LayerNorm"]


class LayerNorm(Operation):
    """`(x - mean) / sqrt(variance + eps) * scale + shift` over channels; without `centre` the mean counts as 0."""

    name = "layer_norm"
    options = ("eps", "centre")
    tensors = ("scale", "shift")

    def check(self, node: NodeShapes) -> Value:
        x = node.input("real")
        check_real("eps", node.option("eps"), min=0)
        node.flag("centre")
        for role in self.tensors:
            node.tensor(role, np.float32, (x.channels,))
        return x

    def check_content(self, node: NodeData) -> None:
        node.check_finite(*self.tensors)

    def plan(self, node: NodeData) -> Plan:
        scale, shift = (node.tensors[role].astype(np.float64) for role in self.tensors)
        eps, centre = node.options["eps"], node.options["centre"]

        def compute(x: NDArray[np.float64]) -> NDArray[np.float64]:
            if centre:
                x = x - x.mean(-1, keepdims=True)
            with np.errstate(divide="ignore", invalid="ignore"):  # eps may be 0
                y: NDArray[np.float64] = x / np.sqrt(np.square(x).mean(-1, keepdims=True) + eps) * scale + shift
            return y

        return rounded_once(compute)
