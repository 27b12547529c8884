"""Errors that accumulate through a network: measured layer by layer against a float replica.

Inspection measures what one bit does to a layer on the inputs that the layer has in this network. But those inputs
already carry the errors of all layers before it. The float replica, the same network without quantizers, shows what
the inputs would have been.
"""

import dataclasses
import itertools
import math
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hypersign import theory
from hypersign._checks import HypersignError, check_int
from hypersign._display import shown
from hypersign.evaluate import as_input, example_weight, full_precision, mode, reestimate_batch_norm
from hypersign.geometry.capture import Batches, Progress, capture
from hypersign.geometry.dot_products import ProductSums
from hypersign.geometry.permutation import permutation_tests, product_rows
from hypersign.geometry.weights import input_threshold
from hypersign.layers import QuantLayer, quant_layers
from hypersign.layers.copying import copy_module
from hypersign.quantizers import Identity
from hypersign.tasks import inputs_and_targets

__all__ = ["Depth", "LayerDepth", "LayerR", "PermutedR", "accumulated_r", "back_to_float", "layer_r", "measure_depth"]


@dataclasses.dataclass(frozen=True)
class LayerR:
    """Correlations of one layer's dot products, each averaged over its filters (NaN if no filter's products vary).

    `weights`, `inputs` and `both` say what quantizing the layer's weights, inputs or both does to its products. They
    are the r of `weights_binarized`, `activations_binarized` and `both_binarized` in `inspect`. `threshold` is the
    threshold of the input quantizer (0 for the sign), infinity for real inputs, NaN for a quantizer without
    thresholds.
    """

    name: str
    weights: float
    inputs: float
    both: float
    threshold: float


@dataclasses.dataclass(frozen=True)
class PermutedR:
    """The correlation between dot products with quantized and with latent weights, on permuted inputs.

    Both values are means over filters. `kept` says what the permutation keeps: nothing ("global"), each image's
    values ("sample"), or the values of each channel and position ("position").
    """

    kept: str
    r: float
    predicted_r: float


@shown
@dataclasses.dataclass(frozen=True)
class LayerDepth:
    """How far a layer of the quantized network is from the same layer of the float replica.

    `r` is the correlation of the layer's dot products in the two networks, per filter (so batch norm does not change
    it) and averaged over filters. `own_r` is what this layer alone does, on inputs without errors. `input_flips` is
    the share of its inputs whose sign differs between the networks. `training_r` and `training_input_flips` are the
    same on the images that batch norm was re-estimated on: they check that r holds for other images. The product of
    the layers' own r is no prediction of r: trained filters average errors out, so it is far too low.
    """

    name: str
    own_r: float
    r: float
    training_r: float
    input_flips: float
    training_input_flips: float
    permuted: tuple[PermutedR, ...]


@shown
@dataclasses.dataclass(frozen=True)
class Depth:
    """Result of `measure_depth` on `images` images."""

    images: int
    layers: tuple[LayerDepth, ...]


def back_to_float(model: nn.Module, *, weights: Collection[str] = (), inputs: Collection[str] = ()) -> nn.Module:
    """Copies a network and turns some of its layers' weights or inputs back to real numbers.

        w~ = w (w.b) / |w|^2        for each filter w with levels b

    The latent weights replace their levels, scaled to be as near to the levels as possible. The scale matters
    because a network without batch norm, or with a large epsilon in it, was trained for dot products of that size. A
    weight quantizer with a scale already matches the levels to the latent weights, so these stay unscaled. Real
    inputs are not scaled.

    Args:
        model: a network with quantized layers; it does not change.
        weights: the names of the layers whose weights become real.
        inputs: the names of the layers whose inputs become real.

    Raises:
        HypersignError: a name is not the name of a quantized layer.

    >>> from hypersign.layers import QuantLinear
    >>> from hypersign.quantizers import Sign
    >>> layer = QuantLinear(2, 1, weight_quantizer=Sign())
    >>> _ = layer.weight.data.copy_(torch.tensor([[0.3, -0.4]]))
    >>> back_to_float(nn.Sequential(layer), weights=["0"])[0].weight.data  # .7/.25 times as large
    tensor([[ 0.8400, -1.1200]])
    """
    replica = copy_module(model)
    layers = quant_layers(replica)
    unknown = [name for name in (*weights, *inputs) if name not in layers]
    if unknown:
        raise HypersignError(
            f"layers to turn back to float must be quantized layers ({', '.join(layers)}); got {', '.join(unknown)}"
        )
    for name in weights:
        layer = layers[name]
        if layer.weight_quantizer.scale is None:
            with torch.no_grad():
                latent, levels = layer.weight.flatten(1), layer.effective_weight().flatten(1)
                # A filter of zeros stays zero, although its levels may be +1.
                size = (latent * levels).sum(1) / latent.square().sum(1).clamp(min=torch.finfo(latent.dtype).tiny)
                # A new parameter, because other layers may share the old one and need another size.
                real = layer.weight * size.view(-1, *[1] * (layer.weight.dim() - 1))
            layer.weight = nn.Parameter(real, requires_grad=layer.weight.requires_grad)
        layer.weight_quantizer = Identity()
    for name in inputs:
        layers[name].input_quantizer = Identity()
    return replica


