"""Quantized recurrent layers: torch's RNN, LSTM and GRU with quantizers and normalisation."""

import copy
import functools
import warnings
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from hypersign._checks import HypersignError, check_choice, check_int
from hypersign.layers.layer import OwnedProduct
from hypersign.quantizers import Quantizer

__all__ = ["NORMS", "QuantGRU", "QuantLSTM", "QuantRNN", "QuantRecurrent", "RecurrentProduct", "StepNorm"]

NORMS = ("none", "weight", "layer", "batch")
"""Normalisations of a recurrent layer."""

Norm = Literal["none", "weight", "layer", "batch"]

Observer = Callable[["RecurrentProduct", int, Tensor, Tensor], Tensor | None]
"""Called at each step with the product, the step, the product's inputs and its outputs before any norm. A tensor that
it returns takes the place of the outputs."""


class RecurrentProduct(OwnedProduct):
    """One matrix of a recurrent layer with its quantizers: `W_x` for inputs or `W_h` for hidden states.

        y = s_a (q_a(x) @ (s q_w(W)).T)       with weight normalisation: rows g q_w(W)/||q_w(W)|| in place of s q_w(W)

    Args:
        owner, parameter, input_quantizer, weight_quantizer: the same as in `OwnedProduct`.
    """

    def __init__(
        self,
        owner: nn.Module,
        parameter: str,
        input_quantizer: Quantizer | None,
        weight_quantizer: Quantizer | None,
    ) -> None:
        super().__init__(owner, parameter, input_quantizer, weight_quantizer)
        self.gain: nn.Parameter | None = None

    @property
    def recurrent(self) -> bool:
        """Whether it multiplies hidden states."""
        return self.parameter.startswith("weight_hh")

    def normalise(self) -> None:
        """Gives each row a learned length, which starts at the root mean square length of the latent rows."""
        size = self.weight.detach().square().sum(1).mean().sqrt()
        self.gain = nn.Parameter(size.expand(len(self.weight)).clone())

    def row_scale(self, levels: Tensor) -> Tensor | None:
        """What each row of levels is multiplied by, shape `(rows,)`; None for 1."""
        if self.gain is not None:
            return self.gain / levels.square().sum(1).clamp(min=1e-12).sqrt()
        rule = self.weight_quantizer.scale
        return None if rule is None else rule(self.weight, levels)

    def matrix(self) -> Tensor:
        """The whole matrix that multiplies inputs: levels, scales and offsets."""
        levels = self.quantized_weight()
        scale, offset = self.row_scale(levels), self.weight_quantizer.offset
        scaled = levels if scale is None else levels * scale.view(-1, 1)
        return scaled if offset is None else scaled + offset(self.weight, levels).view(-1, 1)

    def bound(self) -> Callable[[Tensor], Tensor]:
        """The product as a function of its inputs; weights are quantized once, for all steps."""
        levels, rule = self.quantized_weight(), self.input_quantizer
        scale = self.row_scale(levels)
        given = self.weight_quantizer.offset
        offset = None if given is None else given(self.weight, levels)

        def product(x: Tensor) -> Tensor:
            quantized = rule(x)
            y = F.linear(quantized, levels)
            y = y if scale is None else y * scale
            y = y if offset is None else y + offset * quantized.sum(-1, keepdim=True)
            if rule.scale is not None:
                y = y * rule.scale(x, quantized)
            if rule.offset is not None:
                y = y + rule.offset(x, quantized) * self.matrix().sum(1)
            return y

        return product

    def forward(self, input: Tensor) -> Tensor:
        return self.bound()(input)


class StepNorm(nn.Module):
    """Batch norm of a recurrent layer, with statistics shared by all steps or separate for each.

        y_t = g (x_t - m_t)/sqrt(v_t + 1e-5) + b

    In training m_t and v_t are those of the batch at step t. In evaluation they are running means: one pair for all
    steps, or with `steps` one pair for each. Where a sequence is longer than all others, one value has no variance,
    and training takes the running means too. g starts at 0.1, so that gates start in the linear part of their
    functions.

    Args:
        features: the number of units.
        steps: the number of steps that have statistics of their own; None: all share them.
        bias: whether b is learned.

    Source: Cooijmans et al. 2017 (arXiv 1603.09025); Ardakani et al. 2019 (arXiv 1809.11086).
    """

    def __init__(self, features: int, steps: int | None = None, *, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((features,), 0.1))
        self.bias = nn.Parameter(torch.zeros(features)) if bias else None
        self.separate = steps is not None
        self.at = nn.ModuleList(nn.BatchNorm1d(features, affine=False) for _ in range(steps or 1))

    def forward(self, x: Tensor, step: int) -> Tensor:
        """Normalises the values of a step, shape `(N, features)`."""
        norm: Any = self.at[step if self.separate else 0]
        if norm.training and len(x) == 1:
            mean, variance = norm.running_mean.clone(), norm.running_var.clone()  # other steps change them in place
            y = F.batch_norm(x, mean, variance, eps=norm.eps) * self.weight
        else:
            y = norm(x) * self.weight
        return y if self.bias is None else y + self.bias


