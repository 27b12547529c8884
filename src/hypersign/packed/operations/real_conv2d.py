"""`real_conv2d`: a convolution of float32 images, with float32 filters or packed ones."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from hypersign import bits
from hypersign.bits.real import planned_real_conv2d
from hypersign.packed.operations.convolution import (
    WINDOW,
    check_convolution,
    convolution_macs,
    covers_image,
    fan_in,
)
from hypersign.packed.operations.operation import NodeData, NodeShapes, Operation, Plan
from hypersign.packed.values import Value

__all__ = ["RealConv2d"]


class RealConv2d(Operation):
    """Sums of products in float64, each rounded to float32 once."""

    name = "real_conv2d"
    options = (*WINDOW, "groups")
    tensors = ("weight",)
    arithmetic = "float32"

    def check(self, node: NodeShapes) -> Value:
        filters, height, width = check_convolution(node, node.input("real"))
        return Value("real", height, width, filters)

    def check_content(self, node: NodeData) -> None:
        node.check_finite("weight")
        if node.tensors["weight"].dtype == np.uint64:
            node.check_levels("weight", fan_in(node.options, node.input.channels))

    def plan(self, node: NodeData) -> Plan:
        x, options = node.input, dict(node.options)
        kernel, weight = options.pop("kernel"), node.tensors["weight"]
        if weight.dtype == np.uint64:
            shape = (*kernel, x.channels // options["groups"])
            weight = bits.Filters(weight, shape=shape).levels().astype(np.float32)
        if x.channels == 1 and kernel == (1, 1) == options["stride"] and options["padding"] == (0, 0):
            scales = weight.reshape(-1)  # one product per number, which float32 rounds as a float64 sum is rounded
            return Plan(run=lambda v, threads: v * scales, emit=lambda program, y, x: program.outer(y, x, scales))
        bias = np.zeros(len(weight), np.float32)
        if covers_image(node.options, x):
            planned = planned_real_conv2d(np.ascontiguousarray(weight.reshape(len(weight), 1, 1, -1)), bias)
            return Plan(bind=lambda v, out: planned(v.reshape(len(v), 1, 1, -1), out))
        return Plan(bind=planned_real_conv2d(np.ascontiguousarray(weight), bias, **options))

    def macs(self, options: Mapping[str, Any], x: Value, y: Value) -> int:
        return convolution_macs(options, x, y)
