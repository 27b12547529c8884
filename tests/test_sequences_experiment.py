"""experiments/sequences.py: its recipes, and that twins get the same training."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from hypersign.models import build

# These variants are measured as their papers draw them, without the twin's weight normalisation.
OTHER_NORMS = (
    "plain",
    "float_plain",
    "scaled",
    "binary_scale",
    "ternary_scale",
    "float_on",
    "binary_on",
    "ternary_on",
    "float_no_norm",
    "float_high_rate",
    "binary_high_rate",
    "ternary_high_rate",
    "ternary_parq",
)


@pytest.fixture(scope="module")
def experiment() -> ModuleType:
    sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))
    try:
        return importlib.import_module("sequences")
    finally:
        sys.path.pop(0)


@pytest.mark.parametrize("size", ["small", "published", "tiny"])
@pytest.mark.parametrize("kind", ["rows", "lstm", "gpt"])
def test_twins_differ_in_their_quantizers_alone(experiment: ModuleType, kind: str, size: str) -> None:
    recipes = {name: experiment.recipe_of(kind, name, size, 3).as_dict() for name in experiment.VARIANTS[kind]}
    twin = recipes.pop("float")
    assert (twin["weights"], twin["inputs"], twin["seed"]) == ("float", "float", 3)
    for name, recipe in recipes.items():
        differ = {key for key in recipe if recipe[key] != twin[key]}
        own = {"on": {"start", "learning_rate"}, "rate": {"learning_rate"}}.get(name.rpartition("_")[2], set())
        assert differ - own <= {"method", "levels", "weights", "inputs", "norm", "inner_norm"}
        assert ({"norm", "inner_norm"} & differ != set()) == (name in OTHER_NORMS)


def test_networks_of_a_kind_have_equal_shapes(experiment: ModuleType) -> None:
    shapes = set()
    for name in ("float", "ternary"):
        recipe = experiment.recipe_of("gpt", name, "tiny", 0)
        model = build("gpt", (recipe.length,), 65, **recipe.model_options())
        shapes.add(tuple(sorted((key, tuple(value.shape)) for key, value in model.named_parameters())))
    assert len(shapes) == 1


def test_lengths_of_rows_multiplied_into_the_rows(experiment: ModuleType) -> None:
    torch.manual_seed(1)
    options = {"hidden": (8,), "weights": "float", "inputs": "float"}
    lengths = build("lstm", (20,), 30, norm="weight", **options).eval()
    for name, values in lengths.named_parameters():
        if name.endswith("gain"):
            values.data *= 1 + torch.rand_like(values)
    plain = build("lstm", (20,), 30, norm="none", **options).eval()
    plain.load_state_dict(experiment.plain_weights(lengths))
    tokens = torch.randint(30, (3, 20))
    with torch.no_grad():
        torch.testing.assert_close(plain(tokens), lengths(tokens), rtol=1e-5, atol=1e-6)
