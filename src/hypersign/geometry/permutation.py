"""The permutation test: what correlations between activations do to the geometry.

Permuted activations keep their values and lose their order, so what a layer's dot products still do is due to
the weights alone; theory predicts it exactly as for independent inputs.
"""

import torch
from torch import Tensor

__all__ = ["PERMUTED_PRODUCTS", "permuted"]

PERMUTED_PRODUCTS = 1024
"""Dot products a filter and batch that the permutation test looks at, at least."""


def permuted(activations: Tensor, images: int, generator: torch.Generator) -> Tensor:
    """The first `images` of a batch with all their activations permuted, over images, channels and positions.

    Every value may end in every place; the values themselves are those that were there.

    Args:
        activations: shape `(images or more, ...)`.
        images: how many of them to take; as many as there are if more.
        generator: a CPU generator, whose seed fixes the permutation on every device.

    Source: Anderson & Berg 2018 (arXiv 1705.07199), section 3, permuted activations.

    >>> permuted(torch.arange(6.0).view(3, 2), 2, torch.Generator().manual_seed(0)).shape
    torch.Size([2, 2])
    """
    few = activations[:images]
    order = torch.randperm(few.numel(), generator=generator).to(few.device)
    return few.flatten()[order].view_as(few)
