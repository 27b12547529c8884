"""Explains the numbers in a few sentences, for readers who do not know the paper."""

import math
from collections.abc import Sequence

from hypersign.geometry.results import Geometry, LayerGeometry
from hypersign.report.content import median

__all__ = ["ANGLE_MARGIN", "CORRELATION_MARGIN", "reading"]

# The report mentions differences between measured and predicted above these margins: in degrees, and in Pearson r.
ANGLE_MARGIN = 1.0
CORRELATION_MARGIN = 0.05


def reading(geometry: Geometry) -> list[str]:
    """Sentences about angles, dot products and levels; each names its layers."""
    layers = [layer for layer in geometry.layers if layer.quantizes_weights]
    spoken = (_angles(layers), _correlations(layers), _permuted(layers), _both(layers), _zeros(layers))
    return [text for text in spoken if text]


def _angles(layers: Sequence[LayerGeometry]) -> str:
    known = [layer for layer in layers if math.isfinite(layer.angle_degrees.mean)]
    if not known:
        return ""
    text = (
        f"Quantizing turns a filter by {_range([layer.angle_degrees.mean for layer in known], '.1f', '°')} "
        "(mean of a layer); two random vectors would be 90° apart."
    )
    gaps = [(abs(layer.angle_degrees.mean - layer.angle_degrees.predicted_mean), layer) for layer in known]
    gaps = [(gap, layer) for gap, layer in gaps if math.isfinite(gap)]
    if not gaps:
        return text
    gap, far = max(gaps, key=lambda pair: pair[0])
    if gap <= ANGLE_MARGIN:
        return f"{text} Theory for normally distributed weights is off by {gap:.1f}° at most ({far.name})."
    stats = far.angle_degrees
    text += (
        f" {sum(each <= ANGLE_MARGIN for each, _ in gaps) or 'None'} of {len(gaps)} layers are within "
        f"{ANGLE_MARGIN:g}° of the theory for normally distributed weights; {far.name} differs most, "
        f"{stats.mean:.1f}° instead of {stats.predicted_mean:.1f}°"
    )
    if abs(stats.mean - stats.moments_mean) < gap / 2:
        return (
            f"{text}: its weights are not normally distributed; their own moments predict {stats.moments_mean:.1f}°."
        )
    return f"{text}."


def _correlations(layers: Sequence[LayerGeometry]) -> str:
    known = [layer for layer in layers if math.isfinite(layer.weights_binarized.pearson_r)]
    if not known:
        return ""
    by_r = sorted(known, key=lambda layer: layer.weights_binarized.pearson_r)
    worst, best = by_r[0], by_r[-1]
    text = (
        f"With quantized weights {worst.name} has the lowest correlation of dot products: r = "
        f"{worst.weights_binarized.pearson_r:.2f}, and {100 * worst.weights_binarized.sign_disagreement:.0f} % "
        f"of them change sign; {best.name} has the highest, r = {best.weights_binarized.pearson_r:.2f}."
        if len(known) > 1
        else f"With quantized weights the dot products of {worst.name} have r = "
        f"{worst.weights_binarized.pearson_r:.2f}; {100 * worst.weights_binarized.sign_disagreement:.0f} % of "
        "them change sign."
    )
    gaps = [
        (layer.weights_binarized.pearson_r - layer.weights_binarized.predicted_pearson_r, layer) for layer in known
    ]
    above = [(gap, layer) for gap, layer in gaps if gap > CORRELATION_MARGIN]
    below = [(-gap, layer) for gap, layer in gaps if gap < -CORRELATION_MARGIN]
    if above:
        text += (
            f" {_names(above)} {'do' if len(above) > 1 else 'does'} better than the angle predicts, by up to "
            f"{max(gap for gap, _ in above):.2f}, because their inputs vary most in the directions of the filters."
        )
    if below:
        text += (
            f" {_names(below)} {'do' if len(below) > 1 else 'does'} worse, by up to "
            f"{max(gap for gap, _ in below):.2f}, because their inputs share one strong "
            "component, such as brightness, that cancels in latent filters but not in quantized ones."
        )
    if not above and not below and all(math.isfinite(gap) for gap, _ in gaps):
        text += f" All layers are within {CORRELATION_MARGIN:g} of the prediction from their angle."
    return text


def _permuted(layers: Sequence[LayerGeometry]) -> str:
    # Computed for each filter, because a mean of the inputs changes r pooled over filters, permuted or not.
    pairs = [
        tuple(
            abs(median(products.pearson_r_per_filter) - products.predicted_pearson_r)
            for products in (layer.permuted, layer.weights_binarized)
        )
        for layer in layers
    ]
    pairs = [pair for pair in pairs if all(map(math.isfinite, pair))]
    if not pairs:
        return ""
    permuted, original = (max(column) for column in zip(*pairs, strict=True))
    if original <= CORRELATION_MARGIN or permuted > original / 2:
        return ""
    return (
        "With permuted activations the largest difference between measured and predicted r (median filter of a "
        f"layer) falls from {original:.2f} to {permuted:.2f}: the structure of the inputs causes it, not the weights "
        "alone."
    )


def _both(layers: Sequence[LayerGeometry]) -> str:
    values = [
        layer.both_binarized.pearson_r
        for layer in layers
        if layer.quantizes_inputs and math.isfinite(layer.both_binarized.pearson_r)
    ]
    if not values:
        return ""
    return f"With weights and activations both binarized, r is {_range(values, '.2f', '')}."


def _zeros(layers: Sequence[LayerGeometry]) -> str:
    shares = [100 * layer.level_shares.get("0", 0.0) for layer in layers]
    if not any(shares):
        return ""
    return (
        f"{_range(shares, '.1f', ' %')} of a layer's weights are zero; normally distributed weights have the "
        "smallest angle with 45.9 %."
    )


def _names(gaps: Sequence[tuple[float, LayerGeometry]]) -> str:
    names = [layer.name for _, layer in gaps]
    if len(names) > 5:
        names = [*names[:3], f"{len(names) - 3} others"]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _range(values: Sequence[float], form: str, unit: str) -> str:
    low, high = format(min(values), form), format(max(values), form)
    return f"{low}{unit}" if low == high else f"{low}{unit} to {high}{unit}"
