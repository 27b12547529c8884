"""Batches that live where the training runs: uint8 there, gathered, augmented and scaled there.

The whole split is copied to the device once (CIFAR-10: 154 MB). An epoch's order, flips and crops are drawn
at once, on the CPU, from a generator seeded by (seed, epoch), and copied over; a batch is then eight small
kernels: one gather through computed positions does shuffling, crop and flip together.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from hypersign._checks import HypersignError, check_int
from hypersign.data.images import Split

__all__ = ["Augmentation", "Batches"]


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Random left-right flips, and random crops out of the image with a border around it.

    Args:
        flip: mirror each image with probability 1/2.
        crop_padding: width of the border, in pixels; the crop has the image's size, each of its
            `(2 crop_padding + 1)^2` positions is equally likely. The border is the pixel closest to 0 after
            scaling: 128 (which is 1/255) for the range (-1, 1), 0 for (0, 1).

    Raises:
        HypersignError: `crop_padding` is no integer >= 0.

    Source: K. He et al., Deep Residual Learning, 2016, section 4.2 (padding 4 and flips, for CIFAR-10).
    """

    flip: bool = True
    crop_padding: int = 4

    def __post_init__(self) -> None:
        check_int("crop_padding", self.crop_padding, least=0)


class Batches:
    """The batches of a split, epoch by epoch, scaled to `pixel_range`, on a device.

    A pixel p becomes `low + p (high - low) / 255`. What an epoch holds depends on the seed and the epoch's
    number alone: not on the device, nor on where the epoch is entered, nor on how many processes share it.

    Args:
        split: the images.
        batch_size: images in a batch, of all processes together.
        pixel_range: what pixel 0 and pixel 255 become.
        device: where batches are made.
        seed: shuffles each epoch anew; None keeps the order of the split.
        augmentation: what is done to each image at random; needs a seed.
        drop_last: leaves out a last batch that is not full.
        rank: this process's number; it gets the `rank`-th part of each batch, the parts in order being
            the whole batch.
        processes: how many processes share each batch. They must divide `batch_size`; a last batch that is
            not full is divided as evenly as it can be, and a process's part of it may be empty.

    Raises:
        HypersignError: an argument is out of its range, or no batch is left.

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
        self.batch_size = check_int("batch_size", batch_size, least=1)
        self.processes = check_int("processes", processes, least=1)
        self.rank = check_int("rank", rank, least=0, most=processes - 1)
        self.seed = None if seed is None else check_int("seed", seed, least=0)
        self.low, self.high = pixel_range
        self.device = torch.device(device)
        self.augmentation = augmentation
        if not self.low < self.high:
            raise HypersignError(f"pixel_range must be (low, high) with low < high; got {pixel_range}")
        if batch_size % processes:
            raise HypersignError(
                f"batch_size must be a multiple of the number of processes, {processes}; got {batch_size}"
            )
        if augmentation is not None and seed is None:
            raise HypersignError("augmentation needs a seed; got seed=None, which keeps images in order")
        if not len(split):
            raise HypersignError("a split to take batches of must hold at least one image; it is empty")
        if drop_last and len(split) < batch_size:
            raise HypersignError(
                f"batch_size must be at most the number of images, {len(split)}, where a last batch that is "
                f"not full is left out; got {batch_size}"
            )
        self._count = len(split)
        self._length = self._count // batch_size if drop_last else -(-self._count // batch_size)
        images = split.images.to(self.device).contiguous()
        padding = augmentation.crop_padding if augmentation else 0
        if padding:
            border = min(max(round(255 * -self.low / (self.high - self.low)), 0), 255)
            images = torch.nn.functional.pad(images, (padding,) * 4, value=border)
        self._images = images  # (N, C, H + 2 padding, W + 2 padding)
        self._labels = split.labels.to(self.device)
        self._shape = split.images.shape[1:]
        channels, height, width = (torch.arange(size, device=self.device) for size in self._shape)
        # From a crop's top row to each row of each channel, in the flat tensor of all images.
        self._rows = channels[:, None] * images[0, 0].numel() + height * images.shape[3]  # (C, H)
        self._columns = width

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        return self._length

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of epoch 0."""
        return self.epoch(0)

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the batches of an epoch, from the one with index `start` on.

        Each is a pair: images, float32, shape `(B, C, H, W)`, and labels, int64, shape `(B,)`.

        Raises:
            HypersignError: the number is negative, or `start` is not from 0 to the number of batches.
        """
        check_int("the epoch's number", number, least=0)
        check_int("start", start, least=0, most=len(self))
        return self._batches(number, start)

    def _batches(self, number: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        drawn = self._draw(number)
        for index in range(start, len(self)):
            first = index * self.batch_size
            size = min(self.batch_size, self._count - first)
            part = slice(first + size * self.rank // self.processes, first + size * (self.rank + 1) // self.processes)
            if drawn is None:
                yield self._scale(self._images[part]), self._labels[part]
                continue
            order, tops, lefts, steps = (values[part] for values in drawn)
            if self.augmentation is None:
                images = self._images.index_select(0, order)
            else:
                columns = torch.addcmul(lefts[:, None], steps[:, None], self._columns)  # (B, W)
                pixels = (tops[:, None, None] + self._rows)[..., None] + columns[:, None, None]  # (B, C, H, W)
                # one flat gather: four times faster on a CPU than indexing by four tensors
                images = self._images.view(-1).index_select(0, pixels.view(-1)).view(pixels.shape)
            yield self._scale(images), self._labels.index_select(0, order)

    def _scale(self, images: Tensor) -> Tensor:
        # Multiplied, then added, in two steps: the same bits on every device, and both ends of the range exact.
        return images.to(torch.float32).mul_((self.high - self.low) / 255).add_(self.low)

    def _draw(self, number: int) -> tuple[Tensor, ...] | None:
        """Draws an epoch: for each place in it the image, its crop's top row, and its first column and step.

        The top row is a position in the flat tensor of all images. A flipped crop is read from its last
        column backwards (step -1).
        """
        if self.seed is None:
            return None
        state = np.random.SeedSequence((self.seed, number)).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(state[0] >> 1))
        count, padding = self._count, self.augmentation.crop_padding if self.augmentation else 0
        order = torch.randperm(count, generator=generator)
        flips = torch.randint(2, (count,), generator=generator)
        tops, lefts = torch.randint(2 * padding + 1, (2, count), generator=generator)
        if self.augmentation is None or not self.augmentation.flip:
            flips = torch.zeros_like(flips)
        tops = order * self._images[0].numel() + tops * self._images.shape[3]
        lefts = lefts + flips * (self._shape[2] - 1)
        return tuple(values.to(self.device) for values in (order, tops, lefts, 1 - 2 * flips))
