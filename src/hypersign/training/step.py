"""One training step: forward, backward, clipping, update; the part that is compiled."""

import dataclasses
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from hypersign._checks import HypersignError
from hypersign.bits import keep_freed_memory
from hypersign.layers import QuantLayer
from hypersign.optimizers import Latent, LatentRule, Moment, rule_of
from hypersign.quantizers import Quantizer, Surrogate
from hypersign.tasks import Task
from hypersign.training.recipe import Recipe
from hypersign.training.updates import norms_of, update_in_one_pass

__all__ = ["SLOTS", "Step", "latent_weights", "make_optimizer", "make_rule", "slots_of"]

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


def latents(model: nn.Module) -> list[Latent]:
    """The latent weights of a network as rules take them."""
    modules = dict(model.named_modules())
    return [
        Latent(name, weight, modules[name].weight_quantizer)  # type: ignore[arg-type]
        for name, weight in latent_weights(model).items()
    ]


def make_rule(recipe: Recipe, model: nn.Module) -> LatentRule | None:
    """The rule for latent weights that a recipe names, if any.

    Raises:
        HypersignError: it cannot train a layer; names the first one, and why.
    """
    if recipe.latent_rule is None:
        return None
    rule, found = rule_of(recipe.latent_rule), latents(model)
    if not found:
        raise HypersignError(
            f"the latent rule {recipe.latent_rule} needs a layer with quantized weights: there is none"
        )
    for latent in found:
        if refusal := rule.refusal(latent, recipe.optimizer):
            raise HypersignError(f"the latent rule {recipe.latent_rule} cannot train {latent.name}: {refusal}")
    return rule


def slots_of(recipe: Recipe, model: nn.Module, rule: LatentRule | None) -> dict[str, tuple[str, ...]]:
    """Names of the tensors that optimizer and rule keep per parameter, by the parameter's name."""
    slots = {name: SLOTS[recipe.optimizer] for name, _ in model.named_parameters()}
    if rule is not None:
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        for latent in latents(model):
            name = names[id(latent.weight)]
            slots[name] = rule.slots if rule.alone else (*slots[name], *rule.slots)
    return slots


def make_optimizer(
    recipe: Recipe, parameters: list[nn.Parameter], alone: Iterable[Tensor] = ()
) -> torch.optim.Optimizer:
    """The optimizer that a recipe names, in torch's fused form; parameters in `alone` are left to a rule."""
    rate = recipe.learning_rate
    left = set(alone)
    parameters = [p for p in parameters if p not in left] or [nn.Parameter(torch.empty(0))]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, rate, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay, fused=True
        )
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(parameters, rate, BETAS, EPSILON, weight_decay=recipe.weight_decay, fused=True)
    return torch.optim.Adam(parameters, rate, BETAS, EPSILON, fused=True)


def _seed(run: int, count: int) -> int:
    """The seed of the count-th draw of a run, from 0 to 2^63 - 1: others than those of all other runs.

        run 2^40 + count + (run div 2^23) c    modulo 2^63

    The last term, with an odd number c, tells runs apart whose seeds differ by a multiple of 2^23.

    >>> _seed(1, 5) - 2**40, _seed(1 + 2**23, 5) == _seed(1, 5)
    (5, False)
    """
    return ((run << 40) + count + (run >> 23) * 0x1E3779B97F4A7C15) % 2**63


def _soft_loss(outputs: Tensor, teacher: nn.Module, inputs: Tensor) -> Tensor:
    """Cross-entropy against a teacher: mean over the batch of -sum_c softmax(teacher)_c log softmax(outputs)_c.

    Source: Liu et al. 2020 (ReActNet, arXiv 2003.03488), eq. 5.
    """
    with torch.no_grad():
        soft = teacher(inputs).float().softmax(1)
    return nn.functional.cross_entropy(outputs, soft)


