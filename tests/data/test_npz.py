import numpy as np
import pytest
import torch

from hypersign._checks import HypersignError
from hypersign.data import load

GREY = np.arange(10 * 4 * 5, dtype=np.uint8).reshape(10, 4, 5)
COLOUR = np.arange(10 * 3 * 4 * 5).astype(np.uint8).reshape(10, 3, 4, 5)
LABELS = np.arange(10) % 2


def save(path, **arrays):
    np.savez(path / "own.npz", **arrays)
    return str(path / "own.npz")


def rows(data, images):
    """Every image of the data set with its label, against the arrays it came from."""
    found = torch.cat([data.train.images, data.test.images])
    labels = torch.cat([data.train.labels, data.test.labels])
    ours = sorted(zip(labels.tolist(), found.flatten(1).tolist(), strict=True))
    return ours == sorted(zip(LABELS.tolist(), images.reshape(10, -1).tolist(), strict=True))


@pytest.mark.parametrize(
    ("stored", "nchw"),
    [
        (GREY, GREY[:, None]),
        (GREY[:, None], GREY[:, None]),
        (GREY[..., None], GREY[:, None]),
        (COLOUR, COLOUR),
        (COLOUR.transpose(0, 2, 3, 1), COLOUR),
    ],
    ids=["NHW", "N1HW", "NHW1", "NCHW", "NHWC"],
)
def test_every_layout_arrives_as_nchw(tmp_path, stored, nchw):
    data = load(save(tmp_path, images=stored, labels=LABELS))
    assert data.shape == nchw.shape[1:]
    assert rows(data, nchw)
    assert (len(data.train), len(data.test)) == (8, 2)
    assert data.name == "own"
    assert data.classes == ("0", "1")
    assert data.pixel_range == (-1.0, 1.0)


def test_a_given_test_split_is_kept(tmp_path):
    path = save(tmp_path, images=GREY, labels=LABELS.astype(np.uint8), test_images=GREY[:3], test_labels=LABELS[:3])
    data = load(path)
    assert (len(data.train), len(data.test)) == (10, 3)
    assert sorted(data.test.images[:, 0, 0, 0].tolist()) == [0, 20, 40]
    assert load(path, seed=0).sha256 == data.sha256 != load(path, seed=1).sha256


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": GREY}, "must hold the arrays images, labels; labels is missing among images"),
        ({"x": GREY, "y": LABELS}, "images and labels are missing among x, y"),
        ({"images": GREY, "labels": LABELS, "test_images": GREY}, "test_labels is missing"),
        ({"images": GREY.astype(float), "labels": LABELS}, "images must be uint8 .* got float64"),
        ({"images": GREY.reshape(10, -1), "labels": LABELS}, r"images must be uint8 .* shape \(10, 20\)"),
        ({"images": GREY.reshape(10, 2, 5, 2), "labels": LABELS}, "1 or 3 channels .* not neither"),
        ({"images": np.zeros((10, 3, 4, 1), np.uint8), "labels": LABELS}, "1 or 3 channels .* not both"),
        ({"images": GREY, "labels": LABELS[:9]}, r"one label for each of the 10 images, .* \(9,\)"),
        ({"images": GREY, "labels": LABELS / 2}, "labels must be integers .* float64"),
        ({"images": GREY, "labels": np.eye(10, dtype=int)}, r"labels must be integers .* \(10, 10\)"),
        ({"images": GREY, "labels": LABELS - 1}, "without a gap; 0 has no image, and the next label is -1"),
        ({"images": GREY, "labels": LABELS * 255}, "1 has no image, and the next label is 255"),
        ({"images": GREY[:0], "labels": LABELS[:0]}, "labels must hold at least one"),
        (
            {"images": GREY, "labels": LABELS, "test_images": GREY[:2], "test_labels": np.array([0, 2])},
            "test_labels must be from 0 to 1, as labels has 2 classes; got 2",
        ),
        (
            {"images": GREY, "labels": LABELS, "test_images": GREY[:2], "test_labels": np.array([0, -7])},
            r"own\.npz: test_labels must be from 0 to 1, .* got -7",
        ),
        (
            {"images": GREY, "labels": LABELS, "test_images": GREY[:, :2], "test_labels": LABELS},
            r"test images must have the shape of the training images, \(1, 4, 5\); got \(1, 2, 5\)",
        ),
        ({"images": GREY[:3], "labels": LABELS[:3]}, "class 1 has 1"),
    ],
)
def test_bad_arrays(tmp_path, arrays, message):
    with pytest.raises(HypersignError, match=message):
        load(save(tmp_path, **arrays))


def test_pickled_objects_are_refused(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    images = np.empty(2, object)
    images[:] = [Bomb(), Bomb()]
    with pytest.raises(HypersignError, match=r"own\.npz: 'images' must hold real numbers; its type is '\|O'"):
        load(save(tmp_path, images=images, labels=LABELS[:2]))


@pytest.mark.parametrize("keep", [0, 10, 400, -30])
def test_a_truncated_file(tmp_path, keep):
    path = save(tmp_path, images=GREY, labels=LABELS)
    data = (tmp_path / "own.npz").read_bytes()
    (tmp_path / "own.npz").write_bytes(data[:keep])
    with pytest.raises(HypersignError, match=r"own\.npz: cannot be read"):
        load(path)


def test_a_flipped_byte_is_noticed(tmp_path):
    path = save(tmp_path, images=GREY, labels=LABELS)
    data = bytearray((tmp_path / "own.npz").read_bytes())
    data[data.index(GREY.tobytes()) + 50] ^= 1
    (tmp_path / "own.npz").write_bytes(data)
    with pytest.raises(HypersignError, match=r"cannot be read .*CRC"):
        load(path)


def test_a_single_array_under_the_name(tmp_path):
    with (tmp_path / "own.npz").open("wb") as file:
        np.save(file, GREY)
    with pytest.raises(HypersignError, match="it holds a single one"):
        load(str(tmp_path / "own.npz"))


def test_arrays_that_unpack_to_far_more_than_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr("hypersign._arrays.MOST_UNPACKED", 1 << 20)
    labels = np.arange(2048) % 2
    arrays = {"images": np.zeros((2048, 32, 32), np.uint8), "labels": labels}
    np.savez_compressed(tmp_path / "bomb.npz", **arrays)
    with pytest.raises(
        HypersignError, match=r"bomb\.npz: .*at most 100 times the file's size; .* 2,1\d\d,\d{3} bytes"
    ):
        load(str(tmp_path / "bomb.npz"))
    np.savez(tmp_path / "plain.npz", **arrays)  # as large as it says
    assert len(load(str(tmp_path / "plain.npz")).classes) == 2
    arrays["images"] = np.random.default_rng(0).integers(0, 256, (2048, 32, 32)).astype(np.uint8)
    np.savez_compressed(tmp_path / "packed.npz", **arrays)
    assert len(load(str(tmp_path / "packed.npz")).classes) == 2
