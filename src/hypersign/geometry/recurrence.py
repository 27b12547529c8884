"""Dot products of recurrent layers over time: do quantized weights keep them, step after step?"""

import contextlib
import copy
import dataclasses
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hypersign._checks import HypersignError, check_int
from hypersign._display import shown
from hypersign._files import write_atomic
from hypersign.evaluate import mode
from hypersign.layers import QuantRecurrent, RecurrentProduct
from hypersign.quantizers import Identity

__all__ = ["LayerOverTime", "OverTime", "correlation", "over_time"]

GROUPS = 10
"""Groups of sequences that the jackknife leaves out in turn."""


@shown
@dataclasses.dataclass(frozen=True)
class LayerOverTime:
    """One recurrent layer at each step. Step t = 1 is the first one whose state is not the start.

    Each value is a mean over units; each list has one value per step.

    Args:
        name: the recurrent layer.
        r: r_t, the correlation of `W_h h` and `B_h q(h)` over test sequences, where h is the quantized network's own
            state. W_h is latent, B_h quantized.
        predicted_r: r_t from second moments of h_t and q(h_t) on training sequences.
        r_error: the standard error of r_t over test sequences (jackknife).
        accumulated: R_t, the correlation of `W_h h'` and `B_h q(h)` where h' is the state of a float replica (latent
            weights, the same norms) that starts from the same state and reads the same text.
        predicted_accumulated: R_t of a float replica whose products get independent noise, with the mean, slope and
            variance that second moments predict for the errors of quantization.
        accumulated_error: the standard error of R_t.
        agreement: the correlation of the states h and h' themselves.
        state_mean, state_mean_square: moments of h_t.
        sign_angle_degrees: the angle between h_t and its signs, mean over sequences.
        forget: mean of the forget gate (LSTM) or of z (GRU); NaN for others, and with layer or batch norm.
        latent_norm, quantized_norm: spectral norms of W_h, with its rows scaled as in the replica, and of B_h.
    """

    name: str
    r: tuple[float, ...]
    predicted_r: tuple[float, ...]
    r_error: tuple[float, ...]
    accumulated: tuple[float, ...]
    predicted_accumulated: tuple[float, ...]
    accumulated_error: tuple[float, ...]
    agreement: tuple[float, ...]
    state_mean: tuple[float, ...]
    state_mean_square: tuple[float, ...]
    sign_angle_degrees: tuple[float, ...]
    forget: tuple[float, ...]
    latent_norm: float
    quantized_norm: float

    def departs(self, first: int = 6) -> list[int]:
        """Steps from `first` on whose r is further from the prediction than .01 plus two standard errors."""
        rows = enumerate(zip(self.r, self.predicted_r, self.r_error, strict=True), 1)
        return [t for t, (r, predicted, error) in rows if t >= first and abs(r - predicted) > 0.01 + 2 * error]


@shown
@dataclasses.dataclass(frozen=True)
class OverTime:
    """A network's recurrent layers over time, and how many sequences they were measured on and predicted from."""

    layers: tuple[LayerOverTime, ...]
    test_sequences: int
    training_sequences: int

    def as_dict(self) -> dict[str, Any]:
        """As plain data; NaN becomes None."""

        def plain(value: Any) -> Any:
            if isinstance(value, tuple):
                return [plain(each) for each in value]
            return None if isinstance(value, float) and not math.isfinite(value) else value

        layers = [{key: plain(value) for key, value in dataclasses.asdict(layer).items()} for layer in self.layers]
        return {**dataclasses.asdict(dataclasses.replace(self, layers=())), "layers": layers}

    def save(self, path: Path) -> None:
        """Writes the numbers as JSON."""
        write_atomic(path, json.dumps(self.as_dict()) + "\n")


def over_time(model: nn.Module, test: Tensor, training: Tensor, *, seed: int = 0) -> OverTime:
    """Measures a network's recurrent layers over time, beside predictions.

    Sequences start from the zero state, and have one length.

    Args:
        model: a network with recurrent layers in one direction; it does not change.
        test: inputs of sequences to measure on, such as tokens `(N, T)`.
        training: inputs to predict from, of the same length.
        seed: of the noise in `predicted_accumulated`.

    Raises:
        HypersignError: the network has no recurrent layer with quantized recurrent weights, or one in two directions;
            there are too few sequences or steps.

    Example:
        >>> from hypersign.models import lstm
        >>> tokens = torch.randint(9, (40, 12), generator=torch.Generator().manual_seed(0))
        >>> found = over_time(lstm((12,), 9, hidden=(16,)), tokens[:20], tokens[20:])
        >>> len(found.layers[0].r), 0.5 < found.layers[0].r[5] < 1
        (11, True)
    """
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, QuantRecurrent) and any(p.quantizes_weights for p in module.products().values())
    }
    if not layers:
        raise HypersignError(
            "the network must have a recurrent layer with quantized weights; it has none: train one, as "
            "with --weights sign"
        )
    for name, layer in layers.items():
        if layer.bidirectional or layer.num_layers > 1:
            raise HypersignError(f"{name} must have one layer in one direction: give each layer a module of its own")
    check_int("the number of test sequences", len(test), min=2 * GROUPS)
    check_int("the number of training sequences", len(training), min=2)
    replica = _replica(model)
    inputs, steps = _record(model, test, layers), _record(model, training, layers, means=True)
    other = _record(replica, test, layers)
    noisy = _record(replica, test, layers, _noise(layers, steps, seed))
    return OverTime(
        tuple(
            _measure(name, layer, inputs[name], steps[name], other[name], noisy[name])
            for name, layer in layers.items()
        ),
        len(test),
        len(training),
    )


