"""What training shows and records: a progress bar, `metrics.jsonl`, TensorBoard; and what it measures of layers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from hypersign._checks import HypersignError
from hypersign._files import write_atomic
from hypersign.geometry.weights import angles
from hypersign.layers import QuantLayer, quant_layers
from hypersign.quantizers import Quantizer
from hypersign.training.step import latent_weights

__all__ = ["Monitor", "first_broken_layer", "layer_metrics", "negative_signs", "tensorboard_writer"]


def negative_signs(model: nn.Module) -> dict[str, Tensor]:
    """Which latent weights are negative, by layer: what sign flips are counted against."""
    return {name: weight.detach() < 0 for name, weight in latent_weights(model).items()}


def layer_metrics(model: nn.Module, before: dict[str, Tensor]) -> dict[str, dict[str, float | None]]:
    """Of each layer with quantized weights: the share of signs that differ from `before`, and the mean angle
    between latent and quantized filters (None where every filter is zero, as under a high ternary threshold)."""
    now, layers = negative_signs(model), quant_layers(model)
    return {
        name: {
            "flipped_signs": float((now[name] != before[name]).float().mean()),
            "angle_degrees": _angle(layers[name]),
        }
        for name in now
    }


def _angle(layer: QuantLayer) -> float | None:
    degrees = np.degrees(angles(layer))
    known = degrees[~np.isnan(degrees)]
    return float(known.mean()) if known.size else None


def tensorboard_writer() -> Any:
    """TensorBoard's class of writers.

    Raises:
        HypersignError: it is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise HypersignError(
            "--tensorboard needs the package tensorboard; install it: pip install 'hypersign[tensorboard]'"
        ) from error
    return SummaryWriter


class Monitor:
    """Shows and records a run as it goes on; one process of a run has one, the others have none.

    On a terminal an epoch is a progress bar; elsewhere (a log file) it is a line.
    """

    def __init__(self, folder: Path, epochs: int, *, tensorboard: bool, console: Console | None = None) -> None:
        self.folder = folder
        self.epochs = epochs
        self.console = console or Console(stderr=True)
        self.writer: Any = None
        if tensorboard:
            self.writer = tensorboard_writer()(str(folder / "tensorboard"))
        self.progress = Progress(
            TextColumn("{task.fields[epoch]}"),
            BarColumn(bar_width=8),  # all of it fits into 80 columns
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(compact=True),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self.task = self.progress.add_task("", epoch="", text="", total=1)

    def __enter__(self) -> "Monitor":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()
        if self.writer is not None:
            self.writer.close()

    def batch(
        self, epoch: int, done: int, total: int, *, loss: float, accuracy: float, rate: float, speed: float
    ) -> None:
        """Moves the bar to batch `done` of `total`; loss and accuracy are means over the epoch so far."""
        text = f"loss {loss:.4f}  accuracy {accuracy:.1%}  rate {rate:.0e}  {speed:,.0f} images/s"
        self.progress.update(self.task, epoch=f"{epoch}/{self.epochs}", completed=done, total=total, text=text)

    def epoch(self, row: dict[str, Any], rows: list[dict[str, Any]]) -> None:
        """Records an epoch: `rows` are all so far, `row` the newest of them."""
        write_atomic(self.folder / "metrics.jsonl", "".join(json.dumps(each) + "\n" for each in rows))
        if self.writer is not None:
            self._tensorboard(row)
        validation = row["validation_accuracy"]
        self.progress.console.print(
            f"epoch {row['epoch']:>3}/{self.epochs}  loss {row['loss']:.4f}  accuracy {row['accuracy']:6.2%}"
            + (f"  validation {validation:6.2%}" if validation is not None else "")
            + f"  rate {row['learning_rate']:.1e}  {row['images_per_second']:,.0f} images/s",
            highlight=False,
            soft_wrap=True,
        )

    def _tensorboard(self, row: dict[str, Any]) -> None:
        step = row["step"]
        for key, value in row.items():
            if isinstance(value, float):
                self.writer.add_scalar(key, value, step)
        for layer, values in row["layers"].items():
            for key, value in values.items():
                if value is not None:
                    self.writer.add_scalar(f"{key}/{layer}", value, step)


def first_broken_layer(model: nn.Module, images: Tensor) -> str | None:
    """Name of the first layer, in the order of computation, whose output is not finite; None if all are."""
    broken: list[str] = []
    hooks = []

    def hook(name: str) -> Any:
        def look(module: nn.Module, inputs: Any, output: Any) -> None:
            if not broken and isinstance(output, Tensor) and not output.isfinite().all():
                broken.append(name)

        return look

    for name, module in model.named_modules():
        # A quantized layer answers for its quantizers; else the modules that hold no others.
        if isinstance(module, QuantLayer) or not (list(module.children()) or isinstance(module, Quantizer)):
            hooks.append(module.register_forward_hook(hook(name)))
    try:
        with torch.no_grad():
            model(images)
    finally:
        for handle in hooks:
            handle.remove()
    return broken[0] if broken else None
