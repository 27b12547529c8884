"""Draws every figure of the analysis in one call."""

from pathlib import Path

from hypersign._locks import writing_file
from hypersign.figures import angles, covariance, dot_products, training, weights
from hypersign.figures.style import panels, save
from hypersign.geometry.results import Geometry

__all__ = ["save_analysis"]


def save_analysis(geometry: Geometry, folder: Path | str, *, metrics: training.Metrics = ()) -> list[Path]:
    """Draws each figure of the paper's analysis of `geometry` into `folder`, as PDF and PNG; returns the paths.

    Training curves are drawn if `metrics` (the objects of metrics.jsonl) is not empty. Predictions from covariance
    are drawn if the geometry has any.

    Raises:
        HypersignError: the geometry has no layers, matplotlib is not installed, `folder` is not writable, or another
            process is drawing an analysis into it.
    """
    layers = geometry.layers
    fed_levels = [layer for layer in layers if layer.quantizes_inputs]
    drawn = {
        "weights_binarized": panels(dot_products.weights_binarized, layers),
        "both_binarized": panels(dot_products.both_binarized, layers),
        "permuted": panels(dot_products.permuted, layers),
        "angle_density": angles.angle_density(geometry).get_figure(),
        "angle_density_zoomed": panels(angles.angle_density_zoomed, layers),
        "angle_spread": angles.angle_spread(geometry).get_figure(),
        "weight_density": panels(weights.weight_density, layers),
        "level_shares": weights.level_shares(geometry).get_figure(),
    }
    if fed_levels:
        drawn["activations_binarized"] = panels(dot_products.activations_binarized, fed_levels)
    if any(layer.weights_binarized.predicted_pearson_r_per_filter for layer in layers):
        drawn["predicted_r"] = covariance.predicted_r_families(geometry)
    if metrics:
        drawn["training_curves"] = training.training_curves(metrics)
    with writing_file(Path(folder) / "analysis"):
        return [path for name, fig in drawn.items() for path in save(fig, folder, name)]  # type: ignore[arg-type]
