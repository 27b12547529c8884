"""Folding a trained network into the graph of a packed file."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from hypersign._checks import HypersignError, check_int, check_real
from hypersign.layers.copying import copy_module
from hypersign.packed import decisions
from hypersign.packed.graph import INPUT, Graph, Output, check_graph
from hypersign.packed.values import Kind
from hypersign.packing.folding import Flow, Folding, LazyTensor
from hypersign.packing.handlers import HANDLERS
from hypersign.packing.traced import known_type, root_name, uncompiled
from hypersign.tasks import Classification, Regression, Task

__all__ = ["check_float32", "fold"]


Shape = tuple[int, ...]


def fold(
    model: nn.Module,
    shape: Shape | Sequence[Shape],
    *,
    pixel_range: tuple[float, float] | None,
    classes: Sequence[str] | None = None,
    task: Task | Sequence[Task | None] | None = None,
) -> tuple[Graph, dict[str, LazyTensor]]:
    """Folds a trained network into a graph and its tensors; each tensor is computed when `make` is called.

    Args:
        model: a float32 network. It is folded in eval mode and does not change. Layers with a forward of their own
            are followed: what has an exact integer form becomes bits and thresholds, what has none float32.
        shape: shape of an image, (channels, height, width), of a signal, (channels, length), or of a vector,
            (features,); for a network of several inputs a list of shapes.
        pixel_range: the values of the pixels 0 and 255 at the input of the first layer; None for float32 inputs.
            Further inputs are always float32.
        classes: names of the classes, in the order of the logits; None for 0, 1, 2, ...
        task: the network's task: classification (None) or regression. For several outputs a list with one for each.

    Raises:
        HypersignError: a layer or the task has no packed form; the message names the layer and the reason.

    >>> from hypersign.models import vgg
    >>> graph, tensors = fold(vgg(), (3, 32, 32), pixel_range=(-1.0, 1.0))
    >>> [node.name for node in graph.nodes][:5], sum(t.dtype == "uint64" for t in tensors.values())
    (['conv1', 'conv2', 'pool2', 'conv3', 'conv4'], 9)
    """
    check_float32(model)
    if pixel_range is not None:
        low, high = (check_real("each of the two numbers of pixel_range", value) for value in pixel_range)
        if not -math.inf < low < high < math.inf:
            raise HypersignError(f"pixel_range must be (low, high) with low < high; got {pixel_range}")
    starts = _starts(shape, pixel_range)
    folding = Folding(pixel_range, HANDLERS)
    model = uncompiled(copy_module(model).cpu().eval())
    # A container gives names to its layers. A network of one layer is named after its type.
    name = root_name(model, HANDLERS)
    if known_type(model, HANDLERS) is not None:
        ends = [("output", folding.module(name, model, *starts))]
    else:
        ends = folding.calls(name, model, *starts)
    tasks: list[Any] = list(task) if isinstance(task, tuple | list) else [task] * len(ends)
    if len(tasks) != len(ends):
        raise HypersignError(f"task must name one task for each of the {len(ends)} outputs; got {len(tasks)}")
    sizes = [(flow.channels, flow.height, flow.width) for flow in starts]
    more = tuple((f"{INPUT}{i}", size) for i, size in enumerate(sizes[1:], start=2))
    outputs: tuple[Output, ...] = ()
    names: tuple[str, ...] = () if classes is None else tuple(classes)
    decision: decisions.Task = decisions.CLASSIFICATION
    if len(ends) == 1 and ends[0][1].is_vector:
        end = folding.real(ends[0][1])
        decision = _decision(tasks[0])
        if isinstance(decision, decisions.Regression):
            names = ()
        elif classes is None:
            names = tuple(map(str, range(end.channels)))
    else:
        outputs = tuple(
            _output(folding, output, flow, of, len(ends) == 1) for (output, flow), of in zip(ends, tasks, strict=True)
        )
    graph = Graph(sizes[0], pixel_range, names, tuple(folding.nodes), decision, more, outputs)
    check_graph(graph, folding.tensors)
    return graph, folding.tensors


def _starts(shape: Shape | Sequence[Shape], pixel_range: tuple[float, float] | None) -> list[Flow]:
    """The inputs of a network."""
    several = isinstance(shape, tuple | list) and shape and all(isinstance(each, tuple | list) for each in shape)
    starts = []
    for i, each in enumerate(shape if several else [shape], start=1):
        if not isinstance(each, tuple | list) or len(each) not in (1, 2, 3):
            raise HypersignError(
                "a network is packed for images (channels, height, width), signals (channels, length) or vectors "
                f"(features,); got the shape {each}"
            )
        sizes = tuple(check_int("a size of the shape", size, min=1) for size in each)
        channels, height, width = {1: (*sizes, 1, 1), 2: (sizes[0], 1, sizes[-1]), 3: sizes}[len(sizes)]
        kind: Kind = "image" if pixel_range is not None and i == 1 else "real"
        starts.append(Flow(INPUT if i == 1 else f"{INPUT}{i}", kind, height, width, channels, rank=len(sizes)))
    return starts


def _output(folding: Folding, name: str, flow: Flow, task: Task | None, alone: bool) -> Output:
    """One of several outputs, or one that is no vector; without a task, images alone are classes at each pixel."""
    shape = flow.shape
    if task is not None:
        decision = _decision(task)
    elif alone and flow.rows is None and flow.rank == 3 and shape[0] > 1:
        decision = decisions.CLASSIFICATION
    else:
        decision = decisions.NUMBERS
    end = folding.in_rows(f"{name}.rows", flow)
    if end.name.startswith(INPUT) and all(node.name != end.name for node in folding.nodes):
        raise HypersignError(f"{name} must be computed by the network; it is its input")
    return Output(name, end.name, shape, decision)


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
