"""The gradient of a max pool's inputs, kept as its parts: most of its numbers are 0."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from hypersign.bits.backend import native

__all__ = ["PooledGradient"]


class PooledGradient(Tensor):
    """The gradient of a max pool's inputs, which is written only where somebody reads it.

    A convolution on bits reads the parts, in a quarter of the memory. Every other operation gets an ordinary tensor.

    Args:
        outputs: the gradient of the pool's outputs, float32 (N, C, H', W'), channels-last in memory.
        place: the place of each maximum in its window, uint8 of the same shape and order.
        window: the size of a window; windows lie side by side.
        shape: the shape (N, C, H, W) of the inputs.
    """

    outputs: Tensor
    place: Tensor
    window: tuple[int, int]

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]  # results are tensors

    def __new__(
        cls, outputs: Tensor, place: Tensor, window: tuple[int, int], shape: tuple[int, ...]
    ) -> "PooledGradient":
        strides = torch.empty(shape, device="meta", memory_format=torch.channels_last).stride()
        self: PooledGradient = Tensor._make_wrapper_subclass(
            cls, shape, strides=strides, dtype=outputs.dtype, device=outputs.device
        )
        self.outputs, self.place, self.window = outputs, place, window
        return self

    def written(self) -> Tensor:
        """The gradient as an ordinary tensor, channels-last in memory."""
        out = torch.empty(self.shape, dtype=self.dtype, memory_format=torch.channels_last)
        parts = (x.movedim(1, -1).numpy() for x in (self.outputs, self.place, out))
        native().max_pool_floats_gradient(*parts, self.window, torch.get_num_threads())
        return out

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        args, kwargs = tree_map_only(cls, cls.written, (args, kwargs or {}))
        return func(*args, **kwargs)
