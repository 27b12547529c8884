"""Real functions of a packed network as ONNX operators: in float64, rounded once, as the packed runtime has them.

Each function takes the graph that is built, the node and its data, and returns the name of its output.
"""

import math
from typing import Any

import numpy as np
from onnx import TensorProto

from hypersign._checks import HypersignError
from hypersign.packed.operations import NodeData
from hypersign.packed.values import Node

__all__ = ["REAL_HANDLERS"]


def _input(graph: Any, node: Node) -> str:
    if graph.last:
        raise HypersignError(f"{node.op} has no form with channels last; export without --channels-last")
    return str(graph.names[node.inputs[0]])


def _wide(graph: Any, x: str) -> str:
    return str(graph.same(x, graph.op("Cast", x, to=TensorProto.DOUBLE)))


def _rounded(graph: Any, x: str, out: str) -> str:
    return str(graph.same(x, graph.op("Cast", x, out=out, to=TensorProto.FLOAT)))


def _softmax(graph: Any, node: Node, data: NodeData) -> str:
    x = _wide(graph, _input(graph, node))
    kind = "LogSoftmax" if node.options["log"] else "Softmax"
    return _rounded(graph, graph.same(x, graph.op(kind, x, axis=1)), node.name)


def _layer_norm(graph: Any, node: Node, data: NodeData) -> str:
    x = _wide(graph, _input(graph, node))

    def numbers(role: str) -> str:
        found = data.tensors[role]
        return str(
            graph.constant(f"{node.name}.{role}", found if x in graph.flat else found.reshape(-1, 1, 1), np.float64)
        )

    y = x
    if node.options["centre"]:
        y = graph.op("Sub", x, graph.op("ReduceMean", x, axes=[1], keepdims=1))
    variance = graph.op("ReduceMean", graph.op("Mul", y, y), axes=[1], keepdims=1)
    epsilon = graph.constant(f"{node.name}.eps", np.float64(node.options["eps"]), np.float64)
    y = graph.op("Div", y, graph.op("Sqrt", graph.op("Add", variance, epsilon)))
    y = graph.op("Add", graph.op("Mul", y, numbers("scale")), numbers("shift"))
    return _rounded(graph, graph.same(x, y), node.name)


def _multiply(graph: Any, node: Node, data: NodeData) -> str:
    _input(graph, node)
    a, b = (graph.names[name] for name in node.inputs)
    if (a in graph.flat) != (b in graph.flat):
        a, b = graph.image(a, data.inputs[0]), graph.image(b, data.inputs[1])
    return str(graph.same(a, graph.op("Mul", a, b, out=node.name)))


def _zero_pad2d(graph: Any, node: Node, data: NodeData) -> str:
    o, x = node.options, graph.image(_input(graph, node), data.input)
    if data.input.kind == "levels" and not data.input.ternary and graph.signs_only:
        raise HypersignError(
            "QONNX has no zero among signs, but a transposed or a padded convolution puts zeros between them; export "
            "to onnx"
        )
    if tuple(o["stride"]) != (1, 1):  # each pixel by itself, zeros between
        channels = data.input.channels
        one = graph.constant(f"{node.name}.one", np.ones((channels, 1, 1, 1)))
        x = graph.op("ConvTranspose", x, one, strides=list(o["stride"]), group=channels, kernel_shape=[1, 1])
    ends = [0, 0, *o["before"], 0, 0, *o["after"]]
    zero = graph.constant(f"{node.name}.zero", np.float32(0))
    return str(graph.op("Pad", x, graph.constant(f"{node.name}.ends", ends, np.int64), zero, out=node.name))


def _activation(graph: Any, node: Node, data: NodeData) -> str:
    kind = node.options["function"]
    x = _wide(graph, _input(graph, node))

    def number(value: float) -> str:
        return str(graph.constant(f"{node.name}.number", np.float64(value), np.float64))

    def hard() -> str:
        inner = graph.op("Add", graph.op("Div", x, number(6)), number(0.5))
        return str(graph.op("Clip", inner, number(0), number(1)))

    if kind in ("sigmoid", "tanh", "exp", "abs"):
        y = graph.op(kind.capitalize(), x)
    elif kind == "silu":
        y = graph.op("Mul", x, graph.op("Sigmoid", x))
    elif kind == "hardsigmoid":
        y = hard()
    elif kind == "hardswish":
        y = graph.op("Mul", x, hard())
    elif kind == "gelu":
        scaled = graph.op("Cast", graph.op("Div", x, number(math.sqrt(2))), to=TensorProto.FLOAT)
        error = graph.op("Cast", graph.op("Erf", scaled), to=TensorProto.DOUBLE)  # ONNX Runtime has no other Erf
        y = graph.op("Mul", graph.op("Mul", x, number(0.5)), graph.op("Add", error, number(1)))
    else:
        raise HypersignError(f"the function {kind} is not written to ONNX; run the packed file")
    return _rounded(graph, graph.same(x, y), node.name)


REAL_HANDLERS = {
    "softmax": _softmax,
    "layer_norm": _layer_norm,
    "multiply": _multiply,
    "zero_pad2d": _zero_pad2d,
    "activation": _activation,
}
"""What writes each of these operations."""
