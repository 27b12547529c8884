"""The nodes and tensors of a packed network while its layers are folded, one after another.

What stands between two products (scale, bias, batch norm, pooling, clipping, quantizer) is monotone in each channel,
so it becomes thresholds on the product's sums (`find_thresholds`). Max pooling commutes with monotone functions. It
moves behind the thresholds, where it runs on bits; after a decreasing function, such as a batch norm with a negative
scale, the levels are negated there. What has no integer form stays real and gets nodes of its own.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hypersign._checks import HypersignError
from hypersign.evaluate import full_precision
from hypersign.packed.values import Kind, Node
from hypersign.packing.thresholds import FLOATS, find_thresholds, float_of, thresholds_hold
from hypersign.packing.traced import Trace, known_type, refusal, trace
from hypersign.quantizers import Quantizer

__all__ = ["Flow", "Folding", "Handler", "LazyTensor", "Monotone", "canonical", "refusal"]


@dataclasses.dataclass(frozen=True)
class LazyTensor:
    """A tensor that is not computed yet: its dtype and shape follow from the network's structure, `make` gives it."""

    dtype: np.dtype
    shape: tuple[int, ...]
    make: Callable[[], NDArray[Any]]


def _unchanged(x: Tensor) -> Tensor:
    """The identity."""
    return x


@dataclasses.dataclass(frozen=True)
class Monotone:
    """A monotone function of each channel that waits to be folded: `apply` maps float32 (channels,) to the same.

    Where it must be computed in float32 instead, one of these says how: `affine` gives scale and shift, `clip` has
    the bounds, `pool` has the options of a max pool (no function of one number, so its `apply` is the identity),
    `real` adds the nodes of another function.
    """

    name: str
    apply: Callable[[Tensor], Tensor] = _unchanged
    affine: Callable[[], tuple[Tensor, Tensor]] | None = None
    clip: tuple[float | None, float | None] | None = None
    pool: dict[str, Any] | None = None
    real: "Callable[[Folding, Flow], Flow] | None" = None


@dataclasses.dataclass(frozen=True)
class Flow:
    """What flows into the next layer: the output of the node `name`, and the functions after it that still wait.

    Args:
        unit: the real number that a sum of 1 stands for.
        largest: the largest magnitude of a sum.
        norm: bounds the Euclidean norm of the sums of a rotated image, which are in fixed point; 0 for all else.
        waiting: the functions that wait to be folded, in order.
        flat: whether `nn.Flatten` came before.
        rank: the number of torch's dimensions of an image, without the batch: 3, of a signal 2, of a vector 1.
        rows: torch's shape of a value whose numbers are in torch's own order, such as tokens (positions, features);
            None for an image, whose channels torch has first. Channels are the last of `rows`, the width is the one
            before it, and the height is all others together.
    """

    name: str
    kind: Kind
    height: int
    width: int
    channels: int
    ternary: bool = False
    unit: float = 1.0
    largest: int = 0
    norm: int = 0
    waiting: tuple[Monotone, ...] = ()
    flat: bool = False
    rank: int = 3
    rows: tuple[int, ...] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the torch network's value, without the batch."""
        if self.rows is not None:
            return self.rows
        if self.flat or self.rank == 1:
            return (self.channels * self.height * self.width,)
        return (self.channels, self.width) if self.rank == 2 else (self.channels, self.height, self.width)

    @property
    def is_vector(self) -> bool:
        """Whether it has one number per channel, in any shape."""
        return (self.height, self.width) == (1, 1)

    def after(self, name: str) -> "Flow":
        """The flow after the node `name`, which keeps kind and shape."""
        return dataclasses.replace(self, name=name)

    def then(self, function: Monotone) -> "Flow":
        """The flow after one more function that waits."""
        return dataclasses.replace(self, waiting=(*self.waiting, function))


Handler = Callable[..., Flow]
"""Folds one type of layer: takes the folding, the layer's name, the layer and its inputs; returns its output."""


