"""`zero_pad2d`: zeros around an image, and between its pixels."""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypersign import bits
from hypersign.packed.operations.operation import NodeData, NodeShapes, Operation, Plan
from hypersign.packed.values import Value

__all__ = ["ZeroPad2d"]


class ZeroPad2d(Operation):
    """`stride - 1` zeros between pixels, then rows and columns of zeros: levels become ternary.

    A transposed convolution is one of these and a convolution.
    """

    name = "zero_pad2d"
    options = ("stride", "before", "after")

    def check(self, node: NodeShapes) -> Value:
        x = node.input("levels", "real")
        stride = node.pair("stride", min=1)
        before, after = node.pair("before", min=0), node.pair("after", min=0)
        height, width = (
            (n - 1) * step + 1 + first + last
            for n, step, first, last in zip((x.height, x.width), stride, before, after, strict=True)
        )
        return dataclasses.replace(x, height=height, width=width, ternary=x.kind == "levels")

    def plan(self, node: NodeData) -> Plan:
        x, y, options = node.input, node.output, node.options
        rows, columns = (
            slice(first, first + (n - 1) * step + 1, step)
            for n, step, first in zip((x.height, x.width), options["stride"], options["before"], strict=True)
        )

        def spread(v: NDArray[Any]) -> NDArray[Any]:
            found = np.zeros((*v.shape[:-3], y.height, y.width, v.shape[-1]), v.dtype)
            found[..., rows, columns, :] = v
            return found

        if x.kind == "real" or x.ternary:
            return Plan(run=lambda v, threads: spread(v))
        ones = bits.pack(np.full((1, x.channels), -1.0))[0]  # a binary level is never 0
        return Plan(run=lambda v, threads: spread(np.stack([v, np.broadcast_to(ones, v.shape)])))
