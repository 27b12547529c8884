"""Functions of real numbers that packed networks compute, in the type of their input."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ACTIVATIONS", "attention", "gelu", "log_softmax", "sigmoid", "softmax"]

Numbers = NDArray[Any]


def sigmoid(x: Numbers) -> Numbers:
    """1 / (1 + exp(-x)).

    >>> sigmoid(np.float32([0])).tolist()
    [0.5]
    """
    with np.errstate(over="ignore"):  # exp(-x) = inf gives 0
        y: Numbers = 1 / (1 + np.exp(-x))
    return y


def softmax(x: Numbers) -> Numbers:
    """exp(x) / sum exp(x), over the last axis.

    >>> softmax(np.float32([1, 1])).tolist()
    [0.5, 0.5]
    """
    y = np.exp(x - x.max(-1, keepdims=True))
    found: Numbers = y / y.sum(-1, keepdims=True)
    return found


def log_softmax(x: Numbers) -> Numbers:
    """x - log(sum exp(x)), over the last axis.

    >>> log_softmax(np.float32([3])).tolist()
    [0.0]
    """
    x = x - x.max(-1, keepdims=True)
    y: Numbers = x - np.log(np.exp(x).sum(-1, keepdims=True))
    return y


def attention(q: Numbers, k: Numbers, v: Numbers, scale: float, seen: NDArray[np.bool_] | None = None) -> Numbers:
    """softmax(scale q k^T) v over the last two axes; a query sees the keys that `seen` names, all if None.

    >>> attention(np.ones((1, 1)), np.ones((1, 1)), np.full((1, 1), 5.0), 1.0).tolist()
    [[5.0]]
    """
    scores = q @ k.swapaxes(-1, -2) * scale
    if seen is not None:
        scores = np.where(seen, scores, scores.dtype.type(-np.inf))
    y: Numbers = softmax(scores) @ v
    return y


def gelu(x: Numbers) -> Numbers:
    """x times the normal distribution function of x.

    >>> gelu(np.float32([0])).tolist()
    [0.0]
    """
    from scipy.special import erf

    y: Numbers = 0.5 * x * (1 + erf(x / math.sqrt(2)))
    return y


def _gelu_tanh(x: Numbers) -> Numbers:
    y: Numbers = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))
    return y


def _softplus(x: Numbers) -> Numbers:
    y: Numbers = np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))
    return y


def _hard_sigmoid(x: Numbers) -> Numbers:
    y: Numbers = np.clip(x + 3, 0, 6) / 6
    return y


ACTIVATIONS: dict[str, Callable[[Numbers], Numbers]] = {
    "gelu": gelu,
    "gelu_tanh": _gelu_tanh,
    "silu": lambda x: x * sigmoid(x),
    "sigmoid": sigmoid,
    "tanh": np.tanh,
    "softplus": _softplus,
    "mish": lambda x: x * np.tanh(_softplus(x)),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "hardswish": lambda x: x * _hard_sigmoid(x),
    "hardsigmoid": _hard_sigmoid,
    "exp": np.exp,
    "abs": np.abs,
}
"""Functions of one number, by the name that files use."""
