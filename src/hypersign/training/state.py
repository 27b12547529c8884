"""Everything that changes while a network trains: one object in memory, one file on disk."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hypersign import runs
from hypersign._checks import HypersignError
from hypersign.runs import Run, write_tensors
from hypersign.training.checkpoint import Belongs, Counters, load_state, save_state, state_path
from hypersign.training.monitor import negative_signs

__all__ = ["TrainingState"]


@dataclasses.dataclass
class TrainingState:
    """The state of a training run.

    Args:
        model, optimizer: the network and its update rule.
        signs: which latent weights were negative at the start of the epoch, by layer.
        sums: loss and metrics, summed over the steps of the epoch so far.
        counters: the position of the run.
        rows: the rows of `metrics.jsonl` for the finished epochs.
        best: the weights with the best validation score; empty before the first.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    signs: dict[str, Tensor]
    sums: Tensor
    counters: Counters = dataclasses.field(default_factory=Counters)
    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    best: dict[str, Tensor] = dataclasses.field(default_factory=dict)

    @classmethod
    def start(cls, model: nn.Module, optimizer: torch.optim.Optimizer, metrics: int) -> "TrainingState":
        """The state before the first step, for a task with `metrics` metrics."""
        device = next(model.parameters()).device
        sums = torch.zeros(1 + metrics, dtype=torch.float64 if device.type != "mps" else torch.float32).to(device)
        return cls(model, optimizer, negative_signs(model), sums)

    def add(self, loss: Tensor, measured: Mapping[str, Tensor]) -> None:
        """Adds a step: its loss, and its metrics summed over decisions."""
        self.sums += torch.stack([value.to(self.sums) for value in (loss, *measured.values())])
        self.counters.batch += 1
        self.counters.step += 1

    def means(self, steps: int, decisions: int, sums: Tensor | None = None) -> list[float]:
        """Mean loss, and mean metrics, over the epoch's first `steps` steps, with `decisions` decisions per step."""
        loss, *measured = ((self.sums if sums is None else sums) / steps).tolist()
        return [loss, *(value / decisions for value in measured)]

    def keep_if_best(self, score: float) -> None:
        """Copies the weights if the score is higher than in all earlier epochs; NaN does not count."""
        at = self.counters
        if score > at.best_score or (not at.best_epoch and not math.isnan(score)):
            at.best_score, at.best_epoch = score, at.epoch
            self.best = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}

    def next_epoch(self) -> None:
        """Moves to the start of the next epoch."""
        self.signs = negative_signs(self.model)
        self.sums.zero_()
        at = self.counters
        at.epoch, at.batch, at.epoch_seconds = at.epoch + 1, 0, 0.0

    def save(self, run: Run, belongs: Belongs) -> None:
        """Writes weights and state into the run folder; if a file cannot be written, the old one stays."""
        # The state comes last: a run killed before it resumes from an older state and writes the others again.
        if self.best:
            write_tensors(run.path / "best.safetensors", self.best)
        write_tensors(run.path / "model.safetensors", self.model.state_dict())
        save_state(run.path, belongs, self.counters, self.model, self.optimizer, self.signs, self.sums)

    def load(self, run: Run, belongs: Belongs, slots: Mapping[str, Sequence[str]]) -> bool:
        """Reads the saved state of a run, if it has one; returns whether it has.

        Raises:
            HypersignError: the state is damaged, does not fit, or belongs to another run; or rows of finished epochs
                are missing.
        """
        if not state_path(run.path).exists():
            return False
        self.counters = at = load_state(run.path, belongs, self.model, self.optimizer, self.signs, self.sums, slots)
        self.rows = run.metrics()[: at.epoch - 1]
        if len(self.rows) < at.epoch - 1:
            raise HypersignError(
                f"{run.path / 'metrics.jsonl'} must hold the {at.epoch - 1} epochs that are done; it has "
                f"{len(self.rows)}: restore the file or train again"
            )
        if at.best_epoch:
            path = run.path / "best.safetensors"
            self.best = runs.read_tensors(path)[0]
            runs.check_weights(self.model, self.best, origin=str(path))
        return True
