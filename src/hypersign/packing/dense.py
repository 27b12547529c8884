"""The float32 network that a packed network replaces, for speed comparisons."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hypersign.packed.graph import INPUT, Graph
from hypersign.packed.values import Node, Value

__all__ = ["DenseNetwork", "has_dense_form"]

DENSE = {"add", "concat", "max_pool2d", "avg_pool2d", "image_conv2d", "conv2d", "real_conv2d"}
"""Operations that the dense network also has."""

AROUND = {"pixels", "unpack", "affine", "clip", "centre", "quantize"}
"""Operations that the dense network omits, or replaces by a batch norm and a hard tanh."""


def has_dense_form(graph: Graph) -> bool:
    """Whether every operation of a packed graph has a dense counterpart. Operations on rotations have none."""
    return all(node.op in DENSE | AROUND for node in graph.nodes)


class DenseNetwork(nn.Module):
    """A float32 network with the layers of a packed graph and random weights.

    It has the same products and pools. It has a batch norm and a hard tanh wherever the packed network has
    thresholds, like the float network that one would train and deploy instead.

    Args:
        graph: graph of a `PackedModel`; it must have a dense form.
        values: values of the same `PackedModel`.
    """

    def __init__(self, graph: Graph, values: dict[str, Value]) -> None:
        super().__init__()
        self.nodes = graph.nodes
        self.channels = {name: value.channels for name, value in values.items()}
        self.layers = nn.ModuleDict()
        # If a value is pooled, its batch norm comes after the pool, where there are fewer numbers.
        pooled = {node.inputs[0]: node.name for node in graph.nodes if node.op == "max_pool2d"}
        self._clipped = {pooled.get(name, name) for name, value in values.items() if value.kind == "levels"}
        for node in graph.nodes:
            x, y = values[node.inputs[0]], values[node.name]
            if "kernel" in node.options:
                self.layers[self.key(node)] = self._product(node, x, y)
            if self.clipped(node):
                self.layers[f"{self.key(node)}_norm"] = nn.BatchNorm2d(y.channels)
        self.eval()

    @staticmethod
    def key(node: Node) -> str:
        """Returns the name of a node's layer."""
        return node.name.replace(".", "_")

    def clipped(self, node: Node) -> bool:
        """Whether a batch norm and a hard tanh follow the node."""
        return node.name in self._clipped

    @staticmethod
    def _product(node: Node, x: Value, y: Value) -> nn.Module:
        kernel = tuple(node.options["kernel"])
        if kernel == (x.height, x.width) and (y.height, y.width) == (1, 1):
            return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(kernel) * x.channels, y.channels, bias=False))
        return nn.Conv2d(
            x.channels,
            y.channels,
            kernel,
            node.options["stride"],
            tuple(node.options["padding"]),
            node.options["dilation"],
            node.options.get("groups", 1),
            bias=False,
        )

    def forward(self, images: Tensor) -> Tensor:
        """Maps float32 images (N, channels, height, width) to logits (N, classes)."""
        values: dict[str, Tensor] = {INPUT: images}
        for node in self.nodes:
            inputs = [values[name] for name in node.inputs]
            values[node.name] = self._run(node, *inputs)
        return values[self.nodes[-1].name].flatten(1)

    def _run(self, node: Node, *inputs: Any) -> Tensor:
        key = self.key(node)
        x = inputs[0]
        if key in self.layers:
            y = self.layers[key](x)
            x = y if y.dim() == 4 else y[:, :, None, None]
        elif node.op in ("max_pool2d", "avg_pool2d"):
            options = dict(node.options)
            pool = F.max_pool2d if node.op == "max_pool2d" else F.avg_pool2d
            x = pool(x, options.pop("size"), **options)
        elif node.op == "add":
            x = x + inputs[1]
        elif node.op == "concat":
            x = torch.cat(inputs, 1)
        return F.hardtanh(self.layers[f"{key}_norm"](x)) if self.clipped(node) else x
