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
import functools
from collections import Counter
from collections.abc import Callable, Sequence
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
from hypersign.packing.traced import named_outputs, uncompiled

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
    network: the number of a class, or the numbers of a regression, which are the same up to the task's tolerance;
    of several outputs, or of one that is no vector, they are empty.
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
    images: NDArray[Any] | Sequence[NDArray[Any]],
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
            then (N, features), signals (N, channels, length); for several inputs an array for each.
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
    several = isinstance(images, tuple | list)
    given: list[NDArray[Any]] = list(images) if several else [np.asarray(images)]
    count = len(given[0]) if given else 0
    if not count:
        raise HypersignError("verification needs at least one image; got none")
    check_float32(model)
    model = uncompiled(copy_module(model).cpu())
    judged = _Judged(model, packed, threads)
    difference = largest = 0.0
    with full_precision("cpu"), mode(model, False), torch.no_grad():
        for start in range(0, count, batch_size):
            part = [each[start : start + batch_size] for each in given]
            outputs = packed.predict(part if len(part) > 1 else part[0], batch_size=batch_size, threads=threads)
            found = list(outputs) if isinstance(outputs, tuple) else [outputs]
            x = [torch.tensor(each).float() for each in part]
            if packed.graph.pixel_range is not None:
                low, high = packed.graph.pixel_range
                x[0] = x[0].mul_((high - low) / 255).add_(low)  # as `Batches` has it
            expected = _float_outputs(model, x, [each.shape for each in found], start)
            judged.judge(start, part, x, found, expected, np.flatnonzero(~judged.agree(found, expected)))
            for ours, theirs in zip(found, expected, strict=True):
                gap = float(np.abs(ours - theirs).max())
                difference = max(difference, np.inf if np.isnan(gap) else gap)
                largest = max(largest, float(np.abs(theirs).max()))
            progress(start + len(part[0]))
    return judged.certificate(count, difference, largest)


def _float_outputs(
    model: nn.Module, x: list[Tensor], shapes: Sequence[tuple[int, ...]], start: int
) -> list[NDArray[np.float32]]:
    """The float network's outputs of a batch, whose first image has the number `start`.

    A head without `nn.Flatten()` gives (N, classes, 1, 1), which would broadcast against (N, classes).
    """
    found = [value for _, value in named_outputs(model(*x))]
    if len(found) == 1 and len(shapes[0]) == 2 and found[0].dim() == 4 and found[0].shape[2:].numel() == 1:
        found = [found[0].flatten(1)]
    if [tuple(value.shape) for value in found] != list(shapes):
        raise HypersignError(
            f"the packed network must be that of this network; it gives logits {', '.join(map(str, shapes))}, the "
            f"network {', '.join(str(tuple(value.shape)) for value in found)}: pack it again"
        )
    for value in found:
        broken = (~value.isfinite().flatten(1).all(1)).nonzero().flatten()
        if len(broken):
            raise HypersignError(
                f"the network's logits must be finite numbers; image {start + int(broken[0])} gives NaN or infinity: "
                "take an earlier state"
            )
    return [value.numpy() for value in found]


Outputs = Sequence[NDArray[Any]]


def _largest(values: NDArray[Any]) -> NDArray[Any]:
    """The largest magnitude of each row."""
    found: NDArray[Any] = np.abs(values.reshape(len(values), -1)).max(1)
    return found


