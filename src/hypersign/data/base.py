"""The contract of a data set: the attributes and methods that training and the commands need."""

from collections.abc import Iterator
from typing import Any, ClassVar, Protocol, Self

from torch import Tensor

from hypersign._checks import check_int
from hypersign.tasks import Task

__all__ = ["Data", "EpochBatches", "Examples"]


class Examples(Protocol):
    """One split of a data set; it has a length and can be sliced."""

    def __len__(self) -> int:
        """The number of examples."""

    def __getitem__(self, rows: slice, /) -> Self:
        """Some of the examples, as a split."""


class EpochBatches(Protocol):
    """The batches of a split: pairs of inputs and targets, each of shape `(N, ...)`, as in `Batches`.

    The content of an epoch depends only on its number and the seed, so a resumed run sees the same batches.
    """

    @property
    def decisions(self) -> int:
        """The number of targets in this process's part of a full batch."""

    def __len__(self) -> int:
        """The number of batches in an epoch."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of epoch 0."""

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an epoch, starting with the batch of index `start`."""


class Data:
    """A data set: a training split, a test split, and their task.

    A subclass has the attributes below, the property `shape` and the method `batches`. `ImageData` holds images, and
    `TensorData` holds tensors of any kind.

    Attributes:
        name: the name of the data set in tables and run folders.
        train: the training split.
        test: the test split.
        classes: the names of the classes, or the tokens of a vocabulary; empty if targets are neither.
        sha256: the hash of all examples, which identifies the data of a run.
        task: the task of networks trained on the data set.
        unit: what run folders call its examples: "images" or "examples".
    """

    name: str
    train: Any
    test: Any
    classes: tuple[str, ...]
    sha256: str
    task: Task
    unit: ClassVar[str] = "examples"

    def task_with(self, loss: str) -> Task:
        """The task, with the loss that a recipe names if the data do not fix one."""
        return self.task

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input, without the batch."""
        raise NotImplementedError

    def batches(self, split: Any, batch_size: int, **options: Any) -> EpochBatches:
        """The batches of a split of this data set.

        `options` are `device`, `seed`, `drop_last`, `rank`, `processes` and, for images, `augmentation`.

        >>> from hypersign.data import load
        >>> data = load("digits")
        >>> images, labels = next(iter(data.batches(data.test, 50)))
        >>> images.shape, labels.shape
        (torch.Size([50, 1, 8, 8]), torch.Size([50]))
        """
        raise NotImplementedError

    def facts(self) -> dict[str, Any]:
        """More facts about the data for a run folder, as plain JSON; name, hash, classes and sizes are there already.

        `integer_inputs` is true for tokens.
        """
        return {}

    def hold_out(self, n: int) -> tuple[Any, Any]:
        """Returns the training split without its last `n` examples, and these `n` examples for validation.

        Raises:
            HypersignError: `n` is negative or leaves nothing to train on.
        """
        check_int(f"the number of {self.unit} held out", n, min=0, max=len(self.train) - 1)
        border = len(self.train) - n
        return self.train[:border], self.train[border:]
