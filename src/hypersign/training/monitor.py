"""Progress and records of training: a progress bar, `metrics.jsonl`, TensorBoard, and measures of layers."""

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
from hypersign._installation import missing
from hypersign.geometry.weights import angles
from hypersign.layers import QuantLayer, quant_layers
from hypersign.quantizers import Quantizer
from hypersign.tasks import Task
from hypersign.training.recipe import Recipe
from hypersign.training.step import latent_weights

__all__ = [
    "Monitor",
    "StepClock",
    "first_broken_layer",
    "layer_metrics",
    "metric_words",
    "negative_signs",
    "tensorboard_writer",
]


def negative_signs(model: nn.Module) -> dict[str, Tensor]:
    """Which latent weights are negative, by layer; sign flips are counted against these."""
    return {name: weight.detach() < 0 for name, weight in latent_weights(model).items()}


def layer_metrics(model: nn.Module, before: dict[str, Tensor]) -> dict[str, dict[str, float | None]]:
    """Two measures of each layer with quantized weights.

    They are the share of signs that differ from `before`, and the mean angle between latent and quantized filters
    (None if every filter is zero, as under a high ternary threshold).
    """
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
        HypersignError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise HypersignError(missing("--tensorboard", "tensorboard", "tensorboard")) from error
    return SummaryWriter


class StepClock:
    """Times the first steps, and says once how long the rest will take and what would be faster.

    The first steps do not count: they allocate memory and compile. It speaks after 2 seconds or 20 steps.

    Args:
        recipe: the run's recipe.
        left: number of steps to come.
        faster_on_bits: whether `--precision bits` would help: on the CPU, with levels for weights and inputs.
    """

    WARM_UP, STEPS, SECONDS = 2, 20, 2.0

    def __init__(self, recipe: Recipe, left: int, *, faster_on_bits: bool) -> None:
        self.recipe, self.left, self.faster_on_bits = recipe, left, faster_on_bits
        self.done, self.start = 0, 0.0

    def step(self, now: float) -> str:
        """Counts a step that ended at `now`, in seconds; returns the estimate if it is due, else an empty text."""
        self.done += 1
        if self.done == self.WARM_UP:
            self.start = now
        counted = self.done - self.WARM_UP
        due = counted == self.STEPS or (0 < counted < self.STEPS and now - self.start >= self.SECONDS)
        if not due:
            return ""
        self.done = self.WARM_UP + self.STEPS  # never due again
        return self._words((now - self.start) / counted, self.left - self.WARM_UP - counted)

    def _words(self, per_step: float, left: int) -> str:
        seconds = per_step * left
        size = self.recipe.batch_size
        text = f"{left:,} more steps of {size} at {per_step:.2g} s: about {duration(seconds)} on this machine"
        if seconds < SOON:
            return text
        bits = ["--precision bits (up to 4 times)"] if self.faster_on_bits else []
        options = [*bits, f"fewer --epochs (now {self.recipe.epochs})", "smaller --widths or --hidden"]
        return f"{text}; faster: {', '.join(options)}"


SOON = 600
"""Seconds of training that need no advice."""


def duration(seconds: float) -> str:
    """A duration in words.

    >>> duration(42), duration(1500), duration(7e4), duration(1e6)
    ('42 s', '25 min', '19 hours', '12 days')
    """
    if seconds < 6000:
        return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
    value, unit = (seconds / 3600, "hours") if seconds < 48 * 3600 else (seconds / 86400, "days")
    return f"{value:.1f} {unit}" if value < 10 else f"{value:,.0f} {unit}"


def metric_words(name: str, unit: str) -> str:
    """A metric's name in words; the tokens of a text are its characters or bytes.

    >>> metric_words("bits_per_token", "characters"), metric_words("accuracy", "images")
    ('bits per character', 'accuracy')
    """
    words = name.replace("_", " ")
    return words.replace("token", unit.removesuffix("s")) if unit in ("characters", "bytes") else words


