"""The training loop: a recipe and an empty folder in, a run folder out; resumable at any moment.

Everything that decides the result is in the recipe; everything random is a function of its seed and the
epoch. So a run that is killed and resumed ends with the same bits as one that was not, on the same type of
machine with the same threads and versions.
"""

import contextlib
import math
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from hypersign import runs
from hypersign._checks import HypersignError, check_real
from hypersign._files import is_part, make_folder, remove_parts
from hypersign._locks import is_lock, writing_folder
from hypersign._machine import machine, versions
from hypersign.bits import backend
from hypersign.data import Augmentation, Batches, ImageData, Split
from hypersign.data import load as load_data
from hypersign.evaluate import Evaluation, evaluate, reestimate_batch_norm
from hypersign.layers import train_on_bits
from hypersign.runs import Run, open_run, write_tensors
from hypersign.training.checkpoint import Belongs, Counters, load_state, save_state, state_path
from hypersign.training.monitor import (
    Monitor,
    first_broken_layer,
    layer_metrics,
    negative_signs,
    tensorboard_writer,
)
from hypersign.training.processes import any_process, first_process_first, make_accelerator
from hypersign.training.recipe import Recipe
from hypersign.training.step import Step, loss_of, make_optimizer

__all__ = ["DivergedError", "InterruptedTrainingError", "resume", "train"]

EVALUATION_BATCH = 500
FILES = ("run.json", "metrics.jsonl", "best.safetensors", "model.safetensors", "state/state.safetensors")
"""What training writes into a run folder."""
LOOK_EVERY = 20
"""Steps between looks at the loss where a look stalls the device."""


class InterruptedTrainingError(HypersignError):
    """Training was asked to stop; its state is saved."""


class DivergedError(HypersignError):
    """Loss or gradients stopped being finite; the last good state is kept."""


def train(
    recipe: Recipe,
    folder: str | Path,
    *,
    device: str | None = None,
    deterministic: bool = False,
    tensorboard: bool = False,
    save_seconds: float = 60.0,
    console: Console | None = None,
) -> Run:
    """Trains a network and returns its run folder.

    Args:
        recipe: what to train, on what, and how.
        folder: the run folder to make; it must not exist, or be empty.
        device: "cpu", "cuda" or "mps"; the best there is if None. In a process group started by `torchrun` or
            `accelerate launch`, each process takes its own, and its share of every batch.
        deterministic: make CUDA repeat itself bit by bit, at some cost in speed (a CPU does anyway).
        tensorboard: also write TensorBoard's event files, to `folder/tensorboard`.
        save_seconds: seconds between saves of the state (it is saved at the end of an epoch once so many
            seconds have passed, and within epochs that take longer).
        console: where progress is shown; the terminal's standard error if None.

    Raises:
        InterruptedTrainingError: Ctrl-C or SIGTERM came; the state is saved.
        DivergedError: the loss or a gradient stopped being finite; names the step and the layer.
        HypersignError: the folder is in use, another process writes to it (the message names it), the data cannot
            be had, or the recipe does not fit them.

    >>> import tempfile
    >>> recipe = Recipe(data="digits", model="mlp", hidden=(32,), epochs=1, loss="cross-entropy")
    >>> run = train(recipe, tempfile.mkdtemp(), device="cpu", console=Console(quiet=True))
    >>> run.finished, run.load_model().fc1.weight.shape
    (True, torch.Size([32, 64]))
    """
    path = Path(folder)
    accelerator = make_accelerator(device)
    with contextlib.ExitStack() as locks:

        def prepare() -> ImageData:
            if tensorboard:
                tensorboard_writer()
            # In a process group the first process holds the lock for all.
            if accelerator.is_main_process and (path.is_dir() or not path.exists()):
                locks.enter_context(writing_folder(path))
            if path.exists() and not (
                path.is_dir() and all(is_part(file) or is_lock(file) for file in path.iterdir())
            ):
                raise HypersignError(
                    f"the run folder must be new or empty; {path} is not: choose another, or resume what is there: "
                    f"hypersign train --resume {path}"
                )
            return load_data(recipe.data, seed=DATA_SEED)

        data = first_process_first(accelerator, prepare)
        # Whatever does not fit shows while the loop is made: only then does the folder get its first file.
        loop = _Loop(_new_run(recipe, path, data), data, accelerator, deterministic, save_seconds)
        first_process_first(accelerator, loop.create)
        return loop.run_with(tensorboard, console)


