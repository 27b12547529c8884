"""Turn a float network into a quantized one."""

import copy
import dataclasses
from collections.abc import Iterable
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

from hypersign._checks import HypersignError
from hypersign.layers.conv import QuantConv1d, QuantConv2d
from hypersign.layers.layer import QuantLayer
from hypersign.layers.linear import QuantLinear
from hypersign.quantizers import Quantizer

__all__ = ["Conversion", "convert"]

_QUANTIZED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: QuantLinear,
    nn.Conv1d: QuantConv1d,
    nn.Conv2d: QuantConv2d,
}


@dataclasses.dataclass(frozen=True)
class Conversion:
    """A quantized network, the names of the layers that were converted, and why the others were not.

    `kept` maps the name of every module that owns parameters and was not converted to the reason.
    """

    model: nn.Module
    converted: tuple[str, ...]
    kept: dict[str, str]


def convert(
    model: nn.Module,
    *,
    weight_quantizer: Quantizer | None = None,
    input_quantizer: Quantizer | None = None,
    keep: Iterable[str] = (),
) -> Conversion:
    """Returns a quantized copy of a float network: the same keys, its weights as the latent start.

    Every `nn.Linear`, `nn.Conv1d` and `nn.Conv2d` becomes a quantized layer with copies of the two quantizers;
    everything else stays as it is and is listed with the reason. `model` itself is left alone.

    Args:
        model: any torch network.
        weight_quantizer, input_quantizer: quantizers for all layers; None leaves that side as it is.
        keep: names of layers to leave in float, or shell patterns of names (`"layer4.*"`).

    Raises:
        HypersignError: an entry of `keep` matches no module, or nothing is left to convert.

    >>> from hypersign.quantizers import Sign
    >>> net = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> result = convert(net, weight_quantizer=Sign(), input_quantizer=Sign(), keep=["0"])
    >>> result.converted, result.kept
    (('2',), {'0': 'kept by request (0)'})
    """
    patterns = [keep] if isinstance(keep, str) else list(keep)
    names = [name for name, _ in model.named_modules() if name]
    unknown = [p for p in patterns if not any(fnmatchcase(name, p) for name in names)]
    if unknown:
        raise HypersignError(
            f"keep must name modules of the network; no module matches {', '.join(unknown)} "
            f"(its modules: {', '.join(names)})"
        )
    model = copy.deepcopy(model)
    converted: dict[str, nn.Module] = {}
    kept: dict[str, str] = {}
    replaced: dict[nn.Module, nn.Module] = {}  # a module used in two places stays one module
    # What is inside a module with a forward of its own over these weights cannot be replaced piece by piece.
    opaque = tuple(
        f"{name}." if name else ""
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, nn.MultiheadAttention)
    )
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if not module._parameters or all(p is None for p in module._parameters.values()):
            continue
        match = next((p for p in patterns if _matches(name, p)), None)
        if match is not None:
            kept[name] = f"kept by request ({match})"
        elif any(name.startswith(prefix) for prefix in opaque):
            kept[name] = "inside MultiheadAttention, which reads these weights without calling the layer"
        elif isinstance(module, QuantLayer):
            kept[name] = "already a quantized layer"
        elif isinstance(module, ParametrizationList):
            kept[name] = "the parametrization of a weight"
        elif type(module) in _QUANTIZED and "weight" not in module._parameters:
            kept[name] = "a hook computes its weight (weight_norm, spectral_norm, pruning); remove the hook first"
        elif type(module) not in _QUANTIZED:
            kept[name] = _reason(module)
        else:
            if module not in replaced:
                replaced[module] = _quantized(module, weight_quantizer, input_quantizer)
            converted[name] = replaced[module]
    if not converted:
        raise HypersignError(
            "convert needs at least one nn.Linear, nn.Conv1d or nn.Conv2d that keep does not name; found none"
        )
    if "" in converted:
        model = converted[""]
    else:
        for name, layer in converted.items():
            parent, _, child = name.rpartition(".")
            owner = model.get_submodule(parent)
            setattr(owner, child, layer)
            if isinstance(owner, nn.TransformerEncoderLayer):
                # Evaluation without gradients would take torch's fused path, which reads the weights of both
                # linear layers without calling them; it is only taken where this flag is set.
                owner.activation_relu_or_gelu = 0
    return Conversion(model, tuple(converted), kept)


def _matches(name: str, pattern: str) -> bool:
    """Whether the pattern names the module or a module it lies in."""
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


def _quantized(module: nn.Module, weight_quantizer: Quantizer | None, input_quantizer: Quantizer | None) -> nn.Module:
    """`module` as its quantized subclass: same parameters (not copies), hooks, mode and settings."""
    layer = copy.copy(module)
    layer.__class__ = _QUANTIZED[type(module)]
    # copy.copy shares the dictionaries of children and parameters: quantizers must go into fresh ones.
    layer.__dict__["_modules"] = dict(module._modules)
    assert isinstance(layer, QuantLayer)
    layer._set_quantizers(copy.deepcopy(input_quantizer), copy.deepcopy(weight_quantizer))
    for quantizer in (layer.input_quantizer, layer.weight_quantizer):
        quantizer.to(layer.weight.device).train(module.training)
    if isinstance(layer, QuantConv1d | QuantConv2d):
        layer._set_pad_value(0)
    return layer
