"""Handler of batch norms: an affine function of each channel."""

from typing import Any

import torch
from torch import Tensor, nn

from hypersign.packing.folding import Flow, Folding, Monotone, refusal

__all__ = ["batch_norm"]


def batch_norm(folding: Folding, name: str, module: Any, x: Flow) -> Flow:
    """Waits to be folded, as an affine function."""
    if not module.track_running_stats:
        raise refusal(name, module, "it keeps no running statistics, so its scale depends on the batch")
    if x.rows is not None and len(x.rows) > 1:
        x = folding.as_image(name, x)
    if x.flat and (x.height, x.width) != (1, 1):
        raise refusal(name, module, "a batch norm of flattened images must come after a fully connected layer")
    if module.num_features != x.channels:
        raise refusal(name, module, f"it has {module.num_features} features; its input has {x.channels} channels")
    dimensions = 2 if isinstance(module, nn.BatchNorm2d) else 0

    def apply(v: Tensor) -> Tensor:
        return module(v.view(1, -1, *[1] * dimensions)).view(-1)

    def affine() -> tuple[Tensor, Tensor]:
        scale = 1 / torch.sqrt(module.running_var.double() + module.eps)
        if module.weight is not None:
            scale = scale * module.weight.detach().double()
        shift = -module.running_mean.double() * scale
        return scale, shift if module.bias is None else shift + module.bias.detach().double()

    return x.then(Monotone(name, apply, affine=affine))
