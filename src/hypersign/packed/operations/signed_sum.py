"""`signed_sum`: a fully connected layer on the sums of a rotated image, by additions and negations."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypersign import bits
from hypersign.packed import transforms
from hypersign.packed.operations.operation import NodeData, NodeShapes, Operation, Plan
from hypersign.packed.operations.rotated import check_norm, rotated_input
from hypersign.packed.values import Value

__all__ = ["SignedSum"]


class SignedSum(Operation):
    """Sums of the numbers, times 2^exponent, with the signs of the filters' levels."""

    name = "signed_sum"
    options = ("exponent",)
    tensors = ("weight",)

    def check(self, node: NodeShapes) -> Value:
        x = rotated_input(node)
        words = -(-x.channels // 64)
        filters = node.tensor("weight", np.uint64, (-1, words), (2, -1, words)).shape[-2]
        exponent = node.integer("exponent", min=-30, max=0)
        # a sum with signs is at most sqrt(n) times the norm of what it sums, as a transform's is
        check_norm(transforms.hadamard_norm(transforms.shifted_norm(x.norm, x.channels, exponent), x.channels))
        return Value("sums", 1, 1, filters)

    def check_content(self, node: NodeData) -> None:
        node.check_levels("weight", node.input.channels)

    def plan(self, node: NodeData) -> Plan:
        n, exponent, words = node.input.channels, node.options["exponent"], node.tensors["weight"]
        levels = (bits.unpack if words.ndim == 2 else bits.unpack_ternary)(words, n)

        def run(v: NDArray[Any], threads: int) -> NDArray[Any]:
            y = transforms.shifted(v.reshape(-1, n), exponent)
            return transforms.signed_sums(y, levels).astype(np.int32)[:, None, None]

        return Plan(run=run)
