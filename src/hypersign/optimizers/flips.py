"""Bop: weights that are -1 or +1 and flip where a moving average of gradients says so."""

import math
from typing import ClassVar

import torch
from torch import Tensor

from hypersign._checks import check_int, check_real
from hypersign.optimizers.rule import Latent, LatentRule, Moment

__all__ = ["Bop", "BopSecondOrder"]


class Bop(LatentRule):
    """The binary optimizer: there are no latent weights; a moving average of gradients decides which weights flip.

        m <- m + gamma (g - m);    w <- -w where m w > threshold

    w is a weight, g its gradient and m the moving average, which starts at 0. Weights start at the signs of their
    initial values and stay at -1 and +1, so the weight quantizer must pass gradients there:
    `sign:surrogate=straight-through`. Training has `stages` equal parts; gamma is multiplied by .1 from each to the
    next.
    Source: Helwegen et al. 2019 (arXiv 1906.02107), algorithm 1, with gamma 1e-4, .1 per 100 of 500 epochs, threshold
    1e-8.

    Raises:
        HypersignError: gamma is not in (0, 1], the threshold negative, or stages no integer from 1 on.

    >>> from hypersign.quantizers import Sign
    >>> weight = torch.nn.Parameter(torch.ones(2))
    >>> weight.grad = torch.tensor([1.0, -1.0])
    >>> Bop(gamma=0.5).update(Latent("fc", weight, Sign()), {}, Moment(0.1, 0.0, 0.0))
    >>> weight.tolist()
    [-1.0, 1.0]
    """

    alone = True
    slots: ClassVar[tuple[str, ...]] = ("m",)

    def __init__(self, *, gamma: float = 1e-4, threshold: float = 1e-8, stages: int = 5) -> None:
        self.gamma = check_real("gamma", gamma, above=0, max=1)
        self.threshold = check_real("threshold", threshold, min=0)
        self.stages = check_int("stages", stages, min=1)

    def refusal(self, latent: Latent, optimizer: str) -> str:
        """Where the quantizer has other levels, or passes no gradient at -1 and +1."""
        if latent.quantizer.levels != (-1.0, 1.0):
            return f"it flips signs, and the weights' levels are {latent.quantizer.levels or 'unknown'}"
        if not latent.quantizer.surrogate.gradient(latent.weight.new_tensor([-1.0, 1.0])).all():
            return (
                "it keeps weights at -1 and +1, where the surrogate of weights passes no gradient: use "
                "--weights sign:surrogate=straight-through"
            )
        return ""

    @torch.no_grad()
    def start(self, latent: Latent) -> None:
        """Replaces the weights by their signs."""
        latent.weight.copy_(torch.where(latent.weight >= 0, 1.0, -1.0))

    def rate(self, at: Moment) -> float:
        """gamma at a moment."""
        return self.gamma * 0.1 ** min(math.floor(self.stages * at.progress), self.stages - 1)

    @torch.no_grad()
    def update(self, latent: Latent, slots: dict[str, Tensor], at: Moment) -> None:
        """Averages the gradients, then flips weights."""
        weight, g = latent.weight, latent.weight.grad
        if g is None:
            return
        m = slots.setdefault("m", torch.zeros_like(weight))
        m.lerp_(g, self.rate(at))
        weight.copy_(torch.where(self.drive(m, slots, g) * weight > self.threshold, -weight, weight))

    def drive(self, m: Tensor, slots: dict[str, Tensor], g: Tensor) -> Tensor:
        """The number to compare with the threshold, before it is multiplied by the weight."""
        return m


class BopSecondOrder(Bop):
    """Bop whose average is divided by the root of an average of squared gradients.

        v <- v + sigma (g^2 - v);    w <- -w where m w / (sqrt v + 1e-10) > threshold

    w, g and m are those of `Bop`; v starts at 0.
    Source: Suarez-Ramirez et al. 2021 (arXiv 2104.05124), the unbiased variant left out: gamma 1e-7, sigma 1e-3,
    threshold 1e-6.

    Raises:
        HypersignError: gamma or sigma is not in (0, 1], or the threshold negative.

    >>> BopSecondOrder().sigma
    0.001
    """

    slots: ClassVar[tuple[str, ...]] = ("m", "v")

    def __init__(self, *, gamma: float = 1e-7, sigma: float = 1e-3, threshold: float = 1e-6, stages: int = 1) -> None:
        super().__init__(gamma=gamma, threshold=threshold, stages=stages)
        self.sigma = check_real("sigma", sigma, above=0, max=1)

    def drive(self, m: Tensor, slots: dict[str, Tensor], g: Tensor) -> Tensor:
        v = slots.setdefault("v", torch.zeros_like(g))
        v.lerp_(g.square(), self.sigma)
        return m / (v.sqrt() + 1e-10)
