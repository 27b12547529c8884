"""Surrogate gradients: what the backward pass of a quantizer uses in place of a derivative that is zero.

The derivative of the sign is 0 everywhere except at one point, so the true gradient cannot train a network of signs.
A surrogate replaces `dq/dx` by the derivative of a smoother function. Every surrogate here states its derivative;
`gradient(x)` returns it, and `backward(grad, x)` multiplies a gradient by it.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from hypersign._checks import check_real

__all__ = [
    "HardTanh",
    "Polynomial",
    "Power",
    "SignSwish",
    "StraightThrough",
    "Surrogate",
    "Tanh",
    "Tent",
    "Triangle",
]


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
        """The tensor that `backward` reads, if any. It is an operand, so that compiled graphs see it change."""
        return None

    def anneal(self, progress: float) -> None:
        """Training calls this with the share of training that is done, from 0 to 1. By default it does nothing."""

    def gradient(self, x: Tensor) -> Tensor:
        """The surrogate's derivative at `x`, elementwise; same shape as `x`.

        >>> HardTanh().gradient(torch.tensor([0.5, 1.0]))
        tensor([1., 0.])
        """
        return self.backward(torch.ones_like(x), x, self.state())


class HardTanh(Surrogate):
    """Derivative of `clip(x, -c, c)`: passes the gradient if `|x| < c`, and 0 otherwise.

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


class _Annealed(Surrogate):
    """A surrogate with one parameter `t` that moves with the share of training that is done."""

    t: Tensor

    def __init__(self) -> None:
        super().__init__()
        self._now = self.at(0.0)
        self.register_buffer("t", torch.tensor(self._now), persistent=False)

    def at(self, progress: float) -> float:
        """t at a share of training."""
        raise NotImplementedError

    def _apply(self, fn: Any, recurse: bool = True) -> "_Annealed":
        # The buffer is not in the state dict, so to_empty (after building on the meta device) leaves it undefined.
        super()._apply(fn, recurse)
        self.t.fill_(self._now)
        return self

    def state(self) -> Tensor:
        """t, as an operand."""
        return self.t

    def anneal(self, progress: float) -> None:
        """Moves t to a share of training, from 0 to 1."""
        self._now = self.at(check_real("progress", progress, min=0, max=1))
        self.t.fill_(self._now)


class _Geometric(_Annealed):
    """t goes from `first` to `last` in equal ratios."""

    def __init__(self, first: float, last: float) -> None:
        self.first = check_real("first", first, above=0)
        self.last = check_real("last", last, above=0)
        super().__init__()

    def at(self, progress: float) -> float:
        return self.first * (self.last / self.first) ** progress

    def extra_repr(self) -> str:
        return f"first={self.first:g}, last={self.last:g}"


class Tanh(_Geometric):
    """The error-decay estimator: the derivative of a tanh that steepens from nearly linear to nearly the sign.

        dq/dx := k t (1 - tanh(t x)^2),    t = first (last/first)^progress,    k = max(1/t, 1)

    `progress` is the share of training that is done. The training loop sets it after every step, by
    `anneal(progress)`; in a new surrogate it is 0.
    Source: Qin et al. 2020 (IR-Net, arXiv 1909.10788), eqs. 10-12, with t from .1 to 10.

    Raises:
        HypersignError: `first` or `last` is not a number above 0, or `progress` is outside [0, 1].

    >>> surrogate = Tanh()
    >>> surrogate.anneal(1.0)
    >>> surrogate.gradient(torch.tensor([0.0, 0.1]))
    tensor([10.0000,  4.1997])
    """

    def __init__(self, *, first: float = 0.1, last: float = 10.0) -> None:
        super().__init__(first, last)

    def backward(self, grad: Tensor, x: Tensor, state: Tensor | None) -> Tensor:
        assert state is not None
        t = state.to(x.dtype)
        # 1 - tanh(u)^2 = 4 s(2u) s(-2u), s the sigmoid: this avoids a difference of nearly equal numbers in bfloat16.
        u = 2 * t * x
        return grad * (4 * t * t.reciprocal().clamp(min=1) * torch.sigmoid(u) * torch.sigmoid(-u))


