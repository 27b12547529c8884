"""Where a packed network's time goes: the time of each node, of the machine's peak, and of other networks."""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypersign import _defaults, bits
from hypersign._checks import check_int, check_threads
from hypersign._display import shown
from hypersign.bits.backend import native
from hypersign.packed.model import PackedModel
from hypersign.packed.operations import OPERATIONS
from hypersign.packed.values import Node, Value

__all__ = ["NodeTime", "Profile", "profile"]


@dataclasses.dataclass(frozen=True)
class NodeTime:
    """One operation of a packed network and its shortest time for a batch, in seconds.

    Operations that run together (`PackedModel.passes`) are one, with the name of their product.
    `macs` counts the multiply-accumulates for one image, 0 if the operation has none. `arithmetic` is their kind:
    "bits", "integers" (8-bit pixels), "float32", or "" if there are none.
    """

    name: str
    op: str
    arithmetic: str
    macs: int
    seconds: float


@shown
@dataclasses.dataclass(frozen=True)
class Profile:
    """The times of a packed network for batches of `images` on `threads` threads, on the back end `backend`.

    `seconds` is the shortest time of a whole `predict`. `nodes` are timed one by one, so their sum lacks the time
    between them. `peak` is the number of binary multiply-accumulates per second that `threads` cores reach with
    nothing to load or store (xor, popcount, add), 0 on the NumPy reference. `rivals` has each rival's shortest time.
    """

    backend: str
    images: int
    threads: int
    seconds: float
    nodes: tuple[NodeTime, ...]
    peak: float = 0.0
    rivals: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def seconds_per_image(self) -> float:
        """The time of a whole prediction, divided by the number of images."""
        return self.seconds / self.images

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain data."""
        return dataclasses.asdict(self)


def profile(
    model: PackedModel,
    *,
    images: int = 1,
    threads: int = 1,
    repeats: int = _defaults.PROFILE_REPEATS,
    rivals: Mapping[str, Callable[[], object]] | None = None,
    seed: int = 0,
) -> Profile:
    """Times a packed network, each of its nodes, the machine's peak and rivals, interleaved.

    Every time is the minimum over interleaved repeats, so other load affects all equally.

    Args:
        model: a packed network.
        images: number of random images in a batch.
        threads: number of threads.
        repeats: how often everything runs.
        rivals: what to time beside it, by name: calls without arguments, such as a float network on the same number
            of images. Each is called once before, to warm up.
        seed: seed of the random images.

    Raises:
        HypersignError: a number below 1, or more threads than 4096.
    """
    check_int("images", images, min=1)
    threads = check_threads(threads)
    check_int("repeats", repeats, min=1)
    batch = _images(model, images, seed)
    rivals = {} if rivals is None else rivals
    for call in rivals.values():
        call()
    whole, peak = math.inf, 0.0
    least = dict.fromkeys(model.passes, math.inf)
    beside = dict.fromkeys(rivals, math.inf)
    for _ in range(repeats):
        whole = min(whole, _seconds(lambda: model.predict(batch, batch_size=images, threads=threads)))
        for name, seconds in model.times(batch, threads=threads).items():
            least[name] = min(least[name], seconds)
        peak = max(peak, _peak())
        for name, call in rivals.items():
            beside[name] = min(beside[name], _seconds(call))
    node = {node.name: node for node in model.graph.nodes}
    nodes = tuple(
        _node_time(node[name], [node[of] for of in together], model.values, least[name])
        for name, together in model.passes.items()
    )
    return Profile(bits.backend(), images, threads, whole, nodes, peak * threads, beside)


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _peak() -> float:
    """Binary multiply-accumulates per second of one core on registers alone; 0 on the NumPy reference."""
    kernels = native()
    if kernels is None:
        return 0.0
    start = time.perf_counter()
    macs = kernels.product_peak(20_000)
    return float(macs / (time.perf_counter() - start))


def _images(model: PackedModel, images: int, seed: int) -> Any:
    generator = np.random.default_rng(seed)
    found: list[NDArray[Any]] = []
    for shape in model.input_shapes.values():
        if model.graph.pixel_range is None or found:
            found.append(generator.standard_normal((images, *shape), dtype=np.float32))
        else:
            found.append(generator.integers(0, 256, (images, *shape), dtype=np.uint8))
    return tuple(found) if len(found) > 1 else found[0]


def _node_time(node: Node, together: Sequence[Node], values: dict[str, Value], seconds: float) -> NodeTime:
    macs = sum(
        OPERATIONS[of.op].macs(of.options, values[of.inputs[0]], values[of.name]) for of in together if of.inputs
    )
    return NodeTime(node.name, node.op, OPERATIONS[node.op].arithmetic, macs, seconds)
