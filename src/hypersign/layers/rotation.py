"""A rotation as a layer."""

from torch import Tensor, nn

from hypersign.rotations import HaarRotation, HadamardRotation

__all__ = ["Rotation"]


class Rotation(nn.Module):
    """Rotates the last dimension: y = R x, R fixed. It has no parameters, and its state is its seed.

    In front of a quantized layer it makes the layer's frame: sign(R x) is what `Rotated` binarizes to before it
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
