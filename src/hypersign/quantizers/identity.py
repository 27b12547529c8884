"""No quantization."""

from torch import Tensor, nn

from hypersign.quantizers.base import PackedForm, Quantizer
from hypersign.quantizers.surrogates import StraightThrough

__all__ = ["Identity"]


class Identity(Quantizer):
    """No quantization: returns its input. The default of every quantized layer.

    >>> import torch
    >>> Identity()(torch.tensor([0.25]))
    tensor([0.2500])
    """

    bits = 32
    scale = None
    offset = None
    surrogate = StraightThrough()  # of the class: an Identity has no children

    def __init__(self) -> None:
        nn.Module.__init__(self)

    def round(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Tensor:
        """`x` itself."""
        return x

    def packed_form(self, inputs: bool = False) -> PackedForm:
        return PackedForm("float")
