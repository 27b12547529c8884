"""A network of additions, shifts and comparisons: fast transforms, with one two-way switch per unit between them.

A fully connected layer of n units multiplies with n^2 weights. Here a layer has two parts. The first is a
Walsh-Hadamard transform: n log2 n additions, the same in every network. The second is one switch per unit, which is
learned: it has one slope for positive inputs and another for negative ones. Both slopes are signed powers of two, so
multiplying by them is a shift.
"""

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hypersign._checks import HypersignError, check_int
from hypersign.bits import hadamard_transform
from hypersign.layers import QuantLinear, Rotation, fit_quantizers
from hypersign.models.shapes import MOST_UNITS, check_shape
from hypersign.ops import hadamard
from hypersign.packed.transforms import (
    hadamard_norm,
    room,
    rotated_norm,
    shifted,
    shifted_norm,
    signed_sums,
    switch,
)
from hypersign.quantizers import Quantization, Quantizer, Surrogate
from hypersign.rotations import HadamardRotation

__all__ = ["FastTransform", "Switch", "Transform", "fast_transform"]


class PowersOfTwo(Quantizer):
    """Rounds to the nearest of +-1, +-1/2, +-1/4 and +-1/8, with a surrogate gradient; there is no level 0."""

    smallest = 3
    """The smallest level is 2 to the minus this number."""
    levels = (-1.0, -0.5, -0.25, -0.125, 0.125, 0.25, 0.5, 1.0)

    def exponents(self, x: Tensor) -> Tensor:
        """The exponent of each level relative to the smallest one: 0 to 3."""
        size = x.detach().abs()
        return sum((size >= 0.75 * 2.0**-i).to(torch.int64) for i in range(self.smallest))  # type: ignore[return-value]

    def round(self, x: Tensor) -> Tensor:
        size = torch.exp2(self.exponents(x).to(x.dtype) - self.smallest)
        return torch.where(x >= 0, size, -size)


