"""The graph of a packed network: its operations in order, and a check that nodes and tensors fit together."""

import dataclasses
import math
from collections.abc import Mapping

from hypersign._checks import HypersignError, check_choice, check_int, check_real
from hypersign.packed.decisions import CLASSIFICATION, Classification, Task
from hypersign.packed.operations import OPERATIONS, NodeShapes
from hypersign.packed.values import MOST_NUMBERS, Node, Tensor, Value, check_size

__all__ = ["INPUT", "Graph", "Output", "check_graph"]

INPUT = "input"
"""The name by which nodes refer to the network's input."""

LOAD_BYTES, LOAD_FACTOR = 2**26, 128
"""Loading allocates at most LOAD_BYTES + LOAD_FACTOR * (bytes of all tensors).

In the kernels, filters with one channel can take 128 times their bytes, because they fill whole registers. So this
limit only rejects a small file with few, huge filters.
"""


@dataclasses.dataclass(frozen=True)
class Output:
    """One of several outputs of a network, or one that is no vector.

    Args:
        name: what it is called.
        node: the node that gives it.
        shape: its shape for one input, as the torch network gives it; the node's numbers are in this order.
        task: what it stands for.
    """

    name: str
    node: str
    shape: tuple[int, ...]
    task: Task


@dataclasses.dataclass(frozen=True)
class Graph:
    """A packed network without its tensors.

    Args:
        shape: shape of an input, (channels, height, width); that of a vector is (features, 1, 1).
        pixel_range: the values that the pixels 0 and 255 represent; None if inputs are float32.
        classes: names of the classes, in the order of the logits; empty if the outputs are no classes.
        nodes: the operations, in the order in which they run.
        task: what the outputs stand for.
        more_inputs: names and shapes of further inputs, which are float32; most networks have none.
        outputs: the outputs, if they are several or no vector; empty where the last node gives a vector.
    """

    shape: tuple[int, int, int]
    pixel_range: tuple[float, float] | None
    classes: tuple[str, ...]
    nodes: tuple[Node, ...]
    task: Task = CLASSIFICATION
    more_inputs: tuple[tuple[str, tuple[int, int, int]], ...] = ()
    outputs: tuple[Output, ...] = ()

    @property
    def inputs(self) -> dict[str, tuple[int, int, int]]:
        """The shape of each input by the name that nodes use."""
        return {INPUT: self.shape, **dict(self.more_inputs)}

    @property
    def ends(self) -> tuple[str, ...]:
        """The names of the nodes that give the outputs."""
        return tuple(output.node for output in self.outputs) or (self.nodes[-1].name,)

    def check_plain(self, what: str, values: Mapping[str, Value]) -> None:
        """Raises HypersignError unless it has one input, its last node gives a vector, and sums have one shape."""
        if self.more_inputs or self.outputs:
            raise HypersignError(
                f"{what} takes networks of one input and one vector of outputs; this one has {len(self.inputs)} "
                f"inputs and gives {', '.join(f'{each.name} {each.shape}' for each in self.outputs) or 'a vector'}"
            )
        for node in self.nodes:
            if node.op == "add" and len({values[name] for name in node.inputs if name in values}) > 1:
                raise HypersignError(f"{what} adds values of one shape; those of node {node.name!r} have several")


def check_graph(graph: Graph, tensors: Mapping[str, Tensor]) -> dict[str, Value]:
    """Checks that a graph is complete and that its tensors fit. Returns the value of each node, by the node's name.

    Args:
        graph: the graph.
        tensors: its tensors by name; only their dtypes and shapes are read.

    Raises:
        HypersignError: nodes or tensors do not fit. The message names the node.
    """
    if graph.pixel_range is not None:
        low, high = (check_real("pixel_range", bound) for bound in graph.pixel_range)
        if not -math.inf < low < high < math.inf:
            raise HypersignError(f"pixel_range must be (low, high) with low < high; got {graph.pixel_range}")
    values: dict[str, Value] = {}
    for name, shape in ((INPUT, graph.shape), *graph.more_inputs):
        if len(shape) != 3:
            raise HypersignError(f"shape must be (channels, height, width) of an input; got {shape}")
        channels, height, width = (check_int("shape", size, min=1, max=MOST_NUMBERS) for size in shape)
        check_size("the input", height, width, channels)
        if not name or name in values:
            raise HypersignError(f"an input must have a name of its own; got {name!r}")
        real = graph.pixel_range is None or name != INPUT
        values[name] = Value("real" if real else "image", height, width, channels)
    room = LOAD_BYTES + LOAD_FACTOR * sum(math.prod(t.shape) * t.dtype.itemsize for t in tensors.values())
    left = dict(tensors)
    unread: set[str] = set()
    for node in graph.nodes:
        try:
            values[node.name], load_bytes = _check_node(node, values, left)
            room -= load_bytes
            if room < 0:
                raise HypersignError(
                    f"its filters take {load_bytes} bytes when they are loaded, which is too much for the size of "
                    f"the file: all nodes together may take {LOAD_BYTES} and {LOAD_FACTOR} times the tensors' bytes"
                )
        except HypersignError as error:
            raise HypersignError(f"node {node.name!r}: {error}") from error
        unread -= set(node.inputs)
        unread.add(node.name)
    _check_ends(graph, values, left, unread)
    return values


