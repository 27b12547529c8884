"""Scales: one real factor per filter, which multiplies a layer's output."""

import dataclasses

from torch import Tensor

__all__ = ["MeanScale"]


@dataclasses.dataclass(frozen=True)
class MeanScale:
    """The least-squares scale of each filter, differentiable in the latent weights.

        alpha = argmin_a |w - a q|^2 = <w, q> / <q, q>

    `w` is a latent filter, `q` its levels: for the sign that is the mean of `|w|`, for ternary levels the mean
    over those that are not zero. A filter whose levels are all zero has scale 0.
    Source: Rastegari et al. 2016 (XNOR-Net, arXiv 1603.05279), eq. 6; Li et al. 2016 (arXiv 1605.04711), eq. 5.

    >>> import torch
    >>> MeanScale()(torch.tensor([[1.0, -2.0]]), torch.tensor([[1.0, -1.0]]))
    tensor([1.5000])
    """

    def __call__(self, weight: Tensor, levels: Tensor) -> Tensor:
        """Scales of shape `(filters,)` for `weight` and its `levels`, both `(filters, ...)`."""
        levels = levels.detach().flatten(1)
        return (weight.flatten(1) * levels).sum(1) / levels.square().sum(1).clamp(min=1)
