"""The start of a training run: `run.json`, recipe and network, and the check that they fit together."""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hypersign import runs
from hypersign._checks import HypersignError
from hypersign._machine import machine, versions
from hypersign.bits import backend
from hypersign.data import Augmentation, Data, EpochBatches, TextData, locate
from hypersign.evaluate import mode, values_per_channel
from hypersign.layers import Stateful, fit_quantizers, train_on_bits
from hypersign.runs import Run, read_tensors
from hypersign.tasks import Task
from hypersign.training.recipe import Recipe

__all__ = [
    "DATA_SEED",
    "EVALUATION_BATCH",
    "Stream",
    "build_network",
    "carries_state",
    "channels_last",
    "check_fit",
    "load_start",
    "load_teacher",
    "new_run",
    "recipe_of",
]

DATA_SEED = 0
"""Divides data without a test split into training and test: the same for every run, so that runs compare."""

EVALUATION_BATCH = 500


def new_run(
    recipe: Recipe, path: Path, data: Data, *, given: bool, model: Callable[[], nn.Module] | None = None
) -> Run:
    """The run that a recipe starts; nothing is written yet.

    Args:
        recipe: the recipe.
        path: the run folder.
        data: the data set.
        given: whether the data set was made in Python, so that it has no name or path to load it by.
        model: the function that builds the network, in place of the recipe's.

    Raises:
        HypersignError: an option of the recipe that changes nothing in the network.
    """
    name = recipe.model if model is None else getattr(model, "__qualname__", type(model).__name__)
    ignored = {} if model is None else {k: v for k, v in recipe.model_options().items() if k != "levels"}
    if ignored:
        raise HypersignError(
            f"the recipe's options of the network belong to networks built by name; got {', '.join(ignored)} beside "
            "a function that builds the network: leave them out"
        )
    if model is None:
        recipe.check_used()
    info = {
        "format": runs.FORMAT,
        "finished": False,
        "model": {
            "name": name,
            "shape": list(data.shape),
            "classes": len(data.classes),
            "options": {} if model is not None else recipe.model_options() | _pixel_range(recipe, data),
            **({} if model is None else {"given": True}),
        },
        "recipe": recipe.as_dict(),
        "data": {
            "name": data.name,
            "source": None if given else locate(recipe.data),
            "seed": DATA_SEED,
            "sha256": data.sha256,
            "classes": list(data.classes),
            **data.facts(),
            f"train_{data.unit}": len(data.train),
            f"test_{data.unit}": len(data.test),
        },
        "versions": versions("torch", "numpy"),
        "machine": machine(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "results": {},
    }
    return Run(path, info, data, model)


def _pixel_range(recipe: Recipe, data: Data) -> dict[str, Any]:
    """The network's option for codes of pixels; it depends on the data."""
    if recipe.first_layer not in ("thermometer", "bit-planes"):
        return {}
    facts = data.facts()
    if "pixel_range" not in facts:
        raise HypersignError(f"first_layer {recipe.first_layer} codes pixels; {data.name} has none: leave it out")
    return {"pixel_range": facts["pixel_range"]}


def recipe_of(run: Run) -> Recipe:
    """The recipe of a run.

    Raises:
        HypersignError: the recipe is from another version.
    """
    try:
        return Recipe(**run.info["recipe"])
    except TypeError as error:
        raise HypersignError(
            f"the recipe in {run.path / 'run.json'} must be one of this version; {error}: "
            "use the HyperSign version that wrote it"
        ) from error


def build_network(run: Run, recipe: Recipe, device: torch.device) -> tuple[nn.Module, dict[str, str] | None]:
    """A run's network with its initial weights; on bits, also the layers that stay in float32, with the reason."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = run.build_model()
    # mypy does not know that Module.to takes a memory format by keyword alone
    model = model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if recipe.precision != "bits":
        return model, None
    if device.type != "cpu" or backend() == "numpy":
        raise HypersignError(
            f"precision bits needs the CPU and compiled kernels; got the device {device.type} and the back end "
            f"{backend()}: choose --device cpu, build with a C++ compiler, or take another precision"
        )
    return model, train_on_bits(model)


def load_start(model: nn.Module, recipe: Recipe) -> None:
    """Loads the weights that training starts from: those of a run folder, or of a safetensors file.

    What quantizers or activation functions learn starts from the loaded weights where the source has none that fits,
    or a run of other quantizers.

    Raises:
        HypersignError: there is no such file, or its tensors do not fit the network.
    """
    assert recipe.start is not None
    path, other = Path(recipe.start), False
    file = path
    if path.is_dir():
        run = runs.load(path)
        before, file = recipe_of(run), run.path / "model.safetensors"
        other = any(getattr(before, name) != getattr(recipe, name) for name in ("levels", "weights", "inputs"))
    tensors, _ = read_tensors(file)
    ours = model.state_dict()
    given, wanted = dict(tensors), dict(ours)
    for name in filter(_LEARNED.search, {*ours, *tensors}):
        there, here = tensors.get(name), ours.get(name)
        if there is None or here is None or there.shape != here.shape or (other and "_quantizer." in name):
            given.pop(name, None)
            wanted.pop(name, None)
    if problems := runs.misfits(wanted, given):
        raise HypersignError(f"{file}, to start from, does not fit the network: {runs.listed(problems, '; ')}")
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)  # some quantizers draw what they learn
        model.load_state_dict(given, strict=False)
        fit_quantizers(model)
        model.load_state_dict(given, strict=False)


_LEARNED = re.compile(r"(input|weight)_quantizer\.|(^|\.)act\d*\.")


def load_teacher(recipe: Recipe, run: Run, device: torch.device) -> nn.Module | None:
    """The network that a recipe learns from, frozen; None if there is none.

    Raises:
        HypersignError: it is no finished run of a network with the same inputs and classes.
    """
    if recipe.teacher is None:
        return None
    teacher = runs.load(recipe.teacher)
    for what in ("shape", "classes"):
        if teacher.info["model"][what] != run.info["model"][what]:
            raise HypersignError(
                f"the teacher must have the network's {what}, {run.info['model'][what]}; {teacher.path} has "
                f"{teacher.info['model'][what]}: train it on the same data"
            )
    if run.task().name != "classification":
        raise HypersignError(f"a teacher gives soft labels of classes; the task is {run.task().name}: leave it out")
    return teacher.load_model().to(device).requires_grad_(False)


def carries_state(model: nn.Module, data: Data) -> bool:
    """Whether a network keeps its state from batch to batch on these data: a recurrent one does on a text."""
    return isinstance(model, Stateful) and isinstance(data, TextData)


class Stream:
    """The examples of a run: the batches it trains on, and those it is evaluated and re-estimated on.

    Raises:
        HypersignError: the recipe asks for more examples than there are.
    """

    def __init__(self, data: Data, recipe: Recipe, accelerator: Any, *, streams: bool = False) -> None:
        self.data, self.device, self.streams = data, accelerator.device, streams
        train, self.validation = data.hold_out(recipe.validation)
        self.train = train[: recipe.images]
        augmentation = Augmentation(recipe.flip, recipe.crop_padding) if recipe.flip or recipe.crop_padding else None
        self.training = self._batches(
            self.train,
            recipe.batch_size,
            seed=recipe.seed,
            augmentation=augmentation,
            drop_last=True,
            rank=accelerator.process_index,
            processes=accelerator.num_processes,
        )
        self.length = getattr(self.training, "length", 1)
        self.examples_per_step = recipe.batch_size * self.length
        """Examples of the data per step: images, or characters."""
        self.batch_size = recipe.batch_size
        self.reestimated = min(recipe.reestimate_images * self.length, len(self.train))
        """How many examples batch norm is re-estimated on; 0 if it is not."""

    @property
    def reestimation_batch(self) -> int:
        """Examples per batch of the re-estimation; for a text, sequences."""
        return min(EVALUATION_BATCH if self.length == 1 else self.batch_size, self.reestimated // self.length)

    def reestimation(self) -> EpochBatches:
        """The batches that batch norm is re-estimated on: full ones, without augmentation."""
        return self._batches(self.train[: self.reestimated], self.reestimation_batch, drop_last=True)

    def evaluation(self, split: Any) -> EpochBatches:
        """The batches of a split, in order."""
        return self._batches(split, EVALUATION_BATCH)

    def example(self) -> tuple[Tensor, Tensor]:
        """A training example, as a batch of one."""
        inputs, targets = next(iter(self._batches(self.train[: 1 if self.length == 1 else self.length + 1], 1)))
        return inputs[:1], targets[:1]

    def _batches(self, split: Any, size: int, **options: Any) -> EpochBatches:
        if self.streams:
            options["streams"] = True
        return self.data.batches(split, size, device=self.device, **options)


def check_fit(model: nn.Module, recipe: Recipe, task: Task, stream: Stream, share: int) -> None:
    """Tries the network on one example before anything is written; this does not change the network.

    Args:
        model: the network.
        recipe: its recipe.
        task: its task.
        stream: its examples.
        share: examples per batch in one process.

    Raises:
        HypersignError: its outputs or the recipe's loss do not fit the task, or a batch norm would be given one value
            per channel.
    """
    inputs, targets = stream.example()
    with torch.random.fork_rng(devices=[]), mode(model, False), torch.no_grad(), values_per_channel(model) as values:
        outputs = model(channels_last(inputs)).float()
    task.check(outputs, targets)
    if recipe.label_smoothing and task.name not in ("classification", "next token"):
        raise HypersignError(
            f"label_smoothing spreads labels over classes; the task is {task.name}: leave label_smoothing out"
        )
    alone = [name for name, count in values.items() if count < 2]
    for option, size in (("batch_size", share), ("reestimate_images", stream.reestimation_batch)):
        if alone and size == 1:
            raise HypersignError(
                f"{option} must be at least 2 per process: {alone[0]} takes the variance of each channel over a "
                "batch, and a batch of 1 has none; got 1"
            )


def channels_last(inputs: Tensor) -> Tensor:
    """Images in channels-last memory format, which makes convolutions faster; other inputs do not change."""
    return inputs.contiguous(memory_format=torch.channels_last) if inputs.dim() == 4 else inputs