class Monitor:
    """Shows and records a run. Only one process of a run has a monitor.

    In a terminal an epoch is a progress bar; in a log file it is a line.

    Args:
        folder: the run folder.
        epochs: number of epochs in the whole training.
        task: the task, for names and formats of its metrics.
        unit: what an example is called.
        tensorboard: also write TensorBoard's event files.
        console: where progress is shown; the terminal's standard error if None.
    """

    def __init__(
        self,
        folder: Path,
        epochs: int,
        task: Task,
        *,
        unit: str,
        tensorboard: bool,
        console: Console | None = None,
    ) -> None:
        self.folder = folder
        self.epochs = epochs
        self.formats = dict(task.metrics)
        self.unit = unit
        self.console = console or Console(stderr=True)
        self.writer: Any = None
        if tensorboard:
            self.writer = tensorboard_writer()(str(folder / "tensorboard"))
        self.progress = Progress(
            TextColumn("{task.fields[epoch]}"),
            BarColumn(bar_width=8),  # the whole line fits into 80 columns
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

    def say(self, text: str) -> None:
        """Prints a line above the progress bar."""
        self.progress.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def batch(
        self, epoch: int, done: int, total: int, *, loss: float, metrics: list[float], rate: float, speed: float
    ) -> None:
        """Moves the bar to batch `done` of `total`. Loss and metrics are means over the epoch so far."""
        first = self._words(next(iter(self.formats)), metrics[0])
        text = f"loss {loss:.4f}  {first}  rate {rate:.0e}  {speed:,.0f} {self.unit}/s"
        self.progress.update(self.task, epoch=f"{epoch}/{self.epochs}", completed=done, total=total, text=text)

    def epoch(self, row: dict[str, Any], rows: list[dict[str, Any]]) -> None:
        """Records an epoch: `rows` are all so far, `row` the newest of them."""
        write_atomic(self.folder / "metrics.jsonl", "".join(json.dumps(each) + "\n" for each in rows))
        if self.writer is not None:
            self._tensorboard(row)
        first, form = next(iter(self.formats.items()))
        validation = row[f"validation_{first}"]
        parts = [
            f"epoch {row['epoch']:>3}/{self.epochs}",
            f"loss {row['loss']:.4f}",
            *(self._words(name, row[name]) for name in self.formats),
            *([] if validation is None else [f"validation {validation:{form}}"]),
            f"rate {row['learning_rate']:.1e}",
            f"{row[f'{self.unit}_per_second']:,.0f} {self.unit}/s",
        ]
        self.progress.console.print("  ".join(parts), highlight=False, soft_wrap=True)

    def _words(self, name: str, value: float) -> str:
        return f"{metric_words(name, self.unit)} {value:{self.formats[name]}}"

    def _tensorboard(self, row: dict[str, Any]) -> None:
        step = row["step"]
        for key, value in row.items():
            if isinstance(value, float):
                self.writer.add_scalar(key, value, step)
        for layer, values in row["layers"].items():
            for key, value in values.items():
                if value is not None:
                    self.writer.add_scalar(f"{key}/{layer}", value, step)


def first_broken_layer(model: nn.Module, inputs: Tensor) -> str | None:
    """Name of the first layer, in the order of computation, whose output is not finite; None if all are finite."""
    broken: list[str] = []
    hooks = []

    def hook(name: str) -> Any:
        def look(module: nn.Module, inputs: Any, output: Any) -> None:
            if not broken and isinstance(output, Tensor) and not output.isfinite().all():
                broken.append(name)

        return look

    for name, module in model.named_modules():
        # Watches quantized layers (not the quantizers in them), and other modules without children.
        if isinstance(module, QuantLayer) or not (list(module.children()) or isinstance(module, Quantizer)):
            hooks.append(module.register_forward_hook(hook(name)))
    try:
        with torch.no_grad():
            model(inputs)
    finally:
        for handle in hooks:
            handle.remove()
    return broken[0] if broken else None
