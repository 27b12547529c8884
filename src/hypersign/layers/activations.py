"""Learned activation functions between layers: ReActNet's RPReLU, AdaBin's Maxout."""

import torch
from torch import Tensor, nn

from hypersign._checks import check_choice
from hypersign.quantizers.base import traced

__all__ = ["ACTIVATIONS", "Maxout", "RPReLU", "activation"]


class TwoSlopes(nn.Module):
    """Shift, two slopes, shift, per channel (the second dimension).

    y = right max(0, x + before) + left min(0, x + before) + after
    """

    def pieces(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`before`, `left`, `right` and `after`, one number per channel each."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Maps `(N, channels, ...)` to the same shape."""
        if isinstance(x, torch.fx.Proxy):
            return traced(self, x)
        before, left, right, after = (values.view(-1, *[1] * (x.dim() - 2)) for values in self.pieces())
        x = x + before
        return torch.where(x > 0, right * x, left * x) + after


class RPReLU(TwoSlopes):
    """ReActNet's activation: a PReLU between two learned shifts, all per channel.

        y = PReLU(x - gamma) + zeta,    PReLU(u) = u for u > 0, else b u

    gamma and zeta start at 0, b at 1/4. Source: Liu et al. 2020 (ReActNet, arXiv 2003.03488), eq. 2.

    >>> RPReLU(1)(torch.tensor([[-2.0], [3.0]])).flatten().tolist()
    [-0.5, 3.0]
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(channels))
        self.zeta = nn.Parameter(torch.zeros(channels))
        self.slope = nn.Parameter(torch.full((channels,), 0.25))

    def pieces(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return -self.gamma, self.slope, torch.ones_like(self.slope), self.zeta

    def forward(self, x: Tensor) -> Tensor:
        """Maps `(N, channels, ...)` to the same shape; torch's PReLU takes half the time of two products."""
        if isinstance(x, torch.fx.Proxy):
            return traced(self, x)
        gamma, zeta = (values.view(-1, *[1] * (x.dim() - 2)) for values in (self.gamma, self.zeta))
        return nn.functional.prelu(x - gamma, self.slope) + zeta


class Maxout(TwoSlopes):
    """AdaBin's activation: learned slopes on either side of 0, per channel.

        y = right max(0, x) + left min(0, x)

    `right` starts at 1, `left` at 1/4. Source: Tu et al. 2022 (AdaBin, arXiv 2208.08084), eq. 14.

    >>> Maxout(1)(torch.tensor([[-2.0], [3.0]])).flatten().tolist()
    [-0.5, 3.0]
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.left = nn.Parameter(torch.full((channels,), 0.25))
        self.right = nn.Parameter(torch.ones(channels))

    def pieces(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        zero = torch.zeros_like(self.left)
        return zero, self.left, self.right, zero


ACTIVATIONS = ("none", "hardtanh", "rprelu", "maxout")
"""Activation functions by name."""


def activation(name: str, channels: int) -> nn.Module | None:
    """The activation function of a name, for this number of channels; None for "none".

    Raises:
        HypersignError: an unknown name.

    >>> activation("hardtanh", 4)
    Hardtanh(min_val=-1.0, max_val=1.0)
    """
    check_choice("activation", name, ACTIVATIONS)
    if name == "hardtanh":
        return nn.Hardtanh()
    return {"rprelu": RPReLU, "maxout": Maxout}[name](channels) if name != "none" else None
