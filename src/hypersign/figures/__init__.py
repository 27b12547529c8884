"""Figures: one function per figure, `figure(results, ax=None) -> Axes`. They draw results and measure nothing."""

from hypersign.figures.ablation import ablated_layers, depth_r
from hypersign.figures.analysis import save_analysis
from hypersign.figures.angles import angle_density, angle_density_zoomed, angle_spread
from hypersign.figures.covariance import predicted_r, predicted_r_families
from hypersign.figures.dot_products import (
    activations_binarized,
    both_binarized,
    permuted,
    weights_binarized,
)
from hypersign.figures.quantizers import quantizer_curves
from hypersign.figures.simulations import (
    angle_against_dimension,
    angle_against_threshold,
    angle_histograms,
    save_simulation,
)
from hypersign.figures.style import panels, save
from hypersign.figures.training import (
    accuracy,
    filter_angles,
    flipped_signs,
    learning_rate,
    loss,
    training_curves,
)
from hypersign.figures.weights import level_shares, weight_density

__all__ = [
    "weights_binarized",
    "activations_binarized",
    "both_binarized",
    "permuted",
    "predicted_r",
    "predicted_r_families",
    "angle_density",
    "angle_density_zoomed",
    "angle_spread",
    "weight_density",
    "level_shares",
    "loss",
    "accuracy",
    "learning_rate",
    "flipped_signs",
    "filter_angles",
    "training_curves",
    "quantizer_curves",
    "ablated_layers",
    "depth_r",
    "angle_histograms",
    "angle_against_dimension",
    "angle_against_threshold",
    "panels",
    "save",
    "save_analysis",
    "save_simulation",
]
