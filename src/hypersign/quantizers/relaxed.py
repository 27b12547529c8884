"""Weights that are real at the start of training and levels at its end."""

import math

import torch
from torch import Tensor

from hypersign._checks import HypersignError, check_real
from hypersign.quantizers.base import Quantizer
from hypersign.quantizers.surrogates import StraightThrough
from hypersign.quantizers.ternary import LeastSquares

__all__ = ["BinaryRelax", "PARQ", "RealUntil"]


class _LevelScale:
    """The least-squares scale of signs or ternary levels per filter, without a gradient."""

    def __init__(self, count: int) -> None:
        self.count = count

    def limits(self, weight: Tensor) -> Tensor:
        """The thresholds of the levels, shape `(filters,)`."""
        return weight.new_zeros(len(weight)) if self.count == 2 else LeastSquares().limits(weight)

    def __call__(self, weight: Tensor, levels: Tensor) -> Tensor:
        """Scales of shape `(filters,)`: the mean magnitude of the weights above the threshold."""
        size = weight.detach().flatten(1).abs()
        above = (size > self.limits(weight)[:, None]) | (self.count == 2)
        return ((size * above).sum(1) / above.sum(1).clamp(min=1)).clamp(min=torch.finfo(weight.dtype).tiny)


class _Relaxed(Quantizer):
    """Levels by least squares, and a map from the weights to them that hardens during training.

    While the map is soft, `forward` gives real numbers, in units of the scale, and the gradient passes unchanged: the
    latent weights collect gradients taken at the mapped weights.
    """

    relaxes = True
    scale: _LevelScale

    def __init__(self, *, count: int = 2) -> None:
        if count not in (2, 3):
            raise HypersignError(f"count, the levels by least squares, must be 2 or 3; got {count!r}")
        super().__init__(scale=_LevelScale(count), surrogate=StraightThrough())
        self.count = count
        self.levels = (-1.0, 1.0) if count == 2 else (-1.0, 0.0, 1.0)
        self.progress = 1.0

    def anneal(self, progress: float) -> None:
        self.progress = progress

    def prepare(self, x: Tensor) -> Tensor:
        """The weights in units of their scale; so the layer's scale cancels in the gradient."""
        return x / self.scale(x, x).view(-1, *[1] * (x.dim() - 1))

    def round(self, x: Tensor) -> Tensor:
        if self.count == 2:
            return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)
        return x.sign() * (x.abs() > 0.5)  # the least-squares threshold is half the scale

    def soft(self, u: Tensor) -> Tensor:
        """The numbers between levels at `self.progress`, for weights in units of their scale; without a gradient."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Levels once training is done; before that, real numbers between them."""
        if self.progress >= 1:
            return super().forward(x)
        u = self.prepare(x)
        return u + (self.soft(u.detach()) - u).detach()

    def thresholds(self, x: Tensor) -> Tensor:
        return x.new_full((len(x),), 0.0 if self.count == 2 else 0.5)

    def input_refusal(self) -> str:
        return f"must not be {type(self).__name__}, which relaxes weights; use sign"

    def extra_repr(self) -> str:
        return f"count={self.count}"


