"""Folding a trained network into the graph of a packed file."""

import copy
from collections.abc import Sequence

import torch
from torch import nn

from hypersign._checks import HypersignError
from hypersign.packed.graph import INPUT, Graph, check_graph
from hypersign.packing.folding import Flow, Folding, LazyTensor
from hypersign.packing.handlers import HANDLERS

__all__ = ["fold"]


def fold(
    model: nn.Module,
    shape: tuple[int, int, int],
    *,
    pixel_range: tuple[float, float] | None,
    classes: Sequence[str] | None = None,
) -> tuple[Graph, dict[str, LazyTensor]]:
    """Folds a trained network into a graph and its tensors; each tensor is computed when `make` is called.

    Args:
        model: a float32 network: an `nn.Sequential` of supported layers, nested to any depth. It is folded in eval
            mode and does not change.
        shape: shape of an image, (channels, height, width).
        pixel_range: the values of the pixels 0 and 255 at the input of the first layer; None for float32 inputs.
        classes: names of the classes, in the order of the logits; None for 0, 1, 2, ...

    Raises:
        HypersignError: a layer has no packed form; the message names the layer and the reason.

    >>> from hypersign.models import vgg
    >>> graph, tensors = fold(vgg(), (3, 32, 32), pixel_range=(-1.0, 1.0))
    >>> [node.name for node in graph.nodes][:5], sum(t.dtype == "uint64" for t in tensors.values())
    (['conv1', 'conv2', 'pool2', 'conv3', 'conv4'], 9)
    """
    for name, values in (*model.named_parameters(), *model.named_buffers()):
        if values.is_floating_point() and values.dtype != torch.float32:
            raise HypersignError(f"{name} must be float32, in which networks are verified; it is {values.dtype}")
    folding = Folding(pixel_range, HANDLERS)
    channels, height, width = shape
    start = Flow(INPUT, "real" if pixel_range is None else "image", height, width, channels)
    # A container gives names to its layers. A network of one layer is named after its type.
    name = "" if isinstance(model, nn.Sequential) else type(model).__name__.lower()
    end = folding.real(folding.module(name, copy.deepcopy(model).cpu().eval(), start))
    names = tuple(map(str, range(end.channels))) if classes is None else tuple(classes)
    if (end.height, end.width) != (1, 1):
        raise HypersignError(f"the network must end with logits; it ends with images of {end.height} x {end.width}")
    graph = Graph((channels, height, width), pixel_range, names, tuple(folding.nodes))
    check_graph(graph, folding.tensors)
    return graph, folding.tensors
