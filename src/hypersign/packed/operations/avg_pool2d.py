"""`avg_pool2d`: the mean of each window of float32 numbers."""

import numpy as np
from numpy.typing import NDArray

from hypersign.packed.operations.operation import NodeData, NodeShapes, Operation, Plan
from hypersign.packed.operations.pooling import POOLING, check_pool, planned_pool, reduce_windows
from hypersign.packed.values import Value

__all__ = ["AvgPool2d"]


class AvgPool2d(Operation):
    """The mean; padded positions are zeros, counted where `count_include_pad` is true."""

    name = "avg_pool2d"
    options = (*POOLING, "count_include_pad")

    def check(self, node: NodeShapes) -> Value:
        node.flag("count_include_pad")
        return check_pool(node, node.input("real"))

    def plan(self, node: NodeData) -> Plan:
        x, y, options = node.input, node.output, node.options
        window = {name: options[name] for name in ("size", "stride", "padding")}
        counts = []
        for axis, (length, n) in enumerate(((x.height, y.height), (x.width, y.width))):
            k, step, pad = (window[name][axis] for name in ("size", "stride", "padding"))
            start = np.arange(n) * step - pad
            stop = np.minimum(start + k, length + pad)
            inside = np.minimum(stop, length) - np.maximum(start, 0)
            counts.append(stop - start if options["count_include_pad"] else inside)

        divisors = np.outer(*counts).astype(np.float32)

        def reference(v: NDArray[np.float32]) -> NDArray[np.float32]:
            return reduce_windows(v, (y.height, y.width), np.add, 0.0, **window) / divisors[:, :, None]

        return Plan(bind=planned_pool(reference, **window, divisors=divisors))
