"""Folding a trained network into the graph of a packed file."""

import math
from collections.abc import Sequence

import torch
from torch import nn

from hypersign._checks import HypersignError, check_int, check_real
from hypersign.layers.copying import copy_module
from hypersign.packed import decisions
from hypersign.packed.graph import INPUT, Graph, check_graph
from hypersign.packing.folding import Flow, Folding, LazyTensor
from hypersign.packing.handlers import HANDLERS
from hypersign.packing.traced import root_name
from hypersign.tasks import Classification, Regression, Task

__all__ = ["check_float32", "fold"]


def fold(
    model: nn.Module,
    shape: tuple[int, ...],
    *,
    pixel_range: tuple[float, float] | None,
    classes: Sequence[str] | None = None,
    task: Task | None = None,
) -> tuple[Graph, dict[str, LazyTensor]]:
    """Folds a trained network into a graph and its tensors; each tensor is computed when `make` is called.

    Args:
        model: a float32 network of supported layers: an `nn.Sequential`, nested to any depth, or a module with a
            forward of its own that torch.fx can follow. It is folded in eval mode and does not change.
        shape: shape of an image, (channels, height, width), or of a vector, (features,).
        pixel_range: the values of the pixels 0 and 255 at the input of the first layer; None for float32 inputs.
        classes: names of the classes, in the order of the logits; None for 0, 1, 2, ...
        task: the network's task: classification (None) or regression.

    Raises:
        HypersignError: a layer or the task has no packed form; the message names the layer and the reason.

    >>> from hypersign.models import vgg
    >>> graph, tensors = fold(vgg(), (3, 32, 32), pixel_range=(-1.0, 1.0))
    >>> [node.name for node in graph.nodes][:5], sum(t.dtype == "uint64" for t in tensors.values())
    (['conv1', 'conv2', 'pool2', 'conv3', 'conv4'], 9)
    """
    check_float32(model)
    if not isinstance(shape, tuple | list) or len(shape) not in (1, 3):
        raise HypersignError(
            f"a network is packed for images (channels, height, width) or vectors (features,); got the shape {shape}"
        )
    shape = tuple(check_int("a size of the shape", size, min=1) for size in shape)
    if pixel_range is not None:
        low, high = (check_real("each of the two numbers of pixel_range", value) for value in pixel_range)
        if not -math.inf < low < high < math.inf:
            raise HypersignError(f"pixel_range must be (low, high) with low < high; got {pixel_range}")
    decision = _decision(task)
    folding = Folding(pixel_range, HANDLERS)
    channels, height, width = (*shape, 1, 1) if len(shape) == 1 else shape
    start = Flow(INPUT, "real" if pixel_range is None else "image", height, width, channels)
    # A container gives names to its layers. A network of one layer is named after its type.
    name = root_name(model, HANDLERS)
    end = folding.real(folding.module(name, copy_module(model).cpu().eval(), start))
    if (end.height, end.width) != (1, 1):
        raise HypersignError(f"the network must end with logits; it ends with images of {end.height} x {end.width}")
    if isinstance(decision, decisions.Regression):
        names: tuple[str, ...] = ()
    else:
        names = tuple(map(str, range(end.channels))) if classes is None else tuple(classes)
    graph = Graph((channels, height, width), pixel_range, names, tuple(folding.nodes), decision)
    check_graph(graph, folding.tensors)
    return graph, folding.tensors


def check_float32(model: nn.Module) -> None:
    """Raises HypersignError if the network is none of float32."""
    if not isinstance(model, nn.Module):
        raise HypersignError(f"a torch network or a run is packed; got {type(model).__name__}")
    for name, values in (*model.named_parameters(), *model.named_buffers()):
        if values.is_floating_point() and values.dtype != torch.float32:
            raise HypersignError(f"{name} must be float32, in which networks are verified; it is {values.dtype}")


def _decision(task: Task | None) -> decisions.Task:
    """What the outputs of a network with this task stand for."""
    if task is None or isinstance(task, Classification):
        return decisions.Classification()
    if isinstance(task, Regression):
        return decisions.Regression(task.tolerance)
    raise HypersignError(
        f"a packed network gives classes or numbers; the task {task.name!r} has no packed form: run the float network"
    )
