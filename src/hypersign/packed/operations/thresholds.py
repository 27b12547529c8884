"""Thresholds that turn numbers into levels: tensors `low`, `flip` and, for ternary levels, `high`."""

from typing import Any

import numpy as np

from hypersign import bits
from hypersign._checks import HypersignError
from hypersign.packed.operations.operation import NodeData, NodeShapes

__all__ = ["THRESHOLDS", "check_threshold_content", "check_thresholds", "sum_thresholds"]

THRESHOLDS = ("low", "high", "flip")
"""The tensors' roles."""


def check_thresholds(node: NodeShapes, channels: int, dtype: Any) -> bool:
    """Takes the tensors; returns whether they give ternary levels.

    Raises:
        HypersignError: a tensor is missing or has another dtype or shape.
    """
    ternary = node.has("high")
    for role in ("low", "high") if ternary else ("low",):
        node.tensor(role, dtype, (channels,))
    node.tensor("flip", np.bool_, (channels,))
    return ternary


def check_threshold_content(node: NodeData) -> None:
    """Checks the numbers of thresholds, where the node has any; they may be infinite, for a level that never changes.

    Raises:
        HypersignError: NaN, or a `low` above its `high`.
    """
    limits = {role: node.tensors[role] for role in ("low", "high") if role in node.tensors}
    for role, limit in limits.items():
        if np.isnan(limit).any():
            raise HypersignError(f"{node.name}.{role} must hold numbers; it holds NaN")
    if len(limits) == 2 and (limits["low"] > limits["high"]).any():
        raise HypersignError(f"{node.name}.low must be at most {node.name}.high in every channel")


def sum_thresholds(node: NodeData) -> bits.Thresholds | None:
    """The thresholds of a product's sums; None where it gives sums."""
    own = node.tensors
    return bits.Thresholds(own["low"], own["flip"], own.get("high")) if "low" in own else None
