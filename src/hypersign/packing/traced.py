"""Networks with a `forward` of their own as a list of calls: the forward runs once, and its functions are recorded.

A call is a layer or a step (`steps`), of one or more values. Functions that a layer computes too (`F.relu`,
`torch.flatten`, a mean over the image) become that layer. So what folds a network, and what checks it, know layers
alone. The forward runs on random numbers, so that it can read the sizes of its values; what it computes from weights
alone is a constant.
"""

import contextlib
import dataclasses
import functools
import threading
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from hypersign._checks import HypersignError
from hypersign.layers import OwnedProduct, OwnForward, QuantLayer
from hypersign.packing import steps
from hypersign.packing.recorded import FUNCTIONS, SAME, Seen, Unknown, multi_head_attention, permuted
from hypersign.quantizers import Quantizer

__all__ = [
    "Call",
    "Trace",
    "child_name",
    "has_own_forward",
    "known_type",
    "named_outputs",
    "refusal",
    "root_name",
    "trace",
    "uncompiled",
]

_ONE_AT_A_TIME = threading.Lock()
"""Recording replaces how modules are called, for all threads."""

BATCH = 2
"""Rows of the random inputs."""


def child_name(parent: str, child: str) -> str:
    """The name of a module in a container, of which its node is called; the graph's own names get a `_`.

    >>> child_name("", "input"), child_name("block", "input")
    ('input_', 'block.input')
    """
    if parent:
        return f"{parent}.{child}"
    return f"{child}_" if child == "pixels" or child.rstrip("0123456789") == "input" else child


def refusal(name: str, module: nn.Module, reason: str) -> HypersignError:
    """The error for a layer that cannot be packed."""
    kind = type(module).__name__
    return HypersignError(f"{name or kind.lower()} ({kind}) cannot be packed: {reason}")


def uncompiled(model: nn.Module) -> nn.Module:
    """The network without the wrappers of `torch.compile`; a network that holds one is changed."""
    wrapper = torch._dynamo.OptimizedModule if "torch._dynamo" in _loaded() else ()
    while isinstance(model, wrapper):
        model = model._orig_mod
    for module in list(model.modules()):
        for name, child in module._modules.items():
            while isinstance(child, wrapper):
                child = module._modules[name] = child._orig_mod
    return model


def _loaded() -> Container[str]:
    import sys

    return sys.modules


@dataclasses.dataclass(frozen=True)
class Call:
    """One step of a forward.

    Args:
        name: the name of the layer, or of the function in its module.
        module: the layer or step.
        inputs: the names of the calls whose outputs it takes; `#0`, `#1` and so on are the inputs of the forward.
        readers: how many calls take its output.
    """

    name: str
    module: nn.Module
    inputs: tuple[str, ...]
    readers: int = 1


@dataclasses.dataclass(frozen=True)
class Trace:
    """The calls of a forward in their order, and its outputs: their names, and the calls that give them."""

    calls: tuple[Call, ...]
    outputs: tuple[tuple[str, str], ...]

    def readers(self, name: str) -> int:
        """How often a value is read, outputs included."""
        read = [source for call in self.calls for source in call.inputs] + [call for _, call in self.outputs]
        return read.count(name)


def has_own_forward(module: nn.Module, known: Container[type[nn.Module]]) -> bool:
    """Whether a module is followed as a whole: it is no known layer, and none of torch or HyperSign."""
    if type(module).__module__.startswith("hypersign.layers."):
        return False
    layers = (base for base in type(module).__mro__ if base not in (nn.Module, nn.Sequential))
    torchs = any(base.__module__.startswith("torch.nn.modules.") for base in layers)
    return type(module) not in known and not torchs and not isinstance(module, QuantLayer | Quantizer)


