"""Finds layers whose weight is read without calling the layer, and copies networks with hooks.

A forward such as `F.linear(x, self.qkv.weight)` bypasses the layer `qkv`. If that layer were quantized, its
quantizers would never run. Such uses are found in the source code of the modules' methods.
"""

import ast
import copy
import functools
import inspect
import textwrap
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

__all__ = ["copy_module", "read_without_call"]

_HARMLESS = ("dtype", "device", "shape", "size", "ndim", "dim", "numel", "requires_grad", "is_cuda")
"""Attributes of a weight that can be read without computing with it."""

_SETUP = ("__init__", "reset_parameters", "_reset_parameters", "init_weights", "_init_weights", "extra_repr")


def copy_module(model: nn.Module) -> nn.Module:
    """Makes a deep copy of a network.

    torch refuses to copy tensors that a hook computes (weight_norm, spectral_norm, pruning). This function copies
    their values, and the hook computes them again.
    """
    computed = [v for m in model.modules() for v in vars(m).values() if isinstance(v, Tensor) and not v.is_leaf]
    return copy.deepcopy(model, {id(tensor): tensor.detach().clone() for tensor in computed})


def read_without_call(model: nn.Module) -> dict[nn.Module, str]:
    """Maps each layer of `model` whose weight is read without calling the layer to the reason in words.

    It finds only reads in a module's own source, such as `self.a.weight` or `self.blocks[i].fc.weight`. It leaves
    out layers that the same class also calls.
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
        for path in read - called:
            for layer in _resolved(module, path):
                found[layer] = f"{type(module).__name__} reads its weight without calling it"
    return found


@functools.cache
def _uses(kind: Any) -> tuple[frozenset[tuple[str, ...]], frozenset[tuple[str, ...]]]:
    """The paths below `self` whose weight a class's methods read, and those that they call; "*" is any index."""
    read, called = set(), set()
    for base in kind.__mro__:
        if base.__module__.startswith("torch.") or base is object:
            continue
        for name, method in vars(base).items():
            if name in _SETUP or not inspect.isfunction(method):
                continue
            try:
                tree = ast.parse(textwrap.dedent(inspect.getsource(method)))
            except (OSError, TypeError, SyntaxError):  # no source: made by exec, or in a shell
                continue
            parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
            for node in ast.walk(tree):
                if isinstance(node, ast.Call):
                    called |= {path for path in _path(node.func) if path}
                elif isinstance(node, ast.Attribute) and node.attr == "weight":
                    parent = parents.get(node)
                    if not (isinstance(parent, ast.Attribute) and parent.attr in _HARMLESS):
                        read |= {path for path in _path(node.value) if path}
    return frozenset(read), frozenset(called)


def _path(node: ast.expr) -> Iterator[tuple[str, ...]]:
    """The names of `self.a.b[i]` as ("a", "b", "*"); nothing for other expressions."""
    names: list[str] = []
    while isinstance(node, ast.Attribute | ast.Subscript):
        names.append(node.attr if isinstance(node, ast.Attribute) else "*")
        node = node.value
    if isinstance(node, ast.Name) and node.id == "self":
        yield tuple(reversed(names))


def _resolved(module: nn.Module, path: tuple[str, ...]) -> list[nn.Module]:
    """The submodules that match a path."""
    there = [module]
    for name in path:
        below = [item for parent in there for item in parent._modules.items()]
        there = [child for key, child in below if child is not None and name in ("*", key)]
    return there
