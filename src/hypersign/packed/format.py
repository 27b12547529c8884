"""The packed file: a graph and its tensors in one safetensors file. `read` checks every byte.

docs/format.md describes the format.
"""

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from hypersign._checks import HypersignError
from hypersign._files import open_file, write_atomic
from hypersign._json import parse_object
from hypersign._safetensors import Entry, header_bytes, read_header
from hypersign.packed.decisions import CLASSIFICATION, NUMBERS, Regression, Task
from hypersign.packed.graph import Graph, Output, check_graph
from hypersign.packed.operations import OPERATIONS, NodeData
from hypersign.packed.values import Node, Tensor, Value

__all__ = ["TEXT_KEY", "VERSION", "Contents", "file_bytes", "read", "write"]

VERSION = 1
"""Version of the packed file. Files of other versions are rejected."""

TEXT_KEY = "hypersign-text"
"""The entry of the metadata that makes a file a packed language model, which `PackedText` reads."""

MOST_HEADER = 2**22
"""Maximum size of a header in bytes. The largest network of this package needs 40 kB."""

DTYPES: dict[str, np.dtype[Any]] = {
    "U64": np.dtype("<u8"),
    "I32": np.dtype("<i4"),
    "F32": np.dtype("<f4"),
    "BOOL": np.dtype("?"),
}
CODES = {dtype: code for code, dtype in DTYPES.items()}


@dataclasses.dataclass(frozen=True)
class Contents:
    """The contents of a packed file that passed all checks.

    Args:
        graph: the graph.
        tensors: its tensors by name, read-only.
        values: the output value of each node, by the node's name.
        sha256: the hash that identifies the network.
        parts: the bytes of the file in two pieces: the header with its length, and the tensors.
    """

    graph: Graph
    tensors: dict[str, NDArray[Any]]
    values: dict[str, Value]
    sha256: str
    parts: tuple[bytes, bytes]

    @functools.cached_property
    def nodes(self) -> list[NodeData]:
        """The nodes with their tensors."""
        return _node_data(self.graph, self.values, self.tensors)


def write(path: Path, graph: Graph, tensors: Mapping[str, NDArray[Any]]) -> None:
    """Writes a packed network. The file is complete or absent; equal networks give equal files.

    Raises:
        HypersignError: graph and tensors do not fit each other, or the file cannot be written.
    """
    _check_content(graph, _node_data(graph, check_graph(graph, tensors), tensors))
    text = _graph_text(graph)
    names = _order(tensors)
    body = b"".join(tensors[name].astype(DTYPES[_code(tensors[name])], copy=False).tobytes() for name in names)
    write_atomic(path, _header(text, tensors, _digest(text, body)) + body)


def file_bytes(graph: Graph, tensors: Mapping[str, Tensor]) -> int:
    """Returns the size in bytes of the file that `write` makes. It only needs dtypes and shapes."""
    check_graph(graph, tensors)
    return len(_header(_graph_text(graph), tensors, "0" * 64)) + sum(_size(tensor) for tensor in tensors.values())


def read(file: Path | BinaryIO) -> Contents:
    """Reads and checks a packed file or an open stream.

    Raises:
        HypersignError: the file is missing, truncated, damaged or no packed file. The message begins with its name.
    """
    if isinstance(file, Path):
        with open_file(file, " as a packed network") as stream:
            return read(stream)
    name = getattr(file, "name", "the file")
    try:
        return _read(file)
    except HypersignError as error:
        # Cut the message, because it can quote text of any length from the file.
        raise HypersignError(f"{name}: {error!s:.500}") from error
    except OSError as error:
        raise HypersignError(f"{name}: cannot be read ({error.strerror or error}): check the path") from error


