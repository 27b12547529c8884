"""Methods by name, in one table, and what a network quantizes: `Quantization`."""

import copy
import dataclasses
import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hypersign import quantizers
from hypersign._checks import HypersignError, check_choice

if TYPE_CHECKING:
    from hypersign.quantizers import Deviations, Quantizer, Surrogate

__all__ = [
    "FIRST_LAYERS",
    "QUANTIZERS",
    "SURROGATES",
    "Quantization",
    "check_used",
    "made",
    "quantizer_of",
    "surrogate_of",
]

QUANTIZERS = {
    "float": "Identity",
    "relu": "ReLU",
    "sign": "Sign",
    "ternary": "Ternary",
    "uniform": "Uniform",
    "grid": "Grid",
    "greedy": "Greedy",
    "ls-2": "LeastSquaresPlanes",
    "adabin": "AdaBin",
    "ir-net": "IRNet",
    "recu": "ReCU",
    "siman": "SiMaN",
    "rbnn": "Turned",
    "two-values": "TwoValues",
    "biper": "BiPer",
    "bit": "Bit",
    "bitnet": "BitNet",
    "paretoq": "ParetoQ",
    "parq": "PARQ",
    "binary-relax": "BinaryRelax",
    "real-until": "RealUntil",
    "lab": "LossAware",
    "random-levels": "RandomLevels",
    "chosen": "Chosen",
    "rsign": "ShiftedSign",
    "adabin-inputs": "AdaBinInputs",
    "image-sign": "ImageSign",
    "bit-inputs": "BitInputs",
    "int8": "Int8",
}
"""Quantizers of weights and of inputs: the class of `hypersign.quantizers` that each name stands for."""

SURROGATES = {
    "hardtanh": "HardTanh",
    "polynomial": "Polynomial",
    "tanh": "Tanh",
    "triangle": "Triangle",
    "tent": "Tent",
    "power": "Power",
    "sign-swish": "SignSwish",
    "straight-through": "StraightThrough",
}
"""Backward rules, likewise. The classes, and with them torch, are loaded when one is made."""

FIRST_LAYERS = ("plain", "thermometer", "bit-planes", "haar", "hadamard")
"""Inputs of a first convolution, by name."""

_WORDS = {
    "threshold": {"optimal": "Optimal", "least-squares": "LeastSquares"},
    "scale": {"filter": "MeanScale", "tensor": "TensorScale", "learned": "LearnedScale"},
}
"""Values of options that are objects, likewise."""


def surrogate_of(text: str) -> "Surrogate":
    """The surrogate that a text names: "NAME" or "NAME:option=value,option=value".

    Raises:
        HypersignError: an unknown name or option, or a value outside its range.

    >>> surrogate_of("triangle:clip=0.5")
    Triangle(clip=0.5)
    """
    return made("surrogate", SURROGATES, text, {})


def quantizer_of(text: str, **options: Any) -> "Quantizer":
    """The quantizer that a text names: "NAME" or "NAME:option=value,option=value".

    Options are the class's own keyword arguments: numbers, or names (`surrogate=tanh`, `threshold=optimal`,
    `scale=filter`). `group=n` wraps the quantizer in `GroupScaled(..., n)`.

    Args:
        text: a name of `QUANTIZERS`, with its options.
        options: defaults, for the options that the class has.

    Raises:
        HypersignError: an unknown name or option, or a value outside its range.

    >>> quantizer_of("ternary:threshold=0.3").describe(), quantizer_of("sign:group=8").describe()
    ('Ternary(threshold=0.3)', 'GroupScaled(Sign(), 8)')
    """
    name, _, rest = text.partition(":")
    parts = [part for part in rest.split(",") if part]
    group = next((part.partition("=")[2] for part in parts if part.partition("=")[0] == "group"), None)
    plain = ",".join(part for part in parts if part.partition("=")[0] != "group")
    quantizer = made("quantizer", QUANTIZERS, f"{name}:{plain}", options)
    return quantizer if group is None else quantizers.GroupScaled(quantizer, _value("group", group))


