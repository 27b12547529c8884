"""The fast Walsh-Hadamard transform, for NumPy arrays and torch tensors: n log2 n additions, no multiplication.

Plain butterflies over whole arrays. The rows of the matrix are in natural (Hadamard's) order:
H_1 = 1, H_2n = [[H_n, H_n], [H_n, -H_n]].
"""

from typing import Any, TypeVar

import numpy as np

from hypersign._checks import HypersignError

__all__ = ["hadamard_transform"]

Array = TypeVar("Array", bound=Any)


def hadamard_transform(x: Array, *, orthonormal: bool = True) -> Array:
    """Multiplies the last dimension of `x` by the Hadamard matrix of its size n, a power of two.

        y_i = s sum_j (-1)^popcount(i and j) x_j,   s = 1/sqrt(n) if orthonormal, else 1

    The matrix is symmetric; orthonormal, it is its own inverse. Without the factor, integers stay integers (mind
    that n of them add up). Gradients pass through torch tensors.

    Args:
        x: NumPy array or torch tensor, shape (..., n), on any device.
        orthonormal: divide by sqrt(n); `x` must then be of a floating type.

    Returns the transform, of the type and shape of `x`, which is left as it is.

    Raises:
        HypersignError: `x` has no dimension, n is no power of two, or integers were to be divided.

    Source: Yates 1937; Fino & Algazi 1976, "Unified matrix treatment of the fast Walsh-Hadamard transform".

    >>> hadamard_transform(np.array([1, 2, 3, 4]), orthonormal=False).tolist()
    [10, -2, -4, 0]
    """
    shape = tuple(x.shape)
    n = shape[-1] if shape else 0
    if n < 1 or n & (n - 1):
        raise HypersignError(f"a Hadamard transform needs a last dimension that is a power of two; got shape {shape}")
    floating = x.dtype.kind in "fc" if isinstance(x, np.ndarray) else x.is_floating_point() or x.is_complex()
    if orthonormal and not floating:
        raise HypersignError(
            f"an orthonormal Hadamard transform divides by sqrt(n) and so needs floating numbers; got {x.dtype}; "
            "convert them, or say orthonormal=False"
        )
    y: Any = x
    half = n // 2
    while half:
        # (..., blocks, 2, half): each pair of halves becomes its sum and its difference
        pairs = y.reshape(*shape[:-1], n // (2 * half), 2, half)
        y = _stack(pairs[..., 0, :] + pairs[..., 1, :], pairs[..., 0, :] - pairs[..., 1, :])
        half //= 2
    y = y.reshape(shape)
    if orthonormal:
        return y * n**-0.5
    return y if n > 1 else y + 0


def _stack(first: Any, second: Any) -> Any:
    if isinstance(first, np.ndarray):
        return np.stack((first, second), axis=-2)
    import torch

    return torch.stack((first, second), dim=-2)
