"""Classification: one class per image."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from hypersign._checks import HypersignError
from hypersign.tasks.base import Loss, Task, check_numbers

__all__ = ["LOSSES", "Classification", "cross_entropy", "squared_hinge"]


def squared_hinge(logits: Tensor, labels: Tensor) -> Tensor:
    """Squared hinge loss against targets of -1 and +1, mean over batch and classes.

        L = mean_{n,c} max(0, 1 - t_nc z_nc)^2,     t_nc = +1 if c is the label of n else -1

    Args:
        logits: z, shape `(N, classes)`.
        labels: class numbers, shape `(N,)`.

    Source: Courbariaux & Hubara 2016 (arXiv 1602.02830); Anderson & Berg 2018.

    >>> squared_hinge(torch.tensor([[2.0, 0.0]]), torch.tensor([0])).item()
    0.5
    """
    targets = torch.full_like(logits, -1.0).scatter_(1, labels[:, None], 1.0)
    return (1 - targets * logits).clamp(min=0).square().mean()


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Softmax cross-entropy, mean over the batch: L = mean_n -log softmax(z_n)[label of n].

    >>> round(cross_entropy(torch.zeros(1, 10), torch.tensor([3])).item(), 4)
    2.3026
    """
    return nn.functional.cross_entropy(logits, labels)


LOSSES: dict[str, Loss] = {"squared-hinge": squared_hinge, "cross-entropy": cross_entropy}
"""The losses that a recipe names."""


@dataclasses.dataclass(frozen=True)
class Classification(Task):
    """One class per example: the one with the largest logit.

    Outputs are logits, shape `(N, classes)`; targets are class numbers, shape `(N,)`. The metric is `accuracy`, and
    the best weights are those with the highest.

    Args:
        loss: mean loss of a batch.

    >>> task = Classification()
    >>> logits, labels = torch.tensor([[2.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 1])
    >>> task.decide(logits).tolist(), task.correct(logits, labels).tolist()
    ([0, 0], [True, False])
    """

    name: ClassVar[str] = "classification"

    loss: Loss = cross_entropy

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        """Raises HypersignError where logits or labels have another shape, or a label is no class."""
        if outputs.dim() != 2:
            raise HypersignError(
                f"the network must give logits of shape (N, classes); it gives {tuple(outputs.shape)}: "
                "end it with a Flatten, or choose another task"
            )
        if targets.shape != outputs.shape[:1]:
            raise HypersignError(
                f"labels must be class numbers of shape ({len(outputs)},); got shape {tuple(targets.shape)}: "
                "of one-hot labels take argmax(1)"
            )
        check_numbers("labels", targets, outputs.shape[1])

    def decide(self, outputs: Tensor) -> Tensor:
        """The class with the largest logit, shape `(N,)`."""
        return outputs.argmax(1)

    def confusion(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """`confusion[i, j]` counts the examples of class i that were taken for class j."""
        classes = outputs.shape[1]
        pairs = targets * classes + self.decide(outputs)
        return torch.bincount(pairs, minlength=classes * classes).view(classes, classes)

    def score(self, loss: float, metrics: Mapping[str, float]) -> float:
        """The accuracy."""
        return metrics["accuracy"]
