"""Packed networks: the file that holds one, and the runtime that runs it on bits. No torch here."""

from hypersign.packed.graph import Graph
from hypersign.packed.model import PackedModel
from hypersign.packed.values import Node, Value

__all__ = ["PackedModel", "Graph", "Node", "Value"]
