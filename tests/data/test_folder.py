import numpy as np
import pytest
import torch
from PIL import Image

from hypersign._checks import HypersignError
from hypersign.data import load


def picture(path, value=0, mode="L", size=(5, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode != "RGB" else (value, 10, 20)).save(path)


@pytest.fixture
def pets(tmp_path):
    for number in range(10):
        picture(tmp_path / "pets" / "cat" / f"{number}.png", number)
        picture(tmp_path / "pets" / "dog" / f"{number}.png", 100 + number)
    return tmp_path / "pets"


def test_class_folders_are_split_by_the_seed(pets):
    (pets / ".hidden").mkdir()
    (pets / "cat" / "._0.png").write_bytes(b"what macOS leaves on foreign disks")
    (pets / "cat" / "notes.txt").write_text("ignored")
    data = load(str(pets))
    assert data.name == "pets"
    assert data.classes == ("cat", "dog")
    assert data.shape == (1, 4, 5)
    assert torch.bincount(data.test.labels).tolist() == [2, 2]
    for split in (data.train, data.test):
        assert torch.equal(split.images[:, 0, 0, 0] >= 100, split.labels == 1)
    values = torch.cat([data.train.images, data.test.images])[:, 0, 0, 0]
    assert sorted(values.tolist()) == [*range(10), *range(100, 110)]
    assert load(str(pets)).sha256 == data.sha256 != load(str(pets), seed=1).sha256


def test_pixels_are_where_they_belong(tmp_path):
    pixels = np.random.default_rng(0).integers(256, size=(4, 3, 5, 3), dtype=np.uint8)  # (N, H, W, C)
    for number, image in enumerate(pixels):
        folder = tmp_path / ("train" if number < 2 else "test") / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / "x.png")
    data = load(str(tmp_path))
    for offset, split in ((0, data.train), (2, data.test)):
        for image, label in zip(split.images, split.labels, strict=True):
            assert np.array_equal(image.permute(1, 2, 0).numpy(), pixels[offset + label])


def test_a_relative_path_and_a_name_that_is_a_path(pets, monkeypatch):
    monkeypatch.chdir(pets)
    assert load(".").name == "pets"
    pets.rename(pets.parent / "digits")
    monkeypatch.chdir(pets.parent)
    assert load("digits").classes != ("cat", "dog")
    assert load("./digits").classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("mode", "size", "message"),
    [
        ("L", (5, 5), r"one size and mode: .*cat.0\.png is 5x4 L, .*dog.odd\.png is 5x5 L"),
        ("RGB", (5, 4), r"cat.0\.png is 5x4 L, .*dog.odd\.png is 5x4 RGB"),
        ("RGBA", (5, 4), r"dog.odd\.png: must be grey \(mode L\) or RGB; its mode is RGBA"),
    ],
)
def test_mixed_images_are_both_named(pets, mode, size, message):
    picture(pets / "dog" / "odd.png", 0, mode, size)
    with pytest.raises(HypersignError, match=message):
        load(str(pets))


def test_a_test_image_is_held_against_the_training_images(pets, tmp_path):
    whole = tmp_path / "whole"
    whole.mkdir()
    pets.rename(whole / "train")
    picture(whole / "test" / "cat" / "0.png", size=(9, 9))
    with pytest.raises(HypersignError, match=r"train.cat.0\.png is 5x4 L, .*test.cat.0\.png is 9x9 L"):
        load(str(whole))


@pytest.mark.parametrize("content", [b"", b"no image", None], ids=["empty", "text", "truncated"])
def test_an_image_that_cannot_be_read(pets, content):
    broken = pets / "dog" / "3.png"
    broken.write_bytes(content if content is not None else broken.read_bytes()[:45])
    with pytest.raises(HypersignError, match=r"dog.3\.png: cannot be read as an image"):
        load(str(pets))


def test_folders_that_are_no_data_set(pets, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(HypersignError, match=r"empty: must hold at least two folders, .* it holds 0"):
        load(str(tmp_path / "empty"))
    (pets / "dog").rename(tmp_path / "dog")
    with pytest.raises(HypersignError, match=r"at least two folders.* it holds 1"):
        load(str(pets))


def test_an_empty_class(pets):
    (pets / "eel").mkdir()
    with pytest.raises(HypersignError, match="eel: must hold at least one image"):
        load(str(pets))


def test_train_without_test_and_a_class_only_in_test(pets, tmp_path):
    whole = tmp_path / "whole"
    whole.mkdir()
    pets.rename(whole / "train")
    with pytest.raises(HypersignError, match="there is train/ but no test/"):
        load(str(whole))
    picture(whole / "test" / "eel" / "0.png")
    with pytest.raises(HypersignError, match="eel: every class in test/ must be in train/"):
        load(str(whole))


def test_a_class_called_test_is_a_class(pets):
    (pets / "dog").rename(pets / "test")
    assert load(str(pets)).classes == ("cat", "test")
