"""Signs of transformed filters: standardised, clamped, centred, by magnitude, of two values, of a sine."""

import math

import torch
from torch import Tensor

from hypersign import theory
from hypersign._checks import check_real
from hypersign.quantizers.base import PackedForm, Quantizer, Rule
from hypersign.quantizers.scales import (
    FilterMean,
    LearnedScale,
    MatrixScale,
    PowerOfTwo,
    Spread,
    standardised,
)
from hypersign.quantizers.sign import Sign
from hypersign.quantizers.surrogates import StraightThrough, Surrogate, Tanh

__all__ = ["AdaBin", "BiPer", "Bit", "IRNet", "ReCU", "SiMaN", "TwoValues"]


class IRNet(Sign):
    """The sign of standardised filters, with a power of two as scale.

        q = sign((w - mu)/sigma),    s = 2^round(log2 mean |(w - mu)/sigma|)

    w is a latent filter of n weights; mu is its mean, sigma its standard deviation with divisor n - 1, as in the
    public code. Gradients flow through mu and sigma, but not through s.
    Source: Qin et al. 2020 (IR-Net, arXiv 1909.10788).

    >>> IRNet()(torch.tensor([[3.0, 4.0, 8.0]]))
    tensor([[-1., -1.,  1.]])
    """

    def __init__(self, *, scale: Rule | None = None, surrogate: Surrogate | None = None) -> None:
        super().__init__(scale=PowerOfTwo() if scale is None else scale, surrogate=surrogate or Tanh())

    def prepare(self, x: Tensor) -> Tensor:
        return standardised(x)


class AdaBin(Sign):
    """Two values per filter, its mean plus and minus its standard deviation.

        w_q = sigma sign((w - mu)/sigma) + mu

    mu and sigma are mean and standard deviation (divisor n) of the filter w. Gradients flow through both.
    Source: Tu et al. 2022 (AdaBin, arXiv 2208.08084), eqs. 5-8.

    >>> quantizer = AdaBin()
    >>> quantizer.effective(torch.tensor([[1.0, 3.0]])).tolist()
    [[1.0, 3.0]]
    """

    def __init__(self, *, surrogate: Surrogate | None = None) -> None:
        super().__init__(scale=Spread(), offset=FilterMean(), surrogate=surrogate or Tanh())

    def prepare(self, x: Tensor) -> Tensor:
        return standardised(x, 0)

    def input_refusal(self) -> str:
        return "must not be AdaBin's two values per filter: inputs have no filters; use adabin-inputs"


class ReCU(Sign):
    """The sign of standardised and clamped filters; clamping revives weights far from 0. A learned scale per filter.

        z = 2 sqrt(2) (w - mu)/sigma,    q = sign(clamp(z, -Q, Q)),    Q = -mean |z| ln(2 - 2 tau)

    mu and sigma are those of the filter w; the mean of |z| is over the layer, so Q is one number per layer, without a
    gradient. Gradients pass the sign unchanged and stop where the clamp acts. tau grows during training:
    tau(p) = first + (last - first)(e^p - 1)/(e - 1), where p is the share of training done.
    Source: Xu et al. 2021 (ReCU, arXiv 2103.12369), eqs. 8 and 14, and its public code for tau(p).

    Args:
        first, last: tau at the start and at the end.
        scale: `LearnedScale()` if None.
        surrogate: `StraightThrough()` if None.

    Raises:
        HypersignError: `first` or `last` is not in [0.5, 1).

    >>> quantizer = ReCU()
    >>> quantizer.anneal(0.5)
    >>> round(quantizer.tau, 4)
    0.9029
    """

    limit: Tensor

    def __init__(
        self,
        *,
        first: float = 0.85,
        last: float = 0.99,
        scale: Rule | None = None,
        surrogate: Surrogate | None = None,
    ) -> None:
        super().__init__(scale=LearnedScale() if scale is None else scale, surrogate=surrogate or StraightThrough())
        self.first = check_real("first", first, min=0.5, below=1)
        self.last = check_real("last", last, min=0.5, below=1)
        self.tau = self.last
        # an operand, so that compiled graphs see it change
        self.register_buffer("limit", torch.tensor(self._limit()), persistent=False)

    def _limit(self) -> float:
        return -math.log(2 - 2 * self.tau)

    def _apply(self, fn: object, recurse: bool = True) -> "ReCU":
        super()._apply(fn, recurse)  # the buffer is in no state dict
        self.limit.fill_(self._limit())
        return self

    def anneal(self, progress: float) -> None:
        self.tau = self.first + (self.last - self.first) * math.expm1(progress) / math.expm1(1)
        self.limit.fill_(self._limit())

    def prepare(self, x: Tensor) -> Tensor:
        z = 2 * math.sqrt(2) * standardised(x)
        bound = z.detach().abs().mean() * self.limit.to(x.dtype)
        return torch.maximum(torch.minimum(z, bound), -bound)

    def extra_repr(self) -> str:
        return f"first={self.first:g}, last={self.last:g}"


