"""Runs a network again from recorded outputs: nothing before the changed layer is computed twice.

Every call of a module is recorded with the moments at which it began and ended. If a layer changes, all calls that
ended before the layer's first call give their recorded outputs. What stands between modules in `forward` (additions,
reshapes) runs each time. So it works for any network whose `forward` calls the same modules in the same order.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hypersign._checks import HypersignError
from hypersign.evaluate import full_precision, mode

__all__ = ["Replay", "batch_size", "logits_of", "picked", "prepared"]


@dataclasses.dataclass
class _Call:
    module: nn.Module
    end: int
    output: Any
    versions: list[int]


class Replay:
    """Records one batch of a network, and runs it again with one layer changed. Use it within `prepared`.

    Outputs are kept as they are. Those that the network changes in place later are copied in a second pass.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.modules = list(model.modules())
        self.calls: dict[int, _Call] = {}
        self.first: dict[nn.Module, int] = {}
        self.clock = 0
        self.changed_in_place: set[int] = set()

    def record(self, batch: Any, *, keep: bool = True) -> Tensor:
        """Runs the network on a batch, keeps every output, and returns the logits, shape `(inputs, rows, classes)`.

        Without `keep` the outputs are not kept, and the network cannot run again.
        """
        self.changed_in_place = set()
        logits = self._pass(batch, keep)
        self.changed_in_place = {
            start for start, call in self.calls.items() if call.versions != _versions(call.output)
        }
        if self.changed_in_place:
            self._pass(batch, keep)
        return logits

    def _pass(self, batch: Any, keep: bool) -> Tensor:
        self.calls, self.first, self.clock = {}, {}, 0

        def call(module: nn.Module, forward: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
            start = self.clock
            self.clock += 1
            self.first.setdefault(module, start)
            output = forward(*args, **kwargs)
            if keep:
                kept = _fresh(output) if start in self.changed_in_place else output
                self.calls[start] = _Call(module, self.clock, kept, _versions(kept))
            self.clock += 1
            return output

        with _forwards(self.modules, call):
            return logits_of(run(self.model, batch))

    def again(self, layer: nn.Module, batch: Any) -> Tensor:
        """The logits of the recorded batch after `layer` was changed."""
        target, self.clock = self.first[layer], 0

        def call(module: nn.Module, forward: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
            start = self.clock
            if start > target:
                return forward(*args, **kwargs)
            known = self.calls.get(start)
            if known is None or known.module is not module:
                raise HypersignError(
                    "a network to forecast must call the same modules in the same order each time; this one does "
                    "not: put it in evaluation mode and switch random choices off"
                )
            if known.end < target:
                self.clock = known.end + 1
                return _fresh(known.output) if start in self.changed_in_place else known.output
            self.clock += 1
            output = forward(*args, **kwargs)
            self.clock = max(self.clock, known.end + 1)
            return output

        with _forwards(self.modules, call):
            return logits_of(run(self.model, batch))


def run(model: nn.Module, batch: Any) -> Any:
    """The network's output for a batch: a tensor, a tuple that begins with one, or a dictionary of its arguments."""
    example = next((p for p in model.parameters() if p.is_floating_point()), None)

    def moved(value: Any) -> Any:
        if not isinstance(value, Tensor) or example is None:
            return value
        return value.to(example.device, example.dtype if value.is_floating_point() else value.dtype)

    cuda = [example.device] if example is not None and example.device.type == "cuda" else []
    with torch.random.fork_rng(cuda):
        if isinstance(batch, Mapping):
            return model(**{name: moved(value) for name, value in batch.items()})
        return model(moved(batch[0] if isinstance(batch, tuple | list) else batch))


def batch_size(batch: Any) -> int:
    """The number of inputs in a batch.

    Raises:
        HypersignError: it is no tensor, no tuple that begins with one, and no dictionary with one.
    """
    first = batch
    if isinstance(batch, Mapping):
        first = next((value for value in batch.values() if isinstance(value, Tensor)), None)
    elif isinstance(batch, tuple | list) and batch:
        first = batch[0]
    if not isinstance(first, Tensor) or not first.dim():
        raise HypersignError(
            "a batch must be a tensor of inputs, a tuple that begins with one, or a dictionary of the model's "
            f"arguments; got {type(batch).__name__}"
        )
    if first.is_floating_point() and not torch.isfinite(first).all():
        raise HypersignError("inputs must be finite numbers; a batch holds NaN or infinity: leave such inputs out")
    return len(first)


def picked(batch: Any, rows: slice | list[int]) -> Any:
    """Some of a batch's inputs, with whatever belongs to them.

    >>> picked((torch.arange(5), torch.arange(5)), slice(None, None, 2))
    (tensor([0, 2, 4]), tensor([0, 2, 4]))
    """
    if isinstance(batch, Mapping):
        return {name: picked(item, rows) for name, item in batch.items()}
    if isinstance(batch, tuple | list):
        return type(batch)(picked(item, rows) for item in batch)
    return batch[rows] if hasattr(batch, "dim") and batch.dim() else batch


def logits_of(output: Any) -> Tensor:
    """The logits in a network's output, shape `(inputs, rows, classes)`: one row per decision.

    Raises:
        HypersignError: the output holds no logits of at least two classes in its last dimension.
    """
    if isinstance(output, Mapping):
        output = output.get("logits", next(iter(output.values()), None))
    elif hasattr(output, "logits"):
        output = output.logits
    while isinstance(output, tuple | list) and output:
        output = output[0]
    if not isinstance(output, Tensor) or output.dim() < 2 or output.shape[-1] < 2:
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise HypersignError(
            "a network to forecast must give logits of two or more classes in its last dimension, shape "
            f"(N, classes) or (N, tokens, classes); it gives {shape}"
        )
    return output.detach().float().reshape(len(output), -1, output.shape[-1])


@contextlib.contextmanager
def prepared(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradients, float32, and no fused attention, which bypasses layers.

    Everything is restored afterwards.
    """
    example = next((p for p in model.parameters() if p.is_floating_point()), None)
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), full_precision("cpu" if example is None else example.device.type), mode(model, False):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


@contextlib.contextmanager
def _forwards(modules: Sequence[nn.Module], call: Callable[..., Any]) -> Iterator[None]:
    """Sends the `forward` of every module through `call`."""
    before = {module: vars(module).get("forward") for module in modules}

    def routed(module: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: call(module, forward, args, kwargs)

    for module in modules:
        vars(module)["forward"] = routed(module, module.forward)
    try:
        yield
    finally:
        for module, forward in before.items():
            if forward is None:
                del vars(module)["forward"]
            else:
                vars(module)["forward"] = forward


def _fresh(value: Any) -> Any:
    """A copy of a recorded output, because the network may change it in place."""
    return value.clone() if isinstance(value, Tensor) else _mapped(value, _fresh)


def _versions(value: Any) -> list[int]:
    """How often each tensor in a value was changed in place."""
    found: list[int] = []

    def note(item: Any) -> Any:
        if isinstance(item, Tensor):
            found.append(item._version)
            return item
        return _mapped(item, note)

    note(value)
    return found


def _mapped(value: Any, function: Callable[[Any], Any]) -> Any:
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(function, value))
    if isinstance(value, tuple | list):
        return type(value)(map(function, value))
    if isinstance(value, dict):
        return {key: function(item) for key, item in value.items()}
    return value
