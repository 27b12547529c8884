"""Rules that correct gradients, weights or scales around a step of the optimizer."""

import math
from typing import ClassVar

import torch
from torch import Tensor

from hypersign._checks import check_real
from hypersign.optimizers.rule import Latent, LatentRule, Moment
from hypersign.quantizers import LossAware

__all__ = ["Centred", "LossAwareRule", "OvSW", "Percentiles"]


class OvSW(LatentRule):
    """Wakes weights that never flip: gradients of filters are scaled up, and silent weights decay.

        g_f <- g_f delta |w_f|/|g_f| where |g_f|/|w_f| < delta;    g <- g + decay w where m < silent
        m <- momentum m + (1 - momentum) [the step flipped the sign]        from the second step on

    w_f is a latent filter, g_f its gradient; w and g are one weight and its gradient, m the average of its flips. m
    starts at 0, so all weights are silent at first.
    Source: Xiang et al. 2024 (OvSW, arXiv 2407.05257), with delta
    .04 and decay 9e-4 for ResNet-20 on CIFAR-10.

    Raises:
        HypersignError: a negative number, or a momentum that is not below 1.

    >>> from hypersign.quantizers import Sign
    >>> weight = torch.nn.Parameter(torch.tensor([[3.0, 4.0]]))
    >>> weight.grad = torch.tensor([[0.0, 0.1]])
    >>> OvSW(decay=0).gradient(Latent("fc", weight, Sign()), {}, Moment(0.1, 0.0, 0.0))
    >>> [round(g, 6) for g in weight.grad[0].tolist()]
    [0.0, 0.2]
    """

    slots: ClassVar[tuple[str, ...]] = ("flips", "negative")

    def __init__(
        self, *, delta: float = 0.04, decay: float = 9e-4, momentum: float = 0.999, silent: float = 1e-4
    ) -> None:
        self.delta = check_real("delta", delta, min=0)
        self.decay = check_real("decay", decay, min=0)
        self.momentum = check_real("momentum", momentum, min=0, below=1)
        self.silent = check_real("silent", silent, min=0)

    @torch.no_grad()
    def gradient(self, latent: Latent, slots: dict[str, Tensor], at: Moment) -> None:
        """Scales gradients of filters, and adds the decay of silent weights."""
        w, g = latent.weight, latent.weight.grad
        if g is None:
            return
        size, norm = (t.flatten(1).norm(dim=1).view(-1, *[1] * (t.dim() - 1)) for t in (w, g))
        tiny = torch.finfo(g.dtype).tiny
        g.mul_(torch.where(norm < self.delta * size, self.delta * size / norm.clamp(min=tiny), 1.0))
        flips = slots.get("flips")
        silent = torch.ones_like(w) if flips is None else (flips < self.silent).to(w.dtype)
        g.add_(self.decay * silent * w)

    @torch.no_grad()
    def update(self, latent: Latent, slots: dict[str, Tensor], at: Moment) -> None:
        """Counts flips; `negative` holds the signs after the last step."""
        if latent.weight.grad is None:
            return
        negative = (latent.weight < 0).to(latent.weight.dtype)
        flips = slots.setdefault("flips", torch.zeros_like(latent.weight))
        before = slots.get("negative")
        if before is not None:
            flips.lerp_((negative != before).to(flips.dtype), 1 - self.momentum)
        slots["negative"] = negative


