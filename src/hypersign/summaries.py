"""Summarises a network in a table: shapes, quantizers, parameters by bit width, packed bytes, operations."""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from rich.markup import escape
from rich.table import Table
from torch import Tensor, nn

from hypersign._checks import HypersignError, check_int
from hypersign._display import as_html, as_text
from hypersign.evaluate import as_input, example_weight, mode
from hypersign.layers import OwnedProduct, QuantLayer, QuantMultiheadAttention, QuantRecurrent
from hypersign.models.fast_transform import Switch
from hypersign.packing import file_size
from hypersign.quantizers import Quantizer
from hypersign.runs import Run

__all__ = ["LayerSummary", "Summary", "summary"]

WORD = 64


@dataclasses.dataclass(frozen=True)
class LayerSummary:
    """One layer that owns parameters, for one forward pass of the network.

    `parameters_1bit`, `_2bit`, `_3bit` and `_32bit` count its parameters by packed width: 1 bit for binary levels, 2
    for ternary levels (sign and non-zero), 3 for eight levels and the slopes of switches, 32 for everything else.
    `parameters_other` counts the parameters with another width, and `parameters_unknown` those whose quantizer states
    neither levels nor bits. Parameters of its quantizers and parametrizations count too. A parameter that several
    layers share counts in the first one only.

    `packed_bytes` is the packed size of the parameters and of the scales and offsets computed from them; None if it
    is unknown. Each filter's levels, and each side of a switch's slopes, take whole 64-bit words per bit; a float
    takes 4 bytes.

    Multiply-accumulates are of three kinds. `binary_macs`: weights and inputs are low-bit levels, weights -1, 0, +1
    (or -a, 0, +a), so they are products of bits. `mixed_macs`: such weights with inputs of 8 bits (pixels) or real
    ones, so they are additions. `float_macs`: other weights. `input_bits` is the width of an input: of its levels, 8
    for pixels, 32 for real numbers.

    `calls` says how often the pass calls the layer. If it is 0, shapes are empty and no operations are counted; the
    network may still use the weights without a call, as attention does with its output projection.
    """

    name: str
    kind: str
    calls: int
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
    mixed_macs: int = 0
    input_bits: int | None = 32

    @property
    def macs(self) -> int:
        """Multiply-accumulates of every kind."""
        return self.binary_macs + self.mixed_macs + self.float_macs

    @property
    def parameters(self) -> int:
        """The number of parameters of any width."""
        return sum(getattr(self, name) for name in PARAMETERS)

    @property
    def float_bytes(self) -> int:
        """The size of the parameters as float32, to compare with the packed bytes."""
        return 4 * self.parameters


PARAMETERS = (
    "parameters_1bit",
    "parameters_2bit",
    "parameters_3bit",
    "parameters_other",
    "parameters_unknown",
    "parameters_32bit",
)
MACS = ("binary_macs", "mixed_macs", "float_macs")
COUNTS = (*PARAMETERS, "packed_bytes", *MACS)


