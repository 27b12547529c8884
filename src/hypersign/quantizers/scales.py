"""Scales and offsets: one real number per filter, which multiplies a layer's output or is added to its weights."""

import dataclasses

import torch
from torch import Tensor, nn

from hypersign._checks import HypersignError, check_real

__all__ = [
    "ConstantScale",
    "FilterMean",
    "Fitted",
    "LearnedNumber",
    "LearnedScale",
    "MatrixScale",
    "MeanScale",
    "PowerOfTwo",
    "Spread",
    "TensorScale",
    "same_rank",
    "standardised",
    "sized",
]


def standardised(x: Tensor, correction: int = 1) -> Tensor:
    """Filters with mean 0 and standard deviation 1; shape `(filters, ...)`, differentiable.

        z = (x - mean) / sd,    sd^2 = sum (x - mean)^2 / (n - correction)

    A filter of equal weights becomes zero.

    >>> standardised(torch.tensor([[1.0, 3.0]]), 0)
    tensor([[-1.,  1.]])
    """
    rows = x.flatten(1)
    centred = rows - rows.mean(1, keepdim=True)
    return (centred / spread(rows, correction)[:, None]).view_as(x)


def spread(x: Tensor, correction: int = 1) -> Tensor:
    """The standard deviation of each filter, shape `(filters,)`; a tiny number where all weights are equal."""
    rows = x.flatten(1)
    variance = rows.var(1, correction=min(correction, rows.shape[1] - 1))
    return variance.clamp(min=torch.finfo(x.dtype).tiny).sqrt()


def sized(parameter: nn.Parameter, values: Tensor, what: str) -> nn.Parameter:
    """A parameter of the size and with the values of `values`, in place of `parameter`.

    Raises:
        HypersignError: it already has the size of another layer; `what` names it.
    """
    if parameter.numel() not in (1, values.numel()):
        raise HypersignError(
            f"{what} was sized for {parameter.numel()} filters or channels, and this layer has {values.numel()}: "
            "give each layer a quantizer of its own"
        )
    return nn.Parameter(values.detach().clone(), requires_grad=parameter.requires_grad)


def same_rank(known: int | None, weight: Tensor) -> int:
    """The number of dimensions of a layer's weight, for a quantizer of inputs that treats layers by it.

    Raises:
        HypersignError: the quantizer is in a layer of another `known` number too.
    """
    if known not in (None, weight.dim()):
        raise HypersignError(
            f"a quantizer of inputs was in a layer whose weight has {known} dimensions, and this one's has "
            f"{weight.dim()}: give each layer a quantizer of its own"
        )
    return weight.dim()


class Fitted(nn.Module):
    """A rule that is sized by the layer that uses it."""

    def fit(self, weight: Tensor, channels: int | None = None) -> None:
        """Sizes the rule to a layer and sets its starting values; arguments as in `Quantizer.fit`."""
        raise NotImplementedError


def divisor(square: Tensor) -> Tensor:
    """The sum of squared levels, as a divisor: 1 in place of 0, so that levels of 0 give the scale 0."""
    return square.masked_fill(square == 0, 1.0)


@dataclasses.dataclass(frozen=True)
class MeanScale:
    """The least-squares scale of each filter, differentiable in the latent weights.

        alpha = argmin_a |w - a q|^2 = <w, q> / <q, q>

    `w` is a latent filter, `q` its levels. For the sign, alpha is the mean of `|w|`; for ternary levels, it is the
    mean over the weights whose level is not zero. A filter whose levels are all zero has scale 0.
    Source: Rastegari et al. 2016 (XNOR-Net, arXiv 1603.05279), eq. 6; Li et al. 2016 (arXiv 1605.04711), eq. 5.

    >>> import torch
    >>> MeanScale()(torch.tensor([[1.0, -2.0]]), torch.tensor([[1.0, -1.0]]))
    tensor([1.5000])
    """

    def __call__(self, weight: Tensor, levels: Tensor) -> Tensor:
        """Scales of shape `(filters,)` for `weight` and its `levels`, both `(filters, ...)`."""
        levels = levels.detach().flatten(1)
        return (weight.flatten(1) * levels).sum(1) / divisor(levels.square().sum(1))


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
        scale = (weight * levels).sum() / divisor(levels.square().sum())
        return scale.expand(weight.shape[0])


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


