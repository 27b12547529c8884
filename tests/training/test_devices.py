"""Which device and group a process trains in; without a GPU, by what accelerate is told."""

import os

import accelerate
import pytest
import torch

from hypersign.training.loop import _deterministic
from hypersign.training.processes import make_accelerator


class Told(Exception):
    """What accelerate is told, instead of what it would do on this machine."""


@pytest.mark.parametrize(
    ("device", "cuda", "launched", "cpu"),
    [
        (None, False, False, False),  # accelerate takes the best there is
        (None, True, False, False),
        ("cpu", True, False, True),
        (None, True, True, False),
        (None, False, True, True),  # else every process trains alone and writes the same files
        ("mps", False, True, True),  # and the device that is found is refused
    ],
)
def test_accelerate_is_told_of_the_cpu(monkeypatch, device, cuda, launched, cpu):
    def tell(**arguments):
        raise Told(arguments)

    monkeypatch.setattr(accelerate, "Accelerator", tell)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if launched:
        monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(Told) as told:
        make_accelerator(device)
    assert told.value.args == ({"cpu": cpu, "mixed_precision": "no"},)


def test_deterministic_prepares_cublas_and_leaves_torch_as_it_was(monkeypatch):
    # Set and taken back by monkeypatch, as torch reads the variable at every product.
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    with _deterministic(True):
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert not torch.are_deterministic_algorithms_enabled()
