"""Makes batches on the training device, after copying the whole split there once.

Images stay uint8 (CIFAR-10 takes 154 MB) and are gathered, augmented and scaled on the device. The order, flips and
crops of an epoch are drawn together on the CPU, from a generator seeded by (seed, epoch), and copied to the device. A
batch of images then needs eight small kernels: one gather through computed positions shuffles, crops and flips.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from hypersign._checks import HypersignError, check_int
from hypersign.data.splits import Split, TensorSplit

__all__ = ["Augmentation", "Batches", "Epochs", "TensorBatches"]


class Epochs:
    """Batches, epoch by epoch, of which each process makes its part. A subclass sets `_length` and has `_batches`.

    Args:
        batch_size, device, seed, rank, processes: as in `TensorBatches`.

    Raises:
        HypersignError: an argument is outside its range.
    """

    _length: int

    def __init__(
        self, batch_size: int, device: torch.device | str, seed: int | None, rank: int, processes: int
    ) -> None:
        self.batch_size = check_int("batch_size", batch_size, min=1)
        self.processes = check_int("processes", processes, min=1)
        self.rank = check_int("rank", rank, min=0, max=processes - 1)
        self.seed = None if seed is None else check_int("seed", seed, min=0)
        self.device = torch.device(device)
        if batch_size % processes:
            raise HypersignError(
                f"batch_size must be a multiple of the number of processes, {processes}; got {batch_size}"
            )

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        return self._length

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of epoch 0."""
        return self.epoch(0)

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the batches of an epoch, pairs of inputs and targets, starting with the batch of index `start`.

        Raises:
            HypersignError: the number is negative, or `start` is not between 0 and the number of batches.
        """
        check_int("the epoch's number", number, min=0)
        check_int("start", start, min=0, max=len(self))
        return self._batches(number, start)

    def _batches(self, number: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        raise NotImplementedError

    def _generator(self, seed: int, number: int) -> torch.Generator:
        """The random numbers of an epoch, on the CPU."""
        state = np.random.SeedSequence((seed, number)).generate_state(1, np.uint64)
        return torch.Generator().manual_seed(int(state[0] >> 1))

    def _part(self, size: int) -> slice:
        """This process's rows of a batch of `size` rows."""
        return slice(size * self.rank // self.processes, size * (self.rank + 1) // self.processes)


class TensorBatches(Epochs):
    """The batches of a split of tensors, epoch by epoch, on a device.

    An epoch depends only on the seed and the epoch's number: not on the device, the batch it starts at, or the number
    of processes.

    Args:
        split: the examples.
        batch_size: the number of examples per batch, over all processes.
        device: the device that makes the batches.
        seed: the seed that shuffles each epoch; None keeps the order of the split.
        drop_last: leave out the last batch if it is not full.
        rank: the number of this process. It gets the `rank`-th part of each batch; all parts in order are the batch.
        processes: the number of processes that share each batch; it must divide `batch_size`. A last batch that is
            not full is divided as evenly as possible, and the part of a process may be empty.

    Raises:
        HypersignError: an argument is outside its range, or there is no batch.

    >>> split = TensorSplit(torch.arange(5.0)[:, None], torch.arange(5))
    >>> [targets.tolist() for inputs, targets in TensorBatches(split, 2)]
    [[0, 1], [2, 3], [4]]
    """

    def __init__(
        self,
        split: Split | TensorSplit,
        batch_size: int,
        *,
        device: torch.device | str = "cpu",
        seed: int | None = None,
        drop_last: bool = False,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        super().__init__(batch_size, device, seed, rank, processes)
        if not len(split):
            raise HypersignError("a split must hold at least one example to make batches; it is empty")
        if drop_last and len(split) < batch_size:
            raise HypersignError(
                f"batch_size must be at most the number of {split.unit}, {len(split)}, where a last batch that is "
                f"not full is left out; got {batch_size}"
            )
        self._count = len(split)
        self._length = self._count // batch_size if drop_last else -(-self._count // batch_size)
        self._inputs = split.inputs.to(self.device).contiguous()
        self._targets = split.targets.to(self.device)

    @property
    def decisions(self) -> int:
        """The number of targets in this process's part of a full batch, which sums over a batch are divided by."""
        return self.batch_size // self.processes * self._targets[0].numel()

    def _batches(self, number: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        drawn = None if self.seed is None else self._draw(self._generator(self.seed, number))
        for index in range(start, len(self)):
            first = index * self.batch_size
            own = self._part(min(self.batch_size, self._count - first))
            part = slice(first + own.start, first + own.stop)
            if drawn is None:
                yield self._in_order(part)
            else:
                yield self._shuffled(*(values[part] for values in drawn))

    def _draw(self, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Draws the order of the examples in an epoch, on the device."""
        return (torch.randperm(self._count, generator=generator).to(self.device),)

    def _in_order(self, part: slice) -> tuple[Tensor, Tensor]:
        return self._inputs[part], self._targets[part]

    def _shuffled(self, order: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
        return self._inputs.index_select(0, order), self._targets.index_select(0, order)


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Random left-right flips, and random crops from the image with a border around it.

    Args:
        flip: mirror each image with probability 1/2.
        crop_padding: the width of the border, in pixels. The crop has the size of the image, and each of its
            `(2 crop_padding + 1)^2` positions is equally likely. The border has the pixel closest to 0 after scaling:
            128 (which is 1/255) for the range (-1, 1), and 0 for (0, 1).

    Raises:
        HypersignError: `crop_padding` is not an integer >= 0.

    Source: K. He et al., Deep Residual Learning, 2016, section 4.2 (padding 4 and flips, for CIFAR-10).
    """

    flip: bool = True
    crop_padding: int = 4

    def __post_init__(self) -> None:
        check_int("crop_padding", self.crop_padding, min=0)


class Batches(TensorBatches):
    """The batches of a split of images, epoch by epoch, scaled to `pixel_range`, on a device.

    A pixel p becomes `low + p (high - low) / 255`. Each batch is a pair: images, float32 of shape `(B, C, H, W)`, and
    labels, int64 of shape `(B,)`.

    Args:
        split: the images.
        batch_size: the number of images per batch, over all processes.
        pixel_range: the values of pixel 0 and pixel 255.
        augmentation: the random changes of each image; they need a seed.
        device, seed, drop_last, rank, processes: the same as in `TensorBatches`.

    Raises:
        HypersignError: an argument is outside its range, or there is no batch.

    Example:
        >>> split = Split(torch.full((5, 1, 2, 2), 255, dtype=torch.uint8), torch.arange(5))
        >>> batches = Batches(split, 2, pixel_range=(-1.0, 1.0))
        >>> [(images.shape[0], images.max().item(), labels.tolist()) for images, labels in batches]
        [(2, 1.0, [0, 1]), (2, 1.0, [2, 3]), (1, 1.0, [4])]
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        *,
        pixel_range: tuple[float, float],
        device: torch.device | str = "cpu",
        seed: int | None = None,
        augmentation: Augmentation | None = None,
        drop_last: bool = False,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        super().__init__(
            split, batch_size, device=device, seed=seed, drop_last=drop_last, rank=rank, processes=processes
        )
        self.low, self.high = pixel_range
        self.augmentation = augmentation
        if not self.low < self.high:
            raise HypersignError(f"pixel_range must be (low, high) with low < high; got {pixel_range}")
        if augmentation is not None and seed is None:
            raise HypersignError("augmentation needs a seed; got seed=None, which keeps images in order")
        padding = augmentation.crop_padding if augmentation else 0
        if padding:
            border = min(max(round(255 * -self.low / (self.high - self.low)), 0), 255)
            # (N, C, H + 2 padding, W + 2 padding)
            self._inputs = torch.nn.functional.pad(self._inputs, (padding,) * 4, value=border)
        self._shape = split.images.shape[1:]
        channels, height, width = (torch.arange(size, device=self.device) for size in self._shape)
        # Offsets from a crop's top row to each row of each channel, in the flat tensor of all images.
        self._rows = channels[:, None] * self._inputs[0, 0].numel() + height * self._inputs.shape[3]  # (C, H)
        self._columns = width

    def _in_order(self, part: slice) -> tuple[Tensor, Tensor]:
        return self._scale(self._inputs[part]), self._targets[part]

    def _shuffled(self, order: Tensor, *places: Tensor) -> tuple[Tensor, Tensor]:
        if self.augmentation is None:
            images = self._inputs.index_select(0, order)
        else:
            tops, lefts, steps = places
            columns = torch.addcmul(lefts[:, None], steps[:, None], self._columns)  # (B, W)
            pixels = (tops[:, None, None] + self._rows)[..., None] + columns[:, None, None]  # (B, C, H, W)
            # On a CPU one flat gather is four times faster than indexing with four tensors.
            images = self._inputs.view(-1).index_select(0, pixels.view(-1)).view(pixels.shape)
        return self._scale(images), self._targets.index_select(0, order)

    def _scale(self, images: Tensor) -> Tensor:
        # Two steps, multiply and then add, give the same bits on every device, and both ends of the range exactly.
        return images.to(torch.float32).mul_((self.high - self.low) / 255).add_(self.low)

    def _draw(self, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Draws the order of the images in an epoch, and each crop's top row, first column and step.

        The top row is a position in the flat tensor of all images. A flipped crop is read backwards from its last
        column (step -1).
        """
        (order,) = super()._draw(generator)
        count, padding = self._count, self.augmentation.crop_padding if self.augmentation else 0
        flips = torch.randint(2, (count,), generator=generator)
        tops, lefts = torch.randint(2 * padding + 1, (2, count), generator=generator)
        if self.augmentation is None or not self.augmentation.flip:
            flips = torch.zeros_like(flips)
        tops = order.cpu() * self._inputs[0].numel() + tops * self._inputs.shape[3]
        lefts = lefts + flips * (self._shape[2] - 1)
        return order, *(values.to(self.device) for values in (tops, lefts, 1 - 2 * flips))
