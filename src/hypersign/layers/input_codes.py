"""Codes of pixels with levels -1 and +1, so that the first layer needs no multiplications either."""

import torch
from torch import Tensor, nn

from hypersign._checks import HypersignError, check_int

__all__ = ["BitPlanes", "Thermometer"]


class _Code(nn.Module):
    """The base class of both codes: k channels of levels for each channel of pixels in `pixel_range`."""

    def __init__(self, k: int, pixel_range: tuple[float, float]) -> None:
        super().__init__()
        low, high = pixel_range
        if not low < high:
            raise HypersignError(f"pixel_range must be (low, high) with low < high; got {tuple(pixel_range)}")
        self.k, self.low, self.high = k, float(low), float(high)

    def extra_repr(self) -> str:
        return f"pixel_range=({self.low:g}, {self.high:g})"


class Thermometer(_Code):
    """Thermometer code: k levels per pixel, of which more are +1 the brighter the pixel is.

        y_j = sign(x - t_j),   t_j = low + (high - low) (j - 1/2)/k,   j = 1, ..., k

    The sum of a pixel's levels is the pixel itself, rounded to k + 1 values. A filter whose k weights for a pixel are
    equal therefore computes with the rounded pixel; other filters respond to a part of the pixel range. There is no
    gradient. Channel c becomes the channels c k, ..., c k + k - 1.

    Args:
        k: the number of levels per pixel.
        pixel_range: (low, high), the values of pixel 0 and pixel 255.

    Raises:
        HypersignError: k is below 1, or the range is empty.

    Source: Buckman et al. 2018, "Thermometer encoding: one hot way to resist adversarial examples".

    >>> Thermometer(4, (0.0, 1.0))(torch.tensor([0.0, 0.3, 1.0]).view(1, 1, 1, 3))[0, :, 0].T.tolist()
    [[-1.0, -1.0, -1.0, -1.0], [1.0, -1.0, -1.0, -1.0], [1.0, 1.0, 1.0, 1.0]]
    """

    def __init__(self, k: int, pixel_range: tuple[float, float]) -> None:
        super().__init__(check_int("levels of a thermometer code", k, min=1), pixel_range)

    def forward(self, x: Tensor) -> Tensor:
        """Codes images of shape (N, C, H, W) as levels of shape (N, C k, H, W)."""
        steps = (torch.arange(self.k, device=x.device) + 0.5) / self.k
        limits = (self.low + (self.high - self.low) * steps).to(x.dtype)
        levels = (x.detach()[:, :, None] >= limits.view(-1, 1, 1)).to(x.dtype)
        return (2 * levels - 1).flatten(1, 2)

    def extra_repr(self) -> str:
        return f"{self.k}, {super().extra_repr()}"


class BitPlanes(_Code):
    """Bit planes: the 8 bits of a pixel as 8 channels of -1 and +1, the most significant first.

        y_j = 2 [bit 7 - j of round(255 (x - low)/(high - low))] - 1,   j = 0, ..., 7

    Binary weights of the next layer give every plane the same importance, so the low planes of photographs act as
    noise. There is no gradient. Channel c becomes the channels 8 c, ..., 8 c + 7.

    Args:
        pixel_range: (low, high), the values of pixel 0 and pixel 255.

    Raises:
        HypersignError: the range is empty.

    Source: Dürichen et al. 2018, "Binary input layer: training of CNN models with binary input data".

    >>> planes = BitPlanes((0.0, 1.0))(torch.full((1, 1, 1, 1), 3 / 255))
    >>> planes.flatten().int().tolist()
    [-1, -1, -1, -1, -1, -1, 1, 1]
    """

    def __init__(self, pixel_range: tuple[float, float]) -> None:
        super().__init__(8, pixel_range)

    def forward(self, x: Tensor) -> Tensor:
        """Splits images of shape (N, C, H, W) into planes of shape (N, 8 C, H, W)."""
        pixels = (255 * (x.detach() - self.low) / (self.high - self.low)).round().clamp(0, 255).int()
        places = torch.arange(7, -1, -1, device=x.device).view(-1, 1, 1)
        bits = pixels[:, :, None] >> places & 1
        return (2 * bits - 1).to(x.dtype).flatten(1, 2)
