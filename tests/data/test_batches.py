import itertools

import numpy as np
import pytest
import torch

from hypersign._checks import HypersignError
from hypersign.data import Augmentation, Batches, Split

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def split(n=23, shape=(3, 6, 5)):
    """Images of random pixels; the label of image k is k."""
    images = torch.randint(256, (n, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Split(images, torch.arange(n))


DATA = split()


def make(data=DATA, size=5, pixel_range=(-1.0, 1.0), **options):
    return Batches(data, size, pixel_range=pixel_range, **options)


def joined(batches, epoch=0, start=0):
    """The epoch's images and labels as one pair."""
    return tuple(torch.cat(parts).cpu() for parts in zip(*batches.epoch(epoch, start), strict=True))


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_in_order_without_a_seed():
    data = split()
    batches = make(data)
    images, labels = joined(batches)
    assert [len(part) for _, part in batches] == [5, 5, 5, 5, 3]
    assert len(batches) == 5
    assert labels.tolist() == list(range(23))
    assert images.dtype == torch.float32
    assert np.allclose(images.numpy(), data.images.numpy() / 127.5 - 1, rtol=0, atol=3e-7)
    assert same(joined(batches, 1), (images, labels))


@pytest.mark.parametrize("pixel_range", [(-1.0, 1.0), (0.0, 1.0), (-2.0, 3.0)])
def test_scaling_is_linear_and_exact_at_both_ends(pixel_range):
    data = Split(torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16), torch.tensor([0]))
    images, _ = joined(make(data, 1, pixel_range))
    low, high = pixel_range
    assert (images.min().item(), images.max().item()) == pixel_range
    assert np.allclose(images.numpy().ravel(), low + np.arange(256) * (high - low) / 255, rtol=0, atol=4e-7)


def test_an_epoch_is_a_permutation_drawn_by_seed_and_number():
    data = split()
    batches = make(data, seed=3)
    images, labels = joined(batches, 2)
    assert sorted(labels.tolist()) == list(range(23))
    assert torch.equal(images, joined(make(data))[0][labels])
    assert same(joined(make(data, seed=3), 2), (images, labels))
    others = [joined(make(data, seed=seed), epoch)[1].tolist() for seed, epoch in ((3, 3), (4, 2), (2, 3), (3, 0))]
    assert labels.tolist() not in others
    assert len({tuple(order) for order in others}) == 4


def test_epochs_leave_the_global_generator_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    joined(make(seed=0, augmentation=Augmentation()))
    assert torch.equal(torch.rand(3), expected)


def test_permutations_are_uniform():
    """Where image 0 comes, over 600 epochs of 6 images: chi-squared with 5 degrees, 99.9 % below 20.5."""
    batches = make(split(6), 6, seed=0)
    places = [next(batches.epoch(number))[1].tolist().index(0) for number in range(600)]
    counts = np.bincount(places, minlength=6)
    assert ((counts - 100) ** 2 / 100).sum() < 20.5


def naive(image, top, left, flip, padding, border):
    """One image, pixel by pixel: pads, crops, flips."""
    _channels, height, width = image.shape
    result = np.empty_like(image)
    for channel, row, column in np.ndindex(*image.shape):
        y = row + top - padding
        x = (width - 1 - column if flip else column) + left - padding
        inside = 0 <= y < height and 0 <= x < width
        result[channel, row, column] = image[channel, y, x] if inside else border
    return result


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("augmentation", [Augmentation(True, 2), Augmentation(False, 1), Augmentation(True, 0)])
@pytest.mark.parametrize(("pixel_range", "border"), [((-1.0, 1.0), 128), ((0.0, 1.0), 0), ((-1.0, 0.0), 255)])
def test_each_image_is_one_of_its_naive_variants(device, augmentation, pixel_range, border):
    data = split(40)
    padding = augmentation.crop_padding
    plain = joined(make(data, pixel_range=pixel_range))[0]
    levels = torch.round((plain - pixel_range[0]) / (pixel_range[1] - pixel_range[0]) * 255)
    assert torch.equal(levels.to(torch.uint8), data.images)

    batches = make(data, 7, pixel_range, seed=1, augmentation=augmentation, device=device)
    images, labels = joined(batches, 4)
    pixels = torch.round((images - pixel_range[0]) / (pixel_range[1] - pixel_range[0]) * 255).byte().numpy()
    choices = list(
        itertools.product(
            range(2 * padding + 1), range(2 * padding + 1), (False, True) if augmentation.flip else (False,)
        )
    )
    met = set()
    for image, label in zip(pixels, labels.tolist(), strict=True):
        source = data.images[label].numpy()
        matches = [c for c in choices if np.array_equal(naive(source, *c, padding, border), image)]
        assert len(matches) == 1
        met.add(matches[0])
    assert len(met) > min(len(choices), 8) // 2


def test_flips_and_crops_are_equally_likely():
    """An image whose pixels are all different tells what was done to it: 18 cases, 5400 draws, chi-squared."""
    one = torch.arange(100, 116, dtype=torch.uint8).view(1, 1, 4, 4)
    data = Split(one.repeat(5400, 1, 1, 1), torch.zeros(5400, dtype=torch.int64))
    images, _ = joined(make(data, 5400, (0.0, 255.0), seed=0, augmentation=Augmentation(True, 1)))
    centre = images[:, 0, 1:3, 1:3].flatten(1).round().long()
    counts = np.unique(centre.numpy(), axis=0, return_counts=True)[1]
    assert len(counts) == 18
    assert ((counts - 300) ** 2 / 300).sum() < 40.8  # 17 degrees, 99.9 %


def test_the_border_is_nearly_zero_after_scaling():
    data = Split(torch.full((50, 1, 4, 4), 255, dtype=torch.uint8), torch.zeros(50, dtype=torch.int64))
    images, _ = joined(make(data, seed=0, augmentation=Augmentation(False, 2)))
    assert images.unique().tolist() == pytest.approx([1 / 255, 1.0], abs=1e-6)
    images, _ = joined(make(data, pixel_range=(0.0, 1.0), seed=0, augmentation=Augmentation(False, 2)))
    assert images.unique().tolist() == [0.0, 1.0]


AUGMENTED = {"seed": 9, "augmentation": Augmentation()}


@pytest.mark.parametrize("options", [{}, {"seed": 9}, AUGMENTED, {**AUGMENTED, "drop_last": True}])
@pytest.mark.parametrize("start", [0, 1, 3, 4])
def test_entering_an_epoch_later_gives_its_rest(options, start):
    batches = make(**options)
    whole = list(batches.epoch(3))
    rest = list(batches.epoch(3, start))
    assert len(rest) == len(whole) - start == len(batches) - start
    assert all(same(one, other) for one, other in zip(whole[start:], rest, strict=True))


@pytest.mark.parametrize("options", [{}, {"seed": 9}, AUGMENTED, {**AUGMENTED, "drop_last": True}])
@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("n", [23, 24, 13])
def test_the_parts_of_several_processes_are_the_batch_of_one(options, processes, n):
    data = split(n)
    alone = make(data, 6, **options)
    shared = [make(data, 6, rank=rank, processes=processes, **options) for rank in range(processes)]
    assert [len(part) for part in shared] == [len(alone)] * processes
    for whole, *parts in zip(alone.epoch(5), *(part.epoch(5) for part in shared), strict=True):
        assert same(whole, tuple(torch.cat(pieces) for pieces in zip(*parts, strict=True)))
        sizes = [len(labels) for _, labels in parts]
        assert max(sizes) - min(sizes) <= 1


def test_the_batch_size_does_not_change_the_epoch():
    assert same(joined(make(size=4, **AUGMENTED)), joined(make(size=23, **AUGMENTED)))


def test_drop_last():
    batches = make(seed=0, drop_last=True)
    assert [len(labels) for _, labels in batches] == [5] * 4
    assert len(make(split(20), drop_last=True)) == len(make(split(20))) == 4


def test_images_stored_in_another_order_of_axes():
    data = split()
    other = Split(data.images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2), data.labels)
    for augmentation in (None, Augmentation(), Augmentation(True, 0)):
        options = {"seed": 0, "augmentation": augmentation}
        assert same(joined(make(data, **options)), joined(make(other, **options)))


