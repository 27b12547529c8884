"""Predicts r of a layer's dot products in all three families, before anything is quantized.

weights      x = q.b, y = q.w    exact from the mean and covariance of the inputs q that the layer sees
activations  x = a.b, y = q.b    from mean and covariance of the real inputs a, and the rule of the quantizer:
both         x = a.w, y = q.b    `theory.QuantizedNormals` for a mixture of normals
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from hypersign import theory
from hypersign.geometry.covariance.measure import LayerCovariance
from hypersign.geometry.covariance.real_inputs import RealInputs

__all__ = ["InputMoments", "Prediction", "input_moments", "predict"]


@dataclasses.dataclass(frozen=True, eq=False)
class Prediction:
    """A predicted correlation of dot products: pooled over filters, and of each filter, of shape (filters,)."""

    pooled: float
    per_filter: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class InputMoments:
    """What the dot products of some filters need of real inputs a and their quantized version q.

    All arrays have shape (filters, d): row f belongs to filter f with latent weights w and levels b. `latent_real` is
    w'C, `levels_real` is b'C, `latent_cross` is w'K, `levels_cross` is b'K and `levels_levels` is b'Q, with C the
    covariance of a, K_ij = cov(a_i, q_j) and Q that of q. `real_mean` and `levels_mean` are the means of a and q.
    """

    latent_real: np.ndarray
    levels_real: np.ndarray
    latent_cross: np.ndarray
    levels_cross: np.ndarray
    levels_levels: np.ndarray
    real_mean: np.ndarray
    levels_mean: np.ndarray


def input_moments(
    real: RealInputs, steps: Sequence[theory.Steps], latent: np.ndarray, levels: np.ndarray
) -> InputMoments:
    """Computes the moments for filters and a quantizer of inputs, in blocks of 512 rows of the covariances."""
    shape = (len(real.mixtures), -1, latent.shape[1])
    parts = []
    for mixture, rule, w, b in zip(real.mixtures, steps, latent.reshape(shape), levels.reshape(shape), strict=True):
        law = theory.QuantizedNormals(mixture, rule)
        found = [np.zeros(w.shape) for _ in range(5)]
        for rows, cross, covariance in law.blocks():
            block = mixture.covariance[rows].astype(np.float64)
            for total, filters, values in zip(
                found, (w, b, w, b, b), (block, block, cross, cross, covariance), strict=True
            ):
                total += filters[:, rows] @ values
        share = mixture.present.diagonal()[np.arange(w.shape[1]) % len(mixture.present)]
        mean = share * (mixture.mean - mixture.padding) + mixture.padding
        parts.append([*found, np.broadcast_to(mean, w.shape), np.broadcast_to(law.mean, w.shape)])
    return InputMoments(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def predict(layer: LayerCovariance) -> dict[str, Prediction | None]:
    """The predictions of the three families, by name, for the layer's own quantizers; None where there is none.

    For the inputs from which C was computed, the weights' r equals the measured one. Without an input quantizer
    activations keep r = 1, and both are as weights.

    >>> import torch
    >>> from hypersign.geometry.covariance import input_covariances
    >>> from hypersign.layers import QuantLinear
    >>> from hypersign.quantizers import Sign
    >>> _ = torch.manual_seed(0)
    >>> layer = QuantLinear(256, 32, input_quantizer=Sign(), weight_quantizer=Sign())
    >>> _ = torch.nn.init.normal_(layer.weight)
    >>> found = predict(input_covariances(layer, [torch.randn(4000, 256)]).layers[""])
    >>> {family: round(r.pooled, 1) for family, r in found.items()}
    {'weights_binarized': 0.8, 'activations_binarized': 0.8, 'both_binarized': 0.6}
    """
    w, b = layer.weights, layer.levels
    shape = (layer.groups, -1, layer.fan_in)
    wc, bc = ((f.reshape(shape) @ layer.covariance).reshape(f.shape) for f in (w, b))
    mean = np.repeat(layer.mean, layer.filters // layer.groups, 0)
    weights = _family((wc * b).sum(1), (bc * b).sum(1), (wc * w).sum(1), (b * mean).sum(1), (w * mean).sum(1))
    if layer.real is None:
        unchanged = Prediction(1.0, np.where(np.isnan(weights.per_filter), np.nan, 1.0))
        return {"weights_binarized": weights, "activations_binarized": unchanged, "both_binarized": weights}
    if layer.real.steps is None:
        return {"weights_binarized": weights, "activations_binarized": None, "both_binarized": None}
    m = input_moments(layer.real, layer.real.steps, w, b)
    y = (m.levels_levels * b).sum(1), (b * m.levels_mean).sum(1)
    activations = _family(
        (m.levels_cross * b).sum(1), (m.levels_real * b).sum(1), y[0], (b * m.real_mean).sum(1), y[1]
    )
    both = _family((m.latent_cross * b).sum(1), (m.latent_real * w).sum(1), y[0], (w * m.real_mean).sum(1), y[1])
    return {"weights_binarized": weights, "activations_binarized": activations, "both_binarized": both}


def _family(
    covariance: np.ndarray, x_variance: np.ndarray, y_variance: np.ndarray, x_mean: np.ndarray, y_mean: np.ndarray
) -> Prediction:
    """r from the moments of x and y; a variance no larger than its rounding error counts as 0."""
    x, y = (np.where(v > 1e-12 * (1 + m**2), v, 0.0) for v, m in ((x_variance, x_mean), (y_variance, y_mean)))
    return Prediction(*theory.pooled_r(covariance, x, y, x_mean, y_mean))
