"""Recurrent networks: a language model, and a classifier that reads an image row by row or pixel by pixel."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from hypersign._checks import HypersignError, check_choice, check_int, check_real
from hypersign.layers.recurrent import NORMS, QuantGRU, QuantLSTM, QuantRecurrent, QuantRNN
from hypersign.layers.stateful import Memory, Stateful
from hypersign.models.shapes import MOST_UNITS, check_shape
from hypersign.quantizers import Quantization

__all__ = ["CELLS", "SCANS", "RecurrentNetwork", "check_tokens", "lstm"]

CELLS: dict[str, type[QuantRecurrent]] = {"lstm": QuantLSTM, "gru": QuantGRU, "rnn": QuantRNN}
"""Recurrent layers by name."""

SCANS = ("rows", "pixels", "permuted")
"""How images become sequences."""


class RecurrentNetwork(Stateful):
    """Recurrent layers between an embedding (or an image's pixels) and a real output layer.

        e_t = E[token t]   or the pixels of step t;   h_t = recurrent layers(e_t);   z_t = W h_t + b

    A language model gives logits at every step, shape `(N, T, classes)`; a classifier of images only after the last
    step, shape `(N, classes)`. Pixels are never quantized.

    Args:
        classes: the vocabulary, or the number of classes.
        features: numbers per step of an image's sequence; None for tokens.
        hidden: units per layer.
        quantization: quantizers of the recurrent layers' weights, inputs and hidden states. `float_weights` and
            `float_inputs` may name their products: layer1.ih (inputs), layer1.hh (hidden states), and so on.
        cell: "lstm", "gru" or "rnn".
        embedding: length of a token's vector.
        norm: of the recurrent layers, see `QuantRecurrent`.
        steps: length of all sequences, whose steps then have batch-norm statistics of their own.
        dropout: share of a layer's outputs that are dropped in training.
        scan: how images become sequences: "rows", "pixels", or "permuted" (pixels in one random order).

    Raises:
        HypersignError: a number outside its range, or a layer that the network does not have.
    """

    def __init__(
        self,
        classes: int,
        features: int | None,
        hidden: Sequence[int],
        quantization: Quantization,
        *,
        cell: str = "lstm",
        embedding: int = 64,
        norm: str = "weight",
        steps: int | None = None,
        dropout: float = 0.0,
        scan: str = "rows",
    ) -> None:
        super().__init__()
        self.classes, self.scan, self.tokens = classes, scan, features is None
        if features is None:
            self.embedding = nn.Embedding(classes, embedding)
            features = embedding
        kind = CELLS[check_choice("cell", cell, CELLS)]
        self.depth = len(hidden)
        known = [f"layer{number}.{part}" for number in range(1, self.depth + 1) for part in ("ih", "hh")]
        named = (*quantization.float_weights, *quantization.float_inputs)
        if unknown := [name for name in named if name not in known]:
            raise HypersignError(
                f"float_weights and float_inputs must name products of this network ({', '.join(known)}); got "
                f"{', '.join(unknown)}"
            )
        for number, units in enumerate(hidden, 1):
            ih, hh = f"layer{number}.ih", f"layer{number}.hh"
            layer = kind(
                features,
                units,
                batch_first=True,
                input_weight_quantizer=quantization.weight_quantizer(ih),
                recurrent_weight_quantizer=quantization.weight_quantizer(hh),
                input_quantizer=None if number == 1 and not self.tokens else quantization.input_quantizer(ih),
                hidden_quantizer=quantization.input_quantizer(hh),
                norm=norm,  # type: ignore[arg-type]
                steps=steps,
            )
            if cell == "lstm":  # gates that keep the state at first; Gers et al. 2000
                nn.init.ones_(layer.get_parameter("bias_ih_l0").data[units : 2 * units])
                nn.init.zeros_(layer.get_parameter("bias_hh_l0").data[units : 2 * units])
            self.add_module(f"layer{number}", layer)
            features = units
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(features, classes)

    def layers(self) -> list[QuantRecurrent]:
        """The recurrent layers."""
        return [getattr(self, f"layer{number}") for number in range(1, self.depth + 1)]

    def initial(self, count: int) -> Memory:
        """Zeros."""
        return [
            (self.head.weight.new_zeros(1, count, layer.hidden_size),) * (2 if layer.mode == "LSTM" else 1)
            for layer in self.layers()
        ]

    def sequence(self, inputs: Tensor) -> Tensor:
        """What the first recurrent layer reads, `(N, T, features)`: embeddings, rows or pixels."""
        if self.tokens:
            return self.embedding(check_tokens(inputs, self.classes))
        if self.scan == "rows":
            return inputs.transpose(1, 2).flatten(2)  # (N, C, H, W) -> (N, H, C W)
        pixels = inputs.flatten(2).transpose(1, 2)  # (N, H W, C)
        if self.scan == "pixels":
            return pixels
        return pixels[:, self.permutation(pixels.shape[1]).to(pixels.device)]

    @staticmethod
    def permutation(count: int) -> Tensor:
        """The order of an image's pixels in the scan "permuted"."""
        return torch.randperm(count, generator=torch.Generator().manual_seed(0), device="cpu")

    def read(self, inputs: Tensor, memory: Memory | None = None) -> tuple[Tensor, Memory]:
        x, after = self.sequence(inputs), []
        for number, layer in enumerate(self.layers()):
            before = None if memory is None else memory[number]
            x, states = layer(x, before if before is None or layer.mode == "LSTM" else before[0])
            after.append(states if layer.mode == "LSTM" else (states,))
            x = self.dropout(x)
        return self.head(x if self.tokens else x[:, -1]), after


def check_tokens(tokens: Tensor, classes: int) -> Tensor:
    """The tokens, after a check of their type, shape and (on the CPU) range.

    Raises:
        HypersignError: they are no integers of shape `(N, T)` from 0 to `classes - 1`.
    """
    whole = not tokens.is_floating_point() and tokens.dim() == 2
    inside = not whole or tokens.device.type != "cpu" or not tokens.numel()
    if whole and (inside or 0 <= int(tokens.min()) <= int(tokens.max()) < classes):
        return tokens
    came = f"{tokens.dtype} of shape {tuple(tokens.shape)}"
    if whole:
        came = str(int(tokens.min() if tokens.min() < 0 else tokens.max()))
    raise HypersignError(
        f"tokens must be integers from 0 to {classes - 1}, of shape (N, positions); got {came}: encode the text with "
        "the vocabulary that the network was trained on"
    )


def lstm(
    shape: Sequence[int],
    classes: int,
    quantization: Quantization | None = None,
    *,
    hidden: Sequence[int] = (512,),
    cell: Literal["lstm", "gru", "rnn"] = "lstm",
    embedding: int = 64,
    norm: Literal["none", "weight", "layer", "batch"] = "weight",
    step_statistics: bool = False,
    dropout: float = 0.0,
    scan: Literal["rows", "pixels", "permuted"] = "rows",
) -> RecurrentNetwork:
    """A recurrent network: a language model for tokens, or a classifier of images.

    Args:
        shape: `(length,)` of a sequence of tokens, or (channels, height, width) of images.
        classes: the vocabulary, or the number of classes.
        quantization: quantizers; binary weights and real inputs if None.
        hidden: units per layer.
        cell: the recurrent layer.
        embedding: length of a token's vector.
        norm: "none", "weight", "layer" or "batch".
        step_statistics: batch norm with statistics for each step; images only, whose sequences have one length.
        dropout: share of a layer's outputs that are dropped in training.
        scan: how an image becomes a sequence.

    Raises:
        HypersignError: a number outside its range.

    >>> network = lstm((100,), 65, hidden=(32,))
    >>> network(torch.zeros(2, 7, dtype=torch.int64)).shape, lstm((1, 28, 28), 10)(torch.zeros(2, 1, 28, 28)).shape
    (torch.Size([2, 7, 65]), torch.Size([2, 10]))
    """
    if quantization is None:
        quantization = Quantization.of(inputs="float")
    quantization.check_fields("lstm", "float_weights", "float_inputs")
    check_choice("norm", norm, NORMS)
    check_choice("scan", scan, SCANS)
    check_int("classes", classes, min=1, max=MOST_UNITS)
    check_int("embedding", embedding, min=1, max=MOST_UNITS)
    check_real("dropout", dropout, min=0, below=1)
    if not hidden:
        raise HypersignError("hidden must name the units of at least one recurrent layer; got none")
    for units in hidden:
        check_int("hidden", units, min=1, max=MOST_UNITS)
    features, steps = None, None
    if len(shape) != 1:
        channels, height, width = check_shape(shape)
        features, steps = (channels * width, height) if scan == "rows" else (channels, height * width)
    elif step_statistics:
        raise HypersignError("step_statistics is for sequences of one length, such as images; texts share statistics")
    return RecurrentNetwork(
        classes,
        features,
        hidden,
        quantization,
        cell=cell,
        embedding=embedding,
        norm=norm,
        steps=steps if step_statistics else None,
        dropout=dropout,
        scan=scan,
    )
