"""The ternary quantizer."""

import dataclasses

from torch import Tensor
from torch.nn import functional as F

from hypersign import theory
from hypersign._checks import check_real
from hypersign.quantizers.base import Quantizer, Rule
from hypersign.quantizers.surrogates import Surrogate

__all__ = ["Deviations", "Optimal", "Ternary"]


@dataclasses.dataclass(frozen=True)
class Deviations:
    """A threshold in standard deviations of each filter, about its mean: it moves with the weights.

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
    """The threshold at which a Gaussian filter's ternary levels keep most of its direction: .612 of its
    standard deviation. There the angle is 25.86 degrees, and 45.9 % of the weights are zero.

    Source: `theory.OPTIMAL_THRESHOLD`, the maximum over t of sqrt(2/pi) exp(-t^2/2) / sqrt(2 Q(t)), Q the normal
    upper tail.
    """

    deviations: float = dataclasses.field(default=theory.OPTIMAL_THRESHOLD, init=False)


class Ternary(Quantizer):
    """The sign where the magnitude exceeds a threshold, zero elsewhere, with a surrogate gradient.

        q(x) = sign(x) [ |x| > t ]

    `t` is `threshold` itself or, for `Optimal()` and `Deviations(number)`, that number of standard deviations per
    filter (first dimension of `x` = filters; gradients do not flow through it). The surrogate ignores the
    threshold, as in the original.

    Args:
        threshold: a number in [0, 1), or `Optimal()` or `Deviations(...)` (weights only: inputs have no filters).
        scale, offset: rules such as `MeanScale()`, one least-squares factor per filter (weights only), or None.
        surrogate: the backward rule; `HardTanh(clip=1.0)` if None.

    Raises:
        HypersignError: `threshold` is none of these; a scale, offset or surrogate of another kind.

    Source: Anderson & Berg 2018 (arXiv 1705.07199), section 3; Li et al. 2016 (arXiv 1605.04711).

    >>> import torch
    >>> Ternary(0.5)(torch.tensor([-0.7, -0.5, 0.0, 0.6]))
    tensor([-1.,  0.,  0.,  1.])
    """

    levels = (-1.0, 0.0, 1.0)

    def __init__(
        self,
        threshold: float | Deviations = 0.02,
        *,
        scale: Rule | None = None,
        offset: Rule | None = None,
        surrogate: Surrogate | None = None,
    ) -> None:
        super().__init__(scale=scale, offset=offset, surrogate=surrogate)
        if not isinstance(threshold, Deviations):
            threshold = check_real("threshold (a number, or Optimal())", threshold, min=0, below=1)
        self.threshold = threshold

    def round(self, x: Tensor) -> Tensor:
        if isinstance(self.threshold, Deviations):
            limits = self.thresholds(x).view(-1, *[1] * (x.dim() - 1))
            return x.sign() * (x.abs() > limits)
        # hardshrink is `x [|x| > t]` in one pass.
        return F.hardshrink(x, self.threshold).sign()

    def thresholds(self, x: Tensor) -> Tensor:
        if isinstance(self.threshold, Deviations):
            return self.threshold.deviations * x.detach().flatten(1).std(1, correction=0)
        return x.new_full((len(x),), self.threshold)

    def input_refusal(self) -> str:
        if isinstance(self.threshold, Deviations):
            return (
                f"must have a number as threshold: inputs have no filters, so {self.threshold!r} has no meaning "
                "there; after a batch norm without scale, Ternary(.612) is the optimum"
            )
        return super().input_refusal()

    def extra_repr(self) -> str:
        threshold = self.threshold if isinstance(self.threshold, Deviations) else f"{self.threshold:g}"
        return ", ".join(part for part in (f"threshold={threshold}", super().extra_repr()) if part)
