import gzip
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from hypersign._checks import HypersignError
from hypersign.data import fingerprint, load
from hypersign.data.sources import SOURCES

GIVEN = os.environ.get("HYPERSIGN_DATA")
CACHE = os.environ.get("XDG_CACHE_HOME")
real_data = pytest.mark.skipif(not GIVEN, reason="HYPERSIGN_DATA names no folder of real data sets")


@pytest.mark.parametrize("name", ["mnist", "cifar-10"])
def test_an_official_set_keeps_its_split_and_order(name, tiny_mnist, tiny_cifar):
    tiny = {"mnist": tiny_mnist, "cifar-10": tiny_cifar}[name]
    data = load(name)
    train, test = tiny.source.images
    assert (len(data.train), len(data.test)) == (train, test)
    assert np.array_equal(torch.cat([data.train.images, data.test.images]).numpy(), tiny.images)
    assert torch.cat([data.train.labels, data.test.labels]).tolist() == tiny.labels.tolist()
    assert data.sha256 == fingerprint(data.train, data.test) == load(name, seed=7).sha256
    assert data.classes == SOURCES[name].classes
    assert data.pixel_range == {"mnist": (0.0, 1.0), "cifar-10": (-1.0, 1.0)}[name]


def test_images_and_labels_that_do_not_match(tiny_mnist, monkeypatch):
    """With the checksums right, a table that is wrong is still noticed."""
    files = tiny_mnist.source.files
    swapped = (files[0], files[3], files[2], files[1])
    monkeypatch.setitem(SOURCES, "mnist", type(tiny_mnist.source)(**{**vars(tiny_mnist.source), "files": swapped}))
    with pytest.raises(HypersignError, match=r"mnist: images .* expected"):
        load("mnist")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nope", "one of digits, mnist, .* 'nope' is none of these$"),
        ("CIFAR10", "did you mean cifar-10"),
        ("fashion_mnist", "did you mean fashion-mnist"),
        ("/no/such.npz", "none of these"),
    ],
)
def test_unknown_names(name, message):
    with pytest.raises(HypersignError, match=message):
        load(name)


def test_a_file_that_is_no_npz(tmp_path):
    (tmp_path / "x.csv").write_text("1,2")
    with pytest.raises(HypersignError, match=r"is not a .npz file"):
        load(str(tmp_path / "x.csv"))


@pytest.mark.parametrize("seed", [-1, 1.5, None])
def test_the_seed_is_checked_even_where_it_is_not_used(seed, tiny_mnist):
    with pytest.raises(HypersignError, match="seed must be an integer >= 0"):
        load("mnist", seed=seed)


def test_the_table_is_whole():
    for source in SOURCES.values():
        for stored in (*source.files, *source.archives):
            assert len(bytes.fromhex(stored.sha256)) == 32
        assert source.archives[0].address.startswith("http")
        assert source.archives[0].address.endswith("/")
        assert len(source.classes) == (100 if source.name == "cifar-100" else 10)
    sizes = {name: sum(file.size for file in source.files) for name, source in SOURCES.items()}
    assert sizes["cifar-10"] == 60000 * 3073
    assert sizes["mnist"] == sizes["fashion-mnist"] == 70000 * (28 * 28 + 1) + 2 * 16 + 2 * 8


@pytest.mark.real_data
@real_data
@pytest.mark.parametrize(
    ("name", "first", "mean", "sha256"),
    [
        ("mnist", [5, 0, 4, 1, 9], 33.318, "e0130f111822ed58"),
        ("fashion-mnist", [9, 0, 0, 3, 0], 72.940, "a06d3266794aa014"),
    ],
)
def test_real_idx_files(name, first, mean, sha256, home):
    """First labels and pixel means as published (0.1307 and 0.2860 of 255)."""
    if not (Path(GIVEN) / name).is_dir():
        pytest.skip(f"HYPERSIGN_DATA has no {name}")
    data = load(name)
    assert data.train.images.shape == (60000, 1, 28, 28)
    assert data.test.images.shape == (10000, 1, 28, 28)
    assert data.train.labels[:5].tolist() == first
    assert data.train.images.float().mean().item() == pytest.approx(mean, abs=1e-3)
    assert data.sha256.startswith(sha256)
    assert not home.exists()
    packed = (Path(GIVEN) / name / "train-images-idx3-ubyte.gz").read_bytes()
    assert gzip.decompress(packed)[16:800] == data.train.images[0].numpy().tobytes()


@pytest.mark.real_data
@real_data
def test_real_cifar_10(monkeypatch):
    """Means of the channels as published: .4914, .4822, .4465 of 255."""
    if not (Path(GIVEN) / "cifar-10").is_dir():
        pytest.skip("HYPERSIGN_DATA has no cifar-10")
    # the user's own cache: extraction takes 15 seconds, once
    monkeypatch.delenv("XDG_CACHE_HOME")
    if CACHE:
        monkeypatch.setenv("XDG_CACHE_HOME", CACHE)
    data = load("cifar-10")
    assert data.train.images.shape == (50000, 3, 32, 32)
    assert torch.bincount(data.train.labels).tolist() == [5000] * 10
    assert torch.bincount(data.test.labels).tolist() == [1000] * 10
    assert [data.classes[label] for label in data.train.labels[:3]] == ["frog", "truck", "truck"]
    means = [data.train.images[:, channel].float().mean().item() / 255 for channel in range(3)]
    assert means == pytest.approx([0.4914, 0.4822, 0.4465], abs=1e-4)
    assert data.sha256 == "088db17c50ddf8b6d4ae26627291c330435e1f1bd0f0f70db194a685896d7abd"
