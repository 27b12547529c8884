"""Rivals of the forecast: other scores for the damage of one layer's change, each with its cost in passes.

    weight error    |w - q|^2/|w|^2
    SQNR            |y - y_q|^2/|y|^2, y the layer's outputs: the inverse of the signal-to-quantization-noise ratio
    Fisher          sum_j g_j^2 (w_j - q_j)^2, g the gradient of the log-likelihood of a label drawn from the softmax
    Hessian trace   tr(H)/n |w - q|^2, H the Hessian of the loss, its trace by Hutchinson's estimator

All use the inputs of the forecast and no labels of the data. Sources: NVIDIA's AutoQuantize for squared gradients;
Dong et al. 2020 (HAWQ-V2, arXiv 1911.03852) for the trace.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from hypersign.forecasting.bench import Bench
from hypersign.forecasting.changes import given_weight
from hypersign.forecasting.formats import format_of
from hypersign.forecasting.layers import hooked, weight_place
from hypersign.quantizers import Identity

__all__ = ["RIVALS", "Key", "Scored"]

Key = tuple[str, str]
"""A layer and a format."""

Scored = dict[str, Any]
"""`scores` (one per change, larger is worse), `passes` over the inputs, `seconds` of the processor."""

BATCH = 8
"""Inputs per squared gradient."""

PROBES = 4
"""Random vectors of Hutchinson's estimator."""

BACKWARD = 2.0
"""Passes that a backward pass counts as; one through a gradient counts as two of these."""


def differences(bench: Bench, keys: list[Key]) -> dict[Key, Tensor]:
    """The change of the weights of each change: the given ones minus the quantized ones."""
    found = {}
    for name, text in keys:
        weight = bench.change(name, (format_of(text), None)).weight
        assert weight is not None
        found[name, text] = given_weight(bench.layers[name].module) - weight
    return found


def weight_error(bench: Bench, keys: list[Key]) -> Scored:
    start = time.process_time()
    scores = {}
    for (name, text), apart in differences(bench, keys).items():
        scores[name, text] = float(apart.square().sum() / given_weight(bench.layers[name].module).square().sum())
    return {"scores": scores, "passes": 0.0, "seconds": time.process_time() - start}


def noise_to_signal(bench: Bench, keys: list[Key]) -> Scored:
    start = time.process_time()
    apart = differences(bench, keys)
    noise = dict.fromkeys(keys, 0.0)
    signal = dict.fromkeys(bench.layers, 0.0)

    names = {layer.module: name for name, layer in bench.layers.items()}
    busy = False

    def look(module: Any, x: Tensor, output: Tensor) -> None:
        nonlocal busy
        if busy:  # the products below
            return
        busy, name = True, names[module]
        signal[name] += float(output.square().sum())
        for text in [text for layer, text in keys if layer == name]:
            # the product is linear in the weight: the difference of weights gives that of outputs
            with weight_of(module, apart[name, text]):
                bias = (
                    0 if module.bias is None else module.bias.view(-1, *[1] * len(getattr(module, "kernel_size", ())))
                )
                noise[name, text] += float((module.forward(x) - bias).square().sum())
        busy = False

    with torch.no_grad(), hooked(names, look):
        for batch in bench.batches:
            bench.model(batch)
    formats = len({text for _, text in keys})
    scores = {key: noise[key] / max(signal[key[0]], 1e-30) for key in keys}
    return {"scores": scores, "passes": 1.0 + formats, "seconds": time.process_time() - start}


def fisher(bench: Bench, keys: list[Key]) -> Scored:
    start = time.process_time()
    apart = differences(bench, keys)
    squares: dict[str, Tensor] = {}
    generator = torch.Generator().manual_seed(0)
    count = 0
    with weights_with_gradients(bench) as weights:
        for batch in bench.batches:
            for part in batch.split(BATCH):
                logits = bench.model(part).flatten(0, -2)
                drawn = torch.multinomial(logits.detach().softmax(1).cpu(), 1, generator=generator)[:, 0].to(
                    logits.device
                )
                loss = F.cross_entropy(logits, drawn, reduction="sum")
                for name, slope in zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True):
                    squares[name] = squares.get(name, 0) + slope.square()
                count += len(part)
    scores = {key: float((squares[key[0]] * apart[key].square()).sum()) / count for key in keys}
    return {"scores": scores, "passes": 1 + BACKWARD, "seconds": time.process_time() - start}


def hessian_trace(bench: Bench, keys: list[Key]) -> Scored:
    start = time.process_time()
    apart = differences(bench, keys)
    traces = dict.fromkeys(bench.layers, 0.0)
    generator = torch.Generator().manual_seed(0)
    with weights_with_gradients(bench) as weights, sdpa_kernel(SDPBackend.MATH):  # others have no second derivative
        for batch in bench.batches:
            for part in batch.split(4 * BATCH):
                logits = bench.model(part).flatten(0, -2)
                loss = F.cross_entropy(logits, logits.detach().argmax(1))
                slopes = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
                for probe in range(PROBES):
                    signs = [
                        (2.0 * torch.randint(0, 2, s.shape, generator=generator) - 1).to(s.device) for s in slopes
                    ]
                    products = torch.autograd.grad(
                        slopes, list(weights.values()), signs, retain_graph=probe + 1 < PROBES, materialize_grads=True
                    )
                    for name, sign, product in zip(weights, signs, products, strict=True):
                        traces[name] += float((sign * product).sum()) * len(part) / (PROBES * bench.inputs)
    scores = {key: traces[key[0]] / apart[key].numel() * float(apart[key].square().sum()) for key in keys}
    return {"scores": scores, "passes": 1 + BACKWARD * (1 + 2 * PROBES), "seconds": time.process_time() - start}


RIVALS: Mapping[str, Callable[[Bench, list[Key]], Scored]] = {
    "weight error": weight_error,
    "SQNR": noise_to_signal,
    "Fisher": fisher,
    "Hessian trace": hessian_trace,
}
"""The rivals by name."""


@contextlib.contextmanager
def weight_of(layer: Any, weight: Tensor) -> Iterator[None]:
    """The layer with this weight in place of its own, not quantized."""
    place, name = weight_place(layer)
    before, quantizer, gain = place[name], layer._modules.get("weight_quantizer"), layer._parameters.get("gain")
    place[name] = nn.Parameter(weight, requires_grad=weight.requires_grad)
    if quantizer is not None:
        layer._modules["weight_quantizer"] = Identity()
    if gain is not None:
        layer._parameters["gain"] = None
    try:
        yield
    finally:
        place[name] = before
        if quantizer is not None:
            layer._modules["weight_quantizer"] = quantizer
        if gain is not None:
            layer._parameters["gain"] = gain


@contextlib.contextmanager
def weights_with_gradients(bench: Bench) -> Iterator[dict[str, Tensor]]:
    """The layers' weights as the products see them, with gradients; no other parameter has any."""
    wanted = {name: parameter.requires_grad for name, parameter in bench.model.named_parameters()}
    bench.model.requires_grad_(False)
    try:
        with contextlib.ExitStack() as stack:
            weights = {}
            for name, layer in bench.layers.items():
                stack.enter_context(weight_of(layer.module, given_weight(layer.module).requires_grad_()))
                place, key = weight_place(layer.module)
                weights[name] = place[key]
            yield weights
    finally:
        for name, parameter in bench.model.named_parameters():
            parameter.requires_grad_(wanted[name])
