"""Measures the covariance of every layer's inputs in one pass over the data."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hypersign._checks import HypersignError, check_int
from hypersign._display import shown
from hypersign.geometry.capture import watching
from hypersign.geometry.covariance.accumulator import CovarianceAccumulator
from hypersign.geometry.covariance.convolutions import add_inputs
from hypersign.geometry.covariance.patches import groups_of, quantizable_layers
from hypersign.geometry.covariance.real_inputs import RealInputs, RealInputSums, sample_size
from hypersign.geometry.covariance.sample import VectorSample
from hypersign.geometry.dot_products import ProductSums
from hypersign.geometry.products import FAMILIES, LayerProducts
from hypersign.layers import QuantLayer

__all__ = ["MOST_FAN_IN", "Covariances", "LayerCovariance", "input_covariances"]

MOST_FAN_IN = 8192
"""The largest fan-in that is measured: its covariance takes 0.5 GiB."""

Batch = Tensor | tuple | list | Mapping[str, Any]


@shown
@dataclasses.dataclass(frozen=True, eq=False)
class LayerCovariance:
    """Mean and covariance of the inputs of a layer's product, and its filters: enough to predict r.

    `patches` is the number of input vectors per group. `mean` has shape (groups, d), where d is the fan-in.
    `covariance` is C, centred and symmetric, of shape (groups, d, d). `weights` are the latent filters and `levels`
    the quantized ones (the same without a weight quantizer), both of shape (filters, d). Filter f is multiplied with
    the inputs of group f // (filters / groups). These arrays are float64. `kind` is the layer's class.

    `sample` holds some of the inputs, evenly spread, of shape (groups, d, n) in float32; empty if none were kept.
    `real` describes the inputs before the layer's input quantizer, if `quantizes_inputs`, else these inputs; None if
    it is unknown. `products` are the sums of the dot products of a quantized layer over all these inputs; None if
    they were not computed.
    """

    name: str
    kind: str
    patches: int
    mean: np.ndarray
    covariance: np.ndarray
    weights: np.ndarray
    levels: np.ndarray
    sample: np.ndarray = dataclasses.field(default_factory=lambda: np.empty((1, 1, 0), np.float32))
    real: RealInputs | None = None
    quantizes_inputs: bool = False
    products: ProductSums | None = None

    @property
    def sign_flips(self) -> np.ndarray:
        """The share of each filter's dot products whose sign the layer's own weight quantizer changes, on all inputs.

        Empty if the products were not computed.
        """
        return np.empty(0) if self.products is None else self.products.sign_flips("weights_binarized")

    @property
    def groups(self) -> int:
        """The number of groups."""
        return len(self.covariance)

    @property
    def fan_in(self) -> int:
        """The length d of a filter."""
        return self.weights.shape[1]

    @property
    def filters(self) -> int:
        """The number of filters in all groups."""
        return len(self.weights)


@shown
@dataclasses.dataclass(frozen=True, eq=False)
class Covariances:
    """Result of one pass over `images` images: the measured layers by name, and the reason for each other layer."""

    images: int
    layers: dict[str, LayerCovariance]
    unmeasured: dict[str, str]


def input_covariances(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    continuous: bool = False,
    memory_bytes: int = 2**31,
    progress: Callable[[int], Any] | None = None,
) -> Covariances:
    """Measures mean and covariance of the inputs of every fully connected and convolutional layer, in one pass.

    An input is a vector that one filter is multiplied with: a row, or a patch of the padded input. Mean and
    covariance determine the correlation of dot products for any quantizer of the weights, without another pass: see
    `what_if`.

    The model runs in evaluation mode and in float32 (or its own type). Its hooks, modes, weights and the random
    state are the same afterwards, also after an exception. Accumulators are float64; results do not depend on the
    batch size. The covariance of a layer with fan-in d takes 8 d^2 bytes, and that of its real inputs 4 d^2, if it
    quantizes them. If all of them need more than
    `memory_bytes`, those of the largest layers are kept in mapped temporary files and computed in blocks of 512
    rows. Besides the covariances, memory holds one batch, 8 MiB of inputs per layer, and one block.

    Args:
        model: any network with `nn.Linear`, `nn.Conv1d` or `nn.Conv2d`, quantized or not.
        batches: input tensors; or tuples that begin with one (labels may follow); or dictionaries of the model's
            keyword arguments. Tensors are moved to the model's device, and floating-point ones get its type.
        continuous: measure the inputs before a layer's input quantizer.
        memory_bytes: the memory for covariances, in bytes.
        progress: called after each batch with the number of images seen.

    `unmeasured` lists, with the reason, the layers that were not reached, whose inputs contain NaN or infinity, or
    whose fan-in is above 8,192.

    Raises:
        HypersignError: the model has no such layer; there are no images; a batch has another form; a mapped file
            would not fit on its disk.

    Source: Anderson & Berg 2018 (arXiv 1705.07199), section 2.2.

    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> found = input_covariances(model, [torch.tensor([[1.0, 3.0], [5.0, 3.0]])])
    >>> found.layers["0"].mean.tolist(), found.layers["0"].covariance.tolist()
    ([[3.0, 3.0]], [[[4.0, 0.0], [0.0, 0.0]]])
    """
    check_int("memory_bytes", memory_bytes, min=0)
    modules = quantizable_layers(model)
    if not modules:
        raise HypersignError(
            "the network must have layers that can be quantized (nn.Linear, nn.Conv1d, nn.Conv2d); it has none"
        )
    images = 0
    example = next(iter(modules.values())).weight
    cuda = [example.device] if example.device.type == "cuda" else []
    with watching(model, example.device.type) as watch:
        sums = _sums(modules, continuous, memory_bytes)
        for layer in sums:
            watch(layer.layer, layer.hook)
        for batch in batches:
            arguments, keywords, count = _on_device(batch, example)
            with torch.random.fork_rng(cuda):
                model(*arguments, **keywords)
            images += count
            if progress is not None:
                progress(images)
        if not images:
            raise HypersignError("covariances need at least one image; none came")
        unmeasured = {layer.name: layer.unmeasured for layer in sums if layer.unmeasured}
        layers = {layer.name: layer.result() for layer in sums if not layer.unmeasured}
    return Covariances(images, layers, unmeasured)


class _LayerSums:
    """Accumulates the inputs of one layer, and the products of a quantized layer."""

    def __init__(self, name: str, layer: Any, continuous: bool, mapped: bool) -> None:
        self.name, self.layer = name, layer
        quantized = isinstance(layer, QuantLayer) and not continuous
        self.sums: CovarianceAccumulator | None = None
        self.real: RealInputSums | None = None
        self.products: ProductSums | None = None
        self.multiply: LayerProducts | None = None
        self.reason = ""
        if not issubclass(type(layer), nn.Linear | nn.Conv1d | nn.Conv2d):
            self.reason = f"the windows that a {type(layer).__name__} reads are not collected"
            return
        if (fan_in := layer.weight[0].numel()) > MOST_FAN_IN:
            self.reason = f"its fan-in of {fan_in:,} is above {MOST_FAN_IN:,}"
            return
        self.quantizes = quantized and layer.quantizes_inputs
        levels = (
            self.quantizes
            and layer.input_quantizer.packed_form(inputs=True).kind in ("binary", "ternary")
            and layer.input_quantizer.scale is layer.input_quantizer.offset is None
        )
        self.sums = CovarianceAccumulator(
            groups_of(layer), fan_in, levels=levels, device=layer.weight.device, mapped=mapped
        )
        self.sample = VectorSample(sample_size(fan_in))
        self.real = RealInputSums(layer, self.sums, self.sample)
        if self.quantizes:
            real = CovarianceAccumulator(
                groups_of(layer), fan_in, single=True, device=layer.weight.device, mapped=mapped
            )
            self.real = RealInputSums(layer, real, VectorSample(sample_size(fan_in)))
        if quantized and (self.quantizes or layer.quantizes_weights) and torch.isfinite(layer.weight.sum()):
            self.products, self.multiply = ProductSums(layer.filters, FAMILIES), LayerProducts(layer)

    @property
    def unmeasured(self) -> str:
        """Why there is no covariance; empty if there is one."""
        if self.reason:
            return self.reason
        assert self.sums is not None
        return "" if self.sums.count else "the forward pass does not call it"

    def hook(self, layer: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        """A forward hook: adds the layer's current input."""
        if self.sums is None:
            return
        x: Tensor = args[0] if args else next(iter(kwargs.values()))
        if not torch.isfinite(
            x.sum(dtype=torch.promote_types(x.dtype, torch.float32))
        ):  # far cheaper than checking every element
            self.reason, self.sums = "its input holds NaN or infinity", None
            return
        seen = x
        if self.products is not None and self.multiply is not None:
            if x.dim() < self.layer.weight.dim():  # one image without a batch dimension
                x, output = x[None], output[None]
            products, seen = self.multiply.of(x, output)
            self.products.update(products, images=len(x))
        elif self.quantizes:
            seen = self.layer.effective_input(x)
        assert self.real is not None
        if self.quantizes:
            self.real.update(x)
        else:
            self.real.note(x)
        add_inputs(layer, seen, self.sums, self.sample)

    def result(self) -> LayerCovariance:
        """The covariance. The accumulators cannot be used afterwards."""
        assert self.sums is not None
        mean, covariance = self.sums.result()
        patches, self.sums = self.sums.count, None  # frees the accumulators' memory on a device
        assert self.real is not None
        moments = self.real.sums.result() if self.quantizes else (mean, covariance)
        real, self.real = self.real.result(*moments, quantized=self.quantizes), None
        latent = self.layer.weight.detach()
        quantized = isinstance(self.layer, QuantLayer) and self.layer.quantizes_weights
        levels = self.layer.effective_weight().detach() if quantized else latent
        weights = _rows(latent)
        return LayerCovariance(
            self.name,
            type(self.layer).__name__,
            patches,
            mean,
            covariance,
            weights,
            weights if levels is latent else _rows(levels),
            self.sample.vectors.float().numpy(),
            real,
            self.quantizes,
            self.products,
        )