@dataclasses.dataclass(frozen=True)
class MatrixScale:
    """One scale for all filters: the mean magnitude of the whole weight, at least 1e-5; no gradient flows
    through it.

        alpha = mean |W|

    `TensorScale` is the same for signs, with a gradient.
    Source: BiT (Liu et al. 2022, arXiv 2205.13016); BitNet b1.58 (Ma et al. 2024, arXiv 2402.17764).

    >>> MatrixScale()(torch.tensor([[1.0, -2.0]]), torch.zeros(1, 2))
    tensor([1.5000])
    """

    def __call__(self, weight: Tensor, levels: Tensor) -> Tensor:
        """The same scale for each of the filters, shape `(filters,)`."""
        return weight.detach().abs().mean().clamp(min=1e-5).expand(weight.shape[0])


@dataclasses.dataclass(frozen=True)
class PowerOfTwo:
    """The power of two nearest to the mean magnitude of standardised weights, without a gradient.

        s = 2^round(log2 mean |(w - mu)/sigma|)        1 for Gaussian weights

    Source: Qin et al. 2020 (IR-Net, arXiv 1909.10788), eq. 6.

    >>> PowerOfTwo()(torch.tensor([[1.0, -1.0, 2.0, -2.0]]), torch.zeros(1, 4))
    tensor([1.])
    """

    def __call__(self, weight: Tensor, levels: Tensor) -> Tensor:
        """Scales of shape `(filters,)`."""
        mean = standardised(weight.detach()).flatten(1).abs().mean(1)
        return torch.exp2(mean.clamp(min=torch.finfo(weight.dtype).tiny).log2().round())


@dataclasses.dataclass(frozen=True)
class Spread:
    """The standard deviation of each filter, differentiable; AdaBin's scale.

    Source: Tu et al. 2022 (AdaBin, arXiv 2208.08084), eq. 8.

    >>> Spread()(torch.tensor([[1.0, 3.0]]), torch.zeros(1, 2))
    tensor([1.])
    """

    def __call__(self, weight: Tensor, levels: Tensor) -> Tensor:
        """Scales of shape `(filters,)`."""
        return spread(weight, 0)


@dataclasses.dataclass(frozen=True)
class FilterMean:
    """The mean of each filter, differentiable; AdaBin's offset.

    >>> FilterMean()(torch.tensor([[1.0, 3.0]]), torch.zeros(1, 2))
    tensor([2.])
    """

    def __call__(self, weight: Tensor, levels: Tensor) -> Tensor:
        """Offsets of shape `(filters,)`."""
        return weight.flatten(1).mean(1)


class LearnedScale(Fitted):
    """One learned scale per filter. The layer sizes it; it starts at the mean magnitude of the layer's filters.

    Before a layer has it, it is one number for all filters.

    Args:
        start: "mean", or the number that all scales start at.

    Raises:
        HypersignError: `start` is neither; in `fit`, one object in two layers of different size.

    >>> from hypersign.layers import QuantLinear
    >>> from hypersign.quantizers import Sign
    >>> layer = QuantLinear(4, 3, weight_quantizer=Sign(scale=LearnedScale(start=1)))
    >>> layer.weight_scale()
    tensor([1., 1., 1.], grad_fn=<ExpandBackward0>)
    """

    def __init__(self, start: float | str = "mean") -> None:
        super().__init__()
        if start != "mean":
            start = check_real("start (mean, or a number)", start, above=0)
        self.start = start
        self.alpha = nn.Parameter(torch.ones(1))

    def fit(self, weight: Tensor, channels: int | None = None) -> None:
        """One scale per filter."""
        if isinstance(self.start, str):
            values = weight.detach().flatten(1).abs().mean(1)
        else:
            values = weight.new_full((len(weight),), self.start)
        self.alpha = sized(self.alpha, values, "a learned scale")

    def forward(self, weight: Tensor, levels: Tensor) -> Tensor:
        """The scales, shape `(filters,)`."""
        return self.alpha.expand(weight.shape[0])

    def extra_repr(self) -> str:
        return f"start={self.start}"


class LearnedNumber(nn.Module):
    """One learned number for a whole layer: the scale or the offset of its inputs.

    >>> LearnedNumber(0.5)(torch.zeros(2, 3), torch.zeros(2, 3))
    Parameter containing:
    tensor(0.5000, requires_grad=True)
    """

    def __init__(self, start: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(float(start)))

    def forward(self, x: Tensor, levels: Tensor) -> Tensor:
        """The number, of shape ()."""
        return self.value
