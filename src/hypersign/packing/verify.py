"""Shows that a packed network is the network it was packed from: both run on the same images, class by class.

Where all products are of integers, the classes must be the same on every image. Where real numbers are quantized on
the way (a real-valued shortcut, a float layer), float32 itself does not say which side of a threshold a number within
rounding of it is on, and a class that hangs on one may differ; so may one that hangs on the last bits of sums that
are shifted. Such a tie is shown, not presumed: a float64 replica of the network is run along the levels of either
network; each level must be that of the replica's number, to within rounding, and the logits must be the replica's.
"""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hypersign import bits
from hypersign._checks import HypersignError, check_int
from hypersign.evaluate import full_precision, mode
from hypersign.layers import quant_layers
from hypersign.packed import PackedModel
from hypersign.quantizers import Quantizer

__all__ = ["Certificate", "Difference", "verify"]

ROUNDING = 1e-5
"""What float32 sums may be off by, in units of the largest number of their layer."""

FIXED_POINT = 1e-3
"""What logits may be off by where sums are shifted right on the way, in units of the largest."""


@dataclasses.dataclass(frozen=True)
class Difference:
    """An image, by its number, to which the two networks gave different classes, by their numbers.

    `layer` is the first whose input has other levels in the packed network (None: only the logits differ), `levels`
    how many of them are others; `tie` tells whether a float64 replica shows both networks right to within rounding.
    """

    image: int
    float_class: int
    packed_class: int
    layer: str | None
    levels: int
    tie: bool


