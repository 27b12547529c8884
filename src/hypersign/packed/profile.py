"""Where a packed network's time goes: the time of each node, beside its multiply-accumulates."""

import dataclasses
import math
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypersign import bits
from hypersign._checks import check_int
from hypersign.packed.model import PackedModel
from hypersign.packed.operations import OPERATIONS
from hypersign.packed.values import Node, Value

__all__ = ["NodeTime", "Profile", "profile"]


@dataclasses.dataclass(frozen=True)
class NodeTime:
    """One operation of a packed network and its shortest time for a batch, in seconds.

    `macs` counts the multiply-accumulates for one image, 0 if the operation has none; `arithmetic` says what they
    are made of: "bits", "integers" (8-bit pixels), "float32", or "" if there are none.
    """

    name: str
    op: str
    arithmetic: str
    macs: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class Profile:
    """The times of a packed network for batches of `images` on `threads` threads, on the back end `backend`.

    `seconds` is the shortest time of a whole `predict`; `nodes` are timed one by one, so their sum lacks the time
    between them.
    """

    backend: str
    images: int
    threads: int
    seconds: float
    nodes: tuple[NodeTime, ...]

    @property
    def seconds_per_image(self) -> float:
        """The time of a whole prediction, divided by the number of images."""
        return self.seconds / self.images

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain data."""
        return dataclasses.asdict(self)


def profile(model: PackedModel, *, images: int = 1, threads: int = 1, repeats: int = 20, seed: int = 0) -> Profile:
    """Times a packed network and each of its nodes on random images.

    Every number is the minimum over `repeats`, because whatever else the machine does only adds time.

    Args:
        model: a packed network.
        images: images in a batch.
        threads: number of threads.
        repeats: how often everything runs.
        seed: seed of the random images.

    Raises:
        HypersignError: a number below 1.
    """
    check_int("images", images, least=1)
    check_int("threads", threads, least=1)
    check_int("repeats", repeats, least=1)
    batch = _images(model, images, seed)
    whole = [math.inf] * repeats
    least = {node.name: math.inf for node in model.graph.nodes}
    for i in range(repeats):
        start = time.perf_counter()
        model.predict(batch, batch_size=images, threads=threads)
        whole[i] = time.perf_counter() - start
        for name, seconds in model.times(batch, threads=threads).items():
            least[name] = min(least[name], seconds)
    nodes = tuple(_node_time(node, model.values, least[node.name]) for node in model.graph.nodes)
    return Profile(bits.backend(), images, threads, min(whole), nodes)


def _images(model: PackedModel, images: int, seed: int) -> NDArray[Any]:
    generator = np.random.default_rng(seed)
    shape = (images, *model.shape)
    if model.graph.pixel_range is None:
        return generator.standard_normal(shape, dtype=np.float32)
    return generator.integers(0, 256, shape, dtype=np.uint8)


def _node_time(node: Node, values: dict[str, Value], seconds: float) -> NodeTime:
    x, y = values[node.inputs[0]], values[node.name]
    operation = OPERATIONS[node.op]
    return NodeTime(node.name, node.op, operation.arithmetic, operation.macs(node.options, x, y), seconds)
