"""The packed file: what is written comes back, what is damaged is refused."""

import copy
import dataclasses
import hashlib
import io
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from hypersign._checks import HypersignError
from hypersign.packed import Graph, PackedModel
from hypersign.packed.format import file_bytes, read, write

DAMAGED, HOSTILE_GRAPHS = 8500, 1500


def loaded(data: bytes) -> PackedModel:
    return PackedModel.load(io.BytesIO(data))


def refusal(data: bytes, images: Any = None) -> str | None:
    """Why a file is refused; None where it is not, after it has run on `images`."""
    try:
        model = loaded(data)
        if isinstance(images, tuple):
            found = model.predict(images if len(model.input_shapes) > 1 else images[0])
            shapes = [each.shape[1:] for each in (found if isinstance(found, tuple) else (found,))]
            assert shapes == list(model.output_shapes.values())
        elif images is not None:
            assert model.predict(images).shape == (len(images), len(model.classes))
    except HypersignError as error:
        return str(error)
    return None


def split(data: bytes) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """Header, graph, and the bytes of the tensors."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    return header, json.loads(header["__metadata__"]["hypersign"]), data[end:]


def joined(header: dict[str, Any], graph: Any, body: bytes) -> bytes:
    """A file with a hash that is right, whatever its graph says."""
    text = json.dumps(graph)
    digest = hashlib.sha256(text.encode() + body).hexdigest()
    head = json.dumps({**header, "__metadata__": {"hypersign": text, "sha256": digest}}).encode()
    return len(head).to_bytes(8, "little") + head + body


def test_what_is_written_comes_back(network, packed: bytes) -> None:
    graph, tensors = network
    contents = read(io.BytesIO(packed))
    found, arrays, values = contents.graph, contents.tensors, contents.values
    assert found.classes == graph.classes
    assert [node.name for node in found.nodes] == [node.name for node in graph.nodes]
    assert found.nodes[0].options == graph.nodes[0].options
    assert set(arrays) == set(tensors)
    for name, tensor in tensors.items():
        assert arrays[name].dtype == tensor.dtype
        np.testing.assert_array_equal(arrays[name], tensor)
    assert (values["pool1"].height, values["pool1"].width, values["pool1"].ternary) == (3, 3, True)
    assert len(contents.sha256) == 64


def test_equal_networks_give_equal_files_of_the_predicted_size(network, packed: bytes, tmp_path: Path) -> None:
    graph, tensors = network
    write(tmp_path / "again", graph, dict(reversed(tensors.items())))
    assert (tmp_path / "again").read_bytes() == packed
    assert file_bytes(graph, tensors) == len(packed)


def test_any_reader_of_safetensors_opens_it(network, packed: bytes, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    path.write_bytes(packed)
    with safe_open(path, framework="np") as file:
        assert set(file.keys()) == set(network[1])
        for name, tensor in network[1].items():
            np.testing.assert_array_equal(file.get_tensor(name), tensor)


def test_a_reader_needs_no_order_of_the_entries(packed: bytes) -> None:
    header, graph, body = split(packed)
    assert loaded(joined(dict(reversed(header.items())), graph, body)).classes == ("a", "b", "c")


@pytest.mark.parametrize("length", [0, 7, 8, 100, -1])
def test_truncated(packed: bytes, length: int) -> None:
    with pytest.raises(HypersignError, match="truncated"):
        loaded(packed[:length])


def test_what_is_no_packed_file(packed: bytes, tmp_path: Path) -> None:
    with pytest.raises(HypersignError, match="No such file"):
        PackedModel.load(tmp_path / "missing")
    with pytest.raises(HypersignError, match="must be a regular file"):
        PackedModel.load(tmp_path)
    with pytest.raises(HypersignError, match="another kind of file"):
        loaded(b"\xff" * 1000)
    with pytest.raises(HypersignError, match="must be JSON"):
        loaded((8).to_bytes(8, "little") + b"[" * 8)
    with pytest.raises(HypersignError, match="must be JSON"):
        loaded((200_000).to_bytes(8, "little") + b"[" * 200_000)
    with pytest.raises(HypersignError, match="other safetensors files"):
        loaded((8).to_bytes(8, "little") + b"{}      ")


EDITS = {
    "version 2": (lambda g: g.update(version=2), "of version 2"),
    "true is no version": (lambda g: g.update(version=True), "of version True"),
    "no version": (lambda g: g.pop("version"), "of version None"),
    "unknown entry": (lambda g: g.update(extra=1), "no entry 'extra'"),
    "shape": (lambda g: g.update(shape=[2, 5]), "shape must be"),
    "huge shape": (lambda g: g.update(shape=[2, 2**40, 2**40]), "shape must be"),
    "large shape": (lambda g: g.update(shape=[2, 2**20, 2**20]), "numbers per image"),
    "range": (lambda g: g.update(pixel_range=[1, -1]), "pixel_range"),
    "float inputs": (lambda g: g.update(pixel_range=None), "image_conv2d takes image; got real"),
    "class too many": (lambda g: g["classes"].append("d"), "4 classes"),
    "task without classes": (lambda g: g.update(task={"name": "regression", "tolerance": 1}), "has no classes"),
    "task unknown": (lambda g: g.update(task={"name": "sorting"}), "task must be regression"),
    "task incomplete": (lambda g: g.update(task={"name": "regression"}), "task must be regression"),
    "tolerance negative": (lambda g: g.update(task={"name": "regression", "tolerance": -1}), "tolerance must be"),
    "task no object": (lambda g: g.update(task=3), "task is missing or no dict"),
    "class no string": (lambda g: g["classes"].append(3), "classes must be strings"),
    "no nodes": (lambda g: g.update(nodes=[]), "at least one node"),
    "node no object": (lambda g: g["nodes"].append("x"), "a node must be"),
    "unknown op": (lambda g: g["nodes"][0].update(op="eval"), "op must be one of"),
    "same name": (lambda g: g["nodes"][1].update(name="conv1"), "a unique name"),
    "unknown input": (lambda g: g["nodes"][1].update(inputs=["later"]), "nodes before it"),
    "later input": (lambda g: g["nodes"][1].update(inputs=["conv2"]), "nodes before it"),
    "no input": (lambda g: g["nodes"][1].update(inputs=[]), "takes 1 input; got 0"),
    "one input to add": (lambda g: g["nodes"][8].update(inputs=["clip3"]), "takes 2 inputs; got 1"),
    "wrong kind": (lambda g: g["nodes"][2].update(inputs=["input"]), "conv2d takes levels; got image"),
    "unread node": (lambda g: g["nodes"][8].update(inputs=["norm2", "norm2"]), "must be an input of another"),
    "option missing": (lambda g: g["nodes"][0]["options"].pop("shift"), "option shift is missing"),
    "option unknown": (lambda g: g["nodes"][0]["options"].update(x=1), "no option x"),
    "stride 0": (lambda g: g["nodes"][0]["options"].update(stride=[0, 1]), "stride"),
    "stride no pair": (lambda g: g["nodes"][0]["options"].update(stride="ab"), "stride"),
    "kernel": (lambda g: g["nodes"][0]["options"].update(kernel=[5, 7]), "conv1.weight must be"),
    "kernel past image": (lambda g: g["nodes"][0]["options"].update(kernel=[9, 3]), "at least as large"),
    "padding": (lambda g: g["nodes"][0]["options"].update(padding=[2**26, 1]), "numbers per image"),
    "groups": (lambda g: g["nodes"][6]["options"].update(groups=3), "groups must divide"),
    "pad value": (lambda g: g["nodes"][2]["options"].update(pad_value=2), "pad_value"),
    "sums past int32": (lambda g: g["nodes"][0]["options"].update(shift=-(2**31 - 1)), "sums must stay"),
    "pool padding": (lambda g: g["nodes"][1]["options"].update(padding=[2, 0]), "half of the window"),
    "ceil mode": (lambda g: g["nodes"][1]["options"].update(ceil_mode=1), "true or false"),
    "clip": (lambda g: g["nodes"][7]["options"].update(high=-2), "low must be at most"),
}


@pytest.mark.parametrize("name", EDITS)
def test_a_graph_that_does_not_fit(packed: bytes, name: str) -> None:
    edit, message = EDITS[name]
    header, graph, body = split(packed)
    edit(graph)
    with pytest.raises(HypersignError, match=message):
        loaded(joined(header, graph, body))


def test_numbers_that_json_has_not(packed: bytes) -> None:
    header, graph, body = split(packed)
    graph["pixel_range"] = [-1.0, float("inf")]
    with pytest.raises(HypersignError, match="finite"):
        loaded(joined(header, graph, body))


def test_a_graph_of_any_depth_is_refused(packed: bytes) -> None:
    header, _, body = split(packed)
    head = json.dumps({**header, "__metadata__": {"hypersign": "[" * 200_000, "sha256": ""}}).encode()
    with pytest.raises(HypersignError, match=r"the graph must be JSON \(RecursionError"):
        loaded(len(head).to_bytes(8, "little") + head + body)


def test_an_entry_named_twice(packed: bytes) -> None:
    end = 8 + int.from_bytes(packed[:8], "little")
    head = packed[8:end].rstrip()[:-1] + b',"fc.weight":{}}'
    with pytest.raises(HypersignError, match="once"):
        loaded(len(head).to_bytes(8, "little") + head + packed[end:])


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"dtype": "F16"}, "dtype of"),
        ({"dtype": "I32"}, "bytes of its shape|must be"),
        ({"dtype": ["U64"]}, "dtype of"),
        ({"shape": [3, 2]}, "bytes of its shape"),
        ({"shape": [2**62, 2**62]}, "bytes of its shape"),
        ({"shape": [-3, -1]}, "dtype of"),
        ({"shape": [True, 3]}, "dtype of"),
        ({"shape": [1] * 33}, "dtype of"),
        ({"data_offsets": [0, 2**63 - 1]}, "bytes of its shape"),
        ({"data_offsets": [0]}, "dtype of"),
        ({"extra": 1}, "dtype of"),
    ],
)
def test_an_entry_that_does_not_fit(packed: bytes, entry: dict[str, Any], message: str) -> None:
    header, graph, body = split(packed)
    header["fc.weight"].update(entry)
    with pytest.raises(HypersignError, match=message):
        loaded(joined(header, graph, body))


def test_a_tensor_missing_or_too_many(network, packed: bytes) -> None:
    graph, tensors = network
    with pytest.raises(HypersignError, match=r"norm2\.scale is missing"):
        file_bytes(graph, {name: tensor for name, tensor in tensors.items() if name != "norm2.scale"})
    with pytest.raises(HypersignError, match="belong to none"):
        file_bytes(graph, {**tensors, "other": tensors["norm2.scale"]})
    shorter = dataclasses.replace(graph, nodes=graph.nodes[:-1])
    with pytest.raises(HypersignError, match="must give a real logit"):
        file_bytes(shorter, {name: tensor for name, tensor in tensors.items() if name != "fc.weight"})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("fc.weight", np.uint64(1 << 4), "zeros in the bits past 4"),
        ("conv2.weight", np.uint64(2**64 - 1), "sign bit 0"),
        ("norm2.scale", np.nan, "NaN"),
        ("conv3.weight", np.inf, "infinity"),
        ("quantize3.low", np.nan, "NaN"),
        ("conv1.low", 2000, "at most conv1.high"),
    ],
)
def test_content_that_is_not_canonical(network, tmp_path: Path, name: str, value: Any, message: str) -> None:
    graph, tensors = network
    tensors = copy.deepcopy(tensors)
    tensors[name].flat[0] = value
    with pytest.raises(HypersignError, match=message):
        write(tmp_path / "net", graph, tensors)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rotation.signs", "zeros in the bits past 8"),
        ("switch.slopes", "zeros in the bits past 8"),
        ("sums.weight", "zeros in the bits past 8"),
        ("logits.scale", "NaN"),
        ("logits.shift", "NaN"),
    ],
)
def test_content_of_transforms_that_is_not_canonical(rotated, tmp_path: Path, name: str, message: str) -> None:
    graph, tensors = rotated
    tensors = copy.deepcopy(tensors)
    tensors[name].flat[-1] = np.uint64(1 << 8) if tensors[name].dtype == np.uint64 else np.nan
    with pytest.raises(HypersignError, match=message):
        write(tmp_path / "net", graph, tensors)


@pytest.mark.parametrize(("name", "refused_at"), [("switch", "transform"), ("sums", "sums")])
def test_transforms_whose_sums_could_pass_int32(rotated, name: str, refused_at: str) -> None:
    """A rotation that leaves no room: then the transform needs the switch's shift, and the last sums their own."""
    graph, tensors = rotated

    def changed(**exponents: int) -> Graph:
        found = [
            dataclasses.replace(node, options={**node.options, "exponent": exponents[node.name]})
            if node.name in exponents
            else node
            for node in graph.nodes
        ]
        return dataclasses.replace(graph, nodes=tuple(found))

    fits = {"rotation": 16, "switch": -1, "sums": -2}
    file_bytes(changed(**fits), tensors)
    with pytest.raises(HypersignError, match=f"node '{refused_at}': its sums must stay within"):
        file_bytes(changed(**{**fits, name: 0}), tensors)


