"""Handlers of layers without multiplications: rotations by signs and transforms, switches, transforms."""

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray

from hypersign import bits
from hypersign._checks import HypersignError
from hypersign.layers import Rotation
from hypersign.models import Switch, Transform
from hypersign.packed.transforms import hadamard_norm, room, rotated_norm, shifted_norm
from hypersign.packing.folding import Flow, Folding, refusal
from hypersign.packing.handlers.pixels import integer_pixels
from hypersign.rotations import HadamardRotation

__all__ = ["rotation", "switch", "transform"]


def rotation(folding: Folding, name: str, module: Rotation, x: Flow) -> Flow:
    """Random signs and transforms of the pixels, in integers, shifted right until one more transform fits."""
    found, pixels = module.rotation, integer_pixels(folding.pixel_range)
    if not isinstance(found, HadamardRotation):
        raise refusal(name, module, "Haar's rotation multiplies; take a HadamardRotation")
    if x.kind != "image" or x.waiting or pixels is None or pixels[0] > 2:
        raise refusal(name, module, "only 8-bit images can be rotated, of a pixel_range that is a whole one")
    multiplier, shift, unit = pixels
    size, rounds = found.size, found.rounds
    norm = rotated_norm(max(abs(shift), abs(255 * multiplier + shift)), found.dimension, size, rounds)
    exponent = room(norm, size)
    options = {"multiplier": multiplier, "shift": shift, "size": size, "outputs": found.outputs}
    folding.node("rotate", name, x.name, **options, exponent=exponent)
    folding.tensor(
        name,
        "signs",
        np.uint64,
        (rounds, -(-size // 64)),
        lambda: bits.pack(np.stack([found.signs(number) for number in range(rounds)])),
    )
    norm = shifted_norm(norm, size, exponent)
    unit *= size ** (-rounds / 2) * 2.0**-exponent
    return Flow(name, "sums", 1, 1, found.outputs, unit=unit, largest=norm, norm=norm, rank=1)


def switch(folding: Folding, name: str, module: Switch, x: Flow) -> Flow:
    """Slopes, each a right shift and a sign; all shift further where the next transform would not fit."""
    _check_rotated(name, module, x)
    exponent = min(room(x.norm, x.channels), 0)
    folding.node("switch", name, x.name, exponent=exponent)
    folding.tensor(name, "slopes", np.uint64, (2, 3, -(-x.channels // 64)), lambda: _slopes(name, module))
    norm = shifted_norm(x.norm, x.channels, exponent)
    return dataclasses.replace(x, name=name, unit=x.unit * 2.0**-exponent, largest=norm, norm=norm)


def transform(folding: Folding, name: str, module: Transform, x: Flow) -> Flow:
    """A Walsh-Hadamard transform; its shift goes into the unit."""
    _check_rotated(name, module, x)
    norm = hadamard_norm(x.norm, x.channels)
    folding.node("hadamard", name, x.name)
    return dataclasses.replace(x, name=name, unit=x.unit * 2.0**-module.shift, largest=norm, norm=norm)


def _check_rotated(name: str, module: Switch | Transform, x: Flow) -> None:
    if not x.norm or x.waiting:
        raise refusal(name, module, "it must come after a rotation of the image, or what that became")


def _slopes(name: str, module: Switch) -> NDArray[np.uint64]:
    """The packed slopes of a switch: signs, and the two bits of their shifts."""
    if not torch.isfinite(module.slopes).all():
        raise HypersignError(f"{name}.slopes must hold numbers; it holds NaN or infinity: take an earlier state")
    minus, shifts = module.planes()
    planes = np.stack([minus, shifts & 1 > 0, shifts & 2 > 0], axis=1)  # (2, 3, n)
    return bits.pack(np.where(planes, -1, 1))
