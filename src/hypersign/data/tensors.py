"""Your own data sets made of tensors: numbers to predict, sequences of tokens, vectors with classes."""

import dataclasses
import hashlib
from typing import Any

import numpy as np
from torch import Tensor

from hypersign._checks import HypersignError
from hypersign._display import shown
from hypersign.data.base import Data
from hypersign.data.batches import TensorBatches
from hypersign.data.splits import TensorSplit
from hypersign.tasks import Task, check_numbers
from hypersign.tasks.base import is_whole

__all__ = ["TensorData"]


@shown
@dataclasses.dataclass(frozen=True, eq=False)
class TensorData(Data):
    """A data set of tensors, for any task.

    Args:
        name: the name of the data set in tables and run folders.
        train: the training split.
        test: the test split; its inputs and targets have the same shapes as in `train`.
        task: the task of networks trained on the data set.
        classes: the names of the classes, or the tokens of the vocabulary, if targets are their numbers.

    Raises:
        HypersignError: a split is empty, the shapes differ, or a target is not a class.

    >>> from hypersign.tasks import Regression
    >>> import torch
    >>> x = torch.linspace(-1, 1, 100)[:, None]
    >>> data = TensorData("cube", TensorSplit(x, x**3), TensorSplit(x[::3], x[::3] ** 3), Regression(tolerance=0.1))
    >>> data.shape, len(data.test)
    ((1,), 34)
    """

    name: str
    train: TensorSplit
    test: TensorSplit
    task: Task
    classes: tuple[str, ...] = ()
    sha256: str = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        for name, split in (("training", self.train), ("test", self.test)):
            if not isinstance(split, TensorSplit) or not len(split):
                raise HypersignError(
                    f"{self.name}: the {name} split must be a TensorSplit with at least one example; "
                    f"got {'an empty one' if isinstance(split, TensorSplit) else type(split).__name__}"
                )
            if self.classes:
                check_numbers(f"{self.name}: targets of the {name} split", split.targets, len(self.classes))
        for name in ("inputs", "targets"):
            ours, theirs = (_kind(getattr(split, name)) for split in (self.train, self.test))
            if ours != theirs:
                raise HypersignError(
                    f"{self.name}: test {name} must be of the type and shape of training {name}, {ours}; got {theirs}"
                )
        object.__setattr__(self, "sha256", _fingerprint(self.train, self.test))

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input."""
        return tuple(self.train.inputs.shape[1:])

    def batches(self, split: TensorSplit, batch_size: int, **options: Any) -> TensorBatches:
        """The batches of a split; `options` are those of `TensorBatches`."""
        if options.pop("augmentation", None) is not None:
            raise HypersignError(f"flips and crops are for images; {self.name} holds none: leave them out")
        return TensorBatches(split, batch_size, **options)

    def facts(self) -> dict[str, Any]:
        """The task, in words, and whether inputs are tokens or other integers."""
        return {"task": repr(self.task), "integer_inputs": is_whole(self.train.inputs)}


def _kind(values: Tensor) -> str:
    return f"{values.dtype} {tuple(values.shape[1:])}"


def _fingerprint(*splits: TensorSplit) -> str:
    digest = hashlib.sha256()
    for split in splits:
        for values in (split.inputs, split.targets):
            digest.update(f"{values.dtype} {tuple(values.shape)}".encode())
            digest.update(np.ascontiguousarray(values.detach().cpu().numpy()).data)
    return digest.hexdigest()
