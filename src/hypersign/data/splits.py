"""Splits of a data set: examples with their targets, and slices of them."""

import dataclasses

import torch
from torch import Tensor

from hypersign._checks import HypersignError
from hypersign._display import shown
from hypersign.tasks.base import is_whole

__all__ = ["Split", "TensorSplit"]


@shown
@dataclasses.dataclass(frozen=True, eq=False)
class TensorSplit:
    """Inputs of any kind with their targets.

    Args:
        inputs: the inputs, of shape `(N, ...)`; floating-point numbers become float32, the type of networks.
        targets: the targets, of shape `(N, ...)`; floating-point numbers become float32, and integers become int64.

    Raises:
        HypersignError: inputs and targets are not tensors of the same length.

    >>> split = TensorSplit(torch.zeros(10, 3, dtype=torch.float64), torch.zeros(10, 1))
    >>> len(split), len(split[2:5]), split.inputs.dtype
    (10, 3, torch.float32)
    """

    inputs: Tensor
    targets: Tensor
    unit = "examples"

    def __post_init__(self) -> None:
        for name in ("inputs", "targets"):
            values = getattr(self, name)
            if not isinstance(values, Tensor) or not values.dim():
                raise HypersignError(f"{name} must be a tensor of shape (N, ...); got {type(values).__name__}")
            if values.is_floating_point():
                object.__setattr__(self, name, values.to(torch.float32))
        if is_whole(self.targets):
            object.__setattr__(self, "targets", self.targets.long())
        if len(self.inputs) != len(self.targets):
            raise HypersignError(
                f"a split must hold one target per input; got {len(self.inputs)} inputs and "
                f"{len(self.targets)} targets"
            )

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, rows: slice) -> "TensorSplit":
        return TensorSplit(self.inputs[rows], self.targets[rows])


@shown
@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Images with their labels.

    Args:
        images: the images, uint8, of shape `(N, C, H, W)`.
        labels: the class numbers from 0, int64, of shape `(N,)`.

    Raises:
        HypersignError: images or labels have another type or shape, or a label is negative.

    Example:
        >>> split = Split(torch.zeros(10, 3, 8, 8, dtype=torch.uint8), torch.arange(10))
        >>> len(split), len(split[2:5])
        (10, 3)
    """

    images: Tensor
    labels: Tensor
    unit = "images"

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4 or 0 in self.images.shape[1:]:
            raise HypersignError(
                "images must be a uint8 tensor of shape (N, C, H, W); "
                f"got {self.images.dtype} of shape {tuple(self.images.shape)}"
            )
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise HypersignError(
                f"labels must be an int64 tensor of shape ({len(self.images)},), one for each image; "
                f"got {self.labels.dtype} of shape {tuple(self.labels.shape)}"
            )
        if len(self.labels) and self.labels.min() < 0:
            raise HypersignError(f"labels must be >= 0; got {int(self.labels.min())}")

    @property
    def inputs(self) -> Tensor:
        """The images."""
        return self.images

    @property
    def targets(self) -> Tensor:
        """The labels."""
        return self.labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: slice) -> "Split":
        return Split(self.images[rows], self.labels[rows])
