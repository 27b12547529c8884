"""Handlers of steps that a packed network computes in float32."""

import dataclasses
import functools
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hypersign.packing import steps
from hypersign.packing.folding import Flow, Folding, Monotone, canonical, refusal

__all__ = [
    "add",
    "affine",
    "attention",
    "function",
    "group_norm",
    "layer_norm",
    "matmul",
    "mean",
    "multiply",
    "resize",
    "softmax",
]


def function(folding: Folding, name: str, module: steps.Function, x: Flow) -> Flow:
    """A function of each number."""
    y = folding.real(x)
    return y.after(folding.node("activation", name, y.name, function=module.name))


def softmax(folding: Folding, name: str, module: steps.Softmax, x: Flow) -> Flow:
    """The softmax over channels; another dimension moves there first."""
    if x.rows is None and not x.flat and module.dim == 0:
        y = folding.real(x)
        return y.after(folding.node("softmax", name, y.name, log=module.log))
    y = folding.in_rows(f"{name}.rows", x)
    assert y.rows is not None
    rank = len(y.rows)
    order = (*tuple(axis for axis in range(rank) if axis != module.dim), module.dim)
    y = folding.rearranged(f"{name}.order", y, y.rows, order, tuple(y.rows[axis] for axis in order))
    last = order == tuple(range(rank))
    y = y.after(folding.node("softmax", name if last else f"{name}.softmax", y.name, log=module.log))
    assert y.rows is not None
    back = tuple(order.index(axis) for axis in range(rank))
    return folding.rearranged(name, y, y.rows, back, tuple(y.rows[axis] for axis in back))


def _scale_and_shift(folding: Folding, node: str, module: Any, count: int) -> None:
    for role in ("scale", "shift"):
        value = getattr(module, role)
        folding.tensor(
            node,
            role,
            np.float32,
            (count,),
            functools.partial(lambda value: value.reshape(-1).contiguous().numpy(), value),
        )


def layer_norm(folding: Folding, name: str, module: steps.LayerNorm, x: Flow) -> Flow:
    """Over the last dimensions, which become the channels."""
    y = folding.in_rows(f"{name}.rows", x)
    shape = y.rows
    assert shape is not None
    axes = tuple(range(len(shape)))
    if module.axes > 1:
        lead = shape[: len(shape) - module.axes]
        y = folding.rearranged(f"{name}.flat", y, shape, axes, (*lead, math.prod(shape[len(lead) :])))
    count = y.channels
    y = y.after(folding.node("layer_norm", name, y.name, eps=float(module.eps), centre=module.centre))
    _scale_and_shift(folding, y.name, module, count)
    assert y.rows is not None
    return folding.rearranged(f"{name}.shape", y, y.rows, tuple(range(len(y.rows))), shape)


def group_norm(folding: Folding, name: str, module: steps.GroupNorm, x: Flow) -> Flow:
    """Over an image."""
    y = folding.real(folding.as_image(name, x))
    if y.flat and not y.is_vector:
        raise refusal(name, module, "a group norm cannot follow nn.Flatten()")
    node = folding.node("group_norm", name, y.name, groups=module.groups, eps=float(module.eps))
    _scale_and_shift(folding, node, module, y.channels)
    return y.after(node)


def resize(folding: Folding, name: str, module: steps.Resize, x: Flow) -> Flow:
    """An image of another size."""
    y = folding.real(folding.as_image(name, x))
    node = folding.node("resize2d", name, y.name, size=list(module.size), mode=module.mode)
    return dataclasses.replace(y, name=node, height=module.size[0], width=module.size[1])


def mean(folding: Folding, name: str, module: steps.Mean, x: Flow) -> Flow:
    """The mean or maximum over some dimensions: they become the width, which is pooled."""
    shape = x.shape
    kept = tuple(axis for axis in range(len(shape)) if axis not in module.dims)
    y = folding.in_rows(f"{name}.rows", x)
    assert y.rows is not None
    sizes = (1, math.prod(shape[axis] for axis in module.dims), math.prod(shape[axis] for axis in kept))
    y = folding.rearranged(
        f"{name}.order", y, y.rows, (*module.dims, *kept), tuple(shape[a] for a in (*module.dims, *kept))
    )
    assert y.rows is not None
    y = folding.rearranged(f"{name}.order", y, y.rows, tuple(range(len(y.rows))), sizes)
    window = {"size": [1, sizes[1]], "stride": [1, sizes[1]], "padding": [0, 0], "ceil_mode": False}
    if module.maximum:
        node = folding.node("max_pool2d", name, y.name, **window)
    else:
        node = folding.node("avg_pool2d", name, y.name, **window, count_include_pad=True)
    pooled = Flow(node, "real", 1, 1, sizes[2], rows=(sizes[2],))
    return folding.rearranged(f"{name}.shape", pooled, (sizes[2],), (0,), tuple(shape[axis] for axis in kept))