def layer_r(model: nn.Module, batches: Batches, *, progress: Progress | None = None) -> tuple[LayerR, ...]:
    """Measures the correlations of every quantized layer's dot products, in one pass over `batches`.

    Raises:
        HypersignError: for the same reasons as in `inspect`.
    """
    found = []
    for seen in capture(model, batches, progress=progress).layers:
        families = ("weights_binarized", "activations_binarized", "both_binarized")
        results = [seen.products.correlation(family)[1] for family in families]
        weights, inputs, both = (_mean(result) for result in results)
        found.append(LayerR(seen.name, weights, inputs, both, input_threshold(seen.layer)))
    return tuple(found)


def accumulated_r(
    layers: Sequence[LayerR],
    *,
    weights: Collection[str] = (),
    inputs: Collection[str] = (),
    real: Collection[str] = (),
) -> tuple[float, ...]:
    """Predicts, for every layer, the correlation of the dot products of two networks with different quantizers.

    Two networks see the same images and have the same latent weights. In the layers of `weights`, only one of them
    quantizes the weights; in the layers of `inputs`, only one of them quantizes the inputs. rho_l is the correlation
    of their dot products in layer l, and rho_0 = 1 (the images). The law assumes that the products z and z' are
    jointly normal, as in wide layers, and that errors are spread over directions in the same way as the signal:

        one network quantizes the inputs:   rho_l = rho_(l-1) r_l
            because E[z q(z')] = rho E[z' q(z')]. r_l is the layer's own correlation for quantized inputs, or for
            quantized inputs and weights if the weights differ too.
        both quantize the inputs:           rho_l = 1 / sqrt(1 + g_l (1/q^2 - 1)),   q = corr(q(z), q(z'))
            For the sign, q = (2/pi) arcsin(rho_(l-1)), and the share of flipped signs is arccos(rho_(l-1))/pi.
            1/q^2 - 1 is the ratio of error to signal among the inputs. g_l says how much of it the layer's filters
            let through. Quantizing the inputs measures g_l: the ratio before the filters follows from
            c = corr(z, q(z)), sqrt(2/pi) for the sign, and after them from r_l: g_l = (1/r_l^2 - 1) / (1/c^2 - 1).
            Independent inputs have g_l = 1. Filters in directions that inputs share average errors out: g_l < 1.
        neither does:                       rho_l = rho_(l-1)
        the weights differ, inputs do not:  rho_l, as above, times the layer's own r for quantized weights

    The law is for layers in sequence. It ignores pooling, and shortcuts, which carry signals past layers.

    Args:
        layers: the layers in order, from `layer_r`.
        weights: the names of the layers whose weights are quantized in one network only.
        inputs: the names of the layers whose inputs are quantized in one network only.
        real: the names of the layers that have an input quantizer, but whose inputs are real in both networks.

    Returns one correlation per layer; the last one is for the logits. The values are NaN from the first layer whose
    inputs already differ, which both networks quantize, and for whose levels there is no prediction.

    >>> layers = [LayerR(name, 0.8, 0.8, 0.64, 0.0) for name in ("1", "2", "3")]
    >>> [round(r, 3) for r in accumulated_r(layers, weights=["1"])]
    [0.8, 0.593, 0.407]
    >>> [round(r, 3) for r in accumulated_r(layers, weights=["1", "2", "3"], inputs=["1", "2", "3"])]
    [0.64, 0.41, 0.262]
    """
    rho, found = 1.0, []
    for layer in layers:
        if layer.name in inputs:
            rho *= layer.both if layer.name in weights else layer.inputs
        else:
            if not math.isinf(layer.threshold) and layer.name not in real:
                rho = _through_levels(rho, layer)
            if layer.name in weights:
                rho *= layer.weights
        found.append(rho)
    return tuple(found)


