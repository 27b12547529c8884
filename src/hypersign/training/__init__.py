"""Training: a recipe in, a run folder out. Names are loaded at their first use: a recipe imports no torch."""

from typing import TYPE_CHECKING

from hypersign._lazy import lazily

if TYPE_CHECKING:
    from hypersign.methods import METHODS, Method
    from hypersign.training.divergence import DivergedError
    from hypersign.training.ensembles import train_ensemble
    from hypersign.training.loop import InterruptedTrainingError, resume, train
    from hypersign.training.recipe import RECIPES, Recipe, method_defaults

__all__ = [
    "Recipe",
    "RECIPES",
    "Method",
    "METHODS",
    "method_defaults",
    "train",
    "resume",
    "train_ensemble",
    "DivergedError",
    "InterruptedTrainingError",
]

_MODULES = {
    "METHODS": "hypersign.methods",
    "Method": "hypersign.methods",
    "DivergedError": "divergence",
    "InterruptedTrainingError": "loop",
    "resume": "loop",
    "train": "loop",
    "train_ensemble": "ensembles",
    "RECIPES": "recipe",
    "Recipe": "recipe",
    "method_defaults": "recipe",
}
__getattr__, __dir__ = lazily(__name__, _MODULES)
