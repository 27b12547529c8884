"""Batch norm, activation functions and max pool of a network that trains on bits: the same layers, made faster."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hypersign._pooled_gradient import PooledGradient
from hypersign.bits.backend import native
from hypersign.layers.activations import TwoSlopes

__all__ = ["use_training_kernels"]


def use_training_kernels(model: nn.Module) -> None:
    """Lets batch norms, learned activation functions and max pools compute with the compiled kernels, in place.

    Their classes, parameters, buffers and hooks stay. The kernels serve float32 on the CPU whose channels lie side
    by side (channels-last images, rows): batch norms in training, RPReLU and Maxout, and max pools of windows that
    neither overlap nor are padded. Everything else, and everything under a compiler, goes torch's way.
    """
    if native() is None:
        return
    for module in model.modules():
        kind = type(module)
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and kind.forward is nn.BatchNorm2d.forward:
            module.forward = FastForward(module, _batch_norm)  # type: ignore[method-assign]
        elif isinstance(module, TwoSlopes):
            module.forward = FastForward(module, _two_slopes)  # type: ignore[method-assign, assignment]
        elif kind is nn.MaxPool2d:
            module.forward = FastForward(module, _max_pool)


class FastForward:
    """The forward of a module: `fast(module, x)`, or that of the module's class where this gives None."""

    def __init__(self, module: nn.Module, fast: Callable[[Any, Tensor], Tensor | None]) -> None:
        self.module = module
        self.fast = fast

    def __call__(self, input: Tensor) -> Tensor:
        y = None if torch.compiler.is_compiling() or not _side_by_side(input) else self.fast(self.module, input)
        return type(self.module).forward(self.module, input) if y is None else y


def _side_by_side(x: Any) -> bool:
    """Whether `x` holds float32 numbers on the CPU whose channels lie side by side in memory, without gaps."""
    if not isinstance(x, Tensor) or x.dtype != torch.float32 or x.device.type != "cpu" or not x.numel():
        return False
    return x.is_contiguous() if x.dim() == 2 else x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)


def _batch_norm(module: Any, x: Tensor) -> Tensor | None:
    if not module.training or x.numel() == x.shape[1]:
        return None
    if module.track_running_stats and module.momentum is None:  # the mean of all batches
        return None
    module._check_input_dim(x)
    y, mean, variance = _BatchNorm.apply(x, module.weight, module.bias, module.eps)
    if module.track_running_stats:
        n = x.numel() // x.shape[1]
        with torch.no_grad():
            module.num_batches_tracked.add_(1)
            module.running_mean.lerp_(mean, module.momentum)
            module.running_var.lerp_(variance * (n / (n - 1)), module.momentum)
    return y


def _two_slopes(module: Any, x: Tensor) -> Tensor:
    return _TwoSlopes.apply(x, *module.pieces())


def _max_pool(module: Any, x: Tensor) -> Tensor | None:
    size, stride, padding, dilation = (
        (n, n) if isinstance(n, int) else tuple(n)
        for n in (module.kernel_size, module.stride, module.padding, module.dilation)
    )
    if x.dim() != 4 or size != stride or padding != (0, 0) or dilation != (1, 1) or size[0] * size[1] > 256:
        return None
    rounds = -1 if module.ceil_mode else 1
    out = [rounds * (rounds * n // k) for n, k in zip(x.shape[2:], size, strict=True)]
    return None if module.return_indices or 0 in out else _MaxPool.apply(x, size, out, _goes_to_bits(x))


def _rows(x: Tensor) -> Any:
    """A tensor whose channels lie side by side, as a NumPy array (rows, channels)."""
    return x.movedim(1, -1).reshape(-1, x.shape[1]).numpy(force=True)


def _pixels(x: Tensor) -> Any:
    """A channels-last tensor as a NumPy array (N, H, W, channels)."""
    return x.movedim(1, -1).numpy(force=True)


def _channels_last(x: Tensor) -> Tensor:
    if isinstance(x, PooledGradient):
        return x.written()
    return x.contiguous(memory_format=torch.channels_last if x.dim() == 4 else torch.contiguous_format)


def _vector(x: Tensor | None) -> Any:
    return None if x is None else x.contiguous().numpy(force=True)


class _BatchNorm(torch.autograd.Function):
    """y = (x - mean) / sqrt(variance + epsilon) weight + bias, over all rows; also the mean and the variance."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, epsilon: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        y = torch.empty_like(x)
        mean, variance, inverse = x.new_empty(3, x.shape[1])
        native().batch_norm(
            _rows(x),
            _vector(weight),
            _vector(bias),
            epsilon,
            _rows(y),
            mean.numpy(),
            variance.numpy(),
            inverse.numpy(),
            torch.get_num_threads(),
        )
        ctx.save_for_backward(x, weight, mean, inverse)
        ctx.mark_non_differentiable(mean, variance)
        ctx.set_materialize_grads(False)
        return y, mean, variance

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse = ctx.saved_tensors
        if grads[0] is None:
            return None, None, None, None
        to_x = torch.empty_like(x)
        to_weight, to_bias = x.new_empty(2, x.shape[1])
        native().batch_norm_gradient(
            _rows(_channels_last(grads[0])),
            _rows(x),
            _vector(weight),
            mean.numpy(),
            inverse.numpy(),
            _rows(to_x),
            to_weight.numpy(),
            to_bias.numpy(),
            torch.get_num_threads(),
        )
        wanted = ctx.needs_input_grad
        return to_x, to_weight if wanted[1] else None, to_bias if wanted[2] else None, None


class _TwoSlopes(torch.autograd.Function):
    """y = right max(0, u) + left min(0, u) + after, where u = x + before."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, before: Tensor, left: Tensor, right: Tensor, after: Tensor) -> Tensor:
        y = torch.empty_like(x)
        pieces = (_vector(piece) for piece in (before, left, right, after))
        native().two_slopes(_rows(x), *pieces, _rows(y), torch.get_num_threads())
        ctx.save_for_backward(x, before, left, right)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, *pieces = ctx.saved_tensors
        to_x = torch.empty_like(x)
        to_pieces = x.new_empty(4, x.shape[1])
        native().two_slopes_gradient(
            _rows(_channels_last(grads[0])),
            _rows(x),
            *(_vector(piece) for piece in pieces),
            _rows(to_x),
            to_pieces.numpy(),
            torch.get_num_threads(),
        )
        found = (to_x, *to_pieces)
        return tuple(
            gradient if wanted else None for gradient, wanted in zip(found, ctx.needs_input_grad, strict=True)
        )


class _MaxPool(torch.autograd.Function):
    """The maxima of windows side by side, and one byte for each: its place in the window."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, size: tuple[int, int], out: list[int], lazy: bool) -> Tensor:
        y = torch.empty((*x.shape[:2], *out), memory_format=torch.channels_last)
        place = torch.empty(y.shape, dtype=torch.uint8, memory_format=torch.channels_last)
        native().max_pool_floats(_pixels(x), _pixels(y), _pixels(place), size, torch.get_num_threads())
        ctx.shape, ctx.size, ctx.lazy = x.shape, size, lazy
        ctx.save_for_backward(place)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (place,) = ctx.saved_tensors
        found = PooledGradient(_channels_last(grads[0]), place, ctx.size, ctx.shape)
        return found if ctx.lazy else found.written(), None, None, None


def _goes_to_bits(x: Tensor) -> bool:
    """Whether the gradient of `x` goes to a product on bits and to nobody else."""
    made_by = type(x.grad_fn).__name__
    return "hypersign_conv2d_of_levels" in made_by and x._backward_hooks is None and not x.retains_grad
