"""Weights that are never trained: learned scores choose which of them stay."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from hypersign import theory
from hypersign._checks import HypersignError, check_real
from hypersign.quantizers.base import Quantizer
from hypersign.quantizers.scales import sized
from hypersign.quantizers.surrogates import StraightThrough

__all__ = ["Chosen"]


class _Mask(torch.autograd.Function):
    """1 for the k largest magnitudes of scores, 0 for the others; gradients pass to the magnitudes unchanged."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, k: int) -> Tensor:
        ctx.save_for_backward(scores)
        size = scores.abs().reshape(-1)
        mask = torch.zeros_like(size)
        mask[size.topk(k).indices] = 1
        return mask.reshape(scores.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (scores,) = ctx.saved_tensors
        return grads[0] * scores.sign(), None


class _KeptMean:
    """The mean magnitude of the weights that stay in a layer; one scale for all filters."""

    def __call__(self, weight: Tensor, levels: Tensor) -> Tensor:
        kept = (levels.detach() != 0).to(weight.dtype)
        return ((weight.detach().abs() * kept).sum() / kept.sum().clamp(min=1)).expand(weight.shape[0])


class Chosen(Quantizer):
    """Signs of the weights that learned scores choose, zero for the others; the weights keep their initial values.

        q = sign(w) [|score| is among the k largest of the layer],    s = mean |w| of these,    k = keep * weights

    w are the weights, q their levels, and s is one scale per layer. There is one score per weight; its gradient is
    that of its level, times sign(w), times the sign of the score (straight through the choice). A layer sizes the
    scores, draws them as torch draws weights, and stops training its weights.
    Source: Diffenderfer & Kailkhura 2021, multi-prize tickets (arXiv 2103.09377), algorithm 1.

    Args:
        keep: the share of weights that stay, in (0, 1].

    Raises:
        HypersignError: `keep` is outside its range; a call before a layer sized the scores.

    >>> quantizer = Chosen(keep=0.5)
    >>> quantizer.fit(nn.Parameter(torch.zeros(1, 4)))
    >>> _ = quantizer.scores.data.copy_(torch.tensor([[0.1, -0.9, 0.5, 0.2]]))
    >>> quantizer(torch.tensor([[1.0, 2.0, -3.0, 4.0]])).tolist()
    [[0.0, 1.0, -1.0, 0.0]]
    """

    levels = (-1.0, 0.0, 1.0)

    def __init__(self, *, keep: float = 0.5) -> None:
        super().__init__(scale=_KeptMean(), surrogate=StraightThrough())
        self.keep = check_real("keep", keep, above=0, max=1)
        self.scores = nn.Parameter(torch.ones(1))

    def fit(self, weight: Tensor, channels: int | None = None) -> None:
        """Draws scores, and stops the training of the weight."""
        scores = torch.empty_like(weight, requires_grad=False)
        bound = 1 / math.sqrt(weight[0].numel())
        self.scores = sized(self.scores, scores.uniform_(-bound, bound), "a score per weight")
        weight.requires_grad_(False)

    def round(self, x: Tensor) -> Tensor:
        return self.forward(x).detach()

    def forward(self, x: Tensor) -> Tensor:
        """The levels, differentiable in the scores."""
        if self.scores.shape != x.shape:
            raise HypersignError(
                f"scores choose among the weights of the layer that sized them, {tuple(self.scores.shape)}; got "
                f"{tuple(x.shape)}: give each layer a quantizer of its own"
            )
        signs = torch.where(x.detach() >= 0, 1.0, -1.0).to(x.dtype)
        return signs * _Mask.apply(self.scores, max(1, round(self.keep * x.numel())))

    def predicted_cosine(self, d: float, moments: theory.Moments) -> float | None:
        """The cosine of the signs times sqrt(keep): scores that do not depend on the weights keep a random share."""
        return float(theory.limit_cosine(moments)) * math.sqrt(self.keep)

    def input_refusal(self) -> str:
        return "must not be chosen, whose scores belong to weights"

    def extra_repr(self) -> str:
        return f"keep={self.keep:g}"
