"""Reads a QONNX network of binary and ternary layers as a packed network.

The graph is walked once. Each value is constant, or a `Flow`: a value of the packed network with the scales and
shifts that still wait to be applied. A quantizer that follows becomes integer thresholds: the place where its level
changes is searched with the file's own float32 arithmetic, so levels are those that the file gives.

Sources: the ONNX operator specification, and the custom operators of the `qonnx` package.
"""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from hypersign._checks import HypersignError, check_real
from hypersign._files import open_file
from hypersign.export.qonnx_flow import Attributes, Flow, channels_of
from hypersign.export.qonnx_layers import STANDARD
from hypersign.export.qonnx_quantizers import CUSTOM, quantizer_of
from hypersign.packed.format import write
from hypersign.packed.graph import INPUT, Graph
from hypersign.packed.values import MOST_NUMBERS, Node

__all__ = ["import_qonnx", "pixel_range_of"]

DOMAINS = ("qonnx.custom_op.general", "onnx.brevitas", "finn.custom_op.general")
"""The domains of QONNX's operators, older ones too."""

FOLDED = (
    *("Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Neg", "Cast", "Identity", "Constant", "Reshape", "Transpose"),
    *("Concat", "Gather", "Squeeze", "Unsqueeze", "Flatten", "Sign", "Abs"),
)
"""Standard operators on constants: none of them makes much of little."""

OLDEST_OPSET = 7
"""The oldest set of operators that is read: before, operators broadcast in another way."""

MOST_BYTES = 2**30
"""The largest file that is read."""


def pixel_range_of(path: Path | str) -> tuple[float, float]:
    """What the pixels 0 and 255 are at the input of a file: (0, 255) in files that HyperSign exports, else (0, 1)."""
    return (0.0, 255.0) if _load(Path(path)).producer_name == "hypersign" else (0.0, 1.0)


def import_qonnx(
    path: Path | str,
    output: Path | str,
    *,
    pixel_range: tuple[float, float] | None = None,
    classes: Sequence[str] | None = None,
) -> None:
    """Reads a QONNX file and writes it as a packed file.

    Args:
        path: the QONNX file.
        output: the packed file.
        pixel_range: the numbers that the pixels 0 and 255 are at the file's input; by default those of
            `pixel_range_of`.
        classes: the names of the outputs; by default those that the file names, or their numbers.

    Raises:
        HypersignError: the file is no ONNX file, or has an operator or a quantizer that the packed network cannot
            express. The message names the operator and the reason.

    Source: Pappalardo et al. 2022, QONNX (arXiv 2206.07527).
    """
    proto = _load(Path(path))
    low, high = pixel_range_of(path) if pixel_range is None else pixel_range
    if not -math.inf < check_real("pixel_range", low) < check_real("pixel_range", high) < math.inf:
        raise HypersignError(f"pixel_range must be two numbers, the first below the second; got {low} {high}")
    Reader(proto, (low, high)).write(Path(output), classes)


