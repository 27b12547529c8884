"""Finds layers whose weight is read without calling the layer, in the source code of modules.

A forward such as `F.linear(x, self.qkv.weight)` bypasses the layer `qkv`. If that layer were quantized, its
quantizers would never run.

Each method of a class is read with names for the layers below `self`: a path such as ("blocks", "*", "fc"), where "*"
stands for any index. Names follow assignments and loops, and arguments follow calls of methods and plain functions.
"""

import ast
import functools
import inspect
import textwrap
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import nn

__all__ = ["read_without_call"]

Path = tuple[str, ...]
Paths = frozenset[Path]
NONE: Paths = frozenset()
ITSELF: Paths = frozenset({()})

_HARMLESS = ("dtype", "device", "shape", "size", "ndim", "dim", "numel", "requires_grad", "is_cuda")
"""Attributes of a weight that can be read without computing with it."""

_SETUP = ("__init__", "reset_parameters", "_reset_parameters", "init_weights", "_init_weights", "extra_repr")

_MOST_FUNCTIONS = 500
"""Functions that are followed for one class; a bound for code that calls itself with ever longer paths."""


def read_without_call(model: nn.Module) -> dict[nn.Module, str]:
    """Maps each layer of `model` whose weight is read without calling the layer to the reason in words.

    It leaves out layers that the same class also calls, alone or inside another module. A weight that is reached in
    other ways than by the layer's name, for example through a function without source code, is not found.
    """
    found: dict[nn.Module, str] = {}
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention):
            for inner in module.modules():
                if inner is not module:
                    found[inner] = "inside MultiheadAttention, which reads these weights without calling the layer"
            continue
        if type(module).__module__.startswith("torch.nn."):
            continue
        kind: Any = type(module)
        read, called = _uses(kind)
        if not read:
            continue
        layers = {inner for path in called for layer in _resolved(module, path) for inner in layer.modules()}
        for path in read:
            for layer in _resolved(module, path):
                if layer not in layers and layer is not module:
                    found[layer] = f"{type(module).__name__} reads its weight without calling it"
    return found


@functools.cache
def _uses(kind: Any) -> tuple[Paths, Paths]:
    """The paths below `self` whose weight a class's methods read, and those that they call."""
    reader = _Reader(kind)
    for base in kind.__mro__:
        if base.__module__.startswith("torch.") or base is object:
            continue
        for name, method in vars(base).items():
            function = _function(method)
            if function and name not in _SETUP and not name.startswith(("_load", "load")):
                first = next(iter(inspect.signature(function).parameters), None)
                static = isinstance(method, staticmethod | classmethod)
                reader.follow(function, {} if static or first is None else {first: ITSELF})
    return frozenset(reader.read), frozenset(reader.called)


def _function(method: object) -> types.FunctionType | None:
    """The plain function behind a method, a property or a static method of a class."""
    if isinstance(method, property):
        method = method.fget
    if isinstance(method, staticmethod | classmethod):
        method = method.__func__
    return method if isinstance(method, types.FunctionType) else None


