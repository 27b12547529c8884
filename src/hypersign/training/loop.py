"""The training loop: a recipe and an empty folder in, a run folder out; resumable at any moment.

Everything that decides the result is in the recipe; everything random is a function of its seed and the
epoch. So a run that is killed and resumed ends with the same bits as one that was not, on the same type of
machine with the same threads and versions.
"""

import contextlib
import math
import platform
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

import hypersign
from hypersign import runs
from hypersign._checks import HypersignError
from hypersign.data import Augmentation, Batches, ImageData, Split
from hypersign.data import load as load_data
from hypersign.evaluate import Evaluation, evaluate, reestimate_batch_norm
from hypersign.runs import Run, open_run, write_tensors
from hypersign.training.checkpoint import Counters, load_state, save_state, state_path
from hypersign.training.monitor import Monitor, first_broken_layer, layer_metrics, negative_signs
from hypersign.training.recipe import Recipe
from hypersign.training.step import Step, loss_of, make_optimizer

__all__ = ["DivergedError", "InterruptedTrainingError", "resume", "train"]

EVALUATION_BATCH = 500
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
        HypersignError: the folder is in use, the data cannot be had, or the recipe does not fit it.

    >>> import tempfile
    >>> recipe = Recipe(data="digits", model="mlp", hidden=(32,), epochs=1, loss="cross-entropy")
    >>> run = train(recipe, tempfile.mkdtemp(), device="cpu", console=Console(quiet=True))
    >>> run.finished, run.load_model().fc1.weight.shape
    (True, torch.Size([32, 64]))
    """
    path = Path(folder)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise HypersignError(
            f"the run folder must be new or empty; {path} is not: choose another, or go on with what is there: "
            f"hypersign train --resume {path}"
        )
    data = load_data(recipe.data, seed=DATA_SEED)
    _first_process(lambda: _create(recipe, path, data))
    loop = _Loop(open_run(path), data, device, deterministic, save_seconds)
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
    """Goes on with a run that was stopped, from its last saved state; arguments as in `train`.

    Raises:
        HypersignError: the folder is no run folder or its state is damaged; also those of `train`.
    """
    run = open_run(folder)
    if run.finished:
        return run
    loop = _Loop(run, run.data(), device, deterministic, save_seconds)
    return loop.run_with(tensorboard, console)


DATA_SEED = 0
"""Divides data that come undivided into training and test: the same for every run, so that runs compare."""


def _create(recipe: Recipe, path: Path, data: ImageData) -> None:
    path.mkdir(parents=True, exist_ok=True)
    info = {
        "format": runs.FORMAT,
        "finished": False,
        "model": {
            "name": recipe.model,
            "shape": list(data.shape),
            "classes": len(data.classes),
            "options": recipe.model_options(),
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
        "versions": {
            "hypersign": hypersign.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "machine": {"platform": platform.platform(), "processor": platform.machine()},
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "results": {},
    }
    Run(path, info).update()


def _first_process(action: Callable[[], None]) -> None:
    """Does something in the first process of a group, the others waiting for it."""
    from accelerate import PartialState

    # Before any Accelerator exists, the state tells the process's number from the launcher's environment.
    state = PartialState(cpu=not torch.cuda.is_available())
    with state.main_process_first():
        if state.is_main_process:
            action()


class _Loop:
    """One process's part in a training run."""

    def __init__(
        self, run: Run, data: ImageData, device: str | None, deterministic: bool, save_seconds: float
    ) -> None:
        from accelerate import Accelerator

        self.run, self.data, self.save_seconds = run, data, save_seconds
        self.recipe = recipe = Recipe(**run.info["recipe"])
        self.deterministic = deterministic
        self.accelerator = Accelerator(cpu=device == "cpu")
        self.device = self.accelerator.device
        if device is not None and self.device.type != device:
            raise HypersignError(
                f"device must be one this machine and torch build have; got {device}, found {self.device.type}"
            )
        self.writes = self.accelerator.is_main_process
        torch.set_float32_matmul_precision("high" if recipe.precision == "bf16" else "highest")

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            model = run.build_model()
        # mypy does not know that Module.to takes a memory format by keyword alone
        self.model: nn.Module = model.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
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
            rank=self.accelerator.process_index,
            processes=self.accelerator.num_processes,
        )
        wrapped = self.accelerator.prepare_model(self.model)
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
            self.counters = at = load_state(run.path, self.model, self.optimizer, self.signs, self.sums)
            self.rows = run.metrics()[: at.epoch - 1]
            self.step.steps = at.step
            self._anneal()
            if at.best_epoch:
                self.best = runs.read_tensors(run.path / "best.safetensors")[0]

    def run_with(self, tensorboard: bool, console: Console | None) -> Run:
        """Trains from where the counters stand to the end."""
        monitor: Monitor | None = None
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._stoppable())
            stack.enter_context(_deterministic(self.deterministic))
            if self.writes:
                monitor = stack.enter_context(
                    Monitor(self.run.path, self.recipe.epochs, tensorboard=tensorboard, console=console)
                )
            self.saved = time.monotonic()
            while self.counters.epoch <= self.recipe.epochs:
                self._epoch(monitor)
            if self.writes:
                self._finish()
        self.accelerator.wait_for_everyone()
        self.accelerator.free_memory()
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
            self.pending.append(finite)
            if len(self.pending) >= self.look_every:
                self._look(x)
            self.sums += torch.stack([loss.to(self.sums), correct.to(self.sums)])
            at.batch += 1
            at.step += 1
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
            if self.stop or (at.batch < total and now - self.saved > self.save_seconds):
                self._look(x)
                self._save()
                if self.stop:
                    raise InterruptedTrainingError(
                        f"training stopped in epoch {at.epoch} of {self.recipe.epochs}, step {at.step}; its state is "
                        f"saved. Go on with: hypersign train --resume {self.run.path}"
                    )
        self._look(x)
        self._end_epoch(monitor, rate)

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
                "validation_loss": validation and validation.loss,
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
        if time.monotonic() - self.saved > self.save_seconds or at.epoch > self.recipe.epochs:
            self._save()

    def _save(self) -> None:
        if self.writes:
            if self.best:
                write_tensors(self.run.path / "best.safetensors", self.best)
            write_tensors(self.run.path / "model.safetensors", self.model.state_dict())
            save_state(self.run.path, self.counters, self.model, self.optimizer, self.signs, self.sums)
        self.saved = time.monotonic()

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
        shutil.rmtree(state_path(self.run.path).parent)

    def _evaluate(self, split: Split) -> Evaluation:
        return evaluate(self.model, self._batches(split, EVALUATION_BATCH), loss=loss_of(self.recipe))

    def _batches(self, split: Split, size: int, **options: Any) -> Batches:
        return Batches(split, size, pixel_range=self.data.pixel_range, device=self.device, **options)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16")

    def _look(self, images: Tensor) -> None:
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
        layer = first_broken_layer(self.model, images) if self.step.guard else None
        where = f"the output of {layer}" if layer else f"the gradient of {gradients[-1]}" if gradients else "the loss"
        kept = (
            f"the last good state is kept: hypersign train --resume {self.run.path} goes on from it"
            if state_path(self.run.path).exists()
            else "no state was saved before it"
        )
        step = self.counters.step + 1 - (len(pending) - 1 - first)
        raise DivergedError(
            f"training must stay finite, but in step {step} (epoch {self.counters.epoch}) {where} is not; {kept}; "
            "a lower learning rate is what helps most often"
        )

    @contextlib.contextmanager
    def _stoppable(self) -> Iterator[None]:
        """The first Ctrl-C or SIGTERM asks the loop to save and stop; a second Ctrl-C stops at once."""

        def ask(number: int, frame: FrameType | None) -> None:
            if self.stop and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.stop = True

        try:
            before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not in the main thread: whoever started it has the signals
            yield
            return
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextlib.contextmanager
def _deterministic(wanted: bool) -> Iterator[None]:
    if not wanted:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def _as_dict(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "images": evaluation.images,
        "accuracy": evaluation.accuracy,
        "loss": evaluation.loss if math.isfinite(evaluation.loss) else None,
        "confusion": [list(row) for row in evaluation.confusion],
    }