def resume(
    folder: str | Path,
    *,
    device: str | None = None,
    deterministic: bool = False,
    tensorboard: bool = False,
    save_seconds: float = 60.0,
    console: Console | None = None,
) -> Run:
    """Resumes a run that was stopped, from its last saved state; arguments as in `train`.

    Raises:
        HypersignError: the folder is no run folder or its state is damaged; also those of `train`.
    """
    path = open_run(folder).path
    accelerator = make_accelerator(device)
    with contextlib.ExitStack() as locks:

        def opened() -> Run:
            """The run, as it is once nobody else writes to it; a finished one may be read-only."""
            run = open_run(path)
            if accelerator.is_main_process and not run.finished:
                locks.enter_context(writing_folder(path))
                run = open_run(path)
            return run

        run = first_process_first(accelerator, opened)
        if run.finished:
            if accelerator.is_main_process:
                _remove_left_over(run)
            return run
        data = first_process_first(accelerator, run.data)
        loop = _Loop(run, data, accelerator, deterministic, save_seconds)
        return loop.run_with(tensorboard, console)


DATA_SEED = 0
"""Divides data that come undivided into training and test: the same for every run, so that runs compare."""


def _new_run(recipe: Recipe, path: Path, data: ImageData) -> Run:
    info = {
        "format": runs.FORMAT,
        "finished": False,
        "model": {
            "name": recipe.model,
            "shape": list(data.shape),
            "classes": len(data.classes),
            "options": recipe.model_options() | _pixel_range(recipe, data),
        },
        "recipe": recipe.as_dict(),
        "data": {
            "name": data.name,
            "source": recipe.data,
            "seed": DATA_SEED,
            "sha256": data.sha256,
            "classes": list(data.classes),
            "pixel_range": list(data.pixel_range),
            "train_images": len(data.train),
            "test_images": len(data.test),
        },
        "versions": versions("torch", "numpy"),
        "machine": machine(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "results": {},
    }
    return Run(path, info)


def _pixel_range(recipe: Recipe, data: ImageData) -> dict[str, Any]:
    """The model's option for codes of pixels, which no recipe can know."""
    return {"pixel_range": list(data.pixel_range)} if recipe.first_layer in ("thermometer", "bit-planes") else {}


def _recipe_of(run: Run) -> Recipe:
    try:
        return Recipe(**run.info["recipe"])
    except TypeError as error:
        raise HypersignError(
            f"the recipe in {run.path / 'run.json'} must be one of this version; {error}: "
            "go on with the HyperSign that wrote it"
        ) from error


class _Loop:
    """One process's part in a training run."""

    def __init__(self, run: Run, data: ImageData, accelerator: Any, deterministic: bool, save_seconds: float) -> None:
        self.run, self.data = run, data
        self.save_seconds = check_real("save_seconds", save_seconds, least=0)
        self.recipe = recipe = _recipe_of(run)
        self.deterministic = deterministic
        self.accelerator, self.device = accelerator, accelerator.device
        self.writes = accelerator.is_main_process
        # On CUDA torch rounds the factors of float32 convolutions to 10 bits unless told not to.
        torch.backends.cudnn.allow_tf32 = False

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            model = run.build_model()
        # mypy does not know that Module.to takes a memory format by keyword alone
        self.model: nn.Module = model.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.kept = _train_on_bits(self.model, self.device) if recipe.precision == "bits" else None
        train, self.validation = data.hold_out(recipe.validation)
        self.train = train[: recipe.images]
        self.batches = self._batches(
            self.train,
            recipe.batch_size,
            seed=recipe.seed,
            augmentation=Augmentation(recipe.flip, recipe.crop_padding)
            if recipe.flip or recipe.crop_padding
            else None,
            drop_last=True,
            rank=accelerator.process_index,
            processes=accelerator.num_processes,
        )
        self.belongs = Belongs(recipe, data.sha256, len(self.batches))
        # In one process there is nothing to wrap, and a second of imports to spare.
        wrapped = accelerator.prepare_model(self.model) if accelerator.num_processes > 1 else self.model
        self.optimizer = make_optimizer(recipe, list(self.model.parameters()))
        # On CUDA a look at the loss in every step would leave the device waiting.
        self.look_every = LOOK_EVERY if self.device.type == "cuda" else 1
        self.step = Step(wrapped, recipe, self.optimizer, self._autocast, guard=self.look_every == 1)
        self.counters = Counters()
        self.signs = negative_signs(self.model)
        self.sums = torch.zeros(2, dtype=torch.float64 if self.device.type != "mps" else torch.float32).to(
            self.device
        )
        self.rows: list[dict[str, Any]] = []
        self.best: dict[str, Tensor] = {}
        self.pending: list[Tensor] = []
        self.stop = False
        if state_path(run.path).exists():
            self.counters = at = load_state(run.path, self.belongs, self.model, self.optimizer, self.signs, self.sums)
            self.rows = run.metrics()[: at.epoch - 1]
            if len(self.rows) < at.epoch - 1:
                raise HypersignError(
                    f"{run.path / 'metrics.jsonl'} must hold the {at.epoch - 1} epochs that are done; it has "
                    f"{len(self.rows)}: restore the file or train again"
                )
            self.step.steps = at.step
            self._anneal()
            if at.best_epoch:
                path = run.path / "best.safetensors"
                self.best = runs.read_tensors(path)[0]
                runs.check_weights(self.model, self.best, origin=str(path))

    def create(self) -> None:
        """Makes the run folder."""
        if self.writes:
            make_folder(self.run.path)
            self.run.update()

    def run_with(self, tensorboard: bool, console: Console | None) -> Run:
        """Trains from where the counters stand to the end."""
        monitor: Monitor | None = None
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._stoppable())
            stack.enter_context(_deterministic(self.deterministic))
            if self.writes:
                _remove_parts(self.run)
                monitor = stack.enter_context(
                    Monitor(self.run.path, self.recipe.epochs, tensorboard=tensorboard, console=console)
                )
                if self.kept is not None:
                    rest = "; ".join(f"{name} in float32: {reason}" for name, reason in self.kept.items())
                    monitor.console.print(f"on bits ({backend()}){rest and '; '}{rest}", markup=False)
            self.saved = time.monotonic()
            while self.counters.epoch <= self.recipe.epochs:
                self._epoch(monitor)
            if self.writes:
                self._finish()
        self.accelerator.wait_for_everyone()
        return open_run(self.run.path)

    def _epoch(self, monitor: Monitor | None) -> None:
        at, total = self.counters, len(self.batches)
        self.model.train()
        started, shown, images = time.monotonic(), 0.0, self.recipe.batch_size
        before = at.epoch_seconds
        rate = self.recipe.rate(epoch=at.epoch, progress=max(at.batch, 1) / total)
        for x, labels in self.batches.epoch(at.epoch, start=at.batch):
            rate = self.recipe.rate(epoch=at.epoch, progress=(at.batch + 1) / total)
            loss, correct, finite = self.step(x.contiguous(memory_format=torch.channels_last), labels, rate)
            self.sums += torch.stack([loss.to(self.sums), correct.to(self.sums)])
            at.batch += 1
            at.step += 1
            self.pending.append(finite)
            if len(self.pending) >= self.look_every:
                self._look(x)
            self._anneal()
            now = time.monotonic()
            at.epoch_seconds = before + now - started
            if monitor is not None and now - shown > 0.2:
                shown = now
                loss_sum, correct_sum = self.sums.tolist()
                monitor.batch(
                    at.epoch,
                    at.batch,
                    total,
                    loss=loss_sum / at.batch,
                    accuracy=correct_sum / (at.batch * images / self.accelerator.num_processes),
                    rate=rate,
                    speed=at.batch * images / at.epoch_seconds,
                )
            stop, save = self._asked()
            if stop or (save and at.batch < total):
                self._save()
                if stop:
                    raise InterruptedTrainingError(
                        f"training stopped in epoch {at.epoch} of {self.recipe.epochs}, step {at.step}; its state is "
                        f"saved. Go on with: hypersign train --resume {self.run.path}"
                    )
        self._look()
        self._end_epoch(monitor, rate)

    def _asked(self) -> tuple[bool, ...]:
        """Whether to stop, and whether to save; in a group, what any process wants, so that all do it at once."""
        due = time.monotonic() - self.saved > self.save_seconds
        if self.accelerator.num_processes > 1 and self.counters.batch % self.look_every:
            return False, False
        return any_process(self.accelerator, self.stop, due)

    def _anneal(self) -> None:
        done = self.counters.epoch - 1 + self.counters.batch / len(self.batches)
        self.step.anneal(done / self.recipe.epochs)

    def _end_epoch(self, monitor: Monitor | None, rate: float) -> None:
        at, total = self.counters, len(self.batches)
        loss, correct = (self.accelerator.reduce(self.sums, "mean") / total).tolist()
        share = self.recipe.batch_size / self.accelerator.num_processes
        seconds = at.epoch_seconds
        at.seconds += seconds
        if self.writes:
            validation = self._evaluate(self.validation) if len(self.validation) else None
            row = {
                "epoch": at.epoch,
                "step": at.step,
                "seconds": at.seconds,
                "images_per_second": total * self.recipe.batch_size / seconds,
                "learning_rate": rate,
                "loss": loss,
                "accuracy": correct / share,
                "validation_loss": validation and _finite(validation.loss),
                "validation_accuracy": validation and validation.accuracy,
                "layers": layer_metrics(self.model, self.signs),
            }
            self.rows.append(row)
            if validation is not None and validation.accuracy > at.best_accuracy:
                at.best_accuracy, at.best_epoch = validation.accuracy, at.epoch
                self.best = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
            assert monitor is not None
            monitor.epoch(row, self.rows)
        self.signs = negative_signs(self.model)
        self.sums.zero_()
        at.epoch, at.batch, at.epoch_seconds = at.epoch + 1, 0, 0.0
        _, save = self._asked()
        if save or at.epoch > self.recipe.epochs:
            self._save()

    def _save(self) -> None:
        """Saves the state; all processes of a group come here together."""
        self._look()
        self.sums = self.accelerator.reduce(self.sums, "mean")
        first_process_first(self.accelerator, self._write)
        self.saved = time.monotonic()

    def _write(self) -> None:
        if not self.writes:
            return
        # The state comes last: killed before it, the run goes on from an older one and writes the others again.
        if self.best:
            write_tensors(self.run.path / "best.safetensors", self.best)
        write_tensors(self.run.path / "model.safetensors", self.model.state_dict())
        save_state(self.run.path, self.belongs, self.counters, self.model, self.optimizer, self.signs, self.sums)

    def _finish(self) -> None:
        """Re-estimates batch norm, evaluates on the test images, and closes the run."""
        if self.recipe.reestimate_images:
            sample = self.train[: self.recipe.reestimate_images]
            size = min(EVALUATION_BATCH, len(sample))
            reestimate_batch_norm(self.model, self._batches(sample, size, drop_last=True))
        write_tensors(self.run.path / "model.safetensors", self.model.state_dict())
        results: dict[str, Any] = {
            "seconds": self.counters.seconds,
            "test": _as_dict(self._evaluate(self.data.test)),
        }
        if len(self.validation):
            results["validation"] = _as_dict(self._evaluate(self.validation))
            results["best_epoch"] = self.counters.best_epoch
        self.run.update(finished=True, results=results)
        _remove_state(self.run)

    def _evaluate(self, split: Split) -> Evaluation:
        return evaluate(self.model, self._batches(split, EVALUATION_BATCH), loss=loss_of(self.recipe))

    def _batches(self, split: Split, size: int, **options: Any) -> Batches:
        return Batches(split, size, pixel_range=self.data.pixel_range, device=self.device, **options)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16")

    def _look(self, images: Tensor | None = None) -> None:
        """Raises DivergedError if a step since the last look was not finite; `images` are the last step's."""
        pending, self.pending = self.pending, []
        if not pending:
            return
        finite = torch.stack(pending).cpu()  # (steps, 1 + parameters)
        bad = (~finite).any(1)
        if not bad.any():
            return
        first = int(bad.int().argmax())
        names = [name for name, p in self.model.named_parameters() if p.requires_grad]
        gradients = [name for name, fine in zip(names, finite[first, 1:].tolist(), strict=True) if not fine]
        # The update was held back, so a second forward pass shows where the first number went wrong.
        layer = first_broken_layer(self.model, images) if self.step.guard and images is not None else None
        where = f"the output of {layer}" if layer else f"the gradient of {gradients[-1]}" if gradients else "the loss"
        kept = (
            f"the last good state is kept: hypersign train --resume {self.run.path} goes on from it"
            if state_path(self.run.path).exists()
            else "no state was saved before it"
        )
        step = self.counters.step - (len(pending) - 1 - first)
        raise DivergedError(
            f"training must stay finite, but in step {step} (epoch {self.counters.epoch}) {where} is not; {kept}; "
            "a lower learning rate is what helps most often"
        )

    @contextlib.contextmanager
    def _stoppable(self) -> Iterator[None]:
        """The first Ctrl-C or SIGTERM asks the loop to save and stop; a second Ctrl-C stops at once."""
        if threading.current_thread() is not threading.main_thread():  # whoever started it has the signals
            yield
            return

        def ask(number: int, frame: FrameType | None) -> None:
            # Launchers pass a Ctrl-C on that the terminal has sent to every process already.
            if self.stop and number == signal.SIGINT and self.accelerator.num_processes == 1:
                raise KeyboardInterrupt
            self.stop = True

        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _train_on_bits(model: nn.Module, device: torch.device) -> dict[str, str]:
    if device.type != "cpu" or backend() == "numpy":
        raise HypersignError(
            f"precision bits needs the CPU and compiled kernels; got the device {device.type} and the back end "
            f"{backend()}: choose --device cpu, build with a C++ compiler, or take another precision"
        )
    return train_on_bits(model)


def _remove_state(run: Run) -> None:
    shutil.rmtree(state_path(run.path).parent, ignore_errors=True)
    _remove_parts(run)


def _remove_parts(run: Run) -> None:
    # Of this run's files alone: an inspection may be writing its own into the folder.
    for name in FILES:
        remove_parts(run.path / name)


def _remove_left_over(run: Run) -> None:
    """Removes what a kill after the last epoch left; where others write to the folder, or none can, it stays."""
    with contextlib.suppress(HypersignError), writing_folder(run.path):
        _remove_state(run)


@contextlib.contextmanager
def _deterministic(wanted: bool) -> Iterator[None]:
    if not wanted:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it torch refuses products on CUDA
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def _finite(value: float) -> float | None:
    """What JSON can hold of a number."""
    return value if math.isfinite(value) else None


def _as_dict(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "images": evaluation.images,
        "accuracy": evaluation.accuracy,
        "loss": _finite(evaluation.loss),
        "confusion": [list(row) for row in evaluation.confusion],
    }