def known_type(module: nn.Module, known: Container[type[nn.Module]]) -> type[nn.Module] | None:
    """The type of a layer that is not followed further; None for a module whose forward is.

    Quantizers and quantized layers are known by their type, and subclasses that `convert` made by that of their base;
    those that keep a forward of their own are followed.
    """
    kind = type(module)
    if kind in known or isinstance(module, Quantizer):
        return kind
    if not isinstance(module, QuantLayer) or isinstance(module, OwnForward | OwnedProduct):
        return None
    converted = kind.__module__ == OwnForward.__module__
    return next((base for base in kind.__mro__ if base in known), kind) if converted else kind


def root_name(model: nn.Module, known: Container[type[nn.Module]]) -> str:
    """The name of the whole network: a container has none, a single layer is named after its type."""
    named = not isinstance(model, nn.Sequential) and not has_own_forward(model, known)
    return type(model).__name__.lower() if named else ""


def trace(
    name: str, module: nn.Module, known: Container[type[nn.Module]], shapes: Sequence[tuple[int, ...]]
) -> Trace:
    """Runs a module's forward once, on random numbers of these shapes, and returns its calls.

    Args:
        name: the module's own name, which those of its layers begin with.
        module: a module in evaluation mode.
        known: the layers that are not followed further.
        shapes: the shape of each input, without the batch.

    Raises:
        HypersignError: the forward fails, depends on numbers, or calls a function that no packed network has.
    """
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.rand(BATCH, *shape, generator=generator) for shape in shapes]
    recorder = _Recorder(name, module, known, inputs)
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with _ONE_AT_A_TIME, torch.no_grad(), _calls_go_to(recorder), recorder:
            output = recorder.follow(name, module, *inputs)
    except HypersignError:
        raise
    except Unknown as error:
        raise recorder.refusal(str(error)) from error
    except Exception as error:
        raise recorder.refusal(f"its forward fails ({' '.join(str(error).split()):.200})") from error
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return recorder.trace(output)


@contextlib.contextmanager
def _calls_go_to(recorder: "_Recorder") -> Iterator[None]:
    """Sends the calls of modules to the recorder."""
    original = nn.Module.__call__

    @functools.wraps(original)
    def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return recorder.module(original, module, args, kwargs)

    nn.Module.__call__ = call  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.__call__ = original  # type: ignore[method-assign]