def made(what: str, table: Mapping[str, str], text: str, defaults: Mapping[str, Any], part: Any = quantizers) -> Any:
    """The object that a text names, "NAME:option=value,option=value", in a table of the classes of `part`.

    Raises:
        HypersignError: an unknown name or option, or a value outside its range; `what` says of what.
    """
    name, _, rest = text.partition(":")
    make = getattr(part, table[check_choice(what, name, table)])
    known = [p.name for p in inspect.signature(make).parameters.values()]
    options = {key: value for key, value in defaults.items() if key in known}
    for part in filter(None, rest.split(",")):
        key, _, value = part.partition("=")
        if key not in known or not value:
            raise HypersignError(
                f"options of the {what} {name} must be option=value with {', '.join(known) or 'no option at all'}; "
                f"got {part!r}"
            )
        options[key] = _value(key, value)
    return make(**options)


def check_used(
    *,
    levels: int = 2,
    weights: str | None = None,
    inputs: str | None = None,
    surrogate: Any = None,
    sign_zero: Any = None,
    threshold: Any = None,
    weight_scale: Any = None,
    **others: Any,
) -> None:
    """Checks that each option of `Quantization.of` reaches a quantizer.

    Raises:
        HypersignError: an option is given that no quantizer takes, or that the text of each sets itself.
    """
    default = "sign" if levels == 2 else "ternary"
    weights, inputs = weights or default, inputs or default
    for name, value, option, sides in (
        ("surrogate", surrogate, "surrogate", (weights, inputs)),
        ("sign_zero", sign_zero, "zero", (weights, inputs)),
        ("threshold", threshold, "threshold", (weights, inputs)),
        ("weight_scale", weight_scale, "scale" if isinstance(weight_scale, str) else "group", (weights,)),
    ):
        if value is not None and not any(_takes(side, option) for side in sides):
            found = " and ".join(dict.fromkeys(sides))
            raise HypersignError(f"{name} changes nothing with {found}, which has none or its own: leave it out")


def _takes(text: str, option: str) -> bool:
    """Whether the quantizer that a text names has an option that the text leaves open."""
    name, _, rest = text.partition(":")
    known = inspect.signature(getattr(quantizers, QUANTIZERS[check_choice("quantizer", name, QUANTIZERS)])).parameters
    return option in (*known, "group") and option not in (part.partition("=")[0] for part in rest.split(","))


def _value(option: str, text: Any) -> Any:
    """The value of an option from its text; other values are returned as they are."""
    if not isinstance(text, str):
        return text
    if option == "surrogate":
        return surrogate_of(text)
    if text in _WORDS.get(option, ()):
        return getattr(quantizers, _WORDS[option][text])()
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    if option in _WORDS:
        words = " or ".join(_WORDS[option])
        raise HypersignError(f"{option} must be a number or {words}; got {text!r}")
    raise HypersignError(f"{option} must be a number; got {text!r}")