@dataclasses.dataclass(frozen=True)
class Summary:
    """The layers of a network that own parameters, in the order of their first call; uncalled layers come last.

    `file_bytes` is the size of the packed file (`hypersign.packing.file_size`), with thresholds, graph and header;
    None if the network has no packed form.
    """

    layers: tuple[LayerSummary, ...]
    file_bytes: int | None = None

    @property
    def total(self) -> LayerSummary:
        """The sums over all layers, with the first input shape and the last output shape.

        A sum is None if the value of one layer is unknown. `parameters` counts each parameter of the network once.
        `packed_bytes` is the size of the packed file; without one, the sum over layers.
        """
        columns = {name: [getattr(layer, name) for layer in self.layers] for name in COUNTS}
        sums: dict[str, Any] = {name: None if None in column else sum(column) for name, column in columns.items()}
        if self.file_bytes is not None:
            sums["packed_bytes"] = self.file_bytes
        called = [layer for layer in self.layers if layer.calls] or self.layers
        shapes = called[0].input_shape, called[-1].output_shape
        return LayerSummary("total", "", sum(layer.calls for layer in self.layers), *shapes, "", "", **sums)

    @property
    def float_bytes(self) -> int:
        """The size of all parameters as float32, to compare with the packed bytes."""
        return self.total.float_bytes

    @property
    def compression(self) -> float | None:
        """How many times smaller the packed network is than its parameters in float32; None if unknown."""
        packed = self.total.packed_bytes
        return self.float_bytes / packed if packed else None

    @property
    def binary_share(self) -> float:
        """The share of multiply-accumulates that are products of bits; 0 if there are none."""
        return self.total.binary_macs / self.total.macs if self.total.macs else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Layers and totals as plain data."""
        return {
            "layers": [dataclasses.asdict(layer) for layer in self.layers],
            "total": {name: getattr(self.total, name) for name in COUNTS},
            "float_bytes": self.float_bytes,
            "file_bytes": self.file_bytes,
            "compression": self.compression,
            "binary_share": self.binary_share,
        }

    def sentence(self) -> str:
        """Size, compression and share of binary MACs, in words."""
        packed, float_bytes, times = self.total.packed_bytes, self.float_bytes, self.compression
        if packed is None or times is None:
            size = f"Packed size unknown; {float_bytes:,} bytes as float32"
        else:
            what = "Packed weights" if self.file_bytes is None else "Packed file"
            ratio = f", {times:.1f} times smaller" if times >= 1.05 else ""
            size = f"{what}: {packed:,} bytes{ratio}; as float32: {float_bytes:,}"
        return size + (
            f"\n{self.binary_share:.1%} of {_short(self.total.macs)} MACs are binary" if self.total.macs else ""
        )

    def table(self) -> Table:
        """The summary as a table for a terminal."""
        total = self.total
        used = [name for name in COUNTS if getattr(total, name) != 0]
        names = ("1-bit", "2-bit", "3-bit", "other", "unknown", "32-bit", "packed\nbytes")
        titles = dict(zip(COUNTS, (*names, "binary\nMACs", f"{self.mixed_widths}\nMACs", "float\nMACs"), strict=True))
        table = Table(caption=self.sentence(), caption_justify="left", show_footer=True, padding=(0, 1, 0, 0))
        table.add_column("layer", "total", no_wrap=True)
        table.add_column("output", justify="right", no_wrap=True)
        table.add_column("inputs/\nweights", no_wrap=True)
        for name in used:
            table.add_column(titles[name], _short(getattr(total, name)), justify="right", no_wrap=True)
        for layer in self.layers:
            quantizers = f"{layer.input_quantizer}/{layer.weight_quantizer}" if layer.weight_quantizer else ""
            cells = [_short(getattr(layer, name)) if getattr(layer, name) != 0 else "" for name in used]
            output = "x".join(map(str, layer.output_shape)) if layer.calls else "not called"
            table.add_row(escape(layer.name or layer.kind), output, quantizers, *cells)
        if self.file_bytes is not None and (
            rest := self.file_bytes - sum(row.packed_bytes or 0 for row in self.layers)
        ):
            sign = "-" if rest < 0 else ""  # thresholds may take less than the batch norms that they replace
            cells = [sign + _short(abs(rest)) if name == "packed_bytes" else "" for name in used]
            table.add_row("rest of file", "", "", *cells)
        return table

    @property
    def mixed_widths(self) -> str:
        """The widths of inputs and weights in `mixed_macs`, as 8 x 1-bit."""
        rows = [row for row in self.layers if row.mixed_macs]
        widths = {row.input_bits for row in rows}
        bits = {2 if row.parameters_2bit else 1 for row in rows}
        inputs = f"{widths.pop()}" if len(widths) == 1 else "real"
        return f"{inputs} x {bits.pop() if len(bits) == 1 else 'low'}-bit"

    def __str__(self) -> str:
        """The table."""
        return as_text(self.table())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return as_html(self.table())


def summary(
    model: nn.Module | Run,
    shape: tuple[int, ...] | None = None,
    *,
    example: Any = None,
    pixel_range: tuple[float, float] | None = None,
) -> Summary:
    """Summarises a network by running it once on zeros, or on an example.

    The total of `parameters` is `sum(p.numel() for p in model.parameters())`.

    Args:
        model: a network, which does not change; or a run, which needs neither shape nor example.
        shape: the shape of one input without the batch, such as (channels, height, width) for images.
        example: an example to use instead of a shape, such as tokens: a tensor, a tuple of positional arguments, or
            a dictionary of keyword arguments. Operations are counted for this call.
        pixel_range: the values of pixels 0 and 255, as `hypersign.pack` takes them: the first layer then reads 8-bit
            pixels. A run brings its own.

    Raises:
        HypersignError: the network cannot process such an input or owns no parameters; neither shape nor example is
            given, or both are.

    >>> from hypersign.models import vgg
    >>> result = summary(vgg(), (3, 32, 32), pixel_range=(-1.0, 1.0))
    >>> result.total.binary_macs, result.total.mixed_macs, result.layers[0].input_bits
    (613427200, 3538944, 8)
    >>> result.file_bytes, sum(layer.packed_bytes for layer in result.layers if layer.weight_quantizer)
    (1778184, 1753344)
    >>> summary(nn.Embedding(50, 8), example=torch.zeros(1, 20, dtype=torch.int64)).total.parameters
    400
    """
    classes: Sequence[str] | None = None
    if isinstance(model, Run):
        if shape is None and example is None:
            shape = tuple(model.info["model"]["shape"])
            if model.info["data"].get("integer_inputs"):  # tokens
                example, shape = torch.zeros((1, *shape), dtype=torch.int64), None
        pixels, classes = model.info["data"].get("pixel_range"), model.info["data"].get("classes")
        pixel_range = None if pixels is None else (pixels[0], pixels[1])
        model = model.build_model()
    if not isinstance(model, nn.Module):
        raise HypersignError(f"summary takes a torch network or a run; got {type(model).__name__}")
    if shape is not None:
        if not isinstance(shape, tuple | list):
            raise HypersignError(
                f"the shape of one input must be a tuple of sizes, as (3, 32, 32); got {shape!r:.60}"
            )
        shape = tuple(check_int("a size of the shape", size, min=0) for size in shape)
    if (shape is None) == (example is None):
        raise HypersignError(
            "a network is summarised for one input: give its shape, as (3, 32, 32), or an example; "
            f"got {'neither' if shape is None else 'both'}"
        )
    if next(model.parameters(), None) is None:
        raise HypersignError("a network to summarise must own parameters; this one has none")
    size = _file_bytes(model, shape, pixel_range, classes)
    inside = {part for module in model.modules() for part in _inside(module)}
    names = {
        module: name
        for name, module in model.named_modules()
        if module not in inside and next(_parameters(module), None) is not None
    }
    calls = _calls(model, names, shape, example)
    counted: set[int] = set()
    with mode(model, False):  # in training mode, reading a weight can change the state that it is computed from
        rows = [
            _summarise(names[module], module, calls.get(module, []), counted)
            for module in dict.fromkeys([*calls, *names])
        ]
    if pixel_range is not None and rows[0].input_bits == 32:
        rows[0] = dataclasses.replace(rows[0], input_bits=8)
    return Summary(tuple(rows), size)


def _file_bytes(
    model: nn.Module,
    shape: tuple[int, ...] | None,
    pixel_range: tuple[float, float] | None,
    classes: Sequence[str] | None,
) -> int | None:
    """The size of the packed file; None without one: no images, or a layer without a packed form."""
    if shape is None or len(shape) != 3:
        return None
    try:
        return file_size(model, shape, pixel_range=pixel_range, classes=classes or None)
    except HypersignError:
        return None


Call = tuple[list[tuple[int, ...]], tuple[int, ...]]
"""The shapes of a module's input tensors, and the shape of its first output tensor."""


