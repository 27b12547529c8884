"""Permutation tests: they show what correlations between activations do to the geometry.

Permuted activations keep their values and lose their order. Which correlations remain depends on the permutation:

    over everything             only the shared padding remains as a correlation, so the theory for independent
                                inputs holds
    within each image           each image keeps its mean and spread (its brightness), which all its inputs share
    each channel and position   every input keeps its own mean and spread (the mean image) and nothing else
    over the images
"""

import math

import numpy as np
import torch
from torch import Tensor

from hypersign.geometry.dot_products import ProductSums
from hypersign.layers import QuantLayer

__all__ = [
    "PERMUTED_PRODUCTS",
    "permuted",
    "permuted_over_images",
    "permuted_r",
    "permuted_within_images",
    "permutation_tests",
    "product_rows",
]

PERMUTED_PRODUCTS = 1024
"""The permutation test uses at least this number of dot products per filter and batch."""


def permuted(activations: Tensor, images: int, generator: torch.Generator) -> Tensor:
    """Permutes a batch's activations over images, channels and positions, and returns the first `images` images.

    Every value may end in every place. If fewer images are returned than the batch has, their values still come from
    the whole batch, one from each of equal stretches: values of a few images would share their brightness.

    Args:
        activations: a tensor of shape `(images or more, ...)`.
        images: the number of images to return, at most the size of the batch.
        generator: a CPU generator; its seed fixes the permutation on every device.

    Source: Anderson & Berg 2018 (arXiv 1705.07199), section 3, permuted activations.

    >>> permuted(torch.arange(6.0).view(3, 2), 2, torch.Generator().manual_seed(0)).shape
    torch.Size([2, 2])
    """
    shape = (min(images, len(activations)), *activations.shape[1:])
    count = math.prod(shape)
    if not count:
        return activations[: shape[0]]
    size = activations.numel()
    edges = torch.arange(count + 1) * size // count
    places = edges[:-1] + (torch.rand(count, generator=generator, dtype=torch.float64) * edges.diff()).long()
    places += torch.randint(size, (), generator=generator)  # so that the shorter stretches are not always the same
    order = torch.randperm(count, generator=generator)
    return activations.take((places % size)[order].to(activations.device)).view(shape)


def permuted_within_images(activations: Tensor, generator: torch.Generator) -> Tensor:
    """Permutes each image's activations over its own channels and positions.

    Args:
        activations: a tensor of shape `(images, ...)`.
        generator: a CPU generator; its seed fixes the permutation on every device.

    >>> permuted_within_images(torch.tensor([[1.0, 1.0], [2.0, 2.0]]), torch.Generator().manual_seed(0)).tolist()
    [[1.0, 1.0], [2.0, 2.0]]
    """
    return _permuted_along(activations, 1, generator)


def permuted_over_images(activations: Tensor, generator: torch.Generator) -> Tensor:
    """Permutes the activations of each channel and position over the images, each in its own order.

    Args:
        activations: a tensor of shape `(images, ...)`.
        generator: a CPU generator; its seed fixes the permutation on every device.

    >>> permuted_over_images(torch.tensor([[1.0, 2.0], [1.0, 2.0]]), torch.Generator().manual_seed(0)).tolist()
    [[1.0, 2.0], [1.0, 2.0]]
    """
    return _permuted_along(activations, 0, generator)


def _permuted_along(activations: Tensor, dim: int, generator: torch.Generator) -> Tensor:
    flat = activations.flatten(1)
    order = torch.rand(flat.shape, generator=generator).argsort(dim).to(flat.device)
    return flat.gather(dim, order).view(activations.shape)


