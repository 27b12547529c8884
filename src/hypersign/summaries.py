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
from hypersign.quantizers import Identity
from hypersign.runs import Run

__all__ = ["LayerSummary", "Summary", "summary"]

WORD = 64


@dataclasses.dataclass(frozen=True)
class LayerSummary:
    """One layer that owns parameters, for one image.

    `parameters_1bit`, `_2bit`, `_3bit` and `_32bit` count its parameters by the bits each takes when packed: binary
    levels 1, ternary levels 2 (sign and non-zero), slopes of switches 3 (sign and shift), everything else a float32.
    `packed_bytes` is what they then take: each filter's levels, or a switch's slopes of one side, as a row of whole
    64-bit words for each bit, floats 4 bytes each.
    `binary_macs` counts multiply-accumulates with a quantized weight (products with -1, 0, +1 need no
    multiplier), `float_macs` those with a float weight.
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
    parameters_32bit: int
    packed_bytes: int
    binary_macs: int
    float_macs: int

    @property
    def float_bytes(self) -> int:
        """Bytes of its parameters as float32: what the packed bytes compare with."""
        return 4 * sum(getattr(self, name) for name in PARAMETERS)


PARAMETERS = ("parameters_1bit", "parameters_2bit", "parameters_3bit", "parameters_32bit")
COUNTS = (*PARAMETERS, "packed_bytes", "binary_macs", "float_macs")


@dataclasses.dataclass(frozen=True)
class Summary:
    """The layers of a network that own parameters, in the order in which an image meets them."""

    layers: tuple[LayerSummary, ...]

    @property
    def total(self) -> LayerSummary:
        """The sums over all layers, from the first input to the last output."""
        sums = {name: sum(getattr(layer, name) for layer in self.layers) for name in COUNTS}
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
        used = [name for name in COUNTS if getattr(total, name)]
        names = ("1-bit", "2-bit", "3-bit", "32-bit", "packed\nbytes", "binary\nMACs", "float\nMACs")
        titles = dict(zip(COUNTS, names, strict=True))
        table = Table(
            caption=f"{total.packed_bytes:,} bytes packed, {self.float_bytes:,} as float32", show_footer=True
        )
        table.add_column("layer", "total", no_wrap=True)
        table.add_column("output", justify="right", no_wrap=True)
        table.add_column("inputs/\nweights", no_wrap=True)
        for name in used:
            table.add_column(titles[name], _short(getattr(total, name)), justify="right", no_wrap=True)
        for layer in self.layers:
            quantizers = f"{layer.input_quantizer}/{layer.weight_quantizer}" if layer.weight_quantizer else ""
            cells = [_short(getattr(layer, name)) if getattr(layer, name) else "" for name in used]
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

    for name, module in model.named_modules():
        if any(p is not None for p in module._parameters.values()):
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


def _summarise(
    name: str, module: nn.Module, input_shape: tuple[int, ...], output_shape: tuple[int, ...]
) -> LayerSummary:
    parameters = [p for p in module._parameters.values() if p is not None]
    count = sum(p.numel() for p in parameters)
    bits = {1: 0, 2: 0, 3: 0, 32: count}
    packed, binary, real = 4 * count, 0, 0
    quantizers = ("", "")
    if isinstance(module, QuantLayer):
        quantizers = (_name(module.input_quantizer), _name(module.weight_quantizer))
    if isinstance(module, QuantLayer) and module.weight_quantizer.levels:
        levels = module.weight.numel()
        planes = 1 if len(module.weight_quantizer.levels) == 2 else 2  # type: ignore[arg-type]
        scales = module.filters if getattr(module.weight_quantizer, "scale", None) is not None else 0
        bits[planes] = levels
        bits[32] = count - levels + scales
        packed = planes * module.filters * -(-module.fan_in // WORD) * WORD // 8 + 4 * bits[32]
        binary = module.fan_in * math.prod(output_shape)
    elif isinstance(module, Switch):
        sides, units = module.slopes.shape
        bits[3], bits[32] = count, 0
        packed = 3 * sides * -(-units // WORD) * WORD // 8
    elif isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
        real = module.weight[0].numel() * math.prod(output_shape)
    return LayerSummary(
        name=name,
        kind=type(module).__name__,
        input_shape=input_shape,
        output_shape=output_shape,
        input_quantizer=quantizers[0],
        weight_quantizer=quantizers[1],
        parameters_1bit=bits[1],
        parameters_2bit=bits[2],
        parameters_3bit=bits[3],
        parameters_32bit=bits[32],
        packed_bytes=packed,
        binary_macs=binary,
        float_macs=real,
    )


def _name(quantizer: nn.Module) -> str:
    return "float" if isinstance(quantizer, Identity) else type(quantizer).__name__.lower()


def _short(number: int) -> str:
    """A count with three digits and a unit; small ones whole."""
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)