def test_a_boolean_that_is_none(packed: bytes) -> None:
    header, graph, body = split(packed)
    start = header["pool1.flip"]["data_offsets"][0]
    with pytest.raises(HypersignError, match="bytes 0 and 1"):
        loaded(joined(header, graph, body[:start] + b"\2" + body[start + 1 :]))


def test_no_damaged_file_is_taken(packed: bytes) -> None:
    """Bits flipped, bytes overwritten, pieces cut out, doubled or moved: always refused, in one sentence."""
    rng = random.Random(0)
    end = 8 + int.from_bytes(packed[:8], "little")
    reference = split(packed)
    for _ in range(DAMAGED):
        data = bytearray(packed)
        # half of them in the header, which is the smaller part
        i = rng.randrange(end) if rng.random() < 0.5 else rng.randrange(len(data))
        length = rng.choice([1, 1, 8, 100])
        match rng.randrange(5):
            case 0:
                data[i] ^= 1 << rng.randrange(8)
            case 1:
                data[i : i + length] = rng.randbytes(len(data[i : i + length]))
            case 2:
                del data[i : i + length]
            case 3:
                data[i:i] = data[i : i + length]
            case 4:
                j = rng.randrange(len(data))
                data[i : i + length], data[j : j + length] = data[j : j + length], data[i : i + length]
        error = refusal(bytes(data))
        if error is None:  # white space alone may differ
            assert split(bytes(data)) == reference
        else:
            assert len(error) < 600