def _smoothed_loss(outputs: Tensor, targets: Tensor, share: float) -> Tensor:
    """Cross-entropy with smoothed labels: mean of -(1 - s) log p_y - (s / C) sum_c log p_c, p = softmax(outputs).

    y is the target, C the number of classes (last axis), s the share. Source: Szegedy et al. 2016 (arXiv 1512.00567),
    section 7.
    """
    return nn.functional.cross_entropy(outputs.flatten(0, -2), targets.flatten(), label_smoothing=share)


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
        teacher: a network whose soft answers take the place of the labels in the loss, if any.
        rule: what happens to latent weights around the optimizer's step, if anything.
        guard: check `finite` before updating, and skip the update if it is false. Off on CUDA, where the check
            would stall the device.
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
        rule: LatentRule | None = None,
        teacher: nn.Module | None = None,
    ) -> None:
        self.recipe = recipe
        self.optimizer = optimizer
        self.guard = guard
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.latents = latents(model)
        self.latent: list[Tensor] = [latent.weight for latent in self.latents]
        self.rule = rule
        self.at = Moment(0.0, 0.0, 0.0)
        self.annealed = [module for module in model.modules() if isinstance(module, Surrogate | Quantizer)]
        self.seeds = [
            module.rounding_seed
            for module in model.modules()
            if isinstance(module, QuantLayer) and module.rounding_seed is not None
        ]
        self.steps = 0
        # Steps that draw random numbers are seeded by their number, so that a resumed run draws the same.
        self.draws = any(
            (isinstance(module, Quantizer) and module.draws)
            or (isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0)
            for module in model.modules()
        )
        self._clip_before = recipe.latent_clip == "before-forward"
        self._clip_after = recipe.latent_clip == "after-step"

        def forward(inputs: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            with autocast():
                outputs = model(inputs)
            outputs = outputs.float()
            if teacher is not None:
                loss = _soft_loss(outputs, teacher, inputs)
            elif recipe.label_smoothing:
                loss = _smoothed_loss(outputs, targets, recipe.label_smoothing)
            else:
                loss = task.loss(outputs, targets)
            return loss, task.measure(outputs.detach(), targets)

        device = self.parameters[0].device.type
        cuda = device == "cuda"
        if device == "cpu":
            keep_freed_memory()
        # CUDA graphs replay a whole pass: at batch 50, launching single kernels takes longer than running them.
        self._forward = (
            torch.compile(forward, dynamic=False, mode="reduce-overhead" if cuda else "default")
            if recipe.compile
            else forward
        )
        self._plain = forward
        self._model = model
        self._unchecked = recipe.compile

    def __call__(self, inputs: Tensor, targets: Tensor, rate: float) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """One step at a learning rate.

        Returns, on the device, the loss, the task's metrics summed over decisions, and whether these were finite: the
        loss, each parameter's gradient, and each latent weight after the update, which a sign would hide (shape
        `(1 + parameters + latent weights,)`).
        """
        if self._clip_before:
            self._clip_latent()
        self.steps += 1
        for i, seed in enumerate(self.seeds):  # depends on the step, so that a resumed run rounds in the same way
            seed.fill_(_seed(self.recipe.seed, self.steps * len(self.seeds) + i))
        if self.draws:
            torch.manual_seed(_seed(self.recipe.seed, self.steps))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
            if self.recipe.adam_epsilon == "uncorrected":
                # The original adds epsilon to sqrt(v); torch to sqrt(v / (1 - b2^t)).
                group["eps"] = EPSILON / (1 - BETAS[1] ** self.steps) ** 0.5
        loss, measured = self._forward(inputs, targets)
        loss.backward()
        if self._unchecked:
            self._check_compiled(inputs, targets)
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norms = norms_of(gradients)
        finite = torch.cat([loss.detach().view(1), norms]).isfinite()
        if self.guard and not finite.all():
            return loss.detach(), measured, torch.cat([finite, finite.new_ones(len(self.latent))])
        if self.rule is None and self.recipe.gradient_norm is None:
            limits = (self.recipe.gradient_clip, 1.0 if self._clip_after else None)
            if (latent := update_in_one_pass(self.optimizer, self.latent, limits)) is not None:
                return loss.detach(), measured, torch.cat([finite, latent.isfinite()])
        if self.recipe.gradient_clip is not None:
            _clip(gradients, self.recipe.gradient_clip)
        if self.recipe.gradient_norm is not None:
            clipped = norms if self.recipe.gradient_clip is None else norms_of(gradients)
            length = torch.linalg.vector_norm(clipped)
            torch._foreach_mul_(gradients, (self.recipe.gradient_norm / (length + 1e-6)).clamp(max=1.0))
        self._update(rate)
        if self._clip_after:
            self._clip_latent()
        if self.latent:
            finite = torch.cat([finite, norms_of(self.latent).isfinite()])
        return loss.detach(), measured, finite

    def _check_compiled(self, inputs: Tensor, targets: Tensor) -> None:
        """Checks once that the compiled step has a gradient for each latent weight that has one in the plain step.

        With torch 2.11 on CUDA the compiled backward pass skipped the quantizers, and only float layers learned.

        Raises:
            HypersignError: it has none; names the first layer.
        """
        self._unchecked = False
        lost = [latent for latent in self.latents if latent.weight.grad is None or not latent.weight.grad.any()]
        if not lost:
            return
        before = [(buffer, buffer.clone()) for buffer in self._model.buffers()]
        loss, _ = self._plain(inputs, targets)
        expected = torch.autograd.grad(loss, [latent.weight for latent in lost], allow_unused=True)
        for buffer, value in before:  # batch norm averages each batch once
            buffer.copy_(value)
        wrong = [latent.name for latent, g in zip(lost, expected, strict=True) if g is not None and g.any()]
        if wrong:
            others = f" and {len(wrong) - 1} other layers" if len(wrong) > 1 else ""
            raise HypersignError(
                f"torch.compile of torch {torch.__version__} loses the gradient of {wrong[0]}{others}: leave out "
                "--compile, or use another version of torch"
            )

    def _update(self, rate: float) -> None:
        """The optimizer's step, with what the rule does before and after it."""
        if self.rule is None:
            self.optimizer.step()
        else:
            at, kept = dataclasses.replace(self.at, rate=rate), self.optimizer.state
            for latent in self.latents:
                self.rule.gradient(latent, kept.get(latent.weight, {}), at)
            self.optimizer.step()
            for latent in self.latents:
                slots = kept.get(latent.weight, {})
                self.rule.update(latent, slots, at)
                if slots:
                    kept[latent.weight] = slots
        for parameter in self.parameters:  # the optimizer does not know those that the rule trains alone
            parameter.grad = None

    def anneal(self, progress: float) -> None:
        """Tells surrogates, quantizers and the rule the share of training that is done."""
        self.at = Moment(0.0, progress, progress * self.recipe.epochs)
        for part in self.annealed:
            part.anneal(progress)

    def begin_epoch(self) -> None:
        """Lets quantizers look at the latent weights of a new epoch."""
        for latent in self.latents:
            latent.quantizer.refresh(latent.weight)

    def _clip_latent(self) -> None:
        if not self.latent:  # a network of real weights, for comparison
            return
        with torch.no_grad():
            _clip(self.latent, 1.0)


def _clip(tensors: list[Tensor], limit: float) -> None:
    """Clips to [-limit, limit] in place: on a GPU in two launches for all tensors, on a CPU in one pass over each."""
    if tensors[0].device.type == "cuda":
        torch._foreach_clamp_max_(tensors, limit)
        torch._foreach_clamp_min_(tensors, -limit)
        return
    for tensor in tensors:
        tensor.clamp_(-limit, limit)
