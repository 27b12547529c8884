"""The table of a network: shapes, quantizers, parameters by bit width, packed bytes, operations."""

import dataclasses
import math
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn

from hypersign._checks import HypersignError
from hypersign.evaluate import mode
from hypersign.layers import QuantLayer
from hypersign.models.fast_transform import Switch
from hypersign.quantizers import Quantizer
from hypersign.runs import Run

__all__ = ["LayerSummary", "Summary", "summary"]

WORD = 64


@dataclasses.dataclass(frozen=True)
class LayerSummary:
    """One layer that owns parameters, for one image.

    `parameters_1bit`, `_2bit`, `_3bit` and `_32bit` count its parameters by the bits each takes when packed: binary
    levels 1, ternary levels 2 (sign and non-zero), slopes of switches and eight levels 3, everything else a float32.
    `parameters_other` have another width, `parameters_unknown` a quantizer that states neither levels nor bits.
    `packed_bytes` is what they take, or None if unknown: each filter's levels, or a switch's slopes of one side, as a
    row of whole 64-bit words for each bit, floats 4 bytes each.
    `binary_macs` counts multiply-accumulates with weights -1, 0, +1 (or -a, 0, +a), which need no multiplier,
    `float_macs` those with other weights.
    """

    name: str
    kind: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    input_quantizer: str
    weight_quantizer: str
    parameters_1bit: int
    parameters_2bit: int
    parameters_3bit: int
    parameters_other: int
    parameters_unknown: int
    parameters_32bit: int
    packed_bytes: int | None
    binary_macs: int
    float_macs: int

    @property
    def float_bytes(self) -> int:
        """Bytes of its parameters as float32: what the packed bytes compare with."""
        return 4 * sum(getattr(self, name) for name in PARAMETERS)


PARAMETERS = (
    "parameters_1bit",
    "parameters_2bit",
    "parameters_3bit",
    "parameters_other",
    "parameters_unknown",
    "parameters_32bit",
)
COUNTS = (*PARAMETERS, "packed_bytes", "binary_macs", "float_macs")


@dataclasses.dataclass(frozen=True)
class Summary:
    """The layers of a network that own parameters, in the order in which an image meets them."""

    layers: tuple[LayerSummary, ...]

    @property
    def total(self) -> LayerSummary:
        """The sums over all layers, from the first input to the last output; None where one is unknown."""
        columns = {name: [getattr(layer, name) for layer in self.layers] for name in COUNTS}
        sums: dict[str, Any] = {name: None if None in column else sum(column) for name, column in columns.items()}
        first, last = self.layers[0], self.layers[-1]
        return LayerSummary("total", "", first.input_shape, last.output_shape, "", "", **sums)

    @property
    def float_bytes(self) -> int:
        """Bytes of all parameters as float32: what the packed bytes compare with."""
        return self.total.float_bytes

    def as_dict(self) -> dict[str, Any]:
        """Layers and totals as plain data."""
        return {
            "layers": [dataclasses.asdict(layer) for layer in self.layers],
            "total": {name: getattr(self.total, name) for name in COUNTS},
            "float_bytes": self.float_bytes,
        }

    def table(self) -> Table:
        """The summary for a terminal."""
        total = self.total
        used = [name for name in COUNTS if getattr(total, name) != 0]
        names = ("1-bit", "2-bit", "3-bit", "other", "unknown", "32-bit")
        titles = dict(zip(COUNTS, (*names, "packed\nbytes", "binary\nMACs", "float\nMACs"), strict=True))
        packed = "size unknown" if total.packed_bytes is None else f"{total.packed_bytes:,} bytes"
        table = Table(caption=f"{packed} packed, {self.float_bytes:,} as float32", show_footer=True)
        table.add_column("layer", "total", no_wrap=True)
        table.add_column("output", justify="right", no_wrap=True)
        table.add_column("inputs/\nweights", no_wrap=True)
        for name in used:
            table.add_column(titles[name], _short(getattr(total, name)), justify="right", no_wrap=True)
        for layer in self.layers:
            quantizers = f"{layer.input_quantizer}/{layer.weight_quantizer}" if layer.weight_quantizer else ""
            cells = [_short(getattr(layer, name)) if getattr(layer, name) != 0 else "" for name in used]
            table.add_row(layer.name, "x".join(map(str, layer.output_shape)), quantizers, *cells)
        return table


