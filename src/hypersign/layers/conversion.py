"""Turns a float network into a quantized one.

It copies the network and changes the class of the layers in place. So every reference to a layer in the copy (a plain
list or dict of modules, a hook, a second parent) refers to the quantized layer.
"""

import copy
import inspect
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

from hypersign._checks import HypersignError
from hypersign.layers.attention import QuantMultiheadAttention, unsupported
from hypersign.layers.conv import (
    QuantConv1d,
    QuantConv2d,
    QuantConv3d,
    QuantConvTranspose1d,
    QuantConvTranspose2d,
    QuantConvTranspose3d,
    _QuantConv,
)
from hypersign.layers.conversion_result import Conversion, macs_of, warn_if_mostly_float
from hypersign.layers.copying import copy_module, held_outside
from hypersign.layers.embedding import QuantEmbedding
from hypersign.layers.functional_use import read_without_call
from hypersign.layers.layer import OwnedProduct, QuantLayer
from hypersign.layers.linear import QuantLinear
from hypersign.layers.own_forward import own_forward, quantized_subclass
from hypersign.layers.recurrent import QuantGRU, QuantLSTM, QuantRecurrent, QuantRNN, RecurrentProduct
from hypersign.quantizers import Quantizer

__all__ = ["Conversion", "convert"]

_QUANTIZED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: QuantLinear,
    nn.modules.linear.NonDynamicallyQuantizableLinear: QuantLinear,  # the output projection of attention
    nn.Conv1d: QuantConv1d,
    nn.Conv2d: QuantConv2d,
    nn.Conv3d: QuantConv3d,
    nn.ConvTranspose1d: QuantConvTranspose1d,
    nn.ConvTranspose2d: QuantConvTranspose2d,
    nn.ConvTranspose3d: QuantConvTranspose3d,
    nn.Embedding: QuantEmbedding,
    nn.RNN: QuantRNN,
    nn.LSTM: QuantLSTM,
    nn.GRU: QuantGRU,
    nn.MultiheadAttention: QuantMultiheadAttention,
}

_WHOLE = (nn.RNNBase, nn.MultiheadAttention)
"""Modules of several weights: subclasses of theirs stay float."""

Sides = tuple[Quantizer | Mapping[str, Quantizer] | None, Quantizer | Mapping[str, Quantizer] | None]
"""The quantizers of weights and of inputs: one for all layers, or by layer."""


