"""Surrogate gradients: what the backward pass of a quantizer uses in place of a derivative that is zero.

The sign has derivative 0 everywhere but at one point, so a network of signs cannot be trained by its true
gradient. A surrogate replaces the derivative `dq/dx` by that of a smoother function. Every surrogate here
states the derivative it uses; `gradient(x)` returns it, `backward(grad, x)` multiplies it in.
"""

from typing import Any

import torch
from torch import Tensor, nn

from hypersign._checks import check_real

__all__ = ["HardTanh", "Polynomial", "StraightThrough", "Surrogate", "Tanh", "Triangle"]


class Surrogate(nn.Module):
    """The backward rule of a quantizer: implement `backward`; annealed surrogates also `state` and `anneal`.

    A surrogate that learns returns a parameter from `state` and implements `state_gradient`.
    """

    def backward(self, grad: Tensor, x: Tensor, state: Tensor | None) -> Tensor:
        """Gradient with respect to `x`, given `grad` with respect to the quantizer's output (same shape)."""
        raise NotImplementedError

    def state_gradient(self, grad: Tensor, x: Tensor, state: Tensor) -> Tensor | None:
        """Gradient with respect to `state`, of its shape, where it is a parameter; None if it gets none."""
        return None

    def state(self) -> Tensor | None:
        """The tensor that `backward` reads, if any: passed as an operand so that compiled graphs see it change."""
        return None

    def anneal(self, progress: float) -> None:
        """The training calls this with the share of it that is done, from 0 to 1. Does nothing by default."""

    def gradient(self, x: Tensor) -> Tensor:
        """The surrogate's derivative at `x`, elementwise; same shape as `x`.

        >>> HardTanh().gradient(torch.tensor([0.5, 1.0]))
        tensor([1., 0.])
        """
        return self.backward(torch.ones_like(x), x, self.state())


class HardTanh(Surrogate):
    """Derivative of `clip(x, -c, c)`: passes the gradient where `|x| < c` and nothing from the clip on.

        dq/dx := 1 if |x| < c else 0            c = `clip`

    Source: Courbariaux & Hubara 2016 (arXiv 1602.02830), eq. 4; with c = 1 the rule of Anderson & Berg 2018.

    Raises:
        HypersignError: `clip` is not a number above 0.

    >>> HardTanh(clip=2.0).gradient(torch.tensor([-2.0, 0.0, 1.9]))
    tensor([0., 1., 1.])
    """

    def __init__(self, *, clip: float = 1.0) -> None:
        super().__init__()
        self.clip = check_real("clip", clip, above=0)

    def backward(self, grad: Tensor, x: Tensor, state: Tensor | None) -> Tensor:
        return torch.ops.aten.hardtanh_backward(grad, x, -self.clip, self.clip)

    def extra_repr(self) -> str:
        return f"clip={self.clip:g}"


class Polynomial(Surrogate):
    """Derivative of the piecewise quadratic that approximates the sign in Bi-Real Net.

        dq/dx := 2 - 2|x| if |x| < 1 else 0

    Source: Liu et al. 2018 (Bi-Real Net, arXiv 1808.00278), eq. 7.

    >>> Polynomial().gradient(torch.tensor([-0.25, 0.0, 1.5]))
    tensor([1.5000, 2.0000, 0.0000])
    """

    def backward(self, grad: Tensor, x: Tensor, state: Tensor | None) -> Tensor:
        return grad * (2 - 2 * x.abs()).clamp(min=0)


class Triangle(Surrogate):
    """A triangle of height 1 that falls to zero at `|x| = c`.

        dq/dx := max(0, 1 - |x|/c)              c = `clip`

    Source: Bellec et al. 2018 (arXiv 1803.09574), there for spikes.

    Raises:
        HypersignError: `clip` is not a number above 0.

    >>> Triangle(clip=2.0).gradient(torch.tensor([-1.0, 0.0, 3.0]))
    tensor([0.5000, 1.0000, 0.0000])
    """

    def __init__(self, *, clip: float = 1.0) -> None:
        super().__init__()
        self.clip = check_real("clip", clip, above=0)

    def backward(self, grad: Tensor, x: Tensor, state: Tensor | None) -> Tensor:
        return grad * (1 - x.abs() / self.clip).clamp(min=0)

    def extra_repr(self) -> str:
        return f"clip={self.clip:g}"


class Tanh(Surrogate):
    """The error-decay estimator: the derivative of a tanh that steepens from nearly linear to nearly the sign.

        dq/dx := k t (1 - tanh(t x)^2),    t = first (last/first)^progress,    k = max(1/t, 1)

    `progress` is the share of training that is done; `anneal(progress)` sets it, and the training loop calls
    that after every step. A new surrogate stands at progress 0.
    Source: Qin et al. 2020 (IR-Net, arXiv 1909.10788), eqs. 10-12, with t from .1 to 10.

    Raises:
        HypersignError: `first` or `last` is not a number above 0, or `progress` is outside [0, 1].

    >>> surrogate = Tanh()
    >>> surrogate.anneal(1.0)
    >>> surrogate.gradient(torch.tensor([0.0, 0.1]))
    tensor([10.0000,  4.1997])
    """

    t: Tensor

    def __init__(self, *, first: float = 0.1, last: float = 10.0) -> None:
        super().__init__()
        self.first = check_real("first", first, above=0)
        self.last = check_real("last", last, above=0)
        self._now = self.first
        self.register_buffer("t", torch.tensor(self._now), persistent=False)

    def _apply(self, fn: Any, recurse: bool = True) -> "Tanh":
        # The buffer is in no state dict: to_empty, after a construction on the meta device, leaves it undefined.
        super()._apply(fn, recurse)
        self.t.fill_(self._now)
        return self

    def state(self) -> Tensor:
        return self.t

    def anneal(self, progress: float) -> None:
        progress = check_real("progress", progress, min=0, max=1)
        self._now = self.first * (self.last / self.first) ** progress
        self.t.fill_(self._now)

    def backward(self, grad: Tensor, x: Tensor, state: Tensor | None) -> Tensor:
        assert state is not None
        t = state.to(x.dtype)
        # 1 - tanh(u)^2 = 4 s(2u) s(-2u), s the sigmoid: no difference of near numbers, which bfloat16 would lose.
        u = 2 * t * x
        return grad * (4 * t * t.reciprocal().clamp(min=1) * torch.sigmoid(u) * torch.sigmoid(-u))

    def extra_repr(self) -> str:
        return f"first={self.first:g}, last={self.last:g}"


class StraightThrough(Surrogate):
    """Passes the gradient unchanged: dq/dx := 1.

    Source: Bengio, Léonard & Courville 2013 (arXiv 1308.3432).

    >>> StraightThrough().gradient(torch.tensor([-5.0, 5.0]))
    tensor([1., 1.])
    """

    def backward(self, grad: Tensor, x: Tensor, state: Tensor | None) -> Tensor:
        return grad
