"""Shared by operations on the sums of a rotated image: their input, and the bound on their length."""

from hypersign._checks import HypersignError
from hypersign.packed.operations.operation import NodeShapes
from hypersign.packed.transforms import LARGEST_SUM
from hypersign.packed.values import Value

__all__ = ["check_norm", "rotated_input"]


def rotated_input(node: NodeShapes) -> Value:
    """The one input, sums of a rotated image.

    Raises:
        HypersignError: the input is something else.
    """
    x = node.input("sums")
    if not x.norm:
        raise HypersignError(f"{node.op} takes the sums of a rotation, or what became of them; got {x}")
    return x


def check_norm(norm: int) -> int:
    """Returns the norm, which bounds every sum, or raises HypersignError where sums could pass 2^31 - 1."""
    if norm > LARGEST_SUM:
        raise HypersignError(f"its sums must stay within {LARGEST_SUM}; they could reach {norm}")
    return norm
