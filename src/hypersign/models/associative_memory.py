"""An associative memory of additions and sign flips: signs of a random rotation, and signed sums of weights."""

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
"""Bits behind the point of the weights that integer inference adds."""


class AssociativeMemory(nn.Sequential):
    """The network of `associative_memory`; also its own training rule, its inference in integers, and their cost."""

    @torch.no_grad()
    def learn(self, images: Tensor, targets: Tensor) -> None:
        """Shows the memory examples one after the other; each weight takes its share of the error.

            W := W + (t - W s) s' / n,   s the n signs of an image

        The n shares of an example add up to its error, since s's = n: its answer is exact at once. With n a power
        of two the share is a shift.

        Args:
            images: shape (N, channels, height, width).
            targets: the answers to learn, shape (N, classes).

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
        """The logits times 2^16, weights rounded to 2^-16, by additions, sign flips and comparisons alone.

        Args:
            images: integers, shape (N, channels, height, width): the images that the memory was trained on, times
                any positive number: 2 p - 255 for bytes p trained as [-1, 1].

        Returns int64, shape (N, classes).

        Raises:
            HypersignError: the features are not binary: a threshold in the pixels' unit is no sign.
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
        """Operations of `integer_logits` for one image, by kind; sign flips as `FastTransform.operations` counts."""
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
    """Signs of a random rotation of the image, and for each class a sum of weights with those signs.

        y = W sign(H D_3 H D_2 H D_1 x)

    D_i are fixed random signs, H the Walsh-Hadamard matrix, W is what is learned: by gradient as any network, or
    from one example after the other by `AssociativeMemory.learn`. n weights answer m <= n examples exactly, as long
    as their signs are linearly independent, after enough passes; `one_pass_recall` tells what one pass leaves.

    Only `AssociativeMemory.integer_logits` is free of multiplications. `pack` keeps the real weights as float32 and
    multiplies: a packed memory is no smaller than its weights.

    Args:
        shape: (channels, height, width) of the images.
        classes: number of answers.
        quantization: its `inputs` quantize the features, by signs if None; the weights are real.
        hidden: one number, of the features: n.

    Raises:
        HypersignError: an argument outside its range.

    >>> memory = associative_memory((1, 8, 8), 1, hidden=(256,))
    >>> image = torch.rand(1, 1, 8, 8)
    >>> memory.learn(image, torch.tensor([[0.75]]))
    >>> round(memory(image).item(), 4)
    0.75
    """
    quantization = Quantization() if quantization is None else quantization
    quantization.check_fields("associative-memory")
    pixels = math.prod(check_shape(shape))
    check_int("classes", classes, least=1, most=MOST_UNITS)
    if len(hidden) != 1:
        raise HypersignError(f"hidden must be one number, of the memory's features; got {tuple(hidden)}")
    features = check_int("hidden", hidden[0], least=1, most=MOST_UNITS)
    layer = QuantLinear(features, classes, bias=False, input_quantizer=quantization.input_quantizer())
    nn.init.zeros_(layer.weight)
    rotation = HadamardRotation(pixels, rounds=3, seed=0, outputs=features)
    modules = OrderedDict(flatten=nn.Flatten(), rotation=Rotation(rotation), fc=layer)
    return AssociativeMemory(modules)


def one_pass_recall(load: float) -> float:
    """Share of random -1/+1 answers that a memory recalls with the right sign after learning each example once.

        mean over x in [0, a] of Phi(mu/sigma),   mu = e^-x,   sigma^2 = 1 - e^-a + e^(-a-x) - e^(-2x)

    a = m/n is the load, m examples with independent random signs on n weights, and x the examples seen since one was
    learned, over n. Each later step replaces a share 1/n of what is stored: a stored answer 1 decays as e^-x, and
    its second moment M follows dM/dx = -2 M + 2 - e^-(examples seen before / n), from M = 1. Large n.

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
