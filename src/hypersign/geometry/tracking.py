"""Geometry in your own training loop: one call per step, per epoch, or at any time."""

import dataclasses
import math
from typing import Any

import numpy as np
from torch import Tensor, nn

from hypersign import theory
from hypersign._checks import HypersignError
from hypersign._display import shown
from hypersign.geometry.covariance import (
    LayerCovariance,
    effective_dimension,
    input_covariances,
    predict,
    quantizable_layers,
    what_if,
)
from hypersign.geometry.covariance.measure import Batch
from hypersign.geometry.weights import angles, filters_first, predicted_angle
from hypersign.layers import QuantLayer, quant_layers
from hypersign.quantizers import Sign

__all__ = ["TrackedLayer", "Tracker"]

FAMILIES = {"weights_binarized": "", "activations_binarized": "activations_", "both_binarized": "both_"}
"""The beginning of a field's name for each family."""


@shown
@dataclasses.dataclass(frozen=True)
class TrackedLayer:
    """A layer at one moment of training; values that could not be measured are NaN.

    `angle_degrees` is the angle between latent and quantized filter, averaged over filters;
    `predicted_angle_degrees` is its prediction for Gaussian weights. `flipped_signs` is the share of latent weights
    whose sign has changed since the previous call, or since the tracker was made. With images there are more values.
    `pearson_r`, `activations_pearson_r` and `both_pearson_r` are the correlations of dot products when weights,
    activations or both are binarized, pooled over filters and measured on these images. `training_...` are those on
    the training images, if there are any. `predicted_...` are predictions from mean and covariance of the layer's
    inputs on the training images, or else on the images (for weights that would be the measured value, so it is NaN).
    In a network without quantized weights, r is a median over filters, predicted for signs as weights and the inputs
    as they are. `effective_dimension` describes the layer's inputs.
    """

    angle_degrees: float
    predicted_angle_degrees: float
    flipped_signs: float
    pearson_r: float = math.nan
    activations_pearson_r: float = math.nan
    both_pearson_r: float = math.nan
    training_pearson_r: float = math.nan
    training_activations_pearson_r: float = math.nan
    training_both_pearson_r: float = math.nan
    predicted_pearson_r: float = math.nan
    predicted_activations_pearson_r: float = math.nan
    predicted_both_pearson_r: float = math.nan
    effective_dimension: float = math.nan


class Tracker:
    """Measures a network's geometry each time it is called, in any training loop.

    It measures every layer with quantized weights. If there is none, it measures every `nn.Linear`, `nn.Conv1d` and
    `nn.Conv2d` and assumes that its weights will become signs. Modes, hooks, gradients and random state of the
    network do not change, also after an exception. A call without images takes about as long as reading the weights
    twice.

    Args:
        model: the network. Its layers must stay the same objects while it is tracked.

    Raises:
        HypersignError: the model has no layer that is quantized or could be.

    Source: Anderson & Berg 2018 (arXiv 1705.07199), sections 2 and 3.

    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(nn.Linear(100, 50), nn.ReLU(), nn.Linear(50, 1))
    >>> track = Tracker(model)
    >>> with torch.no_grad(): _ = model[0].weight.neg_()
    >>> found = track(torch.randn(500, 100))
    >>> [(name, layer.flipped_signs, round(layer.pearson_r, 2)) for name, layer in found.items()]
    [('0', 1.0, 0.86), ('2', 0.0, 0.85)]
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        layers = {name: layer for name, layer in quant_layers(model).items() if layer.quantizes_weights}
        self.layers: dict[str, Any] = layers or quantizable_layers(model)
        if not self.layers:
            raise HypersignError(
                "the network must have layers that can be quantized (nn.Linear, nn.Conv1d, nn.Conv2d); it has none"
            )
        self._negative = self._signs()

    def __call__(self, images: Batch | None = None, training: Batch | None = None) -> dict[str, TrackedLayer]:
        """Measures the layers now, and returns them by name in the network's order.

        Args:
            images: a batch in a form that `input_covariances` accepts, with a few hundred inputs, preferably the
                same at every call. Without images there is no r.
            training: another batch, of training images, for r to be compared with and predicted from.

        Raises:
            HypersignError: a batch has another form.
        """
        covariances = None if images is None else input_covariances(self.model, [images])
        trained = None if training is None else input_covariances(self.model, [training])
        before, self._negative = self._negative, self._signs()
        found = {}
        for name, layer in self.layers.items():
            r: dict[str, float] = {}
            if covariances is not None and name in covariances.layers:
                seen = covariances.layers[name]
                known = None if trained is None else trained.layers.get(name)
                r = _correlations(seen, known) | {"effective_dimension": effective_dimension(seen)}
            angle, predicted = _angles(layer)
            found[name] = TrackedLayer(
                angle_degrees=angle,
                predicted_angle_degrees=predicted,
                flipped_signs=float((self._negative[name] != before[name]).float().mean()),
                **r,
            )
        return found

    def scalars(self, images: Batch | None = None, training: Batch | None = None) -> dict[str, float]:
        """The same values as a flat dictionary for a logger, with keys such as "pearson_r/conv1"; NaN is left out."""
        rows = {name: dataclasses.asdict(layer) for name, layer in self(images, training).items()}
        return {
            f"{key}/{name}": value
            for name, row in rows.items()
            for key, value in row.items()
            if not math.isnan(value)
        }

    def _signs(self) -> dict[str, Tensor]:
        return {name: layer.weight.detach() < 0 for name, layer in self.layers.items()}


def _is_quantized(layer: nn.Module) -> bool:
    return isinstance(layer, QuantLayer) and layer.quantizes_weights


def _correlations(layer: LayerCovariance, training: LayerCovariance | None) -> dict[str, float]:
    """The fields of `TrackedLayer` about r."""
    if layer.products is None:
        (row,) = what_if(layer, {"": Sign()})
        return {"pearson_r": row.median("pearson_r")}
    predicted, found = predict(training or layer), {}
    for family, prefix in FAMILIES.items():
        found[f"{prefix}pearson_r"] = layer.products.correlation(family)[0]
        if training is not None and training.products is not None:
            found[f"training_{prefix}pearson_r"] = training.products.correlation(family)[0]
        prediction = predicted[family]
        if prediction is not None and (prefix or training is not None):
            found[f"predicted_{prefix}pearson_r"] = prediction.pooled
    return found


def _angles(layer: Any) -> tuple[float, float]:
    """The mean angle of the layer's filters, and the prediction for Gaussian filters, in degrees."""
    if _is_quantized(layer):
        measured, predicted = angles(layer), predicted_angle(layer)
    else:
        rows = filters_first(layer, layer.weight.detach()).flatten(1).double().cpu().numpy()
        with np.errstate(invalid="ignore", divide="ignore"):  # a filter of zeros has no angle
            cosine = np.abs(rows).sum(1) / (np.sqrt(rows.shape[1]) * np.sqrt((rows * rows).sum(1)))
        measured, predicted = np.arccos(np.clip(cosine, -1, 1)), float(theory.sign_angle(rows.shape[1]))
    known = measured[~np.isnan(measured)]
    return float(np.degrees(known.mean())) if len(known) else math.nan, math.degrees(predicted)