def _sums(modules: Mapping[str, Any], continuous: bool, memory_bytes: int) -> list[_LayerSums]:
    """One `_LayerSums` per layer, in order. The smallest covariances stay in memory, as many as fit."""
    size = {}
    for name, layer in modules.items():
        twice = isinstance(layer, QuantLayer) and layer.quantizes_inputs and not continuous
        size[name] = (12 if twice else 8) * groups_of(layer) * layer.weight[0].numel() ** 2
    held, mapped = 0, set()
    for name in sorted(size, key=lambda name: size[name]):
        held += size[name]
        if held > memory_bytes:
            mapped.add(name)
    return [_LayerSums(name, layer, continuous, name in mapped) for name, layer in modules.items()]


def _rows(weight: Tensor) -> np.ndarray:
    """Copies a weight's filters into rows, in float64."""
    return weight.cpu().to(torch.float64, copy=True).flatten(1).numpy()


def _on_device(batch: Batch, example: Tensor) -> tuple[tuple, dict[str, Any], int]:
    """The model's positional and keyword arguments on its device, and the number of images in them."""

    def moved(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.to(example.device, example.dtype if value.is_floating_point() else value.dtype)

    if isinstance(batch, Mapping):
        keywords = {name: moved(value) for name, value in batch.items()}
        first = next((value for value in keywords.values() if isinstance(value, Tensor)), None)
        arguments: tuple = ()
    else:
        first = moved(batch[0] if isinstance(batch, tuple | list) and batch else batch)
        arguments, keywords = (first,), {}
    if not isinstance(first, Tensor) or not first.dim():
        raise HypersignError(
            "a batch must be a tensor of inputs, a tuple that begins with one, or a dictionary of the model's "
            f"arguments; got {type(batch).__name__}"
        )
    return arguments, keywords, len(first)
