"""A small transformer that predicts the next token; its linear layers take any quantizer."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hypersign._checks import HypersignError, check_choice, check_int, check_real
from hypersign.layers import QuantLinear
from hypersign.layers.stateful import Memory, SequenceNetwork
from hypersign.models.recurrent import check_tokens
from hypersign.models.shapes import MOST_UNITS
from hypersign.quantizers import Quantization

__all__ = ["GPT", "Attention", "FeedForward", "gpt", "rotated"]

KINDS = ("swiglu", "gelu")
"""Feed-forward parts by name."""


def rotated(x: Tensor, start: int) -> Tensor:
    """Rotary positions: pairs (x_i, x_{i + d/2}) of each head turn by the angle t 10000^(-2i/d) at position t.

    Args:
        x: queries or keys, shape `(N, heads, T, d)`, d even.
        start: the position of the first token.

    Source: Su et al. 2021 (RoFormer, arXiv 2104.09864), in the half-split order of Llama.

    >>> x = torch.randn(1, 1, 5, 8)
    >>> bool(torch.allclose(rotated(x, 0)[:, :, 2:], rotated(x[:, :, 2:], 2), atol=1e-6))
    True
    """
    half = x.shape[-1] // 2
    rates = 10000.0 ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angles = torch.arange(start, start + x.shape[2], device=x.device, dtype=torch.float32)[:, None] * rates
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


class RMSNorm(nn.RMSNorm):
    """torch's RMS norm, y = g x / sqrt(mean(x^2) + 1e-5), with g in the type of x, so that bfloat16 stays fused."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class _Linears(nn.Module):
    """A part of a block whose linear layers are quantized by their names."""

    def linear(self, quantization: Quantization, prefix: str, name: str, inputs: int, outputs: int) -> None:
        """Adds the linear layer `name`."""
        layer = QuantLinear(
            inputs,
            outputs,
            bias=False,
            input_quantizer=quantization.input_quantizer(f"{prefix}.{name}"),
            weight_quantizer=quantization.weight_quantizer(f"{prefix}.{name}"),
        )
        self.add_module(name, layer)


class Attention(_Linears):
    """Causal attention of several heads with rotary positions.

        y = W_o N(concat_h softmax(Q_h K_h' / sqrt(d)) V_h),   N: RMS norm before the quantized product, or nothing

    Args:
        width: numbers per token.
        heads: number of heads; it divides `width`, and `width / heads` is even.
        quantization: quantizers of the linear layers query, key, value and output.
        prefix: the part's name in the network.
        inner_norm: whether N is there.
    """

    query: QuantLinear
    key: QuantLinear
    value: QuantLinear
    output: QuantLinear

    def __init__(self, width: int, heads: int, quantization: Quantization, prefix: str, inner_norm: bool) -> None:
        super().__init__()
        self.heads = heads
        for name in ("query", "key", "value"):
            self.linear(quantization, prefix, name, width, width)
        self.norm = RMSNorm(width) if inner_norm else nn.Identity()
        self.linear(quantization, prefix, "output", width, width)

    def forward(self, x: Tensor, memory: tuple[Tensor, ...] | None = None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Outputs `(N, T, width)`, and keys and values of all tokens so far, `(N, heads, positions, d)`."""
        count, length, width = x.shape
        shape = count, length, self.heads, width // self.heads
        queries, keys, values = (layer(x).view(shape).transpose(1, 2) for layer in (self.query, self.key, self.value))
        start = 0 if memory is None else memory[0].shape[2]
        queries, keys = rotated(queries, start), rotated(keys, start)
        if memory is not None:
            keys, values = torch.cat((memory[0], keys), 2), torch.cat((memory[1], values), 2)
        mask = None
        if start and length > 1:  # query t sees the keys up to start + t
            mask = torch.ones(length, start + length, dtype=torch.bool, device=x.device).tril(start)
        mixed = F.scaled_dot_product_attention(queries, keys, values, mask, is_causal=start == 0 and length > 1)
        return self.output(self.norm(mixed.transpose(1, 2).reshape(count, length, width))), (keys, values)

    def extra_repr(self) -> str:
        return f"heads={self.heads}"


class FeedForward(_Linears):
    """SwiGLU: y = W_d N(silu(W_g x) * W_u x) with 8/3 width units; or GELU: y = W_d N(gelu(W_u x)) with 4 width."""

    up: QuantLinear
    gate: QuantLinear
    down: QuantLinear

    def __init__(self, width: int, kind: str, quantization: Quantization, prefix: str, inner_norm: bool) -> None:
        super().__init__()
        self.kind = kind
        units = 4 * width if kind == "gelu" else max(1, round(8 * width / 3 / 64)) * 64
        for name in ("up",) if kind == "gelu" else ("gate", "up"):
            self.linear(quantization, prefix, name, width, units)
        self.norm = RMSNorm(units) if inner_norm else nn.Identity()
        self.linear(quantization, prefix, "down", units, width)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs, `(N, T, width)`."""
        inside = F.gelu(self.up(x)) if self.kind == "gelu" else F.silu(self.gate(x)) * self.up(x)
        return self.down(self.norm(inside))


class _Block(nn.Module):
    """x + attention(N(x)), then x + feed-forward(N(x)); N is RMS norm."""

    def __init__(
        self, width: int, heads: int, kind: str, quantization: Quantization, prefix: str, inner: bool, dropout: float
    ) -> None:
        super().__init__()
        self.norm1 = RMSNorm(width)
        self.attention = Attention(width, heads, quantization, f"{prefix}.attention", inner)
        self.norm2 = RMSNorm(width)
        self.feed_forward = FeedForward(width, kind, quantization, f"{prefix}.feed_forward", inner)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, memory: tuple[Tensor, ...] | None) -> tuple[Tensor, tuple[Tensor, ...]]:
        mixed, memory = self.attention(self.norm1(x), memory)
        x = x + self.dropout(mixed)
        return x + self.dropout(self.feed_forward(self.norm2(x))), memory