def _calls(
    model: nn.Module, modules: Iterable[nn.Module], shape: tuple[int, ...] | None, example: Any
) -> dict[nn.Module, list[Call]]:
    """The calls of each of `modules` in one forward pass, in the order of the first calls."""
    calls: dict[nn.Module, list[Call]] = {}

    def look(module: nn.Module, args: tuple[Any, ...], options: dict[str, Any], output: Any) -> None:
        inputs = [tuple(tensor.shape) for tensor in _tensors([*args, *options.values()])]
        outputs = [tuple(tensor.shape) for tensor in _tensors([output])]
        calls.setdefault(module, []).append((inputs, outputs[0] if outputs else ()))

    weight = example_weight(model)
    args: tuple[Any, ...] = ()
    options: dict[str, Any] = {}
    if shape is not None:
        args = (as_input(torch.zeros(1, *shape), weight),)
    elif isinstance(example, dict):
        options = example
    else:
        args = example if isinstance(example, tuple) else (example,)

    def step(product: nn.Module, t: int, inputs: Tensor, output: Tensor) -> None:
        look(product, (inputs,), {}, output)

    hooks = [module.register_forward_hook(look, with_kwargs=True) for module in modules]
    recurrent = [module for module in model.modules() if isinstance(module, QuantRecurrent)]
    for layer in recurrent:  # its products are no calls of modules
        layer.observer = step
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the fast path reads weights of sublayers without calling them
    try:
        with mode(model, False), torch.no_grad():
            model(*args, **options)
    except (
        RuntimeError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        AssertionError,
        ArithmeticError,
    ) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        wanted = "this example" if shape is None else f"an input of shape {tuple(shape)}"
        hint = "" if shape is None else "; for tokens or several inputs give example="
        raise HypersignError(f"the network must take {wanted}; it does not: {reason}{hint}") from error
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for hook in hooks:
            hook.remove()
        for layer in recurrent:
            layer.observer = None
    return calls


