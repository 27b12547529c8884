"""Binary and ternary networks through high-dimensional geometry.

The front door: what most people need, by one import. Each name is loaded at its first use, so `import hypersign`
takes milliseconds and imports no torch. Each part (`hypersign.layers`, `hypersign.geometry`, ...) offers more.
"""

import importlib
from typing import TYPE_CHECKING, Any

from hypersign._checks import HypersignError

if TYPE_CHECKING:
    from hypersign.geometry import inspect
    from hypersign.hashing import HammingIndex, SignHasher
    from hypersign.layers import convert
    from hypersign.packed import PackedModel
    from hypersign.packing import pack
    from hypersign.runs import load
    from hypersign.summaries import summary
    from hypersign.training import Recipe, train

__version__ = "0.2.0"

__all__ = [
    "load",
    "train",
    "Recipe",
    "inspect",
    "convert",
    "pack",
    "summary",
    "PackedModel",
    "SignHasher",
    "HammingIndex",
    "HypersignError",
]

_PARTS = {
    "load": "runs",
    "train": "training",
    "Recipe": "training",
    "inspect": "geometry",
    "convert": "layers",
    "pack": "packing",
    "summary": "summaries",
    "PackedModel": "packed",
    "SignHasher": "hashing",
    "HammingIndex": "hashing",
}
"""The part that each name belongs to. No part has the name of a verb: it would take the verb's place."""


def __getattr__(name: str) -> Any:
    """Loads a name of the front door from its part, at its first use."""
    if name not in _PARTS:
        raise AttributeError(f"module 'hypersign' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"hypersign.{_PARTS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
