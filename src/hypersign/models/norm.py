"""Batch norm without a scale, as in the paper."""

from typing import Any

import torch
from torch import nn

from hypersign._checks import check_real

__all__ = ["ShiftBatchNorm1d", "ShiftBatchNorm2d", "batch_norm"]


class _Shift(nn.modules.batchnorm._BatchNorm):
    """Replaces the learned scale of a batch norm by a constant 1, which is neither saved nor trained."""

    def _fix_scale(self) -> None:
        del self.weight
        self.register_buffer("weight", torch.ones_like(self.bias), persistent=False)

    def _apply(self, fn: Any, recurse: bool = True) -> "_Shift":
        # The buffer is in no state dict, so to_empty leaves it undefined after construction on the meta device.
        super()._apply(fn, recurse)
        if "weight" in self._buffers:
            self.weight.data.fill_(1.0)
        return self

    def _check_input_dim(self, input: Any) -> None:
        if not isinstance(input, torch.fx.Proxy):  # torch.fx looks into layers that are not torch's, without numbers
            super()._check_input_dim(input)

    def reset_parameters(self) -> None:
        self.reset_running_stats()
        with torch.no_grad():
            self.weight.fill_(1.0)
            self.bias.fill_(0.0)


class ShiftBatchNorm1d(_Shift, nn.BatchNorm1d):
    """`nn.BatchNorm1d` that learns a shift and no scale: y = (x - mean) / sqrt(var + eps) + bias.

    A positive scale before a sign changes nothing, so the paper's networks have none.

    >>> [name for name, _ in ShiftBatchNorm1d(4).named_parameters()]
    ['bias']
    """

    def __init__(self, features: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__(features, eps, momentum)
        self._fix_scale()


class ShiftBatchNorm2d(_Shift, nn.BatchNorm2d):
    """`nn.BatchNorm2d` that learns a shift and no scale; see `ShiftBatchNorm1d`."""

    def __init__(self, features: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__(features, eps, momentum)
        self._fix_scale()


def check_norm(epsilon: float, momentum: float) -> None:
    """Raises HypersignError unless both numbers are valid for a batch norm."""
    check_real("norm_epsilon", epsilon, above=0)
    check_real("norm_momentum", momentum, above=0, max=1)


def batch_norm(dimensions: int, features: int, *, eps: float, momentum: float, scale: bool) -> nn.Module:
    """A batch norm for `features` channels of flat (`dimensions` 1) or image-shaped (2) activations."""
    if dimensions == 1:
        return (nn.BatchNorm1d if scale else ShiftBatchNorm1d)(features, eps=eps, momentum=momentum)
    return (nn.BatchNorm2d if scale else ShiftBatchNorm2d)(features, eps=eps, momentum=momentum)
