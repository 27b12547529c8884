"""Networks with a `forward` of their own as a list of calls: `torch.fx` follows the forward once.

A call is a layer, a sum or a concatenation. Functions that a layer computes too (`F.relu`, `torch.flatten`, a mean
over the image) become that layer. So what folds a network, and what checks it, know layers alone.
"""

import dataclasses
import operator
from collections import Counter
from collections.abc import Callable, Container
from typing import Any, Literal

import torch
from torch import fx, nn
from torch.nn import functional as F

from hypersign._checks import HypersignError
from hypersign.layers import QuantLayer
from hypersign.quantizers import Quantizer

__all__ = ["Call", "calls_of", "child_name", "has_own_forward", "refusal", "root_name"]


def child_name(parent: str, child: str) -> str:
    """The name of a module in a container, of which its node is called; the graph's own names get a `_`.

    >>> child_name("", "input"), child_name("block", "input")
    ('input_', 'block.input')
    """
    if parent:
        return f"{parent}.{child}"
    return f"{child}_" if child in ("input", "pixels") else child


def refusal(name: str, module: nn.Module, reason: str) -> HypersignError:
    """The error for a layer that cannot be packed."""
    kind = type(module).__name__
    return HypersignError(f"{name or kind.lower()} ({kind}) cannot be packed: {reason}")


@dataclasses.dataclass(frozen=True)
class Call:
    """One step of a forward.

    Args:
        name: the name of the layer, or of the function in the trace.
        module: the layer; None for a sum or a concatenation.
        inputs: the names of the calls whose outputs it takes; the empty string is the network's input.
        join: "add" or "concat" where it has several inputs.
        readers: how many calls take its output.
    """

    name: str
    module: nn.Module | None
    inputs: tuple[str, ...]
    join: Literal["", "add", "concat"] = ""
    readers: int = 1


def has_own_forward(module: nn.Module, known: Container[type[nn.Module]]) -> bool:
    """Whether a module's forward must be traced: it is no known layer, and none of torch or HyperSign."""
    if type(module).__module__.startswith("hypersign.layers."):
        return False
    layers = (base for base in type(module).__mro__ if base not in (nn.Module, nn.Sequential))
    torchs = any(base.__module__.startswith("torch.nn.modules.") for base in layers)
    return type(module) not in known and not torchs and not isinstance(module, QuantLayer | Quantizer)


def root_name(model: nn.Module, known: Container[type[nn.Module]]) -> str:
    """The name of the whole network: a container has none, a single layer is named after its type."""
    named = not isinstance(model, nn.Sequential) and not has_own_forward(model, known)
    return type(model).__name__.lower() if named else ""


