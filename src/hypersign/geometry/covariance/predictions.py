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
    """Moments of the products of filters with real inputs a and quantized inputs q; all of shape (filters,).

    With latent filters w and levels b: `latent` is var a.w, `levels` var a.b, `quantized` var q.b, `latent_cross` is
    cov(a.w, q.b) and `levels_cross` cov(a.b, q.b). `means` are the means of a.w, a.b and q.b.
    """

    latent: np.ndarray
    levels: np.ndarray
    quantized: np.ndarray
    latent_cross: np.ndarray
    levels_cross: np.ndarray
    means: tuple[np.ndarray, np.ndarray, np.ndarray]

    def activations(self) -> Prediction:
        """r when the inputs are quantized: of a.b and q.b."""
        return family(self.levels_cross, self.levels, self.quantized, *self.means[1:])

    def both(self) -> Prediction:
        """r when inputs and weights are quantized: of a.w and q.b."""
        return family(self.latent_cross, self.latent, self.quantized, self.means[0], self.means[2])


def input_moments(
    real: RealInputs, steps: Sequence[theory.Steps], latent: np.ndarray, levels: np.ndarray
) -> InputMoments:
    """Computes the moments of filters w and levels b, both (filters, d), for a quantizer of inputs.

    It goes through the covariances in blocks of rows, so besides them memory holds a few of these.
    """
    shape = (len(real.mixtures), -1, latent.shape[1])
    parts = []
    for mixture, rule, w, b in zip(real.mixtures, steps, latent.reshape(shape), levels.reshape(shape), strict=True):
        law = theory.QuantizedNormals(mixture, rule)
        sums = np.zeros((5, len(w)))
        for rows, cross, covariance in law.blocks():
            block = mixture.covariance[rows].astype(np.float64)
            for total, x, values, y in ((0, w, block, w), (1, b, block, b), (3, w, cross, b), (4, b, cross, b)):
                sums[total] += ((x[:, rows] @ values) * y).sum(1)
            # The other half of the symmetric covariance counts too; the square on the diagonal counts once.
            width = rows.stop - rows.start
            covariance[:, width:] *= 2
            sums[2] += ((b[:, rows] @ covariance) * b[:, rows.start :]).sum(1)
        mean = mixture.padded_mean
        parts.append((*sums, w @ mean, b @ mean, b @ law.mean))
    found = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
    latent_variance, levels_variance, quantized, latent_cross, levels_cross, *means = found
    return InputMoments(
        latent_variance, levels_variance, quantized, latent_cross, levels_cross, (means[0], means[1], means[2])
    )


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
    weights = family((wc * b).sum(1), (bc * b).sum(1), (wc * w).sum(1), (b * mean).sum(1), (w * mean).sum(1))
    activations: Prediction | None = Prediction(1.0, np.where(np.isnan(weights.per_filter), np.nan, 1.0))
    both: Prediction | None = weights
    if layer.quantizes_inputs:
        activations = both = None
        if layer.real is not None and layer.real.steps is not None:
            moments = input_moments(layer.real, layer.real.steps, w, b)
            activations, both = moments.activations(), moments.both()
    return {"weights_binarized": weights, "activations_binarized": activations, "both_binarized": both}


def family(
    covariance: np.ndarray, x_variance: np.ndarray, y_variance: np.ndarray, x_mean: np.ndarray, y_mean: np.ndarray
) -> Prediction:
    """r from the moments of x and y; a variance no larger than its rounding error counts as 0."""
    x, y = (np.where(v > 1e-12 * (1 + m**2), v, 0.0) for v, m in ((x_variance, x_mean), (y_variance, y_mean)))
    return Prediction(*theory.pooled_r(covariance, x, y, x_mean, y_mean))