HOSTILE = (0, -1, 2, 3, 7, 64, 2**31, 2**63, 10**40, 0.5, 1e308, True, None, "", "input", "conv1", [], [1], {}, [[]])


@pytest.mark.parametrize(
    ("file", "shape"), [("packed", (2, 5, 6)), ("packed_rotated", (1, 2, 3)), ("packed_wide", (3, 4, 6))]
)
def test_no_hostile_graph_runs_wild(file: str, shape: tuple[int, ...], request: pytest.FixtureRequest) -> None:
    """Graphs and headers with anything anywhere and a hash that is right: refused, or a network that runs."""
    rng = random.Random(0)
    images: Any = np.zeros((1, *shape), np.uint8)
    if file == "packed_wide":
        images = images, np.ones((1, 4, 1, 1), np.float32)
    ran = 0
    header, graph, body = split(request.getfixturevalue(file))
    texts = json.dumps(header), json.dumps(graph)
    for _ in range(HOSTILE_GRAPHS):
        header, graph = map(json.loads, texts)
        del header["__metadata__"]
        for _ in range(rng.choice([1, 1, 2])):
            _edit(rng, graph if rng.random() < 0.7 else header)
        error = refusal(joined(header, graph, body), images)
        ran += error is None
        assert len(error or "") < 600
    assert 10 < ran < HOSTILE_GRAPHS / 2


