"""`resize2d`: an image of another height and width."""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypersign._checks import check_choice
from hypersign.packed.operations.operation import NodeData, NodeShapes, Operation, Plan
from hypersign.packed.operations.real_functions import rounded_once
from hypersign.packed.values import Value

__all__ = ["Resize2d"]

MODES = ("nearest", "bilinear", "bilinear_corners")


class Resize2d(Operation):
    """The nearest pixel, or the mean of the four nearest by their distance, as in torch.

    In the mode `bilinear_corners` the corners of both images lie on each other.
    """

    name = "resize2d"
    options = ("size", "mode")

    def check(self, node: NodeShapes) -> Value:
        height, width = node.pair("size", min=1)
        check_choice("mode", node.option("mode"), MODES)
        node.reserve(64 * (height + width))
        return dataclasses.replace(node.input("real"), height=height, width=width)

    def plan(self, node: NodeData) -> Plan:
        x, mode = node.input, node.options["mode"]
        ends = [_places(n, size, mode) for n, size in zip((x.height, x.width), node.options["size"], strict=True)]
        (top, _, _), (left, _, _) = ends
        if mode == "nearest":
            return Plan(run=lambda v, threads: v[:, top][:, :, left])

        def compute(v: NDArray[Any]) -> NDArray[Any]:
            for axis, (first, second, part) in enumerate(ends, start=1):
                part = part.reshape(-1, *[1] * (3 - axis))
                v = v.take(first, axis) * (1 - part) + v.take(second, axis) * part
            return v

        return rounded_once(compute)


def _places(n: int, size: int, mode: str) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """For each of `size` places: two of the `n` pixels, and the share of the second."""
    place = np.arange(size)
    if mode == "nearest":
        return place * n // size, place, np.zeros(size)
    if mode == "bilinear":
        where = np.maximum((place + 0.5) * (n / size) - 0.5, 0)
    else:
        where = place * ((n - 1) / max(size - 1, 1))
    first = np.minimum(where.astype(np.int64), n - 1)
    return first, np.minimum(first + 1, n - 1), where - first