class SiMaN(Quantizer):
    """+1 for the n/2 largest magnitudes of a standardised filter, -1 for the rest; a learned scale per filter.

        q_i = +1 if |z_i| is among the floor(n/2) largest, else -1,    z = (w - mu)/sigma

    w is a filter of n weights, mu and sigma its mean and standard deviation. The sign of a weight has no influence,
    so Gaussian filters are at 90 degrees to their levels. Of equal magnitudes the first come first. Gradients pass
    unchanged to |z|.
    Source: Lin et al. 2021 (SiMaN, arXiv 2102.07981).

    >>> SiMaN()(torch.tensor([[-4.0, 1.0, 0.5, 3.0]]))
    tensor([[ 1., -1., -1.,  1.]])
    """

    levels = (-1.0, 1.0)

    def __init__(self, *, scale: Rule | None = None, surrogate: Surrogate | None = None) -> None:
        super().__init__(scale=LearnedScale() if scale is None else scale, surrogate=surrogate or StraightThrough())

    def prepare(self, x: Tensor) -> Tensor:
        return standardised(x).abs()

    def round(self, x: Tensor) -> Tensor:
        rows = x.flatten(1)
        upper = rows.argsort(dim=1, descending=True, stable=True)[:, : rows.shape[1] // 2]
        return torch.full_like(rows, -1.0).scatter_(1, upper, 1.0).view_as(x)

    def predicted_cosine(self, d: float, moments: theory.Moments) -> float | None:
        """0: levels depend on magnitudes alone, and Gaussian weights are symmetric."""
        return 0.0

    def input_refusal(self) -> str:
        return "must not be SiMaN's, which ranks the weights of a filter: inputs have no filters"


class TwoValues(Sign):
    """Two free values per filter, chosen by least squares.

        w_q = the mean of the K largest weights, for each of these; the mean of the others, for each of the others

    K maximises S_K^2/K + (S - S_K)^2/(n - K), which minimises |w - w_q|^2. n is the number of weights, S their sum,
    and S_K the sum of the K largest. The levels are +1 above the split and -1 below it. The scale is half the
    difference of the two means, the offset half their sum; both are differentiable, the split is not.
    Source: Ding et al. 2018, distribution-aware binarization of networks (arXiv 1804.02941).

    >>> TwoValues().effective(torch.tensor([[1.0, 2.0, 9.0]])).tolist()
    [[1.5, 1.5, 9.0]]
    """

    def __init__(self, *, surrogate: Surrogate | None = None) -> None:
        super().__init__(scale=half_difference, offset=half_sum, surrogate=surrogate)

    def prepare(self, x: Tensor) -> Tensor:
        return x - split(x.detach().flatten(1)).view(-1, *[1] * (x.dim() - 1))

    def extra_repr(self) -> str:
        return ""


def split(rows: Tensor) -> Tensor:
    """The midpoint of the two best means of each row, shape `(rows,)`: two values by least squares."""
    low, high = two_means(rows)
    return (low + high) / 2


def two_means(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The two values, ascending, that fit each row best in the sum of squares; shape `(rows,)` each.

    An optimal split of numbers into two groups has the smaller ones in one. So one pass over the sorted row finds it.
    """
    n = rows.shape[1]
    if n == 1:
        return rows[:, 0], rows[:, 0]
    sums = rows.sort(1).values.cumsum(1)
    total, below = sums[:, -1:], sums[:, :-1]
    count = torch.arange(1, n, device=rows.device, dtype=rows.dtype)
    kept = below.square() / count + (total - below).square() / (n - count)
    best = kept.argmax(1, keepdim=True)
    k = (best + 1).to(rows.dtype)
    low = below.gather(1, best)
    return (low / k)[:, 0], ((total - low) / (n - k))[:, 0]


def _group_means(weight: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
    """Means of the weights at level -1 and at level +1; an empty group gets the mean of the filter."""
    rows, high = weight.flatten(1), (levels.detach().flatten(1) > 0).to(weight.dtype)
    count, n = high.sum(1), rows.shape[1]
    upper, total = (rows * high).sum(1), rows.sum(1)
    mean = total / n
    low = torch.where(count < n, (total - upper) / (n - count).clamp(min=1), mean)
    return low, torch.where(count > 0, upper / count.clamp(min=1), mean)


def half_difference(weight: Tensor, levels: Tensor) -> Tensor:
    """Half the difference of the means at the two levels, shape `(filters,)`."""
    low, high = _group_means(weight, levels)
    return (high - low) / 2


def half_sum(weight: Tensor, levels: Tensor) -> Tensor:
    """Half the sum of the means at the two levels, shape `(filters,)`."""
    low, high = _group_means(weight, levels)
    return (high + low) / 2


class BiPer(Sign):
    """The sign of a sine of the weights; during the first stage of training, the sine itself.

        stage 1: w_q = sin(omega w)        stage 2: w_q = sign(sin(omega w)),    dw_q/dw := omega cos(omega w)

    Source: Vargas et al. 2024 (BiPer, arXiv 2404.01278).

    Args:
        omega: the angular frequency.
        hard_from: the share of training after which signs replace the sine (the paper: 600 of 900 epochs).
        scale: a rule, or None.

    Raises:
        HypersignError: `omega` is not above 0, or `hard_from` not in [0, 1].

    >>> BiPer(omega=20)(torch.tensor([0.1, 0.2]))
    tensor([ 1., -1.])
    """

    relaxes = True

    def __init__(
        self,
        *,
        omega: float = 20.0,
        hard_from: float = 2 / 3,
        scale: Rule | None = None,
        surrogate: Surrogate | None = None,
    ) -> None:
        super().__init__(scale=scale, surrogate=surrogate or StraightThrough())
        self.omega = check_real("omega", omega, above=0)
        self.hard_from = check_real("hard_from", hard_from, min=0, max=1)
        self.hard = True

    def anneal(self, progress: float) -> None:
        self.hard = progress >= self.hard_from

    def prepare(self, x: Tensor) -> Tensor:
        return torch.sin(self.omega * x)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if self.hard else self.prepare(x)

    @property
    def predicted_by_thresholds(self) -> bool:
        """No: the levels are those of the sine, which is no monotone function of the weight."""
        return False

    def predicted_cosine(self, d: float, moments: theory.Moments) -> float | None:
        """None: it depends on the size of the weights, see `theory.sine_sign_cosine`."""
        return None

    def packed_form(self, inputs: bool = False) -> PackedForm:
        if inputs:
            return PackedForm(None, "a sine of inputs changes sign at many thresholds, and a packed layer has one")
        return super().packed_form(inputs)

    def extra_repr(self) -> str:
        return f"omega={self.omega:g}"


class Bit(Sign):
    """The sign of weights about the mean of the whole matrix, times their mean magnitude; nothing is learned.

        w_q = alpha sign(W - mean W),    alpha = mean |W|;    dw_q/dw := 1

    Source: Liu et al. 2022 (BiT, arXiv 2205.13016), eqs. 2 and 3.

    >>> Bit()(torch.tensor([[1.0, 2.0], [6.0, 7.0]]))
    tensor([[-1., -1.],
            [ 1.,  1.]])
    """

    def __init__(self, *, surrogate: Surrogate | None = None) -> None:
        super().__init__(scale=MatrixScale(), surrogate=surrogate or StraightThrough())

    def prepare(self, x: Tensor) -> Tensor:
        fixed = x.detach()
        centre = fixed.mean()
        # alpha cancels that of the layer's scale, so that the gradient of the scaled weight passes unchanged
        return (x - centre) / fixed.abs().mean().clamp(min=1e-5)

    def input_refusal(self) -> str:
        return "must not be BiT's signs of weights, whose scale is that of a weight matrix; use bit-inputs"
