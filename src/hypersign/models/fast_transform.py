"""A network of additions, shifts and comparisons: fast transforms with a two-way switch a unit between them.

A fully connected layer of n units multiplies n^2 weights. Here a layer is a Walsh-Hadamard transform, n log2 n
additions that are the same for every network, and a switch a unit, which is what is learned: one slope for positive
inputs, another for negative ones, both a signed power of two, so that they shift.
"""

import copy
import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hypersign._checks import HypersignError, check_int
from hypersign.hadamard import hadamard_transform
from hypersign.layers import QuantLinear, Rotation
from hypersign.models.vgg import _quantizers, check_shape
from hypersign.quantizers import HardTanh, Optimal, Quantizer, Surrogate
from hypersign.rotations import HadamardRotation

__all__ = ["FastTransform", "Switch", "Transform", "fast_transform"]


class PowersOfTwo(Quantizer):
    """The nearest of +-1, +-1/2, +-1/4 and +-1/8, with a surrogate gradient; nearest to 0 are the last two."""

    smallest = 3
    """What 1/8 is 2 to the minus of."""
    levels = (-1.0, -0.5, -0.25, -0.125, 0.125, 0.25, 0.5, 1.0)

    def exponents(self, x: Tensor) -> Tensor:
        """The exponent of each level above the smallest one: 0 to 3."""
        size = x.detach().abs()
        return sum((size >= 0.75 * 2.0**-i).to(torch.int64) for i in range(self.smallest))  # type: ignore[return-value]

    def round(self, x: Tensor) -> Tensor:
        size = torch.exp2(self.exponents(x).to(x.dtype) - self.smallest)
        return torch.where(x >= 0, size, -size)


class Switch(nn.Module):
    """Multiplies each unit by one of its two slopes, by the sign of its input.

        y_i = q(a_i) x_i if x_i >= 0 else q(b_i) x_i

    q gives the nearest of +-1, +-1/2, +-1/4, +-1/8. `slopes` holds the latent a and b, shape (2, n); they start
    uniform in [-1, 1] and get straight-through gradients.
    """

    def __init__(self, units: int, surrogate: Surrogate | None = None) -> None:
        super().__init__()
        self.slopes = nn.Parameter(torch.empty(2, units).uniform_(-1, 1))
        self.quantizer = PowersOfTwo(surrogate=surrogate)

    def forward(self, x: Tensor) -> Tensor:
        """`x` of shape (..., n)."""
        above, below = self.quantizer(self.slopes)
        return x * torch.where(x >= 0, above, below)

    def integers(self, x: NDArray[Any]) -> NDArray[Any]:
        """8 y for integers: each is shifted by 0 to 3 bits and perhaps negated."""
        exponents = self.quantizer.exponents(self.slopes).numpy(force=True)
        minus = (self.slopes < 0).numpy(force=True)
        positive = x >= 0
        y = x << np.where(positive, exponents[0], exponents[1])
        return np.where(np.where(positive, minus[0], minus[1]), -y, y)

    def extra_repr(self) -> str:
        return str(self.slopes.shape[1])


class Transform(nn.Module):
    """The Walsh-Hadamard transform of the last dimension, shifted right: y = 2^-shift H x."""

    def __init__(self, shift: int) -> None:
        super().__init__()
        self.shift = shift

    def forward(self, x: Tensor) -> Tensor:
        """`x` of shape (..., n)."""
        return hadamard_transform(x, orthonormal=False) * 2.0**-self.shift

    def extra_repr(self) -> str:
        return f"shift={self.shift}"


