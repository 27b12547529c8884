"""Processes that train one network: several, started by `torchrun` or `accelerate launch`, or just one."""

import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from hypersign._checks import HypersignError

__all__ = ["any_process", "first_process_first", "make_accelerator"]

Result = TypeVar("Result")


def make_accelerator(device: str | None) -> Any:
    """The accelerator of this process: its device, its number in the group, and sums over the group.

    Raises:
        HypersignError: the machine, or this build of torch, has no such device.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    if not torch.distributed.is_initialized():
        # accelerate keeps the device that a process asked for first; the next training may ask for another.
        AcceleratorState._reset_state(reset_partial_state=True)
    # The recipe decides on precision and compilation, not the launcher's environment.
    # Without CUDA, accelerate ignores the group unless it is told to use the CPU.
    gloo = "LOCAL_RANK" in os.environ and not torch.cuda.is_available()
    accelerator = Accelerator(cpu=device == "cpu" or gloo, mixed_precision="no")
    if device is not None and accelerator.device.type != device:
        raise HypersignError(
            f"device must be one that this machine and this build of torch have; got {device}, "
            f"found {accelerator.device.type}: leave it out to take that"
        )
    return accelerator


def any_process(accelerator: Any, *flags: bool) -> tuple[bool, ...]:
    """For each flag, whether it is true in any process of the group; all processes must call this together."""
    if accelerator.num_processes == 1:
        return flags
    shares = torch.tensor(flags, dtype=torch.float32, device=accelerator.device)
    return tuple(share > 0 for share in accelerator.reduce(shares, "sum").tolist())


def first_process_first(accelerator: Any, action: Callable[[], Result]) -> Result:
    """Does something in the first process, then in the others; a failure in one stops them all.

    Raises:
        HypersignError: the error of the action, in the process where it failed; the others get one that refers to it.
    """
    result: list[Result] = []
    problem: HypersignError | None = None
    for turn in (True, False):
        if accelerator.is_main_process == turn:
            try:
                result.append(action())
            except HypersignError as error:
                problem = error
        (failed,) = any_process(accelerator, problem is not None)
        if problem is not None:
            raise problem
        if failed:
            raise HypersignError("another process of the group could not go on: its message says why")
    return result[0]
