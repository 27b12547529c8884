"""Makes the rows of the report's charts and tables: rounded numbers, with None for NaN and infinity."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from hypersign.figures.angles import fan_in_labels
from hypersign.geometry.ablation import Ablation
from hypersign.geometry.depth import Depth
from hypersign.geometry.results import AngleStats, Components, DotProducts, Geometry, LayerGeometry

__all__ = [
    "FAMILIES",
    "ablation_content",
    "across_layers",
    "covariance_r",
    "depth_content",
    "finite",
    "layer_content",
    "median",
    "training_content",
]

SCATTERED = 64
"""The number of filters per layer in the scatter plot of all layers; they are evenly spaced. More would overlap."""

# The title, horizontal axis and vertical axis of each family of dot products, in the order of the page.
FAMILIES = {
    "weights_binarized": (
        "Weights binarized",
        "quantized inputs · quantized weights",
        "quantized inputs · latent weights",
    ),
    "activations_binarized": (
        "Activations binarized",
        "real inputs · quantized weights",
        "quantized inputs · quantized weights",
    ),
    "both_binarized": (
        "Both binarized",
        "real inputs · latent weights",
        "quantized inputs · quantized weights",
    ),
    "permuted": (
        "Weights binarized, activations permuted",
        "permuted inputs · quantized weights",
        "permuted inputs · latent weights",
    ),
}


def finite(value: float | None, digits: int = 5) -> float | None:
    """Rounds `value` to `digits` significant digits; None if it is not finite.

    >>> finite(36.912345), finite(float("nan"))
    (36.912, None)
    """
    return None if value is None or not math.isfinite(value) else float(f"{value:.{digits}g}")


def across_layers(geometry: Geometry) -> dict[str, Any]:
    """The rows of the charts that compare layers: angle, correlations, spread with its guide of slope -1/2."""
    angles: list[dict[str, Any]] = []
    correlations: list[dict[str, Any]] = []
    spread: list[dict[str, Any]] = []
    labels = {layer.name: text for layer, text in fan_in_labels(geometry)}
    for layer in geometry.layers:
        stats = layer.angle_degrees
        if layer.quantizes_weights:
            angles.append(
                {
                    "layer": layer.name,
                    "mean": finite(stats.mean),
                    "std": finite(stats.std),
                    "low": finite(stats.mean - stats.std),
                    "high": finite(stats.mean + stats.std),
                    "predicted": finite(stats.predicted_mean),
                    "predicted_std": finite(stats.predicted_std),
                    "predicted_low": finite(stats.predicted_mean - stats.predicted_std),
                    "predicted_high": finite(stats.predicted_mean + stats.predicted_std),
                    "moments": finite(stats.moments_mean),
                }
            )
            if stats.std > 0 and stats.predicted_std > 0:
                spread.append(
                    {
                        "layer": layer.name,
                        "label": labels.get(layer.name, ""),
                        "fan_in": layer.fan_in,
                        "std": finite(stats.std),
                        "predicted": finite(stats.predicted_std),
                    }
                )
        families = (
            ("weights", layer.weights_binarized, layer.quantizes_weights),
            ("activations", layer.activations_binarized, layer.quantizes_inputs),
            ("both", layer.both_binarized, True),
        )
        for family, products, shown in families:
            if shown:
                correlations.append(
                    {
                        "layer": layer.name,
                        "family": family,
                        "measured": finite(products.pearson_r),
                        "predicted": finite(products.predicted_pearson_r),
                    }
                )
    spread.sort(key=lambda row: row["fan_in"])
    # The guide has slope -1/2 and passes through the middle of the predictions.
    heights = [math.log(row["predicted"] * math.sqrt(row["fan_in"])) for row in spread]
    for row in spread:
        row["guide"] = finite(math.exp(sum(heights) / len(heights)) / math.sqrt(row["fan_in"]))
    return {
        "layers": [{"layer": layer.name} for layer in geometry.layers],
        "angles": angles,
        "correlations": correlations,
        "spread": spread,
        "scatter": [row for layer in geometry.layers for row in _scattered(layer)],
    }


def median(values: Sequence[float]) -> float:
    """The median of the finite values; NaN if there are none."""
    known = [value for value in values if math.isfinite(value)]
    return statistics.median(known) if known else math.nan


def covariance_r(layer: LayerGeometry) -> tuple[float, float, float]:
    """Medians over filters: measured r, r predicted from covariance, and their distance; NaN if there are none."""
    if not layer.covariance_pearson_r:
        return math.nan, math.nan, math.nan
    pairs = np.array([layer.weights_binarized.pearson_r_per_filter, layer.covariance_pearson_r])
    pairs = pairs[:, np.isfinite(pairs).all(0)]
    if not pairs.size:
        return math.nan, math.nan, math.nan
    measured, predicted = np.median(pairs, axis=1)
    return float(measured), float(predicted), float(np.median(np.abs(pairs[0] - pairs[1])))


def _scattered(layer: LayerGeometry) -> list[dict[str, Any]]:
    """The measured r, and r predicted from covariance, for some of a layer's filters."""
    if not layer.quantizes_weights:
        return []
    rows = _prediction(layer)
    return [{"layer": layer.name, **row} for row in rows[:: -(-len(rows) // SCATTERED) or 1]]


def _prediction(layer: LayerGeometry) -> list[dict[str, Any]]:
    if not layer.covariance_pearson_r:
        return []
    pairs = zip(layer.covariance_pearson_r, layer.weights_binarized.pearson_r_per_filter, strict=True)
    return [
        {"filter": i, "predicted": finite(predicted), "measured": finite(measured)}
        for i, (predicted, measured) in enumerate(pairs)
        if math.isfinite(predicted) and math.isfinite(measured)
    ]


def layer_content(layer: LayerGeometry) -> dict[str, Any]:
    """The data of one layer's charts."""
    weights = layer.latent_weights
    shown = {
        "weights_binarized": layer.quantizes_weights,
        "activations_binarized": layer.quantizes_inputs,
        "both_binarized": True,
        "permuted": layer.quantizes_weights,
    }
    return {
        "name": layer.name,
        "angle": _angle(layer.angle_degrees) if layer.quantizes_weights else None,
        "weights": {
            "mean": finite(weights.mean),
            "std": finite(weights.std),
            "kurtosis": finite(weights.kurtosis),
            "grid": _numbers(weights.density.grid),
            "density": _numbers(weights.density.density, 4),
            "thresholds": _thresholds(weights.thresholds),
            # Pairs, because JavaScript moves a key "0" to the front.
            "level_shares": [[level, finite(share)] for level, share in layer.level_shares.items()],
        },
        "filters": [
            [i, finite(angle), finite(r)]
            for i, (angle, r) in enumerate(
                zip(layer.angle_degrees.per_filter, layer.weights_binarized.pearson_r_per_filter, strict=True)
            )
            if layer.quantizes_weights and math.isfinite(angle) and math.isfinite(r)
        ],
        "prediction": _prediction(layer) if layer.quantizes_weights else [],
        "advice": {"recommendation": layer.recommendation, "reason": layer.reason},
        "components": _components(layer.components),
        "what_if": [
            {
                "rotation": curve.rotation,
                "kind": curve.kind,
                "filters": curve.filters,
                "values": _numbers(curve.values),
                "angle": _numbers(curve.angle_degrees),
                "r": _numbers(curve.pearson_r),
                "flips": _numbers(curve.sign_flip_share),
            }
            for curve in layer.what_if
        ],
        "products": {family: _products(getattr(layer, family)) if shown[family] else None for family in FAMILIES},
    }


def ablation_content(found: Ablation | None) -> dict[str, Any]:
    """The rows of the ablation charts, and the ranking for each side and scope; empty without an ablation."""
    if found is None:
        return {"changes": [], "logits": [], "rankings": []}
    # The charts show one layer at a time; "all" is in the table.
    rows = [row for row in found.ablated if row.scope == "one"]
    return {
        "changes": [
            {
                "layer": row.name,
                "side": row.side,
                "loss": finite(row.loss_change.mean),
                "low": finite(row.loss_change.mean - row.loss_change.error),
                "high": finite(row.loss_change.mean + row.loss_change.error),
                "accuracy": finite(100 * row.accuracy_change.mean),
            }
            for row in rows
        ],
        "logits": [
            {
                "layer": row.name,
                "side": row.side,
                "predicted": finite(row.predicted_logit_r),
                "measured": finite(row.logit_r),
            }
            for row in rows
            if math.isfinite(row.predicted_logit_r) and math.isfinite(row.logit_r)
        ],
        "rankings": [
            {
                "side": ranking.side,
                "scope": ranking.scope,
                "spearman": finite(ranking.spearman, 3),
                "spearman_logits": finite(ranking.spearman_logits, 3),
                "pairs": ranking.pairs,
                "apart": ranking.apart,
                "in_order": ranking.in_order,
            }
            for ranking in found.rankings
        ],
    }


def depth_content(found: Depth | None) -> list[dict[str, Any]]:
    """The rows of the depth chart: three correlations per layer."""
    return [
        {"layer": layer.name, "place": place, "series": series, "r": finite(value)}
        for place, layer in enumerate(found.layers if found is not None else ())
        for series, value in (
            ("alone", layer.own_r),
            ("all, measured", layer.r),
            ("all, predicted", layer.predicted_r),
        )
        if math.isfinite(value)
    ]


def training_content(metrics: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The rows of the training curves, by chart; a chart without values has no rows."""
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in ("loss", "accuracy", "rate", "flipped", "angle")}

    def add(chart: str, epoch: int, series: dict[str, str], value: float | None) -> None:
        if (value := finite(value)) is not None:
            rows[chart].append({"epoch": epoch, "value": value, **series})

    for entry in metrics:
        epoch = entry["epoch"]
        for chart in ("loss", "accuracy"):
            add(chart, epoch, {"images": "training"}, entry.get(chart))
            add(chart, epoch, {"images": "validation"}, entry.get(f"validation_{chart}"))
        # Two charts have a log axis, which cannot show 0.
        add("rate", epoch, {"rate": "learning rate"}, entry.get("learning_rate") or None)
        for layer, measured in (entry.get("layers") or {}).items():
            add("flipped", epoch, {"layer": layer}, measured.get("flipped_signs") or None)
            add("angle", epoch, {"layer": layer}, measured.get("angle_degrees"))
    return rows


def _components(found: Components) -> list[dict[str, Any]]:
    return (
        [
            {"k": k, "series": series, "share": finite(share)}
            for series, shares in (
                ("inputs' variance", found.variance),
                ("latent filters", found.weight_energy),
                ("their levels", found.level_energy),
                ("if random", tuple(k / found.numbers[-1] for k in found.numbers)),
            )
            for k, share in zip(found.numbers, shares, strict=True)
            if math.isfinite(share)
        ]
        if found.numbers
        else []
    )


def _angle(angle: AngleStats) -> dict[str, Any]:
    return {
        "mean": finite(angle.mean),
        "std": finite(angle.std),
        "peak": finite(angle.peak),
        "predicted_mean": finite(angle.predicted_mean),
        "predicted_std": finite(angle.predicted_std),
        "moments_mean": finite(angle.moments_mean),
        "grid": _numbers(angle.density.grid),
        "density": _numbers(angle.density.density, 4),
        # None if the grid is the same, as in most cases.
        "predicted_grid": None
        if angle.predicted_density.grid == angle.density.grid
        else _numbers(angle.predicted_density.grid),
        "predicted_density": _numbers(angle.predicted_density.density, 4),
    }


def _products(products: DotProducts) -> dict[str, Any]:
    histogram = products.histogram
    return {
        "r": finite(products.pearson_r),
        "predicted": finite(products.predicted_pearson_r),
        "slope": finite(products.slope),
        "intercept": finite(products.intercept),
        "differ": finite(products.sign_disagreement),
        "predicted_differ": finite(products.predicted_sign_disagreement),
        "x": _numbers(histogram.x_edges),
        "y": _numbers(histogram.y_edges),
        "counts": histogram.counts,
    }


def _thresholds(thresholds: Iterable[float]) -> list[float]:
    """The thresholds to draw, with both signs; from more than three, the smallest, middle and largest."""
    values = sorted({abs(t) for t in thresholds if math.isfinite(t) and t != 0})
    if len(values) > 3:
        values = [values[0], values[len(values) // 2], values[-1]]
    return [float(f"{sign * t:.5g}") for t in values for sign in (-1, 1)]


def _numbers(values: Iterable[float], digits: int = 5) -> list[float | None]:
    return [finite(value, digits) for value in values]
