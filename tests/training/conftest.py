from pathlib import Path

import pytest
import torch
from rich.console import Console

from hypersign.runs import read_tensors
from hypersign.training import RECIPES, Recipe, train

PAPER = {**RECIPES["anderson-berg-2018"].as_dict(), "validation": 0}
"""Its settings are what these tests count on."""

MLP = {
    **PAPER,
    "data": "digits",
    "model": "mlp",
    "hidden": (16,),
    "epochs": 2,
    "images": 100,
    "reestimate_images": 100,
}
VGG = {
    **PAPER,
    "data": "digits",
    "model": "vgg",
    "widths": (4, 8),
    "pools": (1, 2),
    "hidden": (16,),
    "epochs": 2,
    "images": 100,
    "batch_size": 25,
    "reestimate_images": 100,
}


@pytest.fixture(autouse=True)
def one_thread():
    """Networks this small gain nothing from more, and wait for them on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def mlp():
    """A recipe of a fully connected network that trains in a moment: `mlp(epochs=3)`."""
    return lambda **fields: Recipe(**{**MLP, **fields})


@pytest.fixture
def vgg():
    """The same, of a convolutional network."""
    return lambda **fields: Recipe(**{**VGG, **fields})


@pytest.fixture
def quiet():
    return {"device": "cpu", "console": Console(quiet=True)}


@pytest.fixture
def train_quietly(tmp_path, quiet):
    """`train_quietly(recipe, "name", **options)`: a finished run in `tmp_path / name`."""
    return lambda recipe, name="run", **options: train(recipe, tmp_path / name, **{**quiet, **options})


@pytest.fixture
def weights():
    """The tensors of a run's file."""
    return lambda folder, name="model.safetensors": read_tensors(Path(folder) / name)[0]


@pytest.fixture
def assert_same():
    """Bit for bit the same tensors."""

    def check(left, right):
        assert left.keys() == right.keys()
        for name in left:
            assert torch.equal(left[name], right[name]), name

    return check
