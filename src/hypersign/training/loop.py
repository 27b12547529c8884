"""The training loop: a recipe and an empty folder become a run folder. It can be resumed at any moment.

The recipe decides the result, and everything random depends only on its seed and the epoch. So a run that is killed
and resumed ends with the same bits as an uninterrupted one, on the same type of machine with the same number of
threads and the same versions.
"""

import contextlib
import dataclasses
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from hypersign import _defaults
from hypersign._checks import HypersignError, check_real
from hypersign._files import is_part, make_folder, remove_parts
from hypersign._locks import is_lock, writing_folder
from hypersign.bits import backend
from hypersign.data import Data
from hypersign.data import load as load_data
from hypersign.data.text import LENGTH
from hypersign.evaluate import Evaluation, evaluate, finite, reestimate_batch_norm
from hypersign.layers import Stateful, quant_layers
from hypersign.runs import Run, check_given, float32_default, load, write_tensors
from hypersign.training.checkpoint import Belongs, state_path
from hypersign.training.divergence import FiniteCheck, look_every
from hypersign.training.monitor import Monitor, StepClock, layer_metrics, negative_signs, tensorboard_writer
from hypersign.training.processes import any_process, first_process_first, make_accelerator
from hypersign.training.recipe import Recipe
from hypersign.training.setup import (
    DATA_SEED,
    Stream,
    build_network,
    carries_state,
    channels_last,
    check_fit,
    load_start,
    load_teacher,
    new_run,
    recipe_of,
)
from hypersign.training.state import TrainingState
from hypersign.training.step import Step, latent_weights, make_optimizer, make_rule, slots_of
from hypersign.training.stopping import StopRequest, stoppable

__all__ = ["InterruptedTrainingError", "resume", "train"]


class InterruptedTrainingError(HypersignError):
    """Training was asked to stop; its state is saved."""


def train(
    recipe: Recipe,
    folder: str | Path,
    *,
    data: Data | None = None,
    model: Callable[[], nn.Module] | None = None,
    device: str | None = None,
    deterministic: bool = False,
    tensorboard: bool = False,
    save_seconds: float = _defaults.SAVE_SECONDS,
    each_epoch: Callable[[Run], None] | None = None,
    console: Console | None = None,
) -> Run:
    """Trains a network and returns its run folder.

    Args:
        recipe: network, data and all settings.
        folder: the run folder to make; it must not exist, or be empty.
        data: a data set made in Python (`TensorData`, or a `Data` of your own), in place of the recipe's.
        model: a function that builds a network of your own, in place of the recipe's; the recipe's seed decides its
            initial weights.
        device: "cpu", "cuda" or "mps"; the best available if None. In a process group started by `torchrun` or
            `accelerate launch`, each process takes its own device, and its share of every batch.
        deterministic: make CUDA runs repeatable bit by bit, at some cost in speed (CPU runs always are).
        tensorboard: also write TensorBoard's event files, to `folder/tensorboard`.
        save_seconds: seconds between saves of the state. It is saved at the end of the first epoch after that time,
            and within epochs that take longer.
        each_epoch: called with the run before the first epoch and after each one, in one process of a group.
        console: where progress is shown; the terminal's standard error if None.

    Raises:
        InterruptedTrainingError: Ctrl-C or SIGTERM arrived; the state is saved.
        DivergedError: the loss or a gradient is not finite; the message names the step and the layer.
        HypersignError: the folder is not empty, another process writes to it (the message names it), the data cannot
            be loaded, or recipe, data and network do not fit together.

    >>> import tempfile
    >>> recipe = Recipe(data="digits", model="mlp", hidden=(32,), epochs=1, loss="cross-entropy")
    >>> run = train(recipe, tempfile.mkdtemp(), device="cpu", console=Console(quiet=True))
    >>> run.finished, run.load_model().fc1.weight.shape
    (True, torch.Size([32, 64]))
    """
    check_given(data, model)
    path = Path(folder)
    recipe = saved_recipe(recipe, data)
    accelerator = make_accelerator(device)
    with float32_default(), contextlib.ExitStack() as locks:

        def prepare() -> Data:
            if tensorboard:
                tensorboard_writer()
            if path.is_dir() or not path.exists():
                _lock(locks, accelerator, path)
            _check_empty(path)
            return load_data(recipe.data, seed=DATA_SEED, **_length(recipe)) if data is None else data

        loaded = first_process_first(accelerator, prepare)
        run = new_run(recipe, path, loaded, given=data is not None, model=model)
        # If something does not fit, it fails here, before the folder gets its first file.
        training = _Training(run, accelerator, deterministic, save_seconds)
        first_process_first(accelerator, training.create_folder)
        return training.finish(tensorboard, console, each_epoch)


