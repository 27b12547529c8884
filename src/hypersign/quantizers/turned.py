"""RBNN: filters are rotated towards their signs before they are rounded."""

import math

import torch
from torch import Tensor, nn

from hypersign import theory
from hypersign.quantizers.base import PackedForm
from hypersign.quantizers.scales import sized, standardised
from hypersign.quantizers.sign import Sign
from hypersign.quantizers.surrogates import Surrogate, Tent

__all__ = ["Turned"]


class _FixedMean:
    """The mean magnitude of each filter, without a gradient."""

    def __call__(self, weight: Tensor, levels: Tensor) -> Tensor:
        return weight.detach().flatten(1).abs().mean(1)


class Turned(Sign):
    """The sign of standardised filters, after a rotation of their matrix that brings them nearer to signs.

        q = sign(z + |sin phi| (R1' Z R2 - z)),    z = (w - mu)/sigma,    s = mean |w|

    w is a latent filter of n weights with mean mu and standard deviation sigma, s its scale. Z is z as an a x b
    matrix; a is the largest divisor of n up to sqrt n. R1 (a x a) and R2 (b x b) are orthogonal and shared by the
    filters of a layer. The bracket has no gradient. phi is learned per filter and starts at pi/2. At the start of
    each epoch, three rounds fit R1 and R2, from the identity on; U S V' is a singular value decomposition:

        B = sign(R1' Z R2);    R1 = V U' of sum B R2' Z' = U S V';    R2 = U V' of sum Z' R1 B = U S V'

    Nothing rotates back after the product, so the angle of a filter is the one between w and q.
    Source: Lin et al. 2020 (RBNN, arXiv 2009.13055), eqs. 6-15.

    >>> quantizer = Turned()
    >>> quantizer.fit(torch.tensor([[1.0, -2.0, 3.0, 5.0]]))
    >>> sorted(quantizer.state_dict()), quantizer.r1.shape
    (['phi', 'r1', 'r2'], torch.Size([2, 2]))
    """

    r1: Tensor
    r2: Tensor

    def __init__(self, *, surrogate: Surrogate | None = None) -> None:
        super().__init__(scale=_FixedMean(), surrogate=surrogate or Tent())
        self.phi = nn.Parameter(torch.full((1,), math.pi / 2))
        self.register_buffer("r1", torch.eye(1))
        self.register_buffer("r2", torch.eye(1))

    def fit(self, weight: Tensor, channels: int | None = None) -> None:
        """Gives each filter its phi, and fits the rotations to the weights."""
        self.phi = sized(self.phi, weight.new_full((len(weight),), math.pi / 2), "a learned rotation")
        self.refresh(weight)

    def refresh(self, weight: Tensor) -> None:
        """Fits R1 and R2 to the latent weights."""
        wide = torch.promote_types(weight.dtype, torch.float32)  # the decomposition needs 32 bits
        z = self._matrices(standardised(weight.detach().to(wide)))
        a, b = z.shape[1:]
        r1, r2 = torch.eye(a, dtype=z.dtype, device=z.device), torch.eye(b, dtype=z.dtype, device=z.device)
        for _ in range(3 if z.device.type != "meta" else 0):
            levels = self.round(r1.T @ z @ r2)
            u, _, vh = torch.linalg.svd(torch.einsum("fij,kj,flk->il", levels, r2, z))
            r1 = vh.T @ u.T
            u, _, vh = torch.linalg.svd(torch.einsum("fji,jk,fkl->il", z, r1, levels))
            r2 = u @ vh
        self.r1, self.r2 = r1.to(weight.dtype), r2.to(weight.dtype)

    @staticmethod
    def _matrices(z: Tensor) -> Tensor:
        n = z[0].numel()
        a = next(i for i in range(math.isqrt(n), 0, -1) if n % i == 0)
        return z.reshape(len(z), a, n // a)

    def prepare(self, x: Tensor) -> Tensor:
        z = standardised(x)
        turned = (self.r1.T @ self._matrices(z.detach()) @ self.r2).reshape(z.shape)
        share = self.phi.sin().abs().view(-1, *[1] * (x.dim() - 1))
        return z + share * (turned - z.detach())

    @property
    def predicted_by_thresholds(self) -> bool:
        """No: levels are signs of the turned filter, not of the filter."""
        return False

    def predicted_cosine(self, d: float, moments: theory.Moments) -> float | None:
        """None: it depends on the rotation."""
        return None

    def packed_form(self, inputs: bool = False) -> PackedForm:
        return PackedForm(None, self.input_refusal()) if inputs else super().packed_form()

    def input_refusal(self) -> str:
        return "must not be turned, which rotates the matrix of a filter; use sign:surrogate=tent"

    def extra_repr(self) -> str:
        return ""
