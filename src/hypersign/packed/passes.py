"""Passes: the nodes of a packed network that the compiled kernels run together.

What stands between two products and stays real (batch norms, shortcuts, slopes, offsets) is elementwise. All of it,
up to the next quantizer, follows its product while the sums are in the cache (`csrc/elementwise/`): one pass over the
memory in place of one per node. Each operation rounds as it does alone, so the outputs are the same numbers.

Two rules make a network cheaper and change no number: nodes that no image reaches become constants, and products of
the same inputs and windows (the planes of a weight, the sums of windows) become one product of more filters.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypersign import bits
from hypersign.bits.backend import native
from hypersign.bits.words import Bound
from hypersign.packed.operations import Plan
from hypersign.packed.transforms import LARGEST_SUM
from hypersign.packed.values import Node, Value

__all__ = ["Pass", "Planned", "apart", "empty", "passes"]

BOUNDED = 1e30
"""Numbers below this stay finite in an affine node: 0 times them is 0."""

Arrays = Mapping[str, NDArray[Any]]


@dataclasses.dataclass(frozen=True)
class Planned:
    """A node, its plan, and what it gives."""

    node: Node
    plan: Plan
    value: Value

    @property
    def name(self) -> str:
        """The node's name."""
        return self.node.name


@dataclasses.dataclass
class Pass:
    """Nodes that run together, in the graph's order; most passes are one node.

    Args:
        nodes: the nodes.
        together: whether they are elementwise operations, after a product at most.
        inputs: the values that it reads, of other passes.
        outputs: the values that others read.
        constants: the values that it reads and that depend on no image, with one image.
        filters: those of several products in one, made when first needed.
    """

    nodes: list[Planned]
    together: bool
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    constants: dict[str, NDArray[Any]] = dataclasses.field(default_factory=dict)
    filters: bits.Filters | None = None

    @property
    def name(self) -> str:
        """The name of its product, or of its last node."""
        return next((of.name for of in self.nodes if of.plan.product), self.nodes[-1].name)

    @property
    def products(self) -> list[Planned]:
        """The nodes that are products of levels."""
        return [of for of in self.nodes if self.together and of.plan.product]

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of what it gives."""
        return self.nodes[-1].value.height, self.nodes[-1].value.width

    def overwrites(self) -> dict[str, str]:
        """For each real output, an input of its size that it may overwrite: its last reader comes no later."""
        if not self.together:
            return {}
        last = {name: i for i, of in enumerate(self.nodes) for name in of.node.inputs}
        windows = {name for of in self.products for name in of.node.inputs}  # other pixels of them are read later
        found: dict[str, str] = {}
        for i, of in enumerate(self.nodes):
            for name in self.inputs if of.name in self.outputs and of.value.kind == "real" else ():
                if name in windows:
                    continue
                if name not in found.values() and last[name] <= i:
                    found[of.name] = name
                    break
        return found

    def bind(self, arrays: Arrays, images: int) -> Bound | None:
        """A call from array to array; None for a node whose output is a new array."""
        if self.together:
            return self._program(arrays, images)
        (of,) = self.nodes
        return None if of.plan.bind is None else of.plan.bind(arrays[of.node.inputs[0]], arrays[of.name])

    def _program(self, arrays: Arrays, images: int) -> Bound:
        kernels: Any = native()
        height, width = self.grid
        program = kernels.Elementwise(images * height * width)
        numbers: dict[str, int] = {}
        first = 0
        for of in self.products:
            numbers[of.name] = program.product(first, of.value.channels)
            first += of.value.channels
        last = {name: i for i, of in enumerate(self.nodes) for name in of.node.inputs}
        scratch: dict[int, list[int]] = {}  # free ones, by channels
        free: dict[str, int] = {}  # the channels of scratch values
        for i, of in enumerate(self.nodes):
            if of.name in numbers:
                continue
            for name in of.node.inputs:
                if name not in numbers:
                    numbers[name] = self._read(program, name, arrays)
            reads = [numbers[name] for name in of.node.inputs]
            for name in set(of.node.inputs) & free.keys():
                if last[name] == i:
                    scratch.setdefault(free[name], []).append(numbers[name])
            channels = of.value.channels
            if of.name not in self.outputs:
                spare = scratch.get(channels)
                numbers[of.name] = spare.pop() if spare else program.scratch(channels)
                free[of.name] = channels
            elif of.value.kind == "levels":
                numbers[of.name] = program.words(arrays[of.name], channels, of.value.ternary)
            else:
                numbers[of.name] = program.output(arrays[of.name], channels)
            assert of.plan.emit is not None
            of.plan.emit(program, numbers[of.name], *reads)
        if not self.products:
            bound: Bound = program.call()
            return bound
        product = self.products[0].plan.product
        assert product is not None
        x = arrays[self.products[0].node.inputs[0]]
        window: dict[str, Any] = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "pad_value": 0}
        window |= product.window
        if product.flat:
            x = x.reshape(*x.shape[:-3], 1, 1, -1)
        filters = product.filters
        if len(self.products) > 1:
            if self.filters is None:
                words = [of.plan.product.filters.words for of in self.products if of.plan.product]
                self.filters = bits.Filters(np.concatenate(words, axis=-2), shape=filters.shape)
            filters = self.filters
        bound = program.call_after(filters._kernels(), x, (height, width), *window.values())
        return bound  # noqa: RET504

    def _read(self, program: Any, name: str, arrays: Arrays) -> int:
        """The number of a value that comes from another pass."""
        if name in self.constants:
            image = self.constants[name]
            number: int = program.array(image, image.shape[3], image.shape[1] * image.shape[2])
            return number
        x = arrays[name]
        channels = x.shape[-1]
        if x.dtype == np.float32:
            number = program.array(x, channels, 0)
        else:
            number = (program.array_int32 if x.dtype == np.int32 else program.array_uint8)(x, channels)
        return number


def empty(value: Value, images: int) -> tuple[tuple[int, ...], Any]:
    """The shape and the type of the array of a value."""
    shape = (images, value.height, value.width)
    if value.kind != "levels":
        return (*shape, value.channels), {"sums": np.int32, "image": np.uint8}.get(value.kind, np.float32)
    return ((2,) if value.ternary else ()) + (*shape, -(-value.channels // 64)), np.uint64


def apart(nodes: Sequence[Planned]) -> list[Pass]:
    """Every node as a pass of its own."""
    return [Pass([of], together=False, inputs=of.node.inputs, outputs=(of.name,)) for of in nodes]


def passes(nodes: Sequence[Planned], values: Mapping[str, Value], ends: Sequence[str]) -> list[Pass]:
    """The passes of a network whose outputs are the nodes `ends`, in the order in which they run."""
    # only programs read constants; whoever else does needs them as arrays
    needs = {name for of in nodes if of.plan.emit is None for name in of.node.inputs} | set(ends)
    constants = {name: array for name, array in _constants(nodes, values).items() if name not in needs}
    needed = _needed(nodes, constants, ends)
    found: list[Pass] = []
    for of in nodes:
        if of.name in needed and of.name not in constants:
            _place(of, found, constants)
    found = _with_products_apart(found)
    for each in found:
        own = {of.name for of in each.nodes}
        read = dict.fromkeys(name for of in each.nodes for name in of.node.inputs)
        each.inputs = tuple(name for name in read if name not in own and name not in constants)
        each.constants = {name: constants[name] for name in read if name in constants}
        outside = _reads(other for other in found if other is not each)
        each.outputs = tuple(of.name for of in each.nodes if of.name in outside or of.name in ends)
    return found


def _reads(found: Iterable[Pass]) -> set[str]:
    return {name for each in found for of in each.nodes for name in of.node.inputs}


def _constants(nodes: Sequence[Planned], values: Mapping[str, Value]) -> dict[str, NDArray[Any]]:
    """The real values that depend on no image: what an affine node with scales of 0 gives, and what follows it."""
    found: dict[str, NDArray[Any]] = {}
    most = {
        name: float(LARGEST_SUM) for name, value in values.items() if value.kind == "sums"
    }  # magnitude, if bounded
    for of in nodes:
        inputs, value = of.node.inputs, of.value
        if value.kind != "real":
            continue
        shape, dtype = empty(value, 1)
        if all(name in found for name in inputs):
            arrays = [found[name] for name in inputs]
            if of.plan.bind is not None:
                found[of.name] = np.empty(shape, dtype)
                of.plan.bind(arrays[0], found[of.name])(1)
            elif of.plan.run is not None:
                found[of.name] = np.ascontiguousarray(of.plan.run(*arrays, threads=1), dtype)
        elif of.plan.affine is not None and most.get(inputs[0], math.inf) < BOUNDED:
            scale, shift = of.plan.affine
            if not scale.any():
                found[of.name] = np.ascontiguousarray(np.broadcast_to(shift, shape), dtype)
            most[of.name] = most[inputs[0]] * float(np.abs(scale).max()) + float(np.abs(shift).max())
    return found


def _needed(nodes: Sequence[Planned], constants: Mapping[str, Any], ends: Sequence[str]) -> set[str]:
    """The nodes that the outputs depend on, through no constant."""
    found = set(ends)
    for of in reversed(nodes):
        if of.name in found and of.name not in constants:
            found.update(of.node.inputs)
    return found


def _place(of: Planned, found: list[Pass], constants: Mapping[str, Any]) -> None:
    """Adds a node to the last pass that it can join, with every earlier one that can move there; or a new pass."""
    if of.plan.emit is None:
        found.append(Pass([of], together=of.plan.product is not None))
        return
    sources = [name for name in of.node.inputs if name not in constants]
    makers = [i for i, each in enumerate(found) for p in each.nodes if p.name in sources]
    target = max(makers, default=-1)
    if target < 0 or not found[target].together or found[target].grid != (of.value.height, of.value.width):
        found.append(Pass([of], together=True))
        return
    joined = found[target]
    for i in sorted(set(makers) - {target}, reverse=True):
        each = found[i]
        own = {p.name for p in each.nodes}
        between = _reads([*found[i + 1 : target], Pass(joined.products, together=True)])
        if each.together and each.grid == joined.grid and not own & between and _one_product(each, joined):
            joined.nodes = each.nodes + joined.nodes
            each.nodes = []
    joined.nodes.append(of)
    found[:] = [each for each in found if each.nodes]


def _one_product(a: Pass, b: Pass) -> bool:
    """Whether the products of two passes are one product of more filters."""
    products = [(of.plan.product, of.node.inputs) for of in (*a.products, *b.products)]
    return all(
        product is not None
        and products[0][0] is not None
        and products[0][0].matches(product)
        and inputs == products[0][1]
        for product, inputs in products[1:]
    )


def _with_products_apart(found: Sequence[Pass]) -> list[Pass]:
    """Products whose sums others read too, or that nothing follows, as passes of their own."""
    result = []
    for each in found:
        own = {of.name for of in each.nodes}
        if each.products:
            outside = _reads(other for other in found if other is not each)
            alone = len(own) == len(each.products) or any(of.name in outside for of in each.products)
            if alone:
                result += [Pass([of], together=False) for of in each.products]
                each.nodes = [of for of in each.nodes if of.plan.product is None]
        if each.nodes:
            result.append(each)
    return result