def permutation_tests(
    layer: QuantLayer, activations: Tensor, generator: torch.Generator
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Measures and predicts r between products with latent and with quantized weights, for permuted inputs.

    There are three permutations: "global", "sample" and "position". Each one is drawn repeatedly until there
    are `PERMUTED_PRODUCTS` products per filter.

    Args:
        layer: the layer; its padding and stride apply.
        activations: the layer's quantized inputs, of shape `(images, ...)`.
        generator: a CPU generator.

    Returns the measured and the predicted r for "global", "sample" and "position", each of shape `(filters,)`. r is
    NaN for filters whose products do not vary.

    >>> from hypersign.layers import QuantLinear
    >>> from hypersign.quantizers import Sign
    >>> layer, _ = QuantLinear(100, 1, weight_quantizer=Sign()), torch.manual_seed(0)
    >>> inputs, generator = torch.randn(50, 100), torch.Generator().manual_seed(0)
    >>> [abs(r - predicted).item() < 0.02 for r, predicted in permutation_tests(layer, inputs, generator).values()]
    [True, True, True]
    """
    permutations = {
        "global": lambda: permuted(activations, len(activations), generator),
        "sample": lambda: permuted_within_images(activations, generator),
        "position": lambda: permuted_over_images(activations, generator),
    }
    latent, levels = layer.weight.detach(), layer.effective_weight().detach()
    found = {}
    for kept, draw in permutations.items():
        products = ProductSums(layer.filters, {"permuted": ("quantized", "latent")})
        while products.count < PERMUTED_PRODUCTS:
            shuffled = draw()
            pair = {"quantized": levels, "latent": latent}
            products.update({kind: product_rows(layer, layer.product(shuffled, w)) for kind, w in pair.items()})
        measured = products.correlation("permuted")[1]
        found[kept] = np.asarray(measured), permuted_r(layer, activations, kept)
    return found


def permuted_r(layer: QuantLayer, activations: Tensor, kept: str) -> np.ndarray:
    """The expected correlation between dot products with latent and with quantized weights after a permutation.

        r = cov(x.w, x.b) / sqrt( var(x.w) var(x.b) ),   cov(x.w, x.b) = mean D(w, b) + cov(m.w, m.b)

    m are the means of a patch's inputs for a given image and position, v_j are their variances, and
    D(w, b) = sum_j v_j w_j b_j. Permuted inputs have no other covariance, with one exception: n values drawn without
    replacement have cov = -v/(n - 1), which multiplies D by n/(n - 1) and adds -v/(n - 1) sum w sum b. Means and
    covariances are over images and positions. Sums run over real inputs only, because padding is constant. For many
    inputs of mean 0, permuted over everything, r is the cosine between w and b.

    Args:
        layer: the layer.
        activations: the layer's quantized inputs, of shape `(images, ...)`.
        kept: what the permutation keeps: "global", "sample" or "position".

    Returns r for each filter, of shape `(filters,)`; NaN for a filter whose products do not vary.

    >>> from hypersign.layers import QuantLinear
    >>> from hypersign.quantizers import Sign
    >>> layer = QuantLinear(2, 1, weight_quantizer=Sign())
    >>> _ = layer.weight.data.copy_(torch.tensor([[2.0, 1.0]]))
    >>> permuted_r(layer, torch.tensor([[1.0, 1.0], [-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0]]), "position").round(4)
    array([0.9487])
    """
    # Computed in float64 from products of constant maps, so that the layer itself applies padding, stride and groups.
    w, b = layer.weight.detach().double(), layer.effective_weight().detach().double()
    x = activations.double()
    nothing, ones = torch.zeros_like(x[:1]), torch.ones_like(x[:1])

    def product(inputs: Tensor, weight: Tensor) -> Tensor:
        return product_rows(layer, layer.product(inputs, weight))  # (positions, filters)

    padding = {name: product(nothing, weight) for name, weight in (("w", w), ("b", b))}

    def covariance(first: str, second: str) -> Tensor:
        weights = {"w": w, "b": b}
        both = weights[first] * weights[second]
        if kept == "position":
            variance, mean = x.var(0, correction=0, keepdim=True), x.mean(0, keepdim=True)
            spread = (product(variance, both) - product(nothing, both)).mean(0)
            means = [product(mean, weights[name]) for name in (first, second)]
            return spread + ((means[0] - means[0].mean(0)) * (means[1] - means[1].mean(0))).mean(0)
        pools = x.flatten(1) if kept == "sample" else x.flatten()[None]
        n = pools.shape[1]
        mean, variance = pools.mean(1), pools.var(1, correction=0).mean()
        sums = [product(ones, weights[name]) - padding[name] for name in (first, second)]
        pads = [padding[name] for name in (first, second)]
        spread = (product(ones, both) - product(nothing, both)).mean(0)
        spread = variance * (n * spread - (sums[0] * sums[1]).mean(0)) / max(n - 1, 1)
        # In image i at position p, x.w has the mean m_i S_p + K_p: S sums the weights on inputs, K is from padding.
        expected = [mean.mean() * s + k for s, k in zip(sums, pads, strict=True)]
        between = mean.var(correction=0) * (sums[0] * sums[1]).mean(0)
        return spread + between + ((expected[0] - expected[0].mean(0)) * (expected[1] - expected[1].mean(0))).mean(0)

    cov, var_w, var_b = (covariance(*names).cpu().numpy() for names in (("w", "b"), ("w", "w"), ("b", "b")))
    varies = (var_w > 1e-12 * float(x.square().mean())) & (var_b > 1e-12 * float(x.square().mean()))
    return np.divide(cov, np.sqrt(var_w * var_b), out=np.full(len(cov), np.nan), where=varies)


def product_rows(layer: QuantLayer, output: Tensor) -> Tensor:
    """Reshapes a layer's output to (dot products, filters)."""
    return output.movedim(1 - layer.weight.dim(), -1).reshape(-1, layer.filters)
