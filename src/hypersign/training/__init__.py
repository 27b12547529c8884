"""Training: a recipe in, a run folder out."""

from hypersign.training.divergence import DivergedError
from hypersign.training.loop import InterruptedTrainingError, resume, train
from hypersign.training.recipe import RECIPES, Recipe

__all__ = ["Recipe", "RECIPES", "train", "resume", "DivergedError", "InterruptedTrainingError"]