def _load(path: Path) -> onnx.ModelProto:
    with open_file(path, " as an ONNX file") as stream:
        data = stream.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise HypersignError(f"{path}: is larger than {MOST_BYTES} bytes, the largest ONNX file that is read")
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError as error:
        raise HypersignError(f"{path}: is no ONNX file, or it is damaged") from error
    if not proto.graph.node:
        raise HypersignError(f"{path}: is no ONNX file with a graph")
    opset = next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), OLDEST_OPSET)
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST_OPSET <= opset <= newest:
        raise HypersignError(
            f"{path}: uses the operators of opset {opset}; opsets {OLDEST_OPSET} to {newest} are read: convert "
            "it, for example with onnx.version_converter"
        )
    outside = [t.name for t in proto.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    if outside:
        raise HypersignError(
            f"{path}: keeps the tensor {outside[0]!r:.60} in another file; save it as one file first, with onnx.save"
        )
    _check(proto, path)
    return proto


def _check(proto: onnx.ModelProto, path: Path) -> None:
    """ONNX's own check of the graph, and of QONNX's operators what it does not know."""
    checked = onnx.ModelProto()
    checked.CopyFrom(proto)
    try:
        stated = {entry.domain for entry in proto.opset_import}
        domains = {node.domain for node in proto.graph.node}
        if not all(isinstance(domain, str) for domain in domains):  # protobuf gives bytes that are not UTF-8 as bytes
            raise HypersignError(f"{path}: its graph is not valid ONNX (a domain is no text)")
        unstated = domains - stated - {""}
        checked.opset_import.extend(helper.make_opsetid(domain, 1) for domain in sorted(unstated))
        onnx.checker.check_model(checked)
        for node in proto.graph.node:
            if node.domain in DOMAINS and not (len(node.input) > 1 and len(node.output) == 1 and all(node.input)):
                raise HypersignError(f"{path}: {node.op_type} must have inputs and one output; it is damaged")
    except (onnx.checker.ValidationError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise HypersignError(f"{path}: its graph is not valid ONNX ({reason:.200})") from error


class Reader:
    """Walks the graph; collects the packed nodes and their tensors."""

    def __init__(self, proto: onnx.ModelProto, pixel_range: tuple[float, float]) -> None:
        self.proto, self.pixel_range = proto, pixel_range
        self.opset = next((entry.version for entry in proto.opset_import if entry.domain == ""), 17)
        self.nodes: list[Node] = []
        self.tensors: dict[str, NDArray[Any]] = {}
        self.constants: dict[str, NDArray[Any]] = {}
        self.flows: dict[str, Flow] = {}
        for tensor in proto.graph.initializer:
            self.constants[tensor.name] = _array(tensor)
        inputs = [entry for entry in proto.graph.input if entry.name not in self.constants]
        if len(inputs) != 1 or len(proto.graph.output) != 1:
            raise HypersignError(
                f"the network must have one input and one output; it has {len(inputs)} and {len(proto.graph.output)}"
            )
        self.shape = _image_shape(inputs[0])
        self.flows[inputs[0].name] = Flow(INPUT, "image", self.shape).then(self._pixel)

    def _pixel(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """The file's input for pixels, each rounded once."""
        low, high = self.pixel_range
        return (low + pixels.astype(np.float64) * (high - low) / 255).astype(
            pixels.dtype if pixels.dtype == np.float64 else np.float32
        )

    def write(self, output: Path, classes: Sequence[str] | None) -> None:
        """Walks the graph and writes the packed file."""
        for node in self.proto.graph.node:
            try:
                self._visit(node)
            except HypersignError as error:
                raise HypersignError(f"{node.op_type} {node.name or node.output[0]!r}: {error}") from error
        name = self.proto.graph.output[0].name
        if name not in self.flows:
            raise HypersignError("the output does not depend on the input")
        last = self.real(self.flows[name])
        if last.shape[1:] != (1, 1):
            raise HypersignError(f"the output must be one number per class; it has the shape {last.shape}")
        if self.nodes[-1].name != last.node:
            raise HypersignError("the output must be what the last operator gives")
        stated = next((entry.value for entry in self.proto.metadata_props if entry.key == "classes"), "")
        names = str(stated).split("\n") if classes is None and stated else classes
        names = tuple(map(str, range(last.shape[0]))) if names is None else tuple(names)
        if len(names) != last.shape[0]:
            raise HypersignError(f"classes must name the {last.shape[0]} outputs; got {len(names)} names")
        write(output, Graph(self.shape, self.pixel_range, names, tuple(self.nodes)), self.tensors)

    def _visit(self, node: onnx.NodeProto) -> None:
        attributes = Attributes(node)
        inputs = [name for name in node.input if name]
        custom = node.domain in DOMAINS
        if node.domain not in ("", "ai.onnx", *DOMAINS):
            last = ": export it without channels last" if node.domain.endswith("channels_last") else ""
            raise HypersignError(
                f"operators of the domain {node.domain!r} are unknown; QONNX's and ONNX's are read{last}"
            )
        if node.op_type == "Shape" and inputs and inputs[0] in self.flows:
            flow = self.flows[inputs[0]]
            shape = [1, math.prod(flow.shape)] if flow.flat else [1, *flow.shape]
            self.constants[node.output[0]] = np.array(shape, np.int64)
            return
        missing = [name for name in inputs if name not in self.constants and name not in self.flows]
        if missing:
            raise HypersignError(f"its input {missing[0]!r} comes from nowhere")
        if all(name in self.constants for name in inputs):
            self.constants[node.output[0]] = self._fold(node, custom, attributes)
            return
        handler = (CUSTOM if custom else STANDARD).get(node.op_type)
        if handler is None:
            raise HypersignError("a packed network has no such operation on activations")
        self.flows[node.output[0]] = handler(self, node, attributes)

    def _fold(self, node: onnx.NodeProto, custom: bool, attributes: Attributes) -> NDArray[Any]:
        """The value of an operator on constants."""
        values = [self.constants[name] for name in node.input if name]
        if custom:
            return quantizer_of(node, attributes, values[1:])(values[0].astype(np.float32))
        if node.op_type not in FOLDED:
            raise HypersignError("this operator is not read on constants")
        graph = helper.make_graph(
            [node],
            "constant",
            [helper.make_value_info(name, onnx.TypeProto()) for name in node.input if name],
            [helper.make_value_info(node.output[0], onnx.TypeProto())],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])
        try:
            feeds = {name: self.constants[name] for name in node.input if name}
            result: Any = ReferenceEvaluator(model).run(None, feeds)
        except (
            ValueError,
            TypeError,
            IndexError,
            KeyError,
            AttributeError,
            RuntimeError,
            NotImplementedError,
        ) as error:
            raise HypersignError(f"its constants do not fit ({error!s:.100})") from error
        if result[0].size > MOST_NUMBERS:
            raise HypersignError(f"a constant must have at most {MOST_NUMBERS} numbers; this has {result[0].size}")
        return np.asarray(result[0])

    # Parts of the packed network ----------------------------------------------------------------------------------

    def add(self, op: str, inputs: Sequence[str], options: dict[str, Any], **tensors: NDArray[Any]) -> str:
        """Adds a packed node; returns its name."""
        name = f"{op}{len(self.nodes)}"
        self.nodes.append(Node(op, name, tuple(inputs), options))
        for role, tensor in tensors.items():
            self.tensors[f"{name}.{role}"] = tensor
        return name

    def real(self, flow: Flow) -> Flow:
        """The flow as float32 numbers without waiting steps."""
        if flow.pads != (0, 0):
            raise HypersignError("padding by a constant is read before a convolution only")
        node, channels = flow.node, channels_of(flow)
        if flow.kind == "real" and not flow.steps:
            return flow
        if flow.kind == "image":
            raise HypersignError("pixels must go through a product or a quantizer first")
        if flow.kind == "levels":
            node = self.add("unpack", [node], {})
        zero, one = (flow.apply(np.full((1, channels), number, np.float64))[0] for number in (0.0, 1.0))
        factors = {"scale": (one - zero).astype(np.float32), "shift": zero.astype(np.float32)}
        node = self.add("affine", [node], {}, **factors)
        return dataclasses.replace(flow, node=node, kind="real", steps=(), largest=0)

    def constant(self, node: onnx.NodeProto, index: int) -> NDArray[Any]:
        """An input that must be constant."""
        name = node.input[index]
        if name not in self.constants:
            raise HypersignError(f"its input {index} must be constant")
        return self.constants[name]

    def number(self, node: onnx.NodeProto, index: int) -> float:
        """An input that must be one constant number."""
        found = self.constant(node, index)
        if found.size != 1 or found.dtype.kind not in "fiu":
            raise HypersignError(f"its input {index} must be one number; its shape is {found.shape}")
        return float(found.reshape(()))


def _array(tensor: onnx.TensorProto) -> NDArray[Any]:
    try:
        return numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError) as error:
        raise HypersignError(f"the tensor {tensor.name!r:.60} cannot be read: its type or size is wrong") from error


def _image_shape(entry: onnx.ValueInfoProto) -> tuple[int, int, int]:
    dims = entry.type.tensor_type.shape.dim
    sizes = [dim.dim_value for dim in dims]
    free = [dim.dim_param or "?" for dim in dims[1:] if not dim.dim_value and dim.WhichOneof("value") != "dim_value"]
    if len(sizes) in (2, 4) and free:
        raise HypersignError(
            f"the sizes of the input must be numbers, except the batch; {', '.join(map(str, free))} is free: set it, "
            "for example with onnx.tools.update_model_dims, and save the file again"
        )
    if len(sizes) == 4 and min(sizes[1:]) > 0:
        return sizes[1], sizes[2], sizes[3]
    if len(sizes) == 2 and sizes[1] > 0:
        return sizes[1], 1, 1
    raise HypersignError(
        f"the input must be (N, channels, height, width) or (N, features) of known sizes; it is {sizes}"
    )
