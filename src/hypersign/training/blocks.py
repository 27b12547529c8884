"""The update of a step on the CPU, block by block: memory is read and written once, and not once per operation."""

from typing import Any

import torch
from torch import Tensor

__all__ = ["update_in_blocks"]

BLOCK = 1 << 17
"""Numbers in a block: weights, gradients and both moments fit in a core's L2 cache."""

_UPDATES: dict[type, Any] = {torch.optim.Adam: torch._fused_adam_, torch.optim.AdamW: torch._fused_adamw_}


def update_in_blocks(
    optimizer: torch.optim.Optimizer, latent: list[Tensor], limits: tuple[float | None, float | None]
) -> Tensor | None:
    """Clips gradients, updates parameters with Adam or AdamW, clips latent weights, and clears gradients.

    Each number gets the same operations as with `optimizer.step()`.

    Args:
        optimizer: torch's fused optimizer.
        latent: the latent weights among its parameters.
        limits: the largest magnitudes of gradients and of latent weights; None clips nothing.

    Returns the norms of the latent weights, or None where it did nothing: with another optimizer, on another device,
    before the optimizer's first step, or where tensors of a parameter lie in different orders in memory.
    """
    update = _UPDATES.get(type(optimizer))
    trained = [(group, p) for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    # Indexing `optimizer.state` would make an empty state.
    work = [(group, p, _flat(optimizer.state.get(p, {}), p)) for group, p in trained]
    if update is None or any(flat is None for *_, flat in work) or not work:
        return None
    squares = {id(weight): torch.zeros(()) for weight in latent}
    if not squares.keys() <= {id(p) for _, p, _ in work}:
        return None
    for group, parameter, flat in work:
        assert flat is not None
        step = optimizer.state[parameter]["step"].add_(1)
        for start in range(0, parameter.numel(), BLOCK):
            w, g, first, second = (part[start : start + BLOCK] for part in flat)
            if limits[0] is not None:
                g.clamp_(-limits[0], limits[0])
            options = {"beta1": group["betas"][0], "beta2": group["betas"][1], "maximize": False, "amsgrad": False}
            options |= {"lr": group["lr"], "weight_decay": group["weight_decay"], "eps": group["eps"]}
            update([w], [g], [first], [second], [], [step], **options)
            if id(parameter) in squares:
                if limits[1] is not None:
                    w.clamp_(-limits[1], limits[1])
                squares[id(parameter)] += w.dot(w)
        parameter.grad = None
    return torch.stack(list(squares.values())).sqrt() if squares else torch.zeros(0)


def _flat(state: dict[str, Any], parameter: Tensor) -> list[Tensor] | None:
    """A parameter, its gradient and its moments, each as one row in the order of memory; None if orders differ."""
    tensors = [parameter.detach(), parameter.grad, state.get("exp_avg"), state.get("exp_avg_sq")]
    for x in tensors:
        if x is None or x.device.type != "cpu" or x.dtype != torch.float32 or x.stride() != parameter.stride():
            return None
    if not (parameter.is_contiguous() or _is_channels_last(parameter)):
        return None
    return [x.as_strided((x.numel(),), (1,)) for x in tensors if x is not None]


def _is_channels_last(x: Tensor) -> bool:
    return x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