@dataclasses.dataclass
class _Recorded:
    """What the products of a layer got and gave, a tensor `(N, units)` per step; of some just the mean, or a gate."""

    inputs: list[Tensor] = dataclasses.field(default_factory=list)
    hidden: list[Tensor] = dataclasses.field(default_factory=list)
    products: list[Tensor] = dataclasses.field(default_factory=list)
    means: dict[tuple[bool, int], Tensor] = dataclasses.field(default_factory=dict)
    gates: list[float] = dataclasses.field(default_factory=list)


Change = Callable[[str, RecurrentProduct, int, Tensor, Tensor], Tensor | None]


def _record(
    model: nn.Module, sequences: Tensor, names: Any, change: Change | None = None, *, means: bool = False
) -> dict[str, _Recorded]:
    """Runs a network over sequences, step by step; keeps what its products get and give, or just means of that."""
    found = {name: _Recorded() for name in names}
    modules = dict(model.named_modules())

    def observe(name: str, layer: QuantRecurrent) -> Callable[..., Tensor | None]:
        given, last = found[name], [torch.empty(0)]

        def look(product: RecurrentProduct, t: int, inputs: Tensor, outputs: Tensor) -> Tensor | None:
            changed = None if change is None else change(name, product, t, inputs, outputs)
            kept = outputs if changed is None else changed
            (given.hidden if product.recurrent else given.inputs).append(inputs)
            if means:
                given.means[product.recurrent, t] = kept.double().mean(0)
            elif product.recurrent:
                given.products.append(kept)
                given.gates.append(_gate(layer, last[0], kept))
            last[0] = kept
            return changed

        return look

    with mode(model, False), torch.no_grad(), contextlib.ExitStack() as stack:
        for name in names:
            layer = modules[name]
            assert isinstance(layer, QuantRecurrent)
            stack.enter_context(_observed(layer, observe(name, layer)))
        model(sequences)
    return found


@contextlib.contextmanager
def _observed(layer: QuantRecurrent, observer: Any) -> Iterator[None]:
    before, layer.observer = layer.observer, observer
    try:
        yield
    finally:
        layer.observer = before


def _replica(model: nn.Module) -> nn.Module:
    """The network with latent weights and real inputs; rows keep the length that scales or weight norm gave them."""
    replica = copy.deepcopy(model)
    for module in replica.modules():
        if isinstance(module, RecurrentProduct):
            latent = module.weight.detach().norm(dim=1, keepdim=True).clamp(min=1e-12)
            with torch.no_grad():
                lengths = module.matrix().norm(dim=1, keepdim=True)
                if module.gain is None:  # with weight norm the learned lengths stay as they are
                    module.weight.mul_(lengths / latent)
            module.input_quantizer = module.weight_quantizer = Identity()
    return replica


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Correlation per unit over the first axis, in float64; NaN where one of them does not vary."""
    a, b = a.double() - a.double().mean(0), b.double() - b.double().mean(0)
    square = a.square().sum(0) * b.square().sum(0)
    return torch.where(square > 0, (a * b).sum(0) / square.clamp(min=1e-300).sqrt(), torch.nan)


def _pooled(a: Tensor, b: Tensor) -> tuple[float, float]:
    """The mean of the units' correlations, and its standard error by leaving out groups of sequences."""
    value = float(correlation(a, b).nanmean())
    size = len(a) // GROUPS
    without = []
    for group in range(GROUPS):
        kept = torch.cat((torch.arange(group * size), torch.arange((group + 1) * size, len(a)))).to(a.device)
        without.append(float(correlation(a[kept], b[kept]).nanmean()))
    mean = sum(without) / GROUPS
    return value, math.sqrt((GROUPS - 1) / GROUPS * sum((each - mean) ** 2 for each in without))


