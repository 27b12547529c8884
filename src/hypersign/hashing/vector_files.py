"""Files of vectors: one reader for every command and function."""

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from hypersign._arrays import open_npy
from hypersign._checks import HypersignError

__all__ = ["open_vectors"]


def open_vectors(path: Path | str) -> NDArray[Any]:
    """Maps the vectors of a .npy file into memory, shape (n, dimension), without reading them.

    A mapped file may be larger than memory. It may be in C order or in Fortran order, which `numpy.save` writes for a
    transposed array and for `DataFrame.to_numpy()`. Its name may have any suffix.

    Raises:
        HypersignError: the file is missing, is no regular file, is no whole .npy file of real numbers, does not have
            two dimensions, or is empty.

    >>> import tempfile
    >>> import numpy as np
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/x.npy", np.ones((5, 3), np.float32))
    ...     open_vectors(f"{folder}/x.npy").shape
    (5, 3)
    """
    found = open_npy(Path(path))
    if found.ndim != 2:
        raise HypersignError(f"{path} must hold vectors, shape (n, dimension); its shape is {found.shape}")
    if not found.size:
        raise HypersignError(f"{path} holds no vectors: its shape is {found.shape}")
    return found