def _tensors(values: Iterable[Any]) -> list[Tensor]:
    """Collects the tensors in nested sequences and dictionaries."""
    found = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple | dict):
            found += _tensors(value.values() if isinstance(value, dict) else value)
    return found


def _inside(module: nn.Module) -> list[nn.Module]:
    """The modules whose parameters count as the module's own: its quantizers, its parametrizations, their parts."""
    kinds = ["input_quantizer", "weight_quantizer"] if isinstance(module, QuantLayer) else []
    roots = [module._modules.get(name) for name in [*kinds, "parametrizations"]]
    return list(dict.fromkeys(part for root in roots if root is not None for part in root.modules()))


def _parameters(module: nn.Module) -> Iterator[Tensor]:
    """The parameters that count as the module's own; the matrices of a module with products belong to these."""
    apart = module.products() if isinstance(module, QuantRecurrent | QuantMultiheadAttention) else {}
    if isinstance(module, OwnedProduct):
        yield module.weight
    for part in [module, *_inside(module)]:
        yield from (p for name, p in part._parameters.items() if p is not None and name not in apart)


@dataclasses.dataclass
class _Sizes:
    """The parameters of a layer by width, and their packed bytes."""

    counts: dict[str, int]
    packed: int | None


def _summarise(name: str, module: nn.Module, calls: list[Call], counted: set[int]) -> LayerSummary:
    """The row of a module. `counted` holds the ids of parameters in earlier rows; this adds the module's own."""
    new = {id(p): p.numel() for p in _parameters(module) if id(p) not in counted}
    counted.update(new)
    inputs, weights = ("", "")
    if isinstance(module, QuantLayer):
        inputs, weights = _name(module.input_quantizer), _name(module.weight_quantizer)
    sizes = _sizes(module, new)
    macs = sum(_macs(module, *call) for call in calls)
    low_bit = isinstance(module, QuantLayer) and _needs_no_multiplier(module.weight_quantizer)
    input_bits = module.input_quantizer.bits_per_level if isinstance(module, QuantLayer) else 32
    kind = "float" if not low_bit else "binary" if (input_bits or 32) < 8 else "mixed"
    first_inputs, output = calls[0] if calls else ([], ())
    return LayerSummary(
        name=name,
        kind=type(module).__name__,
        calls=len(calls),
        input_shape=first_inputs[0][1:] if first_inputs else (),
        output_shape=output[1:],
        input_quantizer=inputs,
        weight_quantizer=weights,
        packed_bytes=sizes.packed,
        binary_macs=macs if kind == "binary" else 0,
        mixed_macs=macs if kind == "mixed" else 0,
        float_macs=macs if kind == "float" else 0,
        input_bits=input_bits,
        **{key: sizes.counts.get(key, 0) for key in PARAMETERS},
    )


