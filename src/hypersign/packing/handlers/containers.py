"""Handlers of layers that hold others, and of those that compute nothing in eval mode."""

import dataclasses
import math

import torch
from torch import Tensor, nn

from hypersign.models import BinaryBlock, Ensemble
from hypersign.packing.folding import Flow, Folding, Monotone, refusal
from hypersign.packing.handlers.arranging import view
from hypersign.packing.steps import View
from hypersign.packing.traced import child_name
from hypersign.quantizers import Quantizer

__all__ = ["block", "ensemble", "flatten", "identity", "quantizer", "sequence"]


def sequence(folding: Folding, name: str, module: nn.Sequential, x: Flow) -> Flow:
    """Folds layers one after another."""
    for child, part in module._modules.items():
        x = folding.module(child_name(name, child), part, x)
    return x


def block(folding: Folding, name: str, module: BinaryBlock, x: Flow) -> Flow:
    """A convolution with a real-valued shortcut around it."""
    x = folding.real(x)
    conv = folding.module(f"{name}.conv", module.conv, x)
    main = folding.real(folding.module(f"{name}.norm", module.norm, conv))
    shortcut = folding.real(folding.module(f"{name}.shortcut", module.shortcut, x))
    y = main.after(folding.node("add", f"{name}.add", main.name, shortcut.name))
    return y if module.act is None else folding.module(f"{name}.act", module.act, y)


def ensemble(folding: Folding, name: str, module: Ensemble, x: Flow) -> Flow:
    """Each member's output times its vote, and their sum."""
    total = None
    for i, member in enumerate(module.members):
        part = child_name(name, f"members.{i}")
        y = folding.module(part, member, x)
        y = folding.real(y.then(_times(f"{part}.vote", module.votes[i].expand(y.channels))))
        total = y if total is None else y.after(folding.node("add", child_name(name, f"sum{i}"), total.name, y.name))
    assert total is not None
    return total


def _times(name: str, scale: Tensor) -> Monotone:
    return Monotone(name, lambda v: v * scale, affine=lambda: (scale, torch.zeros_like(scale)))


def flatten(folding: Folding, name: str, module: nn.Flatten, x: Flow) -> Flow:
    """No node for a whole image: the next fully connected layer covers it."""
    shape = x.shape
    start, end = (axis - 1 if axis > 0 else axis + len(shape) for axis in (module.start_dim, module.end_dim))
    if not 0 <= start <= end < len(shape):
        raise refusal(name, module, "the first dimension, the batch, is not flattened")
    if x.rows is None and (start, end) == (0, len(shape) - 1):
        return dataclasses.replace(x, flat=True)
    whole = (*shape[:start], math.prod(shape[start : end + 1]), *shape[end + 1 :])
    return view(folding, name, View(whole), x)


def identity(folding: Folding, name: str, module: nn.Module, x: Flow) -> Flow:
    """No node: the layer changes nothing in eval mode."""
    return x


def quantizer(folding: Folding, name: str, module: Quantizer, x: Flow) -> Flow:
    """Levels, in a node of their own."""
    form = module.packed_form(inputs=True)
    if form.kind is None or not form.levels:
        raise refusal(name, module, form.reason or "it gives no levels")
    pooled = max((i for i, function in enumerate(x.waiting, start=1) if function.pool is not None), default=0)
    if pooled:
        done = folding.real(dataclasses.replace(x, waiting=x.waiting[:pooled]))
        x = dataclasses.replace(done, waiting=x.waiting[pooled:])
    return folding.levels(name, module, x, own=True)
