"""Matrices and recurrent cells of packed files, in NumPy: language models and the operation `recurrent` run them."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypersign._checks import HypersignError, check_choice, check_int
from hypersign.bits import Filters8, unpack, unpack_ternary
from hypersign.packed.functions import sigmoid

__all__ = ["GATES", "INPUTS", "MOST", "Floats", "Matrix", "Recurrent", "Tensors", "keys"]

Floats = NDArray[np.float32]

INPUTS = ("real", "int8", "sign")
"""What a product reads: numbers, 8-bit levels with a scale per token, or signs."""

GATES = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}
"""The recurrent cells, and the rows per unit of their matrices."""

MOST = 2**20
"""The most classes, units and layers: far above any network, far below what memory holds."""


class Tensors:
    """The tensors of a file, each of which is taken once, with its type and shape."""

    def __init__(self, tensors: Mapping[str, NDArray[Any]]) -> None:
        self.left = dict(tensors)

    def take(self, name: str, dtype: Any, *shape: int) -> NDArray[Any]:
        """The tensor `name`.

        Raises:
            HypersignError: it is missing, has another type or shape, or holds numbers that are not finite.
        """
        found = self.left.pop(name, None)
        if found is None or found.dtype != dtype or found.shape != shape:
            given = "missing" if found is None else f"{found.dtype} of shape {found.shape}"
            raise HypersignError(f"the tensor {name!r} must be {np.dtype(dtype)} of shape {shape}; it is {given}")
        if found.dtype == np.float32 and not np.isfinite(found).all():
            raise HypersignError(f"the tensor {name!r} must hold finite numbers; it holds NaN or infinity")
        return found

    def optional(self, name: str, *shape: int) -> Floats | None:
        """A float32 tensor, or None where there is none."""
        return self.take(name, np.float32, *shape) if name in self.left else None

    def planes(self, name: str) -> tuple[int, ...]:
        """`(2,)` where packed levels are ternary, else nothing."""
        return (2,) if name in self.left and self.left[name].ndim == 3 else ()


class Matrix:
    """A matrix with its inputs' quantizer: "real", "int8" (a scale per token) or "sign"."""

    def __init__(self, name: str, tensors: Tensors, outputs: int, features: int, inputs: str) -> None:
        self.inputs, self.filters8, self.scale = check_choice("inputs", inputs, INPUTS), None, None
        matrix = tensors.optional(f"{name}.weight", outputs, features)
        if matrix is not None:
            self.matrix = matrix
            return
        shape = (*tensors.planes(f"{name}.levels"), outputs, -(-features // 64))
        words = tensors.take(f"{name}.levels", np.uint64, *shape)
        scale = tensors.take(f"{name}.scale", np.float32, outputs)
        if inputs == "int8":
            self.filters8 = Filters8(words, features, scale=scale[:, None])
        else:
            levels = unpack(words, features) if words.ndim == 2 else unpack_ternary(words, features)
            self.matrix, self.scale = levels.astype(np.float32), scale

    def __call__(self, x: Floats) -> Floats:
        flat = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
        if self.inputs == "int8":
            scale = np.maximum(np.abs(flat).max(1, initial=0, keepdims=True), np.float32(1e-5)) / np.float32(127)
            levels = np.clip(np.rint(flat / scale), -127, 127)
            if self.filters8 is not None:
                y = self.filters8.matmul(levels.astype(np.int8), scale[:, 0])
            else:
                y = levels @ self.matrix.T * scale
            return y.reshape(*x.shape[:-1], y.shape[1])
        levels = np.where(flat >= 0, np.float32(1), np.float32(-1)) if self.inputs == "sign" else flat
        y = levels @ self.matrix.T
        y = y if self.scale is None else y * self.scale
        return y.reshape(*x.shape[:-1], y.shape[1])


def keys(what: str, found: Any, *keys: str) -> Mapping[str, Any]:
    """`found`, which must be a JSON object with these keys.

    Raises:
        HypersignError: it is another thing, or has other keys.
    """
    if not isinstance(found, dict) or set(found) != set(keys):
        raise HypersignError(f"{what} must have {', '.join(keys)}; it is {found!r:.80}")
    return found


class Recurrent:
    """A recurrent layer: LSTM, GRU or RNN.

    Args:
        name: the prefix of its tensors' names.
        layer: its entry in the structure: cell, units, inputs and hidden.
        tensors: those of the file.
        width: numbers per step of the input.
        steps: the length of all sequences, where batch norm may have statistics for each step.
    """

    def __init__(self, name: str, layer: Any, tensors: Tensors, width: int, steps: int | None = None) -> None:
        layer = keys("it", layer, "cell", "units", "inputs", "hidden")
        self.cell = check_choice("cell", layer["cell"], tuple(GATES))
        self.width = units = check_int("units", layer["units"], min=1, max=MOST)
        rows = GATES[self.cell] * units
        self.ih = Matrix(f"{name}.ih", tensors, rows, width, layer["inputs"])
        self.hh = Matrix(f"{name}.hh", tensors, rows, units, layer["hidden"])
        self.bias = {kind: tensors.optional(f"{name}.{kind}.bias", rows) for kind in ("ih", "hh")}
        sizes = (("ih", rows), ("hh", rows), ("c", units))
        self.norms = {kind: self._norm(f"{name}.norm_{kind}", tensors, size, steps) for kind, size in sizes}

    def _norm(
        self, name: str, tensors: Tensors, size: int, steps: int | None
    ) -> Callable[[Floats, int | None], Floats] | None:
        """The norm as a function of values and their step; None for all steps side by side."""
        weight, bias = tensors.optional(f"{name}.weight", size), tensors.optional(f"{name}.bias", size)
        if weight is None:
            return None
        bias = np.zeros(size, np.float32) if bias is None else bias
        if f"{name}.mean" in tensors.left:
            shape = (size,) if steps is None or tensors.left[f"{name}.mean"].ndim == 1 else (steps, size)
            mean = tensors.take(f"{name}.mean", np.float32, *shape)
            variance = tensors.take(f"{name}.variance", np.float32, *shape)
            if (variance < 0).any():
                raise HypersignError(f"the tensor {name}.variance must hold no negative number")
            deviation: Floats = np.sqrt(variance + np.float32(1e-5))

            def batch(x: Floats, step: int | None) -> Floats:
                at = slice(None) if len(shape) == 1 or step is None else step
                return (x - mean[at]) / deviation[at] * weight + bias

            return batch

        def layer(x: Floats, step: int | None) -> Floats:
            centred = x - x.mean(-1, keepdims=True)
            return centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + np.float32(1e-5)) * weight + bias

        return layer

    def _added(self, kind: str, x: Floats, step: int | None) -> Floats:
        norm, bias = self.norms[kind], self.bias[kind]
        x = x if norm is None else norm(x, step)
        return x if bias is None else x + bias

    def __call__(self, x: Floats, memory: tuple[Floats, ...] | None) -> tuple[Floats, tuple[Floats, ...]]:
        zero = np.zeros((len(x), self.width), np.float32)
        state = ((zero, zero) if self.cell == "LSTM" else (zero,)) if memory is None else memory
        from_inputs = self._added("ih", self.ih(x), None)
        outputs = np.empty((*x.shape[:2], self.width), np.float32)
        for t in range(x.shape[1]):
            state = self._step(from_inputs[:, t], self._added("hh", self.hh(state[0]), t), state, t)
            outputs[:, t] = state[0]
        return outputs, state

    def _step(self, x: Floats, h: Floats, state: tuple[Floats, ...], step: int) -> tuple[Floats, ...]:
        if self.cell == "LSTM":
            i, f, g, o = np.split(x + h, 4, -1)
            c = sigmoid(f) * state[1] + sigmoid(i) * np.tanh(g)
            norm = self.norms["c"]
            return sigmoid(o) * np.tanh(c if norm is None else norm(c, step)), c
        if self.cell == "GRU":
            (xr, xz, xn), (hr, hz, hn) = np.split(x, 3, -1), np.split(h, 3, -1)
            n = np.tanh(xn + sigmoid(xr + hr) * hn)
            return (n + sigmoid(xz + hz) * (state[0] - n),)
        return (np.tanh(x + h) if self.cell == "RNN_TANH" else np.maximum(x + h, 0),)
