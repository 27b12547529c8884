"""Packed networks: their file, and the runtime that runs them on bits, without torch."""

from hypersign.packed.graph import Graph
from hypersign.packed.model import PackedModel
from hypersign.packed.profile import NodeTime, Profile, profile
from hypersign.packed.text import PackedText
from hypersign.packed.values import Node, Value

__all__ = ["PackedModel", "PackedText", "profile", "Profile", "NodeTime", "Graph", "Node", "Value"]
