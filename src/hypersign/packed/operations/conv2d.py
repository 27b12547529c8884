"""`conv2d`: a convolution of packed levels with packed filters, on bits."""

import math
from collections.abc import Mapping
from typing import Any

from hypersign import bits
from hypersign.packed.operations.convolution import (
    WINDOW,
    check_convolution,
    check_sums,
    convolution_macs,
    covers_image,
    fan_in,
    kernel_bytes,
)
from hypersign.packed.operations.operation import NodeData, NodeShapes, Operation, Plan, Product
from hypersign.packed.operations.thresholds import THRESHOLDS, check_threshold_content, sum_thresholds
from hypersign.packed.values import Value

__all__ = ["Conv2d"]


class Conv2d(Operation):
    """Sums of products of levels; a fully connected layer has a kernel of the whole image."""

    name = "conv2d"
    options = (*WINDOW, "groups", "pad_value")
    tensors = ("weight", *THRESHOLDS)
    arithmetic = "bits"

    def check(self, node: NodeShapes) -> Value:
        x = node.input("levels")
        node.integer("pad_value", min=0, max=1)
        ternary = node.is_ternary("weight")
        filters, height, width = check_convolution(node, x)
        options = node.options
        groups = options["groups"]
        node.reserve(kernel_bytes(filters, options["kernel"], x.channels // groups, groups, ternary))
        return check_sums(node, filters, height, width, fan_in(options, x.channels))

    def check_content(self, node: NodeData) -> None:
        node.check_levels("weight", fan_in(node.options, node.input.channels))
        check_threshold_content(node)

    def plan(self, node: NodeData) -> Plan:
        x, options = node.input, dict(node.options)
        kernel, groups = options.pop("kernel"), options.pop("groups")
        words, thresholds = node.tensors["weight"], sum_thresholds(node)
        if covers_image(node.options, x) and (x.channels % 64 == 0 or kernel == (1, 1)):
            # The image's words are the filter's words: rows of a matrix product.
            rows = bits.Filters(words, shape=(1, 1, math.prod(kernel) * x.channels))
            planned = rows.planned(thresholds=thresholds)
            product = None if thresholds else Product(rows, {}, flat=True)
            return Plan(bind=lambda v, out: planned(v.reshape(*v.shape[:-3], 1, 1, -1), out), product=product)
        filters = bits.Filters(words, shape=(*kernel, x.channels // groups), groups=groups)
        product = None if thresholds else Product(filters, options, flat=False)
        return Plan(bind=filters.planned(**options, thresholds=thresholds), product=product)

    def macs(self, options: Mapping[str, Any], x: Value, y: Value) -> int:
        return convolution_macs(options, x, y)