class PARQ(_Relaxed):
    """Piecewise-affine regularised weights: a proximal map that hardens from slope 1 to a step.

        w = clamp(c + (u - c)/rho, l, h)    between neighbouring levels l < h with middle c
        w = the outermost level             beyond it

    u are the latent weights, which collect the gradients taken at w. Levels are those of least squares per filter:
    +-mean |u|, or three (`LeastSquares`). rho falls from 1 to 0 by a mirrored sigmoid of steepness s, where p is the
    share of training done: rho(p) = (S(s(p - 1/2)) - S(s/2))/(S(-s/2) - S(s/2)), S(x) = 1/(1 + e^x).
    Source: Jin et al. 2025 (PARQ, arXiv 2503.15748); its public code for the schedule and for w beyond the levels.

    Args:
        count: levels, 2 or 3.
        steepness: s.

    Raises:
        HypersignError: another number of levels, or a steepness that is not above 0.

    >>> quantizer = PARQ()
    >>> quantizer.anneal(0.5)
    >>> round(quantizer.rho, 6)
    0.5
    >>> (quantizer(torch.tensor([[0.2, -1.0, 1.8]])) * 1.0).tolist()  # in units of their mean magnitude, 1
    [[0.4000000059604645, -1.0, 1.0]]
    """

    def __init__(self, *, count: int = 2, steepness: float = 10.0) -> None:
        super().__init__(count=count)
        self.steepness = check_real("steepness", steepness, above=0)

    @property
    def rho(self) -> float:
        """rho at the present share of training."""
        s, half = self.steepness, self.steepness / 2
        low, high = 1 / (1 + math.exp(half)), 1 / (1 + math.exp(-half))
        return (1 / (1 + math.exp(s * (self.progress - 0.5))) - low) / (high - low)

    def soft(self, u: Tensor) -> Tensor:
        levels = torch.tensor(self.levels, dtype=u.dtype, device=u.device)
        upper = torch.bucketize(u.contiguous(), levels)
        low = levels[(upper - 1).clamp(min=0)]
        high = levels[upper.clamp(max=len(levels) - 1)]
        centre = (low + high) / 2
        return torch.minimum(torch.maximum(centre + (u - centre) / max(self.rho, 1e-30), low), high)


class BinaryRelax(_Relaxed):
    """A mixture of real and quantized weights that moves from the first to the second.

        w = (1 - theta) u + theta Q(u)

    u are the latent weights, which collect the gradients taken at w. Q(u) are the scaled levels by least squares per
    filter. theta is the share of training done.
    Source: Yin et al. 2018 (BinaryRelax, arXiv 1801.06313); linear theta as in PARQ's code.

    >>> quantizer = BinaryRelax()
    >>> quantizer.anneal(0.5)
    >>> quantizer(torch.tensor([[0.5, -1.5]])).tolist()  # in units of their mean magnitude, 1
    [[0.75, -1.25]]
    """

    def soft(self, u: Tensor) -> Tensor:
        return (1 - self.progress) * u + self.progress * self.round(u)


class RealUntil(Quantizer):
    """Real weights, not clipped, until a share of training is done; their levels from then on.

        w_q = w                                   before `hard_from`
        w_q = sign w, or sign(w) [|w| > 1/2]      from then on

    It goes with the rules that pull weights to -1 and +1 during training: `ProxQuant`, `AskewSGD`.

    Args:
        hard_from: the share of training after which the product sees levels.
        count: 2 for signs, 3 for ternary levels with threshold 1/2.

    Raises:
        HypersignError: `hard_from` is not in [0, 1], or another number of levels.

    >>> quantizer = RealUntil(hard_from=0.5)
    >>> quantizer.anneal(0.25)
    >>> quantizer(torch.tensor([0.3, -0.9])).tolist()
    [0.30000001192092896, -0.8999999761581421]
    >>> quantizer.anneal(0.5)
    >>> quantizer(torch.tensor([0.3, -0.9])).tolist()
    [1.0, -1.0]
    """

    relaxes = True

    def __init__(self, *, hard_from: float = 1.0, count: int = 2) -> None:
        if count not in (2, 3):
            raise HypersignError(f"count, the levels, must be 2 or 3; got {count!r}")
        super().__init__(surrogate=StraightThrough())
        self.hard_from = check_real("hard_from", hard_from, min=0, max=1)
        self.count = count
        self.levels = (-1.0, 1.0) if count == 2 else (-1.0, 0.0, 1.0)
        self.hard = True

    def anneal(self, progress: float) -> None:
        self.hard = progress >= self.hard_from

    def round(self, x: Tensor) -> Tensor:
        if self.count == 2:
            return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)
        return x.sign() * (x.abs() > 0.5)

    def forward(self, x: Tensor) -> Tensor:
        """The weights, or their levels."""
        return super().forward(x) if self.hard else x

    def thresholds(self, x: Tensor) -> Tensor:
        return x.new_full((len(x),), 0.0 if self.count == 2 else 0.5)

    def input_refusal(self) -> str:
        return "must not be RealUntil, which relaxes weights; use sign"

    def extra_repr(self) -> str:
        return f"hard_from={self.hard_from:g}, count={self.count}"
