"""Turns a float network into a quantized one.

It copies the network and changes the class of the layers in place. So every reference to a layer in the copy (a plain
list or dict of modules, a hook, a second parent) refers to the quantized layer.
"""

import copy
import dataclasses
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

from hypersign._checks import HypersignError
from hypersign._display import shown
from hypersign.layers.conv import QuantConv1d, QuantConv2d
from hypersign.layers.copying import copy_module, held_outside
from hypersign.layers.functional_use import read_without_call
from hypersign.layers.layer import QuantLayer
from hypersign.layers.linear import QuantLinear
from hypersign.layers.recurrent import QuantGRU, QuantLSTM, QuantRecurrent, QuantRNN, RecurrentProduct
from hypersign.quantizers import Quantizer

__all__ = ["Conversion", "convert"]

_QUANTIZED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: QuantLinear,
    nn.Conv1d: QuantConv1d,
    nn.Conv2d: QuantConv2d,
    nn.RNN: QuantRNN,
    nn.LSTM: QuantLSTM,
    nn.GRU: QuantGRU,
}


Sides = tuple[Quantizer | Mapping[str, Quantizer] | None, Quantizer | Mapping[str, Quantizer] | None]
"""The quantizers of weights and of inputs: one for all layers, or by layer."""


@shown
@dataclasses.dataclass(frozen=True)
class Conversion:
    """A quantized network, the names of the converted layers, and the reasons why other layers were not converted.

    `kept` maps the name of every module that owns parameters and was not converted to the reason.
    """

    model: nn.Module
    converted: tuple[str, ...]
    kept: dict[str, str]


def convert(
    model: nn.Module,
    *,
    weight_quantizer: Quantizer | Mapping[str, Quantizer] | None = None,
    input_quantizer: Quantizer | Mapping[str, Quantizer] | None = None,
    keep: Iterable[str] = (),
) -> Conversion:
    """Returns a quantized copy of a float network; its weights become the latent weights, and keys do not change.

    Every `nn.Linear`, `nn.Conv1d` and `nn.Conv2d` becomes a quantized layer with copies of the two quantizers. So
    does every `nn.RNN`, `nn.LSTM` and `nn.GRU`: all its matrices, its inputs and its hidden states are quantized.
    Other modules with parameters do not change; the result lists them with the reason. `model` does not change.

    Args:
        model: any torch network.
        weight_quantizer: the weight quantizer for all layers, or a dictionary: layer -> its own. None keeps weights
            real. A layer that is in no dictionary stays as it is. A dictionary may also name a matrix of a recurrent
            layer: `"lstm.ih_l0"` multiplies inputs, `"lstm.hh_l0"` hidden states.
        input_quantizer: likewise for inputs.
        keep: the names of layers to leave in float, or shell patterns of names (`"layer4.*"`).

    Raises:
        HypersignError: an entry of `keep` matches no module, nothing is left to convert, or a dictionary names a
            layer that cannot be converted (the message has the reason).

    >>> from hypersign.quantizers import Sign
    >>> net = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> result = convert(net, weight_quantizer=Sign(), input_quantizer=Sign(), keep=["0"])
    >>> result.converted, result.kept
    (('2',), {'0': 'kept by request (0)'})
    """
    if not isinstance(model, nn.Module):
        raise HypersignError(f"convert needs a torch network; got {type(model).__name__}")
    patterns = [keep] if isinstance(keep, str) else [str(pattern) for pattern in keep]
    names = [name for name, _ in model.named_modules() if name]
    unknown = [p for p in patterns if not any(fnmatchcase(name, p) for name in names)]
    if unknown:
        raise HypersignError(
            f"keep must name modules of the network; no module matches {', '.join(unknown)} "
            f"(its modules: {', '.join(names)})"
        )
    model = copy_module(model)
    sides = (weight_quantizer, input_quantizer)
    reads = {**held_outside(model), **read_without_call(model)}
    reasons: dict[str, str] = {}
    owners: dict[str, str] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, RecurrentProduct):
            continue  # a part of the recurrent layer
        if isinstance(module, nn.RNNBase):
            owners |= dict.fromkeys(_parts(name, module), name)
        if any(p is not None for p in module._parameters.values()):
            reasons[name] = _kept_reason(name, module, patterns, reads) or _taken(name, module, sides)
    if named := [side for side in sides if isinstance(side, Mapping)]:
        _check_named(named, reasons, owners)
        if not any(isinstance(side, Quantizer) for side in sides):
            wanted = {owners.get(each, each) for side in named for each in side}
            reasons = {
                name: reason or ("" if name in wanted else "no quantizer names it")
                for name, reason in reasons.items()
            }
    converted = {name: model.get_submodule(name) for name, reason in reasons.items() if not reason}
    if not converted:
        why = "; ".join(f"{name or 'the network'}: {reason}" for name, reason in list(reasons.items())[:3])
        raise HypersignError(
            "convert needs at least one nn.Linear, nn.Conv1d, nn.Conv2d or recurrent layer that keep does not name; "
            f"found none{why and f' ({why})'}"
        )
    for layer in dict.fromkeys(converted.values()):  # a layer with two names is converted once
        names_of = [name for name, other in converted.items() if other is layer]
        if isinstance(layer, nn.RNNBase):
            _quantize_recurrent(layer, names_of, sides)
        else:
            _quantize(layer, *(_quantizer_of(side, names_of) for side in sides))
    _leave_fused_paths(model, set(converted.values()))
    return Conversion(model, tuple(converted), {name: reason for name, reason in reasons.items() if reason})