def convert(
    model: nn.Module,
    *,
    weight_quantizer: Quantizer | Mapping[str, Quantizer] | None = None,
    input_quantizer: Quantizer | Mapping[str, Quantizer] | None = None,
    keep: Iterable[str] = (),
    example: Any = None,
) -> Conversion:
    """Returns a quantized copy of a float network; its weights become the latent weights, and keys do not change.

    | Module | What is quantized |
    |---|---|
    | `nn.Linear`, `nn.Conv1d/2d/3d`, `nn.ConvTranspose1d/2d/3d` | weight and input |
    | `nn.Embedding` | weight |
    | `nn.RNN`, `nn.LSTM`, `nn.GRU` | all matrices, inputs and hidden states |
    | `nn.MultiheadAttention` | all four projections and their inputs |
    | GPT-2's `Conv1D`, subclasses of the layers in rows 1 and 2 | weight and input; their own forward runs |

    Other modules with parameters do not change; the result lists them with the reason, and prints as a table. A
    warning says if most of the work stays float in layers that you did not ask to keep. `model` does not change.

    Args:
        model: any torch network.
        weight_quantizer: the weight quantizer for all layers, or a dictionary: layer -> its own. None keeps weights
            real. A layer that is in no dictionary stays as it is. A dictionary may also name a matrix of a recurrent
            layer: `"lstm.ih_l0"` multiplies inputs, `"lstm.hh_l0"` hidden states.
        input_quantizer: likewise for inputs.
        keep: the names of layers to leave in float, or shell patterns of names (`"layer4.*"`).
        example: an input of the network, by which multiply-accumulates are counted: a tensor, a tuple of positional
            arguments, or a dictionary of keyword arguments. Without it, weights are counted instead.

    Raises:
        HypersignError: there is no quantizer, an entry of `keep` matches no module, nothing is left to convert, the
            network does not take the example, or a dictionary names a layer that cannot be converted (the message
            has the reason).

    >>> from hypersign.quantizers import Sign
    >>> net = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> result = convert(net, weight_quantizer=Sign(), input_quantizer=Sign(), keep=["0"])
    >>> result.converted, result.kept
    (('2',), {'0': 'kept by request (0)'})
    """
    if not isinstance(model, nn.Module):
        raise HypersignError(f"convert needs a torch network; got {type(model).__name__}")
    if weight_quantizer is None and input_quantizer is None:
        raise HypersignError(
            "convert needs a quantizer for weights, for inputs or for both: convert(model, weight_quantizer=Sign(), "
            "input_quantizer=Sign()); got none"
        )
    patterns = [keep] if isinstance(keep, str) else [str(pattern) for pattern in keep]
    names = [name for name, _ in model.named_modules() if name]
    unknown = [p for p in patterns if not any(fnmatchcase(name, p) for name in names)]
    if unknown:
        raise HypersignError(
            f"keep must name modules of the network; no module matches {', '.join(unknown)} "
            f"(its modules: {', '.join(names)})"
        )
    macs = {} if example is None else macs_of(model, example)
    model = copy_module(model)
    sides = (weight_quantizer, input_quantizer)
    reads = {**held_outside(model), **read_without_call(model)}
    for module in model.modules():  # its quantized form calls its output projection
        if type(module) is nn.MultiheadAttention and not unsupported(module):
            reads.pop(module.out_proj, None)
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
            "convert needs at least one layer with weights that can be quantized and that keep does not name; found "
            f"none{why and f' ({why})'}"
        )
    _call_projections(model, set(converted.values()))
    for layer in dict.fromkeys(converted.values()):  # a layer with two names is converted once
        names_of = [name for name, other in converted.items() if other is layer]
        if isinstance(layer, nn.RNNBase):
            _quantize_recurrent(layer, names_of, sides)
        else:
            _quantize(layer, *(_quantizer_of(side, names_of) for side in sides))
    _leave_fused_paths(model, set(converted.values()))
    kept = {name: reason for name, reason in reasons.items() if reason}
    result = Conversion(model, tuple(converted), kept, {name: n for name, n in macs.items() if name in reasons})
    warn_if_mostly_float(result)
    return result


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
    if (reason := _reason(module)) or isinstance(module, QuantLayer | QuantRecurrent):
        return reason
    weights = ["weight"]
    if isinstance(module, nn.RNNBase):
        weights = module._flat_weights_names
    elif isinstance(module, nn.MultiheadAttention):
        one = module._qkv_same_embed_dim
        weights = ["in_proj_weight"] if one else ["q_proj_weight", "k_proj_weight", "v_proj_weight"]
    if any(name not in module._parameters for name in weights):
        return "a hook computes its weight (weight_norm, spectral_norm, pruning); remove the hook first"
    if any(isinstance(module._parameters[name], nn.UninitializedParameter) for name in weights):
        return "its weight has no shape yet; run the network once first"
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
    else:
        return _tokens(module, [side[name] if isinstance(side, Mapping) and name in side else side for side in sides])
    found = [
        (quantized, isinstance(side, Mapping) and not side.keys().isdisjoint((name, part)))
        for part, layer in layers.items()
        for side, quantized in zip(sides, (layer.quantizes_weights, layer.quantizes_inputs), strict=True)
    ]
    chosen = any(named for _, named in found)
    taken = any(quantized and (named or not chosen) for quantized, named in found)
    return "already a quantized layer" if taken else ""


