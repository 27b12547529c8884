"""Rules that pull real weights to levels during training: a proximal map, and a constraint that tightens."""

import torch
from torch import Tensor

from hypersign._checks import check_real
from hypersign.optimizers.rule import Latent, LatentRule, Moment

__all__ = ["AskewSGD", "ProxQuant"]


class ProxQuant(LatentRule):
    """A proximal step towards the levels after each step of the optimizer; gradients are taken at the real weights.

        binary:  w <- sign(w) (1 + sgn(|w| - 1) max(0, ||w| - 1| - l)),   then w <- clamp(w, -1, 1)
        ternary: w <- (w + l Q(w))/(1 + l),                               then w <- clamp(w, -1, 1)
        l = strength * learning rate * epochs done

    Q(w) is the nearest level. After the share `hard_from` of training, weights stay at their levels, and only the
    real parameters, such as batch norm, are trained. The weight quantizer must be `real-until` with the same
    `hard_from`.
    Source: Bai, Wang & Liberty 2019 (ProxQuant, arXiv 1810.00861), eqs. 10-12, and its public code for l.

    Raises:
        HypersignError: `strength` is negative, or `hard_from` not in [0, 1].

    >>> from hypersign.quantizers import RealUntil
    >>> weight = torch.nn.Parameter(torch.tensor([0.5, -1.5]))
    >>> ProxQuant(strength=1.0).update(Latent("fc", weight, RealUntil()), {}, Moment(0.1, 0.1, 1.0))
    >>> weight.tolist()
    [0.6000000238418579, -1.0]
    """

    def __init__(self, *, strength: float = 1e-4, hard_from: float = 2 / 3) -> None:
        self.strength = check_real("strength", strength, min=0)
        self.hard_from = check_real("hard_from", hard_from, min=0, max=1)

    def refusal(self, latent: Latent, optimizer: str) -> str:
        """Where the quantizer does not give real weights until the same moment."""
        until = getattr(latent.quantizer, "hard_from", None)
        if not latent.quantizer.relaxes or until != self.hard_from:
            return (
                f"its weights are real until {self.hard_from:.4g} of training, and the quantizer's are not: use "
                f"--weights real-until:hard_from={self.hard_from!r}"
            )
        return ""

    def gradient(self, latent: Latent, slots: dict[str, Tensor], at: Moment) -> None:
        """Holds the weights once they are at their levels."""
        if at.progress >= self.hard_from:
            latent.weight.grad = None

    @torch.no_grad()
    def update(self, latent: Latent, slots: dict[str, Tensor], at: Moment) -> None:
        """The proximal map, or the levels."""
        w = latent.weight
        levels = latent.quantizer.round(w)
        if at.progress >= self.hard_from:
            w.copy_(levels)
            return
        strength = self.strength * at.rate * at.epoch
        if len(latent.quantizer.levels) == 3:
            new = (w + strength * levels) / (1 + strength)
        else:
            beyond = w.abs() - 1
            new = levels * (1 + beyond.sign() * (beyond.abs() - strength).clamp(min=0))
        w.copy_(new.clamp(-1, 1))


class AskewSGD(LatentRule):
    """Gradient steps that keep weights in narrowing intervals around -1 and +1, without a projection.

        c = e - (w^2 - 1)^2,    K = alpha c/(4 w (w^2 - 1))
        g stays where w = 0, c >= 0 or -g K > K^2; elsewhere g = -K;  after the step w <- clamp(w, -1, 1)
        e = 1 for `hold` epochs, then decay^(epochs after them)

    w is a weight, g its gradient, c >= 0 inside the intervals, e their width. The gradient is taken at the real
    weight, so the quantizer must be `real-until`; the optimizer must be sgd.
    Source: Leconte, Schechtman & Moulines 2023 (AskewSGD, AISTATS), and its toy notebook for e. alpha = 1 is a
    choice.

    Raises:
        HypersignError: alpha or decay is not above 0, decay above 1, or `hold` negative.

    >>> from hypersign.quantizers import RealUntil
    >>> weight = torch.nn.Parameter(torch.tensor([0.1, 0.9]))
    >>> weight.grad = torch.ones(2)
    >>> AskewSGD(hold=0, decay=0.5).gradient(Latent("fc", weight, RealUntil()), {}, Moment(0.1, 0.5, 2.0))
    >>> [round(g, 4) for g in weight.grad.tolist()]  # the first is outside and is sent back
    [-1.8437, 1.0]
    """

    def __init__(self, *, alpha: float = 1.0, hold: float = 20, decay: float = 0.99) -> None:
        self.alpha = check_real("alpha", alpha, above=0)
        self.hold = check_real("hold", hold, min=0)
        self.decay = check_real("decay", decay, above=0, max=1)

    def refusal(self, latent: Latent, optimizer: str) -> str:
        """Where the optimizer is not sgd, or the quantizer rounds during training."""
        if optimizer != "sgd":
            return f"its steps are those of sgd; got {optimizer}"
        if not latent.quantizer.relaxes or latent.quantizer.levels != (-1.0, 1.0):
            return "its weights are real during training, and the quantizer's are not: use --weights real-until"
        return ""

    @torch.no_grad()
    def gradient(self, latent: Latent, slots: dict[str, Tensor], at: Moment) -> None:
        """Replaces gradients that would lead out of the intervals."""
        w, g = latent.weight, latent.weight.grad
        if g is None:
            return
        bound = self.decay ** max(0.0, at.epoch - self.hold)
        c = bound - (w.square() - 1).square()
        slope = 4 * w * (w.square() - 1)
        back = self.alpha * c / torch.where(slope == 0, 1.0, slope)
        stays = (w == 0) | (c >= 0) | (-g * back > back.square())
        g.copy_(torch.where(stays, g, -back))

    @torch.no_grad()
    def update(self, latent: Latent, slots: dict[str, Tensor], at: Moment) -> None:
        """Clamps the weights to [-1, 1]."""
        latent.weight.clamp_(-1, 1)
