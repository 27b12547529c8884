"""Writes a packed recurrent language model as an ONNX graph of standard operators.

Tokens (N, T) go through a table of vectors, one Scan per recurrent layer, and the last product. Levels are exact in
float32; gates are float32 operators, so logits differ from the packed network's by rounding. A state on the border of
two levels can then move by a whole level.

Source: the ONNX operator specification (Scan).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import hypersign
from hypersign import bits
from hypersign._checks import HypersignError
from hypersign._files import write_atomic
from hypersign.export.onnx_graph import IR_VERSION, OPSET
from hypersign.packed import PackedText
from hypersign.packed.cells import GATES

__all__ = ["onnx_text_model", "write_onnx_text"]


def write_onnx_text(model: PackedText, path: Path | str) -> None:
    """Writes a packed recurrent language model as an ONNX file; the file is complete or absent.

    Raises:
        HypersignError: the network is a transformer, or the file cannot be written.
    """
    write_atomic(Path(path), onnx_text_model(model).SerializeToString(deterministic=True))


def onnx_text_model(model: PackedText) -> onnx.ModelProto:
    """A packed recurrent language model in standard operators.

    The input `tokens` is int64 (N, T), the output `logits` is float32 (N, T, classes); N and T are free. Sequences
    start from nothing.

    Raises:
        HypersignError: the network is a transformer, or its file is gone.
    """
    if model.kind != "lstm":
        raise HypersignError(
            f"export to ONNX takes recurrent language models; this one is a {model.kind}: run it with hypersign "
            "generate"
        )
    return _Text(model).build()


class _Graph:
    """Operators and constants. Constants of a Scan's body are the outer graph's."""

    def __init__(self, outer: "_Graph | None" = None, prefix: str = "") -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.outer, self.prefix = outer, prefix
        self.constants: list[onnx.TensorProto] = []

    def op(self, kind: str, *inputs: str, outputs: int = 1, out: str = "", **attributes: Any) -> Any:
        """Adds an operator; returns the name of its output, or their names."""
        base = f"{self.prefix}{kind.lower()}{len(self.nodes)}"
        names = [out or base] if outputs == 1 else [f"{base}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=base, **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, name: str, numbers: Any, dtype: Any = np.float32) -> str:
        """Adds a constant to the outermost graph; the same name twice is the same constant."""
        if self.outer is not None:
            return self.outer.constant(name, numbers, dtype)
        if all(tensor.name != name for tensor in self.constants):
            self.constants.append(numpy_helper.from_array(np.ascontiguousarray(numbers, dtype), name))
        return name


class _Text:
    """Builds the graph from the structure and the tensors of a packed file."""

    def __init__(self, model: PackedText) -> None:
        self.model = model
        content = model.content()
        self.structure, self.tensors = content.structure, content.tensors
        self.graph = _Graph()

    def build(self) -> onnx.ModelProto:
        """Returns the checked model."""
        graph = self.graph
        x = graph.op("Gather", graph.constant("embedding", self.tensors["embedding"]), "tokens", axis=0)
        for number, layer in enumerate(self.structure["layers"], 1):
            x = self.layer(f"layer{number}", layer, x)
        bias = self.tensors.get("head.bias")
        y = self.product(graph, "head", "real", x)
        graph.op("Identity" if bias is None else "Add", y, *self.optional("head.bias"), out="logits")
        classes = list(self.model.classes)
        made = helper.make_model(
            helper.make_graph(
                graph.nodes,
                "hypersign",
                [helper.make_tensor_value_info("tokens", TensorProto.INT64, ["N", "T"])],
                [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", "T", len(classes)])],
                graph.constants,
            ),
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="hypersign",
            producer_version=hypersign.__version__,
        )
        helper.set_model_props(made, {"classes": "".join(classes), "unit": self.model.unit})
        onnx.checker.check_model(made)
        return made

    def optional(self, name: str) -> list[str]:
        """The constant of a tensor, if the file has it."""
        return [self.graph.constant(name, self.tensors[name])] if name in self.tensors else []

    def product(self, graph: _Graph, name: str, inputs: str, x: str) -> str:
        """A matrix with its inputs' quantizer, as `packed.text._Product` computes it."""
        scale = None
        if inputs == "int8":
            largest = graph.op("ReduceMax", graph.op("Abs", x), axes=[-1], keepdims=1)
            largest = graph.op("Max", largest, graph.constant("least", np.float32(1e-5)))
            scale = graph.op("Div", largest, graph.constant("levels8", np.float32(127)))
            low, high = graph.constant("lowest8", np.float32(-127)), graph.constant("levels8", np.float32(127))
            x = graph.op("Clip", graph.op("Round", graph.op("Div", x, scale)), low, high)
        elif inputs == "sign":
            below = graph.op("Less", x, graph.constant("zero", np.float32(0)))
            x = graph.op(
                "Where", below, graph.constant("minus", np.float32(-1)), graph.constant("one", np.float32(1))
            )
        y = graph.op("MatMul", x, self.matrix(name))
        if f"{name}.scale" in self.tensors:
            y = graph.op("Mul", y, graph.constant(f"{name}.scale", self.tensors[f"{name}.scale"]))
        return y if scale is None else graph.op("Mul", y, scale)

    def matrix(self, name: str) -> str:
        """A product's matrix, transposed: levels are stored as bytes."""
        if f"{name}.weight" in self.tensors:
            return self.graph.constant(f"{name}.matrix", self.tensors[f"{name}.weight"].T)
        made = f"{name}.matrix"
        if all(made not in node.output for node in self.graph.nodes):
            words = self.tensors[f"{name}.levels"]
            unpack = bits.unpack if words.ndim == 2 else bits.unpack_ternary
            levels = unpack(words, self.features[name]).T
            self.graph.op(
                "Cast", self.graph.constant(f"{name}.levels", levels, np.int8), out=made, to=TensorProto.FLOAT
            )
        return made

    @property
    def features(self) -> Mapping[str, int]:
        """The number of inputs of each recurrent matrix."""
        found: dict[str, int] = {}
        width = self.tensors["embedding"].shape[1]
        for number, layer in enumerate(self.structure["layers"], 1):
            found |= {f"layer{number}.ih": width, f"layer{number}.hh": layer["units"]}
            width = layer["units"]
        return found

    def norm(self, graph: _Graph, name: str, x: str) -> str:
        """A layer norm or a batch norm, if the file has it."""
        if f"{name}.weight" not in self.tensors:
            return x
        if f"{name}.mean" in self.tensors:
            deviation = np.sqrt(self.tensors[f"{name}.variance"] + np.float32(1e-5))
            x = graph.op("Sub", x, graph.constant(f"{name}.mean", self.tensors[f"{name}.mean"]))
            x = graph.op("Div", x, graph.constant(f"{name}.deviation", deviation))
        else:
            centred = graph.op("Sub", x, graph.op("ReduceMean", x, axes=[-1], keepdims=1))
            variance = graph.op("ReduceMean", graph.op("Mul", centred, centred), axes=[-1], keepdims=1)
            epsilon = graph.constant("epsilon", np.float32(1e-5))
            x = graph.op("Div", centred, graph.op("Sqrt", graph.op("Add", variance, epsilon)))
        x = graph.op("Mul", x, *self.optional(f"{name}.weight"))
        return graph.op("Add", x, *self.optional(f"{name}.bias")) if f"{name}.bias" in self.tensors else x

    def added(self, graph: _Graph, name: str, kind: str, x: str) -> str:
        """A product after its norm and its bias."""
        x = self.norm(graph, f"{name}.norm_{kind}", x)
        bias = self.optional(f"{name}.{kind}.bias")
        return graph.op("Add", x, *bias) if bias else x

    def layer(self, name: str, layer: Mapping[str, Any], x: str) -> str:
        """A recurrent layer: (N, T, width) -> (N, T, units)."""
        graph, units, cell = self.graph, layer["units"], layer["cell"]
        from_inputs = self.added(graph, name, "ih", self.product(graph, f"{name}.ih", layer["inputs"], x))
        self.matrix(f"{name}.hh")  # outside the body
        count = graph.op("Gather", graph.op("Shape", "tokens"), graph.constant("first", [0], np.int64))
        shape = graph.op("Concat", count, graph.constant(f"{name}.units", [units], np.int64), axis=0)
        states = ["h", "c"] if cell == "LSTM" else ["h"]
        start = graph.op("ConstantOfShape", shape)
        body = self.body(name, layer, states)
        outputs = graph.op(
            "Scan",
            *[start] * len(states),
            from_inputs,
            outputs=len(states) + 1,
            body=body,
            num_scan_inputs=1,
            scan_input_axes=[1],
            scan_output_axes=[1],
        )
        return str(outputs[-1])

    def body(self, name: str, layer: Mapping[str, Any], states: list[str]) -> onnx.GraphProto:
        """One step: the states and the inputs' product -> the next states and the output."""
        units, cell = layer["units"], layer["cell"]
        body = _Graph(self.graph, f"{name}.step.")
        h, x = f"{name}.h", f"{name}.x"
        product = self.product(body, f"{name}.hh", layer["hidden"], h)
        after = self.cell(body, name, cell, x, self.added(body, name, "hh", product))
        outputs = [
            body.op("Identity", value, out=f"{name}.{state}.after")
            for state, value in zip(states, after, strict=True)
        ]
        outputs.append(body.op("Identity", after[0], out=f"{name}.output"))
        infos = [helper.make_tensor_value_info(f"{name}.{s}", TensorProto.FLOAT, ["N", units]) for s in states]
        infos.append(helper.make_tensor_value_info(x, TensorProto.FLOAT, ["N", GATES[cell] * units]))
        ends = [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N", units]) for output in outputs]
        return helper.make_graph(body.nodes, f"{name}.step", infos, ends)

    def sigmoid(self, g: _Graph, x: str) -> str:
        """1/(1 + exp(-x)), as the packed network computes it: the operator Sigmoid rounds to 0 early."""
        one = g.constant("one", np.float32(1))
        return str(g.op("Div", one, g.op("Add", one, g.op("Exp", g.op("Neg", x)))))

    def cell(self, g: _Graph, name: str, cell: str, x: str, h: str) -> list[str]:
        """The next states."""
        before = f"{name}.h"
        if cell == "LSTM":
            i, f, candidate, o = g.op("Split", g.op("Add", x, h), outputs=4, axis=-1)
            kept = g.op("Mul", self.sigmoid(g, f), f"{name}.c")
            c = g.op("Add", kept, g.op("Mul", self.sigmoid(g, i), g.op("Tanh", candidate)))
            normed = self.norm(g, f"{name}.norm_c", c)
            return [g.op("Mul", self.sigmoid(g, o), g.op("Tanh", normed)), c]
        if cell == "GRU":
            (xr, xz, xn), (hr, hz, hn) = (g.op("Split", value, outputs=3, axis=-1) for value in (x, h))
            reset, update = (self.sigmoid(g, g.op("Add", a, b)) for a, b in ((xr, hr), (xz, hz)))
            n = g.op("Tanh", g.op("Add", xn, g.op("Mul", reset, hn)))
            return [g.op("Add", n, g.op("Mul", update, g.op("Sub", before, n)))]
        return [g.op("Tanh" if cell == "RNN_TANH" else "Relu", g.op("Add", x, h))]
