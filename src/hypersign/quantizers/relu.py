"""What float networks have where binary ones have a sign."""

from torch import Tensor

from hypersign.quantizers.base import PackedForm, Quantizer
from hypersign.quantizers.surrogates import StraightThrough

__all__ = ["ReLU"]


class ReLU(Quantizer):
    """No quantization: max(x, 0), for the inputs of a float network.

    It makes the float twin of a binary network: the sign is the binary network's only non-linear function, so
    `Identity` in its place would leave layers that are linear together.

    It is no activation function of a network (`activation`), because the place differs. It acts where the sign acts:
    inside a residual block, so the shortcut keeps its negative numbers. `activation` follows the sum of both. Without
    shortcuts the two places are one.

    >>> import torch
    >>> ReLU()(torch.tensor([-0.5, 0.25]))
    tensor([0.0000, 0.2500])
    """

    bits = 32

    def __init__(self) -> None:
        super().__init__(surrogate=StraightThrough())

    def round(self, x: Tensor) -> Tensor:
        return x.relu()

    def forward(self, x: Tensor) -> Tensor:
        """max(x, 0)."""
        return x.relu()

    def packed_form(self, inputs: bool = False) -> PackedForm:
        return PackedForm("rectified") if inputs else super().packed_form()