def resume(
    folder: str | Path,
    *,
    data: Data | None = None,
    model: Callable[[], nn.Module] | None = None,
    device: str | None = None,
    deterministic: bool = False,
    tensorboard: bool = False,
    save_seconds: float = _defaults.SAVE_SECONDS,
    each_epoch: Callable[[Run], None] | None = None,
    console: Console | None = None,
) -> Run:
    """Resumes a stopped run from its last saved state; the arguments are those of `train`.

    Raises:
        HypersignError: the folder is not a run folder, or its state is damaged; and the errors of `train`.
    """
    path = load(folder).path
    accelerator = make_accelerator(device)
    with float32_default(), contextlib.ExitStack() as locks:

        def opened() -> Run:
            """The run, read after its folder is locked. A finished run may be read-only, so it is not locked."""
            run = load(path, data=data, model=model)
            if run.finished:
                return run
            _lock(locks, accelerator, path)
            return load(path, data=data, model=model)

        run = first_process_first(accelerator, opened)
        if run.finished:
            if accelerator.is_main_process:
                _remove_left_over(run)
            return run
        first_process_first(accelerator, run.data)
        return _Training(run, accelerator, deterministic, save_seconds).finish(tensorboard, console, each_epoch)


def _length(recipe: Recipe) -> dict[str, int]:
    """The length of sequences, as an option of `load_data`; left out where it is the default."""
    return {} if recipe.length == LENGTH else {"length": recipe.length}


def saved_recipe(recipe: Recipe, data: Data | None) -> Recipe:
    """The recipe as a run folder holds it: with the name of data made in Python, and absolute paths."""
    recipe = recipe if data is None else dataclasses.replace(recipe, data=data.name)
    return dataclasses.replace(recipe, teacher=_absolute(recipe.teacher), start=_absolute(recipe.start))


def _absolute(path: str | None) -> str | None:
    return None if path is None else str(Path(path).resolve())


def _lock(locks: contextlib.ExitStack, accelerator: Any, path: Path) -> None:
    """Holds the folder's lock until `locks` closes; in a process group the first process holds it for all."""
    if accelerator.is_main_process:
        locks.enter_context(writing_folder(path))


def _check_empty(path: Path) -> None:
    if path.exists() and not (path.is_dir() and all(is_part(file) or is_lock(file) for file in path.iterdir())):
        raise HypersignError(
            f"the run folder must be new or empty; {path} is not: choose another, or resume what is there: "
            f"hypersign train --resume {path}"
        )


