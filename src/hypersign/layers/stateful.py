"""Networks for sequences that carry a state: from batch to batch, and from token to token."""

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

__all__ = ["Memory", "SequenceNetwork", "Stateful", "carrying"]

Memory = list[tuple[Tensor, ...]]
"""What a network keeps of the tokens so far: tensors per layer."""


class SequenceNetwork(nn.Module):
    """A network that can read a sequence in pieces: what it keeps of one piece goes into the next.

    `read(inputs, memory)` gives outputs and the new memory; without a memory a sequence begins.
    """

    def read(self, inputs: Tensor, memory: Memory | None = None) -> tuple[Tensor, Memory]:
        """Outputs for a piece of a sequence, and the memory after it."""
        raise NotImplementedError


class Stateful(SequenceNetwork):
    """A network whose state can carry on from each batch to the next, detached: truncated backpropagation.

    While `carry` is true, each call starts from the states that the last call ended with.
    """

    carry = False
    states: Memory | None = None

    def initial(self, count: int) -> Memory:
        """The states that `count` sequences start from."""
        raise NotImplementedError

    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs, `(N, ...)`."""
        outputs, states = self.read(inputs, self.states if self.carry else None)
        if self.carry:
            self.states = [tuple(part.detach() for part in parts) for parts in states]
        return outputs


@contextlib.contextmanager
def carrying(model: Any, batches: Any) -> Iterator[None]:
    """Carries the states of a `Stateful` network over batches that continue each other; others do not change.

    States start new, and afterwards the network has its old ones.
    """
    if not isinstance(model, Stateful):
        yield
        return
    before = model.carry, model.states
    model.carry, model.states = getattr(batches, "streams", False), None
    try:
        yield
    finally:
        model.carry, model.states = before
