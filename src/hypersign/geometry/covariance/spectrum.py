"""How many directions a layer's inputs vary in, and how its filters lie to them."""

import dataclasses

import numpy as np

from hypersign import theory
from hypersign.geometry.covariance.measure import LayerCovariance

__all__ = ["Spectrum", "effective_dimension", "spectrum"]


def effective_dimension(layer: LayerCovariance) -> float:
    """Effective dimension of a layer's inputs, `theory.effective_dimension` of their covariance.

    The mean over groups whose inputs vary; NaN where none varies.

    >>> layer = LayerCovariance("", "", 1, np.zeros((1, 3)), np.diag([2.0, 2, 0])[None], np.eye(3), np.eye(3))
    >>> effective_dimension(layer)
    2.0
    """
    dimensions = np.array([theory.effective_dimension(group) for group in layer.covariance])
    varies = ~np.isnan(dimensions)
    return float(dimensions[varies].mean()) if varies.any() else np.nan


@dataclasses.dataclass(frozen=True, eq=False)
class Spectrum:
    """Principal components of a layer's inputs, and how the latent filters and their levels lie to them.

    `eigenvalues` has shape (groups, d), descending; `components` (groups, d, d): component i of group g is the
    unit vector `components[g, i]`, and its variance eigenvalue i. `alignment` is the cosine between filter and
    component, shape (filters, d), that of a filter's own group; `levels_alignment` that of its levels. NaN for
    filters that are zero or NaN. A component's sign means nothing.
    """

    eigenvalues: np.ndarray
    components: np.ndarray
    alignment: np.ndarray
    levels_alignment: np.ndarray

    def variance_share(self, k: int) -> float:
        """Share of the inputs' variance in the k leading components, over all groups; NaN where there is none."""
        total = self.eigenvalues.sum()
        return float(self.eigenvalues[:, :k].sum() / total) if total > 0 else np.nan

    def weight_energy(self, k: int) -> np.ndarray:
        """Share of each filter's squared length in the k leading components, shape (filters,): k/d if random."""
        return np.asarray((self.alignment[:, :k] ** 2).sum(1))


def spectrum(layer: LayerCovariance) -> Spectrum:
    """Eigenvalues and principal components of a layer's inputs, and the alignment of its filters with them.

        C = V' diag(lambda) V,   alignment of filter w with component v_i: w.v_i / |w|

    Takes of the order of d^3 operations and holds d^2 numbers in memory.

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
