"""Handlers of activations that clip."""

from torch import nn

from hypersign.packing.folding import Flow, Folding, Monotone

__all__ = ["hardtanh", "relu"]


def relu(folding: Folding, name: str, module: nn.ReLU, x: Flow) -> Flow:
    """Waits to be folded; has no upper bound."""
    return x.then(Monotone(name, module, clip=(0.0, None)))


def hardtanh(folding: Folding, name: str, module: nn.Hardtanh, x: Flow) -> Flow:
    """Waits to be folded; `nn.ReLU6` is one too."""
    return x.then(Monotone(name, module, clip=(float(module.min_val), float(module.max_val))))