def _second_moments(product: RecurrentProduct, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Variance of `W x`, of `B q(x)`, and their covariance, per unit, from second moments of x and q(x).

    var W = w' C_xx w,   cov = w' C_xq b,   var B = b' C_qq b
    """
    with torch.no_grad():
        latent, quantized = product.weight.double(), product.matrix().double()
        values = product.effective_input(states).double()
    x, q = states.double() - states.double().mean(0), values - values.mean(0)
    real = ((latent @ (x.T @ x / len(x))) * latent).sum(1)
    levels = ((quantized @ (q.T @ q / len(x))) * quantized).sum(1)
    return real, levels, ((latent @ (x.T @ q / len(x))) * quantized).sum(1)


def _predicted(product: RecurrentProduct, states: Tensor) -> float:
    real, quantized, cross = _second_moments(product, states)
    square = real * quantized
    return float(torch.where(square > 0, cross / square.clamp(min=1e-300).sqrt(), torch.nan).nanmean())


def _noise(layers: dict[str, QuantRecurrent], training: dict[str, _Recorded], seed: int) -> Change:
    """Changes the replica's products as quantization is predicted to: slope, shift and independent noise per unit."""
    generator = torch.Generator().manual_seed(seed)
    rules: dict[tuple[str, bool, int], tuple[Tensor, Tensor, Tensor] | None] = {}

    def rule(name: str, product: RecurrentProduct, t: int) -> tuple[Tensor, Tensor, Tensor] | None:
        key = (name, product.recurrent, t)
        if key not in rules:
            own = layers[name].products()[product.parameter]
            recorded = training[name]
            states = (recorded.hidden if product.recurrent else recorded.inputs)[t]
            rules[key] = None
            if own.quantizes_weights or own.quantizes_inputs:
                real, quantized, cross = _second_moments(own, states)
                with torch.no_grad():
                    latent = own.weight.norm(dim=1) / product.matrix().norm(dim=1).clamp(min=1e-12)
                    size = latent.double()  # the replica's rows are latent rows of another length
                    slope = torch.where(real > 0, cross / real.clamp(min=1e-300), torch.zeros_like(real)) * size
                    left = (quantized - cross.square() / real.clamp(min=1e-300)).clamp(min=0).sqrt()
                    replica = states.double().mean(0) @ product.matrix().double().T
                    rules[key] = slope, recorded.means[product.recurrent, t] - slope * replica, left
        return rules[key]

    def change(name: str, product: RecurrentProduct, t: int, inputs: Tensor, outputs: Tensor) -> Tensor | None:
        found = rule(name, product, t)
        if found is None:
            return None
        slope, shift, left = found
        drawn = torch.randn(outputs.shape, generator=generator, dtype=torch.float64).to(outputs.device)
        return (slope * outputs.double() + shift + left * drawn).to(outputs.dtype)

    return change


def _measure(
    name: str, layer: QuantRecurrent, test: _Recorded, training: _Recorded, other: _Recorded, noisy: _Recorded
) -> LayerOverTime:
    hh = next(product for product in layer.products().values() if product.recurrent)
    latent = hh.weight.detach()
    rows: list[tuple[float, ...]] = []
    for t in range(1, len(test.hidden)):
        h, replica = test.hidden[t], other.hidden[t]
        r, error = _pooled(h @ latent.T, test.products[t])
        accumulated, accumulated_error = _pooled(other.products[t], test.products[t])
        signs = torch.where(h >= 0, 1.0, -1.0)
        cosine = nn.functional.cosine_similarity(h, signs, dim=1).clamp(-1, 1)
        rows.append(
            (
                r,
                _predicted(hh, training.hidden[t]),
                error,
                accumulated,
                float(correlation(other.products[t], noisy.products[t]).nanmean()),
                accumulated_error,
                float(correlation(h, replica).nanmean()),
                float(h.mean()),
                float(h.square().mean()),
                math.degrees(float(cosine.arccos().mean())),
                test.gates[t],
            )
        )
    if not rows:
        raise HypersignError("sequences must have at least 2 steps: the first state has no dot products")
    with torch.no_grad():
        quantized = hh.matrix()
        scaled = latent * (quantized.norm(dim=1) / latent.norm(dim=1).clamp(min=1e-12))[:, None]
        norms = [float(torch.linalg.matrix_norm(matrix, 2)) for matrix in (scaled, quantized)]
    columns: list[tuple[float, ...]] = list(zip(*rows, strict=True))
    return LayerOverTime(name, *columns, *norms)  # type: ignore[arg-type]


def _gate(layer: QuantRecurrent, from_inputs: Tensor, from_hidden: Tensor) -> float:
    """Mean of the gate that keeps the state, where norms do not stand between products and gates."""
    if layer.mode not in ("LSTM", "GRU") or layer.norm not in ("none", "weight"):
        return math.nan
    units = slice(layer.hidden_size, 2 * layer.hidden_size)
    z = from_inputs[:, units] + from_hidden[:, units]
    if layer.bias:
        z = z + (layer.get_parameter("bias_ih_l0") + layer.get_parameter("bias_hh_l0")).detach()[units]
    return float(torch.sigmoid(z).mean())
