"""Weights whose levels are drawn at random in training."""

import math

import torch
from torch import Tensor

from hypersign._checks import HypersignError
from hypersign.quantizers.base import Quantizer
from hypersign.quantizers.scales import Fitted
from hypersign.quantizers.surrogates import StraightThrough, Surrogate

__all__ = ["RandomLevels"]


class _Bound(Fitted):
    """W0, half the bound of Glorot's uniform start, for all filters."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("bound", torch.ones(()), persistent=False)

    bound: Tensor

    def fit(self, weight: Tensor, channels: int | None = None) -> None:
        filters, d = len(weight), weight[0].numel()
        self.bound = weight.new_tensor(math.sqrt(6 / (filters + d)) / 2)

    def forward(self, weight: Tensor, levels: Tensor) -> Tensor:
        return self.bound.to(weight).expand(len(weight))


class RandomLevels(Quantizer):
    """Binary or ternary weights that are drawn at each training step; in evaluation they are the likeliest levels.

        binary:  P(+1) = clip((w/W0 + 1)/2, 0, 1);   ternary: P(sign w) = clip(|w|/W0, 0, 1), else 0
        d(W0 q)/dw := 1

    W0 = sqrt(6/(filters + d))/2, half the bound of Glorot's uniform start, is also the scale. Evaluation is
    deterministic: sign w, or sign(w) [|w| > W0/2]. The paper's code draws there too.

    Source: Ardakani et al. 2019 (arXiv 1809.11086), and its public code for W0 and the gradient.

    Args:
        count: levels, 2 or 3.

    Raises:
        HypersignError: another number of levels.

    >>> quantizer = RandomLevels(count=3).eval()
    >>> quantizer.fit(torch.zeros(3, 3))
    >>> quantizer(torch.tensor([[0.9, -0.2, 0.3]])).tolist()
    [[1.0, 0.0, 1.0]]
    """

    draws = True
    scale: _Bound

    def __init__(self, *, count: int = 2, surrogate: Surrogate | None = None) -> None:
        if count not in (2, 3):
            raise HypersignError(f"count, the number of random levels, must be 2 or 3; got {count!r}")
        super().__init__(scale=_Bound(), surrogate=surrogate or StraightThrough())
        self.count = count
        self.levels = (-1.0, 1.0) if count == 2 else (-1.0, 0.0, 1.0)

    def prepare(self, x: Tensor) -> Tensor:
        return x / self.scale.bound.to(x)

    def round(self, x: Tensor) -> Tensor:
        sign = torch.where(x >= 0, 1.0, -1.0).to(x.dtype)
        if not self.training:
            return sign if self.count == 2 else sign * (x.abs() > 0.5) + 0.0  # -0 is 0
        drawn = torch.rand_like(x)
        if self.count == 2:
            return torch.where(2 * drawn < x + 1, 1.0, -1.0).to(x.dtype)
        return sign * (drawn < x.abs()) + 0.0

    def thresholds(self, x: Tensor) -> Tensor:
        return x.new_full((len(x),), 0.0 if self.count == 2 else 0.5)

    def input_refusal(self) -> str:
        return "must not be random levels, whose bound is that of a weight matrix"

    def extra_repr(self) -> str:
        return f"count={self.count}"
