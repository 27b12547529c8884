"""Training: a recipe in, a run folder out. Only what trains imports torch, at its first use; recipes do without."""

import importlib
from typing import TYPE_CHECKING, Any

from hypersign.training.recipe import RECIPES, Recipe

if TYPE_CHECKING:
    from hypersign.training.divergence import DivergedError
    from hypersign.training.loop import InterruptedTrainingError, resume, train

__all__ = ["Recipe", "RECIPES", "train", "resume", "DivergedError", "InterruptedTrainingError"]


def __getattr__(name: str) -> Any:
    """Loads a name that needs torch at its first use."""
    if name not in __all__:
        raise AttributeError(f"module 'hypersign.training' has no attribute {name!r}")
    module = "divergence" if name == "DivergedError" else "loop"
    value = getattr(importlib.import_module(f"hypersign.training.{module}"), name)
    globals()[name] = value
    return value
