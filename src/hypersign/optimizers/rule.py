"""The contract of rules for latent weights."""

import dataclasses
from typing import ClassVar

from torch import Tensor, nn

from hypersign.quantizers import Quantizer

__all__ = ["Latent", "LatentRule", "Moment"]


@dataclasses.dataclass(frozen=True)
class Latent:
    """A latent weight, the name of its layer, and the layer's weight quantizer."""

    name: str
    weight: nn.Parameter
    quantizer: Quantizer


@dataclasses.dataclass(frozen=True)
class Moment:
    """Where a training stands before a step.

    Args:
        rate: the learning rate.
        progress: the share of training that is done, from 0 to 1.
        epoch: the epochs that are done, a real number.
    """

    rate: float
    progress: float
    epoch: float


class LatentRule:
    """What happens to each latent weight around a step of the optimizer. A subclass overrides what it needs.

        gradients, clipped -> gradient(latent, slots, at) -> optimizer's step -> update(latent, slots, at)

    `slots` is what is kept per weight: tensors of its shape, by name, beside those of the optimizer. They are saved
    with the state of a run. `update` adds its slots at its first call; `gradient` finds none before that.
    """

    slots: ClassVar[tuple[str, ...]] = ()
    """Names of the tensors that `update` keeps per weight."""
    alone: ClassVar[bool] = False
    """Whether the optimizer leaves latent weights to the rule."""

    def refusal(self, latent: Latent, optimizer: str) -> str:
        """Why the rule cannot train a layer with the optimizer of this name; empty if it can."""
        return ""

    def start(self, latent: Latent) -> None:
        """Changes a weight of a new network, without gradients."""

    def gradient(self, latent: Latent, slots: dict[str, Tensor], at: Moment) -> None:
        """Changes `latent.weight.grad` before the optimizer uses it; None holds the weight."""

    def update(self, latent: Latent, slots: dict[str, Tensor], at: Moment) -> None:
        """Changes the weight after the optimizer's step, or in its place."""