def _read(stream: BinaryIO) -> Contents:
    header = read_header(stream, max=MOST_HEADER, dtypes=DTYPES)
    metadata: dict[str, Any] = dict(header.metadata)
    if TEXT_KEY in metadata:
        raise HypersignError(
            "it is a packed language model, which continues texts: hypersign generate FILE, or PackedText.load"
        )
    text = _take(metadata, "hypersign", str, "a packed network has it; other safetensors files do not")
    stated = _take(metadata, "sha256", str, "a packed network has it")
    if metadata:
        raise HypersignError(f"its metadata must have only hypersign and sha256; it also has {_few(metadata)}")
    specs = {name: _Spec(name, entry) for name, entry in header.tensors.items()}
    graph = _graph(text)
    values = check_graph(graph, specs)  # check the graph before reading tensors, because it limits their sizes
    body = stream.read()
    digest = _digest(text, body)
    if digest != stated:
        raise HypersignError("its content does not give its sha256: it is damaged; restore it or pack again")
    contents = Contents(
        graph, {name: spec.tensor(body) for name, spec in specs.items()}, values, digest, (header.raw, body)
    )
    _check_content(graph, contents.nodes)
    return contents


class _Spec:
    """The name, position, type and shape of a tensor whose numbers are not read yet."""

    def __init__(self, name: str, entry: Entry) -> None:
        self.name, self.start = name, entry.start
        self.dtype: np.dtype[Any] = DTYPES[entry.dtype]
        self.shape: tuple[int, ...] = entry.shape

    def tensor(self, body: bytes) -> NDArray[Any]:
        flat = np.frombuffer(body, self.dtype, math.prod(self.shape), self.start)
        if self.dtype == np.bool_ and (flat.view(np.uint8) > 1).any():
            raise HypersignError(f"tensor {self.name!r} must have only the bytes 0 and 1")
        return flat.reshape(self.shape).astype(self.dtype.newbyteorder("="), copy=False)


def _code(tensor: Tensor) -> str:
    return CODES[tensor.dtype.newbyteorder("<")]


def _size(tensor: Tensor) -> int:
    return math.prod(tensor.shape) * tensor.dtype.itemsize


def _digest(text: str, body: bytes) -> str:
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass"))
    digest.update(body)
    return digest.hexdigest()


def _order(tensors: Mapping[str, Tensor]) -> list[str]:
    """Returns the names in the order of their bytes in the file: largest elements first, so that all are aligned."""
    return sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))


def _header(text: str, tensors: Mapping[str, Tensor], digest: str) -> bytes:
    header = header_bytes(
        {name: (_code(tensors[name]), tensors[name].shape) for name in _order(tensors)},
        {"hypersign": text, "sha256": digest},
    )
    if len(header) - 8 > MOST_HEADER:
        raise HypersignError(
            f"the header must take at most {MOST_HEADER} bytes; this network's takes {len(header) - 8}"
        )
    return header


def _graph_text(graph: Graph) -> str:
    return json.dumps(
        {
            "version": VERSION,
            "shape": graph.shape,
            "pixel_range": graph.pixel_range,
            "classes": graph.classes,
            **({} if graph.task == CLASSIFICATION else {"task": _task_entry(graph.task)}),
            **(_ends_entries(graph)),
            "nodes": [
                {"op": node.op, "name": node.name, "inputs": node.inputs, "options": node.options}
                for node in graph.nodes
            ],
        },
        separators=(",", ":"),
        allow_nan=False,
    )


def _task_entry(task: Task) -> dict[str, Any]:
    return {"name": task.name, **vars(task)}


def _ends_entries(graph: Graph) -> dict[str, Any]:
    """What the graph says of further inputs, and of outputs that are several or no vector."""
    found: dict[str, Any] = {}
    if graph.more_inputs:
        found["more_inputs"] = [{"name": name, "shape": shape} for name, shape in graph.more_inputs]
    if graph.outputs:
        found["outputs"] = [
            {"name": each.name, "node": each.node, "shape": each.shape, "task": _task_entry(each.task)}
            for each in graph.outputs
        ]
    return found


