"""The update of a step on the CPU in one pass over memory: clipping, Adam, clipping of latent weights, and checks."""

from typing import Any

import torch
from torch import Tensor

from hypersign.bits.backend import native

__all__ = ["norms_of", "update_in_one_pass"]


def norms_of(tensors: list[Tensor]) -> Tensor:
    """The norm of each tensor, shape `(len(tensors),)`; on the CPU in one pass each, by all threads."""
    kernels = native()
    if kernels is None or not all(_is_dense(x) for x in tensors):
        return torch.stack(torch._foreach_norm(tensors))
    threads = torch.get_num_threads()
    return torch.tensor([kernels.sum_of_squares(_flat(x), threads) for x in tensors]).sqrt()


def update_in_one_pass(
    optimizer: torch.optim.Optimizer, latent: list[Tensor], limits: tuple[float | None, float | None]
) -> Tensor | None:
    """Clips gradients, updates parameters with Adam or AdamW, clips latent weights, and clears gradients.

    Results differ from those of `optimizer.step()` in the last digits, and do not depend on instruction set and
    threads.

    Args:
        optimizer: torch's optimizer.
        latent: the latent weights among its parameters.
        limits: the largest magnitudes of gradients and of latent weights; None clips nothing.

    Returns the norms of the latent weights, or None where it did nothing: with another optimizer, on another device,
    before the optimizer's first step, where tensors of a parameter lie in different orders in memory, or without
    compiled kernels.
    """
    if native() is None or type(optimizer) not in (torch.optim.Adam, torch.optim.AdamW):
        return None
    trained = [(group, p) for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    squares: dict[int, float] = {id(weight): 0.0 for weight in latent}
    # Indexing `optimizer.state` would make an empty state.
    ready = all(_fits(group, p, optimizer.state.get(p, {})) for group, p in trained)
    if not trained or not ready or not squares.keys() <= {id(p) for _, p in trained}:
        return None
    decoupled = isinstance(optimizer, torch.optim.AdamW)
    for group, p in trained:
        limit = limits[1] if id(p) in squares else None
        square = _update(p, group, optimizer.state[p], decoupled, (limits[0], limit))
        if id(p) in squares:
            squares[id(p)] = square
        p.grad = None
    return torch.tensor(list(squares.values())).sqrt()


def _update(
    parameter: Tensor,
    group: dict[str, Any],
    state: dict[str, Tensor],
    decoupled: bool,
    limits: tuple[float | None, float | None],
) -> float:
    """Updates one parameter; returns the sum of its squares."""
    assert parameter.grad is not None
    step, rate, decay = int(state["step"].add_(1)), group["lr"], group["weight_decay"]
    first, second = group["betas"]
    clip, limit = (torch.inf if limit is None else limit for limit in limits)
    numbers = (_flat(x) for x in (parameter.grad, parameter, state["exp_avg"], state["exp_avg_sq"]))
    factors = (0.0 if decoupled else decay, 1 - rate * decay if decoupled else 1.0, 1 - first, second, 1 - second)
    steps = rate / (1 - first**step), (1 - second**step) ** -0.5, group["eps"]
    found: float = native().adam(*numbers, clip, *factors, *steps, limit, torch.get_num_threads())
    return found


def _fits(group: dict[str, Any], parameter: Tensor, state: dict[str, Any]) -> bool:
    """Whether the kernel can update a parameter."""
    tensors = [parameter, parameter.grad, state.get("exp_avg"), state.get("exp_avg_sq")]
    return not (group["amsgrad"] or group["maximize"]) and all(
        x is not None and _is_dense(x) and x.stride() == parameter.stride() for x in tensors
    )


def _is_dense(x: Tensor) -> bool:
    """Whether `x` holds float32 numbers on the CPU, one after the other in memory."""
    dense = x.is_contiguous() or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last))
    return dense and x.device.type == "cpu" and x.dtype == torch.float32


def _flat(x: Tensor) -> Any:
    """The numbers of a dense tensor in the order of memory, as a NumPy array that shares them."""
    return x.detach().as_strided((x.numel(),), (1,)).numpy()
