"""Binary and ternary networks through high-dimensional geometry.

The front door: what most people need, by one import. Each name is loaded at its first use, so `import hypersign`
takes milliseconds and imports no torch. Each part (`hypersign.layers`, `hypersign.geometry`, ...) offers more.
"""

from typing import TYPE_CHECKING

from hypersign._checks import HypersignError
from hypersign._lazy import lazily

if TYPE_CHECKING:
    from hypersign.forecasting import forecast
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
    "forecast",
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
    "forecast": "forecasting",
    "convert": "layers",
    "pack": "packing",
    "summary": "summaries",
    "PackedModel": "packed",
    "SignHasher": "hashing",
    "HammingIndex": "hashing",
}
"""The part that each name belongs to. No part has the name of a verb: it would take the verb's place."""


__getattr__, __dir__ = lazily(__name__, _PARTS)
