"""The contract of a data set: what training and the commands need to know of it."""

from collections.abc import Iterator
from typing import Any, ClassVar, Protocol, Self

from torch import Tensor

from hypersign._checks import check_int
from hypersign.tasks import Task

__all__ = ["Data", "EpochBatches", "Examples"]


class Examples(Protocol):
    """One split of a data set: it has a length and can be sliced."""

    def __len__(self) -> int:
        """The number of examples."""

    def __getitem__(self, rows: slice, /) -> Self:
        """Some of the examples, as a split."""


class EpochBatches(Protocol):
    """The batches of a split: pairs of inputs and targets, each `(N, ...)`, as `Batches` makes them.

    What an epoch holds depends on its number and the seed alone, so that a resumed run sees the same batches.
    """

    @property
    def decisions(self) -> int:
        """Targets in this process's part of a full batch."""

    def __len__(self) -> int:
        """The number of batches in an epoch."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of epoch 0."""

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an epoch from the one with index `start` on."""


class Data:
    """A data set: a training and a test split, and the task they are for.

    A subclass has the attributes below and the methods `shape` and `batches`. `ImageData` holds images, `TensorData`
    tensors of any kind.

    Attributes:
        name: its name in tables and run folders.
        train, test: the splits.
        classes: names of the classes, or the tokens of a vocabulary; empty where targets are no numbers of either.
        sha256: hash of all examples: which data a run has seen.
        task: the task of networks trained on it.
        unit: name of an example in run folders: "images", "examples".
    """

    name: str
    train: Any
    test: Any
    classes: tuple[str, ...]
    sha256: str
    task: Task
    unit: ClassVar[str] = "examples"

    def task_with(self, loss: str) -> Task:
        """The task with the loss that a recipe names, where the data leave that to the recipe."""
        return self.task

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input, without the batch."""
        raise NotImplementedError

    def batches(self, split: Any, batch_size: int, **options: Any) -> EpochBatches:
        """The batches of a split of these data; `options` are `device`, `seed`, `drop_last`, `rank`, `processes`
        and, for images, `augmentation`.

        >>> from hypersign.data import load
        >>> data = load("digits")
        >>> images, labels = next(iter(data.batches(data.test, 50)))
        >>> images.shape, labels.shape
        (torch.Size([50, 1, 8, 8]), torch.Size([50]))
        """
        raise NotImplementedError

    def facts(self) -> dict[str, Any]:
        """The facts about the data in a run folder, beside name, hash, classes and sizes; plain JSON.

        `integer_inputs` is true there for tokens.
        """
        return {}

    def hold_out(self, n: int) -> tuple[Any, Any]:
        """Returns the training split without its last `n` examples, and those `n` to validate on.

        Raises:
            HypersignError: `n` is negative or leaves nothing to train on.
        """
        check_int(f"the number of {self.unit} held out", n, min=0, max=len(self.train) - 1)
        border = len(self.train) - n
        return self.train[:border], self.train[border:]
