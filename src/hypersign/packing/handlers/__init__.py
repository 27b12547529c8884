"""How each type of layer becomes nodes of a packed graph: one file per family, and their table."""

from hypersign.packing.handlers.table import HANDLERS

__all__ = ["HANDLERS"]