class LossAwareRule(LatentRule):
    """Loss-aware binarization: the scale of a layer weighs its weights by the curvature that Adam estimates.

        d = sqrt(v) + 1e-8,    alpha = sum |d w|/sum d

    w are the latent weights of a layer, alpha is its scale, and v is Adam's mean of squared gradients, without the
    correction for its start at 0. The quantizer must be `lab`, the optimizer adam or adamw.
    Source: Hou, Yao & Kwok 2017 (arXiv 1611.01600), algorithm 1.

    >>> from hypersign.quantizers import LossAware
    >>> weight, quantizer = torch.nn.Parameter(torch.tensor([[1.0, -3.0]])), LossAware()
    >>> slots = {"exp_avg_sq": torch.tensor([[9.0, 1.0]])}
    >>> LossAwareRule().update(Latent("fc", weight, quantizer), slots, Moment(0.1, 0.0, 0.0))
    >>> round(quantizer.scale.alpha.item(), 6)
    1.5
    """

    def refusal(self, latent: Latent, optimizer: str) -> str:
        """Where the quantizer or the optimizer is another."""
        if not isinstance(latent.quantizer, LossAware):
            return "it sets the scale of the quantizer lab: use --weights lab"
        return "" if optimizer in ("adam", "adamw") else f"it reads Adam's averages; got the optimizer {optimizer}"

    @torch.no_grad()
    def update(self, latent: Latent, slots: dict[str, Tensor], at: Moment) -> None:
        """Sets the layer's scale."""
        if "exp_avg_sq" in slots:
            assert isinstance(latent.quantizer, LossAware)
            latent.quantizer.scale.weigh(latent.weight, slots["exp_avg_sq"].sqrt() + 1e-8)


class Centred(LatentRule):
    """XNOR-Net's latent weights: centred over the input channels, before the first step and after each.

        w <- w - mean of w over the second dimension, the input channels;    then w <- clamp(w, -1, 1)

    Source: Rastegari et al. 2016 (XNOR-Net, arXiv 1603.05279), public code.

    >>> from hypersign.quantizers import Sign
    >>> weight = torch.nn.Parameter(torch.tensor([[1.0, 3.0]]))
    >>> Centred().start(Latent("fc", weight, Sign()))
    >>> weight.tolist()
    [[-1.0, 1.0]]
    """

    @torch.no_grad()
    def start(self, latent: Latent) -> None:
        w = latent.weight
        w.sub_(w.mean(1, keepdim=True)).clamp_(-1, 1)

    def update(self, latent: Latent, slots: dict[str, Tensor], at: Moment) -> None:
        self.start(latent)


class Percentiles(LatentRule):
    """SiMaN's latent weights: centred per filter, magnitudes clamped at percentiles of the layer, after each step.

        w <- w - mean of the filter;    w <- sign(w) clamp(|w|, P_p, P_(100 - p)),    p = first (1 - progress)

    P_p is the p-th percentile of the layer's magnitudes |w|, interpolated between neighbours; progress is the share
    of training done. Source: Lin et al. 2021 (SiMaN, arXiv 2102.07981), with `first` 15; the public code has 5.

    Raises:
        HypersignError: `first` is not in [0, 50).

    >>> from hypersign.quantizers import SiMaN
    >>> weight = torch.nn.Parameter(torch.tensor([[-9.0, -2.0, 0.0, 4.0, 7.0]]))
    >>> Percentiles(first=25).update(Latent("fc", weight, SiMaN()), {}, Moment(0.1, 0.0, 0.0))
    >>> weight.tolist()
    [[-7.0, -2.0, 0.0, 4.0, 7.0]]
    """

    def __init__(self, *, first: float = 15.0) -> None:
        self.first = check_real("first", first, min=0, below=50)

    @torch.no_grad()
    def update(self, latent: Latent, slots: dict[str, Tensor], at: Moment) -> None:
        """Centres and clamps."""
        w = latent.weight
        w.sub_(w.flatten(1).mean(1).view(-1, *[1] * (w.dim() - 1)))
        size, share = w.abs(), self.first * (1 - at.progress) / 100
        w.copy_(size.clamp(_quantile(size, share), _quantile(size, 1 - share)) * w.sign())


def _quantile(x: Tensor, share: float) -> Tensor:
    """Linearly interpolated; torch.quantile takes at most 16 million numbers."""
    flat, place = x.flatten(), share * (x.numel() - 1)
    low = math.floor(place)
    first, second = (flat.kthvalue(min(k, flat.numel() - 1) + 1).values for k in (low, low + 1))
    return first + (second - first) * (place - low)
