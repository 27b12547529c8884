"""Damaged run folders are refused in one sentence, or read."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hypersign.models import build
from hypersign.runs import load, write_tensors

OPTIONS = {"hidden": [4, 5], "levels": 3, "threshold": "optimal", "surrogate": "triangle:clip=0.5"}
INFO: dict[str, Any] = {
    "format": 1,
    "finished": True,
    "model": {"name": "mlp", "shape": [1, 2, 3], "classes": 3, "options": OPTIONS},
    "recipe": {"epochs": 1, "model": "mlp", "validation": 0},
    "data": {"name": "own", "source": None, "seed": 0, "sha256": "0", "train_images": 8, "test_images": 2},
    "versions": {"torch": "2"},
    "results": {"test": {"accuracy": 0.5}},
}
ROWS = [{"epoch": i, "loss": 0.5, "seconds": 1.5, "lr": float("nan")} for i in (1, 2)]
VGG = {"widths": [3, 4], "pools": [1], "hidden": [5], "first_layer": "thermometer", "pixel_range": [0.0, 1.0]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "run.json").write_text(json.dumps(INFO))
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    write_tensors(tmp_path / "model.safetensors", build("mlp", (1, 2, 3), 3, **OPTIONS).state_dict())
    assert read(tmp_path / "run.json") == 2
    return tmp_path


def read(path: Path) -> int:
    """Everything of a run but its data; the number of epochs."""
    run = load(path.parent)
    assert isinstance(run.finished, bool)
    assert isinstance(run.unit, str)
    run.load_model()
    return len(run.metrics())


@pytest.mark.parametrize("name", ["mlp", "vgg"])
def test_damaged_descriptions(folder: Path, name: str, mutations: Any) -> None:
    info = INFO
    if name == "vgg":
        shape = (1, 4, 4)
        info = {**INFO, "model": {"name": "vgg", "shape": shape, "classes": 3, "options": VGG}}
        write_tensors(folder / "model.safetensors", build("vgg", shape, 3, **VGG).state_dict())

    def make(seed: int) -> bytes:
        random = np.random.default_rng(seed)
        changed = mutations.edited(random, info)
        if seed % 2:  # the network, which most of run.json is not
            changed = {**info, "model": mutations.edited(random, info["model"])}
        text = json.dumps(changed).encode()
        return mutations.damaged(random, text, len(text)) if seed % 5 == 0 else text

    count = mutations.cases(200)
    refused = mutations.refusals(folder / "run.json", make, read, count)
    assert count // 4 < refused < count


def test_damaged_metrics(folder: Path, mutations: Any) -> None:
    def make(seed: int) -> bytes:
        random = np.random.default_rng(seed)
        rows = mutations.edited(random, ROWS)
        text = "\n".join(map(json.dumps, rows if isinstance(rows, list) else [rows])).encode()
        return mutations.damaged(random, text, len(text)) if seed % 2 else text

    count = mutations.cases(200)
    refused = mutations.refusals(folder / "metrics.jsonl", make, lambda path: load(path.parent).metrics(), count)
    assert 0 < refused < count


def test_damaged_weights(folder: Path, mutations: Any) -> None:
    path = folder / "model.safetensors"
    mutator = mutations.Mutator(path.read_bytes())
    count = mutations.cases(200)
    assert count // 3 < mutations.refusals(path, mutator.mutated, read, count) < count