@dataclasses.dataclass(frozen=True)
class Certificate:
    """What a float network and its packed form gave on the same images.

    `sha256` names the packed network; `integers` tells whether all its sums are exact; `classes_differ`
    counts images with different classes, `ties` those of them that are ties by a float64 replica, and `differences`
    says of each what differs first; `largest_difference` of logits stands beside the `largest_logit`, both in
    magnitude.
    """

    sha256: str
    integers: bool
    images: int
    classes_differ: int
    ties: int
    largest_difference: float
    largest_logit: float
    differences: tuple[Difference, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether no class differs; where real numbers are quantized, whether all that differ are ties."""
        return self.classes_differ == (0 if self.integers else self.ties)

    def as_dict(self) -> dict[str, Any]:
        """The fields and `holds`, as plain data."""
        return {**dataclasses.asdict(self), "holds": self.holds}


def verify(
    model: nn.Module,
    packed: PackedModel,
    images: NDArray[np.uint8],
    *,
    batch_size: int = 100,
    threads: int = 1,
    progress: Callable[[int], object] = lambda seen: None,
) -> Certificate:
    """Runs a float network and its packed form on the same images and compares classes and logits.

    Args:
        model: the float network, in float32; left as it is.
        packed: what became of it, packed for 8-bit images.
        images: uint8 (N, channels, height, width).
        batch_size: images at a time.
        threads: number of threads of the packed network.
        progress: called with the number of images done.

    Raises:
        HypersignError: there are no images, they do not fit, or the network was packed for float32 inputs.

    >>> import io, tempfile
    >>> from hypersign.models import mlp
    >>> from hypersign.packing import pack
    >>> model = mlp((1, 8, 8), 10, hidden=(64,))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     pack(model, f"{folder}/net", (1, 8, 8), pixel_range=(-1.0, 1.0))
    ...     packed = PackedModel.load(f"{folder}/net")
    >>> images = np.random.default_rng(0).integers(0, 256, (20, 1, 8, 8)).astype(np.uint8)
    >>> verify(model, packed, images).classes_differ
    0
    """
    check_int("batch_size", batch_size, least=1)
    if packed.graph.pixel_range is None:
        raise HypersignError("verification compares on 8-bit images; this network was packed for float32 inputs")
    if not len(images):
        raise HypersignError("verification needs at least one image; got none")
    low, high = packed.graph.pixel_range
    differ: list[Difference] = []
    difference = largest = 0.0
    model = copy.deepcopy(model).cpu()
    with full_precision("cpu"), mode(model, False), torch.no_grad():
        for start in range(0, len(images), batch_size):
            part = images[start : start + batch_size]
            found = packed.predict(part, batch_size=batch_size, threads=threads)
            x = torch.tensor(part).float().mul_((high - low) / 255).add_(low)  # as `Batches` has it
            expected = model(x).numpy()
            difference = max(difference, float(np.abs(found - expected).max()))
            largest = max(largest, float(np.abs(expected).max()))
            classes = expected.argmax(1), found.argmax(1)
            for row in np.flatnonzero(classes[0] != classes[1]):
                layer, levels, tie = _what_differs(model, packed, part[row : row + 1], x[row : row + 1])
                pair = int(classes[0][row]), int(classes[1][row])
                differ.append(Difference(start + int(row), *pair, layer, levels, tie))
            progress(start + len(part))
    ties = sum(found.tie for found in differ)
    return Certificate(
        packed.sha256, _integers(packed), len(images), len(differ), ties, difference, largest, tuple(differ)
    )


def _integers(packed: PackedModel) -> bool:
    """Whether no product is of real numbers, none are quantized, and no sum is rounded."""
    return all(
        node.op != "real_conv2d"
        and node.options.get("exponent", 0) >= 0
        and not (node.op == "quantize" and packed.values[node.inputs[0]].kind == "real")
        for node in packed.graph.nodes
    )


def _what_differs(
    model: nn.Module, packed: PackedModel, image: NDArray[np.uint8], x: Tensor
) -> tuple[str | None, int, bool]:
    """On one image, the first layer whose levels differ and how many; and whether both networks do what a float64
    replica does, to within rounding."""
    quantized = [name for name, layer in quant_layers(model).items() if layer.quantizes_inputs]
    theirs: dict[str, Tensor] = {}
    handles = [
        model.get_submodule(f"{name}.input_quantizer").register_forward_hook(
            lambda module, inputs, output, name=name: theirs.update({name: output.double()})
        )
        for name in quantized
    ]
    try:
        logits = model(x)
    finally:
        for handle in handles:
            handle.remove()
    values = packed.trace(image)
    ours = {name: _levels(packed, values, name) for name in quantized}
    # the order in which the hooks were called is that of the layers
    counts = {name: int((ours[name].reshape(theirs[name].shape) != theirs[name]).sum()) for name in theirs}
    first = next((name for name, count in counts.items() if count), None)
    replica = copy.deepcopy(model).double()
    for name, layer in quant_layers(model).items():
        # The filters' levels are those of float32, whose deviation (and with it a threshold) rounds otherwise.
        weights = layer.quantized_weight().double()
        replica.get_submodule(f"{name}.weight_quantizer").register_forward_hook(
            lambda module, inputs, output, weights=weights: weights
        )
    shifted = any(node.op == "signed_sum" for node in packed.graph.nodes)
    tie = _follows(replica, x, theirs, logits, ROUNDING) and _follows(
        replica,
        x,
        ours,
        torch.from_numpy(values[packed.graph.nodes[-1].name].reshape(1, -1)),
        FIXED_POINT if shifted else ROUNDING,
    )
    return first, counts.get(first or "", 0), tie


def _levels(packed: PackedModel, values: dict[str, NDArray[Any]], name: str) -> Tensor:
    """The levels that the packed layer `name` read, float64 (1, channels, height, width)."""
    (node,) = (node for node in packed.graph.nodes if node.name == name)
    source = packed.values[node.inputs[0]]
    levels = values[node.inputs[0]]
    if source.kind == "levels":
        levels = (bits.unpack_ternary if source.ternary else bits.unpack)(levels, source.channels)
    return torch.from_numpy(levels.astype(np.float64)).permute(0, 3, 1, 2)


def _follows(replica: nn.Module, x: Tensor, levels: dict[str, Tensor], logits: Tensor, rounding: float) -> bool:
    """Whether the replica, given these levels layer by layer, would give each of them and then, to within `rounding`,
    the logits."""
    fits = []

    def check(quantizer: Quantizer, v: Tensor, given: Tensor) -> Tensor:
        given = given.reshape(v.shape)
        room = ROUNDING * v.abs().max()
        low, high = (quantizer.forward(end) for end in (v - room, v + room))  # called directly: no hook
        fits.append(bool((low <= given).all() and (given <= high).all()))
        return given

    handles = [
        replica.get_submodule(f"{name}.input_quantizer").register_forward_hook(
            lambda quantizer, inputs, output, given=given: check(quantizer, inputs[0], given)
        )
        for name, given in levels.items()
    ]
    try:
        expected = replica(x.double())
    finally:
        for handle in handles:
            handle.remove()
    return all(fits) and bool((logits - expected).abs().max() <= rounding * expected.abs().max())