class _Reader:
    """Reads functions of one class; `read` and `called` grow."""

    def __init__(self, kind: type) -> None:
        self.kind = kind
        self.read: set[Path] = set()
        self.called: set[Path] = set()
        self.done: set[Any] = set()

    def follow(self, function: types.FunctionType, names: Mapping[str, Paths]) -> None:
        """Reads a function whose arguments `names` are modules at these paths."""
        key = function, tuple(sorted(names.items()))
        if key in self.done or len(self.done) >= _MOST_FUNCTIONS:
            return
        self.done.add(key)
        tree = _source(function)
        if tree is None:
            return
        known = dict(names)
        for _ in range(2):  # a name may be used above the line that binds it, in a loop
            for node in ast.walk(tree):
                for name, paths in _bindings(node, known):
                    known[name] = known.get(name, NONE) | paths
        harmless = {
            node.value for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr in _HARMLESS
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                self._call(node, known, function)
            elif isinstance(node, ast.Attribute) and node.attr == "weight" and node not in harmless:
                self.read |= _paths(node.value, known)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and known:
                # named_parameters, state_dict, get_parameter: a weight by its full name
                name = node.value.removesuffix(".weight")
                if name != node.value and name.replace(".", "").isidentifier():
                    self.read.add(tuple(name.split(".")))

    def _call(self, node: ast.Call, names: Mapping[str, Paths], function: types.FunctionType) -> None:
        paths = _paths(node.func, names)
        self.called |= paths - ITSELF
        arguments = [_paths(argument, names) for argument in node.args]
        options = {keyword.arg: _paths(keyword.value, names) for keyword in node.keywords if keyword.arg}
        if isinstance(node.func, ast.Attribute):
            if node.func.attr == "forward":  # self.a.forward(x) is a call; nn.Linear.forward(self.a, x) is none
                self.called |= _paths(node.func.value, names) - ITSELF
                if not paths and arguments:
                    self.read |= arguments[0]
            elif _paths(node.func.value, names) >= ITSELF:  # a method of this class
                method = inspect.getattr_static(self.kind, node.func.attr, None)
                called = _function(method)
                if called and not isinstance(method, property):
                    first = [] if isinstance(method, staticmethod) else [ITSELF]
                    self._follow_with(called, first + arguments, options)
                return
        if any(arguments) or any(options.values()):
            called = _function(_value(node.func, function))
            if called and not called.__module__.startswith("torch."):
                self._follow_with(called, arguments, options)

    def _follow_with(self, function: types.FunctionType, positional: list[Paths], options: dict[str, Paths]) -> None:
        names = dict(zip(inspect.signature(function).parameters, positional, strict=False)) | options
        self.follow(function, {name: paths for name, paths in names.items() if paths})


def _source(function: types.FunctionType) -> ast.AST | None:
    """The syntax of a function; None without source: made by exec, or in a shell."""
    try:
        return ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return None


def _value(node: ast.expr, function: types.FunctionType) -> object:
    """The object of a name, or of an attribute of a module or class, where `function` is defined; None if unknown."""
    if isinstance(node, ast.Attribute):
        owner = _value(node.value, function)
        known = isinstance(owner, type | types.ModuleType)
        return inspect.getattr_static(owner, node.attr, None) if known else None
    if not isinstance(node, ast.Name):
        return None
    if node.id in function.__code__.co_freevars:
        cell = (function.__closure__ or ())[function.__code__.co_freevars.index(node.id)]
        try:
            return cell.cell_contents
        except ValueError:  # not bound yet
            return None
    return function.__globals__.get(node.id)


def _paths(node: ast.expr, names: Mapping[str, Paths]) -> Paths:
    """The paths that an expression can stand for: `self.a.b[i]` is ("a", "b", "*")."""
    if isinstance(node, ast.Name):
        return names.get(node.id, NONE)
    if isinstance(node, ast.Attribute):
        base = _paths(node.value, names)
        return base if node.attr == "_modules" else _below(base, node.attr)
    if isinstance(node, ast.Subscript):
        return _below(_paths(node.value, names), _key(node.slice))
    if isinstance(node, ast.NamedExpr):
        return _paths(node.value, names)
    if isinstance(node, ast.IfExp):
        return _paths(node.body, names) | _paths(node.orelse, names)
    if isinstance(node, ast.Call) and node.args:
        function = node.func
        if isinstance(function, ast.Name) and function.id == "getattr" and len(node.args) > 1:
            return _below(_paths(node.args[0], names), _key(node.args[1]))
        if isinstance(function, ast.Attribute) and function.attr == "get_submodule":
            return _below(_paths(function.value, names), *_key(node.args[0]).split("."))
    return NONE


def _below(paths: Paths, *names: str) -> Paths:
    return frozenset((*path, *names) for path in paths)


def _key(node: ast.expr) -> str:
    """The name that an index stands for; "*" if it is computed or negative."""
    value = node.value if isinstance(node, ast.Constant) else None
    return str(value) if isinstance(value, str | int) else "*"


def _bindings(node: ast.AST, names: Mapping[str, Paths]) -> Iterator[tuple[str, Paths]]:
    """The names that a statement binds, with the paths that they then stand for."""
    if isinstance(node, ast.Assign):
        for target in node.targets:
            yield from _bound(target, node.value, names)
    elif isinstance(node, ast.AnnAssign | ast.NamedExpr) and node.value is not None:
        yield from _bound(node.target, node.value, names)
    elif isinstance(node, ast.For | ast.AsyncFor | ast.comprehension):
        yield from _looped(node.target, node.iter, names)


def _bound(target: ast.expr, value: ast.expr, names: Mapping[str, Paths]) -> Iterator[tuple[str, Paths]]:
    if isinstance(target, ast.Name):
        if paths := _paths(value, names):
            yield target.id, paths
    elif isinstance(target, ast.Tuple | ast.List):
        if isinstance(value, ast.Tuple | ast.List) and len(value.elts) == len(target.elts):
            for one, other in zip(target.elts, value.elts, strict=True):
                yield from _bound(one, other, names)
        else:
            yield from _looped(target, value, names)


def _looped(target: ast.expr, iterable: ast.expr, names: Mapping[str, Paths]) -> Iterator[tuple[str, Paths]]:
    """The names of a loop over modules: a container, or enumerate, zip, reversed, values, items, children of some."""
    pairs: Iterable[tuple[ast.expr, ast.expr]]
    if isinstance(iterable, ast.Call):
        word = iterable.func.id if isinstance(iterable.func, ast.Name) else getattr(iterable.func, "attr", "")
        parts = target.elts if isinstance(target, ast.Tuple | ast.List) else []
        if word == "zip" and len(parts) == len(iterable.args):
            pairs = zip(parts, iterable.args, strict=True)
        elif word == "enumerate" and len(parts) == 2 and iterable.args:
            pairs = [(parts[1], iterable.args[0])]
        elif word in ("items", "named_children") and len(parts) == 2 and isinstance(iterable.func, ast.Attribute):
            pairs = [(parts[1], iterable.func.value)]
        elif word in ("values", "children") and isinstance(iterable.func, ast.Attribute):
            pairs = [(target, iterable.func.value)]
        elif word in ("reversed", "list", "tuple", "iter") and iterable.args:
            pairs = [(target, iterable.args[0])]
        else:
            return
        for one, other in pairs:
            yield from _looped(one, other, names)
        return
    if isinstance(iterable, ast.Tuple | ast.List):
        found = frozenset().union(*(_paths(item, names) for item in iterable.elts))
    else:
        found = _below(_paths(iterable, names), "*")
    if found:
        for node in ast.walk(target):
            if isinstance(node, ast.Name):
                yield node.id, found


def _resolved(module: nn.Module, path: Path) -> list[nn.Module]:
    """The submodules that match a path."""
    there = [module]
    for name in path:
        below = [item for parent in there for item in parent._modules.items()]
        there = [child for key, child in below if child is not None and name in ("*", key)]
    return there