def measure_depth(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    reestimation: Iterable[tuple[Tensor, Tensor]],
    *,
    seed: int = 0,
    permuted_images: int = 64,
    progress: Progress | None = None,
) -> Depth:
    """Measures how errors accumulate from layer to layer, against a float replica of the network.

    The replica has the same latent weights and no quantizers. Its batch-norm statistics are re-estimated on the same
    training images as the network's own. Without signs it is a linear network except for pooling; it does not need
    to classify well, because it only shows how far the signals drift apart. Memory holds one batch of all layers'
    products. The model does not change.

    Args:
        model: a network with quantized layers.
        batches: pairs of images and labels to measure on. They are read twice, so pass a list or `Batches`, not a
            generator.
        reestimation: pairs of training images and labels to re-estimate batch norm on, and for `training_r`; not a
            generator either.
        seed: the seed of the permutation tests.
        permuted_images: the permutation tests use the first `permuted_images` images.
        progress: called after each batch with the number of images seen, in two passes.

    Raises:
        HypersignError: the model has no quantized layer; the forward pass does not reach one, or runs one twice;
            there are no images, or they can be read only once; weights, activations or scores are NaN or infinite.

    Source: Anderson & Berg 2018 (arXiv 1705.07199), section 3, ask this about one layer; here it is asked about all
    layers at once.

    >>> from hypersign.layers import QuantLinear
    >>> from hypersign.quantizers import Sign
    >>> _ = torch.manual_seed(0)
    >>> binary = {"input_quantizer": Sign(), "weight_quantizer": Sign(), "bias": False}
    >>> model = nn.Sequential(QuantLinear(512, 512, **binary), QuantLinear(512, 10, **binary))
    >>> for layer in model: _ = nn.init.normal_(layer.weight)
    >>> batch = torch.randn(300, 512), torch.zeros(300, dtype=torch.long)
    >>> [(round(layer.r, 1), round(layer.training_r, 1)) for layer in measure_depth(model, [batch], [batch]).layers]
    [(0.6, 0.6), (0.4, 0.4)]
    """
    check_int("permuted_images", permuted_images, min=1)
    check_repeatable("batches", batches)
    check_repeatable("reestimation", reestimation)
    quantized = copy_module(model)
    names = list(quant_layers(quantized))
    replica = back_to_float(model, weights=names, inputs=names)
    example = example_weight(model)
    device = "cpu" if example is None else example.device.type
    with full_precision(device):
        for network in (quantized, replica):
            reestimate_batch_norm(network, reestimation)
    own = layer_r(quantized, batches, progress=progress)
    with full_precision(device), mode(quantized, False), mode(replica, False), torch.no_grad():
        ours, theirs = _Watch(quantized, names), _Watch(replica, names)
        found = _Accumulated(ours, theirs, permuted_images)
        found.read(batches, example, progress)
        training = _Accumulated(ours, theirs, 0)
        training.read(reestimation, example, None)
    generator = torch.Generator().manual_seed(seed)
    layers = []
    for i, name in enumerate(names):
        tests = permutation_tests(ours.layers[name], torch.cat(found.kept[name]), generator)
        layers.append(
            LayerDepth(
                name=name,
                own_r=own[i].both,
                r=found.r(name),
                training_r=training.r(name),
                input_flips=found.input_flips(name),
                training_input_flips=training.input_flips(name),
                permuted=tuple(PermutedR(what, _mean(r), _mean(expected)) for what, (r, expected) in tests.items()),
            )
        )
    return Depth(found.images, tuple(layers))


