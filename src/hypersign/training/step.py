"""One training step: forward, backward, clipping, update; the part that is compiled."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from hypersign.layers import QuantLayer
from hypersign.quantizers import Surrogate
from hypersign.tasks import Task
from hypersign.training.recipe import Recipe

__all__ = ["SLOTS", "Step", "latent_weights", "make_optimizer"]

EPSILON = 1e-8
BETAS = (0.9, 0.999)

SLOTS = {
    "adam": ("step", "exp_avg", "exp_avg_sq"),
    "adamw": ("step", "exp_avg", "exp_avg_sq"),
    "sgd": ("momentum_buffer",),
}
"""What each optimizer keeps of every parameter, from its first step on: of the parameter's shape, but for `step`, a
float32 scalar."""


def latent_weights(model: nn.Module) -> dict[str, Tensor]:
    """The latent weights of a network by layer name: those of layers with a weight quantizer."""
    return {
        name: module.weight
        for name, module in model.named_modules()
        if isinstance(module, QuantLayer) and module.quantizes_weights
    }


def make_optimizer(recipe: Recipe, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer that a recipe names, in torch's fused form."""
    rate = recipe.learning_rate
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, rate, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay, fused=True
        )
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(parameters, rate, BETAS, EPSILON, weight_decay=recipe.weight_decay, fused=True)
    return torch.optim.Adam(parameters, rate, BETAS, EPSILON, fused=True)


class Step:
    """Carries out training steps on a network.

        clip W (latent_clip "before-forward") -> forward, loss, backward -> clip gradients -> update
        -> clip W ("after-step") -> anneal surrogates

    Args:
        model: what is trained; gradients of several processes are averaged in its backward pass, if at all.
        recipe: clipping, compilation, seed.
        task: loss and metrics.
        optimizer: the update rule.
        autocast: context in which the forward pass runs in a lower precision.
        guard: look at `finite` before updating, and leave the weights alone where it is false. Off on CUDA,
            where looking stalls the device.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        task: Task,
        optimizer: torch.optim.Optimizer,
        autocast: Callable[[], AbstractContextManager[Any]],
        *,
        guard: bool,
    ) -> None:
        self.recipe = recipe
        self.optimizer = optimizer
        self.guard = guard
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.latent: list[Tensor] = list(latent_weights(model).values())
        self.surrogates = [module for module in model.modules() if isinstance(module, Surrogate)]
        self.seeds = [
            module.rounding_seed
            for module in model.modules()
            if isinstance(module, QuantLayer) and module.rounding_seed is not None
        ]
        self.steps = 0
        self._clip_before = recipe.latent_clip == "before-forward"
        self._clip_after = recipe.latent_clip == "after-step"

        def forward(inputs: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            with autocast():
                outputs = model(inputs)
            outputs = outputs.float()
            return task.loss(outputs, targets), task.measure(outputs.detach(), targets)

        cuda = self.parameters[0].device.type == "cuda"
        # CUDA graphs replay a whole pass: at batch 50 launching its kernels one by one costs more than they do.
        self._forward = (
            torch.compile(forward, dynamic=False, mode="reduce-overhead" if cuda else "default")
            if recipe.compile
            else forward
        )

    def __call__(self, inputs: Tensor, targets: Tensor, rate: float) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """One step at a learning rate.

        Returns, on the device, the loss, the task's metrics summed over decisions, and whether the loss and each
        parameter's gradient were finite (shape `(1 + parameters,)`).
        """
        if self._clip_before:
            self._clip_latent()
        self.steps += 1
        for i, seed in enumerate(self.seeds):  # a function of the step, so that a resumed run rounds alike
            seed.fill_((self.recipe.seed * 2**40 + self.steps * len(self.seeds) + i) % 2**63)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
            if self.recipe.adam_epsilon == "uncorrected":
                # The original adds epsilon to sqrt(v); torch to sqrt(v / (1 - b2^t)).
                group["eps"] = EPSILON / (1 - BETAS[1] ** self.steps) ** 0.5
        loss, measured = self._forward(inputs, targets)
        loss.backward()
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        finite = torch.stack([loss.detach(), *torch._foreach_norm(gradients)]).isfinite()
        if self.guard and not finite.all():
            return loss.detach(), measured, finite
        if self.recipe.gradient_clip is not None:
            torch._foreach_clamp_max_(gradients, self.recipe.gradient_clip)
            torch._foreach_clamp_min_(gradients, -self.recipe.gradient_clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self._clip_after:
            self._clip_latent()
        return loss.detach(), measured, finite

    def anneal(self, progress: float) -> None:
        """Tells annealed surrogates the share of training that is done."""
        for surrogate in self.surrogates:
            surrogate.anneal(progress)

    def _clip_latent(self) -> None:
        if not self.latent:  # a network of real weights, for comparison
            return
        with torch.no_grad():
            torch._foreach_clamp_max_(self.latent, 1.0)
            torch._foreach_clamp_min_(self.latent, -1.0)
