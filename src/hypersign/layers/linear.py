"""The quantized fully connected layer."""

from torch import Tensor, nn
from torch.nn import functional as F

from hypersign import ops
from hypersign.layers.layer import Clips, QuantLayer
from hypersign.quantizers import Int8, Quantizer

__all__ = ["QuantLinear"]


class QuantLinear(QuantLayer, nn.Linear):
    """A fully connected layer with quantized inputs and weights.

        y = s * (q_a(x) @ q_w(W).T) + bias        (offsets: see `QuantLayer`)

    Args:
        in_features: the fan-in d; `x` has shape `(..., in_features)`.
        out_features: the number of filters; `y` has shape `(..., out_features)`.
        bias: whether to add a learned bias.
        input_quantizer: the quantizer q_a; `Identity()` if None.
        weight_quantizer: the quantizer q_w; `Identity()` if None.
        device, dtype: the device and type of the latent weight, as in torch.

    Raises:
        HypersignError: a quantizer is not a `Quantizer`; the input quantizer has `MeanScale()` or `Optimal()`.

    >>> import torch
    >>> from hypersign.quantizers import Sign
    >>> layer = QuantLinear(3, 1, bias=False, weight_quantizer=Sign())
    >>> _ = layer.load_state_dict({"weight": torch.tensor([[0.2, -0.7, 0.1]])})
    >>> layer(torch.tensor([1.0, 2.0, 3.0])).tolist()
    [2.0]
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        input_quantizer: Quantizer | None = None,
        weight_quantizer: Quantizer | None = None,
        device: object = None,
        dtype: object = None,
    ) -> None:
        nn.Linear.__init__(self, in_features, out_features, bias, device, dtype)
        self.set_quantizers(input_quantizer, weight_quantizer)

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """Computes `x @ weight.T`, for shapes `(..., in_features)` and `(out_features, in_features)`."""
        return F.linear(x, weight)

    def product_on_bits(self, x: Tensor, weight: Tensor, clips: Clips) -> Tensor:
        if isinstance(self.input_quantizer, Int8):
            y = ops.linear_of_levels8(x.reshape(-1, self.in_features), weight, self._ternary()[1])
            return y.view(*x.shape[:-1], self.out_features)
        rows = x.reshape(-1, self.in_features, 1, 1)
        ternary = self._ternary()
        y = ops.conv2d_of_levels(rows, weight[:, :, None, None], self._next_seed(), ternary=ternary, clips=clips)
        return y.view(*x.shape[:-1], self.out_features)
