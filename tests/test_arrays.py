"""Arrays in .npy and .npz files; damaged ones are refused in one sentence."""

import io
import os
import struct
import zipfile

import numpy as np
import pytest

from hypersign._arrays import is_npy, is_npz, npz_names, open_npy, read_npz
from hypersign._checks import HypersignError
from hypersign.data import load_npz
from hypersign.hashing import open_vectors

X = np.random.default_rng(0).integers(0, 100, (12, 3, 5)).astype(np.int16)


@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 0, 2), (12, 15), (12, 3, 5)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_any_shape(tmp_path, shape, order):
    x = np.asarray(np.resize(X, shape), order=order)
    np.save(tmp_path / "x.npy", x)
    found = open_npy(tmp_path / "x.npy")
    assert (found.dtype, found.shape) == (x.dtype, x.shape)
    np.testing.assert_array_equal(found, x)
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "x.npz", x=x, y=X)
        assert npz_names(tmp_path / "x.npz") == ["x", "y"]
        (found,) = read_npz(tmp_path / "x.npz", ["x", "z"]).values()
        np.testing.assert_array_equal(found, x)
        assert found.flags.writeable


def test_the_beginning_says_what_a_file_is(tmp_path):
    np.save(tmp_path / "x.npy", X)
    np.savez(tmp_path / "x.npz", X)
    (tmp_path / "text").write_text("PK")
    os.mkfifo(tmp_path / "pipe")
    for name, npy, npz in (
        ("x.npy", 1, 0),
        ("x.npz", 0, 1),
        ("text", 0, 0),
        ("pipe", 0, 0),
        (".", 0, 0),
        ("no", 0, 0),
    ):
        assert (is_npy(tmp_path / name), is_npz(tmp_path / name)) == (npy, npz)


def zipped(content, **fields):
    """A .npz file of one array, with fields of its entries, in both of its lists, set to other numbers."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("x.npy", content)
    data = bytearray(stream.getvalue())
    central = data.index(b"PK\1\2")
    for name, (local, entry, form) in {
        "flags": (6, 8, "<H"),
        "method": (8, 10, "<H"),
        "needed": (4, 6, "<H"),
    }.items():
        if name in fields:
            struct.pack_into(form, data, local, fields[name])
            struct.pack_into(form, data, central + entry, fields[name])
    return bytes(data)


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (zipped(npy(X), flags=1), "must not be encrypted"),
        (zipped(npy(X), method=14), "must be stored or deflated"),
        (zipped(npy(X), method=99), "must be stored or deflated"),
        (zipped(npy(X), needed=200), "cannot be read as a .npz of plain arrays"),
        (zipped(npy(X)[:-1]), "'x' must hold 360 bytes of numbers after its header; it holds 359"),
        (zipped(b"text"), "'x' could not be read as a .npy file: it does not begin like one"),
        (zipped(npy(X))[:-1], "cannot be read as a .npz of plain arrays"),
        (npy(X), "must be a .npz of several arrays; it holds a single one"),
        (b"text", "cannot be read as a .npz of plain arrays"),
        (b"", "cannot be read as a .npz of plain arrays"),
    ],
)
def test_archives_that_cannot_be_read(tmp_path, data, message):
    (tmp_path / "x.npz").write_bytes(data)
    with pytest.raises(HypersignError, match=message):
        read_npz(tmp_path / "x.npz", npz_names(tmp_path / "x.npz"))


def test_a_pipe_is_no_array(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for read in (open_npy, npz_names):
        with pytest.raises(HypersignError, match="must be a regular file"):
            read(tmp_path / "pipe")


HEADERS = [
    "{'descr': '<f8', 'fortran_order': False, 'shape': (2, 3), }",
    "{'descr': '|b1', 'fortran_order': True, 'shape': (6,), }",
    "{'shape': (2, 3), 'fortran_order': False, 'descr': '<i4'}",
    "{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (2, 3), }",
]
WORDS = ["<f2", ">i8", "|u1", "<f16", "|O", "<U9", "<M8[ns]", "((((", "-" * 5000, "2,", "9" * 400, str(2**63), "True"]


def npy_file(mutations, seed):
    random = np.random.default_rng(seed)
    text = HEADERS[random.choice(4, p=[0.5, 0.3, 0.1, 0.1])]
    if random.random() < 0.5:
        at = sorted(random.integers(len(text), size=2))
        text = text[: at[0]] + str(random.choice(WORDS)) + text[at[1] if random.random() < 0.5 else at[0] :]
    if random.random() < 0.3:
        text = text.replace("<f8", str(random.choice(WORDS[:7]))).replace(
            "6,", str(mutations.NUMBERS[random.integers(16)])
        )
    text += " " * (-len(text) % 64)
    version = int(random.choice([1, 2, 3]))
    head = b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(text)) + text.encode()
    data = head + random.bytes(48)
    return mutations.damaged(random, data, len(head)) if random.random() < 0.4 else data


def test_damaged_npy(tmp_path, mutations):
    def read(path):
        found = open_npy(path)
        assert found.dtype.kind in "iubf"
        np.asarray(found).tobytes()
        if found.ndim == 2 and found.size:
            assert open_vectors(path).shape == found.shape

    count = mutations.cases(700)
    refused = mutations.refusals(tmp_path / "x.npy", lambda seed: npy_file(mutations, seed), read, count)
    assert count // 3 < refused < count


def test_damaged_npz(tmp_path, mutations):
    arrays = {"images": X.astype(np.uint8), "labels": np.arange(12) % 3}
    files = []
    for save in (np.savez, np.savez_compressed):
        stream = io.BytesIO()
        save(stream, **arrays)
        files.append(stream.getvalue())

    def make(seed):
        random = np.random.default_rng(seed)
        if seed % 4 == 0:
            stream = io.BytesIO()
            with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED if seed % 8 else zipfile.ZIP_STORED) as archive:
                archive.writestr("images.npy", npy_file(mutations, seed))
                archive.writestr("labels.npy", npy(arrays["labels"]))
            return stream.getvalue()
        data = files[seed % 2]
        if random.random() < 0.5:  # the list of entries, at the end
            return mutations.damaged(random, data[::-1], 200)[::-1]
        return mutations.damaged(random, data, len(data))

    count = mutations.cases(500)
    refused = mutations.refusals(tmp_path / "x.npz", make, lambda path: load_npz(path, seed=0), count)
    assert count // 3 < refused < count


@pytest.mark.parametrize("version", [0, 4, 255])
def test_versions_that_numpy_does_not_write(tmp_path, version):
    content = bytearray(npy(X))
    content[6] = version
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(HypersignError, match=f"its version is {version}, and 1 to 3 are read"):
        open_npy(tmp_path / "x.npy")
