"""What `convert` returns: the network, a table of what happened, and a warning if little did."""

import dataclasses
import warnings
from typing import Any

import torch
from rich.markup import escape
from rich.table import Table
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from hypersign._checks import HypersignError
from hypersign._display import as_html, as_text
from hypersign.layers.layer import QuantLayer
from hypersign.quantizers import Identity

__all__ = ["Conversion", "macs_of", "warn_if_mostly_float"]


@dataclasses.dataclass(frozen=True, repr=False)
class Conversion:
    """A quantized network, the names of the converted layers, and the reasons why other layers were not converted.

    `kept` maps the name of every module that owns parameters and was not converted to the reason. `macs` has the
    multiply-accumulates of each layer for the example that `convert` got; it is empty without one. Printing the
    result shows a table.
    """

    model: nn.Module
    converted: tuple[str, ...]
    kept: dict[str, str]
    macs: dict[str, int] = dataclasses.field(default_factory=dict)

    def table(self) -> Table:
        """A row per module that owns parameters: its weights, its multiply-accumulates, and what became of it."""
        table = Table(padding=(0, 1, 0, 0))
        for title, side in (
            ("layer", "left"),
            ("class", "left"),
            ("weights", "right"),
            ("MACs", "right"),
            ("quantizers, or why not", "left"),
        ):
            if title != "MACs" or self.macs:
                table.add_column(title, justify=side, no_wrap=title == "layer")  # type: ignore[arg-type]
        for name, module in self.model.named_modules(remove_duplicate=False):
            if name not in self.kept and name not in self.converted:
                continue
            macs = [f"{self.macs[name]:,}" if name in self.macs else ""] if self.macs else []
            what = self.kept.get(name) or _quantizers(module)
            weights = f"{sum(p.numel() for p in module._parameters.values() if p is not None and not is_lazy(p)):,}"
            table.add_row(escape(name or "the network"), type(module).__name__, weights, *macs, escape(what))
        return table

    def __str__(self) -> str:
        """The table."""
        return as_text(self.table())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return as_html(self.table())


def _quantizers(module: nn.Module) -> str:
    """The quantizers of a converted layer in words."""
    layers = [part for part in (module, *module.children()) if isinstance(part, QuantLayer)]
    if not layers:
        return "runs on bits"
    module = layers[0]
    sides = ("weights", module.weight_quantizer), ("inputs", module.input_quantizer)
    return "; ".join(
        f"{side} {quantizer.describe()}" for side, quantizer in sides if not isinstance(quantizer, Identity)
    )


BY_REQUEST = ("kept by request", "no quantizer names it", "already a quantized layer")


def warn_if_mostly_float(result: Conversion) -> None:
    """One line if more than half of the work stays float in layers that the caller did not ask to keep."""
    what, work = "multiply-accumulates", result.macs
    if not work:
        what = "weights"
        work = {
            name: sum(weight.numel() for weight in _matrices(module))
            for name, module in result.model.named_modules()
            if name in result.kept or name in result.converted
        }
    lost = {
        name: reason for name, reason in result.kept.items() if work.get(name) and not reason.startswith(BY_REQUEST)
    }
    total = sum(work.get(name, 0) for name in (*result.converted, *lost))
    share = sum(work[name] for name in lost) / total if total else 0.0
    if share > 0.5:
        largest = max(lost, key=lambda name: work[name])
        warnings.warn(
            f"{share:.0%} of the {what} stay in float, in {len(lost)} layers such as {largest!r} ({lost[largest]}); "
            "print the result of convert to see all",
            stacklevel=3,
        )


def _matrices(module: nn.Module) -> list[Tensor]:
    """The weights that a module multiplies with; a table of vectors multiplies nothing."""
    if isinstance(module, nn.Embedding):
        return []
    found = (p for p in module._parameters.values() if p is not None and not is_lazy(p))
    return [p for p in found if p.dim() > 1]


def macs_of(model: nn.Module, example: Any) -> dict[str, int]:
    """The multiply-accumulates of each module's weights in one forward, by name; modules without any are left out."""
    found: dict[str, int] = {}

    def count(name: str) -> Any:
        def look(module: nn.Module, args: Any, options: Any, output: Any) -> None:
            inputs = [value for value in (*args, *options.values()) if isinstance(value, Tensor)]
            first = output[0] if isinstance(output, tuple) else output
            if inputs and isinstance(first, Tensor):
                found[name] = found.get(name, 0) + _macs_of_call(module, inputs, first)
                if type(module) is nn.MultiheadAttention:  # it reads its output projection's weight without a call
                    inner = f"{name}.out_proj".lstrip(".")
                    found[inner] = found.get(inner, 0) + first.numel() * module.embed_dim

        return look

    hooks = [
        module.register_forward_hook(count(name), with_kwargs=True)
        for name, module in model.named_modules()
        if _matrices(module)
    ]
    modes = {module: module.training for module in model.modules()}
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it reads weights of layers without calling them
    try:
        with torch.no_grad():
            model.eval()
            if isinstance(example, dict):
                model(**example)
            else:
                model(*(example if isinstance(example, tuple) else (example,)))
    except Exception as error:  # whatever the network's own code raises
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise HypersignError(f"the network must take the example; it does not: {reason:.200}") from error
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for hook in hooks:
            hook.remove()
        for module, training in modes.items():
            module.training = training
    return {name: macs for name, macs in found.items() if macs}


def _macs_of_call(module: nn.Module, inputs: list[Tensor], output: Tensor) -> int:
    """Each weight multiplies once per output number, or per input number of a transposed convolution."""
    weights = _matrices(module)
    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        return inputs[0].numel() * weights[0][0].numel()
    if isinstance(module, nn.modules.conv._ConvNd):
        return output.numel() * weights[0][0].numel()
    return inputs[0].numel() // max(inputs[0].shape[-1], 1) * sum(p.numel() for p in weights)
