"""Handlers of activations without parameters."""

from torch import nn

from hypersign.packing.folding import Flow, Folding, Monotone

__all__ = ["hardtanh", "relu", "tanh"]


def relu(folding: Folding, name: str, module: nn.ReLU, x: Flow) -> Flow:
    """Waits to be folded; has no upper bound."""
    return x.then(Monotone(name, module, clip=(0.0, None)))


def hardtanh(folding: Folding, name: str, module: nn.Hardtanh, x: Flow) -> Flow:
    """Waits to be folded; `nn.ReLU6` is one too."""
    return x.then(Monotone(name, module, clip=(float(module.min_val), float(module.max_val))))


def tanh(folding: Folding, name: str, module: nn.Tanh, x: Flow) -> Flow:
    """Waits to be folded: monotone, so in front of a quantizer it only moves thresholds."""

    def computed(folding: Folding, y: Flow) -> Flow:
        return y.after(folding.node("activation", name, y.name, function="tanh"))

    return x.then(Monotone(name, module, real=computed))
