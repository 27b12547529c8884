import struct

import numpy as np
import pytest

from hypersign._checks import HypersignError
from hypersign.data.formats import read_cifar, read_idx

MATRIX = bytes([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3]) + bytes([1, 2, 3, 40, 50, 255])


def test_idx_of_a_matrix_written_by_hand():
    assert read_idx(MATRIX, "m").tolist() == [[1, 2, 3], [40, 50, 255]]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "must begin with .* it begins with nothing"),
        (b"\0\0", "must begin with"),
        (MATRIX[:9], "must begin with"),
        (b"\0\0\x08\0", "must begin with"),
        (b"\0\0\x0d\1" + struct.pack(">I", 1) + b"\0\0\0\0", "must begin with .* 00 00 0d"),
        (b"\x1f\x8b\x08\0 still packed", "must begin with .* 1f 8b 08"),
        (MATRIX[:-1], r"6 bytes must follow the header, which states shape \(2, 3\); 5 do"),
        (MATRIX + b"\0", "6 bytes must follow .* 7 do"),
        (b"\0\0\x08\3" + b"\xff" * 12 + b"\0", "must follow the header"),
    ],
)
def test_idx_that_is_none(data, message):
    with pytest.raises(HypersignError, match=rf"^some\.idx: .*{message}"):
        read_idx(data, "some.idx")


def test_cifar_planes_are_red_green_blue_row_by_row():
    planes = [[channel * 80 + row for row in range(32) for _ in range(32)] for channel in range(3)]
    record = bytes([7]) + bytes(planes[0]) + bytes(planes[1]) + bytes(planes[2])
    images, labels = read_cifar(bytes([9]) + bytes(3072) + record, "two.bin")
    assert labels.tolist() == [9, 7]
    assert not images[0].any()
    for channel, row, column in ((0, 0, 0), (1, 5, 31), (2, 31, 7)):
        assert images[1, channel, row, column] == channel * 80 + row
    assert np.array_equal(images[1, 2, :, 0], np.arange(160, 192))


def test_cifar_100_has_a_coarse_label_before_the_class():
    record = bytes([19, 99]) + bytes(range(256)) * 12
    images, labels = read_cifar(bytes([0, 3]) + bytes(3072) + record, "two.bin", classes=100, label_bytes=2)
    assert labels.tolist() == [3, 99]
    assert images[1].reshape(-1)[:3].tolist() == [0, 1, 2]
    for data, message in (
        (record[:-1], "a CIFAR-100 file must hold whole records of 3074 bytes; it has 3073"),
        (bytes([0, 100]) + bytes(3072), "labels must be from 0 to 99; record 0 has 100"),
    ):
        with pytest.raises(HypersignError, match=message):
            read_cifar(data, "x.bin", classes=100, label_bytes=2)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "whole records of 3073 bytes; it has 0"),
        (bytes(3072), "it has 3072"),
        (bytes(6147), "it has 6147"),
        (bytes(3073) + b"\x0a" + bytes(3072), "labels must be from 0 to 9; record 1 has 10"),
    ],
)
def test_cifar_that_is_none(data, message):
    with pytest.raises(HypersignError, match=rf"^x\.bin: .*{message}"):
        read_cifar(data, "x.bin")
