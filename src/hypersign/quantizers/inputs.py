"""Quantizers of inputs that learn: shifts per channel, two learned values, an image's own mean."""

import math

import torch
from torch import Tensor, nn

from hypersign.quantizers.base import PackedForm
from hypersign.quantizers.scales import LearnedNumber, same_rank, sized
from hypersign.quantizers.sign import Sign
from hypersign.quantizers.surrogates import Polynomial, Surrogate

__all__ = ["AdaBinInputs", "ImageSign", "ShiftedSign"]


class ShiftedSign(Sign):
    """ReActNet's RSign: the sign after a learned shift per channel; one shift for a fully connected layer.

        q(x)_c = sign(x_c + beta_c)

    c is a channel. beta starts at 0. Source: Liu et al. 2020 (ReActNet, arXiv 2003.03488), eq. 1.

    >>> quantizer = ShiftedSign()
    >>> quantizer.fit(torch.zeros(5, 2, 3, 3), channels=2)
    >>> _ = quantizer.beta.data.copy_(torch.tensor([0.5, -0.5]))
    >>> quantizer(torch.zeros(1, 2, 1, 1)).flatten().tolist()
    [1.0, -1.0]
    """

    def __init__(self, *, surrogate: Surrogate | None = None) -> None:
        super().__init__(surrogate=surrogate or Polynomial())
        self.beta = nn.Parameter(torch.zeros(1))

    def fit(self, weight: Tensor, channels: int | None = None) -> None:
        """One shift per channel of a convolution."""
        count = channels if channels is not None and weight.dim() > 2 else 1
        self.beta = sized(self.beta, weight.new_zeros(count), "a learned shift")
        self.rank = same_rank(self.rank, weight)

    rank: int | None = None

    def prepare(self, x: Tensor) -> Tensor:
        trailing = (self.rank or 2) - 2  # dimensions behind the channels
        if x.dim() <= trailing or x.shape[-1 - trailing] != len(self.beta):
            trailing = 0  # packing calls it with one number per channel, (1, channels)
        return x + self.beta.view(-1, *[1] * trailing)

    def extra_repr(self) -> str:
        return ""


class AdaBinInputs(Sign):
    """AdaBin's activations: two values with a learned distance and centre, one of each per layer.

        a_q = alpha sign((a - beta)/alpha) + beta

    a are the inputs. This is the paper's formula; its public code has alpha (sign(...) + beta). alpha starts at 1,
    beta at 0. With zero padding, beta is not added in the border, so the border is a third level, 0.
    Source: Tu et al. 2022 (AdaBin, arXiv 2208.08084), eq. 12.

    >>> quantizer, x = AdaBinInputs(), torch.tensor([0.3, -2.0])
    >>> (quantizer.scale(x, x) * quantizer(x) + quantizer.offset(x, x)).tolist()
    [1.0, -1.0]
    """

    scale: LearnedNumber
    offset: LearnedNumber

    def __init__(self, *, surrogate: Surrogate | None = None) -> None:
        super().__init__(scale=LearnedNumber(1.0), offset=LearnedNumber(0.0), surrogate=surrogate or Polynomial())

    def prepare(self, x: Tensor) -> Tensor:
        return (x - self.offset.value) / self.scale.value

    def extra_repr(self) -> str:
        return ""


class ImageSign(Sign):
    """The sign of inputs that are standardised by the mean and variance of their own image, also in evaluation.

        q(x) = sign((x - mean)/sqrt(var + 1e-5))        over all values of one image

    Source: Lin et al. 2021 (SiMaN, arXiv 2102.07981), and its public code.

    >>> ImageSign()(torch.tensor([[1.0, 2.0], [5.0, 3.0]]))
    tensor([[-1.,  1.],
            [ 1., -1.]])
    """

    def __init__(self, *, surrogate: Surrogate | None = None) -> None:
        super().__init__(surrogate=surrogate or Polynomial())

    def fit(self, weight: Tensor, channels: int | None = None) -> None:
        """Records the layer's rank, by which a single image is told from a batch."""
        self.rank = same_rank(self.rank, weight)

    rank: int | None = None

    def prepare(self, x: Tensor) -> Tensor:
        batched = x.dim() >= (self.rank or 2)
        dims = tuple(range(batched, x.dim()))
        several = math.prod(x.shape[batched:]) > 1
        variance, mean = torch.var_mean(x, dims, keepdim=True, correction=int(several))
        return (x - mean) / torch.sqrt(variance + 1e-5)

    def packed_form(self, inputs: bool = False) -> PackedForm:
        """One bit, of the sign of what is left after each image's mean; weights have no image."""
        return PackedForm("binary") if inputs else PackedForm(None, "weights have no image whose mean is subtracted")

    def extra_repr(self) -> str:
        return ""
