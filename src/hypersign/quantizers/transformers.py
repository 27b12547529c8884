"""Quantizers of transformers: BitNet b1.58, ParetoQ, and the activations of BiT."""

import math

import torch
from torch import Tensor, nn

from hypersign import theory
from hypersign._checks import HypersignError
from hypersign.quantizers.base import PackedForm, Quantizer
from hypersign.quantizers.scales import Fitted, LearnedNumber, MatrixScale, same_rank, sized
from hypersign.quantizers.surrogates import HardTanh, StraightThrough, Surrogate

__all__ = ["BitNet", "BitInputs", "Int8", "ParetoQ"]


class BitNet(Quantizer):
    """Ternary weights of BitNet b1.58: rounded in units of the mean magnitude of the whole matrix.

        q = round(clamp(w/alpha, -1, 1)),    alpha = mean |W|;    d(alpha q)/dw := 1

    W is the whole matrix and w one of its weights. So the threshold is alpha/2: .4 standard deviations of Gaussian
    weights, 31 % zeros.
    Source: Ma et al. 2024 (arXiv 2402.17764), eqs. 1-3.

    >>> BitNet()(torch.tensor([[0.4, -2.0, 1.6]]))
    tensor([[ 0., -1.,  1.]])
    """

    levels = (-1.0, 0.0, 1.0)

    def __init__(self, *, surrogate: Surrogate | None = None) -> None:
        super().__init__(scale=MatrixScale(), surrogate=surrogate or StraightThrough())

    def prepare(self, x: Tensor) -> Tensor:
        return x / x.detach().abs().mean().clamp(min=1e-5)

    def round(self, x: Tensor) -> Tensor:
        return x.clamp(-1, 1).round() + 0.0  # -0 is 0

    def thresholds(self, x: Tensor) -> Tensor:
        return x.new_full((len(x),), 0.5)

    def input_refusal(self) -> str:
        return "must not be BitNet's, whose scale is that of a weight matrix; use int8"


class Int8(Quantizer):
    """8-bit inputs with one scale per token.

        q = round(127 x/max |x|),    s = max |x|/127;    d(s q)/dx := 1

    x is a token: the last dimension of a linear layer's inputs. A convolution has one scale per image; its layer says
    so in `fit`.
    Source: Ma et al. 2024 (BitNet b1.58, arXiv 2402.17764), section 2. One scale per
    image is HyperSign's choice: the paper has no convolutions.

    >>> quantizer, x = Int8(), torch.tensor([[1.0, -2.0]])
    >>> quantizer(x).tolist(), quantizer.scale(x, quantizer(x)).tolist()
    ([[64.0, -127.0]], [[0.015748031437397003]])
    """

    bits = 8
    scale: "_TokenScale"

    def __init__(self, *, surrogate: Surrogate | None = None) -> None:
        super().__init__(scale=_TokenScale(), surrogate=surrogate or StraightThrough())

    def fit(self, weight: Tensor, channels: int | None = None) -> None:
        """Gives a token as many dimensions as a filter of the layer has."""
        self.scale.rank = same_rank(self.scale.rank, weight)

    def prepare(self, x: Tensor) -> Tensor:
        return x / self.scale(x, x)

    def round(self, x: Tensor) -> Tensor:
        return x.round().clamp(-127, 127)

    def packed_form(self, inputs: bool = False) -> PackedForm:
        return PackedForm(None, "its 8-bit inputs have one scale per token, and packed layers read bits or pixels")

    def extra_repr(self) -> str:
        return ""


class _TokenScale:
    """max |x|/127 of each token, the last dimensions of the inputs."""

    rank: int | None = None

    def __call__(self, x: Tensor, levels: Tensor) -> Tensor:
        dims = tuple(range(1 - (self.rank or 2), 0))
        return x.detach().abs().amax(dims, keepdim=True).clamp(min=1e-5) / 127


