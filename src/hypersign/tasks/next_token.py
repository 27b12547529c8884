"""Next-token prediction: one token per position of a sequence."""

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from hypersign._checks import HypersignError
from hypersign.tasks.base import Task, check_numbers

__all__ = ["NextToken"]


@dataclasses.dataclass(frozen=True)
class NextToken(Task):
    """The token that follows, at each position of a sequence: the one with the largest logit.

    Outputs are logits, shape `(N, T, V)` for N sequences of T positions and a vocabulary of V tokens; targets are
    token numbers, shape `(N, T)`. Of tokens `(N, T + 1)` the inputs are `tokens[:, :-1]`, the targets
    `tokens[:, 1:]`.

        loss = mean_{n,t} -ln softmax(z_nt)[target of n, t]   nats a token,   bits_per_token = loss / ln 2

    With characters as tokens these are bits per character. The other metric is `accuracy`; the best weights are
    those with the lowest loss.

    >>> import torch
    >>> task = NextToken()
    >>> logits, tokens = torch.zeros(1, 3, 4), torch.tensor([[0, 3, 1]])
    >>> round(task.loss(logits, tokens).item(), 4), (task.measure(logits, tokens)["bits_per_token"] / 3).item()
    (1.3863, 2.0)
    """

    name: ClassVar[str] = "next token"
    metrics: ClassVar[Mapping[str, str]] = {"bits_per_token": ".3f", "accuracy": "6.2%"}

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        """Raises HypersignError where logits or targets have another shape, or a target is no token."""
        if outputs.dim() != 3:
            raise HypersignError(
                "the network must give logits of shape (N, positions, vocabulary); "
                f"it gives {tuple(outputs.shape)}: bring the vocabulary to the last axis"
            )
        if targets.shape != outputs.shape[:2]:
            raise HypersignError(
                f"targets must be token numbers of shape {tuple(outputs.shape[:2])}, one per position; "
                f"got shape {tuple(targets.shape)}"
            )
        check_numbers("tokens", targets, outputs.shape[2])

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy in nats, mean over all positions."""
        return nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())

    def decide(self, outputs: Tensor) -> Tensor:
        """The most likely token, shape `(N, T)`."""
        return outputs.argmax(2)

    def measure(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Bits, and the number of tokens predicted right, summed over all positions."""
        return {
            "bits_per_token": self.loss(outputs, targets) * (targets.numel() / math.log(2)),
            "accuracy": self.correct(outputs, targets).sum(),
        }
