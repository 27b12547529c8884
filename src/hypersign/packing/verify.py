"""Shows that a packed network is the network it was packed from, on given images.

Both networks run on the same images or vectors. Where the logits agree to within rounding and the decision is the
same, the packed network gave what the float network gives, and no more need be asked.

Where they do not, float32 cannot be the judge. It rounds: torch's first layer on pixels gives other sums for another
batch size, and a sum within rounding of a threshold then gets the other level, which changes everything after it. So
a float64 replica judges (see `replica`): exact where sums are integers, and followed step by step along the packed
network's own levels and numbers. It judges the very logits that differed. The packed network is right on an image
where every step is; then the difference is a tie, which rounding decides. A packed network that is right on all
images holds, whatever float32 says, and one that is wrong on any does not hold, even where the decision is the same.

For each image that was judged the certificate also says how far either network is from the logits of a float64
network with levels of its own.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hypersign._checks import HypersignError, check_int
from hypersign._display import shown
from hypersign._json import plain
from hypersign.evaluate import full_precision, mode
from hypersign.layers import quant_layers
from hypersign.layers.copying import copy_module
from hypersign.packed import PackedModel
from hypersign.packing.fold import check_float32, fold
from hypersign.packing.replica import Replica

__all__ = ["Certificate", "Difference", "verify"]

ROUNDING = 1e-5
"""Largest difference of the two networks' logits that is not judged, in units of the image's largest logit."""

FIXED_POINT = 1e-3
"""The same where sums are shifted right on the way; also what such a network's logits may be off by."""

CHUNK = 16
"""Images judged at a time: a replica keeps several float64 copies of every value."""


@dataclasses.dataclass(frozen=True)
class Difference:
    """An image or vector, by its number, on which the decision differs or the packed network is wrong.

    `float_decision`, `packed_decision` and `exact_decision` are those of the float32, the packed and a float64
    network: the number of a class, or the numbers of a regression, which are the same up to the task's tolerance.
    `decision_differs` tells whether float32's and the packed network's differ. `float_error` and `packed_error` are
    the largest differences of a logit from float64's. `layer` is the first whose input has other levels in the packed
    network than in float32 (None: only the logits differ), `levels` the number of these. `wrong_step` is the first
    step of the packed network that is wrong; None where all are right.
    """

    image: int
    decision_differs: bool
    float_decision: int | tuple[float, ...]
    packed_decision: int | tuple[float, ...]
    exact_decision: int | tuple[float, ...]
    float_error: float
    packed_error: float
    layer: str | None
    levels: int
    wrong_step: str | None

    @property
    def tie(self) -> bool:
        """Whether the packed network is right on this image, so that rounding alone makes the difference."""
        return self.wrong_step is None


