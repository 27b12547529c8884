"""The runtime of packed networks: load a network once, then predict on bits."""

import functools
import io
import itertools
import math
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
from hypersign.packed.decisions import Task
from hypersign.packed.format import Contents, read
from hypersign.packed.graph import INPUT
from hypersign.packed.operations import OPERATIONS
from hypersign.packed.passes import Pass, Planned, apart, empty, passes
from hypersign.packed.values import Value

__all__ = ["PackedModel"]


Inputs = dict[str, NDArray[Any]]
"""The images of each input by its name, channels first."""

REAL_BYTES = 2**17
"""Of the largest real value between layers; that many bytes and a few more arrays fit in a core's second cache."""


class _Batch:
    """The arrays for one batch size, and the passes bound to them.

    An array that no later pass reads gives its memory to others, so memory grows with the widest place of the network
    and not with its depth. With `keep`, every array has its own.
    """

    def __init__(
        self,
        found: Sequence[Pass],
        values: dict[str, Value],
        images: Inputs,
        ends: Sequence[str],
        *,
        keep: bool = False,
    ) -> None:
        count = len(images[INPUT])
        self.images, self.backend = count, bits.backend()
        self.passes, self.values, self.ends = found, values, ends
        self.arrays = {name: np.empty((count, *_last(each.shape[1:])), each.dtype) for name, each in images.items()}
        self._place(keep)
        self.bound = [each.bind(self.arrays, count) for each in found]

    def _place(self, keep: bool) -> None:
        """Gives every value its array."""
        last = {name: i for i, each in enumerate(self.passes) for name in each.inputs}
        last.update(dict.fromkeys(self.ends, len(self.passes)))
        free: list[NDArray[np.uint8]] = []
        memory: dict[str, NDArray[np.uint8]] = {}
        for i, each in enumerate(self.passes):
            done = {name for name in each.inputs if last[name] == i and name in memory and not keep}
            overwrites = each.overwrites()
            for name in each.outputs:
                shape, dtype = empty(self.values[name], self.images)
                size = math.prod(shape) * np.dtype(dtype).itemsize
                old = overwrites.get(name)
                if old in done and self.arrays[old].shape == shape:
                    memory[name] = memory.pop(old)
                    done.remove(old)
                else:
                    memory[name] = _taken(free, size)
                self.arrays[name] = memory[name][:size].view(dtype).reshape(shape)
            free += [memory.pop(name) for name in done]

    @functools.cached_property
    def joined(self) -> list[tuple[Pass | None, Bound | None]]:
        """The passes, with consecutive compiled ones joined into one call.

        Between two calls, Python takes as long as a small layer.
        """
        module = native()
        joined: list[tuple[Pass | None, Bound | None]] = []
        each = zip(self.passes, self.bound, strict=True)
        for compiled, run in itertools.groupby(each, lambda of: module and isinstance(of[1], module.Call)):
            together = list(run)
            joined += [(None, module.sequence([bound for _, bound in together]))] if compiled else together
        return joined

    def run(
        self, images: Inputs, threads: int, *, seconds: dict[str, float] | None = None
    ) -> dict[str, NDArray[Any]]:
        """Runs all passes and returns the arrays by name; most hold something else by then, unless all are kept.

        It stores the time of each pass in `seconds`.
        """
        for name, given in images.items():
            channels_last(given, self.arrays[name])
        each = zip(self.passes, self.bound, strict=True)
        for one, bound in self.joined if seconds is None else each:
            start = time.perf_counter()
            if bound is not None:
                try:
                    bound(threads)
                except ValueError as error:  # the kernels met a NaN
                    raise HypersignError(str(error)) from error
            elif one is not None:
                (of,) = one.nodes
                assert of.plan.run is not None
                self.arrays[of.name][...] = of.plan.run(
                    *(self.arrays[key] for key in of.node.inputs), threads=threads
                )
            if seconds is not None and one is not None:
                seconds[one.name] = time.perf_counter() - start
        return self.arrays


def _last(shape: tuple[int, ...]) -> tuple[int, ...]:
    """(channels, height, width) as (height, width, channels)."""
    return (*shape[1:], shape[0])


