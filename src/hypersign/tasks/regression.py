"""Regression: numbers, right within a tolerance."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from hypersign._checks import HypersignError, check_real
from hypersign.tasks.base import Task

__all__ = ["Regression"]


@dataclasses.dataclass(frozen=True)
class Regression(Task):
    """One number per target; two numbers are the same decision if they differ by at most a tolerance.

    Outputs and targets are floating, of one shape `(N, ...)`. The loss is the mean squared error, and so is the
    first metric, `mean_squared_error`; the other one, `accuracy`, is the share of numbers within the tolerance. The
    best weights are those with the lowest loss.

    Args:
        tolerance: the largest difference between two numbers that count as the same.

    Raises:
        HypersignError: the tolerance is negative or no number.

    >>> import torch
    >>> task = Regression(tolerance=0.5)
    >>> outputs, targets = torch.tensor([[1.0], [4.0]]), torch.tensor([[1.5], [2.0]])
    >>> task.loss(outputs, targets).item(), task.correct(outputs, targets).tolist()
    (2.125, [[True], [False]])
    """

    name: ClassVar[str] = "regression"
    metrics: ClassVar[Mapping[str, str]] = {"mean_squared_error": ".4g", "accuracy": "6.2%"}

    tolerance: float

    def __post_init__(self) -> None:
        check_real("tolerance", self.tolerance, min=0)

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        """Raises HypersignError where targets have another shape than outputs, or are not finite."""
        if targets.shape != outputs.shape:
            raise HypersignError(
                f"targets must have the shape of the network's outputs, {tuple(outputs.shape)}; "
                f"got shape {tuple(targets.shape)}"
            )
        if not targets.is_floating_point() or not targets.isfinite().all():
            raise HypersignError(
                f"targets must be finite floating-point numbers; got {targets.dtype}"
                + (" with NaN or infinity" if targets.is_floating_point() else ": convert them with .float()")
            )

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean squared error."""
        return nn.functional.mse_loss(outputs, targets)

    def decide(self, outputs: Tensor) -> Tensor:
        """The outputs themselves."""
        return outputs

    def equal(self, decisions: Tensor, others: Tensor) -> Tensor:
        """Which numbers differ by at most the tolerance."""
        return (decisions - others).abs() <= self.tolerance

    def measure(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Sum of squared errors, and how many numbers are within the tolerance."""
        return {
            "mean_squared_error": (outputs - targets).square().sum(),
            "accuracy": self.correct(outputs, targets).sum(),
        }
