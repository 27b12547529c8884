"""Equally spaced levels: an even number of them for weights, any number between two bounds for inputs."""

import math

from torch import Tensor

from hypersign._checks import HypersignError, check_int, check_real
from hypersign.quantizers.base import Quantizer, Rule
from hypersign.quantizers.scales import ConstantScale
from hypersign.quantizers.surrogates import Surrogate

__all__ = ["Grid", "Uniform"]

_STEPS = {2: math.sqrt(8 / math.pi), 4: 0.9957, 8: 0.5860, 16: 0.3352}
"""The step, in standard deviations, of the equally spaced levels that are best for normal numbers.

Source: Max 1960, "Quantizing for minimum distortion", table II. Two levels are the sign, whatever the step is."""


class Uniform(Quantizer):
    """Weights with an even number k of equally spaced levels: the odd integers from 1 - k to k - 1.

        q(w) = clamp(2 floor(w / step) + 1, 1 - k, k - 1),   step = c_k sqrt(mean of w^2 over the filter)

    c_k is the best step for normal weights: .9957 for 4 levels, .5860 for 8, .3352 for 16. With `MeanScale()` the
    values are the nearest multiples of the levels. Twice the weights give the same levels.

    Args:
        levels: k: 2, 4, 8 or 16.
        scale, offset: rules such as `MeanScale()`, or None.
        surrogate: the backward rule; `HardTanh(clip=1.0)` if None.

    Raises:
        HypersignError: another number of levels; a scale, offset or surrogate of another kind.

    Source: Max 1960, "Quantizing for minimum distortion".

    >>> import torch
    >>> Uniform(4)(torch.tensor([[-2.0, -0.5, 0.5, 1.0]]))
    tensor([[-3., -1.,  1.,  1.]])
    """

    def __init__(
        self,
        levels: int = 4,
        *,
        scale: Rule | None = None,
        offset: Rule | None = None,
        surrogate: Surrogate | None = None,
    ) -> None:
        super().__init__(scale=scale, offset=offset, surrogate=surrogate)
        count = check_int("levels", levels, min=2, max=16)
        if count not in _STEPS:
            raise HypersignError(f"levels must be 2, 4, 8 or 16; got {count}")
        self.levels = tuple(float(level) for level in range(1 - count, count, 2))

    def round(self, x: Tensor) -> Tensor:
        count = len(self.levels)
        step = _STEPS[count] * x.detach().flatten(1).square().mean(1).sqrt()
        step = step.clamp(min=1e-30).view(-1, *[1] * (x.dim() - 1))  # a filter of zeros keeps finite levels
        return (x / step).floor().mul(2).add(1).clamp(1 - count, count - 1)

    def input_refusal(self) -> str:
        return "must not be Uniform: its step is that of a filter, and inputs have no filters; use Grid"

    def extra_repr(self) -> str:
        return ", ".join(part for part in (f"levels={len(self.levels)}", super().extra_repr()) if part)


class Grid(Quantizer):
    """Inputs with n equally spaced values: low, low + step, and so on.

        q(x) = clamp(round((x - low) / step), 0, n - 1),   value = low + step q(x)

    Two levels are one bit, 256 are eight. `hypersign.forecast` fits low and step to a layer's inputs. With zero
    padding the padding stays 0, so the product sees one more value there.

    Args:
        levels: n.
        low: the smallest value.
        step: the distance between neighbouring values.
        surrogate: the backward rule; `HardTanh(clip=1.0)` if None.

    Raises:
        HypersignError: fewer than 2 or more than 65,536 levels, a step that is not above 0.

    >>> import torch
    >>> from hypersign.layers import QuantLinear
    >>> layer = QuantLinear(3, 1, bias=False, input_quantizer=Grid(2, low=0.0, step=2.0))
    >>> _ = layer.weight.data.fill_(1.0)
    >>> layer(torch.tensor([[0.3, 1.4, 5.0]])).tolist()  # 0 + 2 + 2
    [[4.0]]
    """

    def __init__(
        self, levels: int = 256, low: float = 0.0, step: float = 1.0, *, surrogate: Surrogate | None = None
    ) -> None:
        low, step = check_real("low", low), check_real("step", step, above=0)
        super().__init__(scale=ConstantScale(step), offset=ConstantScale(low), surrogate=surrogate)
        count = check_int("levels", levels, min=2, max=2**16)
        self.low, self.step = low, step
        self.levels = tuple(float(level) for level in range(count))

    def prepare(self, x: Tensor) -> Tensor:
        """(x - low) / step."""
        return (x - self.low) / self.step

    def round(self, x: Tensor) -> Tensor:
        return x.round().clamp(0, len(self.levels) - 1)

    def values(self, x: Tensor) -> Tensor:
        """The values that inputs are quantized to: low + step q(x)."""
        return self.low + self.step * self.round(self.prepare(x))

    def describe(self) -> str:
        return f"Grid({self.extra_repr()})"

    def extra_repr(self) -> str:
        return f"{len(self.levels)}, low={self.low:.6g}, step={self.step:.6g}"