def _pair(folding: Folding, name: str, module: nn.Module, op: str, a: Flow, b: Flow) -> Flow:
    """A function of two values, number by number; sizes of 1 count as the other's."""
    a, b = folding.real(a), folding.real(b)
    alike = a.rows is None and b.rows is None and a.rank == b.rank and (a.flat == b.flat or a.is_vector)
    if not alike:
        a, b = folding.in_rows(f"{name}.rows", a), folding.in_rows(f"{name}.rows", b)
        shapes = [a.shape, b.shape]
        if a.shape != b.shape and max(map(len, shapes)) > 3:
            raise refusal(name, module, f"its values have the shapes {a.shape} and {b.shape}")
    sizes = []
    for m, n in zip((a.height, a.width, a.channels), (b.height, b.width, b.channels), strict=True):
        if m != n and 1 not in (m, n):
            raise refusal(name, module, f"it takes values of one shape; they are {a.shape} and {b.shape}")
        sizes.append(max(m, n))
    node = folding.node(op, name, a.name, b.name)
    wider = a if len(a.shape) >= len(b.shape) else b
    rows = None
    if wider.rows is not None:
        rows = tuple(torch.broadcast_shapes(a.shape, b.shape))
    return dataclasses.replace(wider, name=node, height=sizes[0], width=sizes[1], channels=sizes[2], rows=rows)


def add(folding: Folding, name: str, module: steps.Add, *inputs: Flow) -> Flow:
    """The sum of values, in torch's order."""
    total = inputs[0]
    for i, x in enumerate(inputs[1:], start=2):
        total = _pair(folding, name if i == len(inputs) else f"{name}.sum{i}", module, "add", total, x)
    return total


def multiply(folding: Folding, name: str, module: steps.Multiply, a: Flow, b: Flow) -> Flow:
    """The product of two values."""
    return _pair(folding, name, module, "multiply", a, b)


def _per_channel(value: Tensor, x: Flow) -> Tensor | None:
    """Numbers that broadcast against `x` as one per channel; None where they differ along other dimensions."""
    if value.numel() == 1:
        return value.reshape(1).expand(x.channels)
    shape = (*[1] * (len(x.shape) - value.dim()), *value.shape)
    if x.flat and not x.is_vector:
        return None
    axis = len(shape) - 1 if x.rows is not None else 0
    if len(shape) != len(x.shape) or math.prod(shape) != shape[axis] or shape[axis] != x.channels:
        return None
    return value.reshape(-1)


def affine(folding: Folding, name: str, module: steps.Affine, x: Flow) -> Flow:
    """Waits where it is one scale and shift per channel; else the numbers are a constant."""
    scale, shift = _per_channel(module.scale, x), _per_channel(module.shift, x)
    if scale is not None and shift is not None:
        return x.then(Monotone(name, lambda v: v * scale + shift, affine=lambda: (scale, shift)))
    if scale is None:
        constant = folding.constant(f"{name}.scale", module.scale, tuple(module.scale.shape))
        x = _pair(folding, f"{name}.scaled" if bool(module.shift.any()) else name, module, "multiply", x, constant)
    elif bool((scale != 1).any()):
        x = x.then(Monotone(f"{name}.scaled", lambda v: v * scale, affine=lambda: (scale, torch.zeros_like(scale))))
    if not bool(module.shift.any()):
        return x
    constant = folding.constant(f"{name}.shift", module.shift, tuple(module.shift.shape))
    return _pair(folding, name, module, "add", x, constant)


def matmul(folding: Folding, name: str, module: steps.MatMul, a: Flow, b: Flow) -> Flow:
    """The matrix product of two values, for each of their leading dimensions."""
    a, b = folding.in_rows(f"{name}.rows", a), folding.in_rows(f"{name}.rows", b)
    if len(a.shape) < 2 or a.shape[:-2] != b.shape[:-2]:
        raise refusal(
            name, module, f"it takes matrices with the same dimensions in front; got {a.shape} and {b.shape}"
        )
    shape = (*a.shape[:-1], b.shape[-1])
    return Flow(folding.node("matmul", name, a.name, b.name), "real", *canonical(shape), rows=shape)


def attention(folding: Folding, name: str, module: steps.Attention, *inputs: Flow) -> Flow:
    """Queries, keys and values; their leading dimensions are heads."""
    q, k, v = (folding.in_rows(f"{name}.rows", x) for x in inputs)
    if len(q.shape) < 2 or not q.shape[:-2] == k.shape[:-2] == v.shape[:-2]:
        raise refusal(name, module, f"its values must have as many heads; got {q.shape}, {k.shape} and {v.shape}")
    shape = (*q.shape[:-1], v.shape[-1])
    node = folding.node("attention", name, q.name, k.name, v.name, scale=module.scale, causal=module.causal)
    return Flow(node, "real", *canonical(shape), rows=shape)