def canonical(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Height, width and channels of a value whose numbers are in torch's order.

    >>> canonical((12, 5, 64)), canonical((7,))
    ((12, 5, 64), (1, 1, 7))
    """
    padded = (1, 1, *shape)
    return math.prod(padded[:-2]), padded[-2], padded[-1]


class Folding:
    """The nodes and tensors so far, and the table of handlers."""

    def __init__(self, pixel_range: tuple[float, float] | None, handlers: Mapping[type[nn.Module], Handler]) -> None:
        self.pixel_range = pixel_range
        self.handlers = handlers
        self.nodes: list[Node] = []
        self.tensors: dict[str, LazyTensor] = {}
        self.traces: dict[str, Trace] = {}

    def node(self, op: str, name: str, *inputs: str, **options: Any) -> str:
        """Adds a node and returns its name."""
        self.nodes.append(Node(op, name, inputs, options))
        return name

    def tensor(self, node: str, role: str, dtype: Any, shape: tuple[int, ...], make: Callable[[], Any]) -> None:
        """Adds a node's tensor."""
        self.tensors[f"{node}.{role}"] = LazyTensor(np.dtype(dtype), shape, make)

    def module(self, name: str, module: Any, *inputs: Flow) -> Flow:
        """Folds one layer by the handler of its type.

        Raises:
            HypersignError: the type has no handler, or the layer no packed form.
        """
        if module._forward_hooks or module._forward_pre_hooks:
            raise refusal(name, module, "it has a forward hook, which a file cannot hold: remove the hook")
        if "forward" in vars(module):
            raise refusal(name, module, "its forward was replaced on the object, as device hooks do: remove the hook")
        # a subclass may compute something else, so types must match exactly
        kind = known_type(module, self.handlers)
        if kind is not None and kind in self.handlers:
            return self.handlers[kind](self, name, module, *inputs)
        if kind is not None:
            raise refusal(name, module, f"no packed form is known of {type(module).__name__}")
        outputs = self.calls(name, module, *inputs)
        if len(outputs) > 1:
            raise refusal(name, module, "only the network itself gives several values")
        return outputs[0][1]

    def calls(self, name: str, module: nn.Module, *inputs: Flow) -> list[tuple[str, Flow]]:
        """Folds a module call by call; returns its outputs with their names."""
        found = self.traces.get(name)
        if found is None:
            found = self.traces[name] = trace(name, module, self.handlers, [x.shape for x in inputs])
        flows = {f"#{i}": x for i, x in enumerate(inputs)}
        flows = {key: self._shared(x) if found.readers(key) > 1 else x for key, x in flows.items()}
        for call in found.calls:
            y = self.module(call.name, call.module, *(flows[source] for source in call.inputs))
            flows[call.name] = self._shared(y) if call.readers > 1 else y
        return [(output, flows[source]) for output, source in found.outputs]

    def rearranged(
        self, name: str, x: Flow, split: tuple[int, ...], order: tuple[int, ...], shape: tuple[int, ...]
    ) -> Flow:
        """`x` as float32, its numbers seen as `split`, their axes in `order`: torch's `shape`, in torch's order."""
        y = self.real(x)
        height, width, channels = canonical(shape)
        moves = [axis for axis in order if split[axis] > 1]
        if moves != sorted(moves) or (y.height, y.width, y.channels) != (height, width, channels):
            options = {"split": list(split), "order": list(order), "shape": [height, width, channels]}
            y = y.after(self.node("rearrange", self.fresh(name), y.name, **options))
        return Flow(y.name, "real", height, width, channels, rows=shape)

    def in_rows(self, name: str, x: Flow) -> Flow:
        """`x` as float32 in torch's order."""
        if x.rows is not None:
            return self.real(x)
        return self.rearranged(name, x, (x.height, x.width, x.channels), (2, 0, 1), x.shape)

    def as_image(self, name: str, x: Flow) -> Flow:
        """`x` as an image or signal, channels last in memory and first in torch."""
        if x.rows is None:
            return x
        shape = x.rows
        if len(shape) == 1:
            return dataclasses.replace(x, rows=None, rank=1)
        if len(shape) > 3:
            raise HypersignError(f"{name} cannot be packed: an image has at most three dimensions; got {shape}")
        order = (*range(1, len(shape)), 0)
        y = self.rearranged(f"{name}.image", x, shape, order, tuple(shape[axis] for axis in order))
        return dataclasses.replace(y, rows=None, rank=len(shape))

    def fresh(self, name: str) -> str:
        """`name`, or with a number where a node has it."""
        names = {node.name for node in self.nodes}
        return next(each for i in itertools.count(1) if (each := name if i == 1 else f"{name}.{i}") not in names)

    def constant(self, name: str, value: Tensor, shape: tuple[int, ...]) -> Flow:
        """Numbers that the file holds, in torch's order."""
        node, sizes = self.node("constant", self.fresh(name)), canonical(shape)
        self.tensor(node, "value", np.float32, sizes, lambda: value.float().reshape(sizes).contiguous().numpy())
        return Flow(node, "real", *sizes, rows=shape)

    def _shared(self, x: Flow) -> Flow:
        """A value that several calls take: what waits is computed once, in float32."""
        return x if x.kind in ("image", "levels") and not x.waiting else self.real(x)

    def levels(self, name: str, quantizer: Quantizer, x: Flow, *, own: bool = False) -> Flow:
        """Folds a quantizer and all functions that wait into thresholds, of the product or (`own`) of a new node."""
        several = any(values.numel() > 1 for values in (*quantizer.parameters(), *quantizer.buffers()))
        if several and x.rows is not None and len(x.rows) > 1:
            raise HypersignError(
                f"{name} ({type(quantizer).__name__}) cannot be packed: its numbers per channel belong to images"
            )
        found = _Thresholds(name, quantizer, x, self.numbers)
        node = x.name
        if own or x.kind != "sums" or x.norm:
            node = self.node("quantize", name, x.name)
        dtype = np.float32 if x.kind == "real" else np.int32
        ternary = quantizer.packed_form(inputs=True).kind == "ternary"
        self.tensor(node, "low", dtype, (x.channels,), lambda: found.low)
        if ternary:
            self.tensor(node, "high", dtype, (x.channels,), lambda: found.high)
        self.tensor(node, "flip", np.bool_, (x.channels,), lambda: found.flips[0])
        y = Flow(node, "levels", x.height, x.width, x.channels, ternary, flat=x.flat, rank=x.rank, rows=x.rows)
        pools = [function for function in x.waiting if function.pool is not None]
        for i, function in enumerate(pools, start=1):
            y = self.pooled(function, y)
            flip = functools.partial(lambda i: found.flips[i], i)
            self.tensor(function.name, "flip", np.bool_, (x.channels,), flip)
        return y

    def numbers(self, x: Flow, n: Tensor) -> Tensor:
        """The float32 values that the integers `n` stand for in the float network."""
        if x.kind == "real":
            return float_of(n)
        if x.kind == "sums":
            return (n.double() * x.unit).float()
        assert self.pixel_range is not None
        low, high = self.pixel_range
        return n.float().mul_((high - low) / 255).add_(low)  # rounds as `Batches` does

    def real(self, x: Flow) -> Flow:
        """`x` as float32, with all functions that wait computed in float32."""
        affine: list[Monotone] = []
        y = dataclasses.replace(x, waiting=())
        if y.kind == "image":
            if all(node.name != "pixels" for node in self.nodes):  # members of an ensemble share it
                self.node("pixels", "pixels", y.name)
            y = dataclasses.replace(y, name="pixels", kind="real")
        elif y.kind == "levels":
            y = dataclasses.replace(y, name=self.node("unpack", f"{y.name}.unpack", y.name), kind="real")
        if y.kind == "sums" and y.unit != 1:
            unit = torch.full((y.channels,), y.unit, dtype=torch.float64)
            affine = [Monotone(f"{y.name}.unit", affine=lambda: (unit, torch.zeros_like(unit)))]
        for function in x.waiting:
            if function.affine is not None:
                affine.append(function)
                continue
            if function.pool is not None and not affine:
                y = self.pooled(function, y)
                continue
            y = self._affine(affine, y)
            affine = []
            if function.pool is not None:
                y = self.pooled(function, y)
            elif function.real is not None:
                y = function.real(self, y)
            else:
                assert function.clip is not None
                low, high = function.clip
                y = y.after(self.node("clip", function.name, y.name, low=low, high=high))
        return self._affine(affine, y)

    def _affine(self, functions: list[Monotone], y: Flow) -> Flow:
        """`y` after affine functions composed into one; sums become real."""
        if not functions and y.kind == "real":
            return y
        name = functions[-1].name if functions else f"{y.name}.real"

        @functools.cache
        def composed() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
            scale = torch.ones(y.channels, dtype=torch.float64)
            shift = torch.zeros(y.channels, dtype=torch.float64)
            for function in functions:
                assert function.affine is not None
                a, b = (values.double() for values in function.affine())
                scale, shift = scale * a, shift * a + b
            return scale.float().numpy(), shift.float().numpy()

        self.node("affine", name, y.name)
        for i, role in enumerate(("scale", "shift")):
            self.tensor(name, role, np.float32, (y.channels,), functools.partial(lambda i: composed()[i], i))
        return dataclasses.replace(y, name=name, kind="real", unit=1.0)

    def pooled(self, function: Monotone, y: Flow) -> Flow:
        """Adds the node of a max pool that waited."""
        assert function.pool is not None
        return y.after(self.node("max_pool2d", function.name, y.name, **function.pool))


class _Thresholds:
    """The thresholds of a quantizer after the functions that wait in `x`, found when first asked for.

    Max pools cut the functions into segments: `flips[i]` says which channels the i-th segment turns round.
    """

    def __init__(self, name: str, quantizer: Quantizer, x: Flow, numbers: Callable[[Flow, Tensor], Tensor]) -> None:
        self.name, self.quantizer, self.x, self.numbers = name, quantizer, x, numbers
        self.segments: list[list[Monotone]] = [[]]
        for function in x.waiting:
            if function.pool is None:
                self.segments[-1].append(function)
            else:
                self.segments.append([])

    @property
    def low(self) -> NDArray[Any]:
        return self.found[0]

    @property
    def high(self) -> NDArray[Any]:
        return self.found[1]

    @property
    def flips(self) -> list[NDArray[np.bool_]]:
        return self.found[2]

    @functools.cached_property
    def found(self) -> tuple[NDArray[Any], NDArray[Any], list[NDArray[np.bool_]]]:
        x, count = self.x, len(self.segments)
        first, last = {"image": (0, 255), "sums": (-x.largest, x.largest), "real": FLOATS}[x.kind]
        # Contiguous rows: torch's batch norm rounds otherwise where a stride is 0.
        with full_precision("cpu"), torch.no_grad():

            def level(n: Tensor) -> Tensor:
                return self.quantizer(self._value(n, count)[None])[0]

            low, high, flip = find_thresholds(level, first, last, x.channels)
            if not thresholds_hold(level, (low, high, flip), first, last):
                raise HypersignError(
                    f"{self.name} ({type(self.quantizer).__name__}) cannot be packed: its levels must change at one "
                    "threshold per channel, two if ternary; they depend on other channels, or change more often"
                )
            ends = [torch.full((x.channels,), end) for end in (first, last)]
            falls = [self._value(ends[1], k) < self._value(ends[0], k) for k in range(1, count)] + [flip]
        # how each segment changes the direction of those before it
        turns = [falls[0], *(a ^ b for a, b in itertools.pairwise(falls))]
        limits = []
        for limit in (low, high):
            if x.kind == "real":
                limit = torch.where(limit == first, -torch.inf, float_of(limit) + 0.0)
                limits.append(limit.numpy().astype(np.float32))
            else:
                limits.append(limit.numpy().astype(np.int32))
        return limits[0], limits[1], [turn.numpy() for turn in turns]

    def _value(self, n: Tensor, count: int) -> Tensor:
        """The value after the first `count` segments, where the integers are `n`."""
        v = self.numbers(self.x, n)
        for function in itertools.chain.from_iterable(self.segments[:count]):
            v = function.apply(v)
        if v.isnan().any():
            channel = int(v.isnan().nonzero()[0])
            raise HypersignError(
                f"{self.name}: channel {channel} of its input is NaN: weights or statistics before it are broken"
            )
        return v