def _edit(rng: random.Random, root: Any) -> None:
    """Replaces, removes, doubles or renames one thing somewhere in `root`."""
    places = []

    def walk(thing: Any) -> None:
        for key in thing if isinstance(thing, dict) else range(len(thing)):
            places.append((thing, key))
            if isinstance(thing[key], dict | list):
                walk(thing[key])

    walk(root)
    if not places:
        return
    thing, key = rng.choice(places)
    match rng.randrange(5):
        case 0:
            del thing[key]
        case 1 if isinstance(thing, list):
            thing.insert(key, copy.deepcopy(thing[key]))
        case 1:
            thing["x"] = thing.pop(key)
        case 2:
            thing[key] = copy.deepcopy(rng.choice(places)[0])
        case 3:
            other, place = rng.choice(places)
            thing[key] = copy.deepcopy(other[place])
        case _:
            thing[key] = copy.deepcopy(rng.choice(HOSTILE))


def output(node: str) -> dict[str, Any]:
    """An entry of outputs."""
    return {"name": "x", "node": node, "shape": [1], "task": {"name": "numbers"}}


WIDE_EDITS = {
    "input without a name": (lambda g: g["more_inputs"][0].update(name=""), "a name of its own"),
    "input twice": (lambda g: g["more_inputs"][0].update(name="input"), "a name of its own"),
    "input of a node's name": (lambda g: g["more_inputs"][0].update(name="gelu"), "unique name|nodes before it"),
    "input unread": (lambda g: g["more_inputs"].append({"name": "x", "shape": [1, 1, 1]}), "must be read by a node"),
    "input of four sizes": (lambda g: g["more_inputs"][0].update(shape=[4, 1, 1, 1]), "shape must be"),
    "no further inputs": (lambda g: g.update(more_inputs=[]), "more_inputs must be objects"),
    "input too large": (lambda g: g["more_inputs"][0].update(shape=[2**20, 2**20, 1]), "numbers per image"),
    "no outputs": (lambda g: g.pop("outputs"), "must be an input of another"),
    "empty outputs": (lambda g: g.update(outputs=[]), "outputs must be objects"),
    "output of no node": (lambda g: g["outputs"].append(output("none")), "must come from a node"),
    "output of an input": (lambda g: g["outputs"].append(output("input2")), "must come from a node"),
    "output of levels": (lambda g: g["outputs"].append(output("levels")), "that gives real numbers"),
    "output of another shape": (lambda g: g["outputs"][0].update(shape=[8, 6, 5]), "does not fit"),
    "output without a shape": (lambda g: g["outputs"][0].update(shape=[]), "does not fit"),
    "outputs of one name": (lambda g: g["outputs"][0].update(name="shares"), "a name of its own"),
    "output's task": (lambda g: g["outputs"][0].update(task={"name": "guess"}), "task must be"),
    "output left out": (lambda g: g["outputs"].pop(), "must be an input of another"),
    "classes of two outputs": (lambda g: g.update(classes=["a"]), "classes name the first axis"),
    "matrices": (lambda g: g["nodes"][15].update(inputs=["some", "some"]), "matmul takes values of one height"),
    "heads": (lambda g: g["nodes"][12].update(inputs=["layer", "gate", "placed"]), "attention takes queries"),
    "shapes": (lambda g: g["nodes"][6].update(inputs=["gelu", "input"]), "multiply takes real"),
    "norm of other channels": (lambda g: g["nodes"][11].update(inputs=["gate"]), "layer.scale must be"),
}  # fmt: skip