@dataclasses.dataclass(frozen=True, eq=False)
class Quantization:
    """The quantizers of a network. Every model takes one.

    Args:
        weights, inputs: the quantizers; each layer gets copies.
        float_weights, float_inputs: names of layers whose weights, or inputs, stay real (`"conv1"`, `"fc2"`).
        float_convolutions: convolutions stay real, and so do the inputs of the first fully connected layer.
        first_layer: the input of the first convolution: pixels ("plain"), their `Thermometer` levels or `BitPlanes`,
            or the signs of rotated patches ("haar", "hadamard"). All but "plain" make it a product of levels.
        first_dimensions: levels per pixel of the thermometer (8), or dimensions that patches are rotated to (64).
        pixel_range: values of pixels 0 and 255, for the two codes; `hypersign.training` fills it in from the data.

    Raises:
        HypersignError: a quantizer of another kind, or one that cannot quantize inputs; an unknown first layer.

    >>> from hypersign.quantizers import Optimal, Ternary
    >>> ternary = Quantization(Ternary(Optimal()), Ternary(0.612), float_weights=("conv1",))
    >>> ternary.weight_quantizer("conv2").describe(), ternary.weight_quantizer("conv1").describe()
    ('Ternary(threshold=Optimal(deviations=0.6120032))', 'Identity()')
    """

    weights: "Quantizer" = dataclasses.field(default_factory=lambda: quantizer_of("sign"))
    inputs: "Quantizer" = dataclasses.field(default_factory=lambda: quantizer_of("sign"))
    float_weights: tuple[str, ...] = ()
    float_inputs: tuple[str, ...] = ()
    float_convolutions: bool = False
    first_layer: str = "plain"
    first_dimensions: int | None = None
    pixel_range: tuple[float, float] = (-1.0, 1.0)

    def __post_init__(self) -> None:
        for side, quantizer in (("weights", self.weights), ("inputs", self.inputs)):
            if not isinstance(quantizer, quantizers.Quantizer):
                raise HypersignError(f"{side} must be a quantizer object such as Sign(); got {quantizer!r}")
        if refusal := self.inputs.input_refusal():
            raise HypersignError(f"inputs {refusal}; got {self.inputs.describe()}")
        check_choice("first_layer", self.first_layer, FIRST_LAYERS)
        for name in ("float_weights", "float_inputs", "pixel_range"):  # JSON has lists for tuples
            object.__setattr__(self, name, tuple(getattr(self, name)))

    @classmethod
    def of(
        cls,
        *,
        levels: int = 2,
        weights: str | None = None,
        inputs: str | None = None,
        threshold: "float | str | Deviations | None" = None,
        surrogate: "str | Surrogate | None" = None,
        sign_zero: int | None = None,
        weight_scale: str | int | None = None,
        continuous: bool = False,
        **fields: Any,
    ) -> "Quantization":
        """A quantization from plain data: options of the command line, of recipes and of run folders.

        Args:
            levels: 2 (sign) or 3 (ternary), of weights and inputs.
            weights, inputs: what `quantizer_of` takes, in place of `levels`.
            threshold: of ternary levels: a number in [0, 1), or "optimal": .612 of each filter's standard deviation
                for weights, .612 for inputs (which batch norm gives unit variance).
            surrogate: backward rule of every quantizer: what `surrogate_of` takes.
            sign_zero: the level of 0, see `Sign`.
            weight_scale: "filter": a least-squares scale per filter (`MeanScale`); a number: one scale per
                that number of weights (`GroupScaled`); None: none.
            continuous: `float_convolutions`.
            fields: the other fields, as they are.

        Raises:
            HypersignError: an unknown name or option, or a value outside its range.

        >>> Quantization.of(levels=3, threshold="optimal").inputs.describe()
        'Ternary(threshold=0.612003)'
        """
        if levels not in (2, 3):
            raise HypersignError(f"levels must be 2 (binary) or 3 (ternary); got {levels!r}")
        if isinstance(weight_scale, str):
            check_choice("weight_scale (or the number of weights in a group)", weight_scale, ("filter",))
        if isinstance(threshold, str):
            check_choice("threshold (or a number in [0, 1))", threshold, ("optimal",))
        limit = _value("threshold", threshold)
        common = {"surrogate": _value("surrogate", surrogate), "zero": sign_zero, "threshold": limit}
        if limit is not None:
            quantizers.Ternary(limit)  # its check, also for binary networks
        common = {key: value for key, value in common.items() if value is not None}
        default = "sign" if levels == 2 else "ternary"
        scale = {"scale": quantizers.MeanScale()} if weight_scale == "filter" else {}
        made = quantizer_of(weights or default, **common, **scale)
        if weight_scale is not None and not isinstance(weight_scale, str):
            made = quantizers.GroupScaled(made, weight_scale)
        if isinstance(limit, quantizers.Deviations):
            common["threshold"] = limit.deviations
        return cls(made, quantizer_of(inputs or default, **common), float_convolutions=continuous, **fields)

    @property
    def surrogate(self) -> "Surrogate":
        """A copy of the surrogate of weights."""
        return copy.deepcopy(self.weights.surrogate)

    def weight_quantizer(self, layer: str = "") -> "Quantizer":
        """A weight quantizer for the layer of this name: a copy, so that annealed surrogates belong to one layer."""
        return quantizers.Identity() if layer in self.float_weights else copy.deepcopy(self.weights)

    def input_quantizer(self, layer: str = "") -> "Quantizer":
        """An input quantizer for the layer of this name."""
        return quantizers.Identity() if layer in self.float_inputs else copy.deepcopy(self.inputs)

    def check_fields(self, model: str, *known: str) -> None:
        """Raises HypersignError if a field other than weights, inputs and `known` is not its default."""
        fields = dataclasses.fields(self)[2:]
        wrong = [f.name for f in fields if f.name not in known and getattr(self, f.name) != f.default]
        if wrong:
            raise HypersignError(f"{model} has no {', '.join(wrong)}: leave them out of its Quantization")
