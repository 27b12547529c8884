"""Figures of a training run, from the objects of its metrics file."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hypersign.figures.style import MEASURED, PREDICTED, axes, layer_colours, legend, logarithmic, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["accuracy", "filter_angles", "flipped_signs", "learning_rate", "loss", "training_curves"]

Metrics = Sequence[Mapping[str, Any]]


def loss(metrics: Metrics, ax: "Axes | None" = None) -> "Axes":
    """Draws the training and validation loss of each epoch."""
    return _pair(metrics, ax, "loss", "validation_loss", "loss")


def accuracy(metrics: Metrics, ax: "Axes | None" = None) -> "Axes":
    """Draws the training and validation accuracy of each epoch, as shares from 0 to 1."""
    return _pair(metrics, ax, "accuracy", "validation_accuracy", "accuracy")


def learning_rate(metrics: Metrics, ax: "Axes | None" = None) -> "Axes":
    """Draws the learning rate of each epoch on a log axis."""
    ax = axes(ax)
    _curve(ax, ((entry["epoch"], entry.get("learning_rate")) for entry in metrics), None, MEASURED)
    logarithmic(ax, "y")
    ax.set(xlabel="epoch", ylabel="learning rate")
    return ax


def flipped_signs(metrics: Metrics, ax: "Axes | None" = None) -> "Axes":
    """Draws the share of each layer's weights whose sign changed within the epoch, on a log axis."""
    ax = _layers(metrics, ax, "flipped_signs", "share of signs flipped")
    logarithmic(ax, "y")
    return ax


def filter_angles(metrics: Metrics, ax: "Axes | None" = None) -> "Axes":
    """Draws the mean angle between latent and quantized filters of each layer, in degrees, for each epoch."""
    return _layers(metrics, ax, "angle_degrees", "mean angle (degrees)")


def training_curves(metrics: Metrics) -> "Figure":
    """Draws all these curves as panels of one figure.

    Raises:
        HypersignError: matplotlib is not installed.
    """
    figures = (loss, accuracy, learning_rate, flipped_signs, filter_angles)
    return panels(lambda figure, ax: figure(metrics, ax), figures, size=(4.0, 3.0))


def _pair(metrics: Metrics, ax: "Axes | None", train: str, validation: str, label: str) -> "Axes":
    ax = axes(ax)
    for key, name, colour in ((train, "training", MEASURED), (validation, "validation", PREDICTED)):
        _curve(ax, ((entry["epoch"], entry.get(key)) for entry in metrics), name, colour)
    ax.set(xlabel="epoch", ylabel=label)
    legend(ax)
    return ax


def _layers(metrics: Metrics, ax: "Axes | None", key: str, label: str) -> "Axes":
    ax = axes(ax)
    names = list(dict.fromkeys(name for entry in metrics for name in entry.get("layers", {})))
    for name, colour in zip(names, layer_colours(len(names)), strict=True):
        points = ((entry["epoch"], entry.get("layers", {}).get(name, {}).get(key)) for entry in metrics)
        _curve(ax, points, name, colour)
    ax.set(xlabel="epoch", ylabel=label)
    legend(ax, fontsize="x-small", ncols=2)
    return ax


def _curve(ax: "Axes", points: Iterable[tuple[int, float | None]], name: str | None, colour: str) -> None:
    drawn = [(epoch, value) for epoch, value in points if value is not None]
    if drawn:
        ax.plot(*zip(*drawn, strict=True), color=colour, label=name, marker="." if len(drawn) < 30 else None)