class FastTransform(nn.Sequential):
    """What `fast_transform` builds; also its inference in integers, and the count of its operations."""

    def integer_logits(self, images: NDArray[Any]) -> NDArray[Any]:
        """The logits, times a power of two that is the same for all, by additions, shifts and comparisons alone.

        Args:
            images: integers, shape (N, channels, height, width): the images that the network was trained on, times
                any positive number (its answers do not depend on it): 2 p - 255 for bytes p trained as [-1, 1].

        Returns int64, shape (N, classes); exact as long as no sum reaches 2^63.
        """
        y: NDArray[Any] = images.reshape(len(images), -1)
        y = self.rotation.rotation.sums(y if y.dtype.kind == "O" else y.astype(np.int64))  # type: ignore[operator, union-attr]
        for module in self:
            if isinstance(module, Switch):
                y = module.integers(y)
            elif isinstance(module, Transform):
                y = hadamard_transform(y, orthonormal=False)
        return signed_sums(y, self.fc.quantized_weight().numpy(force=True))  # type: ignore[operator, union-attr]

    def operations(self) -> dict[str, int]:
        """What `integer_logits` does for one image, by kind."""
        rotation: HadamardRotation = self.rotation.rotation  # type: ignore[assignment, union-attr]
        n, depth = rotation.size, sum(isinstance(module, Switch) for module in self)
        levels = self.fc.quantized_weight()  # type: ignore[operator, union-attr]
        return {
            "additions": (rotation.rounds + depth) * n * int(math.log2(n)) + int((levels != 0).sum()) - len(levels),
            "shifts": depth * n,
            "comparisons": depth * n,
            "multiplications": 0,
        }


def signed_sums(y: NDArray[Any], levels: NDArray[Any]) -> NDArray[Any]:
    """Sums of integers `y` (N, n) with signs -1, 0, +1 (classes, n), by additions and negations: (N, classes)."""
    rows = [np.where(row < 0, -y, y)[:, row != 0].sum(-1) for row in levels]
    return np.stack(rows, axis=-1)


def fast_transform(
    shape: tuple[int, int, int] = (1, 28, 28),
    classes: int = 10,
    *,
    hidden: Sequence[int] = (4096, 4096, 4096),
    levels: int = 2,
    threshold: float | Optimal = 0.02,
    surrogate: Surrogate | None = None,
) -> FastTransform:
    """Fast transforms with a two-way switch a unit between them: n log2 n additions a layer and no multiplication.

        image -> random rotation -> [switch -> transform] ... -> signed sums -> logits

    The rotation has two rounds of fixed random signs and transforms; transforms are shifted right by half of
    log2 n bits, which keeps the size of numbers. Every step is homogeneous: an image twice as bright has logits twice
    as large. The children are named `flatten`, `rotation`, `switch1`, `transform1`, ..., `fc`.

    Args:
        shape: (channels, height, width) of the images.
        classes: number of logits.
        hidden: units of each switch layer: a power of two that holds the image, the same for all.
        levels: of the last layer's weights: 2 (sign) or 3 (ternary).
        threshold: of ternary weights.
        surrogate: backward rule of slopes and weights; each gets a copy; `HardTanh()` if None.

    Raises:
        HypersignError: an argument outside its range.

    >>> model = fast_transform(hidden=(1024, 1024))
    >>> list(dict(model.named_children()))
    ['flatten', 'rotation', 'switch1', 'transform1', 'switch2', 'transform2', 'fc']
    >>> model.operations()["additions"]
    51190
    """
    pixels = math.prod(check_shape(shape))
    check_int("classes", classes, least=1)
    units = check_int("hidden", hidden[0], least=2) if hidden else 0
    if units < pixels or units & (units - 1) or any(number != units for number in hidden):
        raise HypersignError(
            f"hidden must name layers of one and the same number of units, a power of two that holds the {pixels} "
            f"numbers of an image; got {tuple(hidden)}"
        )
    rule = HardTanh() if surrogate is None else surrogate
    half = int(math.log2(units)) // 2
    modules: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    modules["rotation"] = Rotation(HadamardRotation(pixels, rounds=2, seed=0, outputs=units))
    for i in range(1, len(hidden) + 1):
        modules[f"switch{i}"] = Switch(units, copy.deepcopy(rule))
        # The last one's shift gives logits the size that losses expect.
        modules[f"transform{i}"] = Transform(half if i < len(hidden) else 2 * half - 3)
    weight_quantizer, _ = _quantizers(levels, threshold, rule)
    modules["fc"] = QuantLinear(units, classes, bias=False, weight_quantizer=weight_quantizer())
    nn.init.xavier_uniform_(modules["fc"].weight)  # type: ignore[arg-type]
    return FastTransform(modules)
