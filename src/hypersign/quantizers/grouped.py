"""One scale for each group of a filter's weights."""

import math

from torch import Tensor, nn
from torch.nn import functional as F

from hypersign import theory
from hypersign._checks import HypersignError, check_int
from hypersign.quantizers.base import PackedForm, Quantizer
from hypersign.quantizers.scales import divisor
from hypersign.quantizers.surrogates import Surrogate

__all__ = ["GroupScaled"]


class GroupScaled(Quantizer):
    """A quantizer of weights with one least-squares scale for each group of `size` consecutive weights.

        q_s(w)_i = alpha_g q(w)_i,   alpha_g = <w, q>_g / <q, q>_g   over the group g of i

    The last group of a filter has the remaining weights. A convolution's weights are ordered by channel, row, column.
    For Gaussian weights and the sign, the cosine between w and q_s(w) is sqrt(2/pi + (1 - 2/pi)/size), a little more
    than sqrt(2/pi). Gradients flow through q by its surrogate, and through alpha.

    `levels` is empty, because the product sees scaled levels. For the same reason there is no packed form.

    Args:
        quantizer: quantizer of the weights, such as `Sign()`, without a scale or offset.
        size: number of weights per group.

    Raises:
        HypersignError: `quantizer` is no quantizer, or has a scale or offset; `size` is below 1.

    Source: `theory.group_cosine`; Rastegari et al. 2016 (arXiv 1603.05279), eq. 6, group by group.

    >>> import torch
    >>> from hypersign.quantizers import Sign
    >>> GroupScaled(Sign(), 2)(torch.tensor([[1.0, -3.0, 0.5]])).tolist()
    [[2.0, -2.0, 0.5]]
    """

    quantizer: Quantizer
    bits = 32  # the product sees real numbers
    scale = None
    offset = None

    def __init__(self, quantizer: Quantizer, size: int) -> None:
        nn.Module.__init__(self)  # scale, offset and surrogate are not its own
        if not isinstance(quantizer, Quantizer) or quantizer.scale is not None or quantizer.offset is not None:
            raise HypersignError(
                f"the quantizer to scale by groups must be one without a scale or offset; got {quantizer!r}"
            )
        self.quantizer = quantizer
        self.size = check_int("the size of a group", size, min=1)

    @property
    def surrogate(self) -> Surrogate:  # type: ignore[override]
        """The surrogate of `quantizer`."""
        return self.quantizer.surrogate

    def fit(self, weight: Tensor, channels: int | None = None) -> None:
        """Sizes what `quantizer` learns."""
        self.quantizer.fit(weight, channels)

    def thresholds(self, x: Tensor) -> Tensor | None:
        """The thresholds of `quantizer`."""
        return self.quantizer.thresholds(x)

    def predicted_cosine(self, d: float, moments: theory.Moments) -> float | None:
        """The cosine of the mean angle between d weights and their signs, scaled by groups; None for other levels."""
        if self.quantizer.levels != (-1.0, 1.0) or not self.quantizer.predicted_by_thresholds:
            return None
        return math.cos(theory.moments_angle(moments, d, self.size)[0])

    def packed_form(self, inputs: bool = False) -> PackedForm:
        return PackedForm(None, "GroupScaled has a scale per group of weights, and packed layers have one per filter")

    def forward(self, x: Tensor) -> Tensor:
        """The scaled levels, in the shape of `x`, `(filters, ...)`."""
        levels = self.quantizer(x)
        alpha = self.group_scales(x, levels)
        return (alpha[..., None] * self._grouped(levels)).flatten(1)[:, : x[0].numel()].view_as(x)

    def group_scales(self, x: Tensor, levels: Tensor) -> Tensor:
        """The scale of each group, `(filters, groups)`, for weights and their levels."""
        w, q = self._grouped(x), self._grouped(levels.detach())  # (filters, groups, size)
        return (w * q).sum(2) / divisor(q.square().sum(2))

    def _grouped(self, values: Tensor) -> Tensor:
        flat = values.flatten(1)
        return F.pad(flat, (0, -flat.shape[1] % self.size)).unflatten(1, (-1, self.size))

    def describe(self) -> str:
        return f"GroupScaled({self.quantizer.describe()}, {self.size})"

    def extra_repr(self) -> str:
        return f"size={self.size}"
