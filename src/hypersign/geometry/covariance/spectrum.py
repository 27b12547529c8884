"""The directions in which a layer's inputs vary, and how much of its filters lies in them."""

import dataclasses

import numpy as np

from hypersign import theory
from hypersign._display import shown
from hypersign.geometry.covariance.measure import LayerCovariance

__all__ = ["Spectrum", "effective_dimension", "spectrum"]


def effective_dimension(layer: LayerCovariance) -> float:
    """The effective dimension of a layer's inputs, `theory.effective_dimension` of their covariance.

    It is the mean over the groups whose inputs vary, NaN if there are none.

    >>> layer = LayerCovariance("", "", 1, np.zeros((1, 3)), np.diag([2.0, 2, 0])[None], np.eye(3), np.eye(3))
    >>> effective_dimension(layer)
    2.0
    """
    dimensions = np.array([theory.effective_dimension(group) for group in layer.covariance])
    varies = ~np.isnan(dimensions)
    return float(dimensions[varies].mean()) if varies.any() else np.nan


@shown
@dataclasses.dataclass(frozen=True, eq=False)
class Spectrum:
    """Principal components of a layer's inputs, and their cosines with the latent filters and the levels.

    `eigenvalues` has shape (groups, d), in descending order. `components` has shape (groups, d, d): component i of
    group g is the unit vector `components[g, i]`, and its variance is eigenvalue i. `alignment` is the cosine between
    each filter and each component of its group, of shape (filters, d). `levels_alignment` is the same for the
    filter's levels. Both are NaN for filters that are zero or NaN. The sign of a component has no meaning.
    """

    eigenvalues: np.ndarray
    components: np.ndarray
    alignment: np.ndarray
    levels_alignment: np.ndarray

    def variance_share(self, k: int) -> float:
        """The share of the inputs' variance in the k leading components, over all groups; NaN without variance."""
        total = self.eigenvalues.sum()
        return float(self.eigenvalues[:, :k].sum() / total) if total > 0 else np.nan

    def weight_energy(self, k: int) -> np.ndarray:
        """The share of each filter's squared length in the k leading components, of shape (filters,).

        Filters in random directions have k/d on average.
        """
        return np.asarray((self.alignment[:, :k] ** 2).sum(1))


def spectrum(layer: LayerCovariance) -> Spectrum:
    """Computes the principal components of a layer's inputs, and the alignment of its filters with them.

        C = V' diag(lambda) V,   alignment of filter w with component v_i: w.v_i / |w|

    It needs of the order of d^3 operations and d^2 numbers of memory.

    >>> c = np.array([[[2.0, 1.0], [1.0, 2.0]]])
    >>> found = spectrum(LayerCovariance("", "", 9, np.zeros((1, 2)), c, np.array([[3.0, 1.0]]), np.ones((1, 2))))
    >>> found.eigenvalues.round(6).tolist(), found.weight_energy(1).round(6).tolist()  # (1, 1)/sqrt(2) leads
    ([[3.0, 1.0]], [0.8])
    """
    values, vectors = np.linalg.eigh(layer.covariance)  # ascending, vectors in columns
    values, components = np.maximum(values[:, ::-1], 0), vectors[:, :, ::-1].mT

    def aligned(filters: np.ndarray) -> np.ndarray:
        size = np.linalg.norm(filters, axis=1, keepdims=True)
        unit = filters / np.where(size > 0, size, np.nan)
        return (unit.reshape(layer.groups, -1, layer.fan_in) @ components.mT).reshape(filters.shape)

    return Spectrum(values, components, aligned(layer.weights), aligned(layer.levels))
