"""Quantized tables of vectors."""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from hypersign.layers.layer import QuantLayer
from hypersign.quantizers import Quantizer

__all__ = ["QuantEmbedding"]


class QuantEmbedding(QuantLayer, nn.Embedding):
    """torch's table of vectors with quantized weights: y = s[i] q_w(W)[i] + o[i] for token i.

    Each row of W is a filter. Tokens are not quantized, and the row of `padding_idx` stays as it is.

    Args:
        args, options: those of `torch.nn.Embedding`.
        weight_quantizer: the quantizer q_w; `Identity()` if None.

    >>> import torch
    >>> from hypersign.quantizers import Sign
    >>> table = QuantEmbedding(3, 2, padding_idx=0, weight_quantizer=Sign())
    >>> _ = table.load_state_dict({"weight": torch.tensor([[0.0, 0.0], [0.3, -0.1], [-2.0, 1.0]])})
    >>> table(torch.tensor([0, 1, 2])).tolist()
    [[0.0, 0.0], [1.0, -1.0], [-1.0, 1.0]]
    """

    def __init__(self, *args: Any, weight_quantizer: Quantizer | None = None, **options: Any) -> None:
        nn.Embedding.__init__(self, *args, **options)
        self.set_quantizers(None, weight_quantizer)

    def forward(self, input: Tensor) -> Tensor:
        """Maps tokens of any shape to vectors: one more dimension."""
        sparse = self.scale_grad_by_freq
        y = F.embedding(input, self.scaled_weight(), scale_grad_by_freq=sparse)
        if self.padding_idx is None:
            return y
        row = self.weight[self.padding_idx].detach()
        return y.where((input != self.padding_idx)[..., None], row)

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """The rows of `weight` for tokens `x`."""
        return F.embedding(x, weight)
