"""`attention`: softmax attention of queries, keys and values; the rows of an image are the heads."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from hypersign._checks import HypersignError, check_real
from hypersign.packed.functions import attention
from hypersign.packed.operations.operation import NodeData, NodeShapes, Operation, Plan
from hypersign.packed.operations.real_functions import rounded_once
from hypersign.packed.values import Value, check_size

__all__ = ["Attention"]


class Attention(Operation):
    """`softmax(scale q k^T) v` for each row of the image, in float64 and rounded once.

    With `causal` a query sees the keys up to its own position.
    """

    name = "attention"
    options = ("scale", "causal")
    arithmetic = "float32"

    def check(self, node: NodeShapes) -> Value:
        q = node.input("real", count=3)
        k, v = node.inputs[1:]
        check_real("scale", node.option("scale"))
        node.flag("causal")
        if not q.height == k.height == v.height or q.channels != k.channels or k.width != v.width:
            raise HypersignError(
                f"attention takes queries and keys of as many channels, keys and values as wide; got {q}, {k} and {v}"
            )
        check_size("its table of scores", q.height, q.width, k.width)
        return Value("real", q.height, q.width, v.channels)

    def plan(self, node: NodeData) -> Plan:
        q, k, _ = node.inputs
        scale = node.options["scale"]
        seen = np.tri(q.width, k.width, dtype=bool) if node.options["causal"] else None
        return rounded_once(lambda q, k, v: attention(q, k, v, scale, seen))

    def macs(self, options: Mapping[str, Any], x: Value, y: Value) -> int:
        return x.height * x.width * x.width * (x.channels + y.channels)  # with as many keys as queries
