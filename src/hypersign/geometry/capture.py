"""Runs a network over batches and compares every quantized layer's dot products, continuous and quantized.

A hook on each layer receives its input before quantization, `a_c`. It computes the quantized input, `a_b`, and the
dot products of both with latent and quantized weights, `w_c` and `w_b`. It accumulates their statistics and drops
them, so memory holds one batch of one layer, whatever the number of examples and layers.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from hypersign._checks import HypersignError
from hypersign._display import shown
from hypersign.evaluate import as_input, full_precision, mode
from hypersign.geometry.dot_products import DotProductAccumulator
from hypersign.geometry.permutation import PERMUTED_PRODUCTS, permuted
from hypersign.geometry.products import FAMILIES, LayerProducts, filters_last
from hypersign.layers import QuantLayer, RecurrentProduct, quant_layers
from hypersign.tasks import Task, inputs_and_targets

__all__ = ["Capture", "LayerCapture", "capture", "watching"]

Batches = Iterable[tuple[Tensor, Tensor]]
Progress = Callable[[int], Any]
Hook = Callable[[nn.Module, tuple, dict[str, Any], Any], None]

_PERMUTED = {"permuted": ("a_b.w_b", "a_b.w_c")}


class LayerCapture:
    """Accumulates one layer's dot products: `products` with its activations, `permuted` with permuted ones."""

    def __init__(self, name: str, layer: QuantLayer, generator: torch.Generator) -> None:
        self.name = name
        self.layer = layer
        self.products = DotProductAccumulator(layer.filters, FAMILIES)
        self.permuted = DotProductAccumulator(layer.filters, _PERMUTED)
        self._generator = generator
        self._layer_products = LayerProducts(layer)
        if not torch.isfinite(self._layer_products.latent.sum()):  # far cheaper than checking every element
            raise HypersignError(
                f"{name}.weight must hold finite numbers; it holds NaN or infinity: inspect another checkpoint"
            )

    def hook(self, layer: nn.Module, args: tuple, kwargs: dict[str, Any], output: Tensor) -> None:
        """A forward hook: accumulates the dot products of the layer's current input."""
        continuous: Tensor = args[0] if args else next(iter(kwargs.values()))
        if not torch.isfinite(continuous.sum()):
            raise HypersignError(
                f"the input of {self.name} must hold finite numbers; NaN or infinity came: check the inputs, "
                "and the running statistics of the layers before it"
            )
        if continuous.dim() < self.layer.weight.dim():  # one image without a batch dimension
            continuous, output = continuous[None], output[None]
        products, quantized = self._layer_products.of(continuous, output)
        self.products.update(products, images=len(quantized))

        positions = len(products["a_b.w_b"]) // max(1, len(quantized))
        if positions:
            shuffled = permuted(quantized, -(-PERMUTED_PRODUCTS // positions), self._generator)
            latent, levels = self._layer_products.latent, self._layer_products.levels
            bb = self._layer_products.product(shuffled, levels)
            bc = bb if levels is latent else self._layer_products.product(shuffled, latent)
            self.permuted.update({"a_b.w_b": bb, "a_b.w_c": bc}, images=len(shuffled))


@shown
@dataclasses.dataclass(frozen=True)
class Capture:
    """Result of `capture`: the number of examples, the share of correct decisions, and every layer's statistics.

    `accuracy` is NaN if no task was given.
    """

    examples: int
    accuracy: float
    layers: tuple[LayerCapture, ...]


def capture(
    model: nn.Module,
    batches: Batches,
    *,
    task: Task | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Capture:
    """Runs `model` over `batches` in evaluation mode and accumulates every quantized layer's dot products.

    Afterwards the model has the same hooks, modes and weights as before. Autocast and TF32 are off during the run.

    Args:
        model: any network with quantized layers.
        batches: pairs of inputs and targets. Inputs are moved to the device of the model's weights. Floating-point
            inputs get the type of the weights; integers, such as tokens, stay integers.
        task: the network's task, which says which decisions are correct; None to judge none.
        seed: the seed of the permutation test.
        progress: called after each batch with the number of examples seen.

    Raises:
        HypersignError: the model has no quantized layer, or the forward pass does not reach one; there are no
            examples; weights, activations or outputs are NaN or infinite (the message names the layer); outputs or
            targets do not fit the task.
    """
    layers = quant_layers(model)
    if not layers:
        raise HypersignError("the network must have quantized layers to inspect; it has none: `convert` makes some")
    example = next(iter(layers.values())).weight
    generator = torch.Generator().manual_seed(seed)
    examples, decisions, right = 0, 0, 0
    with watching(model, example.device.type) as watch:
        captures = tuple(LayerCapture(name, layer, generator) for name, layer in layers.items())
        for layer_capture in captures:
            watch(layer_capture.layer, layer_capture.hook)
        for batch in batches:
            inputs, targets = inputs_and_targets(batch)
            if not len(inputs):
                continue
            outputs = model(filters_last(as_input(inputs, example)))
            if not torch.isfinite(outputs).all():
                raise HypersignError("the network's outputs must be finite numbers; NaN or infinity came")
            if task is not None:
                targets = targets.to(outputs.device)
                task.check(outputs, targets)
                right += int(task.correct(outputs, targets).sum())
                decisions += targets.numel()
            examples += len(inputs)
            if progress is not None:
                progress(examples)
    if not examples:
        raise HypersignError("inspection needs at least one example; none came")
    unreached = [c.name for c in captures if not c.products.count]
    if any(isinstance(c.layer, RecurrentProduct) for c in captures):
        raise HypersignError(
            "recurrent layers are measured over time, not as layers of images: hypersign inspect RUN, or "
            "geometry.over_time"
        )
    if unreached:
        raise HypersignError(
            f"every quantized layer must take part in the network's forward pass; {', '.join(unreached)} did not"
        )
    return Capture(examples, right / decisions if decisions else float("nan"), captures)


@contextlib.contextmanager
def watching(model: nn.Module, device: str) -> Iterator[Callable[[nn.Module, Hook], None]]:
    """Prepares `model` for a measurement: evaluation mode, no gradients, full precision on a device of this type.

    The context manager yields a function that sets a forward hook on a layer; the hook is called with (layer,
    arguments, keyword arguments, output). At the end everything is restored, also after an exception.
    """
    with torch.no_grad(), full_precision(device), mode(model, training=False), contextlib.ExitStack() as hooks:

        def watch(layer: nn.Module, hook: Hook) -> None:
            hooks.callback(layer.register_forward_hook(hook, with_kwargs=True).remove)

        yield watch
