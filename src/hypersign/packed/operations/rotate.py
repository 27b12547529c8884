"""`rotate`: a random rotation of the pixels, by signs and Walsh-Hadamard transforms of integers."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypersign import bits
from hypersign._checks import HypersignError
from hypersign.packed import transforms
from hypersign.packed.operations.operation import NodeData, NodeShapes, Operation, Plan
from hypersign.packed.operations.rotated import check_norm
from hypersign.packed.values import Value, check_size

__all__ = ["Rotate"]

MOST_ROUNDS = 126
"""Rounds of two numbers or more after which sums could reach 2^63, even those of pixels up to 1."""


class Rotate(Operation):
    """Rounds of sign flips and transforms of `multiplier * pixel + shift`, then times 2^exponent, rounded down."""

    name = "rotate"
    options = ("multiplier", "shift", "size", "outputs", "exponent")
    tensors = ("signs",)

    def check(self, node: NodeShapes) -> Value:
        x = node.input("image")
        multiplier = node.integer("multiplier", min=1, max=2)
        shift = node.integer("shift", min=-(2**16), max=2**16)
        size = node.integer("size", min=1, max=2**24)
        outputs = node.integer("outputs", min=1, max=size)
        count = x.height * x.width * x.channels
        if size & (size - 1) or size < count:
            raise HypersignError(
                f"size must be a power of two that holds the {count} numbers of an image; got {size}"
            )
        check_size("its padded input", 1, 1, size)
        rounds = node.tensor("signs", np.uint64, (-1, -(-size // 64))).shape[0]
        # more rounds only take longer to bound: those of one number do not grow, all others are refused already
        norm = _norm(multiplier, shift, count, size, min(rounds, MOST_ROUNDS))
        if norm >= 2**63:
            raise HypersignError(f"its sums must stay below 2^63; {rounds} rounds could take them to {norm} or more")
        norm = transforms.shifted_norm(norm, size, node.integer("exponent", min=-62, max=16))
        return Value("sums", 1, 1, outputs, norm=check_norm(norm))

    def check_content(self, node: NodeData) -> None:
        node.check_unused_bits("signs", node.options["size"])

    def plan(self, node: NodeData) -> Plan:
        x, options = node.input, node.options
        multiplier, shift, size = options["multiplier"], options["shift"], options["size"]
        minus = bits.unpack(node.tensors["signs"], size) < 0
        norm = _norm(multiplier, shift, x.height * x.width * x.channels, size, min(len(minus), MOST_ROUNDS))
        dtype = np.int32 if norm <= transforms.LARGEST_SUM else np.int64

        def run(v: NDArray[Any], threads: int) -> NDArray[Any]:
            y: Any = v.transpose(0, 3, 1, 2).reshape(len(v), -1).astype(dtype)
            y = (y + y if multiplier == 2 else y) + shift
            y = transforms.rotate(y, minus, outputs=options["outputs"], exponent=options["exponent"], threads=threads)
            return y[:, None, None]

        return Plan(run=run)


def _norm(multiplier: int, shift: int, count: int, size: int, rounds: int) -> int:
    """The Euclidean norm that the numbers of an image can have after all rounds."""
    return transforms.rotated_norm(max(abs(shift), abs(255 * multiplier + shift)), count, size, rounds)
