"""The ternary quantizer."""

import dataclasses

from torch import Tensor
from torch.nn import functional as F

from hypersign._checks import check_real
from hypersign.quantizers.quantizer import Quantizer
from hypersign.quantizers.scales import MeanScale
from hypersign.quantizers.surrogates import Surrogate

__all__ = ["Optimal", "Ternary"]


@dataclasses.dataclass(frozen=True)
class Optimal:
    """The threshold at which a Gaussian filter's ternary levels keep most of its direction: .612 of its
    standard deviation, where the angle is 25.86 degrees and 45.9 % of the weights are zero.

    Source: maximum over t of sqrt(2/pi) exp(-t^2/2) / sqrt(2 Q(t)), Q the normal upper tail.
    """

    deviations: float = dataclasses.field(default=0.61200, init=False)


class Ternary(Quantizer):
    """The sign where the magnitude exceeds a threshold, zero elsewhere, with a surrogate gradient.

        q(x) = sign(x) [ |x| > t ]

    `t` is `threshold` itself or, for `Optimal()`, .612 of each filter's standard deviation (first dimension
    of `x` = filters; it moves with the weights, and gradients do not flow through it). The surrogate ignores
    the threshold, as in the original.

    Args:
        threshold: a number in [0, 1), or `Optimal()` (weights only: inputs have no filters).
        scale: `MeanScale()` for one least-squares factor a filter (weights only), or None.
        surrogate: the backward rule; `HardTanh(clip=1.0)` if None.

    Raises:
        HypersignError: `threshold` is neither `Optimal()` nor a number in [0, 1).

    Source: Anderson & Berg 2018 (arXiv 1705.07199), section 3; Li et al. 2016 (arXiv 1605.04711).

    >>> import torch
    >>> Ternary(0.5)(torch.tensor([-0.7, -0.5, 0.0, 0.6]))
    tensor([-1.,  0.,  0.,  1.])
    """

    levels = (-1.0, 0.0, 1.0)

    def __init__(
        self,
        threshold: float | Optimal = 0.02,
        *,
        scale: MeanScale | None = None,
        surrogate: Surrogate | None = None,
    ) -> None:
        super().__init__(scale=scale, surrogate=surrogate)
        if not isinstance(threshold, Optimal):
            threshold = check_real("threshold (a number, or Optimal())", threshold, least=0, below=1)
        self.threshold = threshold

    def round(self, x: Tensor) -> Tensor:
        if isinstance(self.threshold, Optimal):
            limits = self.thresholds(x).view(-1, *[1] * (x.dim() - 1))
            return x.sign() * (x.abs() > limits)
        # hardshrink is `x [|x| > t]` in one pass.
        return F.hardshrink(x, self.threshold).sign()

    def thresholds(self, weight: Tensor) -> Tensor:
        if isinstance(self.threshold, Optimal):
            deviation = weight.detach().flatten(1).std(1, correction=0)
            return self.threshold.deviations * deviation
        return weight.new_full((len(weight),), self.threshold)

    def extra_repr(self) -> str:
        threshold = self.threshold if isinstance(self.threshold, Optimal) else f"{self.threshold:g}"
        return ", ".join(part for part in (f"threshold={threshold}", super().extra_repr()) if part)