@pytest.mark.parametrize("name", WIDE_EDITS)
def test_graphs_of_several_inputs_and_outputs_that_do_not_fit(packed_wide: bytes, name: str) -> None:
    header, graph, body = split(packed_wide)
    change, message = WIDE_EDITS[name]
    change(graph)
    with pytest.raises(HypersignError, match=message):
        loaded(joined(header, graph, body))


def test_several_inputs_and_outputs_come_back(wide, packed_wide: bytes, tmp_path: Path) -> None:
    graph, tensors = wide
    contents = read(io.BytesIO(packed_wide))
    assert (contents.graph.more_inputs, contents.graph.outputs) == (graph.more_inputs, graph.outputs)
    assert file_bytes(graph, tensors) == len(packed_wide)
    model = loaded(packed_wide)
    images = np.random.default_rng(0).integers(0, 256, (9, 3, 4, 6)).astype(np.uint8)
    vectors = np.random.default_rng(1).normal(size=(9, 4)).astype(np.float32)
    found, shares = model.predict((images, vectors), batch_size=4)
    assert (found.shape, shares.shape) == ((9, 8, 6, 4), (9, 2, 4, 4))
    np.testing.assert_allclose(shares.sum(-1), 1, rtol=1e-6)
    again, _ = model.predict((images[3:5], vectors[3:5]), threads=2)
    np.testing.assert_array_equal(again, found[3:5])
    traced = model.trace((images, vectors))
    np.testing.assert_array_equal(traced["map"], found)
    tensors = {**tensors, "place.value": np.full((1, 24, 2), np.nan, np.float32)}
    with pytest.raises(HypersignError, match=r"place\.value must hold numbers"):
        write(tmp_path / "net", graph, tensors)