def _parts(name: str, layer: nn.RNNBase) -> dict[str, str]:
    """The names of a recurrent layer's matrices, such as `lstm.hh_l0`, and the parameters that hold them."""
    known = [each for each in layer._flat_weights_names if each.startswith(("weight_ih_", "weight_hh_"))]
    return {f"{name}.{each.removeprefix('weight_')}".removeprefix("."): each for each in known}


def _check_named(
    named: Iterable[Mapping[str, Quantizer]], reasons: Mapping[str, str], owners: Mapping[str, str]
) -> None:
    """Raises HypersignError where a dictionary of quantizers names a layer that is not converted."""
    for name in dict.fromkeys(owners.get(name, name) for side in named for name in side):
        if name not in reasons:
            raise HypersignError(
                f"a dictionary of quantizers must name layers of the network; {name!r} is none (its layers: "
                f"{', '.join(reasons)})"
            )
        if reasons[name]:
            raise HypersignError(f"the layer {name!r} cannot be converted: {reasons[name]}")


def _quantizer_of(side: Quantizer | Mapping[str, Quantizer] | None, names: Iterable[str]) -> Quantizer | None:
    """The quantizer of the layer with these names."""
    if not isinstance(side, Mapping):
        return side
    return next((side[name] for name in names if name in side), None)


def _kept_reason(name: str, module: nn.Module, patterns: list[str], reads: dict[nn.Module, str]) -> str:
    """Why a module with parameters is not converted; empty if it is."""
    match = next((p for p in patterns if _matches(name, p)), None)
    if match is not None:
        return f"kept by request ({match})"
    if module in reads:
        return reads[module]
    if isinstance(module, ParametrizationList):
        return "the parametrization of a weight"
    if type(module) not in (*_QUANTIZED, *_QUANTIZED.values()):
        return _reason(module)
    weights = module._flat_weights_names if isinstance(module, nn.RNNBase) else ["weight"]
    if any(name not in module._parameters for name in weights):
        return "a hook computes its weight (weight_norm, spectral_norm, pruning); remove the hook first"
    if any(module.get_parameter(name).is_complex() for name in weights):
        return "its weights are complex numbers"
    if "forward" in vars(module):
        return "its forward was replaced on the object, as device hooks do; remove the hook first"
    return ""


