"""What a quantizer is: a forward rule that gives exact levels, a backward rule, and perhaps a scale."""

from typing import Any

import torch
from torch import Tensor, nn

from hypersign._checks import HypersignError
from hypersign.quantizers.scales import MeanScale
from hypersign.quantizers.surrogates import HardTanh, Surrogate

__all__ = ["Identity", "Quantizer"]


class _Quantize(torch.autograd.Function):
    """Levels forward, the surrogate's derivative backward.

    There is no forward-mode rule: torch.compile cannot trace a Function that has one. The surrogate's state is
    an operand of its own: read from the object inside `backward`, a compiled graph would bake in the value it
    had when the graph was traced.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, state: Tensor | None, quantizer: "Quantizer") -> Tensor:
        return quantizer.round(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        x, state, quantizer = inputs
        ctx.surrogate = quantizer.surrogate
        ctx.has_state = state is not None
        ctx.save_for_backward(*((x, state) if ctx.has_state else (x,)))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        x, state = ctx.saved_tensors if ctx.has_state else (*ctx.saved_tensors, None)
        return ctx.surrogate.backward(grads[0], x, state), None, None


class Quantizer(nn.Module):
    """Maps numbers to a few exact levels, with a surrogate gradient; subclasses implement `round`.

    `levels` lists the values that `round` returns, ascending. `scale`, for weights only, is a rule for one
    factor a filter: it multiplies the layer's output, never the levels, so that sums of products stay integers.
    """

    levels: tuple[float, ...] = ()

    def __init__(self, *, scale: MeanScale | None = None, surrogate: Surrogate | None = None) -> None:
        super().__init__()
        if scale is not None and not isinstance(scale, MeanScale):
            raise HypersignError(f"scale must be MeanScale() or None; got {scale!r}")
        surrogate = HardTanh() if surrogate is None else surrogate
        if not isinstance(surrogate, Surrogate):
            raise HypersignError(f"surrogate must be a Surrogate such as HardTanh(); got {surrogate!r}")
        self.scale = scale
        self.surrogate = surrogate

    def round(self, x: Tensor) -> Tensor:
        """The level of each element of `x`: same shape and dtype, no gradient."""
        raise NotImplementedError

    def thresholds(self, weight: Tensor) -> Tensor:
        """The threshold of each filter of `weight` (shape `(filters, ...)`): shape `(filters,)`."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """`round(x)`, differentiable through the surrogate."""
        return _Quantize.apply(x, self.surrogate.state(), self)

    def extra_repr(self) -> str:
        return "" if self.scale is None else f"scale={self.scale!r}"


class Identity(nn.Module):
    """No quantization: returns its input. The default of every quantized layer.

    >>> Identity()(torch.tensor([0.25]))
    tensor([0.2500])
    """

    levels: tuple[float, ...] = ()
    scale = None

    def forward(self, x: Tensor) -> Tensor:
        """`x` itself."""
        return x
