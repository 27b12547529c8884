import numpy as np
import sklearn.datasets
import torch

from hypersign.data import digits, load


def test_digits_are_scikit_learns_scaled_to_bytes():
    data = load("digits", seed=5)
    bunch = sklearn.datasets.load_digits()
    levels = torch.cat([data.train.images, data.test.images]).double() * 16 / 255
    assert (levels - levels.round()).abs().max() <= 16 / 255 / 2
    labels = torch.cat([data.train.labels, data.test.labels])
    ours = sorted(zip(labels.tolist(), levels.round().to(int).flatten(1).tolist(), strict=True))
    theirs = sorted(zip(bunch.target.tolist(), bunch.data.astype(int).tolist(), strict=True))
    assert ours == theirs
    assert data.train.images.max() == 255


def test_digits_split_is_stratified_and_as_stated():
    data = load("digits", seed=5)
    counts = torch.bincount(data.train.labels) + torch.bincount(data.test.labels)
    assert torch.bincount(data.test.labels).tolist() == [round(0.2 * n) for n in counts.tolist()]
    assert (len(data.train), len(data.test)) == digits.IMAGES
    assert data.shape == digits.SHAPE
    assert data.classes == digits.CLASSES
    assert data.pixel_range == (0.0, 1.0)


def test_digits_depend_on_the_seed_alone():
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    torch_state = torch.get_rng_state()
    assert load("digits", seed=1).sha256 == load("digits", seed=1).sha256 != load("digits", seed=2).sha256
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_state)


def test_strides_are_those_of_the_shape():
    """torch convolves, and rounds, in another way where the channels seem to come last."""
    assert load("digits").train.images.stride() == (64, 64, 8, 1)
    assert load("digits").test.images.stride() == (64, 64, 8, 1)
