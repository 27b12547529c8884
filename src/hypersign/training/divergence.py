"""Finds the step and the layer in which training first gave a number that is not finite."""

from pathlib import Path

import torch
from torch import Tensor, nn

from hypersign._checks import HypersignError
from hypersign.training.checkpoint import Counters, state_path
from hypersign.training.monitor import first_broken_layer
from hypersign.training.step import latent_weights

__all__ = ["DivergedError", "FiniteCheck", "look_every"]

LOOK_EVERY = 20
"""Steps between checks of the loss, if a check stalls the device."""


class DivergedError(HypersignError):
    """The loss, a gradient or a latent weight is not finite; the last good state is kept."""


def look_every(device: torch.device) -> int:
    """Steps between checks: on CUDA, a check in every step would leave the device waiting."""
    return LOOK_EVERY if device.type == "cuda" else 1


class FiniteCheck:
    """Collects which steps were finite, and checks them every `every` steps.

    Args:
        model: the network that is trained.
        folder: its run folder, for the message.
        every: steps between checks. If it is 1, updates that are not finite are skipped, so that a second forward
            pass can find the layer.
    """

    def __init__(self, model: nn.Module, folder: Path, every: int) -> None:
        self.model, self.folder, self.every = model, folder, every
        self.pending: list[Tensor] = []

    def add(self, finite: Tensor, inputs: Tensor, counters: Counters) -> None:
        """Adds a step: whether its loss, each parameter's gradient and each latent weight were finite.

        Raises:
            DivergedError: as `look`.
        """
        self.pending.append(finite)
        if len(self.pending) >= self.every:
            self.look(counters, inputs)

    def look(self, counters: Counters, inputs: Tensor | None = None) -> None:
        """Checks the steps since the last check.

        Args:
            counters: where the run stands.
            inputs: the inputs of the last step.

        Raises:
            DivergedError: one of them was not finite; names the step and the layer.
        """
        pending, self.pending = self.pending, []
        if not pending:
            return
        finite = torch.stack(pending).cpu()  # (steps, 1 + parameters + latent weights)
        bad = (~finite).any(1)
        if not bad.any():
            return
        first = int(bad.int().argmax())
        names = [name for name, p in self.model.named_parameters() if p.requires_grad]
        border = 1 + len(names)
        gradients = [name for name, fine in zip(names, finite[first, 1:border].tolist(), strict=True) if not fine]
        latents = zip(latent_weights(self.model), finite[first, border:].tolist(), strict=True)
        weights = [f"{name}.weight" if name else "weight" for name, fine in latents if not fine]
        layer = first_broken_layer(self.model, inputs) if self.every == 1 and inputs is not None else None
        where = (
            f"the output of {layer}"
            if layer
            else f"the gradient of {gradients[-1]}"
            if gradients
            else f"the latent weight {weights[0]}"
            if weights
            else "the loss"
        )
        kept = (
            f"the last good state is kept: hypersign train --resume {self.folder} resumes from it"
            if state_path(self.folder).exists()
            else "no state was saved before it"
        )
        step = counters.step - (len(pending) - 1 - first)
        raise DivergedError(
            f"training must stay finite, but in step {step} (epoch {counters.epoch}) {where} is not; {kept}; "
            "a lower learning rate helps most often"
        )