class _Training:
    """The part of one process in a training run: its examples, its step, and the state that steps change."""

    def __init__(self, run: Run, accelerator: Any, deterministic: bool, save_seconds: float) -> None:
        self.run, self.accelerator = run, accelerator
        self.deterministic = deterministic
        self.save_seconds = check_real("save_seconds", save_seconds, min=0)
        self.writes = accelerator.is_main_process
        self.recipe, self.task = recipe_of(run), run.task()
        # On CUDA torch rounds the factors of float32 convolutions to 10 bits unless told not to.
        torch.backends.cudnn.allow_tf32 = False

        model, self.kept = build_network(run, self.recipe, accelerator.device)
        if self.recipe.start is not None and not state_path(run.path).exists():
            load_start(model, self.recipe)
        carries = carries_state(model, run.data())
        if carries and accelerator.num_processes > 1:
            raise HypersignError(
                "a network that carries its state from batch to batch trains in one process; got "
                f"{accelerator.num_processes}: start one"
            )
        self.stream = Stream(run.data(), self.recipe, accelerator, streams=carries)
        if isinstance(model, Stateful):
            model.carry = carries
        check_fit(model, self.recipe, self.task, self.stream, self.recipe.batch_size // accelerator.num_processes)
        rule = make_rule(self.recipe, model)
        alone = list(latent_weights(model).values()) if rule is not None and rule.alone else []
        optimizer = make_optimizer(self.recipe, list(model.parameters()), alone)
        self.state = TrainingState.start(model, optimizer, len(self.task.metrics))
        self.finite = FiniteCheck(model, run.path, look_every(accelerator.device))
        # One process needs no wrapper, and this saves a second of imports.
        wrapped = accelerator.prepare_model(model) if accelerator.num_processes > 1 else model
        teacher = load_teacher(self.recipe, run, accelerator.device)
        self.step = Step(
            wrapped,
            self.recipe,
            self.task,
            optimizer,
            self._autocast,
            guard=self.finite.every == 1,
            rule=rule,
            teacher=teacher,
        )
        validated = bool(len(self.stream.validation))
        self.belongs = Belongs(self.recipe, self.stream.data.sha256, len(self.stream.training), validated)
        if self.state.load(run, self.belongs, slots_of(self.recipe, model, rule)):
            self.step.steps = self.state.counters.step
        else:
            self._start(model)
        self._anneal()

    def _start(self, model: nn.Module) -> None:
        """Prepares the weights of a new run."""
        if self.step.rule is not None:
            for latent in self.step.latents:
                self.step.rule.start(latent)
            self.state.signs = negative_signs(model)

    def create_folder(self) -> None:
        """Makes the run folder."""
        if self.writes:
            make_folder(self.run.path)
            self.run.update()

    def finish(
        self, tensorboard: bool, console: Console | None, each_epoch: Callable[[Run], None] | None = None
    ) -> Run:
        """Trains from the current counters to the end."""
        monitor: Monitor | None = None
        with contextlib.ExitStack() as stack:
            self.stop: StopRequest = stack.enter_context(stoppable(self.accelerator.num_processes))
            stack.enter_context(_deterministic(self.deterministic))
            if self.step.draws:  # steps seed torch's generators
                devices = [self.accelerator.device] if self.accelerator.device.type == "cuda" else []
                stack.enter_context(torch.random.fork_rng(devices))
            if self.writes:
                remove_parts(self.run.path)
                monitor = stack.enter_context(self._monitor(tensorboard, console))
            self.saved = time.monotonic()
            at, batches = self.state.counters, len(self.stream.training)
            left = (self.recipe.epochs - at.epoch + 1) * batches - at.batch
            self.clock = StepClock(self.recipe, left, faster_on_bits=self._faster_on_bits())
            tell = each_epoch if self.writes else None
            if tell is not None:
                tell(self.run)
            while self.state.counters.epoch <= self.recipe.epochs:
                rate = self._epoch(monitor)
                self._end_epoch(monitor, rate)
                if tell is not None:
                    tell(self.run)
            if self.writes:
                self._close()
        self.accelerator.wait_for_everyone()
        return load(self.run.path, data=self.run.given_data, model=self.run.given_model)

    def _faster_on_bits(self) -> bool:
        layers = quant_layers(self.state.model).values()
        low_bit = any(layer.quantizes_weights and layer.quantizes_inputs for layer in layers)
        return low_bit and self.recipe.precision == "float32" and self.accelerator.device.type == "cpu"

    def _monitor(self, tensorboard: bool, console: Console | None) -> Monitor:
        monitor = Monitor(
            self.run.path,
            self.recipe.epochs,
            self.task,
            unit=self.stream.data.unit,
            tensorboard=tensorboard,
            console=console,
        )
        if self.kept is not None:
            rest = "; ".join(f"{name} in float32: {reason}" for name, reason in self.kept.items())
            monitor.console.print(f"on bits ({backend()}){rest and '; '}{rest}", markup=False)
        return monitor

    def _epoch(self, monitor: Monitor | None) -> float:
        """Trains to the end of the current epoch; returns the last learning rate."""
        state, at, total = self.state, self.state.counters, len(self.stream.training)
        state.model.train()
        if not at.batch:
            self.step.begin_epoch()
            if isinstance(state.model, Stateful):
                state.model.states = None
        started, shown, before = time.monotonic(), 0.0, at.epoch_seconds
        rate = self.recipe.rate(epoch=at.epoch, progress=max(at.batch, 1) / total)
        for inputs, targets in self.stream.training.epoch(at.epoch, start=at.batch):
            rate = self.recipe.rate(epoch=at.epoch, progress=(at.batch + 1) / total)
            loss, measured, finite = self.step(channels_last(inputs), targets, rate)
            state.add(loss, measured)
            self.finite.add(finite, inputs, at)
            self._anneal()
            now = time.monotonic()
            at.epoch_seconds = before + now - started
            if (text := self.clock.step(now)) and monitor is not None:
                monitor.say(text)
            if monitor is not None and now - shown > 0.2:
                shown = now
                mean_loss, *metrics = state.means(at.batch, self.stream.training.decisions)
                speed = at.batch * self.stream.examples_per_step / at.epoch_seconds
                monitor.batch(at.epoch, at.batch, total, loss=mean_loss, metrics=metrics, rate=rate, speed=speed)
            self._save_if_asked(at.batch < total)
        self.finite.look(at)
        return rate

    def _save_if_asked(self, more_to_come: bool) -> None:
        """Saves the state if it is due, and stops if asked to; at the end of an epoch it saves only to stop."""
        stop, save = self._asked()
        if not stop and not (save and more_to_come):
            return
        self._save()
        if stop:
            at = self.state.counters
            raise InterruptedTrainingError(
                f"training stopped in epoch {at.epoch} of {self.recipe.epochs}, step {at.step}; its state is "
                f"saved. Resume with: hypersign train --resume {self.run.path}"
            )

    def _asked(self) -> tuple[bool, ...]:
        """Whether to stop, and whether to save. In a group, all processes do what one of them wants."""
        due = time.monotonic() - self.saved > self.save_seconds
        if self.accelerator.num_processes > 1 and self.state.counters.batch % self.finite.every:
            return False, False
        return any_process(self.accelerator, self.stop.made, due)

    def _anneal(self) -> None:
        at = self.state.counters
        self.step.anneal((at.epoch - 1 + at.batch / len(self.stream.training)) / self.recipe.epochs)

    def _end_epoch(self, monitor: Monitor | None, rate: float) -> None:
        state, at = self.state, self.state.counters
        sums = self.accelerator.reduce(state.sums, "mean")
        at.seconds += at.epoch_seconds
        if monitor is not None:
            row = self._row(state.means(len(self.stream.training), self.stream.training.decisions, sums), rate)
            state.rows.append(row)
            monitor.epoch(row, state.rows)
        state.next_epoch()
        _, save = self._asked()
        if save or at.epoch > self.recipe.epochs:
            self._save()

    def _row(self, means: list[float], rate: float) -> dict[str, Any]:
        """The row of `metrics.jsonl` for the epoch that ends; keeps its weights if they are the best."""
        state, at = self.state, self.state.counters
        found = self._evaluate(self.stream.validation) if len(self.stream.validation) else None
        row = {
            "epoch": at.epoch,
            "step": at.step,
            "seconds": at.seconds,
            f"{self.stream.data.unit}_per_second": len(self.stream.training)
            * self.stream.examples_per_step
            / at.epoch_seconds,
            "learning_rate": rate,
            **dict(zip(("loss", *self.task.metrics), means, strict=True)),
            "validation_loss": found and finite(found.loss),
            **{f"validation_{name}": found and finite(found.metrics[name]) for name in self.task.metrics},
            "layers": layer_metrics(state.model, state.signs),
        }
        if found is not None:
            state.keep_if_best(self.task.score(found.loss, found.metrics))
        return row

    def _save(self) -> None:
        """Saves the state; all processes of a group call this together."""
        self.finite.look(self.state.counters)
        self.state.sums = self.accelerator.reduce(self.state.sums, "mean")
        first_process_first(
            self.accelerator, lambda: self.state.save(self.run, self.belongs) if self.writes else None
        )
        self.saved = time.monotonic()

    def _close(self) -> None:
        """Re-estimates batch norm, evaluates on the test split, and closes the run."""
        state, unit = self.state, self.stream.data.unit
        if self.stream.reestimated:
            reestimate_batch_norm(state.model, self.stream.reestimation())
        write_tensors(self.run.path / "model.safetensors", state.model.state_dict())
        results: dict[str, Any] = {
            "seconds": state.counters.seconds,
            "test": self._evaluate(self.stream.data.test).as_dict(unit),
        }
        if len(self.stream.validation):
            results["validation"] = self._evaluate(self.stream.validation).as_dict(unit)
            results["best_epoch"] = state.counters.best_epoch
        self.run.update(finished=True, results=results)
        _remove_state(self.run)

    def _evaluate(self, split: Any) -> Evaluation:
        return evaluate(self.state.model, self.stream.evaluation(split), task=self.task)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16")


def _remove_state(run: Run) -> None:
    shutil.rmtree(state_path(run.path).parent, ignore_errors=True)
    remove_parts(run.path)


def _remove_left_over(run: Run) -> None:
    """Removes what a kill after the last epoch left, unless the folder is locked or read-only."""
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
