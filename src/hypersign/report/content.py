"""Makes the rows of the report's charts and tables: rounded numbers, with None for NaN and infinity."""

import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hypersign.figures.angles import fan_in_labels
from hypersign.geometry.ablation import Ablation
from hypersign.geometry.depth import Depth
from hypersign.geometry.positions import PositionR
from hypersign.geometry.results import AngleStats, Components, DotProducts, Geometry, LayerGeometry

__all__ = [
    "FAMILIES",
    "VIEWS",
    "ablation_content",
    "about",
    "across_layers",
    "position_content",
    "confusion_content",
    "depth_content",
    "exactness",
    "filter_predictions",
    "finite",
    "forecast_content",
    "layer_content",
    "median",
    "numbers",
    "table_rows",
    "training_content",
]

CORRELATION_MARGIN = 0.05
"""The page marks larger differences between measured and predicted r."""

MOST_CLASSES = 20
"""The largest number of classes whose confusion is shown."""

VIEWS = {
    "prediction": "Predicted r",
    "weights_binarized": "Weights",
    "activations_binarized": "Activations",
    "both_binarized": "Both",
    "permuted": "Permuted",
    "angle": "Angles",
    "filters": "r by angle",
    "weights": "Latent weights",
    "components": "Directions",
}
"""The charts of one layer."""

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
        correlations += [{"layer": layer.name, **row} for row in numbers(layer)]
    spread.sort(key=lambda row: row["fan_in"])
    # The guide has slope -1/2 and passes through the middle of the predictions.
    heights = [math.log(row["predicted"] * math.sqrt(row["fan_in"])) for row in spread]
    for row in spread:
        row["guide"] = finite(math.exp(sum(heights) / len(heights)) / math.sqrt(row["fan_in"]))
    return {
        "angles": angles,
        "correlations": correlations,
        "spread": spread,
        "scatter": [row for layer in geometry.layers for row in _scattered(layer)],
    }


def median(values: Sequence[float]) -> float:
    """The median of the finite values; NaN if there are none."""
    known = [value for value in values if math.isfinite(value)]
    return statistics.median(known) if known else math.nan


def exactness(geometry: Geometry) -> tuple[int, float]:
    """How many filters have a predicted r with quantized weights, and its median distance from the measured r."""
    rows = [row for layer in geometry.layers for row in filter_predictions(layer) if row["family"] == "weights"]
    return len(rows), median([abs(row["predicted"] - row["measured"]) for row in rows])


