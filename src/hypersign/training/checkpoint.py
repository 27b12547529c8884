"""What resuming needs, in one file: `state/state.safetensors`.

Tensors: `model/...` (weights and batch-norm statistics), `optimizer/<parameter>/<slot>`, `signs/<layer>` (the
levels' signs at the start of the epoch, one bit each), `sums` (loss and correct images so far in the epoch).
Its header holds the counters as JSON. One file, so that no kill can part what belongs together. Orders,
flips and crops are functions of the seed and the epoch, so no generator's state is needed.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hypersign._checks import HypersignError
from hypersign._files import make_folder
from hypersign.runs import load_weights, read_tensors, write_tensors

__all__ = ["Counters", "load_state", "save_state", "state_path"]


@dataclasses.dataclass
class Counters:
    """Where a training run stands: `epoch` (from 1) has had `batch` of its batches."""

    epoch: int = 1
    batch: int = 0
    step: int = 0
    seconds: float = 0.0
    epoch_seconds: float = 0.0
    best_epoch: int = 0
    best_score: float = 0.0


def state_path(folder: Path) -> Path:
    """Where the state of the run in `folder` is."""
    return folder / "state" / "state.safetensors"


def save_state(
    folder: Path,
    counters: Counters,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    signs: dict[str, Tensor],
    sums: Tensor,
) -> None:
    """Writes the state of a run, whole or not at all."""
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    for parameter, slots in optimizer.state.items():
        for slot, value in slots.items():
            if value is not None:
                tensors[f"optimizer/{names[parameter]}/{slot}"] = value
    for name, negative in signs.items():
        tensors[f"signs/{name}"] = torch.from_numpy(np.packbits(negative.cpu().numpy()))
    tensors["sums"] = sums
    path = state_path(folder)
    make_folder(path.parent)
    write_tensors(path, tensors, dataclasses.asdict(counters))


def load_state(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, signs: dict[str, Tensor], sums: Tensor
) -> Counters:
    """Reads the state of a run into a model, its optimizer, `signs` and `sums`.

    Raises:
        HypersignError: the file is missing, truncated, or does not fit the network.
    """
    path = state_path(folder)
    tensors, header = read_tensors(path)
    if "best_accuracy" in header:  # as version 0.1 called it
        header["best_score"] = header.pop("best_accuracy")
    groups: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}, "signs": {}}
    for name, tensor in tensors.items():
        group, _, rest = name.partition("/")
        groups.setdefault(group, {})[rest] = tensor
    missing = [f"signs/{name}" for name in signs if name not in groups["signs"]]
    missing += [] if "sums" in tensors else ["sums"]
    missing += [field.name for field in dataclasses.fields(Counters) if field.name not in header]
    if missing:
        raise HypersignError(f"{path} was written by another version: it lacks {', '.join(missing)}; train again")
    load_weights(model, groups["model"], origin=str(path))
    parameters = dict(model.named_parameters())
    state: dict[Tensor, dict[str, Any]] = {}
    for name, tensor in groups["optimizer"].items():
        parameter_name, _, slot = name.rpartition("/")
        parameter = parameters[parameter_name]
        tensor = tensor.to(parameter.device)
        if tensor.shape == parameter.shape:
            # In the parameter's memory format: the fused kernels read both as they lie.
            tensor = torch.empty_like(parameter, requires_grad=False).copy_(tensor)
        # Adam's step counter stays a float32 scalar; on CUDA the fused kernels want it there.
        state.setdefault(parameter, {})[slot] = tensor
    optimizer.state.update(state)
    for name, negative in signs.items():
        bits = np.unpackbits(groups["signs"][name].numpy(), count=negative.numel())
        negative.copy_(torch.from_numpy(bits).view(negative.shape).bool())
    sums.copy_(tensors["sums"])
    return Counters(**{field.name: header[field.name] for field in dataclasses.fields(Counters)})
