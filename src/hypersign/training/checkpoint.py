"""The state for resuming, in one file: `state/state.safetensors`.

Tensors: `model/...` (weights and batch-norm statistics), `optimizer/<parameter>/<slot>`, `signs/<layer>` (the
levels' signs at the start of the epoch, one bit each), `sums` (loss and metrics so far in the epoch), `carried/...`
(the states that a recurrent network carries to the next batch).
Its header holds the counters, and the recipe and data that the state belongs to, as JSON. It is one file, so that a
kill cannot leave parts of two states. The order, flips and crops of images depend only on the seed and the epoch, so
no random generator's state is needed.

The fused optimizers address memory by the parameter's shape. A moment of another shape would make them read and write
outside it. So everything is checked before anything is loaded.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hypersign._checks import HypersignError, check_int, check_real
from hypersign._files import make_folder
from hypersign.layers.stateful import Memory, Stateful
from hypersign.runs import listed, misfits, read_tensors, write_tensors
from hypersign.training.recipe import Recipe
from hypersign.training.step import SLOTS

__all__ = ["Belongs", "Counters", "load_state", "save_state", "state_path"]


@dataclasses.dataclass
class Counters:
    """The position of a training run: in `epoch` (from 1), after `batch` of its batches."""

    epoch: int = 1
    batch: int = 0
    step: int = 0
    seconds: float = 0.0
    epoch_seconds: float = 0.0
    best_epoch: int = 0
    best_score: float = 0.0


@dataclasses.dataclass(frozen=True)
class Belongs:
    """What a state belongs to: a recipe and the SHA-256 of its data. Both decide the number of batches per epoch."""

    recipe: Recipe
    data: str
    batches: int
    validated: bool | None = None
    """Whether there is validation; if None, by the recipe."""

    def saved(self) -> dict[str, Any]:
        """As JSON. The location of the data is left out, because their hash identifies them."""
        recipe = {name: value for name, value in self.recipe.as_dict().items() if name != "data"}
        recipe = {name: list(value) if isinstance(value, tuple) else value for name, value in recipe.items()}
        return {"recipe": recipe, "data": self.data}


def state_path(folder: Path) -> Path:
    """The path of the state of the run in `folder`."""
    return folder / "state" / "state.safetensors"


def save_state(
    folder: Path,
    belongs: Belongs,
    counters: Counters,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    signs: dict[str, Tensor],
    sums: Tensor,
) -> None:
    """Writes the state of a run; if writing fails, the old state stays."""
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    for parameter, slots in optimizer.state.items():
        for slot, value in slots.items():
            if value is not None:
                tensors[f"optimizer/{names[parameter]}/{slot}"] = value
    for name, negative in signs.items():
        tensors[f"signs/{name}"] = torch.from_numpy(np.packbits(negative.cpu().numpy()))
    tensors["sums"] = sums
    for number, part in enumerate(_carried(model)):
        tensors[f"carried/{number}"] = part
    path = state_path(folder)
    make_folder(path.parent)
    header = {
        **dataclasses.asdict(counters),
        "idle": [name for parameter, name in names.items() if parameter not in optimizer.state],
        "belongs": belongs.saved(),
    }
    write_tensors(path, tensors, header)


def load_state(
    folder: Path,
    belongs: Belongs,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    signs: dict[str, Tensor],
    sums: Tensor,
    slots: Mapping[str, Sequence[str]] | None = None,
) -> Counters:
    """Reads the state of a run into a model, its optimizer, `signs` and `sums`; after an error, none has changed.

    `slots` names the tensors kept for each parameter after a step (`hypersign.training.step.slots_of`); by default
    those of the recipe's optimizer.

    States from before version 0.2 do not say what they belong to. They are loaded if everything else fits.

    Raises:
        HypersignError: the file is missing or truncated, belongs to another run (the message says what differs), or
            does not fit the network, its optimizer or the recipe.
    """
    path = state_path(folder)
    tensors, header = read_tensors(path)
    _check_belongs(path, header.get("belongs"), belongs.saved())
    if "best_accuracy" in header:  # as version 0.1 called it
        header["best_score"] = header.pop("best_accuracy")
    missing = [f"signs/{name}" for name in signs if f"signs/{name}" not in tensors]
    missing += [] if "sums" in tensors else ["sums"]
    missing += [field.name for field in dataclasses.fields(Counters) if field.name not in header]
    if missing:
        raise HypersignError(f"{path} was written by another version: it lacks {listed(missing)}; train again")
    try:
        counters = _counters(header, belongs)
    except HypersignError as error:
        raise HypersignError(f"{path} is damaged: {error}; restore it from a copy or train again") from error
    idle = header.get("idle", [name for name, parameter in model.named_parameters() if not parameter.requires_grad])
    if slots is None:
        slots = dict.fromkeys((name for name, _ in model.named_parameters()), SLOTS[belongs.recipe.optimizer])
    wanted = _wanted(model, signs, sums, slots if counters.step else {}, idle)
    if counters.batch and isinstance(model, Stateful) and model.carry:
        initial = model.initial(belongs.recipe.batch_size)
        wanted |= {f"carried/{number}": part for number, part in enumerate(_flat(initial))}
    problems = misfits(wanted, tensors) or _bad_values(tensors, counters)
    if problems:
        raise HypersignError(f"{path} does not fit the network: {listed(problems, '; ')}")
    _load(tensors, model, optimizer, signs, sums)
    return counters


def _flat(states: Memory) -> list[Tensor]:
    return [part for parts in states for part in parts]


def _carried(model: nn.Module) -> list[Tensor]:
    """The states that a network carries to the next batch."""
    return _flat(model.states or []) if isinstance(model, Stateful) and model.carry else []


def _check_belongs(path: Path, saved: Any, ours: dict[str, Any]) -> None:
    """Raises HypersignError if a state belongs to another run."""
    if saved is None:
        return
    if not isinstance(saved, dict) or not isinstance(saved.get("recipe"), dict):
        raise HypersignError(f"{path} is damaged: it must say which recipe it belongs to; restore it or train again")
    theirs, recipe = saved["recipe"], ours["recipe"]
    differing = [
        f"{name} is {theirs[name]!r:.40} there and {recipe[name]!r:.40} here"
        for name in recipe
        if name in theirs and theirs[name] != recipe[name]
    ]
    differing += [f"{name!a:.40} is no part of this recipe" for name in theirs if name not in recipe]
    if saved.get("data") != ours["data"]:
        differing.append("the data are others")
    if differing:
        raise HypersignError(
            f"{path} belongs to another run: {listed(differing)}; restore the state of this run or train again"
        )


def _counters(header: Mapping[str, Any], belongs: Belongs) -> Counters:
    """The counters in a header, after checking their ranges and that they fit each other and the recipe."""
    found = Counters(**{field.name: header[field.name] for field in dataclasses.fields(Counters)})
    epochs, batches = belongs.recipe.epochs, belongs.batches
    check_int("epoch", found.epoch, min=1, max=epochs + 1)
    check_int("batch", found.batch, min=0, max=batches if found.epoch <= epochs else 0)
    step = (found.epoch - 1) * batches + found.batch
    check_int(f"step, after {found.epoch - 1} epochs and {found.batch} batches,", found.step, min=step, max=step)
    for name in ("seconds", "epoch_seconds"):
        check_real(name, getattr(found, name), min=0, below=math.inf)
    validated = bool(belongs.recipe.validation) if belongs.validated is None else belongs.validated
    check_int("best_epoch", found.best_epoch, min=0, max=found.epoch - 1 if validated else 0)
    check_real("best_score", found.best_score, below=math.inf)
    return found


def _wanted(
    model: nn.Module, signs: dict[str, Tensor], sums: Tensor, slots: Mapping[str, Sequence[str]], idle: Any
) -> dict[str, Tensor]:
    """For each tensor of a state, a tensor with the required shape and type.

    `idle` names the parameters that had no gradient yet: the optimizer keeps no tensors for them.
    """
    wanted = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        for slot in slots.get(name, ()) if not isinstance(idle, list) or name not in idle else ():
            scalar = torch.empty((), dtype=torch.float32, device="meta")
            wanted[f"optimizer/{name}/{slot}"] = scalar if slot == "step" else parameter
    for name, negative in signs.items():
        wanted[f"signs/{name}"] = torch.empty(-(-negative.numel() // 8), dtype=torch.uint8, device="meta")
    wanted["sums"] = sums
    return wanted


def _bad_values(tensors: Mapping[str, Tensor], counters: Counters) -> list[str]:
    """The faults of the numbers in tensors, in words."""
    problems = []
    for name, tensor in tensors.items():
        group, _, rest = name.partition("/")
        slot = rest.rpartition("/")[2] if group == "optimizer" else ""
        tensor = tensor.float() if tensor.element_size() == 1 else tensor  # float8 knows no isfinite
        if slot == "step":
            if not (1 <= float(tensor) <= counters.step and float(tensor).is_integer()):
                problems.append(f"{name} is {float(tensor):g}, and the run is at step {counters.step}")
        elif not tensor.isfinite().all() if slot != "exp_avg_sq" else not (tensor >= 0).all():
            # a mean of squares may be inf in a run that can still continue
            problems.append(f"{name} has numbers that no training gives")
    if not counters.batch and tensors["sums"].any():
        problems.append("sums must be 0 at the start of an epoch")
    return problems


def _load(
    tensors: Mapping[str, Tensor],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    signs: dict[str, Tensor],
    sums: Tensor,
) -> None:
    """Loads tensors that were checked."""
    with torch.no_grad():
        model.load_state_dict({name: tensors[f"model/{name}"] for name in model.state_dict()})
    if isinstance(model, Stateful) and "carried/0" in tensors:
        count = tensors["carried/0"].shape[1]
        parts = iter(range(len(tensors)))
        model.states = [
            tuple(tensors[f"carried/{next(parts)}"].to(zero.device) for zero in zeros)
            for zeros in model.initial(count)
        ]
    parameters = dict(model.named_parameters())
    state: dict[Tensor, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer/"):
            parameter_name, _, slot = name.removeprefix("optimizer/").rpartition("/")
            parameter = parameters[parameter_name]
            tensor = tensor.to(parameter.device)
            if slot != "step":
                # In the parameter's memory format: the fused kernels read both in memory order.
                tensor = torch.empty_like(parameter, requires_grad=False).copy_(tensor)
            # Adam's step counter stays a float32 scalar; on CUDA the fused kernels want it there.
            state.setdefault(parameter, {})[slot] = tensor
    optimizer.state.update(state)
    for name, negative in signs.items():
        bits = np.unpackbits(tensors[f"signs/{name}"].numpy(), count=negative.numel())
        negative.copy_(torch.from_numpy(bits).view(negative.shape).bool())
    sums.copy_(tensors["sums"])
