"""Packed networks: the file that holds one, and the runtime that runs it on bits. No torch here."""

from hypersign.packed.graph import Graph, Node, Value
from hypersign.packed.model import PackedModel

__all__ = ["PackedModel", "Graph", "Node", "Value"]
