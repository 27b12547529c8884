import hashlib

import numpy as np
import pytest
import torch

from hypersign._checks import HypersignError
from hypersign.data import ImageData, Split, fingerprint, stratified_split
from hypersign.data.arrays import Labelled, divide
from hypersign.data.images import image_data


def split(n=6, classes=3, size=(1, 2, 2)):
    images = torch.arange(n * int(np.prod(size))).remainder(256).to(torch.uint8).view(n, *size)
    return Split(images, torch.arange(n) % classes)


TRAIN, TEST = split(), split(3)


def data(train=TRAIN, test=TEST, classes=("a", "b", "c")):
    return ImageData("toy", train, test, classes, (0.0, 1.0), "")


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(2, 1, 2, 2), torch.zeros(2, dtype=torch.int64), "uint8 .* got torch.float32"),
        (torch.zeros(2, 2, 2, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), r"shape \(2, 2, 2\)"),
        (torch.zeros(2, 1, 0, 2, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), r"\(2, 1, 0, 2\)"),
        (torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.zeros(2), "int64 tensor of shape .2,."),
        (torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), r"of shape \(3,\)"),
        (torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, -1]), ">= 0; got -1"),
    ],
)
def test_split_refuses(images, labels, message):
    with pytest.raises(HypersignError, match=message):
        Split(images, labels)


def test_data_refuses_a_label_that_is_no_class():
    with pytest.raises(HypersignError, match=r"toy: labels of the training split .* 0 to 1, .* got 2"):
        data(classes=("a", "b"))
    with pytest.raises(HypersignError, match="toy: labels of the test split"):
        data(test=Split(torch.zeros(1, 1, 2, 2, dtype=torch.uint8), torch.tensor([3])))


def test_data_refuses_other_shapes_and_nothing():
    with pytest.raises(HypersignError, match=r"shape of the training images, \(1, 2, 2\); got \(3, 2, 2\)"):
        data(test=split(size=(3, 2, 2)))
    with pytest.raises(HypersignError, match="training split must hold at least one"):
        data(train=split(0))


def test_hold_out_takes_the_last():
    toy = data()
    train, validation = toy.hold_out(2)
    assert len(train) == 4
    assert torch.equal(validation.images, toy.train.images[4:])
    assert torch.equal(torch.cat([train.labels, validation.labels]), toy.train.labels)
    assert [len(part) for part in toy.hold_out(0)] == [6, 0]
    assert toy.shape == (1, 2, 2)


@pytest.mark.parametrize("n", [-1, 6, 7])
def test_hold_out_leaves_something(n):
    with pytest.raises(HypersignError, match=f"held out must be an integer from 0 to 5; got {n}"):
        data().hold_out(n)


def test_fingerprint_is_the_hash_of_shapes_pixels_and_labels():
    train, test = split(4), split(2)
    spelled = b"(4, 1, 2, 2)" + bytes(range(16)) + b"".join(bytes([k, *[0] * 7]) for k in (0, 1, 2, 0))
    spelled += b"(2, 1, 2, 2)" + bytes(range(8)) + bytes(8) + bytes([1, *[0] * 7])
    assert fingerprint(train, test) == hashlib.sha256(spelled).hexdigest()


def test_fingerprint_ignores_strides_and_sees_every_byte():
    whole = split(8)
    columns_first = Split(whole.images.transpose(2, 3).contiguous().transpose(2, 3), whole.labels)
    assert fingerprint(columns_first, whole) == fingerprint(whole, whole)
    changed = whole.images.clone()
    changed[7, 0, 1, 1] += 1
    seen = {fingerprint(whole, whole), fingerprint(whole[:7], whole), fingerprint(whole, whole[:7])}
    seen |= {
        fingerprint(Split(changed, whole.labels), whole),
        fingerprint(Split(whole.images, whole.labels + 1), whole),
    }
    assert len(seen) == 5


def test_stratified_split_keeps_proportions_and_is_seeded():
    labels = np.repeat([0, 1, 2, 3], [100, 50, 7, 2])
    train, test = stratified_split(labels, seed=3)
    assert sorted([*train, *test]) == list(range(159))
    assert np.bincount(labels[test]).tolist() == [20, 10, 1, 1]
    assert np.array_equal(test, stratified_split(labels, seed=3)[1])
    assert set(test) != set(stratified_split(labels, seed=4)[1])


def test_stratified_split_is_in_random_order():
    """The last images may be held out, the first inspected: both must be a mixture."""
    train, test = stratified_split(np.repeat([0, 1], 500), seed=0)
    for rows in (train, test):
        half = len(rows) // 2
        assert 0.3 < (rows[:half] < 500).mean() < 0.7
        assert (np.diff(rows) < 0).mean() > 0.3


def test_stratified_split_needs_two_of_each():
    with pytest.raises(HypersignError, match=r"at least 2 images .* class 1 has 1"):
        stratified_split(np.array([0, 0, 1]), seed=0)
    with pytest.raises(HypersignError, match="seed must be an integer >= 0"):
        stratified_split(np.array([0, 0]), seed=-1)


def test_divide_keeps_a_given_test_split_and_shuffles_both():
    train, test = (Labelled(part.images.numpy(), part.labels.numpy()) for part in (split(60), split(30)))
    divided = image_data(divide("own", [train, test], ("a", "b", "c"), 0, origin="x"))
    assert [len(divided.train), len(divided.test)] == [60, 30]
    rows = divided.train.images[:, 0, 0, 0].long() // 4
    assert sorted(rows.tolist()) == list(range(60))
    assert rows.tolist() != list(range(60))
    assert torch.equal(divided.train.labels, rows % 3)
    assert divided.pixel_range == (-1.0, 1.0)
    with pytest.raises(HypersignError, match=r"^x: a class must have at least 2"):
        divide("own", [Labelled(train.images[:3], train.labels[:3])], ("a", "b", "c"), 0, origin="x")