@shown
@dataclasses.dataclass(frozen=True)
class Certificate:
    """A float network and its packed form compared on the same images.

    `sha256` names the packed network; `integers` tells whether all its sums are exact. `logits_differ` counts the
    images whose logits differ beyond rounding: a float64 replica judged each of them. `wrong` counts those on which
    the packed network is wrong, `decisions_differ` those with another decision, and `ties` those of them on which the
    packed network is right. `differences` lists the wrong ones and those with another decision.

    `largest_difference` of logits stands beside the `largest_logit`, both in magnitude. `packed_error` and
    `float_error` are how far the two networks' logits are from those of float64: the largest of each judged image,
    their mean (0 where none was judged). On `packed_nearer` images the packed network is the nearer one, on
    `float_nearer` float32 is.
    """

    sha256: str
    integers: bool
    images: int
    logits_differ: int
    decisions_differ: int
    ties: int
    wrong: int
    largest_difference: float
    largest_logit: float
    packed_error: float = 0.0
    float_error: float = 0.0
    packed_nearer: int = 0
    float_nearer: int = 0
    differences: tuple[Difference, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether the packed network is right on every image."""
        return self.wrong == 0

    def as_dict(self) -> dict[str, Any]:
        """The fields and `holds`, as plain data: what JSON has no word for, such as NaN, is None."""
        return plain({**dataclasses.asdict(self), "holds": self.holds})


def verify(
    model: nn.Module,
    packed: PackedModel,
    images: NDArray[Any],
    *,
    batch_size: int = 100,
    threads: int = 1,
    progress: Callable[[int], object] = lambda seen: None,
) -> Certificate:
    """Runs a float network and its packed form on the same images, and judges each image whose logits differ.

    Args:
        model: the float network, in float32; left as it is.
        packed: its packed form.
        images: uint8 (N, channels, height, width); float32 if the network was packed for real inputs, and vectors
            then (N, features).
        batch_size: images at a time.
        threads: number of threads of the packed network.
        progress: called with the number of images done.

    Raises:
        HypersignError: there are no images, they do not fit, the float network's logits are not finite, or the packed
            network is that of another one.

    >>> import io, tempfile
    >>> from hypersign.models import mlp
    >>> from hypersign.packing import pack
    >>> model = mlp((1, 8, 8), 10, hidden=(64,))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     pack(model, f"{folder}/net", (1, 8, 8), pixel_range=(-1.0, 1.0))
    ...     packed = PackedModel.load(f"{folder}/net")
    >>> images = np.random.default_rng(0).integers(0, 256, (20, 1, 8, 8)).astype(np.uint8)
    >>> verify(model, packed, images).holds
    True
    """
    check_int("batch_size", batch_size, min=1)
    if not len(images):
        raise HypersignError("verification needs at least one image; got none")
    check_float32(model)
    model = copy_module(model).cpu()
    judged = _Judged(model, packed, threads)
    difference = largest = 0.0
    with full_precision("cpu"), mode(model, False), torch.no_grad():
        for start in range(0, len(images), batch_size):
            part = images[start : start + batch_size]
            found = packed.predict(part, batch_size=batch_size, threads=threads)
            x = torch.tensor(part).float()
            if packed.graph.pixel_range is not None:
                low, high = packed.graph.pixel_range
                x = x.mul_((high - low) / 255).add_(low)  # as `Batches` has it
            expected = _float_logits(model, x, found.shape, start)
            judged.judge(start, part, x, found, expected, np.flatnonzero(~judged.agree(found, expected)))
            gap = float(np.abs(found - expected).max())
            difference = max(difference, np.inf if np.isnan(gap) else gap)
            largest = max(largest, float(np.abs(expected).max()))
            progress(start + len(part))
    return judged.certificate(len(images), difference, largest)


def _float_logits(model: nn.Module, x: Tensor, shape: tuple[int, ...], start: int) -> NDArray[np.float32]:
    """The float network's logits of a batch, whose first image has the number `start`.

    A head without `nn.Flatten()` gives (N, classes, 1, 1), which would broadcast against (N, classes).
    """
    logits = model(x)
    if logits.dim() == 4 and logits.shape[2:].numel() == 1:
        logits = logits.flatten(1)
    if tuple(logits.shape) != shape:
        raise HypersignError(
            f"the packed network must be that of this network; it gives logits {shape}, the network "
            f"{tuple(logits.shape)}: pack it again"
        )
    broken = (~logits.isfinite().all(1)).nonzero().flatten()
    if len(broken):
        raise HypersignError(
            f"the network's logits must be finite numbers; image {start + int(broken[0])} gives NaN or infinity: "
            "take an earlier state"
        )
    return logits.numpy()


class _Judged:
    """The images that were judged so far."""

    def __init__(self, model: nn.Module, packed: PackedModel, threads: int) -> None:
        self.model = model
        self.packed = packed
        self.task = packed.graph.task
        self.threads = threads
        self.replica = Replica(model, packed)
        self.fixed_point = any(node.op in ("signed_sum", "switch") for node in packed.graph.nodes)
        self.rounding = FIXED_POINT if self.fixed_point else ROUNDING
        self.folds = False  # whether the network was found to be what its layers say
        self.differences: list[Difference] = []
        self.errors: list[tuple[float, float]] = []  # of packed and float32

    def agree(self, found: NDArray[np.float32], expected: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Of each image, whether the logits are the same within rounding, and the decision; NaN is not."""
        near = np.abs(found - expected).max(1) <= self.rounding * np.abs(expected).max(1)
        return near & self.task.same(found, expected)

    def judge(
        self,
        start: int,
        images: NDArray[Any],
        x: Tensor,
        found: NDArray[np.float32],
        expected: NDArray[np.float32],
        rows: NDArray[np.intp],
    ) -> None:
        """Judges those `rows` of a batch, whose first image has the number `start`."""
        theirs: list[Tensor] | None = None
        if len(rows) and not self.folds:
            self.folds = True
            # The replica computes each layer anew, so the network must be what its layers say. Folding refuses
            # others, such as those with hooks or another forward, by name.
            fold(self.model, self.packed.shape, pixel_range=self.packed.graph.pixel_range)
        for chunk in np.array_split(rows, -(-len(rows) // CHUNK)) if len(rows) else ():
            exact = self.replica.logits(images[chunk]).numpy()
            differ = ~self.task.same(expected[chunk], found[chunk])
            followed = self.replica.follow(images[chunk], found[chunk], threads=self.threads)
            packed_errors, float_errors = (np.abs(logits[chunk] - exact).max(1) for logits in (found, expected))
            self.errors += zip(packed_errors.tolist(), float_errors.tolist(), strict=True)
            for i, row in enumerate(chunk.tolist()):
                wrong = followed.wrong[i]
                if self.fixed_point and not packed_errors[i] <= FIXED_POINT * np.abs(exact[i]).max():
                    wrong = wrong or self.packed.graph.nodes[-1].name
                if wrong is None and not differ[i]:
                    continue
                if theirs is None:
                    theirs = _float_levels(self.model, x)
                layer, levels = _first_other(followed.levels, theirs, i, row)
                difference = Difference(
                    image=start + row,
                    decision_differs=bool(differ[i]),
                    float_decision=self._decision(expected[row]),
                    packed_decision=self._decision(found[row]),
                    exact_decision=self._decision(exact[i]),
                    float_error=float(float_errors[i]),
                    packed_error=float(packed_errors[i]),
                    layer=layer,
                    levels=levels,
                    wrong_step=wrong,
                )
                self.differences.append(difference)

    def _decision(self, logits: NDArray[Any]) -> int | tuple[float, ...]:
        found: int | list[float] = self.task.decide(logits[None])[0].tolist()
        return found if isinstance(found, int) else tuple(found)

    def certificate(self, images: int, difference: float, largest: float) -> Certificate:
        """The result over all images."""
        others = [found for found in self.differences if found.decision_differs]
        packed_error, float_error = np.mean(self.errors, 0).tolist() if self.errors else (0.0, 0.0)
        return Certificate(
            sha256=self.packed.sha256,
            integers=_integers(self.packed),
            images=images,
            logits_differ=len(self.errors),
            decisions_differ=len(others),
            ties=sum(found.tie for found in others),
            wrong=sum(not found.tie for found in self.differences),
            largest_difference=difference,
            largest_logit=largest,
            packed_error=packed_error,
            float_error=float_error,
            packed_nearer=sum(ours < theirs for ours, theirs in self.errors),
            float_nearer=sum(not ours <= theirs for ours, theirs in self.errors),  # NaN is nearer to nothing
            differences=tuple(self.differences),
        )


def _integers(packed: PackedModel) -> bool:
    """Whether no product is of real numbers, none are quantized, and no sum is rounded."""
    return all(
        node.op != "real_conv2d"
        and node.options.get("exponent", 0) >= 0
        and not (node.op == "quantize" and packed.values[node.inputs[0]].kind == "real")
        for node in packed.graph.nodes
    )


def _float_levels(model: nn.Module, x: Tensor) -> list[Tensor]:
    """The levels that the layers of the float network read, in the order in which they run.

    The hooks are on the layers: several may share one quantizer, whose own hooks could not tell them apart.
    """
    levels: list[Tensor] = []

    def keep(layer: Any, inputs: tuple[Tensor, ...]) -> None:
        levels.append(layer.input_quantizer(inputs[0]).double())

    handles = [
        layer.register_forward_pre_hook(keep)
        for layer in quant_layers(model).values()
        if layer.input_quantizer.packed_form(inputs=True).levels
    ]
    try:
        model(x)
    finally:
        for handle in handles:
            handle.remove()
    return levels


def _first_other(
    ours: tuple[tuple[str, Tensor], ...], theirs: list[Tensor], image: int, row: int
) -> tuple[str | None, int]:
    """The first layer whose levels differ, of `image` in ours and `row` in theirs, and how many do."""
    for (name, levels), others in zip(ours, theirs, strict=True):
        count = int((levels[image] != others[row].reshape(levels[image].shape)).sum())
        if count:
            return name, count
    return None, 0