def calls_of(name: str, module: nn.Module, known: Container[type[nn.Module]]) -> tuple[list[Call], str]:
    """The calls of a module's forward in their order, and the name of the one that gives its output.

    Args:
        name: the module's own name, which those of its layers begin with.
        module: a module that `has_own_forward`.
        known: the layers that are not followed further.

    Raises:
        HypersignError: the forward depends on numbers, takes several inputs, or calls a function that no packed
            network has.
    """
    try:
        graph = _Tracer(known).trace(module)
    except (fx.proxy.TraceError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise refusal(
            name, module, f"torch.fx cannot follow its forward ({' '.join(str(error).split()):.200})"
        ) from error
    return _Reader(name, module).read(graph)


class _Tracer(fx.Tracer):
    """Follows all modules but known layers and torch's own."""

    def __init__(self, known: Container[type[nn.Module]]) -> None:
        super().__init__()
        self.known = known

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not has_own_forward(m, self.known)


class _Reader:
    """Turns the trace's nodes into calls."""

    def __init__(self, name: str, module: nn.Module) -> None:
        self.name, self.module = name, module
        self.calls: list[Call] = []
        self.names: dict[fx.Node, str] = {}
        self.sizes: set[fx.Node] = set()
        """Nodes that are sizes of a value, which views take."""
        self.taken: Counter[str] = Counter()
        self.memory: dict[fx.Node, fx.Node] = {}
        """The node whose memory a value lies in: another's, where it is only seen in another shape."""

    def read(self, graph: fx.Graph) -> tuple[list[Call], str]:
        """Returns the calls and the name of the last."""
        inputs = [node for node in graph.nodes if node.op == "placeholder" and node.users]
        if len(inputs) != 1:
            raise self.refusal(f"a packed network has one input; its forward takes {len(inputs)}")
        self.names[inputs[0]] = ""
        output = ""
        order = {node: i for i, node in enumerate(graph.nodes)}
        for node in graph.nodes:
            if node.op in ("call_module", "call_function", "call_method", "get_attr"):
                self._read(node)
                self._check_in_place(node, order)
            elif node.op == "output":
                output = self._input(node.args[0])
        readers = Counter(name for call in self.calls for name in call.inputs)
        readers[output] += 1
        return [dataclasses.replace(call, readers=readers[call.name]) for call in self.calls], output

    def refusal(self, reason: str) -> HypersignError:
        """The error for this module."""
        return refusal(self.name, self.module, reason)

    def _read(self, node: fx.Node) -> None:
        if node.op == "call_module":
            target = str(node.target)
            if len(node.args) != 1 or node.kwargs:
                raise self.refusal(f"its layer {target} takes more than one input")
            name = child_name(self.name, target)
            self._add(node, name, self.module.get_submodule(target), node.args[0])
            return
        key = node.target if node.op != "call_method" else f".{node.target}"
        if key in (".size", getattr) or (key is operator.getitem and node.args[0] in self.sizes):
            if key is getattr and node.args[1] != "shape":
                raise self.refusal(f"its forward reads the attribute {node.args[1]} of a value")
            self.sizes.add(node)
            return
        if key in ADDED:
            self._join(node, "add", node.args)
        elif key in (torch.cat, torch.concat):
            tensors, dim = _arguments(node, ("tensors", "dim"), (None, 0))
            if dim not in (1, -3):
                raise self.refusal(f"values are concatenated along channels, dimension 1; torch.cat has dim={dim}")
            if len(tensors) == 1:
                self.names[node] = self._input(tensors[0])
            else:
                self._join(node, "concat", tuple(tensors))
        elif key in FUNCTIONS:
            self._function(node, FUNCTIONS[key])
        else:
            what = getattr(key, "__name__", str(key))
            raise self.refusal(f"no packed form is known of {what} in its forward")

    def _check_in_place(self, node: fx.Node, order: dict[fx.Node, int]) -> None:
        """Refuses a call that changes its input in place where a later call reads the input too."""
        value = node.args[0] if node.args and isinstance(node.args[0], fx.Node) else None
        if value is None:
            return
        memory = self.memory.get(value, value)
        module = self.module.get_submodule(str(node.target)) if node.op == "call_module" else None
        made = self.calls[-1].module if self.calls and self.names.get(node) == self.calls[-1].name else None
        if isinstance(made, SEEN) or (isinstance(made, nn.Sequential) and all(isinstance(m, SEEN) for m in made)):
            self.memory[node] = memory
        changes = _changes_input(module) if module is not None else _is_in_place(node)
        if not changes:
            return
        self.memory[node] = memory
        for other in (memory, *(key for key, place in self.memory.items() if place is memory)):
            if other is not node and any(order[user] > order[node] for user in other.users):
                raise self.refusal(
                    f"{node.name} in its forward changes a value in place that is read again later: use inplace=False"
                )

    def _function(self, node: fx.Node, make: Callable[..., nn.Module | None]) -> None:
        module = make(node, self.sizes)
        if module is None:
            raise self.refusal(f"the arguments of {node.name} in its forward have no packed form")
        self._add(node, child_name(self.name, node.name), module, node.args[0])

    def _add(self, node: fx.Node, name: str, module: nn.Module, value: Any) -> None:
        self.calls.append(Call(self._unique(name), module, (self._input(value),)))
        self.names[node] = self.calls[-1].name

    def _join(self, node: fx.Node, join: Literal["add", "concat"], values: Any) -> None:
        if node.kwargs.get("alpha", 1) != 1 or len(values) < 2:
            raise self.refusal(f"{node.name} in its forward takes several values and no factor")
        inputs = tuple(self._input(value) for value in values)
        self.calls.append(Call(self._unique(child_name(self.name, node.name)), None, inputs, join))
        self.names[node] = self.calls[-1].name

    def _input(self, value: Any) -> str:
        if not isinstance(value, fx.Node) or value not in self.names:
            raise self.refusal(f"its forward computes with {value!s:.60}, which is no value of the network")
        return self.names[value]

    def _unique(self, name: str) -> str:
        """`name`, or with a number where it was called before."""
        self.taken[name] += 1
        return name if self.taken[name] == 1 else f"{name}.call{self.taken[name]}"


SEEN = (nn.Flatten, nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d)
"""Layers whose output is their input, in evaluation, seen in another shape at most."""


def _changes_input(module: nn.Module) -> bool:
    """Whether a layer writes its output over its input."""
    if isinstance(module, nn.Sequential):
        first = next((part for part in module if not isinstance(part, SEEN)), None)
        return first is not None and _changes_input(first)
    return bool(getattr(module, "inplace", False)) and not isinstance(module, SEEN)


INPLACE_LAST = (F.relu, F.relu6, F.leaky_relu, F.hardtanh)
"""Functions whose last argument says whether they write over their input."""


def _is_in_place(node: fx.Node) -> bool:
    """Whether a function or method writes its output over its first argument."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    stated = bool(node.kwargs.get("inplace")) or (node.target in INPLACE_LAST and node.args[-1] is True)
    return stated or node.target is operator.iadd or name.endswith("_")


ADDED = (operator.add, operator.iadd, torch.add, ".add", ".add_")
"""Functions that add two values."""


def _arguments(node: fx.Node, names: tuple[str, ...], defaults: tuple[Any, ...]) -> list[Any]:
    """The arguments of a call by position or name."""
    given = dict(zip(names, node.args, strict=False)) | node.kwargs
    return [given.get(name, default) for name, default in zip(names, defaults, strict=True)]


def _flatten(node: fx.Node, sizes: set[fx.Node]) -> nn.Module | None:
    _, start, end = _arguments(node, ("input", "start_dim", "end_dim"), (None, 0, -1))
    return nn.Flatten(start, end)


def _view(node: fx.Node, sizes: set[fx.Node]) -> nn.Module | None:
    shape = node.args[1:]
    if len(shape) == 1 and isinstance(shape[0], tuple | list):
        shape = tuple(shape[0])
    return nn.Flatten() if len(shape) == 2 and shape[0] in sizes and shape[1] == -1 else None


def _mean(node: fx.Node, sizes: set[fx.Node]) -> nn.Module | None:
    _, dims, keep = _arguments(node, ("input", "dim", "keepdim"), (None, None, False))
    whole = isinstance(dims, tuple | list) and sorted(d % 4 for d in dims) == [2, 3]
    if not whole:
        return None
    pool = nn.AdaptiveAvgPool2d(1)
    return pool if keep else nn.Sequential(pool, nn.Flatten())


def _clamp(node: fx.Node, sizes: set[fx.Node]) -> nn.Module | None:
    _, low, high = _arguments(node, ("input", "min", "max"), (None, None, None))
    if low == 0 and high is None:
        return nn.ReLU()
    return None if low is None or high is None else nn.Hardtanh(float(low), float(high))


def _hardtanh(node: fx.Node, sizes: set[fx.Node]) -> nn.Module | None:
    _, low, high = _arguments(node, ("input", "min_val", "max_val"), (None, -1.0, 1.0))
    return nn.Hardtanh(float(low), float(high))


def _leaky(node: fx.Node, sizes: set[fx.Node]) -> nn.Module | None:
    return nn.LeakyReLU(_arguments(node, ("input", "negative_slope"), (None, 0.01))[1])


def _max_pool(node: fx.Node, sizes: set[fx.Node]) -> nn.Module | None:
    names = ("input", "kernel_size", "stride", "padding", "dilation", "return_indices", "ceil_mode")
    defaults = (None, None, None, 0, 1, False, False)
    # F.max_pool2d itself takes ceil_mode before return_indices
    given = _arguments(node, (*names[:5], "ceil_mode", "return_indices"), defaults)
    size, stride, padding, dilation, ceil_mode, indices = given[1:]
    return nn.MaxPool2d(size, stride, padding, dilation, indices, ceil_mode)


def _avg_pool(node: fx.Node, sizes: set[fx.Node]) -> nn.Module | None:
    names = ("input", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
    return nn.AvgPool2d(*_arguments(node, names, (None, None, None, 0, False, True, None))[1:])


def _adaptive(kind: type[nn.Module]) -> Callable[[fx.Node, set[fx.Node]], nn.Module | None]:
    def make(node: fx.Node, sizes: set[fx.Node]) -> nn.Module | None:
        return kind(_arguments(node, ("input", "output_size"), (None, None))[1])

    return make


def _same(kind: type[nn.Module]) -> Callable[[fx.Node, set[fx.Node]], nn.Module | None]:
    return lambda node, sizes: kind()


FUNCTIONS: dict[Any, Callable[[fx.Node, set[fx.Node]], nn.Module | None]] = {
    **{key: _same(nn.ReLU) for key in (F.relu, torch.relu, torch.relu_, ".relu", ".relu_")},
    F.relu6: _same(nn.ReLU6),
    F.leaky_relu: _leaky,
    **{key: _hardtanh for key in (F.hardtanh, F.hardtanh_)},
    **{key: _clamp for key in (torch.clamp, torch.clip, ".clamp", ".clip", ".clamp_", ".clip_")},
    **{key: _same(nn.Tanh) for key in (torch.tanh, F.tanh, ".tanh")},
    **{key: _flatten for key in (torch.flatten, ".flatten")},
    **{key: _view for key in (".view", ".reshape", torch.reshape)},
    **{key: _mean for key in (torch.mean, ".mean")},
    F.max_pool2d: _max_pool,
    F.avg_pool2d: _avg_pool,
    F.adaptive_avg_pool2d: _adaptive(nn.AdaptiveAvgPool2d),
    F.adaptive_max_pool2d: _adaptive(nn.AdaptiveMaxPool2d),
    **{key: _same(nn.Identity) for key in (F.dropout, F.dropout2d, ".contiguous", ".clone", torch.clone)},
}
"""The layer that computes each function; methods begin with a dot."""
