"""LAB: binary weights whose scale depends on the curvature of the loss."""

import torch
from torch import Tensor

from hypersign.quantizers.scales import Fitted
from hypersign.quantizers.sign import Sign
from hypersign.quantizers.surrogates import StraightThrough, Surrogate

__all__ = ["LossAware"]


class _CurvatureScale(Fitted):
    """One scale per layer: the mean magnitude of the weights, weighted by the curvature d.

    It is a buffer. The latent rule `lab` sets it after each step, and the network is saved with it.
    """

    alpha: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("alpha", torch.ones(()))

    def fit(self, weight: Tensor, channels: int | None = None) -> None:
        self.weigh(weight, torch.ones_like(weight))

    def weigh(self, weight: Tensor, curvature: Tensor) -> None:
        """Sets alpha = sum |d w| / sum d."""
        alpha = (curvature * weight.detach().abs()).sum() / curvature.sum()
        self.alpha = alpha.clamp(min=torch.finfo(weight.dtype).tiny)

    def forward(self, weight: Tensor, levels: Tensor) -> Tensor:
        return self.alpha.expand(weight.shape[0])


class LossAware(Sign):
    """Signs with the scale of loss-aware binarization: one per layer.

        w_q = alpha sign w,    alpha = sum |d w| / sum d;    dw_q/dw := 1

    d estimates the curvature per weight: the root of Adam's mean of squared gradients, plus 1e-8. The latent rule
    `lab` reads it after each step. Before the first step, and without that rule, d is 1 and alpha the mean magnitude.
    Source: Hou, Yao & Kwok 2017 (loss-aware binarization, arXiv 1611.01600), proposition 3.1.

    >>> quantizer = LossAware()
    >>> quantizer.fit(torch.tensor([[1.0, -3.0]]))
    >>> quantizer.scale.alpha.item()
    2.0
    >>> quantizer.scale.weigh(torch.tensor([[1.0, -3.0]]), torch.tensor([[3.0, 1.0]]))
    >>> quantizer.scale.alpha.item()
    1.5
    """

    scale: _CurvatureScale

    def __init__(self, *, surrogate: Surrogate | None = None) -> None:
        super().__init__(scale=_CurvatureScale(), surrogate=surrogate or StraightThrough())

    def prepare(self, x: Tensor) -> Tensor:
        return x / self.scale.alpha  # cancels the layer's scale in the gradient

    def extra_repr(self) -> str:
        return ""