class _Step(Fitted):
    """ParetoQ's learned step of each filter, with LSQ's scaled gradient."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = levels
        self.alpha = nn.Parameter(torch.ones(1))

    def fit(self, weight: Tensor, channels: int | None = None) -> None:
        size = weight.detach().flatten(1).abs()
        self.alpha = sized(self.alpha, size.mean(1) if self.levels == 2 else size.amax(1), "a learned step")

    def step(self, weight: Tensor) -> Tensor:
        """alpha, at least 1e-5, whose gradient is divided by sqrt(weights * largest level); shape `(filters,)`."""
        alpha = self.alpha.clamp(min=1e-5).expand(len(weight))
        largest = 1.0 if self.levels == 2 else 2 / 3
        share = 1 / math.sqrt(weight.numel() * largest)
        return alpha.detach() + share * (alpha - alpha.detach())

    def forward(self, weight: Tensor, levels: Tensor) -> Tensor:
        return self.step(weight) * (1.0 if self.levels == 2 else 2 / 3)


class ParetoQ(Quantizer):
    """Weights with a learned step alpha per filter: two levels +-alpha, or three levels 0 and +-2/3 alpha.

        binary:  w_q = alpha sign w;                              dw_q/dw := [|w| <= alpha], dw_q/dalpha := sign w
        ternary: w_q = alpha round(1.5 clamp(w/alpha, -.99, .99))/1.5;   dw_q/dw := [|w| <= .99 alpha],
                 dw_q/dalpha := w_q/alpha - (w/alpha) [|w| <= .99 alpha]

    The gradient of alpha is divided by sqrt(weights of the layer times the largest level), as in LSQ. Thresholds are
    alpha/3. alpha starts at the mean (binary) or the largest (ternary) magnitude of the filter.
    Source: Liu et al. 2025 (ParetoQ, arXiv 2502.02631), and its public code for the gradient.

    Args:
        count: levels, 2 or 3.

    Raises:
        HypersignError: another number of levels.

    >>> quantizer = ParetoQ(count=3)
    >>> quantizer.fit(torch.tensor([[0.9, -0.2, 0.4]]))
    >>> quantizer(torch.tensor([[0.9, -0.2, 0.4]])).tolist(), round(quantizer.scale.alpha.item(), 1)
    ([[1.0, 0.0, 1.0]], 0.9)
    """

    scale: _Step

    def __init__(self, *, count: int = 3) -> None:
        if count not in (2, 3):
            raise HypersignError(f"count, the levels of ParetoQ here, must be 2 or 3; got {count!r}")
        super().__init__(scale=_Step(count), surrogate=_Closed(clip=1.0 if count == 2 else 1.5 * 0.99))
        self.count = count
        self.levels = (-1.0, 1.0) if count == 2 else (-1.0, 0.0, 1.0)

    def prepare(self, x: Tensor) -> Tensor:
        alpha = self.scale.step(x).view(-1, *[1] * (x.dim() - 1))
        # binary: alpha's gradient is that of the scale alone
        return x / alpha.detach() if self.count == 2 else 1.5 * x / alpha

    def round(self, x: Tensor) -> Tensor:
        if self.count == 2:
            return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)
        return x.clamp(-1.5 * 0.99, 1.5 * 0.99).round() + 0.0

    def thresholds(self, x: Tensor) -> Tensor:
        return x.new_full((len(x),), 0.0 if self.count == 2 else 0.5)

    def input_refusal(self) -> str:
        return "must not be ParetoQ's, whose step is learned per filter: inputs have no filters"

    def extra_repr(self) -> str:
        return f"count={self.count}"


class _Closed(HardTanh):
    """`HardTanh` that passes the gradient at the clip itself."""

    def backward(self, grad: Tensor, x: Tensor, state: Tensor | None) -> Tensor:
        return grad * (x.abs() <= self.clip)


class BitInputs(Quantizer):
    """BiT's elastic activations: two values with a learned distance and shift, one of each per layer.

        signed:  a_q = alpha sign((a - beta)/alpha)                    after a layer of any sign
        not:     a_q = alpha round(clamp((a - beta)/alpha, 0, 1))      after softmax or ReLU

    Gradients: 1 within the clamp (signed: |a - beta| < alpha); those of alpha and beta follow from the formula with
    that rule, as in LSQ. alpha starts at 1, beta at 0.
    Source: Liu et al. 2022 (BiT, arXiv 2205.13016), eqs. 4-6. The paper starts alpha from the first batch.

    Args:
        signed: 1 for levels -1 and +1, 0 for levels 0 and 1.

    Raises:
        HypersignError: `signed` is neither.

    >>> BitInputs(signed=0)(torch.tensor([-1.0, 0.4, 0.6, 3.0]))
    tensor([0., 0., 1., 1.], grad_fn=<_QuantizeBackward>)
    """

    scale: LearnedNumber

    def __init__(self, *, signed: int = 1) -> None:
        if signed not in (0, 1):
            raise HypersignError(f"signed must be 1 (levels -1, +1) or 0 (levels 0, 1); got {signed!r}")
        super().__init__(scale=LearnedNumber(1.0), surrogate=HardTanh() if signed else _Unit())
        self.signed = bool(signed)
        self.beta = nn.Parameter(torch.zeros(()))
        self.levels = (-1.0, 1.0) if signed else (0.0, 1.0)

    def prepare(self, x: Tensor) -> Tensor:
        return (x - self.beta) / self.scale.value

    def round(self, x: Tensor) -> Tensor:
        if self.signed:
            return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)
        return x.clamp(0, 1).round()

    def thresholds(self, x: Tensor) -> Tensor | None:
        return x.new_zeros(1) if self.signed else None

    def predicted_cosine(self, d: float, moments: theory.Moments) -> float | None:
        """The cosine of the sign; None for levels 0 and 1."""
        return super().predicted_cosine(d, moments) if self.signed else None

    @property
    def predicted_by_thresholds(self) -> bool:
        """Only for levels -1 and +1."""
        return self.signed

    def extra_repr(self) -> str:
        return f"signed={int(self.signed)}"


class _Unit(Surrogate):
    """Passes the gradient from 0 to 1."""

    def backward(self, grad: Tensor, x: Tensor, state: Tensor | None) -> Tensor:
        return grad * ((x >= 0) & (x <= 1))
