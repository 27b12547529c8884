"""Repair: gives a quantized network the channel means and deviations of its original, without labels."""

import contextlib
import functools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hypersign._checks import HypersignError
from hypersign.forecasting.bench import observing
from hypersign.forecasting.changes import Moments, match, run_matched
from hypersign.forecasting.formats import weight_values
from hypersign.forecasting.layers import bias_place, changeable_layers, hooked, takes_shift, unrolled
from hypersign.forecasting.replay import batch_size, prepared, run
from hypersign.layers import QuantLayer, RecurrentProduct
from hypersign.quantizers import Identity

__all__ = ["repair"]


class GivenScale(nn.Module):
    """A scale per filter that multiplies the scale of another rule.

    Repair needs it for quantizers whose values do not change when all weights are doubled. It is a parameter, so it
    is saved, and training refines it.
    """

    def __init__(self, values: Tensor, rule: Any = None) -> None:
        super().__init__()
        self.values = nn.Parameter(values)
        self.rule = rule

    def forward(self, weight: Tensor, levels: Tensor) -> Tensor:
        """The scales, shape `(filters,)`."""
        return self.values if self.rule is None else self.values * self.rule(weight, levels)


def repair(model: nn.Module, batches: Iterable[Any], *, original: nn.Module | None = None) -> tuple[str, ...]:
    """Matches mean and deviation of each output channel to the original network's, in place and without labels.

        y <- g y + h,   g = sd(y of the original) / sd(y),   h = mean(y of the original) - g mean(y)

    for every channel y of every layer from the first quantized one on: linear and convolutional layers, and the
    products of recurrent layers. Products without a bias, or before a norm, only get a scale: the ratio of root mean
    squares. Later layers see repaired inputs, so one pass per batch suffices; three
    if a pass calls layers several times, as each step of a sequence does. g and h go into the layer's weights and
    bias, or where a batch norm follows, into the batch norm. They come from these inputs: use about 128 or more,
    of all kinds that the network meets.

    Args:
        model: the quantized network, such as `convert(...).model`; it changes.
        batches: inputs: tensors, tuples that begin with one, or dictionaries of the model's arguments.
        original: the float network. If None, `model` with its quantizers switched off: its latent weights.

    Returns the names of the repaired layers. Raises:
        HypersignError: no layer is quantized and no original is given, or the two networks have different layers;
            fewer than two values per channel in a batch; NaN.

    >>> from hypersign.layers import convert
    >>> from hypersign.quantizers import MeanScale, Sign
    >>> _ = torch.manual_seed(0)
    >>> net, x = nn.Sequential(nn.Linear(50, 20), nn.ReLU(), nn.Linear(20, 5)), torch.randn(256, 50)
    >>> quantized = convert(net, weight_quantizer=Sign(scale=MeanScale())).model
    >>> before = (quantized(x).mean(0) - net(x).mean(0)).abs().max()
    >>> repair(quantized, [x], original=net)
    ('0', '2')
    >>> bool((quantized(x).mean(0) - net(x).mean(0)).abs().max() < 1e-5 < before)
    True
    """
    layers = changeable_layers(model)
    original = None if original is None else unrolled(original)
    held = [batch for batch in batches if batch_size(batch)]
    if not held:
        raise HypersignError("repair needs inputs; got none")
    plain = changeable_layers(model if original is None else original)
    if original is None and not any(_quantized(layer) for layer in layers.values()):
        raise HypersignError(
            "repair needs the float network that this one came from; no layer of it is quantized, so give original="
        )
    different = sorted(name or "a layer without a name" for name in {*layers} ^ {*plain})
    if different:
        raise HypersignError(f"both networks must have the same layers; only one of them has {', '.join(different)}")
    order, repeated, norms = _order(model, layers, held[0])
    first = next((i for i, name in enumerate(order) if _differs(layers[name], plain[name])), None)
    if first is None:
        return ()
    names = order[first:]
    wanted, came = ({layers[name]: Moments() for name in names} for _ in range(2))
    with prepared(model), prepared(model if original is None else original):
        for batch in held:
            moments = {plain[name]: Moments() for name in names}
            with observing(moments), _as_float(layers if original is None else {}):
                run(model if original is None else original, batch)
            there = {layers[name]: moments[plain[name]] for name in names if moments[plain[name]].count}
            for name in names:
                found = moments[plain[name]]
                if found.count < 2:
                    raise HypersignError(
                        f"repair needs at least 2 values per channel in each batch; {name or 'the layer'} gets "
                        f"{found.count}: use batches of 128 inputs or so"
                    )
                wanted[layers[name]].merge(found)
            run_matched(functools.partial(run, model, batch), there, repeated, came)
        for name in names:
            layer = layers[name]
            _fold(layer, *match(layer, wanted[layer], came[layer]), norms.get(name))
    return tuple(names)