def _taken(name: str, module: nn.Module, sides: Sides) -> str:
    """Why a layer that has quantizers already gets none; empty if the named sides of it are real."""
    layers: dict[str, QuantLayer] = {}
    if isinstance(module, QuantRecurrent):
        layers = {part: module.products()[parameter] for part, parameter in _parts(name, module).items()}
    elif isinstance(module, QuantLayer):
        layers = {name: module}
    found = [
        (quantized, isinstance(side, Mapping) and not side.keys().isdisjoint((name, part)))
        for part, layer in layers.items()
        for side, quantized in zip(sides, (layer.quantizes_weights, layer.quantizes_inputs), strict=True)
    ]
    chosen = any(named for _, named in found)
    return (
        "already a quantized layer" if any(quantized and (named or not chosen) for quantized, named in found) else ""
    )


def _leave_fused_paths(model: nn.Module, converted: set[nn.Module]) -> None:
    """Stops torch's transformers from reading the weights of converted layers without calling the layers.

    In evaluation without gradients, an encoder layer has a fused path that reads the weights of its linear layers,
    and an encoder with a padding mask passes it nested tensors. The flags set here switch both off.
    """
    for module in model.modules():
        inside = not converted.isdisjoint(module.modules())
        if inside and isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0
        elif inside and isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False


def _matches(name: str, pattern: str) -> bool:
    """Whether the pattern matches the module or a module that contains it."""
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[:n]), pattern) for n in range(1, len(parts) + 1))


def _reason(module: nn.Module) -> str:
    kind = type(module).__name__
    if hasattr(module, "parametrizations"):
        return "its weight is parametrized; remove the parametrization first"
    base = next((b.__name__ for b in _QUANTIZED if isinstance(module, b)), None)
    if base is not None:
        return f"{kind} is a subclass of {base} whose forward may differ"
    return f"{kind} has no quantized form here"


def _quantize(layer: nn.Module, weight_quantizer: Quantizer | None, input_quantizer: Quantizer | None) -> None:
    """Turns `layer` into its quantized subclass in place; its parameters, hooks, mode and settings do not change."""
    plain = not isinstance(layer, QuantLayer)
    if plain:
        layer.__class__ = _QUANTIZED[type(layer)]
    assert isinstance(layer, QuantLayer)
    if not plain:  # a side that is not named stays as it is
        input_quantizer = layer.input_quantizer if input_quantizer is None else input_quantizer
        weight_quantizer = layer.weight_quantizer if weight_quantizer is None else weight_quantizer
    layer.set_quantizers(copy.deepcopy(input_quantizer), copy.deepcopy(weight_quantizer))
    for quantizer in (layer.input_quantizer, layer.weight_quantizer):
        quantizer.to(layer.weight.device).train(layer.training)
    if plain and isinstance(layer, QuantConv1d | QuantConv2d):
        layer._set_pad_value(0)


def _quantize_recurrent(layer: nn.RNNBase, names: Iterable[str], sides: Sides) -> None:
    """The same for a recurrent layer: every matrix gets the quantizers of its name, or those of the layer."""
    if not isinstance(layer, QuantRecurrent):
        layer.__class__ = _QUANTIZED[type(layer)]  # type: ignore[assignment]
        assert isinstance(layer, QuantRecurrent)
        layer.equip((None, None), (None, None))
    weight, products = next(layer.parameters()), layer.products()
    parts = [(part, products[parameter]) for name in names for part, parameter in _parts(name, layer).items()]
    for product in products.values():
        called = [part for part, other in parts if other is product]
        weights, inputs = (copy.deepcopy(_quantizer_of(side, [*called, *names])) for side in sides)
        product.set_quantizers(  # a side that is not named stays as it is
            product.input_quantizer if inputs is None else inputs,
            product.weight_quantizer if weights is None else weights,
        )
        product.to(weight.device).train(layer.training)
