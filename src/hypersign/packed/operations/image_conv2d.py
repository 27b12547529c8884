"""`image_conv2d`: a convolution of 8-bit pixels with packed filters, in integers."""

import math
from collections.abc import Mapping
from typing import Any

from hypersign import bits
from hypersign.bits.images import planned_image_conv2d
from hypersign.packed.operations.convolution import (
    WINDOW,
    check_convolution,
    check_sums,
    convolution_macs,
    covers_image,
    fan_in,
)
from hypersign.packed.operations.operation import NodeData, NodeShapes, Operation, Plan
from hypersign.packed.operations.thresholds import THRESHOLDS, check_threshold_content, sum_thresholds
from hypersign.packed.transforms import LARGEST_SUM
from hypersign.packed.values import Value

__all__ = ["ImageConv2d"]

LANES = 16
"""Filters are padded to a multiple of this for the kernels."""


class ImageConv2d(Operation):
    """Sums of `multiplier * pixel + shift` times the filters' levels; padding adds nothing."""

    name = "image_conv2d"
    options = (*WINDOW, "multiplier", "shift")
    tensors = ("weight", *THRESHOLDS)
    arithmetic = "integers"

    def check(self, node: NodeShapes) -> Value:
        x = node.input("image")
        multiplier = node.integer("multiplier", min=1, max=64)
        shift = node.integer("shift", min=-LARGEST_SUM, max=LARGEST_SUM)
        filters, height, width = check_convolution(node, x)
        count = fan_in(node.options, x.channels)
        positions = 1 if covers_image(node.options, x) else count // x.channels
        # at most five copies of the weights as int8; per position of the kernel, four int32 sums while they are made
        node.reserve(-(-filters // LANES) * LANES * (5 * (count + 3) + 16 * positions))
        # the kernel keeps pixels and shift apart, so each alone must fit
        largest = count * max(255 * multiplier, abs(shift), abs(255 * multiplier + shift))
        return check_sums(node, filters, height, width, largest)

    def check_content(self, node: NodeData) -> None:
        node.check_levels("weight", fan_in(node.options, node.input.channels))
        check_threshold_content(node)

    def plan(self, node: NodeData) -> Plan:
        x, options = node.input, dict(node.options)
        kernel, thresholds = options.pop("kernel"), sum_thresholds(node)
        if covers_image(node.options, x):  # a matrix product, which needs no sums per position of the kernel
            options |= {"stride": (1, 1), "dilation": (1, 1)}
            rows = bits.Filters(node.tensors["weight"], shape=(1, 1, math.prod(kernel) * x.channels))
            product = planned_image_conv2d(rows, **options, thresholds=thresholds)
            return Plan(bind=lambda v, out: product(v.reshape(len(v), 1, 1, -1), out))
        filters = bits.Filters(node.tensors["weight"], shape=(*kernel, x.channels))
        return Plan(bind=planned_image_conv2d(filters, **options, thresholds=thresholds))

    def macs(self, options: Mapping[str, Any], x: Value, y: Value) -> int:
        return convolution_macs(options, x, y)