def summary(model: nn.Module | Run, shape: tuple[int, ...] | None = None) -> Summary:
    """Summarises a network by sending one image of zeros through it.

    Args:
        model: a network, left as it is; or a run, which brings the shape.
        shape: of one input, without the batch: (channels, height, width) for images.

    Raises:
        HypersignError: the network cannot take such an input, owns no parameters, or comes without a shape.

    >>> from hypersign.models import vgg
    >>> result = summary(vgg(), (3, 32, 32))
    >>> result.total.binary_macs, sum(layer.packed_bytes for layer in result.layers if layer.weight_quantizer)
    (616966144, 1753344)
    """
    if isinstance(model, Run):
        shape = tuple(model.info["model"]["shape"])
        model = model.build_model()
    if shape is None:
        raise HypersignError("a network is summarised for inputs of one shape; name it, as (3, 32, 32)")
    layers: dict[str, LayerSummary] = {}
    hooks = []

    def watch(name: str) -> Any:
        def look(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            # A layer used twice is stored once and works twice.
            seen = layers.get(name)
            layer = _summarise(name, module, tuple(inputs[0].shape[1:]), tuple(output.shape[1:]))
            if seen is not None:
                layer = dataclasses.replace(
                    seen,
                    binary_macs=seen.binary_macs + layer.binary_macs,
                    float_macs=seen.float_macs + layer.float_macs,
                )
            layers[name] = layer

        return look

    parts = {
        part for module in model.modules() if isinstance(module, QuantLayer) for part in _quantizer_parts(module)
    }
    for name, module in model.named_modules():
        if module not in parts and any(p is not None for p in module._parameters.values()):
            hooks.append(module.register_forward_hook(watch(name)))
    parameter = next(model.parameters(), None)
    if parameter is None:
        raise HypersignError("a network to summarise must own parameters; this one has none")
    try:
        with mode(model, False), torch.no_grad():
            model(parameter.new_zeros(1, *shape))
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise HypersignError(
            f"the network must take an input of shape {tuple(shape)}; it does not: {reason}"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    return Summary(tuple(layers.values()))


@dataclasses.dataclass
class _Sizes:
    """Parameters of a layer by width, their bytes when packed, and its multiply-accumulates."""

    counts: dict[str, int]
    packed: int | None
    binary: int = 0
    real: int = 0


def _summarise(
    name: str, module: nn.Module, input_shape: tuple[int, ...], output_shape: tuple[int, ...]
) -> LayerSummary:
    sides = (module.input_quantizer, module.weight_quantizer) if isinstance(module, QuantLayer) else ()
    inputs, weights = map(_name, sides) if sides else ("", "")
    sizes = _sizes(module, math.prod(output_shape))
    return LayerSummary(
        name=name,
        kind=type(module).__name__,
        input_shape=input_shape,
        output_shape=output_shape,
        input_quantizer=inputs,
        weight_quantizer=weights,
        packed_bytes=sizes.packed,
        binary_macs=sizes.binary,
        float_macs=sizes.real,
        **{key: sizes.counts.get(key, 0) for key in PARAMETERS},
    )


def _sizes(module: nn.Module, outputs: int) -> _Sizes:
    count = sum(p.numel() for p in module._parameters.values() if p is not None)
    if isinstance(module, Switch):
        sides, units = module.slopes.shape
        return _Sizes({"parameters_3bit": count}, 3 * sides * _row_bytes(units))
    if isinstance(module, QuantLayer):
        return _layer_sizes(module, count, outputs)
    macs = 0
    if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
        macs = module.weight[0].numel() * outputs
    return _Sizes({"parameters_32bit": count}, 4 * count, real=macs)


def _layer_sizes(layer: QuantLayer, count: int, outputs: int) -> _Sizes:
    quantizer, weights = layer.weight_quantizer, layer.weight.numel()
    learned = sum(p.numel() for part in _quantizer_parts(layer) for p in part._parameters.values() if p is not None)
    real = count - weights + learned + layer.filters * quantizer.floats_per_filter
    macs = layer.fan_in * outputs
    magnitudes = {abs(level) for level in quantizer.levels} - {0.0}
    sizes = _Sizes({}, None, **({"binary": macs} if len(magnitudes) == 1 else {"real": macs}))
    bits = quantizer.bits_per_level
    if bits is None:
        sizes.counts = {"parameters_unknown": weights, "parameters_32bit": real}
        return sizes
    if bits == 32:
        real += weights
        sizes.counts, sizes.packed = {"parameters_32bit": real}, 4 * real
        return sizes
    key = f"parameters_{bits}bit"
    sizes.counts = {key if key in PARAMETERS else "parameters_other": weights, "parameters_32bit": real}
    sizes.packed = bits * layer.filters * _row_bytes(layer.fan_in) + 4 * real
    return sizes


def _quantizer_parts(layer: QuantLayer) -> list[nn.Module]:
    """The modules of a layer's quantizers, once each; what they learn counts as the layer's."""
    return list(dict.fromkeys([*layer.input_quantizer.modules(), *layer.weight_quantizer.modules()]))


def _row_bytes(numbers: int) -> int:
    """Bytes of a row of bits in whole words."""
    return -(-numbers // WORD) * WORD // 8


def _name(quantizer: Quantizer) -> str:
    return "float" if quantizer.describe() == "Identity()" else type(quantizer).__name__.lower()


def _short(number: int | None) -> str:
    """A count with three digits and a unit; small ones whole; "?" if unknown."""
    if number is None:
        return "?"
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)
