"""Decodes the two binary formats of the official data sets: idx (MNIST) and CIFAR's records."""

import math
import struct

import numpy as np

from hypersign._checks import HypersignError

__all__ = ["read_idx", "read_cifar"]


def read_idx(data: bytes, origin: str) -> np.ndarray:
    """Returns the array of bytes in an idx file.

    An idx file begins with four bytes `0 0 8 n` (8: unsigned bytes, n: the number of dimensions) and n big-endian
    uint32 lengths. Then come the values; the last dimension varies fastest.

    Args:
        data: the content of the whole file, uncompressed.
        origin: the path of the file, for messages.

    Returns:
        A uint8 array with the shape that the file states.

    Raises:
        HypersignError: the data is not an idx file of unsigned bytes, or does not have the length that it states.

    Example:
        >>> read_idx(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 8, 9]), "three.idx")
        array([7, 8, 9], dtype=uint8)

    Source: Y. LeCun, C. Cortes, C. Burges, The MNIST database, "File formats".
    """
    start = 4 + 4 * data[3] if len(data) >= 4 else 4
    if data[:3] != b"\0\0\x08" or not data[3] or len(data) < start:
        raise HypersignError(
            f"{origin}: an idx file of unsigned bytes must begin with the bytes 00 00 08, its number of "
            f"dimensions and their lengths; it begins with {data[:16].hex(' ') or 'nothing'}; replace the file"
        )
    shape = struct.unpack(f">{data[3]}I", data[4:start])
    if len(data) - start != math.prod(shape):
        raise HypersignError(
            f"{origin}: {math.prod(shape)} bytes must follow the header, which states shape {shape}; "
            f"{len(data) - start} do; replace the file"
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def read_cifar(data: bytes, origin: str, *, classes: int = 10, label_bytes: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Returns the images and the labels of one file of the binary version of CIFAR-10 or CIFAR-100.

    A record is the labels, then 3072 bytes: the red, green and blue plane of a 32x32 image, row by row. CIFAR-10 has
    one label of one byte. CIFAR-100 has two: the coarse one of 20, which is left out, and the fine one of 100.

    Args:
        data: the content of the whole file.
        origin: the path of the file, for messages.
        classes: the number of classes.
        label_bytes: the number of labels; the last is the class.

    Returns:
        The images, uint8 of shape `(N, 3, 32, 32)`, and the labels, uint8 of shape `(N,)`.

    Raises:
        HypersignError: the data is empty, does not consist of whole records, or has a label that is no class.

    Example:
        >>> images, labels = read_cifar(bytes([6]) + bytes(3072), "one.bin")
        >>> images.shape, labels
        ((1, 3, 32, 32), array([6], dtype=uint8))

    Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
    """
    size = label_bytes + 3072
    if not data or len(data) % size:
        raise HypersignError(
            f"{origin}: a CIFAR-{classes} file must hold whole records of {size} bytes; "
            f"it has {len(data)} bytes; replace the file"
        )
    records = np.frombuffer(data, np.uint8).reshape(-1, size)
    labels = records[:, label_bytes - 1]
    if labels.max() >= classes:
        first = int(np.argmax(labels >= classes))
        raise HypersignError(
            f"{origin}: labels must be from 0 to {classes - 1}; record {first} has {labels[first]}; replace the file"
        )
    return records[:, label_bytes:].reshape(-1, 3, 32, 32), labels
