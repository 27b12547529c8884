"""A plan: one format per layer, its predicted damage, its bytes and operations, and the Python call that makes it."""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

from hypersign.forecasting.effects import Effect
from hypersign.quantizers import QUANTIZERS, Grid, GroupScaled, MeanScale, Quantizer, Rotated, TensorScale

__all__ = ["Plan", "call_text", "quantizer_text"]


@dataclasses.dataclass(frozen=True)
class Plan:
    """One format per layer.

    Args:
        assignment: layer -> format of its weights; "float" where it stays as given.
        predicted: its effect on the forecast's own inputs, for repair as on inputs that repair has not seen.
        measured: the effect on other inputs, if it was measured.
        repaired: whether both are meant after repair.
        bytes: of all parameters: levels in whole 64-bit words per filter and bit, 4 bytes per scale, 4 bytes per
            other parameter.
        bits_per_weight: 8 times the bytes of the layers' weights and scales, over their number of weights.
        macs: multiply-accumulates of one input by the bits of the weight: {1: ..., 2: ..., 32: ...}.
        file_bytes: the size of the packed file that `hypersign.pack` makes of the converted network; None if it has
            no packed form, or if its input shape is unknown.
        no_file: the reason why there is no packed file.
        call: Python code that converts and repairs `model` in this way.
    """

    assignment: dict[str, str]
    predicted: Effect
    measured: Effect | None
    repaired: bool
    bytes: int
    bits_per_weight: float
    macs: dict[int, int]
    file_bytes: int | None
    no_file: str
    call: str

    def as_dict(self) -> dict[str, Any]:
        """The plan as plain data."""
        found = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        found["predicted"] = self.predicted.as_dict()
        found["measured"] = None if self.measured is None else self.measured.as_dict()
        found["macs"] = {str(bits): count for bits, count in self.macs.items()}
        return found


def quantizer_text(quantizer: Quantizer) -> str:
    """The Python code that makes a quantizer of a forecast.

    >>> from hypersign.quantizers import Optimal, Ternary
    >>> quantizer_text(Ternary(Optimal(), scale=MeanScale()))
    'Ternary(Optimal(), scale=MeanScale())'
    """
    if isinstance(quantizer, Rotated):
        rotation = quantizer.rotation
        return f"Rotated({quantizer_text(quantizer.quantizer)}, HadamardRotation({rotation.dimension}))"
    if isinstance(quantizer, GroupScaled):
        return f"GroupScaled({quantizer_text(quantizer.quantizer)}, {quantizer.size})"
    if isinstance(quantizer, Grid):
        return f"Grid({len(quantizer.levels)}, low={quantizer.low!r}, step={quantizer.step!r})"
    words = []
    if (threshold := getattr(quantizer, "threshold", None)) is not None:
        words.append(f"{type(threshold).__name__}()" if type(threshold).__name__ == "Optimal" else repr(threshold))
    if type(quantizer).__name__ == "Uniform":
        words.append(str(len(quantizer.levels)))
    options = [name for name in ("count", "keep", "planes") if name in inspect.signature(type(quantizer)).parameters]
    words += [f"{name}={getattr(quantizer, name)!r}" for name in options]
    if isinstance(quantizer.scale, MeanScale | TensorScale):
        words.append(f"scale={type(quantizer.scale).__name__}()")
    return f"{type(quantizer).__name__}({', '.join(words)})"


def call_text(weights: Mapping[str, Quantizer], inputs: Mapping[str, Quantizer], *, repaired: bool) -> str:
    """The Python call that converts a float network `model` with these quantizers per layer, and repairs it."""
    if not weights and not inputs:
        return "quantized = model  # the plan keeps every layer in float\n"
    texts = {side: _grouped(given) for side, given in (("weight", weights), ("input", inputs))}
    code = " ".join(text for groups in texts.values() for text in groups)
    made = [name for name in _NAMES if f"{name}(" in code]
    lines = ["import hypersign"]
    names = [name for name in made if name != "HadamardRotation"]
    lines += [f"from hypersign.quantizers import {', '.join(names)}"] if names else []
    lines += ["from hypersign.rotations import HadamardRotation"] if "HadamardRotation" in made else []
    if repaired:
        lines.append("from hypersign.forecasting import repair")
    lines.append("")
    arguments = []
    for side, groups in texts.items():
        if not groups:
            continue
        variable = f"{side}_quantizers"
        lines.append(f"{variable} = {{")
        for text, layers in groups.items():
            lines += [f"    {layer!r}: {text}," for layer in layers]
        lines.append("}")
        arguments.append(f"{side}_quantizer={variable}")
    lines.append(f"quantized = hypersign.convert(model, {', '.join(arguments)}).model")
    if repaired:
        lines.append("repair(quantized, batches, original=model)  # batches: about 128 inputs, without labels")
    return "\n".join(lines) + "\n"


_NAMES = tuple(
    sorted({*QUANTIZERS.values(), "GroupScaled", "HadamardRotation", "MeanScale", "Rotated", "TensorScale"})
)


def _grouped(given: Mapping[str, Quantizer]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for layer, quantizer in given.items():
        groups.setdefault(quantizer_text(quantizer), []).append(layer)
    return groups