def test_the_split_stays_as_it_was():
    data = split()
    before = data.images.clone()
    for images, _ in make(data, seed=0, augmentation=Augmentation(True, 0)):
        images.zero_()
    for images, _ in make(data):
        images.zero_()
    assert torch.equal(data.images, before)


@pytest.mark.skipif("cuda" not in DEVICES, reason="no CUDA device")
def test_cuda_gives_the_same_bits():
    for options in ({}, {"seed": 9}, AUGMENTED):
        assert same(joined(make(**options)), joined(make(device="cuda", **options)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "batch_size must be an integer >= 1; got 0"),
        ({"size": 2.5}, "batch_size must be an integer"),
        ({"size": 24, "drop_last": True}, "at most the number of images, 23, .* got 24"),
        ({"size": 5, "processes": 2}, "multiple of the number of processes, 2; got 5"),
        ({"rank": 1}, "rank must be an integer from 0 to 0; got 1"),
        ({"processes": 0}, "processes must be an integer >= 1"),
        ({"seed": -1}, "seed must be an integer >= 0"),
        ({"augmentation": Augmentation()}, "augmentation needs a seed"),
        ({"pixel_range": (1.0, 0.0)}, "pixel_range must be .* low < high"),
        ({"data": split(4)[:0]}, "must hold at least one example to make batches; it is empty"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(HypersignError, match=message):
        make(**options)


def test_bad_epochs_are_refused_at_once():
    for arguments, message in (((-1,), "epoch's number"), ((0, 6), "from 0 to 5; got 6"), ((0, -1), "start")):
        with pytest.raises(HypersignError, match=message):
            make().epoch(*arguments)
    assert list(make().epoch(0, 5)) == []


def test_augmentation_checks_its_padding():
    with pytest.raises(HypersignError, match="crop_padding must be an integer >= 0; got -1"):
        Augmentation(crop_padding=-1)