def _quantized(layer: Any) -> bool:
    return isinstance(layer, QuantLayer) and (layer.quantizes_weights or layer.quantizes_inputs)


def _differs(layer: Any, plain: Any) -> bool:
    """Whether a layer computes something other than the original's."""
    return _quantized(layer) or (layer is not plain and not torch.equal(layer.weight, plain.weight))


@contextlib.contextmanager
def _as_float(layers: Mapping[str, Any]) -> Iterator[None]:
    """Switches the quantizers of layers off for a while."""
    before = {
        layer: (layer.input_quantizer, layer.weight_quantizer)
        for layer in layers.values()
        if isinstance(layer, QuantLayer)
    }
    for layer in before:
        layer.input_quantizer, layer.weight_quantizer = Identity(), Identity()
    try:
        yield
    finally:
        for layer, (inputs, weights) in before.items():
            layer.input_quantizer, layer.weight_quantizer = inputs, weights


def _order(model: nn.Module, layers: Mapping[str, Any], batch: Any) -> tuple[list[str], set[Any], dict[str, Any]]:
    """The layers that a pass calls, in order; those called several times; and the batch norms that read them."""
    names = {layer: name for name, layer in layers.items()}
    calls: list[tuple[str, Tensor]] = []
    norms: dict[str, Any] = {}
    reads: list[Any] = []

    def called(layer: nn.Module, x: Tensor, output: Tensor) -> None:
        calls.append((names[layer], output))

    def read(norm: Any, args: tuple) -> None:
        reads.append(norm)
        for name, output in calls:
            if args[0] is output:
                norms[name] = norm

    with prepared(model), hooked(names, called), contextlib.ExitStack() as hooks:
        for module in model.modules():
            if isinstance(module, _BatchNorm) and module.affine and module.track_running_stats:
                hooks.callback(module.register_forward_pre_hook(read).remove)
        run(model, batch)
    counts = Counter(name for name, _ in calls)
    order = list(counts)
    alone = {name: norm for name, norm in norms.items() if counts[name] == reads.count(norm) == 1}
    return order, {layers[name] for name, count in counts.items() if count > 1}, alone


def _fold(layer: Any, scale: Tensor, shift: Tensor, norm: Any) -> None:
    """Puts y <- scale y + shift into the batch norm that reads y, or into the layer's weight and bias."""
    if norm is not None:
        shown = norm.weight.detach().double()
        slope = shown / (norm.running_var.double() + norm.eps).sqrt()
        norm.bias.data.copy_(norm.bias.double() + slope * (shift + (scale - 1) * norm.running_mean.double()))
        norm.weight.data.copy_(shown * scale)
        return
    scale, shift = scale.to(layer.weight), shift.to(layer.weight)
    gain = getattr(layer, "gain", None)
    if gain is not None:
        gain.data.mul_(scale)
    elif isinstance(layer, QuantLayer) and layer.quantizes_weights and not _scales_with_weights(layer):
        quantizer = layer.weight_quantizer
        quantizer.scale = GivenScale(scale, quantizer.scale)
    else:
        layer.weight.data.mul_(scale.view(-1, *[1] * (layer.weight.dim() - 1)))
    if not takes_shift(layer):
        return
    place, name = bias_place(layer)
    bias = place.get(name)
    if bias is None:
        layer.bias = nn.Parameter(shift, requires_grad=layer.weight.requires_grad)
    elif isinstance(layer, RecurrentProduct):  # the product alone was matched, without the bias
        bias.data.add_(shift)
    else:
        bias.data.copy_(bias * scale + shift)


def _scales_with_weights(layer: Any) -> bool:
    """Whether doubled latent weights give doubled values."""
    weight = layer.weight.detach()
    once, twice = (weight_values(layer.weight_quantizer, factor * weight) for factor in (1, 2))
    return bool(torch.allclose(2 * once, twice))
