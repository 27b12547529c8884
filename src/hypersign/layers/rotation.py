"""Layers that rotate vectors, or the patches of an image."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hypersign._checks import HypersignError, check_int
from hypersign.rotations import HaarRotation, HadamardRotation

__all__ = ["PatchRotation", "Rotation"]


class Rotation(nn.Module):
    """Rotates the last dimension by a fixed R: y = R x. It has no parameters; its seed determines R.

    Put it before a quantized layer to quantize in another frame: sign(R x) is what `Rotated` computes before it
    rotates back. Dot products of two vectors are the same in both frames.

    Args:
        rotation: a `HadamardRotation` or `HaarRotation`; `x` has shape (..., rotation.dimension) and `y`
            (..., rotation.outputs).

    >>> import torch
    >>> from hypersign.quantizers import Sign
    >>> layer = nn.Sequential(Rotation(HadamardRotation(784)), Sign())
    >>> layer(torch.ones(1, 784)).shape
    torch.Size([1, 1024])
    """

    def __init__(self, rotation: HaarRotation | HadamardRotation) -> None:
        super().__init__()
        self.rotation = rotation

    def forward(self, x: Tensor) -> Tensor:
        """Computes R x for every vector in the last dimension."""
        return self.rotation(x)

    def extra_repr(self) -> str:
        return repr(self.rotation)


class PatchRotation(nn.Module):
    """Rotates the patches of an image, which are the inputs of a convolution.

        y[:, row, column] = R a,   a the patch of the padded image around (row, column)

    It is the first step of a generalized binarization of a convolution's inputs: quantize y, and multiply it with
    rotated weights in a 1 x 1 convolution. The result is the convolution of theta_R(a) = R' theta(R a). Pixels share
    one strong component, brightness; after the rotation every component contains a bit of everything. If R has more
    outputs D than the patch has pixels, it adds redundancy: the signs of D components describe a patch better the
    larger D is. A `HadamardRotation` needs only sign flips and additions (its `sums`) and no multiplication, except
    for a common factor; here it is computed as a convolution. The layer has no parameters; its seed determines R.

    Args:
        channels: the number C of channels of the images.
        size: the height and width of a patch, an odd number; zero padding keeps the size of the images.
        rotation: a `HadamardRotation` or `HaarRotation` of dimension C size^2.

    Shapes: x (N, C, H, W), y (N, rotation.outputs, H, W).

    Raises:
        HypersignError: the size is even, or the rotation has another type or dimension.

    Source: Anderson & Berg 2018 (arXiv 1705.07199), the generalized binarization transformation.

    >>> import torch
    >>> layer = PatchRotation(3, 3, HadamardRotation(27, outputs=64))
    >>> layer(torch.ones(1, 3, 8, 8)).shape
    torch.Size([1, 64, 8, 8])
    """

    def __init__(self, channels: int, size: int, rotation: HaarRotation | HadamardRotation) -> None:
        super().__init__()
        self.channels = check_int("channels", channels, min=1)
        self.size = check_int("the size of a patch", size, min=1)
        if size % 2 == 0:
            raise HypersignError(f"the size of a patch must be odd, so that padding keeps images' sizes; got {size}")
        if not isinstance(rotation, HaarRotation | HadamardRotation) or rotation.dimension != channels * size**2:
            raise HypersignError(
                f"rotation must be a HaarRotation or a HadamardRotation of dimension {channels * size**2}, the "
                f"numbers in a patch; got {rotation!r}"
            )
        self.rotation = rotation
        # A convolution with the rows of R is the fastest way to compute R a on processors with multipliers.
        self.register_buffer("rows", self._rows(), persistent=False)

    def _rows(self) -> Tensor:
        rows = self.rotation(torch.eye(self.rotation.dimension, device="cpu"))
        return rows.T.reshape(-1, self.channels, self.size, self.size).contiguous()

    def _apply(self, fn: Any, recurse: bool = True) -> "PatchRotation":
        # The buffer is in no state dict, so to_empty leaves it undefined after construction on the meta device.
        super()._apply(fn, recurse)
        self.rows.copy_(self._rows())  # type: ignore[operator]
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Computes R a for every patch a of the images x."""
        return F.conv2d(x, self.rows, padding=self.size // 2)  # type: ignore[arg-type]

    def extra_repr(self) -> str:
        return f"{self.channels}, {self.size}, {self.rotation!r}"
