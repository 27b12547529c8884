"""`recurrent`: a recurrent layer over the rows or the pixels of an image."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypersign._checks import HypersignError, check_choice
from hypersign.packed.cells import GATES, INPUTS, MOST, Recurrent, Tensors
from hypersign.packed.operations.operation import NodeData, NodeShapes, Operation, Plan
from hypersign.packed.values import Value

__all__ = ["RecurrentLayer"]

STEPS = ("rows", "pixels")
"""What a step reads: a row of the image, or a pixel."""

OUTPUTS = ("all", "last")
"""The states that the layer gives."""


MATRICES = tuple(f"{kind}_{part}" for kind in ("ih", "hh") for part in ("levels", "scale", "weight", "bias"))
"""The tensors of the products with inputs and with states."""

NORMS = tuple(f"norm_{kind}_{part}" for kind in ("ih", "hh", "c") for part in ("weight", "bias", "mean", "variance"))
"""The tensors of the norms of both products, and of an LSTM's state."""


class RecurrentLayer(Operation):
    """An LSTM, GRU or RNN in float32 with packed or float32 matrices; it starts from the zero state."""

    name = "recurrent"
    options = ("cell", "units", "inputs", "hidden", "steps", "outputs")
    tensors = (*MATRICES, *NORMS, "order")
    arithmetic = "float32"

    def check(self, node: NodeShapes) -> Value:
        x = node.input("real")
        cell = check_choice("cell", node.option("cell"), tuple(GATES))
        units = node.integer("units", min=1, max=MOST)
        for name, choices in (("inputs", INPUTS), ("hidden", INPUTS), ("steps", STEPS), ("outputs", OUTPUTS)):
            check_choice(name, node.option(name), choices)
        steps, width = _sequence(node.options, x)
        rows = GATES[cell] * units
        for kind, features in (("ih", width), ("hh", units)):
            if node.has(f"{kind}_weight"):
                node.tensor(f"{kind}_weight", np.float32, (rows, features))
            else:
                words = rows, -(-features // 64)
                node.tensor(f"{kind}_levels", np.uint64, words, (2, *words))
                node.tensor(f"{kind}_scale", np.float32, (rows,))
                node.reserve(4 * rows * features)
            if node.has(f"{kind}_bias"):
                node.tensor(f"{kind}_bias", np.float32, (rows,))
        for kind, size in (("ih", rows), ("hh", rows), ("c", units)):
            _check_norm(node, f"norm_{kind}", size, steps)
        if node.has("order"):
            node.tensor("order", np.int32, (steps,))
        return Value("real", steps if node.option("outputs") == "all" else 1, 1, units)

    def check_content(self, node: NodeData) -> None:
        node.check_finite(*(role for role, tensor in node.tensors.items() if tensor.dtype == np.float32))
        steps, width = _sequence(node.options, node.input)
        for role, features in (("ih_levels", width), ("hh_levels", node.options["units"])):
            if role in node.tensors:
                node.check_levels(role, features)
        order = node.tensors.get("order")
        if order is not None and not np.array_equal(np.sort(order), np.arange(steps)):
            raise HypersignError(f"{node.name}.order must hold each of the {steps} steps once")
        for role, tensor in node.tensors.items():
            if role.endswith("variance") and (tensor < 0).any():
                raise HypersignError(f"{node.name}.{role} must hold no negative number")

    def plan(self, node: NodeData) -> Plan:
        layer, order = _layer(node), node.tensors.get("order")
        steps, width = _sequence(node.options, node.input)
        last = node.options["outputs"] == "last"

        def run(v: NDArray[Any], threads: int) -> NDArray[Any]:
            x = v.reshape(len(v), steps, width)
            y, _ = layer(x if order is None else x[:, order], None)
            return np.ascontiguousarray(y[:, -1:] if last else y)[:, :, None]

        return Plan(run=run)

    def macs(self, options: Mapping[str, Any], x: Value, y: Value) -> int:
        steps, width = _sequence(options, x)
        units = options["units"]
        return steps * GATES[options["cell"]] * units * (width + units)


def _sequence(options: Mapping[str, Any], x: Value) -> tuple[int, int]:
    """The number of steps, and the numbers per step."""
    rows = options["steps"] == "rows"
    return (x.height, x.width * x.channels) if rows else (x.height * x.width, x.channels)


def _check_norm(node: NodeShapes, name: str, size: int, steps: int) -> None:
    if not node.has(f"{name}_weight"):
        return
    node.tensor(f"{name}_weight", np.float32, (size,))
    if node.has(f"{name}_bias"):
        node.tensor(f"{name}_bias", np.float32, (size,))
    if node.has(f"{name}_mean"):
        mean = node.tensor(f"{name}_mean", np.float32, (size,), (steps, size))
        node.tensor(f"{name}_variance", np.float32, tuple(mean.shape))


def _layer(node: NodeData) -> Recurrent:
    steps, width = _sequence(node.options, node.input)
    parts = ((role.rpartition("_"), tensor) for role, tensor in node.tensors.items() if role != "order")
    tensors = Tensors({f"{node.name}.{kind}.{part}": tensor for (kind, _, part), tensor in parts})
    layer = {key: node.options[key] for key in ("cell", "units", "inputs", "hidden")}
    return Recurrent(node.name, layer, tensors, width, steps)
