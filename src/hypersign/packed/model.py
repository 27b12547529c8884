"""The runtime of packed networks: load a network once, then predict on bits."""

import dataclasses
import functools
import io
import itertools
import threading
import time
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from hypersign import _defaults, bits, pretrained
from hypersign._checks import HypersignError, check_int, check_threads
from hypersign.bits.backend import native
from hypersign.bits.images import channels_last
from hypersign.bits.words import Bound
from hypersign.packed.format import Contents, read
from hypersign.packed.graph import INPUT
from hypersign.packed.operations import OPERATIONS, Plan
from hypersign.packed.values import Node, Value

__all__ = ["PackedModel"]


@dataclasses.dataclass(frozen=True)
class _Step:
    """A node ready to run.

    `done` names the values that no later node reads. `kept` tells whether a batch keeps the node's array for the next
    call: it keeps integers and the outputs, but not float32 between layers, which takes too much memory.
    """

    name: str
    inputs: tuple[str, ...]
    done: tuple[str, ...]
    value: Value
    plan: Plan
    kept: bool

    def array(self, images: int) -> NDArray[Any]:
        """Returns an empty array for the node's output."""
        shape = (images, self.value.height, self.value.width)
        if self.value.kind != "levels":
            return np.empty((*shape, self.value.channels), np.int32 if self.value.kind == "sums" else np.float32)
        return np.empty(((2,) if self.value.ternary else ()) + (*shape, -(-self.value.channels // 64)), np.uint64)


class _Batch:
    """The arrays for one batch size, and the steps bound to these arrays."""

    def __init__(self, steps: Sequence[_Step], images: NDArray[Any]) -> None:
        count, channels, height, width = images.shape
        self.images, self.backend = count, bits.backend()
        self.buffers = {INPUT: np.empty((count, height, width, channels), images.dtype)}
        self.steps = [(step, self._bind(step, count)) for step in steps]

    def _bind(self, step: _Step, images: int) -> Bound | None:
        """Returns a call that runs a step from buffer to buffer; None if its input or output has no buffer."""
        if not step.kept:
            return None
        assert step.plan.bind is not None
        buffer = self.buffers[step.name] = step.array(images)
        x = self.buffers.get(step.inputs[0])
        return None if x is None else step.plan.bind(x, buffer)

    @functools.cached_property
    def joined(self) -> list[tuple[_Step | None, Bound | None]]:
        """The steps, with consecutive compiled steps joined into one call.

        Between two calls, Python takes as long as a small layer.
        """
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
        """Returns the last node's output, or with `keep` all outputs, by name.

        It stores the time of each node in `seconds`.
        """
        channels_last(images, self.buffers[INPUT])
        values = dict(self.buffers)
        for step, bound in self.joined if seconds is None else self.steps:
            start = time.perf_counter()
            if bound is not None:
                bound(threads)
            elif step is not None and step.plan.bind is not None:
                if step.name not in values:
                    values[step.name] = step.array(self.images)
                step.plan.bind(values[step.inputs[0]], values[step.name])(threads)
            elif step is not None and step.plan.run is not None:
                values[step.name] = step.plan.run(*(values[key] for key in step.inputs), threads=threads)
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
    """A packed network, ready to predict. Several threads can use one model at the same time.

    Load it with `PackedModel.load`. `graph` describes the network, `values` has the output value of each node, and
    `sha256` identifies the network. Copying or unpickling a model loads it again from the bytes of the file.
    """

    def __init__(self, contents: Contents) -> None:
        self.graph = contents.graph
        self.values = contents.values
        self.sha256 = contents.sha256
        self._parts = contents.parts
        nodes = self.graph.nodes
        plans = [OPERATIONS[node.op].plan(data) for node, data in zip(nodes, contents.nodes, strict=True)]
        self._steps = []
        for node, plan, done in zip(nodes, plans, _last_reads(nodes), strict=True):
            value = self.values[node.name]
            kept = plan.bind is not None and (value.kind != "real" or node is nodes[-1])
            self._steps.append(_Step(node.name, node.inputs, done, value, plan, kept))
        self._own = threading.local()  # each thread's batch

    @classmethod
    def load(cls, file: str | Path | BinaryIO) -> "PackedModel":
        """Reads a packed file, or an open stream, and prepares its kernels.

        Raises:
            HypersignError: the file is missing, truncated, damaged or no packed network.
        """
        return cls(read(Path(file) if isinstance(file, str) else file))

    def __repr__(self) -> str:
        nodes = self.graph.nodes
        size = sum(len(part) for part in self._parts)
        shape = " x ".join(map(str, self.shape))
        what = "classes" if self.classes else "numbers"
        return f"PackedModel({shape} -> {self.outputs} {what}, {len(nodes)} operations, {size:,} bytes)"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{escape(node.name)}</td><td>{node.op}</td><td>{escape(str(self.values[node.name]))}</td></tr>"
            for node in self.graph.nodes
        )
        head = "<tr><th>node</th><th>operation</th><th>output</th></tr>"
        return f"<table><caption>{escape(repr(self))}</caption>{head}{rows}</table>"

    @classmethod
    def pretrained(cls, name: str) -> "PackedModel":
        """Loads a network that comes with HyperSign. `hypersign models` lists them.

        Raises:
            HypersignError: no network has this name.

        >>> PackedModel.pretrained("digits").shape
        (1, 8, 8)
        """
        return cls.load(pretrained.folder(name) / pretrained.PACKED)

    def to_bytes(self) -> bytes:
        """The bytes of the packed file, from which `load` makes an equal model."""
        return b"".join(self._parts)

    def __reduce__(self) -> tuple[Any, ...]:
        return _load_bytes, (self.to_bytes(),)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the logits; empty if the outputs are no classes."""
        return self.graph.classes

    @property
    def outputs(self) -> int:
        """The number of outputs per input."""
        return self.values[self.graph.nodes[-1].name].channels

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of an input, (channels, height, width); that of a vector is (features, 1, 1)."""
        return self.graph.shape

    @property
    def float_nodes(self) -> tuple[str, ...]:
        """The names of the nodes that compute in float32 instead of integers."""
        return tuple(node.name for node in self.graph.nodes if self.values[node.name].kind == "real")

    def predict(
        self, images: NDArray[Any], *, batch_size: int = _defaults.PACKED_BATCH, threads: int = 1
    ) -> NDArray[np.float32]:
        """Returns the outputs for images or vectors, float32 (N, outputs): of a classifier, the logits.

        Args:
            images: images, uint8 (N, channels, height, width); float32 if the network was packed for real inputs;
                vectors may be (N, features).
            batch_size: number of images per batch. Results do not depend on it, but memory grows with it: each thread
                keeps the integer arrays between layers for its next call.
            threads: number of threads that share a batch.

        Raises:
            HypersignError: the images have another type or shape, or are not finite.
        """
        check_int("batch_size", batch_size, min=1)
        check_threads(threads)
        images = self._images(images)
        outputs = np.empty((len(images), self.outputs), np.float32)
        for start in range(0, len(images), batch_size):
            rows = slice(start, start + batch_size)
            values = self._batch(images[rows]).run(images[rows], threads)
            outputs[rows] = values[self.graph.nodes[-1].name].reshape(-1, outputs.shape[1])
        return outputs

    def decide(self, outputs: NDArray[np.float32]) -> NDArray[Any]:
        """Returns the decisions that outputs of `predict` stand for.

        A classifier decides on numbers of classes, shape (N,); a regression on the outputs themselves.
        """
        return self.graph.task.decide(outputs)

    def trace(self, images: NDArray[Any], *, threads: int = 1) -> dict[str, NDArray[Any]]:
        """Returns the output of every node for images, by name: words, sums or float32 numbers, channels last."""
        check_threads(threads)
        images = self._images(images)
        values = _Batch(self._steps, images).run(images, threads, keep=True)
        return {name: values[name] for name in (INPUT, *(step.name for step in self._steps))}

    def times(self, images: NDArray[Any], *, threads: int = 1) -> dict[str, float]:
        """Returns the time in seconds that every node takes for images, by name."""
        seconds: dict[str, float] = {}
        images = self._images(images)
        self._batch(images).run(images, threads, seconds=seconds)
        return seconds

    def _images(self, images: NDArray[Any]) -> NDArray[Any]:
        images = np.asarray(images)
        if images.ndim == 2 and self.shape == (*images.shape[1:], 1, 1):
            images = images[:, :, None, None]
        dtype = np.dtype(np.float32 if self.graph.pixel_range is None else np.uint8)
        if images.dtype != dtype or images.ndim != 4 or images.shape[1:] != self.shape:
            single = "; pass a single image as image[None]" if images.shape == self.shape else ""
            raise HypersignError(
                f"images must be {dtype} of shape (N, {', '.join(map(str, self.shape))}) for this network; got "
                f"{images.dtype} of shape {images.shape}{single}"
            )
        if dtype == np.float32 and not np.isfinite(images).all():
            raise HypersignError("images must hold finite numbers; these hold NaN or infinity")
        return images

    def _batch(self, images: NDArray[Any]) -> _Batch:
        """Returns the arrays of the calling thread. They are kept until the batch size changes."""
        batch: _Batch | None = getattr(self._own, "batch", None)
        if batch is None or batch.images != len(images) or batch.backend != bits.backend():
            batch = self._own.batch = _Batch(self._steps, images)
        return batch


def _load_bytes(data: bytes) -> PackedModel:
    return PackedModel.load(io.BytesIO(data))


def _last_reads(nodes: Sequence[Node]) -> list[tuple[str, ...]]:
    """Returns, for each node, the inputs that no later node reads."""
    read_later: set[str] = set()
    found = []
    for node in reversed(nodes):
        found.append(tuple(set(node.inputs) - read_later))
        read_later.update(node.inputs)
    return found[::-1]