class _LayerNorm(nn.LayerNorm):
    """Layer norm, called like `StepNorm`."""

    def forward(self, x: Tensor, step: int = 0) -> Tensor:
        return super().forward(x)


class QuantRecurrent(nn.RNNBase):
    """What the three recurrent layers share. Constructor, state-dict keys and outputs are torch's.

    A layer's step, with products `P_x x = W_x x`, `P_h h = W_h h` of quantized matrices, quantized inputs and
    quantized hidden states:

        z_t = N(P_x x_t) + b_x + N(P_h h_{t-1}) + b_h,   then torch's gates; for an LSTM h_t = o tanh(N(c_t))

    N depends on `norm`:

    - "none": nothing.
    - "weight": each row of both quantized matrices gets a learned length, in place of a scale.
    - "layer": layer norm over all units of a product, and over c_t.
    - "batch": `StepNorm`. All steps share statistics, unless `steps` says that all sequences have that length.

    Without quantizers and norm it computes what torch's layer does. With quantized weights alone and "none" or
    "weight", torch's own fused kernels compute it, with the quantized matrices.

    Args:
        args, options: those of torch's layer.
        input_weight_quantizer, recurrent_weight_quantizer: quantizers of W_x and W_h of every layer and direction.
        input_quantizer, hidden_quantizer: the quantizers of x_t and h_{t-1}.
        norm: "none", "weight", "layer" or "batch".
        steps: with "batch", the length of all sequences, whose steps then have statistics of their own.

    Raises:
        HypersignError: an object that is no quantizer, an unknown norm, or `steps` without batch norm.

    Source: Hou et al. 2019 (Normalization helps training of quantized LSTM, NeurIPS).
    """

    norm: str
    observer: Observer | None = None
    """If set, called at each step; sequences are then computed step by step."""

    def __init__(
        self,
        *args: Any,
        input_weight_quantizer: Quantizer | None = None,
        recurrent_weight_quantizer: Quantizer | None = None,
        input_quantizer: Quantizer | None = None,
        hidden_quantizer: Quantizer | None = None,
        norm: Norm = "none",
        steps: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self.equip(
            (input_quantizer, input_weight_quantizer), (hidden_quantizer, recurrent_weight_quantizer), norm, steps
        )

    def equip(
        self,
        inputs: tuple[Quantizer | None, Quantizer | None],
        hidden: tuple[Quantizer | None, Quantizer | None],
        norm: Norm = "none",
        steps: int | None = None,
    ) -> None:
        """Gives the layer its quantizers and norms; constructors and `convert` call it last.

        Args:
            inputs: the quantizers of inputs and of W_x.
            hidden: the quantizers of hidden states and of W_h.
            norm, steps: the same as in the constructor.
        """
        self.norm, self.steps = check_choice("norm", norm, NORMS), steps
        if steps is not None:
            check_int("steps", steps, min=1)
            if norm != "batch":
                raise HypersignError(f"steps are for batch norm with statistics per step; got the norm {norm}")
        for end in self._ends():
            for kind, sides in (("ih", inputs), ("hh", hidden)):
                # Each matrix has quantizers of its own: they may learn.
                product = RecurrentProduct(self, f"weight_{kind}_{end}", *copy.deepcopy(sides))
                self.add_module(f"{kind}_{end}", product)
                if norm == "weight":
                    product.normalise()
                elif norm != "none":
                    self.add_module(f"norm_{kind}_{end}", self._norm(len(product.weight)))
            if self.mode == "LSTM" and norm in ("layer", "batch"):
                self.add_module(f"norm_c_{end}", self._norm(self.hidden_size, bias=True))

    def _norm(self, features: int, bias: bool = False) -> nn.Module:
        if self.norm == "layer":
            return _LayerNorm(features, bias=bias)
        return StepNorm(features, self.steps, bias=bias)

    def _ends(self) -> list[str]:
        """The ends of the parameters' names, one per layer and direction, in torch's order."""
        ends = ("", "_reverse") if self.bidirectional else ("",)
        return [f"l{layer}{end}" for layer in range(self.num_layers) for end in ends]

    def products(self) -> dict[str, RecurrentProduct]:
        """All matrices with their quantizers, by the name of the parameter."""
        return {part.parameter: part for part in self.children() if isinstance(part, RecurrentProduct)}

    @property
    def fused(self) -> bool:
        """Whether torch's own kernel can compute the layer: only weights are quantized or normalised."""
        real = not any(product.quantizes_inputs for product in self.products().values())
        return real and self.norm in ("none", "weight") and self.observer is None

    def forward(self, input: Any, hx: Any = None) -> Any:
        """Computes the sequence; arguments and results are torch's.

        Raises:
            HypersignError: with `steps`, a sequence of another length; no steps; a list of sequences that are not
                packed; with batch norm in training, fewer than 2 sequences.
        """
        if not isinstance(input, Tensor | PackedSequence):
            raise HypersignError(
                "the input must be a tensor, or sequences of unequal length packed by "
                f"torch.nn.utils.rnn.pack_sequence; got {type(input).__name__}: pack them"
            )
        self._update_flat_weights()  # after a parameter was replaced, torch's forward would, and use latent weights
        if not self.fused:
            return self._unrolled(input, hx)
        found, kept = self.products(), self._flat_weights
        self._flat_weights = [
            found[name].matrix() if name in found else getattr(self, name) for name in self._flat_weights_names
        ]
        try:
            with warnings.catch_warnings():  # cuDNN: the matrices are new tensors in each call
                warnings.filterwarnings("ignore", message="RNN module weights are not part of single")
                return super().forward(input, hx)
        finally:
            self._flat_weights = kept

    def _unrolled(self, input: Any, hx: Any) -> Any:
        """The same in Python, step by step."""
        packed = isinstance(input, PackedSequence)
        if packed:
            self.check_input(input.data, input.batch_sizes)
            x = nn.utils.rnn.pad_packed_sequence(PackedSequence(input.data, input.batch_sizes))[0]
            sizes = input.batch_sizes.tolist()
            batched = True
        else:
            batched = input.dim() != 2
            x = input if batched else input.unsqueeze(1 if not self.batch_first else 0)
            self.check_input(x, None)
            x = x.transpose(0, 1) if self.batch_first else x
            sizes = [x.shape[1]] * x.shape[0]
        if not sizes:
            raise HypersignError("sequences must have at least one step; these have none")
        if x.shape[1] < 2 and any(isinstance(part, StepNorm) and part.training for part in self.children()):
            raise HypersignError(
                f"batch norm needs at least 2 sequences in training, by whose spread it divides; got {x.shape[1]}: "
                "use larger batches, or norm='layer'"
            )
        if self.steps is not None and len(x) != self.steps:
            raise HypersignError(
                f"sequences must have {self.steps} steps, each of which has batch-norm statistics of its own; got "
                f"{len(x)}: leave out steps, so that all share them"
            )
        state = self._start(x, hx, batched, input.sorted_indices if packed else None)
        outputs, ends = x, []
        for layer in range(self.num_layers):
            sides = []
            for direction in range(1 + self.bidirectional):
                index = layer * (1 + self.bidirectional) + direction
                found, last = self._direction(outputs, sizes, index, tuple(part[index] for part in state))
                sides.append(found)
                ends.append(last)
            outputs = torch.cat(sides, -1)
            if layer < self.num_layers - 1:
                outputs = F.dropout(outputs, self.dropout, self.training)
        states = tuple(torch.stack(parts) for parts in zip(*ends, strict=True))
        if packed:
            data = torch.cat([outputs[t, :size] for t, size in enumerate(sizes)])
            result: Any = PackedSequence(data, input.batch_sizes, input.sorted_indices, input.unsorted_indices)
            if input.unsorted_indices is not None:
                states = tuple(part.index_select(1, input.unsorted_indices) for part in states)
        else:
            result = outputs.transpose(0, 1) if self.batch_first else outputs
            if not batched:
                result = result.squeeze(0 if self.batch_first else 1)
                states = tuple(part.squeeze(1) for part in states)
        return result, states if self.mode == "LSTM" else states[0]

    def _start(self, x: Tensor, hx: Any, batched: bool, order: Tensor | None) -> tuple[Tensor, ...]:
        """The initial states, each of shape `(layers * directions, N, size)`, after torch's checks."""
        count = self.num_layers * (1 + self.bidirectional)
        sizes = (self.proj_size or self.hidden_size, self.hidden_size)[: 2 if self.mode == "LSTM" else 1]
        if hx is None:
            return tuple(x.new_zeros(count, x.shape[1], size) for size in sizes)
        states = hx if self.mode == "LSTM" else (hx,)
        states = tuple(part if batched else part.unsqueeze(1) for part in states)
        for part, size in zip(states, sizes, strict=True):
            self.check_hidden_size(part, (count, x.shape[1], size))
        return states if order is None else tuple(part.index_select(1, order) for part in states)

    def _direction(
        self, x: Tensor, sizes: list[int], index: int, state: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """One layer in one direction: outputs `(T, N, size)`, zero behind the end of a sequence, and last states."""
        end = self._ends()[index]
        ih, hh = getattr(self, f"ih_{end}"), getattr(self, f"hh_{end}")
        norms = [getattr(self, f"norm_{kind}_{end}", None) for kind in ("ih", "hh", "c")]
        biases = [getattr(self, f"bias_{kind}_{end}") if self.bias else None for kind in ("ih", "hh")]
        project = getattr(self, f"weight_hr_{end}") if self.proj_size else None
        cell, recur = _CELLS[self.mode], hh.bound()
        products = ih.bound()(x)
        outputs: list[Tensor] = [x] * len(sizes)
        steps = range(len(sizes))
        for t in reversed(steps) if end.endswith("reverse") else steps:
            size = sizes[t]
            before = tuple(part[:size] for part in state)
            from_inputs, from_hidden = products[t, :size], recur(before[0])
            if self.observer is not None:
                changed = self.observer(ih, t, x[t, :size], from_inputs), self.observer(hh, t, before[0], from_hidden)
                from_inputs = from_inputs if changed[0] is None else changed[0]
                from_hidden = from_hidden if changed[1] is None else changed[1]
            if norms[0] is not None and norms[1] is not None:
                from_inputs, from_hidden = norms[0](from_inputs, t), norms[1](from_hidden, t)
            if biases[0] is not None:
                from_inputs, from_hidden = from_inputs + biases[0], from_hidden + biases[1]
            norm = None if norms[2] is None else functools.partial(norms[2], step=t)
            after = cell(from_inputs, from_hidden, before, norm)
            if project is not None:
                after = (F.linear(after[0], project), *after[1:])
            outputs[t] = F.pad(after[0], (0, 0, 0, x.shape[1] - size)) if size < x.shape[1] else after[0]
            state = tuple(torch.cat((new, old[size:])) for new, old in zip(after, state, strict=True))
        return torch.stack(outputs), state

    def extra_repr(self) -> str:
        norm = "" if self.norm == "none" else f", norm={self.norm}"
        return super().extra_repr() + norm + ("" if self.steps is None else f", steps={self.steps}")


State = tuple[Tensor, ...]


def _tanh_cell(x: Tensor, h: Tensor, state: State, norm: Any) -> State:
    return (torch.tanh(x + h),)


def _relu_cell(x: Tensor, h: Tensor, state: State, norm: Any) -> State:
    return (torch.relu(x + h),)


def _lstm_cell(x: Tensor, h: Tensor, state: State, norm: Any) -> State:
    i, f, g, o = (x + h).chunk(4, -1)
    c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c if norm is None else norm(c)), c


def _gru_cell(x: Tensor, h: Tensor, state: State, norm: Any) -> State:
    (xr, xz, xn), (hr, hz, hn) = x.chunk(3, -1), h.chunk(3, -1)
    n = torch.tanh(xn + torch.sigmoid(xr + hr) * hn)
    z = torch.sigmoid(xz + hz)
    return (n + z * (state[0] - n),)


_CELLS = {"RNN_TANH": _tanh_cell, "RNN_RELU": _relu_cell, "LSTM": _lstm_cell, "GRU": _gru_cell}


class QuantRNN(QuantRecurrent, nn.RNN):
    """torch's RNN with quantizers: h_t = tanh(W_x x_t + b_x + W_h h_{t-1} + b_h); arguments: `QuantRecurrent`.

    >>> layer = QuantRNN(3, 5, nonlinearity="relu")
    >>> layer(torch.zeros(7, 2, 3))[0].shape
    torch.Size([7, 2, 5])
    """


class QuantLSTM(QuantRecurrent, nn.LSTM):
    """torch's LSTM with quantizers; arguments: `QuantRecurrent`.

        i, f, o = sigmoid(z_i), sigmoid(z_f), sigmoid(z_o);   c_t = f c_{t-1} + i tanh(z_g);   h_t = o tanh(c_t)

    >>> from hypersign.quantizers import Sign
    >>> layer = QuantLSTM(3, 5, batch_first=True, recurrent_weight_quantizer=Sign(), norm="weight")
    >>> outputs, (h, c) = layer(torch.zeros(2, 7, 3))
    >>> outputs.shape, c.shape, sorted(layer.hh_l0.quantized_weight().unique().tolist())
    (torch.Size([2, 7, 5]), torch.Size([1, 2, 5]), [-1.0, 1.0])
    """


class QuantGRU(QuantRecurrent, nn.GRU):
    """torch's GRU with quantizers; arguments: `QuantRecurrent`.

        r, z = sigmoid(z_r), sigmoid(z_z);   n = tanh(x_n + r h_n);   h_t = n + z (h_{t-1} - n)

    where x_n and h_n are the parts of the two products with their biases.

    >>> QuantGRU(3, 5)(torch.zeros(7, 2, 3))[1].shape
    torch.Size([1, 2, 5])
    """
