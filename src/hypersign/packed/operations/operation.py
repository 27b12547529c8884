"""The base class of operations of a packed graph, and the types of its methods."""

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from hypersign._checks import HypersignError, check_int
from hypersign.bits import Filters
from hypersign.bits.windows import check_pair
from hypersign.bits.words import Planned
from hypersign.packed.values import MOST_NUMBERS, Kind, Node, Tensor, Value

__all__ = ["NodeData", "NodeShapes", "Operation", "Plan", "Product", "Run"]

Run = Callable[..., NDArray[Any]]
"""Maps the inputs' arrays and `threads` to a new array."""


class NodeShapes:
    """A node as its check sees it: input values, options, and the dtypes and shapes of tensors.

    `tensors` are those of the whole graph that no node took yet.
    """

    def __init__(self, node: Node, inputs: Sequence[Value], tensors: dict[str, Tensor]) -> None:
        self.op, self.name, self.options = node.op, node.name, node.options
        self.inputs = inputs
        self.tensors = tensors
        self.load_bytes = 0

    def input(self, *kinds: Kind, count: int = 1) -> Value:
        """The first of `count` inputs, all of these kinds."""
        if len(self.inputs) != count:
            raise HypersignError(f"{self.op} takes {count} input{'s'[: count > 1]}; got {len(self.inputs)}")
        for value in self.inputs:
            if value.kind not in kinds:
                raise HypersignError(f"{self.op} takes {' or '.join(kinds)}; got {value}")
        return self.inputs[0]

    def option(self, name: str) -> Any:
        """The value of an option."""
        return self.options[name]

    def integer(self, name: str, *, min: int, max: int | None = None) -> int:
        """An option that is an integer in this range."""
        return check_int(name, self.option(name), min=min, max=max)

    def pair(self, name: str, *, min: int) -> tuple[int, int]:
        """An option that is a pair (vertical, horizontal)."""
        pair = check_pair(name, self.option(name), min=min)
        for size in pair:
            check_int(name, size, max=MOST_NUMBERS)
        return pair

    def flag(self, name: str) -> bool:
        """An option that is true or false."""
        value = self.option(name)
        if not isinstance(value, bool):
            raise HypersignError(f"{name} must be true or false; got {value!r}")
        return value

    def has(self, role: str) -> bool:
        """Whether the node has a tensor of this role that is not taken yet."""
        return f"{self.name}.{role}" in self.tensors

    def is_float(self, role: str) -> bool:
        """Whether it has one of dtype float32."""
        tensor = self.tensors.get(f"{self.name}.{role}")
        return tensor is not None and tensor.dtype == np.float32

    def is_ternary(self, role: str) -> bool:
        """Whether it has one of two planes of words."""
        tensor = self.tensors.get(f"{self.name}.{role}")
        return tensor is not None and len(tensor.shape) == 3

    def tensor(self, role: str, dtype: Any, *shapes: tuple[int, ...]) -> Tensor:
        """Takes the tensor of this role, which must have the dtype and one of the shapes; -1 stands for any size."""
        name = f"{self.name}.{role}"
        tensor = self.tensors.pop(name, None)
        if tensor is None:
            raise HypersignError(f"the tensor {name} is missing")
        fits = any(
            len(shape) == len(tensor.shape)
            and all(wanted in (-1, size) for wanted, size in zip(shape, tensor.shape, strict=True))
            for shape in shapes
        )
        if tensor.dtype != np.dtype(dtype) or not fits or 0 in tensor.shape:
            raise HypersignError(
                f"{name} must be {np.dtype(dtype).name} of shape {' or '.join(map(str, shapes))}; got {tensor.dtype} "
                f"of shape {tuple(tensor.shape)}"
            )
        return tensor

    def reserve(self, load_bytes: int) -> None:
        """Adds to the bytes that loading the node allocates, beyond a small multiple of its tensors' bytes."""
        self.load_bytes += load_bytes