class _Accumulated:
    """Compares the layers of the network and of its replica on images."""

    def __init__(self, ours: "_Watch", theirs: "_Watch", keep: int) -> None:
        self.ours, self.theirs, self.keep = ours, theirs, keep
        self.images = 0
        self.kept: dict[str, list[Tensor]] = {name: [] for name in ours.layers}  # quantized inputs of some images
        self._products = {
            name: ProductSums(layer.filters, {"depth": ("float", "quantized")}) for name, layer in ours.layers.items()
        }
        self._flips = dict.fromkeys(ours.layers, 0)
        self._inputs = dict.fromkeys(ours.layers, 0)

    def read(self, batches: Iterable[Any], example: Any, progress: Progress | None) -> None:
        for batch in batches:
            x = as_input(inputs_and_targets(batch)[0], example)
            if not len(x):
                continue
            self.ours.model(x)
            self.theirs.model(x)
            for name, layer in self.ours.layers.items():
                (a, z), (a_float, z_float) = self.ours.seen.pop(name), self.theirs.seen.pop(name)
                rows, rows_float = (product_rows(layer, values) for values in (z, z_float))
                self._products[name].update({"float": rows_float, "quantized": rows})
                self._flips[name] += int(((a < 0) != (a_float < 0)).sum())
                self._inputs[name] += a.numel()
                if self.images < self.keep:
                    self.kept[name].append(layer.effective_input(a[: self.keep - self.images]))
            self.images += len(x)
            if progress is not None:
                progress(self.images)

    def r(self, name: str) -> float:
        """The correlation of a layer's products in both networks, averaged over filters."""
        return _mean(self._products[name].correlation("depth")[1])

    def input_flips(self, name: str) -> float:
        """The share of a layer's inputs whose sign differs."""
        return self._flips[name] / self._inputs[name]


class _Watch:
    """Keeps each quantized layer's current input and output. It hooks layers, because layers may share quantizers."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        self.model = model
        self.layers: dict[str, QuantLayer] = {name: model.get_submodule(name) for name in names}  # type: ignore[misc]
        self.seen: dict[str, tuple[Tensor, Tensor]] = {}
        for name, layer in self.layers.items():
            layer.register_forward_hook(self._hook(name), with_kwargs=True)

    def _hook(self, name: str) -> Any:
        def keep(layer: nn.Module, args: tuple, kwargs: dict[str, Tensor], output: Tensor) -> None:
            if name in self.seen:
                raise HypersignError(
                    f"{name} runs more than once in a forward pass, and depth compares one use of each layer: "
                    "give each use a layer of its own"
                )
            self.seen[name] = args[0] if args else next(iter(kwargs.values())), output

        return keep


def check_repeatable(name: str, batches: Iterable[Any]) -> None:
    """Raises HypersignError if `batches` can be read only once, or are empty."""
    if iter(batches) is batches:
        raise HypersignError(f"{name} are read more than once: pass a list or Batches, not a generator")
    if not any(True for _ in itertools.islice(batches, 1)):
        raise HypersignError(f"{name} must hold at least one batch; none came")


def _mean(values: Iterable[float]) -> float:
    """The mean over the filters whose products vary; the others are NaN."""
    seen = np.asarray(tuple(values))
    seen = seen[~np.isnan(seen)]
    return float(seen.mean()) if len(seen) else math.nan


def _through_levels(rho: float, layer: LayerR) -> float:
    """The correlation after a layer whose inputs both networks quantize."""
    if rho == 1 and math.isnan(layer.threshold):
        return 1.0
    if math.isnan(rho) or math.isnan(layer.threshold):
        return math.nan
    q = _quantized_r(rho, layer.threshold)
    c = float(theory.ternary_cosine(layer.threshold))
    gain = _noise(layer.inputs) / _noise(c)
    return 1 / math.sqrt(1 + gain * _noise(q)) if q < 1 else 1.0


def _noise(r: float) -> float:
    """The ratio of error variance to signal variance in a variable whose correlation with the signal is r."""
    return 1 / r**2 - 1 if r > 0 else math.inf


def _quantized_r(rho: float, threshold: float) -> float:
    """The correlation between the levels (-1, 0, +1, threshold t) of standard normals z and z' with correlation rho.

        corr = ( F(-rho) - F(rho) ) / (2 Q(t))

    F(rho) is the share of pairs in which exactly one of the two exceeds t. The formula follows from
    E[q q'] = 2 P(z > t, z' > t) - 2 P(z > t, -z' > t) and P(z > t, z' > t) = Q(t) - F(rho)/2. For t = 0 it gives
    (2/pi) arcsin(rho).
    """
    alone, alone_opposite = theory.sign_flip_share([rho, -rho], -threshold, -threshold)
    return float((alone_opposite - alone) / math.erfc(threshold / math.sqrt(2)))