class Tent(_Geometric):
    """RBNN's triangle, which narrows and rises during training.

        dq/dx := max(0, k (2 sqrt(t^2/2) - |t^2 x|)),    t = first (last/first)^progress,    k = max(1/t, 1)

    Source: Lin et al. 2020 (RBNN, arXiv 2009.13055), eqs. 18-20, with t from .01 to 10.

    Raises:
        HypersignError: `first` or `last` is not a number above 0, or `progress` is outside [0, 1].

    >>> surrogate = Tent()
    >>> surrogate.anneal(1.0)
    >>> surrogate.gradient(torch.tensor([0.0, 0.1, 1.0]))
    tensor([14.1421,  4.1421,  0.0000])
    """

    def __init__(self, *, first: float = 0.01, last: float = 10.0) -> None:
        super().__init__(first, last)

    def backward(self, grad: Tensor, x: Tensor, state: Tensor | None) -> Tensor:
        assert state is not None
        wide = torch.promote_types(x.dtype, torch.float32)  # a difference of near numbers, which bfloat16 would lose
        t = state.to(wide)
        slope = t.reciprocal().clamp(min=1) * t * (math.sqrt(2) - t * x.abs().to(wide)).clamp(min=0)
        return grad * slope.to(x.dtype)


class Power(_Annealed):
    """ReSTE: the derivative of a power function that goes from the identity towards the sign.

        dq/dx := |x|^((1 - o)/o)/o for `near` < |x| <= `far`, near^((1 - o)/o) inside, 0 outside
        o = 1 + (last - 1)(1 - cos(pi progress/2))

    Inside `near` the derivative is that of the chord from 0 to the power function x^(1/o) at `near`.
    Source: Wu et al. 2023 (ReSTE, arXiv 2308.06689), eqs. 9-11 and public code, with o from 1 to 3, near .1, far 1.5.

    Args:
        last: o at the end of training.
        near, far: where the derivative is cut.

    Raises:
        HypersignError: `last` is below 1, `near` or `far` not above 0, or `progress` outside [0, 1].

    >>> surrogate = Power()
    >>> surrogate.anneal(1.0)
    >>> surrogate.gradient(torch.tensor([0.05, 0.125, 1.0, 2.0]))
    tensor([4.6416, 1.3333, 0.3333, 0.0000])
    """

    def __init__(self, *, last: float = 3.0, near: float = 0.1, far: float = 1.5) -> None:
        self.last = check_real("last", last, min=1)
        self.near = check_real("near", near, above=0)
        self.far = check_real("far", far, above=0)
        super().__init__()

    def at(self, progress: float) -> float:
        return 1 + (self.last - 1) * (1 - math.cos(math.pi * progress / 2))

    def backward(self, grad: Tensor, x: Tensor, state: Tensor | None) -> Tensor:
        assert state is not None
        o, size = state.to(x.dtype), x.abs()
        power = size.clamp(min=self.near) ** ((1 - o) / o)
        return grad * torch.where(size <= self.near, power, power / o) * (size <= self.far)

    def extra_repr(self) -> str:
        return f"last={self.last:g}, near={self.near:g}, far={self.far:g}"


class SignSwish(Surrogate):
    """The derivative of a swish that is made odd.

        dq/dx := b (2 - b x tanh(b x/2))/(1 + cosh(b x))          b = `slope`

    Source: Darabi et al. 2018 (BNN+, arXiv 1812.11800), eq. 5, with b = 5.

    Raises:
        HypersignError: `slope` is not a number above 0.

    >>> SignSwish().gradient(torch.tensor([0.0, 0.5]))
    tensor([ 5.0000, -0.0846])
    """

    def __init__(self, *, slope: float = 5.0) -> None:
        super().__init__()
        self.slope = check_real("slope", slope, above=0)

    def backward(self, grad: Tensor, x: Tensor, state: Tensor | None) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        u = (self.slope * x.to(wide)).clamp(-80, 80)  # the derivative is 0 there in float32; infinity times 0 is NaN
        # 2/(1 + cosh u) = 4 s(u) s(-u), s the sigmoid: cosh would overflow
        slope = self.slope * (2 - u * torch.tanh(u / 2)) * 2 * torch.sigmoid(u) * torch.sigmoid(-u)
        return grad * slope.to(x.dtype)

    def extra_repr(self) -> str:
        return f"slope={self.slope:g}"


class StraightThrough(Surrogate):
    """Passes the gradient unchanged: dq/dx := 1.

    Source: Bengio, Léonard & Courville 2013 (arXiv 1308.3432).

    >>> StraightThrough().gradient(torch.tensor([-5.0, 5.0]))
    tensor([1., 1.])
    """

    def backward(self, grad: Tensor, x: Tensor, state: Tensor | None) -> Tensor:
        return grad
