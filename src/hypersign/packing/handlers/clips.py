"""Handlers of activations without parameters."""

from torch import nn

from hypersign.packing.folding import Flow, Folding, Monotone, refusal

__all__ = ["hardtanh", "relu", "tanh"]


def relu(folding: Folding, name: str, module: nn.ReLU, x: Flow) -> Flow:
    """Waits to be folded; has no upper bound."""
    return x.then(Monotone(name, module, clip=(0.0, None)))


def hardtanh(folding: Folding, name: str, module: nn.Hardtanh, x: Flow) -> Flow:
    """Waits to be folded; `nn.ReLU6` is one too."""
    return x.then(Monotone(name, module, clip=(float(module.min_val), float(module.max_val))))


def tanh(folding: Folding, name: str, module: nn.Tanh, x: Flow) -> Flow:
    """Waits to be folded: monotone, so it only moves thresholds. A packed network cannot compute it."""

    def refused(folding: Folding, y: Flow) -> Flow:
        raise refusal(name, module, "it is packed only in front of a quantizer, whose thresholds take it in")

    return x.then(Monotone(name, module, real=refused))