class _Recorder(TorchFunctionMode):
    """Records the functions and layers that a forward calls."""

    def __init__(self, name: str, module: nn.Module, known: Container[type[nn.Module]], inputs: list[Tensor]) -> None:
        super().__init__()
        self.known = known
        self.root = module
        self.paths = {id(part): path for path, part in module.named_modules()}
        self.name = name
        self.stack: list[tuple[str, nn.Module]] = [(name, module)]
        self.paused = False
        self.calls: list[Call] = []
        self.taken: Counter[str] = Counter()
        self.values: dict[int, tuple[Tensor, str, int]] = {}
        """By the number of a tensor: the tensor, the call that gave it, and how often it had been changed."""
        self.unsettled: dict[int, tuple[Tensor, Tensor, tuple[int, ...]]] = {}
        """Tensors whose batch is not in front: each, the tensor it is made of, and the order of its axes."""
        self.before: dict[int, str] = {}
        """The calls that gave the arguments of the function that runs, before it ran."""
        for i, tensor in enumerate(inputs):
            self._bind(tensor, f"#{i}")

    def refusal(self, reason: str) -> HypersignError:
        """The error for the module whose forward runs."""
        path, module = self.stack[-1]
        return refusal(path, module, reason)

    def follow(self, path: str, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Runs a module's forward and records what it calls."""
        if module._forward_hooks or module._forward_pre_hooks:
            raise refusal(path, module, "it has a forward hook, which a file cannot hold: remove the hook")
        if "forward" in vars(module):
            raise refusal(path, module, "its forward was replaced on the object, as device hooks do: remove the hook")
        self.stack.append((path, module))
        if type(module) is nn.MultiheadAttention:
            output = multi_head_attention(module, *args, **kwargs)
        else:
            output = module.forward(*args, **kwargs)
        self.stack.pop()
        return output

    def module(self, original: Callable[..., Any], module: nn.Module, args: Any, kwargs: Any) -> Any:
        """A module that the forward calls."""
        given = [value for value in _tensors((args, kwargs)) if self._depends(value)]
        if self.paused or not given:
            return original(module, *args, **kwargs)
        path = self.paths.get(id(module))
        path = child_name(self.stack[-1][0], type(module).__name__.lower()) if path is None else self._path(path)
        if known_type(module, self.known) is None:
            return self.follow(path, module, *args, **kwargs)
        if len(given) != 1 or len(args) + len(kwargs) != 1:
            raise refusal(path, module, "this layer takes more than one input")
        self.paused = True
        try:
            place = self._place(given[0])
            if place and not isinstance(module, nn.Linear | nn.ReLU | nn.Identity | Quantizer):
                raise self.refusal("its forward computes with a value whose first dimension is not the batch")
            source = self._source(self._front(given[0]))
            output = original(module, *args, **kwargs)
            if not isinstance(output, Tensor):
                raise refusal(path, module, "it gives several values")
            self._append(module, (source,), self._unique(path))
            moved = output.movedim(place, 0) if place else output
            self._bind(moved, self.calls[-1].name)
            if place:
                self._hold(output, moved, place)
        finally:
            self.paused = False
        return output

    def _path(self, path: str) -> str:
        return child_name(self.name, path) if path else self.name

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [value for value in _tensors((args, kwargs)) if self._depends(value)]
        if self.paused or not given:
            return func(*args, **kwargs)
        name = func.__name__
        if name == "__get__":
            name = getattr(func.__self__, "__name__", name)
        versions = [value._version for value in given]
        self.before = {id(value): self._source(value) for value in given if id(value) in self.values}
        try:
            result = func(*args, **kwargs)
            self._recorded(name, args, kwargs, result, given, versions)
        finally:
            self.before = {}
        return result

    def _recorded(
        self, name: str, args: Any, kwargs: Any, result: Any, given: list[Tensor], versions: list[int]
    ) -> None:
        """Records a function that ran."""
        if name in SAME and isinstance(result, Tensor) and result.dtype == torch.float32:
            if "dropout" in name and not torch.equal(result, given[0]):
                raise self.refusal(
                    f"{name} in its forward drops numbers in evaluation too: pass training=self.training"
                )
            if id(given[0]) in self.unsettled:
                self.unsettled[id(result)] = (result, *self.unsettled[id(given[0])][1:])
            elif id(result) not in self.values:
                self._bind(result, self._source(given[0]))
            return
        results = list(_tensors(result))
        if not results:
            self._check_size(name)
            return
        changed = any(value._version != version for value, version in zip(given, versions, strict=True))
        if changed and all(each is not given[0] for each in results):
            raise self.refusal(f"{name} in its forward writes into a value; no packed form is known of it")
        if not self._reorders(name, args, kwargs, result):
            self._record(name, args, kwargs, result)

    def _check_size(self, name: str) -> None:
        if name == "__setitem__":
            raise self.refusal("its forward writes into a value; no packed form is known of that")
        if name not in SIZES:
            raise self.refusal(f"its forward reads numbers of the network ({name}), which differ from input to input")

    def _reorders(self, name: str, args: Any, kwargs: Any, result: Any) -> bool:
        """Permutes that move the batch, and what puts it in front again: they are followed as orders of axes."""
        value = args[0] if args else None
        if not isinstance(value, Tensor):
            return False
        base, axes = (value, tuple(range(value.dim())))
        if id(value) in self.unsettled:
            _, base, axes = self.unsettled[id(value)]
        order = permuted(name, value.dim(), args[1:], kwargs)
        if order is not None:
            moved = tuple(axes[axis] for axis in order)
            if moved[0] == 0:
                if id(value) not in self.unsettled:
                    return False
                self._record_step(steps.Permute(tuple(axis - 1 for axis in moved[1:])), (base,), result, name)
                return True
            self.unsettled[id(result)] = (result, base, moved)
            return True
        if id(value) not in self.unsettled:
            return False
        first = args[1] if len(args) > 1 else kwargs.get("dim", 0)
        if name in ("__getitem__", "select", "unbind") and axes[0] and axes[1] == 0 and isinstance(first, int):
            # one of the things that stand in front of the batch
            if name != "__getitem__" and first != 0:
                raise self.refusal(f"{name} in its forward takes dimension {first}; the batch is not in front")
            start = first % len(value) if name == "__getitem__" else 0 if name == "unbind" else int(args[2])
            rest = axes[1:]
            kept = sorted(rest)
            shape = tuple(base.shape[axis] for axis in kept[1:])
            order = tuple(kept.index(axis) - 1 for axis in rest[1:])
            for place, piece in enumerate(result if name == "unbind" else [result], start=start):
                self._record_step(steps.Slice(axes[0] - 1, place, place + 1), (base,), None, "slice")
                self._record_step(steps.View(shape), (), None, "view")
                self._record_step(steps.Permute(order), (), piece, "permute")
            return True
        if name not in LAST_OR_EACH:
            raise self.refusal(f"{name} in its forward computes with a value whose first dimension is not the batch")
        self._in_front(name, args, kwargs, result)
        return True

    def _in_front(self, name: str, args: Any, kwargs: Any, result: Tensor) -> None:
        """Records a function of each number, or of the last dimension, of values whose batch is not in front."""
        places = {self._place(value) for value in _tensors((args, kwargs)) if self._depends(value)}
        others = [value for value in _tensors((args, kwargs)) if not self._depends(value)]
        place = places.pop()
        if places or place == result.dim() - 1 or any(value.dim() >= result.dim() - place for value in others):
            raise self.refusal(f"{name} in its forward takes values whose batches are different dimensions")

        def front(value: Any) -> Any:
            return self._front(value) if isinstance(value, Tensor) and self._depends(value) else value

        args, kwargs = tuple(map(front, args)), {key: front(value) for key, value in kwargs.items()}
        moved = result.movedim(place, 0)
        self._record(name, args, kwargs, moved)
        self._hold(result, moved, place)

    def _place(self, value: Tensor) -> int:
        """The dimension that is the batch."""
        return self.unsettled[id(value)][2].index(0) if id(value) in self.unsettled else 0

    def _front(self, value: Tensor) -> Tensor:
        """The value with the batch in front."""
        if id(value) not in self.unsettled:
            return value
        _, base, axes = self.unsettled[id(value)]
        moved = value.movedim(axes.index(0), 0)
        self._record_step(steps.Permute(tuple(axis - 1 for axis in axes if axis)), (base,), moved, "permute")
        return moved

    def _hold(self, value: Tensor, moved: Tensor, place: int) -> None:
        """Keeps a value as `moved`, which has its batch in front, with another order of axes."""
        axes = (*range(1, place + 1), 0, *range(place + 1, value.dim()))
        self.unsettled[id(value)] = (value, moved, axes)

    def _record(self, name: str, args: Any, kwargs: Any, result: Any) -> None:
        make = FUNCTIONS.get(name)
        if make is None:
            raise self.refusal(f"no packed form is known of {name} in its forward")
        seen = Seen(name, args, kwargs, result, self._depends)
        for module, inputs, output in make(seen):
            if output is not None and (not output.dim() or len(output) != BATCH):
                raise self.refusal(f"{name} in its forward mixes the inputs of a batch")
            self._record_step(module, inputs, output, name)

    def _record_step(self, module: nn.Module, inputs: Sequence[Tensor], output: Tensor | None, name: str) -> None:
        sources = tuple(self._source(value) for value in inputs) or (self.calls[-1].name,)
        self._append(module, sources, self._unique(self._call_name(name.strip("_"))))
        if output is not None:
            self._bind(output, self.calls[-1].name)

    def _call_name(self, function: str) -> str:
        """The name of a function's node: that of torch's layer whose whole forward it is, if it is one."""
        path, module = self.stack[-1]
        inside = type(module).__module__.startswith("torch.nn.modules.") and not list(module.children())
        return path if inside and path and not self.taken[path] else child_name(path, function)

    def _append(self, module: nn.Module, sources: tuple[str, ...], name: str) -> None:
        self.calls.append(Call(name, module, sources))

    def _bind(self, tensor: Tensor, name: str) -> None:
        self.values[id(tensor)] = (tensor, name, tensor._version)

    def _depends(self, value: Tensor) -> bool:
        return id(value) in self.values or id(value) in self.unsettled

    def _source(self, value: Tensor) -> str:
        if id(value) in self.before:
            return self.before[id(value)]
        if id(value) not in self.values:
            raise self.refusal("its forward computes with a value whose first dimension is not the batch")
        _, name, version = self.values[id(value)]
        if value._version != version:
            raise self.refusal("its forward reads a value that was changed in place: use inplace=False")
        return name

    def _unique(self, name: str) -> str:
        """`name`, or with a number where it was called before."""
        self.taken[name] += 1
        return name if self.taken[name] == 1 else f"{name}.call{self.taken[name]}"

    def trace(self, output: Any) -> Trace:
        """The calls that the outputs depend on."""
        outputs = [(name, self._source(value)) for name, value in self._outputs(output)]
        needed = {source for _, source in outputs}
        kept = []
        for call in reversed(self.calls):
            if call.name in needed:
                needed.update(call.inputs)
                kept.append(call)
        found = Trace(tuple(reversed(kept)), tuple(outputs))
        calls = tuple(dataclasses.replace(call, readers=found.readers(call.name)) for call in found.calls)
        return Trace(calls, found.outputs)

    def _outputs(self, output: Any) -> list[tuple[str, Tensor]]:
        if not isinstance(output, Tensor | Mapping | tuple | list) or not len(found := named_outputs(output)):
            raise self.refusal(f"its forward must give tensors; it gives {type(output).__name__}")
        for name, value in found:
            if not isinstance(value, Tensor) or not self._depends(value):
                raise self.refusal(f"each output must be a value of the network; {name} is {type(value).__name__}")
        return found


def named_outputs(output: Any) -> list[tuple[str, Any]]:
    """What a forward gives, by name: a tensor, several, or a dictionary of them."""
    if isinstance(output, Tensor):
        return [("output", output)]
    if isinstance(output, Mapping):
        found = [(str(name), value) for name, value in output.items() if value is not None]
    else:
        found = [(f"output{i}", value) for i, value in enumerate(output, start=1)]
    return [("output", found[0][1])] if len(found) == 1 else found


LAST_OR_EACH = {
    "add", "add_", "__add__", "__radd__", "__iadd__", "sub", "__sub__", "mul", "__mul__", "__rmul__", "div",
    "__truediv__", "neg", "relu", "gelu", "silu", "sigmoid", "tanh", "linear", "layer_norm", "rms_norm",
}  # fmt: skip
"""Functions of each number, or of the last dimension: it does not matter which other dimension is the batch."""

SIZES = {
    "shape", "size", "dim", "ndim", "numel", "nelement", "ndimension", "stride", "__len__", "dtype", "device",
    "layout", "is_contiguous", "is_floating_point", "is_complex", "requires_grad", "is_cuda", "is_nested",
    "is_sparse", "is_quantized", "is_meta", "is_leaf", "grad", "grad_fn", "names", "__hash__", "get_device",
    "element_size", "data_ptr", "storage_offset", "is_mps", "is_xla", "is_cpu", "type", "_version", "is_inference",
    "itemsize", "is_same_size", "can_cast",
}  # fmt: skip
"""What a forward may ask of a value: nothing that depends on its numbers."""


def _tensors(found: Any) -> Iterator[Tensor]:
    """The tensors in nested tuples, lists and dictionaries."""
    if isinstance(found, Tensor):
        yield found
    elif isinstance(found, dict):
        for value in found.values():
            yield from _tensors(value)
    elif isinstance(found, tuple | list):
        for value in found:
            yield from _tensors(value)
