"""Scales: real factors that multiply a layer's output."""

import dataclasses

from torch import Tensor

__all__ = ["ConstantScale", "MeanScale", "TensorScale"]


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


@dataclasses.dataclass(frozen=True)
class TensorScale:
    """One least-squares scale for all filters of a layer, differentiable in the latent weights.

        alpha = <W, Q> / <Q, Q>   over the whole tensor W and its levels Q

    >>> import torch
    >>> TensorScale()(torch.tensor([[1.0, -2.0], [3.0, -2.0]]), torch.tensor([[1.0, -1.0], [1.0, -1.0]]))
    tensor([2., 2.])
    """

    def __call__(self, weight: Tensor, levels: Tensor) -> Tensor:
        """The scale, once per filter: shape `(filters,)`, for `weight` and its `levels`, both `(filters, ...)`."""
        levels = levels.detach()
        scale = (weight * levels).sum() / levels.square().sum().clamp(min=1)
        return scale.expand(len(weight))


@dataclasses.dataclass(frozen=True)
class ConstantScale:
    """A fixed number: the scale or the offset of a quantizer of inputs.

    >>> import torch
    >>> ConstantScale(0.5)(torch.zeros(2), torch.zeros(2))
    tensor(0.5000)
    """

    value: float

    def __call__(self, x: Tensor, levels: Tensor) -> Tensor:
        """The number, as a tensor without dimensions, with the type and device of `x`."""
        return x.new_tensor(self.value)