def _taken(free: list[NDArray[np.uint8]], size: int) -> NDArray[np.uint8]:
    """The smallest free memory of at least this size, or new memory."""
    fits = [i for i, each in enumerate(free) if each.size >= size]
    return free.pop(min(fits, key=lambda i: free[i].size)) if fits else np.empty(size, np.uint8)


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
        self._nodes = [
            Planned(node, OPERATIONS[node.op].plan(data), self.values[node.name])
            for node, data in zip(nodes, contents.nodes, strict=True)
        ]
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
        shape = ", ".join(" x ".join(map(str, each)) for each in self.input_shapes.values())
        what = f"{self.outputs} {'classes' if self.classes else 'numbers'}"
        if self.graph.outputs:
            what = ", ".join(f"{name} {' x '.join(map(str, each))}" for name, each in self.output_shapes.items())
        return f"PackedModel({shape} -> {what}, {len(nodes)} operations, {size:,} bytes)"

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
        """The number of outputs per input, of all outputs together."""
        return sum(math.prod(shape) for shape in self.output_shapes.values())

    @property
    def input_shapes(self) -> dict[str, tuple[int, int, int]]:
        """The shape (channels, height, width) of each input by its name; most networks have one, `input`."""
        return self.graph.inputs

    @property
    def output_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each output for one input, by its name; a vector is (outputs,)."""
        if self.graph.outputs:
            return {output.name: output.shape for output in self.graph.outputs}
        return {"output": (self.values[self.graph.nodes[-1].name].channels,)}

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of an input, (channels, height, width); that of a vector is (features, 1, 1)."""
        return self.graph.shape

    @property
    def float_nodes(self) -> tuple[str, ...]:
        """The names of the nodes that compute in float32 instead of integers."""
        return tuple(node.name for node in self.graph.nodes if self.values[node.name].kind == "real")

    def predict(
        self,
        images: NDArray[Any] | Sequence[NDArray[Any]],
        *,
        batch_size: int = _defaults.PACKED_BATCH,
        threads: int = 1,
    ) -> Any:
        """Returns the outputs for images or vectors, float32 (N, outputs): of a classifier, the logits.

        A network of several outputs returns a tuple of arrays, in the order of `output_shapes`.

        Args:
            images: images, uint8 (N, channels, height, width); float32 if the network was packed for real inputs;
                vectors may be (N, features), and signals (N, channels, length). For a network of several inputs a
                tuple with an array for each.
            batch_size: largest number of images per batch. Results do not depend on it, but memory grows with it:
                each thread keeps the arrays between layers for its next call. Networks with real numbers between
                layers run in smaller batches, whose numbers fit in the cache.
            threads: number of threads that share a batch.

        Raises:
            HypersignError: the images have another type or shape, or are not finite.
        """
        check_int("batch_size", batch_size, min=1)
        check_threads(threads)
        given = self._inputs(images)
        count = len(given[INPUT])
        outputs = tuple(np.empty((count, *shape), np.float32) for shape in self.output_shapes.values())
        batch_size = min(batch_size, self._at_once * threads)
        for start in range(0, count, batch_size):
            rows = slice(start, start + batch_size)
            part = {name: each[rows] for name, each in given.items()}
            arrays = self._batch(part).run(part, threads)
            for output, name in zip(outputs, self.graph.ends, strict=True):
                output[rows] = arrays[name].reshape(-1, *output.shape[1:])
        return outputs if len(outputs) > 1 else outputs[0]

    def decide(self, outputs: Any) -> Any:
        """Returns the decisions that outputs of `predict` stand for; a tuple for a tuple.

        A classifier decides on numbers of classes, shape (N,), or one at each position; a regression on the outputs
        themselves.
        """
        if isinstance(outputs, tuple):
            return tuple(task.decide(each) for task, each in zip(self.tasks, outputs, strict=True))
        return self.tasks[0].decide(outputs)

    @property
    def tasks(self) -> tuple[Task, ...]:
        """What each output stands for."""
        return tuple(output.task for output in self.graph.outputs) or (self.graph.task,)

    def trace(self, images: Any, *, threads: int = 1) -> dict[str, NDArray[Any]]:
        """Returns the output of every node for images, by name: words, sums or float32 numbers, channels last."""
        check_threads(threads)
        given = self._inputs(images)
        return _Batch(apart(self._nodes), self.values, given, self.graph.ends, keep=True).run(given, threads)

    @property
    def passes(self) -> dict[str, tuple[str, ...]]:
        """The nodes that run together, by the name of their product or of the last of them.

        The compiled kernels run elementwise operations while the numbers are in the cache. Nodes whose outputs depend
        on no image are in no pass.
        """
        return {each.name: tuple(of.name for of in each.nodes) for each in self._passes()}

    def times(self, images: Any, *, threads: int = 1) -> dict[str, float]:
        """Returns the time in seconds that every pass takes for images, by the names in `passes`."""
        seconds: dict[str, float] = {}
        given, size = self._inputs(images), self._at_once * threads
        for start in range(0, len(given[INPUT]), size):
            each: dict[str, float] = {}
            part = {name: array[start : start + size] for name, array in given.items()}
            self._batch(part).run(part, threads, seconds=each)
            seconds = {name: seconds.get(name, 0.0) + spent for name, spent in each.items()}
        return seconds

    @functools.cached_property
    def _at_once(self) -> int:
        """The number of images per batch up to which real numbers between layers stay in a core's second cache."""
        real = (value for value in self.values.values() if value.kind == "real")
        largest = max((4 * value.height * value.width * value.channels for value in real), default=0)
        return max(1, REAL_BYTES // max(1, largest))

    def _passes(self) -> list[Pass]:
        return apart(self._nodes) if native() is None else self._together

    @functools.cached_property
    def _together(self) -> list[Pass]:
        return passes(self._nodes, self.values, self.graph.ends)

    def _inputs(self, images: Any) -> Inputs:
        """The images of each input, checked."""
        names = list(self.input_shapes)
        if len(names) == 1:
            return {INPUT: self._images(INPUT, images)}
        if not isinstance(images, tuple | list) or len(images) != len(names):
            raise HypersignError(
                f"this network takes {len(names)} inputs: pass a tuple of arrays; got "
                f"{len(images) if isinstance(images, tuple | list) else type(images).__name__}"
            )
        given = {name: self._images(name, each) for name, each in zip(names, images, strict=True)}
        if len({len(each) for each in given.values()}) > 1:
            raise HypersignError(
                f"all inputs must have as many rows; got {', '.join(str(len(each)) for each in given.values())}"
            )
        return given

    def _images(self, name: str, images: NDArray[Any]) -> NDArray[Any]:
        images, wanted = np.asarray(images), self.input_shapes[name]
        if images.ndim == 2 and wanted == (*images.shape[1:], 1, 1):
            images = images[:, :, None, None]
        elif images.ndim == 3 and wanted == (images.shape[1], 1, images.shape[2]):
            images = images[:, :, None]
        dtype = np.dtype(np.float32 if self.graph.pixel_range is None or name != INPUT else np.uint8)
        if images.dtype != dtype or images.ndim != 4 or images.shape[1:] != wanted:
            single = "; pass a single image as image[None]" if images.shape == wanted else ""
            which = "images" if name == INPUT else f"those of {name}"
            raise HypersignError(
                f"{which} must be {dtype} of shape (N, {', '.join(map(str, wanted))}) for this network; got "
                f"{images.dtype} of shape {images.shape}{single}"
            )
        if dtype == np.float32 and not np.isfinite(images).all():
            raise HypersignError("images must hold finite numbers; these hold NaN or infinity")
        return images

    def _batch(self, images: Inputs) -> _Batch:
        """Returns the arrays of the calling thread. They are kept until the batch size changes."""
        batch: _Batch | None = getattr(self._own, "batch", None)
        if batch is None or batch.images != len(images[INPUT]) or batch.backend != bits.backend():
            batch = self._own.batch = _Batch(self._passes(), self.values, images, self.graph.ends)
        return batch


def _load_bytes(data: bytes) -> PackedModel:
    return PackedModel.load(io.BytesIO(data))
