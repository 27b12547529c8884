"""torch's multi-head attention with quantizers."""

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hypersign._checks import HypersignError
from hypersign.layers.layer import OwnedProduct
from hypersign.quantizers import Quantizer

__all__ = ["AttentionProduct", "QuantMultiheadAttention"]


class AttentionProduct(OwnedProduct):
    """A projection of an attention layer; with one parameter for all three, its rows are queries, keys, values."""

    def forward(self, input: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        """The rows `start` to `stop` of the projection: `(..., width)` -> `(..., rows)`."""
        return F.linear(self.effective_input(input), self.scaled_weight()[start:stop])


class QuantMultiheadAttention(nn.MultiheadAttention):
    """torch's attention with quantized projections; keys, arguments and results are torch's.

        y = W_o softmax(Q K^T / sqrt(d)) V + b_o,   Q = W_q x_q + b_q,   K = W_k x_k + b_k,   V = W_v x_v + b_v

    The quantizers act on the four matrices and on their inputs: x_q, x_k, x_v, and what the softmax gives before W_o.
    The output projection `out_proj` is a layer of its own. Without quantizers it computes what torch's layer does.

    Args:
        args, options: those of `torch.nn.MultiheadAttention`, without `add_bias_kv` and `add_zero_attn`.
        input_quantizer, weight_quantizer: the quantizers of all four projections.

    Raises:
        HypersignError: an object that is no quantizer, or an option that is not supported.

    >>> from hypersign.quantizers import Sign
    >>> layer = QuantMultiheadAttention(8, 2, batch_first=True, weight_quantizer=Sign())
    >>> layer(*[torch.zeros(1, 5, 8)] * 3)[0].shape
    torch.Size([1, 5, 8])
    """

    def __init__(
        self,
        *args: Any,
        input_quantizer: Quantizer | None = None,
        weight_quantizer: Quantizer | None = None,
        **options: Any,
    ) -> None:
        from hypersign.layers.linear import QuantLinear

        super().__init__(*args, **options)
        if refusal := unsupported(self):
            raise HypersignError(f"attention to quantize {refusal}")
        output: Any = self.out_proj
        output.__class__ = QuantLinear
        output.set_quantizers(*copy.deepcopy((input_quantizer, weight_quantizer)))
        self.equip(input_quantizer, weight_quantizer)

    def equip(self, input_quantizer: Quantizer | None, weight_quantizer: Quantizer | None) -> None:
        """Gives the projections of queries, keys and values their quantizers; constructors and `convert` call it."""
        one = self._qkv_same_embed_dim
        for name in ("in",) if one else ("q", "k", "v"):
            parameter = "in_proj_weight" if one else f"{name}_proj_weight"
            sides = copy.deepcopy((input_quantizer, weight_quantizer))  # each has its own: they may learn
            self.add_module(f"{name}_product", AttentionProduct(self, parameter, *sides))

    def products(self) -> dict[str, AttentionProduct]:
        """The projections of queries, keys and values, by the name of the parameter."""
        return {part.parameter: part for part in self.children() if isinstance(part, AttentionProduct)}

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attends; arguments and results are torch's."""
        batched = query.dim() == 3
        same = query is key is value
        if not batched:
            query, key, value = (x.unsqueeze(0 if self.batch_first else 1) for x in (query, key, value))
        if not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        q, k, v = (self._split(x) for x in self._projected(query, key, value, same))
        mask = self._mask(q, k, key_padding_mask, attn_mask, batched, is_causal and not need_weights)
        drop = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = q @ k.transpose(-2, -1) / math.sqrt(self.head_dim)
            weights = F.softmax(scores if mask is None else scores + mask, -1)
            weights = F.dropout(weights, drop) if drop else weights
            mixed = weights @ v
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, mask, drop)
        y = self.out_proj(mixed.transpose(1, 2).flatten(2))
        if not self.batch_first:
            y = y.transpose(0, 1)
        if not batched:
            y = y.squeeze(0 if self.batch_first else 1)
            weights = None if weights is None else weights.squeeze(0)
        return y, weights

    def _projected(self, query: Tensor, key: Tensor, value: Tensor, same: bool) -> list[Tensor]:
        """The queries, keys and values before they are split into heads, with their biases."""
        products, width = list(self.products().values()), self.embed_dim
        if len(products) == 3:
            found = [product(x) for product, x in zip(products, (query, key, value), strict=True)]
        elif same:
            found = list(products[0](query).split(width, -1))
        else:
            found = [products[0](x, i * width, (i + 1) * width) for i, x in enumerate((query, key, value))]
        if self.in_proj_bias is None:
            return found
        return [y + bias for y, bias in zip(found, self.in_proj_bias.split(width), strict=True)]

    def _split(self, x: Tensor) -> Tensor:
        """`(N, T, width)` -> `(N, heads, T, width of a head)`."""
        return x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)

    def _mask(
        self, q: Tensor, k: Tensor, padding: Tensor | None, mask: Tensor | None, batched: bool, causal: bool
    ) -> Tensor | None:
        """The sum of both masks, which is added to the scores `(N, heads, T, S)`; or None."""
        if mask is None and causal:
            raise HypersignError("is_causal is a hint about attn_mask, as in torch; give attn_mask too")
        found: Tensor | None = None
        if mask is not None:
            found = _added(mask, q)
            found = found.view(-1, self.num_heads, *found.shape[-2:]) if found.dim() == 3 else found
        if padding is not None:
            padding = padding if batched else padding[None]
            columns = _added(padding, q)[:, None, None, :]
            found = columns if found is None else found + columns
        return found


def _added(mask: Tensor, like: Tensor) -> Tensor:
    """A mask as numbers that are added: minus infinity where a mask of booleans is true."""
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, -math.inf)


def unsupported(layer: nn.MultiheadAttention) -> str:
    """Why an attention layer has no quantized form; empty if it has."""
    if layer.bias_k is not None or layer.add_zero_attn:
        return "must not add rows to its keys and values (add_bias_kv, add_zero_attn)"
    return ""
