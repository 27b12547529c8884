"""Copies networks, and finds what a copy holds of a layer besides the layer itself."""

import collections
import copy
import functools
import types
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from hypersign._checks import HypersignError

__all__ = ["copy_module", "held_outside"]

_TABLES = ("_parameters", "_modules")


def copy_module(model: nn.Module) -> nn.Module:
    """Makes a deep copy of a network.

    torch refuses to copy tensors with a history: weights that a hook computes (weight_norm, spectral_norm, pruning),
    and results that a module keeps. Their values are copied; the hook computes its weight again. Python copies no
    functions: one whose closure or default holds a module of the network gets the copy's module instead.

    Raises:
        HypersignError: the network holds something that cannot be copied, such as a lock or an open file.
    """
    memo: dict[int, Any] = {}
    modules = {id(module) for module in model.modules()}
    rebound = []
    for module in model.modules():
        for _, item in _attributes(module):
            if isinstance(item, Tensor) and not item.is_leaf:
                memo[id(item)] = item.detach().clone()
            elif isinstance(item, types.FunctionType) and id(item) not in memo and _refers(item, modules):
                memo[id(item)] = _with_cells_of_its_own(item, modules)
                rebound.append(memo[id(item)])
    try:
        copied: nn.Module = copy.deepcopy(model, memo)
        for function in rebound:
            _rebind(function, modules, memo)
    except (TypeError, RuntimeError, NotImplementedError, AttributeError) as error:
        raise HypersignError(
            f"the network must be one that copy.deepcopy can copy; it cannot ({error!s:.150}): remove what cannot be "
            "copied from its modules, and set it again on the copy"
        ) from error
    return copied


def held_outside(model: nn.Module) -> dict[nn.Module, str]:
    """Maps each layer whose weight or forward a module keeps under another name to the reason in words.

    Such a weight or bound method bypasses the layer's quantizers: `self.run = self.a.forward`.
    """
    owners = {
        id(module._parameters["weight"]): module for module in model.modules() if "weight" in module._parameters
    }
    found: dict[nn.Module, str] = {}
    for module in model.modules():
        for name, item in _attributes(module):
            layer: Any = None
            what = "forward"
            if isinstance(item, nn.Parameter):
                layer, what = owners.get(id(item)), "weight"
            elif isinstance(item, types.MethodType) and item.__name__ == "forward":
                layer = item.__self__
            elif isinstance(item, functools.partial) and getattr(item.func, "__name__", "") == "forward":
                layer = next(iter(item.args), None)
            if isinstance(layer, nn.Module) and name != "forward":
                found[layer] = f"{type(module).__name__}.{name} holds its {what}, without its quantizers"
    return found


def _attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """The values below a module's attributes, with the attribute's name; without its parameters and submodules."""
    for name, value in vars(module).items():
        if name not in _TABLES:
            yield from ((name, item) for item in _inside(value, set()))


def _inside(value: Any, seen: set[int]) -> Iterator[Any]:
    """A value and what containers and partial functions in it hold."""
    if id(value) in seen:
        return
    seen.add(id(value))
    yield value
    below: Any = ()
    if isinstance(value, dict):
        below = value.values()
    elif isinstance(value, list | tuple | set | frozenset | collections.deque):
        below = value
    elif isinstance(value, functools.partial):
        below = (value.func, *value.args, *value.keywords.values())
    for item in below:
        yield from _inside(item, seen)


def _module_of(value: Any) -> Any:
    """The module that a value is, or is a method of."""
    return value.__self__ if isinstance(value, types.MethodType) else value


def _contents(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not bound yet
        return None


def _refers(function: types.FunctionType, modules: set[int]) -> bool:
    """Whether a function's closure or defaults hold a module of the network."""
    held = [_contents(cell) for cell in function.__closure__ or ()]
    held += [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    return any(id(_module_of(value)) in modules for value in held)


def _with_cells_of_its_own(function: types.FunctionType, modules: set[int]) -> types.FunctionType:
    """The same function; a cell that holds a module of the network is its own, all others are shared."""
    cells = tuple(
        types.CellType(_contents(cell)) if id(_module_of(_contents(cell))) in modules else cell
        for cell in function.__closure__ or ()
    )
    made = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, cells
    )
    made.__kwdefaults__ = function.__kwdefaults__
    functools.update_wrapper(made, function)
    return made


def _rebind(function: types.FunctionType, modules: set[int], memo: dict[int, Any]) -> None:
    """Gives a copied function the copies of the modules that it holds."""

    def of_copy(value: Any) -> Any:
        return copy.deepcopy(value, memo) if id(_module_of(value)) in modules else value

    for cell in function.__closure__ or ():
        if id(_module_of(_contents(cell))) in modules:
            cell.cell_contents = of_copy(_contents(cell))
    function.__defaults__ = function.__defaults__ and tuple(map(of_copy, function.__defaults__))
    if function.__kwdefaults__:
        function.__kwdefaults__ = {name: of_copy(value) for name, value in function.__kwdefaults__.items()}