class _Judged:
    """The images that were judged so far."""

    def __init__(self, model: nn.Module, packed: PackedModel, threads: int) -> None:
        self.model = model
        self.packed = packed
        self.threads = threads
        self.replica = Replica(model, packed)
        self.fixed_point = any(node.op in ("signed_sum", "switch") for node in packed.graph.nodes)
        self.rounding = FIXED_POINT if self.fixed_point else ROUNDING
        self.folds = False  # whether the network was found to be what its layers say
        self.differences: list[Difference] = []
        self.errors: list[tuple[float, float]] = []  # of packed and float32

    def agree(self, found: Outputs, expected: Outputs) -> NDArray[np.bool_]:
        """Of each image, whether the outputs are the same within rounding, and the decisions; NaN is not."""
        near = [
            _largest(ours - theirs) <= self.rounding * _largest(theirs)
            for ours, theirs in zip(found, expected, strict=True)
        ]
        return np.logical_and.reduce([*near, self.same(found, expected)])

    def same(self, found: Outputs, expected: Outputs) -> NDArray[np.bool_]:
        """Of each image, whether all outputs mean the same."""
        tasks = self.packed.tasks
        return np.logical_and.reduce([of.same(a, b) for of, a, b in zip(tasks, found, expected, strict=True)])

    def judge(
        self,
        start: int,
        images: list[NDArray[Any]],
        x: list[Tensor],
        found: Outputs,
        expected: Outputs,
        rows: NDArray[np.intp],
    ) -> None:
        """Judges those `rows` of a batch, whose first image has the number `start`."""
        theirs: dict[str, Tensor] | None = None
        if len(rows) and not self.folds:
            self.folds = True
            # The replica computes each layer anew, so the network must be what its layers say. Folding refuses
            # others, such as those with hooks or another forward, by name.
            fold(self.model, [tuple(each.shape[1:]) for each in x], pixel_range=self.packed.graph.pixel_range)
        for chunk in np.array_split(rows, -(-len(rows) // CHUNK)) if len(rows) else ():
            some = [each[chunk] for each in images]
            exact = [value.numpy() for value in self.replica.outputs(some)]
            ours, floats = [each[chunk] for each in found], [each[chunk] for each in expected]
            differ = ~self.same(floats, ours)
            followed = self.replica.follow(some, ours, threads=self.threads)
            packed_errors, float_errors = (
                np.maximum.reduce([_largest(a - b) for a, b in zip(outputs, exact, strict=True)])
                for outputs in (ours, floats)
            )
            size = np.maximum.reduce([_largest(value) for value in exact])
            self.errors += zip(packed_errors.tolist(), float_errors.tolist(), strict=True)
            for i, row in enumerate(chunk.tolist()):
                wrong = followed.wrong[i]
                if self.fixed_point and not packed_errors[i] <= FIXED_POINT * size[i]:
                    wrong = wrong or self.packed.graph.nodes[-1].name
                if wrong is None and not differ[i]:
                    continue
                if theirs is None:
                    theirs = _float_levels(self.model, x)
                layer, levels = _first_other(followed.levels, theirs, i, row)
                difference = Difference(
                    image=start + row,
                    decision_differs=bool(differ[i]),
                    float_decision=self._decision(floats, i),
                    packed_decision=self._decision(ours, i),
                    exact_decision=self._decision(exact, i),
                    float_error=float(float_errors[i]),
                    packed_error=float(packed_errors[i]),
                    layer=layer,
                    levels=levels,
                    wrong_step=wrong,
                )
                self.differences.append(difference)

    def _decision(self, outputs: Outputs, row: int) -> int | tuple[float, ...]:
        if self.packed.graph.outputs:
            return ()
        found: int | list[float] = self.packed.tasks[0].decide(outputs[0][row : row + 1])[0].tolist()
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


def _float_levels(model: nn.Module, x: list[Tensor]) -> dict[str, Tensor]:
    """The levels that the layers of the float network read, by the names of the layers' nodes.

    The hooks are on the layers: several may share one quantizer, whose own hooks could not tell them apart.
    """
    levels: dict[str, Tensor] = {}
    count: Counter[str] = Counter()

    def keep(layer: Any, inputs: tuple[Tensor, ...], name: str) -> None:
        count[name] += 1
        node = name if count[name] == 1 else f"{name}.call{count[name]}"
        levels[node] = layer.input_quantizer(inputs[0]).double()

    handles = [
        layer.register_forward_pre_hook(functools.partial(keep, name=name))
        for name, layer in quant_layers(model).items()
        if layer.input_quantizer.packed_form(inputs=True).levels
    ]
    try:
        model(*x)
    finally:
        for handle in handles:
            handle.remove()
    return levels


def _first_other(
    ours: tuple[tuple[str, Tensor], ...], theirs: dict[str, Tensor], image: int, row: int
) -> tuple[str | None, int]:
    """The first layer whose levels differ, of `image` in ours and `row` in theirs, and how many do."""
    for name, levels in ours:
        if (others := theirs.get(name)) is None:
            continue
        count = int((levels[image] != others[row].reshape(levels[image].shape)).sum())
        if count:
            return name, count
    return None, 0
