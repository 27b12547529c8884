import os

import numpy as np
import pytest

from hypersign._checks import HypersignError
from hypersign.hashing import open_vectors


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", [">f4", "<f8", "<f2", "u1", "<i8", "?"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 65), (63, 1), (64, 127)])
def test_reads_what_numpy_saves(tmp_path, shape, kind, order):
    x = np.asarray(np.random.default_rng(0).integers(0, 2, shape), kind, order=order)
    np.save(tmp_path / "x.npy", x)
    (tmp_path / "x.npy").rename(tmp_path / "any name")
    found = open_vectors(tmp_path / "any name")
    assert isinstance(found, np.memmap)
    assert found.dtype == x.dtype
    np.testing.assert_array_equal(found, x)


def header(text: str, version: int = 1) -> bytes:
    width = 2 if version == 1 else 4
    return b"\x93NUMPY" + bytes([version, 0]) + len(text).to_bytes(width, "little") + text.encode()


def described(descr: str = "'<f8'", fortran: str = "False", shape: str = "(2, 2)") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}"


def test_headers_of_every_version(tmp_path):
    for version in (1, 2, 3):
        (tmp_path / "x.npy").write_bytes(header(described(), version) + np.arange(4.0).tobytes())
        assert open_vectors(tmp_path / "x.npy").tolist() == [[0, 1], [2, 3]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "could not be read .* No such file"),
        (lambda path: path.mkdir(), "the folder .* must have files of vectors"),
        (lambda path: os.mkfifo(path), "must be a regular file"),
        (lambda path: path.write_bytes(b"text"), "does not begin like one; write it by numpy.save"),
        (lambda path: path.write_bytes(b""), "does not begin like one"),
        (lambda path: path.write_bytes(b"PK\3\4 an archive"), "cannot be read as a .npz of plain arrays"),
        (lambda path: np.save(path, np.ones(3)), r"must hold vectors, shape \(n, dimension\); its shape is \(3,\)"),
        (lambda path: np.save(path, np.ones((3, 0))), "holds no vectors"),
        (lambda path: np.save(path, np.ones((0, 3))), "holds no vectors"),
        (lambda path: np.save(path, np.ones((3, 4), complex)), "real numbers; its type is '<c16'"),
        (lambda path: np.save(path, np.array([["a"]])), "real numbers; its type is '<U1'"),
        (
            lambda path: np.save(path, np.array([[None]]), allow_pickle=True),
            "real numbers; its type is '|O'".replace("|", r"\|"),
        ),
        (lambda path: path.write_bytes(header(described()) + bytes(31)), "32 bytes .* it holds 31"),
        (lambda path: path.write_bytes(header(described(shape="(2, 2"))), "its header is not"),
        (lambda path: path.write_bytes(header(described(shape="(" + "-" * 5000 + "2, 2)"))), "its header is not"),
        (lambda path: path.write_bytes(header(described(shape="(9223372036854775808, 2)"))), "its shape is"),
        (lambda path: path.write_bytes(header(described(shape="(" + "9" * 18 + ", " + "9" * 18 + ")"))), "bytes"),
        (lambda path: path.write_bytes(header(described(shape="(2 2, 2)"))), "its shape is"),
        (lambda path: path.write_bytes(header(described(descr="'<f3'"))), "no type of numbers is called '<f3'"),
        (lambda path: path.write_bytes(header(described(descr="[('a', '<f8')]"))), "its header is not"),
        (lambda path: path.write_bytes(header(described())[:20]), "its header is not"),
    ],
)
def test_files_that_hold_no_vectors(tmp_path, make, message):
    make(tmp_path / "x.npy")
    with pytest.raises(HypersignError, match=message):
        open_vectors(tmp_path / "x.npy")
