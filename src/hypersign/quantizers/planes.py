"""Several planes of signs per filter, each with a scale of its own: greedy, and two by least squares."""

import torch
from torch import Tensor

from hypersign import theory
from hypersign._checks import check_int
from hypersign.quantizers.base import PackedForm, Quantizer, _Quantize
from hypersign.quantizers.standardised import two_means
from hypersign.quantizers.surrogates import Surrogate

__all__ = ["Greedy", "LeastSquaresPlanes"]


class Greedy(Quantizer):
    """A sum of planes of signs; the scale of each is the mean magnitude of what the planes before it left.

        r_1 = w,    s_i = sign(r_i),    v_i = mean |r_i|,    r_(i+1) = r_i - v_i s_i,    w_q = sum of v_i s_i

    w is a latent filter, i runs over the planes. Scales are per filter and have no gradient. Each sign has the
    surrogate's derivative at r_i, which depends on w through the planes before it. `bits` is the number of planes.
    The product sees the sum, whose values are no multiples of integers; packed, each plane is a product of its own.
    Source: Guo et al. 2017, network sketching (arXiv 1706.02021), direct approximation.

    Args:
        planes: 1 to 8.

    Raises:
        HypersignError: another number of planes; inputs, which have no filters.

    >>> Greedy(planes=2)(torch.tensor([[3.0, -1.0]]))
    tensor([[ 3., -1.]])
    """

    def __init__(self, *, planes: int = 2, surrogate: Surrogate | None = None) -> None:
        super().__init__(surrogate=surrogate)
        self.planes = check_int("planes", planes, min=1, max=8)
        self.bits = self.planes

    def round(self, x: Tensor) -> Tensor:
        """The sign of a residual: the level of one plane."""
        return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)

    def scales(self, x: Tensor) -> list[Tensor]:
        """The scale of each plane, shape `(filters,)` each."""
        rest, found = x.detach().flatten(1), []
        for _ in range(self.planes):
            found.append(rest.abs().mean(1))
            rest = rest - found[-1][:, None] * self.round(rest)
        return found

    def forward(self, x: Tensor) -> Tensor:
        """The sum of the scaled planes, of the shape of `x`."""
        rest, total = x, torch.zeros_like(x)
        for v in self.scales(x):
            plane = v.view(-1, *[1] * (x.dim() - 1)) * _Quantize.apply(rest, self.surrogate.state(), self)
            rest, total = rest - plane, total + plane
        return total

    def predicted_cosine(self, d: float, moments: theory.Moments) -> float | None:
        """The cosine for infinitely many Gaussian weights."""
        return float(theory.greedy_cosine(self.planes))

    def plane_levels(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """The scale of each plane, shape `(filters,)`, and its signs, of the shape of `x`; without gradients."""
        rest, found = x.detach(), []
        for v in self.scales(x):
            signs = self.round(rest)
            found.append((v, signs))
            rest = rest - v.view(-1, *[1] * (x.dim() - 1)) * signs
        return found

    def packed_form(self, inputs: bool = False) -> PackedForm:
        return PackedForm("planes")

    def input_refusal(self) -> str:
        return f"must not be {type(self).__name__}, whose scales are per filter: inputs have no filters"

    def extra_repr(self) -> str:
        return f"planes={self.planes}"


class LeastSquaresPlanes(Greedy):
    """Two planes of signs with the scales of least squares per filter, found exactly.

        w_q = v1 s1 + v2 s2,    s1 = sign w,    s2 = sign(w - v1 s1),    v1 = (m + M)/2,    v2 = mean ||w| - v1|

    m and M are the means of the magnitudes below and above v1, for the best of all splits of the sorted magnitudes.
    So v2 = (M - m)/2. Scales have no gradient; signs have that of `Greedy`.
    Source: Pouransari & Tuzel 2020 (arXiv 2001.02786), LS-2.

    >>> LeastSquaresPlanes()(torch.tensor([[1.0, -2.0, 9.0, -10.0]]))
    tensor([[ 1.5000, -1.5000,  9.5000, -9.5000]])
    """

    def __init__(self, *, surrogate: Surrogate | None = None) -> None:
        super().__init__(planes=2, surrogate=surrogate)

    def scales(self, x: Tensor) -> list[Tensor]:
        """v1 and v2."""
        low, high = two_means(x.detach().flatten(1).abs())
        return [(low + high) / 2, (high - low) / 2]

    def predicted_cosine(self, d: float, moments: theory.Moments) -> float | None:
        """The cosine of the four best symmetric levels of infinitely many Gaussian weights."""
        return float(theory.lloyd_max_cosine(4))

    def extra_repr(self) -> str:
        return ""
