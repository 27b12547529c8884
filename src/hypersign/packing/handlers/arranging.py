"""Handlers of steps that only move numbers: shapes, orders, slices, joins, zeros between and around."""

import dataclasses
import math
from typing import Any

from hypersign.packing import steps
from hypersign.packing.folding import Flow, Folding, canonical, refusal

__all__ = ["concat", "constant", "permute", "slice_", "view", "zero_pad"]


def view(folding: Folding, name: str, module: steps.View, x: Flow) -> Flow:
    """Another shape; no node where the numbers in memory stay as they are."""
    shape = module.shape
    if shape == x.shape:
        return x
    if x.rows is None and x.is_vector and shape in ((x.channels,), (x.channels, 1), (x.channels, 1, 1)):
        return dataclasses.replace(x, rank=len(shape), flat=False)
    if x.rows is None and not x.flat and len(shape) in (2, 3) and shape[0] == x.channels and x.rank >= 2:
        y = folding.real(x)
        height, width = (1, shape[1]) if len(shape) == 2 else shape[1:]
        options = {"split": [y.height, y.width, y.channels], "order": [0, 1, 2], "shape": [height, width, y.channels]}
        node = folding.node("rearrange", folding.fresh(name), y.name, **options)
        return Flow(node, "real", height, width, y.channels, rank=len(shape))
    y = folding.in_rows(f"{name}.rows", x)
    assert y.rows is not None
    return folding.rearranged(name, y, y.rows, tuple(range(len(y.rows))), shape)


def permute(folding: Folding, name: str, module: steps.Permute, x: Flow) -> Flow:
    """Another order of dimensions; no node between channels first and channels last."""
    order, rank = module.order, len(module.order)
    if order == tuple(range(rank)):
        return x
    shape = tuple(x.shape[axis] for axis in order)
    if x.rows is None and not x.flat and order == (*range(1, rank), 0):
        return dataclasses.replace(x, rows=shape)
    if x.rows is None:  # memory has the axes height, width, channels
        split = (x.height, x.width, x.channels) if rank == 3 else (x.width, x.channels)
        memory = tuple((axis - 1) % rank for axis in order)
        return folding.rearranged(name, x, split, memory, shape)
    if rank <= 3 and order == (rank - 1, *range(rank - 1)):
        return dataclasses.replace(x, rows=None, rank=rank)
    return folding.rearranged(name, x, x.rows, order, shape)


def slice_(folding: Folding, name: str, module: steps.Slice, x: Flow) -> Flow:
    """A part along one dimension."""
    options = {"start": module.start, "stop": module.stop, "step": module.step}
    count = len(range(module.start, module.stop, module.step))
    y = folding.real(x)
    if y.rows is None and not y.flat:
        axis = 2 if module.dim == 0 else module.dim - 1 if y.rank == 3 else 1
        node = folding.node("slice", name, y.name, axis=axis, **options)
        sizes: dict[str, Any] = {("height", "width", "channels")[axis]: count}
        return dataclasses.replace(y, name=node, **sizes)
    y = folding.in_rows(f"{name}.rows", y)
    assert y.rows is not None
    shape = (*y.rows[: module.dim], count, *y.rows[module.dim + 1 :])
    if len(y.rows) <= 3:
        axis = 3 - len(y.rows) + module.dim
        node = folding.node("slice", name, y.name, axis=axis, **options)
        return Flow(node, "real", *canonical(shape), rows=shape)
    lead, rest = math.prod(y.rows[: module.dim]), math.prod(y.rows[module.dim + 1 :])
    y = folding.rearranged(f"{name}.rows", y, y.rows, tuple(range(len(y.rows))), (lead, y.rows[module.dim], rest))
    node = folding.node("slice", name, y.name, axis=1, **options)
    y = Flow(node, "real", lead, count, rest, rows=(lead, count, rest))
    return folding.rearranged(f"{name}.shape", y, (lead, count, rest), (0, 1, 2), shape)


def concat(folding: Folding, name: str, module: steps.Concat, *inputs: Flow) -> Flow:
    """Values behind one another."""
    flows = [folding.real(x) for x in inputs]
    first = flows[0]
    plain = all(x.rows is None and (x.rank, x.flat) == (first.rank, first.flat) for x in flows)
    vectors = all(len(x.shape) == 1 and x.is_vector for x in flows)
    if (plain and not first.flat and module.dim == 0) or vectors:
        if any((x.height, x.width) != (first.height, first.width) for x in flows):
            shapes = ", ".join(" x ".join(map(str, x.shape)) for x in flows)
            raise refusal(name, module, f"it takes values of one height and width; they are {shapes}")
        node = folding.node("concat", name, *(x.name for x in flows))
        return dataclasses.replace(first, name=node, channels=sum(x.channels for x in flows))
    lead = math.prod(first.shape[: module.dim])
    parts = []
    for x in flows:
        y = folding.in_rows(f"{name}.rows", x)
        assert y.rows is not None
        size = math.prod(y.rows[module.dim :])
        parts.append(folding.rearranged(f"{name}.rows", y, y.rows, tuple(range(len(y.rows))), (1, lead, size)))
    node = folding.node("concat", name, *(y.name for y in parts))
    sizes = (1, lead, sum(y.channels for y in parts))
    shape = list(first.shape)
    shape[module.dim] = sum(x.shape[module.dim] for x in flows)
    joined = Flow(node, "real", *sizes, rows=sizes)
    return folding.rearranged(f"{name}.shape", joined, sizes, (0, 1, 2), tuple(shape))


def constant(folding: Folding, name: str, module: steps.Constant, x: Flow) -> Flow:
    """Numbers of the network itself."""
    return folding.constant(name, module.value, tuple(module.value.shape))


def zero_pad(folding: Folding, name: str, module: steps.ZeroPad, x: Flow) -> Flow:
    """Zeros between and around pixels; binary levels become ternary, on bits."""
    x = folding.as_image(name, x)
    if x.flat or x.rank == 1:
        raise refusal(name, module, "only images and signals are padded")
    if x.kind != "levels" or x.waiting:
        x = folding.real(x)
    options = {"stride": list(module.stride), "before": list(module.before), "after": list(module.after)}
    node = folding.node("zero_pad2d", name, x.name, **options)
    height, width = (
        (n - 1) * step + 1 + before + after
        for n, step, before, after in zip(
            (x.height, x.width), module.stride, module.before, module.after, strict=True
        )
    )
    return dataclasses.replace(x, name=node, height=height, width=width, ternary=x.kind == "levels")