def _check_ends(graph: Graph, values: Mapping[str, Value], left: Mapping[str, Tensor], unread: set[str]) -> None:
    """Checks that every value and tensor is used and that the last node returns the outputs."""
    if not graph.nodes:
        raise HypersignError("a network must have at least one node; this one has none")
    last = graph.nodes[-1].name
    if unread - set(graph.ends) or (not graph.outputs and unread != {last}):
        raise HypersignError(
            f"every node but the last must be an input of another; {sorted(unread - set(graph.ends))} are not"
        )
    if unused := [name for name, _ in graph.more_inputs if all(name not in node.inputs for node in graph.nodes)]:
        raise HypersignError(f"every input must be read by a node; {', '.join(unused)} is not")
    if left:
        raise HypersignError(f"every tensor must belong to a node; {', '.join(sorted(left)[:3])} belong to none")
    if graph.outputs:
        _check_outputs(graph, values)
        return
    if isinstance(graph.task, Classification):
        if values[last] != Value("real", 1, 1, len(graph.classes)):
            raise HypersignError(
                f"the last node, {last!r}, must give a real logit for each of {len(graph.classes)} classes; it gives "
                f"{values[last]}"
            )
        return
    if graph.classes:
        raise HypersignError(f"a network for {graph.task.name} has no classes; this one names {len(graph.classes)}")
    if values[last] != Value("real", 1, 1, values[last].channels):
        raise HypersignError(
            f"the last node, {last!r}, must give real numbers, one a channel; it gives {values[last]}"
        )


def _check_outputs(graph: Graph, values: Mapping[str, Value]) -> None:
    """Checks several outputs, or one that is no vector."""
    names = [output.name for output in graph.outputs]
    if len(set(names)) < len(names) or not all(names):
        raise HypersignError(f"each output must have a name of its own; got {names!r:.80}")
    for output in graph.outputs:
        value = values.get(output.node)
        if value is None or value.kind != "real" or output.node in graph.inputs:
            raise HypersignError(
                f"the output {output.name} must come from a node that gives real numbers; got {value}"
            )
        count = math.prod(check_int("shape", size, min=1, max=MOST_NUMBERS) for size in output.shape)
        if not output.shape or count != value.height * value.width * value.channels:
            raise HypersignError(f"the output {output.name} of shape {output.shape} does not fit its node's {value}")
    named = graph.outputs[0]
    fits = len(names) == 1 and isinstance(named.task, Classification) and named.shape[0] == len(graph.classes)
    if graph.classes and not fits:
        raise HypersignError(
            f"{len(graph.classes)} classes name the first axis of one output of classes; the outputs are "
            f"{', '.join(f'{each.name} {each.shape}' for each in graph.outputs)}"
        )


def _check_node(node: Node, values: Mapping[str, Value], tensors: dict[str, Tensor]) -> tuple[Value, int]:
    """Checks a node and removes its tensors from `tensors`. Returns its value and the bytes that loading needs."""
    if not node.name or node.name in values:
        raise HypersignError(f"a node must have a unique name; got {node.name!r}")
    check_choice("op", node.op, OPERATIONS)
    unknown = [name for name in node.inputs if name not in values]
    if unknown:
        raise HypersignError(f"its inputs must be 'input' or nodes before it; got {', '.join(unknown)}")
    operation = OPERATIONS[node.op]
    shapes = NodeShapes(node, [values[name] for name in node.inputs], tensors)
    for name in operation.options:
        if name not in node.options:
            raise HypersignError(f"the option {name} is missing")
    if len(node.options) > len(operation.options):
        extra = sorted(set(node.options) - set(operation.options))
        raise HypersignError(f"{node.op} has no option {', '.join(extra)}")
    value = operation.check(shapes)
    check_size("its output", value.height, value.width, value.channels)
    return value, shapes.load_bytes