def _tokens(module: nn.Module, sides: list[Any]) -> str:
    """Why a table of vectors gets no quantizers; empty if it does, or is none."""
    if not isinstance(module, nn.Embedding):
        return ""
    if module.max_norm is not None:
        return "it changes its weight in every forward (max_norm)"
    if sides[0] is None or (isinstance(sides[0], Mapping) and sides[1] is not None):
        return "its inputs are tokens, which are not quantized, and its weights get no quantizer"
    return ""


def _call_projections(model: nn.Module, converted: set[nn.Module]) -> None:
    """Makes attention layers call their output projection where it, or the whole layer, is converted."""
    for module in model.modules():
        if type(module) is nn.MultiheadAttention and not converted.isdisjoint((module, module.out_proj)):
            module.__class__ = QuantMultiheadAttention
            assert isinstance(module, QuantMultiheadAttention)
            module.equip(None, None)


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
    """Why no layer of this class is converted; empty if it can be."""
    kind = type(module)
    if hasattr(module, "parametrizations"):
        return "its weight is parametrized; remove the parametrization first"
    if kind in _QUANTIZED.values() or (isinstance(module, QuantLayer) and not isinstance(module, OwnedProduct)):
        return ""
    if isinstance(module, nn.MultiheadAttention) and kind is nn.MultiheadAttention:
        return f"it {reason}" if (reason := unsupported(module)) else ""
    if kind in _QUANTIZED or _is_gpt2_conv(kind):
        return ""
    base = _base(kind)
    if base in _WHOLE or (base is not None and issubclass(base, _WHOLE)):
        return f"{kind.__name__} is a subclass of {base.__name__} whose forward may differ"
    return "" if base is not None else f"{kind.__name__} has no quantized form here"


def _base(kind: type[nn.Module]) -> Any:
    """The layer of torch that a class is a subclass of."""
    return next((base for base in kind.__mro__ if base in _QUANTIZED), None)


def _is_gpt2_conv(kind: type) -> bool:
    """Whether it is the Conv1D of transformers, a fully connected layer that stores its weight as columns."""
    return kind.__name__ == "Conv1D" and kind.__module__ == "transformers.pytorch_utils"


def _quantized_class(kind: Any) -> Any:
    """The quantized form of a layer's class."""
    if kind in _QUANTIZED:
        return _QUANTIZED[kind]
    base = _base(kind)
    if base is not None and _has_forward_of(kind, base):
        quantized: Any = _QUANTIZED[base]
        return quantized_subclass(kind, quantized)
    return own_forward(kind)


def _has_forward_of(kind: type[nn.Module], base: type[nn.Module]) -> bool:
    """Whether a subclass computes what torch's layer does: it overrides nothing that the forward runs."""
    names = "forward", "_conv_forward", "_output_padding", "__call__", "weight"
    return all(inspect.getattr_static(kind, name, None) is inspect.getattr_static(base, name, None) for name in names)


def _quantize(layer: nn.Module, weight_quantizer: Quantizer | None, input_quantizer: Quantizer | None) -> None:
    """Turns `layer` into its quantized subclass in place; its parameters, hooks, mode and settings do not change."""
    if isinstance(layer, QuantMultiheadAttention):
        layer.equip(input_quantizer, weight_quantizer)
        for product in layer.products().values():
            product.to(next(layer.parameters()).device).train(layer.training)
        return
    plain = not isinstance(layer, QuantLayer)
    if plain:
        layer.__class__ = _quantized_class(type(layer))
    assert isinstance(layer, QuantLayer)
    if isinstance(layer, nn.Embedding):
        input_quantizer = None
    if not plain:  # a side that is not named stays as it is
        input_quantizer = layer.input_quantizer if input_quantizer is None else input_quantizer
        weight_quantizer = layer.weight_quantizer if weight_quantizer is None else weight_quantizer
    layer.set_quantizers(copy.deepcopy(input_quantizer), copy.deepcopy(weight_quantizer))
    for quantizer in (layer.input_quantizer, layer.weight_quantizer):
        quantizer.to(layer.weight.device).train(layer.training)
    if plain and isinstance(layer, _QuantConv):
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
