"""Rotations as layers: of vectors, and of the patches of an image."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hypersign._checks import HypersignError, check_int
from hypersign.rotations import HaarRotation, HadamardRotation

__all__ = ["PatchRotation", "Rotation"]


class Rotation(nn.Module):
    """Rotates the last dimension: y = R x, R fixed. It has no parameters, and its state is its seed.

    Before a quantized layer it sets the layer's frame: sign(R x) is what `Rotated` binarizes to before it
    turns back, and products of two vectors are the same in both frames.

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
        """R x for every vector in the last dimension."""
        return self.rotation(x)

    def extra_repr(self) -> str:
        return repr(self.rotation)


class PatchRotation(nn.Module):
    """Rotates the patches of an image: what a convolution meets, in another frame.

        y[:, row, column] = R a,   a the patch of the padded image around (row, column)

    The first step of a generalized binarization of a convolution's inputs: quantized, and multiplied with weights
    of the same frame by a 1 x 1 convolution, it is the convolution of theta_R(a) = R' theta(R a). Pixels share one
    strong component, brightness; after the rotation every component has some of everything. To more outputs than
    the patch has pixels, R adds redundancy: the signs of D components tell more of a patch the larger D is. With a
    `HadamardRotation` it takes sign flips and additions (its `sums`) and no multiplication, but for a common
    factor; here it is computed as a convolution. It has no parameters, and no state but the seed.

    Args:
        channels: C of the images.
        size: height and width of a patch, odd; images are padded with zeros so that their size stays.
        rotation: a `HadamardRotation` or `HaarRotation` of dimension C size^2.

    Shapes: x (N, C, H, W), y (N, rotation.outputs, H, W).

    Raises:
        HypersignError: an even size, or a rotation of another kind or dimension.

    Source: Anderson & Berg 2018 (arXiv 1705.07199), the generalized binarization transformation.

    >>> import torch
    >>> layer = PatchRotation(3, 3, HadamardRotation(27, outputs=64))
    >>> layer(torch.ones(1, 3, 8, 8)).shape
    torch.Size([1, 64, 8, 8])
    """

    def __init__(self, channels: int, size: int, rotation: HaarRotation | HadamardRotation) -> None:
        super().__init__()
        self.channels = check_int("channels", channels, least=1)
        self.size = check_int("the size of a patch", size, least=1)
        if size % 2 == 0:
            raise HypersignError(f"the size of a patch must be odd, so that padding keeps images' sizes; got {size}")
        if not isinstance(rotation, HaarRotation | HadamardRotation) or rotation.dimension != channels * size**2:
            raise HypersignError(
                f"rotation must be a HaarRotation or a HadamardRotation of dimension {channels * size**2}, the "
                f"numbers in a patch; got {rotation!r}"
            )
        self.rotation = rotation
        # As a convolution with the rows of R, which on processors with multipliers is the fastest way to R a.
        self.register_buffer("rows", self._rows(), persistent=False)

    def _rows(self) -> Tensor:
        rows = self.rotation(torch.eye(self.rotation.dimension, device="cpu"))
        return rows.T.reshape(-1, self.channels, self.size, self.size).contiguous()

    def _apply(self, fn: Any, recurse: bool = True) -> "PatchRotation":
        # The buffer is in no state dict: to_empty, after a construction on the meta device, leaves it undefined.
        super()._apply(fn, recurse)
        self.rows.copy_(self._rows())  # type: ignore[operator]
        return self

    def forward(self, x: Tensor) -> Tensor:
        """R a for every patch a of the images x."""
        return F.conv2d(x, self.rows, padding=self.size // 2)  # type: ignore[arg-type]

    def extra_repr(self) -> str:
        return f"{self.channels}, {self.size}, {self.rotation!r}"
