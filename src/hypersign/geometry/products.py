"""The four kinds of dot product of a quantized layer, and the families that compare two of them."""

import torch
from torch import Tensor

from hypersign.layers import QuantLayer

__all__ = ["FAMILIES", "LayerProducts", "filters_last"]

FAMILIES = {
    "weights_binarized": ("a_b.w_b", "a_b.w_c"),
    "activations_binarized": ("a_c.w_b", "a_b.w_b"),
    "both_binarized": ("a_c.w_c", "a_b.w_b"),
}
"""Family -> (x, y). A kind of product names its inputs, then its weights: c for continuous, b for quantized."""


class LayerProducts:
    """Computes a layer's dot products from the input of its forward pass."""

    def __init__(self, layer: QuantLayer) -> None:
        self.layer = layer
        self.latent = filters_last(layer.weight.detach())
        self.levels = self.latent
        if layer.quantizes_weights:
            self.levels = filters_last(layer.effective_weight().detach())

    def of(self, continuous: Tensor, output: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Returns the products by kind, each of shape (dot products, filters), and the quantized input.

        Args:
            continuous: the layer's input before quantization, in a batch.
            output: what the layer's forward pass made of it.
        """
        continuous = filters_last(continuous)
        same_inputs = not self.layer.quantizes_inputs
        same_weights = self.levels is self.latent
        quantized = continuous if same_inputs else self.layer.effective_input(continuous)
        # Products that coincide are computed once, and the forward pass has just computed one of them.
        bb = self.rows(output) if self._computes_bare_products() else self.product(quantized, self.levels)
        bc = bb if same_weights else self.product(quantized, self.latent)
        cb = bb if same_inputs else self.product(continuous, self.levels)
        cc = bc if same_inputs else cb if same_weights else self.product(continuous, self.latent)
        return {"a_b.w_b": bb, "a_b.w_c": bc, "a_c.w_b": cb, "a_c.w_c": cc}, quantized

    def _computes_bare_products(self) -> bool:
        """Whether the layer's output is exactly a_b.w_b: no scale, no bias, no other hook, no overridden forward."""
        layer = self.layer
        return (
            layer.bias is None
            and not layer.rescales
            and type(layer).forward is QuantLayer.forward
            and len(layer._forward_hooks) == 1
        )

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """The layer's product as rows, of shape (dot products, filters)."""
        return self.rows(self.layer.product(x, weight))

    def rows(self, output: Tensor) -> Tensor:
        """Reshapes an output of the layer to (dot products, filters)."""
        filters_axis = 1 - self.layer.weight.dim()  # the last one of a fully connected layer
        return output.movedim(filters_axis, -1).reshape(-1, self.layer.filters)


def filters_last(x: Tensor) -> Tensor:
    """Stores a 4-D `x` in channels-last order; other tensors do not change.

    Convolutions are then faster by a third or more, and their outputs are rows of filters without a copy.
    """
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x