def _graph(text: str) -> Graph:
    found = parse_object("the graph", text, finite=True)
    version = found.pop("version", None)
    if version != VERSION or isinstance(version, bool):
        raise HypersignError(
            f"must be a packed network of version {VERSION}; it is of version {version!r}: open it with the "
            "HyperSign that wrote it"
        )
    shape = _take(found, "shape", list)
    if "pixel_range" not in found:
        raise HypersignError("pixel_range is missing from the graph")
    pixel_range = found.pop("pixel_range")
    if pixel_range is not None and not (isinstance(pixel_range, list) and len(pixel_range) == 2):
        raise HypersignError(f"pixel_range must be two numbers or null; got {pixel_range!r}")
    classes = _strings("classes", _take(found, "classes", list))
    task = _task(_take(found, "task", dict)) if "task" in found else CLASSIFICATION
    more_inputs = tuple(
        (_take(entry, "name", str), tuple(_take(entry, "shape", list)))
        for entry in _entries(found, "more_inputs", {"name", "shape"})
    )
    outputs = tuple(
        Output(
            _take(entry, "name", str),
            _take(entry, "node", str),
            tuple(_take(entry, "shape", list)),
            _task(_take(entry, "task", dict), of_output=True),
        )
        for entry in _entries(found, "outputs", {"name", "node", "shape", "task"})
    )
    nodes = []
    for entry in _take(found, "nodes", list):
        if not isinstance(entry, dict):
            raise HypersignError(f"a node must be a JSON object; got {entry!r}")
        node = Node(
            _take(entry, "op", str),
            _take(entry, "name", str),
            _strings("inputs", _take(entry, "inputs", list)),
            _take(entry, "options", dict),
        )
        if entry:
            raise HypersignError(
                f"node {node.name!r} must have only op, name, inputs and options; it also has {_few(entry)}"
            )
        nodes.append(node)
    if found:
        raise HypersignError(f"the graph has no entry {_few(found)}")
    return Graph(
        tuple(shape),
        None if pixel_range is None else tuple(pixel_range),
        classes,
        tuple(nodes),
        task,
        more_inputs,
        outputs,
    )


def _entries(found: dict[str, Any], key: str, names: set[str]) -> list[dict[str, Any]]:
    """A list of objects with these entries; empty where the graph has none of this key."""
    if key not in found:
        return []
    entries: list[dict[str, Any]] = _take(found, key, list)
    if not entries or not all(isinstance(entry, dict) and set(entry) == names for entry in entries):
        raise HypersignError(f"{key} must be objects with {', '.join(sorted(names))}; got {entries!r:.80}")
    return entries


def _task(found: dict[str, Any], of_output: bool = False) -> Task:
    for task in (CLASSIFICATION, NUMBERS) if of_output else ():
        if found == {"name": task.name}:
            return task
    if found.get("name") != Regression.name or set(found) != {"name", "tolerance"}:
        raise HypersignError(f"task must be regression, with its tolerance; got {found!r:.80}")
    return Regression(found["tolerance"])


def _take(found: dict[str, Any], key: str, kind: type, why: str = "it is damaged") -> Any:
    value = found.pop(key, None)
    if not isinstance(value, kind):
        raise HypersignError(f"{key} is missing or no {kind.__name__}: {why}")
    return value


def _strings(what: str, values: list[Any]) -> tuple[str, ...]:
    if not all(isinstance(value, str) for value in values):
        raise HypersignError(f"{what} must be strings; got {values!r:.80}")
    return tuple(values)


def _few(names: Mapping[str, Any]) -> str:
    return ", ".join(f"{name!r:.40}" for name in list(names)[:3])


def _node_data(graph: Graph, values: Mapping[str, Value], tensors: Mapping[str, NDArray[Any]]) -> list[NodeData]:
    """Returns the nodes of a checked graph with their tensors, in the order of the graph."""
    own: dict[str, dict[str, NDArray[Any]]] = {node.name: {} for node in graph.nodes}
    for name, tensor in tensors.items():
        node, _, role = name.rpartition(".")
        own[node][role] = tensor
    return [
        NodeData(
            node.name,
            {key: tuple(value) if isinstance(value, list) else value for key, value in node.options.items()},
            own[node.name],
            tuple(values[name] for name in node.inputs),
            values[node.name],
            graph.pixel_range,
        )
        for node in graph.nodes
    ]


def _check_content(graph: Graph, nodes: Sequence[NodeData]) -> None:
    for node, data in zip(graph.nodes, nodes, strict=True):
        OPERATIONS[node.op].check_content(data)