class GPT(SequenceNetwork):
    """Embedding, blocks of causal attention and feed-forward, RMS norm, and a real output layer.

    Logits have the shape `(N, T, classes)`.

    Args:
        classes: the vocabulary.
        width: numbers per token.
        blocks, heads: how many.
        quantization: quantizers of the linear layers in the blocks. `float_weights` and `float_inputs` may name them:
            block1.attention.query, block1.feed_forward.down, and so on.
        feed_forward: "swiglu" or "gelu".
        inner_norm: RMS norm before the products `output` and `down` too, so that it stands before every quantized
            product.
        dropout: share of what each part adds that is dropped in training.
        context: the most tokens that are seen at once in generation.
    """

    def __init__(
        self,
        classes: int,
        width: int,
        blocks: int,
        heads: int,
        quantization: Quantization,
        *,
        feed_forward: str = "swiglu",
        inner_norm: bool = True,
        dropout: float = 0.0,
        context: int = 256,
    ) -> None:
        super().__init__()
        self.classes, self.depth, self.context = classes, blocks, context
        self.embedding = nn.Embedding(classes, width)
        for number in range(1, blocks + 1):
            block = _Block(width, heads, feed_forward, quantization, f"block{number}", inner_norm, dropout)
            self.add_module(f"block{number}", block)
        self.norm = RMSNorm(width)
        self.head = nn.Linear(width, classes, bias=False)
        self.dropout = nn.Dropout(dropout)
        known = [name for name, module in self.named_modules() if isinstance(module, QuantLinear)]
        named = (*quantization.float_weights, *quantization.float_inputs)
        if unknown := [name for name in named if name not in known]:
            raise HypersignError(
                f"float_weights and float_inputs must name linear layers of this network ({', '.join(known)}); got "
                f"{', '.join(unknown)}"
            )
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:  # what each part adds starts small, so that depth does not add up
                last = name.endswith(("output.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * blocks) if last else 0.02)
        for module in self.modules():
            if isinstance(module, QuantLinear):
                module.fit_quantizers()

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits `(N, T, classes)` for tokens `(N, T)`."""
        return self.read(inputs)[0]

    def read(self, inputs: Tensor, memory: Memory | None = None) -> tuple[Tensor, Memory]:
        x, after = self.dropout(self.embedding(check_tokens(inputs, self.classes))), []
        for number in range(self.depth):
            before = None if memory is None else memory[number]
            x, kept = getattr(self, f"block{number + 1}")(x, before)
            after.append(kept)
        return self.head(self.norm(x)), after


def gpt(
    shape: Sequence[int],
    classes: int,
    quantization: Quantization | None = None,
    *,
    width: int = 384,
    blocks: int = 6,
    heads: int = 6,
    feed_forward: Literal["swiglu", "gelu"] = "swiglu",
    inner_norm: bool = True,
    dropout: float = 0.0,
) -> GPT:
    """A small GPT: RMS norm, rotary positions, SwiGLU or GELU, and linear layers with quantizers.

    Args:
        shape: `(length,)` of the sequences.
        classes: the vocabulary.
        quantization: quantizers of the linear layers; ternary weights with 8-bit inputs (BitNet b1.58) if None.
        width: numbers per token.
        blocks, heads: how many.
        feed_forward: "swiglu" or "gelu".
        inner_norm: RMS norm before every quantized product.
        dropout: share of what each part adds that is dropped in training.

    Raises:
        HypersignError: a number outside its range.

    >>> network = gpt((16,), 65, width=32, blocks=2, heads=2)
    >>> network(torch.zeros(2, 16, dtype=torch.int64)).shape
    torch.Size([2, 16, 65])
    """
    if len(shape) != 1:
        raise HypersignError(f"gpt reads tokens, whose shape is (length,); got {tuple(shape)}: train it on a text")
    if quantization is None:
        quantization = Quantization.of(levels=3, weights="bitnet", inputs="int8")
    quantization.check_fields("gpt", "float_weights", "float_inputs")
    check_choice("feed_forward", feed_forward, KINDS)
    check_int("classes", classes, min=1, max=MOST_UNITS)
    check_int("blocks", blocks, min=1, max=1000)
    check_int("heads", heads, min=1, max=1000)
    check_int("width", width, min=1, max=MOST_UNITS)
    check_real("dropout", dropout, min=0, below=1)
    if width % (2 * heads):
        raise HypersignError(
            f"width must be a multiple of 2 x heads = {2 * heads}, because rotary positions turn pairs of numbers in "
            f"each head; got {width}"
        )
    return GPT(
        classes,
        width,
        blocks,
        heads,
        quantization,
        feed_forward=feed_forward,
        inner_norm=inner_norm,
        dropout=dropout,
        context=check_int("length", shape[0], min=1),
    )