def _sizes(module: nn.Module, new: dict[int, int]) -> _Sizes:
    """The sizes of a module's parameters. `new` maps the id of each parameter to its number of elements."""
    count = sum(new.values())
    if isinstance(module, Switch) and id(module.slopes) in new:
        sides, units = module.slopes.shape
        return _Sizes({"parameters_3bit": count}, 3 * sides * _row_bytes(units))
    # A weight that a hook or a parametrization computes has no levels to store: its parameters are floats.
    weight = module.weight if isinstance(module, OwnedProduct) else module._parameters.get("weight")
    if not isinstance(module, QuantLayer) or id(weight) not in new:
        return _Sizes({"parameters_32bit": count}, 4 * count)
    quantizer, weights = module.weight_quantizer, module.weight.numel()
    real, bits = count - weights, quantizer.bits_per_level
    if bits is None:
        return _Sizes({"parameters_unknown": weights, "parameters_32bit": real}, None)
    rules = module.filters * quantizer.floats_per_filter
    if bits == 32:
        return _Sizes({"parameters_32bit": count}, 4 * (count + rules))
    key = f"parameters_{bits}bit"
    return _Sizes(
        {key if key in PARAMETERS else "parameters_other": weights, "parameters_32bit": real},
        bits * module.filters * _row_bytes(module.fan_in) + 4 * (real + rules),
    )


def _macs(module: nn.Module, inputs: list[tuple[int, ...]], output: tuple[int, ...]) -> int:
    """The multiply-accumulates of one call with the module's weights; 0 for modules that are not listed here."""
    if isinstance(module, QuantRecurrent | QuantMultiheadAttention):  # counted in its products
        return 0
    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        return math.prod(inputs[0]) * module.weight.shape[1:].numel()
    if isinstance(module, nn.Linear | nn.modules.conv._ConvNd | nn.Bilinear | OwnedProduct):
        return math.prod(output) * module.weight.shape[1:].numel()
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        matrices = sum(p.numel() for name, p in module.named_parameters() if name.startswith("weight"))
        return math.prod(inputs[0]) // module.input_size * matrices
    if isinstance(module, nn.MultiheadAttention):
        queries, keys, values = (math.prod(shape) for shape in inputs[:3])
        square = module.embed_dim**2  # the weights of the query projection, and of the output projection
        return queries // module.embed_dim * 2 * square + (keys + values) * module.embed_dim
    return 0


def _needs_no_multiplier(quantizer: Quantizer) -> bool:
    return len({abs(level) for level in quantizer.levels} - {0.0}) == 1


def _row_bytes(numbers: int) -> int:
    """The bytes of a row of bits, in whole words."""
    return -(-numbers // WORD) * WORD // 8


def _name(quantizer: Quantizer) -> str:
    return "float" if quantizer.describe() == "Identity()" else type(quantizer).__name__.lower()


def _short(number: int | None) -> str:
    """A count with three digits and a unit; counts below 1000 in full; "?" if unknown."""
    if number is None:
        return "?"
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)
