"""The runtime: a packed network, loaded once, predicts on bits."""

import dataclasses
import functools
import itertools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from hypersign import bits
from hypersign._checks import HypersignError, check_int
from hypersign.bits.backend import native
from hypersign.bits.images import channels_last, planned_image_conv2d
from hypersign.bits.pooling import flip_mask, planned_max_pool2d
from hypersign.bits.real import planned_affine
from hypersign.bits.words import Bound, Planned, planned_pack
from hypersign.packed import transforms
from hypersign.packed.format import read
from hypersign.packed.graph import INPUT, Graph, Node, Value

__all__ = ["PackedModel"]

Run = Callable[..., NDArray[Any]]
"""A node without a buffer: maps its inputs and `threads` to its output."""


@dataclasses.dataclass(frozen=True)
class _Step:
    """A node: `planned` writes integers, or logits, to a buffer, or `run` gives an array of its own.

    `done` are the values that no later node reads.
    """

    name: str
    inputs: tuple[str, ...]
    done: tuple[str, ...]
    value: Value
    planned: Planned | None = None
    run: Run | None = None

    def buffer(self, images: int) -> NDArray[Any] | None:
        """An array for what the node gives for so many images; None where it makes its own."""
        if self.planned is None:
            return None
        shape = (images, self.value.height, self.value.width)
        if self.value.kind != "levels":
            return np.empty((*shape, self.value.channels), np.int32 if self.value.kind == "sums" else np.float32)
        return np.empty(((2,) if self.value.ternary else ()) + (*shape, -(-self.value.channels // 64)), np.uint64)


class _Batch:
    """A network with the arrays of so many images, to which its steps are bound."""

    def __init__(self, steps: Sequence[_Step], images: NDArray[Any]) -> None:
        count, channels, height, width = images.shape
        self.images, self.backend = count, bits.backend()
        self.buffers = {INPUT: np.empty((count, height, width, channels), images.dtype)}
        self.steps = [(step, self._bind(step, count)) for step in steps]

    def _bind(self, step: _Step, images: int) -> Bound | None:
        """What a step does from buffer to buffer; None where it reads or makes an array of its own."""
        buffer = step.buffer(images)
        if buffer is None or step.planned is None:
            return None
        self.buffers[step.name] = buffer
        x = self.buffers.get(step.inputs[0])
        return None if x is None else step.planned(x, buffer)

    @functools.cached_property
    def joined(self) -> list[tuple[_Step | None, Bound | None]]:
        """The steps, those of the compiled module that follow one another as one: between them, Python takes as long
        as a small layer."""
        module = native()
        joined: list[tuple[_Step | None, Bound | None]] = []
        for compiled, steps in itertools.groupby(self.steps, lambda of: module and isinstance(of[1], module.Call)):
            together = list(steps)
            joined += [(None, module.sequence([bound for _, bound in together]))] if compiled else together
        return joined

    def run(
        self,
        images: NDArray[Any],
        threads: int,
        *,
        keep: bool = False,
        seconds: dict[str, float] | None = None,
    ) -> dict[str, NDArray[Any]]:
        """What the nodes give, by name: the last one's, or with `keep` all. `seconds` takes the time of each."""
        channels_last(images, self.buffers[INPUT])
        values = dict(self.buffers)
        for step, bound in self.joined if seconds is None else self.steps:
            start = time.perf_counter()
            if bound is not None:
                bound(threads)
            elif step is not None and step.planned is not None:
                step.planned(values[step.inputs[0]], values[step.name])(threads)
            elif step is not None and step.run is not None:
                values[step.name] = step.run(*(values[key] for key in step.inputs), threads=threads)
            if step is None:
                continue
            if seconds is not None:
                seconds[step.name] = time.perf_counter() - start
            if not keep:
                for key in step.done:
                    if key not in self.buffers:
                        del values[key]
        return values


class PackedModel:
    """A packed network, ready to predict; several threads may use one at once.

    `graph` is its description, `values` says what each node gives, `sha256` identifies it. Make one with
    `PackedModel.load`.
    """

    def __init__(
        self, graph: Graph, tensors: Mapping[str, NDArray[Any]], values: Mapping[str, Value], sha256: str
    ) -> None:
        self.graph = graph
        self.values = dict(values)
        self.sha256 = sha256
        self._steps = []
        for i, node in enumerate(graph.nodes):
            found = _plan(node, graph, tensors, values)
            step = _Step(node.name, node.inputs, _last_reads(graph, i), values[node.name], **found)
            self._steps.append(step)
        self._own = threading.local()  # each thread's batch

    @classmethod
    def load(cls, file: str | Path | BinaryIO) -> "PackedModel":
        """Reads a packed file and prepares its kernels.

        Raises:
            HypersignError: the file is missing, truncated, damaged or no packed network.
        """
        return cls(*read(Path(file) if isinstance(file, str) else file))

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the logits."""
        return self.graph.classes

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of an image."""
        return self.graph.shape

    @property
    def float_nodes(self) -> tuple[str, ...]:
        """The nodes that compute in float32, not in integers."""
        return tuple(node.name for node in self.graph.nodes if self.values[node.name].kind == "real")

    def predict(self, images: NDArray[Any], *, batch_size: int = 64, threads: int = 1) -> NDArray[np.float32]:
        """The logits of images.

        Args:
            images: uint8 (N, channels, height, width), as data sets have them; float32 where the network was packed
                for real inputs.
            batch_size: images at a time; results do not change. Memory grows with it, and each thread keeps what the
                integers between layers take for its next call.
            threads: number of threads that share a batch.

        Returns float32 (N, classes).

        Raises:
            HypersignError: images of another type or shape, or with NaN.
        """
        check_int("batch_size", batch_size, least=1)
        check_int("threads", threads, least=1)
        images = self._images(images)
        logits = np.empty((len(images), len(self.classes)), np.float32)
        for start in range(0, len(images), batch_size):
            rows = slice(start, start + batch_size)
            values = self._batch(images[rows]).run(images[rows], threads)
            logits[rows] = values[self.graph.nodes[-1].name].reshape(-1, logits.shape[1])
        return logits

    def trace(self, images: NDArray[Any], *, threads: int = 1) -> dict[str, NDArray[Any]]:
        """What every node gives for images, by name: words, sums or numbers, channels last."""
        check_int("threads", threads, least=1)
        images = self._images(images)
        values = _Batch(self._steps, images).run(images, threads, keep=True)
        return {name: values[name] for name in (INPUT, *(step.name for step in self._steps))}

    def times(self, images: NDArray[Any], *, threads: int = 1) -> dict[str, float]:
        """The seconds that every node takes on images, by name."""
        seconds: dict[str, float] = {}
        images = self._images(images)
        self._batch(images).run(images, threads, seconds=seconds)
        return seconds

    def _images(self, images: NDArray[Any]) -> NDArray[Any]:
        images = np.asarray(images)
        dtype = np.dtype(np.float32 if self.graph.pixel_range is None else np.uint8)
        if images.dtype != dtype or images.ndim != 4 or images.shape[1:] != self.shape:
            raise HypersignError(
                f"images must be {dtype} of shape (N, {', '.join(map(str, self.shape))}) for this network; got "
                f"{images.dtype} of shape {images.shape}"
            )
        if dtype == np.float32 and not np.isfinite(images).all():
            raise HypersignError("images must hold finite numbers; these hold NaN or infinity")
        return images

    def _batch(self, images: NDArray[Any]) -> _Batch:
        """The calling thread's arrays for so many images, kept until batches are of another size."""
        batch: _Batch | None = getattr(self._own, "batch", None)
        if batch is None or batch.images != len(images) or batch.backend != bits.backend():
            batch = self._own.batch = _Batch(self._steps, images)
        return batch


def _last_reads(graph: Graph, i: int) -> tuple[str, ...]:
    """The inputs of node i that no later node reads."""
    later = {name for node in graph.nodes[i + 1 :] for name in node.inputs}
    return tuple(set(graph.nodes[i].inputs) - later)


def _plan(
    node: Node, graph: Graph, tensors: Mapping[str, NDArray[Any]], values: Mapping[str, Value]
) -> dict[str, Any]:
    """A node as a function, by the field of `_Step` it is for; all that depends on the file alone is done here."""
    x, y = values[node.inputs[0]], values[node.name]
    own = {
        name.removeprefix(f"{node.name}."): tensor
        for name, tensor in tensors.items()
        if name.rpartition(".")[0] == node.name
    }
    options: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in node.options.items()
    }
    match node.op:
        case "image_conv2d":
            filters = bits.Filters(own["weight"], shape=(*options.pop("kernel"), x.channels))
            return {"planned": planned_image_conv2d(filters, **options, thresholds=_thresholds(own))}
        case "conv2d":
            return {"planned": _conv2d(x, own, options)}
        case "max_pool2d" if x.kind == "levels":
            del options["ceil_mode"]  # the buffer's size tells
            mask = flip_mask(own["flip"], -(-x.channels // 64))
            return {"planned": planned_max_pool2d(mask, **options)}
        case "quantize":
            dtype = {"image": np.uint8, "sums": np.int32, "real": np.float32}[x.kind]
            limits = [own[name] for name in ("low", "high") if name in own]
            return {"planned": planned_pack(np.dtype(dtype), x.channels, limits, own["flip"])}
        case "affine" if node is graph.nodes[-1]:  # the logits, which take little memory
            return {"planned": planned_affine(own["scale"], own["shift"])}
    return {"run": _plan_real(node, graph, own, options, x, y)}


def _plan_real(
    node: Node, graph: Graph, own: Mapping[str, NDArray[Any]], options: dict[str, Any], x: Value, y: Value
) -> Run:
    match node.op:
        case "real_conv2d":
            return _real_conv2d(x, own, options)
        case "rotate":
            return _rotate(x, own, options)
        case "switch":
            minus, shifts = transforms.slopes(own["slopes"], x.channels)
            shifts -= options["exponent"]
            return lambda v, threads: transforms.switch(v, minus, shifts)
        case "hadamard":
            return lambda v, threads: transforms.hadamard(v.reshape(-1, x.channels), threads=threads)[:, None, None]
        case "signed_sum":
            return _signed_sum(x, own, options)
        case "pixels":
            assert graph.pixel_range is not None
            low, high = graph.pixel_range
            scale, shift = np.float32((high - low) / 255), np.float32(low)
            return lambda v, threads: v * scale + shift
        case "unpack":
            unpack = bits.unpack_ternary if x.ternary else bits.unpack
            return lambda v, threads: unpack(v, x.channels).astype(np.float32)
        case "affine":
            return _affine(planned_affine(own["scale"], own["shift"]))
        case "clip":
            return lambda v, threads: np.clip(v, options["low"], options["high"])
        case "max_pool2d":
            return lambda v, threads: _max_pool2d(v, (y.height, y.width), **options)
        case "avg_pool2d":
            return _avg_pool2d(x, y, **options)
        case "add":
            return lambda a, b, threads: a + b
    raise AssertionError(node.op)


def _affine(planned: Planned) -> Run:
    def run(v: NDArray[Any], threads: int) -> NDArray[np.float32]:
        y = np.empty(v.shape, np.float32)
        planned(v, y)(threads)
        return y

    return run


def _thresholds(own: Mapping[str, NDArray[Any]]) -> bits.Thresholds | None:
    return bits.Thresholds(own["low"], own["flip"], own.get("high")) if "low" in own else None


def _conv2d(x: Value, own: Mapping[str, NDArray[Any]], options: dict[str, Any]) -> Planned:
    kernel, thresholds = options.pop("kernel"), _thresholds(own)
    whole = kernel == (x.height, x.width) and options["padding"] == (0, 0) and options["groups"] == 1
    if whole and (x.channels % 64 == 0 or kernel == (1, 1)):
        # One filter covers the image, whose words are the filter's words: rows of a matrix product.
        rows = bits.Filters(own["weight"], shape=(1, 1, kernel[0] * kernel[1] * x.channels))
        product = rows.planned(thresholds=thresholds)

        return lambda v, out: product(v.reshape(*v.shape[:-3], 1, 1, -1), out)
    filters = bits.Filters(
        own["weight"], shape=(*kernel, x.channels // options["groups"]), groups=options.pop("groups")
    )
    return filters.planned(**options, thresholds=thresholds)


def _real_conv2d(x: Value, own: Mapping[str, NDArray[Any]], options: dict[str, Any]) -> Run:
    kernel = options.pop("kernel")
    weight = own["weight"]
    if weight.dtype == np.uint64:
        shape = (*kernel, x.channels // options["groups"])
        weight = bits.Filters(weight, shape=shape).levels().astype(np.float32)
    if kernel == (x.height, x.width) and options["padding"] == (0, 0) and options["groups"] == 1:
        rows = np.ascontiguousarray(weight.reshape(len(weight), -1))
        return lambda v, threads: bits.real_matmul(v.reshape(len(v), -1), rows, threads=threads)[:, None, None]
    return lambda v, threads: bits.real_conv2d(v, weight, **options, threads=threads)


def _rotate(x: Value, own: Mapping[str, NDArray[Any]], options: dict[str, Any]) -> Run:
    signs, size, shift = own["signs"], options["size"], options["shift"]
    minus = bits.unpack(signs, size) < 0
    count = x.height * x.width * x.channels
    largest = max(abs(shift), abs(255 * options["multiplier"] + shift))
    norm = transforms.rotated_norm(largest, count, size, len(signs))
    dtype = np.int32 if norm <= transforms.LARGEST_SUM else np.int64

    def run(v: NDArray[Any], threads: int) -> NDArray[Any]:
        y: Any = v.transpose(0, 3, 1, 2).reshape(len(v), -1).astype(dtype)
        y = (y + y if options["multiplier"] == 2 else y) + shift
        y = transforms.rotate(y, minus, outputs=options["outputs"], exponent=options["exponent"], threads=threads)
        return y[:, None, None]

    return run


def _signed_sum(x: Value, own: Mapping[str, NDArray[Any]], options: dict[str, Any]) -> Run:
    words = own["weight"]
    levels = (bits.unpack if words.ndim == 2 else bits.unpack_ternary)(words, x.channels)

    def run(v: NDArray[Any], threads: int) -> NDArray[Any]:
        y = transforms.shifted(v.reshape(-1, x.channels), options["exponent"])
        return transforms.signed_sums(y, levels).astype(np.int32)[:, None, None]

    return run


def _max_pool2d(
    v: NDArray[Any],
    out: tuple[int, int],
    *,
    size: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    ceil_mode: bool,
) -> NDArray[Any]:
    least = -np.inf if v.dtype.kind == "f" else np.iinfo(v.dtype).min
    return _windows(v, out, size, stride, padding, least, np.maximum)


def _avg_pool2d(
    x: Value,
    y: Value,
    *,
    size: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    ceil_mode: bool,
    count_include_pad: bool,
) -> Run:
    counts = []
    for length, n, k, step, pad in zip((x.height, x.width), (y.height, y.width), size, stride, padding, strict=True):
        start = np.arange(n) * step - pad
        stop = np.minimum(start + k, length + pad)
        inside = np.minimum(stop, length) - np.maximum(start, 0)
        counts.append(stop - start if count_include_pad else inside)
    divisor = np.outer(*counts).astype(np.float32)[:, :, None]
    return lambda v, threads: _windows(v, (y.height, y.width), size, stride, padding, 0.0, np.add) / divisor


def _windows(
    v: NDArray[Any],
    out: tuple[int, int],
    size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    fill: float,
    combine: np.ufunc,
) -> NDArray[Any]:
    """`combine` of each window's numbers, one offset in the window after another."""
    ends = [(n - 1) * step + k for n, step, k in zip(out, stride, size, strict=True)]
    room = [(pad, max(end - pad - length, 0)) for pad, end, length in zip(padding, ends, v.shape[1:3], strict=True)]
    if room != [(0, 0), (0, 0)]:
        v = np.pad(v, ((0, 0), *room, (0, 0)), constant_values=fill)
    y: Any = None
    for i in range(size[0]):
        for j in range(size[1]):
            part = v[:, i : i + ends[0] - size[0] + 1 : stride[0], j : j + ends[1] - size[1] + 1 : stride[1]]
            y = part.copy() if y is None else combine(y, part, out=y)
    return y