class _Switched(torch.autograd.Function):
    """Computes y = a x if x >= 0, else b x, for slopes a and b of shape (n,).

    It stores and reads less memory than the same computation in torch's own operations.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, above: Tensor, below: Tensor) -> Tensor:
        return x * torch.where(x >= 0, above, below)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        x, above, below = ctx.saved_tensors
        positive = x >= 0
        products = (grads[0] * x).flatten(0, -2)
        both = products.sum(0)
        up = (products * positive.flatten(0, -2)).sum(0)
        return grads[0] * torch.where(positive, above, below), up, both - up


class Switch(nn.Module):
    """Multiplies each unit by one of its two slopes, by the sign of its input.

        y_i = q(a_i) x_i if x_i >= 0 else q(b_i) x_i

    q rounds to the nearest of +-1, +-1/2, +-1/4, +-1/8. `slopes` holds the latent a and b, of shape (2, n). They
    start like those of a rectifier, near 0.8 and 0 (normal, with standard deviation 0.1), and get straight-through
    gradients.
    """

    def __init__(self, units: int, surrogate: Surrogate | None = None) -> None:
        super().__init__()
        self.slopes = nn.Parameter(torch.tensor([[0.8], [0.0]]) + 0.1 * torch.randn(2, units))
        self.quantizer = PowersOfTwo(surrogate=surrogate)

    def forward(self, x: Tensor) -> Tensor:
        """`x` of shape (..., n)."""
        above, below = self.quantizer(self.slopes)
        return _Switched.apply(x, above, below)

    def planes(self) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """The slopes for integer inference: which are negative, and their right shifts in bits; both (2, n)."""
        exponents = self.quantizer.exponents(self.slopes).numpy(force=True)
        return (self.slopes < 0).numpy(force=True), self.quantizer.smallest - exponents

    def extra_repr(self) -> str:
        return str(self.slopes.shape[1])


class Transform(nn.Module):
    """The Walsh-Hadamard transform of the last dimension, shifted right: y = 2^-shift H x."""

    def __init__(self, shift: int) -> None:
        super().__init__()
        self.shift = shift

    def forward(self, x: Tensor) -> Tensor:
        """`x` of shape (..., n)."""
        return hadamard(x, 2.0**-self.shift)

    def extra_repr(self) -> str:
        return f"shift={self.shift}"


class FastTransform(nn.Sequential):
    """The network of `fast_transform`, with its integer inference and operation count."""

    def integer_logits(self, images: NDArray[Any]) -> NDArray[Any]:
        """Computes the logits, times a common factor, with additions, shifts and comparisons of integers.

        It uses fixed point. If the largest possible result of a transform would exceed 31 bits, the numbers are
        shifted right before it. A packed network does the same.

        Args:
            images: integers of magnitude up to 255, of shape (N, channels, height, width): the images in the scale
                of training, times a positive number. For bytes p that were scaled to [-1, 1], pass 2 p - 255.

        Returns int64 of shape (N, classes).

        Raises:
            HypersignError: the images contain a larger number.
        """
        y: NDArray[Any] = images.reshape(len(images), -1)
        if y.dtype.kind != "O":
            y = y.astype(np.int64)
            if y.size and np.abs(y).max() > 255:
                raise HypersignError(f"images must hold integers from -255 to 255; got {np.abs(y).max()}")
        first, *exponents, last = self.exponents()
        y = shifted(self.rotation.rotation.sums(y), first)  # type: ignore[operator, union-attr]
        for module in self:
            if isinstance(module, Switch):
                minus, shifts = module.planes()
                y = switch(y, minus, shifts - exponents.pop(0))
            elif isinstance(module, Transform):
                y = hadamard_transform(y, orthonormal=False)
        return signed_sums(shifted(y, last), self.fc.quantized_weight().numpy(force=True))  # type: ignore[operator, union-attr]

    def exponents(self) -> list[int]:
        """The powers of two that scale the accumulators: after the rotation, at each switch, at the last layer."""
        rotation: HadamardRotation = self.rotation.rotation  # type: ignore[assignment, union-attr]
        n = rotation.size
        norm = rotated_norm(255, rotation.dimension, n, rotation.rounds)
        found = [room(norm, n)]
        norm = shifted_norm(norm, n, found[0])
        for _ in range(sum(isinstance(module, Switch) for module in self)):
            found.append(min(room(norm, n), 0))
            norm = hadamard_norm(shifted_norm(norm, n, found[-1]), n)
        return [*found, min(room(norm, n), 0)]

    def operations(self) -> dict[str, int]:
        """The number of operations of `integer_logits` for one image, by kind.

        A sign flip counts each number that a stored sign may negate: the inputs of a rotation, the outputs of a
        switch, and the terms of the last sums (which a circuit may subtract instead).
        """
        rotation: HadamardRotation = self.rotation.rotation  # type: ignore[assignment, union-attr]
        n, depth = rotation.size, sum(isinstance(module, Switch) for module in self)
        levels = self.fc.quantized_weight()  # type: ignore[operator, union-attr]
        first, *_, last = self.exponents()
        return {
            "additions": (rotation.rounds + depth) * n * int(math.log2(n)) + int((levels != 0).sum()) - len(levels),
            "sign_flips": rotation.dimension + (rotation.rounds - 1 + depth) * n + int((levels != 0).sum()),
            "shifts": (depth + (first != 0) + (last != 0)) * n,
            "comparisons": depth * n,
            "multiplications": 0,
        }


def fast_transform(
    shape: tuple[int, int, int] = (1, 28, 28),
    classes: int = 10,
    quantization: Quantization | None = None,
    *,
    hidden: Sequence[int] = (4096, 4096, 4096),
) -> FastTransform:
    """Builds fast transforms with one two-way switch per unit: n log2 n additions per layer, no multiplications.

        image -> random rotation -> [switch -> transform] ... -> signed sums -> logits

    The rotation has two rounds of fixed random signs and transforms. Transforms are shifted right by half of log2 n
    bits, which keeps the numbers at the same size. Every step is homogeneous: an image twice as bright has logits
    twice as large. The children are named `flatten`, `rotation`, `switch1`, `transform1`, ..., `fc`.

    Args:
        shape: the shape (channels, height, width) of the images.
        classes: the number of logits.
        quantization: its `weights` quantize the last layer, with signs if None; the slopes use its surrogate.
        hidden: the number of units of each switch layer. All are the same power of two, at least the size of the
            image.

    Raises:
        HypersignError: an argument is outside its range.

    >>> model = fast_transform(hidden=(1024, 1024))
    >>> list(dict(model.named_children()))
    ['flatten', 'rotation', 'switch1', 'transform1', 'switch2', 'transform2', 'fc']
    >>> model.operations()["additions"], model.operations()["sign_flips"]
    (51190, 14096)
    """
    quantization = Quantization() if quantization is None else quantization
    quantization.check_fields("fast-transform")
    pixels = math.prod(check_shape(shape))
    check_int("classes", classes, min=1, max=MOST_UNITS)
    units = check_int("hidden", hidden[0], min=2, max=MOST_UNITS) if hidden else 0
    if units < pixels or units & (units - 1) or any(number != units for number in hidden):
        raise HypersignError(
            f"hidden must name layers of one and the same number of units, a power of two that holds the {pixels} "
            f"numbers of an image; got {tuple(hidden)}"
        )
    half = int(math.log2(units)) // 2
    modules: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    modules["rotation"] = Rotation(HadamardRotation(pixels, rounds=2, seed=0, outputs=units))
    for i in range(1, len(hidden) + 1):
        modules[f"switch{i}"] = Switch(units, quantization.surrogate)
        # The last transform has another shift, so that logits have the size that losses expect.
        modules[f"transform{i}"] = Transform(half if i < len(hidden) else 2 * half - 3)
    modules["fc"] = QuantLinear(units, classes, bias=False, weight_quantizer=quantization.weight_quantizer())
    nn.init.xavier_uniform_(modules["fc"].weight)  # type: ignore[arg-type]
    model = FastTransform(modules)
    fit_quantizers(model)
    return model
