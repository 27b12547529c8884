"""An associative memory that only adds and flips signs: signs of a random rotation, and signed sums of weights."""

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hypersign._checks import HypersignError, check_int, check_real
from hypersign.layers import QuantLinear, Rotation
from hypersign.models.shapes import MOST_UNITS, check_shape
from hypersign.quantizers import Quantization
from hypersign.rotations import HadamardRotation

__all__ = ["AssociativeMemory", "associative_memory", "one_pass_recall"]

FRACTION_BITS = 16
"""The number of fraction bits of the weights in integer inference."""


class AssociativeMemory(nn.Sequential):
    """The network of `associative_memory`, with its own training rule, integer inference and operation count."""

    @torch.no_grad()
    def learn(self, images: Tensor, targets: Tensor) -> None:
        """Learns examples one after the other; each weight receives an equal share of the error.

            W := W + (t - W s) s' / n,   s the n signs of an image

        The n shares add up to the error of the example, because s's = n, so its answer is exact after one step. If n
        is a power of two, the division is a shift.

        Args:
            images: the images, of shape (N, channels, height, width).
            targets: the answers to learn, of shape (N, classes).

        Raises:
            HypersignError: the features are not binary.
        """
        features = self[:-1](images)
        layer: QuantLinear = self.fc  # type: ignore[assignment]
        if layer.input_quantizer.levels != (-1.0, 1.0):
            raise HypersignError("sharing an error equally needs binary features; build the memory with signs")
        for signs, target in zip(layer.input_quantizer(features), targets.to(layer.weight), strict=True):
            error = target - layer.weight @ signs
            layer.weight += torch.outer(error / len(signs), signs)

    def integer_logits(self, images: NDArray[Any]) -> NDArray[Any]:
        """Computes the logits times 2^16 with additions, sign flips and comparisons only.

        Weights are rounded to multiples of 2^-16.

        Args:
            images: integers of shape (N, channels, height, width): the images in the scale of training, times any
                positive number. For bytes p that were scaled to [-1, 1] in training, pass 2 p - 255.

        Returns int64 of shape (N, classes).

        Raises:
            HypersignError: the features are not binary; other levels need a threshold in the unit of the pixels.
        """
        layer: QuantLinear = self.fc  # type: ignore[assignment]
        if layer.input_quantizer.levels != (-1.0, 1.0):
            raise HypersignError("integer inference needs binary features; build the memory with signs")
        y: NDArray[Any] = images.reshape(len(images), -1)
        y = self.rotation.rotation.sums(y if y.dtype.kind == "O" else y.astype(np.int64))  # type: ignore[operator, union-attr]
        weights = np.rint(layer.weight.numpy(force=True).astype(np.float64) * 2.0**FRACTION_BITS).astype(np.int64)
        positive = y >= 0
        if y.dtype.kind == "O":
            weights = np.array(weights.tolist(), object)
        return np.stack([np.where(positive, row, -row).sum(-1) for row in weights], axis=-1)

    def operations(self) -> dict[str, int]:
        """The number of operations of `integer_logits` for one image; sign flips as in `FastTransform.operations`."""
        rotation: HadamardRotation = self.rotation.rotation  # type: ignore[assignment, union-attr]
        classes, features = self.fc.weight.shape  # type: ignore[union-attr, misc]
        return {
            "additions": rotation.rounds * rotation.size * int(math.log2(rotation.size)) + classes * (features - 1),
            "sign_flips": rotation.dimension + (rotation.rounds - 1) * rotation.size + classes * features,
            "shifts": 0,
            "comparisons": features,
            "multiplications": 0,
        }


def associative_memory(
    shape: tuple[int, int, int] = (1, 28, 28),
    classes: int = 10,
    quantization: Quantization | None = None,
    *,
    hidden: Sequence[int] = (8192,),
) -> AssociativeMemory:
    """Builds a memory: it computes the signs of a randomly rotated image, and sums weights with those signs.

        y = W sign(H D_3 H D_2 H D_1 x)

    D_i are fixed random signs and H is the Walsh-Hadamard matrix. W is learned: by gradients as in any network, or
    example by example with `AssociativeMemory.learn`. After enough passes, n weights answer m <= n examples exactly
    if the examples' signs are linearly independent. `one_pass_recall` predicts the recall after one pass.

    Only `AssociativeMemory.integer_logits` is free of multiplications. `pack` keeps the real weights as float32 and
    multiplies, so a packed memory is no smaller than its weights.

    Args:
        shape: the shape (channels, height, width) of the images.
        classes: the number of answers.
        quantization: its `inputs` quantize the features, with signs if None; the weights are real.
        hidden: a sequence of one number, the number n of features.

    Raises:
        HypersignError: an argument is outside its range.

    >>> memory = associative_memory((1, 8, 8), 1, hidden=(256,))
    >>> image = torch.rand(1, 1, 8, 8)
    >>> memory.learn(image, torch.tensor([[0.75]]))
    >>> round(memory(image).item(), 4)
    0.75
    """
    quantization = Quantization() if quantization is None else quantization
    quantization.check_fields("associative-memory")
    pixels = math.prod(check_shape(shape))
    check_int("classes", classes, min=1, max=MOST_UNITS)
    if len(hidden) != 1:
        raise HypersignError(f"hidden must be one number, of the memory's features; got {tuple(hidden)}")
    features = check_int("hidden", hidden[0], min=1, max=MOST_UNITS)
    layer = QuantLinear(features, classes, bias=False, input_quantizer=quantization.input_quantizer())
    nn.init.zeros_(layer.weight)
    rotation = HadamardRotation(pixels, rounds=3, seed=0, outputs=features)
    modules = OrderedDict(flatten=nn.Flatten(), rotation=Rotation(rotation), fc=layer)
    return AssociativeMemory(modules)


def one_pass_recall(load: float) -> float:
    """The share of random -1/+1 answers that a memory recalls with the correct sign after one pass.

        mean over x in [0, a] of Phi(mu/sigma),   mu = e^-x,   sigma^2 = 1 - e^-a + e^(-a-x) - e^(-2x)

    a = m/n is the load: m examples with independent random signs, and n weights. x is the number of examples learned
    after the one that is recalled, divided by n. Each later step replaces a share 1/n of the stored values, so a
    stored answer 1 decays as e^-x. Its second moment M starts at 1 and follows
    dM/dx = -2 M + 2 - e^-(examples seen before / n). The formula is for large n.

    Raises:
        HypersignError: the load is not above 0.

    >>> [round(one_pass_recall(load), 3) for load in (0.1, 0.5, 1.0, 2.0)]
    [1.0, 0.932, 0.826, 0.705]
    """
    a = check_real("load (examples / weights)", load, above=0)
    x = (np.arange(2000) + 0.5) / 2000 * a
    variance = 1 - np.exp(-a) + np.exp(-a - x) - np.exp(-2 * x)
    ratio = np.exp(-x) / np.sqrt(variance)
    return float(np.mean([0.5 * math.erfc(-value / math.sqrt(2)) for value in ratio]))
