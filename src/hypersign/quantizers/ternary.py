"""The ternary quantizer."""

import dataclasses

import torch
from torch import Tensor
from torch.nn import functional as F

from hypersign import theory
from hypersign._checks import check_real
from hypersign.quantizers.base import Quantizer, Rule
from hypersign.quantizers.surrogates import Surrogate

__all__ = ["Deviations", "LeastSquares", "Optimal", "Ternary"]


@dataclasses.dataclass(frozen=True)
class Deviations:
    """A threshold per filter, in standard deviations of its weights about their mean.

    Raises:
        HypersignError: `deviations` is not a number >= 0.

    >>> import torch
    >>> Ternary(Deviations(1.0))(torch.tensor([[-3.0, 1.0, 2.0, 0.0]]))  # standard deviation 1.87
    tensor([[-1.,  0.,  1.,  0.]])
    """

    deviations: float

    def __post_init__(self) -> None:
        check_real("deviations", self.deviations, min=0)


@dataclasses.dataclass(frozen=True)
class Optimal(Deviations):
    """The threshold at which the ternary levels of a Gaussian filter are nearest to its direction.

    It is .612 of the filter's standard deviation. The angle is then 25.86 degrees, and 45.9 % of the weights are
    zero.

    Source: `theory.OPTIMAL_THRESHOLD`, the maximum over t of sqrt(2/pi) exp(-t^2/2) / sqrt(2 Q(t)), Q the normal
    upper tail.
    """

    deviations: float = dataclasses.field(default=theory.OPTIMAL_THRESHOLD, init=False)


@dataclasses.dataclass(frozen=True)
class LeastSquares:
    """The threshold of each filter at which its scaled ternary levels are nearest to it, found exactly.

        t = alpha/2,    alpha = the mean of the k largest magnitudes, k = argmax (sum of the k largest)^2 / k

    With `scale=MeanScale()` that minimises |w - alpha q|^2 over all ternary q and all alpha.
    Source: Pouransari & Tuzel 2020 (arXiv 2001.02786), LS-T; `Optimal()` is its limit for Gaussian filters.

    >>> import torch
    >>> Ternary(LeastSquares())(torch.tensor([[-3.0, 2.0, 0.5, 0.4]]))
    tensor([[-1.,  1.,  0.,  0.]])
    """

    def limits(self, x: Tensor) -> Tensor:
        """The thresholds of filters `(filters, ...)`, shape `(filters,)`."""
        sums = x.detach().flatten(1).abs().sort(1, descending=True).values.cumsum(1)
        count = torch.arange(1, sums.shape[1] + 1, device=x.device, dtype=x.dtype)
        best = (sums.square() / count).argmax(1, keepdim=True)
        return (sums.gather(1, best)[:, 0] / (best[:, 0] + 1)) / 2


class Ternary(Quantizer):
    """The sign if the magnitude exceeds a threshold, else zero; with a surrogate gradient.

        q(x) = sign(x) [ |x| > t ]

    `t` is `threshold` itself or, for `Optimal()` and `Deviations(number)`, that number of standard deviations per
    filter (first dimension of `x` = filters; gradients do not flow through it). The surrogate ignores the
    threshold, as in the original.

    Args:
        threshold: a number in [0, 1), or `Optimal()`, `Deviations(...)` or `LeastSquares()` (weights only: inputs
            have no filters).
        scale, offset: rules such as `MeanScale()`, one least-squares factor per filter (weights only), or None.
        surrogate: the backward rule; `HardTanh(clip=1.0)` if None.

    Raises:
        HypersignError: `threshold` is none of these, or a scale, an offset or the surrogate has another type.

    Source: Anderson & Berg 2018 (arXiv 1705.07199), section 3; Li et al. 2016 (arXiv 1605.04711).

    >>> import torch
    >>> Ternary(0.5)(torch.tensor([-0.7, -0.5, 0.0, 0.6]))
    tensor([-1.,  0.,  0.,  1.])
    """

    levels = (-1.0, 0.0, 1.0)

    def __init__(
        self,
        threshold: float | Deviations | LeastSquares = 0.02,
        *,
        scale: Rule | None = None,
        offset: Rule | None = None,
        surrogate: Surrogate | None = None,
    ) -> None:
        super().__init__(scale=scale, offset=offset, surrogate=surrogate)
        if not isinstance(threshold, Deviations | LeastSquares):
            threshold = check_real("threshold (a number, or Optimal())", threshold, min=0, below=1)
        self.threshold = threshold

    def round(self, x: Tensor) -> Tensor:
        if not isinstance(self.threshold, float | int):
            limits = self.thresholds(x).view(-1, *[1] * (x.dim() - 1))
            return x.sign() * (x.abs() > limits)
        # hardshrink is `x [|x| > t]` in one pass.
        return F.hardshrink(x, self.threshold).sign()

    def thresholds(self, x: Tensor) -> Tensor:
        if isinstance(self.threshold, Deviations):
            rows = x.detach().flatten(1)
            centred = rows - rows.mean(1, keepdim=True)  # `std` along rows takes several times as long
            return self.threshold.deviations * torch.linalg.vector_norm(centred, dim=1) / rows.shape[1] ** 0.5
        if isinstance(self.threshold, LeastSquares):
            return self.threshold.limits(x)
        return x.new_full((len(x),), self.threshold)

    def input_refusal(self) -> str:
        if not isinstance(self.threshold, float | int):
            return (
                f"must have a number as threshold: inputs have no filters, so {self.threshold!r} has no meaning "
                "there; after a batch norm without scale, Ternary(.612) is the optimum"
            )
        return super().input_refusal()

    def extra_repr(self) -> str:
        threshold = self.threshold if not isinstance(self.threshold, float | int) else f"{self.threshold:g}"
        return ", ".join(part for part in (f"threshold={threshold}", super().extra_repr()) if part)