def _scattered(layer: LayerGeometry) -> list[dict[str, Any]]:
    """The measured and the predicted r with quantized weights of some of a layer's filters."""
    rows = [row for row in filter_predictions(layer) if row["family"] == "weights"]
    return [{"layer": layer.name, **row} for row in rows[:: -(-len(rows) // SCATTERED) or 1]]


def filter_predictions(layer: LayerGeometry) -> list[dict[str, Any]]:
    """The measured and the predicted r of each filter that has both, by family."""
    return [
        {"family": name, "filter": i, "predicted": finite(predicted), "measured": finite(measured)}
        for name, products in families_of(layer)
        if products.predicted_pearson_r_per_filter
        for i, (predicted, measured) in enumerate(
            zip(products.predicted_pearson_r_per_filter, products.pearson_r_per_filter, strict=True)
        )
        if math.isfinite(predicted) and math.isfinite(measured)
    ]


def about(layer: LayerGeometry) -> str:
    """A layer's kind, size, quantizers and verdict, in words."""
    weights = one_line(layer.weight_quantizer) if layer.quantizes_weights else "real"
    inputs = one_line(layer.input_quantizer) if layer.quantizes_inputs else "real"
    text = f"{layer.kind}, {layer.filters:,} filters of {layer.fan_in:,}; weights {weights}, inputs {inputs}."
    if math.isfinite(layer.effective_dimension):
        text += f" The inputs vary in {layer.effective_dimension:.1f} directions."
    if layer.recommendation:
        text += f" Verdict: {layer.recommendation}" + (f" ({layer.reason})." if layer.reason else ".")
    elif layer.reason:
        text += f" {layer.reason[0].upper()}{layer.reason[1:]}."
    return text


def one_line(module: str) -> str:
    """The representation of a torch module on one line.

    >>> one_line("Ternary(\\n  threshold=0.02\\n  (surrogate): HardTanh(clip=1)\\n)")
    'Ternary(threshold=0.02, surrogate=HardTanh(clip=1))'
    """
    first, *inner = [line.strip() for line in module.splitlines()] or [""]
    if not inner:
        return first
    return first + ", ".join(re.sub(r"^\((\w+)\): ", r"\1=", line) for line in inner[:-1]) + inner[-1]


def families_of(layer: LayerGeometry) -> list[tuple[str, DotProducts]]:
    """The families of dot products that a layer has, by name."""
    shown = (
        ("weights", layer.weights_binarized, layer.quantizes_weights),
        ("activations", layer.activations_binarized, layer.quantizes_inputs),
        ("both", layer.both_binarized, layer.quantizes_weights or layer.quantizes_inputs),
    )
    return [(name, products) for name, products, there in shown if there]


def numbers(layer: LayerGeometry) -> list[dict[str, Any]]:
    """The r of each family in a layer: measured, from training images, predicted, and if inputs were independent."""
    return [
        {
            "family": name,
            "measured": finite(products.pearson_r),
            "error": finite(products.pearson_r_error),
            "training": finite(products.training_pearson_r),
            "predicted": finite(products.predicted_pearson_r),
            "independent": finite(products.independent_pearson_r),
            "mark": _mark(products),
        }
        for name, products in families_of(layer)
    ]


def table_rows(geometry: Geometry) -> list[dict[str, Any]]:
    """The rows of the table of layers. A measured number has its prediction, digits, mark and unit beside it."""
    rows = []
    for layer in geometry.layers:
        families = {
            name: (products.pearson_r, products.predicted_pearson_r, 3, _mark(products))
            for name, products in families_of(layer)
        }
        weights, angle = layer.weights_binarized, layer.angle_degrees
        row: dict[str, Any] = {
            "name": layer.name,
            "advice": layer.recommendation,
            "fan_in": layer.fan_in,
            "filters": layer.filters,
            "dimension": layer.effective_dimension,
            **dict.fromkeys(("weights", "activations", "both", "angle", "signs", "permuted")),
            **families,
        }
        if layer.quantizes_weights:
            permuted = layer.permuted
            row |= {
                "angle": (angle.mean, angle.predicted_mean, 1, "", "°"),
                "signs": (100 * weights.sign_disagreement, 100 * weights.training_sign_disagreement, 1, "", " %"),
                # Over all filters together r depends on the inputs' mean, which is not what is predicted.
                "permuted": (median(permuted.pearson_r_per_filter), permuted.predicted_pearson_r, 3),
            }
        rows.append(row)
    return rows


def _mark(products: DotProducts) -> str:
    """ "above" or "below" if the measured r departs from the prediction by three standard errors; otherwise ""."""
    if not products.departs:
        return ""
    return "above" if products.pearson_r > products.predicted_pearson_r else "below"


def confusion_content(counts: Sequence[Sequence[int]], classes: Sequence[str]) -> dict[str, Any] | None:
    """The cells of the confusion table and the most frequent confusion; None for more than 20 classes.

    `counts[i][j]` examples of class i were assigned to class j.
    """
    names = list(classes) or [str(i) for i in range(len(counts))]
    if not counts or len(counts) > MOST_CLASSES or len(names) != len(counts):
        return None
    wrong = [
        (count, names[i], names[j]) for i, row in enumerate(counts) for j, count in enumerate(row) if i != j and count
    ]
    # Errors are shaded by the largest of them, right decisions by the class's own number.
    most = max((count for count, _, _ in wrong), default=1)
    rows = [
        {
            "class": names[i],
            "cells": [
                {"count": count, "right": i == j, "shade": round(45 * count / max(sum(row) if i == j else most, 1))}
                for j, count in enumerate(row)
            ],
        }
        for i, row in enumerate(counts)
    ]
    top = max(wrong, default=None)
    return {
        "classes": names,
        "rows": rows,
        "errors": sum(count for count, _, _ in wrong),
        "top": top,
        "worst": f"{top[1]} → {top[2]} ({top[0]})" if top and top[0] > 1 else "",
    }


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
        "about": about(layer),
        "numbers": numbers(layer),
        "prediction": filter_predictions(layer),
        "components": _components(layer.components),
        "what_if": [
            {
                "rotation": curve.rotation,
                "kind": curve.kind,
                "filters": curve.filters,
                "values": _numbers(curve.values),
                "angle": _numbers(curve.angle_degrees),
                "weights": _numbers(curve.pearson_r),
                "activations": _numbers(curve.activations_pearson_r),
                "both": _numbers(curve.both_pearson_r),
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


def forecast_content(found: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a `forecast.json` that the page draws and computes with."""
    kept = ("formats", "decisions", "other_bytes", "layers", "laws", "plan")
    return {key: found.get(key) for key in kept}


def depth_content(found: Depth | None) -> list[dict[str, Any]]:
    """The rows of the depth chart: three correlations per layer."""
    return [
        {"layer": layer.name, "place": place, "series": series, "r": finite(value)}
        for place, layer in enumerate(found.layers if found is not None else ())
        for series, value in (
            ("alone", layer.own_r),
            ("all, measured", layer.r),
            ("all, training images", layer.training_r),
        )
        if math.isfinite(value)
    ]


def position_content(found: Sequence[PositionR] | None) -> list[dict[str, Any]]:
    """For each layer of a transformer: its name, and r of each head by position, measured and predicted."""

    def rows(values: Sequence[Sequence[float]]) -> list[list[float | None]]:
        return [[None if (known := finite(r)) is None else round(known, 4) for r in row] for row in values]

    return [{"name": row.name, "r": rows(row.r), "predicted": rows(row.predicted_r)} for row in found or ()]


def training_content(metrics: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The rows of the training curves, by chart, a series per line; a chart without values has no rows."""
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in ("loss", "accuracy", "rate", "flipped", "angle")}

    def add(chart: str, epoch: int, series: str, value: float | None) -> None:
        if (value := finite(value)) is not None:
            rows[chart].append({"epoch": epoch, "series": series, "value": value})

    for entry in metrics:
        epoch = entry["epoch"]
        for chart in ("loss", "accuracy"):
            add(chart, epoch, "training", entry.get(chart))
            add(chart, epoch, "validation", entry.get(f"validation_{chart}"))
        # Two charts have a log axis, which cannot show 0.
        add("rate", epoch, "learning rate", entry.get("learning_rate") or None)
        for layer, measured in (entry.get("layers") or {}).items():
            add("flipped", epoch, layer, measured.get("flipped_signs") or None)
            add("angle", epoch, layer, measured.get("angle_degrees"))
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
        "training_differ": finite(products.training_sign_disagreement),
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
