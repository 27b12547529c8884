"""Explains the numbers in a few sentences, for readers who do not know the paper, and says what to do."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hypersign.geometry.results import Geometry, LayerGeometry
from hypersign.report.content import CORRELATION_MARGIN, families_of, median

if TYPE_CHECKING:
    from hypersign.geometry.ablation import Ablation
    from hypersign.runs import Run

__all__ = ["ANGLE_MARGIN", "Action", "actions", "matter", "reading"]

ANGLE_MARGIN = 1.0
"""Angles that are farther from their prediction, in degrees, are mentioned."""

FLIPPING = 0.01
"""A share of signs that flip in the last epoch which is worth mentioning."""

OVERFITTED = 0.05
"""A difference between training and test accuracy which is worth mentioning."""


@dataclasses.dataclass(frozen=True)
class Action:
    """A sentence with something to do, and the command that does it."""

    text: str
    command: str = ""


def actions(
    geometry: Geometry | None,
    *,
    run: "Run | None" = None,
    ablation: "Ablation | None" = None,
    forecast: Mapping[str, Any] | None = None,
    confusion: Mapping[str, Any] | None = None,
) -> list[Action]:
    """The three most useful things to do next, from what was measured."""
    if geometry is None or not geometry.layers:
        return []
    best = _forecast(forecast, run) or _keep(ablation)
    found = [best, _worst_layer(geometry), *_from_training(run), _look(confusion), _pack(run)]
    return [action for action in found if action is not None][:3]


def matter(ablation: "Ablation | None" = None, forecast: Mapping[str, Any] | None = None) -> str:
    """Which layers matter, in a sentence with an action: by the forecast, or else by the ablation."""
    action = _forecast(forecast, None) or _keep(ablation)
    return action.text if action is not None else ""


def _forecast(forecast: Mapping[str, Any] | None, run: "Run | None") -> Action | None:
    """What the forecast says of the layers, and how to plan with it."""
    words = (forecast or {}).get("words") or {}
    text = words.get("repaired") or words.get("raw")
    if not text or all(layer["quantized"] for layer in (forecast or {})["layers"]):  # no plan is left to make
        return None
    if run is None:
        return Action(text)
    other = (
        forecast["run"] if forecast and forecast.get("run") != run.name else ""
    )  # the float twin, in the run folder
    return Action(text, f"hypersign forecast {run.path / other} --agreement .99")


def _keep(ablation: "Ablation | None") -> Action | None:
    """Which layer to turn back to float, if that lowers the loss by more than two standard errors."""
    rows = [row for row in (ablation.ablated if ablation is not None else ()) if row.scope == "one"]
    rows = [row for row in rows if math.isfinite(row.loss_change.mean)]
    if not rows:
        return None
    best = min(rows, key=lambda row: row.loss_change.mean)
    if best.loss_change.mean >= -2 * best.loss_change.error:
        return Action(
            "Binarize every layer: turning any one back to float does not lower the loss by more than two standard "
            "errors."
        )
    return Action(
        f"Keep the {best.side} of {best.name} in float first: this lowers the loss most, by "
        f"{-best.loss_change.mean:.3f} ± {best.loss_change.error:.3f}.",
        f"hypersign train … --float-{best.side} {best.name}",
    )


def _worst_layer(geometry: Geometry) -> Action | None:
    """What to do about the layer whose dot products survive least."""
    layers = [
        layer
        for layer in geometry.layers
        if layer.quantizes_weights and math.isfinite(layer.weights_binarized.pearson_r)
    ]
    if not layers:
        return None
    worst = min(layers, key=lambda layer: layer.weights_binarized.pearson_r)
    text = f"{worst.name} loses the most: r = {worst.weights_binarized.pearson_r:.2f} with quantized weights"
    if worst.recommendation == "ternarize":
        return Action(f"{text}. Give it ternary levels: {worst.reason}.", "hypersign train … --levels 3")
    if worst.recommendation == "keep in float":
        return Action(f"{text}. Keep its weights in float.", f"hypersign train … --float-weights {worst.name}")
    return None


def _from_training(run: "Run | None") -> list[Action]:
    """What the last epoch says: signs that still flip, or a network that has learned its images by heart."""
    rows = run.metrics() if run is not None else []
    if run is None or not rows:
        return []
    found = []
    last = rows[-1]
    accuracy, test = last.get("accuracy"), run.info.get("results", {}).get("test", {}).get("accuracy")
    if accuracy is not None and test is not None and accuracy - test > OVERFITTED:
        found.append(
            Action(
                f"Training accuracy is {100 * accuracy:.1f} % and test accuracy {100 * test:.1f} %: train with more "
                "or with varied images.",
                "hypersign train … --crop-padding 2",
            )
        )
    flips = {name: layer.get("flipped_signs") or 0.0 for name, layer in (last.get("layers") or {}).items()}
    name = max(flips, key=lambda name: flips[name], default="")
    if name and flips[name] > FLIPPING:
        found.append(
            Action(
                f"{100 * flips[name]:.1f} % of {name}'s signs still flip in the last epoch: train longer, or end "
                "with a smaller learning rate.",
                f"hypersign train … --epochs {2 * len(rows)}",
            )
        )
    return found


def _look(confusion: Mapping[str, Any] | None) -> Action | None:
    """The two classes that the network confuses most often."""
    top = confusion and confusion["top"]
    if not confusion or not top or top[0] < 3:
        return None
    count, truth, decision = top
    return Action(
        f"Look at class {truth}: {count:,} of {confusion['errors']:,} wrong decisions take it for {decision}."
    )


def _pack(run: "Run | None") -> Action | None:
    path = getattr(run, "path", None)
    return None if path is None else Action("Pack it into one file that runs on bits.", f"hypersign pack {path}")


def reading(geometry: Geometry) -> list[str]:
    """Sentences about angles, dot products and levels; each names its layers."""
    layers = [layer for layer in geometry.layers if layer.quantizes_weights]
    spoken = (
        _predictions(geometry.layers),
        _correlations(layers),
        _independent(layers),
        _angles(layers),
        _permuted(layers),
        _zeros(layers),
    )
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
    return (
        f"With quantized weights {worst.name} has the lowest correlation of dot products: r = "
        f"{worst.weights_binarized.pearson_r:.2f}, and {100 * worst.weights_binarized.sign_disagreement:.0f} % "
        f"of them change sign; {best.name} has the highest, r = {best.weights_binarized.pearson_r:.2f}."
        if len(known) > 1
        else f"With quantized weights the dot products of {worst.name} have r = "
        f"{worst.weights_binarized.pearson_r:.2f}; {100 * worst.weights_binarized.sign_disagreement:.0f} % of "
        "them change sign."
    )


def _predictions(layers: Sequence[LayerGeometry]) -> str:
    """How far the predicted r are from the measured ones, by family, and how far those of training images are."""
    gaps: dict[str, list[float]] = {"weights": [], "activations": [], "both": []}
    departures, checks = [], []
    for layer in layers:
        for name, products in families_of(layer):
            gap = abs(products.pearson_r - products.predicted_pearson_r)
            if math.isfinite(gap):
                gaps[name].append(gap)
                if products.departs:
                    departures.append(f"{layer.name} ({name})")
            check = abs(products.pearson_r - products.training_pearson_r)
            if math.isfinite(check):
                checks.append(check)
    if not any(gaps.values()):
        return ""
    far = ", ".join(f"{sum(each) / len(each):.3f} ({name})" for name, each in gaps.items() if each)
    text = f"Before anything is quantized, r of a layer is predicted to within {far}, mean over layers."
    if departures:
        shown = departures if len(departures) < 5 else [*departures[:3], f"{len(departures) - 3} others"]
        text += f" These differ by more than three standard errors: {', '.join(shown)}."
    else:
        text += " No difference is larger than three standard errors."
    if checks:
        text += f" On training images the same r is {sum(checks) / len(checks):.3f} apart: it holds for other images."
    return text


def _independent(layers: Sequence[LayerGeometry]) -> str:
    """What independent inputs would give, and what the difference teaches."""
    rows = [(layer, layer.weights_binarized) for layer in layers]
    gaps = [(r.pearson_r - r.independent_pearson_r, layer) for layer, r in rows]
    above = [(gap, layer) for gap, layer in gaps if gap > CORRELATION_MARGIN]
    below = [(-gap, layer) for gap, layer in gaps if gap < -CORRELATION_MARGIN]
    if not above and not below:
        return ""
    known = [r.independent_pearson_r for _, r in rows if math.isfinite(r.independent_pearson_r)]
    text = f"If inputs were independent, r would be {_range(known, '.2f', '')}."
    if above:
        text += (
            f" {_names(above)} {'do' if len(above) > 1 else 'does'} better, by up to "
            f"{max(gap for gap, _ in above):.2f}: the inputs vary most in the directions of the filters."
        )
    if below:
        text += (
            f" {_names(below)} {'do' if len(below) > 1 else 'does'} worse, by up to "
            f"{max(gap for gap, _ in below):.2f}: the inputs share one strong component, such as brightness, that "
            "cancels in latent filters but not in quantized ones."
        )
    return text


def _permuted(layers: Sequence[LayerGeometry]) -> str:
    # Computed for each filter, because a mean of the inputs changes r pooled over filters, permuted or not.
    pairs = [
        tuple(
            abs(median(products.pearson_r_per_filter) - products.independent_pearson_r)
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
        "With permuted activations the largest difference from r of independent inputs (median filter of a layer) "
        f"falls from {original:.2f} to {permuted:.2f}: the structure of the inputs causes it, not the weights alone."
    )


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