@dataclasses.dataclass(frozen=True)
class NodeData:
    """A node as its plan sees it: checked options (pairs as tuples), tensors by role, input and output values."""

    name: str
    options: dict[str, Any]
    tensors: Mapping[str, NDArray[Any]]
    inputs: tuple[Value, ...]
    output: Value
    pixel_range: tuple[float, float] | None

    @property
    def input(self) -> Value:
        """The first input."""
        return self.inputs[0]

    def check_finite(self, *roles: str) -> None:
        """Raises HypersignError where a float tensor holds NaN or infinity."""
        for role in roles:
            tensor = self.tensors[role]
            if tensor.dtype == np.float32 and not np.isfinite(tensor).all():
                raise HypersignError(f"{self.name}.{role} must hold numbers; it holds NaN or infinity")

    def check_unused_bits(self, role: str, length: int) -> None:
        """Raises HypersignError where the rows of a tensor of words have bits past their `length`."""
        unused = np.uint64(2**64 - (1 << length % 64)) if length % 64 else np.uint64(0)
        if (self.tensors[role][..., -1] & unused).any():
            raise HypersignError(f"{self.name}.{role} must have zeros in the bits past {length}")

    def check_levels(self, role: str, length: int) -> None:
        """Raises HypersignError where rows of packed levels, binary or ternary, are not canonical."""
        self.check_unused_bits(role, length)
        words = self.tensors[role]
        if words.ndim == 3 and (words[0] & ~words[1]).any():
            raise HypersignError(f"{self.name}.{role} must have sign bit 0 where a level is 0")


@dataclasses.dataclass(frozen=True)
class Product:
    """A product of levels whose sums other nodes can read before they reach memory.

    Args:
        filters: the packed filters.
        window: the options of `Filters.planned`.
        flat: whether an image is one row of the product.
    """

    filters: Filters
    window: Mapping[str, Any]
    flat: bool

    def matches(self, other: "Product") -> bool:
        """Whether both can be one product of more filters: they have the same windows, and no groups."""
        a, b = self.filters, other.filters
        one = (self.window, self.flat, a.shape, a.ternary) == (other.window, other.flat, b.shape, b.ternary)
        return one and a.groups == b.groups == 1


@dataclasses.dataclass(frozen=True)
class Plan:
    """A node made ready to run, in one of two ways; the compiled kernels can run some nodes together.

    Args:
        bind: takes the arrays that it reads and writes, and returns the call; bound calls of the compiled kernels
            that follow one another run without Python in between.
        run: takes the input arrays and `threads`, and returns a new array.
        emit: adds the node to a program of elementwise operations: takes the program, the number of the output in
            it, and those of the inputs.
        product: the product that the node is, if it gives sums.
        affine: the scale and the shift per channel that the node is.
    """

    bind: Planned | None = None
    run: Run | None = None
    emit: Callable[..., None] | None = None
    product: Product | None = None
    affine: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None


class Operation(abc.ABC):
    """One operation of packed graphs.

    Class attributes:
        name: as files have it.
        options: names of its options, all required.
        tensors: the roles of its tensors, optional ones among them.
        arithmetic: what its multiply-accumulates are made of, "bits", "integers" or "float32"; "" if it has none.
    """

    name: ClassVar[str]
    options: ClassVar[tuple[str, ...]] = ()
    tensors: ClassVar[tuple[str, ...]] = ()
    arithmetic: ClassVar[str] = ""

    @abc.abstractmethod
    def check(self, node: NodeShapes) -> Value:
        """Checks inputs, options and the shapes of tensors; returns what the node gives.

        It reserves what `plan` allocates, where that is more than a small multiple of the tensors' bytes.

        Raises:
            HypersignError: something does not fit.
        """

    def check_content(self, node: NodeData) -> None:  # noqa: B027
        """Checks what shapes do not show: canonical bits, ordered thresholds, finite numbers.

        Raises:
            HypersignError: a tensor's content is wrong.
        """

    @abc.abstractmethod
    def plan(self, node: NodeData) -> Plan:
        """Prepares the node: everything that depends on the file alone is done here."""

    def macs(self, options: Mapping[str, Any], x: Value, y: Value) -> int:
        """Multiply-accumulates per image, from the input `x` to the output `y`."""
        return 0
